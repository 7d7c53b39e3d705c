package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// RowSQL is an event's canonical bytes, those of event.AppendRow, as the engine
// makes them.
var RowSQL = func() string { return "formatRow('RowBinary', " + EventColumns + ")" }()

// LeafSQL is an event's leaf hash, as ledger.Leaf makes it of those bytes.
var LeafSQL = "SHA256(concat(char(0), " + RowSQL + "))"

// Sealed is one row of the ledger.
type Sealed struct {
	Entry *ledger.Entry
	// Nodes of the log's tree that are complete with the entry; see ledger.Tree.
	Nodes []ledger.Hash
	// Checkpoint of the log up to this entry, a signed note.
	Checkpoint string
	// Tags are the beginnings of the leaves' hashes, see [Tags]. They say which event of
	// a batch was changed, and prove nothing.
	Tags []byte
}

// TagSize is the length of one leaf's tag in bytes.
const TagSize = 4

// Tags of leaves.
func Tags(leaves []ledger.Hash) []byte {
	out := make([]byte, 0, TagSize*len(leaves))
	for i := range leaves {
		out = append(out, leaves[i][:TagSize]...)
	}
	return out
}

// LogInfo is one log of the store.
type LogInfo struct {
	ID          string
	VerifierKey string // of its first key
	StartedAt   time.Time
}

// Logs are the logs of the store, oldest first.
func (s *Store) Logs(ctx context.Context) ([]LogInfo, error) {
	rows, err := s.read(ctx, "SELECT log_id, any(verifier_key), min(started_at) AS started FROM logs GROUP BY log_id ORDER BY started, log_id", nil)
	if err != nil {
		return nil, fmt.Errorf("list logs: %w", err)
	}
	defer rows.Close()
	var out []LogInfo
	for rows.Next() {
		var l LogInfo
		if err := rows.Scan(&l.ID, &l.VerifierKey, &l.StartedAt); err != nil {
			return nil, fmt.Errorf("list logs: %w", err)
		}
		out = append(out, l)
	}
	return out, rows.Err()
}

// Events counts the stored events.
func (s *Store) Events(ctx context.Context) (n uint64, err error) {
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM events").Scan(&n); err != nil {
		return 0, fmt.Errorf("count events: %w", err)
	}
	return n, nil
}

// StartLog adds a log. Adding it again changes nothing.
func (s *Store) StartLog(ctx context.Context, l LogInfo) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": l.ID, "insert_deduplicate": 1}))
	err := s.conn.Exec(ctx, "INSERT INTO logs SELECT {id:String}, {key:String}, fromUnixTimestamp64Micro({at:Int64}, 'UTC')",
		named("id", l.ID), named("key", l.VerifierKey), named("at", l.StartedAt.UnixMicro()))
	if err != nil {
		return fmt.Errorf("start log %q: %w", l.ID, err)
	}
	return nil
}

// sealedColumns are those of the ledger table, in Sealed's order.
var sealedColumns = func() string {
	var names []string
	for _, c := range ledger.Columns {
		names = append(names, c.Name)
	}
	return strings.Join(append(names, "nodes", "checkpoint", "tags"), ", ")
}()

// Seal stores entries of one log, durably and once. After an error, seal the same
// entries again.
func (s *Store) Seal(ctx context.Context, rows []Sealed) error {
	token := sha256.New()
	for _, r := range rows {
		leaf := r.Entry.Leaf()
		token.Write(leaf[:])
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplication_token": hex.EncodeToString(token.Sum(nil)),
		// What the acknowledgement stands on; see Append.
		"async_insert":          0,
		"wait_for_async_insert": 1,
		"insert_deduplicate":    1,
	}))
	insert, err := s.conn.PrepareBatch(ctx, "INSERT INTO ledger ("+sealedColumns+")")
	if err != nil {
		return fmt.Errorf("seal %d batches: %w", len(rows), err)
	}
	for _, r := range rows {
		e := r.Entry
		nodes := make([]string, len(r.Nodes))
		for i := range r.Nodes {
			nodes[i] = string(r.Nodes[i][:])
		}
		if err := insert.Append(e.Format, e.Kind, e.LogID, e.Batch, time.UnixMicro(e.SealedAt), e.Schema, e.Events, string(e.Root[:]),
			date(e.ExpiresMonth), e.Detail, nodes, r.Checkpoint, r.Tags); err != nil {
			_ = insert.Abort() // nothing was sent
			return fmt.Errorf("seal batch %d: %w", e.Batch, err)
		}
	}
	if err := insert.Send(); err != nil {
		return fmt.Errorf("seal batches from %d: %w", rows[0].Entry.Batch, err)
	}
	return nil
}

