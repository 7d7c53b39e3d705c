package retention

import (
	"context"
	"fmt"
	"math"
	"sort"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// chunkEvents is how many events are hashed at a time.
const chunkEvents = 250_000

// whole checks that what is about to be dropped of a log is what was sealed: each
// batch of the month is there, or what earlier runs have left of it. A drop is the
// last that is ever seen of these events, and what a hold should have kept can be
// gone already: whoever removed or changed it would be glad of the drop.
func (s *Server) whole(ctx context.Context, logID string, days uint16) error {
	share := store.Share{LogID: logID, Month: days, Before: math.MaxUint64}
	reduced, err := s.reducedBefore(ctx, logID, days)
	if err != nil {
		return err
	}
	var chunk []*ledger.Entry
	events := uint64(0)
	settle := func() error {
		err := s.wholeChunk(ctx, share, chunk, reduced)
		chunk, events = nil, 0
		return err
	}
	err = s.store.Entries(ctx, logID, 0, math.MaxUint64, func(r store.Sealed) error {
		if !r.Entry.HasEvents() || r.Entry.ExpiresMonth != days {
			return nil
		}
		chunk = append(chunk, r.Entry)
		if events += uint64(r.Entry.Events); events < chunkEvents {
			return nil
		}
		return settle()
	})
	if err == nil && len(chunk) > 0 {
		err = settle()
	}
	return err
}

// reducedBefore is the number up to which batches of a month were concerned by an
// earlier drop.
func (s *Server) reducedBefore(ctx context.Context, logID string, days uint16) (before uint64, err error) {
	drops, err := s.store.Acts(ctx, ledger.KindDrop)
	if err != nil {
		return 0, err
	}
	for _, e := range drops {
		var d ledger.Drop
		if err := ledger.ParseDetail(e.Detail, &d); err != nil {
			return 0, fmt.Errorf("entry %d of log %q: %w", e.Batch, e.LogID, err)
		}
		if (d.Log == logID || d.Log == "" && e.LogID == logID) && d.Month == days {
			before = max(before, d.Before)
		}
	}
	return before, nil
}

// wholeChunk checks some batches.
func (s *Server) wholeChunk(ctx context.Context, share store.Share, chunk []*ledger.Entry, reduced uint64) error {
	stored := map[uint64]*store.BatchLeaves{}
	err := s.store.Hash(ctx, store.Limits{Time: hashPatience}, share.LogID, chunk[0].Batch, chunk[len(chunk)-1].Batch, func(batch uint64, leaf uint32, hash *ledger.Hash) error {
		b := stored[batch]
		if b == nil {
			b = &store.BatchLeaves{Batch: batch}
			stored[batch] = b
		}
		b.Positions, b.Leaves = append(b.Positions, leaf), append(b.Leaves, *hash)
		return nil
	})
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, e := range chunk {
		numbers = append(numbers, e.Batch)
	}
	var kept map[uint64][][]byte
	for _, e := range chunk {
		b := stored[e.Batch]
		if b == nil {
			b = &store.BatchLeaves{Batch: e.Batch}
		}
		inOrder(b)
		if len(b.Positions) == int(e.Events) && ledger.Root(b.Leaves) == e.Root {
			continue
		}
		if e.Batch >= reduced {
			return foreign(share, e.Batch)
		}
		if kept == nil {
			if kept, err = s.store.KeptOf(ctx, share.LogID, numbers); err != nil {
				return err
			}
		}
		if len(b.Positions) == 0 && len(kept[e.Batch]) == 0 {
			continue // an earlier run has dropped it, and kept nothing of it
		}
		if _, err := keptBefore(e, *b, kept[e.Batch]); err != nil {
			return foreign(share, e.Batch)
		}
	}
	return nil
}

// hashPatience is how long the hashing of a chunk may take.
const hashPatience = 10 * time.Minute

// inOrder sorts a batch by the positions of its events.
func inOrder(b *store.BatchLeaves) { sort.Sort((*byPosition)(b)) }

type byPosition store.BatchLeaves

func (b *byPosition) Len() int           { return len(b.Positions) }
func (b *byPosition) Less(i, j int) bool { return b.Positions[i] < b.Positions[j] }
func (b *byPosition) Swap(i, j int) {
	b.Positions[i], b.Positions[j] = b.Positions[j], b.Positions[i]
	b.Leaves[i], b.Leaves[j] = b.Leaves[j], b.Leaves[i]
}
