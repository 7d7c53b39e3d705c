package export

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// unit is one entry of a log that the export has, and what it takes to prove the
// events of it that are exported.
type unit struct {
	entry   *ledger.Entry
	want    uint32 // events that are exported
	dropped bool   // retention has removed its events, all but those that kept proves
	// skipped are the nodes of the log's tree between the unit before and this one.
	skipped []ledger.Hash
	// Of a batch of which some events are exported: the leaves of all that are
	// stored, in order, and the proof of what retention kept when it has dropped the
	// others. Both are nil when the batch is exported whole.
	leaves []ledger.Hash
	kept   *ledger.BatchProof
}

// row is one event as the store has it.
type row struct {
	batch uint64
	leaf  uint32
	bytes string // event.AppendRow's
}

// span is a number of successive units and all their rows, in order: what is in
// memory at a time.
type span struct {
	log   int // index in state.Logs
	units []*unit
	rows  []row
	// next is the first batch that is not in the span and those before it.
	next uint64
}

// reader reads the events of an export, a span at a time. No statement stays open
// while a span is given out: a reader that is slow holds nothing of the store.
type reader struct {
	cfg   *Config
	store *scoped
	state state // a copy, moved on by the reader
	cond  string
	args  []any

	found []foundBatch // filtered: batches with matching events, not read yet
	asked bool         // found is of the log in state, up to askedTo
	upTo  uint64
	drops []ledger.Drop // of the log in state
}

type foundBatch struct {
	batch uint64
	n     uint32
}

// Bounds of one span besides Config.SpanEvents and SpanBytes.
const (
	spanEntries = 2000
	// spanLeaves bounds the leaves that are hashed to prove a few events of a batch.
	spanLeaves = 1 << 20
	foundPage  = 20_000 // batches with matching events that are remembered
)

func (r *reader) whole() bool { return r.state.whole() }

// run reads all spans and hands each to give, which may block.
func (r *reader) run(ctx context.Context, give func(*span) error) error {
	for ; r.state.Log < len(r.state.Logs); r.state.Log, r.state.Next = r.state.Log+1, 1 {
		log := &r.state.Logs[r.state.Log]
		r.found, r.asked, r.drops = nil, false, nil
		if err := r.readDrops(ctx, log); err != nil {
			return err
		}
		for r.state.Next <= log.Size {
			units, next, err := r.units(ctx, log)
			if err != nil {
				return err
			}
			if len(units) == 0 {
				break
			}
			if err := r.prepare(ctx, log, units); err != nil {
				return err
			}
			if err := r.spans(ctx, log, units, next, give); err != nil {
				return err
			}
			r.state.Next = next
		}
	}
	return nil
}

// spans reads the rows of units and gives them, in as many spans as their bytes
// need.
func (r *reader) spans(ctx context.Context, log *logState, units []*unit, next uint64, give func(*span) error) error {
	rows, err := r.readRows(ctx, log, units, 0, ^uint32(0))
	if errors.Is(err, errTooLarge) {
		if len(units) > 1 {
			half := len(units) / 2
			if err := r.spans(ctx, log, units[:half], units[half-1].entry.Batch+1, give); err != nil {
				return err
			}
			return r.spans(ctx, log, units[half:], next, give)
		}
		return r.slices(ctx, log, units[0], next, give)
	}
	if err != nil {
		return err
	}
	return give(&span{log: r.state.Log, units: units, rows: rows, next: next})
}

// slices gives one batch in several spans: it is too large for one.
func (r *reader) slices(ctx context.Context, log *logState, u *unit, next uint64, give func(*span) error) error {
	step := max(u.entry.Events/2, 1)
	for from := uint32(0); from < u.entry.Events; {
		to := from + min(step, u.entry.Events-from)
		rows, err := r.readRows(ctx, log, []*unit{u}, from, to-1)
		if errors.Is(err, errTooLarge) && step > 1 {
			step /= 2
			continue
		}
		if err != nil {
			return err
		}
		s := &span{log: r.state.Log, rows: rows, units: []*unit{u}}
		if to == u.entry.Events {
			s.next = next
		}
		if err := give(s); err != nil {
			return err
		}
		from = to
	}
	return nil
}

var errTooLarge = errors.New("the rows of a span take more memory than they may")

