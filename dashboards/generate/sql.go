package main

import "strings"

// Values of variables come from events, which is to say from anybody. None of Grafana's
// formats for SQL escapes a backslash, which ClickHouse's literals give a meaning; these
// two ways stand whatever is in a value:
//
//   - several: as a regular expression in a heredoc. The format regex escapes every $, so
//     that no value ends the heredoc, and a heredoc knows neither quotes nor escapes. It
//     ends with \z and not with $, because the data source puts a condition in its place
//     with JavaScript's replace, which makes one $ of two;
//   - one, that was typed: percent-encoded, and decoded by ClickHouse. That is a
//     constant before anything is read, so a skip index is of use.
func oneOf(column, variable string) string {
	return "$__conditionalAll(match(" + column + ", $re$^(?:${" + variable + `:regex})\z$re$), $` + variable + ")"
}

func typed(condition, variable string) string {
	return "$__conditionalAll(" + condition + " = decodeURLComponent('${" + variable + ":percentencode}'), $" + variable + ")"
}

// chosen is what the variables say about a table that has all of their columns.
var chosen = strings.Join([]string{oneOf("tenant", "tenant"), oneOf("environment", "environment"), oneOf("server", "server"),
	oneOf("principal", "principal"), oneOf("target", "tool")}, "\n  AND ")

// chosenOfFindings leaves out the environment, which a finding does not have.
var chosenOfFindings = strings.Join([]string{oneOf("tenant", "tenant"), oneOf("server", "server"),
	oneOf("principal", "principal"), oneOf("target", "tool")}, "\n    AND ")

// hours are those that have a part in the time range. Not toStartOfHour of its begin:
// the server's own time zone may be half an hour beside.
const hours = "hour > $__fromTime - 3600 AND hour <= $__toTime"

// few says that the time range is short enough to look at events themselves, which is
// finer than hours; the other side of such a statement reads nothing.
const (
	few  = "toUnixTimestamp($__toTime) - toUnixTimestamp($__fromTime) <= 21600"
	many = "toUnixTimestamp($__toTime) - toUnixTimestamp($__fromTime) > 21600"
)

// What counts as an error and as a denial is the same as everywhere in the API, see
// query/aggregate.go.
const (
	isError  = "outcome IN ('tool_error', 'protocol_error', 'timeout')"
	isDenial = "(outcome = 'denied' OR decision = 'deny')"
)

// ranked is a severity as a number.
func ranked(severity string) string {
	return "indexOf(['info', 'low', 'medium', 'high', 'critical'], " + severity + ")"
}

// sums are the hourly sums of what a condition says. They come from the table without
// principals, unless some are chosen: it has a hundredth of the rows, and as many states of
// quantiles to merge. The half that is not meant is false before anything is read: what
// $__conditionalAll says of 0 is whether all are.
func sums(which string) string {
	const columns = "tenant, hour, server, kind, target, outcome, events, denied, request_bytes, response_bytes, longest_us, durations, first_at, last_at"
	return `(
    SELECT ` + columns + ` FROM tools_hourly
    WHERE ` + which + ` AND ` + allPrincipals + `
      AND ` + strings.Join([]string{oneOf("tenant", "tenant"), oneOf("environment", "environment"), oneOf("server", "server"), oneOf("target", "tool")}, "\n      AND ") + `
    UNION ALL
    SELECT ` + columns + ` FROM activity_hourly
    WHERE ` + which + ` AND NOT ` + allPrincipals + `
      AND ` + chosen + `
  )`
}

const allPrincipals = "($__conditionalAll(0, $principal))"

// narrow says that it is known whom or what to look for, or that the time range is short
// enough to look for everything: nobody means to read all events of a quarter, one by one,
// fifteen times.
const narrow = "(toUnixTimestamp($__toTime) - toUnixTimestamp($__fromTime) <= 8 * 86400" +
	" OR NOT (($__conditionalAll(0, $principal)) AND ($__conditionalAll(0, $session)) AND ($__conditionalAll(0, $trace)) AND ($__conditionalAll(0, $finding))))"

// newestFirst sorts a few events out of many. By the column itself the engine would begin
// with the newest granules and read every column there before it looks at the conditions,
// and then the other columns of each granule whole: 5 s for 1,000 of 20 million.
const newestFirst = "toUnixTimestamp64Micro(occurred_at) DESC"

// suppressions are the rows of what is declared to be usual: until is when it ends by
// itself, or when somebody ended it.
const suppressions = `
      SELECT suppression_id AS id, minIf(at, step = 'suppress') AS since, min(if(step = 'suppress', expires_at, at)) AS until,
        anyIf(by, step = 'suppress') AS of_by, anyIf(note, step = 'suppress') AS of_note,
        anyIf(tenant, step = 'suppress') AS of_tenant, anyIf(rule, step = 'suppress') AS of_rule, anyIf(principal, step = 'suppress') AS of_principal,
        anyIf(server, step = 'suppress') AS of_server, anyIf(target, step = 'suppress') AS of_target, anyIf(severity, step = 'suppress') AS of_severity
      FROM finding_actions WHERE step IN ('suppress', 'end_suppression')
      GROUP BY suppression_id HAVING countIf(step = 'suppress') > 0`

