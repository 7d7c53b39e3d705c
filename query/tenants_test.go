package query

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

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
		tenant, ok, err := s.only(context.Background())
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
	log, _, err := s.store.Log(context.Background(), "other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	events := of("globex", 2)
	for i, e := range events {
		e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = log, 1, uint32(i), 20819
	}
	if err := s.store.Append(context.Background(), store.Batch{Events: events, Token: fmt.Sprint("other")}); err != nil {
		t.Fatal(err)
	}
	want(10, "")
	s.put(t, of("acme", 1)...)
	want(11, "")
}
