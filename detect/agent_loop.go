package detect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// AgentLoop is the settings of the detector "agent_loop": an agent that goes round
// in circles.
//
// Within one session (or conversation, or trace) every call is weighed by how much
// it repeats: 1 when the same tool was called with the same arguments before and
// nothing else was tried in between; 0.75 when something else was; 0.5 when other
// arguments brought the same failure, or the same result of a read-only tool; 0 when
// it is new. A loop is Repeats of that among the last 16 calls: the same call eleven
// times in a row is one, and so are A-B-A-B and longer cycles. Edit-build-test over
// and over, pages of a list and batch work with new arguments are not. The score is
// the weight.
//
// A second count is of failures: FailuresInARow calls of one tool that all fail,
// whatever their arguments.
//
// Repetitions that the protocol asks for (task polls, the retry of a call that the
// server answered with input_required) don't count, and after a Pause both counts
// begin anew: who waits before he asks again is polling. They do so as well when a
// finding was resolved: its calls are told, and another loop is another finding.
type AgentLoop struct {
	Repeats        float64       `key:"repeats" doc:"weight of repeated calls, of the last 16, that is a loop"`
	FailuresInARow int           `key:"failures_in_a_row" doc:"calls of one tool in a row that fail, whatever their arguments; 0 for never"`
	Pause          time.Duration `key:"pause" doc:"a call that comes so long after the last one is polling, not a loop"`
	Runaway        int           `key:"runaway" doc:"repeated calls in one loop from which on the finding is high"`
	MaxGroups      int           `key:"max_groups" doc:"most sessions in memory; the one that was quiet longest is forgotten"`
}

