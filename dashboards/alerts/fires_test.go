package alerts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// series are what Prometheus has scraped each minute, for an hour and a half: fires is
// when the rule must fire, calm when it must not.
var series = map[string]struct{ fires, calm string }{
	"mcpaudit-service-down":       {`other{}  1x90`, `mcpaudit_build_info{instance="a"}  1x90`},
	"mcpaudit-store-fails":        {`mcpaudit_ingest_store_failures_total{instance="a"}  0x60 0+1x30`, `mcpaudit_ingest_store_failures_total{instance="a"}  0+1x10 10x80`},
	"mcpaudit-events-rejected":    {`mcpaudit_ingest_events_total{instance="a",result="rejected"}  0+1x90`, `mcpaudit_ingest_events_total{instance="a",result="stored"}  0+100x90`},
	"mcpaudit-detect-lags":        {`mcpaudit_detect_lag_seconds{instance="a"}  0+10x90`, `mcpaudit_detect_lag_seconds{instance="a"}  0x80 400x5 0x5`},
	"mcpaudit-activity-lags":      {`mcpaudit_activity_lag_seconds{instance="a"}  0+60x90`, `mcpaudit_activity_lag_seconds{instance="a"}  20x90`},
	"mcpaudit-notifications-wait": {`mcpaudit_notify_oldest_seconds{receiver="r"}  0+60x90`, `mcpaudit_notify_oldest_seconds{receiver="r"}  30x90`},
	"mcpaudit-kafka-dead-letters": {`mcpaudit_kafka_dead_letters_total{reason="json"}  _x80 1x10`, `mcpaudit_kafka_dead_letters_total{reason="json"}  0x20 3x70`},
	"mcpaudit-kafka-stuck":        {`mcpaudit_kafka_partition_stuck{partition="3"}  0x60 1x30`, `mcpaudit_kafka_partition_stuck{partition="3"}  0x88 1x2`},
	"mcpaudit-logins-refused":     {`mcpaudit_access_refused_total{reason="unknown"}  0+40x90`, `mcpaudit_access_refused_total{reason="unknown"}  0+2x90`},
	"mcpaudit-anchors-fail":       {`mcpaudit_ledger_anchors_total{place="file",result="failed"}  0+1x90`, `mcpaudit_ledger_anchors_total{place="file",result="kept"}  0+1x90`},
}

// keptBy is the label that a query's answer has.
var keptBy = regexp.MustCompile(`by \((\w+)\)`)

