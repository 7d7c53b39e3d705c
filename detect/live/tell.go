package live

import (
	"context"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// noTime is a time that is always over.
var noTime time.Time

// telling is what becomes of the changes that the engine tells: those that the store
// has are left out, the others get a number and wait until they are durable.
type telling struct {
	last    uint64 // seq of the newest
	pending []Told // not durable yet
	sent    int    // how many of them were sent and not acknowledged
	// known are the newest stored versions, by finding, of what may be told again. While
	// repeating is set it is told again; after that, what is told is news, also when the
	// engine has come to another number.
	known     map[string]toldVersion
	repeating bool
	// history is set while what is found was stored before there was a runner.
	history bool
	// onlyKnown is set while only findings that the store has are told: others are for
	// lack of what was before the history. Those are in dropped until they are resolved.
	onlyKnown bool
	dropped   map[string]bool
	found     map[string]bool // what was found while repeating; nil otherwise
}

// toldVersion is a version that the store has.
type toldVersion struct {
	number uint32
	open   bool
}

// knows notes that the store has a version.
func (t *telling) knows(id string, version uint32, open bool) {
	t.known[id] = toldVersion{version, open}
}

// tell is the engine's way to say what was found.
func (r *Runner) tell(c detect.Change) {
	t := &r.told
	if t.found != nil {
		t.found[c.ID] = true
	}
	stored, known := t.known[c.ID]
	ends := c.State == detect.Resolved
	if known && ends {
		delete(t.known, c.ID)
	}
	switch {
	case !known && t.onlyKnown:
		t.dropped[c.ID] = true
	case known && c.Version <= stored.number:
		if t.repeating && !(ends && stored.open) {
			return
		}
		if c.Version = stored.number + 1; !ends {
			t.known[c.ID] = toldVersion{c.Version, true}
		}
	}
	if t.dropped[c.ID] {
		if c.State == detect.Resolved {
			delete(t.dropped, c.ID)
		}
		return
	}
	t.add(c, r.d.Now())
}

func (t *telling) add(c detect.Change, at time.Time) {
	t.last++
	t.pending = append(t.pending, Told{Change: c, Seq: t.last, At: at, History: t.history})
}

// flush makes durable what was found, and then tells it.
func (r *Runner) flush(ctx context.Context) error {
	t := &r.told
	for len(t.pending) > 0 {
		n := min(len(t.pending), store.MaxFindings)
		rows := make([]store.Finding, n)
		for i := range rows {
			rows[i] = toRow(&t.pending[i])
			rows[i].Teller = r.cfg.teller()
		}
		// After an error the same rows are sent again: more may have come behind them,
		// and the store knows an insert by all of its rows.
		if t.sent == 0 {
			t.sent = n
		}
		if err := r.d.Store.AppendFindings(ctx, rows[:t.sent]); err != nil {
			return err
		}
		done := t.pending[:t.sent]
		t.pending, t.sent = t.pending[t.sent:], 0
		for i := range done {
			r.d.Watch.Told(done[i].Severity, done[i].Version == 1)
			if r.d.Tell != nil {
				r.d.Tell(done[i])
			}
		}
	}
	t.pending = nil
	return nil
}

// toRow is a version as the store keeps it.
func toRow(t *Told) store.Finding {
	f := &t.Finding
	row := store.Finding{
		Seq: t.Seq, ToldAt: t.At.UnixMicro(), ID: f.ID, Version: f.Version, Worse: t.Worse,
		Rule: f.Rule, Detector: f.Detector, Severity: f.Severity.String(), Score: f.Score,
		Reason: f.Reason, Observed: f.Observed, Expected: f.Expected,
		Tenant: f.Tenant, Principal: f.Principal, AgentID: f.AgentID, SessionID: f.SessionID, TraceID: f.TraceID,
		Server: f.Server, Target: f.Target, EmitterID: f.Emitter,
		StartedAt: f.StartedAt, LastSeenAt: f.LastSeenAt, EndedAt: f.EndedAt, OpenedAt: f.OpenedAt,
		Events: f.Events, EventIDs: f.EventIDs, State: f.State, History: t.History,
	}
	for _, w := range f.Workings {
		row.Workings = append(row.Workings, store.Working(w))
	}
	return row
}

// FindingOf is the finding of a stored version.
func FindingOf(row *store.Finding) (detect.Finding, error) { return fromRow(row) }

// fromRow is what toRow made a row of.
func fromRow(row *store.Finding) (detect.Finding, error) {
	severity, err := detect.ParseSeverity(row.Severity)
	f := detect.Finding{
		ID: row.ID, Version: row.Version, Rule: row.Rule, Detector: row.Detector, Severity: severity, Score: row.Score,
		Reason: row.Reason, Observed: row.Observed, Expected: row.Expected,
		Subject: detect.Subject{Tenant: row.Tenant, Principal: row.Principal, AgentID: row.AgentID, SessionID: row.SessionID,
			TraceID: row.TraceID, Server: row.Server, Target: row.Target, Emitter: row.EmitterID},
		StartedAt: row.StartedAt, LastSeenAt: row.LastSeenAt, EndedAt: row.EndedAt, OpenedAt: row.OpenedAt,
		Events: row.Events, EventIDs: row.EventIDs, State: row.State,
	}
	for _, w := range row.Workings {
		f.Workings = append(f.Workings, detect.Working(w))
	}
	return f, err
}
