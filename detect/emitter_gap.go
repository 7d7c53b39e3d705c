package detect

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// EmitterGap is the settings of the detector "emitter_gap": events that an emitter
// numbered and that never arrived, and those that it says it has lost.
//
// Each emitter numbers its events from 1, without a gap, and sends again what was
// not acknowledged. A number that is missing may still be on its way, on another
// stream or in a retry, so a gap is told when it was not filled within Grace of the
// service's clock. What was before the first number that is seen here is not known
// and no gap. When the missing events come after all, the finding says so and is
// resolved by its quiet. An emitter that lost events before they had numbers says
// so in an event of its own (method mcpaudit/lost), which is told at once.
//
// It is exact: the score is how many events are missing. At most 32 gaps of an
// emitter are told apart; beyond that the oldest two become one, whose count stays
// right. It must see every event of an emitter: a rule with a "where" would see
// gaps where the other events are.
type EmitterGap struct {
	Grace     time.Duration `key:"grace" doc:"how long a missing event may take to arrive"`
	MaxGroups int           `key:"max_groups" doc:"most emitters in memory; the one that was quiet longest is forgotten"`
}

// DefaultEmitterGap waits five minutes.
func DefaultEmitterGap() *EmitterGap {
	return &EmitterGap{Grace: 5 * time.Minute, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *EmitterGap) Validate() error {
	return firstError(checkSpan("grace", c.Grace, 0, 7*24*time.Hour), checkGroups(c.MaxGroups))
}

// New implements Config.
func (c *EmitterGap) New() Detector {
	return &emitterGap{cfg: *c, state: emitterGapState{Emitters: Groups[gapSequence]{Most: c.MaxGroups}, Waiting: Groups[bool]{Most: c.MaxGroups}}}
}

const gapMost = 32 // gaps of an emitter that are told apart

type emitterGap struct {
	cfg   EmitterGap
	state emitterGapState
}

type emitterGapState struct {
	Emitters Groups[gapSequence]
	Waiting  Groups[bool] // emitters with gaps that are not told, touched when the first was seen
	Names    nameKeys
}

// gapSequence is what came of an emitter.
type gapSequence struct {
	Next                    uint64 // number that is expected; 0 before the first
	Gaps                    []gap  // by number
	Tenant, Server, Emitter string // kept while there are gaps
	Told                    uint64 // missing events that the finding that is open tells of
	Late                    uint64 // of these, those that came after all
	Lost                    uint64 // events that the emitter says it lost
	Start                   int64
}

// gap is numbers that did not come.
type gap struct {
	From, To uint64
	Missing  uint64 // fewer than To-From+1 where several gaps were made one
	Untold   uint64 // of the missing: those that still have time, or all, or none
	At       int64  // of the event that came behind it
	ID       event.ID
	Clock    int64
}

func (d *emitterGap) State() any { return &d.state }

func (d *emitterGap) size() (int, uint64) {
	s := &d.state
	return s.Emitters.Len() + s.Waiting.Len(), s.Emitters.Evicted + s.Waiting.Evicted
}

func (d *emitterGap) Observe(v *Seen, out *Out) {
	if v.EmitterSeq == 0 {
		return
	}
	// Numbers are an emitter's, whatever tenants it sends for.
	k := d.state.Names.of(v, 1, v.EmitterID)
	q, fresh := d.state.Emitters.Get(k, v.Clock)
	switch {
	case fresh || v.EmitterSeq == q.Next:
	case v.EmitterSeq > q.Next:
		d.open(k, q, v)
	default:
		d.fill(k, q, v, out)
	}
	if v.EmitterSeq >= q.Next {
		q.Next = v.EmitterSeq + 1
		if q.Next == 0 { // the last number that there is: what follows can't be judged
			q.Next = v.EmitterSeq
		}
	}
	if v.Kind == "other" && v.Method == "mcpaudit/lost" {
		d.lost(k, q, v, out)
	}
}

// open notes a gap before the event.
func (d *emitterGap) open(k Key, q *gapSequence, v *Seen) {
	q.Tenant, q.Server, q.Emitter = kept(v.Tenant), kept(v.Server), kept(v.EmitterID)
	if len(q.Gaps) == gapMost {
		a, b := &q.Gaps[0], &q.Gaps[1]
		if a.Untold > 0 {
			b.At, b.ID, b.Clock = a.At, a.ID, a.Clock
		}
		b.From, b.Missing, b.Untold = a.From, a.Missing+b.Missing, a.Untold+b.Untold
		q.Gaps = slices.Delete(q.Gaps, 0, 1)
	}
	q.Gaps = append(q.Gaps, gap{From: q.Next, To: v.EmitterSeq - 1, Missing: v.EmitterSeq - q.Next, Untold: v.EmitterSeq - q.Next, At: v.At, ID: v.EventID, Clock: v.Clock})
	if d.state.Waiting.Peek(k) == nil {
		d.state.Waiting.Get(k, v.Clock)
	}
}

// fill takes an event whose number was passed.
func (d *emitterGap) fill(k Key, q *gapSequence, v *Seen, out *Out) {
	i := slices.IndexFunc(q.Gaps, func(g gap) bool { return g.From <= v.EmitterSeq && v.EmitterSeq <= g.To })
	if i < 0 {
		return // before the first contact
	}
	g := q.Gaps[i]
	whole := g.Missing == g.To-g.From+1
	q.Gaps[i].Missing--
	q.Gaps[i].Untold -= min(g.Untold, 1)
	switch {
	case g.Missing == 1:
		q.Gaps = slices.Delete(q.Gaps, i, i+1)
	case !whole: // which of its numbers are missing is not known
	case v.EmitterSeq == g.From:
		q.Gaps[i].From++
	case v.EmitterSeq == g.To:
		q.Gaps[i].To--
	case len(q.Gaps) == gapMost:
	default:
		left, right := g, g
		left.To, left.Missing = v.EmitterSeq-1, v.EmitterSeq-g.From
		right.From, right.Missing = v.EmitterSeq+1, g.To-v.EmitterSeq
		if g.Untold > 0 {
			left.Untold, right.Untold = left.Missing, right.Missing
		}
		q.Gaps[i] = left
		q.Gaps = slices.Insert(q.Gaps, i+1, right)
	}
	if g.Untold == 0 && out.IsOpen(k) {
		q.Late++
		d.raise(k, q, Signal{}, out)
	}
	if len(q.Gaps) == 0 {
		d.state.Waiting.Delete(k)
	}
}

// lost tells what an emitter says of its own losses.
func (d *emitterGap) lost(k Key, q *gapSequence, v *Seen, out *Out) {
	n := uint64(1) // it does not say how many
	for _, l := range v.Labels {
		if l.Key == "lost" {
			if m, err := strconv.ParseUint(l.Value, 10, 48); err == nil && m > 0 {
				n = m
			}
		}
	}
	if !out.IsOpen(k) {
		q.begin(v.At)
	}
	q.Tenant, q.Server, q.Emitter = kept(v.Tenant), kept(v.Server), kept(v.EmitterID)
	q.Lost += min(n, math.MaxUint64-q.Lost)
	d.raise(k, q, Signal{}, out)
}

// begin starts a new finding.
func (q *gapSequence) begin(at int64) { q.Told, q.Late, q.Lost, q.Start = 0, 0, 0, at }

// Advance tells of gaps that have had their time.
func (d *emitterGap) Advance(clock int64, out *Out) {
	var younger []Key
	d.state.Waiting.Expire(clock-micros(d.cfg.Grace), func(k Key, _ *bool) {
		q := d.state.Emitters.Peek(k)
		if q == nil {
			return
		}
		s := Signal{}
		more := false
		for i := range q.Gaps {
			g := &q.Gaps[i]
			switch {
			case g.Untold == 0:
			case clock-g.Clock < micros(d.cfg.Grace):
				more = true
			default:
				if s.Counts == 0 && !out.IsOpen(k) {
					q.begin(g.At)
				}
				s.Counts += g.Untold
				g.Untold = 0
				s.Last = max(s.Last, g.At)
				s.Before = append(s.Before, g.ID)
			}
		}
		if s.Counts > 0 {
			q.Told += s.Counts
			d.raise(k, q, s, out)
		}
		if more {
			younger = append(younger, k)
		}
	})
	for _, k := range younger {
		d.state.Waiting.Get(k, clock)
	}
}

func (d *emitterGap) raise(k Key, q *gapSequence, s Signal, out *Out) {
	s.Counts = 0 // what is missing is no evidence; the events behind the gaps are
	missing := q.Told - min(q.Late, q.Told)
	s.Group, s.Start = k, q.Start
	s.Subject = Subject{Tenant: q.Tenant, Emitter: q.Emitter}
	all := missing + min(q.Lost, math.MaxUint64-missing)
	s.Score = float64(max(all, 1))
	s.Expected = "every event, numbered without a gap"
	s.Observed = sayCount(all, "event") + " missing"
	s.Reason = fmt.Sprintf("emitter %s at %s", sayName(q.Emitter), sayName(q.Server))
	if q.Told > 0 {
		s.Reason += fmt.Sprintf(" numbered %s that did not come within %s%s", sayCount(q.Told, "event"), saySpan(micros(d.cfg.Grace)), q.numbers())
	}
	switch {
	case q.Late == 0:
	case q.Late >= q.Told:
		s.Reason += "; all of them came later"
	default:
		s.Reason += fmt.Sprintf("; %d of them came later", q.Late)
	}
	if q.Lost > 0 {
		if q.Told > 0 {
			s.Reason += ", and"
		}
		s.Reason += fmt.Sprintf(" says itself that it lost %s", sayCount(q.Lost, "event"))
	}
	out.Raise(s)
}

// numbers names the gaps that were told and are still open.
func (q *gapSequence) numbers() string {
	const most = 3
	s, n := "", 0
	for _, g := range q.Gaps {
		if g.Untold > 0 {
			continue
		}
		if n++; n > most {
			continue
		}
		if s != "" {
			s += ", "
		}
		switch {
		case g.Missing == g.To-g.From+1 && g.From == g.To:
			s += fmt.Sprint(g.From)
		case g.Missing == g.To-g.From+1:
			s += fmt.Sprintf("%d to %d", g.From, g.To)
		default:
			s += fmt.Sprintf("%d between %d and %d", g.Missing, g.From, g.To)
		}
	}
	if n > most {
		s += fmt.Sprintf(" and %d more gaps", n-most)
	}
	if s == "" {
		return ""
	}
	return ": " + s
}