// readRows reads the rows of units, in order.
func (r *reader) readRows(ctx context.Context, log *logState, units []*unit, from, to uint32) ([]row, error) {
	var want uint64
	for _, u := range units {
		want += uint64(u.want)
	}
	if want == 0 {
		return nil, nil
	}
	// The order is made here: the engine is twice as quick without it. One more row
	// than there must be shows that somebody has added some.
	where := "log_id = {export_log:String}" +
		" AND batch BETWEEN {export_from:UInt64} AND {export_to:UInt64} AND leaf BETWEEN {export_first:UInt32} AND {export_last:UInt32}" +
		" AND (" + r.cond + ") LIMIT {export_limit:UInt64}"
	rows := make([]row, 0, min(want, r.cfg.SpanEvents*2))
	size := 0
	err := r.store.Rows(ctx, r.cfg.Limits, where, append([]any{
		store.Named("export_log", log.ID), store.Named("export_from", units[0].entry.Batch), store.Named("export_to", units[len(units)-1].entry.Batch),
		store.Named("export_first", from), store.Named("export_last", to), store.Named("export_limit", want+1)}, r.args...),
		func(batch uint64, leaf uint32, text []byte) error {
			rows = append(rows, row{batch, leaf, string(text)})
			if size += len(text); size > r.cfg.SpanBytes && len(rows) > 1 {
				return errTooLarge
			}
			return nil
		})
	if err != nil {
		return nil, tooLarge(err)
	}
	slices.SortFunc(rows, func(a, b row) int {
		if a.batch != b.batch {
			return cmp.Compare(a.batch, b.batch)
		}
		return cmp.Compare(a.leaf, b.leaf)
	})
	return rows, nil
}

const codeMemory = 241 // ClickHouse, src/Common/ErrorCodes.cpp

func tooLarge(err error) error {
	if store.Code(err) == codeMemory {
		return errTooLarge
	}
	return err
}

// units are the next entries of the log that the export has, as many as fit into a
// span, and the number behind them; none when there are no more.
func (r *reader) units(ctx context.Context, log *logState) ([]*unit, uint64, error) {
	if r.whole() {
		return r.wholeUnits(ctx, log)
	}
	if len(r.found) == 0 {
		if err := r.find(ctx, log); err != nil || len(r.found) == 0 {
			return nil, 0, err
		}
	}
	var numbers []uint64
	wants := map[uint64]uint32{}
	var events uint64
	for _, f := range r.found[:min(len(r.found), spanEntries)] {
		if events > 0 && events+uint64(f.n) > r.cfg.SpanEvents {
			break
		}
		events += uint64(f.n)
		numbers, wants[f.batch] = append(numbers, f.batch), f.n
	}
	entries, err := r.entries(ctx, log, "batch IN ({export_batches:Array(UInt64)})", store.Named("export_batches", numbers))
	if err != nil {
		return nil, 0, err
	}
	if len(entries) != len(numbers) {
		return nil, 0, damaged(log, "a batch has events and no entry in the ledger, or more than one")
	}
	var units []*unit
	var leaves uint64
	for i, e := range entries {
		if e.Batch != numbers[i] || !e.HasEvents() || wants[e.Batch] > e.Events {
			return nil, 0, damaged(log, fmt.Sprintf("batch %d has other events than its entry in the ledger says", numbers[i]))
		}
		if leaves += uint64(e.Events); i > 0 && leaves > spanLeaves {
			break
		}
		units = append(units, &unit{entry: e, want: wants[e.Batch]})
	}
	r.found = r.found[len(units):]
	return units, units[len(units)-1].entry.Batch + 1, nil
}

// find reads which batches have matching events, from state.Next on.
func (r *reader) find(ctx context.Context, log *logState) error {
	from := r.state.Next
	if r.asked {
		from = max(from, r.upTo)
	}
	r.asked, r.upTo = true, log.Size+1
	if from > log.Size {
		return nil
	}
	q, err := r.store.Query(ctx, r.cfg.Limits, "SELECT batch, toUInt32(count()) FROM events WHERE log_id = {export_log:String}"+
		" AND batch BETWEEN {export_from:UInt64} AND {export_to:UInt64} AND ("+r.cond+") GROUP BY batch ORDER BY batch LIMIT {export_limit:UInt64}",
		append([]any{store.Named("export_log", log.ID), store.Named("export_from", from), store.Named("export_to", log.Size), store.Named("export_limit", foundPage)}, r.args...)...)
	if err != nil {
		return err
	}
	defer q.Close()
	for q.Next() {
		var f foundBatch
		if err := q.Scan(&f.batch, &f.n); err != nil {
			return err
		}
		r.found = append(r.found, f)
	}
	if len(r.found) == foundPage {
		r.upTo = r.found[foundPage-1].batch + 1
	}
	return q.Err()
}

