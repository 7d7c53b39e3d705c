package emit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/rpc"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

var key = []byte("a key for tests alone, 32 bytes.")

func redactor(t testing.TB) *redact.Redactor {
	t.Helper()
	r, err := redact.New(redact.DefaultProfile(), key)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type unwatched struct{}

func (unwatched) Committed(int, time.Duration) {}
func (unwatched) Settled(int, int, int)        {}
func (unwatched) StoreFailed()                 {}

// service is a real one, on the real engine, that can be stopped and started
// again at the same address with the same data.
type service struct {
	t       *testing.T
	store   *store.Store
	address string
	// lose, when set, makes the service store a request and lose its answer.
	lose atomic.Bool
	stop func()
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, store: storetest.Open(t, t.TempDir()), address: "127.0.0.1:0"}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *service) start() {
	s.t.Helper()
	var listener net.Listener
	eventually(s.t, "the address is free", func() (ok bool) {
		var err error
		listener, err = net.Listen("tcp", s.address)
		return err == nil
	})
	s.address = listener.Addr().String()
	log := slog.New(slog.DiscardHandler)
	p := ingest.New(ingest.Config{}, s.store, redactor(s.t), time.Now, log, unwatched{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	eventually(s.t, "ingest is ready", func() bool { return p.Ready() == nil })
	server := grpc.NewServer(grpc.ForceServerCodecV2(rpc.NewCodec()), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			resp, err := handle(ctx, req)
			if err == nil && s.lose.Swap(false) {
				return nil, status.Error(codes.Unavailable, "the answer was lost")
			}
			return resp, err
		}))
	pb.RegisterIngestServiceServer(server, rpc.New(rpc.Config{RetryAfter: 20 * time.Millisecond}, p, time.Now))
	go server.Serve(listener)
	s.stop = func() {
		server.Stop()
		cancel()
		<-done
		s.stop = func() {}
	}
}

// stored are the sequence numbers, methods and arguments that the store has of
// an emitter, in order.
func (s *service) stored(emitter string) (seqs []uint64, methods, arguments []string) {
	s.t.Helper()
	rows, err := s.store.Query(s.t.Context(), store.Limits{},
		"SELECT emitter_seq, method, arguments FROM events WHERE emitter_id = {id:String} ORDER BY emitter_seq", store.Named("id", emitter))
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var seq uint64
		var method, args string
		if err := rows.Scan(&seq, &method, &args); err != nil {
			s.t.Fatal(err)
		}
		seqs, methods, arguments = append(seqs, seq), append(methods, method), append(arguments, args)
	}
	return seqs, methods, arguments
}

// wantDense fails unless the store has exactly the numbers 1 to n.
func (s *service) wantDense(emitter string, n int) {
	s.t.Helper()
	seqs, _, _ := s.stored(emitter)
	for i, seq := range seqs {
		if seq != uint64(i+1) {
			s.t.Fatalf("number %d stands in place %d: %v", seq, i+1, seqs)
		}
	}
	if len(seqs) != n {
		s.t.Errorf("%d events are stored, want %d", len(seqs), n)
	}
}

