package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func holdsCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "holds", Short: "Keep events past their expiry: legal holds",
		Long: `A legal hold keeps the events that match a filter from being dropped when they expire,
those that are stored and those that come. Holds and their ends are entries of the
signed log.`,
	}
	reach := s.serviceFlag(cmd)
	cmd.AddCommand(holdsList(s, reach), holdsCreate(s, reach), holdsRelease(s, reach))
	return cmd
}

func holdsList(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use: "list", Short: "List holds, oldest first", Args: cobra.NoArgs,
		Long: `List the holds that hold now, oldest first; with --all, those that were released
too.`,
		Example: `  mcpaudit holds list
  mcpaudit holds list --all --json`,
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that were released")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dial("list holds", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewRetentionServiceClient(c.conn).ListHolds(cmd.Context(), &pb.ListHoldsRequest{})
		if err != nil {
			return c.explain(err)
		}
		var holds []*pb.Hold
		for _, h := range resp.GetHolds() {
			if all || h.GetReleasedAt() == nil {
				holds = append(holds, h)
			}
		}
		return s.printHolds(holds, all, asJSON)
	}
	return cmd
}

func (s *surroundings) printHolds(holds []*pb.Hold, all, asJSON bool) error {
	if len(holds) == 0 && !asJSON {
		if all {
			return writeLine(s.stdout, "there was never a hold")
		}
		return writeLine(s.stdout, "there is no hold")
	}
	clock := s.clock()
	columns := []column{{head: "HOLD", most: 20}, {head: clock.head("SINCE"), most: 24}, {head: "OWNER", most: 24}, {head: "REASON", most: 40}}
	if all {
		columns = append(columns, column{head: clock.head("RELEASED"), most: 24}, column{head: "BY", most: 44})
	}
	t := newTable(s.screen(s.stdout), append(columns, column{head: "FILTER", most: 120, rest: true})...)
	for _, h := range holds {
		if asJSON {
			if err := writeJSON(t.out, h); err != nil {
				return err
			}
			continue
		}
		cells := []cell{{text: h.GetHoldId()}, {text: clock.second(h.GetCreatedAt().AsTime())}, {text: h.GetOwner()}, {text: h.GetReason()}}
		if all {
			released := ""
			if h.GetReleasedAt() != nil {
				released = clock.second(h.GetReleasedAt().AsTime())
			}
			cells = append(cells, cell{text: released}, cell{text: person(h.GetReleasedBy())})
		}
		if err := t.add(append(cells, cell{text: h.GetFilter()})...); err != nil {
			return err
		}
	}
	return t.flush()
}

func holdsCreate(s *surroundings, reach *client.Config) *cobra.Command {
	var reason, owner string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "create FILTER", Short: "Keep the events that match a filter", Args: cobra.ExactArgs(1),
		Long: `Keep the events that match a filter, also those that come in later, until the hold is
released. Filters are those of 'mcpaudit events list', whose help explains them. The
id of the hold is printed.

A reason and who answers for the hold are needed: they are in the signed log for ever,
so name a case and no secret.`,
		Example: `  mcpaudit holds create 'principal = "user:mallory"' --reason 'case 2026-17' --owner legal@example.com
  mcpaudit holds create 'tenant = "acme" AND occurred_at < "2026-07-01T00:00:00Z"' --reason 'audit 12' --owner cfo`,
		ValidArgsFunction: noFiles,
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, such as a case number; needed")
	cmd.Flags().StringVar(&owner, "owner", "", "who answers for the hold; needed")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object: hold, events")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if reason == "" || owner == "" {
			return errors.New("create hold: name --reason and --owner: those who read the log later will ask")
		}
		c, err := dial("create hold", *reach, args[0])
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewRetentionServiceClient(c.conn).CreateHold(cmd.Context(), &pb.CreateHoldRequest{Filter: args[0], Reason: reason, Owner: owner})
		if err != nil {
			return c.explain(err)
		}
		if asJSON {
			return writeJSON(s.stdout, resp)
		}
		fmt.Fprintf(s.stderr, "mcpaudit: %s that are stored now are kept, and those that come\n", count(resp.GetEvents(), "matching event"))
		return writeLine(s.stdout, printable(resp.GetHold().GetHoldId(), 100))
	}
	return cmd
}

func holdsRelease(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "release HOLD", Short: "Let what a hold keeps expire", Args: cobra.ExactArgs(1),
		Long: `End a hold. What it kept past its expiry is dropped by the next run of retention,
unless another hold keeps it. The hold stays in the signed log.`,
		Example: `  mcpaudit holds release hold-5f0e8a11c2d3
  mcpaudit holds release hold-5f0e8a11c2d3 --json`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := dial("list holds", *reach, "")
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.conn.Close()
		resp, _ := pb.NewRetentionServiceClient(c.conn).ListHolds(cmd.Context(), &pb.ListHoldsRequest{})
		var ids []string
		for _, h := range resp.GetHolds() {
			if h.GetReleasedAt() == nil {
				ids = append(ids, h.GetHoldId())
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := dial("release hold", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewRetentionServiceClient(c.conn).ReleaseHold(cmd.Context(), &pb.ReleaseHoldRequest{HoldId: args[0]})
		if err != nil {
			return c.explain(err)
		}
		if asJSON {
			return writeJSON(s.stdout, resp.GetHold())
		}
		return writeLine(s.stdout, printable(resp.GetHold().GetHoldId(), 100), " is released")
	}
	return cmd
}
