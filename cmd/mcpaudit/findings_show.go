package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func findingsShow(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show FINDING", Short: "Show a finding: why, who, when, and what to do next", Args: cobra.ExactArgs(1),
		Long: `Show one finding: what was seen and what is usual, whom it is about, the arithmetic, the
events, what the rule advises, what was said and done before, and what to do next.`,
		Example: `  mcpaudit findings show 3f2a91c0
  mcpaudit findings show 3f2a91c0 --json`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object: finding, versions, steps, events")
	cmd.ValidArgsFunction = completeFindings(reach, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, resp, err := getFinding(cmd, "show finding", reach, args[0])
		if err != nil {
			return err
		}
		defer c.conn.Close()
		if asJSON {
			return writeJSON(s.stdout, resp)
		}
		p := s.findingPage(resp, c.ruleOf(cmd.Context(), resp.GetFinding().GetRule()))
		p.head()
		p.whoAndWhen()
		p.seen()
		p.arithmetic()
		p.events()
		p.advice()
		p.history()
		p.next(c.at(s))
		return p.err
	}
	return cmd
}

// getFinding asks for one finding. Close the service's connection when there is no
// error.
func getFinding(cmd *cobra.Command, doing string, reach *client.Config, typed string) (*service, *pb.GetFindingResponse, error) {
	c, err := dial(doing, *reach, "")
	if err != nil {
		return nil, nil, err
	}
	id, err := c.findingNamed(cmd.Context(), typed)
	if err != nil {
		c.conn.Close()
		return nil, nil, err
	}
	resp, err := c.findings().GetFinding(cmd.Context(), &pb.GetFindingRequest{FindingId: id})
	if err != nil {
		c.conn.Close()
		return nil, nil, c.explain(err)
	}
	return c, resp, nil
}

// findingPage prints what is known about one finding, a part at a time. After an error
// it prints no more.
type findingPage struct {
	*pb.GetFindingResponse
	out   screen
	clock clock
	rule  *pb.Rule // nil when the service does not know it any more
	err   error
}

func (s *surroundings) findingPage(resp *pb.GetFindingResponse, rule *pb.Rule) *findingPage {
	return &findingPage{GetFindingResponse: resp, out: s.screen(s.stdout), clock: s.clock(), rule: rule}
}

// longText is how many columns a sentence may take: as many as it has, within reason.
const longText = 4000

// line prints a line of texts, each of which may be somebody else's.
func (p *findingPage) line(look style, parts ...string) {
	if p.err == nil {
		p.err = writeLine(p.out, p.out.paint(look, printable(strings.Join(parts, ""), longText)))
	}
}

// field prints a name and a value, if there is one.
func (p *findingPage) field(name, value string) {
	if value != "" {
		p.line(plain, fmt.Sprintf("%-12s", name), value)
	}
}

// section begins one.
func (p *findingPage) section(name string) {
	p.line(plain)
	p.line(bold, name)
}

// rows prints a table.
func (p *findingPage) rows(t *table, fill func(add func(cells ...cell))) {
	fill(func(cells ...cell) {
		if p.err == nil {
			p.err = t.add(cells...)
		}
	})
	if p.err == nil {
		p.err = t.flush()
	}
}

// head is what it is, in one line, and why, in one sentence.
func (p *findingPage) head() {
	f := p.GetFinding()
	if p.err == nil {
		p.err = writeLine(p.out, p.out.paint(severityStyle(f.GetSeverity()), printable(f.GetSeverity(), 20)), "  ", p.out.paint(bold, printable(f.GetRule(), 64)), "  ",
			printable(p.rule.GetTitle(), 300))
	}
	p.line(plain, f.GetReason())
}

// whoAndWhen is whom it is about, when it was, and what people made of it.
func (p *findingPage) whoAndWhen() {
	f := p.GetFinding()
	p.line(plain)
	p.field("finding", f.GetFindingId())
	state := fmt.Sprintf("%s, version %d; %s", f.GetState(), f.GetVersion(), strings.TrimSuffix(triageWords(f), ", suppressed"))
	p.field("state", state)
	if f.GetSuppressionId() != "" {
		p.field("suppressed", "by "+f.GetSuppressionId())
	}
	for _, x := range []struct{ name, value string }{{"tenant", f.GetTenant()}, {"principal", f.GetPrincipal()}, {"agent", f.GetAgentId()}, {"session", f.GetSessionId()},
		{"trace", f.GetTraceId()}, {"server", f.GetServer()}, {"target", f.GetTarget()}, {"emitter", f.GetEmitterId()}} {
		p.field(x.name, x.value)
	}
	from, to := f.GetStartedAt().AsTime(), f.GetLastSeenAt().AsTime()
	p.field("from", p.clock.second(from)+" "+p.clock.zone+" ("+p.clock.ago(f.GetStartedAt())+")")
	if f.GetState() == "open" {
		p.field("last seen", p.clock.second(to)+", after "+took(to.Sub(from)))
	} else {
		p.field("to", p.clock.second(to)+", after "+took(to.Sub(from)))
	}
	if opened := f.GetOpenedAt().AsTime(); opened.Sub(from) >= time.Second {
		p.field("known", took(opened.Sub(from))+" after it began")
	}
}

