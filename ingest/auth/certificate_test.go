package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

// authority signs certificates of clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	c := newTestClock()
	a.cert, a.key = a.issue(t, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	}, c.now().Add(-time.Hour), c.now().Add(1000*time.Hour))
	return a
}

// issue signs a certificate; the authority's own when it has none yet.
func (a *authority) issue(t testing.TB, change func(*x509.Certificate), from, to time.Time) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "root"}, NotBefore: from, NotAfter: to,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(template)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// named is a client's certificate with names, valid for two hours.
func (a *authority) named(t testing.TB, uris, dns []string) *x509.Certificate {
	t.Helper()
	c := newTestClock()
	cert, _ := a.issue(t, func(c *x509.Certificate) {
		c.DNSNames = dns
		for _, text := range uris {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}, c.now().Add(-time.Hour), c.now().Add(time.Hour))
	return cert
}

func (a *authority) connection(leaf *x509.Certificate) tls.ConnectionState {
	return tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf, a.cert}}}
}

var certificateRules = []CertificateRule{
	{Name: "spiffe://example.org/ns/prod/*", Grants: []Grant{{Role: Emitter, Tenant: "acme"}}},
	{Name: "spiffe://example.org/one", Grants: []Grant{{Role: Analyst, Tenant: "acme"}}},
	{Name: "mcp-7.example.org", Grants: []Grant{{Role: Emitter, Tenant: "b"}}},
	{Name: "*.emit.example.org", Grants: []Grant{{Role: Emitter, Tenant: "c"}}},
}

