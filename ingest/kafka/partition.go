package kafka

import (
	"context"
	"errors"
	"sync"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// window is how many fetches of a partition may be under way in the pipeline: so many
// that it never waits for the store alone.
const window = 8

// partition is one that this member has been given. Two goroutines work on it: one
// fetches and hands events to the pipeline, the other one waits until they are
// settled, in order. When that fails the first one begins again where all is settled.
type partition struct {
	s   *Source
	id  int
	end int64 // of the partition, as its leader said last; the fetching goroutine's

	mu     sync.Mutex
	known  bool     // at is
	at     position // everything before is settled
	saved  position // committed
	stuck  bool
	reason string // for which it is, or which failed last
}

func newPartition(s *Source, id int) *partition { return &partition{s: s, id: id} }

// work is one fetch on its way.
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

// read fetches and hands over until ctx ends or it fails.
func (p *partition) read(ctx context.Context, at position, under chan<- work) error {
	for ctx.Err() == nil {
		records, next, err := p.fetch(ctx, at.next, true)
		if err != nil {
			return err
		}
		p.goesOn()
		for next > at.next {
			n := portion(records)
			part := records[:n]
			after := position{next: next, last: at.last, print: at.print}
			if n > 0 {
				newest := &part[n-1]
				after = position{next: newest.offset + 1, last: newest.offset, print: fingerprint(newest)}
			}
			if records = records[n:]; len(records) == 0 {
				after.next = next // behind what is no message
			}
			w := work{records: part, after: after, lag: max(0, p.end-after.next)}
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
		if len(records) == 0 && p.end <= at.next {
			p.s.d.Watch.Lag(p.id, 0)
		}
	}
	return nil
}

// maxEvents is how many messages are handed over at once.
const maxEvents = 5000

func portion(records []record) int { return min(len(records), maxEvents) }

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
		events[i] = e
	}
	room.Shrink(load.After())
	var until *ingest.Tenure
	if p.s.cfg.Shared {
		until = p.s.tenure
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
	p.mu.Lock()
	p.at = w.after
	p.mu.Unlock()
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

// failed says what holds the partition up, once for each reason.
func (p *partition) failed(err error) {
	p.s.d.Watch.Failed()
	if errors.Is(err, ingest.ErrUnavailable) || errors.Is(err, context.Canceled) {
		return // the pipeline has said so
	}
	text := err.Error()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == text {
		return
	}
	p.reason = text
	level := p.s.d.Log.Warn
	if stays(err) {
		p.stuck = true
		p.s.d.Watch.Stuck(p.id, true)
		level = p.s.d.Log.Error
	}
	level("kafka: the partition waits; it is tried again, nothing is passed over, and other partitions go on", "topic", p.s.cfg.Topic, "partition", p.id, "offset", p.at.next, "error", err)
}

// stays says whether an error is of a kind that does not go away by itself.
func stays(err error) bool {
	var undelivered *undeliverable
	return errors.Is(err, errUnreadable) || errors.Is(err, errInflated) || errors.As(err, &undelivered)
}

// goesOn notes that the partition can be read.
func (p *partition) goesOn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason != "" && !p.stuck {
		p.s.d.Log.Info("kafka: the partition is read again", "topic", p.s.cfg.Topic, "partition", p.id)
		p.reason = ""
	}
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
