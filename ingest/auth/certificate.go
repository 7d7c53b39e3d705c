package auth

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Bounds of what a client certificate says.
const (
	maxSPIFFE   = 2048 // bytes of a SPIFFE ID (SPIFFE-ID, section 2.3)
	maxDNSName  = 253  // characters of a DNS name (RFC 1035, section 2.3.4)
	maxDNSNames = 100  // in one certificate
)

// spiffeID is a SPIFFE ID of a workload: a trust domain and a path that is not empty
// (SPIFFE-ID, sections 2.1 and 2.2). Nothing is escaped, so one workload has one ID.
var spiffeID = regexp.MustCompile(`^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$`)

// dnsName is a host's name in lower case. Underscores are not a host's, but there.
var dnsName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)

// isSPIFFE says whether a text is a workload's SPIFFE ID.
func isSPIFFE(id string) bool {
	return len(id) <= maxSPIFFE && spiffeID.MatchString(id) && !strings.Contains(id+"/", "/./") && !strings.Contains(id+"/", "/../")
}

// isDNS says whether a text is a DNS name in lower case, without a wildcard.
func isDNS(name string) bool { return len(name) <= maxDNSName && dnsName.MatchString(name) }

// certificateName is the name of a certificate rule as it is compared, or what is
// wrong with it.
func certificateName(name string) (string, error) {
	if strings.Contains(name, "://") {
		id := name
		if begin, open := strings.CutSuffix(name, "/*"); open {
			id = begin + "/x"
		}
		switch {
		case !strings.HasPrefix(name, "spiffe://"):
			return "", fmt.Errorf("certificate %q: of URIs only spiffe:// names somebody", name)
		case !isSPIFFE(id):
			return "", fmt.Errorf("certificate %q is not a SPIFFE ID such as spiffe://example.org/ns/prod/agent, nor one whose last segment is *", name)
		}
		return name, nil
	}
	name = strings.ToLower(name)
	if rest, _ := strings.CutPrefix(name, "*."); !isDNS(rest) {
		return "", fmt.Errorf("certificate %q is neither a DNS name such as mcp-7.example.org, nor one whose first label is *, nor a SPIFFE ID (spiffe://…)", name)
	}
	return name, nil
}

// names says whether the rule is about a SPIFFE ID or DNS name.
func (r CertificateRule) names(name string) bool {
	if begin, open := strings.CutSuffix(r.Name, "/*"); open {
		return strings.HasPrefix(name, begin+"/")
	}
	if zone, open := strings.CutPrefix(r.Name, "*"); open {
		label, rest, _ := strings.Cut(name, ".")
		return label != "" && "."+rest == zone
	}
	return name == r.Name
}

// Certificates prove who calls by the client certificate of a TLS connection. They
// hold nothing that changes; any number of goroutines may use them.
type Certificates struct {
	rules []CertificateRule
	now   func() time.Time
}

// NewCertificates makes them from the rules of an access file.
func NewCertificates(rules []CertificateRule, now func() time.Time) *Certificates {
	return &Certificates{rules: rules, now: now}
}

// Identify says whose certificate the client of a connection has shown. The server
// must have verified it against the authorities that sign clients
// (tls.VerifyClientCertIfGiven and ClientCAs): what is merely shown counts for nothing.
// A connection can outlive its certificate, so every call looks at the dates again.
// The common name is never read: it is free text.
//
// The identity is the SPIFFE ID of a certificate that has one (SPIFFE X.509-SVID,
// section 2: exactly one URI, and never an authority's certificate), or "dns:" and the
// DNS name to which a rule gives a role, of several the first by the alphabet; it has
// the grants of all of them. The error is a *[Refusal].
func (c *Certificates) Identify(state tls.ConnectionState) (*Identity, error) {
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		if len(state.PeerCertificates) == 0 {
			return nil, &Refusal{Reason: NoCredential, Text: "there is no client certificate; show one, or send an API key"}
		}
		return nil, &Refusal{Reason: Unknown, Text: "the client certificate was not signed by an authority that is trusted here"}
	}
	leaf := state.VerifiedChains[0][0]
	sum := sha256.Sum256(leaf.Raw)
	names, problem := namesOf(leaf)
	refuse := func(reason Reason, text string) (*Identity, error) {
		claimed := ""
		if len(names) > 0 {
			claimed = clean(names[0], maxClaimed)
		}
		return nil, &Refusal{Reason: reason, Text: text, Claimed: claimed, Credential: "cert:" + hex.EncodeToString(sum[:8])}
	}
	if problem != "" {
		return refuse(Malformed, problem)
	}
	switch now := c.now(); {
	case now.Before(leaf.NotBefore):
		return refuse(NotYetValid, "the client certificate is not valid yet; check the clocks")
	case now.After(leaf.NotAfter):
		return refuse(Expired, "the client certificate has expired; connect again with a new one")
	case !slices.ContainsFunc(state.VerifiedChains, func(chain []*x509.Certificate) bool { return valid(chain, now) }):
		return refuse(Expired, "the certificate of an authority that signed the client's has expired; connect again with a new one")
	}
	id := &Identity{Kind: "service", Method: "mtls", Credential: "cert:" + hex.EncodeToString(sum[:8])}
	for _, name := range names {
		for _, r := range c.rules {
			if r.names(name) {
				id.ID = firstOf(id.ID, name)
				id.Grants = addGrants(id.Grants, r.Grants)
			}
		}
	}
	if id.ID == "" {
		return refuse(NoGrant, "the client certificate is genuine, and nobody has given its name a role here; an administrator can, in the access file")
	}
	id.Name = id.ID
	if !strings.HasPrefix(id.ID, "spiffe://") {
		id.ID = "dns:" + id.ID
	}
	return id, nil
}

func firstOf(a, b string) string {
	if a == "" {
		return b
	}
	return min(a, b)
}

// valid says whether every certificate of a chain is valid at a time.
func valid(chain []*x509.Certificate, at time.Time) bool {
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return at.Before(c.NotBefore) || at.After(c.NotAfter) })
}

// namesOf are the names that a client certificate proves, or why it proves none.
func namesOf(leaf *x509.Certificate) (names []string, problem string) {
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, "the client certificate is an authority's; show one of a client"
	}
	var uris []string
	for _, u := range leaf.URIs {
		uris = append(uris, u.String())
	}
	isID := func(uri string) bool { return strings.HasPrefix(strings.ToLower(uri), "spiffe:") }
	if i := slices.IndexFunc(uris, isID); i >= 0 {
		switch {
		case len(uris) != 1:
			return uris[i : i+1], "the client certificate has a SPIFFE ID and another URI; it must have one URI"
		case !isSPIFFE(uris[0]):
			return uris, "the URI of the client certificate is not a workload's SPIFFE ID"
		}
		return uris, ""
	}
	if len(leaf.DNSNames) > maxDNSNames {
		return nil, fmt.Sprintf("the client certificate has more than %d DNS names", maxDNSNames)
	}
	for _, name := range leaf.DNSNames {
		// A certificate for *.example.org is many hosts', and so nobody's.
		if name = strings.ToLower(name); isDNS(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, "the client certificate has neither a SPIFFE ID nor a DNS name (its common name is not looked at)"
	}
	return names, ""
}
