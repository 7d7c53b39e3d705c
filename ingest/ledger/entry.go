package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mcpaudit/mcpaudit/ingest/rowbinary"
)

// Format is the version of the entry's encoding that this package writes.
const Format = 1

// The kinds of entries.
const (
	// KindEvents seals a batch of events, before any of them was acknowledged.
	KindEvents = "events"
	// KindRecovered seals a batch that was stored but not sealed when the service
	// ended: none of its events had been acknowledged.
	KindRecovered = "recovered"
	// KindKey records that the log's key was replaced; the detail is the statement
	// of rotation, see [Rotate].
	KindKey = "key"
	// KindDrop records that retention drops a month's events; the detail is a
	// [Drop]. It comes before the deed.
	KindDrop = "drop"
	// KindHold and KindRelease record that a legal hold began and ended; the detail
	// is JSON.
	KindHold    = "hold"
	KindRelease = "release"
)

// Entry is one leaf of a log's tree: a batch of events, or something that was done
// to the log. Entries are numbered from 1 without gaps.
type Entry struct {
	Format   uint16 // version of this encoding
	Kind     string
	LogID    string
	Batch    uint64 // its number
	SealedAt int64  // µs since 1970-01-01 UTC, never before the entry before it
	// The events of a batch; zero (and Root the root of an empty tree) for entries
	// of other kinds.
	Schema       uint16 // of the events' rows
	Events       uint32
	Root         Hash   // of the tree of the events' rows
	ExpiresMonth uint16 // first day of the month in which they expire, days since 1970-01-01
	// Detail is what entries of other kinds say.
	Detail string
}

// Column is one hashed column of the ledger table.
type Column struct{ Name, Type string }

// Columns are the columns of the ledger table that make an entry's bytes, in their
// order.
var Columns = []Column{
	{"format", "UInt16"},
	{"kind", "LowCardinality(String)"},
	{"log_id", "LowCardinality(String)"},
	{"batch", "UInt64"},
	{"sealed_at", "DateTime64(6, 'UTC')"},
	{"schema", "UInt16"},
	{"events", "UInt32"},
	{"root", "FixedString(32)"},
	{"expires_month", "Date"},
	{"detail", "String"},
}

// HasEvents says that the entry seals a batch.
func (e *Entry) HasEvents() bool { return e.Kind == KindEvents || e.Kind == KindRecovered }

// Append appends the entry's bytes: the RowBinary encoding of [Columns].
func (e *Entry) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, e.Format)
	b = rowbinary.AppendString(b, e.Kind)
	b = rowbinary.AppendString(b, e.LogID)
	b = binary.LittleEndian.AppendUint64(b, e.Batch)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.SealedAt))
	b = binary.LittleEndian.AppendUint16(b, e.Schema)
	b = binary.LittleEndian.AppendUint32(b, e.Events)
	b = append(b, e.Root[:]...)
	b = binary.LittleEndian.AppendUint16(b, e.ExpiresMonth)
	return rowbinary.AppendString(b, e.Detail)
}

// Leaf is the entry's leaf in the tree of its log.
func (e *Entry) Leaf() Hash { return Leaf(e.Append(nil)) }

// ParseEntry reads one entry, which is all of b.
func ParseEntry(b []byte) (*Entry, error) {
	e, rest, err := parseEntry(b)
	if err == nil && len(rest) > 0 {
		err = errors.New("parse ledger entry: there is more behind it")
	}
	return e, err
}

func parseEntry(b []byte) (*Entry, []byte, error) {
	r := rowbinary.NewReader(b)
	e := &Entry{Format: r.Uint16()}
	if r.Err == nil && e.Format != Format {
		return nil, nil, fmt.Errorf("parse ledger entry: its format is %d, this program knows %d; use a newer mcpaudit", e.Format, Format)
	}
	r.Texts(&e.Kind, &e.LogID)
	e.Batch, e.SealedAt = r.Uint64(), int64(r.Uint64())
	e.Schema, e.Events = r.Uint16(), r.Uint32()
	r.Fixed(e.Root[:])
	e.ExpiresMonth, e.Detail = r.Uint16(), r.Text()
	if r.Err != nil {
		return nil, nil, fmt.Errorf("parse ledger entry: %w", r.Err)
	}
	return e, r.Rest(), nil
}

// Place is where a node of a log's tree is stored: with the entry that completes
// it, as so many-th of the nodes that [Tree.Append] returned for it.
func Place(id NodeID) (batch uint64, level uint) {
	return (id.Index + 1) << id.Level, id.Level
}
