// Package share lets the instances that detect on one store share the work, and take
// over from each other when one dies.
//
// The work is split into a number of shares that is fixed for a store; each is a
// [live.Runner] with snapshots and a sequence of findings of its own. A [Team] is the
// runners of one process. Without a [Lock] it has all shares, and there must be no
// other one on the store. With one, it has those that a Kafka consumer group gives
// it: whoever is assigned partition p of the topic has share p. Nothing is consumed;
// the group is only there to agree on who is alive.
//
// While the brokers are away nobody knows who is alive, so nobody detects; what is
// stored meanwhile is read when they are back. Whenever an instance comes or goes, all
// of them write down what their runners remember, and begin again where those left off
// whose shares they now have.
//
// # Two for a moment
//
// A group can't keep an instance that was frozen for a minute from waking up and
// writing what its successor has written. So an instance notices that it was frozen
// ([watch]), and writes nothing more until it has joined again; an instance that does
// not reach the brokers gives its shares up before they are given to another one; and
// what is written by two all the same does no harm: both find the same versions of the
// same findings, readers show each once, the store tells the second of two that there
// is another ([store.ErrToldTwice]), and that one begins anew from what is stored.
package share

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Config of a team.
type Config struct {
	Shares int         // of the work on this store; from 1 to live.MostShares
	Runner live.Config // of each runner, but for Share
	Lock   *Lock       // nil: no other instance detects on the store
}

// Deps are what a team takes from its surroundings.
type Deps struct {
	Runner live.Deps // of each runner, but for Watch
	// Watch makes the observer of a share's runner. When the runner ends, its last call
	// is Holds with nothing.
	Watch func(share int) live.Observer
	Log   *slog.Logger
}

// Team is the runners of one process. Make it with New, then Run it.
type Team struct {
	cfg Config
	d   Deps

	reloading sync.Mutex // one after the other

	mu      sync.Mutex
	rules   []detect.Rule // of runners that start
	runners map[int]*live.Runner
}

// New makes a team; it does nothing until Run.
func New(cfg Config, d Deps) (*Team, error) {
	if cfg.Shares < 1 || cfg.Shares > live.MostShares {
		return nil, fmt.Errorf("detect: the work has %d shares, and may have 1 to %d", cfg.Shares, live.MostShares)
	}
	if err := cfg.Runner.Validate(); err != nil {
		return nil, err
	}
	if cfg.Lock != nil {
		if err := cfg.Lock.validate(); err != nil {
			return nil, err
		}
	}
	if cfg.Shares > 1 {
		d.Runner.Store = &onceRead{Store: d.Runner.Store, turn: make(chan struct{}, 1)}
	}
	return &Team{cfg: cfg, d: d, rules: cfg.Runner.Rules, runners: map[int]*live.Runner{}}, nil
}

// Run detects until ctx ends; then what the detectors remember is written down. It
// returns an error when the lock's topic has fewer partitions than there are shares,
// and, without a lock, when another service tells findings in the same store. A store
// or brokers that are away are none.
func (t *Team) Run(ctx context.Context) error {
	if t.cfg.Lock != nil {
		return t.cfg.Lock.run(ctx, t.cfg.Shares, t.d.Log, t.runUnderLock)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, t.cfg.Shares)
	for n := range t.cfg.Shares {
		go func() { errs <- t.run(ctx, n, t.d.Runner.Store, false) }()
	}
	var first error
	for range t.cfg.Shares {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

// runUnderLock does a share for as long as it is this process's.
func (t *Team) runUnderLock(ctx context.Context, n int, w *watch) {
	for ctx.Err() == nil {
		err := t.run(ctx, n, &fenced{Store: t.d.Runner.Store, held: w.held}, true)
		if err == nil {
			continue // ctx has ended
		}
		t.d.Log.Warn("a share of detection begins anew", "share", n, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second + rand.N(time.Second)):
		}
	}
}

// run does a share until ctx ends.
func (t *Team) run(ctx context.Context, n int, s live.Store, contended bool) error {
	cfg, d := t.cfg.Runner, t.d.Runner
	cfg.Contended = contended
	if t.cfg.Shares > 1 {
		cfg.Share = detect.Share{Number: n, Of: t.cfg.Shares}
		d.Log = d.Log.With("share", n)
	}
	if contended {
		cfg.StopWithin = t.cfg.Lock.stopWithin()
	}
	d.Store, d.Watch = s, t.d.Watch(n)
	t.mu.Lock()
	cfg.Rules = t.rules
	r := live.New(cfg, d)
	t.runners[n] = r
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.runners, n)
		t.mu.Unlock()
		d.Watch.Holds(detect.Counts{})
	}()
	return r.Run(ctx)
}

// Reload puts other rules in force in all runners of this process, and in those that
// start later; see [live.Runner.Reload]. After an error some of them may have the new
// rules: reload again. Other instances have to be told by themselves.
func (t *Team) Reload(ctx context.Context, rules []detect.Rule) error {
	t.reloading.Lock()
	defer t.reloading.Unlock()
	done := map[*live.Runner]bool{}
	for {
		r := t.without(done, rules)
		if r == nil {
			return nil
		}
		if err := r.Reload(ctx, rules); err != nil && !errors.Is(err, live.ErrEnded) {
			return err
		}
		done[r] = true
	}
}

// without is a runner that is not done with. When there is none, the rules are those
// of runners that start from now on.
func (t *Team) without(done map[*live.Runner]bool, rules []detect.Rule) *live.Runner {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.runners {
		if !done[r] {
			return r
		}
	}
	t.rules = rules
	return nil
}

// Lag is that of the runner that is farthest behind; 0 when there is none.
func (t *Team) Lag() (lag time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.runners {
		lag = max(lag, r.Lag())
	}
	return lag
}

// Shares are those that this process does now.
func (t *Team) Shares() (shares []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := range t.runners {
		shares = append(shares, n)
	}
	slices.Sort(shares)
	return shares
}

// errNotHeld is what a runner gets that is not sure any more that its share is its own.
var errNotHeld = errors.New("this instance was frozen, and others may have taken its share of detection over")

// fenced is a store that a runner writes as long as its share is its own.
type fenced struct {
	live.Store
	held func() bool
}

func (f *fenced) AppendFindings(ctx context.Context, rows []store.Finding) error {
	if !f.held() {
		return errNotHeld
	}
	return f.Store.AppendFindings(ctx, rows)
}

func (f *fenced) SaveSnapshot(ctx context.Context, n store.Snapshot, chunks [][]byte) error {
	if !f.held() {
		return errNotHeld
	}
	return f.Store.SaveSnapshot(ctx, n, chunks)
}
