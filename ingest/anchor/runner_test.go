package anchor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/anchor"
)

// sink remembers what it was given; fail and hold say how it behaves.
type sink struct {
	name string
	fail atomic.Bool
	hold bool // until the context ends

	mu   sync.Mutex
	kept []string
}

func (s *sink) String() string { return s.name }

func (s *sink) Put(ctx context.Context, checkpoint string) error {
	if s.hold {
		<-ctx.Done()
		return ctx.Err()
	}
	if s.fail.Load() {
		return errors.New("no room")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, checkpoint)
	return nil
}

func (s *sink) has(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.kept, want) {
		t.Errorf("%s has %q, want %q", s.name, s.kept, want)
	}
}

// running is a runner with its log; end ends it.
func running(t *testing.T, newest *atomic.Value, observe func(int, error), sinks ...anchor.Sink) (log *strings.Builder, end func()) {
	t.Helper()
	log = &strings.Builder{}
	r := &anchor.Runner{Sinks: sinks, Newest: func() string { return newest.Load().(string) },
		Log: slog.New(slog.NewTextHandler(log, nil)), Observe: observe}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	return log, func() { cancel(); <-done }
}

func TestTheNewestCheckpointIsAnchoredWhenItChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var newest atomic.Value
		newest.Store("")
		s := &sink{name: "one"}
		_, end := running(t, &newest, nil, s)
		time.Sleep(90 * time.Second)
		s.has(t)
		newest.Store("1")
		time.Sleep(time.Minute)
		s.has(t, "1")
		time.Sleep(5 * time.Minute)
		newest.Store("2")
		newest.Store("3")
		time.Sleep(time.Minute)
		s.has(t, "1", "3")
		newest.Store("4") // at shutdown
		end()
		s.has(t, "1", "3", "4")
	})
}

func TestASlowSinkHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var newest atomic.Value
		newest.Store("1")
		slow, quick := &sink{name: "slow", hold: true}, &sink{name: "quick"}
		_, end := running(t, &newest, nil, slow, quick)
		synctest.Wait()
		quick.has(t, "1")
		newest.Store("2")
		time.Sleep(time.Minute)
		synctest.Wait()
		quick.has(t, "1", "2")
		begun := time.Now()
		end()
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("the end took %v", took)
		}
	})
}

func TestAFailureIsSaidOnceAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var newest atomic.Value
		newest.Store("1")
		s := &sink{name: "one"}
		s.fail.Store(true)
		var seen []string
		log, end := running(t, &newest, func(i int, err error) { seen = append(seen, fmt.Sprint(i, err)) }, s)
		time.Sleep(2*time.Minute + time.Second) // three tries
		synctest.Wait()
		if n := strings.Count(log.String(), "not anchored"); n != 1 || !strings.Contains(log.String(), "no room") {
			t.Errorf("said %d times: %s", n, log)
		}
		newest.Store("2")
		s.fail.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		s.has(t, "2")
		if n := strings.Count(log.String(), "anchored again"); n != 1 {
			t.Errorf("said %d times: %s", n, log)
		}
		end()
		if want := []string{"0 no room", "0 no room", "0 no room", "0 <nil>"}; !slices.Equal(seen, want) {
			t.Errorf("%q were observed, want %q", seen, want)
		}
	})
}
