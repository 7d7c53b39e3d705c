package query

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func (s *shelf) aggregate(t *testing.T, req *pb.AggregateEventsRequest) *pb.AggregateEventsResponse {
	t.Helper()
	resp, err := s.AggregateEvents(everyone, req)
	if err != nil {
		t.Fatalf("aggregate %v: %v", req, err)
	}
	return resp
}

// counted is an answer as a person reads it: each group's keys, the milliseconds
// of its interval and its number of events.
func counted(resp *pb.AggregateEventsResponse) string {
	var b strings.Builder
	for _, g := range resp.GetGroups() {
		b.WriteString(strings.Join(g.GetKeys(), "/"))
		if g.GetStartTime() != nil {
			fmt.Fprintf(&b, "@%d", g.GetStartTime().AsTime().UnixMilli()-morning/1000)
		}
		fmt.Fprintf(&b, "=%d ", g.GetCount())
	}
	if resp.GetTruncated() {
		b.WriteString("...")
	}
	return strings.TrimSpace(b.String())
}

func TestAggregatesCountAndMeasure(t *testing.T) {
	s := newShelf(t)
	was := func(server, target, outcome, decision string, duration uint64) *event.Event {
		return call(int64(len(s.all))*700, func(e *event.Event) {
			e.Server, e.Target, e.Outcome, e.Decision, e.Duration = server, target, outcome, decision, duration
			e.RequestBytes, e.ResponseBytes = 10, duration
		})
	}
	var all []*event.Event
	for i := range 100 { // durations of 1 to 100 ms
		all = append(all, was("files", "read", "success", "allow", uint64(i+1)*1000))
	}
	for _, outcome := range event.Outcomes {
		for _, decision := range event.Decisions {
			all = append(all, was("git", "push", outcome, decision, 7000))
		}
	}
	all = append(all, was("git", "pull", "success", "none", 0), was("", "", "tool_error", "none", 5e6))
	s.put(t, all...)

	// Measures, by hand: the outcomes tool_error, protocol_error and timeout are
	// errors, denied and deny are denials; each of the eight comes with each decision.
	resp := s.aggregate(t, &pb.AggregateEventsRequest{GroupBy: []string{"server", "target"}})
	if got, want := counted(resp), "files/read=100 git/push=24 /=1 git/pull=1"; got != want {
		t.Errorf("groups are %s, want %s", got, want)
	}
	files, push := resp.GetGroups()[0], resp.GetGroups()[1]
	if files.GetErrors() != 0 || files.GetDenials() != 0 || files.GetRequestBytes() != 1000 || files.GetResponseBytes() != 5050000 {
		t.Errorf("files: %v", files)
	}
	if push.GetErrors() != 3*3 || push.GetDenials() != 3+7 || push.GetRequestBytes() != 240 || push.GetResponseBytes() != 24*7000 {
		t.Errorf("push: %v", push)
	}
	for _, q := range []struct {
		got  *durationpb.Duration
		want time.Duration
	}{{files.GetP50(), 50 * time.Millisecond}, {files.GetP95(), 95 * time.Millisecond}, {files.GetP99(), 99 * time.Millisecond}} {
		if off := (q.got.AsDuration() - q.want).Abs(); q.got == nil || off > time.Millisecond {
			t.Errorf("a quantile is %v, want %s", q.got.AsDuration(), q.want)
		}
	}
	for _, got := range []*durationpb.Duration{push.GetP50(), push.GetP95(), push.GetP99()} {
		if got.AsDuration() != 7*time.Millisecond {
			t.Errorf("a quantile of equal durations is %v", got)
		}
	}
	for order, want := range map[string]string{
		"":        "files=100 git=25 =1",
		"count":   "files=100 git=25 =1",
		"errors":  "git=25 =1 files=100", // 9, 1, 0
		"denials": "git=25 =1 files=100", // 10, 0 and 0: by key
		"bytes":   "files=100 =1 git=25", // 5 051 000, 5 000 010, 168 250
		"p50":     "=1 files=100 git=25", // 5 s, 50 ms, 7 ms
		"p95":     "=1 files=100 git=25", //
		"p99":     "=1 files=100 git=25", //
	} {
		if got := counted(s.aggregate(t, &pb.AggregateEventsRequest{GroupBy: []string{"server"}, OrderBy: order})); got != want {
			t.Errorf("by %q: %s, want %s", order, got, want)
		}
	}
	for _, c := range []struct {
		req  *pb.AggregateEventsRequest
		want string
	}{
		{&pb.AggregateEventsRequest{}, "=126"},
		{&pb.AggregateEventsRequest{Filter: `server = "git"`}, "=25"},
		{&pb.AggregateEventsRequest{Filter: `server = "svn"`}, "=0"}, // all of nothing is one group
		{&pb.AggregateEventsRequest{Filter: `server = "svn"`, GroupBy: []string{"server"}}, ""},
		{&pb.AggregateEventsRequest{Filter: `server = "svn"`, Interval: durationpb.New(time.Second)}, ""},
		{&pb.AggregateEventsRequest{Filter: `target = "push"`, GroupBy: []string{"decision", "server", "kind"}}, "allow/git/tool_call=8 deny/git/tool_call=8 none/git/tool_call=8"},
		{&pb.AggregateEventsRequest{GroupBy: []string{"server"}, Limit: 2}, "files=100 git=25 ..."},
		{&pb.AggregateEventsRequest{GroupBy: []string{"server"}, Limit: 3}, "files=100 git=25 =1"},
		{&pb.AggregateEventsRequest{GroupBy: []string{"server", "server"}, Limit: 1}, "files/files=100 ..."},
	} {
		if got := counted(s.aggregate(t, c.req)); got != c.want {
			t.Errorf("%v: %s, want %s", c.req, got, c.want)
		}
	}
	nothing := s.aggregate(t, &pb.AggregateEventsRequest{Filter: `server = "svn"`}).GetGroups()[0]
	if nothing.GetP50() != nil || nothing.GetP95() != nil || nothing.GetP99() != nil || nothing.GetRequestBytes() != 0 {
		t.Errorf("nothing has measures: %v", nothing)
	}
}

