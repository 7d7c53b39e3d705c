package auth

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

func writes(tenant string, more ...string) Grant {
	g := Grant{Role: Emitter, Tenant: tenant}
	for _, m := range more {
		if server, ok := strings.CutPrefix(m, "server:"); ok {
			g.Servers = append(g.Servers, server)
		} else {
			g.Emitters = append(g.Emitters, m)
		}
	}
	return g
}

func publisher(t testing.TB, grants ...Grant) *Publisher {
	t.Helper()
	for _, g := range grants {
		if err := g.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	i := Identity{ID: "key:x", Grants: grants}
	scope, content := reach(i.with(Publish))
	p, err := NewPublisher(&Access{Identity: i, Permission: Publish, Scope: scope, Content: content})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnEmitterWritesOnlyAsItself(t *testing.T) {
	acme, every := writes("acme"), writes(EveryTenant)
	long := strings.Repeat("x", event.MaxID)
	for name, c := range map[string]struct {
		grants                  []Grant
		tenant, server, emitter string
		stored                  string // tenant/emitter
		refused                 string
	}{
		"its own tenant":                      {[]Grant{acme}, "acme", "crm", "e", "acme/acme::e", ""},
		"no tenant":                           {[]Grant{acme}, "", "crm", "e", "acme/acme::e", ""},
		"the tenant of who was told none":     {[]Grant{acme}, "default", "crm", "e", "acme/acme::e", ""},
		"another tenant":                      {[]Grant{acme}, "umbrella", "crm", "e", "", "tenant: is not one"},
		"another tenant in other letters":     {[]Grant{acme}, "Acme", "crm", "e", "", "tenant: is not one"},
		"a tenant with something behind it":   {[]Grant{acme}, "acme\x00", "crm", "e", "", "tenant: is not one"},
		"every tenant as a tenant":            {[]Grant{acme}, "*", "crm", "e", "", "tenant: is not one"},
		"the default tenant":                  {[]Grant{writes("default")}, "", "crm", "e", "default/e", ""},
		"a tenant with the default's key":     {[]Grant{writes("default")}, "acme", "crm", "e", "", "tenant: is not one"},
		"one of two tenants":                  {[]Grant{acme, writes("b")}, "b", "crm", "e", "b/b::e", ""},
		"neither of two tenants":              {[]Grant{acme, writes("b")}, "", "crm", "e", "", "tenant: is not said"},
		"the default one of two tenants":      {[]Grant{acme, writes("default")}, "", "crm", "e", "default/e", ""},
		"any tenant":                          {[]Grant{every}, "acme", "crm", "e", "acme/e", ""},
		"no tenant of any":                    {[]Grant{every}, "", "crm", "e", "default/e", ""},
		"a restored event":                    {[]Grant{every}, "acme", "crm", "acme::e", "acme/acme::e", ""},
		"any and one tenant":                  {[]Grant{acme, every}, "acme", "crm", "e", "acme/e", ""},
		"colons with any and one tenant":      {[]Grant{acme, every}, "b", "crm", "acme::e", "", `emitter_id: has "::" in it`},
		"a named server":                      {[]Grant{writes("acme", "server:crm")}, "acme", "crm", "e", "acme/acme::e", ""},
		"a server that begins as named":       {[]Grant{writes("acme", "server:crm*")}, "acme", "crm-7", "e", "acme/acme::e", ""},
		"another server":                      {[]Grant{writes("acme", "server:crm")}, "acme", "crm-7", "e", "", "server: is not one"},
		"no server":                           {[]Grant{writes("acme", "server:crm")}, "acme", "", "e", "", "server: is not one"},
		"a path to a server":                  {[]Grant{writes("acme", "server:crm")}, "acme", "x/../crm", "e", "", "server: is not one"},
		"a named emitter":                     {[]Grant{writes("acme", "crm-*")}, "acme", "crm", "crm-01", "acme/acme::crm-01", ""},
		"another emitter":                     {[]Grant{writes("acme", "crm-*")}, "acme", "crm", "hr-01", "", "emitter_id: is not one"},
		"a pattern as an emitter":             {[]Grant{writes("acme", "crm")}, "acme", "crm", "crm*", "", "emitter_id: is not one"},
		"half of two grants":                  {[]Grant{writes("acme", "server:crm", "crm-*"), writes("acme", "server:hr", "hr-*")}, "acme", "crm", "hr-1", "", "emitter_id: is not one"},
		"half of two tenants' grants":         {[]Grant{writes("acme", "server:crm"), writes("b", "server:hr")}, "b", "crm", "e", "", "server: is not one"},
		"another role's grant":                {[]Grant{acme, {Role: Analyst, Tenant: "b"}}, "b", "crm", "e", "", "tenant: is not one"},
		"another tenant's emitter":            {[]Grant{acme}, "acme", "crm", "b::e", "", `emitter_id: has "::" in it`},
		"another tenant's emitter by default": {[]Grant{writes("default")}, "default", "crm", "acme::e", "", `emitter_id: has "::" in it`},
		"a colon at the beginning":            {[]Grant{acme}, "acme", "crm", ":b", "", `emitter_id: has "::" in it or begins with ":"`},
		"three colons":                        {[]Grant{acme}, "acme", "crm", "a:::b", "", `emitter_id: has "::" in it`},
		"a colon at the end":                  {[]Grant{acme}, "acme", "crm", "a:", "acme/acme::a:", ""},
		"colons of another script":            {[]Grant{acme}, "acme", "crm", "b：：e", "acme/acme::b：：e", ""},
		"no emitter":                          {[]Grant{acme}, "acme", "crm", "", "", "emitter_id: is required"},
		"no emitter for any tenant":           {[]Grant{every}, "acme", "crm", "", "", "emitter_id: is required"},
		"the longest emitter":                 {[]Grant{acme}, "acme", "crm", long[:event.MaxID-6], "acme/acme::" + long[:event.MaxID-6], ""},
		"one byte too many":                   {[]Grant{acme}, "acme", "crm", long[:event.MaxID-5], "", "emitter_id: has 251 bytes, and the name of this tenant leaves room for 250"},
		"too long for any tenant":             {[]Grant{every}, "acme", "crm", long + "x", "", "emitter_id: has 257 bytes, at most 256 are taken"},
		"far too long":                        {[]Grant{acme}, "acme", "crm", strings.Repeat(long, 1<<12), "", "emitter_id: has 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			p := publisher(t, c.grants...)
			e := &event.Event{Tenant: c.tenant, Server: c.server, EmitterID: c.emitter}
			err := p.Admit(e)
			if c.refused != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.refused) {
					t.Fatalf("got %v, %q, want %q", err, e.Tenant+"/"+e.EmitterID, c.refused)
				}
				if e.Tenant != c.tenant || e.EmitterID != c.emitter {
					t.Errorf("what was refused was changed: %q", e.Tenant+"/"+e.EmitterID)
				}
				return
			}
			if err != nil || e.Tenant+"/"+e.EmitterID != c.stored {
				t.Fatalf("stored as %q, %v, want %q", e.Tenant+"/"+e.EmitterID, err, c.stored)
			}
			if own := p.Own(e.EmitterID); own != c.emitter {
				t.Errorf("it is told of %q", own)
			}
		})
	}
}

