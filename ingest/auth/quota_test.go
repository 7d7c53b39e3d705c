package auth

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func writer(t *testing.T, q *Quota, id string, grants ...Grant) *Writer {
	t.Helper()
	i := Identity{ID: id, Grants: grants}
	scope, _ := reach(grants)
	w, err := q.Writer(With(t.Context(), &Access{Identity: i, Permission: Publish, Scope: scope}))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// takes sends full requests until one is refused, and says how many were not and how
// long it was told to wait.
func takes(t *testing.T, w *Writer, events int) (n int, wait time.Duration) {
	t.Helper()
	for n < 1000 {
		wait, ok := w.Take(t.Context(), events, 0)
		if !ok {
			return n, wait
		}
		n++
	}
	return n, 0
}

func TestNobodyWritesFasterThanItsQuota(t *testing.T) {
	for name, l := range map[string]PublishLimits{
		"of the identity": {EmitterEvents: 1000},
		"of the tenant":   {TenantEvents: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := writer(t, NewQuota(l, time.Now), "key:a", writes("acme"))
				began := time.Now()
				// A burst of 5000, then 1000 a second, for which a request waits half a second.
				for i := range 20 {
					if wait, ok := w.Take(t.Context(), 500, 100); !ok {
						t.Fatalf("request %d is refused for %v", i, wait)
					}
				}
				if took := time.Since(began); took != 5*time.Second {
					t.Errorf("10,000 events took %v", took)
				}
				if wait, ok := w.Take(t.Context(), 4000, 100); ok || wait != 4*time.Second {
					t.Errorf("4000 more: %v, %v", wait, ok)
				}
				time.Sleep(4 * time.Second)
				if wait, ok := w.Take(t.Context(), 4000, 100); !ok {
					t.Errorf("after that time it has to wait for %v more", wait)
				}
			})
		})
	}
}

func TestBytesAreLimitedLikeEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := writer(t, NewQuota(PublishLimits{TenantBytes: 1 << 20}, time.Now), "key:a", writes("acme"))
		for range 5 {
			if _, ok := w.Take(t.Context(), 1, 1<<20); !ok {
				t.Fatal("the burst is refused")
			}
		}
		if wait, ok := w.Take(t.Context(), 1, 4<<20); ok || wait != 4*time.Second {
			t.Errorf("4 MiB more: %v, %v", wait, ok)
		}
	})
}

// The smallest quota lets the largest request pass, now and then.
func TestARequestLargerThanAQuotaPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := writer(t, NewQuota(PublishLimits{EmitterEvents: 0.5, EmitterBytes: 10, TenantEvents: 0.5, TenantBytes: 10}, time.Now), "key:a", writes("acme"))
		for i := range 3 {
			for tries := 0; ; tries++ {
				wait, ok := w.Take(t.Context(), 6000, 5<<20)
				if ok {
					break
				}
				if tries == 2 {
					t.Fatalf("request %d is never taken", i)
				}
				time.Sleep(wait)
			}
		}
	})
}

func TestATenantAtItsQuotaSlowsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQuota(PublishLimits{TenantEvents: 1000, EmitterEvents: 1000}, time.Now)
		stop := make(chan struct{})
		var hostile sync.WaitGroup
		for n := range 200 { // of many identities
			w := writer(t, q, fmt.Sprint("key:", n), writes("hostile"))
			hostile.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if wait, ok := w.Take(t.Context(), 5000, 1<<20); !ok {
						time.Sleep(wait / 10)
					}
				}
			})
		}
		w := writer(t, q, "key:good", writes("good"))
		for range 60 {
			began := time.Now()
			if wait, ok := w.Take(t.Context(), 500, 1000); !ok || time.Since(began) > 0 {
				t.Errorf("it is told to wait for %v, took %v", wait, time.Since(began))
			}
			time.Sleep(time.Second)
		}
		close(stop)
		hostile.Wait()
	})
}

// Whoever sends without end gets its quota, and loses nothing of it by asking in vain.
func TestAskingInVainCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQuota(PublishLimits{TenantEvents: 1000}, time.Now)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		var mu sync.Mutex
		taken := 0
		var all sync.WaitGroup
		for n := range 50 {
			w := writer(t, q, fmt.Sprint("key:", n), writes("acme"))
			all.Go(func() {
				for ctx.Err() == nil {
					if _, ok := w.Take(ctx, 300+n, 1); ok {
						mu.Lock()
						taken += 300 + n
						mu.Unlock()
					} else {
						time.Sleep(100 * time.Millisecond)
					}
				}
			})
		}
		all.Wait()
		if taken < 100_000 || taken > 106_000 {
			t.Errorf("%d events were taken in 100 seconds of 1000 each, and a burst of 5000", taken)
		}
	})
}

func TestOnlySoManyRequestsOfATenantWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := writer(t, NewQuota(PublishLimits{TenantEvents: 1000}, time.Now), "key:a", writes("acme"))
		if n, _ := takes(t, w, 5000); n != 1 {
			t.Fatalf("%d requests are a burst", n)
		}
		var mu sync.Mutex
		taken, refused := 0, 0
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				_, ok := w.Take(t.Context(), 1, 1)
				mu.Lock()
				defer mu.Unlock()
				if ok {
					taken++
				} else {
					refused++
				}
			})
		}
		all.Wait()
		if taken != waiters || refused != 100-waiters {
			t.Errorf("%d waited and %d were refused", taken, refused)
		}
		if w.quota.tenants.of("tenant acme", time.Now()).waiting != 0 {
			t.Error("somebody still waits")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, _ := takes(t, w, 5000); n != 0 {
			t.Errorf("%d requests", n)
		}
		if wait, ok := w.Take(ctx, 500, 1); ok || wait != 0 {
			t.Errorf("a call that has ended: %v, %v", wait, ok)
		}
	})
}

// A new token of the same identity, or a new name for the one who was forgotten, is
// no new quota.
func TestManyNamesAreWorthNoMoreThanOne(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	b := newBook(1000, 0, 3)
	spent := 0
	for n := range 1000 {
		a := b.of(fmt.Sprint(n), now)
		if a.events.AllowN(now, 5000) {
			spent++
		}
	}
	if spent != 4 || b.known.Len() != 3 {
		t.Errorf("%d bursts were spent by names in a book of 3, of which %d are known", spent, b.known.Len())
	}
	now = now.Add(5 * time.Second) // they are full again
	for n := range 1000 {
		if b.of(fmt.Sprint("later ", n), now).events.AllowN(now, 5000) {
			spent++
		}
	}
	if spent != 8 || b.known.Len() != 3 {
		t.Errorf("%d bursts were spent, %d are known", spent, b.known.Len())
	}
}

func checkExhausted(t *testing.T, err error, wait time.Duration) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != codes.ResourceExhausted || len(st.Details()) != 1 {
		t.Fatalf("answered %v", err)
	}
	if got := st.Details()[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration(); got != wait {
		t.Errorf("it is told to wait for %v, want %v", got, wait)
	}
}

func of(tenants ...string) Scope { return Scope{Names: tenants} }

func TestATenantsQueriesTakeNoMoreThanTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueryQuota(QueryLimits{Seconds: 30}, time.Now)
		query := func(s Scope, took time.Duration) error {
			done, err := q.Begin(t.Context(), s)
			if err == nil {
				time.Sleep(took)
				done()
				done()
			}
			return err
		}
		if err := query(of("a"), 29*time.Second); err != nil {
			t.Fatal(err)
		}
		if err := query(of("a"), 40*time.Second); err != nil { // one second was left, and 20 came while it ran
			t.Fatal(err)
		}
		err := query(of("a"), 0)
		checkExhausted(t, err, 44*time.Second) // 19 too many, and a tenth of a minute's
		if err := query(of("b"), 0); err != nil {
			t.Errorf("another tenant: %v", err)
		}
		time.Sleep(status.Convert(err).Details()[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration())
		if err := query(of("a"), 0); err != nil {
			t.Errorf("after that time: %v", err)
		}
		for range 2 {
			if err := query(Scope{Every: true}, time.Hour); err != nil {
				t.Errorf("who reads all tenants: %v", err)
			}
		}
	})
}

func TestATenantLeavesPlacesToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueryQuota(QueryLimits{Lasting: func(ctx context.Context) bool { return ctx.Value(lasts{}) != nil }, Open: 2}, time.Now)
		var held []func()
		for range 3 {
			done, err := q.Begin(t.Context(), of("a"))
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, done)
		}
		var errs [40]error
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() {
				done, err := q.Begin(t.Context(), of("a"))
				if errs[i] = err; err == nil {
					done()
				}
			})
		}
		synctest.Wait()
		if done, err := q.Begin(t.Context(), of("b")); err != nil {
			t.Errorf("another tenant: %v", err)
		} else {
			done()
		}
		ctx := context.WithValue(t.Context(), lasts{}, true)
		for range 2 {
			if done, err := q.Begin(ctx, of("a")); err != nil {
				t.Errorf("a watch: %v", err)
			} else {
				held = append(held, done)
			}
		}
		_, err := q.Begin(ctx, of("a"))
		checkExhausted(t, err, time.Minute)
		ended, end := context.WithCancel(t.Context())
		end()
		if _, err := q.Begin(ended, of("c")); err != nil && status.Code(err) != codes.Canceled {
			t.Errorf("a call that has ended: %v", err)
		}
		all.Wait() // their patience has ended
		for i := range errs {
			checkExhausted(t, errs[i], time.Second)
		}
		for _, done := range held {
			done()
		}
		if done, err := q.Begin(t.Context(), of("a")); err != nil {
			t.Errorf("when the others have ended: %v", err)
		} else {
			done()
		}
		if r := q.of(t.Context(), of("a")); r.calls != 0 || r.open != 0 || len(r.places) != 0 {
			t.Errorf("something is still held: %d calls, %d streams", r.calls, r.open)
		}
	})
}

type lasts struct{}
