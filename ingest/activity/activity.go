// Package activity adds up what is stored, for dashboards: calls, errors, bytes and
// times of each hour by server, tool, principal and outcome, the definitions that tools
// have had, and who emits. A panel over 90 days reads these sums, not the events. Package
// store has the tables and says what is in them.
//
// # What is guaranteed
//
// Each event of a sealed batch is added once, whatever is killed and whenever. A [Runner]
// follows the ledger and takes some batches of a log at a time, a range. It writes the
// range down, durably, and then adds it to each table. When it begins, and after each
// error, it adds the newest range that is written down again: the store sees in the rows
// themselves what of it is there. The next range is planned when all of the one before
// is on disk.
//
// There should be one runner at a time for a log. When there are two for a moment (an
// instance comes back while another one adds up what it had left), both do the same
// ranges, and the store takes each once.
//
// # Which logs
//
// An instance adds up the log that it writes, every few seconds. A log that has had no
// new entry for a quarter of an hour is that of an instance that is gone or idle; the
// instance that leads ([Deps.Mine]) adds up what is left of it. So what an instance
// sealed in its last seconds is on dashboards a quarter of an hour later, or when it is
// back, whichever comes first.
//
// # What is left out
//
// Events that expired before they were added: retention may have dropped them already.
// What an entry counts and the store does not have was dropped or tampered with, which
// verify finds. An entry whose number lacks is waited for, for half a minute: after that,
// what is behind it is added without.
package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Config of a runner. The zero value of a field means its default.
type Config struct {
	// LogID is the log that this instance writes. Empty: the process has the store for
	// itself, and all logs are its own.
	LogID string
	// Every is how often new batches are added up; default 5 s. Each time is a part in
	// each table.
	Every time.Duration
	// MostBatches and MostEvents bound a range; default 500 and 500,000. A single batch
	// may have more. A range's groups are in memory while it is added, some hundred bytes
	// each.
	MostBatches int
	MostEvents  int
	// Idle is for how long a log of others has had no new entry when it is added up here;
	// default 15 minutes.
	Idle time.Duration
}

func (c Config) withDefaults() Config {
	if c.Every == 0 {
		c.Every = 5 * time.Second
	}
	if c.MostBatches == 0 {
		c.MostBatches = 500
	}
	if c.MostEvents == 0 {
		c.MostEvents = 500_000
	}
	if c.Idle == 0 {
		c.Idle = 15 * time.Minute
	}
	return c
}

// Validate names the first setting that is wrong.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.Every < 100*time.Millisecond || c.Every > 10*time.Minute:
		return fmt.Errorf("activity: every is %v; use 100ms to 10m", c.Every)
	case c.MostBatches < 1 || c.MostBatches > 10_000:
		return fmt.Errorf("activity: a range of at most %d batches; use 1 to 10000", c.MostBatches)
	case c.MostEvents < 1 || c.MostEvents > 5_000_000:
		return fmt.Errorf("activity: a range of at most %d events; use 1 to 5000000", c.MostEvents)
	case c.Idle < time.Minute:
		return fmt.Errorf("activity: idle is %v; use 1m or more", c.Idle)
	}
	return nil
}

// Store is what a runner needs of one; *store.Store is it. What a method does is said
// there.
type Store interface {
	Logs(ctx context.Context) ([]store.LogInfo, error)
	SealedAfter(ctx context.Context, after map[string]uint64, most int) ([]store.SealedBatch, error)
	SealedBefore(ctx context.Context, logID string, t time.Time) (batch uint64, err error)
	NewestActivity(ctx context.Context, logID string) (r store.ActivityRange, planned bool, err error)
	PlanActivity(ctx context.Context, r store.ActivityRange, now time.Time) (planned store.ActivityRange, fresh bool, err error)
	AddActivity(ctx context.Context, r store.ActivityRange, again bool, now time.Time) (store.Added, error)
}

// Observer hears what a runner does, for metrics. Its methods are called by the runner's
// goroutine and must not block.
type Observer interface {
	// Added: so many events were added up in so long.
	Added(events uint64, took time.Duration)
	// Failed: the store did not answer; it will be asked again.
	Failed()
}

// Deps are what a runner takes from its surroundings.
type Deps struct {
	Store Store
	Now   func() time.Time
	Log   *slog.Logger
	Watch Observer // nil: nobody wants to hear
	// Mine says whether this instance adds up logs that nobody writes any more, of several
	// that share a store; nil: it does.
	Mine func() bool
}

