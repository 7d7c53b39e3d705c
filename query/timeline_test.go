package query

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// morning is when the events of these tests occur: 2026-11-20T09:00:00Z.
const morning = int64(1795165200e6)

var made atomic.Uint64

// call is a tool call at a number of milliseconds after morning. Its id sorts by
// when it was made.
func call(ms int64, change func(*event.Event)) *event.Event {
	n := made.Add(1)
	var noise [10]byte
	noise[2], noise[3], noise[4] = byte(n>>16), byte(n>>8), byte(n)
	e := &event.Event{
		EventID: event.NewID(time.UnixMicro(morning), noise), EmitterID: "e", EmitterSeq: n, OccurredAt: morning + ms*1000,
		Duration: 1000, Server: "files", Kind: "tool_call", Method: "tools/call", Target: "read", Outcome: "success", Hints: event.DefaultHints,
	}
	e.ReceivedAt = e.OccurredAt + int64(e.Duration)
	if change != nil {
		change(e)
	}
	e.SetDefaults()
	return e
}

// span is a change that gives a call its trace and its name, in target.
func span(trace, name, id, parent string, more ...func(*event.Event)) func(*event.Event) {
	return func(e *event.Event) {
		e.TraceID, e.Target, e.SpanID, e.ParentSpanID = trace, name, id, parent
		for _, change := range more {
			change(e)
		}
	}
}

func lasts(ms uint64) func(*event.Event)  { return func(e *event.Event) { e.Duration = ms * 1000 } }
func at(server string) func(*event.Event) { return func(e *event.Event) { e.Server = server } }
func from(id string, n uint64) func(*event.Event) {
	return func(e *event.Event) { e.EmitterID, e.EmitterSeq = id, n }
}

// drawn is a timeline as a person reads it: an entry's name, indented by its
// depth, then what is odd about it.
func drawn(resp *pb.GetTimelineResponse) string {
	var b strings.Builder
	for _, e := range resp.GetEntries() {
		b.WriteString(strings.Repeat(">", int(e.GetDepth())) + e.GetEvent().GetTarget())
		if e.GetParentMissing() {
			b.WriteString("?")
		}
		if e.GetGap() != nil {
			fmt.Fprintf(&b, "+%s", e.GetGap().AsDuration())
		}
		if e.GetMissingBefore() > 0 {
			fmt.Fprintf(&b, "!%d", e.GetMissingBefore())
		}
		b.WriteString(" ")
	}
	if resp.GetTruncated() {
		b.WriteString("...")
	}
	return strings.TrimSpace(b.String())
}

func trace(id string) *pb.GetTimelineRequest {
	return &pb.GetTimelineRequest{Subject: &pb.GetTimelineRequest_TraceId{TraceId: id}}
}

func ms(n int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMicro(morning + n*1000)) }

func TestATimelineHasParentsAndGaps(t *testing.T) {
	s := newShelf(t)
	for _, c := range []struct {
		what, want string
		events     []*event.Event
	}{
		{"a call in a call in a call", "agent >search >>fetch >answer", []*event.Event{
			call(0, span("nested", "agent", "1", "", lasts(100))),
			call(10, span("nested", "search", "2", "1", lasts(50))),
			call(20, span("nested", "fetch", "3", "2")),
			call(70, span("nested", "answer", "4", "1")),
		}},
		{"a parent whose clock is behind, and one of the same time", ">early >same >>inner parent", []*event.Event{
			call(0, span("clocks", "early", "2", "1", lasts(30))),
			call(10, span("clocks", "same", "3", "1", lasts(20))),
			call(10, span("clocks", "inner", "4", "3", lasts(20))),
			call(10, span("clocks", "parent", "1", "", lasts(20))),
		}},
		{"a parent that is not there", "orphan? >child", []*event.Event{
			call(0, span("orphan", "orphan", "2", "gone", lasts(5))),
			call(1, span("orphan", "child", "3", "2")),
		}},
		{"parents that go round", "own one two three >tail >>end", []*event.Event{
			call(0, span("circle", "own", "0", "0", lasts(90))),
			call(1, span("circle", "one", "1", "3")),
			call(2, span("circle", "two", "2", "1")),
			call(3, span("circle", "three", "3", "2")),
			call(4, span("circle", "tail", "4", "2")),
			call(5, span("circle", "end", "5", "4")),
		}},
		{"two events of one span, each its own parent", "first second", []*event.Event{
			call(0, span("twins", "first", "1", "1", lasts(9))),
			call(1, span("twins", "second", "1", "1")),
		}},
		{"a server that keeps the caller's span", "gateway >files later+19ms same", []*event.Event{
			call(0, span("kept", "gateway", "1", "", lasts(20), at("gateway"))),
			call(5, span("kept", "files", "1", "", lasts(10), at("files"))),
			call(39, span("kept", "later", "1", "", lasts(10), at("files"))), // after the gateway's call
			call(40, span("kept", "same", "1", "", lasts(5), at("files"))),   // of the same server
		}},
		{"the innermost of those that keep a span", "outer >middle >>inner", []*event.Event{
			call(0, span("deep", "outer", "1", "", lasts(50), at("a"))),
			call(1, span("deep", "middle", "1", "", lasts(40), at("b"))),
			call(2, span("deep", "inner", "1", "", lasts(30), at("a"))),
		}},
		{"silence", "long short overlapping after+5ms end touching+3s", []*event.Event{
			call(0, span("gaps", "long", "1", "", lasts(100))),
			call(10, span("gaps", "short", "2", "", lasts(1))),
			call(50, span("gaps", "overlapping", "3", "", lasts(50))),
			call(105, span("gaps", "after", "4", "", lasts(10))),
			call(115, span("gaps", "end", "5", "", lasts(0))),
			call(3115, span("gaps", "touching", "6", "", lasts(0))),
		}},
		{"a call that lasts as long as can be", "endless never", []*event.Event{
			call(0, span("endless", "endless", "1", "", func(e *event.Event) { e.Duration = 1 << 53 })),
			call(3600e3*24*365*50, span("endless", "never", "2", "")),
		}},
		{"no spans at all", "a b+1ms", []*event.Event{
			call(0, span("plain", "a", "", "")),
			call(2, span("plain", "b", "", "")),
		}},
	} {
		for i, e := range c.events { // their numbers have no gaps
			e.EmitterID, e.EmitterSeq = c.events[0].TraceID, uint64(i+1)
		}
		s.put(t, c.events...)
		resp, err := s.GetTimeline(everyone, trace(c.events[0].TraceID))
		if err != nil || drawn(resp) != c.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", c.what, drawn(resp), err, c.want)
		}
	}
	resp, err := s.GetTimeline(everyone, trace("never heard of"))
	if err != nil || len(resp.GetEntries()) != 0 || resp.GetTruncated() {
		t.Errorf("an unknown trace: %v, %v", resp, err)
	}
}

