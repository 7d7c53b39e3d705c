package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func eventsTimeline(s *surroundings, reach *client.Config) *cobra.Command {
	var trace, session, task, principal string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "timeline (--trace ID | --session ID | --task ID | --principal ID)", Short: "Show what happened in a trace, a session, a task or of one caller",
		Args: cobra.NoArgs,
		Long: `Show what happened in one trace, session or task, or what one principal did, oldest
first. A call is indented under the one that it was made in; ⋯ stands before one
whose caller is not among those shown. Bars are where in the whole time a call
ran. Silences are marked, and so are events that their emitter numbered and the
store does not have.

A principal's timeline is of the last 24 hours unless --since or --until says
otherwise.`,
		Example: `  mcpaudit events timeline --trace 4bf92f3577b34da6a3ce929d0e0e4736
  mcpaudit events timeline --session stdio-5f1d7a84c0b2e913
  mcpaudit events timeline --principal user:alice --since 2h
  mcpaudit events timeline --task 786f7a --json`,
	}
	f := cmd.Flags()
	f.StringVar(&trace, "trace", "", "W3C trace id to follow, 32 hex digits")
	f.StringVar(&session, "session", "", "session to follow")
	f.StringVar(&task, "task", "", "task to follow")
	f.StringVar(&principal, "principal", "", "principal to follow")
	f.IntVarP(&limit, "limit", "n", 1000, "events to show at most, the oldest; up to 10000")
	f.BoolVar(&asJSON, "json", false, "one JSON object a line: the event, depth, gap and what is missing before it")
	within := periodFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		const doing = "show timeline"
		req := &pb.GetTimelineRequest{Limit: int32(min(max(limit, 0), 1<<30))}
		var named []string
		for _, subject := range []struct{ flag, id string }{{"trace", trace}, {"session", session}, {"task", task}, {"principal", principal}} {
			if f.Changed(subject.flag) {
				named = append(named, "--"+subject.flag)
			}
			if f.Changed(subject.flag) && subject.id == "" {
				return fmt.Errorf("%s: --%s is empty", doing, subject.flag)
			}
		}
		switch {
		case len(named) == 0:
			return fmt.Errorf("%s: name what to follow, with --trace, --session, --task or --principal", doing)
		case len(named) > 1:
			return fmt.Errorf("%s: name one thing to follow, not both %s", doing, strings.Join(named, " and "))
		case limit < 1 || limit > 10000:
			return fmt.Errorf("%s: --limit is %d, must be from 1 to 10000", doing, limit)
		case trace != "":
			req.Subject = &pb.GetTimelineRequest_TraceId{TraceId: trace}
		case session != "":
			req.Subject = &pb.GetTimelineRequest_SessionId{SessionId: session}
		case task != "":
			req.Subject = &pb.GetTimelineRequest_TaskId{TaskId: task}
		default:
			req.Subject = &pb.GetTimelineRequest_Principal{Principal: principal}
			if within.since == "" && within.until == "" {
				within.since = "24h"
			}
		}
		from, to, err := within.bounds(s.now())
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		if !from.IsZero() {
			req.StartTime = timestamppb.New(from)
		}
		if !to.IsZero() {
			req.EndTime = timestamppb.New(to)
		}
		c, err := dial(doing, *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := c.query.GetTimeline(cmd.Context(), req)
		if err != nil {
			return c.explain(err)
		}
		if asJSON {
			for _, e := range resp.GetEntries() {
				if err := writeJSON(s.stdout, e); err != nil {
					return err
				}
			}
		} else if err := s.printTimeline(resp.GetEntries(), named[0][2:]+" "+cmp.Or(trace, session, task, principal)); err != nil {
			return err
		}
		if resp.GetTruncated() {
			fmt.Fprintf(s.stderr, "mcpaudit: %s: there are more than these %d events; the oldest are shown. Go on with --since, or raise --limit\n",
				doing, len(resp.GetEntries()))
		}
		return nil
	}
	return cmd
}

