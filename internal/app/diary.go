package app

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// lifetime makes the service's start and stop events of the log: between them it heard
// everybody, and outside of them nobody.
type lifetime struct {
	pipeline *ingest.Pipeline // set with diary, when it is made
	diary    *diary.Diary
	labels   map[string]string
	log      *slog.Logger
}

func newLifetime(cfg *Config, d Deps) *lifetime {
	return &lifetime{labels: map[string]string{"version": d.Version, "roles": strings.Join(cfg.Roles, ",")}, log: d.Log}
}

func (l *lifetime) writeTo(p *ingest.Pipeline, now func() time.Time) {
	l.pipeline, l.diary = p, diary.New("service", p, now)
}

// started is the start. The pipeline seals it before anything else: what others send is
// received after it, and the silence before it is known to be nobody's.
func (l *lifetime) started() *event.Event {
	return l.diary.Event(diary.Entry{Method: detect.ServiceStarted, Labels: l.labels})
}

// begun waits until the start is sealed. It returns when ctx ends, too.
func (l *lifetime) begun(ctx context.Context) {
	for l.pipeline.Ready() != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stopped notes a clean end; one that is killed has none.
func (l *lifetime) stopped(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := l.diary.Note(ctx, diary.Entry{Method: "mcpaudit/stop", Labels: l.labels}); err != nil {
		l.log.Warn("the log has no event of the service's stop", "error", err)
	}
}
