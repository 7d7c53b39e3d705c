package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// heldCall is a call in a session, with a credential, from a place.
func heldCall(at time.Duration, who, session, credential, address, client string) *event.Event {
	e := call(at, who, "files", "read")
	e.SessionID, e.CredentialID, e.ClientIP, e.UserAgent = session, credential, address, client
	return e
}

func TestASessionOfTwoPrincipals(t *testing.T) {
	events := []*event.Event{heldCall(0, "alice", "s1", "", "", ""), heldCall(time.Minute, "mallory", "s1", "", "", ""), heldCall(2*time.Minute, "mallory", "s1", "", "", "")}
	found := feedFor(t, DefaultIdentityHijack(), events)
	feedWant(t, found, `high alice files: belongs to "alice"`)
	if found[0].SessionID != "s1" || found[0].Events != 2 {
		t.Errorf("%+v", found[0])
	}
	events[1].Outcome, events[2].Outcome = "denied", "denied"
	feedWant(t, feedFor(t, DefaultIdentityHijack(), events), `medium alice files: used by "mallory" in 2 events; the newest was refused`)
}

func TestNamesThatAreRefusedMakeNoGateway(t *testing.T) {
	events := []*event.Event{heldCall(0, "alice", "s1", "", "", "")}
	for i := range 5 {
		e := heldCall(time.Duration(i+1)*time.Second, fmt.Sprint("made-up", i), "s1", "", "", "")
		e.Outcome, e.HTTPStatus = "denied", 403
		events = append(events, e)
	}
	events = append(events, heldCall(time.Hour, "bob", "s2", "", "", ""), heldCall(time.Hour+time.Minute, "mallory", "s2", "", "", ""))
	feedWant(t, feedFor(t, DefaultIdentityHijack(), events), `medium alice files: used by "made-up4" in 5 events`, `high bob files: used by "mallory"`)
}

func TestACredentialOfTwoPrincipals(t *testing.T) {
	var events []*event.Event
	for i := range 20 {
		events = append(events, heldCall(time.Duration(i)*time.Minute, "alice", "", "c1", "", ""))
	}
	stolen := heldCall(time.Hour, "mallory", "", "c1", "", "")
	feedWant(t, feedFor(t, DefaultIdentityHijack(), append(events, stolen)), `high alice: used by "alice" alone`)
	delegated := heldCall(time.Hour, "mallory", "", "c1", "", "")
	delegated.OnBehalfOf = []string{"alice"}
	feedWant(t, feedFor(t, DefaultIdentityHijack(), append(events, delegated)))
}

func TestAGatewayThatSpeaksForMany(t *testing.T) {
	var events []*event.Event
	for i := range 500 { // one credential of the gateway, renewed now and then
		events = append(events, heldCall(time.Duration(i)*30*time.Second, fmt.Sprint("user", i*7%13), "", fmt.Sprint("c", i/100), "10.0.0.1", "gateway"))
	}
	feedWant(t, feedFor(t, DefaultIdentityHijack(), events))
}

func TestPlacesThatTakeTurns(t *testing.T) {
	home, far := [2]string{"192.0.2.10", "claude-desktop/1.2"}, [2]string{"203.0.113.9", "python-requests/2"}
	at := func(m int, p [2]string) *event.Event {
		return heldCall(time.Duration(m)*time.Minute, "alice", "s1", "c1", p[0], p[1])
	}
	turns := []*event.Event{at(0, home), at(5, far), at(6, home), at(7, far)}
	feedWant(t, feedFor(t, DefaultIdentityHijack(), turns), "high alice files: session \"s1\" of \"alice\" is used in turns")
	if f := feedFor(t, DefaultIdentityHijack(), []*event.Event{at(0, home), at(1, home), at(5, far), at(6, far)}); len(f) > 0 {
		t.Errorf("a laptop that moved: %+v", f)
	}
	cafe := [2]string{"203.0.113.9", "claude-desktop/1.2"}
	if f := feedFor(t, DefaultIdentityHijack(), []*event.Event{at(0, home), at(5, cafe), at(9, home), at(12, cafe), at(15, home)}); len(f) > 0 {
		t.Errorf("a laptop between two networks: %+v", f)
	}
	if f := feedFor(t, DefaultIdentityHijack(), []*event.Event{at(0, home), at(50, far), at(100, home), at(150, far)}); len(f) > 0 {
		t.Errorf("two machines, one after the other: %+v", f)
	}
	var egress []*event.Event
	for i := range 200 {
		egress = append(egress, at(i, [2]string{fmt.Sprintf("198.51.%d.7", i*7%11), "service/3"}))
	}
	if f := feedFor(t, DefaultIdentityHijack(), egress); len(f) > 0 {
		t.Errorf("a service behind many addresses: %+v", f)
	}
	// The same two places day after day are told once.
	var daily []*event.Event
	for day := range 5 {
		for i := range 6 {
			p := home
			if i%2 == 1 {
				p = far
			}
			e := at(day*1440+i, p)
			e.SessionID = ""
			daily = append(daily, e)
		}
	}
	feedWant(t, feedFor(t, DefaultIdentityHijack(), daily), "medium alice: back and forth")
}

func TestIdentityHijackSaved(t *testing.T) {
	var events []*event.Event
	for i := range 64 {
		who, p := "alice", "192.0.2.1"
		if i > 30 && i%2 == 0 {
			p = "203.0.113.9"
		}
		if i > 50 {
			who = "mallory"
		}
		events = append(events, heldCall(time.Duration(i)*time.Minute, who, fmt.Sprint("s", i/40), "c", p, p))
	}
	feedSaved(t, DefaultIdentityHijack(), events)
}

func TestIdentityHijackHostile(t *testing.T) {
	c := DefaultIdentityHijack()
	c.MaxGroups = 500
	opened := feedHostile(t, c, 1200, func(i int, r *rand.Rand, e *event.Event) {
		e.SessionID, e.CredentialID, e.ClientIP = fmt.Sprint("s", i%7), fmt.Sprint("c", i), fmt.Sprint(i)
	})
	if opened > 2000 {
		t.Errorf("%d findings", opened)
	}
}
