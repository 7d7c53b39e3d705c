package retention

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// diary makes what retention does an event in the log that people search: the
// entries of the ledger prove it, and few read those. It belongs to the turn.
type diary struct {
	emitter string
	seq     uint64
	waiting []*event.Event // not acknowledged yet
}

func newDiary() diary {
	var noise [6]byte
	rand.Read(noise[:])
	return diary{emitter: "mcpaudit-retention-" + hex.EncodeToString(noise[:])}
}

// deed is one thing that was done, or that failed.
type deed struct {
	method, target, by string
	err                error // a refusal, or why it failed
	labels             map[string]string
}

// note records a deed. What can't be stored now is stored with the next one: the
// deed is done, and the ledger has it.
func (s *Server) note(ctx context.Context, d deed) {
	var random [10]byte
	rand.Read(random[:])
	now := s.now()
	s.seq++
	e := &event.Event{
		EventID: event.NewID(now, random), EmitterID: s.emitter, EmitterSeq: s.seq, OccurredAt: now.UnixMicro(),
		Principal: "mcpaudit:retention", PrincipalKind: "service", OnBehalfOf: []string{d.by}, Server: "mcpaudit",
		Kind: "admin", Method: d.method, Target: d.target, Outcome: "success",
	}
	var r *refusal
	switch {
	case errors.As(d.err, &r):
		e.Outcome, e.ErrorMessage = "denied", r.text
	case d.err != nil:
		e.Outcome, e.ErrorCode, e.ErrorMessage = "tool_error", "store", "it was begun, and the store failed; the service's log says why"
	}
	for k, v := range d.labels {
		e.Labels = append(e.Labels, event.Label{Key: k, Value: v})
	}
	e.SetDefaults()
	e.SortLabels()
	e.Clip()
	s.waiting = append(s.waiting, e)
	// Whoever asked may have gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	size := 0
	var events []*event.Event
	for _, e := range s.waiting { // copies: the pipeline makes them its own
		c := *e
		events, size = append(events, &c), size+e.Size()
	}
	if _, err := s.record.Submit(ctx, events, size); err != nil {
		s.log.Warn("retention: an event of what was done is not stored yet", "method", d.method, "target", d.target, "error", err)
		return
	}
	s.waiting = nil
}
