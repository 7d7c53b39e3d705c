// Package broker says how a Kafka cluster is reached: its brokers, TLS and SASL. The
// source of events, the emitter's transport, the anchors and the groups in which
// instances share their work all connect through it, with the same settings.
//
// Errors never hold a password.
package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Config of a cluster. The zero value of a field means its default.
type Config struct {
	Brokers []string // host:port of some of its brokers; the others are learnt from them
	// ClientID is what the brokers' logs and quotas know this program by; default
	// "mcpaudit".
	ClientID string
	TLS      TLS
	SASL     SASL
}

// TLS of the connections; plaintext when it is not On.
type TLS struct {
	On   bool
	CA   string // PEM file of the authorities that sign the brokers' certificates; default the system's
	Cert string // PEM file of this client's certificate, where brokers ask for one
	Key  string // and of its key
	Name string // that the brokers' certificates are for, when it is not their host
}

// SASL says who this client is.
type SASL struct {
	Mechanism string // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty for none
	User      string
	Password  string
}

// Mechanisms are those that SASL.Mechanism may name.
var Mechanisms = []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}

// dialTimeout is how long a connection may take, with TLS and SASL.
const dialTimeout = 10 * time.Second

// Validate names the first thing that is wrong. It reads no file.
func (c Config) Validate() error {
	if len(c.Brokers) == 0 {
		return errors.New("no broker is named; give HOST:PORT of one or more")
	}
	for _, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
			return fmt.Errorf("%q is not HOST:PORT of a broker", b)
		}
	}
	switch {
	case !c.TLS.On && (c.TLS.CA != "" || c.TLS.Cert != "" || c.TLS.Key != "" || c.TLS.Name != ""):
		return errors.New("there are settings of TLS, and TLS is off; turn it on, or leave them out")
	case (c.TLS.Cert == "") != (c.TLS.Key == ""):
		return errors.New("a client's certificate and its key come together, and one is missing")
	}
	if _, err := c.SASL.mechanism(); err != nil {
		return err
	}
	if strings.EqualFold(c.SASL.Mechanism, "PLAIN") && !c.TLS.On && !c.onThisMachine() {
		return errors.New("SASL PLAIN sends the password as it is, and TLS is off; turn TLS on, or use SCRAM-SHA-512")
	}
	return nil
}