func TestAggregatesCountByTime(t *testing.T) {
	s := newShelf(t)
	var all []*event.Event
	// Twelve a day apart and so on, and one at each end of a hundred years.
	for _, ms := range []int64{-1, 0, 1, 999, 1000, 1999, 60e3, 3600e3, 3600e3 + 1} {
		all = append(all, call(ms, func(e *event.Event) { e.Server = []string{"a", "b"}[(ms%2+2)%2] }))
	}
	old, late := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC).AddDate(-20, 0, 0), time.Date(2106, 11, 20, 9, 0, 0, 1e6, time.UTC)
	for _, at := range []time.Time{old, late} {
		all = append(all, call(at.UnixMilli()-morning/1000, func(e *event.Event) { e.Server = "c" }))
	}
	s.put(t, all...)
	const near = `server != "c"`
	for _, c := range []struct {
		req  *pb.AggregateEventsRequest
		step time.Duration
		want string
	}{
		{&pb.AggregateEventsRequest{Filter: near}, time.Second, "@-1000=1 @0=3 @1000=2 @60000=1 @3600000=2"},
		{&pb.AggregateEventsRequest{Filter: near, OrderBy: "p50"}, time.Minute, "@-60000=1 @0=5 @60000=1 @3600000=2"},
		{&pb.AggregateEventsRequest{Filter: near, GroupBy: []string{"server"}}, time.Hour, "b@-3600000=1 a@0=3 b@0=3 a@3600000=1 b@3600000=1"},
		{&pb.AggregateEventsRequest{Filter: near, Limit: 2}, time.Second, "@-1000=1 @0=3 ..."},
		{&pb.AggregateEventsRequest{Filter: near}, 1500 * time.Millisecond, "@-1500=1 @0=4 @1500=1 @60000=1 @3600000=2"},
		// A hundred years by the second: what counts is how many events there are.
		{&pb.AggregateEventsRequest{Filter: `server = "c" AND occurred_at > "2006-01-01T00:00:00Z" AND occurred_at < "2107-01-01T00:00:00Z"`, Limit: 10000}, time.Second,
			fmt.Sprintf("@%d=1 @%d=1", old.UnixMilli()-morning/1000, late.Truncate(time.Second).UnixMilli()-morning/1000)},
		{&pb.AggregateEventsRequest{Filter: `occurred_at > "2026-11-21T00:00:00Z" AND occurred_at < "2026-11-20T00:00:00Z"`}, time.Second, ""},
	} {
		c.req.Interval = durationpb.New(c.step)
		if got := counted(s.aggregate(t, c.req)); got != c.want {
			t.Errorf("%v: %s, want %s", c.req, got, c.want)
		}
	}
}

