package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

const (
	entriesAtOnce = 2000     // entries of a log that are asked for at once
	chunkBytes    = 32 << 20 // memory of the events of a log that are read at once, about
	firstEvents   = 200      // before it is known how large they are
	mostEvents    = 32_000
	// patience is for how long a runner waits for what should be there: entries without
	// holes, and the events of a batch. On a cluster a part may come after the one that
	// was written after it. What does not come by then was tampered with, which verify
	// finds and names; it must not stop detection.
	patience = 30 * time.Second
	// lookForLogs is how often the list of logs is read: well within the margin.
	lookForLogs = 250 * time.Millisecond
)

// follower reads the logs of a store in the order of receipt. It belongs to one
// goroutine. After an error its methods may be called again.
type follower struct {
	store   History
	log     *slog.Logger
	now     func() time.Time
	since   time.Time // where a log begins that has no position
	known   map[string]uint64
	streams []*stream // in the order in which the logs were started
	until   map[string]uint64
	looked  time.Time
	target  int // events that are read at once
	patient time.Duration
}

// stream is one log.
type stream struct {
	logID   string
	done    uint64 // its batches up to this one were given out
	read    uint64 // … were read: what is not given out is in events
	sealed  int64  // when batch read was sealed, µs
	events  []*event.Event
	waiting []store.SealedBatch // sealed and not read
	more    bool                // the ledger has, or may have, entries behind those
	stuck   time.Time           // since when something that should be there is not
}

// newFollower starts behind the positions; a log that has none is read from its first
// batch that was sealed since.
func newFollower(s History, log *slog.Logger, now func() time.Time, positions map[string]uint64, since time.Time) *follower {
	return &follower{store: s, log: log, now: now, known: positions, since: since, target: firstEvents, patient: patience}
}

// stopAt makes what is behind these batches invisible; nil ends that. A log that is
// not among them is not read.
func (f *follower) stopAt(until map[string]uint64) { f.until = until }

// poll looks for new entries.
func (f *follower) poll(ctx context.Context, now time.Time) error {
	if err := f.findLogs(ctx, now); err != nil {
		return err
	}
	after := map[string]uint64{}
	for _, s := range f.streams {
		if len(s.waiting) > 0 {
			s.more = true // it is not asked now, and nobody knows what has come since
			continue
		}
		if s.more = false; f.until == nil || s.read < f.until[s.logID] {
			after[s.logID] = s.read
		}
	}
	if len(after) == 0 {
		return nil
	}
	entries, err := f.store.SealedAfter(ctx, after, entriesAtOnce)
	if err != nil {
		return err
	}
	found := map[string][]store.SealedBatch{}
	for _, b := range entries {
		found[b.LogID] = append(found[b.LogID], b)
	}
	for _, s := range f.streams {
		f.expect(s, found[s.logID])
	}
	return nil
}

// expect takes entries of a log up to the first that can't be taken yet.
func (f *follower) expect(s *stream, entries []store.SealedBatch) {
	for i, b := range entries {
		next := s.read + uint64(len(s.waiting)) + 1
		switch {
		case f.until != nil && b.Batch > f.until[s.logID]:
			return
		case b.Batch < next:
			continue // sealed twice: verify finds it
		case b.Batch > next && len(s.waiting) > 0:
			s.more = true // those before the hole come first
			return
		case b.Batch > next:
			if !f.giveUp(s, fmt.Sprintf("entry %d of log %q", next, s.logID)) {
				return
			}
			s.read = b.Batch - 1
		}
		s.waiting = append(s.waiting, b)
		s.more = i == entriesAtOnce-1
	}
}

// giveUp reports whether something has lacked for so long that it is not waited for.
func (f *follower) giveUp(s *stream, what string) bool {
	if s.stuck.IsZero() {
		s.stuck = f.now()
	}
	if f.now().Sub(s.stuck) < f.patient {
		return false
	}
	s.stuck = time.Time{}
	f.log.Error("detection goes on without what lacks; run 'mcpaudit verify'", "lacking", what)
	return true
}

// findLogs adds the logs that are new.
func (f *follower) findLogs(ctx context.Context, now time.Time) error {
	if f.looked != (time.Time{}) && now.Sub(f.looked) < lookForLogs {
		return nil
	}
	logs, err := f.store.Logs(ctx)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, s := range f.streams {
		have[s.logID] = true
	}
	for _, l := range logs {
		if have[l.ID] {
			continue
		}
		at, ok := f.known[l.ID]
		if !ok && !f.since.IsZero() {
			if at, err = f.store.SealedBefore(ctx, l.ID, f.since); err != nil {
				return err
			}
		}
		f.streams = append(f.streams, &stream{logID: l.ID, done: at, read: at})
	}
	f.looked = now
	return nil
}

