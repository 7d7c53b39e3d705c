package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// window is how many portions of a partition may be under way in the pipeline: so many
// that batches grow to their full size. Memory bounds them before that.
const window = 64

// partition is one that this member has been given. Three goroutines work on it: one
// fetches, one hands events to the pipeline, and one waits until they are settled, in
// order. When one of them fails, all begin again where all is settled.
type partition struct {
	s  *Source
	x  *generation
	id int

	mu    sync.Mutex
	known bool     // at is
	at    position // everything before is settled
	saved position // committed
	stuck bool
	waits bool      // something failed, and nothing was settled since
	said  time.Time // when that was said last
}

func newPartition(x *generation, id int) *partition { return &partition{s: x.s, x: x, id: id} }

// work is a portion of a fetch on its way.
type work struct {
	pending *ingest.Pending
	records []record
	dead    []letter // of the records, those that are no events
	after   position
	lag     int64
}

// run reads the partition until fetching ends, and then settles what is under way, or
// gives it up when working ends.
func (p *partition) run(fetching, working context.Context) {
	defer p.free()
	for wait := firstWait; fetching.Err() == nil; {
		before := p.settled()
		err := p.follow(fetching, working)
		if err == nil || fetching.Err() != nil {
			return
		}
		if p.settled() != before {
			wait = firstWait
		}
		p.failed(err)
		if !pause(fetching, &wait) {
			return
		}
	}
}

// follow reads on from where all is settled until fetching ends or something fails.
func (p *partition) follow(fetching, working context.Context) error {
	at, err := p.begin(fetching, working)
	if err != nil {
		return err
	}
	round, stop := context.WithCancelCause(fetching)
	defer stop(nil)
	under := make(chan work, window)
	var settling sync.WaitGroup
	settling.Go(func() {
		broken := false
		for w := range under {
			if broken {
				continue // its memory is the pipeline's
			}
			if err := p.settle(working, w); err != nil {
				broken = true
				stop(err)
			}
		}
	})
	err = p.read(round, at, under)
	close(under)
	settling.Wait()
	if cause := context.Cause(round); cause != nil && fetching.Err() == nil {
		return cause
	}
	return err
}

