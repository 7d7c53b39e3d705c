package detect

import (
	"fmt"
	"time"
)

// Change is one thing that is told of a finding.
type Change struct {
	Finding
	// Worse is set when somebody who has seen the version before has to look again:
	// it is new, or its severity rose.
	Worse bool
}

// Out is where a detector says what it has found.
type Out struct {
	v     *Seen // the event under observation; nil in Advance
	clock int64
	cases *cases
	tell  func(Change)
}

const (
	updateEvery = int64(time.Minute / time.Microsecond) // an open finding that grows is told again so often
	floodWindow = int64(time.Hour / time.Microsecond)
	// floodAfter is how many findings a rule may open for a tenant in an hour. Nobody
	// reads more; what comes beyond is one finding that counts.
	floodAfter = 1000
	maxOpen    = 10_000 // findings of one rule that are open at a time
)

// cases are the findings of one rule that are open, and how many there were of late.
type cases struct {
	rule   *Rule
	hidden bool // the rule is warming up on history: what it opens is not told

	Open  Groups[openCase]
	Flood map[string]*flood // by tenant; those of this hour
	Past  Groups[int64]     // by group, the latest start of a finding that is resolved
}

type openCase struct {
	Finding  Finding
	ToldAt   int64 // clock of the last telling
	ToldSize uint64
	Hidden   bool
}

// flood counts a tenant's new findings within an hour.
type flood struct {
	Hour   int64
	Opened int
	More   uint64 // signals of groups that got none of their own
	Since  int64
}

func newCases(r *Rule) *cases {
	return &cases{rule: r, Open: Groups[openCase]{Most: maxOpen + 1000}, Flood: map[string]*flood{}, Past: Groups[int64]{Most: maxOpen}}
}

// Raise opens a finding for the signal's group, or updates the one that is open.
func (o *Out) Raise(s Signal) {
	c := o.cases
	if o.v != nil && s.Last == 0 {
		s.Last = o.v.At
	}
	if s.Severity == None {
		s.Severity = c.rule.Severity
	}
	if x := c.Open.Peek(s.Group); x != nil {
		c.Open.Get(s.Group, o.clock)
		o.update(x, &s)
		return
	}
	if s.Quiet {
		return // what went on is over and resolved
	}
	tenant, f := c.floodOf(s.Subject.Tenant, o.clock)
	if f.Opened >= floodAfter || c.Open.Len() >= maxOpen {
		o.flooded(tenant, f, &s)
		return
	}
	f.Opened++
	o.open(&s)
}

// IsOpen reports whether a finding of the group is open.
func (o *Out) IsOpen(group Key) bool { return o.cases.Open.Peek(group) != nil }

func (o *Out) open(s *Signal) {
	c, r := o.cases, o.cases.rule
	if c.Open.Len() >= c.Open.Most { // flooded by many tenants: what was told has an end all the same
		c.Open.Each(func(k Key, _ int64, oldest *openCase) bool {
			o.end(k, oldest)
			c.Open.Delete(k)
			return false
		})
	}
	// The detector may still remember how the group's last finding began. That one is
	// over, and its id is not told again.
	if over := c.Past.Peek(s.Group); over != nil && s.Start <= *over {
		if s.Start, s.Before = s.Last, nil; s.Start <= *over {
			s.Start = max(o.clock, *over+1)
		}
	}
	x, _ := c.Open.Get(s.Group, o.clock)
	x.Hidden = c.hidden
	x.Finding = Finding{
		ID: findingID(r.Name, &s.Subject, s.Start), Rule: r.Name, Detector: r.Detector, Subject: s.Subject,
		StartedAt: s.Start, OpenedAt: o.clock, State: Open,
	}
	for _, id := range s.Before {
		x.Finding.addEvidence(id)
	}
	x.take(s, o.v)
	o.told(x, true)
}

func (o *Out) update(x *openCase, s *Signal) {
	worse := s.Severity > x.Finding.Severity && !s.Quiet
	x.take(s, o.v)
	if s.Quiet {
		return
	}
	// Once a minute, or when it has become ten times what was told.
	if worse || o.clock-x.ToldAt >= updateEvery || x.Finding.Events >= 10*max(x.ToldSize, 10) {
		o.told(x, worse)
	}
}

