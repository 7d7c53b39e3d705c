package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
)

// question is one that investigators ask, through the API and as SQL that one
// who knows the table would write.
type question struct {
	name string
	api  func(context.Context, pb.QueryServiceClient) (rows int, err error)
	sql  string
	args []any
	full bool // the SQL returns whole events
	goal float64
}

// patient are the limits of both sides: the slowest question reads every event.
var patient = store.Limits{Time: 5 * time.Minute, Memory: 4 << 30}

// searched asks questions of Events events that lie over 90 days, those of dashboards
// first. The limit of each is the same question written by hand in SQL, read into the
// same events.
func searched(ctx context.Context, e Env) ([]Result, error) {
	s, err := store.Open(ctx, store.Config{Path: filepath.Join(e.Data, "search"), Library: e.Library, MemoryLimit: 8 << 30})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := s.Migrate(ctx, e.Now()); err != nil {
		return nil, err
	}
	if err := fill(ctx, e, s); err != nil {
		return nil, err
	}
	results, err := addUp(ctx, e, s)
	if err != nil {
		return nil, err
	}
	seen, err := look(ctx, e, s)
	if err != nil {
		return nil, err
	}
	results = append(results, seen...)
	questions, err := ask(ctx, s)
	if err != nil {
		return nil, err
	}
	client, stop, err := queryService(s, e)
	if err != nil {
		return nil, err
	}
	defer stop()
	for _, q := range questions {
		fmt.Fprintln(e.Say, "asking: "+q.name)
		var api, hand []time.Duration
		var first time.Duration
		for i, end := 0, time.Now().Add(e.Time/5); i < 5 || time.Now().Before(end) && i < 200; i++ {
			start := time.Now()
			rows, err := q.api(ctx, client)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", q.name, err)
			}
			took := time.Since(start)
			if i == 0 {
				first = took // nothing of it was read before
			}
			start = time.Now()
			byHand, err := q.byHand(ctx, s)
			if err != nil {
				return nil, fmt.Errorf("%s, by hand: %w", q.name, err)
			}
			if rows != byHand {
				return nil, fmt.Errorf("%s: the API answers with %d rows, the SQL with %d", q.name, rows, byHand)
			}
			if i > 0 {
				api, hand = append(api, took), append(hand, time.Since(start))
			}
		}
		a, h := milliseconds(quantile(api, 0.5)), milliseconds(quantile(hand, 0.5))
		r := plain("search "+q.name, a, "ms (median)")
		if q.goal > 0 {
			r = atMost(r.Name, a, r.Unit, 0, "", q.goal)
		}
		r.Limit, r.Of = h, "the same question in SQL by hand"
		results = append(results, finish(r), atMost("search "+q.name+", ratio", a/h, "× by hand", 0, "", 1.1),
			plain("search "+q.name+", first", milliseconds(first), "ms, nothing read before"))
	}
	return results, nil
}

func (q *question) byHand(ctx context.Context, s *store.Store) (n int, err error) {
	rows, err := s.Query(ctx, patient, q.sql, q.args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		if q.full {
			if _, err := store.ScanEvent(rows); err != nil {
				return 0, err
			}
		}
		n++
	}
	return n, rows.Err()
}

// copies of the base lie this far apart, stretched so that all together last 90
// days.
const (
	baseEvents = 100_000
	days       = 90
)

