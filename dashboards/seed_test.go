package dashboards_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// noon is the end of the seeded time. The engine has a clock of its own, so that what
// ends after it ends late.
var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

const (
	seeded = 40_000 // events, one each 22 s: ten days
	odd    = 12     // events whose every name is hard to quote
)

// oddly are names that end literals, heredocs, comments and regular expressions.
var oddly = map[string]string{
	"tenant": `o'dd\ten--ant`, "environment": `e\n'v/*`, "server": `ser\ver'`, "principal": `CORP\o'brien, $re$|.* $__all`, "tool": `to"ol\`,
	"session": `s'\`, "trace": `%27 tr\ace`, "finding": `' OR 1 --\`,
}

// literal is a text as ClickHouse has it.
func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// insert is a statement that fills columns by expressions, which may name other columns.
func insert(table, from string, pairs ...string) string {
	var columns, values []string
	for i := 0; i < len(pairs); i += 2 {
		columns = append(columns, "`"+pairs[i]+"`")
		values = append(values, pairs[i+1]+" AS `"+pairs[i]+"`")
	}
	return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") SELECT " + strings.Join(values, ", ") + " " + from
}

// seedStore fills a store with ten days of three servers and two tenants, and with what
// the service itself writes: by plain inserts, which say in a few lines what the rows are.
func seedStore(t testing.TB) *store.Store {
	t.Helper()
	s := storetest.Open(t, t.TempDir())
	exec := func(sql string) { storetest.Exec(t, s, sql) }
	end := fmt.Sprintf("toDateTime64(%d, 6, 'UTC')", noon.Unix())
	// Every 40th event is a listing of tools, every 60th a sign-in. The tool wipe, and new
	// definitions, came in the last hours.
	exec(insert("events", fmt.Sprintf("FROM numbers(%d) SETTINGS max_insert_block_size = 100000", seeded),
		"event_id", "generateUUIDv7(number)", "schema", "1", "log_id", "'log-a'", "batch", "1 + intDiv(number, 1000)", "leaf", "number % 1000", "expires_month", "toDate('2027-01-01')",
		"kind", "multiIf(number % 40 = 0, 'tools_list', number % 60 = 1, 'auth', 'tool_call')",
		"method", "multiIf(kind = 'tool_call', 'tools/call', kind = 'auth', 'authenticate', 'tools/list')",
		"server", "['files', 'mail', 'crm'][1 + number % 3]", "environment", "if(number % 2 = 0, 'production', 'test')",
		"emitter_id", "concat('emitter-', server)", "emitter_seq", fmt.Sprintf("%d - intDiv(number, 3) + if(number < 3000 AND server = 'crm', 5, 0)", seeded),
		"occurred_at", end+" - toIntervalSecond(number * 22 + 5)", "duration_us", "1000 + cityHash64(number) % 90000 * (1 + number % 3)", "received_at", "occurred_at + toIntervalMicrosecond(duration_us + 40000)",
		"tenant", "if(number % 7 = 0, 'globex', 'acme')", "principal", `if(kind = 'auth', '', ['user:ada', 'agent:helpdesk', 'CORP\\bob'][1 + number % 5 % 3])`,
		"principal_kind", "if(number % 5 % 3 = 1, 'agent', 'human')", "on_behalf_of", "if(number % 5 % 3 = 1, ['user:ada'], [])", "agent_name", "if(number % 5 % 3 = 1, 'helpdesk', '')",
		"model", "'model-1'", "client_name", "'desktop'", "client_version", "'1.2'", "auth_method", "'jwt'", "client_ip", "concat('10.0.0.', toString(number % 4))",
		"target", "multiIf(kind = 'auth', '', number < 600 AND number % 4 = 1, 'wipe', ['read', 'send', 'find'][1 + intDiv(number, 3) % 3])",
		"definition_digest", "toFixedString(if(kind = 'auth', '', concat(target, if(number < 800, '2', '1'))), 16)", "hint_read_only", "target != 'send'", "hint_destructive", "target = 'wipe'",
		"session_id", "concat('session-', toString(intDiv(number, 50)))", "trace_id", "lower(hex(MD5(toString(intDiv(number, 20)))))",
		"outcome", "multiIf(kind = 'auth' AND number % 120 = 1, 'denied', kind != 'tool_call', 'success', ['success', 'success', 'success', 'success', 'success', 'success', 'success', 'success', 'tool_error', 'denied', 'timeout', 'protocol_error', 'rate_limited', 'cancelled', 'input_required', 'success', 'success'][1 + number % 17])",
		"decision", "if(outcome = 'denied', 'deny', 'allow')", "decision_reason", "if(outcome = 'denied', 'scope missing', '')", "scopes_required", "['files.read']", "error_code", "if(outcome = 'tool_error', 'isError', '')",
		"request_bytes", "100 + number % 900", "response_bytes", "1000 + number % 50000",
		"arguments_digest", "toFixedString(toString(number % 100), 16)", "result_digest", "toFixedString(toString(number % 70), 16)", "arguments_shape", "toFixedString(target, 16)",
		"signals", "multiIf(kind = 'tools_list' AND number < 800, ['hidden_unicode'], number % 500 = 3, ['secret:aws', 'egress'], [])",
		"removed.path", "if(number % 90 = 3, ['$.token'], [])", "removed.class", "if(number % 90 = 3, ['secret'], [])", "removed_count", "if(number % 90 = 3, 1, 0)", "redaction_profile", "'default'", "redaction_profile_version", "'3'"))
	exec(insert("events", fmt.Sprintf("FROM numbers(%d)", odd),
		"event_id", "generateUUIDv7(number)", "schema", "1", "log_id", "'log-b'", "batch", "1", "leaf", "number", "expires_month", "toDate('2027-01-01')", "emitter_id", "'odd'", "emitter_seq", "number + 1",
		"occurred_at", end+" - toIntervalMinute(number + 1)", "received_at", "occurred_at", "duration_us", "500", "kind", "'tool_call'", "method", "'tools/call'", "outcome", "'success'", "signals", "['odd']",
		"tenant", literal(oddly["tenant"]), "principal", literal(oddly["principal"]), "server", literal(oddly["server"]), "environment", literal(oddly["environment"]), "target", literal(oddly["tool"]),
		"session_id", literal(oddly["session"]), "trace_id", literal(oddly["trace"])))
	// What the service notes of itself, an hour apart.
	exec(insert("events", `FROM (SELECT number, notes[number + 1] AS x FROM (SELECT [
			('admin', 'list_events', '', map('rows', '120', 'via', 'http')), ('admin', 'export_events', '', map('phase', 'begin')), ('admin', 'export_events', '', map('phase', 'end', 'rows', '9000', 'tenants', 'every tenant')),
			('admin', 'verify_store', '', map('phase', 'begin')), ('admin', 'verify_store', '', map('phase', 'end', 'rows', '4')), ('finding', 'verify', 'log-a', map('batch', '3')),
			('admin', 'create_key', 'key:bob', map('phase', 'end')), ('admin', 'start', '', map('version', '1')), ('auth', 'login', '', map('attempts', '7'))] AS notes) AS n, numbers(9) AS i)`,
		"event_id", "generateUUIDv7(number)", "schema", "1", "log_id", "'log-a'", "batch", "900", "leaf", "number", "expires_month", "toDate('2027-01-01')", "emitter_id", "'mcpaudit-service-1'", "emitter_seq", "number + 1",
		"occurred_at", end+" - toIntervalMinute(60 * number + 30)", "received_at", "occurred_at", "duration_us", "70000", "tenant", "'default'", "principal", "'key:ana'", "principal_name", "'Ana'", "principal_kind", "'human'",
		"server", "'mcpaudit'", "client_ip", "'10.9.9.9'", "kind", "x.1", "method", "concat('mcpaudit/', x.2)", "target", "x.3", "labels", "x.4", "decision", "if(kind = 'auth', 'deny', 'allow')",
		"decision_reason", "if(kind = 'auth', 'unknown', '')", "outcome", "if(kind = 'auth', 'denied', 'success')", "error_code", "if(kind = 'finding', 'CODE_EVENT_CHANGED', '')", "error_message", "if(kind = 'finding', 'event 7 of batch 3 is not what was sealed', '')"))
	seedLedger(exec, end)
	sumUp(t, s)
	seedFindings(t, s)
	seedNotifications(exec)
	return s
}

// seedLedger adds entries of every kind.
func seedLedger(exec func(string), end string) {
	exec(insert("ledger", "FROM numbers(60)", "format", "1", "log_id", "'log-a'", "batch", "number + 1", "schema", "1", "expires_month", "toDate('2027-01-01')",
		"sealed_at", end+" - toIntervalMinute(30 * (60 - number))",
		"kind", "multiIf(number = 3, 'key', number = 5, 'hold', number = 6, 'hold', number = 7, 'release', number = 9, 'drop', number = 11, 'recovered', 'events')",
		"events", "if(kind IN ('events', 'recovered'), 1000, 0)",
		"detail", `multiIf(number = 5, '{"id":"hold-1","filter":"server = \\"files\\"","reason":"case 7","owner":"legal"}', number = 6, '{"id":"hold-2","owner":"legal"}', number = 7, '{"id":"hold-2","owner":"ana"}', number = 9, '{"month":20424,"before":900,"events":70,"kept":3,"by":"schedule"}', '')`))
}

// sumUp fills what dashboards read from the events, by the service's own statements.
func sumUp(t testing.TB, s *store.Store) {
	t.Helper()
	for _, log := range []string{"log-a", "log-b"} {
		if _, err := s.AddActivity(context.Background(), store.ActivityRange{LogID: log, First: 1, Last: 1000}, false, noon); err != nil {
			t.Fatal(err)
		}
	}
}

func findingID(n int) string { return fmt.Sprintf("%08x-0000-8000-8000-%012x", n*0x01010101, n) }

// seedFindings tells findings that are new, acknowledged, closed as noise, closed rightly,
// resolved and declared to be usual.
func seedFindings(t testing.TB, s *store.Store) {
	t.Helper()
	severities := []string{"low", "medium", "high", "critical"}
	detectors := []string{"agent_loop", "scope_violation", "off_hours"}
	evidence, err := event.ParseID("01890a5d-ac96-774b-bcce-b302099a8057")
	if err != nil {
		t.Fatal(err)
	}
	var rows []store.Finding
	tell := func(n int, version uint32, change func(*store.Finding)) {
		at := noon.Add(-time.Duration(n) * 20 * time.Minute)
		detector := detectors[n%3]
		f := store.Finding{Seq: uint64(len(rows) + 1), ToldAt: at.UnixMicro(), ID: findingID(n), Version: version, Rule: strings.ReplaceAll(detector, "_", "-"), Detector: detector, Severity: severities[n%4],
			Reason: "the same call again and again", Observed: "40 calls", Expected: "at most 3", Tenant: "acme", Principal: "agent:helpdesk", SessionID: fmt.Sprint("session-", n), Server: "files", Target: "read",
			StartedAt: at.UnixMicro(), LastSeenAt: at.Add(10 * time.Minute).UnixMicro(), OpenedAt: at.Add(time.Minute).UnixMicro(), Events: 40, EventIDs: []event.ID{evidence}, State: "open"}
		if change != nil {
			change(&f)
		}
		rows = append(rows, f)
	}
	// Four of each rule; the first of every four goes quiet by itself.
	for n := 1; n <= 12; n++ {
		tell(n, 1, nil)
		if n%4 == 1 {
			tell(n, 2, func(f *store.Finding) {
				f.State, f.EndedAt = "resolved", f.LastSeenAt+60e6
			})
		}
	}
	if err := s.AppendFindings(context.Background(), rows); err != nil {
		t.Fatal(err)
	}
	var steps []store.FindingAction
	act := func(n int, step, verdict string) {
		steps = append(steps, store.FindingAction{ID: uuid.New(), FindingID: uuid.MustParse(findingID(n)), Tenant: "acme", At: noon.Add(-time.Duration(n)*20*time.Minute + 15*time.Minute), By: "ana",
			Step: step, Verdict: verdict, Severity: "critical"})
	}
	act(2, "acknowledge", "")
	act(3, "close", "false_positive")
	act(4, "close", "true_positive")
	steps = append(steps, store.FindingAction{ID: uuid.New(), FindingID: uuid.MustParse(findingID(12)), Tenant: "acme", At: noon.Add(-3 * time.Hour), By: "ana", Step: "suppress", Severity: "critical", Note: "nightly job",
		SuppressionID: uuid.New(), Rule: "off-hours", Principal: "agent:helpdesk", Server: "files", ExpiresAt: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)})
	if err := s.AppendActions(context.Background(), steps); err != nil {
		t.Fatal(err)
	}
}

// seedNotifications queues five, of which two arrive, one at the second attempt; one is
// given up, and one waits.
func seedNotifications(exec func(string)) {
	at := fmt.Sprintf("toDateTime64(%d, 6, 'UTC')", noon.Add(-50*time.Minute).Unix())
	exec(`INSERT INTO notifications (at, step, notification_id, receiver, what, finding_id, version, tenant, rule, detector, severity, server, attempt, status, error)
		SELECT ` + at + ` + toIntervalMinute(x.3), x.1, toUUID(concat('00000000-0000-0000-0000-00000000000', toString(x.2))), if(x.2 = 4, 'pager', 'chat'), 'firing', toUUID('` + findingID(1) + `'), 1, 'acme', 'agent-loop', 'agent_loop', 'high', 'files',
			if(x.1 = 'queued', 0, x.3), if(x.1 = 'failed', 503, if(x.1 = 'sent', 200, 0)), if(x.1 = 'failed', 'the receiver answered 503', '')
		FROM (SELECT arrayJoin([('queued', 1, 0), ('sent', 1, 1), ('queued', 2, 0), ('failed', 2, 1), ('sent', 2, 2), ('queued', 3, 0), ('skipped', 3, 3), ('queued', 4, 0), ('failed', 4, 2)]) AS x)`)
}
