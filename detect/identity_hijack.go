package detect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// IdentityHijack is the settings of the detector "identity_hijack": one session or
// credential that two hold.
//
//   - A session belongs to one principal (MCP 2025-11-25, security best practices:
//     bind a session to its user). A second principal in it is told at once, high
//     where it was let in, medium where it was refused.
//   - A credential that one principal alone has used at a server, at least Settled
//     long and ten times, and that another one uses there: high.
//   - A session (high) or credential (medium) that two places use in turns, one, the
//     other, and the first again, within Window. Places differ when their addresses are
//     in different networks (/24, or /48 of IPv6) and the user agent or the client's
//     name differs too. A laptop that changes its network comes from a new address
//     and not from the old one again, and a service behind many egress addresses has
//     one user agent: both are silent. What was told of two places is not told again.
//
// What is told of a session is not told of its credential as well.
//
// A gateway that speaks for many with one credential or session is known by a third
// principal: from then on sharing between principals says nothing at that server.
// Events with a delegation chain (on_behalf_of), where two names are the rule, and
// those without a principal are left out.
//
// The score is how many events of the second holder there were.
//
// Credentials are looked at for each server by itself: servers may name one person
// differently, and a server that passes a token on to another one is a place of its
// own. So it does not see a stolen credential at a server where its owner is not,
// nor a thief in the same network or with the same client. It takes no argument for
// a handle: ids are shared between people for good reasons.
type IdentityHijack struct {
	Window    time.Duration `key:"window" doc:"within what time places must take turns"`
	Settled   time.Duration `key:"settled" doc:"how long a credential must have had one principal before another one is told"`
	MaxGroups int           `key:"max_groups" doc:"most sessions and most credentials in memory; the one that was quiet longest is forgotten"`
}

