package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Batch is what one commit stores: events of one log and one expiry month, with
// their integrity group filled.
type Batch struct {
	Events []*event.Event
	// Token names the batch and its contents. The store takes the same token
	// once: a batch whose first attempt was stored but reported as an error is
	// not stored again.
	Token string
	// MAC authenticates the batch until it is sealed; see LeavesOf.
	MAC [16]byte
}

// Append stores a batch, durably and once. After an error, append the same
// batch again; nothing else may be appended under its token. The store itself gives
// the batch up when ctx's deadline has passed: an attempt may outlive it by the time
// that a part takes to be written, and not by more.
func (s *Store) Append(ctx context.Context, b Batch) error {
	ctx = limited(ctx, 0, clickhouse.Settings{
		"insert_deduplication_token": b.Token,
		// What the acknowledgement stands on, whatever the server's profile says: the
		// answer comes after the rows, and a batch sent again is the same batch.
		"async_insert":          0,
		"wait_for_async_insert": 1,
		"insert_deduplicate":    1,
		// Skip indexes are made by merges: until then a part is small and read whole.
		"materialize_skip_indexes_on_insert": 0,
	}, clickhouse.WithColumnNamesAndTypes(insertColumns))
	insert, err := s.conn.PrepareBatch(ctx, insertEvents)
	if err != nil {
		return fmt.Errorf("append batch of %d events: %w", len(b.Events), err)
	}
	f := filler{batch: insert, events: b.Events, texts: make([]string, len(b.Events))}
	f.fill()
	if f.err == nil {
		for i := range f.texts {
			f.texts[i] = string(b.MAC[:])
		}
		f.err = f.next().Append(f.texts)
	}
	if f.err != nil {
		_ = insert.Abort() // nothing was sent
		return fmt.Errorf("append batch of %d events: column %s: %w", len(b.Events), insertColumns[f.column-1].Name, f.err)
	}
	if err := insert.Send(); err != nil {
		return fmt.Errorf("append batch of %d events: %w", len(b.Events), err)
	}
	return nil
}

// insertColumns are the types in which events travel to the engine over HTTP.
// Plain strings, where the table has LowCardinality: making dictionaries is
// several times faster in the engine than in the driver.
var insertColumns = func() []clickhouse.ColumnNameAndType {
	var cs []clickhouse.ColumnNameAndType
	for _, c := range event.Columns {
		cs = append(cs, clickhouse.ColumnNameAndType{Name: c.Name, Type: strings.ReplaceAll(c.Type, "LowCardinality(String)", "String")})
	}
	return append(cs, clickhouse.ColumnNameAndType{Name: "batch_mac", Type: "FixedString(16)"})
}()

// insertEvents and EventColumns name all columns of an event, in event.Columns'
// order.
var (
	EventColumns = func() string {
		var names []string
		for _, c := range event.Columns {
			names = append(names, "`"+c.Name+"`")
		}
		return strings.Join(names, ", ")
	}()
	insertEvents = "INSERT INTO events (" + EventColumns + ", batch_mac)"
)

// filler fills a batch column by column, in event.Columns' order: a row-wise
// append costs the driver several times more.
type filler struct {
	batch  driver.Batch
	events []*event.Event
	texts  []string // scratch, reused by every string column: the driver copies
	column int
	err    error
}

func (f *filler) next() driver.BatchColumn {
	f.column++
	return f.batch.Column(f.column - 1)
}

func (f *filler) text(get func(*event.Event) string) {
	if f.err != nil {
		return
	}
	for i := range f.events {
		f.texts[i] = get(f.events[i])
	}
	f.err = f.next().Append(f.texts)
}

func (f *filler) digest(get func(*event.Event) *event.Digest) {
	f.text(func(e *event.Event) string {
		d := get(e)
		if *d == (event.Digest{}) {
			return "" // the driver's word for sixteen zero bytes
		}
		return string(d[:])
	})
}

func (f *filler) list(get func(*event.Event) any) {
	if f.err != nil {
		return
	}
	c := f.next()
	for i := range f.events {
		if f.err = c.AppendRow(get(f.events[i])); f.err != nil {
			return
		}
	}
}

func number[T any](f *filler, get func(*event.Event) T) {
	if f.err != nil {
		return
	}
	values := make([]T, len(f.events))
	for i := range f.events {
		values[i] = get(f.events[i])
	}
	f.err = f.next().Append(values)
}

// each makes one list out of a field of structs.
func each[S, T any](s []S, get func(*S) T) []T {
	if len(s) == 0 {
		return nil
	}
	out := make([]T, len(s))
	for i := range s {
		out[i] = get(&s[i])
	}
	return out
}

func markHash(m *event.Mark) uint64        { return m.Hash }
func markClass(m *event.Mark) string       { return m.Class }
func markNear(m *event.Mark) bool          { return m.NearInstruction }
func removalPath(r *event.Removal) string  { return r.Path }
func removalClass(r *event.Removal) string { return r.Class }
func labels(e *event.Event) *orderedLabels { return &orderedLabels{e.Labels} }
func date(daysSince1970 uint16) time.Time  { return time.Unix(int64(daysSince1970)*86400, 0).UTC() }

