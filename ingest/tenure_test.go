package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

func TestATenureLastsForSoManyAttempts(t *testing.T) {
	now := time.Now()
	tenure := NewTenure(time.Second)
	if tenure.lasts(now, 1) {
		t.Error("one that was never extended lasts")
	}
	tenure.Extend(now.Add(3 * time.Second))
	tenure.Extend(now.Add(time.Second)) // an answer that overtook another one
	for attempts, want := range map[int]bool{1: true, 2: true, 3: false} {
		if tenure.lasts(now, attempts) != want {
			t.Errorf("%d attempts: want %v", attempts, want)
		}
	}
	// After a suspension the monotonic clock says that no time has passed.
	if tenure.lasts(now.Round(0).Add(time.Minute), 1) {
		t.Error("it lasts though a minute has passed")
	}
	tenure.End()
	tenure.Extend(now.Add(time.Hour))
	if tenure.lasts(now, 0) || !tenure.Ended() {
		t.Error("one that has ended lasts")
	}
}

func TestATenureIsClosedWhenNothingOfItIsUnderWay(t *testing.T) {
	tenure := NewTenure(time.Millisecond)
	tenure.Extend(time.Now().Add(time.Hour))
	if !tenure.hold(time.Now()) || !tenure.try(time.Now()) {
		t.Fatal("it does not last")
	}
	closed := make(chan struct{})
	go func() { defer close(closed); tenure.Close(t.Context()) }()
	tenure.tried()
	if tenure.Ended() {
		t.Error("it ended while a batch was under way")
	}
	tenure.release()
	<-closed
	if tenure.hold(time.Now()) {
		t.Error("a batch is made after it")
	}
	// What can't be waited for any longer is cut off, but not while it is tried.
	tenure = NewTenure(time.Millisecond)
	tenure.Extend(time.Now().Add(time.Hour))
	if !tenure.hold(time.Now()) || !tenure.try(time.Now()) {
		t.Fatal("it does not last")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	closed = make(chan struct{})
	go func() { defer close(closed); tenure.Close(ctx) }()
	eventually(t, "it has ended", tenure.Ended)
	select {
	case <-closed:
		t.Error("it is closed while an attempt is under way")
	case <-time.After(20 * time.Millisecond):
	}
	tenure.tried()
	<-closed
}

func (p *running) submitUntil(t *testing.T, tenure *Tenure, events ...*event.Event) (Settled, error) {
	t.Helper()
	room, err := p.Reserve(context.Background(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer room.Release()
	w, err := room.StartUntil(context.Background(), events, tenure)
	if err != nil {
		return Settled{}, err
	}
	return w.Wait(context.Background())
}

func TestEventsWhoseTenureHasEndedAreNotStored(t *testing.T) {
	s := &inMemory{}
	p := start(t, quick, s)
	tenure := NewTenure(time.Second)
	if _, err := p.submitUntil(t, tenure, these("a", 1)...); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a tenure: %v", err)
	}
	tenure.Extend(time.Now().Add(time.Minute))
	if got, err := p.submitUntil(t, tenure, these("a", 1, 2)...); err != nil || got.Stored != 2 {
		t.Errorf("with one: %s, %v", describe(got), err)
	}
	tenure.End()
	if _, err := p.submitUntil(t, tenure, these("a", 3)...); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after it: %v", err)
	}
	// Others are none of its business, and nothing waits behind what was refused.
	checkSettled(t, p.submit(t, these("b", 1)...), 1, 0, Progress{"b", 1, 1})
	p.stop()
	if n := len(s.all()); n != 3 {
		t.Errorf("%d events are stored, want 3", n)
	}
}

// The store fails while the tenure ends: whether the batch is stored is not known, so
// it is not tried again, and the run ends.
func TestABatchIsNotTriedAgainAfterItsTenure(t *testing.T) {
	for name, mode := range faults {
		t.Run(name, func(t *testing.T) {
			s := &faulty{Store: &inMemory{}, arrived: make(chan struct{}, 1000)}
			p := New(Config{Key: testKey, MaxAge: time.Microsecond, Shared: true}, s, leaveAlone{}, time.Now, slog.New(slog.NewTextHandler(io.Discard, nil)), &counts{})
			ended := make(chan error, 1)
			go func() { ended <- p.Run(t.Context()) }()
			eventually(t, "it is ready", func() bool { return p.Ready() == nil })
			s.set(mode)
			tenure := NewTenure(50 * time.Millisecond)
			tenure.Extend(time.Now().Add(time.Hour))
			r := &running{Pipeline: p}
			answer := make(chan error, 1)
			go func() {
				_, err := r.submitUntil(t, tenure, these("a", 1)...)
				answer <- err
			}()
			<-s.arrived
			tenure.End()
			if err := <-answer; !errors.Is(err, ErrUnavailable) {
				t.Errorf("answered %v", err)
			}
			if err := <-ended; !errors.Is(err, ErrTenureEnded) {
				t.Errorf("the run ended with %v", err)
			}
			s.mu.Lock()
			tried := s.appends
			s.mu.Unlock()
			// The next start finds out what became of it.
			s.set(works)
			again := start(t, Config{Shared: true}, s)
			got := again.submit(t, these("a", 1)...)
			again.stop()
			if n := len(s.Store.(*inMemory).all()); n != 1 || got.Stored+got.Duplicates != 1 {
				t.Errorf("after %d attempts and a new start %d events are stored, settled as %s", tried, n, describe(got))
			}
		})
	}
}

// What another instance has stored is known after Forget, and not before.
func TestWhatOthersHaveStoredIsKnownAfterForgetting(t *testing.T) {
	s := &inMemory{}
	p := start(t, Config{MaxAge: time.Microsecond, Shared: true}, s)
	p.submit(t, these("a", 1, 2)...)
	other := sent("a", 3)
	other.LogID, other.Batch = "another", 1
	if err := s.Append(t.Context(), store.Batch{Events: []*event.Event{other}, Token: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkSettled(t, p.submit(t, these("a", 3, 4)...), 1, 1, Progress{"a", 4, 4})
	p.stop()
	if err := p.Forget(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after the end: %v", err)
	}
}
