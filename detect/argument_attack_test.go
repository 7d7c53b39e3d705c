package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// attackCall is a call whose arguments have signals.
func attackCall(at time.Duration, tool, outcome string, signals ...string) *event.Event {
	e := call(at, "alice", "files", tool)
	e.Outcome, e.Signals = outcome, signals
	return e
}

func TestAnArgumentThatATwoHundredthOfItsCallsHaveIsLow(t *testing.T) {
	var events []*event.Event
	for i := range 1000 { // an hour's calls of one identity after another
		e := call(time.Duration(i)*10*time.Minute, fmt.Sprint("agent", i/6), "files", "lookup")
		if i > 0 && i%200 == 0 {
			e.Signals = []string{"sql_injection"}
		}
		events = append(events, e)
	}
	odd := call(1000*10*time.Minute, "alice", "files", "lookup")
	odd.Signals = []string{"sql_injection"}
	found := feedFor(t, DefaultArgumentAttack(), append(events, odd))
	feedWant(t, found[len(found)-1:], "low alice: have sql_injection, which 4 of its 1000 calls before had")
}

func TestOneOddArgument(t *testing.T) {
	odd := []*event.Event{attackCall(0, "lookup", "success", "path_traversal", "result:sql_injection", "url:example.com")}
	feedWant(t, feedFor(t, DefaultArgumentAttack(), odd), `low alice: arguments of "alice" for "lookup" at "files" have path_traversal;`)
	var known []*event.Event
	for i := range 400 {
		known = append(known, attackCall(time.Duration(i)*10*time.Minute, "lookup", "success"))
	}
	feedWant(t, feedFor(t, DefaultArgumentAttack(), append(known, attackCall(4001*time.Minute, "lookup", "success", "sql_injection"))),
		"medium alice: have sql_injection, which 0 of its 400 calls before had")
	feedWant(t, feedFor(t, DefaultArgumentAttack(), []*event.Event{attackCall(0, "run_shell_command", "success", "ssrf:metadata")}), "high alice: metadata service")
}

func TestAScanOfManyClasses(t *testing.T) {
	found := feedFor(t, DefaultArgumentAttack(), []*event.Event{
		attackCall(0, "lookup", "tool_error", "script_injection"),
		attackCall(time.Minute, "find", "tool_error", "template_injection"),
		attackCall(2*time.Minute, "lookup", "tool_error", "sql_injection"),
	})
	feedWant(t, found, "high alice: tried 3 classes of attack in 2 min (sql_injection, template_injection, script_injection)")
	if found[0].Events != 3 {
		t.Errorf("%d events, want the weak one, too", found[0].Events)
	}
}

func TestAnAttackThatGotThrough(t *testing.T) {
	var events []*event.Event
	for i := range 4 {
		outcome := "tool_error"
		if i == 3 {
			outcome = "success"
		}
		events = append(events, attackCall(time.Duration(i)*time.Minute, "lookup", outcome, "path_traversal"))
	}
	feedWant(t, feedFor(t, DefaultArgumentAttack(), events), "high alice: had 3 calls with path_traversal fail, and then one succeeded")
}

func TestWhatIsAToolsWork(t *testing.T) {
	var events []*event.Event
	for i := range 60 {
		at := time.Duration(i) * time.Minute
		events = append(events,
			attackCall(at, "execute_sql", "success", "sql_injection"),
			attackCall(at, "runCommand", "success", "shell_injection", "path_traversal", "ssrf:loopback", "template_injection"),
			attackCall(at, "write_file", "success", "script_injection", "sql_injection", "hidden_unicode"),
			attackCall(at, "browser_navigate", "success", "ssrf:loopback", "script_injection"),
			attackCall(at, "say", "success", "hidden_unicode", "oversized", "injection_phrase", "egress", "secret:token"))
	}
	feedWant(t, feedFor(t, DefaultArgumentAttack(), events))
	// A tool whose name says nothing is known after three hours; what it got before
	// is one finding.
	events = nil
	for i := range 1000 {
		e := attackCall(time.Duration(i)*3*time.Minute, "x", "success")
		if i%9 == 0 {
			e.Signals = []string{"path_traversal"}
		}
		events = append(events, e)
	}
	found := feedFor(t, DefaultArgumentAttack(), events)
	feedWant(t, found, "low alice: path_traversal")
	if found[0].LastSeenAt > feedStart.Add(4*time.Hour).UnixMicro() {
		t.Error("it is never learned")
	}
}

func TestToolsOfATenantAreItsOwn(t *testing.T) {
	var events []*event.Event
	for i := range 1000 {
		e := attackCall(time.Duration(i)*3*time.Minute, "x", "success", "path_traversal")
		e.Tenant = "other"
		events = append(events, e)
	}
	events = append(events, attackCall(60*time.Hour, "x", "success", "path_traversal"))
	if found := feedFor(t, DefaultArgumentAttack(), events); len(found) != 2 || found[1].Tenant != "acme" {
		t.Errorf("%+v", found)
	}
}

func TestAttackJobs(t *testing.T) {
	for name, want := range map[string]bool{"runCommand": true, "execute_sql": true, "run-query": true, "sqlite": true, "lookup": false, "get_sequel": false, "": false, "list_users": false, "🜁": false} {
		if got := attackJob(name)&(1<<1) != 0; got != want {
			t.Errorf("%q: SQL is its job: %v", name, got)
		}
	}
}

func TestArgumentAttackSaved(t *testing.T) {
	var events []*event.Event
	for i := range 80 {
		e := attackCall(time.Duration(i)*time.Minute, "lookup", []string{"success", "tool_error"}[i%2])
		if i%3 == 0 {
			e.Signals = []string{attackClasses[i%7], "path_traversal"}
		}
		events = append(events, e)
	}
	feedSaved(t, DefaultArgumentAttack(), events)
}

func TestArgumentAttackHostile(t *testing.T) {
	c := DefaultArgumentAttack()
	c.MaxGroups = 500
	opened := feedHostile(t, c, 1000, func(i int, r *rand.Rand, e *event.Event) {
		e.Kind, e.Signals = "tool_call", append(e.Signals, "path_traversal", "xxe", "sql_injection")
	})
	if opened > 2100 {
		t.Errorf("%d findings", opened)
	}
}
