package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// What dashboards read is added up from the events of ranges of batches, each once.
//
// A deduplication token alone does not do it. The engine writes a token down before it
// shows the part, and syncs the part and not the token: a server that is killed in
// between knows a token without its rows, and one that loses power has rows without
// their token. So the rows themselves say what was added: each part that is inserted has
// rows of one range, one month and one table, with last_batch in all of them, and is
// there as a whole or not at all. Ranges of a log are added one after the other. So a
// month of the table has a range's rows if, and only if, the greatest last_batch of the
// log in it is that of the range or a later one, which is what [Store.AddActivity] asks
// when it does not know what became of an attempt.
//
// The tokens are for an attempt that is still under way when it was given up here: it
// and the one that follows have the same token, and the engine shows the part of one of
// them. A token that turns out to be known while the rows are not there can't bring any
// more: the next attempt has another.

// ActivityRange is some batches of a log that are added up together, the first and the
// last one included.
type ActivityRange struct {
	LogID       string
	First, Last uint64
}

func (r ActivityRange) args() []any {
	return []any{named("log", r.LogID), named("first", r.First), named("last", r.Last)}
}

func (r ActivityRange) String() string {
	return fmt.Sprintf("batches %d to %d of log %q", r.First, r.Last, r.LogID)
}

// attempts is how many tokens are tried: one is lost each time that the engine is killed
// in the middle of one and the same insert.
const attempts = 20

// NewestActivity is the last range that was planned of a log; false when none was. Who
// writes a log's ranges asks when it begins, and after an error, and then adds the range
// again.
func (s *Store) NewestActivity(ctx context.Context, logID string) (r ActivityRange, planned bool, err error) {
	if err := s.settle(ctx, "activity_ranges"); err != nil {
		return r, false, err
	}
	return s.plannedActivity(ctx, logID, "log_id = {log:String}", named("log", logID))
}

func (s *Store) plannedActivity(ctx context.Context, logID, which string, args ...any) (r ActivityRange, planned bool, err error) {
	r.LogID = logID
	rows, err := s.conn.Query(ctx, "SELECT first_batch, last_batch FROM activity_ranges WHERE "+which+" ORDER BY last_batch DESC LIMIT 1", args...)
	if err != nil {
		return r, false, fmt.Errorf("look for the activity of log %q that was planned: %w", logID, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&r.First, &r.Last); err != nil {
			return r, false, fmt.Errorf("look for the activity of log %q that was planned: %w", logID, err)
		}
		planned = true
	}
	if err := rows.Err(); err != nil {
		return r, false, fmt.Errorf("look for the activity of log %q that was planned: %w", logID, err)
	}
	return r, planned, nil
}

// activityBytes bounds what the names of a range's events have in bytes, which is what
// adding it up has in memory, some times over: a range that is too large can't be made
// smaller any more, and nothing behind it would ever be added. One batch may have more.
const activityBytes = 96 << 20

// fitting shortens a range to what fits into memory, whatever names emitters make up: to
// batches whose names have at most so many bytes together, or to the first batch.
func (s *Store) fitting(ctx context.Context, r ActivityRange, most uint64) (ActivityRange, error) {
	rows, err := s.conn.Query(adding(ctx, clickhouse.Settings{}), "SELECT batch, sum(length(principal) + length(target) + length(server) + length(environment) + length(emitter_id)) FROM events WHERE "+ofRange+" GROUP BY batch ORDER BY batch", r.args()...)
	if err != nil {
		return r, fmt.Errorf("measure the activity of %s: %w", r, err)
	}
	defer rows.Close()
	total := uint64(0)
	for rows.Next() {
		var batch, bytes uint64
		if err := rows.Scan(&batch, &bytes); err != nil {
			return r, fmt.Errorf("measure the activity of %s: %w", r, err)
		}
		if total += bytes; total > most && total > bytes && batch <= r.Last {
			r.Last = batch - 1
		}
	}
	if err := rows.Err(); err != nil {
		return r, fmt.Errorf("measure the activity of %s: %w", r, err)
	}
	return r, nil
}

