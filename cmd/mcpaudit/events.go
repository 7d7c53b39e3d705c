package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func eventsCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{Use: "events", Short: "See what was called"}
	service := s.serviceFlag(cmd)
	cmd.AddCommand(eventsList(s, service), eventsGet(s, service), eventsTail(s, service), eventsTimeline(s, service), eventsStats(s, service))
	return cmd
}

// filterHelp is what a filter may say. Each line is run in a test.
const filterHelp = `A filter compares fields of the event (AIP-160):

  outcome = "denied"                     equal; * at an end stands for anything
  outcome != "success" AND kind = "tool_call"
  duration > 1.5s
  signals:"secret:github-pat"            a list has it; a text contains it
  labels.team = "search"
  occurred_at >= "2026-11-20T09:00:00Z"
  (server = "files" OR server = "git") AND NOT principal = "agent:ci"`

// orderFields are those that a search may be sorted by.
var orderFields = []string{"occurred_at", "received_at", "duration", "request_bytes", "response_bytes"}

func eventsList(s *surroundings, reach *client.Config) *cobra.Command {
	var limit int
	var asJSON bool
	var fields []string
	var orderBy string
	cmd := &cobra.Command{
		Use: "list [FILTER]", Short: "List events, newest first", Args: cobra.MaximumNArgs(1), ValidArgsFunction: noFiles,
		Long: "List events, newest first. " + filterHelp + `

Times are shown in your own zone, which the heading names.`,
		Example: `  mcpaudit events list
  mcpaudit events list 'outcome = "denied"' --since 24h
  mcpaudit events list 'kind = "tool_call"' --order-by 'duration desc' --fields occurred_at,server,target,duration
  mcpaudit events list --since 2026-11-20T09:00:00Z --until 2026-11-20T10:00:00Z
  mcpaudit events list 'server = "files" AND target = "read_*"' --json --limit 1000`,
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "events to list")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line, all fields unless --fields names some")
	cmd.Flags().StringSliceVar(&fields, "fields", nil, "fields to show, with commas between")
	cmd.Flags().StringVar(&orderBy, "order-by", "", "field to sort by, and desc for the largest first; default 'occurred_at desc'")
	within := periodFlags(cmd)
	completeList(cmd, "fields", eventFields())
	var orders []string
	for _, f := range orderFields {
		orders = append(orders, f, f+" desc")
	}
	completeWords(cmd, "order-by", orders...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if limit < 1 {
			return fmt.Errorf("list events: --limit is %d, must be at least 1", limit)
		}
		typed := strings.Join(args, "")
		filter, err := within.narrow(typed, s.now())
		if err != nil {
			return fmt.Errorf("list events: %w", err)
		}
		c, err := dial("list events", *reach, typed)
		if err != nil {
			return err
		}
		defer c.conn.Close()
		out := s.eventPrinter(asJSON, fields)
		req := &pb.ListEventsRequest{Filter: filter, OrderBy: orderBy, ReadMask: out.mask()}
		for limit > 0 {
			req.PageSize = int32(min(limit, 1000))
			resp, err := c.query.ListEvents(cmd.Context(), req)
			if err != nil {
				return c.explain(err)
			}
			for _, e := range resp.GetEvents() {
				if err := out.add(e); err != nil {
					return err
				}
			}
			limit -= len(resp.GetEvents())
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if err := out.flush(); err != nil {
			return err
		}
		if !asJSON && out.shown == 0 {
			return writeLine(s.stdout, "no events match")
		}
		if req.PageToken != "" && out.screen.terminal {
			fmt.Fprintln(s.stderr, "mcpaudit: there are more; list them with --limit")
		}
		return nil
	}
	return cmd
}

func eventsGet(s *surroundings, reach *client.Config) *cobra.Command {
	return &cobra.Command{
		Use: "get EVENT_ID", Short: "Show one event, all fields", Args: cobra.ExactArgs(1), ValidArgsFunction: noFiles,
		Example: "  mcpaudit events get 01890a5d-ac96-774b-bcce-b302099a8057",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := dial("get event", *reach, "")
			if err != nil {
				return err
			}
			defer c.conn.Close()
			resp, err := c.query.GetEvent(cmd.Context(), &pb.GetEventRequest{EventId: args[0]})
			if err != nil {
				return c.explain(err)
			}
			line, err := compactJSON(resp.GetEvent())
			if err != nil {
				return fmt.Errorf("get event: %w", err)
			}
			text, err := indented(line)
			if err != nil {
				return fmt.Errorf("get event: %w", err)
			}
			return writeLine(s.stdout, text)
		},
	}
}

// eventPrinter prints events as a table for people or as JSONL for programs.
type eventPrinter struct {
	screen screen
	json   bool
	fields []string // of the table and of the JSON; the usual ones when empty
	clock  clock
	table  *table
	shown  int
}

func (s *surroundings) eventPrinter(asJSON bool, fields []string) *eventPrinter {
	p := &eventPrinter{screen: s.screen(s.stdout), json: asJSON, clock: s.clock()}
	for _, f := range fields {
		if f = strings.TrimSpace(f); f != "" {
			p.fields = append(p.fields, f)
		}
	}
	p.table = newTable(p.screen, p.columns()...)
	return p
}

