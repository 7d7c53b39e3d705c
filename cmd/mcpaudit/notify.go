package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/detect/notify"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func notifyCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "notify", Short: "Tell people of findings: try it, and see what became of it",
		Long: `The service tells receivers of findings: when one opens, when it becomes worse, when it
is over, once each. Who is told of what is in a YAML file, the setting notify.file, in
Alertmanager's own terms:

  link: https://grafana.example.com/d/mcpaudit-investigate?var-finding={finding_id}
  receivers:
    - name: oncall
      pagerduty: {routing_key_file: pagerduty.key}
    - name: chat
      slack: {url_file: slack.url}          # and what speaks like it
    - name: alerts
      alertmanager: {url: http://127.0.0.1:9093}
    - name: siem
      webhook: {url: https://siem.example.com/findings, secret_file: webhook.secret}
  time_intervals:
    - name: nights
      time_intervals: [{times: [{start_time: '22:00', end_time: '24:00'}], location: Europe/Berlin}]
  routes:                                   # the first that matches, and further ones after continue
    - {receiver: oncall, severity: high, continue: true}
    - {receiver: chat, mute_time_intervals: [nights], group_by: [rule, tenant], group_wait: 30s, limit: 30}

Secrets are in files beside it that only the service may read. What can't be delivered is
kept in the store and tried again, also after a restart.`,
	}
	reach := s.serviceFlag(cmd)
	cmd.AddCommand(notifyTest(s, reach), notifyList(s, reach), notifyReceivers(s, reach), notifyCheck(s))
	refuseUnknown(cmd)
	return cmd
}

