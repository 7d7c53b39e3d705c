package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// The tests of this file run in a bubble of their own time (testing/synctest):
// nothing waits for real, and "nobody moves any more" is something to check.

// bubble runs a pipeline in a synctest bubble. The returned function ends it.
func bubble(t *testing.T, cfg Config, s Store) (p *Pipeline, stop func()) {
	t.Helper()
	cfg.Key = testKey
	p = New(cfg, s, leaveAlone{}, time.Now, slog.New(slog.NewTextHandler(io.Discard, nil)), &counts{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	return p, sync.OnceFunc(func() { cancel(); <-ended })
}

// answer is what a Submit in the background came to.
type answer struct {
	settled Settled
	err     error
}

// submitted starts a Submit; the channel gets its answer.
func submitted(ctx context.Context, p *Pipeline, size int, events ...*event.Event) chan answer {
	out := make(chan answer, 1)
	go func() {
		settled, err := p.Submit(ctx, events, size)
		out <- answer{settled, err}
	}()
	return out
}

func checkFree(t *testing.T, p *Pipeline) {
	t.Helper()
	if !p.memory.all.TryAcquire(p.cfg.MaxBytes) {
		t.Error("memory is still held though nothing is under way")
		return
	}
	p.memory.all.Release(p.cfg.MaxBytes)
}

func TestWhatIsGatheredAtShutdownIsWrittenAndAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inMemory{}
		p, stop := bubble(t, Config{MaxAge: time.Hour}, s)
		one, two := submitted(t.Context(), p, 1, these("a", 1)...), submitted(t.Context(), p, 1, these("b", 1)...)
		synctest.Wait()
		if len(s.all()) != 0 {
			t.Fatal("it was written before its time")
		}
		stop()
		for _, c := range []chan answer{one, two} {
			if got := <-c; got.err != nil || got.settled.Stored != 1 {
				t.Errorf("answered %+v", got)
			}
		}
		if keys := checkMemory(t, s); len(keys) != 2 {
			t.Errorf("%v is stored", keys)
		}
		checkFree(t, p)
	})
}

func TestRequestsThatComeTogetherBecomeOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inMemory{}
		p, stop := bubble(t, Config{MaxAge: 25 * time.Millisecond, MaxRows: 10}, s)
		began := time.Now()
		one := submitted(t.Context(), p, 1, these("a", 1, 2)...)
		time.Sleep(20 * time.Millisecond)
		two := submitted(t.Context(), p, 1, these("b", 1)...)
		<-one
		<-two
		if took := time.Since(began); took != 25*time.Millisecond {
			t.Errorf("the first event waited %v for others", took)
		}
		// A full batch waits for nothing.
		began = time.Now()
		<-submitted(t.Context(), p, 1, these("c", span(1, 10)...)...)
		if took := time.Since(began); took != 0 {
			t.Errorf("a full batch waited %v", took)
		}
		stop()
		if all := s.all(); len(all) != 13 || all[2].Batch != 1 || all[12].Batch != 2 {
			t.Errorf("%d events in %d batches", len(all), all[len(all)-1].Batch)
		}
	})
}

// A store that fails at shutdown is not waited for, and what was not stored is
// not acknowledged: neither the batch that failed nor a request behind it that
// had nothing but duplicates of it.
func TestAShutdownDuringAnOutageAcknowledgesNothingThatIsNotStored(t *testing.T) {
	for range 20 { // the mistake showed half of the time
		synctest.Test(t, func(t *testing.T) {
			f := &faulty{Store: &inMemory{}, mode: notApplied, hold: make(chan struct{})}
			p, stop := bubble(t, Config{MaxAge: time.Millisecond}, f)
			var under []*Pending
			for range 3 {
				pending, err := p.Start(t.Context(), these("a", 1), 1)
				if err != nil {
					t.Fatal(err)
				}
				under = append(under, pending)
				time.Sleep(10 * time.Millisecond)
			}
			go func() { time.Sleep(time.Second); close(f.hold) }()
			stop()
			for i, pending := range under {
				if got, err := pending.Wait(t.Context()); !errors.Is(err, ErrUnavailable) {
					t.Errorf("request %d is answered %s, %v, and nothing is stored", i, describe(got), err)
				}
			}
			checkFree(t, p)
		})
	}
}

