package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// retained is the table in which what stays of a month is gathered. It exists while
// a month is dropped; what a crash leaves of it is of no use.
const retained = "events_retained"

// Share is a log's share of the events that expire in one month: those in batches
// before a number.
type Share struct {
	LogID  string
	Month  uint16 // expires_month, days since 1970-01-01
	Before uint64
}

const shareSQL = "expires_month = toDate({r_month:UInt16}) AND log_id = {r_log:String} AND batch < {r_before:UInt64}"

func (s Share) args() []any {
	return []any{named("r_month", s.Month), named("r_log", s.LogID), named("r_before", s.Before)}
}

// Condition is static SQL text on the events table, and the values that are bound
// in it.
type Condition struct {
	SQL  string
	Args []any
}

// AnyOf is true of events of which one of the conditions is: of none, when there
// are none. It also returns the conditions as they are in it. What each binds gets
// a name of its own.
func AnyOf(conditions []Condition) (anyOf Condition, each []string) {
	anyOf.SQL = "0"
	for i, c := range conditions {
		prefix := "c" + strconv.Itoa(i) + "_"
		sql := "(" + strings.ReplaceAll(c.SQL, "{", "{"+prefix) + ")" // texts are bound, so there is no other brace
		each = append(each, sql)
		for _, a := range c.Args {
			v := a.(driver.NamedValue)
			anyOf.Args = append(anyOf.Args, named(prefix+v.Name, v.Value))
		}
	}
	if len(each) > 0 {
		anyOf.SQL = "(" + strings.Join(each, " OR ") + ")"
	}
	return anyOf, each
}

// thorough are the settings of a statement about a month of events and many holds,
// whose conditions make a long text. Retention runs one statement at a time, so it
// needs no reader's place.
var thorough = clickhouse.Settings{
	"max_execution_time": 1800, "max_memory_usage": 1 << 30,
	"max_query_size": 16 << 20, "max_ast_elements": 1_000_000, "max_expanded_ast_elements": 1_000_000,
}

