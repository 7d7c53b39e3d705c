package export

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// proofsMagic begins a file of proofs.
const proofsMagic = "mcpaudit proofs v1\n"

// maxRecord bounds one record of a file of proofs, in bytes: a batch of 100,000
// events with each second one left out takes 2 MB.
const maxRecord = 32 << 20

// A record of a file of proofs leads from events of one batch to its log. FORMAT.md
// draws its bytes.
type record struct {
	// skipped are the nodes of the log's tree between the record before it and this
	// one; see ledger.Gaps.
	skipped []ledger.Hash
	// proof has the entry, and proves which of its batch's events are in the file of
	// events beside it.
	proof *ledger.BatchProof
	// dropped says that retention has removed the batch's events: proof has neither
	// positions nor gaps.
	dropped bool
}

const (
	recordBatch   = 'B'
	recordDropped = 'D'
)

// append appends the record: its kind, its length (LEB128), and of that length the
// number of skipped nodes (LEB128), their hashes and the proof.
func (r *record) append(b []byte) []byte {
	var body []byte
	body = binary.AppendUvarint(body, uint64(len(r.skipped)))
	for i := range r.skipped {
		body = append(body, r.skipped[i][:]...)
	}
	kind := byte(recordBatch)
	if r.dropped {
		kind = recordDropped
	}
	body = r.proof.Append(body)
	b = binary.AppendUvarint(append(b, kind), uint64(len(body)))
	return append(b, body...)
}

// readRecord reads the next record; io.EOF means that there is none.
func readRecord(in *bufio.Reader) (*record, error) {
	kind, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	if kind != recordBatch && kind != recordDropped {
		return nil, fmt.Errorf("read proof: there is no kind %q of record", kind)
	}
	n, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, errCut
	}
	if n > maxRecord {
		return nil, fmt.Errorf("read proof: a record of %d bytes is longer than %d", n, maxRecord)
	}
	// What is allocated is bounded by what is there.
	body, err := io.ReadAll(io.LimitReader(in, int64(n)))
	if err != nil {
		return nil, fmt.Errorf("read proof: %w", err)
	}
	if uint64(len(body)) < n {
		return nil, errCut
	}
	return parseRecord(kind, body)
}

var errCut = errors.New("read proof: the file ends in the middle of a record")

func parseRecord(kind byte, body []byte) (*record, error) {
	r := &record{dropped: kind == recordDropped}
	count, width := binary.Uvarint(body)
	if width <= 0 || count > uint64(len(body)/len(ledger.Hash{})) {
		return nil, errors.New("read proof: a record's length is wrong")
	}
	body = body[width:]
	for range count {
		r.skipped = append(r.skipped, ledger.Hash(body))
		body = body[len(ledger.Hash{}):]
	}
	var err error
	if r.proof, body, err = ledger.ParseBatchProof(body); err != nil {
		return nil, err
	}
	if len(body) > 0 {
		return nil, errors.New("read proof: there is more behind a record's proof")
	}
	if r.dropped && (len(r.proof.Positions) > 0 || len(r.proof.Gaps) > 0) {
		return nil, errors.New("read proof: a batch whose events were dropped has some")
	}
	return r, nil
}

var ranges = &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// logTree grows a log's tree of the entries that an export has and the nodes
// between them: ledger.RootWithGaps in constant memory.
type logTree struct{ r *compact.Range }

func newLogTree() *logTree { return &logTree{ranges.NewEmptyRange(0)} }

func (t *logTree) size() uint64 { return t.r.End() }

// skip appends the nodes of the entries up to size.
func (t *logTree) skip(size uint64, nodes []ledger.Hash) error {
	if size < t.r.End() {
		return errors.New("its entries are out of order")
	}
	hashes := make([][]byte, len(nodes))
	for i := range nodes {
		hashes[i] = nodes[i][:]
	}
	gap, err := ranges.NewRange(t.r.End(), size, hashes)
	if err != nil {
		return fmt.Errorf("%d nodes are not those between entries %d and %d", len(nodes), t.r.End(), size+1)
	}
	return t.r.AppendRange(gap, nil)
}

// add appends an entry.
func (t *logTree) add(leaf ledger.Hash) error { return t.r.Append(leaf[:], nil) }

func (t *logTree) root() (ledger.Hash, error) {
	root, err := t.r.GetRootHash(nil)
	if err != nil || root == nil {
		return ledger.EmptyRoot, err
	}
	return ledger.Hash(root), nil
}

// between are the nodes that cover the entries behind a log's entry number from, up
// to and without number to.
func between(from, to uint64) []ledger.NodeID { return compact.RangeNodes(from, to-1, nil) }

// fromKept proves positions of a batch of which retention has kept some events: kept
// proves those, leaves are their hashes. What lies between two of the positions is
// covered by nodes that kept's own nodes and leaves make.
func fromKept(kept *ledger.BatchProof, leaves []ledger.Hash, positions []uint32) (*ledger.BatchProof, error) {
	if len(leaves) != len(kept.Positions) {
		return nil, fmt.Errorf("batch %d has %d events, %d are kept of it", kept.Entry.Batch, len(leaves), len(kept.Positions))
	}
	size := uint64(kept.Entry.Events)
	known := make(map[ledger.NodeID]ledger.Hash, len(leaves)+len(kept.Gaps))
	for i, id := range ledger.Gaps(wide(kept.Positions), size) {
		if i >= len(kept.Gaps) {
			return nil, fmt.Errorf("the proof of what is kept of batch %d is damaged", kept.Entry.Batch)
		}
		known[id] = kept.Gaps[i]
	}
	for i, at := range kept.Positions {
		known[ledger.NodeID{Index: uint64(at)}] = leaves[i]
	}
	var node func(id ledger.NodeID) (ledger.Hash, bool)
	node = func(id ledger.NodeID) (ledger.Hash, bool) {
		if h, ok := known[id]; ok {
			return h, true
		}
		if id.Level == 0 {
			return ledger.Hash{}, false
		}
		left, ok := node(ledger.NodeID{Level: id.Level - 1, Index: 2 * id.Index})
		if !ok {
			return ledger.Hash{}, false
		}
		right, ok := node(ledger.NodeID{Level: id.Level - 1, Index: 2*id.Index + 1})
		return ledger.Hash(rfc6962.DefaultHasher.HashChildren(left[:], right[:])), ok
	}
	p := &ledger.BatchProof{Entry: kept.Entry, Positions: positions}
	for _, id := range ledger.Gaps(wide(positions), size) {
		h, ok := node(id)
		if !ok {
			return nil, fmt.Errorf("the proof of what is kept of batch %d does not cover its events", kept.Entry.Batch)
		}
		p.Gaps = append(p.Gaps, h)
	}
	return p, nil
}

func wide(positions []uint32) []uint64 {
	out := make([]uint64, len(positions))
	for i, p := range positions {
		out[i] = uint64(p)
	}
	return out
}
