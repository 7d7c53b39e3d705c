package live

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// theatre is a store with a log in it, and what one run finds there.
type theatre struct {
	store  *store.Store
	script script
	want   []string
	sorted []string // the same in no order
	runs   int64
	read   map[string][]*event.Event
	ledger ledgerRead
}

func newTheatre(t *testing.T, seed uint64, batches int) *theatre {
	t.Helper()
	s := storetest.Open(t, t.TempDir())
	events := traffic(rand.New(rand.NewPCG(seed, 1)), batches)
	events[3] = nil // an entry of another kind
	seal(t, s, "log", events)
	h := &theatre{store: s, script: scriptOf(events), read: map[string][]*event.Event{}, ledger: ledgerRead{entries: map[string][]store.SealedBatch{}}}
	a := act(t, h.stage(), Config{SaveEvery: time.Hour})
	a.play(h.script, 0, len(h.script.sealed))
	h.want = stored(t, s)
	if len(h.want) < 6 {
		t.Fatalf("only %d versions are found: the test is of no use", len(h.want))
	}
	if len(a.heard) != len(h.want) || a.watch.told != len(h.want) {
		t.Errorf("%d versions are stored, %d told, %d counted", len(h.want), len(a.heard), a.watch.told)
	}
	if a.watch.late != 0 {
		t.Errorf("%d events are late", a.watch.late)
	}
	return h
}

// stage begins another run, in which nothing was found or saved. No two runs tell at
// the same time: the store would take their findings for those of the run before.
func (h *theatre) stage() *stage {
	h.runs++
	return &stage{Store: h.store, now: began - second + h.runs, read: h.read, ledger: &h.ledger}
}

func (h *theatre) empty(t *testing.T) *stage {
	t.Helper()
	forget(t, h.store, "findings", "cursors", "detector_state")
	return h.stage()
}

// Promise 6: what a replay finds in a log is what was found live, and when somebody
// looked does not matter.
func TestPromise6ReplayEqualsLive(t *testing.T) {
	h := newTheatre(t, 1, 60)
	s := h.stage()
	s.read = nil
	s.set(h.script.end)
	var got []string
	n := uint64(0)
	if _, err := Replay(t.Context(), s, ReplayConfig{Rules: testRules(), From: time.UnixMicro(began), To: time.UnixMicro(h.script.end - second), Now: s.clock, Log: quiet}, func(c detect.Change) {
		n++
		row := toRow(&Told{Change: c, Seq: n})
		row.ToldAt = 0
		got = append(got, fmt.Sprintf("%+v", row))
	}); err != nil {
		t.Fatal(err)
	}
	// What happens at one tick is told rule by rule, so the order is the same too.
	compare(t, "replay", got, h.want)

	// All of the log was there before the first look.
	s = h.empty(t)
	s.read = nil
	s.set(h.script.end)
	a := act(t, s, Config{})
	a.step()
	compare(t, "history", stored(t, h.store), h.want)
	for _, x := range a.heard {
		if x.State == detect.Open && x.Version == 1 && !x.History {
			t.Errorf("%s, found in history, is told as new", x.ID)
		}
	}
}