func openEmitter(t *testing.T, address, spool string, change ...func(*emit.Config)) *emit.Emitter {
	t.Helper()
	cfg := emit.Config{Address: address, Name: "files", Spool: spool, Linger: time.Millisecond,
		Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 100 * time.Millisecond})}}
	for _, c := range change {
		c(&cfg)
	}
	e, err := emit.Open(cfg, redactor(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func call(n int) emit.Record {
	return emit.Record{
		Event: &event.Event{OccurredAt: time.Now().UnixMicro(), Tenant: "t", Principal: "p", PrincipalKind: "agent",
			Server: "files", Kind: "tool_call", Method: "tools/call", Target: "read", Outcome: "success"},
		Arguments: fmt.Appendf(nil, `{"n":%d}`, n),
	}
}

func mustClose(t *testing.T, e *emit.Emitter) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func emitAll(t *testing.T, e *emit.Emitter, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := e.Send(t.Context(), call(n)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryEventArrivesOnceAndInOrder(t *testing.T) {
	s := newService(t)
	e := openEmitter(t, s.address, t.TempDir())
	emitAll(t, e, 0, 3000)
	mustClose(t, e)
	s.wantDense(e.ID(), 3000)
	_, _, arguments := s.stored(e.ID())
	for i, a := range arguments {
		if a != fmt.Sprintf(`{"n":%d}`, i) {
			t.Fatalf("event %d has arguments %s", i+1, a)
		}
	}
}

// Promise 3: nothing sensitive leaves the MCP server. What is looked at is all
// that does leave it: the spool's files and the store.
func TestPromise3NothingSensitiveLeavesTheServer(t *testing.T) {
	// Assembled here, so that no scanner takes this file for a leak.
	secret := "ghp_" + strings.Repeat("a8Kd2", 7) + "Q"
	mail := "ada.lovelace@example.org"
	spool := t.TempDir()
	away := openEmitter(t, "127.0.0.1:1", spool) // nobody listens: everything stays in the spool
	r := call(1)
	r.Arguments = fmt.Appendf(nil, `{"token":%q,"text":"use %s and write to %s"}`, secret, secret, mail)
	r.Result = fmt.Appendf(nil, `{"content":[{"type":"text","text":"%s"}]}`, secret)
	r.Event.ErrorMessage = "bad credentials " + secret
	r.Event.Target = "send " + secret
	if err := away.Emit(r); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event is in the spool", func() bool { return away.Stats().Pending == 1 })
	clean := func(where string, text []byte) {
		t.Helper()
		for _, word := range []string{secret, mail} {
			if bytes.Contains(text, []byte(word)) {
				t.Errorf("%q is in %s", word, where)
			}
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := away.Close(gone); err == nil {
		t.Error("closing with an undelivered event says nothing")
	}
	files := 0
	err := filepath.WalkDir(spool, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files++
		clean("the spool", text)
		return err
	})
	if err != nil || files == 0 {
		t.Fatalf("%d files in the spool: %v", files, err)
	}
	s := newService(t)
	e := openEmitter(t, s.address, spool)
	eventually(t, "the event is delivered", func() bool { return e.Stats().Acknowledged == 1 })
	mustClose(t, e)
	rows, err := s.store.Query(t.Context(), store.Limits{}, "SELECT formatRow('JSONEachRow', *) FROM events")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	seen := 0
	for ; rows.Next(); seen++ {
		var row string
		if err := rows.Scan(&row); err != nil {
			t.Fatal(err)
		}
		clean("the store", []byte(row))
		if !strings.Contains(row, "secret:") {
			t.Errorf("no signal says that there was a secret: %s", row)
		}
	}
	if seen != 1 {
		t.Errorf("%d events are stored", seen)
	}
}

// Promise 8: the service is away, and emitting goes on.
func TestPromise8TheServiceMayBeAway(t *testing.T) {
	s := newService(t)
	s.stop()
	e := openEmitter(t, s.address, t.TempDir())
	for n := range 500 {
		if err := e.Emit(call(n)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are in the spool", func() bool { return e.Stats().Pending == 500 })
	if n := e.Stats().Acknowledged; n != 0 {
		t.Fatalf("%d events are acknowledged by a service that is away", n)
	}
	s.start()
	eventually(t, "all are delivered", func() bool { return e.Stats().Acknowledged == 500 })
	mustClose(t, e)
	s.wantDense(e.ID(), 500)
}

func TestAServiceThatRestartsGetsEverythingOnce(t *testing.T) {
	s := newService(t)
	e := openEmitter(t, s.address, t.TempDir())
	for round := range 4 {
		emitAll(t, e, 500*round, 500*(round+1))
		s.stop()
		s.start()
	}
	mustClose(t, e)
	s.wantDense(e.ID(), 2000)
}

func TestALostAnswerStoresNothingTwice(t *testing.T) {
	s := newService(t)
	e := openEmitter(t, s.address, t.TempDir())
	for round := range 3 {
		s.lose.Store(true)
		emitAll(t, e, 100*round, 100*(round+1))
		eventually(t, "an answer is lost and the rest delivered", func() bool { return !s.lose.Load() && e.Stats().Pending == 0 })
	}
	mustClose(t, e)
	s.wantDense(e.ID(), 300)
}

func TestARefusedEventHoldsUpNothing(t *testing.T) {
	s := newService(t)
	e := openEmitter(t, s.address, t.TempDir())
	bad := call(0)
	bad.Event.OccurredAt = -1 // before 1970: the service refuses it
	for _, r := range []emit.Record{call(1), bad, call(2)} {
		if err := e.Emit(r); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, e)
	if st := e.Stats(); st.Rejected != 1 {
		t.Errorf("%+v", st)
	}
	if seqs, _, _ := s.stored(e.ID()); fmt.Sprint(seqs) != "[1 3]" {
		t.Errorf("stored: %v", seqs)
	}
}

// Promise 5: what the spool could not take is counted, and the loss is an event.
func TestPromise5ALossIsAnEvent(t *testing.T) {
	s := newService(t)
	s.stop()
	e := openEmitter(t, s.address, t.TempDir(), func(c *emit.Config) { c.SpoolLimit = 20_000 })
	for n := range 200 {
		if err := e.Send(t.Context(), call(n)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the spool is full", func() bool { return e.Stats().Lost > 0 && e.Stats().Lost+e.Stats().Pending >= 200 })
	if e.Accepting() {
		t.Error("an emitter whose spool is full says that it takes events")
	}
	s.start()
	eventually(t, "what was kept is delivered", func() bool { return e.Stats().Pending == 0 })
	lost := e.Stats().Lost
	emitAll(t, e, 1000, 1001)
	mustClose(t, e)
	seqs, methods, _ := s.stored(e.ID())
	s.wantDense(e.ID(), len(seqs))
	reported := 0
	for _, m := range methods {
		if m == "mcpaudit/lost" {
			reported++
		}
	}
	if reported != 1 || len(seqs) != 200-int(lost)+2 {
		t.Errorf("%d events are stored, %d were lost, %d say so", len(seqs), lost, reported)
	}
}

func TestEmitNeverWaits(t *testing.T) {
	// A clock that stands still holds the worker up in the middle of its work.
	hold := make(chan struct{})
	e := openEmitter(t, "127.0.0.1:1", t.TempDir(), func(c *emit.Config) {
		c.Queue = 4
		c.Now = func() time.Time { <-hold; return time.Now() }
	})
	refused := 0
	for n := range 2000 { // the worker holds 500 at the most, the queue 4
		if e.Emit(call(n)) != nil {
			refused++
		}
	}
	if refused < 1400 || e.Stats().Lost != uint64(refused) {
		t.Errorf("%d were refused, %d counted", refused, e.Stats().Lost)
	}
	close(hold)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	e.Close(gone)
	if e.Emit(call(0)) == nil || e.Send(t.Context(), call(0)) == nil {
		t.Error("a closed emitter takes events")
	}
}

// A process of the same name that runs at the same time has a spool and an id of
// its own; what one that was killed left is delivered by any other.
func TestWhatAnotherProcessLeftIsDelivered(t *testing.T) {
	s := newService(t)
	address := s.address
	s.stop()
	spool := t.TempDir()
	first := openEmitter(t, address, spool)
	second := openEmitter(t, address, spool)
	if first.ID() == second.ID() {
		t.Fatal("two processes emit under one id")
	}
	emitAll(t, second, 0, 10)
	eventually(t, "the second has spooled", func() bool { return second.Stats().Pending == 10 })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	first.Close(gone)
	if err := second.Close(gone); err == nil || !strings.Contains(err.Error(), "10 audit events are not delivered yet") {
		t.Errorf("closing says %v", err)
	}
	s.start()
	next := openEmitter(t, address, spool) // takes the first's spool
	defer mustClose(t, next)
	if next.ID() != first.ID() {
		t.Errorf("the free spool is not taken again")
	}
	eventually(t, "the second's events are stored", func() bool { seqs, _, _ := s.stored(second.ID()); return len(seqs) == 10 })
	s.wantDense(second.ID(), 10)
}

// kill -9 of the MCP server, again and again, loses nothing that was in the
// spool and gives no number twice.
func TestKilledEmittersLoseNothingThatWasSpooled(t *testing.T) {
	if spool := os.Getenv("EMIT_TEST_SPOOL"); spool != "" {
		emitUntilKilled(t, spool)
		return
	}
	s := newService(t)
	s.stop()
	spool := t.TempDir()
	spooled := map[string]uint64{} // by emitter, what was said to be in the spool
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "EMIT_TEST_SPOOL="+spool)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 20 && lines.Scan(); n++ {
			var said struct {
				ID      string
				Pending uint64
			}
			if json.Unmarshal(lines.Bytes(), &said) == nil && said.ID != "" {
				spooled[said.ID] = max(spooled[said.ID], said.Pending)
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	s.start()
	e := openEmitter(t, s.address, spool)
	for id, n := range spooled {
		eventually(t, "everything that was spooled is stored", func() bool {
			seqs, _, _ := s.stored(id)
			return uint64(len(seqs)) >= n
		})
	}
	mustClose(t, e)
	for id := range spooled {
		seqs, _, _ := s.stored(id)
		s.wantDense(id, len(seqs))
	}
	if len(spooled) == 0 {
		t.Fatal("no process emitted anything")
	}
}

// emitUntilKilled is the process that is killed: it says how many events of its
// emitter are in the spool.
func emitUntilKilled(t *testing.T, spool string) {
	e := openEmitter(t, "127.0.0.1:1", spool)
	for n := 0; ; n++ {
		if err := e.Send(t.Context(), call(n)); err != nil {
			t.Fatal(err)
		}
		if n%50 == 0 {
			fmt.Printf("{\"ID\":%q,\"Pending\":%d}\n", e.ID(), e.Stats().Pending)
		}
	}
}