// begin finds where to go on, and says so where that is not where it was.
func (p *partition) begin(ctx, working context.Context) (position, error) {
	p.mu.Lock()
	at, known := p.at, p.known
	p.mu.Unlock()
	if !known {
		var err error
		if at, known, err = p.committedPosition(ctx); err != nil {
			return at, err
		}
		if !known {
			first, _, err := p.ends(ctx)
			if err != nil {
				return at, err
			}
			at = start(first)
		}
	}
	to, why, lost, err := p.check(ctx, at)
	if err != nil {
		return at, err
	}
	if why != "" {
		if err := p.s.noteMoved(working, p.id, at.next, to.next, why, lost); err != nil {
			return at, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.known {
		p.saved = at
	}
	p.at, p.known = to, true
	return to, nil
}

// ahead fetches one after the other from an offset on, one more than is taken, until
// ctx ends or it fails; the error comes last.
func (p *partition) ahead(ctx context.Context, next int64) <-chan fetched {
	out := make(chan fetched)
	go func() {
		defer close(out)
		for ctx.Err() == nil {
			f := p.fetch(ctx, next, true)
			next = f.next
			select {
			case out <- f:
			case <-ctx.Done():
			}
			if f.err != nil {
				return
			}
		}
	}()
	return out
}

// read hands over what is fetched until ctx ends or it fails.
func (p *partition) read(ctx context.Context, at position, under chan<- work) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for f := range p.ahead(ctx, at.next) {
		if f.err != nil {
			return f.err
		}
		if f.next == at.next && f.end <= at.next {
			p.s.d.Watch.Lag(p.id, 0)
		}
		if f.lacking > 0 {
			if err := p.s.noteMoved(ctx, p.id, at.next, at.next+f.lacking, compacted, f.lacking); err != nil {
				return err
			}
		}
		records := f.records
		for f.next > at.next {
			part := records[:min(len(records), maxEvents)]
			after := position{next: f.next, last: at.last, print: at.print}
			if n := len(part); n > 0 {
				newest := &part[n-1]
				after = position{next: newest.offset + 1, last: newest.offset, print: fingerprint(newest)}
			}
			if records = records[len(part):]; len(records) == 0 {
				after.next = f.next // behind what is no message
			}
			w := work{records: part, after: after, lag: max(0, f.end-after.next)}
			if err := p.submit(ctx, &w); err != nil {
				return err
			}
			select {
			case under <- w:
			case <-ctx.Done():
				return nil
			}
			at = after
		}
	}
	return nil
}

// maxEvents is how many messages are handed over at once: so few that the memory for
// reading them is found between those that wait for the store.
const maxEvents = 500

// submit hands the events of some messages to the pipeline. It waits for room in
// memory first, which is what holds a partition back.
func (p *partition) submit(ctx context.Context, w *work) error {
	load := loadOf(w.records)
	room, err := p.s.d.Pipeline.Reserve(ctx, load.Memory())
	if err != nil {
		return err
	}
	defer room.Release() // what Start has taken over stays
	events := make([]*event.Event, len(w.records))
	for i := range w.records {
		e, why := decode(&w.records[i])
		if why != nil {
			w.dead = append(w.dead, letter{&w.records[i], why})
			continue
		}
		if p.s.cfg.Shared && string(w.records[i].key) != e.EmitterID {
			w.dead = append(w.dead, letter{&w.records[i], &defect{"wrong_key", "the message's key is not its emitter_id, so that it may be in any partition"}})
			continue
		}
		events[i] = e
	}
	room.Shrink(load.After())
	var until *ingest.Tenure
	if p.s.cfg.Shared {
		until = p.x.tenure
	}
	w.pending, err = room.StartUntil(ctx, events, until)
	return err
}

// settle waits until the events of a fetch are durable and what is no event is in the
// dead-letter topic.
func (p *partition) settle(ctx context.Context, w work) error {
	settled, err := w.pending.Wait(ctx)
	if err != nil {
		return err
	}
	for _, r := range settled.Rejected {
		w.dead = append(w.dead, letter{&w.records[r.Index], &defect{rejection(r), r.Reason.Error()}})
	}
	if len(w.dead) > 0 {
		if err := p.s.bury(ctx, p.id, w.dead); err != nil {
			return err
		}
	}
	p.goesOn(w.after)
	if n := len(w.records); n > 0 {
		p.s.d.Watch.Settled(p.id, n, max(0, p.s.d.Now().Sub(w.records[0].time)))
	}
	p.s.d.Watch.Lag(p.id, w.lag)
	return nil
}

func (p *partition) settled() position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// uncommitted is how far the partition is settled, and whether that is news.
func (p *partition) uncommitted() (position, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.known && p.at != p.saved
}

func (p *partition) committed(at position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.saved = at
}

// failed says what holds the partition up: at once, and then now and then.
func (p *partition) failed(err error) {
	p.s.d.Watch.Failed()
	if errors.Is(err, ingest.ErrUnavailable) || errors.Is(err, context.Canceled) {
		return // the pipeline has said so
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	level := p.s.d.Log.Warn
	if stays(err) {
		if !p.stuck {
			p.said = time.Time{}
			p.s.d.Watch.Stuck(p.id, true)
		}
		p.stuck = true
		level = p.s.d.Log.Error
	}
	p.waits = true
	if now := p.s.d.Now(); now.Sub(p.said) > sayEvery {
		p.said = now
		level("kafka: the partition waits; it is tried again, nothing is passed over, and other partitions go on", "topic", p.s.cfg.Topic, "partition", p.id, "offset", p.at.next, "error", err)
	}
}

const sayEvery = time.Minute

// stays says whether an error is of a kind that does not go away by itself.
func stays(err error) bool {
	var undelivered *undeliverable
	return errors.Is(err, errUnreadable) || errors.Is(err, errInflated) || errors.As(err, &undelivered)
}

// goesOn notes that all before a position is settled.
func (p *partition) goesOn(at position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = at
	if p.waits {
		p.s.d.Log.Info("kafka: the partition goes on", "topic", p.s.cfg.Topic, "partition", p.id, "offset", at.next)
	}
	if p.stuck {
		p.s.d.Watch.Stuck(p.id, false)
	}
	p.waits, p.stuck, p.said = false, false, time.Time{}
}

// free notes that the partition is not this member's any more.
func (p *partition) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stuck {
		p.s.d.Watch.Stuck(p.id, false)
	}
	p.s.d.Watch.Lag(p.id, 0)
}