// wholeUnits are the next entries of a log that is exported whole: entries of every
// kind, so that none is left out.
func (r *reader) wholeUnits(ctx context.Context, log *logState) ([]*unit, uint64, error) {
	last := min(r.state.Next+spanEntries-1, log.Size)
	entries, err := r.entries(ctx, log, "batch BETWEEN {export_from:UInt64} AND {export_to:UInt64}",
		store.Named("export_from", r.state.Next), store.Named("export_to", last))
	if err != nil {
		return nil, 0, err
	}
	var units []*unit
	var events uint64
	gone := false
	for i, e := range entries {
		if e.Batch != r.state.Next+uint64(i) {
			return nil, 0, damaged(log, fmt.Sprintf("entry %d of the ledger is missing, or there more than once", r.state.Next+uint64(i)))
		}
		if i > 0 && events+uint64(e.Events) > r.cfg.SpanEvents {
			return r.remaining(ctx, log, units, gone)
		}
		u := &unit{entry: e}
		if e.HasEvents() {
			u.want, u.dropped = e.Events, r.lawfullyDropped(e)
			gone = gone || u.dropped
			events += uint64(e.Events)
		}
		units = append(units, u)
	}
	if uint64(len(units)) != last-r.state.Next+1 {
		return nil, 0, damaged(log, fmt.Sprintf("entry %d of the ledger is missing", r.state.Next+uint64(len(units))))
	}
	return r.remaining(ctx, log, units, gone)
}

// remaining counts what is left of batches that retention has dropped.
func (r *reader) remaining(ctx context.Context, log *logState, units []*unit, gone bool) ([]*unit, uint64, error) {
	next := units[len(units)-1].entry.Batch + 1
	if !gone {
		return units, next, nil
	}
	q, err := r.store.Query(ctx, r.cfg.Limits, "SELECT batch, toUInt32(count()) FROM events WHERE log_id = {export_log:String}"+
		" AND batch BETWEEN {export_from:UInt64} AND {export_to:UInt64} GROUP BY batch",
		store.Named("export_log", log.ID), store.Named("export_from", units[0].entry.Batch), store.Named("export_to", next-1))
	if err != nil {
		return nil, 0, err
	}
	defer q.Close()
	stored := map[uint64]uint32{}
	for q.Next() {
		var f foundBatch
		if err := q.Scan(&f.batch, &f.n); err != nil {
			return nil, 0, err
		}
		stored[f.batch] = f.n
	}
	for _, u := range units {
		if u.dropped {
			u.want = stored[u.entry.Batch]
			u.dropped = u.want < u.entry.Events // the partition may be there still
		}
	}
	return units, next, q.Err()
}