// scan runs a reading statement and calls f for each row.
func (s *Store) scan(ctx context.Context, f func(driver.Rows) error, sql string, args ...any) error {
	rows, err := s.conn.Query(clickhouse.Context(ctx, clickhouse.WithSettings(thorough)), sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Expiring is what is stored of one log that expires in one month.
type Expiring struct {
	LogID       string
	Month       uint16
	Events      uint64
	First, Last time.Time // received
}

// Expiring are the events that expire in the months up to a day, by month, oldest
// first, and log.
func (s *Store) Expiring(ctx context.Context, day uint16) (out []Expiring, err error) {
	err = s.scan(ctx, func(rows driver.Rows) error {
		var e Expiring
		var month time.Time
		err := rows.Scan(&e.LogID, &month, &e.Events, &e.First, &e.Last)
		e.Month = uint16(month.Unix() / 86400)
		out = append(out, e)
		return err
	}, "SELECT log_id, expires_month, count(), min(received_at), max(received_at) FROM events WHERE expires_month <= toDate({day:UInt16}) GROUP BY log_id, expires_month ORDER BY expires_month, log_id",
		named("day", day))
	if err != nil {
		return nil, fmt.Errorf("look for events that expired: %w", err)
	}
	return out, nil
}

// MonthSize is what the events that expire in a month take on disk, in bytes, and
// how many there are.
func (s *Store) MonthSize(ctx context.Context, month uint16) (bytes, events uint64, err error) {
	err = s.conn.QueryRow(ctx, "SELECT sum(bytes_on_disk) FROM "+s.layout.parts()+" WHERE active AND database = currentDatabase() AND table = {table:String} AND partition_id = {id:String}",
		named("table", s.layout.local("events")), named("id", partitionID(month))).Scan(&bytes)
	if err == nil {
		err = s.conn.QueryRow(ctx, "SELECT count() FROM events WHERE expires_month = toDate({month:UInt16})", named("month", month)).Scan(&events)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("measure the events that expire in %s: %w", monthName(month), err)
	}
	return bytes, events, nil
}

// CountHeld counts the events of a share, those of which one of the holds' conditions
// is true, and those of each.
func (s *Store) CountHeld(ctx context.Context, share Share, holds []Condition) (events, held uint64, each []uint64, err error) {
	anyOf, parts := AnyOf(holds)
	var counts strings.Builder
	each = make([]uint64, len(holds))
	into := []any{&events, &held}
	for i, p := range parts {
		counts.WriteString(", countIf" + p)
		into = append(into, &each[i])
	}
	err = s.scan(ctx, func(rows driver.Rows) error { return rows.Scan(into...) },
		"SELECT count(), countIf("+anyOf.SQL+")"+counts.String()+" FROM events WHERE "+shareSQL, append(share.args(), anyOf.Args...)...)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("count the events that expire in %s and are held: %w", monthName(share.Month), err)
	}
	return events, held, each, nil
}

// CountMatching counts all events of which a condition is true.
func (s *Store) CountMatching(ctx context.Context, c Condition) (n uint64, err error) {
	if err := s.scan(ctx, func(rows driver.Rows) error { return rows.Scan(&n) }, "SELECT count() FROM events WHERE "+c.SQL, c.Args...); err != nil {
		return 0, fmt.Errorf("count events: %w", err)
	}
	return n, nil
}

// BatchLeaves are events of one batch: their positions, ascending, and their leaf
// hashes where they were asked for.
type BatchLeaves struct {
	Batch     uint64
	Positions []uint32
	Leaves    []ledger.Hash
}

// Held are the positions of a share's events of which a condition is true, by batch.
func (s *Store) Held(ctx context.Context, share Share, c Condition) (out []BatchLeaves, err error) {
	err = s.scan(ctx, func(rows driver.Rows) error {
		var b BatchLeaves
		err := rows.Scan(&b.Batch, &b.Positions)
		out = append(out, b)
		return err
	}, "SELECT batch, arraySort(groupArray(leaf)) FROM events WHERE "+shareSQL+" AND "+c.SQL+" GROUP BY batch ORDER BY batch", append(share.args(), c.Args...)...)
	if err != nil {
		return nil, fmt.Errorf("find the events that expire in %s and are held: %w", monthName(share.Month), err)
	}
	return out, nil
}

// Where events of a month are read from.
const (
	Stored   = "events"
	Retained = retained // what stays of a month that is being dropped
)

// LeavesOf computes the leaf hashes of all events that a table, Stored or Retained,
// has of batches of a share.
func (s *Store) LeavesOf(ctx context.Context, table string, share Share, batches []uint64) (map[uint64]BatchLeaves, error) {
	if table != Stored && table != Retained {
		return nil, fmt.Errorf("read leaves: there is no table %q of events", table)
	}
	type one struct {
		position uint32
		leaf     ledger.Hash
	}
	found := make(map[uint64][]one, len(batches))
	err := s.scan(ctx, func(rows driver.Rows) error {
		var batch uint64
		var o one
		var hash string
		if err := rows.Scan(&batch, &o.position, &hash); err != nil {
			return err
		}
		if len(hash) != len(o.leaf) {
			return errForeign
		}
		copy(o.leaf[:], hash)
		found[batch] = append(found[batch], o)
		return nil
	}, "SELECT batch, leaf, "+LeafSQL+" FROM "+table+" WHERE "+shareSQL+" AND batch IN ({r_batches:Array(UInt64)})"+concurrently,
		append(share.args(), named("r_batches", batches))...)
	if err != nil {
		return nil, fmt.Errorf("read the events of %d batches of log %q: %w", len(batches), share.LogID, err)
	}
	out := make(map[uint64]BatchLeaves, len(found))
	for batch, all := range found {
		slices.SortFunc(all, func(a, b one) int { return cmp.Compare(a.position, b.position) })
		b := BatchLeaves{Batch: batch}
		for _, o := range all {
			b.Positions, b.Leaves = append(b.Positions, o.position), append(b.Leaves, o.leaf)
		}
		out[batch] = b
	}
	return out, nil
}

// Acts reads the entries of some kinds other than events, of all logs, in the order
// in which they were sealed.
func (s *Store) Acts(ctx context.Context, kinds ...string) (out []*ledger.Entry, err error) {
	err = s.scan(ctx, func(rows driver.Rows) error {
		r, err := scanSealed(rows)
		out = append(out, r.Entry)
		return err
	}, "SELECT "+sealedColumns+" FROM ledger WHERE kind IN ({kinds:Array(String)}) ORDER BY sealed_at, log_id, batch", named("kinds", kinds))
	if err != nil {
		return nil, fmt.Errorf("read entries of the ledger: %w", err)
	}
	return out, nil
}

// Gap names a log in which the numbers of the entries are not 1 to n, as far as their
// count and sum tell; "" when there is none.
func (s *Store) Gap(ctx context.Context) (logID string, err error) {
	err = s.scan(ctx, func(rows driver.Rows) error { return rows.Scan(&logID) },
		"SELECT log_id FROM ledger GROUP BY log_id HAVING count() != max(batch) OR min(batch) != 1 OR sum(batch) != intDiv(max(batch) * (max(batch) + 1), 2) ORDER BY log_id LIMIT 1")
	if err != nil {
		return "", fmt.Errorf("look for gaps in the ledger: %w", err)
	}
	return logID, nil
}

// SealedTimes are when the newest entry of all logs was sealed, and the newest one
// not after a time; zero when there is none.
func (s *Store) SealedTimes(ctx context.Context, until time.Time) (newest, before time.Time, err error) {
	err = s.scan(ctx, func(rows driver.Rows) error { return rows.Scan(&newest, &before) },
		"SELECT max(sealed_at), maxIf(sealed_at, sealed_at <= fromUnixTimestamp64Micro({until:Int64}, 'UTC')) FROM ledger", named("until", until.UnixMicro()))
	if err != nil {
		return newest, before, fmt.Errorf("read when entries were sealed: %w", err)
	}
	zero := func(t time.Time) time.Time {
		if t.Unix() == 0 {
			return time.Time{}
		}
		return t
	}
	return zero(newest), zero(before), nil
}

// KeptProofs are the proofs (ledger.BatchProof) of what was kept of a log by one
// run, in the order of the batches.
func (s *Store) KeptProofs(ctx context.Context, logID string, run uint64) (out [][]byte, err error) {
	err = s.scan(ctx, func(rows driver.Rows) error {
		var text string
		err := rows.Scan(&text)
		out = append(out, []byte(text))
		return err
	}, "SELECT proof FROM kept WHERE log_id = {id:String} AND run = {run:UInt64} ORDER BY batch", named("id", logID), named("run", run))
	if err != nil {
		return nil, fmt.Errorf("read what run %d has kept of log %q: %w", run, logID, err)
	}
	return out, nil
}

// KeptOf are the proofs of what all runs have kept of batches, newest run first.
func (s *Store) KeptOf(ctx context.Context, logID string, batches []uint64) (map[uint64][][]byte, error) {
	out := map[uint64][][]byte{}
	err := s.scan(ctx, func(rows driver.Rows) error {
		var batch uint64
		var text string
		err := rows.Scan(&batch, &text)
		out[batch] = append(out[batch], []byte(text))
		return err
	}, "SELECT batch, proof FROM kept WHERE log_id = {id:String} AND batch IN ({batches:Array(UInt64)}) ORDER BY batch, run DESC", named("id", logID), named("batches", batches))
	if err != nil {
		return nil, fmt.Errorf("read what was kept of log %q: %w", logID, err)
	}
	return out, nil
}

// Keep stores proofs of what a run keeps, in the order of the batches, all of them
// durably and once. After an error, keep the same ones again.
func (s *Store) Keep(ctx context.Context, logID string, run uint64, batches []uint64, proofs [][]byte) error {
	token := sha256.New()
	for _, p := range proofs {
		token.Write(p)
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplication_token": fmt.Sprintf("%s/%d/%s", logID, run, hex.EncodeToString(token.Sum(nil))),
		"async_insert":               0, "wait_for_async_insert": 1, "insert_deduplicate": 1,
	}))
	insert, err := s.conn.PrepareBatch(ctx, "INSERT INTO kept (log_id, batch, run, proof)")
	if err != nil {
		return fmt.Errorf("keep proofs of log %q: %w", logID, err)
	}
	for i, p := range proofs {
		if err := insert.Append(logID, batches[i], run, string(p)); err != nil {
			_ = insert.Abort() // nothing was sent
			return fmt.Errorf("keep proof of batch %d of log %q: %w", batches[i], logID, err)
		}
	}
	if err := insert.Send(); err != nil {
		return fmt.Errorf("keep proofs of log %q: %w", logID, err)
	}
	return nil
}

