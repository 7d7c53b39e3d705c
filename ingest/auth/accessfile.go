package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Bounds of an access file. Each is far beyond what somebody writes by hand.
const (
	maxAccessFile = 1 << 20
	maxIssuers    = 20
	maxRules      = 1000
	maxIssuerName = 200 // bytes of an issuer's URL: it begins every principal of its tokens
	maxClaimName  = 200
	maxTolerance  = 5 * time.Minute
)

// defaultTolerance is how far an issuer's clock may be off when nothing is said.
const defaultTolerance = 30 * time.Second

// AccessFile says whose tokens and certificates are taken, and what they may do
// here. It is YAML:
//
//	issuers:
//	  - issuer: https://login.example.com   # exactly as tokens have it in iss
//	    audience: mcpaudit                  # what tokens for this service have in aud
//	    algorithms: [RS256, ES256]          # default: every one with a public key
//	    ca: login-ca.pem                    # who signs the provider's certificate; default: the system's
//	    clock_tolerance: 30s
//	grants:
//	  - token: {issuer: https://login.example.com, claim: groups, value: soc}
//	    roles: [analyst, exporter]
//	    tenant: acme                        # or tenant_claim: org
//	    content: redacted
//	  - certificate: spiffe://example.org/ns/prod/*
//	    roles: [emitter]
//	    tenant: acme
//	    servers: [crm*]
//	    emitters: [crm-*]
//
// It holds no secret.
type AccessFile struct {
	Issuers      []Issuer
	Tokens       []TokenRule
	Certificates []CertificateRule
}

// Issuer is an OpenID Connect provider whose tokens are taken.
type Issuer struct {
	Issuer         string         // its URL, as iss has it; https unless on loopback
	Audience       string         // what aud must contain
	Algorithms     []string       // JWS names (RFC 7518, section 3.1; RFC 8037); never empty, never symmetric
	Roots          *x509.CertPool // who signs its certificate; nil for the system's
	ClockTolerance time.Duration  // how far its clock may be off; 0 to 5m
}

// TokenRule gives roles to the tokens of an issuer that have a value in a claim.
type TokenRule struct {
	Issuer string
	// Claim is the name of a top-level claim, or else the way to one in nested
	// objects with dots between (realm_access.roles). It is a string or a list of
	// strings; scope and scp are read as RFC 9068, section 2.2.3 has them, words with
	// spaces between.
	Claim  string
	Value  string  // compared exactly
	Grants []Grant // one for each role; without a tenant when TenantClaim is set
	// TenantClaim is where the token names its tenant, or a list of them. It can't
	// name DefaultTenant, which is the operator's own, nor EveryTenant: these are
	// given by name in the file alone.
	TenantClaim string
}

// CertificateRule gives roles to client certificates by their name: a SPIFFE ID, one
// whose last segment is * for all below it, a DNS name, or one whose first label is
// * for any one label.
type CertificateRule struct {
	Name   string
	Grants []Grant
}

// The file's parts as YAML has them, each with the line where it begins.
type (
	accessDoc struct {
		Issuers []issuerDoc `key:"issuers"`
		Grants  []grantDoc  `key:"grants"`
	}
	issuerDoc struct {
		line           int
		Issuer         string        `key:"issuer"`
		Audience       string        `key:"audience"`
		Algorithms     []string      `key:"algorithms"`
		CA             string        `key:"ca"`
		ClockTolerance time.Duration `key:"clock_tolerance"`
	}
	tokenDoc struct {
		line   int
		Issuer string `key:"issuer"`
		Claim  string `key:"claim"`
		Value  string `key:"value"`
	}
	grantDoc struct {
		line        int
		Token       *tokenDoc `key:"token"`
		Certificate string    `key:"certificate"`
		Roles       []string  `key:"roles"`
		Tenant      string    `key:"tenant"`
		TenantClaim string    `key:"tenant_claim"`
		Content     string    `key:"content"`
		Servers     []string  `key:"servers"`
		Emitters    []string  `key:"emitters"`
	}
)

