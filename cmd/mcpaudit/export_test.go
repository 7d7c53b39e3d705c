package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/export"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// exportable is an export service on a store with a sealed log. A stream breaks after
// breaksAfter messages when that is set.
type exportable struct {
	pb.ExportServiceServer
	address     string
	key         *ledger.Key
	breaksAfter atomic.Int64
}

func (x *exportable) ExportEvents(req *pb.ExportEventsRequest, stream grpc.ServerStreamingServer[pb.ExportEventsResponse]) error {
	return x.ExportServiceServer.ExportEvents(req, &breaking{stream, x.breaksAfter.Swap(0)})
}

type breaking struct {
	grpc.ServerStreamingServer[pb.ExportEventsResponse]
	left int64
}

func (b *breaking) Send(m *pb.ExportEventsResponse) error {
	if b.left--; b.left == 0 {
		return status.Error(codes.Unavailable, "the store did not answer")
	}
	return b.ServerStreamingServer.Send(m)
}

func newExportable(t *testing.T) *exportable {
	t.Helper()
	s := storetest.Open(t, t.TempDir())
	key, _, err := ledger.NewKey(rand.Reader, "main")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.StartLog(t.Context(), store.LogInfo{ID: "main", VerifierKey: key.Verifier(), StartedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	tree := ledger.NewTree()
	r := mathrand.New(mathrand.NewPCG(1, 1))
	for batch := uint64(1); batch <= 5; batch++ {
		e := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, LogID: "main", Batch: batch, SealedAt: int64(batch), Schema: event.Schema, Events: 10, ExpiresMonth: 20819}
		var events []*event.Event
		var leaves []ledger.Hash
		for i := range e.Events {
			one := event.Random(r)
			one.LogID, one.Batch, one.Leaf, one.ExpiresMonth, one.OccurredAt = "main", batch, i, 20819, 1795000000_000000+int64(batch)
			events, leaves = append(events, one), append(leaves, ledger.Leaf(event.AppendRow(nil, one)))
		}
		e.Root = ledger.Root(leaves)
		if err := s.Append(t.Context(), store.Batch{Events: events, Token: fmt.Sprint(batch)}); err != nil {
			t.Fatal(err)
		}
		nodes := tree.Append(e.Leaf())
		signed, err := ledger.Checkpoint{LogID: "main", Size: batch, Root: tree.Root()}.Sign(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Seal(t.Context(), []store.Sealed{{Entry: e, Nodes: nodes, Checkpoint: signed}}); err != nil {
			t.Fatal(err)
		}
	}
	x := &exportable{key: key}
	x.ExportServiceServer = export.New(export.Config{PartEvents: 20, Version: "1", Sign: key.SignText, TokenKey: []byte("k"), Now: time.Now,
		Compile: func(string) (string, []any, error) { return "batch > 2", nil, nil }}, s, slog.New(slog.DiscardHandler))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(scopetest.Server()...)
	pb.RegisterExportServiceServer(server, x)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	x.address = listener.Addr().String()
	return x
}

// run runs the command.
func (x *exportable) run(t *testing.T, args ...string) (result, error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exportCommand(&surroundings{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, env: func(string) string { return "" }, now: time.Now})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append(args, "--service", x.address))
	cmd.SetOut(io.Discard)
	err := cmd.ExecuteContext(context.WithoutCancel(t.Context()))
	return result{0, out.String(), errs.String()}, err
}

func mustRead(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExportWritesOneFormatToAFileOrToStandardOutput(t *testing.T) {
	x := newExportable(t)
	r, err := x.run(t)
	if err != nil || strings.Count(r.stdout, "\n") != 50 {
		t.Fatal(r, err)
	}
	name := filepath.Join(t.TempDir(), "events.csv")
	if r, err = x.run(t, "--format", "csv", "--out", name, `batch > 2`); err != nil || !strings.Contains(r.stderr, "30 events in ") {
		t.Fatal(r, err)
	}
	if text := mustRead(t, name); strings.Count(text, "event_id,schema,") != 1 {
		t.Errorf("%.100q", text)
	}
}

func TestAnExportThatBreaksLeavesNothingThatLooksWhole(t *testing.T) {
	x := newExportable(t)
	dir := t.TempDir()
	for _, args := range [][]string{{"--out", filepath.Join(dir, "events.jsonl")}, nil} {
		x.breaksAfter.Store(2)
		if r, err := x.run(t, args...); err == nil || !strings.Contains(err.Error(), "export: the store did not answer") {
			t.Errorf("%v: %+v, %v", args, r, err)
		}
	}
	if there, err := os.ReadDir(dir); err != nil || len(there) != 0 {
		t.Errorf("%v is left behind: %v", there, err)
	}
}

// Wherever a bundle's export breaks, the same command makes it whole.
func TestABundleIsMadeByTheSameCommandHoweverOftenItBreaks(t *testing.T) {
	x := newExportable(t)
	dir := filepath.Join(t.TempDir(), "audit")
	args := []string{"--bundle", dir, "--format", "csv,jsonl", "--reason", "audit"}
	for breaks := 0; ; breaks++ {
		x.breaksAfter.Store(7) // a part is four messages, the end six
		r, err := x.run(t, args...)
		if err == nil {
			if breaks != 2 || !strings.Contains(r.stderr, "going on with ") || !strings.Contains(r.stderr, `verified: every event of batches 1–5 of log "main"`) {
				t.Errorf("after %d breaks: %+v", breaks, r)
			}
			break
		}
		if _, missing := os.Stat(dir); missing == nil || breaks > 10 || !strings.Contains(err.Error(), "run the same command again to go on") {
			t.Fatalf("after %d breaks: %v", breaks, err)
		}
		if _, err := x.run(t, "--bundle", dir); err == nil || !strings.Contains(err.Error(), "is of an export with other flags") {
			t.Fatal(err)
		}
	}
	report, err := export.Verify(os.DirFS(dir), []string{x.key.Verifier()}, nil)
	if err != nil || report.Manifest.Events != 50 || report.Manifest.By != scopetest.Who || report.Manifest.Reason != "audit" {
		t.Error(report, err)
	}
	if there, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(there) != 1 {
		t.Errorf("%v is left behind: %v", there, err)
	}
	if _, err := x.run(t, args...); err == nil || !strings.Contains(err.Error(), "is there already; name another folder") {
		t.Error(err)
	}
}

func TestAWholeFileOfABrokenBundleThatWasChangedIsNotGoneOnWith(t *testing.T) {
	x := newExportable(t)
	dir := filepath.Join(t.TempDir(), "audit")
	x.breaksAfter.Store(5)
	if _, err := x.run(t, "--bundle", dir); err == nil {
		t.Fatal("it did not break")
	}
	name := filepath.Join(dir+".partial", "bundle", "events-00001.jsonl")
	if err := os.WriteFile(name, []byte(mustRead(t, name)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := x.run(t, "--bundle", dir); err == nil || !strings.Contains(err.Error(), "was changed; remove ") {
		t.Error(err)
	}
}

func TestExportRefusesFlagsThatContradict(t *testing.T) {
	x := &exportable{address: "127.0.0.1:1"}
	for args, want := range map[string]string{
		"--format xml":               `--format is "xml"; use jsonl, csv, parquet, ocsf, cef`,
		"--format csv,cef":           "one file has one --format; name --bundle for several",
		"--out a --bundle b":         "name --out for one file or --bundle for a folder, not both",
		"--since yesterday":          "--since is",
		"--out /nowhere/at/all.json": "no such file or directory",
		"":                           "no service answers at 127.0.0.1:1",
	} {
		if _, err := x.run(t, strings.Fields(args)...); err == nil || !strings.HasPrefix(err.Error(), "export: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
