package detect

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// scopeCall is a call with scopes.
func scopeCall(at time.Duration, tool, outcome string, required, granted []string) *event.Event {
	e := call(at, "alice", "pay", tool)
	e.Outcome, e.ScopesRequired, e.ScopesGranted = outcome, required, granted
	if outcome == "denied" {
		e.HTTPStatus, e.ErrorCode = 403, "insufficient_scope"
	}
	return e
}

func TestCallsThatGetThroughWithoutTheirScopesAreTold(t *testing.T) {
	hole := scopeCall(0, "transfer", "success", []string{"pay:write"}, []string{"pay:read"})
	again := scopeCall(time.Minute, "transfer", "success", []string{"pay:write"}, []string{"pay:read"})
	deny := call(2*time.Minute, "bob", "pay", "list")
	deny.Decision, deny.DecisionReason = "deny", "not in office hours"
	bare := scopeCall(3*time.Minute, "refund", "success", []string{"pay:write"}, nil)
	bare.AuthMethod = "bearer"
	found := feedFor(t, DefaultScopeViolation(), []*event.Event{hole, again, deny, bare})
	feedWant(t, found, `high alice pay transfer: it requires "pay:write" and "pay:read" was granted`, `high bob pay list: because "not in office hours"`,
		`high alice pay refund: and none was granted`)
	if found[0].Events != 2 {
		t.Errorf("%d events", found[0].Events)
	}
}

func TestGrantedScopesAndUnknownOnesAreNoViolation(t *testing.T) {
	c := DefaultScopeViolation()
	c.Wider = []ScopeCover{{"repo", []string{"repo_status"}}}
	feedWant(t, feedFor(t, c, []*event.Event{
		scopeCall(0, "a", "success", []string{"x:read"}, []string{"x:read", "y"}),
		scopeCall(1, "b", "success", []string{"x:read"}, []string{"*"}),
		scopeCall(2, "c", "success", []string{"admin:users:read"}, []string{"admin:*"}),
		scopeCall(3, "d", "success", []string{"x:read"}, nil), // nobody said what was granted
		scopeCall(4, "e", "success", nil, []string{"x"}),
		scopeCall(5, "f", "success", []string{"repo_status"}, []string{"repo"}),
		scopeCall(6, "g", "tool_error", []string{"x"}, []string{"y"}),
	}))
	feedWant(t, feedFor(t, c, []*event.Event{scopeCall(0, "a", "success", []string{"administrator"}, []string{"admin*", "admin:*"})}),
		"high alice pay a: requires")
}

func TestAHoleThatEverybodyUsesIsOneFinding(t *testing.T) {
	var events []*event.Event
	for i := range 300 {
		e := scopeCall(time.Duration(i)*time.Second, "transfer", "success", []string{"w"}, []string{"r"})
		e.Principal = fmt.Sprint("user", i)
		events = append(events, e)
	}
	found := feedFor(t, DefaultScopeViolation(), events)
	if len(found) != 11 || found[10].Principal != "" || found[10].Events != 290 || found[10].Severity != High {
		t.Errorf("%d findings, the last %+v", len(found), found[len(found)-1])
	}
}

func TestStepUpIsSilent(t *testing.T) {
	read, write := []string{"read"}, []string{"read", "write"}
	var events []*event.Event
	// Scope after scope, five tools in a few minutes: incremental consent.
	for i, tool := range []string{"a", "b", "c", "d", "e"} {
		at := time.Duration(i) * time.Minute
		events = append(events, scopeCall(at, tool, "denied", []string{"w" + tool}, read),
			scopeCall(at+20*time.Second, tool, "success", []string{"w" + tool}, append(write, "w"+tool)))
	}
	// A user approves the very call that a policy had refused.
	asked := call(20*time.Minute, "alice", "pay", "transfer")
	asked.Outcome, asked.Decision, asked.ArgumentsDigest = "denied", "deny", event.Digest{7}
	approved := call(21*time.Minute, "alice", "pay", "transfer")
	approved.ArgumentsDigest = event.Digest{7}
	events = append(events, asked, approved)
	// Refused at the door, where nobody has a name yet; let in with another token.
	door := scopeCall(40*time.Minute, "wire", "denied", []string{"w"}, nil)
	door.Principal, door.CredentialID, door.SessionID = "", "token1", "s1"
	in := scopeCall(41*time.Minute, "wire", "success", []string{"w"}, []string{"w"})
	in.CredentialID, in.SessionID = "token2", "s1"
	events = append(events, door, in)
	feedWant(t, feedFor(t, DefaultScopeViolation(), events))
}

