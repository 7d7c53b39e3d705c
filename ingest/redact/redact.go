// Package redact takes secrets and personal data out of MCP calls before they
// are logged, and says what it saw before it took them out.
//
// It is the part of mcpaudit that runs inside the MCP server, on the path of
// each call, and once more in the service. It is pure: no I/O, no clock, no
// logging, no environment; the same call under the same profile and key gives
// the same report.
//
// # How a call is read
//
// The arguments are parsed once, by a strict parser with a depth limit. Their
// canonical form (RFC 8785) is hashed, and so is their shape. Then each key and
// string is scanned: one pass finds every keyword of every rule;
// a rule's expression runs only where its keyword stands and only over a
// bounded window. Members whose name says that they hold a secret are replaced
// whole. What is left is written out as JSON, cut to size.
//
// # What replaces a value
//
//	[REDACTED:class]        the value is gone
//	[PII:email:7f3a9c0d1e2f] a pseudonym: equal values have equal ones, under one key
//	[CUT:2048 bytes]        the end of an over-long text
//
// Redaction is idempotent: an exact mark of a known class is never read again.
//
// # When in doubt
//
// Content that can't be read (invalid JSON), that costs too much (the budget is
// counted in bytes of work, so it is the same everywhere) or that makes the code
// panic is dropped whole, with the reason in Report.Error. It is never passed on.
//
// The rules for secrets by value come from gitleaks (see gitleaks.go) and from
// supplement.go; go generate makes the former anew.
package redact

//go:generate go run ./rulegen gitleaks.go

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Profile says what is redacted, and how. Start from DefaultProfile.
type Profile struct {
	// Name and Version go into each report.
	Name, Version string
	// KeyNames are further names of members whose values are replaced whole.
	// Case and punctuation don't matter: "customer_no" is "CustomerNo".
	KeyNames []string
	// AllowKeys are names of members that are kept though the built-in rules
	// would replace them. Their values are still scanned.
	AllowKeys []string
	// MaxString cuts longer strings. Bytes; 0 means 1024.
	MaxString int
	// MaxArguments cuts the arguments as a whole. Bytes; 0 means 16384, at most
	// event.MaxArguments.
	MaxArguments int
	// MaxArgumentMarks and MaxResultMarks cap the marks, which cost nine stored
	// bytes each. 0 means 32 and 64; at most event.MaxMarks.
	MaxArgumentMarks, MaxResultMarks int
	// MaxResult is how much of a result is looked at for signals and marks. The
	// digest covers all of it. Bytes; 0 means 256 KiB.
	MaxResult int
	// Oversized is the size of arguments from which on they are a signal.
	// Bytes; 0 means 65536.
	Oversized int
	// Tools has rules for single tools, by "server/tool", "tool" or a pattern of
	// path.Match such as "github/*" or "*". All that match apply.
	Tools map[string]ToolRules
	// Pseudonyms are the classes whose values become pseudonyms instead of
	// vanishing, so that an investigator sees that two calls had the same one.
	Pseudonyms []string
	// Budget bounds the work for each side of a call: bytes scanned, where a byte
	// of a regular expression's window counts 48. 0 means 32 Mi, about 0.1 s.
	Budget int
}

// ToolRules are about the arguments of one tool. Entries of the lists are names
// of members, at any depth, or JSON paths from the root, such as $.user.note;
// "*" stands for any one step of a path.
type ToolRules struct {
	Keep   []string // not replaced for their name or as personal data; secrets found in them still are
	Digest []string // replaced by a keyed digest
	Drop   []string // replaced whole

	DropAll   bool // keep nothing of the arguments but digests, signals and marks
	DigestAll bool // the same, with one keyed digest in place of the arguments
}

// DefaultProfile is what runs without any configuration.
func DefaultProfile() Profile {
	return Profile{
		Name: "default", Version: "1+gitleaks-" + gitleaksVersion,
		MaxString: 1024, MaxArguments: 16384, MaxArgumentMarks: 32, MaxResultMarks: 64,
		MaxResult: 256 << 10, Oversized: 64 << 10, Budget: 32 << 20,
		Pseudonyms: []string{"pii:email", "pii:phone", "pii:card", "pii:iban", "pii:ip", "pii:name", "pii:account", "pii:crypto"},
	}
}

// Redactor redacts calls under one profile and key. It is safe for concurrent
// use.
type Redactor struct {
	profile Profile
	key0    keyed
	lexicon *lexicon
	secret  map[string]string // normal forms of Profile.KeyNames, with their class
	allowed map[string]bool   // normal forms of Profile.AllowKeys
	pseudo  map[string]bool
	classes map[string]bool // all classes that a mark may name
	tools   []toolRules
	scratch sync.Pool
}

type toolRules struct {
	pattern            string
	keep, digest, drop matchers
	dropAll, digestAll bool
}

