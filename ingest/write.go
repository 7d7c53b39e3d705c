package ingest

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Parts above which commits are paced: each insert makes a part, and merging
// falls behind when they are made faster than it works.
const crowdedParts = 300

// write appends the events of batches, one batch after the other, until batches
// is closed, and passes them on to be sealed. A batch that fails is tried again until
// it is stored: whether the failed attempt was stored is not known, and its
// deduplication token makes trying again safe. Everything behind it waits, and
// callers are told ErrUnavailable meanwhile.
//
// Once ctx has ended a failing batch is given up, and with it every batch behind
// it: their duplicates and their progress count on it, and the log has no holes.
// Their callers are not acknowledged.
//
// From time to time it looks whether somebody else writes the same log, and calls
// fail then.
func (p *Pipeline) write(ctx context.Context, log string, last uint64, batches <-chan sealed, stored chan<- sealed, fail context.CancelCauseFunc) {
	defer close(stored)
	paced, looked, gaveUp := time.Time{}, p.now(), false
	for b := range batches {
		if len(b.requests) > 0 { // the last batch of those that were gathered together
			p.room <- struct{}{}
		}
		if n := len(b.batch.Events); !gaveUp && n > 0 {
			start := p.now()
			gaveUp = !p.append(ctx, b, fail)
			if !gaveUp {
				last = max(last, b.entry.Batch)
				p.watch.Committed(n, p.now().Sub(start))
				b.batch.Events = nil
			}
		}
		if b.until != nil {
			b.until.release()
		}
		b.failed = gaveUp
		for _, r := range b.requests { // what is stored takes no memory while it is sealed
			r.memory.shrink(0)
			r.events = nil
		}
		stored <- b
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

// append stores a batch, and says whether it is stored. A batch with a tenure that
// does not last for another attempt is given up, and with it this run: the attempts
// before may have stored it.
func (p *Pipeline) append(ctx context.Context, b sealed, fail context.CancelCauseFunc) bool {
	if b.until == nil {
		return p.insist(ctx, appending, len(b.batch.Events), func(ctx context.Context) error { return p.store.Append(ctx, b.batch) })
	}
	ended := false
	stored := p.insist(ctx, appending, len(b.batch.Events), func(ctx context.Context) error {
		if ended = !b.until.try(p.now()); ended {
			fail(ErrTenureEnded)
			return nil
		}
		defer b.until.tried()
		ctx, cancel := context.WithTimeout(ctx, b.until.within)
		defer cancel()
		return p.store.Append(ctx, b.batch)
	})
	return stored && !ended
}

// notarise seals what was stored, and then tells the callers: what is acknowledged
// is in the ledger. While it seals, the next batch is stored, so a crash leaves at
// most a few batches that are stored and not sealed, none of them acknowledged;
// the next start seals them. All that waits is sealed with one insert.
func (p *Pipeline) notarise(ctx context.Context, l *ownLog, stored <-chan sealed, fail context.CancelCauseFunc) error {
	gaveUp := false
	var broken error
	for b := range stored {
		batches := []sealed{b}
		for more := true; more && len(batches) < maxSealed; {
			select {
			case b, ok := <-stored:
				if more = ok; ok {
					batches = append(batches, b)
				}
			default:
				more = false
			}
		}
		var entries []unsigned
		for _, b := range batches {
			if b.entry != nil && !b.failed && !gaveUp {
				entries = append(entries, unsigned{b.entry, b.tags})
			}
			gaveUp = gaveUp || b.failed
		}
		if len(entries) > 0 && broken == nil {
			if broken = p.commit(ctx, l, entries); broken != nil {
				gaveUp = true
				fail(broken)
			}
		}
		p.settle(l, batches, broken)
	}
	return broken
}

// maxSealed is how many batches are sealed with one insert.
const maxSealed = 100

// commit signs entries and makes them durable. The error is one of the context,
// or of a key that does not sign.
func (p *Pipeline) commit(ctx context.Context, l *ownLog, entries []unsigned) error {
	rows, err := l.sign(entries)
	if err != nil {
		return err
	}
	rival := false
	if !p.insist(ctx, sealing, len(rows), func(ctx context.Context) error { return p.store.Seal(ctx, rows) }) {
		return ErrUnavailable
	}
	// Nobody is told of a checkpoint beside which there is another one.
	if !p.insist(ctx, sealing, len(rows), func(ctx context.Context) error {
		err := p.store.Alone(ctx, rows)
		if errors.Is(err, store.ErrSealedTwice) {
			rival = true
			return nil
		}
		return err
	}) {
		return ErrUnavailable
	}
	if rival {
		return ErrRival
	}
	last := rows[len(rows)-1]
	l.newest.Store(&checkpoint{last.Checkpoint, last.Entry.Batch})
	p.settledBatch.Store(last.Entry.Batch)
	return nil
}

// settle answers the requests of batches.
func (p *Pipeline) settle(l *ownLog, batches []sealed, broken error) {
	newest := l.newest.Load()
	for _, b := range batches {
		for _, r := range b.requests {
			if b.failed || broken != nil {
				r.err = ErrUnavailable
			}
			r.settled.LogID, r.settled.Checkpoint, r.settled.Size = l.key.LogID(), newest.signed, newest.size
			p.answer(r)
		}
	}
}

// What is done to the store; each can fail while the other works.
const (
	appending = 1 << iota
	sealing
)

var doing = map[int]string{appending: "append of events", sealing: "append to the ledger"}

// insist tries until the store has done it, or fails after ctx has ended, and says
// whether it was done.
func (p *Pipeline) insist(ctx context.Context, what, rows int, do func(context.Context) error) bool {
	wait := 100 * time.Millisecond
	for {
		// The work outlives ctx: at shutdown the last batches are written.
		work, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		overdue := p.watchFor(what, rows)
		err := do(work)
		overdue()
		cancel()
		if err == nil {
			if p.health.set(what, false) {
				p.log.Info("the store takes events again")
			}
			return true
		}
		p.watch.StoreFailed()
		if p.health.set(what, true) {
			p.log.Error("the store does not take events; emitters are told to wait and to send again", "doing", doing[what], "rows", rows, "error", err)
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
func (p *Pipeline) watchFor(what, rows int) (end func()) {
	said := make(chan struct{})
	t := time.AfterFunc(overdueAfter, func() {
		defer close(said)
		if p.health.set(what, true) {
			p.log.Error("the store has not answered; emitters are told to wait and to send again", "doing", doing[what], "rows", rows, "for", overdueAfter)
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
