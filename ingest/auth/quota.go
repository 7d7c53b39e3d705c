package auth

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// PublishLimits are what may be written, 0 for as much as comes. They are limits of
// this instance: each of several keeps its own account, so that N instances let in up
// to N times as much. What is limited is what one instance's disk and memory have to
// take, and an account that they share would be one more thing that all of them wait
// for, and that can fail, before an event is safe.
type PublishLimits struct {
	EmitterEvents, EmitterBytes float64 // a second, of one identity
	TenantEvents, TenantBytes   float64 // a second, of all that write for one tenant
}

const (
	// burst is how many seconds' worth may come at once after a pause: what a spool
	// sends that was cut off for a moment.
	burst = 5
	// The largest request; one has to fit into the smallest quota's burst.
	leastEvents, leastBytes = 5000, 4 << 20
	// mostAccounts is how many identities, and how many tenants, have one of their own.
	mostAccounts = 20_000
	// patience is how long a request waits for its quota. On a stream that is what slows
	// the emitter, without its connection being lost.
	patience = time.Second
	// waiters is how many requests of one payer may wait at a time; each of them is in
	// memory.
	waiters = 32
)

// Quota says how much is written by whom. Its methods may be called by many
// goroutines.
type Quota struct {
	identities, tenants *book
	now                 func() time.Time
}

// NewQuota makes a quota.
func NewQuota(l PublishLimits, now func() time.Time) *Quota {
	return &Quota{identities: newBook(l.EmitterEvents, l.EmitterBytes, mostAccounts), tenants: newBook(l.TenantEvents, l.TenantBytes, mostAccounts), now: now}
}

// Writer is a publisher with what it may spend.
type Writer struct {
	*Publisher
	quota    *Quota
	identity string
}

// Writer is who writes in a call that was let through to write events.
func (q *Quota) Writer(ctx context.Context) (*Writer, error) {
	a, _ := From(ctx)
	p, err := NewPublisher(a)
	if err != nil {
		return nil, err
	}
	// The identity, not its credential: a token is made anew every few minutes, and
	// each would have a quota of its own.
	return &Writer{p, q, a.ID}, nil
}

// Take charges a request before it is read, and waits up to a second for room. When it
// is not ok, nothing is charged, and there will be room after wait, unless others of
// the same payer are faster; wait is 0 when ctx has ended.
func (w *Writer) Take(ctx context.Context, events, bytes int) (wait time.Duration, ok bool) {
	now := w.quota.now()
	tenant := w.quota.tenants.of(w.payer, now)
	delay, cancel, ok := tenant.charge(now, max(events, 1), bytes, w.quota.identities.of(w.identity, now))
	if delay == 0 || !ok {
		return delay, ok
	}
	defer tenant.leave()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return 0, true
	case <-ctx.Done():
		cancel()
		return 0, false
	}
}

// account is what one may spend: two token buckets, nil for no limit.
type account struct {
	events, bytes *rate.Limiter

	mu      sync.Mutex
	waiting int
}

func newAccount(events, bytes float64) *account {
	return &account{events: bucket(events, leastEvents), bytes: bucket(bytes, leastBytes)}
}

func bucket(perSecond float64, least int) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(int(min(perSecond*burst, math.MaxInt32)), least))
}

// charge takes what a request costs out of a tenant's account and an identity's. When
// it has to wait for that, it is one of those that wait until leave; when it would wait
// too long, or too many do, nothing is taken.
func (a *account) charge(now time.Time, events, bytes int, identity *account) (delay time.Duration, cancel func(), ok bool) {
	// Whoever is sent away gives back what was reserved before anybody reserves behind
	// it: what is given back later counts for less.
	a.mu.Lock()
	defer a.mu.Unlock()
	delay, cancel = reserve(now, events, bytes, a, identity)
	switch {
	case delay == 0:
		return 0, cancel, true
	case delay > patience || a.waiting >= waiters:
		cancel()
		return delay, cancel, false
	}
	a.waiting++
	return delay, cancel, true
}

func (a *account) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting--
}

// untouched says whether an account is as a new one: then it can be forgotten.
func (a *account) untouched(now time.Time) bool {
	full := func(b *rate.Limiter) bool { return b == nil || b.TokensAt(now) >= float64(b.Burst()) }
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waiting == 0 && full(a.events) && full(a.bytes)
}

// reserve charges all accounts and says when there is room in all of them. cancel
// takes it back.
func reserve(now time.Time, events, bytes int, all ...*account) (delay time.Duration, cancel func()) {
	var taken []*rate.Reservation
	for _, a := range all {
		for _, x := range [...]struct {
			bucket *rate.Limiter
			n      int
		}{{a.events, events}, {a.bytes, bytes}} {
			if x.bucket == nil {
				continue
			}
			r := x.bucket.ReserveN(now, min(x.n, x.bucket.Burst()))
			delay = max(delay, r.DelayFrom(now))
			taken = append(taken, r)
		}
	}
	return delay, func() {
		for _, r := range taken {
			r.CancelAt(now)
		}
	}
}

// book has the accounts of those who were heard lately. An account is forgotten
// only when it is full again, so that nobody gains by being forgotten. While there
// are more than most that are not, whoever else comes shares one account with all that
// do: many names are worth no more than one.
type book struct {
	events, bytes float64
	most          int

	mu    sync.Mutex
	known *simplelru.LRU[string, *account]
	rest  *account
}

func newBook(events, bytes float64, most int) *book {
	known, _ := simplelru.NewLRU[string, *account](most, nil) // it fails for no size alone
	return &book{events: events, bytes: bytes, most: most, known: known, rest: newAccount(events, bytes)}
}

func (l *book) of(name string, now time.Time) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a, ok := l.known.Get(name); ok {
		return a
	}
	if l.known.Len() >= l.most {
		if _, oldest, _ := l.known.GetOldest(); !oldest.untouched(now) {
			return l.rest
		}
	}
	a := newAccount(l.events, l.bytes)
	l.known.Add(name, a)
	return a
}