// entries reads entries of the ledger, in order.
func (r *reader) entries(ctx context.Context, log *logState, where string, args ...any) ([]*ledger.Entry, error) {
	q, err := r.store.Query(ctx, r.cfg.Limits, "SELECT "+entrySQL+" FROM ledger WHERE log_id = {export_log:String} AND "+where+" ORDER BY batch",
		append(args, store.Named("export_log", log.ID))...)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	var out []*ledger.Entry
	for q.Next() {
		var b string
		if err := q.Scan(&b); err != nil {
			return nil, err
		}
		e, err := ledger.ParseEntry([]byte(b))
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, q.Err()
}

// entrySQL is an entry's bytes as the engine makes them.
var entrySQL = func() string {
	var names []string
	for _, c := range ledger.Columns {
		names = append(names, c.Name)
	}
	return "formatRow('RowBinary', " + strings.Join(names, ", ") + ")"
}()

// prepare reads what proves the units: nodes of the log's tree between them, and the
// leaves of batches of which only some events are exported.
func (r *reader) prepare(ctx context.Context, log *logState, units []*unit) error {
	if !r.state.Bundle {
		return nil
	}
	var ids []ledger.NodeID
	counts := make([]int, len(units))
	last := log.Touched
	for i, u := range units {
		gap := ledger.Between(last, u.entry.Batch-1)
		ids, counts[i], last = append(ids, gap...), len(gap), u.entry.Batch
	}
	log.Touched = last
	nodes, err := r.store.Nodes(ctx, log.ID)(ids)
	if err != nil {
		return err
	}
	var partial []uint64
	byBatch := map[uint64]*unit{}
	for i, u := range units {
		u.skipped, nodes = nodes[:counts[i]], nodes[counts[i]:]
		if u.want > 0 && u.want < u.entry.Events {
			partial, byBatch[u.entry.Batch] = append(partial, u.entry.Batch), u
		}
	}
	if len(partial) == 0 {
		return nil
	}
	return r.readLeaves(ctx, log, partial, byBatch)
}

func (r *reader) readLeaves(ctx context.Context, log *logState, partial []uint64, units map[uint64]*unit) error {
	err := r.store.reader.Leaves(ctx, r.cfg.Limits, log.ID, partial, func(batch uint64, _ uint32, hash ledger.Hash) error {
		u := units[batch]
		if len(u.leaves) == int(u.entry.Events) {
			return damaged(log, fmt.Sprintf("batch %d has more events than were sealed", batch))
		}
		u.leaves = append(u.leaves, hash)
		return nil
	})
	if err != nil {
		return err
	}
	return r.readKept(ctx, log, partial, units)
}

// readKept reads the proofs of batches of which retention has kept a part.
func (r *reader) readKept(ctx context.Context, log *logState, partial []uint64, units map[uint64]*unit) error {
	short := slices.DeleteFunc(partial, func(b uint64) bool { return len(units[b].leaves) == int(units[b].entry.Events) })
	if len(short) == 0 {
		return nil
	}
	q, err := r.store.Query(ctx, r.cfg.Limits, "SELECT batch, proof FROM kept WHERE log_id = {export_log:String} AND batch IN ({export_batches:Array(UInt64)}) ORDER BY batch, run",
		store.Named("export_log", log.ID), store.Named("export_batches", short))
	if err != nil {
		return err
	}
	defer q.Close()
	for q.Next() {
		var batch uint64
		var proof string
		if err := q.Scan(&batch, &proof); err != nil {
			return err
		}
		p, rest, err := ledger.ParseBatchProof([]byte(proof))
		if err != nil || len(rest) > 0 || p.Entry.Leaf() != units[batch].entry.Leaf() {
			return damaged(log, fmt.Sprintf("the proof of what is kept of batch %d is damaged", batch))
		}
		if len(p.Positions) == len(units[batch].leaves) { // of several runs, the one that was finished
			units[batch].kept = p
		}
	}
	if err := q.Err(); err != nil {
		return err
	}
	for _, b := range short {
		if units[b].kept == nil {
			return damaged(log, fmt.Sprintf("batch %d has %d of %d events, and nothing says that the others were dropped", b, len(units[b].leaves), units[b].entry.Events))
		}
	}
	return nil
}

// readDrops reads what retention has dropped of a log that is exported whole.
func (r *reader) readDrops(ctx context.Context, log *logState) error {
	if !r.whole() {
		return nil
	}
	r.drops = nil
	for i := range r.state.Logs {
		by := &r.state.Logs[i] // another log can record drops of one that nobody writes any more
		entries, err := r.entries(ctx, by, "kind = {export_kind:String} AND batch <= {export_to:UInt64}",
			store.Named("export_kind", ledger.KindDrop), store.Named("export_to", by.Size))
		if err != nil {
			return err
		}
		for _, e := range entries {
			var d ledger.Drop
			if err := ledger.ParseDetail(e.Detail, &d); err != nil {
				return err
			}
			if cmp.Or(d.Log, e.LogID) == log.ID {
				r.drops = append(r.drops, d)
			}
		}
	}
	return nil
}

func (r *reader) lawfullyDropped(e *ledger.Entry) bool {
	return slices.ContainsFunc(r.drops, func(d ledger.Drop) bool { return d.Month == e.ExpiresMonth && e.Batch < d.Before })
}

// damagedError means that the store is not as it was sealed. Its text is safe to
// show.
type damagedError struct{ log, reason string }

func (e *damagedError) Error() string {
	return fmt.Sprintf("log %q is not as it was sealed: %s; run 'mcpaudit verify'", e.log, e.reason)
}

func damaged(log *logState, reason string) error { return &damagedError{log.ID, reason} }
