package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const defaultService = "127.0.0.1:4777"

func (s *surroundings) serviceFlag(cmd *cobra.Command) *string {
	address := s.env("MCPAUDIT_SERVICE")
	if address == "" {
		address = defaultService
	}
	return cmd.PersistentFlags().String("service", address, "address of the service's gRPC port ($MCPAUDIT_SERVICE)")
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
}

// explain turns a call's error into what a person needs.
func explain(doing, address string, err error) error {
	st := status.Convert(err)
	if st.Code() == codes.Unavailable && strings.Contains(st.Message(), "connection") {
		return fmt.Errorf("%s: no service answers at %s; start one with 'mcpaudit serve', or name it with --service", doing, address)
	}
	return fmt.Errorf("%s: %s", doing, st.Message())
}

func eventsCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{Use: "events", Short: "See what was called"}
	service := s.serviceFlag(cmd)
	cmd.AddCommand(eventsList(s, service), eventsGet(s, service))
	return cmd
}

func eventsList(s *surroundings, service *string) *cobra.Command {
	var limit int
	var asJSON bool
	var since time.Duration
	cmd := &cobra.Command{
		Use: "list [FILTER]", Short: "List events, newest first", Args: cobra.MaximumNArgs(1),
		Long: `List events, newest first. A filter compares fields of the event (AIP-160):

  outcome = "denied"                     equal; * at an end stands for anything
  outcome != "success" AND kind = "tool_call"
  duration > 1.5s
  signals:"secret:github-pat"            a list has it; a text contains it
  labels.team = "search"
  occurred_at >= "2026-11-20T09:00:00Z"
  (server = "files" OR server = "git") AND NOT principal = "agent:ci"`,
		Example: `  mcpaudit events list
  mcpaudit events list 'outcome = "denied"' --since 24h
  mcpaudit events list 'server = "files" AND target = "read_*"' --json --limit 1000`,
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "events to list")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line, all fields")
	cmd.Flags().DurationVar(&since, "since", 0, "only events of this last time, such as 24h")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if limit < 1 {
			return fmt.Errorf("list events: --limit is %d, must be at least 1", limit)
		}
		filter := strings.Join(args, "")
		if since > 0 {
			recent := fmt.Sprintf("occurred_at >= %q", s.now().Add(-since).UTC().Format(time.RFC3339Nano))
			if strings.TrimSpace(filter) != "" {
				// Behind the filter, so that positions in messages are those of what was
				// typed. AND binds less than all else in a filter.
				recent = filter + " AND " + recent
			}
			filter = recent
		}
		conn, err := dial(*service)
		if err != nil {
			return fmt.Errorf("list events: %w", err)
		}
		defer conn.Close()
		out := eventWriter{w: s.stdout, json: asJSON}
		req := &pb.ListEventsRequest{Filter: filter}
		for limit > 0 {
			req.PageSize = int32(min(limit, 1000))
			resp, err := pb.NewQueryServiceClient(conn).ListEvents(cmd.Context(), req)
			if err != nil {
				return explain("list events", *service, err)
			}
			for _, e := range resp.GetEvents() {
				if err := out.write(e); err != nil {
					return err
				}
			}
			limit -= len(resp.GetEvents())
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		return out.flush()
	}
	return cmd
}

func eventsGet(s *surroundings, service *string) *cobra.Command {
	return &cobra.Command{
		Use: "get EVENT_ID", Short: "Show one event, all fields", Args: cobra.ExactArgs(1),
		Example: "  mcpaudit events get 01890a5d-ac96-774b-bcce-b302099a8057",
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := dial(*service)
			if err != nil {
				return fmt.Errorf("get event: %w", err)
			}
			defer conn.Close()
			resp, err := pb.NewQueryServiceClient(conn).GetEvent(cmd.Context(), &pb.GetEventRequest{EventId: args[0]})
			if err != nil {
				return explain("get event", *service, err)
			}
			text, err := protojson.MarshalOptions{UseProtoNames: true, Multiline: true}.Marshal(resp.GetEvent())
			if err != nil {
				return fmt.Errorf("get event: %w", err)
			}
			return writeLine(s.stdout, string(text))
		},
	}
}

// eventWriter prints events as a table for people or as JSONL for programs.
type eventWriter struct {
	w     io.Writer
	json  bool
	table *tabwriter.Writer
}

func (o *eventWriter) write(e *pb.Event) error {
	if o.json {
		line, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e)
		if err != nil {
			return fmt.Errorf("print event: %w", err)
		}
		return writeLine(o.w, string(line))
	}
	if o.table == nil {
		o.table = tabwriter.NewWriter(o.w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(o.table, "TIME\tSERVER\tWHAT\tOUTCOME\tTOOK\tWHO\tARGUMENTS")
	}
	what := e.GetMethod()
	if e.GetTarget() != "" {
		what = e.GetTarget()
	}
	arguments := e.GetArguments()
	if e.GetOutcome() != "success" && e.GetErrorMessage() != "" {
		arguments += "  ← " + e.GetErrorMessage()
	}
	_, err := fmt.Fprintf(o.table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
		e.GetOccurredAt().AsTime().Local().Format("01-02 15:04:05.000"), printable(e.GetServer(), 24), printable(what, 40),
		e.GetOutcome(), e.GetDuration().AsDuration().Round(100*time.Microsecond), printable(e.GetPrincipal(), 30), printable(arguments, 110))
	return err
}

func (o *eventWriter) flush() error {
	if o.table != nil {
		return o.table.Flush()
	}
	if !o.json {
		return writeLine(o.w, "no events match")
	}
	return nil
}

// printable keeps a text on its line and harmless to a terminal.
func printable(s string, width int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return ' '
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > width {
		return event.ClipText(string(runes[:width-1]), 4*width) + "…"
	}
	return s
}
