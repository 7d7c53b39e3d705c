// Package diary makes events of what the service itself does, in the log that it
// keeps of others.
package diary

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Recorder makes events durable; *ingest.Pipeline is one.
type Recorder interface {
	Submit(ctx context.Context, events []*event.Event, size int) (ingest.Settled, error)
}

// Diary is one part of the service as an emitter: each run has an id of its own, so
// that its sequence begins anew. Its methods may be called by many goroutines.
type Diary struct {
	emitter, principal string
	record             Recorder
	now                func() time.Time

	turn    chan struct{} // has room for the one who writes
	mu      sync.Mutex
	seq     uint64
	waiting []*event.Event // not known to be stored
}

// New begins the diary of a part of the service, such as "kafka".
func New(part string, record Recorder, now func() time.Time) *Diary {
	var noise [6]byte
	rand.Read(noise[:])
	return &Diary{emitter: "mcpaudit-" + part + "-" + hex.EncodeToString(noise[:]), principal: "mcpaudit:" + part, record: record, now: now, turn: make(chan struct{}, 1)}
}

// Entry is something that was done or that happened.
type Entry struct {
	Method  string // such as mcpaudit/dead_letter
	Target  string // what it was done to
	Outcome string // default success
	Words   string // for people, when it is not a success
	Labels  map[string]string
}

// mostWaiting bounds what waits to be stored.
const mostWaiting = 1000

// Note writes an entry, with those before it that could not be stored, and returns
// when they are durable. After an error it is stored with the next one, unless too
// many wait already. While another entry is written it waits for that one.
func (d *Diary) Note(ctx context.Context, n Entry) error {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		d.mu.Lock()
		full := len(d.waiting) >= mostWaiting
		if !full {
			d.waiting = append(d.waiting, d.next(n))
		}
		size := 0
		copies := make([]*event.Event, len(d.waiting)) // the pipeline makes them its own
		for i, e := range d.waiting {
			c := *e
			c.Labels = slices.Clone(e.Labels)
			copies[i], size = &c, size+e.Size()
		}
		d.mu.Unlock()
		if _, err := d.record.Submit(ctx, copies, size); err != nil {
			return err
		}
		d.mu.Lock()
		d.waiting = d.waiting[len(copies):]
		d.mu.Unlock()
		if !full {
			return nil
		}
	}
}

// Event is an entry that the caller writes himself. Its number is used up.
func (d *Diary) Event(n Entry) *event.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.next(n)
}

func (d *Diary) next(n Entry) *event.Event {
	var noise [10]byte
	rand.Read(noise[:])
	now := d.now()
	d.seq++
	e := &event.Event{
		EventID: event.NewID(now, noise), EmitterID: d.emitter, EmitterSeq: d.seq, OccurredAt: now.UnixMicro(),
		Principal: d.principal, PrincipalKind: "service", Server: "mcpaudit", Kind: "admin", Method: n.Method, Target: n.Target,
		Outcome: n.Outcome, ErrorMessage: n.Words,
	}
	if e.Outcome == "" {
		e.Outcome = "success"
	}
	for k, v := range n.Labels {
		e.Labels = append(e.Labels, event.Label{Key: k, Value: v})
	}
	e.SetDefaults()
	e.SortLabels()
	e.Clip()
	return e
}