// findings are the newest versions and what people made of them, as the API has them:
// viewOf in query/findings/view.go says why each part is as it is. handled_at is the
// first time that somebody acknowledged or closed it, and handled whether anybody did.
var findings = `(
    SELECT f.*, assignee, verdict, handled, handled_at,
      multiIf(last_step = 'close' AND ` + ranked("severity") + ` <= ` + ranked("last_severity") + `, 'closed', last_step = 'acknowledge', 'acknowledged', 'new') AS triage,
      arrayExists(x -> x.1 <= opened_at AND opened_at < x.2 AND last_seen_at < x.2 AND (x.3 = '' OR x.3 = server) AND (x.4 = '' OR x.4 = target)
        AND ` + ranked("severity") + ` <= ` + ranked("x.5") + `, covers) AS suppressed
    FROM (
      SELECT finding_id, version, rule, detector, severity, reason, observed, expected, tenant, principal, session_id, trace_id, server, target,
        started_at, last_seen_at, ended_at, opened_at, events, state
      FROM findings
      WHERE ` + chosenOfFindings + ` AND {which}
      ORDER BY finding_id, version DESC LIMIT 1 BY finding_id
    ) AS f
    LEFT JOIN (
      SELECT finding_id AS of_finding, argMaxIf(step, (at, action_id), step != 'assign') AS last_step,
        argMaxIf(severity, (at, action_id), step != 'assign') AS last_severity,
        argMaxIf(verdict, (at, action_id), step != 'assign') AS verdict, argMaxIf(assignee, (at, action_id), step = 'assign') AS assignee,
        minIf(at, step IN ('acknowledge', 'close')) AS handled_at, countIf(step IN ('acknowledge', 'close')) > 0 AS handled
      FROM finding_actions WHERE step IN ('acknowledge', 'assign', 'close', 'reopen') GROUP BY finding_id
    ) AS j ON j.of_finding = f.finding_id
    LEFT JOIN (
      SELECT of_tenant, of_rule, of_principal, groupArray((since, until, of_server, of_target, of_severity)) AS covers
      FROM (` + suppressions + `
      ) GROUP BY of_tenant, of_rule, of_principal
    ) AS c ON c.of_tenant = f.tenant AND c.of_rule = f.rule AND c.of_principal = f.principal
  )`

var fragments = strings.NewReplacer(
	"{chosen}", chosen,
	"{chosen_of_findings}", chosenOfFindings,
	"{tenant}", oneOf("tenant", "tenant"),
	"{tenant_and_server}", oneOf("tenant", "tenant")+" AND "+oneOf("server", "server"),
	"{tools}", oneOf("tenant", "tenant")+" AND "+oneOf("server", "server")+" AND "+oneOf("target", "tool"),
	"{hours}", hours,
	// What people and agents did, not what the service did itself: of every kind; calls of
	// tools; those by who called, for what needs principals; and calls of any time.
	"{usage}", sums(hours+" AND server != 'mcpaudit'"),
	"{calls}", sums(hours+" AND kind = 'tool_call' AND server != 'mcpaudit'"),
	"{callers}", "activity_hourly WHERE "+hours+" AND kind = 'tool_call' AND server != 'mcpaudit'\n  AND "+chosen,
	"{calls_of_any_time}", sums("hour <= $__toTime AND kind = 'tool_call' AND server != 'mcpaudit'"),
	"{refused_sign_ins}", sums(hours+" AND kind = 'auth' AND outcome = 'denied'"),
	"{raw_calls}", "$__timeFilter(occurred_at) AND kind = 'tool_call' AND server != 'mcpaudit'\n  AND "+chosen,
	"{own}", "$__timeFilter(occurred_at) AND server = 'mcpaudit' AND "+oneOf("tenant", "tenant"),
	"{error}", isError,
	"{denial}", isDenial,
	"{few}", few,
	"{many}", many,
	"{findings}", strings.ReplaceAll(findings, "{which}", "1"),
	// Findings do not change when they started, and are told after that.
	"{findings_until}", strings.ReplaceAll(findings, "{which}", "started_at <= $__toTime"),
	"{narrow}", narrow,
	"{newest_first}", newestFirst,
	"{suppressions}", suppressions,
	"{rank}", ranked("severity"),
	"{p50}", "quantilesBFloat16Merge(0.5, 0.95, 0.99)(durations)[1]",
	"{p95}", "quantilesBFloat16Merge(0.5, 0.95, 0.99)(durations)[2]",
	"{p99}", "quantilesBFloat16Merge(0.5, 0.95, 0.99)(durations)[3]",
	"{quantiles}", "quantilesBFloat16Merge(0.5, 0.95, 0.99)(durations)",
)

// statement puts the fragments into a text, and takes the margin away.
func statement(text string) string {
	text = strings.TrimSpace(text)
	margin := ""
	if _, rest, ok := strings.Cut(text, "\n"); ok {
		margin = rest[:len(rest)-len(strings.TrimLeft(rest, "\t"))]
	}
	return fragments.Replace(strings.ReplaceAll(text, "\n"+margin, "\n"))
}
