// Package live runs the detectors over the events of a store, as they are sealed,
// and keeps what they find there.
//
// # What is guaranteed
//
// A [Runner] gives the engine the sealed batches of a log in their order, so what is
// found depends on the log and on the rules, and on nothing else: not on when the
// runner looked, how often it was restarted, or where it was killed. Every version of
// a finding is stored once. A snapshot of the engine, the positions in the logs that
// it belongs to, and the number of findings told by then are written as one; after a
// crash the runner goes on from there, finds again what it had found since, and
// recognises it by its id and version. What is told is told after it is durable. A
// crash between the two leaves versions that are stored and were not told: who must
// not miss one reads the findings by their seq.
//
// The clock of the engine also passes while nothing happens, so that what is quiet is
// resolved. It must not pass a time at which an event was received that is not sealed
// yet: [Deps.Settled] says which time is safe where ingest runs in the same process;
// elsewhere it is [Config.Margin] before now. Events that come later than that all
// the same (an ingest instance was away for long between storing a batch and sealing
// it) are observed when they come, and counted: a replay puts them where they belong.
//
// # Shares
//
// Several runners may share the work ([Config.Share]), in one process or in several:
// each reads all events, gives its detectors those of its share, and has snapshots
// and a sequence of findings of its own. There must be one runner at a time for each
// share; package share sees to that. Where there are two for a moment all the same,
// each finds the same, so what is told twice has one id and version, which readers
// show once; the store tells the one that comes second ([store.ErrToldTwice]), which
// begins anew. A store whose work was split into another number of shares is learnt
// again from history, without telling again what was told; see [OtherSplit].
//
// # Several logs
//
// Several logs are merged by the time of receipt: one that ended before another began
// comes before it, and of those that are written at the same time each event finds its
// place as long as none of the logs can be read more than a second later than the
// others, which is what the engine waits for ([detect.Engine.Add]).
//
// # Memory
//
// Beside the engine, the runner has about 32 MiB of events for each log that is
// behind, at most 64, or one batch; and while a snapshot is written, its bytes.
package live

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Config of a runner. The zero value of a field means its default.
type Config struct {
	// Rules that are in force from the start. Required.
	Rules []detect.Rule
	// Name of the runner's snapshots in the store; default "detect". A runner that does
	// a share of the work adds it: detect-3of8.
	Name string
	// Share is the part of the work that this runner does; the zero value is all of it.
	Share detect.Share
	// History is how much of what is stored is read when there is no snapshot to go
	// on from, and by a rule that is new; default 35 days.
	History time.Duration
	// Poll is how often the ledger is asked for new batches; default 100 ms. It becomes
	// longer, up to a quarter of a second, while asking and observing takes more than
	// half of the time: larger bites cost less.
	Poll time.Duration
	// Margin is the longest that an event may be under way between its receipt and
	// the moment when its batch can be read: the queue of ingest, an append and an
	// entry of the ledger, each fsynced; some tens of ms, and some hundreds on a server
	// under load. Default 1 s, which is also what the engine allows for. It delays what
	// is found of silence and of the last events before one, so it must leave room for
	// the two seconds in which people are told.
	Margin time.Duration
	// SaveEvery is the time between snapshots, and with it how much is read again
	// after a crash; default 1 minute. It becomes longer when making one takes more
	// than 1 % of the time, for which nothing is observed.
	SaveEvery time.Duration
	// Contended is set where another instance may have done this runner's work before,
	// and may write for a moment longer.
	Contended bool
	// StopWithin bounds how long a runner that is told to end writes down what it
	// remembers; default 30 s.
	StopWithin time.Duration
	// Seed keeps others from choosing names whose hashes collide. It does not change
	// what is found. A snapshot brings its own.
	Seed uint64
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&c.History, 35 * 24 * time.Hour}, {&c.Poll, 100 * time.Millisecond}, {&c.Margin, time.Second}, {&c.SaveEvery, time.Minute}, {&c.StopWithin, 30 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if c.Name == "" {
		c.Name = "detect"
	}
	return c
}