// fill makes the store's events: 100,000 as the benchmarks' traffic has them, and
// then copies in SQL with ids, times, sessions and traces of their own. What an
// earlier run made is used again.
func fill(ctx context.Context, e Env, s *store.Store) error {
	var have uint64
	if err := scan(ctx, s, "SELECT count() FROM events", nil, &have); err != nil {
		return err
	}
	if have >= e.Events {
		return nil
	}
	fmt.Fprintf(e.Say, "making %d events in %s; the next run uses them again\n", e.Events, e.Data)
	t, err := newTraffic(7, time.Unix(0, 0))
	if err != nil {
		return err
	}
	batch := store.Batch{Token: "base"}
	for i := range baseEvents {
		ev := t.next()
		ev.EmitterID, ev.EmitterSeq, ev.ReceivedAt = fmt.Sprintf("bench-%02d", i%50), uint64(i/50+1), ev.OccurredAt
		ev.LogID, ev.Leaf, ev.ExpiresMonth = "base", uint32(i), 20819
		batch.Events = append(batch.Events, ev)
	}
	for _, sql := range []string{"DROP TABLE IF EXISTS base", "TRUNCATE TABLE events", "TRUNCATE TABLE ledger", "TRUNCATE TABLE activity_ranges", "TRUNCATE TABLE activity_hourly",
		"TRUNCATE TABLE tools_hourly", "TRUNCATE TABLE emitters_hourly", "TRUNCATE TABLE tool_definitions", "CREATE TABLE base AS events ENGINE = MergeTree ORDER BY leaf"} {
		if err := run(ctx, s, sql); err != nil {
			return err
		}
	}
	if err := s.Append(ctx, batch); err != nil {
		return err
	}
	if err := run(ctx, s, "INSERT INTO base SELECT * FROM events"); err != nil {
		return err
	}
	if err := run(ctx, s, "TRUNCATE TABLE events"); err != nil {
		return err
	}
	end := e.Now().Truncate(time.Second)
	copies := int((e.Events + baseEvents - 1) / baseEvents)
	apart := days * 24 * time.Hour / time.Duration(copies)
	stretch := float64(apart) / float64(t.at.Sub(time.Unix(0, 0)))
	const step = 10
	for i := 0; i < copies; i += step {
		err := run(ctx, s, copyBase, store.Named("from", i), store.Named("n", min(step, copies-i)), store.Named("apart", apart.Microseconds()),
			store.Named("stretch", stretch), store.Named("begin", end.Add(-days*24*time.Hour).UnixMicro()))
		if err != nil {
			return err
		}
		fmt.Fprintf(e.Say, "\r%d %%", 100*(i+step)/max(copies, step))
	}
	fmt.Fprintln(e.Say, "\rmerging")
	return s.Merge(ctx)
}

// copyBase writes copies of the base. An id has its event's time, as UUIDv7 does.
const copyBase = `
INSERT INTO events
SELECT * EXCEPT (copy, at, stamp, noise) REPLACE (
	toUUID(concat(substring(stamp, 1, 8), '-', substring(stamp, 9, 4), '-7', substring(noise, 1, 3), '-8', substring(noise, 4, 3), '-', substring(noise, 7, 12))) AS event_id,
	fromUnixTimestamp64Micro(at, 'UTC') AS occurred_at,
	fromUnixTimestamp64Micro(at, 'UTC') AS received_at,
	emitter_seq + copy * 2000 AS emitter_seq,
	concat(session_id, toString(copy)) AS session_id,
	if(trace_id = '', '', lower(hex(MD5(concat(trace_id, toString(copy)))))) AS trace_id,
	copy + 1 AS batch)
FROM
(
	SELECT *, lower(hex(toUInt64(intDiv(at, 1000)) * 65536)) AS stamp, lower(hex(MD5(concat(toString(event_id), toString(copy))))) AS noise
	FROM
	(
		SELECT *, copy, toInt64({begin:Int64} + copy * {apart:Int64} + toUnixTimestamp64Micro(occurred_at) * {stretch:Float64}) AS at
		FROM base
		ARRAY JOIN range({from:UInt64}, {from:UInt64} + {n:UInt64}) AS copy
	)
)`

