package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Denial is why an event is not for this caller to write. Its text is for the
// caller: it holds no value of the event, and nothing of other callers.
type Denial struct {
	Field, Reason string
	// Reserved is set where the event bears a name of the service's own, whatever the
	// caller's grants are. Otherwise it is taken as soon as the grants are put right.
	Reserved bool
}

func (d *Denial) Error() string { return d.Field + ": " + d.Reason }

// Publisher is somebody who may write events, and as whom. One goroutine at a time calls
// Admit; the rest is for any.
//
// # Whose events they are
//
// An event is taken when its tenant, its server and its emitter_id fit one grant. One
// that names no tenant, or the default one where that is not granted, is the granted
// tenant's if there is only one: emitters that were told no tenant say "default".
//
// # Emitter ids
//
// The store knows an event by its emitter's id and number, so whoever could write
// under another's id could use up that one's numbers: its events would pass for
// duplicates. So the emitters of a tenant have a name space of their own. What a
// grant for tenant T lets in as emitter "id" is stored as emitter
//
//	T::id   and, for the default tenant, id
//
// A tenant's name has no colon, and an id that is bound to a tenant neither has "::"
// in it nor begins with ":". So a stored id with "::" has one reading (its tenant is all before the
// first colon), one without is an emitter of the default tenant, and no two of them
// are the same.
//
// What a grant for every tenant lets in is stored as it is, and may have any id: such
// a credential relays or restores the events of others, and is trusted with all.
type Publisher struct {
	grants []Grant
	scope  Scope
	bound  bool   // a grant is for one tenant
	payer  string // see Payer
	// What the last event's emitter is stored as: those of a request share one text.
	own, stored string
}

// NewPublisher is the writer that an access lets in; the error says that it lets none
// in.
func NewPublisher(a *Access) (*Publisher, error) {
	if a == nil || a.Permission != Publish {
		return nil, errors.New("write events: the call was not let through to write events")
	}
	p := &Publisher{grants: a.with(Publish)}
	if len(p.grants) == 0 {
		return nil, errors.New("write events: the credential has no grant to write events")
	}
	p.scope, _ = reach(p.grants)
	p.bound = slices.ContainsFunc(p.grants, func(g Grant) bool { return g.Tenant != EveryTenant })
	p.payer = "identity " + a.ID
	if t, ok := p.scope.Only(); ok {
		p.payer = "tenant " + t
	}
	return p, nil
}

// Payer is who stands for what the publisher's events cost: its tenant, or, when it
// writes for several, itself. Whose a request is has to be known before it is read.
func (p *Publisher) Payer() string { return p.payer }

const separator = "::"

// Admit lets an event in, or says why not: with a *Denial, or an
// *event.Violation where the id is none. It fills in the tenant, and puts the tenant's
// name before the emitter's id. It is called once for an event, before its Check.
func (p *Publisher) Admit(e *event.Event) error {
	switch {
	case e.EmitterID == "": // with a tenant before it, it would be an id
		return &event.Violation{Field: "emitter_id", Reason: "is required"}
	case len(e.EmitterID) > event.MaxID: // nothing is made of it
		return &event.Violation{Field: "emitter_id", Reason: fmt.Sprintf("has %d bytes, at most %d are taken", len(e.EmitterID), event.MaxID)}
	}
	tenant := e.Tenant
	if tenant == "" {
		tenant = DefaultTenant
	}
	if tenant == DefaultTenant && !p.scope.Has(DefaultTenant) {
		only, ok := p.scope.Only()
		if !ok {
			return &Denial{Field: "tenant", Reason: "is not said, and the credential is for several; set the emitter's tenant"}
		}
		tenant = only
	}
	if p.bound && (strings.Contains(e.EmitterID, separator) || e.EmitterID[0] == ':') {
		return &Denial{Field: "emitter_id", Reason: `has "::" in it or begins with ":", which keeps the emitters of tenants apart; give the emitter another name`}
	}
	g, err := p.fit(tenant, e.Server, e.EmitterID)
	if err != nil {
		return err
	}
	if err := reserved(e, g); err != nil {
		return err
	}
	if g.Tenant != EveryTenant && g.Tenant != DefaultTenant {
		n := len(g.Tenant) + len(separator) + len(e.EmitterID)
		if n > event.MaxID {
			return &Denial{Field: "emitter_id", Reason: fmt.Sprintf("has %d bytes, and the name of this tenant leaves room for %d; give the emitter a shorter name",
				len(e.EmitterID), event.MaxID-len(g.Tenant)-len(separator))}
		}
		if p.own != e.EmitterID || len(p.stored) != n || !strings.HasPrefix(p.stored, g.Tenant) {
			p.own, p.stored = e.EmitterID, g.Tenant+separator+e.EmitterID
		}
		e.EmitterID = p.stored
	}
	e.Tenant = tenant
	return nil
}

