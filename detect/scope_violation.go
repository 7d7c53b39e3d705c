package detect

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// ScopeViolation is the settings of the detector "scope_violation": calls that were
// refused for lack of rights, and calls that were let through without them.
//
// Let through is a fact and no estimate, so it is told at once and at high severity,
// once for each identity and tool: a call that succeeded though a scope that it
// requires was not granted, or though the decision was to deny it, or that the tool
// policy here does not allow. When more than ten identities pass through one tool's
// hole, the others are one finding about the tool. An event that does not say what
// is required, or that says nothing of what was granted, says nothing here; a bearer
// token that is listed without scopes has none.
//
// Denied are calls with outcome denied, a decision to deny, HTTP status 403 or error
// insufficient_scope; 401 is no denial but a failed authentication, see
// [AuthBruteforce]. A first denial waits for StepUp, in case the client gets more
// scopes and calls again, as the MCP authorization specification has it, or a user
// approves the same call. Only then it is told, at low severity. Many denials within
// Window are medium, denials of ProbedTools different tools are high: somebody looks
// for what is open. There is one finding of denials for an identity.
//
// The score is the number of denials within the window, or of calls that were let
// through, of this identity (of all, where the finding is about a tool).
type ScopeViolation struct {
	StepUp      time.Duration `key:"step_up" doc:"how long a denial waits for the same call to be granted before it is told"`
	Window      time.Duration `key:"window" doc:"how long back denials are counted together"`
	ManyDenials int           `key:"many_denials" doc:"denials within the window that are of medium severity"`
	ProbedTools int           `key:"probed_tools" doc:"different tools denied within the window that are probing, of high severity; the resources of a server are one"`
	Policy      []ToolPolicy  `key:"policy" doc:"which tools principals may call; a principal that no entry is for may call all"`
	Wider       []ScopeCover  `key:"wider_scopes" doc:"scopes that grant others, where their names don't say so"`
	MaxGroups   int           `key:"max_groups" doc:"most identities in memory; the one that was quiet longest is forgotten"`
}