// Runner adds up what is stored. Make one with [New].
type Runner struct {
	cfg  Config
	deps Deps

	// By the goroutine of Run or CatchUp.
	streams map[string]*stream
	order   []*stream
	looked  time.Time // when the list of logs was read
	past    *past     // nil when nothing old is being caught up; see sayPast

	mu     sync.Mutex
	oldest map[string]time.Time // by log, when the oldest entry was sealed that is known and not added
}

// past is what was stored before there was a runner, or while it was away.
type past struct {
	since  time.Time
	events uint64
}

// New makes a runner that does nothing yet; the error is Config's.
func New(cfg Config, deps Deps) (*Runner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Runner{cfg: cfg.withDefaults(), deps: deps, streams: map[string]*stream{}, oldest: map[string]time.Time{}}, nil
}

const (
	firstPause   = time.Second // after an error; twice as long after each that follows
	longestPause = time.Minute
	// longBehind is how old a sealed batch is whose being caught up is worth a line in the
	// service's log.
	longBehind = 10 * time.Minute
)

// Run adds up what is sealed until ctx ends, which is no error. An error of the store is
// logged and tried again. Only one Run or CatchUp of a runner may be under way.
func (r *Runner) Run(ctx context.Context) error {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		began := r.deps.Now()
		more, err := r.pass(ctx)
		wait := r.cfg.Every
		switch {
		case err != nil && ctx.Err() == nil:
			if pause == 0 {
				r.deps.Log.Warn("activity: dashboards fall behind until the store answers again", "error", err)
			}
			if r.deps.Watch != nil {
				r.deps.Watch.Failed()
			}
			pause = min(max(2*pause, firstPause), longestPause)
			wait = pause
		case more:
			// As long as it took: half of a core is left to those who wait for an answer.
			pause, wait = 0, min(max(r.deps.Now().Sub(began), 0), r.cfg.Every)
		default:
			pause = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

// CatchUp adds up all that is sealed, without pauses, and returns; the error is the
// store's first.
func (r *Runner) CatchUp(ctx context.Context) error {
	for {
		more, err := r.pass(ctx)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !more {
			return err
		}
	}
}

// Lag is how long ago the oldest batch was sealed that is known of and not added up; 0
// when all is. It may be called by any goroutine.
func (r *Runner) Lag() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	lag := time.Duration(0)
	for _, t := range r.oldest {
		lag = max(lag, r.deps.Now().Sub(t))
	}
	return lag
}

// behind notes when the oldest entry of a log was sealed that is not added; zero for none.
func (r *Runner) behind(logID string, sealed time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sealed.IsZero() {
		delete(r.oldest, logID)
		return
	}
	r.oldest[logID] = sealed
}

// pass adds a range of each log that has some, and says whether there is more. A log
// that fails does not keep the others from being added.
func (r *Runner) pass(ctx context.Context) (more bool, err error) {
	if err := r.findLogs(ctx); err != nil {
		return false, err
	}
	for _, s := range r.order {
		m, e := r.advance(ctx, s)
		if e != nil {
			s.forget()
		}
		more, err = more || m, errors.Join(err, e)
	}
	r.sayPast(more)
	return more && err == nil, err
}

// sayPast says in the service's log when something old begins and ends to be caught up.
func (r *Runner) sayPast(more bool) {
	lag := r.Lag()
	switch {
	case r.past == nil && more && lag > longBehind:
		r.past = &past{since: r.deps.Now()}
		r.deps.Log.Info("activity: adding up what was stored before, oldest first; until it is done, dashboards show a part of it", "behind", lag.Round(time.Second))
	case r.past != nil && !more && lag < longBehind:
		r.deps.Log.Info("activity: what was stored before is added up", "events", r.past.events, "took", r.deps.Now().Sub(r.past.since).Round(time.Second))
		r.past = nil
	}
}

// lookForLogs is how often the list of logs is read: others' have to be idle for longer
// than that anyhow, and one that an instance starts is there before it has a runner.
const lookForLogs = 30 * time.Second

// findLogs adds the logs that are new; this instance's own comes first.
func (r *Runner) findLogs(ctx context.Context) error {
	now := r.deps.Now()
	if !r.looked.IsZero() && now.Sub(r.looked) < lookForLogs && now.After(r.looked) {
		return nil
	}
	logs, err := r.deps.Store.Logs(ctx)
	if err != nil {
		return fmt.Errorf("look for logs to add up: %w", err)
	}
	if r.cfg.LogID != "" {
		r.add(r.cfg.LogID)
	}
	for _, l := range logs {
		r.add(l.ID)
	}
	r.looked = now
	return nil
}

func (r *Runner) add(logID string) {
	if r.streams[logID] == nil {
		s := &stream{logID: logID, foreign: r.cfg.LogID != "" && logID != r.cfg.LogID}
		r.streams[logID], r.order = s, append(r.order, s)
	}
}
