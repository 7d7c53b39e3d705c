package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// diary makes the service's start and stop events of the log: between them it heard
// everybody, and outside of them nobody.
type diary struct {
	pipeline *ingest.Pipeline
	version  string
	roles    []string
	now      func() time.Time
	log      *slog.Logger
	emitter  string
	seq      uint64
}

func newDiary(p *ingest.Pipeline, cfg *Config, d Deps) *diary {
	var noise [6]byte
	rand.Read(noise[:])
	return &diary{pipeline: p, version: d.Version, roles: cfg.Roles, now: d.Now, log: d.Log, emitter: "mcpaudit-service-" + hex.EncodeToString(noise[:])}
}

// started waits until the log takes events, and notes the start as the first of them
// that this service writes.
func (y *diary) started(ctx context.Context) {
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for y.pipeline.Ready() != nil {
		select {
		case <-wait.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	y.note(wait, detect.ServiceStarted)
}

// stopped notes a clean end; one that is killed has none.
func (y *diary) stopped(ctx context.Context) { y.note(ctx, "mcpaudit/stop") }

func (y *diary) note(ctx context.Context, method string) {
	var noise [10]byte
	rand.Read(noise[:])
	y.seq++
	now := y.now()
	e := &event.Event{
		EventID: event.NewID(now, noise), EmitterID: y.emitter, EmitterSeq: y.seq, OccurredAt: now.UnixMicro(),
		Principal: "mcpaudit:service", PrincipalKind: "service", Server: "mcpaudit", Kind: "admin", Method: method, Outcome: "success",
		Labels: []event.Label{{Key: "version", Value: y.version}, {Key: "roles", Value: strings.Join(y.roles, ",")}},
	}
	e.SetDefaults()
	e.Clip()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := y.pipeline.Submit(ctx, []*event.Event{e}, e.Size()); err != nil {
		y.log.Warn("the log has no event of the service's start or stop", "method", method, "error", err)
	}
}