func TestARestartAtAnyBatchChangesNothing(t *testing.T) {
	const batches = 7
	h := newTheatre(t, 2, batches)
	often, never := Config{SaveEvery: 7 * time.Second}, Config{SaveEvery: 1000 * time.Hour}
	for name, c := range map[string]struct {
		cfg  Config
		stop func(*testing.T, *actor)
	}{
		"stopped": {never, func(t *testing.T, a *actor) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := a.stop(ctx, ctx.Err()); err != nil {
				t.Error(err)
			}
		}},
		"killed behind a snapshot":          {often, func(*testing.T, *actor) {}},
		"killed long after the snapshot":    {never, func(*testing.T, *actor) {}},
		"killed, and the snapshot was lost": {never, func(t *testing.T, a *actor) { forget(t, a.stage.Store, "cursors", "detector_state") }},
		"killed while it wrote a snapshot": {often, func(t *testing.T, a *actor) {
			number := a.save.number
			storetest.Exec(t, a.stage.Store, fmt.Sprintf("INSERT INTO detector_state SELECT 'detect', %d, 0, %d, 'cut'", number%2, number+1))
			storetest.Exec(t, a.stage.Store, "OPTIMIZE TABLE detector_state FINAL")
		}},
		"killed, and both snapshots are unreadable": {often, func(t *testing.T, a *actor) { forget(t, a.stage.Store, "detector_state") }},
	} {
		t.Run(name, func(t *testing.T) {
			for at := range batches + 1 {
				s := h.empty(t)
				a := act(t, s, c.cfg)
				a.play(h.script, 0, at)
				heard := len(a.heard)
				c.stop(t, a)
				a = act(t, s, c.cfg)
				a.play(h.script, at, batches)
				compare(t, fmt.Sprintf("restarted at batch %d", at), stored(t, h.store), h.want)
				if heard+len(a.heard) != len(h.want) {
					t.Errorf("restarted at batch %d: %d and %d of %d versions are told", at, heard, len(a.heard), len(h.want))
				}
			}
		})
	}
}

// The findings are durable, or are not, and the runner dies before it knows.
func TestADeathBetweenFindingAndRememberingChangesNothing(t *testing.T) {
	const batches = 12
	h := newTheatre(t, 3, batches)
	for name, m := range map[string]mode{"not applied": notApplied, "applied": appliedButFails} {
		t.Run(name, func(t *testing.T) {
			for at := 0; ; at += 3 {
				s := h.empty(t)
				a := act(t, s, Config{SaveEvery: time.Millisecond})
				appends := 0
				s.fails = func(method string) mode {
					if method == "AppendFindings" {
						if appends++; appends > at {
							return m
						}
					}
					return works
				}
				died := false
				for now := began; now < h.script.end && !died; now += 5 * second {
					s.set(max(now, s.clock().UnixMicro()))
					died = a.round(t.Context()) != nil
					if a.save.under != nil {
						a.noteSaved(<-a.save.under)
					}
				}
				if !died {
					if at < 6 {
						t.Errorf("only %d appends: the test is of no use", at)
					}
					return
				}
				s.fails = nil
				a = act(t, s, Config{SaveEvery: time.Millisecond})
				a.step()
				a.until(h.script.end)
				compare(t, fmt.Sprintf("died at append %d", at), stored(t, h.store), h.want)
			}
		})
	}
}

func TestSnapshotsTakeTurns(t *testing.T) {
	h := newTheatre(t, 4, 12)
	s := h.empty(t)
	a := act(t, s, Config{SaveEvery: time.Millisecond})
	last := uint64(0)
	for n, at := range h.script.sealed {
		s.set(at + second/20)
		a.step()
		heads, err := s.Snapshots(t.Context(), "detect")
		if err != nil || len(heads) != 2 && n > 0 {
			t.Fatalf("%+v, %v", heads, err)
		}
		if heads[0].Number <= last || n > 0 && (heads[0].Slot == heads[1].Slot || heads[1].Number+1 != heads[0].Number) {
			t.Errorf("after snapshot %d: %+v", last, heads)
		}
		last = heads[0].Number
		if heads[0].Positions["log"] != uint64(n+1) || heads[0].Told > uint64(len(a.heard)) {
			t.Errorf("batch %d: snapshot at %v, %d told", n+1, heads[0].Positions, heads[0].Told)
		}
	}
	// The one that was read stays until the next one is whole: here the newest can't be.
	heads, _ := s.Snapshots(t.Context(), "detect")
	storetest.Exec(t, s.Store, fmt.Sprintf("ALTER TABLE detector_state DELETE WHERE slot = %d", heads[0].Slot))
	a = act(t, s, Config{SaveEvery: time.Millisecond})
	if a.save.slot != heads[0].Slot || a.save.number != heads[0].Number {
		t.Errorf("goes on with slot %d, number %d; the damaged one was %+v", a.save.slot, a.save.number, heads[0])
	}
	a.until(h.script.end)
	compare(t, "after a damaged snapshot", stored(t, s.Store), h.want)
}
