package ingest

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
)

func init() { storetest.Server = enginetest.Databases() }

// What is true of the pipeline over the engine in process is true over a server.
func TestThePromisesHoldOnAServer(t *testing.T) {
	enginetest.Again(t, "Promise|Recover|Rival", "Crash|OnAServer")
}

// Promises 1 and 2 with a store that is another process, which a kill -9 ends in the
// middle of whatever it does: what was acknowledged is there afterwards, once, and the
// pipeline goes on by itself when the server is back.
func TestPromise1DurableAcrossCrashesOfTheServer(t *testing.T) {
	server := enginetest.Start(t)
	s, err := store.Open(t.Context(), store.Config{DSN: server.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	p := start(t, quick, s)
	const emitters, crashes = 4, 4
	var acknowledged atomic.Uint64
	var done atomic.Bool
	want := map[key]bool{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, emitter := range []string{"a", "b", "c", "d"}[:emitters] {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(emitter[0]), 1))
			for next := uint64(1); !done.Load(); {
				last := next + r.Uint64N(50)
				events := these(emitter, span(next, last)...)
				for { // as an emitter does: again, until it is acknowledged
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					got, err := p.Submit(ctx, events, 1)
					cancel()
					if err == nil {
						if got.Stored+got.Duplicates != len(events) || len(got.Progress) != 1 || got.Progress[0].Contiguous < last {
							t.Errorf("%s %d to %d: %s", emitter, next, last, describe(got))
						}
						break
					}
					if t.Context().Err() != nil {
						return
					}
					events = these(emitter, span(next, last)...)
					time.Sleep(5 * time.Millisecond)
				}
				mu.Lock()
				for n := next; n <= last; n++ {
					want[key{emitter, n}] = true
				}
				mu.Unlock()
				acknowledged.Add(last - next + 1)
				next = last + 1
			}
		})
	}
	for range crashes {
		before := acknowledged.Load()
		eventually(t, "events are acknowledged", func() bool { return acknowledged.Load() > before+200 })
		time.Sleep(rand.N(30 * time.Millisecond)) // anywhere
		server.Kill()
		server.Restart()
	}
	before := acknowledged.Load()
	eventually(t, "events are acknowledged after the last crash", func() bool { return acknowledged.Load() > before+200 })
	done.Store(true)
	all.Wait()
	p.stop()
	checkKeys(t, checkStore(t, s), want)
	t.Logf("%d events were acknowledged, %d attempts failed", acknowledged.Load(), p.watch.failed)
	if p.watch.failed == 0 {
		t.Error("no crash came in the middle of anything")
	}
}