func (d *issuerDoc) begin(line int) { d.line, d.ClockTolerance = line, defaultTolerance }
func (d *tokenDoc) begin(line int)  { d.line = line }
func (d *grantDoc) begin(line int)  { d.line = line }

// ReadAccessFile reads an access file of at most 1 MiB. It is strict: an unknown key
// is an error that names the nearest known one, and every error names its line. The
// file named in ca is looked for beside the access file unless its path is absolute.
func ReadAccessFile(path string) (*AccessFile, error) {
	text, err := readBounded(path, maxAccessFile)
	if err != nil {
		return nil, fmt.Errorf("read access file: %w", err)
	}
	a, err := parseAccess(text, func(ca string) (*x509.CertPool, error) {
		if !filepath.IsAbs(ca) {
			ca = filepath.Join(filepath.Dir(path), ca)
		}
		return readRoots(ca)
	})
	if err != nil {
		return nil, fmt.Errorf("read access file %s: %w", path, err)
	}
	return a, nil
}

func readBounded(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return text, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	text, err := readBounded(path, maxAccessFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return pool, nil
}

// parseAccess reads an access file's text. roots reads the file named in ca.
func parseAccess(text []byte, roots func(string) (*x509.CertPool, error)) (*AccessFile, error) {
	var doc accessDoc
	if err := decodeYAML(text, &doc); err != nil {
		return nil, err
	}
	if len(doc.Issuers) > maxIssuers {
		return nil, atLine(doc.Issuers[maxIssuers].line, "there are more than %d issuers", maxIssuers)
	}
	if len(doc.Grants) > maxRules {
		return nil, atLine(doc.Grants[maxRules].line, "there are more than %d grants; give groups a role, not each of their members", maxRules)
	}
	a := &AccessFile{}
	var names []string
	for i := range doc.Issuers {
		d := &doc.Issuers[i]
		issuer, err := d.issuer(roots)
		if err != nil {
			return nil, atLine(d.line, "%w", err)
		}
		if slices.Contains(names, issuer.Issuer) {
			return nil, atLine(d.line, "issuer %s is there twice", issuer.Issuer)
		}
		names = append(names, issuer.Issuer)
		a.Issuers = append(a.Issuers, issuer)
	}
	for i := range doc.Grants {
		d := &doc.Grants[i]
		if err := d.check(names); err != nil {
			return nil, err
		}
		grants, err := d.grants()
		if err != nil {
			return nil, atLine(d.line, "%w", err)
		}
		if t := d.Token; t != nil {
			a.Tokens = append(a.Tokens, TokenRule{Issuer: t.Issuer, Claim: t.Claim, Value: t.Value, Grants: grants, TenantClaim: d.TenantClaim})
			continue
		}
		name, err := certificateName(d.Certificate)
		if err != nil {
			return nil, atLine(d.line, "%w", err)
		}
		a.Certificates = append(a.Certificates, CertificateRule{Name: name, Grants: grants})
	}
	return a, nil
}

// issuer is the issuer that an entry describes.
func (d *issuerDoc) issuer(roots func(string) (*x509.CertPool, error)) (Issuer, error) {
	i := Issuer{Issuer: d.Issuer, Audience: d.Audience, Algorithms: d.Algorithms, ClockTolerance: d.ClockTolerance}
	if err := checkIssuer(d.Issuer); err != nil {
		return i, err
	}
	if d.Audience == "" {
		return i, fmt.Errorf("issuer %s has no audience; name what its tokens for this service have in aud, or tokens for any other service would be taken", d.Issuer)
	}
	if d.Algorithms == nil {
		i.Algorithms = slices.Clone(algorithms)
	} else if len(d.Algorithms) == 0 {
		return i, errors.New("algorithms is empty; name some, or leave it out")
	}
	for _, name := range d.Algorithms {
		switch {
		case strings.EqualFold(name, "none"):
			return i, errors.New("algorithm none is no signature, anybody could write such a token")
		case strings.HasPrefix(strings.ToUpper(name), "HS"):
			return i, fmt.Errorf("algorithm %s signs with a shared secret: whoever could check tokens could make them; use one with a public key, such as ES256", name)
		case !slices.Contains(algorithms, name):
			return i, fmt.Errorf("there is no algorithm %q; use %s", name, strings.Join(algorithms, ", "))
		}
	}
	if d.ClockTolerance < 0 || d.ClockTolerance > maxTolerance {
		return i, fmt.Errorf("clock_tolerance %s is not between 0s and %s", d.ClockTolerance, maxTolerance)
	}
	if d.CA != "" {
		var err error
		if i.Roots, err = roots(d.CA); err != nil {
			return i, fmt.Errorf("ca: %w", err)
		}
	}
	return i, nil
}

// checkIssuer names what is wrong with an issuer's URL (OpenID Connect Discovery 1.0,
// section 3: https, with neither query nor fragment).
func checkIssuer(issuer string) error {
	if issuer == "" {
		return errors.New("the entry has no issuer; name the provider's URL as its tokens have it in iss")
	}
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return fmt.Errorf("issuer %q is not a URL such as https://login.example.com", issuer)
	case len(issuer) > maxIssuerName:
		return fmt.Errorf("issuer %q has more than %d bytes", issuer, maxIssuerName)
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(issuer, "#") || u.User != nil:
		return fmt.Errorf("issuer %s: a query, a fragment or a user can't be part of it", u.Redacted())
	case !secure(u):
		return fmt.Errorf("issuer %s: use https; whoever is between here and there could put in keys of their own", issuer)
	}
	return nil
}

