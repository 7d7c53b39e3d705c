// Package verify computes a store's logs anew and says what does not agree with
// what was signed; and it answers for the ledger over the API.
//
// The stored rows are hashed anew. From their hashes come the batches' roots, from the entries the log's, and that must be the signed one. What
// is trusted is the verifier key, and checkpoints that were kept elsewhere: a log
// that was cut and whose end was signed before contradicts them. Nothing that the
// store says is believed; the tags of leaves only help to name the event.
package verify

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Store is what verification reads; *store.Store is it.
type Store interface {
	Logs(ctx context.Context) ([]store.LogInfo, error)
	LastEntry(ctx context.Context, logID string) (*store.Sealed, error)
	Entries(ctx context.Context, logID string, from, to uint64, f func(store.Sealed) error) error
	Rotations(ctx context.Context, logID string) ([]string, error)
	Nodes(ctx context.Context, logID string) ledger.Nodes
	// Hash computes the leaf hashes of batches from the stored events, in no order.
	Hash(ctx context.Context, l store.Limits, logID string, from, to uint64, f func(batch uint64, leaf uint32, hash *ledger.Hash) error) error
	// Query runs one reading statement with bound parameters under limits.
	Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error)
}

// Options say what is verified against what.
type Options struct {
	// Keys are verifier keys to trust. When there are none, those that the store
	// names are taken: then only what was changed without the key is found.
	Keys []string
	// Checkpoints are signed ones that were kept elsewhere.
	Checkpoints []string
	// From and To bound when the batches were sealed whose events are hashed; zero
	// for no bound. Entries are always verified, all of them.
	From, To time.Time
	// Patience is how long a batch may be stored and not be sealed, which every batch
	// is for a moment; default 15 s.
	Patience time.Duration
}

// Report hears what is found. Its methods are called by one goroutine at a time;
// an error of theirs ends the verification.
type Report interface {
	Problem(p *pb.VerifyProblem) error
	Progress(events, total uint64) error
}

// maxProblems is how many problems are reported; all are counted.
const maxProblems = 1000

// Run verifies the store. The error says that it could not be done, not that
// something is wrong: that is in the summary's problems.
func Run(ctx context.Context, s Store, opt Options, report Report) (*pb.VerifySummary, error) {
	if opt.Patience == 0 {
		opt.Patience = 15 * time.Second
	}
	v := &run{store: s, opt: opt, report: report, summary: &pb.VerifySummary{OwnKeys: len(opt.Keys) == 0}}
	if err := v.whole(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return v.summary, nil
}

// run is one verification.
type run struct {
	store   Store
	opt     Options
	report  Report
	summary *pb.VerifySummary
	total   uint64
	kept    map[string][]keptCheckpoint // by log
}

// keptCheckpoint is one that was kept elsewhere.
type keptCheckpoint struct {
	ledger.Checkpoint
	signed string
}

func (v *run) whole(ctx context.Context) error {
	logs, err := v.store.Logs(ctx)
	if err != nil {
		return err
	}
	if err := v.readKept(); err != nil {
		return err
	}
	stored, err := v.counts(ctx, "SELECT log_id, count() FROM events GROUP BY log_id")
	if err != nil {
		return err
	}
	entries, err := v.counts(ctx, "SELECT log_id, count() FROM ledger GROUP BY log_id")
	if err != nil {
		return err
	}
	for _, n := range stored {
		v.total += n
	}
	known := map[string]bool{}
	for _, l := range logs {
		known[l.ID] = true
		if err := v.log(ctx, l); err != nil {
			return err
		}
	}
	for id, n := range stored {
		if !known[id] {
			if err := v.problem(pb.VerifyProblem_CODE_EVENT_ADDED, id, 0, "%d events are of log %q, which the store does not have", n, id); err != nil {
				return err
			}
		}
	}
	for id, n := range entries {
		if !known[id] {
			if err := v.problem(pb.VerifyProblem_CODE_ENTRY_ADDED, id, 0, "%d entries are of log %q, which the store does not have", n, id); err != nil {
				return err
			}
		}
	}
	return v.missingLogs(known)
}

// readKept sorts the checkpoints that were kept elsewhere by their logs. Their
// signatures are looked at with the log's keys.
func (v *run) readKept() error {
	v.kept = map[string][]keptCheckpoint{}
	for i, signed := range v.opt.Checkpoints {
		c, err := ledger.PeekCheckpoint(signed)
		if err != nil {
			return fmt.Errorf("kept checkpoint %d: %w", i+1, err)
		}
		v.kept[c.LogID] = append(v.kept[c.LogID], keptCheckpoint{c, signed})
	}
	return nil
}

// missingLogs are logs that a key or a kept checkpoint names and the store lacks.
func (v *run) missingLogs(known map[string]bool) error {
	named := map[string]string{}
	keys, err := ledger.TrustKeys(v.opt.Keys, nil)
	if err != nil {
		return err
	}
	for id := range v.kept {
		// An anchor and an emitter's receipts may have logs of other services too.
		if len(v.opt.Keys) == 0 || keys.Logs()[id] {
			named[id] = "a checkpoint that was kept elsewhere"
		}
	}
	for id := range keys.Logs() {
		named[id] = "a trusted key"
	}
	for id, by := range named {
		if !known[id] {
			if err := v.problem(pb.VerifyProblem_CODE_LOG_MISSING, id, 0, "%s is of log %q, which the store does not have", by, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *run) counts(ctx context.Context, sql string) (map[string]uint64, error) {
	rows, err := v.store.Query(ctx, limits, sql)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]uint64{}
	for rows.Next() {
		var id string
		var n uint64
		if err := rows.Scan(&id, &n); err != nil {
			return nil, err
		}
		out[id] = n
	}
	return out, rows.Err()
}

// limits of one statement: it hashes at most a chunk of events.
var limits = store.Limits{Time: 10 * time.Minute, Memory: 1 << 30}

// problem reports that something is wrong with a log, or a batch of it.
func (v *run) problem(code pb.VerifyProblem_Code, logID string, batch uint64, format string, args ...any) error {
	return v.send(&pb.VerifyProblem{Code: code, LogId: logID, Batch: batch, Message: fmt.Sprintf(format, args...)})
}

func (v *run) send(p *pb.VerifyProblem) error {
	v.summary.Problems++
	if v.summary.GetProblems() > maxProblems {
		return nil
	}
	return v.report.Problem(p)
}
