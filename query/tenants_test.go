package query

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// An emitter that uses one id at one time again and again hides nothing, however
// the events are paged, also where the table's order alone is asked for.
func TestEqualEventsInAStoreOfOneTenant(t *testing.T) {
	s := newShelf(t)
	r := rand.New(rand.NewPCG(9, 9))
	events := randomEvents(r, 40)
	for i, e := range events {
		e.Tenant, e.EmitterID, e.EmitterSeq = "acme", "e", uint64(i+1)
		if i%8 != 0 { // runs of eight
			e.OccurredAt, e.EventID = events[i-1].OccurredAt, events[i-1].EventID
		}
	}
	r.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	s.put(t, events[:25]...)
	s.put(t, events[25:]...)
	for _, order := range []string{"occurred_at desc", "occurred_at"} {
		var want []uint64
		for _, e := range s.list(t, &pb.ListEventsRequest{OrderBy: order, PageSize: 1000, Filter: `tenant = "acme"`}).GetEvents() {
			want = append(want, e.GetEmitterSeq())
		}
		for _, size := range []int32{1, 3, 8, 9, 39, 40} {
			var got []uint64
			for _, e := range s.pages(t, &pb.ListEventsRequest{OrderBy: order, PageSize: size}, func() {}) {
				got = append(got, e.GetEmitterSeq())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s in pages of %d:\n%v\nwant\n%v", order, size, got, want)
			}
		}
	}
}

// A search that is told its tenant finds what it would have found without.
func TestAStoreOfOneTenantAndOfMore(t *testing.T) {
	s := newShelf(t)
	r := rand.New(rand.NewPCG(8, 8))
	of := func(tenant string, n int) []*event.Event {
		es := randomEvents(r, n)
		for _, e := range es {
			e.Tenant = tenant
		}
		return es
	}
	want := func(n int, only string) {
		t.Helper()
		tenant, ok, err := s.only(everyone)
		if err != nil || ok != (only != "") || ok && tenant != only {
			t.Errorf("the one tenant is %q, %v, %v; want %q", tenant, ok, err, only)
		}
		for _, req := range []*pb.ListEventsRequest{{}, {OrderBy: "occurred_at"}, {OrderBy: "duration"}, {Filter: `occurred_at > "2000-01-01T00:00:00Z"`}, {Filter: `NOT tenant = "nobody"`}} {
			req.PageSize = 1000
			if got := len(s.list(t, req).GetEvents()); got != n {
				t.Errorf("%v finds %d of %d", req, got, n)
			}
		}
	}
	want(0, "")
	s.put(t, of("acme", 5)...)
	want(5, "acme")
	s.put(t, of("acme", 3)...)
	want(8, "acme")
	// Another tenant, in a log that did not exist before.
	const log = "other"
	if err := s.store.StartLog(everyone, store.LogInfo{ID: log, StartedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	events := of("globex", 2)
	for i, e := range events {
		e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = log, 1, uint32(i), 20819
	}
	if err := s.store.Append(everyone, store.Batch{Events: events, Token: "other"}); err != nil {
		t.Fatal(err)
	}
	want(10, "")
	s.put(t, of("acme", 1)...)
	want(11, "")
}
