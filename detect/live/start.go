package live

import (
	"context"
	"errors"
	"fmt"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// phase is a part of catching up that needs something done at its end.
type phase struct {
	until map[string]uint64 // by log, its last batch
	end   func(ctx context.Context) error
}

// newEngine makes an engine for the runner's share of the work.
func (r *Runner) newEngine(rules []detect.Rule, seed uint64, tell func(detect.Change)) *detect.Engine {
	x := detect.New(rules, seed, tell)
	x.Take(r.cfg.Share)
	return x
}

// leap is by how much the number of a snapshot is ahead of those of another instance
// that did the work before: should that one still write, for a moment, then under numbers
// that are taken for older ones.
const leap = 1000

// begin goes on from the newest snapshot that is whole and that this program can
// read, or begins with what is stored. After an error it may be called again.
func (r *Runner) begin(ctx context.Context) error {
	heads, err := r.d.Store.Snapshots(ctx, r.cfg.reader())
	if err != nil {
		return err
	}
	before, err := r.otherSplit(ctx, heads)
	if err != nil {
		return err
	}
	last, err := r.d.Store.LastTold(ctx, r.cfg.teller())
	if err != nil {
		return err
	}
	r.told = telling{last: last, known: map[string]toldVersion{}, dropped: map[string]bool{}, repeating: true, found: map[string]bool{}}
	r.phases, r.gone = nil, nil
	r.began = r.d.Now().UnixMicro()
	r.save = saving{}
	if r.save.number, err = r.d.Store.LastSnapshot(ctx, r.cfg.reader()); err != nil {
		return err
	}
	if r.cfg.Contended {
		r.save.number += leap
	}
	loaded := false
	if before == nil {
		for _, head := range heads {
			if loaded, err = r.resume(ctx, head); err != nil {
				return err
			} else if loaded {
				break
			}
		}
		before = heads[:min(len(heads), 1)]
	}
	if !loaded {
		if err := r.rebuild(ctx, before); err != nil {
			return err
		}
	}
	r.publish()
	select {
	case <-r.begun:
	default:
		close(r.begun)
	}
	return nil
}

// resume goes on from a snapshot. It returns false when that can't be: it is damaged,
// or of another version of the program.
func (r *Runner) resume(ctx context.Context, head store.Snapshot) (bool, error) {
	state, err := r.d.Store.State(ctx, head)
	if err != nil && !errors.Is(err, store.ErrDamaged) {
		return false, err
	}
	if err == nil {
		err = r.restore(state)
	}
	if err != nil {
		r.d.Log.Warn("a snapshot of the detectors can't be used", "snapshot", head.Number, "written_at", head.WrittenAt, "error", err)
		return false, nil
	}
	// What was told since is told again by the engine, and recognised.
	if err := r.d.Store.ToldAfter(ctx, r.cfg.teller(), head.Told, r.told.knows); err != nil {
		return false, err
	}
	r.save.slot = 1 - head.Slot // this one stays until the next is whole
	r.follow = newFollower(r.d.Store, r.d.Log, r.d.Now, head.Positions, noTime)
	if err := r.findGone(ctx); err != nil {
		return false, err
	}
	r.d.Log.Info("detection goes on from its snapshot", "snapshot", head.Number, "written_at", head.WrittenAt)
	return true, nil
}

// rebuild begins with the stored history. Where no runner was before, what is found
// in it is stored like everything else. Where one was, it has told what there was to
// tell up to its position; history then only brings the detectors to where they were,
// and what is found in it for lack of what was before it is not told. Where those were
// that did the work before, the heads say.
func (r *Runner) rebuild(ctx context.Context, heads []store.Snapshot) error {
	if err := r.d.Store.ToldByAll(ctx, r.told.knows); err != nil {
		return err
	}
	r.rules, r.seed, r.clock = r.cfg.Rules, r.cfg.Seed, 0
	r.engine = r.newEngine(r.rules, r.seed, r.tell)
	now := r.d.Now()
	settled := r.settled(now) // before the ends are read: they are behind it
	r.follow = newFollower(r.d.Store, r.d.Log, r.d.Now, nil, now.Add(-r.cfg.History))
	logs, err := r.d.Store.Logs(ctx)
	if err != nil {
		return err
	}
	ends := map[string]uint64{}
	for _, l := range logs {
		if ends[l.ID], err = r.d.Store.SealedBefore(ctx, l.ID, now); err != nil {
			return err
		}
	}
	r.told.history = len(heads) == 0
	if len(heads) > 0 {
		old := map[string]uint64{} // what all of them had read
		for log, at := range heads[0].Positions {
			old[log] = min(at, ends[log])
			for _, h := range heads[1:] {
				old[log] = min(old[log], h.Positions[log])
			}
		}
		r.told.onlyKnown = true
		r.phases = append(r.phases, phase{old, func(context.Context) error {
			r.told.onlyKnown = false
			return nil
		}})
	}
	r.phases = append(r.phases, phase{ends, func(ctx context.Context) error {
		r.pass(settled) // what history ends with is history too
		if err := r.flush(ctx); err != nil {
			return err
		}
		if err := r.closeLost(ctx, "the detectors had to begin anew and have not found it again"); err != nil {
			return err
		}
		r.told.history = false
		r.save.due = noTime
		return nil
	}})
	r.follow.stopAt(r.phases[0].until)
	r.d.Log.Info("detection begins with stored events", "since", now.Add(-r.cfg.History))
	return nil
}

// nextPhase reports whether a phase of catching up has ended.
func (r *Runner) nextPhase(ctx context.Context) (bool, error) {
	if len(r.phases) == 0 || !r.follow.reached() {
		return false, nil
	}
	if err := r.phases[0].end(ctx); err != nil {
		return false, err
	}
	r.phases = r.phases[1:]
	if len(r.phases) > 0 {
		r.follow.stopAt(r.phases[0].until)
	} else {
		r.follow.stopAt(nil)
	}
	return true, nil
}

// same says whether two rules share their state.
func same(a, b *detect.Rule) bool { return a.Name == b.Name && a.Digest == b.Digest }

func among(rules []detect.Rule, r *detect.Rule) bool {
	for i := range rules {
		if same(&rules[i], r) {
			return true
		}
	}
	return false
}

// findGone notes the rules that have open findings in the store and no state here.
func (r *Runner) findGone(ctx context.Context) error {
	open, err := r.d.Store.OpenFindings(ctx)
	if err != nil {
		return err
	}
	for i := range open {
		if !hasName(r.rules, open[i].Rule) && r.holds(&open[i]) {
			r.noteGone(open[i].Rule)
		}
	}
	return nil
}

func hasName(rules []detect.Rule, name string) bool {
	for i := range rules {
		if rules[i].Name == name {
			return true
		}
	}
	return false
}

func (r *Runner) noteGone(rule string) {
	if r.gone == nil {
		r.gone = map[string]bool{}
	}
	r.gone[rule] = true
}

// closeGone ends the findings of rules that are not in force any more: nothing else
// ever would.
func (r *Runner) closeGone(ctx context.Context) error {
	if len(r.gone) == 0 {
		return nil
	}
	err := r.closeThose(ctx, "its rule was changed or removed", func(f *store.Finding) bool { return r.gone[f.Rule] && !r.kept[f.ID] })
	if err != nil {
		return err
	}
	r.gone, r.kept = nil, nil
	return r.flush(ctx)
}

// closeLost ends the findings that are open in the store and were not found again,
// though all that they were found in is observed. What is told from here on is news.
func (r *Runner) closeLost(ctx context.Context, why string) error {
	t := &r.told
	err := r.closeThose(ctx, why, func(f *store.Finding) bool {
		_, known := t.known[f.ID]
		return known && !t.found[f.ID]
	})
	if err != nil {
		return err
	}
	t.repeating, t.found = false, nil
	return r.flush(ctx)
}

// endRepetition is for when the runner has come to where the one before it was when
// it was killed. What the clock alone had told that one may not be found again: the
// log says that nobody listened then.
func (r *Runner) endRepetition(ctx context.Context) error {
	if !r.told.repeating || r.clock < r.began {
		return nil
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	return r.closeLost(ctx, "the service was away, and the detectors have not found it again")
}

// closeThose tells the end of the open findings that which is true of. All that was
// told must be durable.
func (r *Runner) closeThose(ctx context.Context, why string, which func(*store.Finding) bool) error {
	open, err := r.d.Store.OpenFindings(ctx)
	if err != nil {
		return err
	}
	for i := range open {
		if !r.holds(&open[i]) || !which(&open[i]) {
			continue
		}
		f, err := fromRow(&open[i])
		if err != nil {
			return fmt.Errorf("end finding %s: %w", open[i].ID, err)
		}
		f.Version++
		f.State, f.EndedAt = detect.Resolved, f.LastSeenAt
		f.Reason += " (Ended because " + why + ".)"
		if _, known := r.told.known[f.ID]; known {
			r.told.knows(f.ID, f.Version, false)
		}
		r.told.add(detect.Change{Finding: f}, r.d.Now())
	}
	return nil
}
