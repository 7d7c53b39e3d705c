package query

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const defaultTimeline = 1000

// GetTimeline returns what happened in one trace, session, task or of one
// principal, oldest first.
func (s *Server) GetTimeline(ctx context.Context, req *pb.GetTimelineRequest) (*pb.GetTimelineResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	var cond condition
	switch subject := req.GetSubject().(type) {
	case *pb.GetTimelineRequest_TraceId:
		cond = condition{sql: "trace_id = {subject:String}", args: []any{store.Named("subject", subject.TraceId)}}
	case *pb.GetTimelineRequest_SessionId:
		cond = condition{sql: "session_id = {subject:String}", args: []any{store.Named("subject", subject.SessionId)}}
	case *pb.GetTimelineRequest_TaskId:
		cond = condition{sql: "task_id = {subject:String}", args: []any{store.Named("subject", subject.TaskId)}}
	case *pb.GetTimelineRequest_Principal:
		cond = condition{sql: "principal = {subject:String}", args: []any{store.Named("subject", subject.Principal)}}
	}
	for _, bound := range []struct {
		name, op string
		at       interface {
			AsTime() time.Time
			IsValid() bool
		}
		set bool
	}{{"from", ">=", req.GetStartTime(), req.GetStartTime() != nil}, {"to", "<", req.GetEndTime(), req.GetEndTime() != nil}} {
		if !bound.set {
			continue
		}
		if !bound.at.IsValid() || bound.at.AsTime().Unix() < 0 || bound.at.AsTime().Year() > maxYear {
			return nil, status.Errorf(codes.InvalidArgument, "start_time and end_time lie between the years 1970 and %d", maxYear)
		}
		// Up to the next microsecond: nothing lies between two of them.
		at := bound.at.AsTime().Add(time.Microsecond - 1).UnixMicro()
		cond = cond.and(condition{sql: "occurred_at " + bound.op + " fromUnixTimestamp64Micro({" + bound.name + ":Int64}, 'UTC')",
			args: []any{store.Named(bound.name, at)}})
	}
	if req.GetStartTime() != nil && req.GetEndTime() != nil && !req.GetStartTime().AsTime().Before(req.GetEndTime().AsTime()) {
		return nil, status.Error(codes.InvalidArgument, "start_time must be before end_time")
	}
	see, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	limit := int(cmp.Or(req.GetLimit(), defaultTimeline))
	events, full, err := s.events(ctx, maxAnswer, "SELECT "+see.all.columns()+" FROM events WHERE "+cond.sql+
		" ORDER BY occurred_at, event_id LIMIT {limit:UInt32}", append(cond.args, store.Named("limit", limit+1))...)
	if err != nil {
		return nil, err
	}
	resp := &pb.GetTimelineResponse{Truncated: full}
	if len(events) > limit {
		events, resp.Truncated = events[:limit], true
	}
	missing, err := s.missingBetween(ctx, events)
	if err != nil {
		return nil, err
	}
	resp.Entries = arrange(events, see.all)
	for i, n := range missing {
		resp.Entries[i].MissingBefore = n
	}
	return resp, nil
}

// arrange finds each event's parents and the silence before it. Events are
// sorted by time.
func arrange(events []*event.Event, shown mask) []*pb.TimelineEntry {
	entries := make([]*pb.TimelineEntry, len(events))
	parents := parentsOf(events)
	depth := depths(parents)
	var quiet int64 // when everything so far had ended
	for i, e := range events {
		entry := &pb.TimelineEntry{Event: shown.prune(wire.ToProto(e)), Depth: depth[i], ParentMissing: parents[i] == absent}
		if i > 0 && e.OccurredAt > quiet {
			entry.Gap = durationpb.New(time.Duration(e.OccurredAt-quiet) * time.Microsecond)
		}
		quiet = max(quiet, end(e))
		entries[i] = entry
	}
	return entries
}

// What an event has instead of the index of a parent.
const (
	none   = -1 // it names no parent, or itself
	absent = -2 // it names one that is not among the events
)

