package retention

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
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
	law, err := s.lawOf(ctx, share)
	if err != nil {
		return err
	}
	var chunk []*ledger.Entry
	events := uint64(0)
	settle := func() error {
		err := s.wholeChunk(ctx, share, chunk, law)
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

// law is what the newest drop of a month that was carried out has left.
type law struct {
	before uint64
	kept   map[uint64]*ledger.BatchProof // by batch
}

// lawOf finds the law of a log's share of a month; nil when nothing of it was dropped
// yet. A drop was not carried out while all rows that it counted are there.
func (s *Server) lawOf(ctx context.Context, share store.Share) (*law, error) {
	drops, err := s.store.Acts(ctx, ledger.KindDrop)
	if err != nil {
		return nil, err
	}
	for _, e := range slices.Backward(drops) {
		var d ledger.Drop
		if err := ledger.ParseDetail(e.Detail, &d); err != nil {
			return nil, fmt.Errorf("entry %d of log %q: %w", e.Batch, e.LogID, err)
		}
		if cmp.Or(d.Log, e.LogID) != share.LogID || d.Month != share.Month {
			continue
		}
		events, _, _, err := s.store.CountHeld(ctx, store.Share{LogID: share.LogID, Month: share.Month, Before: d.Before}, nil)
		if err != nil {
			return nil, err
		}
		if events == d.Events+d.Kept {
			continue
		}
		return s.readLaw(ctx, share, e.Batch, d)
	}
	return nil, nil
}

// readLaw reads what a drop has kept, which must be what its entry says.
func (s *Server) readLaw(ctx context.Context, share store.Share, run uint64, d ledger.Drop) (*law, error) {
	l := &law{before: d.Before, kept: map[uint64]*ledger.BatchProof{}}
	if d.Kept == 0 {
		return l, nil
	}
	texts, err := s.store.KeptProofs(ctx, share.LogID, run)
	if err != nil {
		return nil, err
	}
	if digest := ledger.Leaf(slices.Concat(texts...)); hex.EncodeToString(digest[:]) != d.KeptDigest {
		return nil, foreign(share, d.Before)
	}
	for _, text := range texts {
		p, _, err := ledger.ParseBatchProof(text)
		if err != nil {
			return nil, err
		}
		l.kept[p.Entry.Batch] = p
	}
	return l, nil
}

// wholeChunk checks some batches.
func (s *Server) wholeChunk(ctx context.Context, share store.Share, chunk []*ledger.Entry, law *law) error {
	stored := map[uint64]*store.BatchLeaves{}
	args := []any{store.Named("id", share.LogID), store.Named("from", chunk[0].Batch), store.Named("to", chunk[len(chunk)-1].Batch), store.Named("month", uint32(share.Month))}
	err := s.store.Rows(ctx, store.Limits{Time: hashPatience}, "expires_month = toDate({month:UInt32}) AND log_id = {id:String} AND batch BETWEEN {from:UInt64} AND {to:UInt64}", args, func(batch uint64, leaf uint32, row []byte) error {
		b := stored[batch]
		if b == nil {
			b = &store.BatchLeaves{Batch: batch}
			stored[batch] = b
		}
		b.Positions, b.Leaves = append(b.Positions, leaf), append(b.Leaves, ledger.Leaf(row))
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range chunk {
		b := stored[e.Batch]
		if b == nil {
			b = &store.BatchLeaves{Batch: e.Batch}
		}
		inOrder(b)
		if len(b.Positions) == int(e.Events) && ledger.Root(b.Leaves) == e.Root {
			continue
		}
		if law == nil || e.Batch >= law.before {
			return foreign(share, e.Batch)
		}
		p := law.kept[e.Batch]
		if p == nil && len(b.Positions) == 0 {
			continue // dropped whole
		}
		if p == nil || p.Entry.Leaf() != e.Leaf() || !slices.Equal(p.Positions, b.Positions) || p.Check(b.Leaves) != nil {
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