// advice is what the rule says about itself.
func (p *findingPage) advice() {
	if p.rule.GetRunbook() == "" && len(p.rule.GetReferences()) == 0 {
		return
	}
	p.section("the rule advises")
	if p.rule.GetRunbook() != "" {
		p.line(plain, "  ", p.rule.GetRunbook())
	}
	if len(p.rule.GetReferences()) > 0 {
		p.line(dim, "  see ", strings.Join(p.rule.GetReferences(), ", "))
	}
}

// shownVersions is how many versions of a finding are shown: the newest.
const shownVersions = 8

// history is what the finding said before, and what people did.
func (p *findingPage) history() {
	versions, steps := p.GetVersions(), p.GetSteps()
	if len(versions) > 1 {
		p.section("what it said")
		all := versions[len(versions)-1].GetVersion()
		versions = versions[max(0, len(versions)-shownVersions):]
		if n := int(all) - len(versions); n > 0 {
			p.line(dim, "  ", count(n, "earlier version"), "; --json has more")
		}
		p.rows(newTable(p.out, column{head: "VERSION", most: 8, right: true}, column{head: p.clock.head("LAST SEEN"), most: 24}, column{head: "SEVERITY", most: 8},
			column{head: "STATE", most: 10}, column{head: "EVENTS", most: 12, right: true}, column{head: "OBSERVED", most: 110, rest: true}), func(add func(...cell)) {
			for _, v := range versions {
				add(cell{text: fmt.Sprint(v.GetVersion())}, cell{text: p.clock.second(v.GetLastSeenAt().AsTime())}, cell{v.GetSeverity(), severityStyle(v.GetSeverity())},
					cell{text: v.GetState()}, cell{text: fmt.Sprint(v.GetEventCount())}, cell{text: v.GetObserved()})
			}
		})
	}
	if len(steps) > 0 {
		p.section("what was done")
		p.rows(newTable(p.out, column{head: p.clock.head("WHEN"), most: 24}, column{head: "BY", most: 44}, column{head: "DID", most: 60}, column{head: "NOTE", most: 300, rest: true}), func(add func(...cell)) {
			for _, x := range steps {
				did := x.GetStep()
				if what := cmp.Or(x.GetAssignee(), verdictWord(x.GetVerdict())); what != "" {
					did += " " + what
				}
				add(cell{text: p.clock.second(x.GetAt().AsTime())}, cell{text: person(x.GetBy())}, cell{text: did}, cell{text: x.GetNote()})
			}
		})
	}
}

// next is what to do now, as commands; at names the service.
func (p *findingPage) next(at string) {
	f := p.GetFinding()
	id := shortID(f.GetFindingId())
	type command struct{ line, why string }
	var list []command
	if f.GetTriage() == "new" {
		list = append(list, command{"mcpaudit findings ack " + id, "say that you look at it"})
	}
	switch since := " --since " + f.GetStartedAt().AsTime().Add(-10*time.Minute).UTC().Format(time.RFC3339); {
	case f.GetTraceId() != "":
		list = append(list, command{"mcpaudit events timeline --trace " + shellQuote(f.GetTraceId()), "see all of the trace"})
	case f.GetSessionId() != "":
		list = append(list, command{"mcpaudit events timeline --session " + shellQuote(f.GetSessionId()), "see all of the session"})
	case f.GetPrincipal() != "" && p.isPrincipal():
		list = append(list, command{"mcpaudit events timeline --principal " + shellQuote(f.GetPrincipal()) + since, "see what else they did"})
	case f.GetServer() != "":
		list = append(list, command{"mcpaudit events list " + shellQuote("server = "+filterText(f.GetServer())) + since, "see what was called there"})
	}
	if f.GetTriage() == "closed" {
		list = append(list, command{"mcpaudit findings reopen " + id, "if it was not what it was closed as"})
	} else {
		benign := command{"mcpaudit findings close " + id + " --as benign --suppress 30d", "it is usual, do not tell of the same for a month"}
		if f.GetPrincipal() == "" && f.GetServer() == "" && f.GetTarget() == "" { // there is nothing that is the same
			benign = command{"mcpaudit findings close " + id + " --as benign", "it happened, and was all right"}
		}
		list = append(list, command{"mcpaudit findings close " + id + " --as true-positive", "it happened, and was not all right"}, benign,
			command{"mcpaudit findings close " + id + " --as false-positive", "the rule is wrong"})
	}
	if f.GetSuppressionId() != "" {
		list = append(list, command{"mcpaudit findings suppressions end " + f.GetSuppressionId(), "tell of the same again"})
	}
	p.section("next")
	widest := 0
	for _, x := range list {
		widest = max(widest, textWidth(x.line+at))
	}
	for _, x := range list {
		p.line(plain, "  ", x.line, at, strings.Repeat(" ", min(widest, 100)-min(textWidth(x.line+at), min(widest, 100))), "  # ", x.why)
	}
}

// isPrincipal says whether the finding's identity is a principal of events: without
// one, detectors go by the agent, the credential or the address.
func (p *findingPage) isPrincipal() bool {
	return len(p.GetEvents()) == 0 || slices.ContainsFunc(p.GetEvents(), func(e *pb.Event) bool { return e.GetPrincipal() == p.GetFinding().GetPrincipal() })
}

// filterText is a text as a filter has it.
func filterText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