// wholesale lets a statement remove a partition of any size: servers refuse more
// than 50 GB by default.
func wholesale(ctx context.Context) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_partition_size_to_drop": 0, "max_table_size_to_drop": 0}))
}

// DropMonth removes all events that expire in a month, at once, and before them what was
// added up of them: when that is interrupted the events are there, and it is done again.
func (s *Store) DropMonth(ctx context.Context, month uint16) error {
	if err := s.dropActivity(ctx, month); err != nil {
		return err
	}
	if err := s.define(wholesale(ctx), "ALTER TABLE events DROP PARTITION ID '"+partitionID(month)+"'"); err != nil {
		return fmt.Errorf("drop the events that expire in %s: %w", monthName(month), mayNot(err))
	}
	return nil
}

// Unstage removes what an earlier run has left of a month that it did not finish.
func (s *Store) Unstage(ctx context.Context) error {
	if err := s.define(wholesale(ctx), "DROP TABLE IF EXISTS "+retained+" SYNC"); err != nil {
		return fmt.Errorf("remove the table %s: %w", retained, mayNot(err))
	}
	return nil
}

// Stage begins to gather what stays of a month.
func (s *Store) Stage(ctx context.Context) error {
	if err := s.Unstage(ctx); err != nil {
		return err
	}
	if err := s.define(ctx, "CREATE TABLE "+retained+" AS events"); err != nil {
		return fmt.Errorf("create the table %s: %w", retained, mayNot(err))
	}
	return nil
}

