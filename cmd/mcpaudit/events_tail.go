package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// How a watcher comes back.
const (
	firstRewatch = 500 * time.Millisecond
	maxRewatch   = 10 * time.Second
	// A service that is gone without a word is noticed within this time and 20 s.
	// Servers refuse clients that ask more often than each 5 minutes.
	askAlive = 6 * time.Minute
)

func eventsTail(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON bool
	var fields []string
	cmd := &cobra.Command{
		Use: "tail [FILTER]", Short: "Show events as they are stored", Args: cobra.MaximumNArgs(1), ValidArgsFunction: noFiles,
		Long: `Show events as they are stored, until Ctrl-C. When the service restarts, watching
goes on; a message says how to list what was stored in between. ` + filterHelp,
		Example: `  mcpaudit events tail
  mcpaudit events tail 'outcome != "success"'
  mcpaudit events tail 'signals:*' --fields occurred_at,server,target,signals
  mcpaudit events tail 'decision = "deny"' --json | my-alert`,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line, all fields unless --fields names some")
	cmd.Flags().StringSliceVar(&fields, "fields", nil, "fields to show, with commas between")
	completeList(cmd, "fields", eventFields())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		filter := strings.Join(args, "")
		c, err := dial("watch events", *reach, filter,
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: firstRewatch, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRewatch}, MinConnectTimeout: 5 * time.Second}),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: askAlive, Timeout: 20 * time.Second}))
		if err != nil {
			return err
		}
		defer c.conn.Close()
		t := &tailer{s: s, service: c, out: s.eventPrinter(asJSON, fields)}
		t.req = &pb.WatchEventsRequest{Filter: filter, ReadMask: t.out.mask("received_at")}
		return t.run(cmd.Context())
	}
	return cmd
}

// tailer watches, and watches again when the service went away.
type tailer struct {
	*service
	s   *surroundings
	req *pb.WatchEventsRequest
	out *eventPrinter

	begun bool      // watching has begun once
	seen  time.Time // received_at of the last event; until one came, when watching began
	gone  time.Time // when the service went away; zero while it is there
}

// run watches until ctx ends, which is no error.
func (t *tailer) run(ctx context.Context) error {
	for wait := firstRewatch; ; wait = min(2*wait, maxRewatch) {
		watched, err := t.watch(ctx)
		if ctx.Err() != nil {
			return t.out.flush()
		}
		if watched {
			wait = firstRewatch
		}
		switch code := status.Code(err); {
		case !t.begun:
			return t.explain(err)
		case code == codes.Unavailable || code == codes.ResourceExhausted || code == codes.DeadlineExceeded || code == codes.Internal:
			if watched {
				t.gone = t.s.now()
				fmt.Fprintf(t.s.stderr, "mcpaudit: watch events: the service at %s ended the stream (%s); trying again\n",
					t.address, printable(status.Convert(err).Message(), 200))
			}
		default:
			return t.explain(err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return t.out.flush()
		}
	}
}

// watch shows events until the stream ends, and says whether it had begun.
func (t *tailer) watch(ctx context.Context) (watched bool, err error) {
	// Once the service has been there, wait for it to come back.
	stream, err := t.query.WatchEvents(ctx, t.req, grpc.WaitForReady(t.begun))
	if err != nil {
		return false, err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return watched, err
		}
		if !watched { // the first answer says that watching has begun
			watched = true
			if err := t.begin(); err != nil {
				return watched, err
			}
		}
		for _, e := range resp.GetEvents() {
			if err := t.show(e); err != nil {
				return watched, err
			}
		}
		if err := t.out.flush(); err != nil {
			return watched, err
		}
	}
}

// begin says that events are watched from now on, and what was missed.
func (t *tailer) begin() error {
	if !t.begun {
		t.begun, t.seen = true, t.s.now()
		fmt.Fprintf(t.s.stderr, "mcpaudit: watching the service at %s; Ctrl-C ends it\n", t.address)
		if t.out.json {
			return nil
		}
		return t.out.table.endless()
	}
	missed := fmt.Sprintf("received_at >= %q", t.seen.UTC().Format(time.RFC3339Nano))
	if f := t.req.GetFilter(); strings.TrimSpace(f) != "" {
		missed = f + " AND " + missed
	}
	list := "mcpaudit events list " + shellQuote(missed) + " --order-by received_at" + t.at(t.s)
	fmt.Fprintf(t.s.stderr, "mcpaudit: watching again after %s; events stored in between are not shown here. To list them, from the last one shown:\n  %s\n",
		roughly(t.s.now().Sub(t.gone)), list)
	return nil
}

func (t *tailer) show(e *pb.Event) error {
	if at := e.GetReceivedAt(); at != nil {
		t.seen = at.AsTime()
		if t.out.json && len(t.out.fields) > 0 && !slices.Contains(t.out.fields, "received_at") {
			e.ReceivedAt = nil // asked for on our own account
		}
	}
	return t.out.add(e)
}

// shellQuote makes a text one word of a shell's command (POSIX, section 2.2.2).
// Others may have chosen it: what does not show becomes a space.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(printable(s, 1<<15), "'", `'\''`) + "'"
}
