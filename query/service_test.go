package query

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// everyone is a call that sees all tenants.
var everyone = scopetest.Every(context.Background())

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// shelf is a store with events in it, and the service on it.
type shelf struct {
	*Server
	store *store.Store
	all   []*event.Event
	batch uint64
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := storetest.Open(t, t.TempDir())
	return &shelf{Server: New(Config{}, s, quiet), store: s}
}

// put stores events as one batch.
func (s *shelf) put(t *testing.T, events ...*event.Event) {
	t.Helper()
	s.batch++
	for i, e := range events {
		e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = "log", s.batch, uint32(i), 20819
	}
	if err := s.store.Append(everyone, store.Batch{Events: events, Token: fmt.Sprint(s.batch)}); err != nil {
		t.Fatal(err)
	}
	s.all = append(s.all, events...)
}

func (s *shelf) list(t *testing.T, req *pb.ListEventsRequest) *pb.ListEventsResponse {
	t.Helper()
	resp, err := s.ListEvents(everyone, req)
	if err != nil {
		t.Fatalf("list %v: %v", req, err)
	}
	return resp
}

// pages reads all pages of a search; between is called after each.
func (s *shelf) pages(t *testing.T, req *pb.ListEventsRequest, between func()) []*pb.Event {
	t.Helper()
	var out []*pb.Event
	for range 1000 {
		resp := s.list(t, req)
		out = append(out, resp.GetEvents()...)
		if resp.GetNextPageToken() == "" {
			return out
		}
		if len(resp.GetEvents()) != int(req.GetPageSize()) {
			t.Fatalf("a page that is not the last one has %d events", len(resp.GetEvents()))
		}
		req.PageToken = resp.GetNextPageToken()
		between()
	}
	t.Fatal("the pages have no end")
	return nil
}

func randomEvents(r *rand.Rand, n int) []*event.Event {
	var es []*event.Event
	for range n {
		es = append(es, event.Random(r))
	}
	return es
}

// ids of events, in order.
func ids(events []*pb.Event) string {
	var out []string
	for _, e := range events {
		out = append(out, e.GetEventId())
	}
	return strings.Join(out, " ")
}

func TestPagesAreStableWhileEventsArrive(t *testing.T) {
	few := &fieldmaskpb.FieldMask{Paths: []string{"event_id", "emitter_seq", "batch", "leaf"}} // the engine is quicker with few columns
	for _, order := range []string{"", "occurred_at", "duration desc", "response_bytes"} {
		t.Run(order, func(t *testing.T) {
			s := newShelf(t)
			r := rand.New(rand.NewPCG(1, 1))
			begin := randomEvents(r, 30)
			for i, e := range begin {
				e.OccurredAt = 1795165200e6 + int64(i/7) // many at the same time
				if i%5 == 4 {
					// An emitter that uses an id twice hides no event at a page's border.
					e.EventID, e.OccurredAt, e.Duration = begin[i-1].EventID, begin[i-1].OccurredAt, begin[i-1].Duration
				}
			}
			s.put(t, begin...)
			whole := ids(s.list(t, &pb.ListEventsRequest{OrderBy: order, PageSize: 1000, ReadMask: few}).GetEvents())
			for _, size := range []int32{1, 7, 29, 30} {
				if got := ids(s.pages(t, &pb.ListEventsRequest{OrderBy: order, PageSize: size, ReadMask: few}, func() {})); got != whole {
					t.Fatalf("in pages of %d:\n%s\nin one:\n%s", size, got, whole)
				}
			}
			// Others arrive between the pages, before and behind where the reader is.
			was := map[string]int{}
			for _, e := range begin {
				was[fmt.Sprintf("%s/%d", e.EventID, e.EmitterSeq)]++
			}
			got := s.pages(t, &pb.ListEventsRequest{OrderBy: order, PageSize: 7, ReadMask: few}, func() { s.put(t, randomEvents(r, 3)...) })
			seen := map[string]int{}
			for _, e := range got {
				seen[e.GetEventId()+fmt.Sprint(e.GetBatch(), "/", e.GetLeaf())]++
				delete(was, fmt.Sprintf("%s/%d", e.GetEventId(), e.GetEmitterSeq()))
			}
			if len(was) != 0 {
				t.Errorf("%d events that were there from the start were not listed", len(was))
			}
			for k, n := range seen {
				if n != 1 {
					t.Errorf("%s is listed %d times", k, n)
				}
			}
		})
	}
}

