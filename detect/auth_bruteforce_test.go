package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// guessCall is an authentication.
func guessCall(at time.Duration, who, address, credential string, ok bool) *event.Event {
	e := call(at, who, "pay", "")
	e.Kind, e.Method, e.ClientIP, e.CredentialID = "auth", "login", address, credential
	if !ok {
		e.Outcome, e.HTTPStatus, e.Decision = "denied", 401, "deny"
	}
	return e
}

func TestGuessesForOnePrincipal(t *testing.T) {
	var events []*event.Event
	for i := range 15 {
		events = append(events, guessCall(time.Duration(i)*10*time.Second, "alice", "198.51.100.7", fmt.Sprint("c", i), false))
	}
	found := feedFor(t, DefaultAuthBruteforce(), events)
	feedWant(t, found, "medium alice: failed to authenticate 15 times in 2 min 20 s without a success, with 15 different credentials")
	if found[0].Events != 15 || found[0].StartedAt != events[0].OccurredAt {
		t.Errorf("%d events since %d", found[0].Events, found[0].StartedAt)
	}
	events = append(events, guessCall(3*time.Minute, "alice", "198.51.100.7", "c99", true))
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events), "high alice: authenticated after 15 failures")
}

func TestOnePrincipalFromOneAddressIsToldOnce(t *testing.T) {
	var events []*event.Event
	for i := range 15 {
		events = append(events, guessCall(time.Duration(i)*10*time.Second, "alice", "198.51.100.7", fmt.Sprint("c", i), false))
	}
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events), "medium alice: with 15 different credentials from one address")
	hit := guessCall(3*time.Minute, "alice", "198.51.100.7", "c99", true)
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), append(events, hit)), "high alice: a guess may have been right")
	// It goes on with others: that is the address's own doing.
	for i := range 15 {
		events = append(events, guessCall(time.Duration(150+i)*time.Second, fmt.Sprint("user", i), "198.51.100.7", "", false))
	}
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events), "medium alice: from one address", "medium address 198.51.100.7: as 16 different principals")
}

func TestSpraying(t *testing.T) {
	var events []*event.Event
	for i := range 25 {
		events = append(events, guessCall(time.Duration(i)*time.Second, fmt.Sprint("user", i), "198.51.100.7", "", false))
	}
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events), "medium address 198.51.100.7: as 25 different principals")
	hit := guessCall(time.Minute, "user7", "198.51.100.7", "", true)
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), append(events, hit)), `high address 198.51.100.7: "user7" authenticated from address "198.51.100.7" after 25 failures`)
}

func TestTokensTriedAtTheDoorHaveNoName(t *testing.T) {
	var events []*event.Event
	for i := range 12 {
		e := guessCall(time.Duration(i)*time.Second, "", "198.51.100.7", fmt.Sprint("t", i), false)
		e.Kind, e.Target = "tool_call", "list" // the emitter has read what was called
		events = append(events, e)
	}
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events), "medium address 198.51.100.7: with 12 different credentials")
}

func TestExpiredTokensAreNoAttack(t *testing.T) {
	var events []*event.Event
	// One agent whose token lasts five minutes, for a day.
	for i := range 288 {
		at := time.Duration(i) * 5 * time.Minute
		events = append(events, guessCall(at, "agent", "10.0.0.9", fmt.Sprint("t", i), false), guessCall(at+time.Second, "agent", "10.0.0.9", fmt.Sprint("t", i+1), true))
	}
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events))
	// A hundred agents behind one address, whose refusals name nobody.
	events = nil
	for i := range 3000 {
		at := time.Duration(i) * 4 * time.Second
		no := guessCall(at, "", "10.0.0.1", fmt.Sprint("t", i), false)
		yes := guessCall(at+time.Second, fmt.Sprint("agent", i%100), "10.0.0.1", fmt.Sprint("t", i+100), true)
		yes.Kind, yes.Target = "tool_call", "list"
		again := guessCall(at+2*time.Second, fmt.Sprint("agent", (i+50)%100), "10.0.0.1", fmt.Sprint("t", i+50), true)
		events = append(events, no, yes, again)
	}
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events))
	// A client that sends an expired token again and again, then gets a new one.
	events = nil
	for i := range 30 {
		events = append(events, guessCall(time.Duration(i)*time.Second, "agent", "10.0.0.9", "old", false))
	}
	events = append(events, guessCall(time.Minute, "agent", "10.0.0.9", "new", true))
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events))
}

func TestRevokedCredentialsInUseAreLow(t *testing.T) {
	var events []*event.Event
	for i := range 30 {
		events = append(events, guessCall(time.Duration(i)*time.Second, "", fmt.Sprint("10.0.0.", i%6), "leaked", false))
	}
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events), "low credential leaked: was refused 30 times in 29 s, from 6 addresses")
}

func TestForbiddenIsNoFailedAuthentication(t *testing.T) {
	var events []*event.Event
	for i := range 50 {
		e := guessCall(time.Duration(i)*time.Second, "alice", "10.0.0.1", fmt.Sprint(i), false)
		e.HTTPStatus = 403
		events = append(events, e)
	}
	feedWant(t, feedFor(t, DefaultAuthBruteforce(), events))
}

func TestAuthBruteforceSaved(t *testing.T) {
	var events []*event.Event
	for i := range 64 {
		events = append(events, guessCall(time.Duration(i)*5*time.Second, fmt.Sprint("user", i%12), "198.51.100.7", fmt.Sprint(i), i == 60))
	}
	feedSaved(t, DefaultAuthBruteforce(), events)
}

func TestAuthBruteforceHostile(t *testing.T) {
	c := DefaultAuthBruteforce()
	c.MaxGroups = 500
	opened := feedHostile(t, c, 1500, func(i int, r *rand.Rand, e *event.Event) {
		e.Kind, e.HTTPStatus, e.ClientIP = "auth", 401, fmt.Sprint("10.0.0.", i%3)
	})
	if opened > 100 {
		t.Errorf("%d findings", opened)
	}
}
