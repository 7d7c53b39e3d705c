package auth

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// QueryLimits are how much of the store the readers of one tenant may take. Whoever
// reads all tenants runs the service: each of them has places like a tenant, and as much
// time as it takes.
type QueryLimits struct {
	// Seconds of queries a minute, 0 for any. They are charged when a query has ended: one that was
	// let in runs as long as a statement may.
	Seconds float64
	// AtOnce is how many calls run at a time; default 3, one less than the store has
	// places for readers.
	AtOnce int
	// Waiting is how many more wait for one of these, default 32; and Patience for how
	// long at most, default 10 s.
	Waiting  int
	Patience time.Duration
	// Lasting says which calls stay open and mostly wait for something to happen. They
	// take no place and no time, but there are at most Open of a tenant's at a time,
	// default 30. nil for none.
	Lasting func(ctx context.Context) bool
	Open    int
}

// QueryQuota says how much is read for whom. As [Quota] it is of one instance. Its
// methods may be called by many goroutines.
type QueryQuota struct {
	l   QueryLimits
	now func() time.Time

	mu    sync.Mutex
	known *simplelru.LRU[string, *reader]
	rest  *reader
}

// reader is what the readers of one tenant have taken.
type reader struct {
	places chan struct{}
	spent  *rate.Limiter // in milliseconds; nil for no limit

	mu    sync.Mutex
	calls int // that have a place or wait for one
	open  int // that last
}

// NewQueryQuota makes a quota.
func NewQueryQuota(l QueryLimits, now func() time.Time) *QueryQuota {
	fill := func(v *int, by int) {
		if *v == 0 {
			*v = by
		}
	}
	fill(&l.AtOnce, 3)
	fill(&l.Waiting, 32)
	fill(&l.Open, 30)
	if l.Patience == 0 {
		l.Patience = 10 * time.Second
	}
	if l.Lasting == nil {
		l.Lasting = func(context.Context) bool { return false }
	}
	q := &QueryQuota{l: l, now: now}
	q.known, _ = simplelru.NewLRU[string, *reader](mostAccounts, nil) // it fails for no size alone
	q.rest = q.newReader()
	return q
}

func (q *QueryQuota) newReader() *reader {
	r := &reader{places: make(chan struct{}, q.l.AtOnce)}
	if q.l.Seconds > 0 {
		perMinute := q.l.Seconds * 1000
		r.spent = rate.NewLimiter(rate.Limit(perMinute/60), max(int(perMinute), 1))
	}
	return r
}

// of is the reader of a scope. As with [book], one is forgotten only when it is as
// new.
func (q *QueryQuota) of(ctx context.Context, s Scope) *reader {
	name := strings.Join(s.Names, " ") // in which there are no spaces
	if s.Every {
		name = "*"
		if a, ok := From(ctx); ok {
			name += a.ID
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if r, ok := q.known.Get(name); ok {
		return r
	}
	if q.known.Len() >= mostAccounts {
		if _, oldest, _ := q.known.GetOldest(); !oldest.untouched(q.now()) {
			return q.rest
		}
	}
	r := q.newReader()
	q.known.Add(name, r)
	return r
}

func (r *reader) untouched(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls == 0 && r.open == 0 && (r.spent == nil || r.spent.TokensAt(now) >= float64(r.spent.Burst()))
}

// count adds to one of the reader's counts, unless it is at its most already.
func (r *reader) count(n *int, most int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if *n >= most {
		return false
	}
	*n++
	return true
}

func (r *reader) discount(n *int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*n--
}

// Begin waits for a place. The error is a status: of ctx, or RESOURCE_EXHAUSTED with
// RetryInfo. done gives the place back and charges what was used; it may be called
// again.
func (q *QueryQuota) Begin(ctx context.Context, s Scope) (done func(), err error) {
	r := q.of(ctx, s)
	if q.l.Lasting(ctx) {
		if !r.count(&r.open, q.l.Open) {
			return nil, Exhausted("your tenant has as many streams open as it may; close some", time.Minute)
		}
		return sync.OnceFunc(func() { r.discount(&r.open) }), nil
	}
	if wait := r.empty(q.now()); wait > 0 && !s.Every {
		return nil, usedUp(wait)
	}
	if !r.count(&r.calls, q.l.AtOnce+q.l.Waiting) {
		return nil, Exhausted("too many queries of your tenant wait already; send fewer at once", time.Second)
	}
	patience := time.NewTimer(q.l.Patience)
	defer patience.Stop()
	select {
	case r.places <- struct{}{}:
	case <-ctx.Done():
		r.discount(&r.calls)
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-patience.C:
		r.discount(&r.calls)
		return nil, Exhausted("other queries of your tenant take too long; send fewer at once", time.Second)
	}
	began := q.now()
	if wait := r.empty(began); wait > 0 && !s.Every { // those before it have used it up
		<-r.places
		r.discount(&r.calls)
		return nil, usedUp(wait)
	}
	return sync.OnceFunc(func() {
		r.charge(q.now(), q.now().Sub(began))
		<-r.places
		r.discount(&r.calls)
	}), nil
}

func usedUp(wait time.Duration) error {
	return Exhausted("your tenant has used up its time for queries; narrow them, or wait", wait)
}

// empty says for how long there is no time left: until a tenth of a minute's is there
// again, or who waits would be sent away with every try.
func (r *reader) empty(now time.Time) time.Duration {
	if r.spent == nil || r.spent.TokensAt(now) > 0 {
		return 0
	}
	missing := float64(r.spent.Burst())/10 - r.spent.TokensAt(now)
	return time.Duration(missing / float64(r.spent.Limit()) * float64(time.Second))
}

// charge takes time off, more than there is if need be.
func (r *reader) charge(now time.Time, took time.Duration) {
	if r.spent == nil {
		return
	}
	for ms := max(int(took.Milliseconds()), 1); ms > 0; {
		n := min(ms, r.spent.Burst())
		r.spent.ReserveN(now, n)
		ms -= n
	}
}

// Exhausted is the status of somebody who is over quota, and has room again after
// wait.
func Exhausted(text string, wait time.Duration) error {
	st := status.New(codes.ResourceExhausted, text)
	if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}); err == nil {
		st = with
	}
	return st.Err()
}