func TestAPageTokenContinuesItsOwnSearchAlone(t *testing.T) {
	s := newShelf(t)
	s.put(t, randomEvents(rand.New(rand.NewPCG(2, 2)), 10)...)
	req := &pb.ListEventsRequest{Filter: `kind != "x"`, PageSize: 3}
	token := s.list(t, req).GetNextPageToken()
	refused := func(token, filter, order, want string) {
		t.Helper()
		_, err := s.ListEvents(everyone, &pb.ListEventsRequest{Filter: filter, OrderBy: order, PageToken: token})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), want) {
			t.Errorf("token %q with %q, %q: %v", token, filter, order, err)
		}
	}
	refused(token, `kind != "y"`, "", "belongs to another search")
	refused(token, ``, "", "belongs to another search")
	refused(token, req.Filter, "duration", "belongs to another search")
	for _, forged := range []string{"x", "AAAA", "!", token + "A", token[1:], strings.Repeat("A", len(token)), strings.Repeat("_", 1024)} {
		refused(forged, req.Filter, "", "page_token: not one that this service gave")
	}
	refused(strings.Repeat("A", 1025), req.Filter, "", "page_token")
	for i := range token { // damage anywhere is seen
		for _, c := range "Az0_-" {
			if damaged := token[:i] + string(c) + token[i+1:]; damaged != token {
				refused(damaged, req.Filter, "", "page_token: not one that this service gave")
			}
		}
	}
	// Another size of page is the same search.
	req.PageToken, req.PageSize = token, 100
	if n := len(s.list(t, req).GetEvents()); n != 7 {
		t.Errorf("%d events are on the second page", n)
	}
}

func TestAPageHasBounds(t *testing.T) {
	s := newShelf(t)
	s.put(t, randomEvents(rand.New(rand.NewPCG(3, 3)), 120)...)
	for _, c := range []struct{ size, want int }{{0, 100}, {1, 1}, {119, 119}, {120, 120}, {1000, 120}} {
		resp := s.list(t, &pb.ListEventsRequest{PageSize: int32(c.size)})
		if n := len(resp.GetEvents()); n != c.want || (resp.GetNextPageToken() == "") != (c.want == 120) {
			t.Errorf("page size %d: %d events, next page %q", c.size, n, resp.GetNextPageToken())
		}
	}
	for _, size := range []int32{-1, 1001, 1 << 30} {
		if _, err := s.ListEvents(everyone, &pb.ListEventsRequest{PageSize: size}); status.Code(err) != codes.InvalidArgument ||
			!strings.Contains(err.Error(), "page_size") {
			t.Errorf("page size %d: %v", size, err)
		}
	}
}

func TestABadFilterIsAnInvalidArgument(t *testing.T) {
	s := New(Config{}, nil, quiet)
	_, err := s.ListEvents(everyone, &pb.ListEventsRequest{Filter: `kind = auth AND outcom = "denied"`})
	if want := `filter, character 17: there is no field "outcom"; the nearest is outcome`; status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != want {
		t.Errorf("%v, want %q", err, want)
	}
	_, err = s.ListEvents(everyone, &pb.ListEventsRequest{Filter: strings.Repeat("x", maxFilter+1)})
	if status.Code(err) != codes.InvalidArgument || len(err.Error()) > 500 {
		t.Errorf("too long a filter: %.500v", err)
	}
}

