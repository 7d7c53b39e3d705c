package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func findingsCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "findings", Short: "See what the detectors have found, and say what came of it",
		Long: `A finding is one thing that a rule has seen: an agent that goes round in circles, an
identity that is active when it never is. It opens, is updated, and is resolved when it
was quiet for a while. What people do about it is its triage: somebody acknowledges it,
it is assigned, and closed as a true positive, as benign or as a false positive.

  mcpaudit findings list                  what is to be looked at
  mcpaudit findings show 3f2a91c0         why, and what to do next
  mcpaudit findings close 3f2a91c0 --as benign --suppress 30d

Each step is an event in the signed log, with whose key it was. An id may be cut to its first 8 characters or
more, as the lists do.`,
	}
	reach := s.serviceFlag(cmd)
	cmd.AddCommand(findingsList(s, reach), findingsShow(s, reach), findingsAck(s, reach), findingsAssign(s, reach), findingsNote(s, reach),
		findingsClose(s, reach), findingsReopen(s, reach), findingsWatch(s, reach), findingsSuppressions(s, reach))
	return cmd
}

// findingFilterHelp is what a filter may say. Each line is run in a test.
const findingFilterHelp = `A filter compares fields of the finding (AIP-160):

  severity >= "high"                     info, low, medium, high, critical
  rule = "agent-loop" AND state = "open"
  principal = "agent:*"                  equal; * at an end stands for anything
  reason:"delete"                        a text contains it
  assignee = "ada" AND triage != "closed"
  started_at >= "2026-11-20T09:00:00Z"
  (server = "files" OR server = "git") AND NOT verdict = "false_positive"`

// severityWords are the names of the severities, the least one first.
var severityWords = detect.Severities[1:]

// findingFilter is what a list and a watch have in common: which findings.
type findingFilter struct{ severity string }

func (f *findingFilter) flags(cmd *cobra.Command) {
	cmd.Flags().Var(&choice{&f.severity, severityWords}, "severity", "only findings of this severity or a worse one: "+strings.Join(severityWords, ", "))
	completeWords(cmd, "severity", severityWords...)
}

// narrow adds conditions to a filter, behind it, so that positions in messages are
// those of what was typed.
func (f *findingFilter) narrow(typed string, more ...string) string {
	if f.severity != "" {
		more = append(more, fmt.Sprintf("severity >= %q", f.severity))
	}
	if strings.TrimSpace(typed) != "" {
		more = append([]string{typed}, more...)
	}
	return strings.Join(more, " AND ")
}

func findingsList(s *surroundings, reach *client.Config) *cobra.Command {
	var limit int
	var asJSON, all bool
	var which findingFilter
	cmd := &cobra.Command{
		Use: "list [FILTER]", Short: "List findings, newest first", Args: cobra.MaximumNArgs(1), ValidArgsFunction: noFiles,
		Long: `List the findings that are not closed, those that started last first; with --all, those
that are closed or covered by a suppression too. ` + findingFilterHelp + `

Times are shown in your own zone, which the heading names.`,
		Example: `  mcpaudit findings list
  mcpaudit findings list --severity high --since 24h
  mcpaudit findings list 'principal = "agent:reports"' --all
  mcpaudit findings list 'verdict = "false_positive"' --all --json --limit 1000`,
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "findings to list")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that are closed or suppressed")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	which.flags(cmd)
	within := periodFlags(cmd)
	cmd.Flag("since").Usage = "only findings that went on since then: a duration back from now, such as 24h, a day or a time (RFC 3339)"
	cmd.Flag("until").Usage = "only findings that started before then, named like --since"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if limit < 1 {
			return fmt.Errorf("list findings: --limit is %d, must be at least 1", limit)
		}
		typed := strings.Join(args, "")
		more, err := during(within, s.now())
		if err != nil {
			return fmt.Errorf("list findings: %w", err)
		}
		if !all {
			more = append(more, `triage != "closed"`)
		}
		c, err := dial("list findings", *reach, typed)
		if err != nil {
			return err
		}
		defer c.conn.Close()
		out := s.findingPrinter(asJSON)
		req := &pb.ListFindingsRequest{Filter: which.narrow(typed, more...), ShowSuppressed: all}
		for limit > 0 {
			req.PageSize = int32(min(limit, 1000))
			resp, err := c.findings().ListFindings(cmd.Context(), req)
			if err != nil {
				return c.explain(err)
			}
			for _, f := range resp.GetFindings() {
				if err := out.add(f); err != nil {
					return err
				}
			}
			limit -= len(resp.GetFindings())
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if err := out.table.flush(); err != nil {
			return err
		}
		if !asJSON && out.shown == 0 {
			if all {
				return writeLine(s.stdout, "no findings match")
			}
			return writeLine(s.stdout, "no findings match; --all lists those that are closed or suppressed too")
		}
		if req.PageToken != "" && out.table.screen.terminal {
			fmt.Fprintln(s.stderr, "mcpaudit: there are more; list them with --limit")
		}
		return nil
	}
	return cmd
}

// during are the conditions for findings that went on in a period.
func during(p *period, now time.Time) (conditions []string, err error) {
	from, to, err := p.bounds(now)
	if err != nil {
		return nil, err
	}
	if !from.IsZero() {
		conditions = append(conditions, fmt.Sprintf("last_seen_at >= %q", from.UTC().Format(time.RFC3339Nano)))
	}
	if !to.IsZero() {
		conditions = append(conditions, fmt.Sprintf("started_at < %q", to.UTC().Format(time.RFC3339Nano)))
	}
	return conditions, nil
}

