package ingest

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// room is the memory that requests under way may take together. Who pays for a request
// is what else is bounded: one payer never has more than three quarters of it, and
// those of his requests that wait do so behind each other. So another one finds room
// at once as a rule, and else behind one request of each of the others, however many
// they send.
type room struct {
	all  *semaphore.Weighted
	most int64 // of one payer

	mu     sync.Mutex
	payers map[string]*payer // of which a request is under way, or waits
}

// payer is one who has requests under way. Requests that nobody pays for, as those of
// the service itself, have none.
type payer struct {
	name     string
	turn     chan struct{} // has room for the one request that waits for memory
	share    *semaphore.Weighted
	requests int // that hold it; under room.mu
}

func newRoom(bytes int64) *room {
	return &room{all: semaphore.NewWeighted(bytes), most: max(bytes/4*3, 1), payers: map[string]*payer{}}
}

// hold is what a request has of the room. It belongs to one goroutine at a time.
type hold struct {
	room  *room
	payer *payer // nil for nobody
	held  int64
	owed  int64 // of the payer's share: held, but no more than the share
}

// take waits for room. The error is ctx's.
func (m *room) take(ctx context.Context, name string, bytes int64) (hold, error) {
	h := hold{room: m, held: bytes}
	if name == "" {
		return h, m.all.Acquire(ctx, bytes)
	}
	p := m.join(name)
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		m.leave(p)
		return hold{}, ctx.Err()
	}
	h.payer, h.owed = p, min(bytes, m.most)
	if err := p.share.Acquire(ctx, h.owed); err != nil {
		m.leave(p)
		return hold{}, err
	}
	if err := m.all.Acquire(ctx, bytes); err != nil {
		p.share.Release(h.owed)
		m.leave(p)
		return hold{}, err
	}
	return h, nil
}

// try is take, when there is room at once.
func (m *room) try(name string, bytes int64) (hold, bool) {
	h := hold{room: m, held: bytes}
	if name == "" {
		return h, m.all.TryAcquire(bytes)
	}
	p := m.join(name)
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
		h.payer, h.owed = p, min(bytes, m.most)
		if p.share.TryAcquire(h.owed) {
			if m.all.TryAcquire(bytes) {
				return h, true
			}
			p.share.Release(h.owed)
		}
	default:
	}
	m.leave(p)
	return hold{}, false
}

func (m *room) join(name string) *payer {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.payers[name]
	if p == nil {
		p = &payer{name: name, turn: make(chan struct{}, 1), share: semaphore.NewWeighted(m.most)}
		m.payers[name] = p
	}
	p.requests++
	return p
}

func (m *room) leave(p *payer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.requests--; p.requests == 0 {
		delete(m.payers, p.name)
	}
}

// shrink gives back what is beyond bytes; all of it with 0. It may be called again.
func (h *hold) shrink(bytes int64) {
	if h.room == nil || bytes > 0 && bytes >= h.held {
		return
	}
	h.room.all.Release(h.held - bytes)
	h.held = bytes
	if h.payer == nil {
		return
	}
	if owed := min(bytes, h.room.most); owed < h.owed {
		h.payer.share.Release(h.owed - owed)
		h.owed = owed
	}
	if bytes == 0 {
		h.room.leave(h.payer)
		*h = hold{}
	}
}
