package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// loopSame is calls of one tool in one session, with the same arguments and result.
func loopSame(from, every time.Duration, n int, outcome string) (out []*event.Event) {
	for i := range n {
		e := call(from+time.Duration(i)*every, "agent:a", "crm", "get_status")
		e.SessionID, e.Outcome, e.ArgumentsDigest, e.ResultDigest = "s1", outcome, event.Digest{1}, event.Digest{2}
		out = append(out, e)
	}
	return out
}

// feedChanges is all that a rule says of events, until nothing is open.
func feedChanges(t *testing.T, cfg Config, quiet time.Duration, events []*event.Event) (out []Change) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	feedNumber(events)
	x := New([]Rule{feedRule(cfg, quiet)}, 1, func(c Change) { out = append(out, c) })
	for _, e := range events {
		x.Add(e)
	}
	feedEnd(x, events)
	return out
}

// feedOnce says that no version of a finding was told twice: whoever reads the
// newest version of each finding would never see a second one that is told under
// the number of an earlier one.
func feedOnce(t *testing.T, changes []Change) (findings int) {
	t.Helper()
	told := map[string]uint32{}
	for _, c := range changes {
		if c.Version != told[c.ID]+1 {
			t.Errorf("finding %s is told as version %d after version %d: %s %s", c.ID, c.Version, told[c.ID], c.State, c.Reason)
		}
		told[c.ID] = c.Version
	}
	return len(told)
}

func TestALoopThatFailsCountsEachCallOnce(t *testing.T) {
	found := feedFor(t, DefaultAgentLoop(), loopSame(0, time.Second, 60, "tool_error"))
	if len(found) != 1 || found[0].Events != 60 {
		t.Fatalf("%d findings, the first of %d events; one of 60 wanted", len(found), found[0].Events)
	}
	seen := map[event.ID]bool{}
	for _, id := range found[0].EventIDs {
		if seen[id] {
			t.Errorf("event %s is named twice", id)
		}
		seen[id] = true
	}
}

func TestALoopThatIsOverIsNotOpenedAgainUnderItsID(t *testing.T) {
	const quiet = 10 * time.Minute
	t.Run("the agent calls again after the loop was resolved", func(t *testing.T) {
		events := append(loopSame(0, 2*time.Second, 12, "success"), loopSame(15*time.Minute, 2*time.Second, 3, "success")...)
		if n := feedOnce(t, feedChanges(t, DefaultAgentLoop(), quiet, events)); n != 1 {
			t.Errorf("%d findings; three calls are no loop", n)
		}
	})
	t.Run("with other work in between", func(t *testing.T) {
		events := loopSame(0, 2*time.Second, 12, "success")
		for i := range 3 {
			e := call(4*time.Minute*time.Duration(i+1), "agent:a", "crm", "other")
			e.SessionID, e.ArgumentsDigest, e.ResultDigest = "s1", event.Digest{9, byte(i)}, event.Digest{8, byte(i)}
			events = append(events, e)
		}
		events = append(events, loopSame(14*time.Minute, 2*time.Second, 2, "success")...)
		feedOnce(t, feedChanges(t, DefaultAgentLoop(), quiet, events))
	})
	t.Run("a job that fails every eleven minutes", func(t *testing.T) {
		if n := feedOnce(t, feedChanges(t, DefaultAgentLoop(), quiet, loopSame(0, 11*time.Minute, 30, "tool_error"))); n != 0 {
			t.Errorf("%d findings; who waits before he asks again is polling", n)
		}
	})
	t.Run("a second loop is another finding", func(t *testing.T) {
		events := append(loopSame(0, 2*time.Second, 12, "success"), loopSame(15*time.Minute, 2*time.Second, 12, "success")...)
		if n := feedOnce(t, feedChanges(t, DefaultAgentLoop(), quiet, events)); n != 2 {
			t.Errorf("%d findings, want 2", n)
		}
	})
}

// What a client calls a retry is one when the server has asked for it.
func TestARetryThatNobodyAskedForIsACall(t *testing.T) {
	events := loopSame(0, 2*time.Second, 14, "success")
	for _, e := range events {
		e.Attempt = 1
	}
	feedWant(t, feedFor(t, DefaultAgentLoop(), events), "medium agent:a crm get_status: goes round in circles")
	asked := loopSame(0, 2*time.Second, 30, "input_required")
	for i, e := range asked {
		e.Attempt = uint32(i)
	}
	asked[29].Outcome = "success"
	feedWant(t, feedFor(t, DefaultAgentLoop(), asked))
}

func TestAgentLoopSaved(t *testing.T) {
	events := append(loopSame(0, 2*time.Second, 30, "tool_error"), loopSame(15*time.Minute, 2*time.Second, 14, "success")...)
	feedSaved(t, DefaultAgentLoop(), append(events, loopSame(40*time.Minute, 4*time.Minute, 14, "success")...))
}

func TestAgentLoopHostile(t *testing.T) {
	c := DefaultAgentLoop()
	c.MaxGroups = 1000
	feedHostile(t, c, 5000, func(i int, _ *rand.Rand, e *event.Event) {
		e.Kind, e.SessionID, e.ArgumentsDigest = "tool_call", fmt.Sprint(i%50), event.Digest{1}
	})
}
