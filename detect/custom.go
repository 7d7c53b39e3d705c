package detect

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Custom is the settings of the detector "custom": a condition of your own, counted
// in a window. It fires when a group has Threshold events within Window that match.
// The score is how many times the threshold was reached.
type Custom struct {
	Condition string        `key:"condition" doc:"CEL expression over the fields of an event, such as: server == \"billing\" && outcome == \"denied\""`
	GroupBy   []string      `key:"group_by" doc:"fields that make a group: principal, agent_id, session_id, trace_id, server, target, credential_id, client_ip"`
	Threshold int           `key:"threshold" doc:"events within the window that are a finding"`
	Distinct  string        `key:"distinct" doc:"count different values of this field instead of events; one of those of group_by, or arguments"`
	Window    time.Duration `key:"window" doc:"how long back is counted"`
	MaxGroups int           `key:"max_groups" doc:"most groups in memory; the one that was quiet longest is forgotten"`
}

// DefaultCustom fires at the first event that matches.
func DefaultCustom() *Custom {
	return &Custom{GroupBy: []string{"principal"}, Threshold: 1, Window: 5 * time.Minute, MaxGroups: 50_000}
}

// groupFields are the fields by which events can be grouped, and where a finding
// names them.
var groupFields = []struct {
	name string
	of   func(*event.Event) string
	to   func(*Subject) *string
}{
	{"principal", Identity, func(s *Subject) *string { return &s.Principal }},
	{"agent_id", func(e *event.Event) string { return e.AgentID }, func(s *Subject) *string { return &s.AgentID }},
	{"session_id", func(e *event.Event) string { return e.SessionID }, func(s *Subject) *string { return &s.SessionID }},
	{"trace_id", func(e *event.Event) string { return e.TraceID }, func(s *Subject) *string { return &s.TraceID }},
	{"server", func(e *event.Event) string { return e.Server }, func(s *Subject) *string { return &s.Server }},
	{"target", func(e *event.Event) string { return e.Target }, func(s *Subject) *string { return &s.Target }},
	{"credential_id", func(e *event.Event) string { return e.CredentialID }, nil},
	{"client_ip", func(e *event.Event) string { return e.ClientIP }, nil},
}

func groupField(name string) int {
	for i := range groupFields {
		if groupFields[i].name == name {
			return i
		}
	}
	return -1
}

// maxThreshold bounds what one group remembers: eight bytes for each event, twice
// that for each value.
const maxThreshold = 1000

// Validate implements Config.
func (c *Custom) Validate() error {
	if c.Condition == "" {
		return errors.New("condition: is required; write a CEL expression such as server == \"billing\"")
	}
	if _, err := Compile(c.Condition); err != nil {
		return fmt.Errorf("condition: %w", err)
	}
	var names []string
	for _, f := range groupFields {
		names = append(names, f.name)
	}
	for _, g := range c.GroupBy {
		if groupField(g) < 0 {
			return fmt.Errorf("group_by: there is no field %q to group by; use %s", g, strings.Join(names, ", "))
		}
	}
	if c.Distinct != "" && c.Distinct != "arguments" && groupField(c.Distinct) < 0 {
		return fmt.Errorf("distinct: there is no field %q to count; use arguments, %s", c.Distinct, strings.Join(names, ", "))
	}
	if c.Threshold < 1 || c.Threshold > maxThreshold {
		return fmt.Errorf("threshold: is %d, must lie between 1 and %d", c.Threshold, maxThreshold)
	}
	if c.Window < time.Second || c.Window > 24*time.Hour {
		return fmt.Errorf("window: is %v, must lie between 1s and 24h", c.Window)
	}
	return checkGroups(c.MaxGroups)
}

// checkGroups bounds a detector's memory.
func checkGroups(n int) error {
	if n < 1 || n > 10_000_000 {
		return fmt.Errorf("max_groups: is %d, must lie between 1 and 10000000", n)
	}
	return nil
}

// New implements Config.
func (c *Custom) New() Detector {
	x, err := Compile(c.Condition)
	if err != nil {
		panic(err) // Validate has compiled it
	}
	return &custom{cfg: *c, condition: x, state: customState{Groups: Groups[customGroup]{Most: c.MaxGroups}}}
}

type custom struct {
	cfg       Custom
	condition *Expression
	hash      hasher
	state     customState
}

type customState struct{ Groups Groups[customGroup] }

// customGroup is the newest events of a group that match, oldest first.
type customGroup struct {
	At     []int64
	IDs    []event.ID
	Values []uint64 // of the field that is counted
}

func (d *custom) State() any              { return &d.state }
func (d *custom) size() (int, uint64)     { return d.state.Groups.Len(), d.state.Groups.Evicted }
func (d *custom) Advance(c int64, _ *Out) { d.state.Groups.Expire(c-2*micros(d.cfg.Window), nil) }

func (d *custom) Observe(v *Seen, out *Out) {
	if !d.condition.Matches(v.Event) {
		return
	}
	s := Subject{Tenant: v.Tenant}
	key := d.hash.key(Key{}, v.Tenant)
	for _, name := range d.cfg.GroupBy {
		f := &groupFields[groupField(name)]
		value := f.of(v.Event)
		key = d.hash.key(key, name, value)
		if f.to != nil {
			*f.to(&s) = value
		}
	}
	g, _ := d.state.Groups.Get(key, v.Clock)
	old := 0
	for old < len(g.At) && g.At[old] <= v.At-micros(d.cfg.Window) {
		old++
	}
	// One more than the threshold is enough to know that it is reached.
	old = max(old, len(g.At)-maxThreshold)
	g.At, g.IDs = append(slices.Delete(g.At, 0, old), v.At), append(slices.Delete(g.IDs, 0, old), v.EventID)
	n, what := len(g.At), "events"
	if d.cfg.Distinct != "" {
		g.Values = append(slices.Delete(g.Values, 0, min(old, len(g.Values))), d.value(v))
		n, what = distinct(g.Values), "different values of "+d.cfg.Distinct
	}
	if n < d.cfg.Threshold {
		return
	}
	observed := fmt.Sprintf("%d %s in %v", n, what, d.cfg.Window)
	if n == 1 && d.cfg.Threshold == 1 && d.cfg.Distinct == "" {
		observed = "1 event"
	}
	out.Raise(Signal{
		Group: key, Subject: s, Start: g.At[0], Score: float64(n) / float64(d.cfg.Threshold),
		Reason:   fmt.Sprintf("%s of %s that match %s", observed, sayName(Identity(v.Event)), d.cfg.Condition),
		Observed: observed, Expected: fmt.Sprintf("fewer than %d", d.cfg.Threshold),
		Workings: []Working{{"condition", d.cfg.Condition}, {"threshold", strconv.Itoa(d.cfg.Threshold)}, {"window", d.cfg.Window.String()}},
		Before:   g.IDs[:len(g.IDs)-1],
	})
}

// value is the hash of what is counted.
func (d *custom) value(v *Seen) uint64 {
	if d.cfg.Distinct == "arguments" {
		return hashText(string(v.ArgumentsDigest[:]))
	}
	return hashText(groupFields[groupField(d.cfg.Distinct)].of(v.Event))
}

func distinct(values []uint64) int {
	s := slices.Clone(values)
	slices.Sort(s)
	return len(slices.Compact(s))
}