// An outage that begins after a request was stored does not take its answer away.
func TestASettledRequestStaysSettledWhenTheStoreFailsLater(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			f := &faulty{Store: &inMemory{}}
			p, stop := bubble(t, Config{MaxAge: time.Millisecond}, f)
			first, err := p.Start(t.Context(), these("a", 1), 1)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			f.set(notApplied)
			if _, err := p.Submit(t.Context(), these("a", 2), 1); !errors.Is(err, ErrUnavailable) {
				t.Errorf("the second: %v", err)
			}
			if got, err := first.Wait(t.Context()); err != nil || got.Stored != 1 {
				t.Errorf("the first: %s, %v", describe(got), err)
			}
			stop()
		})
	}
}

func TestAnOutageOfSequencesHoldsUpNewEmittersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inMemory{}
		f := &faulty{Store: s}
		p, stop := bubble(t, Config{MaxAge: time.Millisecond}, f)
		<-submitted(t.Context(), p, 1, these("known", 1)...)
		f.setSequences(errDisk)
		known := submitted(t.Context(), p, 1, these("known", 2)...)
		fresh := submitted(t.Context(), p, 1, these("new", 1)...)
		both := submitted(t.Context(), p, 1, append(these("known", 3), these("new", 2)...)...)
		if got := <-known; got.err != nil || got.settled.Stored != 1 {
			t.Errorf("an emitter that is known: %+v", got)
		}
		for _, c := range []chan answer{fresh, both} {
			if got := <-c; !errors.Is(got.err, ErrUnavailable) {
				t.Errorf("a request with a new emitter: %+v", got)
			}
		}
		if err := p.Ready(); err != nil {
			t.Errorf("Ready: %v; the store takes events of others", err)
		}
		f.setSequences(nil)
		got := <-submitted(t.Context(), p, 1, append(these("known", 3), these("new", 1, 2)...)...)
		if got.err != nil || got.settled.Stored != 3 {
			t.Errorf("after the outage: %+v", got)
		}
		stop()
		if keys := checkMemory(t, s); len(keys) != 5 {
			t.Errorf("%v is stored", keys)
		}
		checkFree(t, p)
	})
}

func TestWhatIsUnderWayIsBoundedInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{Store: &inMemory{}, hold: make(chan struct{})}
		p, stop := bubble(t, Config{MaxAge: time.Millisecond, MaxBytes: 1000}, f)
		first := submitted(t.Context(), p, 700, these("a", 1)...)
		time.Sleep(10 * time.Millisecond) // it is being appended
		started := make(chan error, 1)
		go func() {
			pending, err := p.Start(t.Context(), these("a", 2), 400)
			started <- err
			if err == nil {
				_, err = pending.Wait(t.Context())
			}
			started <- err
		}()
		time.Sleep(overdueAfter / 2)
		select {
		case <-started:
			t.Fatal("more than the bound is under way")
		default:
		}
		close(f.hold)
		if got := <-first; got.err != nil {
			t.Error(got.err)
		}
		for range 2 {
			if err := <-started; err != nil {
				t.Error(err)
			}
		}
		// A request that is larger than the bound passes alone.
		if got := <-submitted(t.Context(), p, 5000, these("a", 3)...); got.err != nil {
			t.Error(got.err)
		}
		stop()
		checkFree(t, p)
	})
}

func TestCallersThatWaitForMemoryAreToldOfAnOutageAndOfTheEnd(t *testing.T) {
	for name, end := range map[string]func(f *faulty, stop func()){
		"outage": func(f *faulty, _ func()) { f.set(notApplied); close(f.hold) },
		"end":    func(f *faulty, stop func()) { go func() { time.Sleep(time.Second); close(f.hold) }(); stop() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &faulty{Store: &inMemory{}, hold: make(chan struct{})}
				p, stop := bubble(t, Config{MaxAge: time.Millisecond, MaxBytes: 1000}, f)
				submitted(t.Context(), p, 1000, these("a", 1)...)
				time.Sleep(10 * time.Millisecond)
				var waiting []chan answer
				for n := range uint64(5) {
					waiting = append(waiting, submitted(t.Context(), p, 1000, these("b", n+1)...))
				}
				synctest.Wait()
				end(f, stop)
				for _, c := range waiting {
					// At the end, one may still have been taken and stored.
					if got := <-c; got.err != nil && !errors.Is(got.err, ErrUnavailable) || name == "outage" && got.err == nil {
						t.Errorf("answered %+v", got)
					}
				}
				stop()
				checkFree(t, p)
			})
		})
	}
}