// DefaultIdentityHijack looks at half an hour.
func DefaultIdentityHijack() *IdentityHijack {
	return &IdentityHijack{Window: 30 * time.Minute, Settled: 10 * time.Minute, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *IdentityHijack) Validate() error {
	return firstError(checkSpan("window", c.Window, time.Minute, 7*24*time.Hour), checkSpan("settled", c.Settled, 0, 90*24*time.Hour), checkGroups(c.MaxGroups))
}

// New implements Config.
func (c *IdentityHijack) New() Detector {
	return &identityHijack{cfg: *c, state: identityHijackState{
		Sessions: Groups[holding]{Most: c.MaxGroups}, Credentials: Groups[holding]{Most: c.MaxGroups}, Shared: Groups[bool]{Most: 10_000}}}
}

const (
	holdingUses   = 10 // of a credential by its principal, before another one is told
	holdingPlaces = 4  // of a session or credential that are remembered, the newest
)

type identityHijack struct {
	cfg   IdentityHijack
	state identityHijackState
}

type identityHijackState struct {
	Sessions, Credentials Groups[holding]
	Shared                Groups[bool] // servers where many share
	Names                 nameKeys
}

// holding is who holds a session or a credential, and from where.
type holding struct {
	Owner     uint64 // hash of the first principal
	OwnerName string
	First     int64
	Uses      uint32 // of the owner's
	Others    fewKeys
	Theirs    uint64 // events of others
	Since     int64  // the first of them
	Places    []holdingPlace
	Now       int // index of the place of the newest event
	Turns     uint64
	TurnsFrom int64
}

type holdingPlace struct {
	Address, Net, Client uint64
	Last                 int64 // newest event from there
	Left                 int64 // when another place took over
	Text                 string
	Told                 bool
}

func (d *identityHijack) State() any { return &d.state }

func (d *identityHijack) size() (int, uint64) {
	s := &d.state
	return s.Sessions.Len() + s.Credentials.Len() + s.Shared.Len(), s.Sessions.Evicted + s.Credentials.Evicted + s.Shared.Evicted
}

// Advance implements Detector.
func (d *identityHijack) Advance(int64, *Out) {}

func (d *identityHijack) Observe(v *Seen, out *Out) {
	if v.Principal == "" || v.SessionID == "" && v.CredentialID == "" || len(v.OnBehalfOf) > 0 {
		return
	}
	// Failed authentication says nothing of who holds what.
	if v.HTTPStatus == 401 || v.Outcome == "rate_limited" {
		return
	}
	var here holdingPlace
	if v.ClientIP != "" {
		n := &d.state.Names
		here.Address, here.Client = n.hash(v, v.ClientIP), mix(n.hash(v, v.UserAgent), n.hash(v, v.ClientName))
	}
	told := false
	if v.SessionID != "" {
		told = d.held(v, out, d.state.Names.of(v, 2, v.SessionID).With(v.Home), &here, &d.state.Sessions, false)
	}
	if v.CredentialID != "" {
		d.held(v, out, d.state.Names.of(v, 3, v.CredentialID).With(v.Home), &here, &d.state.Credentials, told)
	}
}

// held takes an event of a session or a credential, and reports whether it was told
// of. What was told of the session already is not told of its credential as well.
func (d *identityHijack) held(v *Seen, out *Out, k Key, here *holdingPlace, among *Groups[holding], already bool) (told bool) {
	who := v.Who // the principal's, which is not empty
	h, fresh := among.Get(k, v.Clock)
	session := among == &d.state.Sessions
	refused := v.Outcome == "denied" || v.Outcome == "protocol_error"
	if fresh {
		if refused { // nobody's yet
			among.Delete(k)
			return false
		}
		h.Owner, h.OwnerName, h.First = who[0], kept(event.ClipText(v.Principal, 256)), v.At
	}
	if h.Owner != who[0] {
		told = d.second(v, out, who, k, h, session, refused, already)
	} else {
		h.Uses++
	}
	if v.ClientIP != "" && !refused {
		told = d.place(v, out, k, h, here, session, already) || told
	}
	return told
}

// second sees a principal that is not the first one.
func (d *identityHijack) second(v *Seen, out *Out, who, k Key, h *holding, session, refused, already bool) bool {
	if !refused || len(h.Others) == 0 { // who is kept out shares nothing
		h.Others.add(who)
	}
	if len(h.Others) > 1 {
		shared, _ := d.state.Shared.Get(v.Home, v.Clock)
		*shared = true
		return false
	}
	if d.state.Shared.Peek(v.Home) != nil {
		return false
	}
	if !session && h.Theirs == 0 && (h.Uses < holdingUses || v.At-h.First < micros(d.cfg.Settled)) {
		// Shared from the start: the owner is whoever happened to be first.
		h.Uses = 0
		return false
	}
	if h.Theirs++; h.Theirs == 1 {
		h.Since = v.At
	}
	if already {
		return false
	}
	s := Signal{
		Group: k, Subject: Subject{Tenant: v.Tenant, Principal: h.OwnerName}, Start: h.Since, Severity: High, Score: float64(h.Theirs),
		Observed: "2 principals", Expected: "1 principal",
		Workings: []Working{{"first principal", h.OwnerName}, {"second principal", v.Principal}, {"second's address", v.ClientIP}, {"second's client", v.ClientName + " " + v.UserAgent}},
	}
	if session {
		s.Subject.SessionID, s.Subject.Server = v.SessionID, v.Server
		s.Reason = fmt.Sprintf("session %s at %s belongs to %s since %s and was used by %s in %s", sayName(v.SessionID), sayName(v.Server), sayName(h.OwnerName), sayTime(h.First), sayName(v.Principal), sayCount(h.Theirs, "event"))
		if refused {
			s.Severity = Medium
			s.Reason += "; the newest was refused"
		}
	} else {
		s.Reason = fmt.Sprintf("credential %s was used by %s alone since %s, and by %s in %s since %s", sayName(v.CredentialID), sayName(h.OwnerName), sayTime(h.First), sayName(v.Principal), sayCount(h.Theirs, "event"), sayTime(h.Since))
	}
	out.Raise(s)
	return true
}

// place sees where the holder is, and whether two places take turns.
func (d *identityHijack) place(v *Seen, out *Out, k Key, h *holding, here *holdingPlace, session, already bool) bool {
	address, client := here.Address, here.Client
	if h.Now < len(h.Places) {
		if p := &h.Places[h.Now]; p.Address == address && p.Client == client {
			p.Last = v.At
			return false
		}
	}
	at := slices.IndexFunc(h.Places, func(p holdingPlace) bool { return p.Address == address && p.Client == client })
	if h.Now < len(h.Places) {
		h.Places[h.Now].Left = v.At
	}
	if at < 0 {
		if len(h.Places) == holdingPlaces {
			old := 0
			for i := range h.Places {
				if h.Places[i].Last < h.Places[old].Last {
					old = i
				}
			}
			h.Places = slices.Delete(h.Places, old, old+1)
		}
		h.Places = append(h.Places, holdingPlace{Address: address, Net: d.state.Names.hash(v, holdingNet(v.ClientIP)), Client: client, Last: v.At, Text: holdingText(v.Event)})
		h.Now = len(h.Places) - 1
		return false
	}
	p := &h.Places[at]
	window := micros(d.cfg.Window)
	back := p.Last // this place was last used before the others took over
	p.Last = v.At
	h.Now = at
	if farApart(v.At, back, window) {
		return false
	}
	for i := range h.Places {
		q := &h.Places[i]
		if i == at || q.Last < back || farApart(v.At, q.Last, window) || q.Net == p.Net || q.Client == p.Client || p.Told && q.Told && !out.IsOpen(k.With(Key{1})) {
			continue
		}
		p.Told, q.Told = true, true
		if already {
			return false
		}
		if !out.IsOpen(k.With(Key{1})) {
			h.Turns, h.TurnsFrom = 0, back
		}
		h.Turns++
		s := Signal{
			Group: k.With(Key{1}), Subject: Subject{Tenant: v.Tenant, Principal: h.OwnerName}, Start: h.TurnsFrom, Severity: Medium, Score: float64(h.Turns),
			Observed: fmt.Sprintf("2 places within %s", saySpan(v.At-back)), Expected: "one place at a time",
			Workings: []Working{{"one place", p.Text}, {"the other", q.Text}, {"turns", fmt.Sprint(h.Turns)}},
		}
		what := "credential " + sayName(v.CredentialID)
		if session {
			s.Severity, s.Subject.SessionID, s.Subject.Server = High, v.SessionID, v.Server
			what = "session " + sayName(v.SessionID)
		}
		s.Reason = fmt.Sprintf("%s of %s is used in turns from %s and from %s, back and forth within %s", what, sayName(h.OwnerName), p.Text, q.Text, saySpan(v.At-back))
		out.Raise(s)
		return true
	}
	return false
}

// holdingNet is the network that an address belongs to for most owners: a /24, or a
// /48 of IPv6. What is no address is its own network.
func holdingNet(ip string) string {
	a, err := netip.ParseAddr(strings.Trim(ip, "[]"))
	if err != nil {
		return ip
	}
	a = a.Unmap().WithZone("")
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return ip
	}
	return p.String()
}

func holdingText(e *event.Event) string {
	s := sayName(event.ClipText(e.ClientIP, 64))
	for _, x := range []string{e.ClientName, e.UserAgent} {
		if x != "" {
			return s + " (" + sayName(event.ClipText(x, 60)) + ")"
		}
	}
	return s
}
