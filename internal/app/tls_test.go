package app

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/auth/authtest"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/internal/transport/certtest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// outward is an address of this machine that others reach, or, on one without a
// network, one of loopback that is not the usual one.
func outward(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return "127.0.0.2"
}

// secured is a service that faces the network.
type secured struct {
	*service
	host          string
	own           *certtest.Authority // of the service
	clients       *certtest.Authority // of those who show certificates
	cert, key, ca string              // files
	provider      *authtest.Provider
	signs         authtest.Key
}

func newSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{host: outward(t), own: certtest.New(t, "own"), clients: certtest.New(t, "clients"), signs: authtest.NewEC("ec-1")}
	s.provider = authtest.New(t, s.signs)
	s.cert, s.key, s.ca = s.own.Files(t, s.host)
	dir := t.TempDir()
	cfg := testConfig(t, dir)
	cfg.Access.File = accessFile(t, s.provider)
	// The first key is made on loopback alone; what makes it elsewhere is the command.
	admin := auth.Grant{Role: auth.Admin, Tenant: auth.EveryTenant}
	_, text, err := Bootstrap(t.Context(), cfg, nil, admin, time.Hour, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, _, clientCA := s.clients.Files(t, "x")
	cfg.Listen = ListenConfig{GRPC: net.JoinHostPort(s.host, "0"), HTTP: net.JoinHostPort(s.host, "0"), TLSCert: s.cert, TLSKey: s.key, ClientCA: clientCA}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if _, there := firstKeys.Load(dir); there {
		t.Fatal("a service that faces the network made a key by itself")
	}
	s.service = serve(t, cfg)
	s.service.key, s.web = text, strings.Replace(s.web, "http://", "https://", 1)
	return s
}

// as is a connection as a program would make it.
func (s *secured) as(t *testing.T, c client.Config) (*grpc.ClientConn, error) {
	t.Helper()
	c.Address = s.addr
	options, err := c.DialOptions()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(s.addr, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, nil
}

// whoAmI asks with a configuration who that is.
func (s *secured) whoAmI(t *testing.T, c client.Config) (string, error) {
	t.Helper()
	conn, err := s.as(t, c)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(t.Context(), bounded)
	defer cancel()
	resp, err := pb.NewAccessServiceClient(conn).WhoAmI(ctx, &pb.WhoAmIRequest{})
	return resp.GetIdentity(), err
}

// certificate writes a certificate of an authority and says how a program shows it.
func certificate(t *testing.T, by *certtest.Authority, ca, name string) client.Config {
	t.Helper()
	cert, key, _ := by.Files(t, name)
	return client.Config{TLS: client.TLS{CA: ca, Cert: cert, Key: key}}
}

// A service on an address that others reach, with certificates of its own and of its
// clients, and an identity provider.
func TestAServiceThatFacesTheNetworkIsReachedOverTLSAlone(t *testing.T) {
	s := newSecured(t)
	keys, err := s.as(t, client.Config{Key: s.service.key, TLS: client.TLS{CA: s.ca}})
	if err != nil {
		t.Fatal(err)
	}
	s.grpc.Close()
	s.grpc = keys
	s.await(t)
	reader := s.makeKey(t, &pb.CreateKeyRequest{Roles: []string{"analyst", "emitter"}, Tenant: auth.EveryTenant})
	all, err := s.as(t, client.Config{Key: reader, TLS: client.TLS{CA: s.ca}})
	if err != nil {
		t.Fatal(err)
	}
	s.grpc = all

	t.Run("plaintext", s.answersNothingInTheClear)
	t.Run("versions", s.speaksNoOldTLS)
	t.Run("certificates", s.takesCertificatesOfClients)
	t.Run("tokens", s.takesTokensOfTheProvider)
	t.Run("renewal", s.takesANewCertificateWhileItRuns)
}

func (s *secured) await(t *testing.T) {
	t.Helper()
	web := &http.Client{Timeout: bounded, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.own.Pool()}}}
	defer web.CloseIdleConnections()
	for deadline := time.Now().Add(bounded); ; time.Sleep(5 * time.Millisecond) {
		resp, err := web.Get(s.web + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz: %d", resp.StatusCode)
		}
	}
}

