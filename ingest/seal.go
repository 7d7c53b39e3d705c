package ingest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// sealed is a batch on its way to the store, with the requests that wait for it:
// its events, and the entry of the ledger that seals them. Without an entry there
// is nothing to store: its requests were duplicates of batches before it.
type sealed struct {
	batch    store.Batch
	entry    *ledger.Entry
	tags     []byte
	requests []*request
	until    *Tenure // it may be stored until then; nil for ever
	failed   bool    // it was given up
}

// sealer gathers requests into batches. Its fields belong to the goroutine that
// calls run.
//
// A request waits in parked while the sequence of one of its emitters is read
// back from the store; the others pass it by.
type sealer struct {
	p      *Pipeline
	own    *ownLog // for its MACs alone
	logID  string
	last   uint64 // number of the last entry
	clock  int64  // when that was sealed, µs: entries never go back in time
	known  *simplelru.LRU[string, *sequence]
	row    []byte
	parked []*request
	recovery
}

func newSealer(p *Pipeline, l *ownLog, last uint64, sealedAt int64) *sealer {
	// The size is enforced by evict, which knows what may go.
	known, _ := simplelru.NewLRU[string, *sequence](1<<31-1, nil)
	return &sealer{p: p, own: l, logID: l.key.LogID(), last: last, clock: sealedAt, known: known, recovery: newRecovery()}
}

// run gathers and seals until ctx ends.
func (s *sealer) run(ctx context.Context, out chan<- sealed) {
	defer s.close()
	for {
		var ready []*request
		select {
		case <-ctx.Done():
			return
		case r := <-s.p.in:
			ready = s.admit(ctx, r)
		case got := <-s.read:
			ready = s.learn(ctx, got)
		case done := <-s.p.forget:
			s.forget(nil)
			close(done)
		}
		if len(ready) > 0 {
			for _, b := range s.seal(s.gather(ctx, ready)) {
				out <- b
			}
		}
	}
}

// gather collects requests until the batch is full, or old and the writer has
// room for it: under load a batch grows to what arrives while one is written.
// It returns when the writer has room.
func (s *sealer) gather(ctx context.Context, requests []*request) []*request {
	rows := 0
	add := func(more []*request) {
		requests = append(requests, more...)
		for _, r := range more {
			rows += len(r.events)
		}
	}
	first := requests
	requests = nil
	add(first)
	age := time.NewTimer(time.Duration(s.p.age.Load()))
	defer age.Stop()
	var room <-chan struct{} // nil, so never chosen, while the batch is young
	for rows < s.p.cfg.MaxRows {
		select {
		case r := <-s.p.in:
			add(s.admit(ctx, r))
		case got := <-s.read:
			add(s.learn(ctx, got))
		case done := <-s.p.forget:
			requests = s.current(requests)
			s.forget(requests)
			close(done)
		case <-age.C:
			room = s.p.room
		case <-room:
			return requests
		case <-ctx.Done():
			<-s.p.room
			return requests
		}
	}
	<-s.p.room
	return requests
}

// seal drops duplicates and gives every other event its place in the log: in a
// batch of the month in which it expires, of which there are as many as tenants
// differ in how long their events are kept. The requests wait for the last batch.
// Those whose tenure is about to end are refused.
func (s *sealer) seal(requests []*request) []sealed {
	// By a clock that went back, events would expire before their time.
	now := time.UnixMicro(max(s.p.now().UnixMicro(), s.clock))
	var months []*month
	var until *Tenure // of one generation of one source: those of others have ended
	requests = slices.DeleteFunc(requests, func(r *request) bool {
		if r.until == nil || r.until == until {
			return false
		}
		if until == nil && r.until.hold(s.p.now()) {
			until = r.until
			return false
		}
		s.p.refuse(r)
		return true
	})
	if until != nil {
		defer until.release()
	}
	if len(requests) == 0 {
		s.p.room <- struct{}{} // what the writer would have done
		return nil
	}
	for _, r := range requests {
		for i, e := range r.events {
			q, _ := s.known.Get(e.EmitterID)
			switch q.add(e.EmitterSeq) {
			case isDuplicate:
				r.settled.Duplicates++
				continue
			case isGivenUp:
				r.settled.Rejected = append(r.settled.Rejected, Rejection{Index: r.index[i], Gaps: true, Reason: &event.Violation{
					Field: "emitter_seq", Reason: fmt.Sprintf("lies among the oldest of more than %d gaps of the emitter's sequence, where it is not known any more what is stored", store.MaxRuns)}})
				continue
			}
			expires := expiryMonth(now, s.p.cfg.Retention.Months(e.Tenant))
			at := slices.IndexFunc(months, func(m *month) bool { return m.expires == expires })
			if at < 0 {
				at = len(months)
				months = append(months, &month{number: s.last + 1 + uint64(at), expires: expires})
			}
			months[at].add(s, e)
			q.batch = max(q.batch, months[at].number)
			r.settled.Stored++
		}
		r.settled.Progress = s.progress(r)
	}
	var out []sealed
	for _, m := range months {
		s.clock = max(s.clock, now.UnixMicro(), m.received)
		s.last = m.number
		e := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, LogID: s.logID, Batch: m.number, SealedAt: s.clock,
			Schema: event.Schema, Events: uint32(len(m.events)), Root: ledger.Root(m.leaves), ExpiresMonth: m.expires}
		// The contents are part of the name: a number that is used again after a crash,
		// for other events, must not be taken for the first one.
		out = append(out, sealed{batch: store.Batch{Events: m.events, Token: fmt.Sprintf("%s/%d/%x", s.logID, m.number, e.Root[:16]), MAC: s.own.mac(e)}, entry: e, tags: store.Tags(m.leaves), until: until})
		if until != nil {
			until.again() // until the writer has done with it
		}
	}
	for _, r := range requests {
		if r.entry == nil {
			continue
		}
		s.clock = max(s.clock, now.UnixMicro())
		s.last++
		r.entry.Batch, r.entry.SealedAt, r.entry.LogID = s.last, s.clock, s.logID
		out = append(out, sealed{entry: r.entry})
	}
	if len(out) == 0 {
		out = append(out, sealed{})
	}
	out[len(out)-1].requests = requests
	s.evict()
	return out
}

