package detect

import (
	"fmt"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// EmitterSilent is the settings of the detector "emitter_silent": a server or an
// emitter that used to send and has gone quiet, as OWASP MCP08 has it.
//
// A server (all its emitters) or an emitter is quiet when nothing came for Factor
// times its longest usual pause, and for Least at any rate. The longest usual pause
// is the second longest of the daily maxima of two weeks (the longest, until two
// weeks are known), so that one outage does not count, and nights and weekends do.
// Who pauses at night and is known for less than eight days may have a weekend
// first. Where four weeks are known, it is also quiet when twelve hours (or twice
// as many as ever) have passed that had events in three of the last four weeks: a
// working day and a half, so that a holiday is silent.
//
// A server that is quiet is medium, or low where nights and weekends are part of
// its rhythm, since a longer holiday looks the same. An emitter alone is low, and
// all of a server's are one finding; it is not told when its server has a newer
// emitter, which has taken its place, nor when the whole server is quiet. Who has
// sent for less than a day or fewer than 100 events is never told: commands and
// tests end. Acts of mcpaudit itself (kinds admin and finding) are no regular
// sending.
//
// The score is the silence divided by what was allowed. No emitter says that it
// ends for good; one that was taken down is told once.
type EmitterSilent struct {
	Least     time.Duration `key:"least" doc:"silence that is never remarkable"`
	Factor    float64       `key:"factor" doc:"times the longest usual pause that are remarkable"`
	MaxGroups int           `key:"max_groups" doc:"most emitters in memory; the one that was quiet longest is forgotten"`
}

// DefaultEmitterSilent waits for a quarter of an hour at least.
func DefaultEmitterSilent() *EmitterSilent {
	return &EmitterSilent{Least: 15 * time.Minute, Factor: 4, MaxGroups: 20_000}
}

// Validate implements Config.
func (c *EmitterSilent) Validate() error {
	return firstError(checkSpan("least", c.Least, time.Minute, 30*24*time.Hour), checkRatio("factor", c.Factor, 1, 1000), checkGroups(c.MaxGroups))
}

// New implements Config.
func (c *EmitterSilent) New() Detector {
	most := Groups[sender]{Most: c.MaxGroups}
	return &emitterSilent{cfg: *c, state: emitterSilentState{Emitters: most, Servers: most, Gone: most}}
}

type emitterSilent struct {
	cfg   EmitterSilent
	ended bool
	state emitterSilentState
}

type emitterSilentState struct {
	Emitters, Servers Groups[sender]
	Gone              Groups[sender] // of both: judged, and not heard since
	Names             nameKeys
	Next              int64 // clock of the next look
}

// sender is a server or an emitter.
type sender struct {
	Norm           silenceNorm
	Tenant, Server string
	Emitter        string // empty for a server
	Home           Key
	Newest         int64    // of a server: when its newest emitter was first heard
	ID             event.ID // of the last event
	Due            int64    // 0: not worked out since the last event
	Away           int64    // µs for which the service was away since the last event
	Habit          bool
}

const silenceLook = int64(time.Minute / time.Microsecond)

func (d *emitterSilent) State() any { return &d.state }

func (d *emitterSilent) size() (groups int, evicted uint64) {
	for _, g := range []*Groups[sender]{&d.state.Emitters, &d.state.Servers, &d.state.Gone} {
		groups, evicted = groups+g.Len(), evicted+g.Evicted
	}
	return groups, evicted
}

// end says that the input has ended: silence after it says nothing.
func (d *emitterSilent) end() { d.ended = true }

// absent counts as no silence what the service itself did not hear.
func (d *emitterSilent) absent(from, to int64) {
	for _, among := range []*Groups[sender]{&d.state.Emitters, &d.state.Servers} {
		among.Each(func(_ Key, _ int64, s *sender) bool {
			s.Norm.Last += to - from
			s.Away += to - from
			s.Due = 0
			return true
		})
	}
	d.state.Next = min(d.state.Next, to+micros(d.cfg.Least))
}

func (d *emitterSilent) Observe(v *Seen, _ *Out) {
	// What the service notes comes when somebody calls it; see ingest/diary.
	if v.Kind == "admin" || v.Kind == "finding" || v.Kind == "auth" && strings.HasPrefix(v.Method, "mcpaudit/") {
		return
	}
	server, _ := d.sender(&d.state.Servers, v.Home.With(Key{1}), v, "")
	emitter, fresh := d.sender(&d.state.Emitters, d.state.Names.of(v, 1, v.Tenant, v.EmitterID), v, v.EmitterID)
	if fresh {
		server.Newest = v.Clock
	}
	server.Norm.heard(v.Clock)
	emitter.Norm.heard(v.Clock)
	server.Away, emitter.Away = 0, 0
	server.Due, emitter.Due = 0, 0
	server.ID, emitter.ID = v.EventID, v.EventID
	d.state.Next = min(d.state.Next, v.Clock+micros(d.cfg.Least))
}

// sender is the state of a server or emitter that is heard, and whether it never was
// before.
func (d *emitterSilent) sender(among *Groups[sender], k Key, v *Seen, emitter string) (s *sender, fresh bool) {
	if s, fresh = among.Get(k, v.Clock); fresh {
		if old := d.state.Gone.Peek(k); old != nil { // it is back
			*s, fresh = *old, false
			d.state.Gone.Delete(k)
		}
		s.Tenant, s.Server, s.Emitter, s.Home = kept(v.Tenant), kept(event.ClipText(v.Server, 256)), kept(emitter), v.Home.With(Key{1})
	}
	return s, fresh
}

// Advance looks for those whose time has come. Only who was not heard for Least can
// be one of them, and of these most are not due for long: they are looked at again
// when the first of them is, at a full minute: when somebody is told of must not
// depend on whom else there is to look at.
func (d *emitterSilent) Advance(clock int64, out *Out) {
	if d.ended || clock < d.state.Next || clock%silenceLook != 0 {
		return
	}
	next := clock + farthest
	quiet := clock - micros(d.cfg.Least)
	for _, among := range []*Groups[sender]{&d.state.Emitters, &d.state.Servers} {
		var over []Key
		among.Each(func(k Key, touched int64, s *sender) bool {
			if touched > quiet {
				next = min(next, clock+silenceLook)
				return false
			}
			if s.Due == 0 {
				s.Due, s.Habit = s.Norm.due(micros(d.cfg.Least), d.cfg.Factor)
			}
			switch {
			case s.Due == 0:
				// A day after its last event it is history, and leaves the look-out.
				if touched < clock-silenceLeast {
					over = append(over, k)
				} else {
					next = min(next, touched+silenceLeast+1)
				}
			case s.Due <= clock:
				over = append(over, k)
			default:
				next = min(next, s.Due)
			}
			return true
		})
		for _, k := range over {
			s := among.Peek(k)
			if s.Due != 0 {
				d.silent(k, s, clock, out)
			}
			gone, _ := d.state.Gone.Get(k, clock)
			*gone = *s
			among.Delete(k)
		}
	}
	d.state.Next = next
}

// silent tells of a server or an emitter that is due.
func (d *emitterSilent) silent(k Key, s *sender, clock int64, out *Out) {
	allowed, heard := s.Due-s.Norm.Last, s.Norm.Last-s.Away
	x := Signal{
		Group: k, Subject: Subject{Tenant: s.Tenant, Server: s.Server}, Start: heard, Last: heard, Severity: Medium, Before: []event.ID{s.ID},
		Score:    float64(clock-s.Norm.Last) / float64(max(allowed, 1)),
		Observed: saySpan(clock-s.Norm.Last) + " of silence",
		Expected: fmt.Sprintf("at most %s; its longest usual pause is %s", saySpan(allowed), saySpan(s.Norm.longest()*1e6)),
		Workings: []Working{{"last event", sayTime(heard)}, {"known since", sayTime(s.Norm.First)}, {"events", fmt.Sprint(s.Norm.Events)}},
	}
	what := "server " + sayName(s.Server)
	if s.Habit || s.Norm.longest() >= silenceNight {
		x.Severity = Low
	}
	if s.Emitter != "" {
		server := d.state.Servers.Peek(s.Home)
		if server == nil || server.Newest >= s.Norm.Last-microsPerHour || server.Norm.Last-s.Norm.Last < allowed/2 {
			return // its place is taken, or all of the server is quiet
		}
		what = "emitter " + sayName(s.Emitter) + " of " + what
		x.Group, x.Severity = s.Home.With(Key{2}), Low
	}
	why := fmt.Sprintf("after pauses of %s at most", saySpan(s.Norm.longest()*1e6))
	if s.Habit {
		why = "through hours in which it usually sends"
	}
	x.Reason = fmt.Sprintf("%s has sent nothing since %s, for %s, %s", what, sayTime(heard), saySpan(clock-s.Norm.Last), why)
	if s.Away > 0 {
		x.Reason += fmt.Sprintf(", and not in the %s before in which the service was away", saySpan(s.Away))
	}
	if s.Emitter != "" {
		x.Reason += ", while others of the server go on"
	}
	out.Raise(x)
}