// parentsOf finds each event's parent among the events, by its index. It is the
// one whose span is the event's parent span, wherever it stands: clocks differ.
// Or, where servers do not make spans of their own and keep the caller's, it is
// one of another server with the same span during which the event occurred.
func parentsOf(events []*event.Event) []int {
	spans := map[string][]int{}
	for i, e := range events {
		if e.SpanID != "" {
			spans[e.SpanID] = append(spans[e.SpanID], i)
		}
	}
	parents := make([]int, len(events))
	for i, e := range events {
		parents[i] = none
		if e.ParentSpanID != "" {
			parents[i] = absent
			for _, j := range spans[e.ParentSpanID] {
				if j != i {
					parents[i] = j
					break
				}
				parents[i] = none
			}
		}
		same := spans[e.SpanID]
		here, _ := slices.BinarySearch(same, i)
		for k := here - 1; k >= 0 && parents[i] < 0; k-- {
			if j := same[k]; end(events[j]) >= end(e) && events[j].Server != e.Server {
				parents[i] = j
			}
		}
	}
	return parents
}

// depths are the lengths of the chains of parents. Parents that go round in a
// circle are nobody's: events in a circle are as deep as ones without a parent.
func depths(parents []int) []int32 {
	const unknown, walking = -1, -2
	depth := make([]int32, len(parents))
	for i := range depth {
		depth[i] = unknown
	}
	var chain []int
	for i := range parents {
		// Up to where a depth is known, then down again: each event is walked once.
		chain = chain[:0]
		at := i
		for at >= 0 && depth[at] == unknown {
			depth[at] = walking
			chain = append(chain, at)
			at = parents[at]
		}
		next := int32(0)
		if at >= 0 && depth[at] == walking {
			circle := slices.Index(chain, at)
			for _, j := range chain[circle:] {
				depth[j] = 0
			}
			chain, next = chain[:circle], 1
		} else if at >= 0 {
			next = depth[at] + 1
		}
		for _, j := range slices.Backward(chain) {
			depth[j] = next
			next++
		}
	}
	return depth
}

// end is when an event's call had ended.
func end(e *event.Event) int64 { return e.OccurredAt + int64(min(e.Duration, 1<<53)) }

// missingBetween counts, for each event, the numbers of its emitter's sequence
// between the timeline's event with the number before and it that the store does
// not have. Absent means none.
func (s *Server) missingBetween(ctx context.Context, events []*event.Event) (map[int]uint64, error) {
	order := make([]int, len(events))
	for i := range order {
		order[i] = i
	}
	// By number, not by time: an emitter numbers calls when they end.
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(strings.Compare(events[a].EmitterID, events[b].EmitterID), cmp.Compare(events[a].EmitterSeq, events[b].EmitterSeq))
	})
	var asked spread
	for k := 1; k < len(order); k++ {
		e, before := events[order[k]], events[order[k-1]]
		if e.EmitterID == before.EmitterID && e.EmitterSeq > before.EmitterSeq+1 {
			asked.add(e.EmitterID, before.EmitterSeq, e.EmitterSeq)
		}
	}
	gaps := map[string][]store.Run{}
	for part := range asked.parts() {
		holed, err := s.holed(ctx, part, events)
		if err != nil {
			return nil, err
		}
		if len(holed.emitters) == 0 {
			continue
		}
		if err := s.gaps(ctx, holed, gaps); err != nil {
			return nil, err
		}
	}
	out := map[int]uint64{}
	for k := 1; k < len(order); k++ {
		e, before := events[order[k]], events[order[k-1]]
		if e.EmitterID != before.EmitterID {
			continue
		}
		runs := gaps[e.EmitterID]
		// The runs are sorted: those before this step are done with.
		for len(runs) > 0 && runs[0].Last < before.EmitterSeq {
			runs = runs[1:]
		}
		gaps[e.EmitterID] = runs
		for _, g := range runs {
			if g.First > e.EmitterSeq {
				break
			}
			out[order[k]] += g.Last - g.First + 1 // both ends of a step are stored: no run crosses them
		}
	}
	return out, nil
}

// spread is which part of the emitters' sequences to look at: three lists of one
// length, as a statement takes them.
type spread struct {
	emitters  []string
	low, high []uint64
}

// add widens the part of an emitter; calls for one emitter follow each other.
func (p *spread) add(emitter string, low, high uint64) {
	last := len(p.emitters) - 1
	if last >= 0 && p.emitters[last] == emitter {
		p.high[last] = high
		return
	}
	p.emitters, p.low, p.high = append(p.emitters, emitter), append(p.low, low), append(p.high, high)
}

