package app

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/internal/transport"
)

// ListenConfig says where the service is reached, and by whom.
type ListenConfig struct {
	GRPC     string   `key:"grpc" doc:"address of the gRPC services (ingest, query)"`
	HTTP     string   `key:"http" doc:"address of the API as HTTP/JSON (/v1/…, /openapi.json), /healthz, /readyz and /metrics"`
	SQL      string   `key:"sql" doc:"address at which Grafana and others read the engine in process with SQL, as ClickHouse's HTTP interface, with an API key of role analyst or auditor for every tenant as the password; empty for none"`
	TLSCert  string   `key:"tls_cert" doc:"PEM file of the service's certificate, with those between it and its authority; all ports speak TLS then; read again when it changes; empty for plaintext, on loopback alone"`
	TLSKey   string   `key:"tls_key" doc:"PEM file of that certificate's key"`
	ClientCA string   `key:"client_ca" doc:"PEM file of who signs certificates of clients, which prove who they are instead of a key; empty for none"`
	Names    []string `key:"names" doc:"host names that HTTP requests may be for, beside localhost and those of the certificate; such as that of a proxy in front"`
}

// AccessConfig says who may do what, and what may go unencrypted.
type AccessConfig struct {
	File            string   `key:"file" doc:"YAML file of issuers of tokens and of grants to tokens and certificates; empty for API keys alone"`
	Plaintext       []string `key:"plaintext" doc:"what may be plaintext to other machines: listen (the ports), kafka (the brokers); needs plaintext_reason as well"`
	PlaintextReason string   `key:"plaintext_reason" doc:"why, for the log; such as: the service mesh encrypts it"`
	NotesTo         string   `key:"notes_to" doc:"gRPC address of the instance with the role ingest that notes what is asked of this one, which has none"`
	NotesKeyFile    string   `key:"notes_key_file" doc:"file with the API key for it: of role emitter, for every tenant, with --emitter 'mcpaudit-*'"`
	NotesCA         string   `key:"notes_ca" doc:"PEM file of who signs its certificate; empty for the system's authorities"`
}

// QuotaConfig bounds what one caller takes of the service from the others. Each is of
// this instance: n instances allow n times as much.
type QuotaConfig struct {
	EmitterEvents int64 `key:"emitter_events" doc:"events a second with one credential; 0 for no limit"`
	EmitterBytes  int64 `key:"emitter_bytes" doc:"bytes a second with one credential; 0 for no limit"`
	TenantEvents  int64 `key:"tenant_events" doc:"events a second of one tenant; 0 for no limit"`
	TenantBytes   int64 `key:"tenant_bytes" doc:"bytes a second of one tenant; 0 for no limit"`
	QuerySeconds  int64 `key:"query_seconds" doc:"seconds of queries in a minute of one tenant; 0 for no limit"`
}

// defaultQuota is far above what a tenant's servers and people need, and keeps the
// service for the others when one of them runs away: an MCP server makes hundreds of
// calls a second at most, and two cores store about 120,000 events of 600 bytes. One
// tenant gets half of that, one credential a third of the half and more than an import
// reads; two queries at once, all the time.
var defaultQuota = QuotaConfig{EmitterEvents: 20_000, EmitterBytes: 32 << 20, TenantEvents: 60_000, TenantBytes: 64 << 20, QuerySeconds: 120}

func (q QuotaConfig) validate() error {
	return errors.Join(
		within("quota.emitter_events", q.EmitterEvents, 0, 1e9),
		within("quota.emitter_bytes", q.EmitterBytes, 0, 1<<40),
		within("quota.tenant_events", q.TenantEvents, 0, 1e9),
		within("quota.tenant_bytes", q.TenantBytes, 0, 1<<40),
		within("quota.query_seconds", q.QuerySeconds, 0, 1e6),
	)
}

func (a AccessConfig) plaintext() transport.Plaintext {
	return transport.Plaintext{Allowed: a.Plaintext, Reason: a.PlaintextReason}
}

// notes is how what is asked of this instance is noted elsewhere.
func (a AccessConfig) notes() client.Config {
	c := client.Config{Address: a.NotesTo, KeyFile: a.NotesKeyFile, TLS: client.TLS{CA: a.NotesCA}}
	if a.plaintext().Allows(transport.Listen) && a.NotesCA == "" {
		c.Plaintext, c.PlaintextReason = true, a.PlaintextReason
	}
	return c
}

// validateNotes says whether there is a log for what is asked of this instance.
func (c *Config) validateNotes() error {
	ingests := slices.Contains(c.Roles, "ingest")
	switch {
	case ingests && c.Access.NotesTo != "":
		return errors.New("access.notes_to: this instance has the role ingest, and notes what is asked of it in its own log; leave it out")
	case ingests:
		return nil
	case c.Access.NotesTo == "" && slices.Contains(c.Roles, "query"):
		return errors.New("access.notes_to: without the role ingest this instance has no log, and whoever reads leaves a trace in one; add the role, or name the gRPC address of an instance that has it")
	case c.Access.NotesTo != "" && c.Access.NotesKeyFile == "":
		return errors.New("access.notes_key_file: is empty; make a key for this instance with: mcpaudit access create NAME --role emitter --tenant '*' --emitter 'mcpaudit-*'")
	case c.Access.NotesTo != "":
		if err := c.Access.notes().Validate(); err != nil {
			return fmt.Errorf("access.notes_to: %w", err)
		}
	}
	return nil
}

// hostName is what a Host header may name, RFC 1123, section 2.1.
var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

// validateListen names what is wrong with the ports, and with plaintext.
func (c *Config) validateListen() error {
	if err := c.Access.plaintext().Validate(); err != nil {
		return err
	}
	l := c.Listen
	for _, a := range []struct{ name, address string }{{"listen.grpc", l.GRPC}, {"listen.http", l.HTTP}, {"listen.sql", l.SQL}} {
		if a.name == "listen.sql" && a.address == "" {
			continue
		}
		if l.TLSCert == "" {
			if err := c.Access.plaintext().Plain(a.name, a.address); err != nil {
				return err
			}
		} else if _, _, err := net.SplitHostPort(a.address); err != nil {
			return fmt.Errorf("%s: %q is not host:port", a.name, a.address)
		}
	}
	switch {
	case l.SQL != "" && c.Store.DSN != "":
		return errors.New("listen.sql: the store is a server, which Grafana asks itself, with an account of its own; see deploy/clickhouse/grafana.sql")
	case l.SQL != "" && !slices.Contains(c.Roles, "query"):
		return errors.New("listen.sql: this instance answers no queries; add the role query, or leave it out")
	case l.TLSCert == "" && l.TLSKey != "":
		return errors.New("listen.tls_cert: there is a key in listen.tls_key, and no certificate that it is of; name both")
	case l.TLSCert != "" && l.TLSKey == "":
		return errors.New("listen.tls_key: there is a certificate in listen.tls_cert, and not its key; name both")
	case l.TLSCert == "" && l.ClientCA != "":
		return errors.New("listen.client_ca: clients show certificates over TLS alone; name listen.tls_cert and listen.tls_key")
	}
	for _, n := range l.Names {
		if !hostName.MatchString(n) {
			return fmt.Errorf("listen.names: %q is not a host name; write it without scheme, port or star", n)
		}
	}
	return nil
}
