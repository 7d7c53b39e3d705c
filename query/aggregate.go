package query

import (
	"cmp"
	"context"
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
	cond, err := compileFilter(req.GetFilter())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	args := cond.args
	var selected, keys []string
	for i, name := range req.GetGroupBy() {
		key, keyArgs, err := groupKey(name, i)
		if err != nil {
			return nil, err
		}
		alias := "key" + strconv.Itoa(i)
		selected, keys = append(selected, key+" AS "+alias), append(keys, alias)
		args = append(args, keyArgs...)
	}
	first := measures[req.GetOrderBy()] + " DESC"
	if step := req.GetInterval(); step != nil {
		// Arithmetic, because an interval's length can't be bound elsewhere.
		selected = append(selected, "intDiv(toUnixTimestamp64Micro(occurred_at), {step:Int64}) * {step:Int64} AS start")
		args = append(args, store.Named("step", step.AsDuration().Microseconds()))
		keys = append(keys, "start")
		first = "start, " + first
	}
	limit := int(cmp.Or(req.GetLimit(), defaultGroups))
	sql := "SELECT " + strings.Join(append(selected,
		"count() AS events", "countIf("+isError+") AS errors", "countIf("+isDenial+") AS denials",
		"sum(request_bytes) AS asked", "sum(response_bytes) AS answered",
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

// groupKey is a field's value as text. A label is named labels.KEY, and its key
// is bound.
func groupKey(name string, i int) (sql string, args []any, err error) {
	name, key, _ := strings.Cut(name, ".")
	f, ok := fields[name]
	switch {
	case !ok:
		return "", nil, status.Errorf(codes.InvalidArgument, "group_by: there is no field %s; the nearest is %s",
			strconv.Quote(event.ClipText(name, 60)), nearest(name, fieldNames))
	case f.kind == mapKind && key == "":
		return "", nil, status.Errorf(codes.InvalidArgument, "group_by: name one label, such as %s.team", name)
	case f.kind == mapKind:
		label := "label" + strconv.Itoa(i)
		return f.sql + "[{" + label + ":String}]", []any{store.Named(label, key)}, nil
	case key != "":
		return "", nil, status.Errorf(codes.InvalidArgument, "group_by: %s has no parts", name)
	}
	switch f.kind {
	case textKind:
		return "toString(" + f.sql + ")", nil, nil
	case listKind: // an event whose list is empty counts as one of no value
		return "toString(arrayJoin(if(empty(" + f.sql + "), [''], arrayDistinct(" + f.sql + "))))", nil, nil
	case digestKind:
		return "lower(hex(" + f.sql + "))", nil, nil
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
		var quantiles []float32
		var into []any
		for i := range g.Keys {
			into = append(into, &g.Keys[i])
		}
		if interval {
			into = append(into, &start)
		}
		into = append(into, &g.Count, &g.Errors, &g.Denials, &g.RequestBytes, &g.ResponseBytes, &quantiles)
		if err := rows.Scan(into...); err != nil {
			return nil, s.status(ctx, err)
		}
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

func micros(us float32) *durationpb.Duration {
	return durationpb.New(time.Duration(float64(us) * float64(time.Microsecond)))
}