func TestCertificatesAreTakenByTheirNames(t *testing.T) {
	a := newAuthority(t)
	for _, tt := range []struct {
		name      string
		uris, dns []string
		id        string
		tenants   []string
		refused   Reason
	}{
		{"below a SPIFFE ID", []string{"spiffe://example.org/ns/prod/agent-7"}, nil, "spiffe://example.org/ns/prod/agent-7", []string{"acme"}, ""},
		{"far below it", []string{"spiffe://example.org/ns/prod/a/b/c"}, nil, "spiffe://example.org/ns/prod/a/b/c", []string{"acme"}, ""},
		{"one SPIFFE ID", []string{"spiffe://example.org/one"}, nil, "spiffe://example.org/one", []string{"acme"}, ""},
		{"a SPIFFE ID counts before DNS names", []string{"spiffe://example.org/one"}, []string{"mcp-7.example.org"}, "spiffe://example.org/one", []string{"acme"}, ""},
		{"a DNS name", nil, []string{"mcp-7.example.org"}, "dns:mcp-7.example.org", []string{"b"}, ""},
		{"a DNS name in capitals", nil, []string{"MCP-7.Example.ORG"}, "dns:mcp-7.example.org", []string{"b"}, ""},
		{"one label", nil, []string{"x.emit.example.org"}, "dns:x.emit.example.org", []string{"c"}, ""},
		{"several DNS names", nil, []string{"x.emit.example.org", "other.example.org", "mcp-7.example.org"}, "dns:mcp-7.example.org", []string{"c", "b"}, ""},
		{"a URI of another scheme beside a DNS name", []string{"https://a.example/x"}, []string{"mcp-7.example.org"}, "dns:mcp-7.example.org", []string{"b"}, ""},

		{"the SPIFFE ID above", []string{"spiffe://example.org/ns/prod"}, nil, "", nil, NoGrant},
		{"a SPIFFE ID that begins alike", []string{"spiffe://example.org/ns/production/x"}, nil, "", nil, NoGrant},
		{"another trust domain", []string{"spiffe://example.org.evil.example/ns/prod/x"}, nil, "", nil, NoGrant},
		{"below one that is not open", []string{"spiffe://example.org/one/two"}, nil, "", nil, NoGrant},
		{"a DNS name written as a SPIFFE ID", nil, []string{"example.org"}, "", nil, NoGrant},
		{"two labels", nil, []string{"x.y.emit.example.org"}, "", nil, NoGrant},
		{"no label", nil, []string{"emit.example.org"}, "", nil, NoGrant},
		{"a label that ends alike", nil, []string{"xemit.example.org"}, "", nil, NoGrant},
		{"every host", nil, []string{"*.emit.example.org"}, "", nil, Malformed},
		{"two URIs", []string{"spiffe://example.org/one", "https://a.example"}, nil, "", nil, Malformed},
		{"two SPIFFE IDs", []string{"spiffe://example.org/one", "spiffe://example.org/ns/prod/a"}, nil, "", nil, Malformed},
		{"a bad SPIFFE ID beside a good DNS name", []string{"spiffe://example.org"}, []string{"mcp-7.example.org"}, "", nil, Malformed},
		{"a SPIFFE ID that climbs", []string{"spiffe://example.org/ns/prod/../one"}, nil, "", nil, Malformed},
		{"a SPIFFE ID with an escape", []string{"spiffe://example.org/ns/prod/a%2Fb"}, nil, "", nil, Malformed},
		{"a SPIFFE ID with a query", []string{"spiffe://example.org/ns/prod/a?x"}, nil, "", nil, Malformed},
		{"a SPIFFE ID with a port", []string{"spiffe://example.org:8443/ns/prod/a"}, nil, "", nil, Malformed},
		{"a SPIFFE ID with a user", []string{"spiffe://u@example.org/ns/prod/a"}, nil, "", nil, Malformed},
		{"a SPIFFE ID with an empty segment", []string{"spiffe://example.org/ns/prod//a"}, nil, "", nil, Malformed},
		{"a SPIFFE ID that is too long", []string{"spiffe://example.org/ns/prod/" + strings.Repeat("a", 2048)}, nil, "", nil, Malformed},
		{"no name but the common name", nil, nil, "", nil, Malformed},
		{"too many DNS names", nil, strings.Split(strings.Repeat("mcp-7.example.org,", 101)+"a", ","), "", nil, Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaf := a.named(t, tt.uris, tt.dns)
			id, err := NewCertificates(certificateRules, newTestClock().now).Identify(a.connection(leaf))
			sum := sha256.Sum256(leaf.Raw)
			credential := fmt.Sprintf("cert:%x", sum[:8])
			if tt.refused != "" {
				var r *Refusal
				if !errors.As(err, &r) || r.Reason != tt.refused || r.Credential != credential || id != nil {
					t.Fatalf("got %+v and %#v, want a refusal for %s", id, err, tt.refused)
				}
				if len(r.Claimed) > maxClaimed || strings.Contains(r.Claimed, "root") {
					t.Errorf("it claims %q", r.Claimed)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var tenants []string
			for _, g := range id.Grants {
				tenants = append(tenants, g.Tenant)
			}
			if id.ID != tt.id || id.Kind != "service" || id.Method != "mtls" || id.Credential != credential || !reflect.DeepEqual(tenants, tt.tenants) {
				t.Errorf("got %+v", id)
			}
		})
	}
}

func TestACommonNameIsNobody(t *testing.T) {
	a, c := newAuthority(t), newTestClock()
	leaf, _ := a.issue(t, func(c *x509.Certificate) { c.Subject.CommonName = "mcp-7.example.org" }, c.now().Add(-time.Hour), c.now().Add(time.Hour))
	_, err := NewCertificates(certificateRules, c.now).Identify(a.connection(leaf))
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Reason != Malformed {
		t.Errorf("got %v", err)
	}
}

func TestAnAuthoritysCertificateIsNobody(t *testing.T) {
	a, c := newAuthority(t), newTestClock()
	for name, change := range map[string]func(*x509.Certificate){
		"an authority":           func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true },
		"signs certificates":     func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign },
		"signs revocation lists": func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign },
	} {
		leaf, _ := a.issue(t, func(c *x509.Certificate) {
			change(c)
			c.DNSNames = []string{"mcp-7.example.org"}
		}, c.now().Add(-time.Hour), c.now().Add(time.Hour))
		_, err := NewCertificates(certificateRules, c.now).Identify(a.connection(leaf))
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Reason != Malformed {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestACertificateThatWasNotVerifiedIsNobody(t *testing.T) {
	a := newAuthority(t)
	certificates := NewCertificates(certificateRules, newTestClock().now)
	leaf := a.named(t, nil, []string{"mcp-7.example.org"})
	for name, tt := range map[string]struct {
		state tls.ConnectionState
		want  Reason
	}{
		"no certificate":       {tls.ConnectionState{}, NoCredential},
		"a certificate alone":  {tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, Unknown},
		"a chain with nothing": {tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{}}}, Unknown},
	} {
		_, err := certificates.Identify(tt.state)
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Reason != tt.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// The chain that was verified counts, not what was sent.
	other := a.named(t, nil, []string{"x.emit.example.org"})
	id, err := certificates.Identify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{other, a.cert}}})
	if err != nil || id.ID != "dns:x.emit.example.org" {
		t.Errorf("got %+v, %v", id, err)
	}
}

