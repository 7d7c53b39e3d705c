package ingest

import (
	"math/rand/v2"
	"testing"
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
