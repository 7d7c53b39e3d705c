package detect

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// ToxicFlow is the settings of the detector "toxic_flow": data that goes where
// somebody told the agent to send it, or that was read from a private source after
// the agent had read what a stranger wrote.
//
// It sees values by their marks, keyed hashes that emitters make before redaction.
// Two flows are followed within one trace, conversation or session:
//
//   - An address, account, domain or URL stands near an instruction-like phrase in a
//     tool's result, and later in the arguments of a call that sends something away.
//     Somebody who wrote what the agent read has chosen the destination.
//   - A tool whose results strangers write was read, then a private one, and then a
//     value that came from the private one is sent away. For this the tools must be
//     known, by Untrusted and Private. An address, a link or a file's name says where
//     something goes or is, and agents look such things up all day: it takes five of
//     them, or one number of an account or other identifier.
//
// The score is how many such values the call carried.
type ToxicFlow struct {
	Untrusted []string      `key:"untrusted" doc:"tools whose results strangers write, as server/tool patterns, such as github/get_issue"`
	Private   []string      `key:"private" doc:"tools whose results are not for others, as server/tool patterns"`
	Egress    []string      `key:"egress" doc:"tools that send data away, as server/tool patterns; those are known as well whose name says so and whose arguments have an address"`
	Ignore    []string      `key:"ignore" doc:"tools that are neither, whatever their names and hints say"`
	Memory    time.Duration `key:"memory" doc:"how long after the last call of a trace or session its values are remembered"`
	MaxGroups int           `key:"max_groups" doc:"most traces, conversations and sessions in memory that have read something to remember"`
}

// DefaultToxicFlow knows the tools of well-known servers.
func DefaultToxicFlow() *ToxicFlow {
	return &ToxicFlow{
		Untrusted: []string{
			"*mail*/*read*", "*mail*/*get*", "*mail*/*search*", "github/get_issue*", "github/list_issues", "github/search_issues", "github/get_pull_request*", "gitlab/get_issue*",
			"slack/*history", "slack/*replies", "fetch/*", "*search/*", "playwright/*", "puppeteer/*", "browser*/*", "firecrawl/*", "tavily/*", "jira/*get*", "linear/*get*", "notion/*get*", "zendesk/*",
		},
		Private: []string{
			"filesystem/read*", "files/read*", "postgres/*", "mysql/*", "sqlite/*", "mongodb/*", "bigquery/*", "snowflake/*", "clickhouse/*", "vault/*", "*password*/*", "*secret*/*", "gdrive/*", "*drive/*read*",
			"github/get_file_contents", "gitlab/get_file_contents", "hr*/*", "salesforce/*", "stripe/*list*", "memory/*",
		},
		Egress: []string{"fetch/*", "*/http_request", "*/create_gist", "github/create_*", "github/add_*comment*", "gitlab/create_*", "slack/*post*", "*/send_*", "*/post_*", "*/publish*", "*/upload*"},
		Memory: 2 * time.Hour, MaxGroups: 50_000,
	}
}

// Validate implements Config.
func (c *ToxicFlow) Validate() error {
	for _, l := range []struct {
		name     string
		patterns []string
	}{{"untrusted", c.Untrusted}, {"private", c.Private}, {"egress", c.Egress}, {"ignore", c.Ignore}} {
		if err := checkPatterns(l.patterns); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	if c.Memory <= 0 || c.Memory > 7*24*time.Hour {
		return errors.New("memory: must lie between 1s and 168h")
	}
	return checkGroups(c.MaxGroups)
}

// checkPatterns says which of server/tool patterns is none.
func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || strings.Count(p, "/") != 1 {
			return fmt.Errorf("%q is not a pattern of server/tool, such as mail/send_*", p)
		}
	}
	return nil
}

// New implements Config.
func (c *ToxicFlow) New() Detector {
	return &toxicFlow{
		cfg:   *c,
		class: classes{patterns: [...][]string{c.Untrusted, c.Private, c.Egress, c.Ignore}},
		state: toxicState{Groups: Groups[toxicGroup]{Most: c.MaxGroups}},
	}
}

