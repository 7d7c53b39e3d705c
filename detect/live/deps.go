package live

import (
	"context"
	"log/slog"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Store is what a runner needs of one; *store.Store is it. What a method does is said
// there.
type Store interface {
	History
	AppendFindings(ctx context.Context, rows []store.Finding) error
	LastTold(ctx context.Context, teller string) (seq uint64, err error)
	ToldAfter(ctx context.Context, teller string, seq uint64, f func(id string, version uint32, open bool)) error
	ToldByAll(ctx context.Context, f func(id string, version uint32, open bool)) error
	OpenFindings(ctx context.Context) ([]store.Finding, error)
	SaveSnapshot(ctx context.Context, n store.Snapshot, chunks [][]byte) error
	Snapshots(ctx context.Context, name string) ([]store.Snapshot, error)
	SnapshotNames(ctx context.Context, prefix string) ([]string, error)
	LastSnapshot(ctx context.Context, name string) (number uint64, err error)
	State(ctx context.Context, n store.Snapshot) ([]byte, error)
}

// History is the stored events and the ledger's account of them.
type History interface {
	Logs(ctx context.Context) ([]store.LogInfo, error)
	SealedAfter(ctx context.Context, after map[string]uint64, most int) ([]store.SealedBatch, error)
	SealedBefore(ctx context.Context, logID string, t time.Time) (batch uint64, err error)
	EventsOf(ctx context.Context, batches []store.SealedBatch) (events []*event.Event, lacking int, err error)
}

// Observer hears what a runner does, for metrics. Its methods are called by the
// runner's goroutine and must not block.
type Observer interface {
	// Observed: so many events were given to the engine; lag is now minus the time at
	// which the newest of them was sealed.
	Observed(events int, lag time.Duration)
	// Late: so many events came after the engine's clock had passed them.
	Late(events int)
	// Told: a version of a finding is durable; opened for the first of it.
	Told(severity detect.Severity, opened bool)
	// Holds: what the engine has in memory.
	Holds(c detect.Counts)
	// Saved: a snapshot is durable. For stalled nothing was observed.
	Saved(bytes int, stalled, took time.Duration)
	// Failed: the store did not answer; it will be asked again.
	Failed()
}

// Told is one version of a finding that has become durable.
type Told struct {
	detect.Change
	Seq uint64 // its number among all that the runner's share told
	At  time.Time
	// History is set for what is found in events that were stored before there was
	// a runner: it is worth a record, and nobody has to be woken for it.
	History bool
}

// Deps are what a runner takes from its surroundings.
type Deps struct {
	Store Store
	Now   func() time.Time
	Log   *slog.Logger
	Watch Observer
	// Settled says up to which time of receipt, µs since 1970, all events are sealed;
	// no event with this time or an earlier one may be sealed after it has said so. It
	// knows of all that write to the store. nil: Now minus the margin.
	Settled func() int64
	// OthersWrite is set where Settled only knows of what this process writes, and
	// others may write logs of their own: it is the margin, too, that counts then.
	OthersWrite bool
	// Tell is called with what was told, in order, when it is durable, by the runner's
	// goroutine: it must not block. nil: nobody wants to hear.
	Tell func(Told)
}
