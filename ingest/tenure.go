package ingest

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Tenure is for how long an instance may store the events of a source whose other
// instances write to the same store. Who is given the same events after it must find
// what it has stored: so it stores nothing of them after the tenure has ended, and
// nothing of them is on its way when the source gives them up. The source extends it as
// long as it is sure that nobody else has been given them, and makes a new one for
// whatever it is given next.
//
// Without one, an instance that was frozen for a minute would wake up, and store what
// another one has stored meanwhile.
type Tenure struct {
	within time.Duration

	mu     sync.Mutex
	until  time.Time
	ended  bool
	under  int           // batches in the pipeline, and seals that make some
	tries  int           // attempts to store one that are under way
	change chan struct{} // closed when one of the two has become less
}

// NewTenure begins with no time at all. Within is how long an attempt to store may
// take; it is cut off then, here and in the store.
func NewTenure(within time.Duration) *Tenure {
	return &Tenure{within: within, change: make(chan struct{})}
}

// Extend says that it lasts until then, by this process's own clock. It never makes
// it shorter, nor begins it again.
func (t *Tenure) Extend(until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if until.After(t.until) {
		t.until = until
	}
}

// End ends it at once. What is on its way into the store then may or may not get there.
func (t *Tenure) End() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
}

// Close ends it as soon as nothing of it is in the pipeline; when ctx ends before, it
// ends it all the same, and then waits for the attempt that is under way, which takes
// no longer than it may.
func (t *Tenure) Close(ctx context.Context) {
	for {
		t.mu.Lock()
		if t.under == 0 || ctx.Err() != nil {
			t.ended = true
		}
		done, change := t.ended && t.tries == 0, t.change
		t.mu.Unlock()
		if done {
			return
		}
		if ctx.Err() != nil {
			<-change // of the attempt
			continue
		}
		select {
		case <-change:
		case <-ctx.Done():
		}
	}
}

// Ended says whether it has ended for good.
func (t *Tenure) Ended() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// lasts says whether there is time for so many attempts, each with half as much again
// to spare. The caller has the lock.
func (t *Tenure) lasts(now time.Time, attempts int) bool {
	if t.ended || t.until.IsZero() {
		return false
	}
	// The monotonic clock stands still while a machine is suspended, the other one may
	// be put back: what either of them says counts.
	left := min(t.until.Sub(now), t.until.Round(0).Sub(now.Round(0)))
	return left >= time.Duration(attempts)*t.within*3/2
}

// hold keeps it from being closed while a batch is made and is in the pipeline; false
// when there is no time for that.
func (t *Tenure) hold(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.lasts(now, 2) { // for the batch before this one and for this one
		return false
	}
	t.under++
	return true
}

// again holds it once more, by who holds it.
func (t *Tenure) again() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.under++
}

func (t *Tenure) release() { t.less(&t.under) }

// try begins an attempt; false when there is no time for one. tried ends it.
func (t *Tenure) try(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.lasts(now, 1) {
		return false
	}
	t.tries++
	return true
}

func (t *Tenure) tried() { t.less(&t.tries) }

func (t *Tenure) less(n *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*n--
	close(t.change)
	t.change = make(chan struct{})
}

// ErrTenureEnded means that a batch was on its way into a store that others write to
// as well when the right to store it ended, so that it is not known here what became
// of it. Only a new start knows.
var ErrTenureEnded = errors.New("others may have been given what this instance was about to store")
