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
// The score is how many times the threshold was reached, as far as is counted: up to
// 100 events or values.
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

// What one group remembers: 24 bytes for each event that is counted, or 32 for each
// value. They are counted up to leastCounted, or to the threshold where that is more.
const (
	maxThreshold = 1000
	leastCounted = 100
)

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

// customGroup is the newest events of a group that match, oldest first; where values
// are counted, the newest of each.
type customGroup struct {
	At     []int64
	IDs    []event.ID
	Values []uint64 // of the field that is counted
}

// drop forgets the events from i to j.
func (g *customGroup) drop(i, j int) {
	g.At, g.IDs = slices.Delete(g.At, i, j), slices.Delete(g.IDs, i, j)
	if len(g.Values) > 0 {
		g.Values = slices.Delete(g.Values, i, j)
	}
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
	g.drop(0, old)
	what := "events"
	if d.cfg.Distinct != "" {
		what = "different values of " + d.cfg.Distinct
		value := d.value(v)
		if i := slices.Index(g.Values, value); i >= 0 {
			g.drop(i, i+1) // so that repeating some values does not push out others
		}
		g.Values = append(g.Values, value)
	}
	g.At, g.IDs = append(g.At, v.At), append(g.IDs, v.EventID)
	n, most := len(g.At), max(leastCounted, d.cfg.Threshold)
	some := ""
	if n > most {
		g.drop(0, n-most)
		n = most
	}
	if n == most {
		some = "at least "
	}
	if n < d.cfg.Threshold {
		return
	}
	observed := fmt.Sprintf("%s%d %s in %v", some, n, what, d.cfg.Window)
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
