package detect

import (
	"fmt"
	"slices"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// scopeRecent is the denials of an identity, oldest first.
type scopeRecent struct{ Denials []scopeDenial }

type scopeDenial struct {
	At     int64
	Tool   uint64 // what counts as one tool
	Target uint64 // the tool or resource itself
}

// scopeWaiting is the denials of an identity that wait for a step-up.
type scopeWaiting struct {
	Tenant, Principal string
	Denials           []scopeWait
}

type scopeWait struct {
	At             int64
	Target         uint64
	ID             event.ID
	Arguments      event.Digest
	Granted        uint64 // scopes, hashed
	Server, Name   string
	Required, Said string
}

// scopeDenied reports whether somebody who is known was refused.
func scopeDenied(e *event.Event) bool {
	if e.Outcome == "success" || e.Outcome == "rate_limited" || e.HTTPStatus == 429 {
		return false
	}
	if e.ErrorCode == "insufficient_scope" || e.HTTPStatus == 403 {
		return true
	}
	return e.HTTPStatus != 401 && (e.Outcome == "denied" || e.Decision == "deny")
}

// denied counts a denial and tells what it amounts to.
func (d *scopeViolation) denied(v *Seen, out *Out) {
	r, _ := d.state.Recent.Get(v.Who, v.Clock)
	window := micros(d.cfg.Window)
	r.Denials = slices.DeleteFunc(r.Denials, func(x scopeDenial) bool { return farApart(v.At, x.At, window) })
	tool, name := v.Tool, scopeTarget(v.Event)
	switch {
	case v.Kind == "resource_read": // its URIs are like arguments: a folder that is closed is no probing
		tool = v.Home
	case v.Target == "":
		tool = d.state.Names.of(v, 3, v.Tenant, v.Server, v.Method)
	}
	if len(r.Denials) == scopeMostDenials {
		r.Denials = r.Denials[:copy(r.Denials, r.Denials[1:])]
	}
	r.Denials = append(r.Denials, scopeDenial{v.At, tool[0], v.Tool[0]})
	tools := r.tools()
	s := Signal{
		Group: v.Who, Subject: Subject{Tenant: v.Tenant, Principal: Identity(v.Event)}, Severity: Low,
		Start: r.Denials[0].At, Score: float64(len(r.Denials)),
		Observed: fmt.Sprintf("%s on %s in %s", scopeAtLeast(len(r.Denials), "denial"), sayCount(uint64(tools), "tool"), saySpan(v.At-r.Denials[0].At)),
		Expected: fmt.Sprintf("fewer than %d denials and %d tools in %s", d.cfg.ManyDenials, d.cfg.ProbedTools, saySpan(micros(d.cfg.Window))),
	}
	switch {
	case tools >= d.cfg.ProbedTools:
		s.Severity = High
		s.Reason = fmt.Sprintf("%s was denied %d different tools within %s, as who looks for what is open; the newest is %s at %s", sayName(s.Subject.Principal), tools, saySpan(v.At-s.Start), sayName(name), sayName(v.Server))
	case len(r.Denials) >= d.cfg.ManyDenials:
		s.Severity = Medium
		s.Reason = fmt.Sprintf("%s of %s within %s; the newest is %s at %s%s", scopeAtLeast(len(r.Denials), "denied call"), sayName(s.Subject.Principal), saySpan(v.At-s.Start), sayName(name), sayName(v.Server), scopeBecause(scopeSaid(v.Event)))
	case out.IsOpen(v.Who):
		s.Reason = fmt.Sprintf("%s is denied again, %s at %s%s", sayName(s.Subject.Principal), sayName(name), sayName(v.Server), scopeBecause(scopeSaid(v.Event)))
	default:
		d.wait(v)
		return
	}
	if w := d.state.Waiting.Peek(v.Who); w != nil {
		for _, x := range w.Denials {
			s.Before, s.Start = append(s.Before, x.ID), min(s.Start, x.At)
		}
		d.state.Waiting.Delete(v.Who)
	}
	out.Raise(s)
}

// scopeTarget is what somebody was refused: a tool, or where an event names none, as of
// a service's API, the method.
func scopeTarget(e *event.Event) string {
	if e.Target == "" {
		return e.Method
	}
	return e.Target
}

// tools is how many different tools an identity was denied.
func (r *scopeRecent) tools() int {
	var few fewKeys
	for _, x := range r.Denials {
		few.add(Key{x.Tool})
	}
	return len(few)
}

// wait keeps a denial until it is clear that no step-up follows.
func (d *scopeViolation) wait(v *Seen) {
	w := d.state.Waiting.Peek(v.Who)
	if w == nil {
		w, _ = d.state.Waiting.Get(v.Who, v.Clock)
		w.Tenant, w.Principal = kept(v.Tenant), kept(Identity(v.Event))
	}
	if len(w.Denials) == scopeMostWaiting {
		w.Denials = slices.Delete(w.Denials, 1, 2) // the first one says when it began
	}
	w.Denials = append(w.Denials, scopeWait{At: v.At, Target: v.Tool[0], ID: v.EventID, Arguments: v.ArgumentsDigest, Granted: scopesHash(v.ScopesGranted),
		Server: kept(event.ClipText(v.Server, sayMost)), Name: kept(event.ClipText(scopeTarget(v.Event), sayMost)), Required: scopeList(v.ScopesRequired), Said: kept(scopeSaid(v.Event))})
	if v.Principal == "" {
		// Who is refused at the door has no name yet, and has one when it is let in:
		// the two are one by their session or, without one, by where they come from.
		who, _ := d.state.Links.Get(d.link(v), v.Clock)
		*who = v.Who
	}
}

func (d *scopeViolation) link(v *Seen) Key {
	if v.SessionID != "" {
		return d.state.Names.of(v, 1, v.SessionID).With(v.Tool)
	}
	return d.state.Names.of(v, 2, v.ClientIP, v.UserAgent).With(v.Tool)
}

// granted takes a call that succeeded as the end of a step-up: what was denied
// before it is no violation.
func (d *scopeViolation) granted(v *Seen) {
	d.grantedTo(v, v.Who)
	if d.state.Links.Len() > 0 && v.Principal != "" {
		link := d.link(v)
		if who := d.state.Links.Peek(link); who != nil {
			d.grantedTo(v, *who)
			d.state.Links.Delete(link)
		}
	}
}

func (d *scopeViolation) grantedTo(v *Seen, who Key) {
	w := d.state.Waiting.Peek(who)
	if w == nil {
		return
	}
	granted := scopesHash(v.ScopesGranted)
	n := len(w.Denials)
	w.Denials = slices.DeleteFunc(w.Denials, func(x scopeWait) bool {
		// Other arguments without other scopes are another call: a file that may be
		// read does not explain one that may not.
		return x.Target == v.Tool[0] && (granted != 0 && granted != x.Granted || x.Arguments == v.ArgumentsDigest)
	})
	if len(w.Denials) == n {
		return
	}
	if r := d.state.Recent.Peek(who); r != nil {
		r.Denials = slices.DeleteFunc(r.Denials, func(x scopeDenial) bool { return x.Target == v.Tool[0] })
	}
	if len(w.Denials) == 0 {
		d.state.Waiting.Delete(who)
	}
}

// Advance tells of denials that nothing explained.
func (d *scopeViolation) Advance(clock int64, out *Out) {
	d.state.Waiting.Expire(clock-micros(d.cfg.StepUp), func(who Key, w *scopeWaiting) {
		if len(w.Denials) == 0 {
			return
		}
		first, last := &w.Denials[0], &w.Denials[len(w.Denials)-1]
		s := Signal{
			Group: who, Subject: Subject{Tenant: w.Tenant, Principal: w.Principal}, Start: first.At, Last: last.At, Severity: Low,
			Score:    float64(len(w.Denials)),
			Observed: sayCount(uint64(len(w.Denials)), "denial"),
			Expected: "the call granted within " + saySpan(micros(d.cfg.StepUp)),
			Workings: []Working{{"required", last.Required}, {"said", last.Said}},
		}
		for _, x := range w.Denials { // from clocks that may be off
			s.Before = append(s.Before, x.ID)
			s.Start, s.Last = min(s.Start, x.At), max(s.Last, x.At)
		}
		s.Reason = fmt.Sprintf("%s of %s, not granted within %s after it; the newest is %s at %s%s", sayCount(uint64(len(w.Denials)), "denied call"), sayName(w.Principal),
			saySpan(micros(d.cfg.StepUp)), sayName(last.Name), sayName(last.Server), scopeBecause(last.Said))
		out.Raise(s)
	})
	d.state.Links.Expire(clock-micros(d.cfg.StepUp), nil)
	d.state.Recent.Expire(clock-micros(d.cfg.Window), nil)
	d.state.Holes.Expire(clock-30*scopeMemory, nil)
}

// scopesHash is 0 for no scopes, and the same in any order.
func scopesHash(scopes []string) (h uint64) {
	for _, s := range scopes {
		h += mix(hashText(s), 1)
	}
	return h
}

func scopeSaid(e *event.Event) string {
	for _, s := range []string{e.DecisionReason, e.ErrorMessage, e.ErrorCode} {
		if s != "" {
			return event.ClipText(s, 160)
		}
	}
	return ""
}

func scopeAtLeast(n int, one string) string {
	if n >= scopeMostDenials {
		return fmt.Sprintf("at least %d %ss", n, one)
	}
	return sayCount(uint64(n), one)
}
