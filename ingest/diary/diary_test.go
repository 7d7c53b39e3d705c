package diary

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// shelf stands for the log at the one place where a diary meets it. With a gate it
// takes one request each time that something is sent there.
type shelf struct {
	gate chan error // what becomes of the next request; nil for no gate
	// refuse says why an entry is not taken, nil for one that is.
	refuse func(*event.Event) error

	mu       sync.Mutex
	requests [][]uint64 // numbers of the entries of each request that was stored
	stored   []*event.Event
}

func (s *shelf) Submit(ctx context.Context, events []*event.Event, size int) (ingest.Settled, error) {
	if s.gate != nil {
		select {
		case err := <-s.gate:
			if err != nil {
				return ingest.Settled{}, err
			}
		case <-ctx.Done():
			return ingest.Settled{}, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var settled ingest.Settled
	var numbers []uint64
	for i, e := range events {
		size -= e.Size()
		err := e.Check()
		if err == nil && s.refuse != nil {
			err = s.refuse(e)
		}
		if err != nil {
			settled.Rejected = append(settled.Rejected, ingest.Rejection{Index: i, Reason: err})
			continue
		}
		numbers, s.stored = append(numbers, e.EmitterSeq), append(s.stored, e)
	}
	if size != 0 {
		return settled, fmt.Errorf("the size of %d events is wrong by %d", len(events), size)
	}
	s.requests = append(s.requests, numbers)
	return settled, nil
}

var errAway = errors.New("the store is away")

// many notes n entries at once and returns what becomes of each, when all have an
// answer.
func many(ctx context.Context, d *Diary, n int) func() []error {
	errs, done := make([]error, n), make(chan struct{}, n)
	for i := range n {
		go func() {
			errs[i] = d.Note(ctx, Entry{Method: "mcpaudit/test", Target: fmt.Sprint(i)})
			done <- struct{}{}
		}()
	}
	return func() []error {
		for range n {
			<-done
		}
		return errs
	}
}

// whole checks that each of so many entries is stored once, under the numbers from 1 on,
// in their order.
func (s *shelf) whole(t *testing.T, n int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var numbers []uint64
	for _, r := range s.requests {
		numbers = append(numbers, r...)
	}
	want := make([]uint64, n)
	for i := range want {
		want[i] = uint64(i + 1)
	}
	if !slices.Equal(numbers, want) {
		t.Errorf("stored are the entries %v, want 1 to %d", numbers, n)
	}
	ids := map[event.ID]bool{}
	for _, e := range s.stored {
		ids[e.EventID] = true
	}
	if len(ids) != n {
		t.Errorf("%d different events are stored, want %d", len(ids), n)
	}
}

func failed(errs []error) (n int) {
	for _, err := range errs {
		if err != nil {
			n++
		}
	}
	return n
}

func TestEntriesThatComeWhileOthersAreWrittenAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{gate: make(chan error)}
		d := New("test", s, time.Now)
		first := many(t.Context(), d, 1)
		synctest.Wait()
		others := many(t.Context(), d, 1200)
		synctest.Wait() // 1000 wait, the first of which is being written; 201 have no place yet
		var sizes []int
		for range 4 {
			s.gate <- nil
			synctest.Wait()
			sizes = append(sizes, len(s.requests[len(s.requests)-1]))
		}
		if n := failed(slices.Concat(first(), others())); n > 0 {
			t.Errorf("%d entries were not stored", n)
		}
		if sizes[0] != 1 || sizes[1] != mostWritten || sizes[0]+sizes[1]+sizes[2]+sizes[3] != 1201 {
			t.Errorf("requests of %v entries, want one, then %d at most at a time", sizes, mostWritten)
		}
		s.whole(t, 1201)
	})
}