// The client keeps its key to itself, and the service hears nothing without TLS.
func (s *secured) answersNothingInTheClear(t *testing.T) {
	if _, err := s.whoAmI(t, client.Config{Key: s.service.key}); err == nil {
		t.Error("a service of an authority that this machine does not know is taken for the real one")
	}
	_, _, other := certtest.New(t, "other").Files(t, "x")
	if _, err := s.whoAmI(t, client.Config{Key: s.service.key, TLS: client.TLS{CA: other}}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with another authority the client says %v", err)
	}
	if _, err := s.whoAmI(t, client.Config{Key: s.service.key, TLS: client.TLS{CA: s.ca, Name: "other.example"}}); status.Code(err) != codes.Unavailable {
		t.Errorf("for another name the client says %v", err)
	}
	if _, err := s.whoAmI(t, client.Config{Key: s.service.key, Plaintext: true, PlaintextReason: "a test"}); status.Code(err) != codes.Unavailable {
		t.Errorf("in plaintext the client hears %v", err)
	}
	web := &http.Client{Timeout: bounded, Transport: &http.Transport{}}
	defer web.CloseIdleConnections()
	resp, err := web.Get(strings.Replace(s.web, "https://", "http://", 1) + "/healthz")
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("HTTP in plaintext: %d", resp.StatusCode)
		}
	}
}

func (s *secured) speaksNoOldTLS(t *testing.T) {
	for _, address := range []string{s.addr, strings.TrimPrefix(s.web, "https://")} {
		for version, taken := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
			dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: bounded}, Config: &tls.Config{RootCAs: s.own.Pool(), MinVersion: version, MaxVersion: version, NextProtos: []string{"h2"}}}
			conn, err := dialer.DialContext(t.Context(), "tcp", address)
			if err == nil {
				conn.Close()
			}
			if (err == nil) != taken {
				t.Errorf("%s over %s: %v", address, tls.VersionName(version), err)
			}
		}
	}
}

const workload = "spiffe://example.org/ns/prod/crm"

// events waits until a filter finds as many as this; the operator asks.
func (s *service) events(t *testing.T, filter string, least int) []*pb.Event {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		resp, err := pb.NewQueryServiceClient(s.grpc).ListEvents(t.Context(), &pb.ListEventsRequest{Filter: filter, PageSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.GetEvents()) >= least {
			return resp.GetEvents()
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s finds %d events, want %d", filter, len(resp.GetEvents()), least)
		}
	}
}

// A workload is who its certificate says, and no other authority's.
func (s *secured) takesCertificatesOfClients(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := s.as(t, certificate(t, s.clients, s.ca, workload))
	if err != nil {
		t.Fatal(err)
	}
	e := someEvent("crm-1", 1, func(e *event.Event) { e.Target = "by certificate" })
	resp, err := pb.NewIngestServiceClient(conn).PublishBatch(ctx, &pb.PublishBatchRequest{Events: []*pb.Event{e}})
	if err != nil || resp.GetReceipt().GetStored() != 1 {
		t.Fatalf("a workload publishes: %v, %v", resp, err)
	}
	if got := s.events(t, `target = "by certificate"`, 1)[0]; got.GetTenant() != "acme" || got.GetEmitterId() != "acme::crm-1" {
		t.Errorf("it is stored as %v", got)
	}
	if _, err := pb.NewQueryServiceClient(conn).ListEvents(ctx, &pb.ListEventsRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a workload reads: %v", err)
	}
	refused := s.events(t, `kind = "auth" AND auth_method = "mtls"`, 1)[0]
	if refused.GetPrincipal() != workload || !strings.HasPrefix(refused.GetCredentialId(), "cert:") || refused.GetDecisionReason() != string(auth.Forbidden) || refused.GetClientIp() != s.host {
		t.Errorf("its reading is noted as %v", refused)
	}
	// A name that nobody gave a role.
	if _, err := s.whoAmI(t, certificate(t, s.clients, s.ca, "spiffe://example.org/ns/dev/crm")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a workload without a grant: %v", err)
	}
	if e := s.events(t, `kind = "auth" AND decision_reason = "no_grant"`, 1)[0]; e.GetLabels()["claimed"] != "spiffe://example.org/ns/dev/crm" || e.GetPrincipal() != "" {
		t.Errorf("it is noted as %v", e)
	}
	// The same name by another authority does not get as far as a call.
	forged := certificate(t, certtest.New(t, "clients"), s.ca, workload)
	if who, err := s.whoAmI(t, forged); status.Code(err) != codes.Unavailable {
		t.Errorf("another authority's workload: %q, %v", who, err)
	}
	pair, err := tls.LoadX509KeyPair(forged.TLS.Cert, forged.TLS.Key)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Timeout: bounded, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.own.Pool(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}}}
	defer web.CloseIdleConnections()
	if resp, err := web.Get(s.web + "/v1/access:whoami"); err == nil {
		resp.Body.Close()
		t.Errorf("another authority's workload over HTTP: %d", resp.StatusCode)
	}
	for _, e := range s.events(t, `kind = "auth" AND method = "mcpaudit/login" AND decision_reason = "bad_certificate"`, 2) {
		if e.GetClientIp() != s.host || e.GetPrincipal() != "" || e.GetOutcome() != "denied" {
			t.Errorf("a handshake is noted as %v", e)
		}
	}
}

