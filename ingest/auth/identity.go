// Package auth says who calls, what they may do, and that it was done.
//
// A caller proves who it is with an API key, a JSON Web Token or a client
// certificate; each gives an [Identity] with its grants. A [Guard] in front of every
// method asks for the permission that the method's [Rule] names, and hands the method
// an [Access]: who it is and for which tenants. What is read of the store is cut to
// these tenants in one place, and what was done is noted in the log itself.
package auth

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Role is what somebody is for. Roles do not contain each other: who administers does
// not read by that, and who reads does not export.
type Role string

// The roles.
const (
	Emitter  Role = "emitter"  // writes events, as the emitters and for the servers it is bound to
	Analyst  Role = "analyst"  // searches, reads and triages
	Auditor  Role = "auditor"  // as an analyst, and the ledger: logs, proofs, verification
	Exporter Role = "exporter" // takes events out
	Admin    Role = "admin"    // keys, rules, retention
	Monitor  Role = "monitor"  // reads the service's own metrics, and no event
)

// Roles are all of them.
var Roles = []Role{Emitter, Analyst, Auditor, Exporter, Admin, Monitor}

// Permission is what a rule asks for.
type Permission string

// The permissions.
const (
	Publish    Permission = "publish"    // write events
	Witness    Permission = "witness"    // ask for the proof that the log only grew
	Read       Permission = "read"       // search and read events and findings
	Triage     Permission = "triage"     // take a step with a finding, suppress
	Integrity  Permission = "integrity"  // logs, checkpoints, proofs, verification
	Export     Permission = "export"     // take events out as files
	Administer Permission = "administer" // keys, rules, retention
	Observe    Permission = "observe"    // metrics of the service
	Anybody    Permission = "anybody"    // any credential that is good
)

var allows = map[Role][]Permission{
	Emitter:  {Publish, Witness},
	Analyst:  {Read, Triage},
	Auditor:  {Read, Triage, Integrity, Witness},
	Exporter: {Export},
	Admin:    {Administer},
	Monitor:  {Observe},
}

// Allows says whether a role has a permission.
func (r Role) Allows(p Permission) bool {
	return p == Anybody && slices.Contains(Roles, r) || slices.Contains(allows[r], p)
}

// Content is how much of a call's content a reader sees.
type Content string

// The content levels, each more than the one before.
const (
	ContentNone     Content = "none"     // who, what and when, but no arguments and no messages
	ContentRedacted Content = "redacted" // arguments and messages as they are stored
	ContentLookup   Content = "lookup"   // and what pseudonym a known value has
)

// Contents are the levels, ascending.
var Contents = []Content{ContentNone, ContentRedacted, ContentLookup}

// AtLeast says whether c shows as much as least.
func (c Content) AtLeast(least Content) bool {
	return slices.Index(Contents, c) >= slices.Index(Contents, least)
}

// Names of tenants that mean more than a name.
const (
	// EveryTenant, as the tenant of a grant, is all of them, also those to come.
	EveryTenant = "*"
	// DefaultTenant is that of events that name none, and of what the service notes of
	// itself: whoever runs the service. event.SetDefaults fills it in.
	DefaultTenant = "default"
)

// Grant is one role for one tenant.
type Grant struct {
	Role   Role
	Tenant string // never empty; DefaultTenant, or EveryTenant for all
	// Servers and Emitters bind an emitter: it writes events of these servers as these
	// emitters alone. Each is a name, or the beginning of names with a * behind it.
	// Empty for any.
	Servers, Emitters []string
	Content           Content // of reading roles; empty for redacted
}

// Identity is somebody whom a credential has proved.
type Identity struct {
	ID         string // stable and never used again: key:…, an issuer's name and subject, spiffe://…
	Name       string // for people
	Kind       string // human or service
	Method     string // api_key, jwt or mtls
	Credential string // fingerprint of what was shown; it tells nothing of the secret
	Grants     []Grant
}

