package detect

import (
	"bytes"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// heldEvent is an event that waits for its turn.
type heldEvent struct {
	turn      int64 // of the engine's clock
	completed int64
	event     *event.Event
}

// longestCall is how long a call may take to count as completed then, and not at its
// start: what an event says of itself must not carry the clock away.
const longestCall = uint64(24 * time.Hour / time.Microsecond)

func hold(e *event.Event) heldEvent {
	completed := e.OccurredAt + int64(min(e.Duration, longestCall))
	if e.ReceivedAt == 0 {
		return heldEvent{completed + lateness, completed, e}
	}
	if serviceStarted(e) {
		return heldEvent{e.ReceivedAt, e.ReceivedAt, e} // nobody may look at the clock before it
	}
	completed = min(completed, e.ReceivedAt) // a clock that is ahead is no reason to wait
	return heldEvent{max(e.ReceivedAt, completed+lateness), completed, e}
}

// before is the order in which events are observed. It knows nothing of how they
// came.
func (a *heldEvent) before(b *heldEvent) bool {
	if a.turn != b.turn {
		return a.turn < b.turn
	}
	if a.completed != b.completed {
		return a.completed < b.completed
	}
	if a.event.OccurredAt != b.event.OccurredAt {
		return a.event.OccurredAt < b.event.OccurredAt
	}
	if c := bytes.Compare(a.event.EventID[:], b.event.EventID[:]); c != 0 {
		return c < 0
	}
	// Ids are made by those who send; an emitter's number is stored once.
	if a.event.EmitterID != b.event.EmitterID {
		return a.event.EmitterID < b.event.EmitterID
	}
	return a.event.EmitterSeq < b.event.EmitterSeq
}

// heldEvents is a binary heap, the next one first. It is container/heap without
// an interface around every element: each event passes through it.
type heldEvents []heldEvent

func (h *heldEvents) push(e heldEvent) {
	*h = append(*h, e)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s[i].before(&s[up]) {
			break
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (h *heldEvents) pop() heldEvent {
	s := *h
	first, last := s[0], len(s)-1
	s[0] = s[last]
	s[last] = heldEvent{}
	s = s[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			break
		}
		if down+1 < last && s[down+1].before(&s[down]) {
			down++
		}
		if !s[down].before(&s[i]) {
			break
		}
		s[i], s[down] = s[down], s[i]
		i = down
	}
	*h = s
	return first
}
