package retention

import (
	"context"
	"errors"

	"github.com/mcpaudit/mcpaudit/ingest/diary"
)

// who does something: somebody who was let in, or the service by itself.
type who struct {
	diary.Who
	words string // for the ledger, and for people
}

// schedule is nobody: what has expired is dropped by itself.
var schedule = who{words: "schedule"}

// deed is one thing that was done, or that failed.
type deed struct {
	method, target string
	by             who
	err            error // a refusal, or why it failed
	labels         map[string]string
}

// note makes what retention did an event in the log that people search: the entries of
// the ledger prove it, and few read those. What can't be stored now is stored with the
// next one: the deed is done, and the ledger has it.
func (s *Server) note(ctx context.Context, d deed) {
	e := diary.Entry{Method: d.method, Target: d.target, Labels: d.labels, Who: d.by.Who}
	if d.by.Principal == "" {
		e.Labels = map[string]string{"by": d.by.words}
		for k, v := range d.labels {
			e.Labels[k] = v
		}
	}
	var r *refusal
	switch {
	case errors.As(d.err, &r):
		e.Outcome, e.Words = "denied", r.text
	case d.err != nil:
		e.Outcome, e.Who.ErrorCode, e.Words = "tool_error", "store", "it was begun, and the store failed; the service's log says why"
	}
	// Whoever asked may have gone.
	if err := s.diary.Note(context.WithoutCancel(ctx), e); err != nil {
		s.log.Warn("retention: an event of what was done is not stored yet", "method", d.method, "target", d.target, "error", err)
	}
}
