package findings

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// diary makes what people do an event in the log. It belongs to a turn.
type diary struct {
	record  Recorder
	emitter string
	seq     uint64
	now     func() time.Time
	log     *slog.Logger
	// waiting are events of which it is not known whether they are stored. They are
	// sent again, as they are, before others: the emitter's sequence has no hole then,
	// which would be a finding.
	waiting []*event.Event
}

func newDiary(name string, r Recorder, now func() time.Time, log *slog.Logger) *diary {
	var noise [6]byte
	rand.Read(noise[:])
	return &diary{record: r, emitter: name + "-" + hex.EncodeToString(noise[:]), now: now, log: log}
}

// deed is one thing that somebody does.
type deed struct {
	method, target, tenant string
	who                    *auth.Access      // whom the guard let in; what a request says of it counts for nothing
	labels                 map[string]string // those that are empty are left out
	note                   string            // what they say about it; it is the event's arguments, which have room
	failure                string            // why it failed; empty when it did not
}

// entry is the event of a deed at a time. Its id is also that of the step.
func (d *diary) entry(w deed, at time.Time) *event.Event {
	var random [10]byte
	rand.Read(random[:])
	d.seq++
	e := &event.Event{
		EventID: event.NewID(at, random), EmitterID: d.emitter, EmitterSeq: d.seq, OccurredAt: at.UnixMicro(), Tenant: w.tenant,
		Principal: w.who.ID, PrincipalName: w.who.Name, PrincipalKind: w.who.Kind, AuthMethod: w.who.Method, CredentialID: w.who.Credential,
		ClientIP: w.who.Address, UserAgent: w.who.UserAgent,
		Server: "mcpaudit", Kind: "admin", Method: w.method, Target: w.target, Outcome: "success",
	}
	if w.failure != "" {
		e.Outcome, e.ErrorMessage = "tool_error", w.failure
	}
	if w.note != "" {
		text, _ := json.Marshal(map[string]string{"note": w.note}) // a text can always be marshalled
		e.Arguments = string(text)
	}
	for k, v := range w.labels {
		if v != "" {
			e.Labels = append(e.Labels, event.Label{Key: k, Value: v})
		}
	}
	e.SetDefaults()
	e.Clip()
	return e
}

// logPatience is how long the log may take.
const logPatience = 10 * time.Second

// open makes sure that the log can be written, before anything is done. The error is
// a status.
func (d *diary) open(ctx context.Context) error {
	if len(d.waiting) == 0 {
		return nil
	}
	return d.submit(ctx)
}

// enter puts the events of a deed that is about to be done in the log. After an error,
// which is a status, it must not be done: that it was not is then said in the log as
// well, when the log can be written again.
func (d *diary) enter(ctx context.Context, events []*event.Event, undone deed) error {
	d.waiting = append(d.waiting, events...)
	err := d.submit(ctx)
	if err != nil {
		d.waiting = append(d.waiting, d.entry(undone, d.now()))
	}
	return err
}

// note puts what was done, or failed, in the log, now or with the next deed.
func (d *diary) note(ctx context.Context, w deed) {
	d.waiting = append(d.waiting, d.entry(w, d.now()))
	if err := d.submit(ctx); err != nil {
		d.log.Warn("an event of what was done is not stored yet", "method", w.method, "target", w.target)
	}
}

// submit makes durable what waits. The error is a status.
func (d *diary) submit(ctx context.Context) error {
	// Whoever asked may have gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logPatience)
	defer cancel()
	copies, size := make([]*event.Event, len(d.waiting)), 0
	for i, e := range d.waiting { // the pipeline makes them its own
		c := *e
		copies[i], size = &c, size+e.Size()
	}
	settled, err := d.record.Submit(ctx, copies, size)
	if err != nil {
		d.log.Error("the log did not take an event of what was asked for", "error", err)
		return status.Error(codes.Unavailable, "the log can't be written to now, and nothing is done that it does not have; try again in a moment")
	}
	d.waiting = nil
	if len(settled.Rejected) > 0 { // it would be again
		d.log.Error("the log refused an event of what was asked for", "reason", settled.Rejected[0].Reason)
		return status.Error(codes.Internal, "the log refused the record of this, so it is not done; the service's log says why")
	}
	return nil
}

// stepID is the id of the step whose event this is.
func stepID(e *event.Event) uuid.UUID { return uuid.UUID(e.EventID) }