// completeReceivers offers the names of receivers.
func completeReceivers(reach *client.Config) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) (names []string, _ cobra.ShellCompDirective) {
		c, err := dial("list receivers", *reach, "")
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.conn.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		resp, _ := pb.NewNotifyServiceClient(c.conn).ListReceivers(ctx, &pb.ListReceiversRequest{})
		for _, r := range resp.GetReceivers() {
			names = append(names, r.GetName()+"\t"+r.GetKind())
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func notifyTest(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "test [RECEIVER…]", Short: "Have the service send a sample to receivers",
		Long: `Have the service send each receiver, or those that are named, a sample that says that it
is one, now, and say what came of it. Quiet hours and limits are not asked. It ends with
status 1 when a receiver did not take it. It is an event in the signed log.`,
		Example: `  mcpaudit notify test
  mcpaudit notify test oncall chat`,
		ValidArgsFunction: completeReceivers(reach),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line: receiver, kind, ok, status, error, took")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := dial("test receivers", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewNotifyServiceClient(c.conn).TestReceivers(cmd.Context(), &pb.TestReceiversRequest{Receivers: args})
		if err != nil {
			return c.explain(err)
		}
		t := newTable(s.screen(s.stdout), column{head: "RECEIVER", most: 40}, column{head: "KIND", most: 12}, column{head: "RESULT", most: 8},
			column{head: "STATUS", most: 6, right: true}, column{head: "TOOK", most: 10, right: true}, column{head: "WHY", most: 160, rest: true})
		failed := false
		for _, r := range resp.GetResults() {
			result := cell{text: "taken"}
			if !r.GetOk() {
				failed = true
				result = cell{"failed", red}
			}
			if asJSON {
				err = writeJSON(t.out, r)
			} else {
				err = t.add(cell{text: r.GetReceiver()}, cell{text: r.GetKind()}, result, cell{text: statusText(r.GetStatus())},
					cell{text: r.GetTook().AsDuration().Round(time.Millisecond).String()}, cell{text: r.GetError()})
			}
			if err != nil {
				return err
			}
		}
		if err := t.flush(); err != nil {
			return err
		}
		if failed {
			return exitStatus(1)
		}
		return nil
	}
	return cmd
}

// statusText is an HTTP status; empty for none.
func statusText(code uint32) string {
	if code == 0 {
		return ""
	}
	return strconv.Itoa(int(code))
}

func notifyList(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON bool
	req := &pb.ListNotificationsRequest{}
	cmd := &cobra.Command{
		Use: "list", Short: "See what was sent, what failed and what waits", Args: cobra.NoArgs,
		Long: `List the steps with messages, newest first: queued (it waits to be sent), sent, failed
(it is tried again) and skipped (nobody has to be told any more). With --step queued, what
waits now.`,
		Example: `  mcpaudit notify list
  mcpaudit notify list --step failed --receiver oncall
  mcpaudit notify list --finding 8bb45b50-0c1e-8a5e-9d0b-2f5c4a1b7d3e --json`,
	}
	f := cmd.Flags()
	f.StringVar(&req.Receiver, "receiver", "", "to this receiver alone")
	f.StringVar(&req.FindingId, "finding", "", "about this finding alone, by its whole id")
	f.StringVar(&req.Step, "step", "", "queued, sent, failed or skipped alone")
	f.Uint32Var(&req.Limit, "limit", 100, "at most so many, up to 1000")
	f.BoolVar(&asJSON, "json", false, "one JSON object a line")
	completeWords(cmd, "step", "queued", "sent", "failed", "skipped")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dial("list notifications", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewNotifyServiceClient(c.conn).ListNotifications(cmd.Context(), req)
		if err != nil {
			return c.explain(err)
		}
		clock := s.clock()
		t := newTable(s.screen(s.stdout), column{head: clock.head("TIME"), most: 40}, column{head: "RECEIVER", most: 40}, column{head: "STEP", most: 8}, column{head: "WHAT", most: 12},
			column{head: "FINDING", most: 8}, column{head: "SEVERITY", most: 8}, column{head: "RULE", most: 24}, column{head: "TRY", most: 4, right: true}, column{head: "STATUS", most: 6, right: true}, column{head: "WHY", most: 160, rest: true})
		for _, n := range resp.GetNotifications() {
			if asJSON {
				if err := writeJSON(t.out, n); err != nil {
					return err
				}
				continue
			}
			step := cell{text: n.GetStep()}
			if n.GetStep() == "failed" {
				step.look = red
			}
			if err := t.add(cell{text: clock.second(n.GetAt().AsTime())}, cell{text: n.GetReceiver()}, step, cell{text: n.GetWhat()}, cell{text: shortID(n.GetFindingId())},
				cell{text: n.GetSeverity()}, cell{text: n.GetRule()}, cell{text: statusText(n.GetAttempt())}, cell{text: statusText(n.GetStatus())}, cell{text: n.GetError()}); err != nil {
				return err
			}
		}
		if len(resp.GetNotifications()) == 0 && !asJSON {
			return writeLine(s.stdout, "there is nothing of that kind")
		}
		if err := t.flush(); err != nil {
			return err
		}
		if resp.GetTruncated() {
			fmt.Fprintf(s.stderr, "mcpaudit: there are more; ask for some of them, or for more with --limit\n")
		}
		return nil
	}
	return cmd
}

func notifyReceivers(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "receivers", Short: "List who is told, and what waits for them", Args: cobra.NoArgs,
		Long:    `List the receivers of the service's notify.file, and how many findings wait to be told to each.`,
		Example: `  mcpaudit notify receivers`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := dial("list receivers", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := pb.NewNotifyServiceClient(c.conn).ListReceivers(cmd.Context(), &pb.ListReceiversRequest{})
		if err != nil {
			return c.explain(err)
		}
		clock := s.clock()
		t := newTable(s.screen(s.stdout), column{head: "RECEIVER", most: 40}, column{head: "KIND", most: 12}, column{head: "AT", most: 60},
			column{head: "WAIT", most: 8, right: true}, column{head: clock.head("SINCE"), most: 40})
		for _, r := range resp.GetReceivers() {
			since := ""
			if r.GetWaitingSince() != nil {
				since = clock.second(r.GetWaitingSince().AsTime())
			}
			if asJSON {
				err = writeJSON(t.out, r)
			} else {
				err = t.add(cell{text: r.GetName()}, cell{text: r.GetKind()}, cell{text: r.GetHost()}, cell{text: strconv.Itoa(int(r.GetWaiting()))}, cell{text: since})
			}
			if err != nil {
				return err
			}
		}
		if err := t.flush(); err != nil {
			return err
		}
		if !resp.GetSending() {
			fmt.Fprintf(s.stderr, "mcpaudit: another instance of this store sends; what waits is its affair\n")
		}
		return nil
	}
	return cmd
}

func notifyCheck(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "Check a file of receivers and routes, and the secrets that it names", Args: cobra.ExactArgs(1),
		Long: `Read a file as the service would with notify.file, and the files of secrets beside it,
and say what is wrong with it. Nothing is sent.`,
		Example: `  mcpaudit notify check notify.yaml`,
		RunE: func(_ *cobra.Command, args []string) error {
			plan, err := notify.Read(args[0])
			if err != nil {
				return err
			}
			n := len(plan.Receivers)
			return writeLine(s.stdout, args[0], " is right: ", strconv.Itoa(n), " ", cmp.Or(map[int]string{1: "receiver"}[n], "receivers"))
		},
	}
}
