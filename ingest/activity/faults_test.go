package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/activity"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

var errBroken = errors.New("the store broke")

// faulty fails once, at the call whose number is at: before it does anything, or after.
type faulty struct {
	activity.Store
	calls, at int
	after     bool
}

func (f *faulty) around(do func() error) error {
	f.calls++
	if f.calls == f.at && !f.after {
		return errBroken
	}
	err := do()
	if f.calls == f.at && f.after {
		return errBroken
	}
	return err
}

func (f *faulty) Logs(ctx context.Context) (out []store.LogInfo, err error) {
	err = f.around(func() (err error) { out, err = f.Store.Logs(ctx); return err })
	return out, err
}

func (f *faulty) SealedAfter(ctx context.Context, after map[string]uint64, most int) (out []store.SealedBatch, err error) {
	err = f.around(func() (err error) { out, err = f.Store.SealedAfter(ctx, after, most); return err })
	return out, err
}

func (f *faulty) NewestActivity(ctx context.Context, logID string) (r store.ActivityRange, planned bool, err error) {
	err = f.around(func() (err error) { r, planned, err = f.Store.NewestActivity(ctx, logID); return err })
	return r, planned, err
}

func (f *faulty) PlanActivity(ctx context.Context, r store.ActivityRange, now time.Time) (planned store.ActivityRange, fresh bool, err error) {
	err = f.around(func() (err error) { planned, fresh, err = f.Store.PlanActivity(ctx, r, now); return err })
	return planned, fresh, err
}

func (f *faulty) AddActivity(ctx context.Context, r store.ActivityRange, again bool, now time.Time) (added store.Added, err error) {
	err = f.around(func() (err error) { added, err = f.Store.AddActivity(ctx, r, again, now); return err })
	return added, err
}

// At each step the store fails, having done nothing or having done it, and the runner
// goes on, or another one in its place. More has come by then, so what is next is not
// what it was.
func TestEachEventIsAddedOnceWhicheverStepFails(t *testing.T) {
	w := newWorld(t, 100)
	w.seal("a", w.events(5, someMonth))
	w.catchUp(w.runner(activity.Config{}, w))
	// The calls of a run: which logs, the newest range, that one again, what is sealed, plan, add.
	const calls = 6
	for at := 1; at <= calls; at++ {
		for form := range 4 {
			if form > 0 && (at == 1 || at == 2 || at == 4) {
				break // these read, and leave nothing behind
			}
			w.seal("a", w.events(3, []uint16{someMonth, nextMonth}[form%2]))
			f := &faulty{Store: w, at: at, after: form%2 == 1}
			r := w.runner(activity.Config{}, f)
			if err := r.CatchUp(t.Context()); !errors.Is(err, errBroken) {
				t.Fatalf("call %d: %v", at, err)
			}
			w.seal("a", w.events(3, someMonth))
			if form/2 == 1 {
				r = w.runner(activity.Config{MostBatches: 1}, w)
			}
			w.catchUp(r)
			w.count("1")
		}
	}
	w.check("1")
}

// What a run has stored is known after a restart of the engine, whether the engine
// remembers its tokens or has lost them with the power.
func TestARestartOfTheEngineAddsNothingTwice(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		t.Run(fmt.Sprint("tokens are lost: ", forgets), func(t *testing.T) {
			if forgets && storetest.Server != nil {
				t.Skip("the server's folder is its own")
			}
			dir := t.TempDir()
			w := newWorld(t, 200)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				w.Store = storetest.Open(t, dir)
				w.seal("a", w.events(30, someMonth))
				w.seal("a", w.events(30, nextMonth))
				w.catchUp(w.runner(activity.Config{}, w))
				w.count("1")
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if forgets && loseTokens(t, dir) == 0 {
					t.Fatal("there are no tokens to lose")
				}
			}
			w.Store = storetest.Open(t, dir)
			w.catchUp(w.runner(activity.Config{}, w))
			w.check("1")
		})
	}
}

