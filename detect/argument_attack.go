package detect

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// ArgumentAttack is the settings of the detector "argument_attack": arguments that
// are made to break what a tool does with them, by the signals that redaction
// raised before it removed anything.
//
// What is an attack on one tool is another one's work: a shell gets commands, a
// database tool SQL, an editor the source of anything. So a class of signal is usual
// at a tool when it was in UsualRate of its calls and in three different hours, and
// from the first call on at a tool whose name says that such text is its job
// (execute_sql, run_command, write_file). Usual signals count for nothing, except
// that the address of a cloud's metadata service is high anywhere.
//
// The others are counted for an identity, until it was quiet for Window:
//
//   - high: ScanClasses different classes, or a call that succeeds with such a
//     signal after three that failed;
//   - medium: Repeats calls, or one at a tool that is well known (200 calls on two
//     days) and never or hardly ever (a tenth of UsualRate) gets such arguments;
//   - low: one at another tool.
//
// Weak classes, which ordinary text and local work have as well (hidden_unicode,
// oversized, script_injection, addresses inside the network), only count towards the
// first and for nothing alone.
//
// There is one finding for an identity. The score is the number of calls plus three
// for each class beyond the first.
//
// It does not see what redaction has no signal for, and an attacker who may call a
// tool for hours on end at a low rate makes a class usual there; those calls
// themselves were findings.
type ArgumentAttack struct {
	Window      time.Duration `key:"window" doc:"how long an identity must be quiet for its attempts to be forgotten"`
	Repeats     int           `key:"repeats" doc:"calls with attack signals that are of medium severity"`
	ScanClasses int           `key:"scan_classes" doc:"different classes of attack that are a scan, of high severity"`
	UsualRate   float64       `key:"usual_rate" doc:"share of a tool's calls with a class of signal from which on it is usual there"`
	MaxGroups   int           `key:"max_groups" doc:"most tools, and most identities, in memory; the one that was quiet longest is forgotten"`
}

