package detect

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// SecretExposure is the settings of the detector "secret_exposure": secrets in what
// an agent sends to a tool, or in what a tool hands to an agent, by the signals
// secret:… that redaction raised before it removed them.
//
// A secret of a known form (a provider's token, a private key) or under a telling
// key (password, api_key, connection_string) is medium; in arguments of a tool that
// says itself that it reaches the open world, or beside an address that data is
// sent to, it is high. Signals that only a key's name or a word nearby raises
// (token, pin, cookie, generic) are low, medium beside such an address, and info in
// results. Personal data is no secret. A tool whose name says that secrets are its
// job (a vault, a login) is info.
//
// A tool is known to handle secrets when they were in UsualShare of its calls, on
// three different days and in ten calls at least; then it is silent.
//
// There is one finding for an identity, tool and direction; from the eleventh
// identity at a tool on, one for all the others. The same kinds of
// secret there are not told again within Remember; what is added to them, or is
// worse, is.
//
// The score is the number of calls with secrets in the finding.
type SecretExposure struct {
	UsualShare float64       `key:"usual_share" doc:"share of a tool's calls with secrets from which on handling them is its normal work"`
	Remember   time.Duration `key:"remember" doc:"how long the same secrets of an identity at a tool are not told again"`
	MaxGroups  int           `key:"max_groups" doc:"most tools, and most identities with secrets at a tool, in memory; the one that was quiet longest is forgotten"`
}

// DefaultSecretExposure takes one call in five as normal work.
func DefaultSecretExposure() *SecretExposure {
	return &SecretExposure{UsualShare: 0.2, Remember: 30 * 24 * time.Hour, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *SecretExposure) Validate() error {
	return firstError(checkRatio("usual_share", c.UsualShare, 0.001, 1), checkSpan("remember", c.Remember, 0, 366*24*time.Hour), checkGroups(c.MaxGroups))
}

// New implements Config.
func (c *SecretExposure) New() Detector {
	return &secretExposure{cfg: *c, state: secretExposureState{Tools: Groups[secretTool]{Most: c.MaxGroups}, Told: Groups[secretTold]{Most: c.MaxGroups}}}
}

const (
	secretDays  = 3
	secretCalls = 10
	secretKinds = 16 // different ones of a group that are remembered
	secretHalve = 20_000
	secretOwn   = 10 // identities at a tool with a finding of their own
)

// secretWeak are classes that a name alone raises, and secretJobs words of tools
// and servers whose job is secrets. Both between spaces.
const (
	secretWeak = " token pin cookie generic cvv credential secret "
	secretJobs = " vault secret secrets keychain keyring credential credentials password passwords login signin signup auth authenticate oauth 1password bitwarden kms token tokens "
)

type secretExposure struct {
	cfg   SecretExposure
	state secretExposureState
}

type secretExposureState struct {
	Tools Groups[secretTool]
	Told  Groups[secretTold]
}

// secretTool is how usual secrets are at a tool: in arguments and in results.
type secretTool struct {
	Calls uint32
	Job   bool
	With  [2]uint32
	Days  [2]uint8
	Day   [2]int32
	Who   [2]fewKeys // identities that were told of
}

// secretTold is what was told of an identity at a tool.
type secretTold struct {
	First, Last int64 // of the finding
	Kinds       []uint64
	Calls       uint64
	Severity    Severity // the highest
}

func (d *secretExposure) State() any { return &d.state }

func (d *secretExposure) size() (int, uint64) {
	s := &d.state
	return s.Tools.Len() + s.Told.Len(), s.Tools.Evicted + s.Told.Evicted
}

// Advance forgets what was told long ago.
func (d *secretExposure) Advance(clock int64, _ *Out) {
	d.state.Told.Expire(clock-micros(d.cfg.Remember), nil)
}

func (d *secretExposure) Observe(v *Seen, out *Out) {
	if !v.Call {
		return
	}
	t, fresh := d.state.Tools.Get(v.Tool, v.Clock)
	if fresh {
		t.Job = secretJob(v.Target) || secretJob(v.Server)
	}
	if t.Calls++; t.Calls > secretHalve {
		t.Calls, t.With[0], t.With[1] = t.Calls/2, t.With[0]/2, t.With[1]/2
	}
	if len(v.Signals) == 0 {
		return
	}
	var seen [2][]string
	away := false
	for _, s := range v.Signals {
		if kind, ok := strings.CutPrefix(s, "secret:"); ok {
			seen[0] = append(seen[0], kind)
		} else if kind, ok := strings.CutPrefix(s, "result:secret:"); ok {
			seen[1] = append(seen[1], kind)
		} else if s == "egress" {
			away = true
		}
	}
	for side, kinds := range seen {
		if len(kinds) > 0 && !t.usual(side, v.At, d.cfg.UsualShare) {
			d.exposed(v, out, t, side, kinds, away && side == 0)
		}
	}
}

// usual counts a call with secrets, and says whether the tool's normal work has
// them.
func (t *secretTool) usual(side int, at int64, share float64) bool {
	t.With[side]++
	if day := int32(at / microsPerDay); t.Day[side] != day && t.Days[side] < 255 {
		t.Day[side], t.Days[side] = day, t.Days[side]+1
	}
	return t.Days[side] >= secretDays && t.With[side] >= secretCalls && float64(t.With[side]) >= share*float64(t.Calls)
}

// secretJob reads a tool's or server's name.
func secretJob(name string) bool {
	from := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && (attackLetter(name[i]) || name[i] >= '0' && name[i] <= '9') && !(i > from && name[i] >= 'A' && name[i] <= 'Z' && name[i-1] >= 'a') {
			continue
		}
		if i > from && i-from < 32 && strings.Contains(secretJobs, " "+strings.ToLower(name[from:i])+" ") {
			return true
		}
		from = i
		if i < len(name) && !attackLetter(name[i]) {
			from++
		}
	}
	return false
}

