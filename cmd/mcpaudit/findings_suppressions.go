package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func findingsSuppressions(s *surroundings, reach *client.Config) *cobra.Command {
	cmd := &cobra.Command{
		Use: "suppressions", Short: "See and end what was declared to be usual",
		Long: `A suppression says that what a rule finds of an identity is usual until a day. It is
made by closing a finding as benign with --suppress. Findings under it are kept, and are
neither listed nor told, unless it is worse than the finding that the suppression was
made from (UP TO).`,
	}
	cmd.AddCommand(suppressionsList(s, reach), suppressionsEnd(s, reach))
	refuseUnknown(cmd)
	return cmd
}

// inForce says whether a suppression still covers something.
func inForce(x *pb.Suppression, now time.Time) bool {
	return x.GetEndedAt() == nil && now.Before(x.GetExpiresAt().AsTime())
}

func (c *service) suppressions(ctx context.Context) ([]*pb.Suppression, error) {
	resp, err := c.findings().ListSuppressions(ctx, &pb.ListSuppressionsRequest{})
	return resp.GetSuppressions(), err
}

func suppressionsList(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use: "list", Short: "List suppressions, newest first", Args: cobra.NoArgs,
		Long: `List what is declared to be usual now, newest first; with --all, also what has expired or
was ended.`,
		Example: `  mcpaudit findings suppressions list
  mcpaudit findings suppressions list --all --json`,
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that have expired or were ended")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dial("list suppressions", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		list, err := c.suppressions(cmd.Context())
		if err != nil {
			return c.explain(err)
		}
		clock, shown := s.clock(), 0
		t := newTable(s.screen(s.stdout), column{head: "SUPPRESSION", most: 36}, column{head: clock.head("UNTIL"), most: 40}, column{head: "RULE", most: 24},
			column{head: "UP TO", most: 8}, column{head: "OF", most: 30}, column{head: "AT", most: 40}, column{head: "FINDING", most: 8}, column{head: "BY", most: 44}, column{head: "WHY", most: 110, rest: true})
		for _, x := range list {
			if !all && !inForce(x, clock.now) {
				continue
			}
			shown++
			if asJSON {
				if err := writeJSON(t.out, x); err != nil {
					return err
				}
				continue
			}
			if err := t.add(cell{text: x.GetSuppressionId()}, cell{text: clock.ending(x)}, cell{text: x.GetRule()}, cell{text: x.GetSeverity()},
				cell{text: cmp.Or(x.GetPrincipal(), "no identity")}, cell{text: placeOf(x)}, cell{text: shortID(x.GetFindingId())}, cell{text: person(x.GetBy())}, cell{text: x.GetNote()}); err != nil {
				return err
			}
		}
		if shown == 0 && !asJSON {
			if all {
				return writeLine(s.stdout, "there was never a suppression")
			}
			return writeLine(s.stdout, "nothing is suppressed")
		}
		return t.flush()
	}
	return cmd
}

// ending is when a suppression ends, or has ended.
func (c clock) ending(x *pb.Suppression) string {
	switch {
	case x.GetEndedAt() != nil:
		return c.second(x.GetEndedAt().AsTime()) + ", ended"
	case !inForce(x, c.now):
		return c.second(x.GetExpiresAt().AsTime()) + ", expired"
	}
	return c.second(x.GetExpiresAt().AsTime())
}

// placeOf is where a suppression holds.
func placeOf(x *pb.Suppression) string {
	return cmp.Or(x.GetServer(), "any server") + ", " + cmp.Or(x.GetTarget(), "any target")
}

func suppressionsEnd(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "end SUPPRESSION", Short: "Let findings be listed and told again", Args: cobra.ExactArgs(1),
		Long: `End a suppression. Findings that begin from now on, and those that go on, are listed and
told again; those that were over stay as they were. It is an event in the signed log.`,
		Example: `  mcpaudit findings suppressions end 01a1fbaf-0f44-7705-b3f7-9d977b691dd5`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "the suppression as one JSON object")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		c, err := dial("list suppressions", *reach, "")
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.conn.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		list, _ := c.suppressions(ctx)
		var ids []string
		for _, x := range list {
			if inForce(x, s.now()) && strings.HasPrefix(x.GetSuppressionId(), strings.ToLower(typed)) {
				ids = append(ids, x.GetSuppressionId()+"\t"+printable(x.GetRule()+", "+x.GetPrincipal(), 60))
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := dial("end suppression", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		id, err := c.suppressionNamed(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		resp, err := c.findings().EndSuppression(cmd.Context(), &pb.EndSuppressionRequest{SuppressionId: id})
		if err != nil {
			return c.explain(err)
		}
		if asJSON {
			return writeJSON(s.stdout, resp.GetSuppression())
		}
		return writeLine(s.stdout, printable(id, 36), " is ended")
	}
	return cmd
}

// suppressionNamed is the whole id of a suppression whose beginning was typed.
func (c *service) suppressionNamed(ctx context.Context, typed string) (string, error) {
	id := strings.ToLower(strings.TrimSpace(typed))
	if len(id) == 36 {
		return id, nil
	}
	if len(id) < leastID {
		return "", fmt.Errorf("%s: %q is too short; type at least the first %d characters of the id", c.doing, printable(typed, 40), leastID)
	}
	list, err := c.suppressions(ctx)
	if err != nil {
		return "", c.explain(err)
	}
	var found []string
	for _, x := range list {
		if strings.HasPrefix(x.GetSuppressionId(), id) {
			found = append(found, x.GetSuppressionId())
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s: there is no suppression whose id begins with %q; 'mcpaudit findings suppressions list' shows them", c.doing, printable(typed, 40))
	case 1:
		return found[0], nil
	}
	// Ids made at about the same time begin alike.
	return "", fmt.Errorf("%s: the ids of %d suppressions begin with %s; type more of the one you mean", c.doing, len(found), id)
}