// A key is as a filter has it: what a filter with the key finds is the group.
func TestAGroupsKeyFindsItsEvents(t *testing.T) {
	s := newShelf(t)
	s.put(t, randomEvents(rand.New(rand.NewPCG(20, 1)), 12)...)
	groups := 0
	for _, name := range append(slices.Clone(fieldNames), "labels.a", "labels.ключ", `labels.o'dd"\`, "labels.with.dots") {
		if fields[name].kind == MapKind {
			continue
		}
		op := " = "
		if fields[name].kind == ListKind {
			op = " : "
		}
		left := name
		if label, ok := strings.CutPrefix(name, "labels."); ok {
			left = "labels." + quoted(label)
		}
		total := uint64(0)
		for _, g := range s.aggregate(t, &pb.AggregateEventsRequest{GroupBy: []string{name}, Limit: 10000}).GetGroups() {
			groups++
			total += g.GetCount()
			if g.GetKeys()[0] == "" && op == " : " { // no member, or an empty one
				continue
			}
			filter := left + op + quoted(g.GetKeys()[0])
			if fields[name].kind == NumberKind || fields[name].kind == DurationKind || fields[name].kind == BoolKind {
				filter = left + op + g.GetKeys()[0]
			}
			if groups%4 != 0 { // one of four: each takes a statement
				continue
			}
			if got := counted(s.aggregate(t, &pb.AggregateEventsRequest{Filter: filter})); got != fmt.Sprintf("=%d", g.GetCount()) {
				t.Errorf("%s finds %s events, the group has %d", filter, got, g.GetCount())
			}
		}
		if total < 12 || total > 12 && op == " = " {
			t.Errorf("the groups of %s have %d events of 12", name, total)
		}
	}
}

func TestAListCountsOnceForEachMember(t *testing.T) {
	s := newShelf(t)
	signals := func(list ...string) *event.Event {
		return call(0, func(e *event.Event) { e.Signals = list; e.ScopesGranted = list })
	}
	s.put(t, signals("a", "b"), signals("a", "a", "a"), signals(), signals("", "b"))
	for _, c := range []struct {
		by   []string
		want string
	}{
		{[]string{"signals"}, "=2 a=2 b=2"},
		{[]string{"signals", "kind"}, "/tool_call=2 a/tool_call=2 b/tool_call=2"},
		{[]string{"kind", "removed"}, "tool_call/=4"},
		{[]string{"signals", "scopes_granted"}, "/=2 a/a=2 b/b=2 /b=1 a/b=1 b/=1 b/a=1"},
	} {
		if got := counted(s.aggregate(t, &pb.AggregateEventsRequest{GroupBy: c.by})); got != c.want {
			t.Errorf("by %v: %s, want %s", c.by, got, c.want)
		}
	}
}

// No emitter's numbers make a sum small again.
func TestASumDoesNotWrapAround(t *testing.T) {
	s := newShelf(t)
	s.put(t,
		call(0, func(e *event.Event) {
			e.Server, e.RequestBytes, e.ResponseBytes, e.Duration = "big", math.MaxUint64, 1<<63, 1<<53
		}),
		call(0, func(e *event.Event) { e.Server, e.RequestBytes, e.ResponseBytes, e.Duration = "big", 2, 1<<63, 1<<53 }),
		call(0, func(e *event.Event) { e.Server, e.RequestBytes, e.ResponseBytes = "small", 1<<53-1, 5 }))
	resp := s.aggregate(t, &pb.AggregateEventsRequest{GroupBy: []string{"server"}, OrderBy: "bytes"})
	big, small := resp.GetGroups()[0], resp.GetGroups()[1]
	if big.GetKeys()[0] != "big" || big.GetRequestBytes() != math.MaxUint64 || big.GetResponseBytes() != math.MaxUint64 || big.GetP50().AsDuration() < 280*365*24*time.Hour {
		t.Errorf("the large: %v", big)
	}
	if small.GetRequestBytes() != 1<<53-1 || small.GetResponseBytes() != 5 {
		t.Errorf("the small: %v", small)
	}
}

func TestABadAggregateIsAnInvalidArgument(t *testing.T) {
	s := New(Config{}, broken{errors.New("the store was reached")}, quiet)
	by := func(names ...string) *pb.AggregateEventsRequest { return &pb.AggregateEventsRequest{GroupBy: names} }
	for _, c := range []struct {
		req  *pb.AggregateEventsRequest
		want string
	}{
		{by("srver"), `group_by: there is no field "srver"; the nearest is server`},
		{by(""), `group_by: there is no field ""`},
		{by("server", "1) --"), `group_by: there is no field "1) --"`},
		{by("hints.read_only"), `there is no field "hints.read_only"; the nearest is hint_read_only`},
		{by("server.name"), "group_by: server has no parts"},
		{by("labels"), "group_by: name one label, such as labels.team"},
		{by("labels."), "group_by: name one label, such as labels.team"},
		{by("server", "target", "kind", "outcome"), "group_by"},
		{by(strings.Repeat("x", 101)), "group_by"},
		{&pb.AggregateEventsRequest{Filter: "kind"}, "filter, character 1: "},
		{&pb.AggregateEventsRequest{OrderBy: "count desc"}, "order_by"},
		{&pb.AggregateEventsRequest{OrderBy: "keys"}, "order_by"},
		{&pb.AggregateEventsRequest{Limit: -1}, "limit"},
		{&pb.AggregateEventsRequest{Limit: 10001}, "limit"},
		{&pb.AggregateEventsRequest{Interval: durationpb.New(0)}, "interval"},
		{&pb.AggregateEventsRequest{Interval: durationpb.New(time.Second - 1)}, "interval"},
		{&pb.AggregateEventsRequest{Interval: durationpb.New(-time.Hour)}, "interval"},
		{&pb.AggregateEventsRequest{Interval: durationpb.New(366*24*time.Hour + 1)}, "interval"},
		{&pb.AggregateEventsRequest{Interval: &durationpb.Duration{Seconds: math.MaxInt64}}, "interval"},
		{&pb.AggregateEventsRequest{Interval: &durationpb.Duration{Seconds: 5, Nanos: -1}}, "interval"},
		{&pb.AggregateEventsRequest{Interval: &durationpb.Duration{Seconds: 5, Nanos: 2e9}}, "interval"},
	} {
		_, err := s.AggregateEvents(everyone, c.req)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), c.want) || len(err.Error()) > 500 {
			t.Errorf("%v: %v, want %s", c.req, err, c.want)
		}
	}
}