// exposed tells of secrets in a call, unless the same were told before.
func (d *secretExposure) exposed(v *Seen, out *Out, t *secretTool, side int, kinds []string, away bool) {
	group, own := v.Who.With(v.Tool).With(Key{uint64(side)}), true
	if w := &t.Who[side]; !w.has(v.Who) {
		if own = len(*w) < secretOwn; own {
			w.add(v.Who)
		} else {
			group = v.Tool.With(Key{2 + uint64(side)})
		}
	}
	told, fresh := d.state.Told.Get(group, v.Clock)
	open := out.IsOpen(group)
	if fresh || !open {
		told.First, told.Calls = v.At, 0
	}
	told.Last = v.At
	told.Calls++
	added := false
	for _, k := range kinds {
		if h := hashText(k); !slices.Contains(told.Kinds, h) {
			added = true
			if len(told.Kinds) < secretKinds {
				told.Kinds = append(told.Kinds, h)
			}
		}
	}
	if len(told.Kinds) == secretKinds {
		added = fresh // who invents kinds is told of once
	}
	severity, why := secretSeverity(v.Event, t, side, kinds, away)
	if !added && !open && severity <= told.Severity {
		return
	}
	told.Severity = max(told.Severity, severity)
	who := Identity(v.Event)
	s := Signal{
		Group: group, Subject: Subject{Tenant: v.Tenant, Principal: who, Server: v.Server, Target: v.Target}, Start: told.First,
		Severity: severity, Score: float64(told.Calls),
		Observed: sayCount(told.Calls, "call") + " with secrets",
		Expected: fmt.Sprintf("none; %d of %d calls of this tool had some", t.With[side]-1, t.Calls-1),
		Workings: []Working{{"kinds", strings.Join(kinds, ", ")}, {"why this severity", why}},
	}
	if !own {
		s.Subject.Principal = ""
	}
	if side == 0 {
		s.Reason = fmt.Sprintf("%s sent secrets (%s) to %s at %s, in %s; %s", sayName(who), sayNames(kinds), sayName(v.Target), sayName(v.Server), sayCount(told.Calls, "call"), why)
	} else {
		s.Reason = fmt.Sprintf("%s at %s handed secrets (%s) to %s, in %s; %s", sayName(v.Target), sayName(v.Server), sayNames(kinds), sayName(who), sayCount(told.Calls, "call"), why)
	}
	if !own {
		s.Reason = fmt.Sprintf("besides %d identities with a finding of their own: %s", secretOwn, s.Reason)
	}
	out.Raise(s)
}

func secretSeverity(e *event.Event, t *secretTool, side int, kinds []string, away bool) (Severity, string) {
	strong := false
	for _, k := range kinds {
		strong = strong || !strings.Contains(secretWeak, " "+k+" ")
	}
	switch {
	case t.Job:
		return Info, "its name says that secrets are its job"
	case !strong && away:
		return Medium, "what a name or a word nearby calls a secret goes to an address"
	case !strong && side == 1:
		return Info, "only names or words nearby say that they are secrets"
	case !strong:
		return Low, "only names or words nearby say that they are secrets"
	case side == 1:
		return Medium, "an agent may repeat what it has read"
	case away:
		return High, "the call sends data to an address"
	case e.Hints.OpenWorld && e.Hints != event.DefaultHints: // the default is what an undeclared tool has
		return High, "the tool declares that it reaches the open world"
	}
	return Medium, "the tool and whoever runs it can use them"
}
