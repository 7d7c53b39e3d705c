package detect

import (
	"fmt"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// AuthBruteforce is the settings of the detector "auth_bruteforce": somebody tries
// credentials until one fits.
//
// Failed authentications are those of kind auth that did not succeed and all answers
// with HTTP status 401 (403 is a matter of rights, see [ScopeViolation]). They are
// counted in runs, which end when there was none for Window, for three things:
//
//   - a principal: a success ends the run, so that an agent whose token expires every
//     hour has runs of one. Failures that all have the same credential are a client
//     that is stuck, not a guess: low, and only from five times as many on.
//   - an address, when different credentials or principals fail. Behind an address
//     with many agents some token is always stale, so that there may be three
//     failures more for each identity that succeeded from it meanwhile. Until it
//     fires, such a run lasts no longer than Window.
//   - a credential that fails from three addresses or more: it is revoked or stolen
//     and still in use, which is low.
//
// An address whose failures are all for one principal that is told of anyway is not
// told as well.
//
// One address that fails for Spray principals or more is spraying. A success after
// enough failures to fire is high: of the principal itself, or from the address by
// somebody who had failed or had not been seen there in this run.
//
// The score is the number of failures divided by how many are allowed.
//
// It does not see guesses that are spread over many addresses and many principals,
// nor those by an emitter that records no refusals.
type AuthBruteforce struct {
	Failures  int           `key:"failures" doc:"failed authentications of one run that fire"`
	Spray     int           `key:"spray" doc:"different principals that fail from one address and are spraying"`
	Window    time.Duration `key:"window" doc:"how long after its last failure a run is over"`
	MaxGroups int           `key:"max_groups" doc:"most principals, addresses and credentials with failures in memory, of each"`
}

// DefaultAuthBruteforce allows nine failures.
func DefaultAuthBruteforce() *AuthBruteforce {
	return &AuthBruteforce{Failures: 10, Spray: 10, Window: 15 * time.Minute, MaxGroups: 20_000}
}

// Validate implements Config.
func (c *AuthBruteforce) Validate() error {
	return firstError(
		checkCount("failures", c.Failures, 3, 10_000),
		checkCount("spray", c.Spray, 3, maxFew),
		checkSpan("window", c.Window, time.Minute, 24*time.Hour),
		checkGroups(c.MaxGroups),
	)
}

// New implements Config.
func (c *AuthBruteforce) New() Detector {
	most := Groups[guessRun]{Most: c.MaxGroups}
	return &authBruteforce{cfg: *c, state: authBruteforceState{Principals: most, Addresses: most, Credentials: most}}
}

const (
	guessStuck    = 5  // times as many failures of one and the same credential
	guessPerGuest = 3  // stale tokens that each identity behind an address may have
	guessPlaces   = 3  // addresses from which one credential fails
	guessEvidence = 10 // failures that are kept until it fires
	guessLongest  = 24 * microsPerHour
)

type authBruteforce struct {
	cfg   AuthBruteforce
	state authBruteforceState
}

type authBruteforceState struct {
	Principals, Addresses, Credentials Groups[guessRun]
	Names                              nameKeys
}

// guessRun is failures without a pause.
type guessRun struct {
	First, Last int64
	Failures    uint64
	Unnamed     uint64  // failures without a credential
	Nameless    uint64  // failures without a principal
	Credentials fewKeys // that failed
	Others      fewKeys // principals that failed from an address; addresses, for a principal or a credential
	Guests      fewKeys // identities that succeeded from the address meanwhile
	Successes   uint64  // of theirs
	IDs         []event.ID
	Fired       bool
}

func (d *authBruteforce) State() any { return &d.state }

func (d *authBruteforce) size() (groups int, evicted uint64) {
	for _, g := range []*Groups[guessRun]{&d.state.Principals, &d.state.Addresses, &d.state.Credentials} {
		groups, evicted = groups+g.Len(), evicted+g.Evicted
	}
	return groups, evicted
}

// Advance forgets runs that are over.
func (d *authBruteforce) Advance(clock int64, _ *Out) {
	for _, g := range []*Groups[guessRun]{&d.state.Principals, &d.state.Addresses, &d.state.Credentials} {
		g.Expire(clock-micros(d.cfg.Window), nil)
	}
}

// guessFailed reports whether somebody could not say who they are.
func guessFailed(e *event.Event) bool {
	if e.HTTPStatus == 401 {
		return true
	}
	return e.Kind == "auth" && e.HTTPStatus != 403 && (e.Outcome == "denied" || e.Outcome == "protocol_error" || e.Outcome == "tool_error")
}

// guessFits reports whether what succeeded shows that somebody could say who they are.
// What was done to a service itself does when it was done with a credential.
func guessFits(v *Seen) bool {
	return v.Call || v.Kind == "auth" || v.Kind == "admin" && v.CredentialID != ""
}

func (d *authBruteforce) Observe(v *Seen, out *Out) {
	if guessFailed(v.Event) {
		d.failed(v, out)
		return
	}
	if v.Outcome == "success" && guessFits(v) && d.state.Principals.Len()+d.state.Addresses.Len() > 0 {
		d.succeeded(v, out)
	}
}

func (d *authBruteforce) failed(v *Seen, out *Out) {
	names := &d.state.Names
	var who, address, credential Key
	if v.Principal != "" {
		who = names.of(v, 1, v.Tenant, v.Principal)
	}
	if v.ClientIP != "" {
		address = names.of(v, 2, v.Tenant, v.ClientIP)
	}
	if v.CredentialID != "" {
		credential = names.of(v, 3, v.Tenant, v.CredentialID)
	}
	if v.Principal != "" {
		r := d.count(&d.state.Principals, who, v, credential)
		if v.ClientIP != "" {
			r.Others.add(address)
		}
		d.judgePrincipal(r, who, v, out)
	}
	if v.ClientIP != "" {
		r := d.count(&d.state.Addresses, address, v, credential)
		if v.Principal != "" {
			r.Others.add(who)
		} else {
			r.Nameless++
		}
		if !r.Fired && len(r.Others) == 1 && r.Nameless == 0 {
			if p := d.state.Principals.Peek(who); p != nil && p.Fired {
				return // all that it tried is told of whom it tried it for
			}
		}
		d.judgeAddress(r, address, v, out)
	}
	if v.CredentialID != "" {
		r := d.count(&d.state.Credentials, credential, v, credential)
		if v.ClientIP != "" {
			r.Others.add(address)
		}
		d.judgeCredential(r, credential, v, out)
	}
}

func (d *authBruteforce) count(g *Groups[guessRun], k Key, v *Seen, credential Key) *guessRun {
	r, fresh := g.Get(k, v.Clock)
	span := micros(d.cfg.Window)
	if long := v.At-r.First > span && !r.Fired && g != &d.state.Principals; fresh || long || farApart(v.At, r.Last, span) || v.At-r.First > guessLongest {
		*r = guessRun{First: v.At, Last: v.At}
	}
	r.First, r.Last = min(r.First, v.At), max(r.Last, v.At)
	r.Failures++
	if v.CredentialID == "" {
		r.Unnamed++
	} else {
		r.Credentials.add(credential)
	}
	if !r.Fired && len(r.IDs) < guessEvidence {
		r.IDs = append(r.IDs, v.EventID)
	}
	return r
}

// raise tells of a run; the newest event is one of its failures.
func (d *authBruteforce) raise(r *guessRun, s Signal, out *Out, v *Seen, who string) {
	s.Subject = Subject{Tenant: v.Tenant, Principal: who}
	s.Start = r.First
	s.Observed = fmt.Sprintf("%s in %s", sayCount(r.Failures, "failure"), saySpan(r.Last-r.First))
	s.Workings = []Working{{"failures", fmt.Sprint(r.Failures)}, {"different credentials", guessCount(r.Credentials)},
		{"without a credential", fmt.Sprint(r.Unnamed)}, {"newest method", v.Method}, {"newest server", v.Server}}
	if n := len(r.IDs); n > 0 {
		s.Before = r.IDs[:n-1]
		if s.Severity == High && v.Outcome == "success" { // the event is no failure
			s.Before = r.IDs
		}
	}
	out.Raise(s)
	r.Fired, r.IDs = true, nil
}

// tried says what was sent.
func (r *guessRun) tried() string {
	with := fmt.Sprintf("with %s different credentials", guessCount(r.Credentials))
	switch {
	case len(r.Credentials) == 0:
		return "each time without a known credential"
	case len(r.Credentials) == 1:
		with = "with one credential"
	}
	if r.Unnamed > 0 {
		with += fmt.Sprintf(" and %d times without a known one", r.Unnamed)
	}
	return with
}

// places says from how many addresses a principal's failures came.
func (r *guessRun) places() string {
	switch len(r.Others) {
	case 0:
		return ""
	case 1:
		return " from one address"
	}
	return " from " + guessCount(r.Others) + " addresses"
}

func guessCount(f fewKeys) string {
	if len(f) >= maxFew {
		return fmt.Sprintf("at least %d", maxFew)
	}
	return fmt.Sprint(len(f))
}

func (d *authBruteforce) judgePrincipal(r *guessRun, k Key, v *Seen, out *Out) {
	n, allowed := r.Failures, uint64(d.cfg.Failures)
	s := Signal{Group: k, Severity: Medium, Score: float64(n) / float64(allowed), Expected: fmt.Sprintf("fewer than %d failures without a success", allowed)}
	switch {
	case r.guesses() && n >= allowed:
		s.Reason = fmt.Sprintf("%s failed to authenticate %d times in %s without a success, %s%s", sayName(v.Principal), n, saySpan(r.Last-r.First), r.tried(), r.places())
	case n >= guessStuck*allowed:
		s.Severity = Low
		s.Reason = fmt.Sprintf("%s failed to authenticate %d times in %s with one and the same credential: a client that is stuck, or a revoked credential in use",
			sayName(v.Principal), n, saySpan(r.Last-r.First))
	default:
		return
	}
	d.raise(r, s, out, v, v.Principal)
}

// guesses reports whether a run can be guesses: what is sent differs, or nobody
// knows what it was.
func (r *guessRun) guesses() bool { return r.Unnamed > 0 || len(r.Credentials) > 1 }

// allowed is how many failures an address may have.
func (d *authBruteforce) allowed(r *guessRun) uint64 {
	n := uint64(d.cfg.Failures + guessPerGuest*len(r.Guests))
	if len(r.Guests) == maxFew { // so many that they are not the attacker's own
		n = max(n, r.Successes)
	}
	return n
}

func (d *authBruteforce) judgeAddress(r *guessRun, k Key, v *Seen, out *Out) {
	allowed := d.allowed(r)
	if r.Failures < allowed || !r.guesses() {
		return
	}
	s := Signal{Group: k, Severity: Medium, Score: float64(r.Failures) / float64(allowed), Expected: fmt.Sprintf("fewer than %d failures", allowed)}
	if n := len(r.Guests); n > 0 {
		s.Expected += " beside " + sayCount(uint64(n), "identity") + " that succeeded"
	}
	switch tried := len(r.Credentials); {
	case len(r.Others) >= d.cfg.Spray:
		s.Reason = fmt.Sprintf("address %s failed to authenticate as %s different principals, %d times in %s", sayName(v.ClientIP), guessCount(r.Others), r.Failures, saySpan(r.Last-r.First))
	case r.Unnamed >= allowed || tried >= min(d.cfg.Failures, maxFew):
		s.Reason = fmt.Sprintf("address %s failed to authenticate %d times in %s, %s", sayName(v.ClientIP), r.Failures, saySpan(r.Last-r.First), r.tried())
	default:
		return
	}
	d.raise(r, s, out, v, "address "+v.ClientIP)
}

func (d *authBruteforce) judgeCredential(r *guessRun, k Key, v *Seen, out *Out) {
	if r.Failures < uint64(d.cfg.Failures) || len(r.Others) < guessPlaces {
		return
	}
	d.raise(r, Signal{Group: k, Severity: Low, Score: float64(r.Failures) / float64(d.cfg.Failures),
		Expected: fmt.Sprintf("fewer than %d failures, or from fewer than %d addresses", d.cfg.Failures, guessPlaces),
		Reason: fmt.Sprintf("credential %s was refused %d times in %s, from %s addresses: it is expired, revoked or stolen and still in use",
			sayName(v.CredentialID), r.Failures, saySpan(r.Last-r.First), guessCount(r.Others))}, out, v, "credential "+v.CredentialID)
}

// succeeded ends a principal's run, and looks whether a guess was right.
func (d *authBruteforce) succeeded(v *Seen, out *Out) {
	names := &d.state.Names
	if v.Principal != "" && d.state.Principals.Len() > 0 {
		who := names.of(v, 1, v.Tenant, v.Principal)
		if r := d.state.Principals.Peek(who); r != nil {
			if v.At < r.Last {
				return // what succeeded was under way before the last failure
			}
			if n := r.Failures; n >= uint64(d.cfg.Failures) && r.guesses() && v.At-r.Last <= micros(d.cfg.Window) {
				d.raise(r, Signal{Group: who, Severity: High, Score: float64(n) / float64(d.cfg.Failures), Expected: fmt.Sprintf("fewer than %d failures before a success", d.cfg.Failures),
					Reason: fmt.Sprintf("%s authenticated after %d failures in %s, %s%s: a guess may have been right",
						sayName(v.Principal), n, saySpan(r.Last-r.First), r.tried(), r.places())}, out, v, v.Principal)
			}
			d.state.Principals.Delete(who)
		}
	}
	if v.ClientIP == "" || d.state.Addresses.Len() == 0 {
		return
	}
	address := names.of(v, 2, v.Tenant, v.ClientIP)
	r := d.state.Addresses.Peek(address)
	if r == nil || v.At < r.Last {
		return
	}
	guest := v.Who
	if v.Principal != "" {
		guest = names.of(v, 1, v.Tenant, v.Principal)
	}
	fresh := r.Guests.add(guest)
	r.Successes++
	if r.Fired && v.At-r.Last <= micros(d.cfg.Window) && (r.Others.has(guest) || fresh) {
		d.raise(r, Signal{Group: address, Severity: High, Score: float64(r.Failures) / float64(d.cfg.Failures), Expected: "no success of somebody new after so many failures",
			Reason: fmt.Sprintf("%s authenticated from address %s after %d failures there in %s: a guess may have been right",
				sayName(Identity(v.Event)), sayName(v.ClientIP), r.Failures, saySpan(r.Last-r.First))}, out, v, "address "+v.ClientIP)
	}
}
