package ingest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// What was said to be settled stays settled, whatever the clock does.
func TestNothingArrivesBeforeWhatWasSaidToBeSettled(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var a arrivals
	var under []*arrival
	settled, clock := int64(-1), int64(1000)
	for range 20000 {
		clock += r.Int64N(21) - 8 // it goes back, too
		switch r.IntN(3) {
		case 0:
			x := a.begin(clock)
			if x.at <= settled {
				t.Fatalf("a request came at %d, and %d was said to be settled", x.at, settled)
			}
			under = append(under, x)
		case 1:
			if len(under) > 0 {
				i := r.IntN(len(under))
				a.end(under[i])
				under = append(under[:i], under[i+1:]...)
			}
		default:
			now := a.settled(clock)
			if now < settled {
				t.Fatalf("settled went back from %d to %d", settled, now)
			}
			settled = now
			for _, x := range under {
				if x.at <= settled {
					t.Fatalf("%d is under way and %d is said to be settled", x.at, settled)
				}
			}
		}
	}
	for _, x := range under {
		a.end(x)
	}
	if clock += 1000; a.settled(clock) != clock {
		t.Error("with nothing under way, the present is settled")
	}
}

// The clock was an hour ahead and is put back. Whether or not anything else is under
// way, what is sealed is said to be settled, so that it is looked at.
func TestWhatIsSealedIsSettledWhenTheClockWasPutBack(t *testing.T) {
	const hour = 3600_000_000
	for name, busy := range map[string]bool{"idle": false, "busy": true} {
		var a arrivals
		a.end(a.begin(2 * hour))
		clock := int64(hour)
		for n := range int64(1000) {
			clock += 1000
			x := a.begin(clock)
			var next *arrival
			if busy {
				next = a.begin(clock)
			}
			a.end(x)
			if s := a.settled(clock); s < x.at {
				t.Fatalf("%s, request %d: it came at %d and is sealed, and %d is said to be settled", name, n, x.at, s)
			} else if s > 2*hour+10_000 {
				t.Fatalf("%s: settled runs away to %d", name, s)
			}
			a.end(next)
		}
	}
}

// Whoever is quick, and however long the store takes: the event of the start comes
// before all others.
func TestTheFirstEventOfARunIsTheFirst(t *testing.T) {
	s := &inMemory{}
	cfg := quick
	cfg.Key = testKey
	cfg.First = func() *event.Event { return these("service", 1)[0] }
	p := New(cfg, s, leaveAlone{}, time.Now, slog.New(slog.NewTextHandler(io.Discard, nil)), &counts{})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := p.Submit(ctx, these(fmt.Sprint("emitter", i), 1), 1)
				if err == nil {
					return
				}
			}
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	wg.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	all := s.all()
	if len(all) != 9 || all[0].EmitterID != "service" {
		t.Fatalf("%d events, the first is of %s", len(all), all[0].EmitterID)
	}
	for _, e := range all[1:] {
		if e.ReceivedAt <= all[0].ReceivedAt {
			t.Errorf("%s came at %d, the start at %d", e.EmitterID, e.ReceivedAt, all[0].ReceivedAt)
		}
	}
}
