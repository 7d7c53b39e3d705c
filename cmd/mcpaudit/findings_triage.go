package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// stepCommand completes a command that takes one step of triage: step fills the
// request from the arguments behind the finding's id, done says what has come of it.
func stepCommand(s *surroundings, cmd *cobra.Command, reach *client.Config, doing, of string, step func(args []string) (*pb.TriageFindingRequest, error), done func(*pb.TriageFindingResponse) string) *cobra.Command {
	var asJSON bool
	cmd.Flags().BoolVar(&asJSON, "json", false, "the finding, and the suppression that was made, as one JSON object")
	cmd.ValidArgsFunction = completeFindings(reach, of)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := step(args[1:])
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		c, err := dial(doing, *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		if req.FindingId, err = c.findingNamed(cmd.Context(), args[0]); err != nil {
			return err
		}
		resp, err := c.findings().TriageFinding(cmd.Context(), req)
		if err != nil {
			return c.explain(err)
		}
		if asJSON {
			return writeJSON(s.stdout, resp)
		}
		return writeLine(s.stdout, printable(shortID(req.GetFindingId())+" "+done(resp), 500))
	}
	return cmd
}

func findingsAck(s *surroundings, reach *client.Config) *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use: "ack FINDING", Short: "Say that you look at a finding", Args: cobra.ExactArgs(1),
		Long: `Acknowledge a finding: somebody looks at it. Who does so second is told who was first.`,
		Example: `  mcpaudit findings ack 3f2a91c0
  mcpaudit findings ack 3f2a91c0 --note 'on it'`,
	}
	cmd.Flags().StringVar(&note, "note", "", "anything worth knowing")
	return stepCommand(s, cmd, reach, "acknowledge finding", `triage = "new"`,
		func([]string) (*pb.TriageFindingRequest, error) {
			return &pb.TriageFindingRequest{Step: "acknowledge", Note: note}, nil
		}, func(*pb.TriageFindingResponse) string { return "is acknowledged" })
}

func findingsAssign(s *surroundings, reach *client.Config) *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use: "assign FINDING WHO", Short: "Say who looks after a finding", Args: cobra.ExactArgs(2),
		Long:    `Assign a finding to somebody. It does not acknowledge it: they may not know yet.`,
		Example: `  mcpaudit findings assign 3f2a91c0 bob@example.com`,
	}
	cmd.Flags().StringVar(&note, "note", "", "anything worth knowing")
	return stepCommand(s, cmd, reach, "assign finding", `triage != "closed"`,
		func(args []string) (*pb.TriageFindingRequest, error) {
			return &pb.TriageFindingRequest{Step: "assign", Assignee: args[0], Note: note}, nil
		}, func(r *pb.TriageFindingResponse) string { return "is assigned to " + r.GetFinding().GetAssignee() })
}

func findingsNote(s *surroundings, reach *client.Config) *cobra.Command {
	cmd := &cobra.Command{
		Use: "note FINDING TEXT...", Short: "Write down what you know about a finding", Args: cobra.MinimumNArgs(2),
		Long: `Add a note to a finding. It is in the signed log for ever: name no secret and no more of
persons than is needed.`,
		Example: `  mcpaudit findings note 3f2a91c0 'the agent was stopped at 9:20, see INC-118'`,
	}
	return stepCommand(s, cmd, reach, "note", "",
		func(args []string) (*pb.TriageFindingRequest, error) {
			return &pb.TriageFindingRequest{Step: "note", Note: strings.Join(args, " ")}, nil
		}, func(*pb.TriageFindingResponse) string { return "has a note more" })
}

// verdicts are how a finding may be closed.
var verdicts = []string{"true-positive", "benign", "false-positive"}

func findingsClose(s *surroundings, reach *client.Config) *cobra.Command {
	var as, suppress, note string
	cmd := &cobra.Command{
		Use: "close FINDING --as (true-positive|benign|false-positive)", Short: "Say what a finding was, and close it", Args: cobra.ExactArgs(1),
		Long: `Close a finding, and say what it was:

  true-positive    what the rule says has happened, and it was not all right
  benign           it has happened, and was all right
  false-positive   the rule was wrong

What is benign of an identity may be declared usual for some days: with --suppress,
what the same rule finds of the same identity (at the same server and target, when the
finding is about one) is still found and kept, and not listed or told.
'mcpaudit findings suppressions list' shows what is suppressed.`,
		Example: `  mcpaudit findings close 3f2a91c0 --as true-positive --note 'agent stopped, token revoked'
  mcpaudit findings close 3f2a91c0 --as benign --suppress 30d --note 'the yearly archive job'
  mcpaudit findings close 3f2a91c0 --as false-positive`,
	}
	cmd.Flags().Var(&choice{&as, verdicts}, "as", "what it was: "+strings.Join(verdicts, ", ")+"; needed")
	completeWords(cmd, "as", verdicts...)
	cmd.Flags().StringVar(&suppress, "suppress", "", "for so long what is the same is usual, in days such as 30d, at most 366d; for benign")
	completeWords(cmd, "suppress", "7d", "30d", "90d", "365d")
	cmd.Flags().StringVar(&note, "note", "", "why; it is in the signed log")
	return stepCommand(s, cmd, reach, "close finding", `triage != "closed"`, func([]string) (*pb.TriageFindingRequest, error) {
		req := &pb.TriageFindingRequest{Step: "close", Verdict: strings.ReplaceAll(as, "-", "_"), Note: note}
		if as == "" {
			return nil, fmt.Errorf("name what it was, with --as %s", strings.Join(verdicts, ", --as "))
		}
		if suppress == "" {
			return req, nil
		}
		if as != "benign" {
			return nil, fmt.Errorf("--suppress is for what is closed --as benign")
		}
		const day = 24 * time.Hour
		d, err := length(suppress)
		if err != nil || d < day || d%day != 0 || d > 366*day {
			return nil, fmt.Errorf("--suppress is %q; name days, such as 30d, at most 366d", suppress)
		}
		req.SuppressDays = int32(d / day)
		return req, nil
	}, func(r *pb.TriageFindingResponse) string {
		text := "is closed as " + verdictWord(r.GetFinding().GetVerdict())
		if x := r.GetSuppression(); x != nil {
			text += "; what is the same is suppressed until " + s.clock().second(x.GetExpiresAt().AsTime()) + ", by " + shortID(x.GetSuppressionId())
		}
		return text
	})
}

func findingsReopen(s *surroundings, reach *client.Config) *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use: "reopen FINDING", Short: "Take back that a finding is closed", Args: cobra.ExactArgs(1),
		Long: `Reopen a finding that is closed: it is new again, and keeps who looks after it. A
suppression that was made when it was closed stays; end it with 'mcpaudit findings
suppressions end'.`,
		Example: `  mcpaudit findings reopen 3f2a91c0 --note 'it was not the archive job'`,
	}
	cmd.Flags().StringVar(&note, "note", "", "why; it is in the signed log")
	return stepCommand(s, cmd, reach, "reopen finding", `triage = "closed"`,
		func([]string) (*pb.TriageFindingRequest, error) {
			return &pb.TriageFindingRequest{Step: "reopen", Note: note}, nil
		}, func(*pb.TriageFindingResponse) string { return "is new again" })
}
