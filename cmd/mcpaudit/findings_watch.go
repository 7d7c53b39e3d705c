package main

import (
	"context"
	"fmt"
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

func findingsWatch(s *surroundings, reach *client.Config) *cobra.Command {
	var asJSON, all bool
	var which findingFilter
	cmd := &cobra.Command{
		Use: "watch [FILTER]", Short: "Show findings as they open, change and are resolved", Args: cobra.MaximumNArgs(1), ValidArgsFunction: noFiles,
		Long: `Show findings as they open, change and are resolved, until Ctrl-C: a line each time. When
the service restarts, watching goes on; a message says how to list what was told in
between. ` + findingFilterHelp,
		Example: `  mcpaudit findings watch
  mcpaudit findings watch --severity high
  mcpaudit findings watch 'rule = "toxic-flow"' --json | my-alert`,
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that a suppression covers")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line: each version of a finding")
	which.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		typed := strings.Join(args, "")
		c, err := dial("watch findings", *reach, typed,
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: firstRewatch, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRewatch}, MinConnectTimeout: 5 * time.Second}),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: askAlive, Timeout: 20 * time.Second}))
		if err != nil {
			return err
		}
		defer c.conn.Close()
		w := &findingWatcher{service: c, s: s, out: s.findingPrinter(asJSON), typed: typed, which: which,
			req: &pb.WatchFindingsRequest{Filter: which.narrow(typed), ShowSuppressed: all}}
		return w.run(cmd.Context())
	}
	return cmd
}

// findingWatcher watches, and watches again when the service went away.
type findingWatcher struct {
	*service
	s     *surroundings
	req   *pb.WatchFindingsRequest
	out   *findingPrinter
	typed string
	which findingFilter

	begun bool      // watching has begun once
	gone  time.Time // when the service went away; zero while it is there
}

// run watches until ctx ends, which is no error.
func (w *findingWatcher) run(ctx context.Context) error {
	for wait := firstRewatch; ; wait = min(2*wait, maxRewatch) {
		watched, err := w.watch(ctx)
		if ctx.Err() != nil {
			return w.out.table.flush()
		}
		if watched {
			wait = firstRewatch
		}
		switch code := status.Code(err); {
		case !w.begun:
			return w.explain(err)
		case code == codes.Unavailable || code == codes.ResourceExhausted || code == codes.DeadlineExceeded || code == codes.Internal:
			if watched {
				w.gone = w.s.now()
				fmt.Fprintf(w.s.stderr, "mcpaudit: watch findings: the service at %s ended the stream (%s); trying again\n",
					w.address, printable(status.Convert(err).Message(), 200))
			}
		default:
			return w.explain(err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return w.out.table.flush()
		}
	}
}

// watch shows findings until the stream ends, and says whether it had begun.
func (w *findingWatcher) watch(ctx context.Context) (watched bool, err error) {
	// Once the service has been there, wait for it to come back.
	stream, err := w.findings().WatchFindings(ctx, w.req, grpc.WaitForReady(w.begun))
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
			if err := w.begin(); err != nil {
				return watched, err
			}
		}
		for _, f := range resp.GetFindings() {
			if err := w.show(f); err != nil {
				return watched, err
			}
		}
		if err := w.out.table.flush(); err != nil {
			return watched, err
		}
	}
}

// begin says that findings are watched from now on, and what was missed.
func (w *findingWatcher) begin() error {
	if !w.begun {
		w.begun = true
		fmt.Fprintf(w.s.stderr, "mcpaudit: watching the service at %s; Ctrl-C ends it\n", w.address)
		if w.out.json {
			return nil
		}
		return w.out.table.endless()
	}
	list := "mcpaudit findings list "
	if w.typed != "" {
		list += shellQuote(w.typed) + " "
	}
	if w.which.severity != "" {
		list += "--severity " + w.which.severity + " "
	}
	// What was told while the service was away had gone on shortly before.
	list += "--since " + w.gone.Add(-time.Minute).UTC().Format(time.RFC3339) + " --all"
	fmt.Fprintf(w.s.stderr, "mcpaudit: watching again after %s; findings told in between are not shown here. To list them:\n  %s%s\n",
		roughly(w.s.now().Sub(w.gone)), list, w.at(w.s))
	return nil
}

// show prints one version: as JSON it is the finding, in the table its state says what
// has changed.
func (w *findingWatcher) show(f *pb.Finding) error {
	if !w.out.json && f.GetState() == "open" && f.GetVersion() > 1 {
		f.State = "update " + fmt.Sprint(f.GetVersion())
	}
	return w.out.add(f)
}

// at are the flags that say how the service is reached, for commands that are shown;
// what the environment says is left out.
func (c *service) at(s *surroundings) string {
	text, known := "", client.FromEnv(s.env, s.home)
	for _, f := range []struct{ flag, value, otherwise string }{{"service", c.address, known.Address}, {"api-key-file", c.to.KeyFile, known.KeyFile},
		{"tls-ca", c.to.TLS.CA, known.TLS.CA}, {"tls-cert", c.to.TLS.Cert, known.TLS.Cert}, {"tls-key", c.to.TLS.Key, known.TLS.Key}} {
		if f.value != f.otherwise {
			text += " --" + f.flag + " " + shellQuote(f.value)
		}
	}
	return text
}
