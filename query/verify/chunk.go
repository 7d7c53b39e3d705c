package verify

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// chunk is a run of entries whose events are hashed with one statement.
type chunk struct {
	entries []sealedBatch // ascending
	events  int
	done    chan struct{}
	err     error
}

// sealedBatch is an entry, and what the store has of its batch.
type sealedBatch struct {
	entry  *ledger.Entry
	tags   []byte
	wanted bool // its events are to be verified
	// What the engine found: the leaves that are in their place, and those that are
	// not.
	leaves    []ledger.Hash
	have      []bool
	n         uint32
	misplaced []uint32
}

func (c *chunk) add(w *walk, r store.Sealed) {
	b := sealedBatch{entry: r.Entry, tags: r.Tags, wanted: w.opt.inRange(r.Entry.SealedAt)}
	if b.wanted {
		c.events += int(r.Entry.Events)
	}
	c.entries = append(c.entries, b)
}

// hash begins to hash a chunk's events.
func (w *walk) hash(ctx context.Context, c *chunk) {
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		from, to := -1, 0
		for i := range c.entries {
			if c.entries[i].wanted {
				if from < 0 {
					from = i
				}
				to = i
			}
		}
		if from >= 0 {
			c.err = w.leaves(ctx, c, c.entries[from].entry.Batch, c.entries[to].entry.Batch)
		}
	}()
}

func (w *walk) leaves(ctx context.Context, c *chunk, from, to uint64) error {
	var b *sealedBatch
	return w.store.Hash(ctx, limits, w.id, from, to, func(batch uint64, at uint32, hash *ledger.Hash) error {
		if b == nil || b.entry.Batch != batch {
			i, ok := slices.BinarySearchFunc(c.entries, batch, func(b sealedBatch, n uint64) int { return cmp.Compare(b.entry.Batch, n) })
			if !ok || !c.entries[i].wanted {
				return nil // its entry is not right, which was said, or is not asked for
			}
			b = &c.entries[i]
		}
		if b.have == nil {
			b.leaves, b.have = make([]ledger.Hash, b.entry.Events), make([]bool, b.entry.Events)
		}
		if at >= b.entry.Events || b.have[at] {
			b.misplaced = append(b.misplaced, at)
			return nil
		}
		b.leaves[at], b.have[at] = *hash, true
		b.n++
		return nil
	})
}

// settle looks at a chunk whose events are hashed.
func (w *walk) settle(ctx context.Context, c *chunk) error {
	<-c.done
	if c.err != nil {
		return c.err
	}
	for i := range c.entries {
		if b := &c.entries[i]; b.wanted {
			w.summary.Events += uint64(b.n)
			if err := w.batch(ctx, b); err != nil {
				return err
			}
		}
	}
	return w.report.Progress(w.summary.GetEvents(), w.total)
}

// batch looks at one batch.
func (w *walk) batch(ctx context.Context, b *sealedBatch) error {
	e := b.entry
	for _, at := range b.misplaced {
		p := &pb.VerifyProblem{Code: pb.VerifyProblem_CODE_EVENT_ADDED, LogId: w.id, Batch: e.Batch, Leaf: at, HasLeaf: true}
		if p.EventId = w.eventID(ctx, e.Batch, at); at < e.Events {
			p.Message = fmt.Sprintf("batch %d has event %d more than once", e.Batch, at)
		} else {
			p.Message = fmt.Sprintf("batch %d has %d events, and there is an event %d", e.Batch, e.Events, at)
		}
		if err := w.send(p); err != nil {
			return err
		}
	}
	if !e.HasEvents() {
		return nil
	}
	if b.n == e.Events {
		if ledger.Root(b.leaves) == e.Root {
			return nil
		}
		return w.changed(ctx, b, nil)
	}
	if w.asked < maxProblems && !w.lawful(b) { // it may have been dropped since the laws were read
		if err := w.readDropsAgain(ctx); err != nil {
			return err
		}
		c := &chunk{entries: []sealedBatch{{entry: e, tags: b.tags, wanted: true}}}
		if err := w.leaves(ctx, c, e.Batch, e.Batch); err != nil {
			return err
		}
		if b = &c.entries[0]; b.n == e.Events {
			if ledger.Root(b.leaves) != e.Root {
				return w.changed(ctx, b, nil)
			}
			return nil
		}
	}
	if d := w.dropOf(e); d != nil {
		return w.dropped(ctx, b, d)
	}
	return w.missing(b, "")
}

