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
// entry's root. Whether the entry itself is in the log is for a [LogProof].
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

// LogProof proves that entries are in a log. Where there is no gap between two of
// them, it proves that no batch between them is left out.
type LogProof struct {
	Batches []uint64 // numbers of the entries, ascending
	Gaps    []Hash   // see [Gaps]
}

// ProveLog makes the proof for these entries of a log of this size.
func ProveLog(batches []uint64, size uint64, read Nodes) (*LogProof, error) {
	gaps, err := read(Gaps(indexes(batches), size))
	if err != nil {
		return nil, err
	}
	return &LogProof{batches, gaps}, nil
}

// Check checks the leaves of the proof's entries against a checkpoint.
func (p *LogProof) Check(c Checkpoint, leaves []Hash) error {
	for i, b := range p.Batches {
		if b == 0 || i > 0 && b <= p.Batches[i-1] {
			return fmt.Errorf("log %q: its batches are out of order", c.LogID)
		}
	}
	root, err := RootWithGaps(c.Size, indexes(p.Batches), leaves, p.Gaps)
	if err != nil {
		return fmt.Errorf("log %q: %w", c.LogID, err)
	}
	if root != c.Root {
		return fmt.Errorf("log %q: the batches are not those of the checkpoint", c.LogID)
	}
	return nil
}

// Append appends the proof's bytes: the number of batches and each one's distance
// from the one before it (LEB128), the number of gaps (LEB128) and their hashes.
func (p *LogProof) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p.Batches)))
	last := uint64(0)
	for _, n := range p.Batches {
		b = binary.AppendUvarint(b, n-last)
		last = n
	}
	return appendHashes(b, p.Gaps)
}

// ParseLogProof reads one proof, which is all of b.
func ParseLogProof(b []byte) (*LogProof, error) {
	r := rowbinary.NewReader(b)
	p := &LogProof{}
	if n := r.Length(1); r.Err == nil {
		p.Batches = make([]uint64, n)
	}
	last := uint64(0)
	for i := range p.Batches {
		n := last + r.Uvarint()
		if r.Err == nil && n <= last {
			r.Err = errors.New("its batches are out of order")
		}
		p.Batches[i], last = n, n
	}
	p.Gaps = readHashes(r)
	if r.Err == nil && len(r.Rest()) > 0 {
		r.Err = errors.New("there is more behind it")
	}
	if r.Err != nil {
		return nil, fmt.Errorf("parse proof of a log: %w", r.Err)
	}
	return p, nil
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

// indexes are the leaves' places of entries, which are numbered from 1.
func indexes(batches []uint64) []uint64 {
	out := make([]uint64, len(batches))
	for i, b := range batches {
		out[i] = b - 1
	}
	return out
}
