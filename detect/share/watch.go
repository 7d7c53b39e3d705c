package share

import (
	"context"
	"sync"
	"time"
)

// watch notices that this process was frozen: stopped, swapped out, its machine
// suspended. It looks at the clock often; when it finds that more time has passed
// since its last look than the coordinator of a group waits for somebody, others may
// have been given what this process holds, and it holds it no more.
//
// Both clocks count: one of them stands still while a machine is suspended, the other
// one can be set.
type watch struct {
	most time.Duration // between two looks
	now  func() time.Time
	lost func() // called once

	mu   sync.Mutex
	last time.Time
	gone bool
}

func newWatch(most time.Duration, now func() time.Time, lost func()) *watch {
	return &watch{most: most, now: now, lost: lost, last: now()}
}

// run looks until ctx ends.
func (w *watch) run(ctx context.Context) {
	tick := time.NewTicker(w.most / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.held()
		}
	}
}

// held looks, and says whether what the process holds is still its own. Whoever is
// about to write asks: it may be the first to run after a freeze.
func (w *watch) held() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	passed := max(now.Sub(w.last), now.Round(0).Sub(w.last.Round(0)))
	if w.last = now; passed > w.most && !w.gone {
		w.gone = true
		w.lost()
	}
	return !w.gone
}
