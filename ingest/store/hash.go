package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// Hash computes the leaf hashes of the stored events of a log's batches from to to,
// both included, and calls f with each, in no order. What it hashes is what the
// store has now, column by column; see [LeafSQL] for the same in the engine's own
// words.
//
// With the engine in process the columns come here as they are and are hashed here,
// which is several times faster than formatRow; a server hashes by itself, and only
// hashes travel.
func (s *Store) Hash(ctx context.Context, l Limits, logID string, from, to uint64, f func(batch uint64, leaf uint32, hash *ledger.Hash) error) error {
	var err error
	if s.engine != nil {
		err = s.hashColumns(ctx, l, logID, from, to, f)
	} else {
		err = s.hashInSQL(ctx, l, logID, from, to, f)
	}
	if err != nil {
		return fmt.Errorf("hash batches %d to %d of log %q: %w", from, to, logID, err)
	}
	return nil
}

const ofBatches = " FROM events WHERE log_id = {id:String} AND batch BETWEEN {from:UInt64} AND {to:UInt64}"

// concurrently has the engine read with all its threads also what is little in
// bytes: making rows of it is not.
var concurrently = map[string]string{"merge_tree_min_rows_for_concurrent_read": "20000", "merge_tree_min_bytes_for_concurrent_read": "1000000"}

func (s *Store) hashInSQL(ctx context.Context, l Limits, logID string, from, to uint64, f func(batch uint64, leaf uint32, hash *ledger.Hash) error) error {
	sql := "SELECT batch, leaf, " + LeafSQL + ofBatches + " SETTINGS "
	for name, value := range concurrently {
		sql += name + " = " + value + ", "
	}
	rows, err := s.Query(ctx, l, strings.TrimSuffix(sql, ", "), named("id", logID), named("from", from), named("to", to))
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
		if len(text) != len(ledger.Hash{}) {
			return errors.New("the engine's hash has another length than SHA-256's")
		}
		hash := ledger.Hash([]byte(text))
		if err := f(batch, leaf, &hash); err != nil {
			return err
		}
	}
	return rows.Err()
}

// hashColumns asks the engine in process for the columns themselves, in its Native
// format: the driver would make Go values of each cell, and rows of them.
func (s *Store) hashColumns(ctx context.Context, l Limits, logID string, from, to uint64, f func(batch uint64, leaf uint32, hash *ledger.Hash) error) error {
	free, err := s.place(ctx)
	if err != nil {
		return err
	}
	defer free()
	l = l.withDefaults()
	values := url.Values{
		"param_id": {logID}, "param_from": {strconv.FormatUint(from, 10)}, "param_to": {strconv.FormatUint(to, 10)},
		"max_execution_time": {strconv.FormatFloat(l.Time.Seconds(), 'f', -1, 64)}, "max_memory_usage": {strconv.FormatUint(l.Memory, 10)},
		"low_cardinality_allow_in_native_format": {"1"}, "max_block_size": {"8192"},
	}
	for name, value := range concurrently {
		values.Set(name, value)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://embedded:0/?"+values.Encode(), strings.NewReader("SELECT "+EventColumns+ofBatches+" FORMAT Native"))
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
	return hashBlocks(resp.Body, f)
}