// People of a provider see the tenant that their token names, and nothing else.
func (s *secured) takesTokensOfTheProvider(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := pb.NewIngestServiceClient(s.grpc).PublishBatch(ctx, &pb.PublishBatchRequest{Events: []*pb.Event{
		someEvent("a", 1, func(e *event.Event) { e.Tenant = "acme" }), someEvent("g", 1, func(e *event.Event) { e.Tenant = "globex" })}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tenant := range []string{"acme", "globex", "empty"} {
		token := s.signs.Token(t, claims(s.provider, map[string]any{"org": tenant, "email": "ada@example.com"}))
		conn, err := s.as(t, client.Config{Key: token, TLS: client.TLS{CA: s.ca}})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := pb.NewQueryServiceClient(conn).ListEvents(ctx, &pb.ListEventsRequest{Filter: `kind = "tool_call"`})
		if err != nil || (len(resp.GetEvents()) == 0) != (tenant == "empty") {
			t.Errorf("somebody of %s sees %d events, %v", tenant, len(resp.GetEvents()), err)
		}
		for _, e := range resp.GetEvents() {
			if e.GetTenant() != tenant {
				t.Errorf("somebody of %s sees %v", tenant, e)
			}
		}
		noted := s.events(t, `method = "mcpaudit/list_events" AND auth_method = "jwt" AND tenant = "`+tenant+`"`, 1)[0]
		if noted.GetPrincipal() != s.provider.URL+"#u-17" || noted.GetPrincipalName() != "ada@example.com" || !strings.HasPrefix(noted.GetCredentialId(), "token-") || noted.GetLabels()["tenants"] != tenant {
			t.Errorf("somebody of %s is noted as %v", tenant, noted)
		}
	}
}

// A certificate is renewed by its files alone: who connects then sees the new one, and
// nobody is cut off.
func (s *secured) takesANewCertificateWhileItRuns(t *testing.T) {
	renewed := certtest.New(t, "renewed")
	cert, key := renewed.Issue(t, 77, time.Now().Add(24*time.Hour), s.host)
	for name, text := range map[string][]byte{s.cert: cert, s.key: key} { // as a renewal replaces them
		next := filepath.Join(filepath.Dir(name), "next")
		if err := errors.Join(os.WriteFile(next, text, 0o600), os.Rename(next, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, address := range []string{s.addr, strings.TrimPrefix(s.web, "https://")} {
		for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: bounded}, Config: &tls.Config{RootCAs: renewed.Pool(), NextProtos: []string{"h2"}}}
			conn, err := dialer.DialContext(t.Context(), "tcp", address)
			if err == nil {
				conn.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s still has the old certificate: %v", address, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), bounded)
	defer cancel()
	if _, err := pb.NewAccessServiceClient(s.grpc).WhoAmI(ctx, &pb.WhoAmIRequest{}); err != nil {
		t.Errorf("who was connected: %v", err)
	}
}
