package query

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Each order, in both directions, is the order of the numbers, the largest that
// there are among them, in one page and in many.
func TestEveryOrderIsThatOfItsNumbers(t *testing.T) {
	s := newShelf(t)
	r := rand.New(rand.NewPCG(40, 1))
	events := randomEvents(r, 40)
	for i, e := range events {
		e.RequestBytes = []uint64{0, 1, 1<<53 + 1, math.MaxInt64, 1 << 63, math.MaxUint64}[i%6]
		e.ResponseBytes = events[max(0, i-1)].RequestBytes
		e.Duration = []uint64{0, 999, 1 << 53}[i%3]
		e.ReceivedAt = morning + int64(i/5)
	}
	s.put(t, events...)
	numbers := map[string]func(*event.Event) uint64{
		"occurred_at": func(e *event.Event) uint64 { return uint64(e.OccurredAt) }, "received_at": func(e *event.Event) uint64 { return uint64(e.ReceivedAt) },
		"duration": func(e *event.Event) uint64 { return e.Duration }, "request_bytes": func(e *event.Event) uint64 { return e.RequestBytes },
		"response_bytes": func(e *event.Event) uint64 { return e.ResponseBytes },
	}
	if len(numbers) != len(orders) {
		t.Fatalf("there are %d orders", len(orders))
	}
	for name, number := range numbers {
		up := slices.Clone(events)
		// Equal ones by time; no two are of the same microsecond.
		slices.SortFunc(up, func(a, b *event.Event) int {
			return cmp.Or(cmp.Compare(number(a), number(b)), cmp.Compare(a.OccurredAt, b.OccurredAt))
		})
		var asc []string
		for _, e := range up {
			asc = append(asc, e.EventID.String())
		}
		desc := slices.Clone(asc)
		slices.Reverse(desc)
		for order, want := range map[string][]string{name: asc, name + " asc": asc, name + " desc": desc, "  " + name + "\tdesc ": desc} {
			for _, size := range []int32{40, 13} {
				req := &pb.ListEventsRequest{OrderBy: order, PageSize: size, ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"event_id"}}}
				if got := ids(s.pages(t, req, func() {})); got != strings.Join(want, " ") {
					t.Errorf("by %q in pages of %d:\n got %s\nwant %s", order, size, got, want)
				}
			}
		}
	}
}

func TestABadOrderIsAnInvalidArgument(t *testing.T) {
	s := New(Config{}, broken{errors.New("the store was reached")}, quiet)
	for _, order := range []string{"principal", "duration_us", "Duration", "duration DESC", "duration desc desc", "duration, occurred_at", "duration,", "desc", "-duration",
		"1; DROP TABLE events", "rand()", "duration\x00", strings.Repeat("x", 10<<20)} {
		_, err := s.ListEvents(everyone, &pb.ListEventsRequest{OrderBy: order})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), "order_by") || len(err.Error()) > 500 {
			t.Errorf("%.60q: %.300v", order, err)
		}
	}
}

// A page token belongs to an order and a direction, and no token that anybody
// makes up, with a right checksum even, makes a statement fail.
func TestAForgedPageTokenIsRefusedOrHarmless(t *testing.T) {
	s := newShelf(t)
	s.put(t, randomEvents(rand.New(rand.NewPCG(41, 1)), 10)...)
	var names []string
	for _, o := range orders {
		names = append(names, o.name, o.name+" desc")
	}
	few := &fieldmaskpb.FieldMask{Paths: []string{"event_id"}}
	for _, by := range names {
		token := s.list(t, &pb.ListEventsRequest{OrderBy: by, PageSize: 4, ReadMask: few}).GetNextPageToken()
		for _, other := range names {
			if other == by {
				continue
			}
			_, err := s.ListEvents(everyone, &pb.ListEventsRequest{OrderBy: other, PageToken: token})
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "belongs to another search") {
				t.Errorf("a token by %q for %q: %v", by, other, err)
			}
		}
		if by == "duration desc" {
			for n := range token {
				if _, err := s.ListEvents(everyone, &pb.ListEventsRequest{OrderBy: by, PageToken: token[:n]}); n > 0 && status.Code(err) != codes.InvalidArgument {
					t.Errorf("the first %d characters of a token: %v", n, err)
				}
			}
		}
	}
	numbers := []int64{0, 1, -1, math.MinInt64, math.MaxInt64, morning, 7289654400e6, 1 << 53}
	logs := []string{"", "log", "'; --", `\`, "\\'", "nul\x00", "\xff\xfe", "tab\t\nline", "{after_id:String}", strings.Repeat("x", 500)}
	refused := 0
	for i := range 80 {
		by, err := readOrder(names[i%len(names)])
		if err != nil {
			t.Fatal(err)
		}
		n := func(k int) int64 { return numbers[(i/k+k)%len(numbers)] }
		e := &event.Event{OccurredAt: n(10), ReceivedAt: n(3), Duration: uint64(n(1)), RequestBytes: uint64(n(1)), ResponseBytes: uint64(n(1)),
			Batch: uint64(n(2)), Leaf: uint32(n(5)), LogID: logs[i%len(logs)]}
		if i%3 == 0 {
			e.OccurredAt, e.ReceivedAt = morning, morning
		}
		_, err = s.ListEvents(everyone, &pb.ListEventsRequest{OrderBy: names[i%len(names)], PageToken: by.token(e, ""), ReadMask: few})
		if err == nil && (!storable(e.OccurredAt) || by.name == "received_at" && !storable(e.ReceivedAt)) {
			t.Errorf("by %s, a token of times that no event has, %d and %d, is taken", names[i%len(names)], e.OccurredAt, e.ReceivedAt)
		}
		if err != nil {
			refused++
			if status.Code(err) != codes.InvalidArgument || storable(e.OccurredAt) && storable(e.ReceivedAt) {
				t.Errorf("by %s, a token of %d, %d, %d, log %q: %v", names[i%len(names)], e.OccurredAt, e.ReceivedAt, e.Duration, e.LogID, err)
			}
		}
	}
	if refused == 0 || refused == 80 {
		t.Errorf("%d of 80 tokens were refused", refused)
	}
}