func TestAnEventIsFoundByItsIDWheneverItOccurred(t *testing.T) {
	s := newShelf(t)
	events := randomEvents(rand.New(rand.NewPCG(4, 4)), 20)
	events[3].OccurredAt -= 3600e6 * 24 * 400 // its id was made much later
	events[4].OccurredAt += 3600e6 * 24 * 400
	s.put(t, events...)
	for i, e := range events {
		for _, id := range []string{e.EventID.String(), strings.ToUpper(e.EventID.String())} {
			resp, err := s.GetEvent(everyone, &pb.GetEventRequest{EventId: id})
			if err != nil {
				t.Fatalf("event %d: %v", i, err)
			}
			got := &event.Event{}
			if err := wire.Sealed(resp.GetEvent(), got); err != nil || got.EmitterSeq != e.EmitterSeq || got.OccurredAt != e.OccurredAt {
				t.Errorf("event %d: %v, %v", i, resp, err)
			}
		}
	}
	for _, id := range []string{"01890a5d-ac96-774b-bcce-b302099a8057", "00000000-0000-0000-0000-000000000000",
		"ffffffff-ffff-ffff-ffff-ffffffffffff", "123e4567-e89b-42d3-a456-426614174000", "fedcba98-7654-4321-8fed-cba987654321"} {
		_, err := s.GetEvent(everyone, &pb.GetEventRequest{EventId: id})
		if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), id) {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, id := range []string{"", "x", "' OR 1 = 1", events[0].EventID.String() + "0"} {
		if _, err := s.GetEvent(everyone, &pb.GetEventRequest{EventId: id}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// broken is a store that fails with what an engine says.
type broken struct{ err error }

func (b broken) Query(context.Context, store.Limits, string, ...any) (driver.Rows, error) {
	return nil, b.err
}

func TestAStoresErrorIsACodeAndNeverItsText(t *testing.T) {
	leak := regexp.MustCompile(`(?i)select|from|/var|exception|code: |events|secret`)
	for _, c := range []struct {
		err  string
		code codes.Code
	}{
		{"Code: 159. DB::Exception: Timeout exceeded: SELECT secret FROM events", codes.DeadlineExceeded},
		{"Code: 160. DB::Exception: Estimated query execution time", codes.DeadlineExceeded},
		{"Code: 241. DB::Exception: Memory limit exceeded /var/lib", codes.ResourceExhausted},
		{"Code: 158. DB::Exception: Limit for rows exceeded", codes.ResourceExhausted},
		{"Code: 62. DB::Exception: Syntax error: SELECT secret FROM events", codes.Unavailable},
		{"dial tcp 10.0.0.1:9000: secret refused", codes.Unavailable},
	} {
		s := New(Config{}, broken{errors.New(c.err)}, quiet)
		_, listErr := s.ListEvents(everyone, &pb.ListEventsRequest{})
		_, getErr := s.GetEvent(everyone, &pb.GetEventRequest{EventId: "01890a5d-ac96-774b-bcce-b302099a8057"})
		for _, err := range []error{listErr, getErr} {
			if status.Code(err) != c.code || leak.MatchString(status.Convert(err).Message()) {
				t.Errorf("%s: %v", c.err, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(everyone)
	cancel()
	if _, err := New(Config{}, broken{context.Canceled}, quiet).ListEvents(ctx, &pb.ListEventsRequest{}); status.Code(err) != codes.Canceled {
		t.Errorf("a caller that left: %v", err)
	}
}

func TestALimitOfTheEngineEndsASearch(t *testing.T) {
	s := newShelf(t)
	s.put(t, randomEvents(rand.New(rand.NewPCG(5, 5)), 100)...)
	s.cfg.Limits = store.Limits{Rows: 10}
	if _, err := s.ListEvents(everyone, &pb.ListEventsRequest{Filter: `method != "x"`}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("too many rows: %v", err)
	}
	s.cfg.Limits = store.Limits{Time: time.Minute}
	if n := len(s.list(t, &pb.ListEventsRequest{Filter: `occurred_at > "2100-01-01T00:00:00Z" AND occurred_at < "2050-01-01T00:00:00Z"`}).GetEvents()); n != 0 {
		t.Errorf("a time range that ends before it begins has %d events", n)
	}
}

// newestFirst sorts as the service does.
func newestFirst(events []*event.Event) {
	slices.SortStableFunc(events, func(a, b *event.Event) int { return int(min(max(b.OccurredAt-a.OccurredAt, -1), 1)) })
}