// What is missing is counted by the emitter's numbers, wherever the events that
// the store does have belong.
func TestATimelineSaysWhatIsMissingBefore(t *testing.T) {
	s := newShelf(t)
	s.put(t,
		call(0, span("t", "one", "", "", lasts(500), from("a", 1))),
		call(1, span("other", "two", "", "", from("a", 2))), // another trace's: not missing
		call(2, span("t", "five", "", "", from("a", 5))),    // 3 and 4 are missing
		call(3, span("t", "six", "", "", from("a", 6))),
		call(4, span("other", "nine", "", "", from("a", 9))),
		call(5, span("t", "twelve", "", "", from("a", 12))), // 7, 8, 10, 11
		call(6, span("t", "first of b", "", "", from("b", 100))),
		call(7, span("t", "second of b", "", "", from("b", 1<<63+5))),
		// Numbered when they ended: the outer call last, and 4 is missing.
		call(8, span("t", "outer", "", "", from("c", 5))),
		call(9, span("t", "inner", "", "", from("c", 3))),
		call(10, span("t", "last", "", "", from("c", 6))),
	)
	resp, err := s.GetTimeline(everyone, trace("t"))
	want := fmt.Sprintf("one five!2 six twelve!4 first of b second of b!%d outer!1 inner last", uint64(1<<63+5-101))
	if err != nil || drawn(resp) != want {
		t.Errorf(" got %s, %v\nwant %s", drawn(resp), err, want)
	}
	// Of many emitters, each one's.
	var many []*event.Event
	for i := range 2100 {
		id := fmt.Sprintf("emitter %04d", i)
		many = append(many, call(int64(i), span("many", "a", "", "", lasts(5000), from(id, 7))), call(int64(i), span("many", "b", "", "", from(id, 9+uint64(i)))))
	}
	s.put(t, many...)
	req := trace("many")
	req.Limit = 5000
	resp, err = s.GetTimeline(everyone, req)
	if err != nil || len(resp.GetEntries()) != 4200 {
		t.Fatalf("%d entries, %v", len(resp.GetEntries()), err)
	}
	for _, e := range resp.GetEntries() {
		want := uint64(0)
		if e.GetEvent().GetTarget() == "b" {
			want = e.GetEvent().GetEmitterSeq() - 8
		}
		if e.GetMissingBefore() != want {
			t.Errorf("%s of %s: %d are missing, want %d", e.GetEvent().GetTarget(), e.GetEvent().GetEmitterId(), e.GetMissingBefore(), want)
		}
	}
}

