package auth

import (
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// failures slows down who fails again and again, and keeps a flood of failures from
// becoming a flood of events. A good credential is never delayed: keys and signatures
// are too long to be guessed, so that locking out an address would only help whoever
// wants its other users out.
type failures struct {
	now  func() time.Time
	mu   sync.Mutex
	runs *lru.Cache[string, *failing]
	rest failing // of those for which there was no room or no budget

	budget *rate.Limiter // events a second
	delays chan struct{} // has room for those who are made to wait
}

// failing is the failures of one address, or of one identity, without a long pause.
type failing struct {
	count, noted int // since the run began; how many of them the log has
	last         time.Time
	sample       refused // the newest that the log does not have
}

// refused is what the log says of a refusal.
type refused struct {
	method  string
	who     Caller
	refusal *Refusal
	access  *Access // of one who is known and may not; nil otherwise
}

const (
	mostRuns     = 10_000
	runEnds      = 15 * time.Minute // after the last failure
	notedEach    = 20               // failures of a run of which each is an event
	freeFailures = 5                // that are answered at once
	longestDelay = 5 * time.Second
	mostDelayed  = 500 // at once; others are answered at once
	notesASecond = 50
)

func newFailures(now func() time.Time) *failures {
	runs, _ := lru.New[string, *failing](mostRuns) // the size is positive
	return &failures{now: now, runs: runs, budget: rate.NewLimiter(notesASecond, 4*notesASecond), delays: make(chan struct{}, mostDelayed)}
}

// add counts a failure of an address or identity. When attempts is not 0 it is time
// for an event, which stands for that many. Delay is how long the answer waits.
func (f *failures) add(key string, r refused) (attempts int, delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	run, ok := f.runs.Get(key)
	if ok && now.Sub(run.last) > runEnds {
		f.rest.merge(run)
		ok = false
	}
	if !ok {
		run = &failing{}
		if f.runs.Len() >= mostRuns {
			if _, oldest, there := f.runs.RemoveOldest(); there {
				f.rest.merge(oldest)
			}
		}
		f.runs.Add(key, run)
	}
	run.count, run.last, run.sample = run.count+1, now, r
	// Each of the first ones, then whenever the number has doubled.
	if unnoted := run.count - run.noted; (run.count <= notedEach || unnoted >= run.noted) && f.budget.AllowN(now, 1) {
		attempts, run.noted = unnoted, run.count
	}
	if n := run.count - freeFailures; n > 0 {
		delay = min(100*time.Millisecond<<min(n-1, 10), longestDelay)
	}
	return attempts, delay
}

// merge takes over what the log does not have of a run that is forgotten.
func (f *failing) merge(o *failing) {
	if n := o.count - o.noted; n > 0 {
		f.count, f.sample = f.count+n, o.sample
	}
}

// later counts what could not be noted now.
func (f *failures) later(attempts int, r refused) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rest.count, f.rest.sample = f.rest.count+attempts, r
}

// left is what the log does not have yet and should: of runs that have paused, and of
// what was forgotten. It counts as noted.
func (f *failures) left(pause time.Duration) (out []refused, attempts []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	take := func(run *failing) {
		if n := run.count - run.noted; n > 0 && f.budget.AllowN(now, 1) {
			out, attempts, run.noted = append(out, run.sample), append(attempts, n), run.count
		}
	}
	take(&f.rest)
	for _, key := range f.runs.Keys() {
		run, _ := f.runs.Peek(key)
		if now.Sub(run.last) >= pause {
			take(run)
		}
		if now.Sub(run.last) > runEnds && run.count == run.noted {
			f.runs.Remove(key)
		}
	}
	return out, attempts
}

// network is the part of an address that one customer of a network commonly has whole:
// an IPv4 address, or 64 bits of an IPv6 address (RFC 6177).
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
