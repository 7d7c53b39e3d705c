package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
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

func newLifetime(cfg *Config, d Deps) (*lifetime, error) {
	digest, err := cfg.digest()
	if err != nil {
		return nil, err
	}
	return &lifetime{labels: map[string]string{"version": d.Version, "roles": strings.Join(cfg.Roles, ","), "config": digest}, log: d.Log}, nil
}

// digest is of the settings, without secrets, and of the files of access, rules,
// redaction and receivers: a start with another one than the start before was a change of what the
// service does.
func (c *Config) digest() (string, error) {
	h := sha256.New()
	c.Dump(h)
	for _, name := range append([]string{c.Access.File, c.Redact.Profile, c.Notify.File}, c.Detect.Rules...) {
		if name == "" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("read what the settings name: %w", err)
		}
		_, err = io.Copy(h, io.LimitReader(f, 64<<20))
		f.Close()
		if err != nil {
			return "", fmt.Errorf("read what the settings name: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
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
func (l *lifetime) begun(ctx context.Context) { awaitReady(ctx, l.pipeline) }

func awaitReady(ctx context.Context, p *ingest.Pipeline) {
	for p.Ready() != nil {
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