// usualFields are what the table without --fields is made of.
var usualFields = []string{"occurred_at", "server", "method", "target", "outcome", "duration", "principal", "arguments", "error_message"}

// mask is what to ask the service for. Fewer fields are faster.
func (p *eventPrinter) mask(more ...string) *fieldmaskpb.FieldMask {
	paths := p.fields
	if len(paths) == 0 {
		if p.json {
			return nil
		}
		paths = usualFields
	}
	return &fieldmaskpb.FieldMask{Paths: append(slices.Clone(paths), more...)}
}

func (p *eventPrinter) columns() []column {
	if len(p.fields) == 0 {
		return []column{{head: p.clock.head("TIME"), most: 28, fixed: 18}, {head: "SERVER", most: 24, fixed: 16}, {head: "WHAT", most: 40, fixed: 24},
			{head: "OUTCOME", most: 14}, {head: "TOOK", most: 12, fixed: 8, right: true}, {head: "WHO", most: 30, fixed: 20},
			{head: "ARGUMENTS", most: 110, rest: true}}
	}
	known := (&pb.Event{}).ProtoReflect().Descriptor().Fields()
	var columns []column
	for i, name := range p.fields {
		c := column{head: strings.ToUpper(name), most: 60, fixed: 24, rest: i == len(p.fields)-1}
		if c.rest {
			c.most, c.fixed = 110, 0
		}
		if f := known.ByName(protoreflect.Name(name)); f != nil && !f.IsList() {
			switch f.Kind() {
			case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
				c.right = true
			case protoreflect.MessageKind:
				if f.Message().Name() == "Timestamp" {
					c.head, c.most = p.clock.head(c.head), 28
				}
				c.right = f.Message().Name() == "Duration"
			}
		}
		columns = append(columns, c)
	}
	return columns
}

func (p *eventPrinter) add(e *pb.Event) error {
	p.shown++
	if p.json {
		return writeJSON(p.table.out, e)
	}
	if len(p.fields) > 0 {
		cells := make([]cell, len(p.fields))
		for i, name := range p.fields {
			cells[i] = p.field(e, name)
		}
		return p.table.add(cells...)
	}
	return p.table.add(cell{text: p.clock.text(e.GetOccurredAt())}, cell{text: e.GetServer()}, cell{text: what(e)},
		cell{e.GetOutcome(), outcomeStyle(e.GetOutcome())}, cell{text: took(e.GetDuration().AsDuration())},
		cell{text: e.GetPrincipal()}, cell{text: said(e)})
}

func (p *eventPrinter) flush() error { return p.table.flush() }

// what was asked for: its name, or else the method.
func what(e *pb.Event) string {
	if e.GetTarget() != "" {
		return e.GetTarget()
	}
	return e.GetMethod()
}

// said are the arguments, and what came of it when that was no success.
func said(e *pb.Event) string {
	if e.GetOutcome() == "success" || e.GetErrorMessage() == "" {
		return e.GetArguments()
	}
	return printable(e.GetArguments(), 50) + "  ← " + e.GetErrorMessage()
}

// field is a field's value as a table has it.
func (p *eventPrinter) field(e *pb.Event, name string) cell {
	switch name {
	case "occurred_at":
		return cell{text: p.clock.text(e.GetOccurredAt())}
	case "received_at":
		return cell{text: p.clock.text(e.GetReceivedAt())}
	case "duration":
		return cell{text: took(e.GetDuration().AsDuration())}
	case "outcome":
		return cell{e.GetOutcome(), outcomeStyle(e.GetOutcome())}
	case "hints":
		return cell{text: hintWords(e.GetHints())}
	case "labels":
		var pairs []string
		for _, k := range slices.Sorted(maps.Keys(e.GetLabels())) {
			pairs = append(pairs, k+"="+e.GetLabels()[k])
		}
		return cell{text: strings.Join(pairs, " ")}
	}
	m := e.ProtoReflect()
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if f == nil {
		return cell{} // the service has refused it, or knows more than this program
	}
	if !f.IsList() {
		return cell{text: m.Get(f).String()}
	}
	var parts []string
	list := m.Get(f).List()
	for i := range list.Len() {
		if f.Kind() != protoreflect.MessageKind {
			parts = append(parts, list.Get(i).String())
			continue
		}
		parts = append(parts, pairOf(list.Get(i).Message().Interface()))
	}
	return cell{text: strings.Join(parts, ", ")}
}

// pairOf is a mark or a removal in short.
func pairOf(m proto.Message) string {
	switch m := m.(type) {
	case *pb.Mark:
		return fmt.Sprintf("%s %016x", m.GetClass(), m.GetHash())
	case *pb.Removal:
		return m.GetClass() + " " + m.GetPath()
	}
	return ""
}

// hintWords are what a tool says of itself that it is not by default.
func hintWords(h *pb.Hints) string {
	var words []string
	for _, w := range []struct {
		set  bool
		word string
	}{{h.GetReadOnly(), "read-only"}, {h.GetDestructive() && !h.GetReadOnly(), "destructive"}, {h.GetIdempotent(), "idempotent"}, {h.GetOpenWorld(), "open-world"}} {
		if w.set {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, " ")
}

// indented is a JSON text over several lines.
func indented(text []byte) (string, error) {
	var b bytes.Buffer
	err := json.Indent(&b, text, "", "  ")
	return b.String(), err
}