// findings is a client of the service of findings.
func (c *service) findings() pb.FindingServiceClient { return pb.NewFindingServiceClient(c.conn) }

// findingPrinter prints findings as a table for people or as JSONL for programs.
type findingPrinter struct {
	json  bool
	clock clock
	table *table
	shown int
}

func (s *surroundings) findingPrinter(asJSON bool) *findingPrinter {
	p := &findingPrinter{json: asJSON, clock: s.clock()}
	p.table = newTable(s.screen(s.stdout), column{head: "FINDING", most: 8}, column{head: p.clock.head("STARTED"), most: 24, fixed: 14},
		column{head: "SEVERITY", most: 8}, column{head: "STATE", most: 12, fixed: 10}, column{head: "TRIAGE", most: 28, fixed: 16},
		column{head: "RULE", most: 24, fixed: 18}, column{head: "ABOUT", most: 30, fixed: 20}, column{head: "WHY", most: 140, rest: true})
	return p
}

func (p *findingPrinter) add(f *pb.Finding) error {
	p.shown++
	if p.json {
		return writeJSON(p.table.out, f)
	}
	return p.table.add(cell{text: shortID(f.GetFindingId())}, cell{text: p.clock.second(f.GetStartedAt().AsTime())},
		cell{f.GetSeverity(), severityStyle(f.GetSeverity())}, cell{text: f.GetState()}, cell{text: triageWords(f)},
		cell{text: f.GetRule()}, cell{text: about(f)}, cell{text: f.GetReason()})
}

// shortID is what people type of an id.
func shortID(id string) string { return id[:min(len(id), leastID)] }

func severityStyle(name string) style {
	v, err := detect.ParseSeverity(name)
	if err != nil {
		return plain
	}
	return severityLook(v)
}

// triageWords are what people made of a finding, in short.
func triageWords(f *pb.Finding) string {
	words := f.GetTriage()
	if f.GetVerdict() != "" {
		words += " " + verdictWord(f.GetVerdict())
	}
	if f.GetAssignee() != "" {
		words += ", " + f.GetAssignee()
	}
	if f.GetSuppressionId() != "" {
		words += ", suppressed"
	}
	return words
}

// person is who did something, as the service notes it, "ID (NAME)": the name first, which
// is what fits into a column. Two may have one name; the id tells them apart.
func person(by string) string {
	id, name, named := strings.Cut(by, " (")
	if name, whole := strings.CutSuffix(name, ")"); named && whole {
		return name + ", " + id
	}
	return by
}

// verdictWord is a verdict as a command has it.
func verdictWord(verdict string) string { return strings.ReplaceAll(verdict, "_", "-") }

// about is the name that says best whom or what a finding is about.
func about(f *pb.Finding) string {
	place := f.GetServer()
	if f.GetTarget() != "" {
		place += "/" + f.GetTarget()
	}
	return cmp.Or(f.GetPrincipal(), f.GetAgentId(), f.GetEmitterId(), place, f.GetSessionId(), f.GetTraceId(), f.GetTenant())
}

// leastID is how many characters of an id have to be typed.
const leastID = 8

// findingNamed is the whole id of a finding whose beginning was typed. One small page
// of findings is asked for.
func (c *service) findingNamed(ctx context.Context, typed string) (string, error) {
	id := strings.ToLower(strings.TrimSpace(typed))
	for i, r := range id {
		if i > 35 || !strings.ContainsRune("0123456789abcdef-", r) {
			return "", fmt.Errorf("%s: %q is not the id of a finding; 'mcpaudit findings list' shows them", c.doing, printable(typed, 40))
		}
	}
	switch {
	case len(id) == 36:
		return id, nil
	case len(id) < leastID:
		return "", fmt.Errorf("%s: %q is too short; type at least the first %d characters of the id", c.doing, printable(typed, 40), leastID)
	}
	resp, err := c.findings().ListFindings(ctx, &pb.ListFindingsRequest{Filter: fmt.Sprintf(`finding_id = "%s*"`, id), ShowSuppressed: true, PageSize: 5})
	if err != nil {
		return "", c.explain(err)
	}
	switch found := resp.GetFindings(); len(found) {
	case 0:
		return "", fmt.Errorf("%s: there is no finding whose id begins with %s", c.doing, id)
	case 1:
		return found[0].GetFindingId(), nil
	default:
		var ids []string
		for _, f := range found {
			ids = append(ids, f.GetFindingId())
		}
		return "", fmt.Errorf("%s: the ids of several findings begin with %s; type more of the one you mean: %s", c.doing, id, strings.Join(ids, ", "))
	}
}

// completeFindings lets shells complete the id of a finding, of those that a filter
// names. Shells wait for the answer, so the service gets little time.
func completeFindings(reach *client.Config, filter string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		typed = strings.ToLower(typed)
		c, err := dial("list findings", *reach, "")
		if err != nil || len(args) > 0 || strings.Trim(typed, "0123456789abcdef-") != "" {
			return nil, none
		}
		defer c.conn.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		which := filter
		if typed != "" {
			which = new(findingFilter).narrow(filter, fmt.Sprintf(`finding_id = "%s*"`, typed))
		}
		resp, err := c.findings().ListFindings(ctx, &pb.ListFindingsRequest{Filter: which, PageSize: 50})
		if err != nil {
			return nil, none
		}
		var out []string
		for _, f := range resp.GetFindings() {
			id := f.GetFindingId()[:min(max(leastID, len(typed)), len(f.GetFindingId()))]
			out = append(out, id+"\t"+printable(f.GetSeverity()+" "+f.GetRule()+", "+about(f), 60))
		}
		return out, none | cobra.ShellCompDirectiveKeepOrder
	}
}
