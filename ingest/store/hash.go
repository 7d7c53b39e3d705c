package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// Rows reads the canonical bytes (those of event.AppendRow) of the events that where
// selects, with its bound values, and calls f with each, in no order; row is f's
// until it returns. They are made of what the store has now, column by column.
//
// With the engine in process the columns come as they are, which is several times
// faster than the engine's formatRow; a server makes the rows itself ([RowSQL]). where
// is static text, or made of static fragments; it may end in a LIMIT.
func (s *Store) Rows(ctx context.Context, l Limits, where string, args []any, f func(batch uint64, leaf uint32, row []byte) error) error {
	params, plain := parameters(args)
	if s.engine == nil || !plain {
		return s.rowsInSQL(ctx, l, where, args, f)
	}
	return s.rowsOfColumns(ctx, l, where, params, func(batch uint64, leaf uint32, prefixed []byte) error { return f(batch, leaf, prefixed[1:]) })
}

// Hash computes the leaf hashes of the stored events of a log's batches from to to,
// both included, and calls f with each, in no order. See [Store.Rows].
func (s *Store) Hash(ctx context.Context, l Limits, logID string, from, to uint64, f func(batch uint64, leaf uint32, hash *ledger.Hash) error) error {
	args := []any{named("id", logID), named("from", from), named("to", to)}
	var err error
	if params, plain := parameters(args); s.engine != nil && plain {
		err = s.rowsOfColumns(ctx, l, ofBatches, params, func(batch uint64, leaf uint32, prefixed []byte) error {
			hash := ledger.Hash(sha256.Sum256(prefixed))
			return f(batch, leaf, &hash)
		})
	} else {
		err = s.hashInSQL(ctx, l, args, f)
	}
	if err != nil {
		return fmt.Errorf("hash batches %d to %d of log %q: %w", from, to, logID, err)
	}
	return nil
}

const ofBatches = "log_id = {id:String} AND batch BETWEEN {from:UInt64} AND {to:UInt64}"

// concurrently has the engine read with all its threads also what is little in
// bytes: making rows of it is not.
const concurrently = " SETTINGS merge_tree_min_rows_for_concurrent_read = 20000, merge_tree_min_bytes_for_concurrent_read = 1000000"

func (s *Store) hashInSQL(ctx context.Context, l Limits, args []any, f func(batch uint64, leaf uint32, hash *ledger.Hash) error) error {
	return s.texts(ctx, l, "SELECT batch, leaf, "+LeafSQL+" FROM events WHERE "+ofBatches+concurrently, args, func(batch uint64, leaf uint32, text string) error {
		if len(text) != len(ledger.Hash{}) {
			return fmt.Errorf("the engine's hash has %d bytes", len(text))
		}
		hash := ledger.Hash([]byte(text))
		return f(batch, leaf, &hash)
	})
}

func (s *Store) rowsInSQL(ctx context.Context, l Limits, where string, args []any, f func(batch uint64, leaf uint32, row []byte) error) error {
	return s.texts(ctx, l, "SELECT batch, leaf, "+RowSQL+" FROM events WHERE "+where, args, func(batch uint64, leaf uint32, text string) error {
		return f(batch, leaf, []byte(text))
	})
}

// texts reads a text for each event.
func (s *Store) texts(ctx context.Context, l Limits, sql string, args []any, f func(batch uint64, leaf uint32, text string) error) error {
	rows, err := s.Query(ctx, l, sql, args...)
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
		if err := f(batch, leaf, text); err != nil {
			return err
		}
	}
	return rows.Err()
}

// rowsOfColumns asks the engine in process for the columns themselves, in its Native
// format: the driver would make Go values of each cell, and rows of them. A row comes
// behind the byte that begins a leaf (RFC 6962).
func (s *Store) rowsOfColumns(ctx context.Context, l Limits, where string, params url.Values, f func(batch uint64, leaf uint32, prefixed []byte) error) error {
	free, err := s.place(ctx)
	if err != nil {
		return err
	}
	defer free()
	return s.columnRows(ctx, l.withDefaults(), false, where, params, f)
}

// columnRows is rowsOfColumns for who needs no reader's place, with limits that are
// set. few is for some thousand events at most: a second thread and large buffers
// would cost more than they gain.
func (s *Store) columnRows(ctx context.Context, l Limits, few bool, where string, params url.Values, f func(batch uint64, leaf uint32, prefixed []byte) error) error {
	for name, value := range map[string]string{
		"max_execution_time": strconv.FormatFloat(l.Time.Seconds(), 'f', -1, 64), "max_memory_usage": strconv.FormatUint(l.Memory, 10),
		"low_cardinality_allow_in_native_format": "1", "max_block_size": "8192",
		"merge_tree_min_rows_for_concurrent_read": "20000", "merge_tree_min_bytes_for_concurrent_read": "1000000",
	} {
		params.Set(name, value)
	}
	for name, value := range s.narrowed(l.Tenants) {
		params.Set(name, value)
	}
	buffer := 512 << 10
	if few {
		buffer = 32 << 10
		params.Set("max_threads", "1")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://embedded:0/?"+params.Encode(), strings.NewReader("SELECT "+EventColumns+" FROM events WHERE "+where+" FORMAT Native"))
	if err != nil {
		return err
	}
	resp, err := s.raw.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 2000))
		return fmt.Errorf("the engine says: %s", strings.TrimSpace(string(text)))
	}
	return readBlocks(resp.Body, buffer, f)
}

// parameters are bound values as the engine takes them in a request's URL; plain is
// false when one of them is of a type that is not written here.
func parameters(args []any) (params url.Values, plain bool) {
	params = url.Values{}
	for _, a := range args {
		n, ok := a.(driver.NamedValue)
		if !ok {
			return nil, false
		}
		var text string
		switch v := n.Value.(type) {
		case string:
			text = parameterEscaper.Replace(v)
		case bool:
			text = strconv.FormatBool(v)
		case int:
			text = strconv.Itoa(v)
		case int64:
			text = strconv.FormatInt(v, 10)
		case uint32:
			text = strconv.FormatUint(uint64(v), 10)
		case uint64:
			text = strconv.FormatUint(v, 10)
		default:
			return nil, false
		}
		params.Set("param_"+n.Name, text)
	}
	return params, true
}

// parameterEscaper writes a text as the engine's format Escaped has it.
var parameterEscaper = strings.NewReplacer("\\", "\\\\", "\b", "\\b", "\f", "\\f", "\n", "\\n", "\r", "\\r", "\t", "\\t", "\x00", "\\0", "'", "\\'")