// PlanActivity writes down, durably, that a range is the next one of its log, and returns
// the range that is: a shorter one when its names would not fit into memory, another one
// with the same first batch when somebody else, or an attempt that was given up, came
// first. Fresh says that it was not written down before
// this call. Only when all before it is added may it be called.
func (s *Store) PlanActivity(ctx context.Context, r ActivityRange, now time.Time) (planned ActivityRange, fresh bool, err error) {
	const which = "log_id = {log:String} AND last_batch >= {first:UInt64} AND first_batch = {first:UInt64}"
	planned, ok, err := s.plannedActivity(ctx, r.LogID, which, r.args()...)
	if err != nil || ok {
		return planned, false, err
	}
	if r, err = s.fitting(ctx, r, activityBytes); err != nil {
		return r, false, err
	}
	for n := range attempts {
		err := s.conn.Exec(once(ctx, fmt.Sprintf("range/%s/%d/%d", r.LogID, r.First, n)),
			"INSERT INTO activity_ranges SELECT {log:String}, {first:UInt64}, {last:UInt64}, fromUnixTimestamp64Micro({at:Int64}, 'UTC')",
			append(r.args(), named("at", now.UnixMicro()))...)
		if err != nil {
			return r, false, fmt.Errorf("plan the activity of %s: %w", r, err)
		}
		for range 2 { // on a cluster the row may be another machine's and not be here yet
			planned, ok, err := s.plannedActivity(ctx, r.LogID, which, r.args()...)
			if err != nil || ok {
				return planned, planned == r, err
			}
			if err := s.settle(ctx, "activity_ranges"); err != nil {
				return r, false, err
			}
		}
	}
	return r, false, fmt.Errorf("plan the activity of %s: the store does not keep what it takes; see its log", r)
}

// Added is what became of a range.
type Added struct {
	Events uint64 // that are stored of its batches and have not expired
	Before int    // of the tables' parts, those that were there already
}

// AddActivity adds up the events of a range, durably and once. Again says that it may
// have been added before, whole or in part; the very first attempt at a range that was
// planned just now is cheaper without. After an error, add the same range again. Events
// that have expired by now are left out: retention may have dropped them already.
func (s *Store) AddActivity(ctx context.Context, r ActivityRange, again bool, now time.Time) (added Added, err error) {
	// A replica may have a batch later than those that answered for it.
	if err := s.settle(ctx, "events"); err != nil {
		return added, err
	}
	months, err := s.activityMonths(ctx, r, now)
	if err != nil {
		return added, fmt.Errorf("add up %s: %w", r, err)
	}
	for _, n := range months {
		added.Events += n
	}
	if len(months) == 0 {
		return added, nil
	}
	for _, t := range activityTables {
		before, err := s.addTo(ctx, t, r, slices.Sorted(maps.Keys(months)), again)
		if err != nil {
			return added, fmt.Errorf("add up %s in %s: %w", r, t.name, err)
		}
		added.Before += before
	}
	return added, nil
}

