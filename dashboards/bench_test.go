package dashboards_test

import (
	"context"
	"flag"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

var storeDir = flag.String("store", "", "folder of a store that 'mcpaudit bench search --data DIR' has filled: DIR/search")

// BenchmarkPanels runs every statement of the dashboards and of their variables over a
// large store, with All, for the last 90 days and 24 hours, under the limits that the SQL
// endpoint has:
//
//	mcpaudit bench search --events 20000000 --data /var/tmp/bench
//	go test ./dashboards -run '^$' -bench Panels -benchtime 3x -timeout 1h -store /var/tmp/bench/search
//
// What the benchmark's traffic does not have is added once: findings, steps of triage and
// notifications, one for each 2,000 events, and what the service notes of itself, one for each 1,000.
func BenchmarkPanels(b *testing.B) {
	if *storeDir == "" {
		b.Skip("-store names none")
	}
	s := storetest.Open(b, *storeDir)
	now := enrich(b, s)
	for _, f := range load(b) {
		run := func(name string, p *panelModel, sql string) {
			for _, back := range []time.Duration{90 * 24 * time.Hour, 24 * time.Hour} {
				b.Run(fmt.Sprintf("%s/%s/%.0fh", f.UID[len("mcpaudit-"):], name, back.Hours()), func(b *testing.B) {
					begun := processor()
					for i := 0; b.Loop(); i++ {
						// The engine remembers which granules a condition leaves out. Grafana asks for
						// another time each time.
						c := f.scene(b, now.Add(-time.Duration(i)*time.Second))
						c.from = c.to.Add(-back)
						exhaust(b, s, c.at(b, p).expand(b, sql))
					}
					b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms")
					b.ReportMetric(float64((processor()-begun).Milliseconds())/float64(b.N), "cpu-ms")
					b.ReportMetric(0, "ns/op")
				})
			}
		}
		for i := range f.Panels {
			for _, target := range f.Panels[i].Targets {
				if target.RawSQL != "" {
					run(fmt.Sprintf("%02d", f.Panels[i].ID), &f.Panels[i], target.RawSQL)
				}
			}
		}
		if f.UID != "mcpaudit-overview" {
			continue // they have the same variables
		}
		for i := range f.Templating.List {
			if v := &f.Templating.List[i]; v.Type == "query" {
				run(v.Name, &panelModel{}, v.sql(b))
			}
		}
	}
}

// processor is the time that this process, and the engine in it, has used of processors.
// On a machine that others use as well it says more than the clock.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// exhaust reads an answer and looks at nothing of it.
func exhaust(b *testing.B, s *store.Store, sql string) {
	b.Helper()
	rows, err := s.Query(context.Background(), store.Limits{Time: time.Minute}, sql)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
}

// enrich adds what is not there yet, and says when the newest event was.
func enrich(b *testing.B, s *store.Store) (now time.Time) {
	b.Helper()
	a, err := ask(b, s, "SELECT max(occurred_at) AS newest, count() AS n, countIf(server = 'mcpaudit') AS own, min(expires_month) AS month FROM events")
	if err != nil {
		b.Fatal(err)
	}
	now = a.rows[0][0].(time.Time).Truncate(time.Second).Add(time.Second)
	n, own := a.rows[0][1].(uint64), a.rows[0][2].(uint64)
	if own > 0 {
		return now
	}
	spread := fmt.Sprintf("toDateTime64(%d, 6, 'UTC') - toIntervalSecond(cityHash64(number) %% %d)", now.Unix()-1, 90*24*3600)
	storetest.Exec(b, s, insert("events", fmt.Sprintf("FROM numbers(%d)", n/1000),
		"event_id", "generateUUIDv7(number)", "schema", "1", "log_id", "'own'", "batch", "1", "leaf", "number", "expires_month", fmt.Sprintf("toDate('%s')", a.values("month")[0][:10]), "emitter_id", "'mcpaudit-service-1'", "emitter_seq", "number + 1",
		"occurred_at", spread, "received_at", "occurred_at", "duration_us", "70000", "tenant", "'default'", "principal", "concat('key:', toString(number % 20))", "principal_name", "'Ana'", "principal_kind", "'human'",
		"server", "'mcpaudit'", "client_ip", "'10.9.9.9'", "kind", "if(number % 50 = 7, 'auth', 'admin')", "method", "concat('mcpaudit/', ['list_events', 'export_events', 'verify_store', 'create_key'][1 + number % 4])",
		"labels", "map('phase', 'end', 'rows', '10')", "decision", "if(kind = 'auth', 'deny', 'allow')", "outcome", "if(kind = 'auth', 'denied', 'success')"))
	if _, err := s.AddActivity(context.Background(), store.ActivityRange{LogID: "own", First: 1, Last: 1}, false, now); err != nil {
		b.Fatal(err)
	}
	id := "toUUID(concat('00000000-0000-8000-', leftPad(toString(number % 10000), 4, '0'), '-', leftPad(toString(number), 12, '0')))"
	for version := 1; version <= 2; version++ {
		storetest.Exec(b, s, insert("findings", fmt.Sprintf("FROM numbers(%d)", n/2000),
			"seq", fmt.Sprintf("number * 2 + %d", version), "finding_id", id, "version", fmt.Sprint(version), "rule", "['agent-loop', 'off-hours', 'call-spike', 'new-tool'][1 + number % 4]", "detector", "replace(rule, '-', '_')",
			"severity", "['low', 'medium', 'high', 'critical'][1 + number % 7 % 4]", "reason", "'the same call again and again'", "tenant", "'default'", "principal", "concat('issuer|user-', leftPad(toString(number % 200), 3, '0'))",
			"server", "'files'", "target", "'query'", "started_at", spread, "last_seen_at", "started_at + toIntervalMinute(10)", "opened_at", "started_at + toIntervalMinute(1)", "told_at", "opened_at",
			"ended_at", "if(state = 'open', toDateTime64(0, 6, 'UTC'), last_seen_at)", "events", "40", "state", fmt.Sprintf("if(%d = 1 OR number %% 40 = 0, 'open', 'resolved')", version)))
	}
	storetest.Exec(b, s, insert("finding_actions", fmt.Sprintf("FROM numbers(%d)", n/2000),
		"action_id", "generateUUIDv4(number)", "finding_id", id, "tenant", "'default'", "at", spread+" + toIntervalMinute(15)", "by", "'ana'", "severity", "'critical'",
		"step", "if(number % 3 = 0, 'acknowledge', 'close')", "verdict", "if(step = 'close', ['true_positive', 'benign', 'false_positive'][1 + number % 5 % 3], '')"))
	storetest.Exec(b, s, insert("notifications", fmt.Sprintf("FROM numbers(%d)", n/2000),
		"notification_id", "toUUID(concat('00000000-0000-8000-8000-', leftPad(toString(intDiv(number, 2)), 12, '0')))", "at", spread, "step", "if(number % 2 = 0, 'queued', 'sent')", "receiver", "['pager', 'chat', 'hook'][1 + intDiv(number, 2) % 3]",
		"what", "'firing'", "finding_id", id, "version", "1", "tenant", "'default'", "rule", "'agent-loop'", "detector", "'agent_loop'", "severity", "'high'", "server", "'files'", "attempt", "number % 2", "status", "200 * attempt"))
	return now
}
