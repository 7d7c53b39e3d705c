package detect

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// CallSpike are the settings of call_spike: it finds rates far above what a
// principal, a tool or a server usually sees, in windows of a minute, five minutes
// and an hour. See spike_baseline.go for what is usual.
//
// All calls count, also those that a protocol asks to repeat: a rate is a rate.
//
// The score of a finding is -log10 of the probability that an active day of this key
// has a window as busy: 2 is one day in a hundred, 3 one in a thousand.
type CallSpike struct {
	By         []string      `key:"by" doc:"whose calls are counted: any of principal, tool, server; a tool or server is only told of when no principal explains it"`
	Chance     float64       `key:"chance" doc:"a count is remarkable when at most this share of active days has one as large, by the fitted distribution"`
	Times      float64       `key:"times" doc:"and when it is at least this many times the busiest window of a median day"`
	Days       int           `key:"days" doc:"active days that are remembered, up to 21"`
	LearnDays  int           `key:"learn_days" doc:"active days before the first finding, but for the one of at_once"`
	LeastCalls int           `key:"least_calls" doc:"no fewer calls in a window are a spike"`
	QuietCalls int           `key:"quiet_calls" doc:"the same, for a key that makes at most 100 calls a day; between that and 1000 a day it falls to least_calls"`
	AtOnce     int           `key:"at_once" doc:"calls within a minute that are a spike of a key of which nothing is known yet"`
	Calm       time.Duration `key:"calm" doc:"a spike is over when it has not been above its level for this long"`
	Cooldown   time.Duration `key:"cooldown" doc:"after a spike, another one is told of within this time only when it is larger by a quarter"`
	Longest    time.Duration `key:"longest" doc:"how long a finding may stay open"`
	Accept     time.Duration `key:"accept" doc:"a level that comes back again and again counts as usual after this time"`
	MaxGroups  int           `key:"max_groups" doc:"principals, tools and servers that are remembered, of each"`
}

// DefaultCallSpike gives the shipped settings.
func DefaultCallSpike() CallSpike {
	return CallSpike{
		By: []string{"principal", "tool", "server"}, Chance: 0.25, Times: 1.5, Days: 21, LearnDays: 3, LeastCalls: 20, QuietCalls: 200,
		AtOnce: 3000, Calm: time.Hour, Cooldown: 24 * time.Hour, Longest: 24 * time.Hour, Accept: 7 * 24 * time.Hour, MaxGroups: 50_000,
	}
}

// Kinds of keys that calls are counted for.
const (
	byPrincipal = iota
	byTool
	byServer
	nKinds
)

var spikeKinds = [nKinds]string{"principal", "tool", "server"}

// Validate implements Config.
func (c CallSpike) Validate() error {
	if len(c.By) == 0 {
		return fmt.Errorf("by: is empty, must name at least one of principal, tool, server")
	}
	for _, k := range c.By {
		if !slices.Contains(spikeKinds[:], k) {
			return fmt.Errorf("by: has %q, use principal, tool or server", k)
		}
	}
	return firstError(
		checkRatio("chance", c.Chance, 1e-6, 0.5),
		checkRatio("times", c.Times, 1, 1000),
		checkCount("learn_days", c.LearnDays, 2, maxDays),
		checkCount("days", c.Days, c.LearnDays, maxDays),
		checkCount("least_calls", c.LeastCalls, 2, 1_000_000),
		checkCount("quiet_calls", c.QuietCalls, c.LeastCalls, 1_000_000),
		checkCount("at_once", c.AtOnce, c.QuietCalls, 1_000_000_000),
		checkSpan("calm", c.Calm, time.Minute, 24*time.Hour),
		checkSpan("cooldown", c.Cooldown, c.Calm, 7*24*time.Hour),
		checkSpan("longest", c.Longest, time.Hour, 7*24*time.Hour),
		checkSpan("accept", c.Accept, c.Cooldown, 60*24*time.Hour),
		checkCount("max_groups", c.MaxGroups, 1, 10_000_000),
	)
}