// activityMonths are the months in which events of a range expire, with how many do; without those
// that have come.
func (s *Store) activityMonths(ctx context.Context, r ActivityRange, now time.Time) (map[uint16]uint64, error) {
	ctx = adding(ctx, clickhouse.Settings{})
	rows, err := s.conn.Query(ctx, "SELECT expires_month, count() FROM events WHERE "+ofRange+" AND expires_month > toDate({today:Int64}) GROUP BY expires_month",
		append(r.args(), named("today", now.Unix()/86400))...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	months := map[uint16]uint64{}
	for rows.Next() {
		var month time.Time
		var n uint64
		if err := rows.Scan(&month, &n); err != nil {
			return nil, err
		}
		months[uint16(month.Unix()/86400)] = n
	}
	return months, rows.Err()
}

// addTo adds a range to one table, and counts the months that had it already.
func (s *Store) addTo(ctx context.Context, t activityTable, r ActivityRange, months []uint16, again bool) (before int, err error) {
	todo := months
	for n := range attempts {
		if again && t.sums {
			if todo, err = s.lacking(ctx, t, r, months); err != nil {
				return 0, err
			}
			if n == 0 {
				before = len(months) - len(todo)
			}
			if len(todo) == 0 {
				return before, nil
			}
		}
		token := fmt.Sprintf("%s/%s/%d/%d/%d", t.name, r.LogID, r.First, r.Last, n)
		if err := s.conn.Exec(adding(ctx, clickhouse.Settings{"insert_deduplication_token": token}), t.insert, append(r.args(), named("months", todo))...); err != nil {
			return before, err
		}
		if !again || !t.sums {
			return before, nil
		}
	}
	return before, fmt.Errorf("the store does not keep what it takes; see its log")
}

// lacking are those of some months in which the table does not have the range.
func (s *Store) lacking(ctx context.Context, t activityTable, r ActivityRange, months []uint16) ([]uint16, error) {
	if err := s.settle(ctx, t.name); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(adding(ctx, clickhouse.Settings{}), "SELECT expires_month FROM "+t.name+
		" WHERE log_id = {log:String} AND expires_month IN ({months:Array(UInt16)}) GROUP BY expires_month HAVING max(last_batch) >= {last:UInt64}",
		named("log", r.LogID), named("last", r.Last), named("months", months))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	lacking := slices.Clone(months)
	for rows.Next() {
		var month time.Time
		if err := rows.Scan(&month); err != nil {
			return nil, err
		}
		lacking = slices.DeleteFunc(lacking, func(m uint16) bool { return m == uint16(month.Unix()/86400) })
	}
	return lacking, rows.Err()
}

// adding are the settings of the statements that add events up: one at a time, beside
// those that people wait for.
func adding(ctx context.Context, more clickhouse.Settings) context.Context {
	settings := clickhouse.Settings{
		"max_threads": 1, "max_memory_usage": 1 << 30,
		"max_bytes_before_external_group_by": 256 << 20, "max_bytes_before_external_sort": 256 << 20,
		"insert_deduplicate": 1, "async_insert": 0, "wait_for_async_insert": 1,
		// One block, so that a month's rows are one part: by the number of rows alone, and
		// a range has fewer.
		"max_insert_threads": 1, "min_insert_block_size_rows": 1 << 30, "min_insert_block_size_bytes": 0,
		// One part of a month each; a server refuses a hundred by default, and a range has
		// no more batches than that of different months.
		"max_partitions_per_insert_block": 0,
	}
	maps.Copy(settings, more)
	return limited(ctx, 2*time.Minute, settings)
}

// ofRange is true of the events of a range.
const ofRange = "log_id = {log:String} AND batch BETWEEN {first:UInt64} AND {last:UInt64}"

// activityTable is a table of activity, and how a range is added to it.
type activityTable struct {
	name   string
	sums   bool // adding a range twice would change it; it has last_batch, and expires
	insert string
}

// Static text: a range and its months are bound. What is sorted is the same each time,
// which the engine wants of an insert that it is to know again.
var activityTables = []activityTable{
	{"activity_hourly", true, `
INSERT INTO activity_hourly (tenant, hour, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month, last_batch,
	events, denied, request_bytes, response_bytes, duration_us, longest_us, durations, first_at, last_at)
SELECT tenant, ` + hourOf + ` AS hour_of, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month, {last:UInt64},
	count(), countIf(outcome = 'denied' OR decision = 'deny'), sum(request_bytes), sum(response_bytes), sum(duration_us), max(duration_us),
	` + durationsOf + `, min(occurred_at), max(occurred_at)
FROM events WHERE ` + ofRange + ` AND expires_month IN ({months:Array(UInt16)})
GROUP BY tenant, hour_of, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month
ORDER BY tenant, hour_of, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month`},
	{"tools_hourly", true, `
INSERT INTO tools_hourly (tenant, hour, server, environment, kind, target, outcome, log_id, expires_month, last_batch,
	events, denied, request_bytes, response_bytes, duration_us, longest_us, durations, first_at, last_at)
SELECT tenant, ` + hourOf + ` AS hour_of, server, environment, kind, target, outcome, log_id, expires_month, {last:UInt64},
	count(), countIf(outcome = 'denied' OR decision = 'deny'), sum(request_bytes), sum(response_bytes), sum(duration_us), max(duration_us),
	` + durationsOf + `, min(occurred_at), max(occurred_at)
FROM events WHERE ` + ofRange + ` AND expires_month IN ({months:Array(UInt16)})
GROUP BY tenant, hour_of, server, environment, kind, target, outcome, log_id, expires_month
ORDER BY tenant, hour_of, server, environment, kind, target, outcome, log_id, expires_month`},
	{"emitters_hourly", true, `
INSERT INTO emitters_hourly (tenant, emitter_id, hour, server, log_id, expires_month, last_batch, events, lowest_seq, highest_seq, delay_us, first_at, last_at)
SELECT tenant, emitter_id, toStartOfHour(least(received_at, ` + lastTime + `)) AS hour_of, server, log_id, expires_month, {last:UInt64},
	count(), min(emitter_seq), max(emitter_seq),
	sum(toUnixTimestamp64Micro(received_at) - toUnixTimestamp64Micro(occurred_at) - toInt64(duration_us)), min(received_at), max(received_at)
FROM events WHERE ` + ofRange + ` AND expires_month IN ({months:Array(UInt16)})
GROUP BY tenant, emitter_id, hour_of, server, log_id, expires_month
ORDER BY tenant, emitter_id, hour_of, server, log_id, expires_month`},
	// A call's signals are of its arguments; those of a listing are of the definition.
	{"tool_definitions", false, `
INSERT INTO tool_definitions (tenant, server, target, definition_digest, read_only, destructive, idempotent, open_world, listed, signals, first_at, last_at)
SELECT tenant, server, target, definition_digest, max(hint_read_only), max(hint_destructive), max(hint_idempotent), max(hint_open_world),
	max(kind = 'tools_list'), arraySort(groupUniqArrayArrayIf(arrayMap(x -> toString(x), signals), kind = 'tools_list')), min(occurred_at), max(occurred_at)
FROM events WHERE ` + ofRange + ` AND expires_month IN ({months:Array(UInt16)})
	AND kind IN ('tool_call', 'tools_list') AND target != '' AND definition_digest != toFixedString('', 16)
GROUP BY tenant, server, target, definition_digest
ORDER BY tenant, server, target, definition_digest`},
}

const (
	// lastTime is in the last hour that a DateTime holds for sure; an event's clock may
	// say later ones.
	lastTime = "toDateTime64('2105-12-31 23:30:00', 6, 'UTC')"
	hourOf   = "toStartOfHour(least(occurred_at, " + lastTime + "))"
	// durationsOf rounds to sixteen values an octave: see schema/0007_activity.sql.
	durationsOf = "quantilesBFloat16State(0.5, 0.95, 0.99)(toUInt64(exp2(round(log2(greatest(duration_us, 1)) * 16) / 16)))"
)

// dropActivity removes what was added up of the events that expire in a month.
func (s *Store) dropActivity(ctx context.Context, month uint16) error {
	for _, t := range activityTables {
		if !t.sums {
			continue
		}
		if err := s.define(wholesale(ctx), "ALTER TABLE "+t.name+" DROP PARTITION ID '"+partitionID(month)+"'"); err != nil {
			return fmt.Errorf("drop the activity that expires in %s: %w", monthName(month), mayNot(err))
		}
	}
	return nil
}
