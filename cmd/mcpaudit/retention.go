package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func retentionCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "retention", Short: "See and drop what has expired",
		Long: `Events are kept for the months that retention.default and retention.tenants said
when they came in, and to the end of the month. What has expired is dropped by the
service once a day (retention.auto), or with 'mcpaudit retention apply'. Each drop is
in the signed log, so 'mcpaudit verify' tells it from a theft; what a legal hold keeps
('mcpaudit holds') stays, searchable and provable.`,
	}
	reach := s.serviceFlag(cmd)
	cmd.AddCommand(retentionPlan(s, reach), retentionApply(s, reach))
	return cmd
}

func retentionPlan(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "plan", Short: "Show what would be dropped now", Args: cobra.NoArgs,
		Long: `Show what 'mcpaudit retention apply' would drop now: the months that have come in
which stored events expire, how many are dropped, and how many a hold keeps. Nothing
is changed.`,
		Example: `  mcpaudit retention plan
  mcpaudit retention plan --json | jq -r 'select(.dropped != null) | .month'`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dial("plan retention", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewRetentionServiceClient(c.conn).PlanRetention(cmd.Context(), &pb.PlanRetentionRequest{})
		if err != nil {
			return c.explain(err)
		}
		return s.printMonths(resp.GetExpired(), "DROPS", asJSON)
	}
	return cmd
}

func retentionApply(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON, yes bool
	cmd := &cobra.Command{
		Use: "apply", Short: "Drop what has expired", Args: cobra.NoArgs,
		Long: `Drop the events that have expired, but for those under a hold, and show what was
dropped. They are gone for ever. The service refuses while its clock may be wrong, or
while it can't tell what a hold keeps.

On a terminal it shows the plan and asks first. Elsewhere, --yes is needed.`,
		Example: `  mcpaudit retention apply
  mcpaudit retention apply --yes --json`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "don't ask")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		const doing = "apply retention"
		c, err := dial(doing, *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		client := pb.NewRetentionServiceClient(c.conn)
		if !yes {
			if !s.asks() {
				return errors.New(doing + ": expired events are dropped for ever; see them with 'mcpaudit retention plan', and say --yes")
			}
			plan, err := client.PlanRetention(cmd.Context(), &pb.PlanRetentionRequest{})
			if err != nil {
				return c.explain(err)
			}
			if err := s.printMonths(plan.GetExpired(), "DROPS", false); err != nil {
				return err
			}
			if n := droppedOf(plan.GetExpired()); n == 0 {
				return nil
			} else if !s.agree(fmt.Sprintf("Drop %s for ever?", count(n, "event"))) {
				return errors.New(doing + ": nothing was dropped")
			}
		}
		resp, err := client.ApplyRetention(cmd.Context(), &pb.ApplyRetentionRequest{})
		if err != nil {
			return c.explain(err)
		}
		return s.printMonths(resp.GetExpired(), "DROPPED", asJSON)
	}
	return cmd
}

// asks says whether a person can be asked.
func (s *surroundings) asks() bool {
	f, ok := s.stdin.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && s.screen(s.stderr).terminal
}

// agree asks a person.
func (s *surroundings) agree(question string) bool {
	fmt.Fprint(s.stderr, question, " Type yes: ")
	answer, err := bufio.NewReader(s.stdin).ReadString('\n')
	return err == nil && strings.EqualFold(strings.TrimSpace(answer), "yes")
}

func droppedOf(months []*pb.ExpiredMonth) (n uint64) {
	for _, m := range months {
		n += m.GetDropped()
	}
	return n
}

func (s *surroundings) printMonths(months []*pb.ExpiredMonth, dropped string, asJSON bool) error {
	if asJSON {
		for _, m := range months {
			if err := writeJSON(s.stdout, m); err != nil {
				return err
			}
		}
		return nil
	}
	if len(months) == 0 {
		return writeLine(s.stdout, "nothing has expired")
	}
	clock := s.clock()
	t := newTable(s.screen(s.stdout), column{head: "EXPIRED", most: 7}, column{head: dropped, most: 20, right: true}, column{head: "HELD", most: 20, right: true},
		column{head: "ON DISK", most: 12, right: true}, column{head: clock.head("FIRST RECEIVED"), most: 30}, column{head: clock.head("LAST RECEIVED"), most: 30, rest: true})
	for _, m := range months {
		held := cell{"0", dim}
		if m.GetHeld() > 0 {
			held = cell{fmt.Sprint(m.GetHeld()), yellow}
		}
		if err := t.add(cell{text: m.GetMonth()}, cell{text: fmt.Sprint(m.GetDropped())}, held, cell{text: bytesText(m.GetBytes())},
			cell{text: clock.second(m.GetFirstReceived().AsTime())}, cell{text: clock.second(m.GetLastReceived().AsTime())}); err != nil {
			return err
		}
	}
	return t.flush()
}
