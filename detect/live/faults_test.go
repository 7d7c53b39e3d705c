package live

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// Whatever the store fails at, and whether it did what it says it did not, the same is
// found, and stored and told once.
func TestAStoreThatFailsLosesAndRepeatsNothing(t *testing.T) {
	h := newTheatre(t, 5, 14)
	for _, seed := range []uint64{1, 2} {
		s := h.empty(t)
		r := rand.New(rand.NewPCG(seed, 5))
		s.fails = func(string) mode { return []mode{works, works, notApplied, appliedButFails}[r.IntN(4)] }
		a := act(t, s, Config{SaveEvery: time.Millisecond})
		a.d.Settled = func() int64 { return s.clock().UnixMicro() - second } // it knows better than to stand still
		a.play(h.script, 0, 7)
		a = act(t, s, Config{SaveEvery: time.Millisecond})
		a.d.Settled = func() int64 { return s.clock().UnixMicro() - second }
		a.play(h.script, 7, 14)
		compare(t, "a store that fails", stored(t, h.store), h.want)
		if a.watch.failed == 0 {
			t.Error("nobody heard that the store failed")
		}
		for i := range a.heard {
			if i > 0 && a.heard[i].Seq != a.heard[i-1].Seq+1 {
				t.Errorf("told %d after %d", a.heard[i].Seq, a.heard[i-1].Seq)
			}
		}
	}
}

// While ingest may still have to append what failed, the clock stands still.
func TestTheClockStandsStillAfterAFault(t *testing.T) {
	h := newTheatre(t, 5, 14)
	s := h.empty(t)
	a := act(t, s, Config{})
	a.play(h.script, 0, 5)
	clock := a.clock
	failing := true
	s.fails = func(method string) mode {
		if failing && method == "SealedAfter" {
			failing = false
			return notApplied
		}
		return works
	}
	now := s.clock().UnixMicro()
	for range 10 {
		if now += second; now >= h.script.sealed[5] {
			break
		}
		s.set(now)
		a.step()
		if a.clock != clock {
			t.Fatalf("the clock passed from %d to %d within %v of a fault", clock, a.clock, afterFault)
		}
	}
}

func TestTwoRunnersOfOneStoreAreOneTooMany(t *testing.T) {
	h := newTheatre(t, 5, 8)
	s := &rivalled{stage: h.empty(t)}
	s.set(h.script.end)
	r := New(Config{Rules: testRules()}, Deps{Store: s, Now: s.clock, Log: quiet, Watch: &counts{}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.Run(ctx); !errors.Is(err, store.ErrToldTwice) || !strings.Contains(err.Error(), "run the detect role once") {
		t.Errorf("it ends with %v", err)
	}
	if err := r.Reload(ctx, nil); !errors.Is(err, ErrEnded) {
		t.Errorf("a reload afterwards: %v", err)
	}
}

// rivalled is a store in which somebody else tells.
type rivalled struct{ *stage }

func (s *rivalled) AppendFindings(context.Context, []store.Finding) error { return store.ErrToldTwice }

// The runner as it runs: with its own clock, and stopped in the midst of it.
func TestRunFollowsTheLedgerUntilItIsStopped(t *testing.T) {
	h := newTheatre(t, 6, 14)
	s := h.empty(t)
	cfg := Config{Rules: testRules(), Poll: time.Millisecond, SaveEvery: time.Millisecond}
	for _, at := range append(slices.Clone(h.script.sealed), h.script.end) {
		watch := &counts{}
		r := New(cfg, Deps{Store: s, Now: s.clock, Log: quiet, Watch: watch})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		s.set(max(at+second/20, s.clock().UnixMicro()))
		for deadline := time.Now().Add(20 * time.Second); r.caughtUp.Load() < s.clock().UnixMicro(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("it does not catch up")
			}
		}
		if lag := r.Lag(); lag != 0 {
			t.Errorf("it has caught up, and lags by %v", lag)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	compare(t, "stopped at every batch", stored(t, h.store), h.want)
	heads, err := s.Snapshots(t.Context(), "detect")
	if err != nil || len(heads) == 0 || heads[0].Positions["log"] != 14 || heads[0].Told != uint64(len(h.want)) {
		t.Errorf("it left %+v, %v", heads, err)
	}
}

func TestARunnerThatCantBeginWaitsAndEnds(t *testing.T) {
	s := &stage{Store: storetest.Open(t, t.TempDir()), now: began, fails: func(string) mode { return notApplied }}
	watch := &counts{}
	r := New(Config{Rules: testRules()}, Deps{Store: s, Now: s.clock, Log: quiet, Watch: watch})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := r.Run(ctx); err != nil {
		t.Error(err)
	}
	if watch.failed == 0 {
		t.Error("nobody heard that the store failed")
	}
	if lag := r.Lag(); lag != 0 {
		t.Errorf("a runner that has not begun lags by %v", lag)
	}
}

func TestABadConfigIsRefused(t *testing.T) {
	for want, c := range map[string]Config{
		"":                            {},
		"detect: history is negative": {History: -1},
		"detect: poll is 1µs, and may be 1ms to 10s":     {Poll: time.Microsecond},
		"detect: margin is 2m0s, and may be 0s to 1m":    {Margin: 2 * time.Minute},
		"detect: save_every is 1ms, and may be 1s to 1h": {SaveEvery: time.Millisecond},
	} {
		if err := c.Validate(); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
}

// An event that comes when its time has passed is observed all the same.
func TestAnEventBehindTheClockIsCounted(t *testing.T) {
	h := newTheatre(t, 5, 14)
	s := h.empty(t)
	a := act(t, s, Config{})
	a.d.Settled = func() int64 { return h.script.sealed[10] } // it is wrong
	a.play(h.script, 0, 14)
	events := 0
	for _, e := range s.read {
		events += len(e)
	}
	if a.watch.late == 0 || a.watch.late >= events || a.watch.observed != events {
		t.Errorf("%d of %d events are late, %d are observed", a.watch.late, events, a.watch.observed)
	}
}
