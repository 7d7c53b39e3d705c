package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// SealedBatch is what a reader that follows a log needs to know of an entry.
type SealedBatch struct {
	LogID    string
	Batch    uint64
	SealedAt int64  // µs since 1970
	Events   uint32 // 0 for entries of other kinds than events
	Expires  uint16 // the month, days since 1970-01-01; after it the events may be gone
}

// logsAtOnce is how many logs one statement asks for.
const logsAtOnce = 100

// SealedAfter reads the entries of some logs behind the batch that is given for
// each, at most so many of a log, ordered by log and batch. It is what a reader asks
// many times a second: it costs the entries that there are, not the ledger.
func (s *Store) SealedAfter(ctx context.Context, after map[string]uint64, most int) ([]SealedBatch, error) {
	logs := make([]string, 0, len(after))
	for log := range after {
		logs = append(logs, log)
	}
	slices.Sort(logs)
	var out []SealedBatch
	for part := range slices.Chunk(logs, logsAtOnce) {
		var known []string
		args := []any{named("most", most)}
		for i, log := range part {
			n := strconv.Itoa(i)
			known = append(known, "log_id = {log"+n+":String} AND batch > {batch"+n+":UInt64}")
			args = append(args, named("log"+n, log), named("batch"+n, after[log]))
		}
		rows, err := s.conn.Query(ctx, "SELECT log_id, batch, sealed_at, events, expires_month FROM ledger WHERE "+strings.Join(known, " OR ")+
			" ORDER BY log_id, batch LIMIT {most:UInt64} BY log_id", args...)
		if err != nil {
			return nil, fmt.Errorf("look for new batches: %w", err)
		}
		for rows.Next() {
			var b SealedBatch
			var sealed, expires time.Time
			if err = rows.Scan(&b.LogID, &b.Batch, &sealed, &b.Events, &expires); err != nil {
				break
			}
			b.SealedAt, b.Expires = sealed.UnixMicro(), uint16(expires.Unix()/86400)
			out = append(out, b)
		}
		rows.Close()
		if err == nil {
			err = rows.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("look for new batches: %w", err)
		}
	}
	return out, nil
}

// SealedBefore is the number of a log's last entry that was sealed before t; 0 when
// there is none.
func (s *Store) SealedBefore(ctx context.Context, logID string, t time.Time) (batch uint64, err error) {
	if err := s.conn.QueryRow(ctx, "SELECT max(batch) FROM ledger WHERE log_id = {id:String} AND sealed_at < fromUnixTimestamp64Micro({at:Int64}, 'UTC')",
		named("id", logID), named("at", t.UnixMicro())).Scan(&batch); err != nil {
		return 0, fmt.Errorf("look for the batches of log %q since a time: %w", logID, err)
	}
	return batch, nil
}

// MaxRead bounds what one EventsOf of several batches reads, in bytes of rows. One
// batch is bounded by what ingest takes.
const MaxRead = 64 << 20

// ErrTooMuch means that several batches are too large to be read together.
var ErrTooMuch = errors.New("the batches are too large to be read at once")

// EventsOf reads the events of batches of one log, which follow each other, in the
// order of the log (batch, leaf). All are in memory at once; the error is ErrTooMuch
// when that is too much. A row that the ledger does not count is left out. lacking is how many events are
// not there: they expired, or are not visible yet, or somebody has changed the store.
func (s *Store) EventsOf(ctx context.Context, batches []SealedBatch) (events []*event.Event, lacking int, err error) {
	if len(batches) == 0 {
		return nil, 0, nil
	}
	first := batches[0]
	starts, total, room := make([]int, len(batches)), 0, 0
	for i, b := range batches {
		if b.LogID != first.LogID || b.Batch != first.Batch+uint64(i) {
			return nil, 0, fmt.Errorf("read batches from %d of log %q: they don't follow each other", first.Batch, first.LogID)
		}
		starts[i] = room
		total += int(b.Events)
		room += min(int(b.Events), mostOfBatch)
	}
	if total == 0 {
		return nil, 0, nil
	}
	events = make([]*event.Event, room)
	args := []any{named("id", first.LogID), named("from", first.Batch), named("to", batches[len(batches)-1].Batch)}
	read := 0
	err = s.followRows(ctx, total < fewEvents, args, func(batch uint64, leaf uint32, row []byte) error {
		if read += len(row); read > MaxRead && len(batches) > 1 {
			return ErrTooMuch
		}
		at := int(batch - first.Batch)
		if leaf >= min(batches[at].Events, mostOfBatch) || events[starts[at]+int(leaf)] != nil {
			return nil
		}
		// A row that can't be read was changed by hand. It lacks, and verify names it.
		if e, rest, err := event.ParseRow(row); err == nil && len(rest) == 0 {
			events[starts[at]+int(leaf)] = e
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read batches from %d of log %q: %w", first.Batch, first.LogID, err)
	}
	events = slices.DeleteFunc(events, func(e *event.Event) bool { return e == nil })
	return events, total - len(events), nil
}

// mostOfBatch is more than ingest ever puts into a batch. An entry that says more was
// changed by hand, and must not take memory for what is not there.
const mostOfBatch = 1 << 20

// fewEvents are read without ado.
const fewEvents = 5000

// followRows reads the rows of some batches; see [Store.Rows]. It takes no reader's
// place: whoever follows the logs must not wait for what people ask.
func (s *Store) followRows(ctx context.Context, few bool, args []any, f func(batch uint64, leaf uint32, row []byte) error) error {
	l := Limits{Time: 2 * time.Minute}.withDefaults()
	if params, plain := parameters(args); s.engine != nil && plain {
		return s.columnRows(ctx, l, few, ofBatches, params, func(batch uint64, leaf uint32, prefixed []byte) error { return f(batch, leaf, prefixed[1:]) })
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_execution_time": l.Time.Seconds(), "max_memory_usage": l.Memory}))
	rows, err := s.conn.Query(ctx, "SELECT batch, leaf, "+RowSQL+" FROM events WHERE "+ofBatches, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var batch uint64
		var leaf uint32
		var text string
		if err := rows.Scan(&batch, &leaf, &text); err != nil {
			return err
		}
		if err := f(batch, leaf, []byte(text)); err != nil {
			return err
		}
	}
	return rows.Err()
}