// New implements Config.
func (c CallSpike) New() Detector {
	d := &callSpike{cfg: c}
	for k := range d.state.Keys {
		d.state.Keys[k].Most = c.MaxGroups
		d.on[k] = slices.Contains(c.By, spikeKinds[k])
	}
	return d
}

// callSpike is the detector.
type callSpike struct {
	cfg   CallSpike
	on    [nKinds]bool
	state spikeGroups
}

// spikeGroups is what it remembers: counts by kind of key.
type spikeGroups struct {
	Keys [nKinds]Groups[spikeCount]
}

// State implements Detector.
func (d *callSpike) State() any { return &d.state }

func (d *callSpike) size() (groups int, evicted uint64) {
	for k := range d.state.Keys {
		groups += d.state.Keys[k].Len()
		evicted += d.state.Keys[k].Evicted
	}
	return groups, evicted
}

// Advance implements Detector. Nothing becomes a spike by silence.
func (d *callSpike) Advance(int64, *Out) {}

// Observe implements Detector.
func (d *callSpike) Observe(v *Seen, out *Out) {
	if !v.Call || v.At < 0 {
		return
	}
	keys := [nKinds]Key{v.Who, v.Tool, v.Home}
	by := [nKinds]Key{v.Tool, v.Who, v.Who}
	told := false // a narrower key has said it
	for k := range nKinds {
		if !d.on[k] || k == byTool && v.Target == "" || k != byPrincipal && v.Server == "" {
			continue
		}
		s, fresh := d.state.Keys[k].Get(keys[k], v.Clock)
		if fresh {
			s.begin(&d.cfg, v.At, k != byPrincipal)
		}
		if k == byServer {
			s.Tools.add(v.Tool)
		}
		if !s.count(&d.cfg, v, by[k]) {
			continue
		}
		explained := told
		if k == byPrincipal {
			explained = d.namedBy(s, v)
		} else if !told {
			explained = d.explains(byPrincipal, &s.Most, v.At) || d.explains(byTool, &s.Tools, v.At)
		}
		if s.follow(&d.cfg, v.At, explained) {
			d.raise(k, keys[k], s, v, out)
			told = true
		}
	}
}

// explains says that whoever makes most of the calls is in an episode of its own: it
// was told of, and is not told again for its tool and its server.
func (d *callSpike) explains(kind int, most *tally, at int64) bool {
	top, share := most.top()
	if share < 0.5 {
		return false
	}
	p := d.state.Keys[kind].Peek(top)
	return p != nil && at < p.Until
}

// namedBy says that the tool which the principal calls most has a finding that names
// this principal.
func (d *callSpike) namedBy(s *spikeCount, v *Seen) bool {
	top, share := s.Most.top()
	if share < 0.5 {
		return false
	}
	t := d.state.Keys[byTool].Peek(top)
	return t != nil && v.At < t.Until && t.Caused != "" && t.Caused == Identity(v.Event)
}

// raise says what is seen.
func (d *callSpike) raise(kind int, key Key, s *spikeCount, v *Seen, out *Out) {
	sig := Signal{Group: key, Start: s.Start, Subject: Subject{Tenant: v.Tenant}}
	switch kind {
	case byPrincipal:
		sig.Subject.Principal = Identity(v.Event)
	case byTool:
		sig.Subject.Server, sig.Subject.Target = v.Server, v.Target
	case byServer:
		sig.Subject.Server = v.Server
	}
	first := s.Told == ([nWindows]uint32{})
	if first && kind != byPrincipal {
		s.Caused = ""
		if top, share := s.Most.top(); share >= 0.5 && top == v.Who {
			s.Caused = strings.Clone(Identity(v.Event))
		}
	}
	if kind != byPrincipal {
		sig.Subject.Principal = s.Caused
	}
	w := s.news()
	if w < 0 {
		sig.Quiet = true
		out.Raise(sig)
		return
	}
	if first {
		sig.Before = s.Recent.before(v.EventID)
	}
	s.Told[w] = s.Sum[w]
	s.describe(&d.cfg, kind, w, v, &sig)
	out.Raise(sig)
}