func TestNamesOfTheServiceAreItsOwn(t *testing.T) {
	relay := publisher(t, writes(EveryTenant))
	verify := publisher(t, writes(EveryTenant, "mcpaudit-verify-*"), writes(EveryTenant, "crm-*", "m*"))
	for name, c := range map[string]struct {
		e        event.Event
		field    string // "" when it is taken
		reserved bool
	}{
		"an emitter":                         {event.Event{EmitterID: "mcpaudit-kafka-1"}, "emitter_id", false},
		"an emitter in capitals":             {event.Event{EmitterID: "MCPaudit-kafka-1"}, "emitter_id", false},
		"an emitter behind what is not seen": {event.Event{EmitterID: "\u200b \tmcpaudit-kafka-1"}, "emitter_id", false},
		"an emitter that is named so":        {event.Event{EmitterID: "mcpaudits-1"}, "", false},
		"a principal":                        {event.Event{EmitterID: "e", Principal: "mcpaudit:retention"}, "principal", true},
		"a principal in capitals":            {event.Event{EmitterID: "e", Principal: "McpAudit:x"}, "principal", true},
		"a principal behind a NUL":           {event.Event{EmitterID: "e", Principal: "\x00mcpaudit:x"}, "principal", true},
		"a principal with it inside":         {event.Event{EmitterID: "e", Principal: "https://idp/#mcpaudit:x"}, "", false},
		"a start":                            {event.Event{EmitterID: "e", Kind: "admin", Method: "mcpaudit/start"}, "method", true},
		"a login":                            {event.Event{EmitterID: "e", Kind: "auth", Method: "mcpaudit/login"}, "method", true},
		"another login":                      {event.Event{EmitterID: "e", Kind: "auth", Method: "oauth/token"}, "", false},
		"a loss":                             {event.Event{EmitterID: "e", Kind: "other", Method: "mcpaudit/lost"}, "", false},
		"a receipt":                          {event.Event{EmitterID: "e", Kind: "finding", Method: "mcpaudit/receipt"}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			for who, err := range map[string]error{"a reader of a topic": Reserved(&c.e), "an emitter": relay.Admit(&c.e)} {
				var d *Denial
				switch {
				case c.field == "" && err != nil, c.field != "" && !errors.As(err, &d), d != nil && (d.Field != c.field || d.Reserved != c.reserved):
					t.Errorf("%s is told %v", who, err)
				}
			}
		})
	}
	own := event.Event{EmitterID: "mcpaudit-verify-7", Principal: "mcpaudit:verify", Kind: "admin", Method: "mcpaudit/verify"}
	if err := verify.Admit(&own); err != nil {
		t.Errorf("an instance that was granted the name is told %v", err)
	}
	for _, e := range []event.Event{
		{EmitterID: "mcpaudit-kafka-1"},
		{EmitterID: "crm-1", Principal: "mcpaudit:verify"},
	} {
		if verify.Admit(&e) == nil {
			t.Errorf("%+v is taken with a grant for another name", e)
		}
	}
}