// StageHeld gathers the events of a share in batches from first to last of which a
// condition is true. After an error, stage anew.
func (s *Store) StageHeld(ctx context.Context, share Share, first, last uint64, c Condition) error {
	args := append(share.args(), named("r_first", first), named("r_last", last))
	return s.stage(ctx, shareSQL+" AND batch BETWEEN {r_first:UInt64} AND {r_last:UInt64} AND "+c.SQL, append(args, c.Args...)...)
}

// StageOthers gathers the events of a month that are not of these shares of it: they
// stay. After an error, stage anew.
func (s *Store) StageOthers(ctx context.Context, month uint16, shares []Share) error {
	var all []Condition
	for _, share := range shares {
		all = append(all, Condition{shareSQL, share.args()})
	}
	anyOf, _ := AnyOf(all)
	return s.stage(ctx, "expires_month = toDate({month:UInt16}) AND NOT "+anyOf.SQL, append(anyOf.Args, named("month", month))...)
}

func (s *Store) stage(ctx context.Context, where string, args ...any) error {
	settings := maps.Clone(thorough)
	settings["insert_deduplicate"], settings["async_insert"] = 0, 0
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings))
	if err := s.conn.Exec(ctx, "INSERT INTO "+retained+" ("+EventColumns+") SELECT "+EventColumns+" FROM events WHERE "+where, args...); err != nil {
		return fmt.Errorf("copy the events that stay: %w", err)
	}
	return nil
}

// Staged counts the events that were gathered.
func (s *Store) Staged(ctx context.Context) (n uint64, err error) {
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM "+retained).Scan(&n); err != nil {
		return 0, fmt.Errorf("count the events that stay: %w", err)
	}
	return n, nil
}

// ReplaceMonth puts what was gathered in the place of all events that expire in a
// month, at once: no reader sees less of them. What was added up of the month goes
// before, all of it: it would still name whom the dropped ones were about.
func (s *Store) ReplaceMonth(ctx context.Context, month uint16) error {
	if err := s.dropActivity(ctx, month); err != nil {
		return err
	}
	ctx, err := s.replacing(ctx)
	if err != nil {
		return fmt.Errorf("replace the events that expire in %s by those that stay: %w", monthName(month), err)
	}
	if err := s.define(ctx, "ALTER TABLE events REPLACE PARTITION ID '"+partitionID(month)+"' FROM "+retained); err != nil {
		return fmt.Errorf("replace the events that expire in %s by those that stay: %w", monthName(month), mayNot(err))
	}
	return nil
}

// mayNot says what to do about a refusal.
func mayNot(err error) error {
	const accessDenied = 497
	if Code(err) != accessDenied {
		return err
	}
	return errors.Join(errors.New("the store's account may not do it: grant it ALTER DELETE on events, activity_hourly, tools_hourly and emitters_hourly, and CREATE TABLE, INSERT, SELECT and DROP TABLE on "+retained), err)
}

// partitionID is the engine's name of the partition of a month.
func partitionID(month uint16) string { return date(month).Format("20060102") }

func monthName(month uint16) string { return date(month).Format("2006-01") }
