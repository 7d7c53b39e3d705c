package detect

import (
	"fmt"
	"math"
	"time"
)

// ClockSkew is the settings of the detector "clock_skew": an emitter whose clock is
// wrong, so that its events stand at the wrong time in every search and rule.
//
// The lag of an event is when it was received less when it was completed
// (occurred_at and duration). It is judged over stretches of Sustained and twenty
// events. A clock is ahead when every event of a stretch came more than Ahead
// before it happened. It is behind when every lag is above Behind and the lag
// stands still: it varies by a tenth of the stretch at most, and so does the
// difference between the time that passed here and there. An emitter that sends
// what it kept during an outage has a lag that shrinks, since its times move faster
// than the clock, and an import has times of any speed: both are silent. What is
// always as late by the same time cannot be told from a clock that is behind, and
// is told as such.
//
// Severity is low up to five minutes and medium beyond. The score is the offset in
// seconds. Events that no service has received yet say nothing.
type ClockSkew struct {
	Ahead     time.Duration `key:"ahead" doc:"how far ahead of the service an emitter's clock may be"`
	Behind    time.Duration `key:"behind" doc:"how far behind an emitter's clock may be, delivery included"`
	Sustained time.Duration `key:"sustained" doc:"how long it must last"`
	MaxGroups int           `key:"max_groups" doc:"most emitters in memory; the one that was quiet longest is forgotten"`
}

// DefaultClockSkew allows ten seconds ahead and five minutes behind.
func DefaultClockSkew() *ClockSkew {
	return &ClockSkew{Ahead: 10 * time.Second, Behind: 5 * time.Minute, Sustained: 10 * time.Minute, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *ClockSkew) Validate() error {
	return firstError(
		checkSpan("ahead", c.Ahead, 0, 24*time.Hour),
		checkSpan("behind", c.Behind, time.Second, 30*24*time.Hour),
		checkSpan("sustained", c.Sustained, time.Second, 7*24*time.Hour),
		checkGroups(c.MaxGroups),
	)
}

// New implements Config.
func (c *ClockSkew) New() Detector {
	return &clockSkew{cfg: *c, state: clockSkewState{Groups: Groups[skewStretch]{Most: c.MaxGroups}}}
}

const (
	skewEvents = 20
	skewLow    = int64(5 * time.Minute / time.Microsecond)
	skewJitter = int64(10 * time.Second / time.Microsecond)
)

type clockSkew struct {
	cfg   ClockSkew
	state clockSkewState
}

type clockSkewState struct {
	Groups Groups[skewStretch]
	Names  nameKeys
}

// skewStretch is what an emitter sent since the last judgement. Times are µs.
type skewStretch struct {
	From, First   int64 // when its first event was received, and completed
	Least, Most   int64 // lag
	Events        uint32
	Wrong         bool  // the stretch before was
	Since, Offset int64 // of it: since when, and the lag
}

func (d *clockSkew) State() any          { return &d.state }
func (d *clockSkew) size() (int, uint64) { return d.state.Groups.Len(), d.state.Groups.Evicted }
func (d *clockSkew) Advance(int64, *Out) {}
func (s *skewStretch) begin(at, lag int64) {
	s.From, s.First, s.Least, s.Most, s.Events = at, at-lag, lag, lag, 0
}

func (d *clockSkew) Observe(v *Seen, out *Out) {
	if v.ReceivedAt == 0 {
		return
	}
	k := d.state.Names.of(v, 1, v.EmitterID)
	s, fresh := d.state.Groups.Get(k, v.Clock)
	lag := v.ReceivedAt - v.OccurredAt - int64(min(v.Duration, math.MaxInt64/4))
	if fresh || v.ReceivedAt < s.From {
		s.begin(v.ReceivedAt, lag)
	}
	s.Least, s.Most = min(s.Least, lag), max(s.Most, lag)
	s.Events++
	passed := v.ReceivedAt - s.From
	if s.Events < skewEvents || passed < micros(d.cfg.Sustained) {
		if s.Wrong && out.IsOpen(k) {
			out.Raise(Signal{Group: k, Quiet: true})
		}
		return
	}
	play := max(passed/10, skewJitter)
	there := v.ReceivedAt - lag - s.First // the time that passed by the emitter's clock
	drift := max(there-passed, passed-there)
	switch {
	case s.Most < -micros(d.cfg.Ahead):
		d.wrong(v, out, k, s, s.Most, "ahead", micros(d.cfg.Ahead))
	case s.Least > micros(d.cfg.Behind) && s.Most-s.Least <= play && drift <= play:
		d.wrong(v, out, k, s, s.Least, "behind", micros(d.cfg.Behind))
	default:
		s.Wrong = false
	}
	s.begin(v.ReceivedAt, lag)
}

func (d *clockSkew) wrong(v *Seen, out *Out, k Key, s *skewStretch, lag int64, how string, allowed int64) {
	if !s.Wrong {
		s.Wrong, s.Since = true, s.From
	}
	s.Offset = lag
	off := max(lag, -lag)
	where := sayName(v.Server)
	if v.ServerInstance != "" {
		where += " (instance " + sayName(v.ServerInstance) + ")"
	}
	x := Signal{
		Group: k, Subject: Subject{Tenant: v.Tenant, Server: v.Server, Emitter: v.EmitterID}, Start: min(s.Since, v.At), Severity: Medium,
		Score:    float64(off) / 1e6,
		Reason:   fmt.Sprintf("the clock of emitter %s at %s is %s %s by the service's, since %s at least", sayName(v.EmitterID), where, saySpan(off), how, sayTime(s.Since)),
		Observed: fmt.Sprintf("%s %s, over %s in %s", saySpan(off), how, sayCount(uint64(s.Events), "event"), saySpan(v.ReceivedAt-s.From)),
		Expected: "at most " + saySpan(allowed),
		Workings: []Working{{"least lag", skewSay(s.Least)}, {"most lag", skewSay(s.Most)}},
	}
	if off <= skewLow {
		x.Severity = Low
	}
	out.Raise(x)
}

func skewSay(lag int64) string {
	if lag < 0 {
		return "-" + saySpan(lag)
	}
	return saySpan(lag)
}