func TestDenialsGrowFromLowToProbing(t *testing.T) {
	one := []*event.Event{scopeCall(0, "a", "denied", []string{"w"}, []string{"r"})}
	found := feedFor(t, DefaultScopeViolation(), one)
	feedWant(t, found, `low alice: not granted within 10 min`)
	if found[0].StartedAt != one[0].OccurredAt || found[0].Events != 1 {
		t.Errorf("%+v", found[0])
	}
	var many, probe []*event.Event
	for i := range 12 {
		many = append(many, scopeCall(time.Duration(i)*10*time.Second, "a", "denied", nil, nil))
		probe = append(probe, scopeCall(time.Duration(i)*20*time.Second, fmt.Sprint("tool", i), "denied", nil, nil))
	}
	feedWant(t, feedFor(t, DefaultScopeViolation(), many), "medium alice: 12 denied calls")
	found = feedFor(t, DefaultScopeViolation(), probe)
	feedWant(t, found, "high alice: denied 12 different tools")
	if found[0].Events != 12 || found[0].StartedAt != probe[0].OccurredAt {
		t.Errorf("%d events since %d", found[0].Events, found[0].StartedAt)
	}
}

func TestWhatIsNoDenialOfRights(t *testing.T) {
	stale := call(0, "alice", "pay", "a") // an expired token: authentication, not authority
	stale.Outcome, stale.HTTPStatus = "denied", 401
	slow := call(time.Minute, "alice", "pay", "a")
	slow.Outcome, slow.HTTPStatus = "rate_limited", 429
	feedWant(t, feedFor(t, DefaultScopeViolation(), []*event.Event{stale, slow}))
	var files []*event.Event // a folder that is closed: many denials, no probing of tools
	for i := range 6 {
		e := call(time.Duration(i)*time.Second, "alice", "files", fmt.Sprint("file:///etc/", i))
		e.Kind, e.Outcome = "resource_read", "denied"
		files = append(files, e)
	}
	feedWant(t, feedFor(t, DefaultScopeViolation(), files), "low alice: 6 denied calls")
}

func TestOtherArgumentsDoNotExplainADenial(t *testing.T) {
	no := call(0, "alice", "files", "read")
	no.Outcome, no.ArgumentsDigest = "denied", event.Digest{1}
	yes := call(time.Minute, "alice", "files", "read")
	yes.ArgumentsDigest = event.Digest{2}
	feedWant(t, feedFor(t, DefaultScopeViolation(), []*event.Event{no, yes}), `low alice: "read" at "files"`)
}

func TestToolPolicy(t *testing.T) {
	c := DefaultScopeViolation()
	c.Policy = []ToolPolicy{{"ci-*", []string{"git/*", "files/read_?*"}}}
	bad := call(3, "ci-7", "files", "write_file")
	bad.Outcome = "tool_error"
	feedWant(t, feedFor(t, c, []*event.Event{
		call(0, "ci-7", "git", "push"), call(1, "ci-7", "files", "read_file"), call(2, "alice", "files", "write_file"), bad,
	}), "high ci-7 files write_file: the tool policy")
	c.Policy[0].Allow[0] = "git"
	if c.Validate() == nil {
		t.Error("a pattern without a tool is taken")
	}
}

func TestGlobs(t *testing.T) {
	for _, x := range []struct {
		pattern, s string
		want       bool
	}{{"*", "", true}, {"*", "a/b", true}, {"a*c", "abbc", true}, {"a*c", "abb", false}, {"?", "", false}, {"a?c", "abc", true}, {"", "a", false}, {"*a*b", "xaxxab", true}} {
		if globMatch(x.pattern, x.s) != x.want {
			t.Errorf("%q %q", x.pattern, x.s)
		}
	}
}

func TestScopeViolationSaved(t *testing.T) {
	var events []*event.Event
	for i := range 40 {
		events = append(events, scopeCall(time.Duration(i)*30*time.Second, fmt.Sprint("tool", i/9), "denied", nil, nil),
			scopeCall(time.Duration(i)*30*time.Second+time.Second, "hole", "success", []string{"w"}, []string{"r"}))
	}
	feedSaved(t, DefaultScopeViolation(), events)
}

func TestScopeViolationHostile(t *testing.T) {
	c := DefaultScopeViolation()
	c.MaxGroups = 1000
	opened := feedHostile(t, c, 5000, func(i int, r *rand.Rand, e *event.Event) {
		e.Kind, e.Outcome, e.Decision = "tool_call", []string{"success", "denied"}[i%2], "deny"
	})
	if opened > 2100 {
		t.Errorf("%d findings", opened)
	}
}

// A denial that waits keeps no more of names than its finding will say.
func TestWaitingDenialsAreSmall(t *testing.T) {
	for _, c := range []string{"x", "\xff", "\u202e", "é"} {
		e := scopeCall(0, strings.Repeat(c, 2000), "denied", nil, nil)
		e.Server = strings.Repeat(c, 200)
		d := DefaultScopeViolation().New().(*scopeViolation)
		var h hasher
		var v Seen
		h.see(e, e.OccurredAt, e.OccurredAt, &v)
		d.Observe(&v, &Out{v: &v, cases: newCases(&Rule{})})
		w := d.state.Waiting.Peek(v.Who)
		if x := w.Denials[0]; len(x.Name) > sayMost || len(x.Server) > sayMost || sayName(x.Name) != sayName(e.Target) || sayName(x.Server) != sayName(e.Server) {
			t.Errorf("%q: %d and %d bytes; %s, not %s", c, len(x.Name), len(x.Server), sayName(x.Name), sayName(e.Target))
		}
	}
}