// With the scheduler's own order, and for the race detector.
func TestEntriesOfManyGoroutinesHaveNoHoles(t *testing.T) {
	s := &shelf{}
	d := New("test", s, time.Now)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 100 {
				if err := d.Note(t.Context(), Entry{Method: "mcpaudit/test", Labels: map[string]string{"a": "b"}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	s.whole(t, 5000)
	if len(d.waiting) != 0 || d.bytes != 0 {
		t.Errorf("%d entries of %d bytes still wait", len(d.waiting), d.bytes)
	}
}

func TestAnEntryIsStoredLaterOnceWhenTheStoreWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{gate: make(chan error)}
		d := New("test", s, time.Now)
		for i := range 3 {
			answer := many(t.Context(), d, 1)
			s.gate <- errAway
			if err := answer()[0]; !errors.Is(err, errAway) {
				t.Fatalf("entry %d: got %v while the store was away", i, err)
			}
		}
		answer := many(t.Context(), d, 1)
		s.gate <- nil
		if err := answer()[0]; err != nil {
			t.Error(err)
		}
		s.whole(t, 4)
		if len(s.requests) != 1 {
			t.Errorf("%d requests, want one for all that waited", len(s.requests))
		}
	})
}

// A request whose answer was lost is sent again as it was: the same ids and numbers, by
// which the log knows it.
func TestAnEntryIsSentAgainUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []event.Event
		d := New("test", submits(func(_ context.Context, events []*event.Event) error {
			for _, e := range events {
				c := *e
				c.Labels = slices.Clone(e.Labels)
				sent = append(sent, c)
				e.EmitterID, e.Labels[0].Value = "the pipeline's own", "changed" // it does what it likes
			}
			if len(sent) == 1 {
				return errAway
			}
			return nil
		}), time.Now)
		_ = d.Note(t.Context(), Entry{Method: "mcpaudit/one", Labels: map[string]string{"a": "b"}})
		time.Sleep(time.Hour)
		if err := d.Note(t.Context(), Entry{Method: "mcpaudit/two", Labels: map[string]string{"a": "b"}}); err != nil {
			t.Fatal(err)
		}
		if len(sent) != 3 {
			t.Fatalf("%d events were sent, want 3", len(sent))
		}
		a, b := sent[0], sent[1]
		if a.EventID != b.EventID || a.EmitterID != b.EmitterID || a.EmitterSeq != b.EmitterSeq || a.OccurredAt != b.OccurredAt {
			t.Errorf("sent again it is %+v, was %+v", b, a)
		}
		if b.Labels[0].Value != "b" || sent[2].EmitterSeq != 2 {
			t.Errorf("sent are %+v", sent)
		}
	})
}

// submits is a log that is one function.
type submits func(context.Context, []*event.Event) error

func (f submits) Submit(ctx context.Context, events []*event.Event, _ int) (ingest.Settled, error) {
	return ingest.Settled{}, f(ctx, events)
}

func TestACallerWhoLeavesTakesNobodysEntriesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{gate: make(chan error)}
		d := New("test", s, time.Now)
		ctx, leave := context.WithCancel(t.Context())
		first := many(ctx, d, 1) // it is the one whose entry begins the writing
		synctest.Wait()
		others := many(t.Context(), d, 9)
		synctest.Wait()
		leave()
		if err := first()[0]; !errors.Is(err, context.Canceled) {
			t.Errorf("who left was told %v", err)
		}
		s.gate <- nil
		s.gate <- nil
		if n := failed(others()); n > 0 {
			t.Errorf("%d of those who stayed have no entry", n)
		}
		s.whole(t, 10)
	})
}

func TestALogThatDoesNotAnswerIsWaitedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{gate: make(chan error)}
		d := New("test", s, time.Now)
		began := time.Now()
		err := d.Note(context.WithoutCancel(t.Context()), Entry{Method: "mcpaudit/test"})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != patience {
			t.Errorf("got %v after %s, want the end of its patience after %s", err, time.Since(began), patience)
		}
		answer := many(t.Context(), d, 1)
		s.gate <- nil
		if err := answer()[0]; err != nil {
			t.Error(err)
		}
		s.whole(t, 2)
	})
}

