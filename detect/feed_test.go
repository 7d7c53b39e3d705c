package detect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// feedStart is a Monday.
var feedStart = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// call is a successful tool call some time after feedStart, for tests to change.
func call(at time.Duration, who, server, tool string) *event.Event {
	return &event.Event{
		OccurredAt: feedStart.Add(at).UnixMicro(), Duration: 1000, EmitterID: "emitter", Tenant: "acme", Principal: who, PrincipalKind: "agent",
		Server: server, Kind: "tool_call", Method: "tools/call", Target: tool, Outcome: "success", Decision: "none", Hints: event.DefaultHints,
	}
}

// feedRule is the rule that tests run a detector under.
func feedRule(cfg Config, quiet time.Duration) Rule {
	return Rule{Name: "rule", Detector: "kind", Severity: Medium, ResolveAfter: quiet, With: cfg}
}

// feedNumber gives events what an emitter would: ids and numbers.
func feedNumber(events []*event.Event) {
	for i, e := range events {
		if e.EmitterSeq == 0 {
			e.EmitterSeq = uint64(i + 1)
		}
		var noise [10]byte
		binary.BigEndian.PutUint64(noise[2:], uint64(i))
		e.EventID = event.NewID(time.UnixMicro(e.OccurredAt), noise)
		e.SetDefaults()
	}
}

// feedEnd lets half an hour pass in which nothing happens, so that what waits is
// decided, and ends the stream.
func feedEnd(x *Engine, events []*event.Event) {
	if n := len(events); n > 0 {
		x.Advance(max(events[n-1].OccurredAt, events[n-1].ReceivedAt) + micros(30*time.Minute))
	}
	for _, r := range x.rules {
		if e, ok := r.detector.(interface{ end() }); ok {
			e.end()
		}
	}
	x.Finish()
}

// feedFor gives the last version of each finding, in the order of opening, half an
// hour of quiet being their end.
func feedFor(t *testing.T, cfg Config, events []*event.Event) []Finding {
	t.Helper()
	return feedQuiet(t, cfg, 30*time.Minute, events)
}

func feedQuiet(t *testing.T, cfg Config, quiet time.Duration, events []*event.Event) []Finding {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	feedNumber(events)
	var order []string
	last := map[string]Finding{}
	x := New([]Rule{feedRule(cfg, quiet)}, 1, func(c Change) {
		if _, ok := last[c.ID]; !ok {
			order = append(order, c.ID)
		}
		last[c.ID] = c.Finding
	})
	for _, e := range events {
		x.Add(e)
	}
	feedEnd(x, events)
	var found []Finding
	for _, id := range order {
		found = append(found, last[id])
	}
	return found
}

// feedWant compares findings with lines "severity principal server target: part of
// the reason".
func feedWant(t *testing.T, found []Finding, want ...string) {
	t.Helper()
	bad := len(found) != len(want)
	for i := range min(len(found), len(want)) {
		f := &found[i]
		head, part, _ := strings.Cut(want[i], ": ")
		got := strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s %s", f.Severity, f.Principal, f.Server, f.Target, f.Emitter)), " ")
		bad = bad || got != head || !strings.Contains(f.Reason, part)
		if f.Observed == "" || f.Expected == "" || f.StartedAt == 0 || f.StartedAt > f.LastSeenAt || f.Score <= 0 {
			t.Errorf("the finding lacks something: %+v", *f)
		}
	}
	if bad {
		t.Errorf("%d findings, want %d", len(found), len(want))
		for _, f := range found {
			t.Logf("got  %s | %s | %s | %s | %s: %s (observed %s, expected %s, score %.3g, %d events)", f.Severity, f.Principal, f.Server, f.Target, f.Emitter, f.Reason, f.Observed, f.Expected, f.Score, f.Events)
		}
		for _, w := range want {
			t.Logf("want %s", w)
		}
	}
}

// feedSaved says that a restart at any of some points of a stream changes nothing.
func feedSaved(t *testing.T, cfg Config, events []*event.Event) {
	t.Helper()
	feedNumber(events)
	run := func(cut int) (changes []Change) {
		rules := []Rule{feedRule(cfg, 30*time.Minute)}
		tell := func(c Change) { changes = append(changes, c) }
		x := New(rules, 1, tell)
		for i, e := range events {
			if i == cut {
				var b bytes.Buffer
				if err := x.Save(&b); err != nil {
					t.Fatal(err)
				}
				x = New(rules, 2, tell)
				if lacking, err := x.Load(&b); err != nil || len(lacking) > 0 {
					t.Fatal(lacking, err)
				}
			}
			x.Add(e)
		}
		feedEnd(x, events)
		return changes
	}
	want := run(-1)
	if len(want) == 0 {
		t.Fatal("the stream has no finding")
	}
	for i := 1; i <= 7; i++ {
		cut := i * len(events) / 8
		if got := run(cut); !reflect.DeepEqual(got, want) {
			t.Errorf("restarted before event %d of %d: %d changes, without a restart %d", cut, len(events), len(got), len(want))
		}
	}
}

// feedHostile gives a detector 20,000 events that are anything but well-behaved, and
// says that what it remembers stays within bounds. It returns how many findings.
func feedHostile(t *testing.T, cfg Config, most int, change func(i int, r *rand.Rand, e *event.Event)) int {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	opened := 0
	d := cfg.New()
	rule := feedRule(feedFixed{cfg, d}, time.Hour)
	x := New([]Rule{rule}, 1, func(c Change) {
		if c.Version == 1 {
			opened++
		}
	})
	for i := range 20_000 {
		e := event.Random(r)
		e.ReceivedAt = feedStart.UnixMicro() + int64(i)*1e5
		if r.IntN(2) == 0 {
			e.OccurredAt = e.ReceivedAt - int64(r.IntN(1e6))
		}
		e.Duration %= 1e6
		e.Principal = fmt.Sprintf("p%d\x00\xe2\x80\xae", i)
		if change != nil {
			change(i, r, e)
		}
		x.Add(e)
	}
	x.Finish()
	if s, ok := d.(sized); !ok {
		t.Error("the detector does not say how much it remembers")
	} else if n, _ := s.size(); n > most {
		t.Errorf("%d groups, want at most %d", n, most)
	}
	var b bytes.Buffer
	if err := x.Save(&b); err != nil {
		t.Error(err)
	}
	return opened
}

// feedFixed is a config whose detector is known to the test.
type feedFixed struct {
	Config
	d Detector
}

func (f feedFixed) New() Detector { return f.d }
