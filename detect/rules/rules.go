// Package rules reads detection rules: YAML files over a shipped set, checked
// strictly, each with examples of events that must make it fire and that must not.
//
//	rules:
//	  - name: agent-loop          # a shipped rule: what is given here changes it
//	    with: {repeats: 12}
//	  - name: off-hours
//	    disabled: true
//	  - name: billing-deletes     # a rule of your own
//	    title: An agent deletes from billing
//	    detector: custom
//	    severity: high
//	    with:
//	      condition: server == "billing" && target.startsWith("delete_")
//	    examples:
//	      - name: a deletion
//	        fires: 1
//	        events: |
//	          09:00:00 principal=agent:x server=billing target=delete_invoice
//
// The package does no I/O but for the shipped set, which is part of the program.
package rules

import (
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

//go:embed shipped/*.yaml
var shipped embed.FS

// Shipped is the source of the rules that are part of the program.
const Shipped = "shipped"

// Rule is a rule and where it is from.
type Rule struct {
	detect.Rule
	Source   string // name of the file, or Shipped
	Changed  bool   // a shipped rule that a file changes
	WhereCEL string // text of its filter
	Examples []Example
}

// Set is the rules in force, by name.
type Set []Rule

// Rules are those that an engine runs.
func (s Set) Rules() []detect.Rule {
	out := make([]detect.Rule, len(s))
	for i := range s {
		out[i] = s[i].Rule
	}
	return out
}

// Find is a rule by its name.
func (s Set) Find(name string) (Rule, bool) {
	i := slices.IndexFunc(s, func(r Rule) bool { return r.Name == name })
	if i < 0 {
		return Rule{}, false
	}
	return s[i], true
}

// File is a rule file's name, for messages, and its text.
type File struct {
	Name string
	Text []byte
}

// document is a file.
type document struct {
	Rules []ruleDoc `key:"rules"`
}

// ruleDoc is a rule as a file has it.
type ruleDoc struct {
	Name         string        `key:"name"`
	Title        string        `key:"title"`
	Detector     string        `key:"detector"`
	Severity     string        `key:"severity"`
	References   []string      `key:"references"`
	Runbook      string        `key:"runbook"`
	ResolveAfter time.Duration `key:"resolve_after"`
	Where        string        `key:"where"`
	Disabled     bool          `key:"disabled"`
	With         *yaml.Node    `key:"with"`
	Examples     []Example     `key:"examples"`
	line         int
	given        map[string]bool // the keys that it has
}

// Limits of rule files: they bound what one bad file costs.
const (
	MaxFile  = 4 << 20 // bytes
	maxRules = 500
	// maxExamples is how many events a file's examples make: each is tried to be made
	// whenever the file is read.
	maxExamples = 2 * maxScript
	// resolveLeast is longer than events take to come in: nothing is resolved while it
	// goes on. resolveLimit is shorter than what an engine lets pass at once.
	resolveLeast = 10 * time.Second
	resolveLimit = 30 * 24 * time.Hour
)

var ruleName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// Load reads the shipped rules and what files change and add, in their order. An
// error names file and line, and for what is not known the nearest that is.
func Load(files ...File) (Set, error) {
	var set Set
	names, err := shipped.ReadDir("shipped")
	if err != nil {
		return nil, fmt.Errorf("read the shipped rules: %w", err)
	}
	for _, n := range names {
		text, err := shipped.ReadFile("shipped/" + n.Name())
		if err != nil {
			return nil, fmt.Errorf("read the shipped rules: %w", err)
		}
		if set, err = set.read(File{Shipped, text}); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		if set, err = set.read(f); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(set, func(a, b Rule) int { return cmp.Compare(a.Name, b.Name) })
	return set, nil
}

// read adds a file's rules to s.
func (s Set) read(f File) (Set, error) {
	if len(f.Text) > MaxFile {
		return nil, fmt.Errorf("%s: has more than %d bytes", f.Name, MaxFile)
	}
	var doc document
	if err := decodeFile(f, &doc); err != nil {
		return nil, err
	}
	seen, events := map[string]bool{}, 0
	for _, d := range doc.Rules {
		at := fmt.Sprintf("%s:%d: ", f.Name, d.line)
		switch {
		case !ruleName.MatchString(d.Name):
			return nil, fmt.Errorf("%sa rule needs a name of small letters, digits and dashes, such as billing-deletes; this one has %q", at, d.Name)
		case seen[d.Name]:
			return nil, fmt.Errorf("%srule %s is there twice", at, d.Name)
		}
		seen[d.Name] = true
		i := slices.IndexFunc(s, func(r Rule) bool { return r.Name == d.Name })
		var base *Rule
		if i >= 0 {
			base = &s[i]
		}
		if d.Disabled {
			if base == nil {
				return nil, fmt.Errorf("%sthere is no rule %s to disable; the nearest is %s", at, d.Name, event.Nearest(d.Name, s.names()))
			}
			s = slices.Delete(s, i, i+1)
			continue
		}
		r, err := d.rule(f.Name, base, s, &events)
		if err != nil {
			return nil, err
		}
		if base != nil {
			*base = r
		} else if s = append(s, r); len(s) > maxRules {
			return nil, fmt.Errorf("%smore than %d rules", at, maxRules)
		}
	}
	return s, nil
}

func (s Set) names() []string {
	out := make([]string, len(s))
	for i := range s {
		out[i] = s[i].Name
	}
	return out
}

// rule makes the rule of a document, over the one of the same name. The events of its
// examples are added to those of the file.
func (d *ruleDoc) rule(file string, base *Rule, others Set, events *int) (Rule, error) {
	fail := func(format string, args ...any) (Rule, error) {
		return Rule{}, fmt.Errorf("%s:%d: rule %s: %w", file, d.line, d.Name, fmt.Errorf(format, args...))
	}
	r := Rule{Source: file}
	r.Severity, r.ResolveAfter = detect.Medium, 10*time.Minute
	if base != nil {
		r = *base
		r.Source, r.Changed = file, base.Changed || base.Source == Shipped
		if d.Detector != "" && d.Detector != base.Detector {
			return fail("its detector is %s; give a rule with another detector another name", base.Detector)
		}
		if d.With != nil || d.Where != "" {
			r.Examples = nil // they are of the rule as it was
		}
		if d.Severity != "" { // and these still fire, but say another severity
			r.Examples = slices.Clone(r.Examples)
			for i := range r.Examples {
				r.Examples[i].Severity = ""
			}
		}
	} else if d.Detector == "" {
		near := ""
		if len(others) > 0 {
			near = fmt.Sprintf(", or change the shipped rule that is nearest, %s", event.Nearest(d.Name, others.names()))
		}
		return fail("names no detector; give it one of %s%s", kindNames(), near)
	}
	r.Name = d.Name
	set(&r.Title, d.Title)
	set(&r.Detector, d.Detector)
	set(&r.Runbook, d.Runbook)
	if d.References != nil {
		r.References = d.References
	}
	if d.Examples != nil {
		r.Examples = d.Examples
	}
	if d.given["resolve_after"] {
		r.ResolveAfter = d.ResolveAfter
	}
	if r.ResolveAfter < resolveLeast || r.ResolveAfter > resolveLimit {
		return fail("resolve_after: is %v, must lie between 10s and 720h", r.ResolveAfter)
	}
	if d.Severity != "" {
		var err error
		if r.Severity, err = detect.ParseSeverity(d.Severity); err != nil {
			return fail("severity: %w", err)
		}
	}
	kind, ok := detect.KindOf(r.Detector)
	if !ok {
		return fail("there is no detector %q; the nearest is %s", r.Detector, event.Nearest(r.Detector, strings.Split(kindNames(), ", ")))
	}
	with := kind.New()
	if base != nil {
		with = clone(base.With)
	}
	if d.With != nil {
		if err := decode(file, "with", d.With, reflect.ValueOf(with).Elem()); err != nil {
			return Rule{}, err
		}
	}
	if err := with.Validate(); err != nil {
		return fail("with: %w", err)
	}
	r.With = with
	if d.Where != "" {
		r.WhereCEL = d.Where
	}
	if r.WhereCEL != "" {
		x, err := detect.Compile(r.WhereCEL)
		if err != nil {
			return fail("where: %w", err)
		}
		r.Where = func(v *detect.Seen) bool { return x.Matches(v.Event) }
	}
	if r.Title == "" {
		return fail("has no title; say in one sentence what it means when it fires")
	}
	for i := range d.Examples {
		n, err := d.Examples[i].check()
		if err != nil {
			return fail("example %q: %w", d.Examples[i].Name, err)
		}
		if *events += n; *events > maxExamples {
			return fail("example %q: the examples of one file make at most %d events", d.Examples[i].Name, maxExamples)
		}
	}
	r.Digest = digest(&r)
	return r, nil
}

func set(to *string, s string) {
	if s != "" {
		*to = s
	}
}

func kindNames() string {
	var names []string
	for _, k := range detect.Kinds {
		names = append(names, k.Name)
	}
	return strings.Join(names, ", ")
}

// clone copies settings, so that a changed rule does not change the shipped one.
func clone(c detect.Config) detect.Config {
	v := reflect.New(reflect.TypeOf(c).Elem())
	v.Elem().Set(reflect.ValueOf(c).Elem())
	return v.Interface().(detect.Config)
}

// digest is over all that decides what a rule finds. Texts are quoted in it: a list of
// two is not a list of one that has a blank.
func digest(r *Rule) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%d\x00%s\x00%d\x00%#v", r.Name, r.Detector, r.Severity, r.WhereCEL, r.ResolveAfter, reflect.ValueOf(r.With).Elem().Interface())
	return hex.EncodeToString(h.Sum(nil)[:16])
}
