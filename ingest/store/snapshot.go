package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"time"
)

// Snapshot is what a reader of the logs remembered at one point, and where that
// was. It is kept in one of two slots: the reader writes to the slot that it has
// not read from, so a crash while it writes leaves the other one whole.
type Snapshot struct {
	Name      string // of the reader
	Slot      uint8  // 0 or 1
	Number    uint64 // ascending
	WrittenAt time.Time
	Positions map[string]uint64 // by log, the last batch that was read
	Told      uint64            // the seq of the last finding that was told
	Size      uint64            // bytes of state

	chunks uint32
	digest string // SHA-256 of the state
}

// MaxChunk is the size of a part of the state, in bytes.
const MaxChunk = 1 << 20

// ErrDamaged means that a snapshot's state is not there as it was written.
var ErrDamaged = errors.New("the snapshot is not whole")

// chunksAtOnce is how many parts one insert carries.
const chunksAtOnce = 16

// SaveSnapshot writes the state, in chunks of at most MaxChunk, and then its head.
// It is there when SaveSnapshot has returned nil; after an error it may be there or
// not, and what the slot had before may be lost.
func (s *Store) SaveSnapshot(ctx context.Context, n Snapshot, chunks [][]byte) error {
	digest := sha256.New()
	n.Size = 0
	for from := 0; from < len(chunks); from += chunksAtOnce {
		if err := s.saveChunks(ctx, &n, from, chunks[from:min(from+chunksAtOnce, len(chunks))], digest); err != nil {
			return fmt.Errorf("save the state of reader %s: %w", n.Name, err)
		}
	}
	insert, err := s.conn.PrepareBatch(ctx, "INSERT INTO cursors (name, slot, snapshot, written_at, positions, told, chunks, size, digest)")
	if err != nil {
		return fmt.Errorf("save the position of reader %s: %w", n.Name, err)
	}
	if err := insert.Append(n.Name, n.Slot, n.Number, n.WrittenAt, n.Positions, n.Told, uint32(len(chunks)), n.Size, string(digest.Sum(nil))); err != nil {
		_ = insert.Abort() // nothing was sent
		return fmt.Errorf("save the position of reader %s: %w", n.Name, err)
	}
	if err := insert.Send(); err != nil {
		return fmt.Errorf("save the position of reader %s: %w", n.Name, err)
	}
	return nil
}

func (s *Store) saveChunks(ctx context.Context, n *Snapshot, from int, chunks [][]byte, digest hash.Hash) error {
	insert, err := s.conn.PrepareBatch(ctx, "INSERT INTO detector_state (name, slot, chunk, snapshot, data)")
	if err != nil {
		return err
	}
	for i, c := range chunks {
		if len(c) > MaxChunk {
			err = fmt.Errorf("a chunk has %d bytes, more than %d", len(c), MaxChunk)
		} else {
			err = insert.Append(n.Name, n.Slot, uint32(from+i), n.Number, c)
		}
		if err != nil {
			_ = insert.Abort() // nothing was sent
			return err
		}
		digest.Write(c)
		n.Size += uint64(len(c))
	}
	return insert.Send()
}

// Snapshots are the heads of a reader's snapshots, the newest first; at most two.
func (s *Store) Snapshots(ctx context.Context, name string) ([]Snapshot, error) {
	if err := s.settle(ctx, "cursors", "detector_state", "findings"); err != nil {
		return nil, fmt.Errorf("read the positions of reader %s: %w", name, err)
	}
	rows, err := s.conn.Query(ctx, "SELECT slot, snapshot, written_at, positions, told, chunks, size, digest FROM cursors WHERE name = {name:String} ORDER BY snapshot DESC LIMIT 1 BY slot",
		named("name", name))
	if err != nil {
		return nil, fmt.Errorf("read the positions of reader %s: %w", name, err)
	}
	defer rows.Close()
	var out []Snapshot
	for rows.Next() {
		n := Snapshot{Name: name}
		if err := rows.Scan(&n.Slot, &n.Number, &n.WrittenAt, &n.Positions, &n.Told, &n.chunks, &n.Size, &n.digest); err != nil {
			return nil, fmt.Errorf("read the positions of reader %s: %w", name, err)
		}
		out = append(out, n)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the positions of reader %s: %w", name, err)
	}
	return out, nil
}

// SnapshotNames are the readers that have snapshots, of those whose names begin with
// a text.
func (s *Store) SnapshotNames(ctx context.Context, prefix string) (names []string, err error) {
	rows, err := s.conn.Query(ctx, "SELECT DISTINCT toString(name) FROM cursors WHERE startsWith(name, {prefix:String}) ORDER BY 1", named("prefix", prefix))
	if err != nil {
		return nil, fmt.Errorf("read which readers have snapshots: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("read which readers have snapshots: %w", err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read which readers have snapshots: %w", err)
	}
	return names, nil
}

// LastSnapshot is the highest number of a reader's snapshots, those included that were
// begun and have no head; 0 when there is none. No number may be used again: what was
// left under it would be taken for a part of the other one.
func (s *Store) LastSnapshot(ctx context.Context, name string) (number uint64, err error) {
	if err := s.conn.QueryRow(ctx, `SELECT max(snapshot) FROM (SELECT snapshot FROM cursors WHERE name = {name:String}
		UNION ALL SELECT snapshot FROM detector_state WHERE name = {name:String})`, named("name", name)).Scan(&number); err != nil {
		return 0, fmt.Errorf("read the last snapshot of reader %s: %w", name, err)
	}
	return number, nil
}

// State reads the state of a snapshot that Snapshots has listed. The error is
// ErrDamaged when it is not the one that was written.
func (s *Store) State(ctx context.Context, n Snapshot) ([]byte, error) {
	rows, err := s.conn.Query(ctx, "SELECT chunk, data FROM detector_state WHERE name = {name:String} AND slot = {slot:UInt8} AND snapshot = {number:UInt64} ORDER BY chunk LIMIT 1 BY chunk",
		named("name", n.Name), named("slot", n.Slot), named("number", n.Number))
	if err != nil {
		return nil, fmt.Errorf("read the state of reader %s: %w", n.Name, err)
	}
	defer rows.Close()
	var state []byte
	var next uint32
	for rows.Next() {
		var chunk uint32
		var data string
		if err := rows.Scan(&chunk, &data); err != nil {
			return nil, fmt.Errorf("read the state of reader %s: %w", n.Name, err)
		}
		if chunk != next || uint64(len(state)+len(data)) > n.Size {
			return nil, fmt.Errorf("read the state of reader %s: snapshot %d: %w", n.Name, n.Number, ErrDamaged)
		}
		next++
		state = append(state, data...)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the state of reader %s: %w", n.Name, err)
	}
	if digest := sha256.Sum256(state); next != n.chunks || string(digest[:]) != n.digest {
		return nil, fmt.Errorf("read the state of reader %s: snapshot %d: %w", n.Name, n.Number, ErrDamaged)
	}
	return state, nil
}