// DefaultAgentLoop has the settings that were tuned on public sessions of agents.
func DefaultAgentLoop() *AgentLoop {
	return &AgentLoop{Repeats: 10, FailuresInARow: 20, Pause: 5 * time.Minute, Runaway: 100, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *AgentLoop) Validate() error {
	switch {
	case c.Repeats < 2 || c.Repeats > loopCalls-1:
		return fmt.Errorf("repeats: is %v, must lie between 2 and %d", c.Repeats, loopCalls-1)
	case c.FailuresInARow < 0:
		return errors.New("failures_in_a_row: must not be negative; 0 is never")
	case c.Pause <= 0:
		return errors.New("pause: must be more than 0s")
	case c.Runaway < 1:
		return errors.New("runaway: must be at least 1")
	}
	return checkGroups(c.MaxGroups)
}

// New implements Config.
func (c *AgentLoop) New() Detector {
	return &agentLoop{cfg: *c, state: loopState{Groups: Groups[loopGroup]{Most: c.MaxGroups}}}
}

// loopCalls is how many of a session's newest calls are looked at: cycles of up to
// half as many are seen twice.
const loopCalls = 16

// loopMemory is how long a session is remembered after its last call.
const loopMemory = 6 * time.Hour

type agentLoop struct {
	cfg   AgentLoop
	state loopState
}

type loopState struct{ Groups Groups[loopGroup] }

// loopGroup is the newest calls of one session, as a ring.
type loopGroup struct {
	Calls [loopCalls]loopCall
	Count int // of all calls so far
	// The run of failing calls of one tool.
	FailedTool uint64
	Failures   int
	FailedAt   int64 // when the first of them was
	// Of the loop that is under way.
	Repeated int
	Told     bool // these calls have a finding
	Asked    int  // calls that the server answered with a question, and that were not retried yet
}

type loopCall struct {
	Call, Result uint64 // of tool and arguments; of tool and result
	Weight       float32
	New          bool // its like was not among the calls before it
	At           int64
	ID           event.ID
}

func (d *agentLoop) State() any          { return &d.state }
func (d *agentLoop) size() (int, uint64) { return d.state.Groups.Len(), d.state.Groups.Evicted }

func (d *agentLoop) Advance(clock int64, _ *Out) {
	d.state.Groups.Expire(clock-micros(loopMemory), nil)
}

// run is the group in which one agent works at one thing.
func (v *Seen) run() Key {
	switch {
	case v.Session != Key{}:
		return v.Session
	case v.Talk != Key{}:
		return v.Talk
	case v.Trace != Key{}:
		return v.Trace
	}
	return v.Who.With(Key{hashText(v.AgentID), 1})
}

func (d *agentLoop) Observe(v *Seen, out *Out) {
	if !v.Call {
		return
	}
	key := v.run()
	g, _ := d.state.Groups.Get(key, v.Clock)
	if !g.isNews(v) {
		return
	}
	c := loopCall{Call: loopHash(v.Tool, &v.ArgumentsDigest), Result: loopHash(v.Tool, &v.ResultDigest), At: v.At, ID: v.EventID}
	if v.ResultDigest == (event.Digest{}) {
		c.Result = loopHash(v.Tool.With(Key{hashText(v.Outcome), hashText(v.ErrorCode)}), &v.ResultDigest)
	}
	if g.Count > 0 && v.At-g.last().At >= micros(d.cfg.Pause) || g.Told && !out.IsOpen(key) {
		*g = loopGroup{Asked: g.Asked}
	}
	if v.ArgumentsDigest != (event.Digest{}) {
		c.Weight, c.New = g.weigh(&c, failed(v) || v.Hints.ReadOnly)
	}
	g.Calls[g.Count%loopCalls] = c
	g.Count++
	g.countFailure(v)
	sum, first := float32(0), 0
	if c.Weight > 0 {
		if sum, first = g.sum(); sum < float32(d.cfg.Repeats) {
			g.Repeated = 0
		} else if g.Repeated == 0 {
			g.Repeated = g.repeats()
		} else {
			g.Repeated++
		}
	}
	// One signal for one call, or it would count twice: of a loop that fails, that it
	// is one says more.
	switch {
	case c.Weight > 0 && g.Repeated > 0:
		d.raise(v, key, g, sum, first, out)
	case d.cfg.FailuresInARow > 0 && g.Failures >= d.cfg.FailuresInARow:
		d.raiseFailures(v, key, g, out)
	default:
		return
	}
	g.Told = out.IsOpen(key)
}

// isNews reports whether a call is one of the agent's own: not one that waits for an
// answer, and not the retry that brings it. A retry that no server asked for is one of
// its own, or a client could call everything a retry.
func (g *loopGroup) isNews(v *Seen) bool {
	asked := v.Outcome == "input_required"
	retry := v.Retry && g.Asked > 0
	if retry {
		g.Asked--
	}
	if asked {
		g.Asked++
	}
	return !retry && (v.Retry || !asked)
}

func loopHash(tool Key, d *event.Digest) uint64 {
	return mix(tool[0]^binary.LittleEndian.Uint64(d[:8]), tool[1]^binary.LittleEndian.Uint64(d[8:]))
}

func (g *loopGroup) last() *loopCall { return &g.Calls[(g.Count+loopCalls-1)%loopCalls] }

// back is the call i places before the next one, i from 1 to kept.
func (g *loopGroup) back(i int) *loopCall { return &g.Calls[(g.Count-i)%loopCalls] }
func (g *loopGroup) kept() int            { return min(g.Count, loopCalls) }

// weigh says how much of a repetition the next call is, see AgentLoop, and whether
// it is one at all. telling is set where an old result says that nothing was
// achieved: the answer of a tool that changes things is "ok" however much it did.
func (g *loopGroup) weigh(c *loopCall, telling bool) (weight float32, fresh bool) {
	repeated, triedElse, knownResult := 0, false, false
	for i := 1; i <= g.kept(); i++ {
		b := g.back(i)
		knownResult = knownResult || b.Result == c.Result
		if b.Call == c.Call && repeated == 0 {
			repeated = i
		}
		triedElse = triedElse || b.New && repeated == 0
	}
	switch {
	case repeated > 0 && !triedElse:
		return 1, false
	case repeated > 0:
		return 0.75, false
	case knownResult && telling:
		return 0.5, true
	}
	return 0, true
}

// sum adds the weights, and finds the oldest call that one of those with a weight
// repeats.
func (g *loopGroup) sum() (sum float32, first int) {
	for i := 1; i <= g.kept(); i++ {
		sum += g.back(i).Weight
	}
	for i := g.kept(); i > 1; i-- {
		for j := i - 1; j >= 1; j-- {
			if b := g.back(j); b.Weight > 0 && (b.Call == g.back(i).Call || b.Result == g.back(i).Result) {
				return sum, i
			}
		}
	}
	return sum, 1
}

func (g *loopGroup) repeats() (n int) {
	for i := 1; i <= g.kept(); i++ {
		if g.back(i).Weight > 0 {
			n++
		}
	}
	return n
}

func (d *agentLoop) raise(v *Seen, key Key, g *loopGroup, sum float32, first int, out *Out) {
	different := 1
	for i := 2; i <= first; i++ {
		if !within(g, i-1, g.back(i).Call) {
			different++
		}
	}
	start := g.back(first)
	what := fmt.Sprintf("the same call of %s", sayTool(v))
	if different > 1 {
		what = fmt.Sprintf("%d calls in turn, the last one of %s", different, sayTool(v))
	}
	s := Signal{
		Group: key, Subject: runSubject(v), Start: start.At, Score: float64(sum),
		Reason:   fmt.Sprintf("%s goes round in circles: %s, %d repetitions, the last %d calls within %s", sayName(Identity(v.Event)), what, g.Repeated, first, saySpan(v.At-start.At)),
		Observed: fmt.Sprintf("%d repeated calls", g.Repeated), Expected: fmt.Sprintf("fewer than %v of %d", d.cfg.Repeats, loopCalls),
		Workings: []Working{
			{"weight of repetition in the last 16 calls", fmt.Sprintf("%.2f", sum)}, {"threshold", fmt.Sprintf("%v", d.cfg.Repeats)},
			{"different calls among them", fmt.Sprint(different)}, {"repetitions so far", fmt.Sprint(g.Repeated)},
		},
	}
	if g.Repeated >= d.cfg.Runaway {
		s.Severity = High
	}
	if !out.IsOpen(key) {
		for i := first; i > 1; i-- {
			s.Before = append(s.Before, g.back(i).ID)
		}
	}
	out.Raise(s)
}

// within reports whether a call is among the newest n.
func within(g *loopGroup, n int, call uint64) bool {
	for i := 1; i <= n; i++ {
		if g.back(i).Call == call {
			return true
		}
	}
	return false
}

func failed(v *Seen) bool { return v.Outcome != "success" && v.Outcome != "cancelled" }

// countFailure follows runs of failing calls of one tool.
func (g *loopGroup) countFailure(v *Seen) {
	tool := v.Tool[0]
	switch {
	case !failed(v):
		g.Failures = 0
		return
	case g.Failures == 0 || g.FailedTool != tool:
		g.Failures, g.FailedTool, g.FailedAt = 0, tool, v.At
	}
	g.Failures++
}

func (d *agentLoop) raiseFailures(v *Seen, key Key, g *loopGroup, out *Out) {
	s := Signal{
		Group: key, Subject: runSubject(v), Start: g.FailedAt, Score: float64(g.Failures),
		Reason: fmt.Sprintf("%s has called %s %d times in a row, and every call failed (%s), within %s", sayName(Identity(v.Event)), sayTool(v), g.Failures, v.Outcome,
			saySpan(v.At-g.FailedAt)),
		Observed: fmt.Sprintf("%d failures in a row", g.Failures), Expected: fmt.Sprintf("fewer than %d", d.cfg.FailuresInARow),
	}
	if g.Failures >= d.cfg.Runaway {
		s.Severity = High
	}
	if !out.IsOpen(key) {
		for i := min(g.Failures, g.kept()); i > 1; i-- {
			s.Before = append(s.Before, g.back(i).ID)
		}
	}
	out.Raise(s)
}

// runSubject names the agent's run.
func runSubject(v *Seen) Subject {
	s := Subject{Tenant: v.Tenant, Principal: Identity(v.Event), AgentID: v.AgentID, SessionID: v.SessionID, Server: v.Server, Target: v.Target}
	if v.SessionID == "" {
		s.TraceID = v.TraceID
	}
	return s
}

// sayTool is a tool as people write it, server/name.
func sayTool(v *Seen) string {
	if v.Server == "" {
		return sayName(v.Target)
	}
	return sayName(v.Server + "/" + v.Target)
}
