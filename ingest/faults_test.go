package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// Promise 1: an acknowledgement means stored. While the store fails, in either
// way, nobody is acknowledged; when it works again everything is stored once.
func TestPromise1DurableNothingIsAcknowledgedWhileTheStoreFails(t *testing.T) {
	for name, mode := range faults {
		t.Run(name, func(t *testing.T) {
			real := storetest.Open(t, t.TempDir())
			f := &faulty{Store: real, mode: mode}
			p := start(t, quick, f)
			if got, err := p.Submit(context.Background(), these("a", 1, 2), 1); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("acknowledged: %s, %v", describe(got), err)
			}
			if err := p.Ready(); !errors.Is(err, ErrUnavailable) {
				t.Errorf("Ready: %v", err)
			}
			// Whoever comes now is told at once, and not held.
			if _, err := p.Submit(context.Background(), these("b", 1), 1); !errors.Is(err, ErrUnavailable) {
				t.Errorf("a second request: %v", err)
			}
			f.set(works)
			eventually(t, "the store is found to work", func() bool { return p.Ready() == nil })
			// The emitter sends again what it knows no answer for, and more.
			got := p.submit(t, these("a", 1, 2, 3)...)
			checkSettled(t, got, 1, 2, Progress{"a", 3, 3})
			checkSettled(t, p.submit(t, these("b", 1)...), 1, 0, Progress{"b", 1, 1})
			p.stop()
			checkKeys(t, checkStore(t, real), map[key]bool{{"a", 1}: true, {"a", 2}: true, {"a", 3}: true, {"b", 1}: true})
			if p.watch.failed != f.refused || f.refused == 0 {
				t.Errorf("%d failures were observed, want %d", p.watch.failed, f.refused)
			}
		})
	}
}

// The service dies without an answer after an append that failed, in either
// way. The next life takes the same events again, and all are stored once.
func TestPromise1DurableAfterARestartWithABatchInDoubt(t *testing.T) {
	for name, mode := range faults {
		t.Run(name, func(t *testing.T) {
			real := storetest.Open(t, t.TempDir())
			p := start(t, quick, real)
			p.submit(t, these("a", 1)...)
			p.stop()
			p = start(t, quick, &faulty{Store: real, mode: mode})
			if _, err := p.Submit(context.Background(), these("a", 2, 3), 1); !errors.Is(err, ErrUnavailable) {
				t.Fatal(err)
			}
			p.stop()
			p = start(t, quick, real)
			// Other contents than the batch in doubt had, under the same number perhaps.
			got := p.submit(t, these("a", 3, 4, 2)...)
			if got.Stored+got.Duplicates != 3 || got.Progress[0] != (Progress{"a", 4, 4}) {
				t.Errorf("settled %s", describe(got))
			}
			p.stop()
			checkKeys(t, checkStore(t, real), map[key]bool{{"a", 1}: true, {"a", 2}: true, {"a", 3}: true, {"a", 4}: true})
		})
	}
}

// Events are stored, but their entry of the ledger is not, or is and nobody was told.
// The next life seals them before anything else, and only once.
func TestPromise1And4AfterARestartWithAnEntryInDoubt(t *testing.T) {
	for name, mode := range faults {
		t.Run(name, func(t *testing.T) {
			real := storetest.Open(t, t.TempDir())
			f := &faulty{Store: real, seals: mode}
			p := start(t, quick, f)
			if got, err := p.Submit(context.Background(), these("a", 1, 2), 1); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("acknowledged: %s, %v", describe(got), err)
			}
			p.stop()
			p = start(t, quick, real)
			checkKeys(t, checkStore(t, real), map[key]bool{{"a", 1}: true, {"a", 2}: true})
			checkSettled(t, p.submit(t, these("a", 1, 2, 3)...), 1, 2, Progress{"a", 3, 3})
			p.stop()
			kinds := checkLedger(t, readAll(t, real), readLedger(t, real))
			want := []string{ledger.KindRecovered, ledger.KindEvents}
			if mode == appliedButFails {
				want[0] = ledger.KindEvents
			}
			if !slices.Equal(kinds, want) {
				t.Errorf("the entries are %v, want %v", kinds, want)
			}
		})
	}
}

// While the ledger fails, in either way, nobody is acknowledged; when it works again
// everything is sealed once, in one life.
func TestPromise1And4NothingIsAcknowledgedBeforeItIsSealed(t *testing.T) {
	for name, mode := range faults {
		t.Run(name, func(t *testing.T) {
			real := storetest.Open(t, t.TempDir())
			f := &faulty{Store: real, seals: mode}
			p := start(t, quick, f)
			if got, err := p.Submit(context.Background(), these("a", 1, 2), 1); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("acknowledged: %s, %v", describe(got), err)
			}
			if _, err := p.Record(context.Background(), ledger.KindHold, "{}"); !errors.Is(err, ErrUnavailable) {
				t.Errorf("recorded: %v", err)
			}
			f.setSeals(works)
			eventually(t, "the store is found to work", func() bool { return p.Ready() == nil })
			checkSettled(t, p.submit(t, these("a", 1, 2, 3)...), 1, 2, Progress{"a", 3, 3})
			p.stop()
			checkKeys(t, checkStore(t, real), map[key]bool{{"a", 1}: true, {"a", 2}: true, {"a", 3}: true})
		})
	}
}

// lateLog is a store in which the last life's batch landed after this life had
// looked for the end of its log, as a server that was slow may do it.
type lateLog struct{ *inMemory }

func (s lateLog) Unsealed(context.Context, string, uint64) ([]uint64, error) { return nil, nil }