// Scope is a set of tenants.
type Scope struct {
	Every bool
	Names []string // when not every, sorted; none is no tenant at all
}

// Has says whether a tenant belongs to the scope.
func (s Scope) Has(tenant string) bool { return s.Every || slices.Contains(s.Names, tenant) }

// Only is the one tenant of the scope.
func (s Scope) Only() (tenant string, ok bool) {
	if s.Every || len(s.Names) != 1 {
		return "", false
	}
	return s.Names[0], true
}

// Access is a call that was let through.
type Access struct {
	Identity
	Permission Permission
	Scope      Scope   // the tenants for which the identity has the permission
	Content    Content // the least of what it may see in any of them
	Address    string  // of the caller's machine
	UserAgent  string
	Lasting    bool    // it stays open; see Rule
	report     *report // what the log says of the call; nil outside of one
}

// Grants of the identity that give a permission.
func (i *Identity) with(p Permission) (grants []Grant) {
	for _, g := range i.Grants {
		if g.Role.Allows(p) {
			grants = append(grants, g)
		}
	}
	return grants
}

// reach is for which tenants grants hold, and what content they all show.
func reach(grants []Grant) (Scope, Content) {
	var s Scope
	content := ContentLookup
	for _, g := range grants {
		if g.Tenant == EveryTenant {
			s.Every = true
		} else if !slices.Contains(s.Names, g.Tenant) {
			s.Names = append(s.Names, g.Tenant)
		}
		if c := g.content(); !c.AtLeast(content) {
			content = c
		}
	}
	if s.Every {
		s.Names = nil
	}
	slices.Sort(s.Names)
	return s, content
}

func (g Grant) content() Content {
	if g.Content == "" {
		return ContentRedacted
	}
	return g.Content
}

// plain is what tenants may be called. Their names go into statements and ids.
var plain = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)

// pattern is what servers and emitters of a grant may be.
var pattern = regexp.MustCompile(`^[^*\x00-\x1f]{0,200}\*?$`)

// Validate names what is wrong with a grant.
func (g Grant) Validate() error {
	switch {
	case !slices.Contains(Roles, g.Role):
		return fmt.Errorf("there is no role %q; use %s", g.Role, list(Roles))
	case g.Tenant != EveryTenant && !plain.MatchString(g.Tenant):
		return fmt.Errorf("tenant %q: use 1 to 64 letters, digits, dashes, underscores and dots, the first no dot, or * for every tenant", g.Tenant)
	case g.Content != "" && !slices.Contains(Contents, g.Content):
		return fmt.Errorf("there is no content level %q; use %s", g.Content, list(Contents))
	case g.Role != Emitter && len(g.Servers)+len(g.Emitters) > 0:
		return fmt.Errorf("servers and emitters bind the role emitter alone, not %s", g.Role)
	case len(g.Servers) > maxPatterns || len(g.Emitters) > maxPatterns:
		return fmt.Errorf("at most %d servers and emitters can be named; end them with * to name more at once", maxPatterns)
	}
	for _, p := range slices.Concat(g.Servers, g.Emitters) {
		if p == "" || !pattern.MatchString(p) {
			return fmt.Errorf("%q is not a name of at most 200 characters, or the beginning of names with a * behind it", p)
		}
	}
	return nil
}

const maxPatterns = 100

// named says whether a name is one of the patterns'; without patterns any is.
func named(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		begin, open := strings.CutSuffix(p, "*")
		return p == name || open && strings.HasPrefix(name, begin)
	})
}

func list[T ~string](names []T) string {
	parts := make([]string, len(names))
	for i, n := range names {
		parts[i] = string(n)
	}
	return strings.Join(parts, ", ")
}

type accessKey struct{}

// With gives a call its access.
func With(ctx context.Context, a *Access) context.Context {
	return context.WithValue(ctx, accessKey{}, a)
}

// From is the access of a call. There is none of what the service does by itself.
func From(ctx context.Context) (*Access, bool) {
	a, ok := ctx.Value(accessKey{}).(*Access)
	return a, ok
}