const (
	laneWidth  = 24 // of the bars
	maxIndents = 12 // deeper calls are numbered
)

// timeline is what the entries of one have in common.
type timeline struct {
	start, end time.Time
}

// lane is where in the whole time a call ran.
func (t timeline) lane(e *pb.Event) string {
	whole := float64(max(t.end.Sub(t.start), 1))
	at := int(float64(e.GetOccurredAt().AsTime().Sub(t.start)) / whole * laneWidth)
	at = min(max(at, 0), laneWidth-1)
	ran := []rune(cmp.Or(bar(float64(e.GetDuration().AsDuration()), whole, laneWidth), "▏"))
	return strings.Repeat(" ", at) + string(ran[:min(len(ran), laneWidth-at)])
}

func (s *surroundings) printTimeline(entries []*pb.TimelineEntry, subject string) error {
	out, clock := s.screen(s.stdout), s.clock()
	if len(entries) == 0 {
		return writeLine(out, "no events of "+printable(subject, 300))
	}
	t := timeline{start: entries[0].GetEvent().GetOccurredAt().AsTime()}
	for _, e := range entries {
		end := e.GetEvent().GetOccurredAt().AsTime().Add(e.GetEvent().GetDuration().AsDuration())
		if end.After(t.end) {
			t.end = end
		}
	}
	err := writeLine(out, fmt.Sprintf("%s: %s in %s, from %s %s", printable(subject, 300), count(len(entries), "event"), took(t.end.Sub(t.start)),
		clock.text(entries[0].GetEvent().GetOccurredAt()), clock.zone))
	if err != nil {
		return err
	}
	table := newTable(out, column{head: "AFTER", most: 14, right: true}, column{head: "WHEN", most: laneWidth}, column{head: "TOOK", most: 12, right: true},
		column{head: "OUTCOME", most: 14}, column{head: "WHAT", most: 60}, column{head: "SERVER", most: 24}, column{head: "WHO", most: 30},
		column{head: "ARGUMENTS", most: 110, rest: true})
	for _, entry := range entries {
		e := entry.GetEvent()
		if gap := entry.GetGap().AsDuration(); t.long(gap) {
			if err := table.note(dim, "    "+took(gap)+" without a call"); err != nil {
				return err
			}
		}
		if n := entry.GetMissingBefore(); n > 0 {
			if err := table.note(alarm, fmt.Sprintf("  ! %s missing here, numbered by emitter %s and not in the store", count(n, "event"), e.GetEmitterId())); err != nil {
				return err
			}
		}
		err := table.add(cell{text: "+" + took(e.GetOccurredAt().AsTime().Sub(t.start))}, cell{t.lane(e), outcomeStyle(e.GetOutcome())},
			cell{text: took(e.GetDuration().AsDuration())}, cell{e.GetOutcome(), outcomeStyle(e.GetOutcome())},
			cell{text: indent(entry) + what(e)}, cell{text: e.GetServer()}, cell{text: e.GetPrincipal()}, cell{text: said(e)})
		if err != nil {
			return err
		}
	}
	return table.flush()
}

// long says whether a silence stands out.
func (t timeline) long(gap time.Duration) bool {
	return gap >= time.Millisecond && (gap*20 >= t.end.Sub(t.start) || gap >= 10*time.Minute)
}

// indent is how deep a call lies, and whether its caller is missing.
func indent(entry *pb.TimelineEntry) string {
	depth := int(max(entry.GetDepth(), 0))
	text := strings.Repeat("  ", min(depth, maxIndents))
	if depth > maxIndents {
		text += fmt.Sprintf("(%d deep) ", depth)
	} else if depth > 0 {
		text = text[2:] + "└ "
	}
	if entry.GetParentMissing() {
		text += "⋯ "
	}
	return text
}

// count is a number and its noun.
func count[T int | uint64](n T, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