// onThisMachine says whether all brokers are loopback addresses.
func (c Config) onThisMachine() bool {
	for _, b := range c.Brokers {
		host, _, _ := net.SplitHostPort(b)
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

func (s SASL) mechanism() (sasl.Mechanism, error) {
	name := strings.ToUpper(s.Mechanism)
	if name != "" && s.User == "" {
		return nil, fmt.Errorf("SASL %s needs a user", name)
	}
	switch name {
	case "":
		if s.User != "" || s.Password != "" {
			return nil, errors.New("there is a user or a password for SASL and no mechanism; name PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
		}
		return nil, nil
	case "PLAIN":
		return plain.Mechanism{Username: s.User, Password: s.Password}, nil
	case "SCRAM-SHA-256":
		return prepared(scram.SHA256, s)
	case "SCRAM-SHA-512":
		return prepared(scram.SHA512, s)
	}
	return nil, fmt.Errorf("there is no SASL mechanism %q; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", s.Mechanism)
}

// prepared hides what SASLprep says: it may quote the password.
func prepared(a scram.Algorithm, s SASL) (sasl.Mechanism, error) {
	m, err := scram.Mechanism(a, s.User, s.Password)
	if err != nil {
		return nil, errors.New("the SASL user or password has characters that SCRAM does not allow")
	}
	return m, nil
}

func (t TLS) config() (*tls.Config, error) {
	if !t.On {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.Name}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read the brokers' authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the brokers' authorities: %q has no certificate in PEM form", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("read the client's certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Addr is the cluster for requests of a client.
func (c Config) Addr() net.Addr { return kafka.TCP(c.Brokers...) }

// Transport makes a pool of connections. Close its idle ones when it is done with.
func (c Config) Transport() (*kafka.Transport, error) {
	mechanism, secure, err := c.prepare()
	if err != nil {
		return nil, err
	}
	// A leader that has moved is looked for in its old place for that long; it is also how
	// long asking for the new one may take.
	return &kafka.Transport{MetadataTTL: 2 * time.Second, Dial: dial, DialTimeout: dialTimeout, ClientID: c.clientID(), TLS: secure, SASL: mechanism}, nil
}

// Dialer makes single connections, as consumer groups use them.
func (c Config) Dialer() (*kafka.Dialer, error) {
	mechanism, secure, err := c.prepare()
	if err != nil {
		return nil, err
	}
	return &kafka.Dialer{ClientID: c.clientID(), Timeout: dialTimeout, DualStack: true, KeepAlive: time.Minute, TLS: secure, SASLMechanism: mechanism}, nil
}

func (c Config) prepare() (sasl.Mechanism, *tls.Config, error) {
	if err := c.Validate(); err != nil {
		return nil, nil, err
	}
	mechanism, err := c.SASL.mechanism()
	if err != nil {
		return nil, nil, err
	}
	secure, err := c.TLS.config()
	return mechanism, secure, err
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTimeout, KeepAlive: time.Minute}).DialContext(ctx, network, address)
}

func (c Config) clientID() string {
	if c.ClientID == "" {
		return "mcpaudit"
	}
	return c.ClientID
}

// Parse reads a topic of a cluster from its URL:
//
//	kafka://HOST:PORT,HOST:PORT/TOPIC    plaintext
//	kafkas://HOST:PORT,HOST:PORT/TOPIC   TLS, with the system's authorities
//
// and the query parameters ca, cert, key, server_name (files and name of TLS),
// mechanism and user (of SASL). A password is never part of it.
func Parse(text string) (c Config, topic string, err error) {
	scheme, rest, _ := strings.Cut(text, "://")
	if scheme != "kafka" && scheme != "kafkas" {
		return c, "", errors.New("it does not begin with kafka:// or kafkas://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, topic, _ := strings.Cut(rest, "/")
	if strings.Contains(hosts, "@") {
		return c, "", errors.New("user and password don't belong into the URL, where logs and process lists show them; the parameter user names the one, a file or an environment variable has the other")
	}
	for b := range strings.SplitSeq(hosts, ",") {
		if b = strings.TrimSpace(b); b != "" {
			c.Brokers = append(c.Brokers, b)
		}
	}
	if err := CheckTopic(topic); err != nil {
		return c, "", fmt.Errorf("%w; the form is kafka://HOST:PORT,HOST:PORT/TOPIC", err)
	}
	c.TLS.On = scheme == "kafkas"
	values, err := url.ParseQuery(query)
	if err != nil {
		return c, "", errors.New("what stands behind the question mark is no list of parameters")
	}
	for name := range values {
		to, ok := map[string]*string{"ca": &c.TLS.CA, "cert": &c.TLS.Cert, "key": &c.TLS.Key, "server_name": &c.TLS.Name,
			"mechanism": &c.SASL.Mechanism, "user": &c.SASL.User}[name]
		if !ok {
			return c, "", fmt.Errorf("there is no parameter %q; use ca, cert, key, server_name, mechanism, user", name)
		}
		*to = values.Get(name)
	}
	return c, topic, c.Validate()
}

var topicName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)

// CheckTopic says whether a topic may be called that, as Kafka has it.
func CheckTopic(name string) error {
	if !topicName.MatchString(name) || name == "." || name == ".." {
		return fmt.Errorf("%q is no topic: a topic's name has 1 to 249 letters, digits, dots, dashes and underscores", name)
	}
	return nil
}

// String names the cluster, without what is secret.
func (c Config) String() string {
	scheme := "kafka"
	if c.TLS.On {
		scheme = "kafkas"
	}
	return scheme + "://" + strings.Join(c.Brokers, ",")
}
