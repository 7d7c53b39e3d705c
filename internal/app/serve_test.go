package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// testConfig serves the data folder dir on ports of the system's choice.
func testConfig(t *testing.T, dir string) Config {
	t.Helper()
	c := DefaultConfig(dir)
	c.Store.Engine = storetest.Library(t)
	c.Listen = ListenConfig{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0"}
	return c
}

// service is a running service.
type service struct {
	grpc *grpc.ClientConn // with all rights
	key  string           // that has them
	addr string           // of gRPC
	web  string
	stop func() error // ends it and waits
}

// firstKeys are those of the stores that tests started, by their folder.
var firstKeys sync.Map

// dial is a connection with a key, or with none.
func (s *service) dial(t *testing.T, key string) *grpc.ClientConn {
	t.Helper()
	options, err := client.Config{Address: s.addr, Key: key}.DialOptions()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.addr, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func serve(t *testing.T, cfg Config) *service {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	type addresses struct{ grpc, http net.Addr }
	started, ended := make(chan addresses, 1), make(chan error, 1)
	go func() {
		ended <- Serve(ctx, cfg, Deps{Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Version: "v1.2.3", Env: os.Getenv,
			Started:  func(g, h net.Addr) { started <- addresses{g, h} },
			FirstKey: func(text string, _ auth.Key) error { firstKeys.Store(cfg.Store.Path, text); return nil }})
	}()
	s := &service{}
	select {
	case a := <-started:
		if key, ok := firstKeys.Load(cfg.Store.Path); ok {
			s.key = key.(string)
		}
		s.addr, s.web = a.grpc.String(), "http://"+a.http.String()
		s.grpc = s.dial(t, s.key)
	case err := <-ended:
		cancel()
		t.Fatalf("serve: %v", err)
	}
	s.stop = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		s.grpc.Close()
		return err
	})
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

// page reads one of the pages for machines.
func (s *service) page(t *testing.T, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.web+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (s *service) awaitReady(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		code, text := s.page(t, "/readyz")
		if code == http.StatusOK && text == "ok\n" {
			return
		}
		if code != http.StatusServiceUnavailable || time.Now().After(deadline) {
			t.Fatalf("/readyz: %d, %q", code, text)
		}
	}
}

func publish(ctx context.Context, conn *grpc.ClientConn, seq uint64) (*pb.Receipt, error) {
	e := event.Random(rand.New(rand.NewPCG(seq, 1)))
	e.EmitterID, e.EmitterSeq = "e", seq
	resp, err := pb.NewIngestServiceClient(conn).PublishBatch(ctx, &pb.PublishBatchRequest{Events: []*pb.Event{wire.ToProto(e)}})
	return resp.GetReceipt(), err
}

func TestTheServiceStartsAndStopsTwiceInOneProcess(t *testing.T) {
	dir := t.TempDir()
	for life := range uint64(2) {
		s := serve(t, testConfig(t, dir))
		s.awaitReady(t)
		r, err := publish(t.Context(), s.grpc, life+1)
		if err != nil || r.GetStored() != 1 || r.GetProgress()[0].GetContiguousSeq() != life+1 {
			t.Errorf("life %d: %v, %v", life+1, r, err)
		}
		resp, err := pb.NewQueryServiceClient(s.grpc).ListEvents(t.Context(), &pb.ListEventsRequest{Filter: `emitter_id = "e"`})
		if err != nil || len(resp.GetEvents()) != int(life)+1 {
			t.Errorf("life %d: %d events, %v", life+1, len(resp.GetEvents()), err)
		}
		// Each start is an event, and each end but the one to come.
		own, err := pb.NewQueryServiceClient(s.grpc).ListEvents(t.Context(), &pb.ListEventsRequest{Filter: `principal = "mcpaudit:service"`, OrderBy: "occurred_at"})
		var methods []string
		for _, e := range own.GetEvents() {
			methods = append(methods, e.GetMethod())
		}
		if want := []string{"mcpaudit/start", "mcpaudit/stop", "mcpaudit/start"}[:2*life+1]; err != nil || !slices.Equal(methods, want) {
			t.Errorf("life %d: the service says %q of itself, not %q; %v", life+1, methods, want, err)
		}
		if err := s.stop(); err != nil {
			t.Errorf("life %d: %v", life+1, err)
		}
	}
}

func TestAStopRightAfterTheStartIsClean(t *testing.T) {
	dir := t.TempDir()
	for range 5 {
		ctx, cancel := context.WithCancel(context.Background())
		err := Serve(ctx, testConfig(t, dir), Deps{Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
			Started: func(net.Addr, net.Addr) { cancel() }})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A stream that its emitter keeps open does not hold up the end, and the emitter
// is told to come back.
func TestAnOpenStreamIsEndedByTheStop(t *testing.T) {
	s := serve(t, testConfig(t, t.TempDir()))
	s.awaitReady(t)
	stream, err := pb.NewIngestServiceClient(s.grpc).Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := event.Random(rand.New(rand.NewPCG(1, 1)))
	if err := stream.Send(&pb.PublishRequest{Events: []*pb.Event{wire.ToProto(e)}}); err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || resp.GetReceipt().GetStored() != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	said := make(chan error, 1)
	go func() { _, err := stream.Recv(); said <- err }()
	go s.stop() //nolint:errcheck // the clean-up asks again
	err = <-said
	if status.Code(err) != codes.Unavailable || len(status.Convert(err).Details()) != 1 {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestThePagesForMachinesSayWhatIsTrue(t *testing.T) {
	s := serve(t, testConfig(t, t.TempDir()))
	s.awaitReady(t)
	for n := range uint64(3) { // beside the service's own
		if _, err := publish(t.Context(), s.grpc, n/2+1); err != nil { // 1, 1, 2
			t.Fatal(err)
		}
	}
	if code, text := s.page(t, "/healthz"); code != http.StatusOK || text != "ok\n" {
		t.Errorf("/healthz: %d, %q", code, text)
	}
	code, text := s.page(t, "/metrics")
	for _, want := range []string{
		`mcpaudit_ingest_events_total{result="stored"} `, `mcpaudit_ingest_events_total{result="duplicate"} 1`,
		`mcpaudit_ingest_events_total{result="rejected"} 0`, `mcpaudit_ingest_batches_total `,
		`mcpaudit_ingest_store_failures_total 0`, `mcpaudit_build_info{version="v1.2.3"} 1`,
		`mcpaudit_ingest_batch_events_count `, `process_resident_memory_bytes`, `go_goroutines`,
	} {
		if code != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("/metrics (%d) has no %s", code, want)
		}
	}
	for _, leak := range []string{"emitter", "principal", `"e"`} { // labels are categories, never identities
		if strings.Contains(text, leak) {
			t.Errorf("/metrics holds %q", leak)
		}
	}
	if code, _ := s.page(t, "/nothing"); code != http.StatusNotFound {
		t.Errorf("/nothing: %d", code)
	}
	h, err := healthpb.NewHealthClient(s.grpc).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("gRPC health: %v, %v", h, err)
	}
}

// An instance without the role ingest has no log: it does nothing that another one
// does not note.
func TestAnInstanceWithoutALogHasAnotherNoteWhatIsAskedOfIt(t *testing.T) {
	ingest := testConfig(t, t.TempDir())
	ingest.Roles = []string{"ingest"}
	log := serve(t, ingest)
	log.awaitReady(t)
	if _, err := publish(t.Context(), log.grpc, 1); err != nil {
		t.Errorf("publish: %v", err)
	}
	if _, err := pb.NewQueryServiceClient(log.grpc).ListEvents(t.Context(), &pb.ListEventsRequest{}); status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unimplemented {
		t.Errorf("list: %v", err)
	}

	reads := testConfig(t, t.TempDir())
	reads.Roles = []string{"query"}
	reads.Store.DSN = enginetest.Start(t).DSN() // one process has one engine
	reads.Access.NotesTo, reads.Access.NotesKeyFile = log.addr, filepath.Join(t.TempDir(), "notes.key")
	key := func(req *pb.CreateKeyRequest) {
		t.Helper()
		if err := os.WriteFile(reads.Access.NotesKeyFile, []byte(log.makeKey(t, req)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, first, err := Bootstrap(t.Context(), reads, nil, auth.Grant{Role: auth.Analyst, Tenant: auth.EveryTenant}, time.Hour, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	firstKeys.Store(reads.Store.Path, first)
	key(&pb.CreateKeyRequest{Roles: []string{"emitter"}, Tenant: "*"}) // it may not write as the service
	s := serve(t, reads)
	s.awaitReady(t)
	list := func() error {
		_, err := pb.NewQueryServiceClient(s.grpc).ListEvents(t.Context(), &pb.ListEventsRequest{Filter: `target = "what was looked for"`})
		return err
	}
	if err := list(); status.Code(err) != codes.Unavailable {
		t.Errorf("what can't be noted is shown: %v", err)
	}
	key(&pb.CreateKeyRequest{Name: "notes", Roles: []string{"emitter"}, Tenant: "*", Emitters: []string{"mcpaudit-*"}})
	for deadline := time.Now().Add(30 * time.Second); list() != nil; time.Sleep(100 * time.Millisecond) { // the key's file is read again
		if time.Now().After(deadline) {
			t.Fatalf("list: %v", list())
		}
	}
	if _, err := publish(t.Context(), s.grpc, 1); status.Code(err) == codes.OK {
		t.Error("an instance without the role ingest takes events")
	}
	if err := errors.Join(s.stop(), log.stop()); err != nil {
		t.Fatal(err)
	}
	ingest.Roles = []string{"ingest", "query"}
	log = serve(t, ingest)
	log.awaitReady(t)
	resp, err := pb.NewQueryServiceClient(log.grpc).ListEvents(t.Context(), &pb.ListEventsRequest{Filter: `method = "mcpaudit/list_events" AND arguments : "what was looked for"`})
	if err != nil || len(resp.GetEvents()) < 2 { // the refused one was noted later
		t.Errorf("the log has %v, %v", resp.GetEvents(), err)
	}
}

func TestAServiceThatCannotStartSaysWhyAndHoldsNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	shared := filepath.Join(t.TempDir(), "redact.key")
	if err := os.WriteFile(shared, bytes.Repeat([]byte("0"), 64), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, c := range map[string]struct {
		spoil func(*Config)
		want  string
	}{
		"gRPC address taken": {func(c *Config) { c.Listen.GRPC = taken.Addr().String() }, "listen for gRPC: "},
		"HTTP address taken": {func(c *Config) { c.Listen.HTTP = taken.Addr().String() }, "listen for HTTP: "},
		"open to all":        {func(c *Config) { c.Listen.HTTP = "0.0.0.0:0" }, "listen.http: "},
		"no engine":          {func(c *Config) { c.Store.Engine = "/no/such/engine" }, `find engine "/no/such/engine": `},
		"a key for all":      {func(c *Config) { c.Redact.KeyFile = shared }, "read redaction key: others may read"},
		"no key":             {func(c *Config) { c.Redact.KeyFile = shared + "2" }, "read redaction key: stat "},
		"no folder":          {func(c *Config) { c.Store.Path = shared + "/data" }, "open engine"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, dir)
			c.spoil(&cfg)
			err := Serve(context.Background(), cfg, Deps{Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	// Neither the data folder nor an address is still held.
	s := serve(t, testConfig(t, dir))
	s.awaitReady(t)
}

// The service redacts again what an emitter let through.
func TestWhatAnEmitterLetThroughIsRedactedBeforeItIsStored(t *testing.T) {
	s := serve(t, testConfig(t, t.TempDir()))
	s.awaitReady(t)
	const token = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
	e := event.Random(rand.New(rand.NewPCG(1, 1)))
	e.EmitterID, e.EmitterSeq, e.Arguments, e.ErrorMessage = "e", 1, `{"note":"use `+token+`"}`, "bad token "+token
	m := wire.ToProto(e)
	if _, err := pb.NewIngestServiceClient(s.grpc).PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: []*pb.Event{m}}); err != nil {
		t.Fatal(err)
	}
	resp, err := pb.NewQueryServiceClient(s.grpc).GetEvent(t.Context(), &pb.GetEventRequest{EventId: m.GetEventId()})
	if err != nil || strings.Contains(resp.String(), token) || resp.GetEvent().GetRemovedCount() == 0 && e.RemovedCount == 0 {
		t.Errorf("%v, %v", resp, err)
	}
}
