package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mcpaudit/mcpaudit/ingest/rowbinary"
)

// BatchProof says which events of a batch somebody has, and proves that they are
// in it. Where there is no gap, it proves that nothing of the batch is left out.
type BatchProof struct {
	Entry     *Entry
	Positions []uint32 // of the events in the batch, ascending
	Gaps      []Hash   // see [Gaps]
}

// ProveBatch makes the proof for the events at positions of a batch.
func ProveBatch(e *Entry, positions []uint32, leaves []Hash) (*BatchProof, error) {
	gaps, err := NodesOf(leaves)(Gaps(wide(positions), uint64(len(leaves))))
	if err != nil {
		return nil, err
	}
	return &BatchProof{e, positions, gaps}, nil
}

// Check checks the leaves of the events at the proof's positions against its
// entry's root. Whether the entry itself is in the log is
// for the log's tree to show.
func (p *BatchProof) Check(leaves []Hash) error {
	root, err := RootWithGaps(uint64(p.Entry.Events), wide(p.Positions), leaves, p.Gaps)
	if err != nil {
		return fmt.Errorf("batch %d: %w", p.Entry.Batch, err)
	}
	if root != p.Entry.Root {
		return fmt.Errorf("batch %d: the events are not those that were sealed", p.Entry.Batch)
	}
	return nil
}

// Narrow makes, of the proof that some events are of a batch, the proof that fewer of
// them are. leaves are those of p's positions. Nodes over what goes come from them and
// from p's own.
func (p *BatchProof) Narrow(leaves []Hash, positions []uint32) (*BatchProof, error) {
	size := uint64(p.Entry.Events)
	gaps := Gaps(wide(p.Positions), size)
	if len(leaves) != len(p.Positions) || len(gaps) != len(p.Gaps) {
		return nil, fmt.Errorf("the proof of batch %d is of %d events and %d nodes, not of %d and %d", p.Entry.Batch, len(p.Positions), len(p.Gaps), len(leaves), len(gaps))
	}
	known := make(map[NodeID]Hash, len(gaps)+len(leaves))
	for i, id := range gaps {
		known[id] = p.Gaps[i]
	}
	for i, at := range p.Positions {
		known[NodeID{Index: uint64(at)}] = leaves[i]
	}
	var find func(id NodeID) (Hash, bool)
	find = func(id NodeID) (Hash, bool) {
		if h, ok := known[id]; ok || id.Level == 0 {
			return h, ok
		}
		left, ok := find(NodeID{Level: id.Level - 1, Index: 2 * id.Index})
		if !ok {
			return Hash{}, false
		}
		right, ok := find(NodeID{Level: id.Level - 1, Index: 2*id.Index + 1})
		return Hash(node(left[:], right[:])), ok
	}
	fewer := &BatchProof{Entry: p.Entry, Positions: positions}
	for _, id := range Gaps(wide(positions), size) {
		h, ok := find(id)
		if !ok {
			return nil, fmt.Errorf("the proof of batch %d does not cover its other events", p.Entry.Batch)
		}
		fewer.Gaps = append(fewer.Gaps, h)
	}
	return fewer, nil
}

// Append appends the proof's bytes: the entry's, the number of positions and each
// position's distance from the one before it (LEB128), the number of gaps (LEB128)
// and their hashes.
func (p *BatchProof) Append(b []byte) []byte {
	b = p.Entry.Append(b)
	b = binary.AppendUvarint(b, uint64(len(p.Positions)))
	next := uint32(0)
	for _, at := range p.Positions {
		b = binary.AppendUvarint(b, uint64(at-next))
		next = at + 1
	}
	return appendHashes(b, p.Gaps)
}

// ParseBatchProof reads one proof and returns the rest of b.
func ParseBatchProof(b []byte) (*BatchProof, []byte, error) {
	e, rest, err := parseEntry(b)
	if err != nil {
		return nil, nil, err
	}
	p := &BatchProof{Entry: e}
	r := rowbinary.NewReader(rest)
	n := r.Length(1)
	if r.Err == nil && uint64(n) > uint64(e.Events) {
		r.Err = errors.New("it has more events than its batch")
	}
	if r.Err == nil {
		p.Positions = make([]uint32, n)
	}
	next := uint64(0)
	for i := range p.Positions {
		at := next + r.Uvarint()
		if r.Err == nil && (at < next || at >= uint64(e.Events)) {
			r.Err = errors.New("a position is outside of the batch")
		}
		if r.Err != nil {
			break
		}
		p.Positions[i] = uint32(at)
		next = at + 1
	}
	p.Gaps = readHashes(r)
	if r.Err != nil {
		return nil, nil, fmt.Errorf("parse proof of batch %d: %w", e.Batch, r.Err)
	}
	return p, r.Rest(), nil
}

func appendHashes(b []byte, hashes []Hash) []byte {
	b = binary.AppendUvarint(b, uint64(len(hashes)))
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

func readHashes(r *rowbinary.Reader) []Hash {
	n := r.Length(len(Hash{}))
	if n == 0 || r.Err != nil {
		return nil
	}
	out := make([]Hash, n)
	for i := range out {
		r.Fixed(out[i][:])
	}
	return out
}

func wide(positions []uint32) []uint64 {
	out := make([]uint64, len(positions))
	for i, p := range positions {
		out[i] = uint64(p)
	}
	return out
}