// take makes a signal part of the finding. What it says last stands, but a finding
// never becomes less severe.
func (x *openCase) take(s *Signal, v *Seen) {
	f := &x.Finding
	f.LastSeenAt = max(f.LastSeenAt, s.Last, f.StartedAt)
	if v != nil {
		f.addEvidence(v.EventID)
	} else {
		f.Events += s.Counts
	}
	if s.Quiet {
		return
	}
	f.Severity, f.Score = max(f.Severity, s.Severity), max(f.Score, s.Score)
	f.Reason, f.Observed, f.Expected, f.Workings = s.Reason, s.Observed, s.Expected, s.Workings
}

func (o *Out) told(x *openCase, worse bool) {
	x.Finding.Version++
	x.ToldAt, x.ToldSize = o.clock, x.Finding.Events
	if !x.Hidden {
		f := x.Finding
		f.EventIDs = append(f.EventIDs[:0:0], f.EventIDs...) // it goes on growing here
		o.tell(Change{f, worse})
	}
}

// goOn makes findings that were told by another form of the rule this one's to tell.
func (c *cases) goOn(old *cases, kept map[string]bool) {
	told := map[string]*openCase{}
	old.Open.Each(func(_ Key, _ int64, x *openCase) bool {
		if !x.Hidden {
			told[x.Finding.ID] = x
		}
		return true
	})
	c.Open.Each(func(_ Key, _ int64, x *openCase) bool {
		if o := told[x.Finding.ID]; o != nil {
			x.Hidden, x.ToldAt, x.ToldSize = false, o.ToldAt, o.ToldSize
			x.Finding.Version, x.Finding.OpenedAt = o.Finding.Version, o.Finding.OpenedAt
			x.Finding.Severity = max(x.Finding.Severity, o.Finding.Severity)
			kept[x.Finding.ID] = true
		}
		return true
	})
}

// resolve ends the findings that have been quiet since before clock.
func (c *cases) resolve(clock int64, tell func(Change)) {
	o := &Out{clock: clock, cases: c, tell: tell}
	quiet := clock - int64(c.rule.ResolveAfter/time.Microsecond)
	c.Open.Expire(quiet, o.end)
	c.Past.Expire(clock-farthest, nil) // no detector remembers longer
	for tenant, f := range c.Flood {
		if clock >= (f.Hour+1)*floodWindow {
			delete(c.Flood, tenant)
		}
	}
}

// end resolves an open finding. It is forgotten by the caller.
func (o *Out) end(k Key, x *openCase) {
	x.Finding.State, x.Finding.EndedAt = Resolved, x.Finding.LastSeenAt
	o.told(x, false)
	over, _ := o.cases.Past.Get(k, o.clock)
	*over = max(*over, x.Finding.StartedAt)
}

// mostTenants bounds the tenants whose findings are counted for themselves.
const mostTenants = 10_000

// floodOf is the count of a tenant, and for whom it counts: what is one tenant's trick
// must not become another one's memory, so tenants beyond a bound share that of the
// tenant without a name.
func (c *cases) floodOf(tenant string, clock int64) (string, *flood) {
	hour := clock / floodWindow
	f := c.Flood[tenant]
	if f == nil && len(c.Flood) >= mostTenants {
		tenant = ""
		f = c.Flood[tenant]
	}
	if f == nil || f.Hour != hour {
		f = &flood{Hour: hour}
		c.Flood[tenant] = f
	}
	return tenant, f
}

// flooded counts a signal that gets no finding of its own.
func (o *Out) flooded(tenant string, f *flood, s *Signal) {
	if f.More == 0 {
		f.Since = s.Start
	}
	f.More++
	r := o.cases.rule
	all := *s
	all.Group, all.Subject, all.Start, all.Before = Key{0, uint64(f.Hour)}, Subject{Tenant: tenant}, f.Since, nil
	all.Group = all.Group.With(Key{uint64(len(tenant)), hashText(tenant)})
	all.Reason = fmt.Sprintf("rule %s opened %d findings within an hour; %d more signals have none of their own. The newest: %s", r.Name, f.Opened, f.More, s.Reason)
	all.Observed, all.Expected = fmt.Sprintf("%d more signals", f.More), fmt.Sprintf("at most %d findings an hour", floodAfter)
	all.Workings = nil
	if x := o.cases.Open.Peek(all.Group); x != nil {
		o.cases.Open.Get(all.Group, o.clock)
		o.update(x, &all)
		return
	}
	o.open(&all)
}

// hashText is FNV-1a.
func hashText(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
