package live

import (
	"context"
	"errors"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// handover is a set of rules that is ready to be in force.
type handover struct {
	rules  []detect.Rule
	warm   *detect.Engine // has read history up to where follow is; nil when no rule is new
	follow *follower
	done   chan error // has room for one
}

// errBehind means that the runner is not at a point where rules can be taken over.
var errBehind = errors.New("detection is behind")

// Reload puts other rules in force while the runner is running, and returns when they
// are. Those that did not change keep their memory and their open findings. New and
// changed ones learn from stored history first, without telling what they find in it;
// the rules before them stay in force meanwhile. Open findings of rules that are gone
// or changed are ended, but for those that the changed rule finds as well.
//
// It may be called by anybody; one reload is carried out after the other. After an
// error, which is the store's or the context's, the rules in force are those of
// before. Runner's Config.Rules count again at the next start: give them to it.
func (r *Runner) Reload(ctx context.Context, rules []detect.Rule) error {
	return r.putInForce(ctx, rules, false)
}

// putInForce is Reload; with first set, for the rules that were given at the start:
// where others were asked for since then, those stay.
func (r *Runner) putInForce(ctx context.Context, rules []detect.Rule, first bool) (err error) {
	select {
	case <-r.reload:
		defer func() {
			r.reloaded = r.reloaded || !first && err == nil
			r.reload <- struct{}{}
		}()
	case <-ctx.Done():
		return ctx.Err()
	}
	if first && r.reloaded {
		return nil
	}
	select {
	case <-r.begun:
	case <-r.ended:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	h := &handover{rules: rules, done: make(chan error, 1)}
	r.prepare(h)
	for {
		err := r.warmTo(ctx, h)
		if err == nil {
			err = r.hand(ctx, h)
		}
		if !errors.Is(err, errBehind) {
			return err
		}
		select {
		case <-time.After(r.cfg.Poll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hand gives a handover to the runner and waits until it is taken over.
func (r *Runner) hand(ctx context.Context, h *handover) error {
	select {
	case r.handover <- h:
		return <-h.done
	case <-r.ended:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ErrEnded is of a Reload whose runner has ended.
var ErrEnded = errors.New("detection has ended")

// prepare makes an engine for the rules of a handover that are new.
func (r *Runner) prepare(h *handover) {
	r.shared.Lock()
	defer r.shared.Unlock()
	var fresh []detect.Rule
	for i := range h.rules {
		if !among(r.shared.rules, &h.rules[i]) {
			fresh = append(fresh, h.rules[i])
		}
	}
	if len(fresh) == 0 {
		return
	}
	h.warm = r.newEngine(fresh, r.shared.seed, func(detect.Change) {})
	h.warm.Hide()
	h.follow = newFollower(r.d.Store, r.d.Log, r.d.Now, nil, r.d.Now().Add(-r.cfg.History))
}

// closeEnough is how many events the runner itself may have to read when it takes a
// handover over: some tenths of a second.
const closeEnough = mostEvents

// warmTo reads history until the new rules are about where the runner is, which goes
// on meanwhile.
func (r *Runner) warmTo(ctx context.Context, h *handover) error {
	if h.warm == nil {
		return nil
	}
	for {
		r.shared.Lock()
		to := r.shared.positions
		r.shared.Unlock()
		n, err := read(ctx, h.follow, h.warm, to)
		if err != nil || n <= closeEnough {
			return err
		}
	}
}

// read gives an engine the events up to some positions.
func read(ctx context.Context, f *follower, engine *detect.Engine, to map[string]uint64) (n int, err error) {
	f.stopAt(to)
	err = drain(ctx, f, func(events []*event.Event) {
		for _, e := range events {
			engine.Add(e)
		}
		n += len(events)
	})
	return n, err
}

// drain calls give with all events up to where f is to stop. The error is errBehind
// when some of them are not there.
func drain(ctx context.Context, f *follower, give func([]*event.Event)) error {
	for {
		if err := f.poll(ctx, f.now()); err != nil {
			return err
		}
		for {
			events, err := f.next(ctx)
			if err != nil {
				return err
			}
			if events == nil {
				break
			}
			give(events)
		}
		if f.reached() {
			return nil
		}
		if !f.behind() {
			return errBehind
		}
	}
}

// take puts the rules of a handover in force.
func (r *Runner) take(ctx context.Context, h *handover) error {
	if len(r.phases) > 0 || !r.follow.whole() {
		return errBehind
	}
	if h.warm != nil {
		h.follow.looked = noTime // a log may be new
		if _, err := read(ctx, h.follow, h.warm, r.follow.positions()); err != nil {
			return err
		}
		// What this engine still holds back the other one holds back too: they were given
		// the same events and the same clock, so both have observed the same, and the
		// other one goes on.
		h.warm.Advance(r.clock)
	}
	for i := range r.rules {
		if !among(h.rules, &r.rules[i]) {
			r.noteGone(r.rules[i].Name)
		}
	}
	r.kept = r.engine.Replace(h.rules, h.warm)
	r.rules = h.rules
	r.save.due = noTime
	r.publish()
	r.d.Log.Info("rules are in force", "rules", len(r.rules))
	return nil
}

// warmUp puts rules in force that are new since the snapshot, when they have learnt.
func (r *Runner) warmUp(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.putInForce(ctx, r.cfg.Rules, true)
		if err == nil || errors.Is(err, ErrEnded) {
			return
		}
		if ctx.Err() == nil {
			r.d.Log.Error("rules that are new are not in force yet; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
}
