package ingest

import (
	"context"
	"math/rand/v2"
	"time"
)

// Parts above which commits are paced: each insert makes a part, and merging
// falls behind when they are made faster than it works.
const crowdedParts = 300

// write appends batches, one after the other, until batches is closed. A batch
// that fails is tried again until it is stored: whether the failed attempt was
// stored is not known, and its deduplication token makes trying again safe.
// Everything behind it waits, and callers are told ErrUnavailable meanwhile.
//
// Once ctx has ended a failing batch is given up, and with it every batch behind
// it: their duplicates and their progress count on it, and the log has no holes.
// Their callers are not acknowledged.
//
// From time to time it looks whether somebody else writes the same log, and calls
// fail then.
func (p *Pipeline) write(ctx context.Context, log string, last uint64, batches <-chan sealed, fail context.CancelCauseFunc) {
	paced, looked, gaveUp := time.Time{}, p.now(), false
	for b := range batches {
		p.room <- struct{}{}
		if !gaveUp && len(b.batch.Events) > 0 {
			gaveUp = !p.append(ctx, b)
		}
		if gaveUp {
			for _, r := range b.requests {
				r.err = ErrUnavailable
			}
		}
		p.settledBatch.Store(b.number)
		if !gaveUp {
			last = max(last, b.number)
		}
		for _, r := range b.requests {
			p.memory.Release(r.weight)
			close(r.done)
		}
		if now := p.now(); now.Sub(paced) > time.Second {
			paced = now
			p.pace(ctx)
		}
		if now := p.now(); now.Sub(looked) > rivalPause {
			looked = now
			look, cancel := context.WithTimeout(ctx, rivalPause)
			if other, err := p.store.Rival(look, log, last, time.Time{}); err == nil && other != "" {
				fail(ErrRival)
			}
			cancel()
		}
	}
}

func (p *Pipeline) append(ctx context.Context, b sealed) bool {
	wait := 100 * time.Millisecond
	for {
		start := p.now()
		// The append outlives ctx: at shutdown the last batches are written.
		work, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		overdue := p.watchFor(len(b.batch.Events))
		err := p.store.Append(work, b.batch)
		overdue()
		cancel()
		if err == nil {
			if p.health.set(false) {
				p.log.Info("the store takes events again")
			}
			p.watch.Committed(len(b.batch.Events), p.now().Sub(start))
			return true
		}
		p.watch.StoreFailed()
		if p.health.set(true) {
			p.log.Error("the store does not take events; emitters are told to wait and to send again", "batch", b.number, "events", len(b.batch.Events), "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait + rand.N(wait/2)):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// overdueAfter is how long an append may take before callers are told that the
// store does not take events: a disk that hangs reports no error.
const overdueAfter = 10 * time.Second

// watchFor tells callers when an append takes too long. The returned function ends
// the watch; what it has said is true until the append returns.
func (p *Pipeline) watchFor(events int) (end func()) {
	said := make(chan struct{})
	t := time.AfterFunc(overdueAfter, func() {
		defer close(said)
		if p.health.set(true) {
			p.log.Error("the store has not answered an append; emitters are told to wait and to send again", "events", events, "for", overdueAfter)
		}
	})
	return func() {
		if !t.Stop() {
			<-said
		}
	}
}

// pace makes batches wait longer when the store has many parts to merge.
func (p *Pipeline) pace(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	parts, err := p.store.Parts(ctx)
	if err != nil {
		return
	}
	age := p.cfg.MaxAge
	if parts > crowdedParts {
		age = min(time.Duration(uint64(age)*parts/crowdedParts*2), time.Second)
	}
	p.age.Store(int64(age))
}