func TestATimelineIsOfOneSubjectAndTime(t *testing.T) {
	s := newShelf(t)
	who := func(e *event.Event) { e.Principal, e.SessionID, e.TaskID, e.TraceID = "agent:ci", "s", "k", "t" }
	names := func(name string, change func(*event.Event)) func(*event.Event) {
		return func(e *event.Event) { e.Target = name; e.Duration = 3600e6; change(e) }
	}
	s.put(t,
		call(0, names("a", who)), call(1, names("b", who)), call(2, names("c", who)), call(3, names("d", who)),
		call(1, names("principal", func(e *event.Event) { e.Principal = "agent:ci" })),
		call(1, names("session", func(e *event.Event) { e.SessionID = "s" })),
		call(1, names("task", func(e *event.Event) { e.TaskID = "k" })),
		call(1, names("trace", func(e *event.Event) { e.TraceID = "t" })),
		call(1, names("nobody", func(*event.Event) {})),
	)
	subjects := map[string]*pb.GetTimelineRequest{
		"principal": {Subject: &pb.GetTimelineRequest_Principal{Principal: "agent:ci"}},
		"session":   {Subject: &pb.GetTimelineRequest_SessionId{SessionId: "s"}},
		"task":      {Subject: &pb.GetTimelineRequest_TaskId{TaskId: "k"}},
		"trace":     {Subject: &pb.GetTimelineRequest_TraceId{TraceId: "t"}},
	}
	year := func(y int) *timestamppb.Timestamp { return timestamppb.New(time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC)) }
	nano := func(at *timestamppb.Timestamp) *timestamppb.Timestamp { at.Nanos++; return at }
	for _, c := range []struct {
		from, to *timestamppb.Timestamp
		limit    int32
		want     string // with X for the subject's own one
	}{
		{nil, nil, 0, "a b X c d"},
		{ms(1), nil, 0, "b X c d"},
		{nil, ms(2), 0, "a b X"}, // the end is not part of it
		{ms(1), ms(3), 0, "b X c"},
		{nano(ms(1)), nano(ms(3)), 0, "c d"},
		{ms(4), nil, 0, ""},
		{year(1970), year(2200), 0, "a b X c d"},
		{year(2000), year(2100), 0, "a b X c d"},
		{nil, nil, 5, "a b X c d"},
		{nil, nil, 4, "a b X c ..."}, // the oldest
		{ms(2), nil, 1, "c ..."},
		{nil, nil, 10000, "a b X c d"},
	} {
		for own, req := range subjects {
			req.StartTime, req.EndTime, req.Limit = c.from, c.to, c.limit
			resp, err := s.GetTimeline(everyone, req)
			got := ""
			for _, e := range resp.GetEntries() {
				got += e.GetEvent().GetTarget() + " "
			}
			if resp.GetTruncated() {
				got += "..."
			}
			if want := strings.ReplaceAll(c.want, "X", own); err != nil || strings.TrimSpace(got) != want {
				t.Errorf("%s from %v to %v, at most %d: %s, %v; want %s", own, c.from, c.to, c.limit, got, err, want)
			}
		}
	}
}

func TestABadTimelineIsAnInvalidArgument(t *testing.T) {
	s := New(Config{}, broken{errors.New("the store was reached")}, quiet)
	of := &pb.GetTimelineRequest_TraceId{TraceId: "t"}
	for _, c := range []struct {
		req  *pb.GetTimelineRequest
		want string
	}{
		{&pb.GetTimelineRequest{}, "subject"},
		{trace(""), "trace_id"},
		{trace(strings.Repeat("x", 257)), "trace_id"},
		{&pb.GetTimelineRequest{Subject: &pb.GetTimelineRequest_Principal{Principal: strings.Repeat("x", 10<<20)}}, "principal"},
		{&pb.GetTimelineRequest{Subject: of, StartTime: ms(1), EndTime: ms(0)}, "start_time must be before end_time"},
		{&pb.GetTimelineRequest{Subject: of, StartTime: ms(1), EndTime: ms(1)}, "start_time must be before end_time"},
		{&pb.GetTimelineRequest{Subject: of, StartTime: &timestamppb.Timestamp{Seconds: -1}}, "between the years 1970 and 2200"},
		{&pb.GetTimelineRequest{Subject: of, EndTime: &timestamppb.Timestamp{Seconds: 253402300799}}, "between the years 1970 and 2200"},
		{&pb.GetTimelineRequest{Subject: of, EndTime: &timestamppb.Timestamp{Seconds: 1 << 62}}, "between the years 1970 and 2200"},
		{&pb.GetTimelineRequest{Subject: of, StartTime: &timestamppb.Timestamp{Nanos: -5}}, "between the years 1970 and 2200"},
		{&pb.GetTimelineRequest{Subject: of, Limit: -1}, "limit"},
		{&pb.GetTimelineRequest{Subject: of, Limit: 10001}, "limit"},
	} {
		_, err := s.GetTimeline(everyone, c.req)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), c.want) || len(err.Error()) > 500 {
			t.Errorf("%.200v: %.500v, want %s", c.req, err, c.want)
		}
	}
}

// The longest timeline, all of one span or each in the one before, takes no time
// to speak of.
func TestTheLongestTimelineIsArranged(t *testing.T) {
	var same, chain []*event.Event
	for i := range 10000 {
		same = append(same, call(int64(i), span("t", "x", "1", "", lasts(10), at(fmt.Sprint(i%2)))))
		chain = append(chain, call(int64(i), span("t", "x", fmt.Sprint(i), fmt.Sprint(i+1))))
	}
	for name, events := range map[string][]*event.Event{"one span": same, "a chain": chain} {
		deepest := int32(0)
		for _, e := range arrange(events, nil) {
			deepest = max(deepest, e.GetDepth())
		}
		if want := map[string]int32{"one span": 0, "a chain": 9999}[name]; deepest != want {
			t.Errorf("%s is %d deep, want %d", name, deepest, want)
		}
	}
}
