package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

func secretCall(at time.Duration, tool string, signals ...string) *event.Event {
	e := call(at, "alice", "web", tool)
	e.Signals = signals
	return e
}

func TestSecretsThatAreSentAndHandedOut(t *testing.T) {
	open := secretCall(20*time.Second, "fetch", "secret:aws-access-token")
	open.Hints = event.Hints{ReadOnly: true, OpenWorld: true}
	feedWant(t, feedFor(t, DefaultSecretExposure(), []*event.Event{
		secretCall(0, "note", "secret:github-pat"),
		secretCall(1, "note", "secret:github-pat"),
		open,
		secretCall(30*time.Second, "send", "egress", "secret:private-key"),
		secretCall(40*time.Second, "read", "result:secret:password", "pii:email"),
		secretCall(50*time.Second, "list", "secret:token"),
		secretCall(55*time.Second, "getSecretValue", "result:secret:github-pat"),
		secretCall(56*time.Second, "list", "egress", "secret:token"),
		secretCall(57*time.Second, "quiet", "pii:card", "result:pii:email", "egress"),
	}), `medium alice web note: "alice" sent secrets ("github-pat") to "note" at "web", in 2 calls`, "high alice web fetch: open world", "high alice web send: to an address",
		`medium alice web read: "read" at "web" handed secrets`, "medium alice web list: goes to an address", "info alice web getSecretValue: its job")
}

func TestTheSameSecretsAreToldOnce(t *testing.T) {
	var events []*event.Event
	for day := range 20 { // one call in forty: not the tool's normal work
		for i := range 40 {
			e := secretCall(time.Duration(day)*24*time.Hour+time.Duration(i)*time.Minute, "note")
			if i == 7 {
				e.Signals = []string{"secret:github-pat"}
				if day == 10 {
					e.Signals = append(e.Signals, "egress")
				}
				if day == 15 {
					e.Signals = append(e.Signals, "secret:private-key")
				}
			}
			events = append(events, e)
		}
	}
	feedWant(t, feedFor(t, DefaultSecretExposure(), events), "medium alice web note: github-pat", "high alice web note: to an address", "medium alice web note: private-key")
}

func TestAToolWhoseWorkIsSecretsIsLearned(t *testing.T) {
	var events []*event.Event
	for i := range 2000 {
		e := secretCall(time.Duration(i)*10*time.Minute, "x", "result:secret:password")
		e.Principal = fmt.Sprint("user", i/100)
		events = append(events, e)
	}
	found := feedFor(t, DefaultSecretExposure(), events)
	if len(found) < 1 || len(found) > 4 {
		t.Errorf("%d findings", len(found))
	}
}

func TestSecretJob(t *testing.T) {
	for name, want := range map[string]bool{"getPassword": true, "vault_read": true, "Secrets": true, "oauth2": false, "read_file": false, "": false, "tokenizer": false, "x-login": true} {
		if secretJob(name) != want {
			t.Errorf("%q", name)
		}
	}
}

func TestAToolThatEverybodyGivesASecretIsToldElevenTimes(t *testing.T) {
	var events []*event.Event
	for i := range 50 {
		e := call(time.Duration(i)*time.Minute, fmt.Sprint("agent", i), "tickets", "comment")
		e.Signals = []string{"secret:slack_token"}
		events = append(events, e)
	}
	found := feedFor(t, DefaultSecretExposure(), events)
	if len(found) != 11 {
		t.Fatalf("%d findings", len(found))
	}
	feedWant(t, found[10:], `medium tickets comment: besides 10 identities with a finding of their own: "agent49" sent secrets ("slack_token") to "comment" at "tickets", in 40 calls`)
	feedSaved(t, DefaultSecretExposure(), events)
}

func TestSecretExposureSaved(t *testing.T) {
	var events []*event.Event
	for i := range 80 {
		events = append(events, secretCall(time.Duration(i)*3*time.Minute, fmt.Sprint("tool", i%5), fmt.Sprint("secret:k", i/20)))
	}
	feedSaved(t, DefaultSecretExposure(), events)
}

func TestSecretExposureHostile(t *testing.T) {
	c := DefaultSecretExposure()
	c.MaxGroups = 500
	opened := feedHostile(t, c, 1000, func(i int, r *rand.Rand, e *event.Event) {
		e.Kind, e.Signals = "tool_call", append(e.Signals, fmt.Sprint("secret:", i))
	})
	if opened > 2100 {
		t.Errorf("%d findings", opened)
	}
}
