// Package notify tells people of findings: it reads what the detectors tell and what
// people do about it, decides by a plan (see [Plan]) who has to hear of it, and brings it
// to them.
//
// # What is said
//
// A receiver is told that a finding is open when it is new, when it becomes worse, that
// somebody looks at it (where receivers have use for that), and that it is over, if it
// was told that it is open. It is not told of findings of history, of what a
// suppression covers, and of what was closed before it could be told. When nothing was
// ever told, all that there is by then is history.
//
// # The outbox
//
// What has to be told is a row of the table notifications before it is sent (queued),
// in the same insert as how far was read (read). What was sent is noted after it was
// sent. So a crash
//
//   - before the insert: it is read and decided again, with the same outcome: what has
//     to be said is worked out from what was queued for the receiver and what the
//     finding is now, not from the single change;
//   - between the insert and the sending: it is in the table and is sent at the start;
//   - between the sending and its note: it is sent again, under the same id. This is the
//     only thing that is ever told twice, but for two instances that both lead.
//
// It looks back for 30 days: what a receiver could not be told for so long is not told
// any more, and a finding that is open for longer than that is new to a receiver when it
// becomes worse, and its end is not told.
//
// # Who does what
//
// One goroutine (planner) reads and queues, one for each receiver (lane) sends: a receiver
// that does not answer delays nobody else. Both hold a bounded part of what there is in
// memory; the rest is in the store.
package notify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// lookBack is how far back the outbox is read.
const lookBack = 30 * 24 * time.Hour

// Runner tells receivers. Its methods may be called by many goroutines.
type Runner struct {
	d    Deps
	bell chan struct{} // has one when something was told or done
	room int           // findings that wait in memory for one receiver; changed by tests alone

	mu      sync.Mutex
	plan    *Plan
	senders map[string]Sender
	changed chan struct{} // closed when the plan was replaced
	lanes   []*lane       // of the session that runs

	leading atomic.Bool
}

// New makes a runner. It does nothing yet.
func New(p *Plan, d Deps) (*Runner, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	r := &Runner{d: d, bell: make(chan struct{}, 1), room: mostWaiting, changed: make(chan struct{})}
	senders, err := r.sendersOf(p)
	if err != nil {
		return nil, err
	}
	r.plan, r.senders = p, senders
	return r, nil
}

// sendersOf makes the senders of a plan.
func (r *Runner) sendersOf(p *Plan) (map[string]Sender, error) {
	out := map[string]Sender{}
	for i := range p.Receivers {
		s, err := r.d.open(p.Receivers[i].Settings)
		if err != nil {
			return nil, fmt.Errorf("receiver %q: %w", p.Receivers[i].Name, err)
		}
		out[p.Receivers[i].Name] = oneByOne{s, make(chan struct{}, 1)}
	}
	return out, nil
}

// oneByOne is a sender that is called by one at a time.
type oneByOne struct {
	Sender
	turn chan struct{}
}

func (o oneByOne) Send(ctx context.Context, n *message.Notification) (status int, err error) {
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
		return o.Sender.Send(ctx, n)
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for another message to the same receiver: %w", ctx.Err())
	}
}

// Reload puts another plan in force. After an error the plan is the one of before. What
// was queued for a receiver that is not in the plan any more waits until it is again.
func (r *Runner) Reload(p *Plan) error {
	senders, err := r.sendersOf(p)
	if err != nil {
		return fmt.Errorf("put the notify file in force: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan, r.senders = p, senders
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

// Plan is the one in force.
func (r *Runner) Plan() *Plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan
}

// Bell says that something was told or done, so that it is read now. Without it, the
// runner looks every two seconds. It never blocks.
func (r *Runner) Bell() {
	select {
	case r.bell <- struct{}{}:
	default:
	}
}

// Sending says whether this is the instance that tells.
func (r *Runner) Sending() bool { return r.leading.Load() }

// Waiting is how many findings wait to be told to a receiver, as far as they are in
// memory, and since when the oldest of them does.
func (r *Runner) Waiting(receiver string) (n int, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lanes {
		if l.r.Name == receiver {
			return l.waiting()
		}
	}
	return 0, time.Time{}
}

// Begin draws the line, where there is none yet, between what is history and what has to be
// told: behind all that was told by now. Run does so, too, when it comes to it; who starts
// the detectors beside it begins before them, or their first findings may count as history.
func (r *Runner) Begin(ctx context.Context) error {
	if err := (&session{d: &r.d}).begin(ctx, &reading{}); err != nil {
		return fmt.Errorf("note from when on people are told of findings: %w", err)
	}
	return nil
}

// leadEvery is how often it is looked whether this instance leads.
const leadEvery = time.Second

// Run tells receivers until the context ends, and then waits for what is just being
// sent, a few seconds at most. A store that does not answer is waited for. The error is
// the context's.
func (r *Runner) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if r.d.Leads == nil || r.d.Leads() {
			r.session(ctx)
			continue
		}
		pause(ctx, leadEvery, nil)
	}
	return ctx.Err()
}

// session tells receivers while the plan is the same and this instance leads. It begins
// and ends with nothing but what is stored.
func (r *Runner) session(parent context.Context) {
	ctx, end := context.WithCancel(parent)
	defer end()
	r.mu.Lock()
	plan, senders, changed := r.plan, r.senders, r.changed
	s := &session{d: &r.d, plan: plan, bell: r.bell, room: r.room}
	for i := range plan.Receivers {
		s.lanes = append(s.lanes, newLane(s, &plan.Receivers[i], senders[plan.Receivers[i].Name]))
	}
	r.lanes = s.lanes
	r.mu.Unlock()
	r.leading.Store(true)
	var running sync.WaitGroup
	for _, l := range s.lanes {
		running.Go(func() { l.run(ctx) })
	}
	running.Go(func() { s.read(ctx) })
	running.Go(func() {
		defer end()
		for ctx.Err() == nil && (r.d.Leads == nil || r.d.Leads()) {
			if pause(ctx, leadEvery, changed) {
				return
			}
		}
	})
	running.Wait()
	r.leading.Store(false)
	r.mu.Lock()
	r.lanes = nil
	r.mu.Unlock()
}

// session is one run over a plan.
type session struct {
	d     *Deps
	plan  *Plan
	bell  chan struct{}
	room  int // as Runner has it
	lanes []*lane
	// handing is held for writing from before something is queued in the store until the
	// lanes have it, and for reading by a lane that reads what is queued: it never has a
	// thing from the one that the other gives it again.
	handing sync.RWMutex
}

func (s *session) lane(receiver string) *lane {
	for _, l := range s.lanes {
		if l.r.Name == receiver {
			return l
		}
	}
	return nil
}

// storeWait is between attempts at a store that does not answer.
const storeWait = 2 * time.Second

// asked does something with the store until it works; false when the context ended. It
// logs the first of a row of failures.
func (d *Deps) asked(ctx context.Context, what string, f func(context.Context) error) bool {
	for n := 0; ctx.Err() == nil; n++ {
		err := f(ctx)
		if err == nil {
			if n > 0 {
				d.Log.Info("notify: the store answers again", "for", what)
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		d.Watch.StoreFailed()
		if n == 0 && !errors.Is(err, context.Canceled) {
			d.Log.Warn("notify: the store does not answer; it is asked again until it does", "for", what, "error", err)
		}
		pause(ctx, storeWait, nil)
	}
	return false
}

// pause waits for a time or until the context ends; true when something was closed or
// sent before.
func pause(ctx context.Context, d time.Duration, until <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-until:
		return true
	}
	return false
}