// More wait than one request takes: those behind its end have an answer too, and the
// log is not asked again and again.
func TestEverybodyHasAnAnswerWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, away := 0, true
		var stored []uint64
		d := New("test", submits(func(_ context.Context, events []*event.Event) error {
			time.Sleep(time.Second)
			if asked++; away {
				return errAway
			}
			for _, e := range events {
				stored = append(stored, e.EmitterSeq)
			}
			return nil
		}), time.Now)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, err := range many(ctx, d, mostWaiting)() {
			if !errors.Is(err, errAway) {
				t.Fatalf("somebody was told %v", err)
			}
		}
		if asked > 2 {
			t.Errorf("the log was asked %d times for what came at once", asked)
		}
		away = false
		if err := d.Note(t.Context(), Entry{Method: "mcpaudit/test"}); err != nil {
			t.Fatal(err)
		}
		if len(stored) != mostWaiting+1 || !slices.IsSorted(stored) || stored[mostWaiting] != mostWaiting+1 {
			t.Errorf("%d entries are stored, want %d in their order", len(stored), mostWaiting+1)
		}
	})
}

func TestAFullDiaryRefusesAndUsesUpNoNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{gate: make(chan error)}
		d := New("test", s, time.Now)
		first := many(t.Context(), d, mostWaiting)
		synctest.Wait()
		more := many(t.Context(), d, 50)
		synctest.Wait()
		for range 2 { // of the first the newest may have come after the writing had begun
			select {
			case s.gate <- errAway:
				synctest.Wait()
			default:
			}
		}
		for _, err := range more() {
			if !errors.Is(err, errAway) || !strings.Contains(err.Error(), "too many entries wait") {
				t.Fatalf("a full diary says %v", err)
			}
		}
		if n := failed(first()); n != mostWaiting {
			t.Fatalf("%d of %d entries are not stored", n, mostWaiting)
		}
		// It was full: the next one is taken when there is room, in the same call.
		last := many(t.Context(), d, 1)
		for range 3 {
			synctest.Wait()
			select {
			case s.gate <- nil:
			default:
			}
		}
		if err := last()[0]; err != nil {
			t.Error(err)
		}
		s.whole(t, mostWaiting+1)
	})
}

func TestWhatWaitsIsBoundedInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New("test", submits(func(context.Context, []*event.Event) error { return errAway }), time.Now)
		request := `"` + strings.Repeat("a", event.MaxArguments-2) + `"`
		for range 2 * mostBytes / event.MaxArguments {
			if err := d.Note(t.Context(), Entry{Method: "mcpaudit/list_events", Request: request}); !errors.Is(err, errAway) {
				t.Fatal(err)
			}
		}
		size := 0
		for _, p := range d.waiting {
			size += p.event.Size()
		}
		if size < mostBytes || size > mostBytes+2*event.MaxArguments || size != d.bytes {
			t.Errorf("%d entries of %d bytes wait, want about %d bytes", len(d.waiting), size, mostBytes)
		}
	})
}

// What the log will never take must neither seem to be stored nor hold up the others.
func TestAnEntryThatTheLogRefusesIsSaidToBeMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("not this one")
		s := &shelf{gate: make(chan error), refuse: func(e *event.Event) error {
			if e.Target == "3" {
				return bad
			}
			return nil
		}}
		d := New("test", s, time.Now)
		answers := many(t.Context(), d, 6)
		synctest.Wait()
		for range 2 {
			select {
			case s.gate <- nil:
				synctest.Wait()
			default:
			}
		}
		for i, err := range answers() {
			if i == 3 && !errors.Is(err, bad) || i != 3 && err != nil {
				t.Errorf("entry %d: %v", i, err)
			}
		}
		if len(s.stored) != 5 {
			t.Errorf("%d entries are stored, want 5", len(s.stored))
		}
		after := many(t.Context(), d, 1)
		s.gate <- nil
		if err := after()[0]; err != nil {
			t.Errorf("the next one: %v", err)
		}
	})
}