// lawful says that what is stored of a batch is, by its number, what retention has
// left of it.
func (w *walk) lawful(b *sealedBatch) bool {
	d := w.dropOf(b.entry)
	return d != nil && int(b.n) == len(d.positions(b.entry.Batch))
}

// changed names the events of a batch that are not those that were sealed: by their
// tags, or when those say nothing, the batch.
func (w *walk) changed(ctx context.Context, b *sealedBatch, only []uint32) error {
	e := b.entry
	named := false
	if len(b.tags) == store.TagSize*int(e.Events) {
		for at := range e.Events {
			if !b.have[at] || bytes.Equal(b.leaves[at][:store.TagSize], b.tags[store.TagSize*at:store.TagSize*(at+1)]) {
				continue
			}
			named = true
			if err := w.send(&pb.VerifyProblem{Code: pb.VerifyProblem_CODE_EVENT_CHANGED, LogId: w.id, Batch: e.Batch, Leaf: at, HasLeaf: true,
				EventId: w.eventID(ctx, e.Batch, at), Message: fmt.Sprintf("event %d of batch %d is not what was sealed", at, e.Batch)}); err != nil {
				return err
			}
		}
	}
	if named {
		return nil
	}
	if len(only) == 0 {
		return w.problem(pb.VerifyProblem_CODE_EVENT_CHANGED, w.id, e.Batch, "the events of batch %d are not those that were sealed; which of its %d events was changed can't be said", e.Batch, e.Events)
	}
	return w.problem(pb.VerifyProblem_CODE_EVENT_CHANGED, w.id, e.Batch, "the events of batch %d that a hold keeps are not those that were sealed", e.Batch)
}

// missing names the events of a batch that are not there.
func (w *walk) missing(b *sealedBatch, why string) error {
	e := b.entry
	var gone []uint32
	for at := range e.Events {
		if b.have == nil || !b.have[at] {
			gone = append(gone, at)
		}
	}
	what := fmt.Sprintf("%d of the %d events of batch %d are missing: %s", len(gone), e.Events, e.Batch, list(gone))
	if b.n == 0 {
		what = fmt.Sprintf("all %d events of batch %d are missing", e.Events, e.Batch)
	}
	return w.send(&pb.VerifyProblem{Code: pb.VerifyProblem_CODE_EVENT_MISSING, LogId: w.id, Batch: e.Batch, Leaf: gone[0], HasLeaf: true, Message: what + why})
}

// dropOf is the drop that concerns a batch.
func (w *walk) dropOf(e *ledger.Entry) *drop {
	if d := w.laws[e.ExpiresMonth]; d != nil && e.Batch < d.Before {
		return d
	}
	return nil
}

// positions are those that a drop keeps of a batch.
func (d *drop) positions(batch uint64) []uint32 {
	if p := d.proofs[batch]; p != nil {
		return p.Positions
	}
	return nil
}

// dropped looks at what is left of a batch of which retention has dropped events:
// exactly what a hold keeps.
func (w *walk) dropped(ctx context.Context, b *sealedBatch, d *drop) error {
	positions := d.positions(b.entry.Batch)
	if b.n > uint32(len(positions)) { // some that should be gone are not, and others are gone
		return w.missing(b, "; retention has dropped the month, and it kept fewer of them")
	}
	leaves := make([]ledger.Hash, 0, len(positions))
	for _, at := range positions {
		if at >= uint32(len(b.have)) || !b.have[at] {
			return w.missing(b, fmt.Sprintf("; retention has dropped the month, but a hold keeps event %d", at))
		}
		leaves = append(leaves, b.leaves[at])
	}
	w.summary.Dropped += uint64(b.entry.Events - b.n)
	p := d.proofs[b.entry.Batch]
	if p == nil {
		return nil
	}
	if p.Entry.Leaf() != b.entry.Leaf() || p.Check(leaves) != nil {
		return w.changed(ctx, b, positions)
	}
	return nil
}

// eventID names an event, as it is stored.
func (w *walk) eventID(ctx context.Context, batch uint64, at uint32) string {
	if w.summary.GetProblems() >= maxProblems {
		return "" // nobody is told any more
	}
	rows, err := w.store.Query(ctx, limits, "SELECT toString(event_id) FROM events WHERE log_id = {id:String} AND batch = {batch:UInt64} AND leaf = {leaf:UInt32} LIMIT 1",
		store.Named("id", w.id), store.Named("batch", batch), store.Named("leaf", at))
	if err != nil {
		return "" // it is only a help
	}
	defer rows.Close()
	id := ""
	for rows.Next() {
		if rows.Scan(&id) != nil {
			return ""
		}
	}
	return id
}
