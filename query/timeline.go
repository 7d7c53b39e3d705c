package query

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const (
	defaultTimeline = 1000
	// missing numbers are looked for of this many emitters: a trace has a handful.
	maxTimelineEmitters = 50
)

// GetTimeline returns what happened in one trace, session, task or of one
// principal, oldest first.
func (s *Server) GetTimeline(ctx context.Context, req *pb.GetTimelineRequest) (*pb.GetTimelineResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	var cond condition
	switch subject := req.GetSubject().(type) {
	case *pb.GetTimelineRequest_TraceId:
		cond = condition{"trace_id = {subject:String}", []any{store.Named("subject", subject.TraceId)}}
	case *pb.GetTimelineRequest_SessionId:
		cond = condition{"session_id = {subject:String}", []any{store.Named("subject", subject.SessionId)}}
	case *pb.GetTimelineRequest_TaskId:
		cond = condition{"task_id = {subject:String}", []any{store.Named("subject", subject.TaskId)}}
	case *pb.GetTimelineRequest_Principal:
		cond = condition{"principal = {subject:String}", []any{store.Named("subject", subject.Principal)}}
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
		cond = cond.and(condition{"occurred_at " + bound.op + " fromUnixTimestamp64Micro({" + bound.name + ":Int64}, 'UTC')",
			[]any{store.Named(bound.name, bound.at.AsTime().UnixMicro())}})
	}
	if req.GetStartTime() != nil && req.GetEndTime() != nil && !req.GetStartTime().AsTime().Before(req.GetEndTime().AsTime()) {
		return nil, status.Error(codes.InvalidArgument, "start_time must be before end_time")
	}
	limit := int(cmp.Or(req.GetLimit(), defaultTimeline))
	events, full, err := s.events(ctx, "SELECT "+store.EventColumns+" FROM events WHERE "+cond.sql+
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
	resp.Entries = arrange(events)
	for i, n := range missing {
		resp.Entries[i].MissingBefore = n
	}
	return resp, nil
}

// arrange finds each event's parents and the silence before it. Events are
// sorted by time.
//
// An event's parent is the one whose span is its parent span; or, where servers
// do not make spans of their own and keep the caller's, one of another server
// with the same span during which it occurred.
func arrange(events []*event.Event) []*pb.TimelineEntry {
	spans := map[string][]int{}
	for i, e := range events {
		if e.SpanID != "" {
			spans[e.SpanID] = append(spans[e.SpanID], i)
		}
	}
	entries := make([]*pb.TimelineEntry, len(events))
	depth := make([]int32, len(events))
	var quiet int64 // when everything so far had ended
	for i, e := range events {
		entry := &pb.TimelineEntry{Event: wire.ToProto(e)}
		parent := -1
		for _, j := range spans[e.ParentSpanID] {
			if e.ParentSpanID != "" && j != i {
				parent = j
				break
			}
		}
		if parent < 0 && e.SpanID != "" {
			for _, j := range spans[e.SpanID] {
				if j < i && events[j].Server != e.Server && end(events[j]) >= end(e) {
					parent = j
				}
			}
		}
		switch {
		case parent >= 0 && parent < i:
			depth[i] = depth[parent] + 1
		case parent < 0 && e.ParentSpanID != "":
			entry.ParentMissing = true
		}
		entry.Depth = depth[i]
		if i > 0 && e.OccurredAt > quiet {
			entry.Gap = durationpb.New(time.Duration(e.OccurredAt-quiet) * time.Microsecond)
		}
		quiet = max(quiet, end(e))
		entries[i] = entry
	}
	return entries
}

func end(e *event.Event) int64 { return e.OccurredAt + int64(min(e.Duration, 1<<50)) }

// missingBetween counts, for each event, the numbers of its emitter's sequence
// between its predecessor in the timeline and it that the store does not have.
// Absent means none.
func (s *Server) missingBetween(ctx context.Context, events []*event.Event) (map[int]uint64, error) {
	type step struct {
		at         int
		emitter    string
		prev, next uint64
	}
	var steps []step
	last := map[string]uint64{}
	bounds := map[string][2]uint64{}
	for i, e := range events {
		if prev, seen := last[e.EmitterID]; seen && e.EmitterSeq > prev+1 {
			steps = append(steps, step{i, e.EmitterID, prev, e.EmitterSeq})
			b, ok := bounds[e.EmitterID]
			if !ok {
				b = [2]uint64{prev, e.EmitterSeq}
			}
			bounds[e.EmitterID] = [2]uint64{min(b[0], prev), max(b[1], e.EmitterSeq)}
		}
		last[e.EmitterID] = max(last[e.EmitterID], e.EmitterSeq)
	}
	out := map[int]uint64{}
	gaps := map[string][]store.Run{}
	for emitter, b := range bounds {
		if len(gaps) == maxTimelineEmitters {
			break
		}
		runs, err := s.gaps(ctx, emitter, b[0], b[1])
		if err != nil {
			return nil, err
		}
		gaps[emitter] = runs
	}
	for _, st := range steps {
		for _, g := range gaps[st.emitter] {
			if lo, hi := max(g.First, st.prev+1), min(g.Last, st.next-1); lo <= hi {
				out[st.at] += hi - lo + 1
			}
		}
	}
	return out, nil
}

// gaps are the runs of numbers between from and to, both of them stored, that
// an emitter's events in the store do not have, at most store.MaxRuns.
func (s *Server) gaps(ctx context.Context, emitter string, from, to uint64) ([]store.Run, error) {
	rows, err := s.store.Query(ctx, s.cfg.Limits, `
		SELECT toUInt64(before + 1), toUInt64(emitter_seq - 1) FROM
			(SELECT emitter_seq, lagInFrame(emitter_seq, 1, {from:UInt64}) OVER (ORDER BY emitter_seq ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before
			 FROM events WHERE emitter_id = {emitter:String} AND emitter_seq BETWEEN {from:UInt64} AND {to:UInt64})
		WHERE emitter_seq > before + 1 ORDER BY emitter_seq LIMIT {most:UInt32}`,
		store.Named("emitter", emitter), store.Named("from", from), store.Named("to", to), store.Named("most", store.MaxRuns))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	defer rows.Close()
	var out []store.Run
	for rows.Next() {
		var r store.Run
		if err := rows.Scan(&r.First, &r.Last); err != nil {
			return nil, s.status(ctx, err)
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, s.status(ctx, err)
	}
	return out, nil
}
