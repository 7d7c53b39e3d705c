package detect

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// received is an event as it comes out of a log.
func received(at time.Duration, e *event.Event) *event.Event {
	e.ReceivedAt = feedStart.Add(at).UnixMicro()
	e.OccurredAt = e.ReceivedAt - int64(e.Duration)
	return e
}

// serviceStart is what the service notes when it runs again.
func serviceStart(at time.Duration) *event.Event {
	e := received(at, &event.Event{EmitterID: "service", Tenant: "default", Principal: "mcpaudit:service", PrincipalKind: "service", Server: "mcpaudit", Kind: "admin", Method: ServiceStarted})
	e.OccurredAt = e.ReceivedAt
	return e
}

// regular is a server that sends every ten minutes for three days.
func regular() (events []*event.Event, end time.Duration) {
	for end < 72*time.Hour {
		end += 10 * time.Minute
		events = append(events, received(end, call(0, "p", "server", "tool")))
	}
	return events, end
}

// While the service was away it heard nobody: whenever it looks for the first time
// afterwards, that is no silence of those who send.
func TestSilenceWhileTheServiceWasAwayIsNobodys(t *testing.T) {
	for _, look := range []time.Duration{time.Millisecond, 60 * time.Millisecond, 249 * time.Millisecond, time.Second, 20 * time.Second} {
		events, end := regular()
		start := end + 24*time.Hour
		events = append(events, serviceStart(start))
		feedNumber(events)
		var found []string
		x := New([]Rule{feedRule(DefaultEmitterSilent(), time.Hour)}, 1, func(c Change) { found = append(found, c.Reason) })
		for _, e := range events[:len(events)-1] {
			x.Add(e)
		}
		x.Advance(feedStart.Add(end + time.Second).UnixMicro())
		x.Add(events[len(events)-1])
		x.Advance(feedStart.Add(start + look).UnixMicro())
		if len(found) != 0 {
			t.Errorf("looking %v after the start: %s", look, found[0])
		}
	}
}

// tickCounter counts what it is told of the time.
type tickCounter struct{ state struct{ Ticks, Last int64 } }

func (c *tickCounter) Validate() error     { return nil }
func (c *tickCounter) New() Detector       { return &tickCounter{} }
func (c *tickCounter) State() any          { return &c.state }
func (c *tickCounter) Observe(*Seen, *Out) {}
func (c *tickCounter) Advance(clock int64, _ *Out) {
	c.state.Ticks++
	c.state.Last = clock
}

// Who may send events may send some that look as if the service had started: the
// clock passes all the same.
func TestNobodyElseCanStopTheClock(t *testing.T) {
	x := New([]Rule{feedRule(&tickCounter{}, time.Hour)}, 1, func(Change) {})
	c := x.rules[0].detector.(*tickCounter)
	var events []*event.Event
	for i := range 60 * 50 {
		e := serviceStart(time.Duration(i) * 20 * time.Millisecond)
		e.EmitterID = "hostile"
		events = append(events, e)
	}
	feedNumber(events)
	for i, e := range events {
		x.Add(e)
		if i%5 == 4 { // as the live runner does
			x.Advance(e.ReceivedAt)
		}
	}
	if c.state.Ticks < 5 {
		t.Errorf("within a minute the detectors are told the time %d times", c.state.Ticks)
	}
}

// Ids are made by those who send. Two events that have everything in common but who
// sent them come in one order, however they lie in the heap.
func TestTheOrderOfEventsIsTotal(t *testing.T) {
	var want string
	for turn := range 6 {
		var events []*event.Event
		for i := range 40 {
			e := received(time.Second, call(0, "p", "server", fmt.Sprint("tool", i)))
			e.EmitterID, e.EmitterSeq = fmt.Sprint("emitter", i%4), uint64(i+1)
			events = append(events, e)
		}
		for range turn * 7 {
			events = append(events[1:], events[0])
		}
		var h heldEvents
		for _, e := range events {
			h.push(hold(e))
		}
		var got []string
		for len(h) > 0 {
			got = append(got, h.pop().event.Target)
		}
		if text := strings.Join(got, " "); want == "" {
			want = text
		} else if text != want {
			t.Fatalf("got  %s\nwant %s", text, want)
		}
	}
}

// A rule that is changed in the middle of an attack goes on with the finding that it
// has open, when it still finds it: the same one, and no other.
func TestAFindingGoesOnUnderAChangedRule(t *testing.T) {
	cfg := DefaultCustom()
	cfg.Condition, cfg.Threshold, cfg.Window = `server == "server"`, 3, time.Hour
	before, after, other := feedRule(cfg, 2*time.Hour), feedRule(cfg, 2*time.Hour), feedRule(cfg, 2*time.Hour)
	narrow := *cfg
	narrow.Condition = `server == "elsewhere"`
	before.Digest, after.Digest, after.Severity, other.Digest, other.With = "1", "2", High, "3", &narrow
	for _, c := range []struct {
		name string
		next Rule
		kept bool
	}{{"another severity", after, true}, {"something else", other, false}} {
		t.Run(c.name, func(t *testing.T) {
			var told []Change
			x := New([]Rule{before}, 1, func(c Change) { told = append(told, c) })
			warm := New([]Rule{c.next}, 1, func(Change) { t.Error("what was warmed up is told") })
			warm.Hide()
			var events []*event.Event
			for i := range 60 {
				events = append(events, received(time.Duration(i+1)*10*time.Second, call(0, "p", "server", "tool")))
			}
			feedNumber(events)
			for _, e := range events[:30] {
				x.Add(e)
				warm.Add(e)
			}
			at := feedStart.Add(301 * time.Second).UnixMicro()
			x.Advance(at)
			warm.Advance(at)
			had := told[len(told)-1]
			kept := x.Replace([]Rule{c.next}, warm)
			if kept[had.ID] != c.kept || len(kept) > 1 {
				t.Errorf("kept: %v", kept)
			}
			told = nil
			for _, e := range events[30:] {
				x.Add(e)
			}
			x.Flush()
			if !c.kept {
				if len(told) != 0 {
					t.Errorf("told: %+v", told)
				}
				return
			}
			if len(told) == 0 || told[0].ID != had.ID || told[0].Version != had.Version+1 || told[0].OpenedAt != had.OpenedAt || told[0].Severity != High {
				t.Errorf("it was version %d of %s, and is told as %+v", had.Version, had.ID, told)
			}
		})
	}
}
