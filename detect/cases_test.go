package detect

import (
	"fmt"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// alarm is a detector that raises a signal for every event.
type alarm struct{ state struct{ N int } }

func (a *alarm) Validate() error     { return nil }
func (a *alarm) New() Detector       { return &alarm{} }
func (a *alarm) State() any          { return &a.state }
func (a *alarm) Advance(int64, *Out) {}
func (a *alarm) Observe(v *Seen, out *Out) {
	out.Raise(Signal{Group: v.Who, Subject: Subject{Tenant: v.Tenant, Principal: v.Principal}, Start: v.At, Score: 1, Reason: "r", Observed: "o", Expected: "e"})
}

// told keeps the newest version of each finding, and what was told twice.
type told struct {
	last   map[string]Finding
	twice  []string
	opened int
}

func (o *told) tell(c Change) {
	if o.last == nil {
		o.last = map[string]Finding{}
	}
	if old, ok := o.last[c.ID]; ok && c.Version != old.Version+1 {
		o.twice = append(o.twice, fmt.Sprintf("%s: version %d after %d", c.ID, c.Version, old.Version))
	}
	if c.Version == 1 {
		o.opened++
	}
	o.last[c.ID] = c.Finding
}

// feedAlarm raises signals of so many tenants, each with so many principals.
func feedAlarm(quiet time.Duration, tenants, principals int) *told {
	var o told
	x := New([]Rule{feedRule(&alarm{}, quiet)}, 1, o.tell)
	n := 0
	for p := range principals {
		for i := range tenants {
			n++
			e := received(time.Duration(n)*100*time.Microsecond, call(0, fmt.Sprint("p", p), "s", "t"))
			e.Tenant = fmt.Sprint("tenant", i)
			e.EventID = event.ID{0: byte(n >> 16), 1: byte(n >> 8), 2: byte(n)}
			x.Add(e)
		}
	}
	x.Finish()
	return &o
}

func TestAFloodIsOneFindingForEachTenant(t *testing.T) {
	o := feedAlarm(time.Hour, 2, 3000)
	if o.opened != 2*(floodAfter+1) {
		t.Errorf("%d findings are opened", o.opened)
	}
	for _, f := range o.last {
		if f.State != Resolved {
			t.Errorf("%s stays open", f.ID)
		}
	}
}

// Tenants come from events. However many there are, and however short findings stay
// open, no more are told in an hour than somebody could read.
func TestAFloodOfTenantsIsOneFinding(t *testing.T) {
	o := feedAlarm(time.Second, 60_000, 1)
	if o.opened > 25_000 {
		t.Errorf("%d findings are opened within an hour", o.opened)
	}
}

// What is told as open is told as resolved, also when there are too many to keep.
func TestWhatOpensIsResolved(t *testing.T) {
	o := feedAlarm(time.Hour, 3000, 8)
	open := 0
	for _, f := range o.last {
		if f.State != Resolved {
			open++
		}
	}
	if open > 0 || len(o.twice) > 0 {
		t.Errorf("%d of %d findings stay open for ever; %d are told twice", open, len(o.last), len(o.twice))
	}
}

// A finding that was resolved is over. When it starts again while its detector still
// remembers how it began, it is one finding that goes on, not the same id told anew.
func TestAFindingThatIsResolvedDoesNotBeginAgainUnderItsID(t *testing.T) {
	cfg := DefaultCustom()
	cfg.Condition, cfg.Window, cfg.Threshold, cfg.GroupBy = `outcome == "success"`, time.Hour, 3, []string{"principal"}
	var events []*event.Event
	for _, at := range []time.Duration{0, 10 * time.Second, 20 * time.Second, 5 * time.Minute, 6 * time.Minute, 20 * time.Minute} {
		events = append(events, received(at, call(0, "p", "s", "t")))
	}
	for name, cfg := range map[string]Config{"custom": cfg} {
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		feedNumber(events)
		var o told
		x := New([]Rule{feedRule(cfg, time.Minute)}, 1, o.tell)
		for _, e := range events {
			x.Add(e)
		}
		x.Finish()
		if len(o.twice) > 0 {
			t.Errorf("%s: %v", name, o.twice)
		}
	}
}