func loseTokens(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasPrefix(d.Name(), "deduplication_log_") {
			n++
			return os.Truncate(path, 0)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ticking is a store of two batches in memory, whose answers are errors for a while.
type ticking struct {
	failing atomic.Bool
	sealed  []store.SealedBatch
	planned store.ActivityRange
	added   []store.ActivityRange
}

func (s *ticking) Logs(context.Context) ([]store.LogInfo, error) {
	return []store.LogInfo{{ID: "a"}}, nil
}
func (s *ticking) SealedBefore(context.Context, string, time.Time) (uint64, error) { return 0, nil }
func (s *ticking) SealedAfter(_ context.Context, after map[string]uint64, most int) (out []store.SealedBatch, err error) {
	for _, b := range s.sealed {
		if b.Batch > after["a"] && len(out) < most {
			out = append(out, b)
		}
	}
	return out, nil
}
func (s *ticking) NewestActivity(context.Context, string) (store.ActivityRange, bool, error) {
	return s.planned, s.planned.Last > 0, nil
}
func (s *ticking) PlanActivity(_ context.Context, r store.ActivityRange, _ time.Time) (store.ActivityRange, bool, error) {
	s.planned = r
	return r, true, nil
}
func (s *ticking) AddActivity(_ context.Context, r store.ActivityRange, _ bool, _ time.Time) (store.Added, error) {
	if s.failing.Load() {
		return store.Added{}, errBroken
	}
	s.added = append(s.added, r)
	return store.Added{Events: 5}, nil
}

type watching struct {
	events uint64
	failed int
}

func (w *watching) Added(events uint64, _ time.Duration) { w.events += events }
func (w *watching) Failed()                              { w.failed++ }

func TestARunnerWaitsOutAnOutageAndSaysHowFarItIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, heard := &ticking{}, &watching{}
		for n := range 4 {
			s.sealed = append(s.sealed, store.SealedBatch{LogID: "a", Batch: uint64(n + 1), SealedAt: time.Now().UnixMicro(), Events: 5})
		}
		s.failing.Store(true)
		w := &world{t: t}
		r := w.runner(activity.Config{MostBatches: 2}, s, func(d *activity.Deps) { d.Now, d.Watch = time.Now, heard })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		// 1, 2, 4, … seconds, and then every minute.
		if lag := r.Lag(); lag != 10*time.Minute || heard.failed < 10 || heard.failed > 20 || len(s.added) > 0 {
			t.Errorf("%v behind, failed %d times, added %v", lag, heard.failed, s.added)
		}
		s.failing.Store(false)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if lag := r.Lag(); lag != 0 || heard.events != 10 || len(s.added) != 2 {
			t.Errorf("%v behind, heard of %d events, added %v", lag, heard.events, s.added)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// between does something once, before a range is planned.
type between struct {
	activity.Store
	f func()
}

func (b *between) PlanActivity(ctx context.Context, r store.ActivityRange, now time.Time) (store.ActivityRange, bool, error) {
	if f := b.f; f != nil {
		b.f = nil
		f()
	}
	return b.Store.PlanActivity(ctx, r, now)
}

// One has passed over an entry without events, which the other does not know.
func TestTwoRunnersBehindAnEntryWithoutEventsAddTheSameRange(t *testing.T) {
	w := newWorld(t, 300)
	w.seal("a", w.events(5, someMonth))
	first := &between{Store: w}
	r1 := w.runner(activity.Config{}, first)
	w.catchUp(r1)
	w.seal("a", nil)
	w.catchUp(r1) // passes over it
	w.seal("a", w.events(7, someMonth))
	// Another one plans and adds the same at the moment when this one plans.
	first.f = func() { w.catchUp(w.runner(activity.Config{}, w)) }
	w.catchUp(r1)
	got := w.rows(nil, "SELECT toString(sum(events)) FROM activity_hourly")
	if got[0] != "12" {
		t.Errorf("%v events are added up of 12; ranges %v", got, w.rows(nil, "SELECT concat(toString(first_batch), '-', toString(last_batch)) FROM activity_ranges ORDER BY first_batch"))
	}
}
