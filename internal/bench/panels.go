package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/activity"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// panel is what a dashboard asks of all 90 days.
type panel struct {
	name   string
	sql    string
	events string // the same of the events themselves
	goal   float64
}

const (
	countsOf = " sum(events), sumIf(events, outcome IN ('tool_error', 'protocol_error', 'timeout')), sum(denied) FROM tools_hourly WHERE tenant = 'default' AND kind = 'tool_call' AND hour >= {from:DateTime('UTC')} GROUP BY "
	peopleOf = " sum(events), sumIf(events, outcome IN ('tool_error', 'protocol_error', 'timeout')), sum(denied) FROM activity_hourly WHERE tenant = 'default' AND kind = 'tool_call' AND hour >= {from:DateTime('UTC')} GROUP BY "
	timesOf  = " quantilesBFloat16Merge(0.5, 0.95, 0.99)(durations) FROM tools_hourly WHERE tenant = 'default' AND kind = 'tool_call' AND hour >= {from:DateTime('UTC')} GROUP BY "

	countsOfEvents = " count(), countIf(outcome IN ('tool_error', 'protocol_error', 'timeout')), countIf(outcome = 'denied' OR decision = 'deny') FROM events WHERE tenant = 'default' AND kind = 'tool_call' AND occurred_at >= {from:DateTime('UTC')} GROUP BY "
	timesOfEvents  = " quantilesBFloat16(0.5, 0.95, 0.99)(duration_us) FROM events WHERE tenant = 'default' AND kind = 'tool_call' AND occurred_at >= {from:DateTime('UTC')} GROUP BY "
)

var panels = []panel{
	{"calls and errors by server", "SELECT server," + countsOf + "server", "SELECT server," + countsOfEvents + "server", 1000},
	{"calls and errors by hour", "SELECT hour," + countsOf + "hour ORDER BY hour", "SELECT toStartOfHour(occurred_at) AS hour," + countsOfEvents + "hour ORDER BY hour", 1000},
	{"p95 by server", "SELECT server," + timesOf + "server", "SELECT server," + timesOfEvents + "server", 1000},
	{"p95 by server and hour", "SELECT hour, server," + timesOf + "hour, server ORDER BY hour, server", "SELECT toStartOfHour(occurred_at) AS hour, server," + timesOfEvents + "hour, server ORDER BY hour, server", 1000},
	{"the busiest principals", "SELECT principal," + peopleOf + "principal ORDER BY 2 DESC LIMIT 20", "SELECT principal," + countsOfEvents + "principal ORDER BY 2 DESC LIMIT 20", 1000},
}

// addUp adds up what is stored, by the runner that serve has, and says how fast that was;
// nothing when an earlier run did.
func addUp(ctx context.Context, e Env, s *store.Store) ([]Result, error) {
	var have uint64
	if err := scan(ctx, s, "SELECT count() FROM ledger", nil, &have); err != nil {
		return nil, err
	}
	if have == 0 {
		if err := s.StartLog(ctx, store.LogInfo{ID: "base", StartedAt: e.Now()}); err != nil {
			return nil, err
		}
		if err := run(ctx, s, `INSERT INTO ledger (format, kind, log_id, batch, sealed_at, schema, events, expires_month)
			SELECT 1, 'events', log_id, batch, max(received_at), any(schema), count(), any(expires_month) FROM events GROUP BY log_id, batch`); err != nil {
			return nil, err
		}
	}
	heard := &heardOf{}
	// By this clock nothing has expired.
	runner, err := activity.New(activity.Config{}, activity.Deps{Store: s, Now: func() time.Time { return time.Unix(0, 0) }, Log: e.Log, Watch: heard})
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(e.Say, "adding up what is stored")
	begun := time.Now()
	if err := runner.CatchUp(ctx); err != nil {
		return nil, err
	}
	took := time.Since(begun)
	var events, added, bytes uint64
	for sql, into := range map[string]*uint64{
		"SELECT count() FROM events":           &events,
		"SELECT sum(events) FROM tools_hourly": &added,
		"SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase() AND table IN ('activity_hourly', 'tools_hourly', 'emitters_hourly', 'tool_definitions', 'activity_ranges')": &bytes,
	} {
		if err := scan(ctx, s, sql, nil, into); err != nil {
			return nil, err
		}
	}
	if events != added {
		return nil, fmt.Errorf("%d events are added up, of %d; remove %s", added, events, e.Data)
	}
	results := []Result{plain("search activity, size", float64(bytes)/float64(events), "bytes an event")}
	if heard.events > 0 {
		results = append(results, plain("search activity, adding up", float64(heard.events)/took.Seconds(), "events/s"))
	}
	return results, nil
}

// heardOf counts what a runner adds up.
type heardOf struct{ events uint64 }

func (h *heardOf) Added(events uint64, _ time.Duration) { h.events += events }
func (h *heardOf) Failed()                              {}

// look measures what dashboards ask. The limit of each is the same question asked of the
// events themselves, once.
func look(ctx context.Context, e Env, s *store.Store) ([]Result, error) {
	var newest time.Time
	if err := scan(ctx, s, "SELECT max(occurred_at) FROM events", nil, &newest); err != nil {
		return nil, err
	}
	from := store.Named("from", newest.UTC().Truncate(time.Hour).Add(-days*24*time.Hour).Format("2006-01-02 15:04:05"))
	var results []Result
	for _, p := range panels {
		fmt.Fprintln(e.Say, "looking at: "+p.name)
		ask := func(sql string) (int, time.Duration, error) {
			start := time.Now()
			q := question{sql: sql, args: []any{from}}
			n, err := q.byHand(ctx, s)
			return n, time.Since(start), err
		}
		want, limit, err := ask(p.events)
		if err != nil {
			return nil, fmt.Errorf("%s, of the events: %w", p.name, err)
		}
		var took []time.Duration
		for i, end := 0, time.Now().Add(e.Time/5); i < 4 || time.Now().Before(end) && i < 200; i++ {
			n, one, err := ask(p.sql)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			if n != want {
				return nil, fmt.Errorf("%s: %d rows, of the events %d", p.name, n, want)
			}
			if i > 0 {
				took = append(took, one)
			}
		}
		results = append(results, atMost("search panel: "+p.name+", 90 days", milliseconds(quantile(took, 0.5)), "ms (median)", milliseconds(limit), "the same asked of the events", p.goal))
	}
	return results, nil
}
