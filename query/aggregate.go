package query

import (
	"cmp"
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// What counts as an error and as a denial, everywhere in the API.
const (
	isError  = "outcome IN ('tool_error', 'protocol_error', 'timeout')"
	isDenial = "(outcome = 'denied' OR decision = 'deny')"
)

const defaultGroups = 100

// measures that groups may be ordered by; bytes is the sum of both directions.
var measures = map[string]string{
	"": "events", "count": "events", "errors": "errors", "denials": "denials", "bytes": "asked + answered",
	"p50": "quantiles[1]", "p95": "quantiles[2]", "p99": "quantiles[3]",
}

// AggregateEvents counts and measures groups of events.
func (s *Server) AggregateEvents(ctx context.Context, req *pb.AggregateEventsRequest) (*pb.AggregateEventsResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	see, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	cond, err := see.filter(req.GetFilter())
	if err != nil {
		return nil, err
	}
	args := cond.args
	var selected, keys []string
	for i, name := range req.GetGroupBy() {
		key, keyArgs, err := groupKey(see.fields, name, i)
		if err != nil {
			return nil, err
		}
		alias := "key" + strconv.Itoa(i)
		selected, keys = append(selected, key+" AS "+alias), append(keys, alias)
		args = append(args, keyArgs...)
	}
	first := measures[req.GetOrderBy()] + " DESC"
	if step := req.GetInterval(); step != nil {
		if !step.IsValid() {
			return nil, status.Error(codes.InvalidArgument, "interval: its nanos are not between 0 and 999999999")
		}
		// Arithmetic, because an interval's length can't be bound elsewhere.
		selected = append(selected, "intDiv(toUnixTimestamp64Micro(occurred_at), {step:Int64}) * {step:Int64} AS start")
		args = append(args, store.Named("step", step.AsDuration().Microseconds()))
		keys = append(keys, "start")
		first = "start, " + first
	}
	limit := int(cmp.Or(req.GetLimit(), defaultGroups))
	sql := "SELECT " + strings.Join(append(selected,
		"count() AS events", "countIf("+isError+") AS errors", "countIf("+isDenial+") AS denials",
		// As floating point, exact up to 9 PB: no emitter makes a sum wrap around.
		"sum(toFloat64(request_bytes)) AS asked", "sum(toFloat64(response_bytes)) AS answered",
		"quantilesTDigest(0.5, 0.95, 0.99)(duration_us) AS quantiles"), ", ") +
		" FROM events WHERE " + cond.sql
	if len(keys) > 0 {
		sql += " GROUP BY " + strings.Join(keys, ", ")
	}
	sql += " ORDER BY " + strings.Join(append([]string{first}, keys...), ", ") + " LIMIT {limit:UInt32}"
	groups, err := s.groups(ctx, sql, len(req.GetGroupBy()), req.GetInterval() != nil, append(args, store.Named("limit", limit+1)))
	if err != nil {
		return nil, err
	}
	resp := &pb.AggregateEventsResponse{Groups: groups}
	if len(groups) > limit {
		resp.Groups, resp.Truncated = groups[:limit], true
	}
	return resp, nil
}

// groupKey is a field's value as a filter has it. A label is named labels.KEY, and its key
// is bound.
func groupKey(known *Fields, name string, i int) (sql string, args []any, err error) {
	whole := name
	name, key, _ := strings.Cut(name, ".")
	f, ok := known.byName[name]
	switch {
	case known.hidden[name]:
		return "", nil, status.Errorf(codes.InvalidArgument, "group_by: %s", hiddenText(name, known.level))
	case !ok:
		return "", nil, status.Errorf(codes.InvalidArgument, "group_by: there is no field %s; the nearest is %s",
			strconv.Quote(event.ClipText(whole, 60)), nearest(whole, known.names))
	case f.kind == MapKind && key == "":
		return "", nil, status.Errorf(codes.InvalidArgument, "group_by: name one label, such as %s.team", name)
	case f.kind == MapKind:
		label := "label" + strconv.Itoa(i)
		return f.sql + "[{" + label + ":String}]", []any{store.Named(label, key)}, nil
	case key != "":
		return "", nil, status.Errorf(codes.InvalidArgument, "group_by: %s has no parts", name)
	}
	switch f.kind {
	case TextKind:
		return "toString(" + f.sql + ")", nil, nil
	case ListKind: // an event whose list is empty counts as one of no value
		return "toString(arrayJoin(if(empty(" + f.sql + "), [''], arrayDistinct(" + f.sql + "))))", nil, nil
	case DigestKind:
		return "lower(hex(" + f.sql + "))", nil, nil
	case TimeKind:
		return "formatDateTime(" + f.sql + ", '%Y-%m-%dT%H:%i:%S.%fZ')", nil, nil
	case DurationKind:
		return "concat(toString(" + f.sql + "), 'us')", nil, nil
	}
	return "toString(" + f.sql + ")", nil, nil
}

func (s *Server) groups(ctx context.Context, sql string, keys int, interval bool, args []any) ([]*pb.Group, error) {
	rows, err := s.store.Query(ctx, s.cfg.Limits, sql, args...)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	defer rows.Close()
	var groups []*pb.Group
	for rows.Next() {
		g := &pb.Group{Keys: make([]string, keys)}
		var start int64
		var asked, answered float64
		var quantiles []float32
		var into []any
		for i := range g.Keys {
			into = append(into, &g.Keys[i])
		}
		if interval {
			into = append(into, &start)
		}
		into = append(into, &g.Count, &g.Errors, &g.Denials, &asked, &answered, &quantiles)
		if err := rows.Scan(into...); err != nil {
			return nil, s.status(ctx, err)
		}
		g.RequestBytes, g.ResponseBytes = wholeBytes(asked), wholeBytes(answered)
		if interval {
			g.StartTime = timestamppb.New(time.UnixMicro(start))
		}
		if len(quantiles) == 3 && g.Count > 0 {
			g.P50, g.P95, g.P99 = micros(quantiles[0]), micros(quantiles[1]), micros(quantiles[2])
		}
		groups = append(groups, g)
	}
	if err := rows.Err(); err != nil {
		return nil, s.status(ctx, err)
	}
	return groups, nil
}

// wholeBytes is a sum as a number of bytes; one that does not fit is the largest.
func wholeBytes(sum float64) uint64 {
	if sum >= 1<<64 {
		return math.MaxUint64
	}
	return uint64(sum)
}

// micros is a number of microseconds as a Duration, which can't hold much more
// than the longest duration of an event: 285 years.
func micros(us float32) *durationpb.Duration {
	const most = 1 << 53
	return durationpb.New(time.Duration(max(-most, min(float64(us), most))) * time.Microsecond)
}