func TestWhoMayNotWriteIsNoPublisher(t *testing.T) {
	for name, a := range map[string]*Access{
		"nobody":         nil,
		"a reader":       {Identity: Identity{Grants: []Grant{{Role: Analyst, Tenant: "acme"}}}, Permission: Publish},
		"another's call": {Identity: Identity{Grants: []Grant{writes("acme")}}, Permission: Read},
		"no grants":      {Permission: Publish},
	} {
		if _, err := NewPublisher(a); err == nil {
			t.Errorf("%s may write", name)
		}
	}
	if _, err := NewQuota(PublishLimits{}, nil).Writer(context.Background()); err == nil {
		t.Error("a call without an access may write")
	}
}

// Whatever two emitters that are bound to tenants call themselves, and whatever else
// they say of their tenant, they are stored as one only if they are one.
func FuzzEmittersOfTenantsAreKeptApart(f *testing.F) {
	for _, s := range [][4]string{
		{"a", ":b", "a:", "b"}, {"a", "b::c", "a::b", "c"}, {"default", "a::b", "a", "b"}, {"a", "b", "default", "a::b"},
		{"a", ":::b", "a", "b"}, {"..", "/../a", "a", "::"}, {"a", "'; DROP TABLE events; --", "b", "x\x00y"}, {"A", "e", "a", "e"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	f.Fuzz(func(t *testing.T, tenant1, id1, tenant2, id2 string) {
		store := func(tenant, id string) (string, bool) {
			g := writes(tenant)
			if g.Validate() != nil || tenant == EveryTenant {
				return "", false
			}
			p := publisher(t, g)
			for _, says := range []string{tenant, "", tenant2} {
				e := &event.Event{Tenant: says, EmitterID: id}
				if p.Admit(e) != nil {
					continue
				}
				if e.Tenant != tenant || len(e.EmitterID) > event.MaxID || p.Own(e.EmitterID) != id {
					t.Fatalf("%q, of tenant %q who says %q, is stored as %q of tenant %q", id, tenant, says, e.EmitterID, e.Tenant)
				}
				if in, _, ok := strings.Cut(e.EmitterID, separator); ok != (tenant != DefaultTenant) || ok && in != tenant {
					t.Fatalf("%q of tenant %q is stored as %q", id, tenant, e.EmitterID)
				}
				return e.EmitterID, true
			}
			return "", false
		}
		one, ok1 := store(tenant1, id1)
		two, ok2 := store(tenant2, id2)
		if ok1 && ok2 && (one == two) != (tenant1 == tenant2 && id1 == id2) {
			t.Fatalf("%q of %q and %q of %q are stored as %q and %q", id1, tenant1, id2, tenant2, one, two)
		}
	})
}