// emittersAtOnce is how many emitters one statement asks for. Their names travel
// in a request's URL, of which a server takes 1 MiB.
const emittersAtOnce = 1000

func (p *spread) parts() iter.Seq[spread] {
	return func(yield func(spread) bool) {
		for from := 0; from < len(p.emitters); from += emittersAtOnce {
			to := min(from+emittersAtOnce, len(p.emitters))
			if !yield(spread{p.emitters[from:to], p.low[from:to], p.high[from:to]}) {
				return
			}
		}
	}
}

// aside is how long before and after a timeline's events the ones between their
// numbers are looked for first. Most are there: an emitter numbers what it sends
// within moments.
const aside = time.Hour

// holed are the parts that are not whole around the time of the events. Looking
// for their numbers at all times would read the emitters' whole history.
func (s *Server) holed(ctx context.Context, p spread, events []*event.Event) (spread, error) {
	first, last := events[0].OccurredAt, events[0].OccurredAt
	for _, e := range events {
		first, last = min(first, e.OccurredAt), max(last, e.OccurredAt)
	}
	rows, err := s.store.Query(ctx, s.cfg.Limits, `
		SELECT emitter_id, uniqExact(emitter_seq) FROM events
		WHERE occurred_at BETWEEN fromUnixTimestamp64Micro({first:Int64}, 'UTC') AND fromUnixTimestamp64Micro({last:Int64}, 'UTC')
			AND emitter_id IN ({emitters:Array(String)})
			AND emitter_seq >= transform(toString(emitter_id), {emitters:Array(String)}, {low:Array(UInt64)}, toUInt64(0))
			AND emitter_seq <= transform(toString(emitter_id), {emitters:Array(String)}, {high:Array(UInt64)}, toUInt64(0))
		GROUP BY emitter_id`,
		store.Named("first", max(first-aside.Microseconds(), 0)), store.Named("last", last+aside.Microseconds()),
		store.Named("emitters", p.emitters), store.Named("low", p.low), store.Named("high", p.high))
	if err != nil {
		return spread{}, s.status(ctx, err)
	}
	defer rows.Close()
	there := map[string]uint64{}
	for rows.Next() {
		var emitter string
		var n uint64
		if err := rows.Scan(&emitter, &n); err != nil {
			return spread{}, s.status(ctx, err)
		}
		there[emitter] = n
	}
	if err := rows.Err(); err != nil {
		return spread{}, s.status(ctx, err)
	}
	var holed spread
	for i, emitter := range p.emitters {
		if there[emitter] != p.high[i]-p.low[i]+1 {
			holed.add(emitter, p.low[i], p.high[i])
		}
	}
	return holed, nil
}

// gaps adds the runs of numbers that the store does not have within each part,
// whose ends it has, sorted; at most store.MaxRuns of an emitter.
func (s *Server) gaps(ctx context.Context, p spread, out map[string][]store.Run) error {
	rows, err := s.store.Query(ctx, s.cfg.Limits, `
		SELECT emitter_id, toUInt64(before + 1), toUInt64(emitter_seq - 1) FROM
			(SELECT emitter_id, emitter_seq, lagInFrame(emitter_seq, 1, emitter_seq) OVER
				(PARTITION BY emitter_id ORDER BY emitter_seq ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before
			 FROM events WHERE emitter_id IN ({emitters:Array(String)})
				AND emitter_seq >= transform(toString(emitter_id), {emitters:Array(String)}, {low:Array(UInt64)}, toUInt64(0))
				AND emitter_seq <= transform(toString(emitter_id), {emitters:Array(String)}, {high:Array(UInt64)}, toUInt64(0)))
		WHERE emitter_seq > before + 1 ORDER BY emitter_id, emitter_seq LIMIT {most:UInt32} BY emitter_id`,
		store.Named("emitters", p.emitters), store.Named("low", p.low), store.Named("high", p.high), store.Named("most", store.MaxRuns))
	if err != nil {
		return s.status(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		var emitter string
		var r store.Run
		if err := rows.Scan(&emitter, &r.First, &r.Last); err != nil {
			return s.status(ctx, err)
		}
		out[emitter] = append(out[emitter], r)
	}
	if err := rows.Err(); err != nil {
		return s.status(ctx, err)
	}
	return nil
}