// Validate names the first setting that is wrong.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.History < 0:
		return errors.New("detect: history is negative")
	case c.Poll < time.Millisecond || c.Poll > 10*time.Second:
		return fmt.Errorf("detect: poll is %v, and may be 1ms to 10s", c.Poll)
	case c.Margin < 0 || c.Margin > time.Minute:
		return fmt.Errorf("detect: margin is %v, and may be 0s to 1m", c.Margin)
	case c.SaveEvery < time.Second || c.SaveEvery > time.Hour:
		return fmt.Errorf("detect: save_every is %v, and may be 1s to 1h", c.SaveEvery)
	case c.Share.Of < 0 || c.Share.Of > MostShares:
		return fmt.Errorf("detect: the work has %d shares, and may have 1 to %d", c.Share.Of, MostShares)
	case c.Share.Number < 0 || c.Share.Number >= max(c.Share.Of, 1):
		return fmt.Errorf("detect: there is no share %d of %d; they count from 0", c.Share.Number, c.Share.Of)
	}
	return nil
}

// MostShares is how many shares the work may have. Each of them reads all events, so
// more would only read.
const MostShares = 64

// reader is the name of the runner's snapshots.
func (c Config) reader() string {
	if share := c.Share.String(); share != "" {
		return c.Name + "-" + share
	}
	return c.Name
}

// teller is the name under which it tells findings.
func (c Config) teller() string {
	if c.Share.String() == "" {
		return ""
	}
	return c.reader()
}

// afterFault is for how long the clock stands still after the store was away, unless
// Settled knows better: ingest appends again what failed, with pauses of up to 7.5 s.
const afterFault = 15 * time.Second

// Runner runs the detectors. Make it with New, then Run it. Its fields belong to the
// goroutine of Run, but for those that say otherwise.
type Runner struct {
	cfg Config
	d   Deps

	engine *detect.Engine
	follow *follower
	clock  int64 // that the engine was told last, µs; what came by itself it knows
	told   telling
	phases []phase // of catching up, see start.go
	held   time.Time
	faulty bool // the store did not answer last

	save saving

	began int64         // when this run did, µs: what was found before it was told before it
	rules []detect.Rule // in force
	seed  uint64
	gone  map[string]bool // rules that are not in force any more; their findings are to be ended
	kept  map[string]bool // but for these, which go on under a changed rule

	// The rest is for all goroutines.
	reload   chan struct{} // has a token while no Reload is under way
	reloaded bool          // somebody has, who had the token
	handover chan *handover
	begun    chan struct{} // closed when shared is set
	ended    chan struct{} // closed when Run returns
	shared   shared
	caughtUp atomic.Int64 // all that was sealed before this time, µs, is observed
}

// New makes a runner; it does nothing until Run.
func New(cfg Config, d Deps) *Runner {
	r := &Runner{cfg: cfg.withDefaults(), d: d, reload: make(chan struct{}, 1), handover: make(chan *handover), begun: make(chan struct{}), ended: make(chan struct{})}
	r.reload <- struct{}{}
	return r
}

// Lag says how far the runner is behind: now minus the time up to which everything
// that was sealed is observed. It may be called by anybody.
func (r *Runner) Lag() time.Duration {
	at := r.caughtUp.Load()
	if at == 0 {
		return 0 // it has not begun
	}
	return max(0, r.d.Now().Sub(time.UnixMicro(at)))
}

// Run observes until ctx ends; then it writes down what it remembers. It returns an
// error when another service tells findings in the same store; a store that is away
// is none.
func (r *Runner) Run(ctx context.Context) error {
	defer close(r.ended)
	if err := r.insist(ctx, r.begin); err != nil {
		return ended(ctx, err)
	}
	var warming sync.WaitGroup
	defer warming.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(r.cfg.Rules) != len(r.rules) {
		warming.Go(func() { r.warmUp(ctx) })
	}
	for {
		start := time.Now()
		if err := r.insist(ctx, r.round); err != nil {
			return r.stop(ctx, err)
		}
		poll := time.NewTimer(max(r.cfg.Poll, min(time.Since(start), longestPoll)))
		select {
		case <-ctx.Done():
			poll.Stop()
			return r.stop(ctx, ctx.Err())
		case <-poll.C:
		case h := <-r.handover:
			poll.Stop()
			h.done <- r.take(ctx, h)
		}
	}
}

const longestPoll = 250 * time.Millisecond