// next returns the events that come next, in the order of receipt; nil when there
// are none without another poll.
func (f *follower) next(ctx context.Context) ([]*event.Event, error) {
	full, blocked := 0, false
	for _, s := range f.streams {
		for len(s.events) == 0 && len(s.waiting) > 0 {
			stuck, err := f.fill(ctx, s)
			if err != nil {
				return nil, err
			}
			if stuck {
				return nil, nil
			}
		}
		if len(s.events) > 0 {
			full++
		} else {
			s.done = s.read
			blocked = blocked || s.more
		}
	}
	if full == 0 || blocked {
		return nil, nil
	}
	if full == 1 {
		for _, s := range f.streams {
			if events := s.events; len(events) > 0 {
				s.events, s.done = nil, s.read
				return events, nil
			}
		}
	}
	var out []*event.Event
	for {
		var first *stream
		for _, s := range f.streams { // a few: those of one store
			if len(s.events) > 0 && (first == nil || s.events[0].ReceivedAt < first.events[0].ReceivedAt) {
				first = s
			}
		}
		if first == nil {
			return out, nil
		}
		out = append(out, first.events[0])
		if first.events = first.events[1:]; len(first.events) > 0 {
			continue
		}
		first.events = nil
		if first.done = first.read; len(first.waiting) > 0 || first.more {
			return out, nil // what comes next may be earlier than what the others have
		}
	}
}

// fill reads the next batches of a log. stuck is true when their events are not all
// there yet.
func (f *follower) fill(ctx context.Context, s *stream) (stuck bool, err error) {
	n, total := 0, 0
	for n < len(s.waiting) && (n == 0 || total+int(s.waiting[n].Events) <= f.target) {
		total += int(s.waiting[n].Events)
		n++
	}
	batches := s.waiting[:n]
	events, lacking, err := f.store.EventsOf(ctx, batches)
	if errors.Is(err, store.ErrTooMuch) && n > 1 {
		f.target = total / 8 // they are larger than those before
		return f.fill(ctx, s)
	}
	if err != nil {
		return false, err
	}
	if lacking > 0 && !f.expired(batches) {
		if n > 1 {
			f.target = total / 8 // those before the one that lacks some need not wait for it
			return f.fill(ctx, s)
		}
		if !f.giveUp(s, fmt.Sprintf("%d events of batch %d of log %q", lacking, batches[0].Batch, s.logID)) {
			return true, nil
		}
	}
	s.stuck = time.Time{}
	size := 0
	for _, e := range events {
		size += e.Size()
	}
	if len(events) > 0 {
		f.target = min(max(chunkBytes/(size/len(events)+1), 1), mostEvents)
	}
	s.events, s.read, s.sealed = events, batches[n-1].Batch, batches[n-1].SealedAt
	if s.waiting = s.waiting[n:]; len(s.waiting) == 0 {
		s.waiting = nil
	}
	return false, nil
}

// expired says whether events of the batches may have been dropped by retention.
func (f *follower) expired(batches []store.SealedBatch) bool {
	today := f.now().Unix() / 86400
	for _, b := range batches {
		if int64(b.Expires) <= today {
			return true
		}
	}
	return false
}

// behind says whether another poll finds more at once.
func (f *follower) behind() bool {
	for _, s := range f.streams {
		if s.more && len(s.waiting) == 0 && len(s.events) == 0 {
			return true
		}
	}
	return false
}

// finished says whether everything that could be taken was given out, and nothing
// that should be there lacks.
func (f *follower) finished() bool {
	for _, s := range f.streams {
		if len(s.waiting) > 0 || s.more || !s.stuck.IsZero() {
			return false
		}
	}
	return f.whole()
}

// whole says whether all that was read was given out.
func (f *follower) whole() bool {
	for _, s := range f.streams {
		if len(s.events) > 0 {
			return false
		}
	}
	return true
}

// reached says whether all logs have come to where they are to stop.
func (f *follower) reached() bool {
	for _, s := range f.streams {
		if s.done < f.until[s.logID] {
			return false
		}
	}
	return f.looked != (time.Time{})
}

// positions are the last batches that were given out, by log. They say where the
// follower is when it is whole.
func (f *follower) positions() map[string]uint64 {
	p := make(map[string]uint64, len(f.known)+len(f.streams))
	for log, at := range f.known {
		p[log] = at
	}
	for _, s := range f.streams {
		p[s.logID] = s.done
	}
	return p
}

// sealedAt is when the newest batch that was read was sealed, µs.
func (f *follower) sealedAt() (at int64) {
	for _, s := range f.streams {
		at = max(at, s.sealed)
	}
	return at
}
