package activity_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/activity"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
)

func init() { storetest.Server = enginetest.Databases() }

// Days since 1970-01-01 to the first of 2026-11, 2027-01 and 2027-02.
const lastMonth, someMonth, nextMonth = 20758, 20819, 20850

// world is a store that is written to, and a clock.
type world struct {
	*store.Store
	t    *testing.T
	r    *rand.Rand
	now  time.Time
	next map[string]uint64 // by log, the number of the next entry
	seq  uint64
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	return &world{Store: storetest.Open(t, t.TempDir()), t: t, r: rand.New(rand.NewPCG(8, seed)),
		now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), next: map[string]uint64{}}
}

// events are random ones that have much in common, so that there is something to add up.
func (w *world) events(n int, month uint16) (out []*event.Event) {
	hour := w.now.Add(-time.Hour).UnixMicro()
	for range n {
		e := event.Random(w.r)
		w.seq++
		e.EmitterSeq, e.ExpiresMonth = w.seq, month
		e.Tenant = []string{"acme", "globex", "o'neill"}[w.r.IntN(3)]
		if w.r.IntN(8) > 0 {
			e.OccurredAt = hour + w.r.Int64N(3*3600e6)
			e.ReceivedAt = e.OccurredAt + w.r.Int64N(5e6)
			e.Duration = w.r.Uint64N(5e6)
			e.Principal, e.PrincipalKind = fmt.Sprint("user:", w.r.IntN(3)), "human"
			e.Server, e.Environment, e.Target = fmt.Sprint("server", w.r.IntN(2)), "prod", fmt.Sprint("tool", w.r.IntN(3))
			e.Kind, e.Outcome = []string{"tool_call", "tools_list"}[w.r.IntN(5)/4], []string{"success", "tool_error", "denied"}[w.r.IntN(3)]
			e.DefinitionDigest = event.Digest{byte(w.r.IntN(3))}
		}
		out = append(out, e)
	}
	return out
}

// seal stores a batch of events of a log and its entry; none for an entry of another kind.
func (w *world) seal(log string, events []*event.Event) {
	w.t.Helper()
	w.store(log, events)
	w.enter(log, len(events))
}

// store stores a batch that is not sealed yet.
func (w *world) store(log string, events []*event.Event) {
	w.t.Helper()
	if w.next[log] == 0 {
		w.next[log] = 1
		if err := w.StartLog(w.t.Context(), store.LogInfo{ID: log, StartedAt: w.now}); err != nil {
			w.t.Fatal(err)
		}
	}
	if len(events) == 0 {
		return
	}
	for i, e := range events {
		e.LogID, e.Batch, e.Leaf = log, w.next[log], uint32(i)
	}
	if err := w.Append(w.t.Context(), store.Batch{Events: events, Token: fmt.Sprint(log, w.next[log])}); err != nil {
		w.t.Fatal(err)
	}
}

// enter writes the log's next entry.
func (w *world) enter(log string, events int) {
	w.t.Helper()
	kind := ledger.KindEvents
	if events == 0 {
		kind = ledger.KindHold
	}
	e := &ledger.Entry{Format: ledger.Format, Kind: kind, LogID: log, Batch: w.next[log], SealedAt: w.now.UnixMicro(), Schema: event.Schema, Events: uint32(events)}
	if err := w.Seal(w.t.Context(), []store.Sealed{{Entry: e}}); err != nil {
		w.t.Fatal(err)
	}
	w.next[log]++
}