// news is the window whose count has grown enough to be told again, the one that is
// farthest above its level; -1 when there is none.
func (s *spikeCount) news() int {
	best, far := -1, 0.0
	for w := range nWindows {
		if s.Sum[w] >= s.Open[w] && uint64(s.Sum[w])*10 >= uint64(s.Told[w])*11 {
			if f := float64(s.Sum[w]) / float64(s.Open[w]); f > far {
				best, far = w, f
			}
		}
	}
	return best
}

var (
	spikeWidths = [nWindows]string{"a minute", "5 minutes", "an hour"}
	spikeNames  = [nWindows]string{"minute", "5 minutes", "hour"}
)

// describe puts a window's count into words and numbers.
func (s *spikeCount) describe(c *CallSpike, kind, w int, v *Seen, sig *Signal) {
	n := int(s.Sum[w])
	what := "calls"
	if kind == byTool {
		what = "calls of " + sayName(v.Target)
	} else if kind == byServer {
		what = "calls to " + sayName(v.Server)
	}
	top, share := s.Most.top()
	if share >= 0.5 {
		if kind == byPrincipal && top == v.Tool {
			what += fmt.Sprintf(" (%.0f %% of them %s)", share*100, sayName(v.Target))
		} else if kind != byPrincipal && top == v.Who {
			what += fmt.Sprintf(" (%.0f %% of them by %s)", share*100, sayName(Identity(v.Event)))
		}
	}
	sig.Observed = fmt.Sprintf("%d calls in %s", n, spikeWidths[w])
	sig.Workings = []Working{{"calls in " + spikeWidths[w], fmt.Sprint(n)}}
	if s.Base == nil || s.Base.Seen < uint32(c.LearnDays) {
		sig.Score = math.Log10(float64(n) / float64(c.AtOnce) * 100)
		sig.Reason = fmt.Sprintf("%d %s in %s, while nothing is known yet of what is usual", n, what, spikeWidths[w])
		sig.Expected = fmt.Sprintf("under %d in a minute on the first days", c.AtOnce)
		return
	}
	b := s.Base
	low, mid, high := b.busiest(w, c.Days)
	usual := float64(s.Usual[w])
	at := time.Unix(s.Minute*60, 0).UTC()
	sig.Score = b.score(w, usual, float64(n))
	sig.Expected = fmt.Sprintf("%s; the day's busiest %s %d to %d", about(usual), spikeNames[w], low, high)
	sig.Reason = fmt.Sprintf("%d %s in %s; usual on a %s at %02d:00 UTC: %s; its busiest %s of a day: %d to %d (%d active days, without the outermost tenths)",
		n, what, spikeWidths[w], at.Weekday(), at.Hour(), about(usual), spikeNames[w], low, high, min(int(b.Seen), c.Days))
	sig.Workings = append(sig.Workings,
		Working{"usual at this hour of the week", about(usual)},
		Working{"median of the daily maxima", fmt.Sprint(mid)},
		Working{"level from which it is a spike", fmt.Sprint(s.Open[w])},
		Working{"one active day in so many has as much", fmt.Sprintf("%.3g", math.Pow(10, sig.Score))})
	// Ten times the busiest of a median day is no busy day any more.
	if n >= 10*max(mid, c.LeastCalls) {
		sig.Severity = High
	}
}

// about writes an expected number.
func about(x float64) string {
	if x < 0.5 {
		return "none"
	}
	return fmt.Sprintf("about %.0f", x)
}

// recentIDs are the newest events of a key, for the evidence of what led up to a
// finding.
type recentIDs struct {
	IDs [4]event.ID
	N   uint32
}

func (r *recentIDs) add(id event.ID) {
	r.IDs[r.N%uint32(len(r.IDs))] = id
	r.N++
}

// before lists them, oldest first, but for the one that is there by itself.
func (r *recentIDs) before(not event.ID) []event.ID {
	var ids []event.ID
	k := uint32(len(r.IDs))
	for i := r.N - min(r.N, k); i < r.N; i++ {
		if id := r.IDs[i%k]; id != not {
			ids = append(ids, id)
		}
	}
	return ids
}
