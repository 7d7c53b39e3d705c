package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/app"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// servedThen stores events in a data folder by a service whose clock is behind, and
// which keeps events for a month; its start and its stop are two more of that time.
func servedThen(t *testing.T, dir string, ago time.Duration, events ...*pb.Event) {
	t.Helper()
	cfg := app.DefaultConfig(dir)
	cfg.Store.Engine, cfg.Retention.Default = storetest.Library(t), "1"
	cfg.Listen = app.ListenConfig{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0"}
	now := func() time.Time { return time.Now().Add(-ago) }
	since := now()
	ctx, stop := context.WithCancel(t.Context())
	started, ended := make(chan string, 1), make(chan error, 1)
	var said bytes.Buffer
	go func() {
		ended <- app.Serve(ctx, cfg, app.Deps{Now: now, Log: slog.New(slog.NewTextHandler(&said, nil)), Started: func(grpc, _ net.Addr) { started <- grpc.String() },
			FirstKey: func(text string, _ auth.Key) error { return keepKey(firstKeyOf(dir), text) }})
	}()
	select {
	case address := <-started:
		useKeyOf(t, dir)
		for _, e := range events {
			e.OccurredAt = timestamppb.New(now())
		}
		waitReady(t, address)
		awaitStart(t, address, since)
		publish(t, address, events...)
	case err := <-ended:
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
}

// waitReady waits until a service takes events.
func waitReady(t *testing.T, address string) {
	t.Helper()
	client := pb.NewIngestServiceClient(connect(t, address))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if _, err := client.PublishBatch(t.Context(), &pb.PublishBatchRequest{}); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// What a person does over the life of a hold.
func TestExpiredEventsAreDroppedAndHeldOnesAreNot(t *testing.T) {
	dir := t.TempDir()
	old := numbered(6)
	for i, e := range old {
		e.Server, e.Outcome = "shop", []string{"success", "denied"}[i%2]
	}
	servedThen(t, dir, 100*24*time.Hour, old...)
	recent := sent("two", 1)
	recent.Outcome = "success"
	servedThen(t, dir, 48*time.Hour, recent)
	address, _ := inService(t, dir)
	me := identity(t, address)
	at := func(args ...string) []string { return append(args, "--service", address) }

	if text := succeed(t, at("holds", "list")...); text != "there is no hold\n" {
		t.Errorf("holds list: %q", text)
	}
	r := command(t, "", at("holds", "create", `outcome = "denied"`, "--reason", "case 7", "--owner", "legal")...)
	id := strings.TrimSpace(r.stdout)
	if r.status != 0 || !strings.HasPrefix(id, "hold-") || r.stderr != "mcpaudit: 3 matching events that are stored now are kept, and those that come\n" {
		t.Fatalf("holds create: %+v", r)
	}
	if text := succeed(t, at("holds", "list")...); !strings.Contains(text, id) || !strings.Contains(text, `outcome = "denied"`) || !strings.Contains(text, "legal") || !strings.Contains(text, "case 7") {
		t.Errorf("holds list:\n%s", text)
	}

	month := func(dropped, held string) {
		t.Helper()
		got := jsonLines[map[string]any](t, succeed(t, at("retention", "plan", "--json")...))
		if len(got) != 1 || len(got[0]["month"].(string)) != len("2026-01") || text(got[0]["dropped"]) != dropped || text(got[0]["held"]) != held {
			t.Errorf("plan: %v, want %s dropped and %s held", got, dropped, held)
		}
	}
	// Three that are not held, and what the service of that time noted of itself.
	expired := strconv.Itoa(3 + notedThen(t, address))
	month(expired, "3")
	if r := command(t, "", at("retention", "apply")...); r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, "say --yes") {
		t.Errorf("apply without --yes: %+v", r)
	}
	month(expired, "3")
	if table := succeed(t, at("retention", "apply", "--yes")...); !strings.Contains(table, "DROPPED") || len(strings.Split(table, "\n")) != 3 {
		t.Errorf("apply:\n%s", table)
	}
	month("", "3")
	left := jsonLines[map[string]any](t, succeed(t, at("events", "list", `server = "shop"`, "--json")...))
	if len(left) != 3 {
		t.Errorf("%d events are left: %v", len(left), left)
	}
	verified(t, address)

	if text := succeed(t, at("holds", "release", id)...); text != id+" is released\n" {
		t.Errorf("holds release: %q", text)
	}
	if r := command(t, "", at("holds", "release", id)...); r.status != 1 || !strings.Contains(r.stderr, "by "+me) {
		t.Errorf("released twice: %+v", r)
	}
	if text := succeed(t, at("holds", "list", "--all")...); !strings.Contains(text, "local, "+me) || strings.Contains(succeed(t, at("holds", "list")...), id) {
		t.Errorf("holds list --all:\n%s", text)
	}
	succeed(t, at("retention", "apply", "--yes", "--json")...)
	if text := succeed(t, at("retention", "plan")...); text != "nothing has expired\n" {
		t.Errorf("plan: %q", text)
	}
	verified(t, address)
	methods := func(principal, filter string) (out []string) {
		for _, e := range jsonLines[map[string]any](t, succeed(t, at("events", "list", filter, "--order-by", "occurred_at", "--json")...)) {
			if e["principal"] != principal || e["kind"] != "admin" {
				t.Errorf("%v, want one of %s", e, principal)
			}
			out = append(out, strings.TrimPrefix(e["method"].(string), "mcpaudit/"))
		}
		return out
	}
	if got := strings.Join(methods(me, `method = "mcpaudit/hold" OR method = "mcpaudit/release" OR method = "mcpaudit/retention"`), " "); got != "hold retention release retention" {
		t.Errorf("what was done is in events: %s", got)
	}
	// What the first service wrote of itself has expired with the rest.
	if got := strings.Join(methods("mcpaudit:service", `method = "mcpaudit/start" OR method = "mcpaudit/stop"`), " "); got != "start stop start" {
		t.Errorf("of the services the log has %s", got)
	}
}

// notedThen is how many events the service of long ago wrote of itself: its start and
// stop, and what it was asked.
func notedThen(t *testing.T, address string) int {
	t.Helper()
	noted := `server = "mcpaudit" AND occurred_at < "` + time.Now().Add(-90*24*time.Hour).UTC().Format(time.RFC3339) + `"`
	n := strings.Count(succeed(t, "events", "list", noted, "--json", "-n", "100000", "--service", address), "\n")
	if n < 3 { // start, a look at the log, stop
		t.Fatalf("the service of long ago has written %d events of itself", n)
	}
	return n
}

// text is a JSON value as protojson writes a number of 64 bits, "" for none.
func text(v any) string {
	s, _ := v.(string)
	return s
}

func TestAPersonIsAskedBeforeEventsAreDropped(t *testing.T) {
	dir := t.TempDir()
	servedThen(t, dir, 100*24*time.Hour, numbered(2)...)
	servedThen(t, dir, 48*time.Hour, sent("two", 1))
	address, _ := inService(t, dir)
	question := fmt.Sprintf("Drop %d events for ever? Type yes:", 2+notedThen(t, address))
	for _, c := range []struct{ answer, want, never string }{
		{"no\n", "apply retention: nothing was dropped", "DROPPED"},
		{"yes\n", "DROPPED", "nothing was dropped"},
	} {
		terminal, other := openTerminal(t, 120)
		var out bytes.Buffer
		read := make(chan struct{})
		go func() { defer close(read); _, _ = io.Copy(&out, other) }()
		if _, err := io.WriteString(other, c.answer); err != nil {
			t.Fatal(err)
		}
		run(t.Context(), []string{"retention", "apply", "--service", address}, terminal, terminal, terminal)
		terminal.Close()
		<-read
		if said := out.String(); !strings.Contains(said, question) || !strings.Contains(said, c.want) || strings.Contains(said, c.never) {
			t.Errorf("%q:\n%s", c.answer, said)
		}
	}
}

func TestMistakesWithHoldsAreNamed(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"holds", "create", `outcome = "denied"`}, "create hold: name --reason and --owner"},
		{[]string{"holds", "create", `outcom = "denied"`, "--reason", "r", "--owner", "o"}, "create hold: filter, character 1: there is no field"},
		{[]string{"holds", "create", " ", "--reason", "r", "--owner", "o"}, "create hold: filter: is empty"},
		{[]string{"holds", "release", "hold-1"}, `release hold: there is no hold "hold-1"`},
		{[]string{"holds", "create"}, "accepts 1 arg(s), received 0"},
	} {
		r := command(t, "", append(c.args, "--service", address)...)
		if r.status != 1 || !strings.Contains(r.stderr, c.want) || r.stdout != "" {
			t.Errorf("mcpaudit %q: %+v, want %q", c.args, r, c.want)
		}
	}
	for _, args := range [][]string{{"holds", "list"}, {"retention", "plan"}, {"retention", "apply", "--yes"}} {
		if r := command(t, "", append(args, "--service", "127.0.0.1:1")...); r.status != 1 || !strings.Contains(r.stderr, "no service answers at 127.0.0.1:1") {
			t.Errorf("mcpaudit %q: %+v", args, r)
		}
	}
}