// runner is a new one, of a process that has just started.
func (w *world) runner(c activity.Config, s activity.Store, change ...func(*activity.Deps)) *activity.Runner {
	w.t.Helper()
	d := activity.Deps{Store: s, Now: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&d)
	}
	r, err := activity.New(c, d)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) catchUp(r *activity.Runner) {
	w.t.Helper()
	if err := r.CatchUp(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// rows are what a statement returns, one text each.
func (w *world) rows(tenants []string, sql string) (out []string) {
	w.t.Helper()
	rows, err := w.Query(context.Background(), store.Limits{Tenants: tenants}, sql)
	if err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// An hour of a time as a table of hours has it; what is behind the last one is in it.
const hourOf = "if(%[1]s >= toDateTime64('2106-01-01 00:00:00', 6, 'UTC'), toDateTime('2105-12-31 23:00:00', 'UTC'), toStartOfHour(toDateTime(%[1]s, 'UTC')))"

// sums are what the tables say, and the same of the events, by a text of its own.
var sums = map[string][2]string{
	"activity": {
		`SELECT toString(tuple(tenant, hour, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month, sum(events), sum(denied), sum(request_bytes), sum(response_bytes),
			sum(duration_us), max(longest_us), quantilesBFloat16Merge(0.5, 0.95, 0.99)(durations), min(first_at), max(last_at))) AS row
		FROM activity_hourly GROUP BY tenant, hour, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month ORDER BY row`,
		`SELECT toString(tuple(tenant, ` + fmt.Sprintf(hourOf, "occurred_at") + ` AS h, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month, count(),
			countIf(outcome = 'denied' OR decision = 'deny'), sum(request_bytes), sum(response_bytes), sum(duration_us), max(duration_us),
			quantilesBFloat16(0.5, 0.95, 0.99)(toUInt64(exp2(round(log2(if(duration_us = 0, 1, duration_us)) * 16) / 16))), min(occurred_at), max(occurred_at))) AS row
		FROM %s GROUP BY tenant, h, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month ORDER BY row`,
	},
	"tools": {
		`SELECT toString(tuple(tenant, hour, server, environment, kind, target, outcome, sum(events), sum(denied), sum(request_bytes), sum(response_bytes),
			sum(duration_us), max(longest_us), quantilesBFloat16Merge(0.5, 0.95, 0.99)(durations), min(first_at), max(last_at))) AS row
		FROM tools_hourly GROUP BY tenant, hour, server, environment, kind, target, outcome ORDER BY row`,
		`SELECT toString(tuple(tenant, ` + fmt.Sprintf(hourOf, "occurred_at") + ` AS h, server, environment, kind, target, outcome, count(), countIf(outcome = 'denied' OR decision = 'deny'), sum(request_bytes), sum(response_bytes),
			sum(duration_us), max(duration_us), quantilesBFloat16(0.5, 0.95, 0.99)(toUInt64(exp2(round(log2(if(duration_us = 0, 1, duration_us)) * 16) / 16))), min(occurred_at), max(occurred_at))) AS row
		FROM %s GROUP BY tenant, h, server, environment, kind, target, outcome ORDER BY row`,
	},
	"emitters": {
		`SELECT toString(tuple(tenant, emitter_id, hour, server, sum(events), min(lowest_seq), max(highest_seq), sum(delay_us), min(first_at), max(last_at))) AS row
		FROM emitters_hourly GROUP BY tenant, emitter_id, hour, server ORDER BY row`,
		`SELECT toString(tuple(tenant, emitter_id, ` + fmt.Sprintf(hourOf, "received_at") + ` AS h, server, count(), min(emitter_seq), max(emitter_seq),
			sum(toInt64(dateDiff('microsecond', occurred_at, received_at)) - toInt64(duration_us)), min(received_at), max(received_at))) AS row
		FROM %s GROUP BY tenant, emitter_id, h, server ORDER BY row`,
	},
	"definitions": {
		`SELECT toString(tuple(tenant, server, target, definition_digest, max(read_only), max(destructive), max(idempotent), max(open_world), max(listed), arraySort(groupUniqArrayArray(signals)), min(first_at), max(last_at))) AS row
		FROM tool_definitions GROUP BY tenant, server, target, definition_digest ORDER BY row`,
		`SELECT toString(tuple(tenant, server, target, definition_digest, max(toUInt8(hint_read_only)), max(toUInt8(hint_destructive)), max(toUInt8(hint_idempotent)), max(toUInt8(hint_open_world)), max(kind = 'tools_list'),
			arraySort(arrayDistinct(arrayFlatten(groupArrayIf(arrayMap(x -> toString(x), signals), kind = 'tools_list')))), min(occurred_at), max(occurred_at))) AS row
		FROM %s WHERE definition_digest != unhex(repeat('00', 16)) AND target != '' AND (kind = 'tool_call' OR kind = 'tools_list') GROUP BY tenant, server, target, definition_digest ORDER BY row`,
	},
}

// check compares all tables, but those that are named, with the events of which a
// condition is true.
func (w *world) check(where string, but ...string) {
	w.t.Helper()
	for name, sql := range sums {
		if slices.Contains(but, name) {
			continue
		}
		got, want := w.rows(nil, sql[0]), w.rows(nil, fmt.Sprintf(sql[1], "(SELECT * FROM events WHERE "+where+")"))
		if !slices.Equal(got, want) {
			w.t.Errorf("%s: %d rows, want %d of the events; the first that differ:\n%s", name, len(got), len(want), firstDifference(got, want))
		}
	}
	if w.t.Failed() {
		w.t.FailNow()
	}
}

// count compares how many events are added up with those of which a condition is true.
func (w *world) count(where string) {
	w.t.Helper()
	want := w.rows(nil, "SELECT toString(count()) FROM events WHERE "+where)[0]
	for _, table := range []string{"activity_hourly", "tools_hourly", "emitters_hourly"} {
		if got := w.rows(nil, "SELECT toString(sum(events)) FROM "+table)[0]; got != want {
			w.t.Fatalf("%s has %s events, want %s", table, got, want)
		}
	}
}

func firstDifference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return " got " + got[i] + "\nwant " + want[i]
		}
	}
	if len(got) > len(want) {
		return " got " + got[len(want)]
	}
	return "want " + strings.Join(want[len(got):len(got)+1], "")
}

// sealed is true of what all entries count.
func (w *world) sealed() string {
	var out []string
	for log, next := range w.next {
		out = append(out, fmt.Sprintf("log_id = '%s' AND batch < %d", log, next))
	}
	return strings.Join(out, " OR ")
}

func exec(w *world, sql string) {
	w.t.Helper()
	storetest.Exec(w.t, w.Store, sql)
}