// What a tool is to a flow of data.
const (
	untrusted = 1 << iota
	private
	egress
	ignored
)

// classes knows what tools are, by patterns of their names.
type classes struct {
	patterns [4][]string
	known    map[[2]string]uint8 // of server and tool, either of which may have slashes; bounded
}

func (c *classes) of(server, target string) uint8 {
	if k, ok := c.known[[2]string{server, target}]; ok {
		return k
	}
	const most = 10_000 // a client can make up names
	if c.known == nil || len(c.known) >= most {
		c.known = map[[2]string]uint8{}
	}
	k := uint8(0)
	lower := strings.ToLower(strings.ReplaceAll(server, "/", "_") + "/" + strings.ReplaceAll(target, "/", "_"))
	for i, patterns := range c.patterns {
		for _, p := range patterns {
			if ok, _ := path.Match(strings.ToLower(p), lower); ok {
				k |= 1 << i
				break
			}
		}
	}
	c.known[[2]string{kept(server), kept(target)}] = k
	return k
}

// maxValues is how many values one flow remembers of each sort; the newest stay.
const maxValues = 64

// manyWays is how many private addresses, links and names of files, in one call, are
// more than where it goes and what it is about.
const manyWays = 5

type toxicFlow struct {
	cfg   ToxicFlow
	class classes
	state toxicState
}

type toxicState struct{ Groups Groups[toxicGroup] }

// toxicGroup is what one flow has read.
type toxicGroup struct {
	Guided  []toxicValue // values near instructions
	Private []toxicValue // values from private tools that were read after a stranger's text
	Strange event.ID     // the first event that read a stranger's text; zero when none has
	From    string       // the tool that it came from
	Since   int64
}

// toxicValue is one value and where it came from.
type toxicValue struct {
	Hash uint64
	ID   event.ID
	At   int64
	From string
}

func (d *toxicFlow) State() any          { return &d.state }
func (d *toxicFlow) size() (int, uint64) { return d.state.Groups.Len(), d.state.Groups.Evicted }

func (d *toxicFlow) Advance(clock int64, _ *Out) {
	d.state.Groups.Expire(clock-micros(d.cfg.Memory), nil)
}

// flows are the groups in which values are followed, the session first: a trace goes
// over several servers, a session may have a trace for each call.
func (v *Seen) flows() (keys [3]Key, n int) {
	for _, k := range [...]Key{v.Session, v.Talk, v.Trace} {
		if k != (Key{}) {
			keys[n] = k
			n++
		}
	}
	if n == 0 {
		keys[0], n = v.Who.With(Key{hashText(v.AgentID), 2}), 1
	}
	return keys, n
}

func (d *toxicFlow) Observe(v *Seen, out *Out) {
	if !v.Call {
		return
	}
	class := d.class.of(v.Server, v.Target)
	if class&ignored != 0 {
		return
	}
	if len(v.ArgumentMarks) > 0 && d.state.Groups.Len() > 0 && (class&egress != 0 || slices.Contains(v.Signals, "egress")) {
		d.leaving(v, out)
	}
	guided := false
	for i := range v.ResultMarks {
		guided = guided || v.ResultMarks[i].NearInstruction && isAddress(v.ResultMarks[i].Class)
	}
	// Who writes instructions beside an address is a stranger, whatever the tool.
	strange := guided || class&untrusted != 0 || slices.Contains(v.Signals, "result:injection_phrase") || slices.Contains(v.Signals, "result:hidden_unicode")
	if strange || class&private != 0 && len(v.ResultMarks) > 0 && d.state.Groups.Len() > 0 {
		d.read(v, class, strange)
	}
}

// isAddress tells destinations from other values.
func isAddress(class string) bool {
	return class == "email" || class == "url" || class == "domain" || class == "account"
}

