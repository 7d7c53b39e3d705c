package ingest

import "sync"

// arrivals stamps requests with the time of their arrival, which never goes back,
// and knows those that are under way.
type arrivals struct {
	mu          sync.Mutex
	last        int64    // newest stamp, or what was said to be settled, whatever is later
	first, tail *arrival // under way, in the order of their stamps
}

// arrival is one request under way.
type arrival struct {
	at             int64 // µs since 1970
	before, behind *arrival
}

// begin stamps a request: now, but later than all that came before and than all that
// was said to be settled. While the clock is behind, because it was put back, stamps
// are a µs apart, so that what is settled goes on.
func (a *arrivals) begin(now int64) *arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = max(now, a.last+1)
	x := &arrival{at: a.last, before: a.tail}
	if a.tail == nil {
		a.first = x
	} else {
		a.tail.behind = x
	}
	a.tail = x
	return x
}

// end notes that a request is sealed, or that it was refused.
func (a *arrivals) end(x *arrival) {
	if x == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if x.before == nil {
		a.first = x.behind
	} else {
		x.before.behind = x.behind
	}
	if x.behind == nil {
		a.tail = x.before
	} else {
		x.behind.before = x.before
	}
}

// settled is the time up to which nothing is under way any more, nor will be.
func (a *arrivals) settled(now int64) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.first != nil {
		return a.first.at - 1
	}
	a.last = max(a.last, now)
	return a.last
}