// DefaultArgumentAttack takes one call in a hundred as usual.
func DefaultArgumentAttack() *ArgumentAttack {
	return &ArgumentAttack{Window: 10 * time.Minute, Repeats: 5, ScanClasses: 3, UsualRate: 0.01, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *ArgumentAttack) Validate() error {
	return firstError(
		checkSpan("window", c.Window, time.Minute, 24*time.Hour),
		checkCount("repeats", c.Repeats, 2, 1000),
		checkCount("scan_classes", c.ScanClasses, 2, len(attackClasses)),
		checkRatio("usual_rate", c.UsualRate, 1e-6, 1),
		checkGroups(c.MaxGroups),
	)
}

// New implements Config.
func (c *ArgumentAttack) New() Detector {
	return &argumentAttack{cfg: *c, state: argumentAttackState{Tools: Groups[attackedTool]{Most: c.MaxGroups}, Who: Groups[attackRun]{Most: c.MaxGroups}}}
}

// attackClasses are the signals of redaction that say attack, in the order of their
// bits. Others, such as injection_phrase, are about what a model reads.
var attackClasses = [...]string{
	"path_traversal", "sql_injection", "shell_injection", "template_injection", "prototype_pollution", "xxe", "header_injection", "nosql_injection",
	"ssrf:metadata", "ssrf:scheme",
	"ssrf:file", "ssrf:loopback", "ssrf:private", "script_injection", "hidden_unicode", "oversized",
}

const (
	attackMetadata = 1 << 8
	attackWeak     = 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<15

	attackHours     = 3   // in which a class must have been seen to be usual
	attackKnown     = 200 // calls of a tool that is well known
	attackKnownDays = 2
	attackFailures  = 3
	attackHardly    = 0.1 // part of UsualRate below which a class hardly ever comes
	attackEvidence  = 8
	attackHalve     = 20_000 // calls after which a tool's counts are halved, so that it can change
)

// attackJobs are words of tools' names that say what text is their job. Words that
// other tools have as well (process, code, create, file) are not among them: those
// tools are learned within hours.
var attackJobs = []struct {
	words   string
	classes uint32
}{
	// A command line or a program may hold anything.
	{" shell bash sh zsh powershell cmd terminal console command commands exec execute script eval evaluate python javascript repl notebook ", ^uint32(attackMetadata)},
	// So may a text that is written somewhere; where to is another matter.
	{" write edit patch append commit ", ^uint32(attackMetadata | 1<<0)},
	{" sql query postgres mysql sqlite clickhouse bigquery snowflake mongo mongodb aggregate ", 1<<1 | 1<<7 | 1<<14 | 1<<15},
	{" browser navigate goto playwright puppeteer ", 1<<10 | 1<<11 | 1<<12 | 1<<13},
}

type argumentAttack struct {
	cfg   ArgumentAttack
	state argumentAttackState
}

type argumentAttackState struct {
	Tools Groups[attackedTool]
	Who   Groups[attackRun]
}

// attackedTool is how usual signals are at a tool.
type attackedTool struct {
	Calls   uint32
	Total   uint32 // never halved
	First   int64
	Job     uint32 // classes that its name makes usual
	Classes []attackRate
}

type attackRate struct {
	Class uint8
	Hours uint8 // different ones with the signal
	Hour  int32 // the newest of them
	Calls uint32
}

// attackRun is what an identity tried.
type attackRun struct {
	First, Last int64
	Classes     uint32
	Strong      uint64 // calls with a strong class
	Failed      uint64 // of these
	Tools       fewKeys
	IDs         []event.ID
}

func (d *argumentAttack) State() any { return &d.state }

func (d *argumentAttack) size() (int, uint64) {
	s := &d.state
	return s.Tools.Len() + s.Who.Len(), s.Tools.Evicted + s.Who.Evicted
}

// Advance forgets what is over.
func (d *argumentAttack) Advance(clock int64, _ *Out) {
	d.state.Who.Expire(clock-micros(d.cfg.Window), nil)
}

// attackSignals are the classes that a call's arguments have.
func attackSignals(signals []string) (classes uint32) {
	for _, s := range signals {
		// Most signals are of results or name URLs: two bytes tell.
		if len(s) < 3 || s[0] == 'u' || s[0] == 'r' || s[0] == 'e' || s[0] == 'i' {
			continue
		}
		for i := range attackClasses {
			if s == attackClasses[i] {
				classes |= 1 << i
				break
			}
		}
	}
	return classes
}

func (d *argumentAttack) Observe(v *Seen, out *Out) {
	if !v.Call {
		return
	}
	t, fresh := d.state.Tools.Get(v.Tool, v.Clock)
	if fresh {
		t.First = v.At
		if v.Kind == "tool_call" {
			t.Job = attackJob(v.Target)
		}
	}
	t.Total++
	if t.Calls++; t.Calls > attackHalve {
		t.Calls /= 2
		for i := range t.Classes {
			t.Classes[i].Calls /= 2
		}
	}
	if len(v.Signals) == 0 {
		return
	}
	classes := attackSignals(v.Signals)
	if classes == 0 {
		return
	}
	unusual := t.note(classes, v.At, d.cfg.UsualRate)
	if unusual &^= t.Job; unusual != 0 {
		d.tried(v, out, t, unusual)
	}
}

// note counts the classes of a call and gives those that are not usual at the tool.
func (t *attackedTool) note(classes uint32, at int64, usual float64) (unusual uint32) {
	hour := int32(at / microsPerHour)
	for c := classes; c != 0; c &= c - 1 {
		class := uint8(bits.TrailingZeros32(c))
		r := t.rate(class)
		if r.Hours < attackHours || float64(r.Calls) < usual*float64(t.Calls) {
			unusual |= 1 << class
		}
		r.Calls++
		if r.Hour != hour && r.Hours < 255 {
			r.Hour, r.Hours = hour, r.Hours+1
		}
	}
	return unusual | classes&attackMetadata
}

func (t *attackedTool) rate(class uint8) *attackRate {
	for i := range t.Classes {
		if t.Classes[i].Class == class {
			return &t.Classes[i]
		}
	}
	t.Classes = append(t.Classes, attackRate{Class: class})
	return &t.Classes[len(t.Classes)-1]
}

// attackJob reads from a tool's name what text is its job.
func attackJob(tool string) (classes uint32) {
	var low [64]byte
	for i := 0; i < len(tool); {
		n := 0
		start := i
		for i < len(tool) && attackLetter(tool[i]) && (i == start || !(tool[i] <= 'Z' && tool[i-1] >= 'a')) {
			if n < len(low) {
				low[n] = tool[i] | 0x20
				n++
			}
			i++
		}
		if n > 0 {
			word := " " + string(low[:n]) + " "
			for _, j := range attackJobs {
				if strings.Contains(j.words, word) {
					classes |= j.classes
				}
			}
		} else {
			i++
		}
	}
	return classes
}

func attackLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// tried counts an attempt of an identity and tells what it amounts to.
func (d *argumentAttack) tried(v *Seen, out *Out, t *attackedTool, unusual uint32) {
	r, fresh := d.state.Who.Get(v.Who, v.Clock)
	if fresh || farApart(v.At, r.Last, micros(d.cfg.Window)) {
		*r = attackRun{First: v.At}
	}
	r.First, r.Last = min(r.First, v.At), max(r.Last, v.At)
	strong := unusual &^ attackWeak
	r.Classes |= unusual
	r.Tools.add(v.Tool)
	failed := v.Outcome != "success" && v.Outcome != "input_required"
	through := strong != 0 && !failed && r.Failed >= attackFailures
	if strong != 0 {
		r.Strong++
		if failed {
			r.Failed++
		}
	}
	who, what := Identity(v.Event), attackNames(unusual)
	s := Signal{
		Group: v.Who, Subject: Subject{Tenant: v.Tenant, Principal: who}, Start: r.First,
		Score:    float64(max(r.Strong, 1)) + 3*float64(bits.OnesCount32(r.Classes)-1),
		Observed: fmt.Sprintf("%s in %s of %s", attackNames(r.Classes), sayCount(max(r.Strong, 1), "call"), sayCount(uint64(len(r.Tools)), "tool")),
		Expected: "arguments as these tools usually get them",
	}
	if r.Last > r.First {
		s.Observed += " in " + saySpan(r.Last-r.First)
	}
	where := fmt.Sprintf("%s at %s", sayName(v.Target), sayName(v.Server))
	known := t.Total >= attackKnown && v.At-t.First >= attackKnownDays*microsPerDay
	switch {
	case unusual&attackMetadata != 0:
		s.Severity = High
		s.Reason = fmt.Sprintf("%s gave %s the address of a cloud's metadata service, which hands out the credentials of the machine; the call ended with %s", sayName(who), where, v.Outcome)
	case bits.OnesCount32(r.Classes) >= d.cfg.ScanClasses && r.Strong > 0:
		s.Severity = High
		s.Reason = fmt.Sprintf("%s tried %d classes of attack in %s (%s), the newest on %s", sayName(who), bits.OnesCount32(r.Classes), saySpan(r.Last-r.First), attackNames(r.Classes), where)
	case through:
		s.Severity = High
		s.Reason = fmt.Sprintf("%s had %s with %s fail, and then one succeeded, on %s", sayName(who), sayCount(r.Failed, "call"), attackNames(r.Classes&^attackWeak), where)
	case r.Strong >= uint64(d.cfg.Repeats):
		s.Severity = Medium
		s.Reason = fmt.Sprintf("%s made %s with %s in %s, the newest on %s", sayName(who), sayCount(r.Strong, "call"), attackNames(r.Classes), saySpan(r.Last-r.First), where)
	case strong != 0 && known:
		s.Severity = Medium
		if n := t.before(strong); n >= attackHours && float64(n) > d.cfg.UsualRate*attackHardly*float64(t.Calls) {
			s.Severity = Low
		}
		s.Reason = fmt.Sprintf("arguments of %s for %s have %s, which %d of its %d calls before had; the call ended with %s", sayName(who), where, what, t.before(strong), t.Calls-1, v.Outcome)
	case strong != 0:
		s.Severity = Low
		s.Reason = fmt.Sprintf("arguments of %s for %s have %s; the call ended with %s. How usual that is there is not known yet, after %s", sayName(who), where, what, v.Outcome, sayCount(uint64(t.Total), "call"))
	default:
		r.keep(v.EventID)
		return
	}
	s.Workings = []Working{{"classes", attackNames(r.Classes)}, {"calls that failed", fmt.Sprint(r.Failed)}, {"calls of this tool so far", fmt.Sprint(t.Total)},
		{"of them with this class", fmt.Sprint(t.before(unusual) + 1)}}
	s.Before, r.IDs = r.IDs, nil
	out.Raise(s)
}

func (r *attackRun) keep(id event.ID) {
	if len(r.IDs) < attackEvidence {
		r.IDs = append(r.IDs, id)
	}
}

// before is in how many calls before this one the most usual of some classes was.
func (t *attackedTool) before(classes uint32) (n uint32) {
	for i := range t.Classes {
		if classes&(1<<t.Classes[i].Class) != 0 {
			n = max(n, t.Classes[i].Calls-1)
		}
	}
	return n
}

func attackNames(classes uint32) string {
	var names []string
	for ; classes != 0; classes &= classes - 1 {
		names = append(names, attackClasses[bits.TrailingZeros32(classes)])
	}
	return strings.Join(names, ", ")
}
