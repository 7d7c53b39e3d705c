package ingest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// longHistory is a store that takes its time to read the sequences of emitters
// whose names begin with "old".
type longHistory struct {
	*inMemory
	mu    sync.Mutex
	asked [][]string
	read  chan error // one for each answer
	part  []string   // what is in the answer though it fails
}

func (s *longHistory) Sequences(ctx context.Context, emitters []string) (map[string][]store.Run, error) {
	s.mu.Lock()
	slices.Sort(emitters)
	s.asked = append(s.asked, emitters)
	s.mu.Unlock()
	runs, _ := s.inMemory.Sequences(ctx, emitters)
	if !slices.ContainsFunc(emitters, func(e string) bool { return strings.HasPrefix(e, "old") }) {
		return runs, nil
	}
	select {
	case err := <-s.read:
		if err != nil {
			kept := map[string][]store.Run{}
			for _, e := range s.part {
				kept[e] = runs[e]
			}
			return kept, err
		}
		return runs, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestOnlyRequestsWithUnknownEmittersWaitForTheirHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &longHistory{inMemory: &inMemory{}, read: make(chan error)}
		p, stop := bubble(t, Config{MaxAge: time.Millisecond}, s)
		if got := <-submitted(t.Context(), p, 1, these("known", 1)...); got.err != nil {
			t.Fatal(got.err)
		}
		var waiting []chan answer
		waiting = append(waiting, submitted(t.Context(), p, 1, append(these("old", 1), these("known", 2)...)...))
		synctest.Wait()
		waiting = append(waiting, submitted(t.Context(), p, 1, these("old", 2)...))
		time.Sleep(5 * time.Minute)
		// Known ones pass, and so do new ones.
		for _, emitter := range []string{"known", "new", "other new"} {
			if got := <-submitted(t.Context(), p, 1, these(emitter, 3)...); got.err != nil || got.settled.Stored != 1 {
				t.Fatalf("%s: %+v", emitter, got)
			}
		}
		for _, c := range waiting {
			select {
			case got := <-c:
				t.Fatalf("answered without its sequence: %+v", got)
			default:
			}
		}
		s.read <- nil
		for _, c := range waiting {
			if got := <-c; got.err != nil || got.settled.Duplicates != 0 {
				t.Errorf("answered %+v", got)
			}
		}
		stop()
		checkFree(t, p)
		if keys := checkMemory(t, s); len(keys) != 7 {
			t.Errorf("%v is stored", keys)
		}
		asked := 0
		for _, names := range s.asked {
			if slices.Contains(names, "old") {
				asked++
			}
		}
		if asked != 1 {
			t.Errorf("the same emitter was asked for %d times", asked)
		}
	})
}

// Emitters that could be read are known from then on: the next attempt has less
// to do, so that there is an end to it.
func TestWhatWasReadBeforeAFailureIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &longHistory{inMemory: &inMemory{}, read: make(chan error), part: []string{"old a"}}
		p, stop := bubble(t, Config{MaxAge: time.Millisecond}, s)
		request := slices.Concat(these("old a", 1), these("old b", 1))
		first := submitted(t.Context(), p, 1, request...)
		synctest.Wait()
		s.read <- errDisk
		if got := <-first; !errors.Is(got.err, ErrUnavailable) {
			t.Fatalf("answered %+v", got)
		}
		if got := <-submitted(t.Context(), p, 1, these("old a", 1)...); got.err != nil || got.settled.Stored != 1 {
			t.Errorf("who was read waits again: %+v", got)
		}
		again := submitted(t.Context(), p, 1, slices.Concat(these("old a", 1), these("old b", 1))...)
		synctest.Wait()
		s.read <- nil
		if got := <-again; got.err != nil || got.settled.Stored != 1 || got.settled.Duplicates != 1 {
			t.Errorf("answered %+v", got)
		}
		if want := [][]string{{"old a", "old b"}, {"old b"}}; !slices.EqualFunc(s.asked, want, slices.Equal) {
			t.Errorf("asked for %v, want %v", s.asked, want)
		}
		stop()
		checkFree(t, p)
		checkMemory(t, s)
	})
}

func TestAShutdownEndsTheReadingAndAnswersWhoWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &longHistory{inMemory: &inMemory{}, read: make(chan error)}
		p, stop := bubble(t, Config{MaxAge: time.Millisecond}, s)
		var waiting []chan answer
		for _, emitter := range []string{"old a", "old b", "old c", "old d"} {
			waiting = append(waiting, submitted(t.Context(), p, 1, these(emitter, 1)...))
			synctest.Wait()
		}
		stop()
		for _, c := range waiting {
			if got := <-c; !errors.Is(got.err, ErrUnavailable) {
				t.Errorf("answered %+v", got)
			}
		}
		checkFree(t, p)
	})
}

// However few emitters are kept in memory, a request with more of them is
// stored, and nothing twice.
func TestARequestWithMoreEmittersThanAreKeptIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &longHistory{inMemory: &inMemory{}, read: make(chan error)}
		p, stop := bubble(t, Config{MaxAge: time.Millisecond, Emitters: 1}, s)
		mixed := slices.Concat(these("a 1", 1), these("old 1", 1), these("a 2", 1), these("old 2", 1))
		if got := <-submitted(t.Context(), p, 1, these("a 1", 1)...); got.err != nil {
			t.Fatal(got.err)
		}
		waiting := submitted(t.Context(), p, 1, mixed...)
		synctest.Wait()
		for n := range uint64(20) { // each of them would make the others forgotten
			if got := <-submitted(t.Context(), p, 1, these("b", n+1)...); got.err != nil {
				t.Fatal(got.err)
			}
		}
		s.read <- nil
		if got := <-waiting; got.err != nil || got.settled.Stored != 3 || got.settled.Duplicates != 1 {
			t.Errorf("answered %+v", got)
		}
		stop()
		checkFree(t, p)
		checkMemory(t, s)
	})
}
