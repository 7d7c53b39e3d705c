package query

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// order is how a search sorts: by one number of each event, then by time, id and
// place in the log in the same direction. An emitter may use an id twice; no two
// events have one place, so none hides behind another at a page's border.
type order struct {
	name       string
	column     string
	bound      string // a value of the column, bound as after_value
	value      func(*event.Event) uint64
	descending bool
}

const (
	boundNumber = "{after_value:UInt64}"
	boundTime   = "fromUnixTimestamp64Micro(toInt64({after_value:UInt64}), 'UTC')"
)

// orders are the fields that a search may be sorted by.
var orders = []order{
	{name: "occurred_at", column: "occurred_at", bound: boundTime, value: func(e *event.Event) uint64 { return uint64(e.OccurredAt) }},
	{name: "received_at", column: "received_at", bound: boundTime, value: func(e *event.Event) uint64 { return uint64(e.ReceivedAt) }},
	{name: "duration", column: "duration_us", bound: boundNumber, value: func(e *event.Event) uint64 { return e.Duration }},
	{name: "request_bytes", column: "request_bytes", bound: boundNumber, value: func(e *event.Event) uint64 { return e.RequestBytes }},
	{name: "response_bytes", column: "response_bytes", bound: boundNumber, value: func(e *event.Event) uint64 { return e.ResponseBytes }},
}

// readOrder reads an AIP-132 order_by of one field.
func readOrder(text string) (order, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		words = []string{"occurred_at", "desc"}
	}
	var names []string
	for _, o := range orders {
		names = append(names, o.name)
		if o.name != words[0] || len(words) > 2 {
			continue
		}
		if len(words) == 2 {
			if words[1] != "desc" && words[1] != "asc" {
				break
			}
			o.descending = words[1] == "desc"
		}
		return o, nil
	}
	return order{}, status.Errorf(codes.InvalidArgument,
		"order_by: is one of %s, and desc for the largest first, such as duration desc", strings.Join(names, ", "))
}

// by is the ORDER BY of the search. By time it is the table's own order, which
// the engine reads from either end without sorting.
func (o order) by() string {
	direction := " ASC"
	if o.descending {
		direction = " DESC"
	}
	by := "occurred_at" + direction + ", event_id" + direction + ", batch" + direction + ", leaf" + direction + ", log_id" + direction
	if o.name == "occurred_at" {
		return by
	}
	return o.column + direction + ", " + by
}

// byTime is by without what only tells events of one microsecond apart. The engine
// sorts by one column in a third of the time.
func (o order) byTime() string {
	if o.descending {
		return "occurred_at DESC"
	}
	return "occurred_at"
}

// settle brings events that are sorted by time into by's order.
func (o order) settle(events []*event.Event) {
	slices.SortFunc(events, func(a, b *event.Event) int {
		c := cmp.Or(cmp.Compare(a.OccurredAt, b.OccurredAt), compareIDs(a.EventID, b.EventID),
			cmp.Compare(a.Batch, b.Batch), cmp.Compare(a.Leaf, b.Leaf), strings.Compare(a.LogID, b.LogID))
		if o.descending {
			return -c
		}
		return c
	})
}

// compareIDs sorts as the engine does: by an id's second half first.
func compareIDs(a, b event.ID) int {
	return cmp.Or(bytes.Compare(a[8:], b[8:]), bytes.Compare(a[:8], b[:8]))
}

// needs are the columns that the order needs to be read.
func (o order) needs() []string {
	return []string{o.column, "occurred_at", "event_id", "batch", "leaf", "log_id"}
}

// place is where a page ends: the last event's sort key.
type place struct {
	value    uint64
	occurred int64
	id       event.ID
	batch    uint64
	leaf     uint32
	log      string
}

// after is the condition for what lies behind a place.
func (o order) after(p place) condition {
	op := ">"
	if o.descending {
		op = "<"
	}
	c := condition{args: []any{store.Named("after_time", p.occurred), store.Named("after_id", p.id.String()),
		store.Named("after_batch", p.batch), store.Named("after_leaf", p.leaf), store.Named("after_log", p.log)}}
	const at = "fromUnixTimestamp64Micro({after_time:Int64}, 'UTC')"
	const columns = "occurred_at, event_id, batch, leaf, log_id"
	const values = at + ", toUUID({after_id:String}), {after_batch:UInt64}, {after_leaf:UInt32}, {after_log:String}"
	if o.name == "occurred_at" {
		// The first half is for the primary key, which does not see into tuples.
		c.sql = "occurred_at " + op + "= " + at + " AND (" + columns + ") " + op + " (" + values + ")"
		return c
	}
	c.args = append(c.args, store.Named("after_value", p.value))
	c.sql = "(" + o.column + ", " + columns + ") " + op + " (" + o.bound + ", " + values + ")"
	return c
}

// A page token is the place where the page ends, a hash of the search, because a
// page continues only the search that it belongs to (see view.search), and a checksum of both. It
// carries nothing secret, so it needs no signature: a forged one finds what a
// filter on time would find.
func (o order) token(e *event.Event, search string) string {
	b := binary.BigEndian.AppendUint64(nil, o.value(e))
	b = binary.BigEndian.AppendUint64(b, uint64(e.OccurredAt))
	b = append(b, e.EventID[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Batch)
	b = binary.BigEndian.AppendUint32(b, e.Leaf)
	b = binary.BigEndian.AppendUint64(b, o.hash(search))
	b = append(b, e.LogID...)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, hash(string(b))))
}

func (o order) readToken(token, search string) (p place, err error) {
	const fixed = 8 + 8 + 16 + 8 + 4 + 8 // what lies before the log's name
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < fixed+8 || binary.BigEndian.Uint64(b[len(b)-8:]) != hash(string(b[:len(b)-8])) {
		return p, errors.New("page_token: not one that this service gave")
	}
	if binary.BigEndian.Uint64(b[44:]) != o.hash(search) {
		return p, errors.New("page_token: belongs to another search; repeat the filter and the order of the first page, or start again without a token")
	}
	p.value, p.occurred = binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[8:]))
	if !storable(p.occurred) || o.bound == boundTime && !storable(int64(p.value)) {
		return p, errors.New("page_token: not one that this service gave")
	}
	copy(p.id[:], b[16:32])
	p.batch, p.leaf, p.log = binary.BigEndian.Uint64(b[32:]), binary.BigEndian.Uint32(b[40:]), string(b[fixed:len(b)-8])
	return p, nil
}

// storable says whether the engine can hold a time in microseconds.
func storable(at int64) bool { return at >= 0 && time.UnixMicro(at).UTC().Year() <= maxYear }

func (o order) hash(search string) uint64 { return hash(o.by() + "\x00" + search) }

func hash(text string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(text))
	return h.Sum64()
}