// ask makes the questions, about things that are there.
func ask(ctx context.Context, s *store.Store) ([]question, error) {
	var newest time.Time
	var sample event.ID
	var principal, trace, session string
	if err := scan(ctx, s, "SELECT max(occurred_at) FROM events", nil, &newest); err != nil {
		return nil, err
	}
	middle := newest.Add(-days / 2 * 24 * time.Hour)
	var id string
	err := scan(ctx, s, "SELECT toString(event_id), principal, trace_id, session_id FROM events WHERE occurred_at > fromUnixTimestamp64Micro({at:Int64}, 'UTC') AND trace_id != '' ORDER BY occurred_at LIMIT 1",
		[]any{store.Named("at", middle.UnixMicro())}, &id, &principal, &trace, &session)
	if err != nil {
		return nil, err
	}
	if sample, err = event.ParseID(id); err != nil {
		return nil, err
	}
	day := newest.Add(-24 * time.Hour)
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	list := func(filter string) func(context.Context, pb.QueryServiceClient) (int, error) {
		return func(ctx context.Context, c pb.QueryServiceClient) (int, error) {
			r, err := c.ListEvents(ctx, &pb.ListEventsRequest{Filter: filter, PageSize: 100})
			return len(r.GetEvents()), err
		}
	}
	events := "SELECT " + store.EventColumns + " FROM events WHERE "
	from, to := store.Named("from", day.UnixMicro()), store.Named("to", newest.UnixMicro())
	return []question{
		{
			name: "one principal, last 24 h", full: true, goal: 150,
			api:  list(fmt.Sprintf("principal = %q AND occurred_at >= %q", principal, stamp(day))),
			sql:  events + "principal = {p:String} AND occurred_at >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') ORDER BY occurred_at DESC LIMIT 100",
			args: []any{store.Named("p", principal), from},
		},
		{
			name: "a week, outcome and tool", full: true, goal: 500,
			api:  list(fmt.Sprintf(`outcome = "tool_error" AND target = "query" AND occurred_at >= %q AND occurred_at < %q`, stamp(middle), stamp(middle.Add(7*24*time.Hour)))),
			sql:  events + "outcome = 'tool_error' AND target = 'query' AND occurred_at >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND occurred_at < fromUnixTimestamp64Micro({to:Int64}, 'UTC') ORDER BY occurred_at DESC LIMIT 100",
			args: []any{store.Named("from", middle.UnixMicro()), store.Named("to", middle.Add(7*24*time.Hour).UnixMicro())},
		},
		{
			name: "the newest, any time", full: true,
			api: list(""),
			sql: events + "tenant = 'default' ORDER BY occurred_at DESC LIMIT 100",
		},
		{
			name: "newest failures of a tool, any time", full: true,
			api: list(`outcome = "tool_error" AND target = "query"`),
			sql: events + "tenant = 'default' AND outcome = 'tool_error' AND target = 'query' ORDER BY occurred_at DESC LIMIT 100",
		},
		{
			name: "nothing matches, last 24 h", full: true,
			api:  list(fmt.Sprintf("principal = \"nobody\" AND occurred_at >= %q", stamp(day))),
			sql:  events + "principal = 'nobody' AND occurred_at >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') ORDER BY occurred_at DESC LIMIT 100",
			args: []any{from},
		},
		{
			name: "one event by its id", full: true,
			api: func(ctx context.Context, c pb.QueryServiceClient) (int, error) {
				_, err := c.GetEvent(ctx, &pb.GetEventRequest{EventId: sample.String()})
				return 1, err
			},
			sql:  events + "event_id = toUUID({id:String}) AND occurred_at BETWEEN fromUnixTimestamp64Micro({at:Int64} - 3600000000, 'UTC') AND fromUnixTimestamp64Micro({at:Int64} + 3600000000, 'UTC') LIMIT 1",
			args: []any{store.Named("id", sample.String()), store.Named("at", sample.Time().UnixMicro())},
		},
		{
			name: "a trace", full: true,
			api: func(ctx context.Context, c pb.QueryServiceClient) (int, error) {
				r, err := c.GetTimeline(ctx, &pb.GetTimelineRequest{Subject: &pb.GetTimelineRequest_TraceId{TraceId: trace}})
				return len(r.GetEntries()), err
			},
			sql:  events + "trace_id = {t:String} ORDER BY occurred_at LIMIT 1001",
			args: []any{store.Named("t", trace)},
		},
		{
			name: "a session", full: true,
			api: func(ctx context.Context, c pb.QueryServiceClient) (int, error) {
				r, err := c.GetTimeline(ctx, &pb.GetTimelineRequest{Subject: &pb.GetTimelineRequest_SessionId{SessionId: session}})
				return len(r.GetEntries()), err
			},
			sql:  events + "session_id = {s:String} ORDER BY occurred_at LIMIT 1001",
			args: []any{store.Named("s", session)},
		},
		{
			name: "tools and outcomes of 24 h",
			api: func(ctx context.Context, c pb.QueryServiceClient) (int, error) {
				r, err := c.AggregateEvents(ctx, &pb.AggregateEventsRequest{Filter: fmt.Sprintf("occurred_at >= %q", stamp(day)), GroupBy: []string{"target", "outcome"}, Limit: 1000})
				return len(r.GetGroups()), err
			},
			sql: `SELECT target, outcome, count() AS n, countIf(outcome IN ('tool_error', 'protocol_error', 'timeout')), countIf(outcome = 'denied' OR decision = 'deny'),
				sum(request_bytes), sum(response_bytes), quantilesTDigest(0.5, 0.95, 0.99)(duration_us)
				FROM events WHERE occurred_at >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') GROUP BY target, outcome ORDER BY n DESC LIMIT 1000`,
			args: []any{from},
		},
		{
			name: "calls a day and server, all time",
			api: func(ctx context.Context, c pb.QueryServiceClient) (int, error) {
				r, err := c.AggregateEvents(ctx, &pb.AggregateEventsRequest{GroupBy: []string{"server"}, Interval: durationpb.New(24 * time.Hour), Limit: 10000})
				return len(r.GetGroups()), err
			},
			sql: `SELECT toStartOfInterval(occurred_at, INTERVAL 86400 SECOND) AS day, server, count() AS n, countIf(outcome IN ('tool_error', 'protocol_error', 'timeout')), countIf(outcome = 'denied' OR decision = 'deny'),
				sum(request_bytes), sum(response_bytes), quantilesTDigest(0.5, 0.95, 0.99)(duration_us)
				FROM events GROUP BY day, server ORDER BY day, n DESC LIMIT 10000`,
		},
		{
			name: "what one user did in a day", full: true,
			api: func(ctx context.Context, c pb.QueryServiceClient) (int, error) {
				r, err := c.GetTimeline(ctx, &pb.GetTimelineRequest{Subject: &pb.GetTimelineRequest_Principal{Principal: principal}, Limit: 1000,
					StartTime: timestamppb.New(day), EndTime: timestamppb.New(newest)})
				return len(r.GetEntries()), err
			},
			sql:  events + "principal = {p:String} AND occurred_at >= fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND occurred_at < fromUnixTimestamp64Micro({to:Int64}, 'UTC') ORDER BY occurred_at LIMIT 1000",
			args: []any{store.Named("p", principal), from, to},
		},
	}, nil
}

// scan reads one row.
func scan(ctx context.Context, s *store.Store, sql string, args []any, into ...any) error {
	rows, err := s.Query(ctx, store.Limits{}, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if !rows.Next() {
		return errors.Join(rows.Err(), errors.New("the store has no events"))
	}
	return rows.Scan(into...)
}

// run runs a statement that returns nothing.
func run(ctx context.Context, s *store.Store, sql string, args ...any) error {
	rows, err := s.Query(ctx, store.Limits{Time: time.Hour, Memory: 6 << 30}, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}

// queryService serves queries of a store over gRPC in this process.
func queryService(s *store.Store, e Env) (pb.QueryServiceClient, func(), error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	server := grpc.NewServer(readsAll()...)
	pb.RegisterQueryServiceServer(server, query.New(query.Config{Limits: patient}, s, e.Log))
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	return pb.NewQueryServiceClient(conn), func() { conn.Close(); server.Stop() }, nil
}
