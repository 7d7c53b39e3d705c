package main

func toolsAndServersBoard() dashboard {
	ofTool := to("Who calls this tool?", investigate, "server", field("server"), "tool", field("tool"))
	ofServer := to("Tools of this server", toolsBoard, "server", field("server"), "tool", "$__all")
	return board(toolsBoard, "mcpaudit tools and servers", "What there is to call, what it says of itself and whether that changed, who uses it for the first time, what is slow and what fails.", "now-7d", nil, []ask{
		row(1, "At a glance"),
		{id: 2, kind: "stat", w: 4, h: 4, title: "How many servers are in use?", unit: "short", none: "0", steps: plain,
			about: "Servers that reported anything in the time range.", links: []link{to("Overview", overview)},
			sql: `SELECT uniqExact(server) AS servers FROM {usage}`},
		{id: 3, kind: "stat", w: 4, h: 4, title: "How many tools are in use?", unit: "short", none: "0", steps: plain,
			about: "Tools, each at its server, that were called in the time range.", links: []link{to("Overview", overview)},
			sql: `SELECT uniqExact(server, target) AS tools FROM {calls}`},
		{id: 4, kind: "stat", w: 4, h: 4, title: "How many tools are defined and not used?", unit: "short", none: "0", steps: plain,
			about: "Tools that servers have defined and nobody called in the time range. What nobody uses can be taken away: it is only something to attack.",
			links: []link{to("Overview", overview)},
			sql: `
			SELECT count() AS unused FROM (SELECT DISTINCT tenant, server, target FROM tool_definitions WHERE {tools})
			WHERE (tenant, server, target) NOT IN (SELECT tenant, server, target FROM {calls})`},
		{id: 5, kind: "stat", w: 4, h: 4, title: "How many definitions are new?", unit: "short", none: "0", steps: wantsZero,
			about: "Definitions of tools that were seen for the first time in the time range. After a release that is usual; without one, somebody changed what agents are told.",
			links: []link{to("What was found?", detections)},
			sql: `
			SELECT count() AS new_ones FROM (
			  SELECT min(first_at) AS first FROM tool_definitions WHERE {tools} GROUP BY tenant, server, target, definition_digest
			) WHERE $__timeFilter(first)`},
		{id: 6, kind: "stat", w: 4, h: 4, title: "How many tools have a suspicious text?", unit: "short", none: "0", steps: mustBe0,
			about: "Tools with a definition in which something was seen that does not belong there: hidden characters, or words that give orders to an agent.",
			links: []link{to("What was found?", detections)},
			sql: `
			SELECT uniqExact(tenant, server, target) AS suspicious FROM tool_definitions WHERE {tools} AND notEmpty(signals)`},
		{id: 7, kind: "stat", w: 4, h: 4, title: "How many calls may destroy something?", unit: "short", none: "0", steps: plain,
			about: "Calls of tools whose server hints that they are destructive, by their newest definition. A server that hints nothing is not in it.",
			links: []link{to("Look closer", investigate)},
			sql: `
			SELECT sum(events) AS calls FROM {calls}
			WHERE (tenant, server, target) IN (
			    SELECT tenant, server, target FROM tool_definitions WHERE {tools}
			    GROUP BY tenant, server, target HAVING argMax(destructive, last_at) = 1)`},

		row(10, "Catalogue"),
		{id: 11, kind: "table", w: 24, h: 11, title: "Which tools are there, and how are they used?", unit: "short", none: "No tool was defined or called",
			about: "Tools that were defined or called, with what their newest definition hints. definitions above one: the tool was changed, see below.",
			links: []link{to("Overview", overview)},
			columns: append([]column{{name: "tool", link: ofTool}, {name: "server", link: ofServer}, {name: "calls", bar: true}, {name: "longest", unit: "µs"},
				{name: "first_seen", unit: "dateTimeFromNow"}, {name: "definitions", shade: scale("transparent", 2.0, "yellow")}}, rates("failed", "refused", "p95", "last_call")...),
			sql: `
			SELECT server, tool, sum(n) AS calls, sum(bad) / greatest(calls, 1) AS failed, sum(no) / greatest(calls, 1) AS refused, max(slow) AS p95, max(most) AS longest, max(callers) AS principals,
			  max(versions) AS definitions, arrayStringConcat(arrayFilter(x -> x != '', [if(max(reads) = 1, 'read only', ''), if(max(destroys) = 1, 'destructive', ''), if(max(open) = 1, 'open world', '')]), ', ') AS hints,
			  minIf(first, first > toDateTime64(0, 6, 'UTC')) AS first_seen, max(last) AS last_call, tenant
			FROM (
			  SELECT tenant, server, target AS tool, sum(events) AS n, sumIf(events, {error}) AS bad, sum(denied) AS no, {p95} AS slow, max(longest_us) AS most, 0 AS callers,
			    0 AS versions, 0 AS reads, 0 AS destroys, 0 AS open, min(first_at) AS first, max(last_at) AS last
			  FROM {calls} GROUP BY tenant, server, tool
			  UNION ALL
			  SELECT tenant, server, target AS tool, 0, 0, 0, 0, 0, uniq(principal), 0, 0, 0, 0, toDateTime64(0, 6, 'UTC'), toDateTime64(0, 6, 'UTC')
			  FROM {callers} GROUP BY tenant, server, tool
			  UNION ALL
			  SELECT tenant, server, target AS tool, 0, 0, 0, 0, 0, 0, uniqExact(definition_digest), argMax(read_only, last_at), argMax(destructive, last_at), argMax(open_world, last_at), min(first_at), toDateTime64(0, 6, 'UTC')
			  FROM tool_definitions WHERE {tools} GROUP BY tenant, server, tool
			) GROUP BY tenant, server, tool ORDER BY calls DESC, server, tool LIMIT 500`},
		{id: 12, kind: "table", w: 12, h: 9, title: "Which definitions changed?", unit: "short", none: "No tool that was known before has a new definition",
			about:   "Tools that had a definition already and got another one in the time range, the newest first. Ask the server's owner whether he meant it; mcpaudit tools shows both texts.",
			links:   []link{to("What was found?", detections)},
			columns: []column{{name: "tool", link: ofTool}, {name: "server", link: ofServer}, {name: "changed", unit: "dateTimeFromNow"}, {name: "before_since", unit: "dateTimeFromNow"}},
			sql: `
			SELECT server, target AS tool, max(first) AS changed, min(first) AS before_since, count() AS definitions, lower(hex(argMax(digest, first))) AS now_is,
			  arrayStringConcat(argMax(seen, first), ', ') AS signals_now, argMax(hints, first) != argMin(hints, first) AS hints_changed
			FROM (
			  SELECT tenant, server, target, definition_digest AS digest, min(first_at) AS first, groupUniqArrayArray(signals) AS seen, max(read_only) + 2 * max(destructive) + 4 * max(idempotent) + 8 * max(open_world) AS hints
			  FROM tool_definitions WHERE {tools} GROUP BY tenant, server, target, digest
			) GROUP BY tenant, server, tool HAVING definitions > 1 AND $__timeFilter(changed)
			ORDER BY changed DESC, server, tool LIMIT 100`},
		{id: 13, kind: "table", w: 12, h: 9, title: "Which tool texts carry something suspicious?", unit: "short", none: "Nothing suspicious in any definition",
			about:   "Definitions with signals, such as hidden characters or orders to an agent, whenever they were first seen. Keep agents away from the server until somebody has read the text.",
			links:   []link{to("What was found?", detections)},
			columns: []column{{name: "tool", link: ofTool}, {name: "server", link: ofServer}, {name: "first_seen", unit: "dateTimeFromNow"}, {name: "last_seen", unit: "dateTimeFromNow"}},
			sql: `
			SELECT server, target AS tool, arrayStringConcat(arraySort(groupUniqArrayArray(signals)), ', ') AS seen_in_it, min(first_at) AS first_seen, max(last_at) AS last_seen
			FROM tool_definitions WHERE {tools} AND notEmpty(signals)
			GROUP BY tenant, server, tool ORDER BY last_seen DESC, server, tool LIMIT 100`},
		{id: 14, kind: "table", w: 12, h: 9, title: "Which tools were called for the first time?", unit: "short", none: "No tool is new in this time range",
			about:   "Tools whose first call of all that is kept is in the time range. A server that appears from nowhere was not reviewed.",
			links:   []link{to("What was found?", detections)},
			columns: []column{{name: "tool", link: ofTool}, {name: "server", link: ofServer}, {name: "first_call", unit: "dateTimeFromNow"}},
			sql: `
			SELECT server, tool, first_call, calls, principals FROM (
			  SELECT server, target AS tool, min(first_at) AS first_call, sum(events) AS calls FROM {calls_of_any_time}
			  GROUP BY server, tool HAVING first_call >= $__fromTime ORDER BY first_call DESC, server, tool LIMIT 100
			) AS a LEFT JOIN (SELECT server AS name, target, uniq(principal) AS principals FROM {callers} GROUP BY server, target) AS p ON p.name = a.server AND p.target = a.tool
			ORDER BY first_call DESC, server, tool`},
		{id: 15, kind: "table", w: 12, h: 9, title: "Who uses a tool for the first time?", unit: "short", none: "Nobody used anything new",
			about:   "Principals and tools whose first call of all that is kept is in the time range, the newest first. Somebody who has long been there and turns to a new server is worth a look.",
			links:   []link{to("What was found?", detections)},
			columns: []column{{name: "principal", link: to("Investigate this principal", investigate, "principal", field("principal"))}, {name: "tool", link: ofTool}, {name: "server", link: ofServer}, {name: "first_call", unit: "dateTimeFromNow"}},
			sql: `
			SELECT principal, server, target AS tool, min(first_at) AS first_call, sum(events) AS calls, sum(denied) AS refusals
			FROM activity_hourly WHERE kind = 'tool_call' AND server != 'mcpaudit' AND hour <= $__toTime AND principal != '' AND {chosen}
			GROUP BY principal, server, tool HAVING first_call >= $__fromTime ORDER BY first_call DESC, principal, server, tool LIMIT 100`},

		row(20, "Slow and failing"),
		{id: 21, kind: "bargauge", w: 8, h: 9, title: "Which tools are slowest?", unit: "µs", none: noCalls, least: number(0), steps: plain,
			about: "The 95th percentile of the durations of tools with at least ten calls. Cheap and expensive tools differ: compare one with itself, to the right.",
			links: []link{ofTool},
			sql: `
			SELECT server, target AS tool, {p95} AS p95 FROM {calls}
			GROUP BY server, tool HAVING sum(events) >= 10 ORDER BY p95 DESC, server, tool LIMIT 15`},
		{id: 22, kind: "timeseries", w: 16, h: 9, title: "When did the slowest tools become slow?", unit: "µs", none: noCalls, lines: true, series: true, by: "tool", interval: "1h",
			about: "The 95th percentile by hour of the eight slowest tools with at least ten calls.",
			links: []link{to("Look closer at this tool", investigate, "tool", label("tool"))},
			sql: `
			SELECT $__timeInterval(hour) AS time, target AS tool, toFloat64({p95}) AS p95 FROM {calls}
			WHERE target IN (
			  SELECT target FROM {calls}
			  GROUP BY target HAVING sum(events) >= 10 ORDER BY {p95} DESC, target LIMIT 8)
			GROUP BY time, tool ORDER BY time, tool`},
		{id: 23, kind: "bargauge", w: 8, h: 9, title: "Which tools fail most?", unit: "percentunit", none: "Nothing failed in this time range", least: number(0), most: number(1), steps: badShare,
			about: "Share of failed calls of tools with at least ten calls. Failures of all callers are the tool's; of one caller, the caller's.",
			links: []link{ofTool},
			sql: `
			SELECT server, target AS tool, sumIf(events, {error}) / sum(events) AS failed FROM {calls}
			GROUP BY server, tool HAVING sum(events) >= 10 AND failed > 0 ORDER BY failed DESC, server, tool LIMIT 15`},
		{id: 24, kind: "timeseries", w: 16, h: 9, title: "How do calls fail?", unit: "short", none: "Nothing failed in this time range", stack: true, series: true, by: "outcome", interval: "1h", colours: outcomeColours, names: outcomes[1:5],
			about: "Calls that were no success, by how they ended. Timeouts grow with load; errors of the protocol come with a release of a client or a server.",
			links: []link{to("Look closer", investigate)},
			sql: `
			SELECT $__timeInterval(hour) AS time, outcome, sum(events) AS calls FROM {calls}
			WHERE outcome NOT IN ('success', 'input_required') GROUP BY time, outcome ORDER BY time, outcome`},
		{id: 25, kind: "table", w: 12, h: 9, title: "Which tools are denied most?", unit: "short", none: "Nothing was denied in this time range",
			about:   "Tools by refused calls. A tool that most are refused should not be in their list at all.",
			links:   []link{to("What was found?", detections)},
			columns: []column{{name: "tool", link: ofTool}, {name: "server", link: ofServer}, {name: "denials", bar: true}, {name: "refused", unit: "percentunit"}},
			sql: `
			SELECT server, tool, denials, refused, principals FROM (
			  SELECT server, target AS tool, sum(denied) AS denials, denials / sum(events) AS refused FROM {calls}
			  GROUP BY server, tool HAVING denials > 0 ORDER BY denials DESC, server, tool LIMIT 50
			) AS a LEFT JOIN (SELECT server AS name, target, uniq(principal) AS principals FROM {callers} AND denied > 0 GROUP BY server, target) AS p ON p.name = a.server AND p.target = a.tool
			ORDER BY denials DESC, server, tool`},
		{id: 26, kind: "table", w: 12, h: 9, title: "Which tools move most data?", unit: "short", none: noCalls,
			about:   "Tools by the bytes of their answers. A tool that gives out much more than it used to is a leak, or a missing limit.",
			links:   []link{to("What was found?", detections)},
			columns: append([]column{{name: "tool", link: ofTool}, {name: "server", link: ofServer}, {name: "per_call", unit: "bytes"}}, rates("sent", "received")...),
			sql: `
			SELECT server, target AS tool, sum(response_bytes) AS received, sum(request_bytes) AS sent, received / sum(events) AS per_call, sum(events) AS calls
			FROM {calls}
			GROUP BY server, tool ORDER BY received DESC, server, tool LIMIT 50`},
		{id: 27, kind: "timeseries", w: 24, h: 8, title: "Which servers are busy when?", unit: "short", none: noCalls, stack: true, series: true, by: "server", interval: "1h",
			about: "Calls by hour of the twelve busiest servers; the others are one. A server that falls to nothing is down, or does not report any more.",
			links: []link{to("Look closer at this server", investigate, "server", label("server"))},
			sql: `
			SELECT $__timeInterval(hour) AS time, if(s.server IN (SELECT server FROM {calls} GROUP BY server ORDER BY sum(events) DESC, server LIMIT 12), s.server, 'others') AS server, sum(events) AS calls
			FROM {calls} AS s GROUP BY time, server ORDER BY time, server`},
	})
}
