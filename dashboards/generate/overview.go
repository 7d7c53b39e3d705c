package main

import "slices"

// Colours of outcomes and severities, the same in every panel.
var (
	outcomeColours = map[string]string{"success": "green", "tool_error": "orange", "protocol_error": "red", "timeout": "yellow", "denied": "purple",
		"rate_limited": "blue", "cancelled": "text", "input_required": "light-blue"}
	outcomes        = []string{"success", "tool_error", "protocol_error", "timeout", "denied", "rate_limited", "cancelled", "input_required"}
	severityColours = map[string]string{"info": "text", "low": "blue", "medium": "yellow", "high": "orange", "critical": "red"}
	severities      = []string{"info", "low", "medium", "high", "critical"}
)

const noCalls = "No tool calls in this time range"

func overviewBoard() dashboard {
	return board(overview, "mcpaudit overview", "Who uses which MCP servers and tools, what fails, what is denied, and what is odd. Start here; every panel leads on to the ones behind it.", "now-24h", nil, []ask{
		row(1, "At a glance"),
		{id: 2, kind: "stat", w: 4, h: 4, title: "How many tool calls were made?", unit: "short", none: noCalls, steps: plain,
			about: "Calls of tools in the time range, whatever became of them. Far fewer than usual: see Compliance for emitters that are silent.",
			links: []link{to("Which tools?", toolsBoard)},
			sql:   `SELECT sum(events) AS calls FROM {calls}`},
		{id: 3, kind: "stat", w: 4, h: 4, title: "What share of calls fails?", unit: "percentunit", decimal: 1, none: noCalls, steps: badShare,
			about: "Calls that ended in a tool's error, a protocol error or a timeout. A success of the transport is none here: an answer with isError counts as failed.",
			links: []link{to("Which tools fail?", toolsBoard)},
			sql:   `SELECT sumIf(events, {error}) / greatest(sum(events), 1) AS failed FROM {calls}`},
		{id: 4, kind: "stat", w: 4, h: 4, title: "What share of calls is denied?", unit: "percentunit", decimal: 2, none: noCalls, steps: scale("green", 0.01, "yellow", 0.05, "red"),
			about: "Calls that were refused for lack of rights. Some are usual, such as a stale token; many of one principal are probing, see who is denied below.",
			links: []link{to("Look closer", investigate)},
			sql:   `SELECT sum(denied) / greatest(sum(events), 1) AS refused FROM {calls}`},
		{id: 5, kind: "stat", w: 4, h: 4, title: "How long do the slowest 5 % take?", unit: "µs", none: noCalls, steps: plain,
			about: "The 95th percentile of the calls' durations, to within 3 %. When it rises, see below which tools became slower.",
			links: []link{to("Which tools are slow?", toolsBoard)},
			sql:   `SELECT if(sum(events) = 0, NULL, {p95}) AS p95 FROM {calls}`},
		{id: 6, kind: "stat", w: 4, h: 4, title: "How many principals were active?", unit: "short", none: noCalls, steps: plain,
			about: "Different principals, people and agents alike, that called at least one tool.",
			links: []link{to("Look closer", investigate)},
			sql:   `SELECT uniqIf(principal, principal != '') AS principals FROM {callers}`},
		{id: 7, kind: "stat", w: 4, h: 4, title: "How many findings wait for somebody?", unit: "short", none: "0", steps: wantsZero,
			about: "Findings of any time that are open, were neither acknowledged nor closed, and are not declared to be usual. The list below says which come first.",
			links: []link{to("Which findings?", detections)},
			sql:   `SELECT count() AS findings FROM {findings} WHERE state = 'open' AND triage = 'new' AND NOT suppressed`},

		row(10, "Traffic"),
		{id: 11, kind: "timeseries", w: 12, h: 8, title: "When are tools called, and how do the calls end?", unit: "short", none: noCalls, stack: true, series: true, by: "outcome", colours: outcomeColours, names: outcomes,
			about: "Calls by outcome, by the time at which they began. Up to six hours are read from the events themselves, longer ranges from hourly sums. A hole means that nobody called, or that nobody reported.",
			links: []link{to("Look closer", investigate)},
			sql: `
			SELECT time, outcome, sum(n) AS calls FROM (
			  SELECT $__timeInterval(hour) AS time, outcome, sum(events) AS n FROM {calls}
			  WHERE {many} GROUP BY time, outcome
			  UNION ALL
			  SELECT $__timeInterval(occurred_at) AS time, outcome, count() AS n FROM events
			  WHERE {raw_calls} AND {few} GROUP BY time, outcome
			) GROUP BY time, outcome ORDER BY time, outcome`},
		{id: 12, kind: "timeseries", w: 12, h: 8, title: "Are calls getting slower?", unit: "µs", none: noCalls, lines: true, series: true,
			about: "Median, 95th and 99th percentile of the calls' durations. All three rising is load or a slow network; only the highest is one slow tool.",
			links: []link{to("Which tools are slow?", toolsBoard)},
			sql: `
			SELECT time, toFloat64(q[1]) AS p50, toFloat64(q[2]) AS p95, toFloat64(q[3]) AS p99 FROM (
			  SELECT $__timeInterval(hour) AS time, {quantiles} AS q FROM {calls}
			  WHERE {many} GROUP BY time
			  UNION ALL
			  SELECT $__timeInterval(occurred_at) AS time, quantilesBFloat16(0.5, 0.95, 0.99)(duration_us) AS q FROM events
			  WHERE {raw_calls} AND {few} GROUP BY time
			) ORDER BY time`},
		{id: 13, kind: "table", w: 24, h: 8, title: "Which servers are used, by whom, and how well do they answer?", unit: "short", none: noCalls,
			about: "One line for each server, the busiest first. failed and refused are shares of its calls; sent and received are what clients and servers wrote.",
			links: []link{to("All tools and servers", toolsBoard)},
			columns: append([]column{{name: "server", link: to("Tools of this server", toolsBoard, "server", field("server"), "tool", "$__all")}, {name: "calls", bar: true}},
				rates("failed", "refused", "p50", "p95", "sent", "received", "last_call")...),
			sql: `
			SELECT server, calls, principals, tools, failed, refused, p50, p95, sent, received, last_call FROM (
			  SELECT server, sum(events) AS calls, uniq(target) AS tools, sumIf(events, {error}) / sum(events) AS failed, sum(denied) / sum(events) AS refused,
			    {p50} AS p50, {p95} AS p95, sum(request_bytes) AS sent, sum(response_bytes) AS received, max(last_at) AS last_call
			  FROM {calls} GROUP BY server ORDER BY calls DESC, server LIMIT 200
			) AS a LEFT JOIN (SELECT server AS name, uniq(principal) AS principals FROM {callers} GROUP BY server) AS p ON p.name = a.server
			ORDER BY calls DESC, server`},
		{id: 14, kind: "table", w: 12, h: 9, title: "Which tools are called most?", unit: "short", none: noCalls,
			about: "Tools by calls. A read-only tool in front is usual; one that sends or deletes is worth a look at who calls it.",
			links: []link{to("All tools and servers", toolsBoard)},
			columns: append([]column{{name: "tool", link: to("Who calls this tool?", investigate, "server", field("server"), "tool", field("tool"))},
				{name: "server", link: to("Tools of this server", toolsBoard, "server", field("server"), "tool", "$__all")}, {name: "calls", bar: true}}, rates("failed", "refused", "p50", "p95")...),
			sql: `
			SELECT target AS tool, server, sum(events) AS calls, sumIf(events, {error}) / sum(events) AS failed, sum(denied) / sum(events) AS refused, {p50} AS p50, {p95} AS p95
			FROM {calls} GROUP BY tool, server ORDER BY calls DESC, tool, server LIMIT 100`},
		{id: 15, kind: "table", w: 12, h: 9, title: "Who calls most, and who is denied?", unit: "short", none: noCalls,
			about: "Principals by calls. Many denials of one principal are probing or an agent whose scopes do not fit its task: look at which tools it was refused.",
			links: []link{to("Look closer", investigate)},
			columns: append([]column{{name: "principal", link: to("Investigate this principal", investigate, "principal", field("principal"))}, {name: "calls", bar: true}},
				rates("failed", "refused", "last_call")...),
			sql: `
			SELECT principal, principal_kind AS sort, sum(events) AS calls, uniq(server) AS servers, uniq(target) AS tools,
			  sumIf(events, {error}) / sum(events) AS failed, sum(denied) / sum(events) AS refused, max(last_at) AS last_call
			FROM {callers}
			GROUP BY principal, sort ORDER BY calls DESC, principal, sort LIMIT 100`},

		row(20, "What goes wrong"),
		{id: 21, kind: "bargauge", w: 8, h: 8, title: "Which servers fail most?", unit: "percentunit", none: "Nothing failed in this time range", least: number(0), most: number(1), steps: badShare,
			about: "Share of failed calls of each server with at least ten calls. One server alone is its own trouble; several at once are what they have in common.",
			links: []link{to("Tools of this server", toolsBoard, "server", field("server"), "tool", "$__all")},
			sql: `
			SELECT server, sumIf(events, {error}) / sum(events) AS failed
			FROM {calls}
			GROUP BY server HAVING sum(events) >= 10 AND failed > 0 ORDER BY failed DESC, server LIMIT 15`},
		{id: 22, kind: "timeseries", w: 8, h: 8, title: "When are calls denied, and by which servers?", unit: "short", none: "Nothing was denied in this time range", stack: true, series: true, by: "server", interval: "1h",
			about: "Denied calls by hour. A step up right after a release is a changed policy; a short peak is somebody who tries.",
			links: []link{to("Look closer at this server", investigate, "server", label("server"))},
			sql: `
			SELECT $__timeInterval(hour) AS time, server, sum(denied) AS refused
			FROM {calls} WHERE denied > 0
			GROUP BY time, server ORDER BY time, server LIMIT 20000`},
		{id: 23, kind: "bargauge", w: 8, h: 8, title: "What else do clients ask for?", unit: "short", none: "Nothing was asked in this time range", least: number(0), steps: plain,
			about: "Events of every kind: listings, resources, prompts, sign-ins and sessions beside the calls of tools. A kind that is missing may be one that a server does not report.",
			links: []link{to("Look closer", investigate)},
			sql: `
			SELECT kind, sum(events) AS n FROM {usage}
			GROUP BY kind ORDER BY n DESC, kind`},
		{id: 24, kind: "timeseries", w: 8, h: 9, title: "When do findings open, and how severe are they?", unit: "short", none: "No findings in this time range", stack: true, series: true, by: "severity", colours: severityColours, names: severities, interval: "1h",
			about: "Findings by when they were opened, without those that are declared to be usual, by their severity now.",
			links: []link{to("All findings", detections)},
			sql: `
			SELECT $__timeInterval(opened_at) AS time, severity, count() AS findings FROM {findings_until}
			WHERE $__timeFilter(opened_at) AND NOT suppressed
			GROUP BY time, severity ORDER BY time, severity`},
		{id: 25, kind: "table", w: 16, h: 9, title: "Which findings come first?", unit: "short", none: "Nothing is open",
			about:   "What is open and not closed, the most severe and newest first, whenever it began. Open one to see what happened before and after it.",
			links:   []link{to("All findings", detections)},
			columns: findingColumns,
			sql: `
			SELECT ` + listOfFindings + `
			FROM {findings} WHERE state = 'open' AND triage != 'closed' AND NOT suppressed
			ORDER BY {rank} DESC, started_at DESC, finding_id LIMIT 50`},
	})
}

// rates are columns that several tables have, by their names.
func rates(names ...string) (out []column) {
	for _, c := range []column{
		{name: "failed", unit: "percentunit", shade: scale("transparent", 0.02, "yellow", 0.1, "red")},
		{name: "refused", unit: "percentunit", shade: scale("transparent", 0.01, "yellow", 0.05, "purple")},
		{name: "p50", unit: "µs"},
		{name: "p95", unit: "µs"},
		{name: "sent", unit: "bytes"},
		{name: "received", unit: "bytes"},
		{name: "last_call", unit: "dateTimeFromNow"},
	} {
		if slices.Contains(names, c.name) {
			out = append(out, c)
		}
	}
	return out
}
