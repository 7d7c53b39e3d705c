package retention

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// What is proven at a time: batches, whose numbers travel with a statement, and
// events of them, whose leaves are in memory.
const (
	proveBatches = 1000
	proveEvents  = 250_000
)

// proofs are what a drop keeps of a share: of each batch of which something is
// held, the proof that this is of the batch.
type proofs struct {
	batches []uint64
	of      []*ledger.BatchProof
	bytes   [][]byte
	events  uint64
}

// digest is that of ledger.Drop.
func (p *proofs) digest() string {
	var all []byte
	for _, b := range p.bytes {
		all = append(all, b...)
	}
	return ledger.Leaf(all).String()
}

// prove makes the proofs of what is held of a share. The same events give the same
// bytes. Each proof is checked against the entry of its batch.
func (s *Server) prove(ctx context.Context, share store.Share, held []store.BatchLeaves) (*proofs, error) {
	p := &proofs{}
	for len(held) > 0 {
		some := held[:min(len(held), proveBatches)]
		held = held[len(some):]
		entries, err := s.entries(ctx, share, some)
		if err != nil {
			return nil, err
		}
		for len(some) > 0 {
			n, events := 0, 0
			for n < len(some) && (n == 0 || events+int(entries[some[n].Batch].Events) <= proveEvents) {
				events += int(entries[some[n].Batch].Events)
				n++
			}
			if err := s.proveSome(ctx, share, some[:n], entries, p); err != nil {
				return nil, err
			}
			some = some[n:]
		}
	}
	return p, nil
}

// entries are those of batches, which ascend.
func (s *Server) entries(ctx context.Context, share store.Share, held []store.BatchLeaves) (map[uint64]*ledger.Entry, error) {
	wanted := make(map[uint64]bool, len(held))
	for _, h := range held {
		wanted[h.Batch] = true
	}
	entries := make(map[uint64]*ledger.Entry, len(held))
	err := s.store.Entries(ctx, share.LogID, held[0].Batch, held[len(held)-1].Batch, func(r store.Sealed) error {
		if wanted[r.Entry.Batch] {
			entries[r.Entry.Batch] = r.Entry
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		if e := entries[h.Batch]; e == nil || !e.HasEvents() || e.LogID != share.LogID || e.ExpiresMonth != share.Month {
			return nil, foreign(share, h.Batch)
		}
	}
	return entries, nil
}

func (s *Server) proveSome(ctx context.Context, share store.Share, held []store.BatchLeaves, entries map[uint64]*ledger.Entry, p *proofs) error {
	batches := make([]uint64, len(held))
	for i := range held {
		batches[i] = held[i].Batch
	}
	stored, err := s.store.LeavesOf(ctx, store.Stored, share, batches)
	if err != nil {
		return err
	}
	var reduced []uint64
	for _, b := range batches {
		if len(stored[b].Positions) != int(entries[b].Events) {
			reduced = append(reduced, b)
		}
	}
	earlier := map[uint64][][]byte{}
	if len(reduced) > 0 {
		if earlier, err = s.store.KeptOf(ctx, share.LogID, reduced); err != nil {
			return err
		}
	}
	for _, h := range held {
		e := entries[h.Batch]
		proof, err := proveBatch(e, h.Positions, stored[h.Batch], earlier[h.Batch])
		if err != nil {
			return fmt.Errorf("%w (%w)", foreign(share, h.Batch), err)
		}
		p.batches, p.of, p.bytes = append(p.batches, h.Batch), append(p.of, proof), append(p.bytes, proof.Append(nil))
		p.events += uint64(len(h.Positions))
	}
	return nil
}

// foreign is the refusal to drop what is not as it was sealed: whoever changed it
// would be glad to see it go.
func foreign(share store.Share, batch uint64) error {
	return refuse(codes.FailedPrecondition, "drop what expires in %s: batch %d of log %q is not as it was sealed. Nothing of the month is dropped; see what is wrong with 'mcpaudit verify'",
		monthName(share.Month), batch, share.LogID)
}

// proveBatch proves positions of a batch of which all events are stored, or those
// that an earlier run has kept: then by the proof of that run.
func proveBatch(e *ledger.Entry, positions []uint32, stored store.BatchLeaves, earlier [][]byte) (*ledger.BatchProof, error) {
	if e.Schema != event.Schema {
		return nil, fmt.Errorf("its events are of schema %d, this program knows %d", e.Schema, event.Schema)
	}
	var p *ledger.BatchProof
	if len(stored.Positions) == int(e.Events) {
		for i, at := range stored.Positions {
			if int(at) != i {
				return nil, fmt.Errorf("it has no event %d", i)
			}
		}
		var err error
		if p, err = ledger.ProveBatch(e, positions, stored.Leaves); err != nil {
			return nil, err
		}
	} else {
		kept, err := keptBefore(e, stored, earlier)
		if err != nil {
			return nil, err
		}
		if p, err = kept.Narrow(stored.Leaves, positions); err != nil {
			return nil, err
		}
	}
	leaves := make([]ledger.Hash, len(positions))
	for i, at := range positions {
		j, ok := slices.BinarySearch(stored.Positions, at)
		if !ok {
			return nil, fmt.Errorf("it has no event %d", at)
		}
		leaves[i] = stored.Leaves[j]
	}
	return p, p.Check(leaves)
}

// keptBefore is the proof of what is stored of a batch that was reduced before.
func keptBefore(e *ledger.Entry, stored store.BatchLeaves, earlier [][]byte) (*ledger.BatchProof, error) {
	for _, text := range earlier {
		p, rest, err := ledger.ParseBatchProof(text)
		if err == nil && len(rest) == 0 && slices.Equal(p.Positions, stored.Positions) && p.Entry.Leaf() == e.Leaf() {
			return p, p.Check(stored.Leaves)
		}
	}
	return nil, fmt.Errorf("%d of its %d events are stored, and no run of retention has kept these", len(stored.Positions), e.Events)
}

// checkStaged checks that what was gathered is what the proofs are of.
func (s *Server) checkStaged(ctx context.Context, share store.Share, p *proofs) error {
	for from := 0; from < len(p.batches); {
		to, events := from, 0
		for to < len(p.batches) && to-from < proveBatches && (to == from || events+len(p.of[to].Positions) <= proveEvents) {
			events += len(p.of[to].Positions)
			to++
		}
		got, err := s.store.LeavesOf(ctx, store.Retained, share, p.batches[from:to])
		if err != nil {
			return err
		}
		for _, proof := range p.of[from:to] {
			have := got[proof.Entry.Batch]
			if !slices.Equal(have.Positions, proof.Positions) {
				return fmt.Errorf("copy what stays of batch %d of log %q: %d events came, not the %d that are held", proof.Entry.Batch, share.LogID, len(have.Positions), len(proof.Positions))
			}
			if err := proof.Check(have.Leaves); err != nil {
				return fmt.Errorf("copy what stays of log %q: %w", share.LogID, err)
			}
		}
		from = to
	}
	return nil
}
