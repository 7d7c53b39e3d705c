package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func emittersCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{Use: "emitters", Short: "See who sends events, and whether all arrive"}
	cmd.AddCommand(emittersList(s, s.serviceFlag(cmd)))
	return cmd
}

func emittersList(s *surroundings, reach *client.Config) *cobra.Command {
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List emitters, those heard last first", Args: cobra.NoArgs,
		Long: `List emitters, those heard last first. An emitter is one queue in one process; it
numbers its events. MISSING counts numbers that the store does not have: events
that are under way or lost. DELAY is the median time from the end of a call to its
arrival; far below zero, the emitter's clock is ahead of the service's.`,
		Example: `  mcpaudit emitters list
  mcpaudit emitters list --json | jq 'select(.missing != null)'`,
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "emitters to list, up to 10000")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 || limit > 10000 {
			return fmt.Errorf("list emitters: --limit is %d, must be from 1 to 10000", limit)
		}
		c, err := dial("list emitters", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := c.query.ListEmitters(cmd.Context(), &pb.ListEmittersRequest{Limit: int32(limit)})
		if err != nil {
			return c.explain(err)
		}
		if err := s.printEmitters(resp.GetEmitters(), asJSON); err != nil {
			return err
		}
		if resp.GetTruncated() {
			fmt.Fprintf(s.stderr, "mcpaudit: list emitters: there are more than these %d; raise --limit\n", len(resp.GetEmitters()))
		}
		return nil
	}
	return cmd
}

func (s *surroundings) printEmitters(emitters []*pb.Emitter, asJSON bool) error {
	if !asJSON && len(emitters) == 0 {
		return writeLine(s.stdout, "no emitter was heard yet")
	}
	clock := s.clock()
	t := newTable(s.screen(s.stdout), column{head: "LAST HEARD", most: 20, right: true}, column{head: "MISSING", most: 20, right: true},
		column{head: "EVENTS", most: 20, right: true}, column{head: "DELAY", most: 12, right: true}, column{head: "SERVER", most: 24},
		column{head: "VERSION", most: 16}, column{head: "REDACTION", most: 24}, column{head: "EMITTER", most: 80, rest: true})
	for _, e := range emitters {
		if asJSON {
			if err := writeJSON(t.out, e); err != nil {
				return err
			}
			continue
		}
		missing := cell{"0", dim}
		if n := e.GetMissing(); n > 0 {
			missing = cell{fmt.Sprint(n), alarm}
		}
		delay := e.GetDelay().AsDuration()
		err := t.add(cell{text: clock.ago(e.GetLastHeard())}, missing, cell{text: fmt.Sprint(e.GetEvents())}, cell{took(delay), delayStyle(delay)},
			cell{text: e.GetServer()}, cell{text: e.GetServerVersion()}, cell{text: e.GetRedaction()}, cell{text: e.GetEmitterId()})
		if err != nil {
			return err
		}
	}
	return t.flush()
}

// delayStyle marks clocks that are ahead, and ways that are long or clocks that
// are behind.
func delayStyle(d time.Duration) style {
	switch {
	case d < -time.Second || d > 5*time.Minute:
		return alarm
	case d > time.Minute:
		return yellow
	}
	return plain
}
