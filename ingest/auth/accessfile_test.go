package auth

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestAnAccessFileIsReadWhole(t *testing.T) {
	folder := t.TempDir()
	text, err := os.ReadFile("testdata/access.yaml")
	if err != nil {
		t.Fatal(err)
	}
	authority := newAuthority(t)
	path := filepath.Join(folder, "access.yaml")
	write(t, path, string(text))
	write(t, filepath.Join(folder, "login-ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.cert.Raw})))
	got, err := ReadAccessFile(path)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority.cert)
	if len(got.Issuers) == 0 || !roots.Equal(got.Issuers[0].Roots) {
		t.Fatal("the authority of the first issuer is not the one in its file")
	}
	got.Issuers[0].Roots = nil
	const login, dev = "https://login.example.com", "http://127.0.0.1:8081/realms/dev"
	want := &AccessFile{
		Issuers: []Issuer{
			{Issuer: login, Audience: "mcpaudit", Algorithms: []string{"RS256", "ES256"}, ClockTolerance: time.Minute},
			{Issuer: dev, Audience: "mcpaudit-dev", Algorithms: algorithms},
		},
		Tokens: []TokenRule{
			{Issuer: login, Claim: "groups", Value: "soc", Grants: []Grant{
				{Role: Analyst, Tenant: "acme", Content: ContentRedacted}, {Role: Exporter, Tenant: "acme", Content: ContentRedacted}}},
			{Issuer: login, Claim: "realm_access.roles", Value: "audit-writer", TenantClaim: "org", Grants: []Grant{{Role: Emitter}}},
			{Issuer: dev, Claim: "sub", Value: "17", Grants: []Grant{{Role: Admin, Tenant: "*"}, {Role: Monitor, Tenant: "*"}}},
		},
		Certificates: []CertificateRule{
			{Name: "spiffe://example.org/ns/prod/*", Grants: []Grant{{Role: Emitter, Tenant: "acme", Servers: []string{"crm*"}, Emitters: []string{"crm-*"}}}},
			{Name: "mcp-7.example.org", Grants: []Grant{{Role: Emitter, Tenant: "default"}}},
			{Name: "*.emit.example.org", Grants: []Grant{{Role: Emitter, Tenant: "default"}}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAnAccessFileMayBeEmpty(t *testing.T) {
	for _, text := range []string{"", "# nobody yet\n", "issuers: []\n", "issuers:\n  - {issuer: https://a.example, audience: b}\n"} {
		a, err := parseAccess([]byte(text), nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if len(a.Issuers) == 1 && a.Issuers[0].ClockTolerance != defaultTolerance {
			t.Errorf("the tolerance is %s", a.Issuers[0].ClockTolerance)
		}
	}
}

func TestMistakesInAnAccessFileAreNamedWithTheirLine(t *testing.T) {
	const (
		issuer = "issuers:\n  - issuer: https://login.example.com\n    audience: mcpaudit\n" // lines 1 to 3
		token  = issuer + "grants:\n  - token: {issuer: https://login.example.com, claim: groups, value: soc}\n"
		cert   = "grants:\n  - certificate: mcp.example.org\n"
		rest   = "    roles: [emitter]\n    tenant: acme\n"
	)
	for _, tt := range []struct{ name, text, want string }{
		{"no YAML", "issuers: [", "line 1: did not find expected node content"},
		{"two documents", "issuers: []\n---\ngrants: []\n", "more than one document"},
		{"a list", "- issuers\n", "line 1: the file must have keys"},
		{"a text", "open\n", "line 1: the file must have keys"},
		{"an unknown key", "grant: []\n", `line 1: the file has no key "grant"; the nearest is "grants"`},
		{"an unknown key of an issuer", issuer + "    algorithm: [RS256]\n", `line 4: issuers, entry 1 has no key "algorithm"; the nearest is "algorithms"`},
		{"an unknown key of a grant", cert + rest + "    server: [a]\n", `line 5: grants, entry 1 has no key "server"; the nearest is "servers"`},
		{"an unknown key of a token", issuer + "grants:\n  - token: {isuer: x}\n", `line 5: token has no key "isuer"; the nearest is "issuer"`},
		{"a key twice", cert + rest + "    tenant: other\n", "line 5: tenant of grants, entry 1 is set twice"},
		{"no value", "issuers:\n", "line 1: issuers has no value"},
		{"an alias", "issuers:\n  - &a {issuer: https://a.example, audience: b}\n  - *a\n", "line 3: issuers, entry 2: aliases are not taken"},
		{"a single value for a list", cert + "    roles: emitter\n", "line 3: roles takes a list"},
		{"a list for a single value", cert + "    tenant: [a]\n", "line 3: tenant takes a single value"},
		{"a grant that is a text", "grants: [emitter]\n", "line 1: grants, entry 1 must have keys"},

		{"an issuer without a name", "issuers:\n  - audience: a\n", "line 2: the entry has no issuer"},
		{"an issuer that is no URL", "issuers:\n  - issuer: login.example.com\n", `line 2: issuer "login.example.com" is not a URL`},
		{"an issuer in the clear", "issuers:\n  - issuer: http://login.example.com\n", "line 2: issuer http://login.example.com: use https"},
		{"an issuer that only begins like loopback", "issuers:\n  - issuer: http://127.0.0.1.example.com\n", "use https"},
		{"an issuer that is a file", "issuers:\n  - issuer: file://host/etc/passwd\n", "use https"},
		{"an issuer with a query", "issuers:\n  - issuer: https://a.example?x=1\n", "line 2: issuer https://a.example?x=1: a query, a fragment or a user"},
		{"an issuer with a fragment", "issuers:\n  - issuer: \"https://a.example#\"\n", "a query, a fragment or a user"},
		{"an issuer with a password", "issuers:\n  - issuer: https://u:secret@a.example\n", "issuer https://u:xxxxx@a.example: a query, a fragment or a user"},
		{"an issuer that is too long", "issuers:\n  - issuer: https://a.example/" + strings.Repeat("a", 200) + "\n", "has more than 200 bytes"},
		{"an issuer twice", issuer + "  - issuer: https://login.example.com\n    audience: b\n", "line 4: issuer https://login.example.com is there twice"},
		{"no audience", "issuers:\n  - issuer: https://a.example\n", "line 2: issuer https://a.example has no audience"},
		{"alg none", issuer + "    algorithms: [None]\n", "line 2: algorithm none is no signature"},
		{"alg HS256", issuer + "    algorithms: [RS256, HS256]\n", "line 2: algorithm HS256 signs with a shared secret"},
		{"an algorithm that is not one", issuer + "    algorithms: [rs256]\n", `line 2: there is no algorithm "rs256"; use RS256, RS384`},
		{"no algorithms", issuer + "    algorithms: []\n", "line 2: algorithms is empty"},
		{"a tolerance that is none", issuer + "    clock_tolerance: 30\n", `line 4: clock_tolerance: "30" is not a duration`},
		{"too much tolerance", issuer + "    clock_tolerance: 1h\n", "line 2: clock_tolerance 1h0m0s is not between 0s and 5m0s"},
		{"negative tolerance", issuer + "    clock_tolerance: -1s\n", "clock_tolerance -1s is not between"},
		{"an authority that is not there", issuer + "    ca: nowhere.pem\n", "line 2: ca: no such file"},
		{"too many issuers", "issuers:\n" + many(21, "  - {issuer: https://a%d.example, audience: b}\n"), "line 22: there are more than 20 issuers"},

		{"nobody's grant", "grants:\n  - roles: [emitter]\n    tenant: acme\n", "line 2: the grant is nobody's"},
		{"two people's grant", token + "    certificate: a.example\n" + rest, "line 5: the grant has both a token and a certificate"},
		{"a token without a claim", issuer + "grants:\n  - roles: [emitter]\n    token: {issuer: https://login.example.com, value: soc}\n", "line 6: token needs an issuer, a claim and a value"},
		{"a token without an issuer", "grants:\n  - token: {claim: groups, value: soc}\n" + rest, "line 2: token needs an issuer"},
		{"a token and no issuers", "grants:\n  - token: {issuer: https://a.example, claim: groups, value: soc}\n" + rest, `line 2: token names issuer "https://a.example", and there are no issuers`},
		{"a token of an unknown issuer", issuer + "grants:\n  - token: {issuer: https://login.example.com/, claim: groups, value: soc}\n" + rest, `line 5: there is no issuer "https://login.example.com/"; the nearest is "https://login.example.com"`},
		{"a token with every value", issuer + "grants:\n  - token: {issuer: https://login.example.com, claim: groups, value: \"*\"}\n" + rest, "line 5: value is compared exactly"},
		{"a claim that is too long", issuer + "grants:\n  - token: {issuer: https://login.example.com, claim: " + strings.Repeat("a", 201) + ", value: b}\n" + rest, "line 5: the name of a claim has more than 200 bytes"},
		{"no tenant", cert + "    roles: [emitter]\n", "line 2: the grant has no tenant; name it with tenant (default is"},
		{"two tenants", token + rest + "    tenant_claim: org\n", "line 5: the grant has both tenant and tenant_claim"},
		{"a tenant's claim in a certificate", cert + "    roles: [emitter]\n    tenant_claim: org\n", "line 2: certificates have no claims"},
		{"a tenant that is a path", cert + "    roles: [emitter]\n    tenant: ../a\n", `line 2: tenant "../a": use 1 to 64 letters`},
		{"no roles", cert + "    tenant: acme\n", "line 2: the grant has no roles; use emitter, analyst"},
		{"an unknown role", cert + "    roles: [root]\n    tenant: acme\n", `line 2: there is no role "root"; use emitter`},
		{"a role twice", cert + "    roles: [emitter, emitter]\n    tenant: acme\n", "line 2: role emitter is there twice"},
		{"servers of a reader", cert + "    roles: [emitter, analyst]\n    tenant: acme\n    servers: [a]\n", "line 2: servers and emitters bind the role emitter alone, not analyst"},
		{"an unknown content level", cert + "    roles: [analyst]\n    tenant: acme\n    content: all\n", `line 2: there is no content level "all"`},
		{"content of a writer", cert + rest + "    content: none\n", "line 2: content is of roles that read"},
		{"a certificate of another scheme", "grants:\n  - certificate: https://a.example/x\n" + rest, "line 2: certificate \"https://a.example/x\": of URIs only spiffe://"},
		{"a trust domain alone", "grants:\n  - certificate: spiffe://example.org\n" + rest, "line 2: certificate \"spiffe://example.org\" is not a SPIFFE ID"},
		{"a star within a segment", "grants:\n  - certificate: spiffe://example.org/ns/prod*\n" + rest, "is not a SPIFFE ID"},
		{"a star for the trust domain", "grants:\n  - certificate: spiffe://*/ns\n" + rest, "is not a SPIFFE ID"},
		{"a SPIFFE ID that climbs", "grants:\n  - certificate: spiffe://example.org/a/../b\n" + rest, "is not a SPIFFE ID"},
		{"every certificate", "grants:\n  - certificate: \"*\"\n" + rest, "line 2: certificate \"*\" is neither a DNS name"},
		{"a star within a label", "grants:\n  - certificate: \"crm*.example.org\"\n" + rest, "is neither a DNS name"},
		{"two stars", "grants:\n  - certificate: \"*.*.example.org\"\n" + rest, "is neither a DNS name"},
		{"a name with a space", "grants:\n  - certificate: a b\n" + rest, "is neither a DNS name"},
		{"too many grants", "grants:\n" + many(1001, "  - {certificate: h%d.example, roles: [emitter], tenant: a}\n"), "line 1002: there are more than 1000 grants"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := parseAccess([]byte(tt.text), func(string) (*x509.CertPool, error) { return nil, errors.New("no such file") })
			if err == nil || !strings.Contains(err.Error(), tt.want) || a != nil {
				t.Errorf("error %v\n  want %s", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret@") {
				t.Error("a password is in the message")
			}
		})
	}
}

func many(n int, line string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, line, i)
	}
	return b.String()
}

func TestFilesThatCannotBeReadAreNamed(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "access.yaml")
	if _, err := ReadAccessFile(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that is not there: %v", err)
	}
	write(t, path, "#"+strings.Repeat("x", maxAccessFile))
	if _, err := ReadAccessFile(path); err == nil || !strings.Contains(err.Error(), "has more than 1048576 bytes") {
		t.Errorf("a file that is too long: %v", err)
	}
	write(t, path, "issuers:\n  - {issuer: https://a.example, audience: b, ca: ca.pem}\n")
	if _, err := ReadAccessFile(path); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("an authority's file that is not there: %v", err)
	}
	write(t, filepath.Join(folder, "ca.pem"), "no certificate")
	if _, err := ReadAccessFile(path); err == nil || !strings.Contains(err.Error(), "line 2: ca: "+filepath.Join(folder, "ca.pem")+" holds no certificate in PEM") {
		t.Errorf("an authority's file without one: %v", err)
	}
}

// FuzzParseAccess looks for files that crash, or that give what is not valid.
func FuzzParseAccess(f *testing.F) {
	text, err := os.ReadFile("testdata/access.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("issuers: [{issuer: https://a.example, audience: b}]"))
	f.Add([]byte("grants: [{certificate: a.example, roles: [emitter], tenant: a}]"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parseAccess(text, func(string) (*x509.CertPool, error) { return nil, nil })
		if err != nil {
			return
		}
		for _, i := range a.Issuers {
			if len(i.Algorithms) == 0 || i.Audience == "" || checkIssuer(i.Issuer) != nil {
				t.Fatalf("took issuer %+v", i)
			}
		}
		for _, r := range a.Certificates {
			for _, g := range r.Grants {
				if err := g.Validate(); err != nil {
					t.Fatalf("took %+v: %v", g, err)
				}
			}
		}
		for _, r := range a.Tokens {
			for _, g := range r.Grants {
				if g.Tenant == "" && r.TenantClaim == "" {
					t.Fatalf("took %+v without a tenant", g)
				}
			}
		}
	})
}