func (f *filler) fill() {
	number(f, func(e *event.Event) uuid.UUID { return uuid.UUID(e.EventID) })
	number(f, func(e *event.Event) uint16 { return e.Schema })
	f.text(func(e *event.Event) string { return e.EmitterID })
	number(f, func(e *event.Event) uint64 { return e.EmitterSeq })
	number(f, func(e *event.Event) time.Time { return time.UnixMicro(e.OccurredAt) })
	number(f, func(e *event.Event) time.Time { return time.UnixMicro(e.ReceivedAt) })
	number(f, func(e *event.Event) uint64 { return e.Duration })
	f.text(func(e *event.Event) string { return e.Tenant })
	f.text(func(e *event.Event) string { return e.Principal })
	f.text(func(e *event.Event) string { return e.PrincipalName })
	f.text(func(e *event.Event) string { return e.PrincipalKind })
	f.list(func(e *event.Event) any { return e.OnBehalfOf })
	f.text(func(e *event.Event) string { return e.AgentID })
	f.text(func(e *event.Event) string { return e.AgentName })
	f.text(func(e *event.Event) string { return e.Model })
	f.text(func(e *event.Event) string { return e.ClientName })
	f.text(func(e *event.Event) string { return e.ClientVersion })
	f.text(func(e *event.Event) string { return e.AuthMethod })
	f.text(func(e *event.Event) string { return e.CredentialID })
	f.text(func(e *event.Event) string { return e.Server })
	f.text(func(e *event.Event) string { return e.ServerVersion })
	f.text(func(e *event.Event) string { return e.ServerInstance })
	f.text(func(e *event.Event) string { return e.Environment })
	f.text(func(e *event.Event) string { return e.Transport })
	f.text(func(e *event.Event) string { return e.ProtocolVersion })
	f.text(func(e *event.Event) string { return e.ClientIP })
	f.text(func(e *event.Event) string { return e.UserAgent })
	f.text(func(e *event.Event) string { return e.Kind })
	f.text(func(e *event.Event) string { return e.Method })
	f.text(func(e *event.Event) string { return e.Target })
	f.digest(func(e *event.Event) *event.Digest { return &e.DefinitionDigest })
	number(f, func(e *event.Event) bool { return e.Hints.ReadOnly })
	number(f, func(e *event.Event) bool { return e.Hints.Destructive })
	number(f, func(e *event.Event) bool { return e.Hints.Idempotent })
	number(f, func(e *event.Event) bool { return e.Hints.OpenWorld })
	f.text(func(e *event.Event) string { return e.RequestID })
	f.text(func(e *event.Event) string { return e.SessionID })
	f.text(func(e *event.Event) string { return e.ConversationID })
	f.text(func(e *event.Event) string { return e.TaskID })
	f.text(func(e *event.Event) string { return e.TraceID })
	f.text(func(e *event.Event) string { return e.SpanID })
	f.text(func(e *event.Event) string { return e.ParentSpanID })
	number(f, func(e *event.Event) uint32 { return e.Attempt })
	f.text(func(e *event.Event) string { return e.Decision })
	f.text(func(e *event.Event) string { return e.DecisionReason })
	f.text(func(e *event.Event) string { return e.PolicyID })
	f.text(func(e *event.Event) string { return e.PolicyVersion })
	f.list(func(e *event.Event) any { return e.ScopesRequired })
	f.list(func(e *event.Event) any { return e.ScopesGranted })
	f.text(func(e *event.Event) string { return e.Outcome })
	f.text(func(e *event.Event) string { return e.ErrorCode })
	f.text(func(e *event.Event) string { return e.ErrorMessage })
	number(f, func(e *event.Event) uint16 { return e.HTTPStatus })
	number(f, func(e *event.Event) uint64 { return e.RequestBytes })
	number(f, func(e *event.Event) uint64 { return e.ResponseBytes })
	f.text(func(e *event.Event) string { return e.Arguments })
	number(f, func(e *event.Event) bool { return e.Truncated })
	number(f, func(e *event.Event) uint64 { return e.OriginalBytes })
	f.digest(func(e *event.Event) *event.Digest { return &e.ArgumentsDigest })
	f.digest(func(e *event.Event) *event.Digest { return &e.ResultDigest })
	f.digest(func(e *event.Event) *event.Digest { return &e.ArgumentsShape })
	f.list(func(e *event.Event) any { return e.Signals })
	f.list(func(e *event.Event) any { return each(e.ArgumentMarks, markHash) })
	f.list(func(e *event.Event) any { return each(e.ArgumentMarks, markClass) })
	f.list(func(e *event.Event) any { return each(e.ResultMarks, markHash) })
	f.list(func(e *event.Event) any { return each(e.ResultMarks, markClass) })
	f.list(func(e *event.Event) any { return each(e.ResultMarks, markNear) })
	f.text(func(e *event.Event) string { return e.RedactionProfile })
	f.text(func(e *event.Event) string { return e.RedactionProfileVersion })
	f.text(func(e *event.Event) string { return e.RedactionError })
	f.list(func(e *event.Event) any { return each(e.Removed, removalPath) })
	f.list(func(e *event.Event) any { return each(e.Removed, removalClass) })
	number(f, func(e *event.Event) uint32 { return e.RemovedCount })
	f.text(func(e *event.Event) string { return e.LogID })
	number(f, func(e *event.Event) uint64 { return e.Batch })
	number(f, func(e *event.Event) uint32 { return e.Leaf })
	number(f, func(e *event.Event) time.Time { return date(e.ExpiresMonth) })
	f.list(func(e *event.Event) any { return labels(e) })
}

// orderedLabels hands labels to the driver in their own order: the ledger's
// bytes depend on it, and a Go map has none.
type orderedLabels struct{ labels []event.Label }

func (o *orderedLabels) Put(key, value any) {
	o.labels = append(o.labels, event.Label{Key: key.(string), Value: value.(string)})
}
func (o *orderedLabels) Iterator() column.MapIterator { return &labelIterator{o.labels, -1} }

type labelIterator struct {
	labels []event.Label
	at     int
}

func (i *labelIterator) Next() bool { i.at++; return i.at < len(i.labels) }
func (i *labelIterator) Key() any   { return i.labels[i.at].Key }
func (i *labelIterator) Value() any { return i.labels[i.at].Value }