// read remembers what a result brought.
func (d *toxicFlow) read(v *Seen, class uint8, strange bool) {
	keys, n := v.flows()
	from := toolOf(v) // one text for all
	for _, k := range keys[:n] {
		var g *toxicGroup
		if strange {
			if g, _ = d.state.Groups.Get(k, v.Clock); g.Strange == (event.ID{}) {
				g.Strange, g.From, g.Since = v.EventID, from, v.At
			}
		} else if g = d.state.Groups.Peek(k); g == nil {
			continue // nothing a stranger wrote was read before
		}
		for i := range v.ResultMarks {
			m := &v.ResultMarks[i]
			value := toxicValue{m.Hash, v.EventID, v.At, from}
			switch {
			case m.NearInstruction && isAddress(m.Class):
				remember(&g.Guided, value)
			case class&private != 0:
				remember(&g.Private, value)
			}
		}
	}
}

func remember(values *[]toxicValue, v toxicValue) {
	if slices.ContainsFunc(*values, func(o toxicValue) bool { return o.Hash == v.Hash }) {
		return
	}
	if len(*values) >= maxValues {
		*values = slices.Delete(*values, 0, 1)
	}
	*values = append(*values, v)
}

func toolOf(v *Seen) string { return event.ClipText(v.Server+"/"+v.Target, 100) }

// leaving looks at what a call sends away.
func (d *toxicFlow) leaving(v *Seen, out *Out) {
	keys, n := v.flows()
	for _, k := range keys[:n] {
		g := d.state.Groups.Peek(k)
		if g == nil {
			continue
		}
		var to, of *toxicValue
		values, ways, content := 0, 0, false
		for i := range v.ArgumentMarks {
			m := &v.ArgumentMarks[i]
			if isAddress(m.Class) {
				if x := find(g.Guided, m.Hash); x != nil {
					to = x
					values++
				}
			}
			if x := find(g.Private, m.Hash); x != nil {
				values++
				if m.Class == "account" || m.Class == "identifier" {
					of, content = x, true
				} else if ways++; !content {
					of = x
				}
			}
		}
		if to == nil && !content && ways < manyWays {
			continue
		}
		d.raise(v, k, g, to, of, values, out)
		return
	}
}

func find(values []toxicValue, hash uint64) *toxicValue {
	for i := range values {
		if values[i].Hash == hash {
			return &values[i]
		}
	}
	return nil
}

func (d *toxicFlow) raise(v *Seen, key Key, g *toxicGroup, to, of *toxicValue, values int, out *Out) {
	who := sayName(Identity(v.Event))
	s := Signal{
		Group: key, Subject: Subject{Tenant: v.Tenant, Principal: Identity(v.Event), AgentID: v.AgentID, SessionID: v.SessionID, TraceID: v.TraceID, Server: v.Server, Target: v.Target},
		Severity: High, Score: float64(values), Expected: "destinations that the user or the agent chose",
	}
	done := "sent something with " + sayTool(v)
	if v.Outcome != "success" {
		s.Severity = Medium
		done = "tried to send something with " + sayTool(v) + " (" + v.Outcome + ")"
	}
	switch {
	case to != nil:
		s.Start = to.At
		s.Before = []event.ID{to.ID}
		s.Observed = "a destination from text with instructions in it"
		s.Reason = fmt.Sprintf("%s %s to an address that first appeared beside an instruction in what %s returned %s earlier", who, done, sayName(to.From), saySpan(v.At-to.At))
		if of != nil {
			s.Severity = max(s.Severity, Critical)
			s.Before = append(s.Before, of.ID)
			s.Reason += ", and with it a value that was read from " + sayName(of.From)
		}
	default:
		s.Start = g.Since
		s.Before = []event.ID{g.Strange, of.ID}
		s.Observed = "a private value, after a stranger's text"
		s.Reason = fmt.Sprintf("%s %s a value that %s returned %s earlier, after it had read what strangers can write with %s", who, done, sayName(of.From), saySpan(v.At-of.At), sayName(g.From))
	}
	s.Workings = []Working{{"values of the call that are known from what was read", fmt.Sprint(values)}}
	out.Raise(s)
}
