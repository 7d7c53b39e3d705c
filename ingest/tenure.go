package ingest

import (
	"errors"
	"sync/atomic"
	"time"
)

// Tenure is for how long an instance may store the events of a source whose other
// instances write to the same store. Who is given the same events after it must find
// what it has stored: so it stores nothing of them after the tenure has ended, and no
// attempt to store them outlives it. The source extends it as long as it is sure that
// nobody else has been given them.
//
// Without one, an instance that was frozen for a minute would wake up, and store what
// another one has stored meanwhile.
type Tenure struct {
	within time.Duration
	until  atomic.Pointer[time.Time]
}

// NewTenure begins with one that has ended. Within is how long an attempt to store
// may take; it is cut off then, here and in the store.
func NewTenure(within time.Duration) *Tenure {
	t := &Tenure{within: within}
	t.End()
	return t
}

// Extend says that it lasts until then, by this process's own clock. It never makes
// it shorter.
func (t *Tenure) Extend(until time.Time) {
	for {
		was := t.until.Load()
		if !until.After(*was) || t.until.CompareAndSwap(was, &until) {
			return
		}
	}
}

// End ends it.
func (t *Tenure) End() { t.until.Store(&time.Time{}) }

// lasts says whether there is time for so many attempts, each with half as much
// again to spare.
func (t *Tenure) lasts(now time.Time, attempts int) bool {
	until := *t.until.Load()
	if until.IsZero() {
		return false
	}
	// The monotonic clock stands still while a machine is suspended, the other one may
	// be put back: what either of them says counts.
	left := min(until.Sub(now), until.Round(0).Sub(now.Round(0)))
	return left >= time.Duration(attempts)*t.within*3/2
}

// ErrTenureEnded means that a batch was on its way into a store that others write to
// as well when the right to store it ended, so that it is not known here what became
// of it. Only a new start knows.
var ErrTenureEnded = errors.New("others may have been given what this instance was about to store")
