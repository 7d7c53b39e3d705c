package notify

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// testPatience is how long a sample may take.
const testPatience = 10 * time.Second

// Result is what came of a sample.
type Result struct {
	Receiver, Kind string
	OK             bool
	Status         int    // HTTP status of the answer; 0 for none
	Error          string // empty when it was taken
	Took           time.Duration
}

// UnknownReceiver says that the plan has no receiver of a name.
type UnknownReceiver struct{ Name, Nearest string }

func (e UnknownReceiver) Error() string {
	return fmt.Sprintf("there is no receiver %q; the nearest is %q", clip(e.Name, maxName), e.Nearest)
}

// Test sends a sample that says it is one to receivers, all when none is named, now and
// at once: quiet hours and limits are not asked. Each has ten seconds. What came of it is
// recorded when the store can be reached, and returned in the plan's order in any case.
// The error is an UnknownReceiver, and nothing was sent then.
func (r *Runner) Test(ctx context.Context, names []string) ([]Result, error) {
	r.mu.Lock()
	plan, senders := r.plan, r.senders
	r.mu.Unlock()
	var known []string
	for i := range plan.Receivers {
		known = append(known, plan.Receivers[i].Name)
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, UnknownReceiver{Name: n, Nearest: event.Nearest(n, known)}
		}
	}
	var chosen []*Receiver
	for i := range plan.Receivers {
		if len(names) == 0 || slices.Contains(names, plan.Receivers[i].Name) {
			chosen = append(chosen, &plan.Receivers[i])
		}
	}
	out := make([]Result, len(chosen))
	rows := make([]store.Notification, len(chosen))
	var sending sync.WaitGroup
	for i, to := range chosen {
		sending.Go(func() { out[i], rows[i] = r.try(ctx, plan, to, senders[to.Name]) })
	}
	sending.Wait()
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	if err := r.d.Store.AppendNotifications(noting, rows); err != nil {
		r.d.Watch.StoreFailed()
		r.d.Log.Warn("notify: the test of receivers can't be recorded", "error", err)
	}
	return out, nil
}

// try sends one sample.
func (r *Runner) try(ctx context.Context, plan *Plan, to *Receiver, s Sender) (Result, store.Notification) {
	ctx, cancel := context.WithTimeout(ctx, testPatience)
	defer cancel()
	now := r.d.Now()
	id := uuid.New()
	n := &message.Notification{ID: id.String(), Receiver: to.Name, Group: "test", Labels: map[string]string{}, At: now,
		Alerts: []message.Alert{plan.sample(to, id, now)}}
	row := store.Notification{At: now, Step: "sent", ID: id, Receiver: to.Name, What: string(message.Test), Attempt: 1}
	res := Result{Receiver: to.Name, Kind: to.Settings.Kind, OK: true}
	status, err := s.Send(ctx, n)
	res.Took, res.Status, row.Status = r.d.Now().Sub(now), status, uint16(status)
	if err != nil {
		res.OK, res.Error = false, clip(err.Error(), mostError)
		row.Step, row.Error = "failed", res.Error
	}
	return res, row
}

// sample is an alert about nothing.
func (p *Plan) sample(to *Receiver, id uuid.UUID, now time.Time) message.Alert {
	at := now.UnixMicro()
	f := detect.Finding{ID: id.String(), Version: 1, Rule: "notify-test", Detector: "custom", Severity: detect.Info,
		Reason:   "This is a test of mcpaudit's notifications. Nothing has happened, and nobody has to do anything.",
		Observed: "a test", Expected: "nothing", Subject: detect.Subject{Tenant: "default", Server: "mcpaudit"},
		StartedAt: at, LastSeenAt: at, EndedAt: at, OpenedAt: at, State: detect.Resolved}
	a := p.alert(to, &State{Finding: f}, message.Test, detect.None, &Deps{})
	a.Title = "test: mcpaudit can reach you here"
	a.About, a.Runbook = "a test of notifications", "Nothing. If a person reads this, the way to them works."
	return a
}
