package main

func complianceBoard() dashboard {
	ofPrincipal := column{name: "principal", link: to("Investigate this principal", investigate, "principal", field("principal"), "server", "mcpaudit", "tool", "$__all", "environment", "$__all")}
	return board(compliance, "mcpaudit compliance", "Is the log complete, kept as long as it must be, unchanged, and who looked at it? A review of it can be shown to an auditor.", "now-30d", nil, []ask{
		row(1, "At a glance"),
		{id: 2, kind: "stat", w: 4, h: 4, title: "How many emitters were heard?", unit: "short", none: "0", steps: plain,
			about: "Those that sent events of MCP servers in the time range. Compare with the servers that there are: what no emitter watches is not in the log.",
			links: []link{to("Which servers?", toolsBoard)},
			sql:   `SELECT uniqExact(emitter_id) AS emitters FROM emitters_hourly WHERE {hours} AND server != 'mcpaudit' AND {tenant_and_server}`},
		{id: 3, kind: "stat", w: 4, h: 4, title: "How many of them are silent?", unit: "short", none: "0", steps: wantsZero,
			about: "Emitters that were heard in the time range and not in its last six hours. One that was taken out of service is meant to be here; another one lost its way to the log.",
			links: []link{to("What was found?", detections)},
			sql: `
			SELECT count() AS silent FROM (
			  SELECT max(last_at) AS last FROM emitters_hourly WHERE {hours} AND server != 'mcpaudit' AND {tenant_and_server} GROUP BY emitter_id
			) WHERE last < $__toTime - 21600`},
		{id: 4, kind: "stat", w: 4, h: 4, title: "How many events are missing?", unit: "short", none: "0", steps: mustBe0,
			about: "Numbers that emitters gave to events which are not stored, of all that is kept. Those of the last minutes may be on their way; others were lost, or taken away. An emitter that relays for several tenants numbers all of theirs: a key of one tenant sees the others' as missing.",
			links: []link{to("What was found?", detections)},
			sql: `
			SELECT sum(greatest(0, toInt64(high - low + 1) - toInt64(n))) AS missing FROM (
			  SELECT min(lowest_seq) AS low, max(highest_seq) AS high, sum(events) AS n FROM emitters_hourly GROUP BY emitter_id HAVING max({tenant_and_server}) = 1)`},
		{id: 5, kind: "stat", w: 4, h: 4, title: "When was the log last verified?", unit: "dateTimeFromNow", none: "Not in this time range", steps: plain,
			about: "When a verification of the store last ran to its end; what it found is below. Not for days: run mcpaudit verify --watch as a service of its own, best on another machine.",
			links: []link{to("Is the service well?", health)},
			sql: `
			SELECT if(count() = 0, NULL, toUnixTimestamp64Milli(max(occurred_at))) AS verified FROM events
			WHERE {own} AND method = 'mcpaudit/verify_store' AND outcome = 'success' AND labels['phase'] = 'end'`},
		{id: 6, kind: "stat", w: 4, h: 4, title: "How many things are wrong with it?", unit: "short", none: "0", steps: mustBe0,
			about: "What verifications and emitters reported that contradicts the log: a changed or removed row, a cut, a fork. Not zero: keep everybody's hands off the store, and read SECURITY.md.",
			links: []link{to("What was found?", detections)},
			sql: `
			SELECT count() AS problems FROM events
			WHERE $__timeFilter(occurred_at) AND kind = 'finding' AND method IN ('mcpaudit/verify', 'mcpaudit/receipt') AND {tenant}`},
		{id: 7, kind: "stat", w: 4, h: 4, title: "How many legal holds are in force?", unit: "short", none: "0", steps: plain,
			about: "Holds that were begun and not released. What they match is kept when its month expires.",
			links: []link{to("Overview", overview)},
			sql: `
			SELECT count() AS holds FROM (
			  SELECT JSONExtractString(detail, 'id') AS id FROM ledger WHERE kind IN ('hold', 'release') GROUP BY id HAVING countIf(kind = 'release') = 0)`},

		row(10, "Coverage"),
		{id: 11, kind: "table", w: 24, h: 10, title: "Which emitters are there, and does anything of theirs lack?", unit: "short", none: "No emitter was heard",
			about: "Emitters of the time range, the longest silent first. missing counts their numbers that are not stored, of all that is kept; delay is the mean time from the end of a call to its arrival: below zero, the emitter's clock is ahead; long, it was cut off and sent later.",
			links: []link{to("What was found?", detections)},
			columns: []column{{name: "from_server", link: to("Tools of this server", toolsBoard, "server", field("from_server"), "tool", "$__all")},
				{name: "silent_for", unit: "s", shade: scale("transparent", 21600.0, "yellow", 86400.0, "orange")}, {name: "missing", shade: scale("transparent", 1.0, "red")},
				{name: "delay", unit: "µs"}, {name: "first_heard", unit: "dateTimeFromNow"}, {name: "last_heard", unit: "dateTimeFromNow"}},
			sql: `
			SELECT emitter_id AS emitter, argMax(server, last_at) AS from_server, max(last_at) AS last_heard, greatest(0, dateDiff('second', last_heard, $__toTime)) AS silent_for,
			  sum(events) AS n, greatest(0, toInt64(max(highest_seq) - min(lowest_seq) + 1) - toInt64(n)) AS missing, sum(delay_us) / n AS delay, min(first_at) AS first_heard, arrayStringConcat(arraySort(groupUniqArray(tenant)), ', ') AS tenants
			FROM emitters_hourly WHERE server != 'mcpaudit'
			GROUP BY emitter HAVING max({tenant_and_server}) = 1 AND last_heard >= $__fromTime ORDER BY silent_for DESC, emitter LIMIT 500`},
		{id: 12, kind: "status-history", w: 14, h: 9, title: "When was each emitter heard?", unit: "short", none: "No emitter was heard", series: true, by: "emitter", interval: "1h", steps: scale("green"),
			about: "The thirty emitters with most events: a mark for each step in which something came. A hole that others do not have is a time in which its server was not watched.",
			links: []link{to("What was found?", detections)},
			sql: `
			SELECT $__timeInterval(hour) AS time, emitter_id AS emitter, sum(events) AS n FROM emitters_hourly
			WHERE {hours} AND server != 'mcpaudit' AND {tenant_and_server} AND emitter_id IN (
			  SELECT emitter_id FROM emitters_hourly WHERE {hours} AND server != 'mcpaudit' AND {tenant_and_server} GROUP BY emitter_id ORDER BY sum(events) DESC, emitter_id LIMIT 30)
			GROUP BY time, emitter ORDER BY time, emitter`},
		{id: 13, kind: "timeseries", w: 10, h: 9, title: "Whose clocks are off, and whose events come late?", unit: "µs", none: "No emitter was heard", lines: true, series: true, by: "emitter", interval: "1h",
			about: "Mean time from the end of a call to its arrival, of the ten emitters where it is furthest from zero. Steadily below zero or far above it is a wrong clock; a peak is a spool that was emptied.",
			links: []link{to("What was found?", detections)},
			sql: `
			SELECT $__timeInterval(hour) AS time, emitter_id AS emitter, sum(delay_us) / sum(events) AS delay FROM emitters_hourly
			WHERE {hours} AND server != 'mcpaudit' AND {tenant_and_server} AND emitter_id IN (
			  SELECT emitter_id FROM emitters_hourly WHERE {hours} AND server != 'mcpaudit' AND {tenant_and_server} GROUP BY emitter_id ORDER BY abs(sum(delay_us) / sum(events)) DESC, emitter_id LIMIT 10)
			GROUP BY time, emitter ORDER BY time, emitter`},
		{id: 14, kind: "table", w: 12, h: 7, title: "Is everything redacted, and by which profile?", unit: "short", none: "No events in this time range",
			about: "Events of MCP servers by the redaction that they went through, of the last eight days of the time range at most: all of them are read. An empty profile or an error means that the service's own redaction was the only one: mend the emitter.",
			links: []link{to("What was taken out?", investigate)},
			columns: []column{{name: "share", unit: "percentunit"}, {name: "error", shade: nil}, {name: "last_time", unit: "dateTimeFromNow"},
				{name: "server", link: to("Tools of this server", toolsBoard, "server", field("server"), "tool", "$__all")}},
			sql: `
			SELECT server, redaction_profile AS profile, redaction_profile_version AS version, redaction_error AS error, count() AS n,
			  countIf(removed_count > 0) / n AS share, countIf(truncated) AS truncated_ones, max(occurred_at) AS last_time
			FROM events WHERE $__timeFilter(occurred_at) AND occurred_at > $__toTime - 8 * 86400 AND server != 'mcpaudit' AND {tenant_and_server}
			GROUP BY server, profile, version, error ORDER BY error DESC, n DESC, server LIMIT 200`},
		{id: 15, kind: "bargauge", w: 12, h: 7, title: "How many events expire in which month?", unit: "short", none: "The log is empty", least: number(0), steps: plain,
			about: "Everything that is kept, by the month whose end it is kept to. A month in the past is waiting for retention, or is held.",
			links: []link{to("Overview", overview)},
			sql: `
			SELECT formatDateTime(expires_month, '%Y-%m') AS month, sum(events) AS n FROM tools_hourly WHERE {tenant_and_server}
			GROUP BY month ORDER BY month`},

		row(20, "Retention, holds and keys"),
		{id: 21, kind: "table", w: 12, h: 7, title: "What was dropped, and what was kept for a hold?", unit: "short", none: "Retention dropped nothing in this time range",
			about:   "Entries of the ledger of the kind drop: retention's only deletions. What is missing and not in this list was taken away by somebody else.",
			links:   []link{to("What was found?", detections)},
			columns: []column{{name: "at", width: 190}},
			sql: `
			SELECT sealed_at AS at, log_id AS by_log, if(JSONExtractString(detail, 'log') = '', log_id, JSONExtractString(detail, 'log')) AS of_log, formatDateTime(toDate(JSONExtractUInt(detail, 'month')), '%Y-%m') AS month,
			  JSONExtractUInt(detail, 'events') AS dropped, JSONExtractUInt(detail, 'kept') AS kept, JSONExtractString(detail, 'by') AS who
			FROM ledger WHERE kind = 'drop' AND $__timeFilter(sealed_at)
			ORDER BY sealed_at DESC, batch DESC LIMIT 100`},
		{id: 22, kind: "table", w: 12, h: 7, title: "Which legal holds are there?", unit: "short", none: "There was never a legal hold",
			about:   "Holds with what they match, why, and who answers for them. One whose reason has gone has to be released: data must not be kept longer than needed.",
			links:   []link{to("Overview", overview)},
			columns: []column{{name: "since", unit: "dateTimeFromNow"}},
			sql: `
			SELECT JSONExtractString(detail, 'id') AS hold, if(countIf(kind = 'release') = 0, 'in force', 'released') AS state, anyIf(JSONExtractString(detail, 'reason'), kind = 'hold') AS reason,
			  anyIf(JSONExtractString(detail, 'filter'), kind = 'hold') AS matches, anyIf(JSONExtractString(detail, 'owner'), kind = 'hold') AS owner, min(sealed_at) AS since, anyIf(JSONExtractString(detail, 'owner'), kind = 'release') AS released_by
			FROM ledger WHERE kind IN ('hold', 'release')
			GROUP BY hold ORDER BY state, since DESC, hold LIMIT 100`},
		{id: 23, kind: "table", w: 12, h: 7, title: "Which logs are there, and were their keys replaced?", unit: "short", none: "There is no log yet",
			about:   "Logs with their entries, their last seal and how often their signing key was replaced. A log that nobody seals any more belonged to an instance that is gone.",
			links:   []link{to("Is the service well?", health)},
			columns: []column{{name: "last_seal", unit: "dateTimeFromNow"}},
			sql: `
			SELECT log_id AS log, count() AS entries, sum(events) AS n, countIf(kind = 'recovered') AS recovered, countIf(kind = 'key') AS key_changes, max(sealed_at) AS last_seal
			FROM ledger GROUP BY log ORDER BY last_seal DESC, log LIMIT 100`},
		{id: 24, kind: "table", w: 12, h: 7, title: "What was verified, by whom, and what came of it?", unit: "short", none: "Nobody verified the log in this time range",
			about:   "Verifications of the store and what they and the emitters' receipts found. Every line with a problem is an incident.",
			links:   []link{to("What was found?", detections)},
			columns: []column{{name: "at", width: 190}, {name: "took", unit: "µs"}, ofPrincipal},
			sql: `
			SELECT occurred_at AS at, principal, if(kind = 'finding', 'problem', 'verification') AS what, outcome, duration_us AS took, error_code AS problem, error_message AS words, target AS log
			FROM events WHERE $__timeFilter(occurred_at) AND {tenant}
			  AND (server = 'mcpaudit' AND method = 'mcpaudit/verify_store' AND labels['phase'] = 'end' OR kind = 'finding' AND method IN ('mcpaudit/verify', 'mcpaudit/receipt'))
			ORDER BY {newest_first}, event_id LIMIT 100`},

		row(30, "Who looked, and who changed something"),
		{id: 31, kind: "table", w: 12, h: 9, title: "Who read the log?", unit: "short", none: "Nobody read the log in this time range",
			about:   "Everybody who searched, watched or opened something, with how much they saw. The audit of the audit: somebody who is not meant to read shows here.",
			links:   []link{to("What was found?", detections)},
			columns: []column{ofPrincipal, {name: "last_time", unit: "dateTimeFromNow"}, {name: "rows_seen", bar: true}},
			sql: `
			SELECT principal, principal_name AS name, method, count() AS times, sum(toUInt64OrZero(labels['rows'])) AS rows_seen, uniqExact(client_ip) AS addresses, max(occurred_at) AS last_time
			FROM events WHERE {own} AND kind = 'admin' AND decision = 'allow' AND labels['phase'] != 'begin' AND NOT startsWith(principal, 'mcpaudit:')
			GROUP BY principal, name, method ORDER BY times DESC, principal, method LIMIT 200`},
		{id: 32, kind: "table", w: 12, h: 9, title: "What was exported, and by whom?", unit: "short", none: "Nothing was exported in this time range",
			about:   "Exports with the number of events that left. What leaves is outside of retention and of holds: somebody has to answer for it.",
			links:   []link{to("What was found?", detections)},
			columns: []column{{name: "at", width: 190}, ofPrincipal, {name: "took", unit: "µs"}},
			sql: `
			SELECT occurred_at AS at, principal, principal_name AS name, outcome, toUInt64OrZero(labels['rows']) AS rows_out, labels['tenants'] AS tenants, duration_us AS took, client_ip AS address
			FROM events WHERE {own} AND method = 'mcpaudit/export_events' AND labels['phase'] = 'end'
			ORDER BY {newest_first}, event_id LIMIT 100`},
		{id: 33, kind: "table", w: 12, h: 9, title: "Who changed keys, rules or retention?", unit: "short", none: "Nothing was changed in this time range",
			about:   "Keys that were made, rotated, revoked or found in the store, rules that were loaded anew, holds, retention, and starts and stops of the service.",
			links:   []link{to("What was found?", detections)},
			columns: []column{{name: "at", width: 190}, ofPrincipal},
			sql: `
			SELECT occurred_at AS at, principal, principal_name AS name, method, target, outcome, error_message AS words, client_ip AS address
			FROM events WHERE {own} AND labels['phase'] != 'begin' AND method IN ('mcpaudit/create_key', 'mcpaudit/rotate_key', 'mcpaudit/revoke_key', 'mcpaudit/key_found', 'mcpaudit/reload_rules', 'mcpaudit/rules',
			  'mcpaudit/apply_retention', 'mcpaudit/retention', 'mcpaudit/hold', 'mcpaudit/release', 'mcpaudit/start', 'mcpaudit/stop')
			ORDER BY {newest_first}, event_id LIMIT 200`},
		{id: 34, kind: "table", w: 12, h: 9, title: "Who was refused by the service itself?", unit: "short", none: "Nobody was refused in this time range",
			about:   "Credentials that did not fit and calls without the right for them. Many attempts of one address are somebody who tries; one of a known principal is a role to look at.",
			links:   []link{to("What was found?", detections)},
			columns: []column{ofPrincipal, {name: "attempts", bar: true}, {name: "last_time", unit: "dateTimeFromNow"}},
			sql: `
			SELECT client_ip AS address, principal, method, decision_reason AS reason, sum(greatest(1, toUInt64OrZero(labels['attempts']))) AS attempts, max(occurred_at) AS last_time
			FROM events WHERE {own} AND kind = 'auth' AND outcome = 'denied'
			GROUP BY address, principal, method, reason ORDER BY attempts DESC, address, method LIMIT 100`},
		{id: 35, kind: "timeseries", w: 24, h: 7, title: "When do sign-ins fail, and where?", unit: "short", none: "No sign-in failed in this time range", stack: true, series: true, by: "server", interval: "1h",
			about: "Refused sign-ins by server, those at the service itself as the server mcpaudit. A wall of them at one hour is a brute force or an expired secret.",
			links: []link{to("Look closer at this server", investigate, "server", label("server"))},
			sql: `
			SELECT $__timeInterval(hour) AS time, server, sum(events) AS failed FROM {refused_sign_ins}
			GROUP BY time, server ORDER BY time, server`},
	})
}