// New makes a Redactor. The key, of at least 16 bytes, makes digests, marks and
// pseudonyms; all emitters of one installation share it, or their digests can't
// be compared.
func New(p Profile, key []byte) (*Redactor, error) {
	k, err := newKeyed(key)
	if err != nil {
		return nil, err
	}
	d := DefaultProfile()
	for _, f := range []struct {
		name       string
		v          *int
		def, limit int
	}{
		{"max_string", &p.MaxString, d.MaxString, event.MaxArguments}, {"max_arguments", &p.MaxArguments, d.MaxArguments, event.MaxArguments},
		{"max_argument_marks", &p.MaxArgumentMarks, d.MaxArgumentMarks, event.MaxMarks}, {"max_result_marks", &p.MaxResultMarks, d.MaxResultMarks, event.MaxMarks},
		{"max_result", &p.MaxResult, d.MaxResult, 1 << 30}, {"oversized", &p.Oversized, d.Oversized, 1 << 30}, {"budget", &p.Budget, d.Budget, 1 << 40},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < 0 || *f.v > f.limit {
			return nil, fmt.Errorf("redaction profile %q: %s is %d, must be between 1 and %d", p.Name, f.name, *f.v, f.limit)
		}
	}
	if p.MaxString < 64 || p.MaxArguments < 256 {
		return nil, fmt.Errorf("redaction profile %q: max_string must be at least 64, max_arguments at least 256", p.Name)
	}
	if len(p.Name) > event.MaxID || len(p.Version) > event.MaxID {
		return nil, fmt.Errorf("redaction profile: name and version have at most %d bytes", event.MaxID)
	}
	r := &Redactor{profile: p, key0: k, secret: map[string]string{}, allowed: map[string]bool{}, pseudo: map[string]bool{}}
	for _, n := range p.AllowKeys {
		r.allowed[normalKey(n)] = true
	}
	var extra []string
	for _, n := range p.KeyNames {
		c := normalKey(n)
		if c == "" {
			return nil, fmt.Errorf("redaction profile %q: key name %q has no letter or digit", p.Name, n)
		}
		r.secret[c] = "key:" + c
		if w := longestWord(n); len(w) >= 2 {
			extra = append(extra, w)
		}
	}
	if extra == nil {
		r.lexicon = commonLexicon()
	} else {
		r.lexicon = newLexicon(extra)
	}
	r.classes = r.knownClasses()
	for _, c := range p.Pseudonyms {
		if !r.classes[c] {
			return nil, fmt.Errorf("redaction profile %q: pseudonyms name the unknown class %q", p.Name, c)
		}
		r.pseudo[c] = true
	}
	for _, pattern := range slices.Sorted(maps.Keys(p.Tools)) {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("redaction profile %q: tool pattern %q: %w", p.Name, pattern, err)
		}
		t := p.Tools[pattern]
		r.tools = append(r.tools, toolRules{pattern, newMatchers(t.Keep), newMatchers(t.Digest), newMatchers(t.Drop), t.DropAll, t.DigestAll})
	}
	r.scratch.New = func() any { return newWorker(r) }
	return r, nil
}

// longestWord is the longest run of letters and digits in a name, in lower case.
func longestWord(n string) string {
	best := ""
	for _, w := range strings.FieldsFunc(strings.ToLower(n), func(c rune) bool { return c >= 0x80 || !isAlnum(byte(c)) }) {
		if len(w) > len(best) {
			best = w
		}
	}
	return best
}

// normalKey is a name in lower case without punctuation, at most 40 bytes.
func normalKey(n string) string {
	var b []byte
	for i := 0; i < len(n) && len(b) < 40; i++ {
		if isAlnum(n[i]) {
			b = append(b, lower(n[i]))
		}
	}
	return string(b)
}

// key is sensitiveKey under the profile.
func (r *Redactor) key(name []byte) string {
	if len(r.secret) > 0 || len(r.allowed) > 0 {
		var buf [40]byte
		n := 0
		for _, c := range name {
			if isAlnum(c) && n < len(buf) {
				buf[n] = lower(c)
				n++
			}
		}
		if c, ok := r.secret[string(buf[:n])]; ok {
			return c
		}
		if r.allowed[string(buf[:n])] {
			return ""
		}
	}
	return sensitiveKey(name)
}

// matchers are the entries of a list of ToolRules.
type matchers struct {
	names map[string]bool
	paths [][]string
}

func newMatchers(list []string) (m matchers) {
	for _, e := range list {
		if rest, ok := strings.CutPrefix(e, "$"); ok {
			m.paths = append(m.paths, strings.FieldsFunc(rest, func(c rune) bool { return c == '.' || c == '[' || c == ']' }))
			continue
		}
		if m.names == nil {
			m.names = map[string]bool{}
		}
		m.names[normalKey(e)] = true
	}
	return m
}

// match reports whether the member key, at p ($.a.b[0]), is meant.
func (m *matchers) match(key []byte, keyed bool, p []byte) bool {
	if keyed && len(m.names) > 0 && m.names[normalKey(string(key))] {
		return true
	}
	if len(m.paths) == 0 {
		return false
	}
	steps := strings.FieldsFunc(string(p[1:]), func(c rune) bool { return c == '.' || c == '[' || c == ']' })
	for _, want := range m.paths {
		if len(want) == len(steps) && !slices.ContainsFunc(indices(want), func(i int) bool { return want[i] != "*" && want[i] != steps[i] }) {
			return true
		}
	}
	return false
}

func indices(s []string) []int {
	out := make([]int, len(s))
	for i := range out {
		out[i] = i
	}
	return out
}

// rulesFor lists the rules that apply to a tool.
func (r *Redactor) rulesFor(server, tool string, out []*toolRules) []*toolRules {
	for i := range r.tools {
		t := &r.tools[i]
		name := tool
		if strings.IndexByte(t.pattern, '/') >= 0 {
			name = server + "/" + tool
		}
		if ok, _ := path.Match(t.pattern, name); ok || t.pattern == "*" {
			out = append(out, t)
		}
	}
	return out
}
