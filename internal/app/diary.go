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
	pipeline *ingest.Pipeline // set when it is made
	version  string
	roles    []string
	now      func() time.Time
	log      *slog.Logger
	emitter  string
}

func newDiary(cfg *Config, d Deps) *diary {
	var noise [6]byte
	rand.Read(noise[:])
	return &diary{version: d.Version, roles: cfg.Roles, now: d.Now, log: d.Log, emitter: "mcpaudit-service-" + hex.EncodeToString(noise[:])}
}

// started is the start. The pipeline seals it before anything else: what others send is
// received after it, and the silence before it is known to be nobody's.
func (y *diary) started() *event.Event { return y.entry(1, detect.ServiceStarted) }

// begun waits until the start is sealed. It returns when ctx ends, too.
func (y *diary) begun(ctx context.Context) {
	for y.pipeline.Ready() != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stopped notes a clean end; one that is killed has none.
func (y *diary) stopped(ctx context.Context) {
	e := y.entry(2, "mcpaudit/stop")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := y.pipeline.Submit(ctx, []*event.Event{e}, e.Size()); err != nil {
		y.log.Warn("the log has no event of the service's stop", "error", err)
	}
}

func (y *diary) entry(seq uint64, method string) *event.Event {
	var noise [10]byte
	rand.Read(noise[:])
	now := y.now()
	e := &event.Event{
		EventID: event.NewID(now, noise), EmitterID: y.emitter, EmitterSeq: seq, OccurredAt: now.UnixMicro(),
		Principal: "mcpaudit:service", PrincipalKind: "service", Server: "mcpaudit", Kind: "admin", Method: method, Outcome: "success",
		Labels: []event.Label{{Key: "version", Value: y.version}, {Key: "roles", Value: strings.Join(y.roles, ",")}},
	}
	e.SetDefaults()
	e.Clip()
	return e
}