// insist calls do until it succeeds. The error is the context's, or one that trying
// again does not mend.
func (r *Runner) insist(ctx context.Context, do func(context.Context) error) error {
	wait := 100 * time.Millisecond
	for {
		err := do(ctx)
		if err == nil {
			if r.faulty {
				r.d.Log.Info("detection goes on")
			}
			r.faulty = false
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, store.ErrToldTwice) {
			return err
		}
		r.fault(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait + rand.N(wait/2)):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// fault notes that the store did not answer.
func (r *Runner) fault(err error) {
	r.d.Watch.Failed()
	r.held = r.d.Now().Add(afterFault)
	var other *OtherSplit
	if errors.As(err, &other) {
		if !r.faulty {
			r.d.Log.Warn("detection waits", "error", err)
		}
	} else if !r.faulty {
		r.d.Log.Error("the store can't be read or written; detection waits, and nothing is lost", "error", err)
	}
	r.faulty = true
}

// round observes what was sealed since the last one. After an error it may be called
// again: it goes on where it was.
func (r *Runner) round(ctx context.Context) error {
	if err := r.flush(ctx); err != nil {
		return err
	}
	if err := r.closeGone(ctx); err != nil {
		return err
	}
	asked := r.d.Now()
	settled := r.settled(asked) // before the ledger is asked: what it covers is there
	for {
		if err := r.follow.poll(ctx, asked); err != nil {
			return err
		}
		for {
			events, err := r.follow.next(ctx)
			if err != nil {
				return err
			}
			if events == nil {
				break
			}
			r.observe(events)
			if err := r.flush(ctx); err != nil {
				return err
			}
			r.publish()
			r.saveWhenDue(ctx)
		}
		if again, err := r.nextPhase(ctx); err != nil {
			return err
		} else if !again && !r.follow.behind() {
			break
		}
	}
	if len(r.phases) == 0 && r.follow.finished() {
		r.pass(settled)
		if err := r.endRepetition(ctx); err != nil {
			return err
		}
		r.caughtUp.Store(asked.UnixMicro())
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	r.publish()
	r.d.Watch.Holds(r.engine.Counts())
	r.saveWhenDue(ctx)
	return nil
}

// settled is the time up to which no event is still to come.
func (r *Runner) settled(now time.Time) int64 {
	if r.d.Settled != nil && !r.d.OthersWrite {
		return r.d.Settled()
	}
	if now.Before(r.held) {
		return 0
	}
	at := now.Add(-r.cfg.Margin).UnixMicro()
	if r.d.Settled != nil {
		at = min(at, r.d.Settled())
	}
	return at
}

// observe gives the engine events.
func (r *Runner) observe(events []*event.Event) {
	late := 0
	for _, e := range events {
		if e.ReceivedAt < r.clock {
			late++
		}
		r.engine.Add(e)
	}
	if late > 0 {
		r.d.Watch.Late(late)
	}
	sealed := r.follow.sealedAt()
	r.caughtUp.Store(sealed)
	r.d.Watch.Observed(len(events), max(0, r.d.Now().Sub(time.UnixMicro(sealed))))
}

// pass lets the engine's clock pass to at, when nothing is still to come before. Where
// it was later already, because the system's clock was put back, what is held back is
// observed all the same.
func (r *Runner) pass(at int64) {
	r.engine.Advance(at)
	r.clock = max(r.clock, at)
}

// shared is what Run's goroutine lets others know.
type shared struct {
	sync.Mutex
	positions map[string]uint64
	rules     []detect.Rule
	seed      uint64
}

// publish says how far the runner has come, and under which rules.
func (r *Runner) publish() {
	p := r.follow.positions()
	r.shared.Lock()
	defer r.shared.Unlock()
	r.shared.positions, r.shared.rules, r.shared.seed = p, r.rules, r.seed
}

// stop writes down what is remembered. Work that is cut off by ctx is at a point from
// which it could go on, and so could be a later run.
func (r *Runner) stop(ctx context.Context, err error) error {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.StopWithin)
	defer cancel()
	defer r.endSave() // the store may be closed after Run
	if errors.Is(err, store.ErrToldTwice) {
		return ended(ctx, err)
	}
	if err := r.flush(late); err != nil {
		r.d.Log.Warn("what was found last is found again at the next start", "error", err)
		return nil
	}
	if err := r.saveNow(late); err != nil {
		r.d.Log.Warn("the state of the detectors is not saved; the next start reads more of the log again", "error", err)
	}
	return nil
}

// ended is what Run returns.
func ended(ctx context.Context, err error) error {
	if errors.Is(err, store.ErrToldTwice) {
		return fmt.Errorf("detection stops: %w; run the detect role once for each store, or let instances share it (detect.shards)", err)
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to end
	}
	return err
}
