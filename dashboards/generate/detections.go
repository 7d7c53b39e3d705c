package main

const noFindings = "No findings in this time range"

func detectionsBoard() dashboard {
	return board(detections, "mcpaudit detections", "What the detectors found, how much of it was noise, how soon somebody looked, and whether on-call was told.", "now-7d", nil, []ask{
		row(1, "At a glance"),
		{id: 2, kind: "stat", w: 4, h: 4, title: "How many findings are open?", unit: "short", none: "0", steps: plain,
			about: "Findings that go on now and nobody has closed, whenever they began, without those that are declared to be usual.",
			links: []link{to("Look closer", investigate)},
			sql:   `SELECT count() AS open FROM {findings} WHERE state = 'open' AND triage != 'closed' AND NOT suppressed`},
		{id: 3, kind: "stat", w: 4, h: 4, title: "How many are severe and wait?", unit: "short", none: "0", steps: mustBe0,
			about: "Findings of severity high or critical, of any time, that nobody has acknowledged or closed. Somebody has to look now.",
			links: []link{to("Look closer", investigate)},
			sql:   `SELECT count() AS waiting FROM {findings} WHERE severity IN ('high', 'critical') AND triage = 'new' AND NOT suppressed`},
		{id: 4, kind: "stat", w: 4, h: 4, title: "How many were opened?", unit: "short", none: "0", steps: plain,
			about: "Findings that were opened in the time range, without those that are declared to be usual.",
			links: []link{to("Overview", overview)},
			sql:   `SELECT count() AS opened FROM {findings_until} WHERE $__timeFilter(opened_at) AND NOT suppressed`},
		{id: 5, kind: "stat", w: 4, h: 4, title: "How much of it is noise?", unit: "percentunit", none: "Nothing was closed", steps: scale("green", 0.3, "yellow", 0.6, "red"),
			about: "Of the findings of the time range that were closed, those that were false or benign. More than half: tune the rule that the table below blames, or declare what is usual.",
			links: []link{to("Overview", overview)},
			sql: `
			SELECT if(countIf(triage = 'closed') = 0, NULL, countIf(triage = 'closed' AND verdict IN ('false_positive', 'benign')) / countIf(triage = 'closed')) AS noise
			FROM {findings_until} WHERE $__timeFilter(opened_at)`},
		{id: 6, kind: "stat", w: 4, h: 4, title: "How soon does somebody look?", unit: "s", none: "Nobody has looked yet", steps: scale("green", 3600.0, "yellow", 28800.0, "red"),
			about: "Median time from the opening of a finding to its first acknowledgement or closing, of findings that were opened in the time range and looked at.",
			links: []link{to("Overview", overview)},
			sql: `
			SELECT if(countIf(handled) = 0, NULL, quantileIf(0.5)(toFloat64(toUnixTimestamp64Micro(handled_at) - toUnixTimestamp64Micro(opened_at)) / 1e6, handled)) AS looked_after
			FROM {findings_until} WHERE $__timeFilter(opened_at) AND NOT suppressed`},
		{id: 7, kind: "stat", w: 4, h: 4, title: "How many were declared usual?", unit: "short", none: "0", steps: plain,
			about: "Findings of the time range that a suppression covers: they are kept and nobody is told. Many of one rule: the suppression may be too wide.",
			links: []link{to("Overview", overview)},
			sql:   `SELECT count() AS covered FROM {findings_until} WHERE $__timeFilter(opened_at) AND suppressed`},

		row(10, "Detectors"),
		{id: 11, kind: "timeseries", w: 12, h: 8, title: "What was opened when, by which detector?", unit: "short", none: noFindings, stack: true, series: true, by: "detector", interval: "1h",
			about: "Findings by when they were opened. Many of one detector at one time have one cause: look at what was changed then.",
			links: []link{to("Look closer", investigate)},
			sql: `
			SELECT $__timeInterval(opened_at) AS time, detector, count() AS findings FROM {findings_until}
			WHERE $__timeFilter(opened_at) AND NOT suppressed
			GROUP BY time, detector ORDER BY time, detector`},
		{id: 12, kind: "timeseries", w: 12, h: 8, title: "Is more opened than resolved?", unit: "short", none: noFindings, series: true, by: "change", interval: "1h",
			colours: map[string]string{"opened": "orange", "resolved": "green", "closed": "blue"}, names: []string{"opened", "resolved", "closed"},
			about: "Findings that opened, that went quiet by themselves, and that somebody closed. When the first runs ahead for long, work piles up.",
			links: []link{to("Look closer", investigate)},
			sql: `
			SELECT $__timeInterval(at) AS time, change, count() AS findings FROM (
			  SELECT opened_at AS at, 'opened' AS change FROM {findings_until} WHERE $__timeFilter(opened_at) AND NOT suppressed
			  UNION ALL
			  SELECT ended_at AS at, 'resolved' AS change FROM {findings_until} WHERE $__timeFilter(ended_at) AND state = 'resolved' AND NOT suppressed
			  UNION ALL
			  SELECT at, 'closed' AS change FROM finding_actions WHERE $__timeFilter(at) AND step = 'close' AND {tenant}
			) GROUP BY time, change ORDER BY time, change`},
		{id: 13, kind: "table", w: 24, h: 9, title: "How does each rule do?", unit: "short", none: noFindings,
			about: "Rules and their detectors, by findings that were opened in the time range. noise is the share of the closed ones that were false or benign; looked_after the median until somebody looked.",
			links: []link{to("Look closer", investigate)},
			columns: []column{{name: "noise", unit: "percentunit", shade: scale("transparent", 0.3, "yellow", 0.6, "red")}, {name: "looked_after", unit: "s"},
				{name: "opened", bar: true}, {name: "newest", unit: "dateTimeFromNow"}},
			sql: `
			SELECT rule, detector, countIf(NOT suppressed) AS opened, countIf(state = 'open' AND triage != 'closed' AND NOT suppressed) AS still_open, countIf(state = 'resolved' AND NOT suppressed) AS resolved,
			  countIf(triage = 'closed') AS closed, if(closed = 0, NULL, countIf(triage = 'closed' AND verdict IN ('false_positive', 'benign')) / closed) AS noise,
			  if(countIf(handled) = 0, NULL, quantileIf(0.5)(toFloat64(toUnixTimestamp64Micro(handled_at) - toUnixTimestamp64Micro(opened_at)) / 1e6, handled)) AS looked_after,
			  countIf(suppressed) AS suppressed_ones, uniqExact(principal) AS principals, max(opened_at) AS newest
			FROM {findings_until} WHERE $__timeFilter(opened_at)
			GROUP BY rule, detector ORDER BY opened DESC, rule, detector LIMIT 100`},

		row(20, "About whom"),
		{id: 21, kind: "table", w: 12, h: 9, title: "Whom are most findings about?", unit: "short", none: noFindings,
			about: "Principals by findings that were opened in the time range, the worst severity first. One in front of all others is where to begin.",
			links: []link{to("Overview", overview)},
			columns: []column{{name: "principal", link: to("Investigate this principal", investigate, "principal", field("principal"))},
				{name: "findings", bar: true}, {name: "newest", unit: "dateTimeFromNow"}},
			sql: `
			SELECT principal, argMax(severity, {rank}) AS worst, count() AS findings, countIf(state = 'open' AND triage != 'closed') AS still_open, uniqExact(rule) AS rules, max(opened_at) AS newest
			FROM {findings_until} WHERE $__timeFilter(opened_at) AND principal != '' AND NOT suppressed
			GROUP BY principal ORDER BY max({rank}) DESC, findings DESC, principal LIMIT 50`},
		{id: 22, kind: "table", w: 12, h: 9, title: "Which servers and tools are most findings about?", unit: "short", none: noFindings,
			about: "Servers and tools by findings that were opened in the time range. A tool without a principal beside it is what the finding itself is about.",
			links: []link{to("All tools and servers", toolsBoard)},
			columns: []column{{name: "server", link: to("Tools of this server", toolsBoard, "server", field("server"), "tool", "$__all")},
				{name: "findings", bar: true}, {name: "newest", unit: "dateTimeFromNow"}},
			sql: `
			SELECT server, target AS tool, argMax(severity, {rank}) AS worst, count() AS findings, uniqExact(principal) AS principals, uniqExact(rule) AS rules, max(opened_at) AS newest
			FROM {findings_until} WHERE $__timeFilter(opened_at) AND server != '' AND NOT suppressed
			GROUP BY server, tool ORDER BY findings DESC, server, tool LIMIT 50`},
		{id: 23, kind: "table", w: 24, h: 10, title: "Which findings go on, or were opened?", unit: "short", none: noFindings,
			about:   "Everything that is open, and what was opened in the time range, the newest first, without what is declared to be usual.",
			links:   []link{to("Overview", overview)},
			columns: findingColumns,
			sql: `
			SELECT ` + listOfFindings + `
			FROM {findings_until} WHERE (state = 'open' AND triage != 'closed' OR $__timeFilter(opened_at)) AND NOT suppressed
			ORDER BY started_at DESC, finding_id LIMIT 200`},

		row(30, "Triage"),
		{id: 31, kind: "timeseries", w: 12, h: 8, title: "How long do findings wait for somebody?", unit: "s", none: "Nobody has looked at a finding of this time range", lines: true, series: true, interval: "1h",
			about: "Time to the first acknowledgement or closing of the findings that were opened in each step: median and 90th percentile. Nights and weekends show.",
			links: []link{to("Overview", overview)},
			sql: `
			SELECT $__timeInterval(opened_at) AS time, quantile(0.5)(toFloat64(toUnixTimestamp64Micro(handled_at) - toUnixTimestamp64Micro(opened_at)) / 1e6) AS median,
			  quantile(0.9)(toFloat64(toUnixTimestamp64Micro(handled_at) - toUnixTimestamp64Micro(opened_at)) / 1e6) AS p90
			FROM {findings_until} WHERE $__timeFilter(opened_at) AND handled AND NOT suppressed
			GROUP BY time ORDER BY time`},
		{id: 32, kind: "table", w: 12, h: 8, title: "Who deals with findings, and what do they make of them?", unit: "short", none: "Nobody took a step in this time range",
			about:   "Steps of triage by who took them. Somebody who closes everything as benign within seconds does not look.",
			links:   []link{to("Who read the log?", compliance)},
			columns: []column{{name: "last_step", unit: "dateTimeFromNow"}},
			sql: `
			SELECT by AS who, countIf(step = 'acknowledge') AS acknowledged, countIf(step = 'close' AND verdict = 'true_positive') AS true_ones, countIf(step = 'close' AND verdict = 'benign') AS benign,
			  countIf(step = 'close' AND verdict = 'false_positive') AS false_ones, countIf(step = 'reopen') AS reopened, countIf(step = 'suppress') AS suppressions, max(at) AS last_step
			FROM finding_actions WHERE $__timeFilter(at) AND {tenant}
			GROUP BY who ORDER BY count() DESC, who LIMIT 100`},
		{id: 33, kind: "table", w: 24, h: 7, title: "What is declared to be usual, by whom, until when?", unit: "short", none: "Nothing is suppressed now",
			about: "Suppressions in force, those that end first in front. Nobody is told of what they cover: each has an owner and an end, and one that is too wide hides an attack.",
			links: []link{to("Look closer", investigate)},
			columns: []column{{name: "principal", link: to("Investigate this principal", investigate, "principal", field("principal"))},
				{name: "since", unit: "dateTimeFromNow"}, {name: "until", unit: "dateTimeFromNow"}},
			sql: `
			SELECT of_rule AS rule, of_principal AS principal, of_server AS server, of_target AS tool, of_severity AS up_to, of_by AS who, of_note AS why, since, until, of_tenant AS tenant
			FROM ({suppressions}
			) WHERE until > now() AND ` + oneOf("of_tenant", "tenant") + `
			ORDER BY until, rule, principal LIMIT 200`},

		row(40, "On call"),
		{id: 41, kind: "table", w: 12, h: 8, title: "Is on-call told, and by which receiver?", unit: "short", none: "No notification in this time range",
			about:   "What each receiver was told. waiting is what is queued and neither sent nor given up, of any time; with failures it is a receiver that is down: see the errors, and run mcpaudit notify test.",
			links:   []link{to("Is the service well?", health)},
			columns: []column{{name: "failed", shade: wantsZero}, {name: "waiting", shade: wantsZero}, {name: "oldest_waiting", unit: "s"}, {name: "last_sent", unit: "dateTimeFromNow"}},
			sql: `
			SELECT receiver, sum(sent_ones) AS sent, sum(failures) AS failed, sum(skipped_ones) AS skipped, sum(waits) AS waiting,
			  if(waiting = 0, NULL, dateDiff('second', minIf(since, waits > 0), now())) AS oldest_waiting, maxIf(sent_at, sent_at > toDateTime64(0, 6, 'UTC')) AS last_sent, argMaxIf(error_text, failed_at, failures > 0) AS last_error
			FROM (
			  SELECT receiver, notification_id, minIf(at, step = 'queued') AS since, countIf(step = 'sent' AND $__timeFilter(at)) AS sent_ones,
			    countIf(step = 'failed' AND $__timeFilter(at)) AS failures, countIf(step = 'skipped' AND $__timeFilter(at)) AS skipped_ones,
			    countIf(step = 'queued') > 0 AND countIf(step IN ('sent', 'skipped')) = 0 AS waits,
			    maxIf(at, step = 'sent') AS sent_at, maxIf(at, step = 'failed') AS failed_at, argMaxIf(error, at, step = 'failed') AS error_text
			  FROM notifications WHERE step != 'read' AND {tenant} AND at <= $__toTime
			  GROUP BY receiver, notification_id
			) GROUP BY receiver ORDER BY failed DESC, receiver LIMIT 100`},
		{id: 42, kind: "timeseries", w: 12, h: 8, title: "When was on-call told, and did it arrive?", unit: "short", none: "No notification in this time range", stack: true, series: true, by: "step", interval: "1m",
			colours: map[string]string{"sent": "green", "failed": "red", "skipped": "blue"}, names: []string{"sent", "failed", "skipped"},
			about: "Attempts by what came of them. failed ones are tried again; skipped ones had nobody to tell any more, as when a finding was over before it was its turn.",
			links: []link{to("Is the service well?", health)},
			sql: `
			SELECT $__timeInterval(at) AS time, step, count() AS attempts FROM notifications
			WHERE $__timeFilter(at) AND step IN ('sent', 'failed', 'skipped') AND {tenant}
			GROUP BY time, step ORDER BY time, step`},
		{id: 43, kind: "table", w: 24, h: 8, title: "What was on-call told of?", unit: "short", none: "No notification in this time range",
			about:   "The newest steps of delivery: of which finding, to whom, and how it went. The error is in our own words and never has the receiver's address in it.",
			links:   []link{to("Is the service well?", health)},
			columns: []column{{name: "at", width: 190}, {name: "finding_id", link: to("Investigate this finding", investigate, "finding", field("finding_id"), "server", "$__all", "principal", "$__all", "tool", "$__all", "environment", "$__all")}},
			sql: `
			SELECT at, receiver, what, step, severity, rule, server, toString(finding_id) AS finding_id, attempt, if(status = 0, NULL, status) AS http_status, error, tenant
			FROM notifications WHERE $__timeFilter(at) AND step != 'read' AND {tenant}
			ORDER BY at DESC, notification_id LIMIT 200`},
	})
}
