package detect

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// DefinitionChange is the settings of the detector "definition_change": a tool that
// is no longer what it was, or that hides something from the first day (OWASP
// MCP03, tool poisoning and rug pulls).
//
// It keeps a catalogue of the tools of each server: the digests of their
// definitions (description and schemas, white space normalised), the hints, and
// what redaction saw in the text. The first sight of a tool is no finding, unless
// its definition has hidden characters (high), or instructions to a model or more
// than 8 KiB of description (medium). Then, for a definition that was not seen
// before:
//
//   - high, for each tool: it has gained hidden characters or instructions that no
//     known definition of the tool had, or wider powers by its hints (read-only no
//     more, destructive now, open world now);
//   - medium, one finding for the server: the definition is another one at a server
//     version that is known to have had a different one, which is how a rug pull
//     looks;
//   - info, one finding for the server: it came with another server version.
//
// A tool whose definition has changed four times within a version describes what
// changes by itself, such as the day or a user's projects: its further changes are
// silent unless they gain something.
//
// When a tool goes back and forth between known definitions, instances of different
// versions are at work: info, once.
//
// From the fourth tool of a server within Batch on, those that are dangerous, new or
// changed, are one finding for the server.
//
// The score is the number of tools that changed, or for one tool the number of
// signs: hidden characters, instructions, length, three hints.
//
// Definitions are seen when a client lists tools, and by their digest in calls. A
// change that keeps description, schemas and hints (a server that does other things
// than it says) can't be seen here. Servers of one tenant are told apart by name
// alone.
type DefinitionChange struct {
	Batch     time.Duration `key:"batch" doc:"how long changes of a server's tools belong to one finding"`
	MaxGroups int           `key:"max_groups" doc:"most tools in memory; the one that was not used longest is forgotten"`
}