func TestCallersThatGoAwayGiveTheirMemoryBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{Store: &inMemory{}, hold: make(chan struct{})}
		p, stop := bubble(t, Config{MaxAge: time.Millisecond, MaxBytes: 1000, MaxRows: 1}, f)
		ctx, cancel := context.WithCancel(t.Context())
		var gone []chan answer
		// One is being appended, one is sealed, one gathered, others wait to be
		// taken, and the last ones wait for memory.
		for n := range uint64(12) {
			gone = append(gone, submitted(ctx, p, 150, these("a", n+1)...))
			time.Sleep(time.Millisecond)
		}
		cancel()
		for _, c := range gone {
			if got := <-c; !errors.Is(got.err, context.Canceled) {
				t.Errorf("answered %+v", got)
			}
		}
		close(f.hold)
		// All there is can be had again, by one who stays.
		if got := <-submitted(t.Context(), p, 1000, these("b", 1)...); got.err != nil || got.settled.Stored != 1 {
			t.Errorf("answered %+v", got)
		}
		stop()
		checkFree(t, p)
		checkMemory(t, f.Store.(*inMemory))
	})
}

// The store does not know yet what is under way: an emitter that was forgotten
// then, and read back, would have its events taken a second time.
func TestAnEmitterIsNotForgottenBeforeItsEventsAreStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &inMemory{}
		f := &faulty{Store: s, hold: make(chan struct{})}
		p, stop := bubble(t, Config{MaxAge: time.Millisecond, Emitters: 1}, f)
		under := []chan answer{submitted(t.Context(), p, 1, these("a", 1)...)}
		time.Sleep(10 * time.Millisecond) // being appended
		for _, emitter := range []string{"b", "c"} {
			under = append(under, submitted(t.Context(), p, 1, these(emitter, 1)...))
		}
		time.Sleep(10 * time.Millisecond)
		again := submitted(t.Context(), p, 1, these("a", 1)...)
		time.Sleep(10 * time.Millisecond)
		close(f.hold)
		for _, c := range under {
			if got := <-c; got.err != nil || got.settled.Stored != 1 {
				t.Errorf("answered %+v", got)
			}
		}
		if got := <-again; got.err != nil || got.settled.Duplicates != 1 {
			t.Errorf("the same event again: %+v", got)
		}
		stop()
		checkMemory(t, s)
	})
}

// crowded is a store with many parts.
type crowded struct {
	inMemory
	parts uint64
	err   error
}

func (c *crowded) Parts(context.Context) (uint64, error) { return c.parts, c.err }

func TestCommitsSlowDownWhileTheStoreHasManyParts(t *testing.T) {
	s := &crowded{}
	p := New(Config{Key: testKey, MaxAge: 25 * time.Millisecond}, s, leaveAlone{}, time.Now, nil, &counts{})
	for _, c := range []struct {
		parts uint64
		err   error
		want  time.Duration
	}{
		{0, nil, 25 * time.Millisecond},
		{crowdedParts, nil, 25 * time.Millisecond},
		{2 * crowdedParts, nil, 100 * time.Millisecond},
		{0, errDisk, 100 * time.Millisecond}, // not known: as it was
		{1000 * crowdedParts, nil, time.Second},
		{10, nil, 25 * time.Millisecond},
	} {
		s.parts, s.err = c.parts, c.err
		p.pace(t.Context())
		if got := time.Duration(p.age.Load()); got != c.want {
			t.Errorf("%d parts, error %v: batches wait %v, want %v", c.parts, c.err, got, c.want)
		}
	}
}

// An append that hangs reports no error. Callers are told all the same, and what
// they send again when it has ended is known.
func TestAStoreThatHangsIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{Store: &inMemory{}, hold: make(chan struct{})}
		p, stop := bubble(t, Config{MaxAge: time.Millisecond}, f)
		one := submitted(t.Context(), p, 1, these("a", 1)...)
		time.Sleep(overdueAfter - time.Second)
		if err := p.Ready(); err != nil {
			t.Errorf("too early: %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := <-one; !errors.Is(got.err, ErrUnavailable) || !errors.Is(p.Ready(), ErrUnavailable) {
			t.Errorf("answered %+v, ready: %v", got, p.Ready())
		}
		close(f.hold)
		synctest.Wait()
		if got := <-submitted(t.Context(), p, 1, these("a", 1, 2)...); got.err != nil || got.settled.Stored != 1 || got.settled.Duplicates != 1 {
			t.Errorf("answered %+v", got)
		}
		stop()
		checkFree(t, p)
	})
}
