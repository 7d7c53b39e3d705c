package activity

import (
	"context"
	"slices"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

const (
	// patience is for how long an entry is waited for that lacks: on a cluster, it may come
	// after the one that was written after it.
	patience = 30 * time.Second
	// lookAtOthers is how often a log of others is looked at.
	lookAtOthers = time.Minute
)

// stream is one log as the runner's goroutine knows it.
type stream struct {
	logID   string
	foreign bool // another instance writes it, or did

	known bool   // done is right; otherwise the store is asked
	done  uint64 // entries up to this one are added, or have no events
	// The newest range that is written down ends here, and the next one begins behind it,
	// also when entries without events have been passed over since: who begins now does
	// not know that they were, and has to plan the same range.
	planned uint64
	sure    uint64    // the newest range up to here is known to be in all tables
	stuck   time.Time // since when an entry lacks
	seen    time.Time // when a foreign one was looked at
}

// forget makes the store be asked for the newest range, which may be there in part.
func (s *stream) forget() { s.known = false }

// advance adds the next range of a log, if there is one, and says whether there may be
// more.
func (r *Runner) advance(ctx context.Context, s *stream) (more bool, err error) {
	if s.foreign {
		if due, err := r.due(ctx, s); !due || err != nil {
			return false, err
		}
		defer func() {
			if more { // what follows is as old
				s.seen = time.Time{}
			}
		}()
	}
	if !s.known {
		if err := r.resume(ctx, s); err != nil {
			return false, err
		}
	}
	entries, err := r.deps.Store.SealedAfter(ctx, map[string]uint64{s.logID: s.done}, r.cfg.MostBatches)
	if err != nil {
		return false, err
	}
	if len(entries) == 0 {
		r.behind(s.logID, time.Time{})
		return false, nil
	}
	r.behind(s.logID, time.UnixMicro(entries[0].SealedAt))
	next, events, taken := r.choose(s, entries)
	if taken == 0 {
		return false, nil
	}
	if events > 0 {
		if next, err = r.addNext(ctx, s, next); err != nil {
			return false, err
		}
	}
	s.done = next.Last
	// The range may have become a shorter one, or somebody else's longer one.
	left := slices.IndexFunc(entries, func(e store.SealedBatch) bool { return e.Batch > s.done })
	if more = left >= 0 || len(entries) == r.cfg.MostBatches; more {
		r.behind(s.logID, time.UnixMicro(entries[max(left, 0)].SealedAt))
	} else {
		r.behind(s.logID, time.Time{})
	}
	return more, nil
}

// due says whether a log of others is to be looked at: now and then, by the one who
// leads, and when nobody has written to it for long. What was known of it may be old:
// its own instance may have been back meanwhile.
func (r *Runner) due(ctx context.Context, s *stream) (bool, error) {
	now := r.deps.Now()
	if r.deps.Mine != nil && !r.deps.Mine() {
		r.behind(s.logID, time.Time{})
		s.forget()
		return false, nil
	}
	if !s.seen.IsZero() && now.Sub(s.seen) < lookAtOthers {
		return false, nil
	}
	s.forget()
	last, err := r.deps.Store.SealedBefore(ctx, s.logID, now.Add(-r.cfg.Idle))
	if err != nil {
		return false, err
	}
	newer, err := r.deps.Store.SealedAfter(ctx, map[string]uint64{s.logID: last}, 1)
	if err != nil {
		return false, err
	}
	s.seen = now
	return len(newer) == 0, nil
}

// resume finds where the log's ranges end, and adds the newest one again: nobody knows
// what became of it.
func (r *Runner) resume(ctx context.Context, s *stream) error {
	newest, planned, err := r.deps.Store.NewestActivity(ctx, s.logID)
	if err != nil {
		return err
	}
	if planned && newest.Last > s.sure {
		if err := r.addRange(ctx, s, newest, true); err != nil {
			return err
		}
	}
	// What was passed over behind it has no events, and is passed over again.
	s.done, s.planned, s.known = newest.Last, newest.Last, true
	return nil
}

// choose takes entries that follow each other, as many as a range may have. It begins
// behind what is done, also where an entry lacks that nobody waits for any more.
func (r *Runner) choose(s *stream, entries []store.SealedBatch) (next store.ActivityRange, events, taken int) {
	next = store.ActivityRange{LogID: s.logID, First: s.planned + 1, Last: s.done}
	for i, e := range entries {
		if e.Batch > next.Last+1 {
			if i > 0 || !r.givenUp(s, next.Last+1) {
				break // what comes before the hole comes first
			}
		}
		if events > 0 && events+int(e.Events) > r.cfg.MostEvents {
			break
		}
		next.Last, events, taken = e.Batch, events+int(e.Events), i+1
	}
	if taken > 0 {
		s.stuck = time.Time{}
	}
	return next, events, taken
}

// givenUp reports whether an entry has lacked for so long that it is not waited for.
func (r *Runner) givenUp(s *stream, number uint64) bool {
	now := r.deps.Now()
	if s.stuck.IsZero() {
		s.stuck = now
	}
	if now.Sub(s.stuck) < patience {
		return false
	}
	r.deps.Log.Error("activity: what is behind an entry that lacks is added up without it; run 'mcpaudit verify'", "log", s.logID, "entry", number)
	return true
}

// addNext plans a range and adds it, and returns the range that was next: another one,
// when somebody else has planned it.
func (r *Runner) addNext(ctx context.Context, s *stream, next store.ActivityRange) (store.ActivityRange, error) {
	planned, fresh, err := r.deps.Store.PlanActivity(ctx, next, r.deps.Now())
	if err != nil {
		return next, err
	}
	s.planned = planned.Last
	return planned, r.addRange(ctx, s, planned, !fresh)
}

func (r *Runner) addRange(ctx context.Context, s *stream, next store.ActivityRange, again bool) error {
	began := r.deps.Now()
	added, err := r.deps.Store.AddActivity(ctx, next, again, r.deps.Now())
	if err != nil {
		return err
	}
	s.sure = next.Last
	if added.Before > 0 {
		return nil // counted by whoever added it, or it was nobody's to count
	}
	if r.past != nil {
		r.past.events += added.Events
	}
	if r.deps.Watch != nil {
		r.deps.Watch.Added(added.Events, r.deps.Now().Sub(began))
	}
	return nil
}
