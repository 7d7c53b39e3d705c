package auth

import (
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Bounds of what a token says of somebody, in bytes.
const (
	maxSubject = 256 // OpenID Connect Core 1.0, section 2 has 255
	maxName    = 128
	maxClaimed = 256
	maxTenants = 64 // tenants that one token can name
)

// claims are what a token says. Numbers are json.Number.
type claims map[string]any

// text is a claim that is a string, or "".
func (c claims) text(name string) string {
	s, _ := c[name].(string)
	return s
}

// at finds a claim by its whole name, or else by the way to it with dots between.
// Names with dots are those that providers make of URLs.
func (c claims) at(path string) any {
	if v, ok := c[path]; ok {
		return v
	}
	var here any = map[string]any(c)
	for step := range strings.SplitSeq(path, ".") {
		object, ok := here.(map[string]any)
		if !ok {
			return nil
		}
		here = object[step]
	}
	return here
}

// values of a claim that is a string or a list of strings; of any other there are none.
func (c claims) values(path string) []string {
	switch v := c.at(path).(type) {
	case string:
		if path == "scope" || path == "scp" {
			return strings.Fields(v)
		}
		return []string{v}
	case []any:
		out := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil
			}
			out = append(out, s)
		}
		return out
	}
	return nil
}

// maxDate is the last second of the year 9999. What lies beyond it is no date, and
// near the end of int64 sums would turn over.
const maxDate = 253402300799

// date is a NumericDate (RFC 7519, section 2). A claim that is there and is not one,
// or is negative, is not ok.
func (c claims) date(name string) (at time.Time, given, ok bool) {
	v, given := c[name]
	if !given {
		return time.Time{}, false, true
	}
	n, isNumber := v.(json.Number)
	if !isNumber {
		return time.Time{}, true, false
	}
	f, err := n.Float64()
	if err != nil || !(f >= 0 && f <= maxDate) {
		return time.Time{}, true, false
	}
	return time.Unix(int64(f), 0), true, true
}

// isService says whether a token is a program's own rather than one that it has for
// somebody. RFC 9068, section 2.2: of a program's own, sub is the client's id. Others
// have their own signs, and some give neither a name nor anything of a login.
func (c claims) isService() bool {
	client := ""
	for _, name := range []string{"client_id", "azp", "appid", "cid"} {
		if client = c.text(name); client != "" {
			break
		}
	}
	switch sub := c.text("sub"); {
	case client == "":
		return false
	case sub == client, sub == client+"@clients", // RFC 9068; Auth0
		c.text("idtyp") == "app",                                  // Entra ID
		c.text("gty") == "client-credentials",                     // Auth0
		c.text("preferred_username") == "service-account-"+client: // Keycloak
		return true
	}
	for _, sign := range []string{"preferred_username", "email", "name", "given_name", "family_name", "upn", "auth_time", "amr", "acr", "sid", "nonce"} {
		if _, human := c[sign]; human {
			return false
		}
	}
	return !slices.Contains(c.values("scope"), "openid")
}

// name is what to call somebody, for people; anybody may have chosen it.
func (c claims) name() string {
	for _, claim := range []string{"preferred_username", "email", "name", "sub"} {
		if name := clean(c.text(claim), maxName); name != "" {
			return name
		}
	}
	return ""
}

// grants are what rules give to a token. misnamed says that a rule would have given
// something, and the token's tenant is not one that a token can name.
func (c claims) grants(rules []TokenRule) (grants []Grant, misnamed bool) {
	for _, r := range rules {
		if !slices.Contains(c.values(r.Claim), r.Value) {
			continue
		}
		if r.TenantClaim == "" {
			grants = addGrants(grants, r.Grants)
			continue
		}
		tenants := c.values(r.TenantClaim)
		if len(tenants) == 0 || len(tenants) > maxTenants || slices.ContainsFunc(tenants, func(t string) bool { return t == DefaultTenant || !plain.MatchString(t) }) {
			misnamed = true
			continue
		}
		for _, tenant := range tenants {
			for _, g := range r.Grants {
				g.Tenant = tenant
				grants = addGrants(grants, []Grant{g})
			}
		}
	}
	return grants, misnamed
}

// addGrants adds those that are not there yet.
func addGrants(grants, more []Grant) []Grant {
	for _, g := range more {
		if !slices.ContainsFunc(grants, func(o Grant) bool { return reflect.DeepEqual(o, g) }) {
			grants = append(grants, g)
		}
	}
	return grants
}

// printable says whether a text has nothing in it that can't be seen: no control
// characters, nothing that turns or joins what stands around it, and nothing that was
// not UTF-8.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}

// clean is a text of at most limit bytes without what can't be seen.
func clean(s string, limit int) string {
	if len(s) > 4*limit {
		s = s[:4*limit]
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
	return event.ClipText(strings.TrimSpace(s), limit)
}