// ErrSealedTwice means that the store has two entries of one number.
var ErrSealedTwice = errors.New("a number of the log was sealed twice")

// Alone says whether these entries, which were sealed, are the only ones of their
// numbers: two services with one key would sign two logs. A folder belongs to one
// process, so there is nothing to ask there.
func (s *Store) Alone(ctx context.Context, rows []Sealed) error {
	if s.engine != nil {
		return nil
	}
	first, last := rows[0].Entry, rows[len(rows)-1].Entry
	var n uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM ledger WHERE log_id = {id:String} AND batch BETWEEN {from:UInt64} AND {to:UInt64}",
		named("id", first.LogID), named("from", first.Batch), named("to", last.Batch)).Scan(&n); err != nil {
		return fmt.Errorf("look for other entries of log %q: %w", first.LogID, err)
	}
	if n > uint64(len(rows)) {
		return ErrSealedTwice
	}
	return nil
}

// Entries reads a log's entries from batch number from on, in order, and calls f
// for each until it returns an error. When the store was tampered with, a number
// may come twice or not at all.
func (s *Store) Entries(ctx context.Context, logID string, from, to uint64, f func(Sealed) error) error {
	rows, err := s.conn.Query(ctx, "SELECT "+sealedColumns+" FROM ledger WHERE log_id = {id:String} AND batch BETWEEN {from:UInt64} AND {to:UInt64} ORDER BY batch",
		named("id", logID), named("from", from), named("to", to))
	if err != nil {
		return fmt.Errorf("read entries of log %q: %w", logID, err)
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanSealed(rows)
		if err != nil {
			return fmt.Errorf("read entries of log %q: %w", logID, err)
		}
		if err := f(r); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read entries of log %q: %w", logID, err)
	}
	return nil
}

func scanSealed(rows driver.Rows) (Sealed, error) {
	e := &ledger.Entry{}
	r := Sealed{Entry: e}
	var sealedAt, expires time.Time
	var root string
	var nodes []string
	if err := rows.Scan(&e.Format, &e.Kind, &e.LogID, &e.Batch, &sealedAt, &e.Schema, &e.Events, &root, &expires, &e.Detail, &nodes, &r.Checkpoint, &r.Tags); err != nil {
		return r, err
	}
	e.SealedAt, e.ExpiresMonth = sealedAt.UnixMicro(), uint16(expires.Unix()/86400)
	copy(e.Root[:], root)
	for _, n := range nodes {
		var h ledger.Hash
		copy(h[:], n)
		r.Nodes = append(r.Nodes, h)
	}
	return r, nil
}

// LastEntry reads the entry with the highest number; nil when the log has none.
func (s *Store) LastEntry(ctx context.Context, logID string) (*Sealed, error) {
	rows, err := s.conn.Query(ctx, "SELECT "+sealedColumns+" FROM ledger WHERE log_id = {id:String} ORDER BY batch DESC LIMIT 1", named("id", logID))
	if err != nil {
		return nil, fmt.Errorf("read the last entry of log %q: %w", logID, err)
	}
	defer rows.Close()
	var last *Sealed
	for rows.Next() {
		r, err := scanSealed(rows)
		if err != nil {
			return nil, fmt.Errorf("read the last entry of log %q: %w", logID, err)
		}
		last = &r
	}
	return last, rows.Err()
}

