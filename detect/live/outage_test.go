package live

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// The store could not be read for a while in which events were sealed: the clock does
// not pass them before they are read.
func TestTheClockWaitsForWhatWasSealedDuringAnOutage(t *testing.T) {
	h := newTheatre(t, 5, 14)
	s := h.empty(t)
	a := act(t, s, Config{})
	a.d.Settled = func() int64 { return s.clock().UnixMicro() } // ingest knows
	a.play(h.script, 0, 5)
	s.fails = func(method string) mode {
		if method == "EventsOf" {
			return notApplied
		}
		return works
	}
	for _, at := range h.script.sealed[5:11] {
		s.set(at + second/20)
		if err := a.round(t.Context()); !errors.Is(err, errAway) {
			t.Fatal(err)
		}
	}
	s.fails = nil
	a.play(h.script, 11, 14)
	if a.watch.late != 0 {
		t.Errorf("%d events are late", a.watch.late)
	}
	compare(t, "after an outage", stored(t, h.store), h.want)
}

// A batch of which something lacks holds up those behind it. They are not late for it.
func TestTheClockWaitsForWhatIsBehindABatchThatLacksSome(t *testing.T) {
	p := &paper{now: began}
	p.write("a", 1, began, began)
	lacks := p.events["a"][1]
	p.events["a"][1] = nil
	f := newTestFollower(p, nil)
	for n := uint64(2); n < 40; n++ {
		follows(t, f, p)
		if f.finished() {
			t.Fatal("batch 1 lacks, and nothing is said to lack")
		}
		p.now += second / 2
		p.write("a", n, p.now, p.now)
	}
	p.events["a"][1] = lacks
	follows(t, f, p)
	if f.finished() && f.positions()["a"] != 39 {
		t.Errorf("everything is said to be read, and it is at %v of 39", f.positions())
	}
}

// What was found by the clock alone in the last moments before a death may not be
// found again, since nobody listened then: it is ended, and does not stay open.
func TestWhatTheClockFoundBeforeADeathHasAnEnd(t *testing.T) {
	h := newTheatre(t, 5, 8)
	s := h.empty(t)
	a := act(t, s, Config{SaveEvery: time.Hour})
	a.play(h.script, 0, 8)
	if err := a.saveNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	var rows []store.Finding
	f := detect.Finding{ID: "0a0b0c0d-0000-8000-8000-000000000001", Version: 1, Rule: "hush", Detector: "hush", Severity: detect.Low, State: detect.Open, StartedAt: began, LastSeenAt: began, OpenedAt: began, Subject: detect.Subject{Tenant: "default"}}
	rows = append(rows, toRow(&Told{Change: detect.Change{Finding: f}, Seq: a.told.last + 1, At: s.clock()}))
	if err := s.AppendFindings(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	a = act(t, s, Config{SaveEvery: time.Hour})
	a.until(h.script.end + 100*second)
	open, err := s.OpenFindings(t.Context())
	if err != nil || len(open) != 0 {
		t.Errorf("%d findings stay open, %v", len(open), err)
	}
	if len(a.heard) == 0 {
		t.Fatal("nothing is told")
	}
	last := a.heard[len(a.heard)-1]
	if last.ID != f.ID || last.Version != 2 || last.State != detect.Resolved {
		t.Errorf("it ends with %+v", last)
	}
}

// A program that counts versions in another way than the one before, as after an
// upgrade, ends what it finds again all the same.
func TestWhatIsFoundAgainUnderAnotherVersionHasAnEnd(t *testing.T) {
	h := newTheatre(t, 7, 24)
	s := h.empty(t)
	a := act(t, s, Config{SaveEvery: time.Millisecond})
	a.play(h.script, 0, 12)
	open, err := s.OpenFindings(t.Context())
	if err != nil || len(open) == 0 {
		t.Fatalf("nothing is open: the test is of no use; %v", err)
	}
	var more []store.Finding
	for _, f := range open {
		f.Version += 3
		f.Seq = a.told.last + uint64(len(more)) + 1
		more = append(more, f)
	}
	if err := s.AppendFindings(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	forget(t, h.store, "detector_state")
	a = act(t, s, Config{SaveEvery: time.Millisecond})
	a.play(h.script, 12, 24)
	if open, err = s.OpenFindings(t.Context()); err != nil || len(open) != 0 {
		t.Errorf("%d findings stay open for ever, such as %s of rule %s at version %d; %v", len(open), open[0].ID, open[0].Rule, open[0].Version, err)
	}
	seen := map[string]bool{}
	for _, line := range append(a.of("crowd"), a.of("hush")...) {
		name := fmt.Sprint(line.ID, line.Version)
		if seen[name] {
			t.Errorf("version %d of %s is stored twice", line.Version, line.ID)
		}
		seen[name] = true
	}
}

// Somebody reloads the rules while those that were new at the start can't be warmed up:
// what was asked for last stays in force.
func TestRulesOfTheStartDoNotReplaceLaterOnes(t *testing.T) {
	h := newTheatre(t, 7, 24)
	s := h.empty(t)
	a := act(t, s, Config{Rules: testRules()[1:], SaveEvery: time.Millisecond})
	a.play(h.script, 0, 12)
	a = act(t, s, Config{SaveEvery: time.Millisecond})
	later := testRules()[1:]
	later[0].Digest = "3"
	a.reloadNow(later)
	done := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() { defer close(done); a.warmUp(ctx) }()
	for stop := false; !stop; {
		select {
		case hand := <-a.handover:
			hand.done <- a.take(ctx, hand)
		case <-done:
			stop = true
		}
	}
	if len(a.rules) != 1 || a.rules[0].Digest != "3" {
		t.Errorf("%d rules are in force, of digest %q; one of digest 3 was asked for last", len(a.rules), a.rules[0].Digest)
	}
}

// A clock that was put back: events come that say they are older than what was seen.
// They are observed soon, whether others follow or not.
func TestEventsAfterTheClockWasPutBackAreObservedSoon(t *testing.T) {
	h := newTheatre(t, 5, 4)
	s := h.empty(t)
	a := act(t, s, Config{})
	settled := s.clock().UnixMicro()
	a.d.Settled = func() int64 { return settled }
	a.play(h.script, 0, 4)
	settled = h.script.end + 3600*second
	a.step()
	settled = h.script.end + 2*second
	before := a.engine.Counts().Events
	e := event.Event{EventID: event.ID{1}, Tenant: "default", Principal: "late", Kind: "tool_call", OccurredAt: h.script.end, ReceivedAt: h.script.end}
	a.engine.Add(&e)
	a.step()
	if n := a.engine.Counts().Events - before; n != 1 {
		t.Errorf("%d events are observed, want 1", n)
	}
}
