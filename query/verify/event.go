package verify

import (
	"errors"
	"fmt"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Event checks the proof that one event is in its log, as it stands in front of the
// reader: row to batch, batch to log, log to signature. keys are verifier keys to
// trust; those that the proof brings when there are none.
func Event(p *pb.GetEventProofResponse, trusted []string) (*event.Event, ledger.Checkpoint, error) {
	var none ledger.Checkpoint
	if len(trusted) == 0 {
		trusted = []string{p.GetVerifierKey()}
	}
	keys, err := ledger.TrustKeys(trusted, p.GetRotations())
	if err != nil {
		return nil, none, err
	}
	// Who has an earlier key of the log signs no more.
	newest := ledger.NewestKey(p.GetVerifierKey(), p.GetRotations())
	if !keys.Has(newest) {
		return nil, none, ledger.ErrSignature
	}
	if keys, err = ledger.TrustKeys([]string{newest}, nil); err != nil {
		return nil, none, err
	}
	c, err := ledger.OpenCheckpoint(p.GetCheckpoint(), keys)
	if err != nil {
		return nil, none, err
	}
	e, rest, err := event.ParseRow(p.GetRow())
	if err != nil || len(rest) > 0 {
		return nil, c, errors.Join(errors.New("the event's row can't be read"), err)
	}
	entry, err := ledger.ParseEntry(p.GetEntry())
	if err != nil {
		return nil, c, err
	}
	if !entry.HasEvents() || entry.LogID != c.LogID || e.LogID != entry.LogID || e.Batch != entry.Batch || e.ExpiresMonth != entry.ExpiresMonth || entry.Batch == 0 {
		return nil, c, errors.New("the event, the entry of its batch and the checkpoint are not of one log and batch")
	}
	inBatch, err := hashes(p.GetBatchProof())
	if err != nil {
		return nil, c, err
	}
	inLog, err := hashes(p.GetLogProof())
	if err != nil {
		return nil, c, err
	}
	if err := ledger.CheckInclusion(ledger.Leaf(p.GetRow()), uint64(e.Leaf), uint64(entry.Events), entry.Root, inBatch); err != nil {
		return nil, c, fmt.Errorf("the event is not what was sealed in batch %d", entry.Batch)
	}
	if err := ledger.CheckInclusion(entry.Leaf(), entry.Batch-1, c.Size, c.Root, inLog); err != nil {
		return nil, c, fmt.Errorf("batch %d is not in the log of the checkpoint", entry.Batch)
	}
	return e, c, nil
}

func hashes(b [][]byte) ([]ledger.Hash, error) {
	out := make([]ledger.Hash, len(b))
	for i := range b {
		if len(b[i]) != len(ledger.Hash{}) {
			return nil, errors.New("a hash of the proof has another length than SHA-256's")
		}
		out[i] = ledger.Hash(b[i])
	}
	return out, nil
}