// fit is the grant by which an event is let in. Of several it is one for every tenant
// if there is one, and then one that names the service's own emitters: what an emitter
// is stored as does not change with its events.
func (p *Publisher) fit(tenant, server, emitter string) (*Grant, error) {
	var best *Grant
	byTenant, byServer := false, false
	for i := range p.grants {
		g := &p.grants[i]
		if g.Tenant != EveryTenant && g.Tenant != tenant {
			continue
		}
		byTenant = true
		if !named(g.Servers, server) {
			continue
		}
		byServer = true
		if named(g.Emitters, emitter) && (best == nil || rank(g, emitter) > rank(best, emitter)) {
			best = g
		}
	}
	switch {
	case best != nil:
		return best, nil
	case !byTenant:
		return nil, &Denial{Field: "tenant", Reason: "is not one that the credential may write for; set the emitter's tenant, or give it a credential of that tenant"}
	case !byServer:
		return nil, &Denial{Field: "server", Reason: "is not one that the credential may write for in this tenant; correct the server's name, or the credential's grant"}
	}
	return nil, &Denial{Field: "emitter_id", Reason: "is not one that the credential may write as, for this tenant and server; correct the emitter's name, or the credential's grant"}
}

func rank(g *Grant, emitter string) (r int) {
	if g.Tenant == EveryTenant {
		r += 2
	}
	if g.namesService(emitter) {
		r++
	}
	return r
}

// Names of the service itself. What they say of it is believed: by detectors, and by
// people who look for what was done to the log.
const (
	serviceEmitter   = "mcpaudit-"
	servicePrincipal = "mcpaudit:"
	serviceMethod    = "mcpaudit/"
	serviceName      = "mcpaudit"
)

// namesService says whether a grant's emitters name this one in so many words as one of
// the service's own, as those do of an instance without ingest, or of who verifies.
func (g *Grant) namesService(emitter string) bool {
	return slices.ContainsFunc(g.Emitters, func(p string) bool {
		return strings.HasPrefix(p, serviceEmitter) && named([]string{p}, emitter)
	})
}

func reserved(e *event.Event, g *Grant) error {
	if g.namesService(e.EmitterID) {
		return nil
	}
	return Reserved(e)
}

// Reserved says, with a *Denial, which name of the service's own an event from
// elsewhere bears: an emitter that begins with mcpaudit-, a principal that begins with
// mcpaudit:, or a kind admin or auth with a method that begins with mcpaudit/ or a
// server whose name begins with mcpaudit. Case, and
// what can't be seen before a name, make no difference. Other kinds may have such
// methods: what was lost, and what a receipt contradicts, is for emitters to say.
func Reserved(e *event.Event) error {
	switch {
	case begins(e.EmitterID, serviceEmitter):
		// A name that somebody gave to an emitter, who can give it another.
		return &Denial{Field: "emitter_id", Reason: "names that begin with mcpaudit- are the service's own; give the emitter another name"}
	case begins(e.Principal, servicePrincipal):
		return &Denial{Field: "principal", Reason: "names that begin with mcpaudit: are the service's own", Reserved: true}
	case (e.Kind == "admin" || e.Kind == "auth") && begins(e.Method, serviceMethod):
		return &Denial{Field: "method", Reason: "methods of this kind that begin with mcpaudit/ are the service's own", Reserved: true}
	case (e.Kind == "admin" || e.Kind == "auth") && begins(e.Server, serviceName):
		return &Denial{Field: "server", Reason: "events of this kind of servers whose names begin with mcpaudit are the service's own", Reserved: true}
	}
	return nil
}

// begins says whether a name looks as if it began with a prefix of ASCII.
func begins(name, prefix string) bool {
	if name == "" {
		return false
	}
	if c := name[0]; c != 'm' && c != 'M' {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' {
			return false // nearly all
		}
		name = strings.TrimLeftFunc(name, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) || unicode.Is(unicode.Mn, r) })
	}
	return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// Own is what the publisher itself calls an emitter that is stored under this id.
func (p *Publisher) Own(stored string) string {
	if !p.bound {
		return stored
	}
	tenant, id, ok := strings.Cut(stored, separator)
	if !ok || !slices.ContainsFunc(p.grants, func(g Grant) bool { return g.Tenant == tenant }) {
		return stored
	}
	return id
}
