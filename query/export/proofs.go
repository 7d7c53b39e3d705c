package export

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

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
