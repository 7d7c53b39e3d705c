package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/detect/rules"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func rulesExplain(s *surroundings) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "explain FINDING", Short: "Show why a rule fired: the evidence and the arithmetic", Args: cobra.ExactArgs(1),
		Long: `Show why there is a finding: what was observed and what is usual, the arithmetic behind
it, and the events. 'mcpaudit findings show' has that too, and what to do about it.`,
		Example: `  mcpaudit rules explain 3f2a91c0
  mcpaudit rules explain 3f2a91c0 --json`,
	}
	reach := s.serviceFlag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object: finding, versions, steps, events")
	cmd.ValidArgsFunction = completeFindings(reach, "")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, resp, err := getFinding(cmd, "explain finding", reach, args[0])
		if err != nil {
			return err
		}
		defer c.conn.Close()
		if asJSON {
			return writeJSON(s.stdout, resp)
		}
		p := s.findingPage(resp, c.ruleOf(cmd.Context(), resp.GetFinding().GetRule()))
		p.head()
		p.seen()
		p.arithmetic()
		p.events()
		return p.err
	}
	return cmd
}

// ruleOf is a rule as the service has it; where detection runs in another process, as
// it is shipped; nil when there is none.
func (c *service) ruleOf(ctx context.Context, name string) *pb.Rule {
	if resp, err := pb.NewRuleServiceClient(c.conn).ListRules(ctx, &pb.ListRulesRequest{}); err == nil {
		for _, r := range resp.GetRules() {
			if r.GetName() == name {
				return r
			}
		}
		return nil
	}
	set, err := rules.Load()
	if err != nil {
		return nil
	}
	r, ok := set.Find(name)
	if !ok {
		return nil
	}
	return &pb.Rule{Name: r.Name, Title: r.Title, Detector: r.Detector, References: r.References, Runbook: r.Runbook, Source: r.Source}
}

// seen is what was observed beside what is usual.
func (p *findingPage) seen() {
	f := p.GetFinding()
	p.line(plain)
	p.field("observed", f.GetObserved())
	p.field("usual", f.GetExpected())
	p.field("score", fmt.Sprintf("%.4g", f.GetScore()))
}

// arithmetic is how the rule came to it, step by step.
func (p *findingPage) arithmetic() {
	workings := p.GetFinding().GetWorkings()
	if len(workings) == 0 {
		return
	}
	p.section("the arithmetic")
	widest := 0
	for _, w := range workings {
		widest = max(widest, textWidth(printable(w.GetName(), 60)))
	}
	for _, w := range workings {
		name := printable(w.GetName(), 60)
		p.line(plain, "  ", name, strings.Repeat(" ", widest-textWidth(name)), "  ", w.GetValue())
	}
}

// events are those that the finding names, oldest first: the first ones and the newest.
func (p *findingPage) events() {
	f := p.GetFinding()
	named := len(f.GetEventIds())
	if named == 0 {
		return
	}
	p.section("the events")
	if f.GetEventCount() > uint64(named) {
		p.line(dim, fmt.Sprintf("  %d belong to it; these are the first %d and the newest %d", f.GetEventCount(), (named+1)/2, named/2))
	}
	stored := map[string]bool{}
	for _, e := range p.GetEvents() {
		stored[e.GetEventId()] = true
	}
	missing, first := 0, ""
	for i, id := range f.GetEventIds() {
		if !stored[id] {
			missing++
		}
		if i == (named+1)/2 && f.GetEventCount() > uint64(named) {
			first = id // of the newest ones
		}
	}
	t := newTable(p.out, column{head: p.clock.head("TIME"), most: 28}, column{head: "OUTCOME", most: 14}, column{head: "TOOK", most: 12, right: true}, column{head: "WHAT", most: 40},
		column{head: "SERVER", most: 24}, column{head: "WHO", most: 30}, column{head: "ARGUMENTS", most: 110, rest: true})
	p.rows(t, func(add func(...cell)) {
		for _, e := range p.GetEvents() {
			if e.GetEventId() == first && p.err == nil {
				p.err = t.note(dim, "    ⋯ "+count(f.GetEventCount()-uint64(named), "event")+" in between")
			}
			add(cell{text: p.clock.text(e.GetOccurredAt())}, cell{e.GetOutcome(), outcomeStyle(e.GetOutcome())}, cell{text: took(e.GetDuration().AsDuration())},
				cell{text: what(e)}, cell{text: e.GetServer()}, cell{text: cmp.Or(e.GetPrincipal(), e.GetAgentId())}, cell{text: said(e)})
		}
	})
	if missing > 0 {
		p.line(dim, fmt.Sprintf("  %d of the %d that it names are not stored any more", missing, named))
	}
}

func rulesReload(s *surroundings) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "reload", Short: "Make the service read its rule files again", Args: cobra.NoArgs,
		Long: `Make the service read its rule files again, and put what they say in force without a
restart. Rules that did not change keep what they remember; new and changed ones learn
from stored history first, for which the ones before stay in force. When a file has a
mistake nothing changes. It is an event in the signed log.`,
		Example: `  mcpaudit rules reload
  mcpaudit rules reload --json`,
	}
	reach := s.serviceFlag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object: added, changed, removed")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dial("reload rules", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewRuleServiceClient(c.conn).ReloadRules(cmd.Context(), &pb.ReloadRulesRequest{})
		if err != nil {
			return c.explain(err)
		}
		if asJSON {
			return writeJSON(s.stdout, resp)
		}
		told := false
		for _, x := range []struct {
			word  string
			names []string
		}{{"added", resp.GetAdded()}, {"changed", resp.GetChanged()}, {"removed", resp.GetRemoved()}} {
			if len(x.names) == 0 {
				continue
			}
			told = true
			if err := writeLine(s.stdout, x.word, ": ", printable(strings.Join(x.names, ", "), longText)); err != nil {
				return err
			}
		}
		if !told {
			return writeLine(s.stdout, "the rules are as they were")
		}
		return nil
	}
	return cmd
}