// secure says whether keys may be fetched from a URL: over TLS, or from this machine.
func secure(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// check names what is wrong with who is given something, and for which tenant.
func (d *grantDoc) check(issuers []string) error {
	switch t := d.Token; {
	case t == nil && d.Certificate == "":
		return atLine(d.line, "the grant is nobody's; give it a token or a certificate")
	case t != nil && d.Certificate != "":
		return atLine(d.line, "the grant has both a token and a certificate; write one grant for each")
	case t == nil && d.TenantClaim != "":
		return atLine(d.line, "certificates have no claims; name the tenant with tenant")
	case t == nil:
	case t.Issuer == "" || t.Claim == "" || t.Value == "":
		return atLine(t.line, "token needs an issuer, a claim and a value")
	case len(issuers) == 0:
		return atLine(t.line, "token names issuer %q, and there are no issuers", t.Issuer)
	case !slices.Contains(issuers, t.Issuer):
		return atLine(t.line, "there is no issuer %q; the nearest is %q", t.Issuer, event.Nearest(t.Issuer, issuers))
	case t.Value == "*":
		return atLine(t.line, "value is compared exactly, and * does not stand for every value")
	case len(t.Claim) > maxClaimName || len(d.TenantClaim) > maxClaimName:
		return atLine(t.line, "the name of a claim has more than %d bytes", maxClaimName)
	}
	switch {
	case d.Tenant != "" && d.TenantClaim != "":
		return atLine(d.line, "the grant has both tenant and tenant_claim; leave one of them out")
	case d.Tenant == "" && d.TenantClaim == "":
		return atLine(d.line, "the grant has no tenant; name it with tenant (%s is the operator's own, * is every tenant)", DefaultTenant)
	case len(d.Roles) == 0:
		return atLine(d.line, "the grant has no roles; use %s", list(Roles))
	}
	return nil
}

// grants are the entry's, one for each role.
func (d *grantDoc) grants() ([]Grant, error) {
	var out []Grant
	reads := false
	for _, role := range d.Roles {
		g := Grant{Role: Role(role), Tenant: d.Tenant, Servers: d.Servers, Emitters: d.Emitters, Content: Content(d.Content)}
		checked := g
		if d.TenantClaim != "" {
			checked.Tenant = DefaultTenant // it is the token that names one, later
		}
		if err := checked.Validate(); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o Grant) bool { return o.Role == g.Role }) {
			return nil, fmt.Errorf("role %s is there twice", g.Role)
		}
		reads = reads || g.Role.Allows(Read) || g.Role.Allows(Export)
		out = append(out, g)
	}
	if d.Content != "" && !reads {
		return nil, errors.New("content is of roles that read (analyst, auditor, exporter), and there is none of them")
	}
	return out, nil
}