// month gathers the events of a batch.
type month struct {
	number   uint64
	expires  uint16
	events   []*event.Event
	leaves   []ledger.Hash
	received int64 // the latest of them
}

func (m *month) add(s *sealer, e *event.Event) {
	e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = s.logID, m.number, uint32(len(m.events)), m.expires
	m.events = append(m.events, e)
	s.row = event.AppendRow(s.row[:0], e)
	m.leaves = append(m.leaves, ledger.Leaf(s.row))
	m.received = max(m.received, e.ReceivedAt)
}

// progress of each emitter of a request, in the order of first mention. It is
// true once this batch is durable, which is when it is sent.
func (s *sealer) progress(r *request) []Progress {
	var out []Progress
	last := ""
	seen := map[string]bool{}
	for _, e := range r.events {
		if e.EmitterID == last || seen[e.EmitterID] {
			continue
		}
		last = e.EmitterID
		seen[last] = true
		q, _ := s.known.Get(last)
		out = append(out, Progress{last, q.contiguous(), q.highest()})
	}
	return out
}

// evict forgets the emitters that were silent longest. One whose events are not
// durable yet stays: reading it back from the store would miss them. So does one
// that a parked request waits for.
func (s *sealer) evict() {
	for range s.known.Len() - s.p.cfg.Emitters {
		emitter, q, _ := s.known.GetOldest()
		if q.batch > s.p.settledBatch.Load() {
			return
		}
		if q.waited > 0 {
			s.known.Get(emitter) // that makes it the newest
			continue
		}
		s.known.RemoveOldest()
	}
}

// current refuses the requests whose tenure has ended: others may have been given
// their events, and what is known of their emitters may be old.
func (s *sealer) current(requests []*request) []*request {
	return slices.DeleteFunc(requests, func(r *request) bool {
		if r.until == nil || !r.until.Ended() {
			return false
		}
		r.letGo()
		s.p.refuse(r)
		return true
	})
}

// forget has all sequences read anew but those of which something is under way, such
// as the requests that are about to be sealed.
func (s *sealer) forget(about []*request) {
	s.epoch++
	s.parked = s.current(s.parked)
	needed := map[string]bool{}
	for _, r := range about {
		for _, e := range r.events {
			needed[e.EmitterID] = true
		}
	}
	for _, emitter := range s.known.Keys() {
		if q, _ := s.known.Peek(emitter); q.batch <= s.p.settledBatch.Load() && q.waited == 0 && !needed[emitter] {
			s.known.Remove(emitter)
		}
	}
}

// lastMonth is the last one that a ClickHouse Date can say (2149-06-06).
var lastMonth = time.Date(2149, 6, 1, 0, 0, 0, 0, time.UTC)

// expiryMonth is the first day, counted from 1970-01-01, of the month in which
// events received now expire.
func expiryMonth(now time.Time, months int) uint16 {
	now = now.UTC()
	// One month more: an event of the 30th is kept its whole last month.
	first := time.Date(now.Year(), now.Month()+time.Month(months)+1, 1, 0, 0, 0, 0, time.UTC)
	if first.After(lastMonth) {
		first = lastMonth
	}
	return uint16(first.Unix() / 86400)
}
