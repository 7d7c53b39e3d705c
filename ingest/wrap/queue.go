package wrap

import (
	"sync"
	"time"
)

// queue holds copies of lines until the parser takes them. Putting never
// blocks: when the copies' bytes reach maxBacklog, a line is kept by its length
// alone, so traffic passes at its own speed whatever the parser does.
type queue struct {
	mu     sync.Mutex
	more   sync.Cond
	lines  []passed
	bytes  int
	closed bool

	missed   int // lines since the last take for which there was no room at all
	missedAt time.Time
}

func newQueue() *queue {
	q := &queue{}
	q.more.L = &q.mu
	return q
}

// put adds a line; after close it does nothing.
func (q *queue) put(p passed) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	const overhead = 100 // of a line without its bytes: those are bounded too
	if q.bytes+len(p.line)+overhead > maxBacklog {
		p.line = nil
		if q.bytes+overhead > 2*maxBacklog {
			q.missed++
			q.missedAt = p.at
			return
		}
	}
	q.bytes += len(p.line) + overhead
	q.lines = append(q.lines, p)
	q.more.Signal()
}

// take returns all waiting lines; none means that the queue is closed and empty.
func (q *queue) take() []passed {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lines) == 0 && !q.closed {
		q.more.Wait()
	}
	out := q.lines
	if q.missed > 0 {
		out = append(out, passed{missed: q.missed, at: q.missedAt})
		q.missed = 0
	}
	q.lines, q.bytes = nil, 0
	return out
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.more.Signal()
}
