package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/export"
)

func exportCommand(s *surroundings) *cobra.Command {
	x := &exporter{s: s}
	var out, bundle string
	cmd := &cobra.Command{
		Use: "export [FILTER]", Short: "Write events to files, with proof on request", Args: cobra.MaximumNArgs(1), ValidArgsFunction: noFiles,
		Long: `Write events to files: those of a filter, or all that are sealed when the export
begins. Formats are jsonl (one object a line, as 'mcpaudit events list --json' has
them), csv, parquet, ocsf (OCSF 1.9, API Activity) and cef.

With --bundle it makes a folder: files of events, proofs, the logs' checkpoints and
a signed manifest. 'mcpaudit verify' checks it on a machine that has no service.
Until it is whole and verified, the folder is named DIR.partial. An export that was
stopped, by whatever, is run again with the same command: it goes on behind the last
part that was whole, and gives what it would have given.

Without --bundle it writes one format to --out, or to standard output. What is not
whole is never at --out, and the exit status is 1.

` + filterHelp,
		Example: `  mcpaudit export --since 30d --out events.jsonl
  mcpaudit export 'outcome = "denied"' --format csv --out denied.csv
  mcpaudit export --bundle audit-2026 --format jsonl,csv --reason 'yearly audit'
  mcpaudit export --format parquet --since 2026-11-01 --until 2026-11-08 --out week.parquet`,
	}
	reach := s.serviceFlag(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&x.formats, "format", []string{"jsonl"}, "jsonl, csv, parquet, ocsf or cef; several, with commas between, in a bundle")
	f.StringVarP(&out, "out", "o", "", "file to write; default: standard output")
	f.StringVar(&bundle, "bundle", "", "folder to make, with proofs and a signed manifest")
	f.BoolVar(&x.noVerify, "no-verify", false, "don't verify the bundle when it is whole")
	f.StringVar(&x.reason, "reason", "", "why, for the manifest, which also has who: whose key it is")
	within := periodFlags(cmd)
	completeList(cmd, "format", export.Formats)
	mustRegister(cmd.MarkFlagFilename("out"))
	mustRegister(cmd.MarkFlagDirname("bundle"))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := x.check(out, bundle); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		typed := strings.Join(args, "")
		x.typed = strings.Join([]string{typed, within.since, within.until}, "\x00")
		var err error
		if x.filter, err = within.narrow(typed, s.now()); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		c, err := dial("export", *reach, typed, grpc.WithReadBufferSize(256<<10)) // fewer system calls
		if err != nil {
			return err
		}
		defer c.conn.Close()
		x.service, x.client = c, pb.NewExportServiceClient(c.conn)
		x.progress = newStatusLine(s, "export", false)
		defer x.progress.clear()
		if bundle != "" {
			return x.toFolder(cmd.Context(), bundle)
		}
		return x.toFile(cmd.Context(), out)
	}
	return cmd
}

// exporter is one export.
type exporter struct {
	*service
	s        *surroundings
	client   pb.ExportServiceClient
	filter   string
	typed    string // what the filter was made of
	formats  []string
	reason   string
	noVerify bool
	progress *statusLine
	events   uint64
}

func (x *exporter) check(out, bundle string) error {
	for _, f := range x.formats {
		if !slices.Contains(export.Formats, f) {
			return fmt.Errorf("--format is %q; use %s", f, strings.Join(export.Formats, ", "))
		}
	}
	slices.Sort(x.formats)
	x.formats = slices.Compact(x.formats)
	switch {
	case bundle != "" && out != "":
		return errors.New("name --out for one file or --bundle for a folder, not both")
	case bundle == "" && len(x.formats) != 1:
		return errors.New("one file has one --format; name --bundle for several")
	case bundle == "" && out == "" && x.s.screen(x.s.stdout).terminal:
		return errors.New("standard output is a terminal, and what events hold was written by others; name a file with --out")
	}
	return nil
}

// toFile writes one format. A file has its name only when it is whole.
func (x *exporter) toFile(ctx context.Context, name string) error {
	req := &pb.ExportEventsRequest{Filter: x.filter, Formats: x.formats, Reason: x.reason}
	if name == "" {
		return x.receive(ctx, req, func(m *pb.ExportEventsResponse) error {
			_, err := x.s.stdout.Write(m.GetData())
			return err
		})
	}
	partial := name + ".partial"
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	err = x.receive(ctx, req, func(m *pb.ExportEventsResponse) error {
		_, err := f.Write(m.GetData())
		return err
	})
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(partial, name)
	}
	if err == nil {
		err = syncFolderOf(name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return x.say(fmt.Sprintf("%s in %s", count(x.events, "event"), name))
}

// receive hands each message to take, until the export is whole.
func (x *exporter) receive(ctx context.Context, req *pb.ExportEventsRequest, take func(*pb.ExportEventsResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := x.client.ExportEvents(ctx, req)
	if err != nil {
		return x.explain(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("export: the service ended it early")
		}
		if err != nil {
			return x.explain(err)
		}
		if err := take(m); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		x.events = m.GetEvents()
		x.progress.at(x.events, m.GetEventsTotal())
		if m.GetFinished() {
			return nil
		}
	}
}

func (x *exporter) say(text string) error {
	x.progress.clear()
	_, err := fmt.Fprintln(x.s.stderr, "mcpaudit: export: "+printable(text, 2000))
	return err
}