// Rotations are the statements by which a log's keys handed over, oldest first.
func (s *Store) Rotations(ctx context.Context, logID string) ([]string, error) {
	rows, err := s.conn.Query(ctx, "SELECT detail FROM ledger WHERE log_id = {id:String} AND kind = {kind:String} ORDER BY batch",
		named("id", logID), named("kind", ledger.KindKey))
	if err != nil {
		return nil, fmt.Errorf("read key rotations of log %q: %w", logID, err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var statement string
		if err := rows.Scan(&statement); err != nil {
			return nil, fmt.Errorf("read key rotations of log %q: %w", logID, err)
		}
		out = append(out, statement)
	}
	return out, rows.Err()
}

// Nodes reads nodes of a log's tree, as they were stored with its entries: whether
// they are right is for the proof to show.
func (s *Store) Nodes(ctx context.Context, logID string) ledger.Nodes {
	return func(ids []ledger.NodeID) ([]ledger.Hash, error) {
		if len(ids) == 0 {
			return nil, nil
		}
		batches := make([]uint64, len(ids))
		for i, id := range ids {
			batches[i], _ = ledger.Place(id)
		}
		// A thousand numbers travel at a time: they are part of a request's URL.
		const atOnce = 1000
		found := make(map[uint64][]string, len(ids))
		for from := 0; from < len(batches); from += atOnce {
			if err := s.nodes(ctx, logID, batches[from:min(from+atOnce, len(batches))], found); err != nil {
				return nil, fmt.Errorf("read nodes of log %q: %w", logID, err)
			}
		}
		out := make([]ledger.Hash, len(ids))
		for i, id := range ids {
			nodes := found[batches[i]]
			if uint(len(nodes)) <= id.Level {
				return nil, fmt.Errorf("read nodes of log %q: entry %d is missing or damaged; run 'mcpaudit verify'", logID, batches[i])
			}
			copy(out[i][:], nodes[id.Level])
		}
		return out, nil
	}
}

func (s *Store) nodes(ctx context.Context, logID string, batches []uint64, found map[uint64][]string) error {
	rows, err := s.conn.Query(ctx, "SELECT batch, nodes FROM ledger WHERE log_id = {id:String} AND batch IN ({batches:Array(UInt64)})",
		named("id", logID), named("batches", batches))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var batch uint64
		var nodes []string
		if err := rows.Scan(&batch, &nodes); err != nil {
			return err
		}
		found[batch] = nodes
	}
	return rows.Err()
}

// Unsealed are the numbers of a log's batches after last of which events are
// stored, ascending.
func (s *Store) Unsealed(ctx context.Context, logID string, last uint64) ([]uint64, error) {
	rows, err := s.conn.Query(ctx, "SELECT DISTINCT batch FROM events WHERE log_id = {id:String} AND batch > {last:UInt64} ORDER BY batch",
		named("id", logID), named("last", last))
	if err != nil {
		return nil, fmt.Errorf("look for batches of log %q that are not sealed: %w", logID, err)
	}
	defer rows.Close()
	var out []uint64
	for rows.Next() {
		var n uint64
		if err := rows.Scan(&n); err != nil {
			return nil, fmt.Errorf("look for batches of log %q that are not sealed: %w", logID, err)
		}
		out = append(out, n)
	}
	return out, rows.Err()
}

// Leaves reads the leaf hashes of one batch as the engine computes them from the
// stored events, in the order of their positions, the month in which they expire,
// and the batch's MAC. The error says when they are not positions 0 to n-1 of one
// month and one MAC, each once.
func (s *Store) Leaves(ctx context.Context, logID string, batch uint64) (leaves []ledger.Hash, month uint16, mac [16]byte, err error) {
	rows, err := s.conn.Query(ctx, "SELECT leaf, expires_month, schema, batch_mac, "+LeafSQL+" FROM events WHERE log_id = {id:String} AND batch = {batch:UInt64} ORDER BY leaf",
		named("id", logID), named("batch", batch))
	if err != nil {
		return nil, 0, mac, fmt.Errorf("read batch %d of log %q: %w", batch, logID, err)
	}
	defer rows.Close()
	for rows.Next() {
		var leaf uint32
		var expires time.Time
		var schema uint16
		var hash, text string
		if err := rows.Scan(&leaf, &expires, &schema, &text, &hash); err != nil {
			return nil, 0, mac, fmt.Errorf("read batch %d of log %q: %w", batch, logID, err)
		}
		m := uint16(expires.Unix() / 86400)
		if len(leaves) == 0 {
			month = m
			copy(mac[:], text)
		}
		if int(leaf) != len(leaves) || m != month || schema != event.Schema || text != string(mac[:]) || len(hash) != len(ledger.Hash{}) {
			return nil, 0, mac, fmt.Errorf("read batch %d of log %q: %w", batch, logID, errForeign)
		}
		leaves = append(leaves, ledger.Hash([]byte(hash)))
	}
	return leaves, month, mac, rows.Err()
}

var errForeign = errors.New("its events are not as they were stored: somebody changed the store by hand")
