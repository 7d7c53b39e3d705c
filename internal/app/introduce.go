package app

import (
	"context"
	"log/slog"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/rpc"
)

// introductions note which credential writes as which emitter, once for each pair in a
// run of the service: events themselves say what their emitter says, and this who it was.
type introductions struct {
	notes auth.Notes
	log   *slog.Logger
	known *lru.Cache[[2]string, struct{}] // identity and emitter
	fresh chan diary.Entry
}

const (
	mostIntroduced  = 50_000
	mostIntroducing = 1000
)

func newIntroductions(notes auth.Notes, log *slog.Logger) *introductions {
	known, _ := lru.New[[2]string, struct{}](mostIntroduced) // the size is positive
	return &introductions{notes: notes, log: log, known: known, fresh: make(chan diary.Entry, mostIntroducing)}
}

// Run notes them until ctx ends. It holds up no event.
func (i *introductions) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-i.fresh:
			if err := i.notes.Note(ctx, n); err != nil && ctx.Err() == nil {
				i.log.Warn("which credential writes as an emitter is noted later", "error", err)
			}
		}
	}
}

// introduced is a writer whose emitters are introduced.
type introduced struct {
	rpc.Admission
	to   *introductions
	who  *auth.Access
	last string // emitter of the event before
}

// Admit lets an event in; then its emitter is known.
func (w *introduced) Admit(e *event.Event) error {
	if err := w.Admission.Admit(e); err != nil {
		return err
	}
	if e.EmitterID != w.last {
		w.last = e.EmitterID
		w.to.introduce(w.who, e)
	}
	return nil
}

func (i *introductions) introduce(who *auth.Access, e *event.Event) {
	if _, ok := i.known.Get([2]string{who.ID, e.EmitterID}); ok {
		return
	}
	emitter := strings.Clone(e.EmitterID) // an event's texts lie in its request, which would be kept for this
	n := diary.Entry{Kind: "auth", Method: "mcpaudit/publish", Target: emitter, Labels: map[string]string{"server": strings.Clone(e.Server)}, Who: who.Who()}
	select {
	case i.fresh <- n:
		i.known.Add([2]string{who.ID, emitter}, struct{}{})
	default: // with a later event
	}
}
