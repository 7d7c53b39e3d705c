package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/verify"
)

const verifyMost = 3_000_000

// verified measures the verification of a whole store. The limit is the engine
// reading every column of the same events, and hashing them for a table of its own
// (cityHash64), which proves nothing.
func verified(ctx context.Context, e Env) ([]Result, error) {
	s, err := emptyStore(ctx, e, "verify")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	events := min(e.Events, verifyMost) / exportBatch * exportBatch
	if events == 0 {
		return nil, fmt.Errorf("verify at least %d events", exportBatch)
	}
	fmt.Fprintf(e.Say, "storing %d sealed events\n", events)
	key, err := sealedEvents(ctx, e, s, events)
	if err != nil {
		return nil, err
	}
	var rates, limits []time.Duration
	for range 3 {
		start := time.Now()
		if err := readColumns(ctx, s); err != nil {
			return nil, err
		}
		limits = append(limits, time.Since(start))
		start = time.Now()
		sum, err := verify.Run(ctx, s, verify.Options{Keys: []string{key.Verifier()}}, silent{})
		if err != nil {
			return nil, err
		}
		if sum.GetProblems() > 0 || sum.GetEvents() != events {
			return nil, fmt.Errorf("%d problems with %d events", sum.GetProblems(), sum.GetEvents())
		}
		rates = append(rates, time.Since(start))
	}
	rate := func(took []time.Duration) float64 { return float64(events) / quantile(took, 0.5).Seconds() }
	return []Result{atLeast("verify", rate(rates), "events/s", rate(limits), "the engine reads all columns", 1_500_000)}, nil
}

type silent struct{}

func (silent) Problem(*pb.VerifyProblem) error { return nil }
func (silent) Progress(uint64, uint64) error   { return nil }

func readColumns(ctx context.Context, s *store.Store) error {
	rows, err := s.Query(ctx, store.Limits{Time: 10 * time.Minute}, "SELECT sum(cityHash64("+store.EventColumns+")) FROM events SETTINGS merge_tree_min_rows_for_concurrent_read = 20000, merge_tree_min_bytes_for_concurrent_read = 1000000")
	if err != nil {
		return err
	}
	for rows.Next() {
		continue
	}
	return errors.Join(rows.Err(), rows.Close())
}