// DefaultScopeViolation has no tool policy.
func DefaultScopeViolation() *ScopeViolation {
	return &ScopeViolation{StepUp: 10 * time.Minute, Window: 10 * time.Minute, ManyDenials: 10, ProbedTools: 4, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *ScopeViolation) Validate() error {
	err := firstError(
		checkSpan("step_up", c.StepUp, 0, 24*time.Hour),
		checkSpan("window", c.Window, time.Second, 24*time.Hour),
		checkCount("many_denials", c.ManyDenials, 2, scopeMostDenials),
		checkCount("probed_tools", c.ProbedTools, 2, maxFew),
	)
	for i := range c.Policy {
		err = firstError(err, c.Policy[i].validate(fmt.Sprintf("policy[%d]", i)))
	}
	for i, w := range c.Wider {
		if w.Scope == "" || len(w.Covers) == 0 {
			err = firstError(err, fmt.Errorf("wider_scopes[%d]: needs a scope and what it covers", i))
		}
	}
	return firstError(err, checkGroups(c.MaxGroups))
}

// New implements Config.
func (c *ScopeViolation) New() Detector {
	return &scopeViolation{cfg: *c, state: scopeViolationState{
		Recent:  Groups[scopeRecent]{Most: c.MaxGroups},
		Waiting: Groups[scopeWaiting]{Most: c.MaxGroups},
		Links:   Groups[Key]{Most: 2 * c.MaxGroups},
		Holes:   Groups[scopeHole]{Most: c.MaxGroups},
	}}
}

const (
	scopeMostDenials = 64 // denials of an identity that are remembered
	scopeMostWaiting = 8  // of them, those that wait with their names
	scopeMostThrough = 10 // identities of a tool's hole with a finding of their own
	scopeMemory      = 24 * microsPerHour
)

type scopeViolation struct {
	cfg   ScopeViolation
	state scopeViolationState
}

type scopeViolationState struct {
	Recent  Groups[scopeRecent]  // by identity
	Waiting Groups[scopeWaiting] // by identity, touched when it began to wait
	Links   Groups[Key]          // who waits, by session or address and tool
	Holes   Groups[scopeHole]    // by tool
	Names   nameKeys
}

// scopeHole is who got through at a tool.
type scopeHole struct {
	Who    fewKeys
	Calls  []uint64 // of each
	More   uint64   // calls of others
	First  int64
	Others int64 // when the first of them came
}

func (d *scopeViolation) State() any { return &d.state }

func (d *scopeViolation) size() (int, uint64) {
	s := &d.state
	return s.Recent.Len() + s.Waiting.Len() + s.Links.Len() + s.Holes.Len(), s.Recent.Evicted + s.Waiting.Evicted + s.Links.Evicted + s.Holes.Evicted
}

func (d *scopeViolation) Observe(v *Seen, out *Out) {
	denied := scopeDenied(v.Event)
	if !v.Call && (!denied || v.Kind == "admin" || v.Kind == "finding" || v.Kind == "other") {
		return
	}
	switch {
	case denied:
		d.denied(v, out)
		return
	case v.Outcome == "success":
		if v.Decision == "deny" {
			d.through(v, out, "the decision was to deny it"+scopeBecause(v.DecisionReason), nil)
		} else if lacking := d.lacking(v.Event); len(lacking) > 0 {
			d.through(v, out, "it requires "+sayNames(lacking)+" and "+scopeList(v.ScopesGranted)+" was granted", lacking)
		}
		if d.state.Waiting.Len() > 0 {
			d.granted(v)
		}
	}
	if len(d.cfg.Policy) > 0 && v.Outcome != "rate_limited" && v.Outcome != "protocol_error" && outsidePolicy(d.cfg.Policy, Identity(v.Event), v.Event) {
		d.through(v, out, "the tool policy does not allow it to "+sayName(Identity(v.Event)), nil)
	}
}

// lacking are the scopes that a call went without.
func (d *scopeViolation) lacking(e *event.Event) []string {
	if len(e.ScopesRequired) == 0 {
		return nil
	}
	// Most emitters can't see scopes, and list none. One that names a bearer token
	// has read it.
	if len(e.ScopesGranted) == 0 && e.AuthMethod != "bearer" && e.AuthMethod != "oauth" && e.AuthMethod != "jwt" {
		return nil
	}
	return lackingScopes(e.ScopesRequired, e.ScopesGranted, d.cfg.Wider)
}

// through tells of a call that was let through.
func (d *scopeViolation) through(v *Seen, out *Out, why string, lacking []string) {
	h, fresh := d.state.Holes.Get(v.Tool, v.Clock)
	if fresh {
		h.First = v.At
	}
	who := Identity(v.Event)
	s := Signal{
		Group:    v.Who.With(v.Tool).With(Key{1}),
		Subject:  Subject{Tenant: v.Tenant, Principal: who, Server: v.Server, Target: v.Target},
		Start:    v.At,
		Severity: High,
		Expected: "no call without the rights that it needs",
	}
	at := slices.Index(h.Who, v.Who[0])
	if at < 0 && len(h.Who) < scopeMostThrough {
		h.Who.add(v.Who)
		h.Calls = append(h.Calls, 0)
		at = len(h.Who) - 1
	}
	calls := uint64(0)
	if at >= 0 {
		h.Calls[at]++
		calls = h.Calls[at]
		s.Reason = fmt.Sprintf("%s of %s at %s got through to %s although %s", sayCount(calls, "call"), sayName(who), sayName(v.Server), sayName(v.Target), why)
	} else {
		if h.More == 0 {
			h.Others = v.At
		}
		h.More++
		calls = h.More
		s.Group, s.Subject.Principal, s.Start = v.Tool.With(Key{2}), "", h.Others
		s.Reason = fmt.Sprintf("more than %d identities got through to %s at %s since %s, with %s beyond those with a finding of their own; the newest is %s, although %s",
			scopeMostThrough, sayName(v.Target), sayName(v.Server), sayTime(h.First), sayCount(calls, "call"), sayName(who), why)
	}
	s.Score = float64(calls)
	s.Observed = sayCount(calls, "call") + " let through"
	s.Workings = []Working{{"required", scopeList(v.ScopesRequired)}, {"granted", scopeList(v.ScopesGranted)}, {"lacking", scopeList(lacking)},
		{"decision", v.Decision}, {"policy", v.PolicyID}}
	out.Raise(s)
}

func scopeList(scopes []string) string {
	if len(scopes) == 0 {
		return "none"
	}
	return sayNames(scopes)
}

func scopeBecause(reason string) string {
	if reason = strings.TrimSpace(reason); reason == "" {
		return ""
	}
	return ", because " + sayName(reason)
}