func TestAConnectionOutlivesItsCertificateInVain(t *testing.T) {
	a, c := newAuthority(t), newTestClock()
	certificates := NewCertificates(certificateRules, c.now)
	state := a.connection(a.named(t, nil, []string{"mcp-7.example.org"}))
	for _, step := range []struct {
		by   time.Duration
		want Reason
	}{{0, ""}, {time.Hour, ""}, {time.Second, Expired}, {-2*time.Hour - 2*time.Second, NotYetValid}} {
		c.advance(step.by)
		_, err := certificates.Identify(state)
		got := Reason("")
		if r, ok := errors.AsType[*Refusal](err); ok {
			got = r.Reason
		}
		if got != step.want || (got == "") != (err == nil) {
			t.Errorf("after %s: refused for %q, want %q", step.by, got, step.want)
		}
	}
	// Nor does one outlive the authority between, unless another chain is good.
	from, to := newTestClock().now().Add(-time.Hour), newTestClock().now().Add(-time.Minute)
	between, _ := a.issue(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, from, to)
	now := newTestClock()
	leaf := a.named(t, nil, []string{"mcp-7.example.org"})
	old := tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf, between, a.cert}}}
	_, err := NewCertificates(certificateRules, now.now).Identify(old)
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Reason != Expired {
		t.Errorf("with an authority that expired: %v", err)
	}
	old.VerifiedChains = append(old.VerifiedChains, []*x509.Certificate{leaf, a.cert})
	if _, err := NewCertificates(certificateRules, now.now).Identify(old); err != nil {
		t.Errorf("with another chain: %v", err)
	}
}

func TestACertificateIsTakenOverARealConnection(t *testing.T) {
	a, c := newAuthority(t), newTestClock()
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	pair := func(dns string) tls.Certificate {
		cert, key := a.issue(t, func(c *x509.Certificate) { c.DNSNames = []string{dns} }, c.now().Add(-time.Hour), c.now().Add(time.Hour))
		return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	}
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	server := tls.Server(here, &tls.Config{Certificates: []tls.Certificate{pair("log.example.org")}, ClientCAs: roots, ClientAuth: tls.VerifyClientCertIfGiven, Time: c.now, MinVersion: tls.VersionTLS13})
	client := tls.Client(there, &tls.Config{Certificates: []tls.Certificate{pair("mcp-7.example.org")}, RootCAs: roots, ServerName: "log.example.org", Time: c.now})
	shaken := make(chan error, 1)
	go func() {
		err := client.HandshakeContext(t.Context())
		shaken <- err
		if err == nil {
			_, _ = client.Read(make([]byte, 1)) // takes the session tickets
		}
	}()
	if err := server.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	id, err := NewCertificates(certificateRules, c.now).Identify(server.ConnectionState())
	if err != nil || id.ID != "dns:mcp-7.example.org" {
		t.Errorf("got %+v, %v", id, err)
	}
}