// Rules over metrics are evaluated by Prometheus itself (promtool test rules).
func TestRulesOverMetricsFireWhenTheyShould(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("there is no promtool; run make setup (Debian package prometheus)")
	}
	type test struct {
		Interval string           `yaml:"interval"`
		Series   []map[string]any `yaml:"input_series"`
		Alerts   []map[string]any `yaml:"alert_rule_test,omitempty"`
		Exprs    []map[string]any `yaml:"promql_expr_test,omitempty"`
	}
	var rules []map[string]any
	var tests []test
	each(t, Prometheus, func(r Rule) {
		name := strings.ReplaceAll(r.UID, "-", "_")
		rules = append(rules, map[string]any{"alert": name, "expr": fmt.Sprintf("(%s) > %v", r.Query, r.Above), "for": Span(r.For)})
		s, ok := series[r.UID]
		if !ok {
			t.Errorf("%s: no series are given", r.UID)
			return
		}
		for input, fires := range map[string]bool{s.fires: true, s.calm: false} {
			metric, values, _ := strings.Cut(input, "  ")
			labels := map[string]string{}
			keep := keptBy.FindStringSubmatch(r.Query)
			if keep != nil {
				_, rest, _ := strings.Cut(metric, keep[1]+`="`)
				labels[keep[1]], _, _ = strings.Cut(rest, `"`)
			}
			expected := []map[string]any{}
			if fires {
				expected = append(expected, map[string]any{"exp_labels": labels})
			}
			tests = append(tests, test{Interval: "1m", Series: []map[string]any{{"series": metric, "values": values}},
				Alerts: []map[string]any{{"eval_time": "89m", "alertname": name, "exp_alerts": expected}}})
		}
	})
	dir := t.TempDir()
	write := func(name string, v any) string {
		text, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("rules.yaml", map[string]any{"groups": []any{map[string]any{"name": "g", "rules": rules}}})
	file := write("test.yaml", map[string]any{"rule_files": []string{"rules.yaml"}, "evaluation_interval": "1m", "tests": tests})
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// ago is a time as SQL.
func ago(span string) string { return "now64(6) - INTERVAL " + span }

// finding is a statement that stores a version of a finding; n is its number.
func finding(n, version int, tenant, rule, severity, state, opened string) string {
	return fmt.Sprintf(`INSERT INTO findings (seq, told_at, finding_id, version, rule, detector, severity, tenant, principal, server, emitter_id, started_at, last_seen_at, opened_at, state)
		SELECT %d, %[5]s, toUUID('00000000-0000-0000-0000-%012[1]d'), %[2]d, '%[3]s', replaceAll('%[3]s', '-', '_'), '%[4]s', '%[6]s', 'bob', 'files', 'e-%[1]d', %[5]s, %[5]s, %[5]s, '%[7]s'`,
		n, version, rule, severity, opened, tenant, state)
}

// action is a statement that stores what somebody did about a finding.
func action(n int, step, severity, at string) string {
	return fmt.Sprintf(`INSERT INTO finding_actions (action_id, finding_id, tenant, at, step, severity) SELECT generateUUIDv4(), toUUID('00000000-0000-0000-0000-%012d'), 'acme', %s, '%s', '%s'`, n, at, step, severity)
}

func suppress(n int, rule, severity, since, until string) string {
	return fmt.Sprintf(`INSERT INTO finding_actions (action_id, finding_id, tenant, at, step, severity, suppression_id, rule, principal, expires_at)
		SELECT generateUUIDv4(), toUUID('00000000-0000-0000-0000-%012d'), 'acme', %s, 'suppress', '%s', generateUUIDv4(), '%s', 'bob', %s`, n, since, severity, rule, until)
}

func denials(tenant, server, hour string, events int) string {
	return fmt.Sprintf(`INSERT INTO activity_hourly (tenant, hour, server, kind, outcome, principal, events) SELECT '%s', toStartOfHour(now()) - INTERVAL %s, '%s', 'tool_call', 'denied', 'bob', %d`, tenant, hour, server, events)
}

func ownEvent(method, phase, outcome, at string) string {
	return fmt.Sprintf(`INSERT INTO events (event_id, tenant, server, kind, method, outcome, occurred_at, received_at, expires_month, labels)
		SELECT generateUUIDv4(), 'default', 'mcpaudit', 'admin', '%s', '%s', %s, now64(6), '2030-01-01', map('phase', '%s')`, method, outcome, at, phase)
}

// Rules over ClickHouse are run on the engine: what they find in a store with a bit of
// everything, and that they find nothing in one where all is well.
func TestRulesOverTheStoreFireWhenTheyShould(t *testing.T) {
	want := map[string][]string{
		// 1 waits, 4 became worse after it was closed, 5 was opened again.
		"mcpaudit-finding-waits":    {"acme agent-loop critical 1", "acme agent-loop high 1", "acme call-spike high 1", "globex agent-loop high 1"},
		"mcpaudit-log-contradicted": {"acme 1"},
		"mcpaudit-emitter-silent":   {"acme e-30 1"},
		"mcpaudit-emitter-gap":      {"acme e-40 1"},
		"mcpaudit-denials-high":     {"acme 50"},
		"mcpaudit-verify-overdue":   {"8"},
	}
	s := storetest.Open(t, t.TempDir())
	for _, sql := range []string{
		"INSERT INTO logs (log_id, started_at) SELECT 'l', " + ago("3 DAY"),
		ownEvent("mcpaudit/verify_store", "end", "success", ago("2 HOUR")), // so that all is well
		denials("acme", "files", "50 HOUR", 10), denials("acme", "files", "0 HOUR", 12), denials("acme", "mcpaudit", "0 HOUR", 900),
		finding(90, 1, "acme", "agent-loop", "high", "resolved", ago("2 HOUR")),
		finding(91, 1, "acme", "agent-loop", "medium", "open", ago("2 HOUR")),
		finding(92, 1, "acme", "agent-loop", "high", "open", ago("5 MINUTE")),
	} {
		storetest.Exec(t, s, sql)
	}
	each(t, ClickHouse, func(r Rule) {
		if rows := fired(t, s, r); len(rows) > 0 {
			t.Errorf("%s fires when all is well: %q", r.UID, rows)
		}
	})
	storetest.Exec(t, s, "TRUNCATE TABLE events")
	storetest.Exec(t, s, "TRUNCATE TABLE logs")
	for _, sql := range []string{
		finding(1, 1, "acme", "agent-loop", "medium", "open", ago("3 HOUR")), finding(1, 2, "acme", "agent-loop", "high", "open", ago("1 HOUR")), finding(1, 3, "acme", "agent-loop", "high", "open", ago("1 MINUTE")),
		finding(2, 1, "acme", "agent-loop", "high", "open", ago("1 HOUR")), action(2, "acknowledge", "high", ago("50 MINUTE")), action(2, "note", "high", ago("40 MINUTE")),
		finding(3, 1, "acme", "agent-loop", "critical", "open", ago("1 HOUR")), action(3, "close", "critical", ago("50 MINUTE")),
		finding(4, 1, "acme", "agent-loop", "high", "open", ago("2 HOUR")), action(4, "close", "high", ago("90 MINUTE")), finding(4, 2, "acme", "agent-loop", "critical", "open", ago("1 HOUR")),
		finding(5, 1, "acme", "call-spike", "high", "open", ago("1 HOUR")), action(5, "close", "high", ago("50 MINUTE")), action(5, "reopen", "high", ago("40 MINUTE")),
		finding(6, 1, "globex", "agent-loop", "high", "open", ago("1 HOUR")),
		suppress(7, "toxic-flow", "high", ago("2 HOUR"), ago("-2 HOUR")), finding(7, 1, "acme", "toxic-flow", "high", "open", ago("1 HOUR")),
		finding(20, 1, "acme", "log-contradicted", "info", "open", ago("1 HOUR")), finding(21, 1, "acme", "log-contradicted", "info", "resolved", ago("1 HOUR")),
		finding(30, 1, "acme", "emitter-silent", "low", "open", ago("1 HOUR")), finding(31, 1, "acme", "emitter-silent", "low", "open", ago("1 HOUR")), action(31, "close", "low", ago("1 MINUTE")),
		finding(40, 1, "acme", "emitter-gap", "low", "open", ago("1 HOUR")), finding(41, 1, "acme", "emitter-gap", "low", "resolved", ago("1 HOUR")),
		denials("acme", "files", "0 HOUR", 88), denials("globex", "files", "0 HOUR", 19),
		"INSERT INTO logs (log_id, started_at) SELECT 'l', " + ago("300 DAY"),
		ownEvent("mcpaudit/verify_store", "begin", "success", ago("1 HOUR")), ownEvent("mcpaudit/verify_store", "end", "protocol_error", ago("1 HOUR")), ownEvent("mcpaudit/list_events", "end", "success", ago("1 HOUR")),
	} {
		storetest.Exec(t, s, sql)
	}
	each(t, ClickHouse, func(r Rule) {
		if got := fired(t, s, r); strings.Join(got, "; ") != strings.Join(want[r.UID], "; ") {
			t.Errorf("%s fires for %q; want %q", r.UID, got, want[r.UID])
		}
	})
	// The same where a server's profile fills joins with NULL.
	each(t, ClickHouse, func(r Rule) {
		r.Query += " SETTINGS join_use_nulls = 1"
		if got := fired(t, s, r); strings.Join(got, "; ") != strings.Join(want[r.UID], "; ") {
			t.Errorf("with join_use_nulls %s fires for %q; want %q", r.UID, got, want[r.UID])
		}
	})
}

// fired are the rows of a rule's answer for which it fires, in order: its texts and its
// one number.
func fired(t *testing.T, s *store.Store, r Rule) (out []string) {
	t.Helper()
	// Texts, then numbers: what Grafana takes for labels and for the value.
	sql := "SELECT toString(tuple(*)) AS row, toFloat64(COLUMNS('^(findings|times_usual|days)$')) AS n FROM (" + r.Query + ")"
	rows, err := s.Query(t.Context(), store.Limits{}, sql)
	if err != nil {
		t.Fatalf("%s: %v", r.UID, err)
	}
	for rows.Next() {
		var row string
		var n float64
		if err := rows.Scan(&row, &n); err != nil {
			t.Fatalf("%s: %v", r.UID, err)
		}
		if n > r.Above {
			out = append(out, strings.NewReplacer("(", "", ")", "", "'", "", ",", " ").Replace(row))
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatalf("%s: %v", r.UID, err)
	}
	sort.Strings(out)
	return out
}
