// Package detect finds what should not happen in the events of MCP servers: loops
// of agents, bursts, hours and tools that are unusual for an identity, calls
// outside of what was granted, data that flows from where it was read to where it
// must not go.
//
// A detector is a pure state machine over events in event time. An [Engine] gives
// the events to the detectors of a set of rules in one order, keeps what they find
// as findings that open, grow and are resolved, and can be written down and read
// back at any point. It has no clock of its own: the live service and a replay over
// history run the same code over the same events and say the same, with the same
// ids.
//
// # Order
//
// Events of many emitters arrive almost in the order in which they happened. The
// engine holds each one back until [Lateness] after it was completed, so that
// those that are late by less take their place; an event that comes later than that
// is taken when it was received. So the order depends on what an event says of
// itself, never on the batch that it came with.
package detect

import (
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Lateness is how long an event is held back for those that happened before it.
const Lateness = 250 * time.Millisecond

// Tick is how often, on the engine's clock, detectors are told the time.
const Tick = 10 * time.Second

const (
	lateness = int64(Lateness / time.Microsecond)
	tick     = int64(Tick / time.Microsecond)
	// underWay is how much later than its successors in the log an event may have
	// been received: requests are stamped when they arrive and sealed side by side.
	underWay = int64(time.Second / time.Microsecond)
	// farthest is how much of a silence is ticked through: longer than any window
	// of any detector. After it nothing changes any more.
	farthest = 40 * 24 * int64(time.Hour/time.Microsecond)
	// maxHeld bounds the events that are held back. It is only ever reached where
	// events are not in order.
	maxHeld = 1 << 20
)

// Engine runs a set of rules. It belongs to one goroutine.
type Engine struct {
	rules []*running
	share Share // of the work, that this engine does
	tell  func(Change)

	hash  hasher
	held  heldEvents
	seen  Seen  // the event under observation
	clock int64 // of the newest event that was observed, or later
	ticks int64 // ticks of the clock that the detectors were told

	count Counts
}

// Counts are what an engine has done.
type Counts struct {
	Events  uint64 // observed
	Evicted uint64 // groups that were forgotten because there were too many
	Open    int    // findings
	Groups  int    // groups in memory
}

// running is a rule at work.
type running struct {
	rule     Rule
	detector Detector
	cases    *cases
	out      Out
	scope    Scope  // what it must see together
	hash     uint64 // of its name, see Share
}

// New makes an engine with empty state. Seed is secret and keeps others from
// choosing names whose hashes collide; it does not change what is found. Tell is
// called for every finding that opens, changes or is resolved, in order.
func New(rules []Rule, seed uint64, tell func(Change)) *Engine {
	x := &Engine{tell: tell, hash: hasher{seed: seed}}
	for _, r := range rules {
		x.rules = append(x.rules, x.start(r))
	}
	return x
}

func (x *Engine) start(r Rule) *running {
	return &running{rule: r, detector: r.With.New(), cases: newCases(&r), scope: scopeOf(r.With), hash: ruleHash(r.Name)}
}

// Add takes the next event, in the order of the log; of events that no service has
// received yet, in the order in which they occurred. It is observed, now or later, and
// must not be changed.
func (x *Engine) Add(e *event.Event) {
	x.held.push(hold(e))
	// Until when no event can come any more whose turn is before.
	settled := e.OccurredAt
	if e.ReceivedAt != 0 {
		settled = e.ReceivedAt - underWay
	}
	x.release(settled)
	for len(x.held) > maxHeld {
		x.observe(x.held.pop())
	}
}

// Advance tells that it is clock, µs since 1970, and that nothing that is received
// before it is still to come.
func (x *Engine) Advance(clock int64) {
	x.release(clock)
	x.pass(clock)
}

// Flush observes what is still held back: there are no more events.
func (x *Engine) Flush() {
	for len(x.held) > 0 {
		x.observe(x.held.pop())
	}
}

// TellOpen tells the findings that are open and have grown since they were told last,
// as they are now. It is for the end of a replay: live, that is told within a minute.
func (x *Engine) TellOpen() {
	for _, r := range x.rules {
		o := Out{clock: x.clock, cases: r.cases, tell: x.tell}
		r.cases.Open.Each(func(_ Key, _ int64, c *openCase) bool {
			if c.Finding.Events != c.ToldSize {
				o.told(c, false)
			}
			return true
		})
	}
}

// Finish is Flush, and then lets all windows end and resolves what is open.
func (x *Engine) Finish() {
	x.Flush()
	for _, r := range x.rules {
		if d, ok := r.detector.(ender); ok {
			d.end()
		}
	}
	const waiting = int64(15 * time.Minute / time.Microsecond) // what holds back what it has seen
	least, most := x.clock+waiting, x.clock+farthest
	for x.clock < least || x.Counts().Open > 0 && x.clock < most {
		x.pass(x.clock + tick)
	}
}

func (x *Engine) release(clock int64) {
	for len(x.held) > 0 && x.held[0].turn <= clock {
		x.observe(x.held.pop())
	}
}

// pass lets the clock pass, tick by tick.
func (x *Engine) pass(clock int64) {
	if clock <= x.clock {
		return
	}
	to := clock / tick
	if x.ticks == 0 || to-x.ticks > farthest/tick {
		x.ticks = max(x.ticks, to-farthest/tick)
		if x.clock == 0 {
			x.ticks = to
		}
	}
	for x.ticks < to {
		x.ticks++
		at := x.ticks * tick
		for _, r := range x.rules {
			r.out = Out{clock: at, cases: r.cases, tell: x.tell}
			r.detector.Advance(at, &r.out)
			r.cases.resolve(at, x.tell)
		}
	}
	x.clock = clock
}

// ServiceStarted is the method of the event by which the service says that it runs
// again. That nothing was received before it says nothing of those who send.
const ServiceStarted = "mcpaudit/start"

func serviceStarted(e *event.Event) bool {
	return e.Kind == "admin" && e.Method == ServiceStarted
}

// absent is a detector that has to know that the service was away: nothing could be
// heard from, until to.
type absent interface{ absent(from, to int64) }

// away lets the clock pass without anybody having listened. Whoever may send events
// may send one that says so; where the clock has passed lately, somebody listened.
func (x *Engine) away(clock int64) {
	if x.clock == 0 || clock-x.clock < tick {
		return
	}
	for _, r := range x.rules {
		if d, ok := r.detector.(absent); ok {
			d.absent(x.clock, clock)
		}
	}
	x.clock, x.ticks = clock, clock/tick
}

func (x *Engine) observe(h heldEvent) {
	if serviceStarted(h.event) {
		x.away(h.turn)
	}
	x.pass(h.turn)
	x.count.Events++
	at := h.event.OccurredAt
	if r := h.event.ReceivedAt; r != 0 {
		at = min(at, r)
	}
	v := &x.seen
	x.hash.see(h.event, at, x.clock, v)
	var p parts
	if x.share.Of > 1 {
		p = partsOf(v)
	}
	for _, r := range x.rules {
		if x.share.Of > 1 && !x.share.has(&p, r.scope, r.hash) {
			continue
		}
		if r.rule.Where != nil && !r.rule.Where(v) {
			continue
		}
		r.out = Out{v: v, clock: x.clock, cases: r.cases, tell: x.tell}
		r.detector.Observe(v, &r.out)
	}
}

// Counts says what the engine has done and holds.
func (x *Engine) Counts() Counts {
	c := x.count
	for _, r := range x.rules {
		c.Open += r.cases.Open.Len()
		if s, ok := r.detector.(sized); ok {
			n, evicted := s.size()
			c.Groups += n
			c.Evicted += evicted
		}
	}
	return c
}

// sized is a detector that says how much it remembers.
type sized interface {
	size() (groups int, evicted uint64)
}

// ender is a detector that has to know that the silence which follows is the end of
// the input, and nobody's.
type ender interface{ end() }

// Replace goes on with other rules. A rule of the same name and digest keeps its
// state and its open findings; a changed or new one starts with what warm has, an
// engine that was given the history without telling, or empty when warm is nil. Both
// must have come to the same point: the same events, the same clock.
//
// What a changed rule has open goes on when the rule as it is now finds it too: kept
// has the ids of such findings. Others of rules that changed or are gone are for the
// caller to end.
func (x *Engine) Replace(rules []Rule, warm *Engine) (kept map[string]bool) {
	kept = map[string]bool{}
	var next []*running
	for _, r := range rules {
		at := x.find(r.Name, r.Digest)
		if at == nil && warm != nil {
			if at = warm.find(r.Name, r.Digest); at != nil {
				at.cases.hidden = false // what it opened before goes on untold
				for _, old := range x.rules {
					if old.rule.Name == r.Name {
						at.cases.goOn(old.cases, kept)
					}
				}
			}
		}
		if at == nil {
			at = x.start(r)
		}
		at.rule = r
		at.cases.rule = &at.rule
		next = append(next, at)
	}
	x.rules = next
	return kept
}

// Hide keeps what is found from being told, until Replace takes a rule over. It is
// for an engine that only warms up.
func (x *Engine) Hide() {
	for _, r := range x.rules {
		r.cases.hidden = true
	}
}

func (x *Engine) find(name, digest string) *running {
	for _, r := range x.rules {
		if r.rule.Name == name && r.rule.Digest == digest {
			return r
		}
	}
	return nil
}
