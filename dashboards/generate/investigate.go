package main

import (
	"fmt"
	"strings"
)

const (
	nothing = "Nothing matches, or more than eight days are to be searched for everybody: choose a principal, session, trace or finding"
	whom    = "Choose whom"
)

// asked is what was chosen, of events. A finding is looked for by the events that are
// its evidence, of which it names up to twenty.
var asked = `{narrow} AND $__timeFilter(occurred_at) AND {chosen}
			  AND ` + typed("session_id", "session") + `
			  AND ` + typed("trace_id", "trace") + `
			  AND $__conditionalAll(event_id IN (SELECT arrayJoin(event_ids) FROM findings WHERE finding_id = toUUIDOrZero(decodeURLComponent('${finding:percentencode}'))), $finding)`

func investigateBoard() dashboard {
	more := []any{
		text("session", "Session", "A session id, whole."),
		text("trace", "Trace", "A trace id, whole: 32 hexadecimal digits."),
		text("finding", "Finding", "A finding's id: its evidence alone is shown."),
	}
	return board(investigate, "mcpaudit investigate", "One principal, session, trace or finding: what happened in which order, with which tools, and what is odd in it. Never arguments themselves: what they were shaped like, and what was seen in them.", "now-24h", more, []ask{
		row(1, "What is this?"),
		{id: 2, kind: "stat", w: 4, h: 4, title: "How many events are these?", unit: "short", none: whom, steps: plain,
			about: "Events of every kind that match the choice above. None though there should be some: widen the time range. Beyond eight days it has to be said for whom or what to look.",
			links: []link{to("Overview", overview)},
			sql:   `SELECT count() AS n FROM events WHERE ` + asked + ` HAVING {narrow}`},
		{id: 3, kind: "stat", w: 4, h: 4, title: "What share of them failed?", unit: "percentunit", decimal: 1, none: whom, steps: badShare,
			about: "Errors of tools and of the protocol, and timeouts. An agent that fails again and again may be in a loop.",
			links: []link{to("Which tools fail?", toolsBoard)},
			sql:   `SELECT countIf({error}) / greatest(count(), 1) AS failed FROM events WHERE ` + asked + ` HAVING {narrow}`},
		{id: 4, kind: "stat", w: 4, h: 4, title: "How many of them were denied?", unit: "short", none: whom, steps: wantsZero,
			about: "Events with the outcome denied or the decision deny, with whatever reason.",
			links: []link{to("Overview", overview)},
			sql:   `SELECT countIf({denial}) AS denied FROM events WHERE ` + asked + ` HAVING {narrow}`},
		{id: 5, kind: "stat", w: 4, h: 4, title: "How many principals are in it?", unit: "short", none: whom, steps: plain,
			about: "More than one in a session or a trace means that it was handed on, or taken over: see who acted below.",
			links: []link{to("Findings", detections)},
			sql:   `SELECT uniqExactIf(principal, principal != '') AS principals FROM events WHERE ` + asked + ` HAVING {narrow}`},
		{id: 6, kind: "stat", w: 4, h: 4, title: "How many sessions are these?", unit: "short", none: whom, steps: plain,
			about: "Sessions that are named by the events. Servers without sessions, as MCP has them since 2026, name none.",
			links: []link{to("Overview", overview)},
			sql:   `SELECT uniqExactIf(session_id, session_id != '') AS sessions FROM events WHERE ` + asked + ` HAVING {narrow}`},
		{id: 7, kind: "stat", w: 4, h: 4, title: "How much came back?", unit: "bytes", none: whom, steps: plain,
			about: "Bytes of all answers. Far more than this principal usually gets is a reason to look at what left.",
			links: []link{to("Findings", detections)},
			sql:   `SELECT sum(response_bytes) AS received FROM events WHERE ` + asked + ` HAVING {narrow}`},

		row(10, "What happened"),
		{id: 11, kind: "timeseries", w: 16, h: 7, title: "When did it happen, and how did it end?", unit: "short", none: nothing, stack: true, series: true, by: "outcome", colours: outcomeColours, names: outcomes,
			about: "Events by outcome, as fine as the time range allows. Drag over a part of it to look closer.",
			links: []link{to("Overview", overview)},
			sql: `
			SELECT $__timeInterval(occurred_at) AS time, outcome, count() AS n FROM events
			WHERE ` + asked + `
			GROUP BY time, outcome ORDER BY time, outcome`},
		{id: 12, kind: "bargauge", w: 8, h: 7, title: "What was seen in arguments and results?", unit: "short", none: "No signal in this time range", least: number(0), steps: scale("yellow"),
			about: "Signals, found before redaction took the values away: secrets, personal data, attacks on what a tool does with its arguments, hidden text.",
			links: []link{to("Findings", detections)},
			sql: `
			SELECT arrayJoin(signals) AS signal, count() AS n FROM events
			WHERE ` + asked + `
			GROUP BY signal ORDER BY n DESC, signal LIMIT 15`},
		{id: 13, kind: "table", w: 24, h: 14, title: "What happened, one after the other?", unit: "short", none: nothing,
			about: "The newest 500 events. shape is a digest of the arguments' keys and types and answer one of the result: equal ones were equal. removed are the sorts of values that redaction took out.",
			links: []link{to("Overview", overview)},
			columns: []column{{name: "time", width: 190}, {name: "duration", unit: "µs", width: 90}, {name: "received", unit: "bytes", width: 90}, {name: "sent", unit: "bytes", width: 80},
				{name: "principal", link: to("Investigate this principal", investigate, "principal", field("principal"))},
				{name: "server", link: to("Tools of this server", toolsBoard, "server", field("server"), "tool", "$__all")},
				{name: "session", link: to("Investigate this session", investigate, "session", field("session"), "principal", "$__all", "server", "$__all", "tool", "$__all")},
				{name: "trace", link: to("Investigate this trace", investigate, "trace", field("trace"), "principal", "$__all", "server", "$__all", "tool", "$__all")}},
			sql: `
			SELECT occurred_at AS time, principal, server, method, target, outcome, duration_us AS duration, decision, error_code AS error,
			  arrayStringConcat(signals, ', ') AS signal, arrayStringConcat(arrayDistinct(` + "`removed.class`" + `), ', ') AS removed,
			  request_bytes AS sent, response_bytes AS received, lower(hex(arguments_shape)) AS shape, lower(hex(result_digest)) AS answer,
			  agent_name AS agent, session_id AS session, trace_id AS trace, tenant, environment, toString(event_id) AS event_id
			FROM events WHERE ` + asked + `
			ORDER BY occurred_at DESC, event_id DESC LIMIT 500`},

		row(20, "With what"),
		{id: 21, kind: "table", w: 12, h: 9, title: "Which servers and tools are used?", unit: "short", none: nothing,
			about: "What was called, read or asked for, with the first and the last time of the time range. A tool that appears only once, late, is worth a look.",
			links: []link{to("All tools and servers", toolsBoard)},
			columns: []column{{name: "server", link: to("Tools of this server", toolsBoard, "server", field("server"), "tool", "$__all")}, {name: "p95", unit: "µs"},
				{name: "first_time", unit: "dateTimeFromNow"}, {name: "last_time", unit: "dateTimeFromNow"}},
			sql: `
			SELECT server, kind, target, count() AS n, countIf({error}) AS failed, countIf({denial}) AS denied,
			  quantileBFloat16(0.95)(duration_us) AS p95, min(occurred_at) AS first_time, max(occurred_at) AS last_time
			FROM events WHERE ` + asked + `
			GROUP BY server, kind, target ORDER BY n DESC, server, kind, target LIMIT 200`},
		{id: 22, kind: "table", w: 12, h: 9, title: "What do the arguments look like?", unit: "short", none: nothing,
			about: "Calls by tool and shape of the arguments: the keys and types without the values. different counts how many of them differed: one value for a thousand calls is a loop, a thousand are a search.",
			links: []link{to("All tools and servers", toolsBoard)},
			columns: []column{{name: "tool", link: to("Who calls this tool?", investigate, "server", field("server"), "tool", field("tool"))},
				{name: "typical_size", unit: "bytes"}, {name: "first_time", unit: "dateTimeFromNow"}},
			sql: `
			SELECT server, target AS tool, lower(hex(arguments_shape)) AS shape, count() AS calls, uniq(arguments_digest) AS different, uniq(result_digest) AS answers,
			  quantileBFloat16(0.5)(request_bytes) AS typical_size, min(occurred_at) AS first_time
			FROM events WHERE ` + asked + ` AND kind = 'tool_call'
			GROUP BY server, tool, shape ORDER BY calls DESC, server, tool, shape LIMIT 200`},
		{id: 23, kind: "table", w: 12, h: 9, title: "Which sessions are these?", unit: "short", none: "No event names a session",
			about: "Sessions by their last event. More than one principal or address in one session is how a stolen session looks.",
			links: []link{to("Overview", overview)},
			columns: []column{{name: "session", link: to("Investigate this session", investigate, "session", field("session"), "principal", "$__all", "server", "$__all", "tool", "$__all")},
				{name: "began", unit: "dateTimeFromNow"}, {name: "length", unit: "µs"}, {name: "principals", shade: scale("transparent", 2.0, "orange")}},
			sql: `
			SELECT session_id AS session, count() AS n, uniqExact(principal) AS principals, uniqExact(client_ip) AS addresses, uniqExact(server) AS servers, countIf({denial}) AS denied,
			  min(occurred_at) AS began, toUnixTimestamp64Micro(max(occurred_at)) - toUnixTimestamp64Micro(min(occurred_at)) AS length
			FROM events WHERE ` + asked + ` AND session_id != ''
			GROUP BY session ORDER BY max(occurred_at) DESC, session LIMIT 100`},
		{id: 24, kind: "table", w: 12, h: 9, title: "Which traces are these?", unit: "short", none: "No event has a trace",
			about: "Traces by their last event: one request through every hop. Many servers in one trace is how agents work; many steps without a new tool is how they loop.",
			links: []link{to("Overview", overview)},
			columns: []column{{name: "trace", link: to("Investigate this trace", investigate, "trace", field("trace"), "principal", "$__all", "server", "$__all", "tool", "$__all")},
				{name: "began", unit: "dateTimeFromNow"}, {name: "length", unit: "µs"}},
			sql: `
			SELECT trace_id AS trace, count() AS n, uniqExact(principal) AS principals, uniqExact(server) AS servers, uniqExact(target) AS tools, countIf({error}) AS failed, countIf({denial}) AS denied,
			  min(occurred_at) AS began, toUnixTimestamp64Micro(max(occurred_at)) - toUnixTimestamp64Micro(min(occurred_at)) AS length
			FROM events WHERE ` + asked + ` AND trace_id != ''
			GROUP BY trace ORDER BY max(occurred_at) DESC, trace LIMIT 100`},

		row(30, "Who, and is it usual"),
		{id: 31, kind: "table", w: 12, h: 9, title: "Who acted, from where, and for whom?", unit: "short", none: nothing,
			about: "Principals with the agents, clients, addresses and ways of signing in that they came with. A new address beside an old one at the same time is a reason to ask.",
			links: []link{to("Findings", detections)},
			columns: []column{{name: "principal", link: to("Investigate this principal", investigate, "principal", field("principal"))},
				{name: "first_time", unit: "dateTimeFromNow"}, {name: "last_time", unit: "dateTimeFromNow"}},
			sql: `
			SELECT principal, principal_kind AS kind, agent_name AS agent, model, concat(client_name, ' ', client_version) AS client, client_ip AS address, auth_method AS signed_in_by,
			  arrayStringConcat(on_behalf_of, ' for ') AS for_whom, count() AS n, min(occurred_at) AS first_time, max(occurred_at) AS last_time
			FROM events WHERE ` + asked + `
			GROUP BY principal, kind, agent, model, client, address, signed_in_by, for_whom ORDER BY n DESC, principal LIMIT 200`},
		{id: 32, kind: "heatmap", w: 12, h: 9, title: "At which hours of the day is it active?", unit: "short", none: nothing, series: true, interval: "1d",
			about: "Calls by day and hour of the day, UTC, from the hourly sums: the choice of session, trace and finding makes no difference here. Choose a month to see what is usual, and then the night that is not.",
			links: []link{to("Findings", detections)},
			sql: `
			SELECT toStartOfDay(hour, 'UTC') AS time,
			  ` + hoursOfDay() + `
			FROM {usage} GROUP BY time ORDER BY time`},
		{id: 33, kind: "table", w: 24, h: 9, title: "Which findings are about this?", unit: "short", none: "No finding is about this",
			about:   "Findings that were going on in the time range, about the principal, server and tool that were chosen, also closed ones and what is declared to be usual.",
			links:   []link{to("All findings", detections)},
			columns: findingColumns,
			sql: `
			SELECT ` + listOfFindings + `, suppressed
			FROM {findings_until} WHERE last_seen_at >= $__fromTime
			  AND ` + typed("session_id", "session") + `
			  AND ` + typed("trace_id", "trace") + `
			  AND ` + typed("toString(finding_id)", "finding") + `
			ORDER BY started_at DESC, finding_id LIMIT 100`},
		{id: 34, kind: "bargauge", w: 12, h: 7, title: "What was taken out before it was stored?", unit: "short", none: "Redaction removed nothing", least: number(0), steps: plain,
			about: "Sorts of values that redaction removed, by how many. Secrets among them were sent to a tool: whoever owns them should replace them.",
			links: []link{to("Is redaction complete?", compliance)},
			sql: `
			SELECT arrayJoin(` + "`removed.class`" + `) AS class, count() AS n FROM events
			WHERE ` + asked + `
			GROUP BY class ORDER BY n DESC, class LIMIT 15`},
		{id: 35, kind: "table", w: 12, h: 7, title: "Why was something denied?", unit: "short", none: "Nothing was denied",
			about: "Refusals with the reason, the policy and the scopes that were needed and held. Scopes that are held and refused are a policy to look at.",
			links: []link{to("Findings", detections)},
			columns: []column{{name: "principal", link: to("Investigate this principal", investigate, "principal", field("principal"))},
				{name: "last_time", unit: "dateTimeFromNow"}},
			sql: `
			SELECT principal, server, target, decision_reason AS reason, policy_id AS policy, arrayStringConcat(scopes_required, ' ') AS needed, arrayStringConcat(scopes_granted, ' ') AS held,
			  count() AS n, max(occurred_at) AS last_time
			FROM events WHERE ` + asked + ` AND {denial}
			GROUP BY principal, server, target, reason, policy, needed, held ORDER BY n DESC, principal, server, target LIMIT 100`},
	})
}

// hoursOfDay are 24 columns, one for each row of the heat map.
func hoursOfDay() string {
	var columns []string
	for h := range 24 {
		columns = append(columns, fmt.Sprintf("sumIf(events, toHour(hour, 'UTC') = %d) AS `%02d:00`", h, h))
	}
	return strings.Join(columns, ",\n  ")
}