// DefaultDefinitionChange gathers the changes of an hour.
func DefaultDefinitionChange() *DefinitionChange {
	return &DefinitionChange{Batch: time.Hour, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *DefinitionChange) Validate() error {
	return firstError(checkSpan("batch", c.Batch, time.Minute, 7*24*time.Hour), checkGroups(c.MaxGroups))
}

// New implements Config.
func (c *DefinitionChange) New() Detector {
	return &definitionChange{cfg: *c, state: definitionChangeState{Tools: Groups[definedTool]{Most: c.MaxGroups}, Servers: Groups[changedServer]{Most: 10_000}}}
}

// Signs of a definition that is dangerous. Those of the hints are powers.
const (
	signHidden = 1 << iota
	signInstructions
	signOverlong
	signWrites
	signDestroys
	signOpenWorld

	signPowers = signWrites | signDestroys | signOpenWorld
)

var signNames = [...]string{"hidden characters", "instructions to a model", "an overlong description", "it is not read-only", "it is destructive", "it reaches the open world"}

const (
	definitionsMost = 8 // of a tool that are remembered: the newest
	definitionSwaps = 3 // times back and forth that are told
	definitionNames = 8 // tools of a finding that are named
	definitionOwn   = 3 // dangerous definitions of a server within Batch with a finding of their own
	// After so many changes without another version a tool's description has
	// something in it that changes by itself, such as today's date.
	definitionFickle = 4
)

type definitionChange struct {
	cfg   DefinitionChange
	state definitionChangeState
}

type definitionChangeState struct {
	Tools   Groups[definedTool]
	Servers Groups[changedServer]
}

// definedTool is what is known of a tool.
type definedTool struct {
	Now     int // index of the newest definition
	Known   []definition
	Changes int   // without another server version
	Swaps   int   // times that a known definition came back
	Swap    int64 // when it last did
	Told    bool  // that they take turns
}

type definition struct {
	Digest  event.Digest
	Version uint64 // of the server, hashed
	Read    bool   // it was listed, so that Signs say something of it
	Signs   uint8  // as it was last listed
	Ever    uint8  // as it ever was
}

// changedServer is the changes of a server that are one finding: those of its
// versions, and those without.
type changedServer struct {
	Start [2]int64
	Count [2]uint64
	Names [2][]string

	Dangers    uint64 // dangerous definitions within Batch of the first
	DangerFrom int64
}

// tools names the tools of a finding. Beyond definitionNames nobody knows how many
// there are, since a tool may change twice.
func (s *changedServer) tools(kind int) string {
	if names := s.Names[kind]; len(names) < definitionNames {
		return sayNames(names)
	}
	return sayNames(s.Names[kind][:4]) + " and others"
}

func (d *definitionChange) State() any { return &d.state }

func (d *definitionChange) size() (int, uint64) {
	s := &d.state
	return s.Tools.Len() + s.Servers.Len(), s.Tools.Evicted + s.Servers.Evicted
}

// Advance implements Detector.
func (d *definitionChange) Advance(int64, *Out) {}

func (d *definitionChange) Observe(v *Seen, out *Out) {
	if v.DefinitionDigest == (event.Digest{}) || v.Target == "" || v.Kind != "tools_list" && v.Kind != "tool_call" {
		return
	}
	t, fresh := d.state.Tools.Get(v.Tool, v.Clock)
	x := definition{Digest: v.DefinitionDigest, Version: hashText(v.ServerVersion)}
	if v.Kind == "tools_list" { // a call's signals are of its arguments, and its hints may be defaults
		x.Read, x.Signs = true, definitionPowers(v.Hints)|definitionSigns(v.Signals)
		x.Ever = x.Signs
	}
	if fresh {
		t.Known = append(t.Known, x)
		if signs := x.Signs &^ signPowers; signs != 0 {
			d.dangerous(v, out, t, signs, "is new and its definition has "+signSay(signs))
		}
		return
	}
	if now := &t.Known[t.Now]; now.Digest != x.Digest || x.Read && (!now.Read || now.Signs != x.Signs) {
		d.other(v, out, t, x)
	}
}

func definitionPowers(h event.Hints) (signs uint8) {
	if !h.ReadOnly {
		signs |= signWrites
		// The other two mean something for a tool that changes anything (MCP
		// 2025-11-25, ToolAnnotations); the open world also for one that reads.
		if h.Destructive {
			signs |= signDestroys
		}
	}
	if h.OpenWorld {
		signs |= signOpenWorld
	}
	return signs
}

func definitionSigns(signals []string) (signs uint8) {
	for _, s := range signals {
		switch s {
		case "hidden_unicode":
			signs |= signHidden
		case "injection_phrase":
			signs |= signInstructions
		case "overlong":
			signs |= signOverlong
		}
	}
	return signs
}

// dangerous tells of a tool's definition.
func (d *definitionChange) dangerous(v *Seen, out *Out, t *definedTool, signs uint8, how string) {
	s := Signal{
		Group: v.Tool, Subject: Subject{Tenant: v.Tenant, Server: v.Server, Target: v.Target}, Start: v.At, Severity: Medium,
		Score:    float64(signCount(signs)),
		Reason:   fmt.Sprintf("tool %s of %s (version %s) %s", sayName(v.Target), sayName(v.Server), sayName(v.ServerVersion), how),
		Observed: signSay(signs), Expected: "a definition that says what the tool does, to people and models alike",
		Workings: []Working{{"digest", v.DefinitionDigest.String()}, {"definitions known", fmt.Sprint(len(t.Known))}},
	}
	if signs&signHidden != 0 || len(t.Known) > 1 && signs != signOverlong || signs&signPowers != 0 {
		s.Severity = High
	}
	c, _ := d.state.Servers.Get(v.Home, v.Clock)
	all := v.Home.With(Key{4})
	if c.Dangers == 0 || farApart(v.At, c.DangerFrom, micros(d.cfg.Batch)) && !out.IsOpen(all) {
		c.Dangers, c.DangerFrom = 0, v.At
	}
	c.Dangers++
	if c.Dangers > definitionOwn && !out.IsOpen(v.Tool) {
		n := c.Dangers - definitionOwn
		s.Group, s.Subject.Target, s.Score = all, "", float64(n)
		s.Reason = fmt.Sprintf("besides %d tools of %s with a finding of their own, %s like theirs; the newest: %s", definitionOwn, sayName(v.Server), sayCount(n, "definition"), s.Reason)
	}
	out.Raise(s)
}

// other takes a definition of a known tool that is not as the newest one.
func (d *definitionChange) other(v *Seen, out *Out, t *definedTool, x definition) {
	ever, listed, sameVersion, at := uint8(0), false, false, -1
	for i := range t.Known {
		k := &t.Known[i]
		ever, listed = ever|k.Ever, listed || k.Read
		if k.Digest == x.Digest {
			at = i
		} else {
			sameVersion = sameVersion || k.Version == x.Version
		}
	}
	gained := x.Signs &^ ever
	if !listed { // what it could do before, nobody knows
		gained &^= signPowers
	}
	before := t.Now
	var old definition
	if at < 0 {
		if len(t.Known) == definitionsMost {
			t.Known = slices.Delete(t.Known, 0, 1)
		}
		t.Known = append(t.Known, x)
		t.Now = len(t.Known) - 1
	} else {
		t.Now, old = at, t.Known[at]
		k := &t.Known[at]
		k.Version = x.Version
		if x.Read {
			k.Read, k.Signs, k.Ever = true, x.Signs, k.Ever|x.Signs
		}
	}
	switch {
	case gained != 0 && !listed && at >= 0 && len(t.Known) == 1:
		d.dangerous(v, out, t, gained, "was called before it was listed, and its definition has "+signSay(gained))
	case gained != 0:
		d.dangerous(v, out, t, gained, "has changed, with what no definition of it had before: "+signSay(gained))
	case at < 0:
		d.changed(v, out, t, sameVersion)
	case before != at:
		d.swapped(v, out, t)
	case old.Read && old.Signs != x.Signs: // it claims to do less
		d.changed(v, out, t, old.Version == x.Version)
	}
}

// swapped tells of definitions that take turns.
func (d *definitionChange) swapped(v *Seen, out *Out, t *definedTool) {
	if farApart(v.At, t.Swap, microsPerDay) {
		t.Swaps = 0
	}
	t.Swaps++
	t.Swap = v.At
	group := v.Home.With(Key{3})
	if t.Swaps < definitionSwaps || t.Told && !out.IsOpen(group) {
		return
	}
	t.Told = true
	out.Raise(Signal{
		Group: group, Subject: Subject{Tenant: v.Tenant, Server: v.Server}, Start: v.At, Severity: Info, Score: 1,
		Reason:   fmt.Sprintf("tools of %s go back and forth between known definitions, the newest %s, %d times within a day: instances of different versions are at work", sayName(v.Server), sayName(v.Target), t.Swaps),
		Observed: sayCount(uint64(len(t.Known)), "definition") + " in turns", Expected: "one definition at a time",
	})
}

// changed gathers the harmless changes of a server's tools.
func (d *definitionChange) changed(v *Seen, out *Out, t *definedTool, sameVersion bool) {
	if sameVersion {
		if t.Changes++; t.Changes > definitionFickle {
			return
		}
	}
	s, fresh := d.state.Servers.Get(v.Home, v.Clock)
	kind := 0
	if sameVersion {
		kind = 1
	}
	group := v.Home.With(Key{1 + uint64(kind)})
	if fresh || farApart(v.At, s.Start[kind], micros(d.cfg.Batch)) && !out.IsOpen(group) {
		s.Start[kind], s.Count[kind], s.Names[kind] = v.At, 0, nil
	}
	s.Count[kind]++
	if name := kept(event.ClipText(v.Target, 80)); len(s.Names[kind]) < definitionNames && !slices.Contains(s.Names[kind], name) {
		s.Names[kind] = append(s.Names[kind], name)
	}
	x := Signal{
		Group: group, Subject: Subject{Tenant: v.Tenant, Server: v.Server}, Start: s.Start[kind], Score: float64(s.Count[kind]),
		Observed: sayCount(s.Count[kind], "definition") + " changed", Workings: []Working{{"tools", s.tools(kind)}, {"server version", v.ServerVersion}},
	}
	if sameVersion {
		x.Severity, x.Expected = Medium, "no change without another server version"
		x.Reason = fmt.Sprintf("%s of tools of %s changed without another server version (%s): %s", sayCount(s.Count[kind], "definition"), sayName(v.Server), sayName(v.ServerVersion), s.tools(kind))
	} else {
		x.Severity, x.Expected = Info, "changes with a server version, as here"
		x.Reason = fmt.Sprintf("%s of tools of %s changed with server version %s: %s", sayCount(s.Count[kind], "definition"), sayName(v.Server), sayName(v.ServerVersion), s.tools(kind))
	}
	out.Raise(x)
}

func signCount(signs uint8) (n int) {
	for ; signs != 0; signs &= signs - 1 {
		n++
	}
	return n
}

func signSay(signs uint8) string {
	var names []string
	for i, name := range signNames {
		if signs&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