// A batch's number may then be used twice, and the second batch must not be
// taken for the first one: its events would be acknowledged and lost.
func TestABatchThatLandedLateDoesNotSwallowAnother(t *testing.T) {
	s := lateLog{&inMemory{}}
	p := start(t, quick, &faulty{Store: s, seals: notApplied})
	if _, err := p.Submit(context.Background(), these("a", 1), 1); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	p.stop()
	p = start(t, quick, s)
	checkSettled(t, p.submit(t, these("b", 1)...), 1, 0, Progress{"b", 1, 1})
	p.stop()
	if n := len(s.all()); n != 2 {
		t.Errorf("%d events are stored", n)
	}
}

// random is a store whose appends and reads fail at random, in both ways.
type random struct {
	*inMemory
	mu   sync.Mutex
	r    *rand.Rand
	calm bool
}

func (s *random) roll() (failing bool, took time.Duration, applied bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.calm && s.r.IntN(3) == 0, time.Duration(s.r.IntN(40)) * time.Millisecond, s.r.IntN(2) == 0
}

func (s *random) Append(ctx context.Context, b store.Batch) error {
	failing, took, applied := s.roll()
	time.Sleep(took)
	if failing && !applied {
		return errDisk
	}
	if err := s.inMemory.Append(ctx, b); err != nil || !failing {
		return err
	}
	return errDisk
}

func (s *random) Seal(ctx context.Context, rows []store.Sealed) error {
	failing, took, applied := s.roll()
	time.Sleep(took)
	if failing && !applied {
		return errDisk
	}
	if err := s.inMemory.Seal(ctx, rows); err != nil || !failing {
		return err
	}
	return errDisk
}

func (s *random) Sequences(ctx context.Context, emitters []string) (map[string][]store.Run, error) {
	failing, took, _ := s.roll()
	time.Sleep(took)
	if failing {
		return nil, errDisk
	}
	return s.inMemory.Sequences(ctx, emitters)
}

// Many callers, few emitters, a store that fails now and then, a service that is
// stopped now and then in the middle of it: whatever was acknowledged is stored,
// nothing twice, and the log has no holes.
func TestPromise1And2HoldWhateverFailsWhenever(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			s := &random{inMemory: &inMemory{}, r: rand.New(rand.NewPCG(seed, 1))}
			r := rand.New(rand.NewPCG(seed, 2))
			acked := map[key]bool{}
			for life := range 4 {
				s.mu.Lock()
				s.calm = life == 3
				s.mu.Unlock()
				oneLife(t, s, r, acked)
				events := s.all()
				checkLog(t, events)
				// What was stored last may not be sealed yet: the next life does it.
				if life < 3 {
					events = slices.DeleteFunc(events, func(e *event.Event) bool { return e.Batch > uint64(len(s.entries())) })
				}
				checkLedger(t, events, s.entries())
				keys := checkLog(t, events)
				for k := range acked {
					if !keys[k] {
						t.Fatalf("seed %d, life %d: %v was acknowledged and is not sealed", seed, life, k)
					}
				}
				if t.Failed() {
					t.Fatalf("seed %d, life %d", seed, life)
				}
			}
			if len(acked) < 10 {
				t.Errorf("seed %d: only %d events were acknowledged", seed, len(acked))
			}
		})
	}
}

func oneLife(t *testing.T, s *random, r *rand.Rand, acked map[key]bool) {
	p := New(Config{Key: testKey, MaxAge: 5 * time.Millisecond, MaxRows: 12, Emitters: 2, MaxBytes: 100}, s, leaveAlone{}, time.Now,
		slog.New(slog.NewTextHandler(io.Discard, nil)), &counts{})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	synctest.Wait()
	var callers sync.WaitGroup
	var mu sync.Mutex
	for caller := range 5 {
		c := rand.New(rand.NewPCG(r.Uint64(), uint64(caller)))
		callers.Go(func() {
			var under []*Pending
			var what [][]*event.Event
			for step := 0; step < 30 && ctx.Err() == nil; step++ {
				var events []*event.Event
				for range 1 + c.IntN(5) {
					events = append(events, sent(fmt.Sprint(c.IntN(4)), 1+c.Uint64N(40)))
				}
				// A stream: several requests are under way and asked for later.
				if pending, err := p.Start(t.Context(), events, 1+c.IntN(30)); err == nil {
					under, what = append(under, pending), append(what, events)
				}
				if len(under) == 0 || len(under) < 4 && c.IntN(3) > 0 {
					time.Sleep(time.Duration(c.IntN(20)) * time.Millisecond)
					continue
				}
				settle(t, under[0], what[0], acked, &mu)
				under, what = under[1:], what[1:]
			}
			for i := range under {
				time.Sleep(time.Duration(c.IntN(300)) * time.Millisecond)
				settle(t, under[i], what[i], acked, &mu)
			}
		})
	}
	lasts := time.Duration(r.IntN(900)) * time.Millisecond
	if s.calm {
		lasts = 2 * time.Second
	}
	time.Sleep(lasts)
	stop()
	<-ended
	callers.Wait()
	if !p.memory.all.TryAcquire(100) {
		t.Error("memory is still held at the end")
	}
}

func settle(t *testing.T, w *Pending, events []*event.Event, acked map[key]bool, mu *sync.Mutex) {
	got, err := w.Wait(t.Context())
	if err != nil {
		return
	}
	if got.Stored+got.Duplicates != len(events) {
		t.Errorf("settled %s of %d events", describe(got), len(events))
	}
	mu.Lock()
	defer mu.Unlock()
	for _, e := range events {
		acked[key{e.EmitterID, e.EmitterSeq}] = true
	}
}
