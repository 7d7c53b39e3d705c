package emit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	"github.com/mcpaudit/mcpaudit/ingest/store"
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

func emitAll(t *testing.T, e *emit.Emitter, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := e.Send(t.Context(), call(n)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryEventArrivesOnceAndInOrder(t *testing.T) {
	s := rpctest.New(t)
	e := openEmitter(t, s.Address, t.TempDir())
	emitAll(t, e, 0, 3000)
	mustClose(t, e)
	s.WantDense(e.ID(), 3000)
	_, _, arguments := s.Stored(e.ID())
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
	rpctest.Eventually(t, "the event is in the spool", func() bool { return away.Stats().Pending == 1 })
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
	s := rpctest.New(t)
	e := openEmitter(t, s.Address, spool)
	rpctest.Eventually(t, "the event is delivered", func() bool { return e.Stats().Acknowledged == 1 })
	mustClose(t, e)
	rows, err := s.Store.Query(t.Context(), store.Limits{}, "SELECT formatRow('JSONEachRow', *) FROM events")
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
	s := rpctest.New(t)
	s.Stop()
	e := openEmitter(t, s.Address, t.TempDir())
	for n := range 500 {
		if err := e.Emit(call(n)); err != nil {
			t.Fatal(err)
		}
	}
	rpctest.Eventually(t, "all are in the spool", func() bool { return e.Stats().Pending == 500 })
	if n := e.Stats().Acknowledged; n != 0 {
		t.Fatalf("%d events are acknowledged by a service that is away", n)
	}
	s.Start()
	rpctest.Eventually(t, "all are delivered", func() bool { return e.Stats().Acknowledged == 500 })
	mustClose(t, e)
	s.WantDense(e.ID(), 500)
}

func TestAServiceThatRestartsGetsEverythingOnce(t *testing.T) {
	s := rpctest.New(t)
	e := openEmitter(t, s.Address, t.TempDir())
	for round := range 4 {
		emitAll(t, e, 500*round, 500*(round+1))
		s.Stop()
		s.Start()
	}
	mustClose(t, e)
	s.WantDense(e.ID(), 2000)
}

func TestALostAnswerStoresNothingTwice(t *testing.T) {
	s := rpctest.New(t)
	e := openEmitter(t, s.Address, t.TempDir())
	for round := range 3 {
		s.Lose.Store(true)
		emitAll(t, e, 100*round, 100*(round+1))
		rpctest.Eventually(t, "an answer is lost and the rest delivered", func() bool { return !s.Lose.Load() && e.Stats().Pending == 0 })
	}
	mustClose(t, e)
	s.WantDense(e.ID(), 300)
}

// What the service would refuse never leaves, and says so; what is beside it does.
func TestAnImpossibleEventHoldsUpNothing(t *testing.T) {
	s := rpctest.New(t)
	e := openEmitter(t, s.Address, t.TempDir())
	bad := call(0)
	bad.Event.Kind = "no such kind"
	noClock := call(3)
	noClock.Event.OccurredAt = 12
	for _, r := range []emit.Record{call(1), bad, call(2), noClock} {
		if err := e.Emit(r); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, e)
	if st := e.Stats(); st.Lost != 1 || st.Rejected != 0 || st.Pending != 0 {
		t.Errorf("%+v", st)
	}
	s.WantDense(e.ID(), 4)
	var said []string
	for _, stored := range s.Events() {
		for _, l := range stored.Labels {
			said = append(said, l.Key+" "+l.Value)
		}
	}
	if fmt.Sprint(said) != "[clock not set: 1970-01-01T00:00:00Z lost 1]" {
		t.Errorf("%q", said)
	}
}

// Promise 5: what the spool could not take is counted, and the loss is an event.
func TestPromise5ALossIsAnEvent(t *testing.T) {
	s := rpctest.New(t)
	s.Stop()
	e := openEmitter(t, s.Address, t.TempDir(), func(c *emit.Config) { c.SpoolLimit = 20_000 })
	sent := 0
	rpctest.Eventually(t, "the spool takes nothing more", func() bool {
		if err := e.Send(t.Context(), call(sent)); err != nil {
			t.Fatal(err)
		}
		sent++
		return e.Stats().Lost > 0 && e.Failing()
	})
	s.Start()
	rpctest.Eventually(t, "what was kept is delivered", func() bool { return e.Stats().Pending == 0 })
	emitAll(t, e, 1000, 1001)
	mustClose(t, e)
	calls, lost := told(t, s)
	if calls+lost != sent+1 || lost == 0 {
		t.Errorf("%d calls are stored and %d said to be lost, of %d", calls, lost, sent+1)
	}
	if seqs, _, _ := s.Stored(e.ID()); len(seqs) > 0 {
		s.WantDense(e.ID(), len(seqs))
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
	s := rpctest.New(t)
	address := s.Address
	s.Stop()
	spool := t.TempDir()
	first := openEmitter(t, address, spool)
	second := openEmitter(t, address, spool)
	if first.ID() == second.ID() {
		t.Fatal("two processes emit under one id")
	}
	emitAll(t, second, 0, 10)
	rpctest.Eventually(t, "the second has spooled", func() bool { return second.Stats().Pending == 10 })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	first.Close(gone)
	if err := second.Close(gone); err == nil || !strings.Contains(err.Error(), "10 audit events are not delivered yet") {
		t.Errorf("closing says %v", err)
	}
	s.Start()
	next := openEmitter(t, address, spool) // takes the first's spool
	defer mustClose(t, next)
	if next.ID() != first.ID() {
		t.Errorf("the free spool is not taken again")
	}
	rpctest.Eventually(t, "the second's events are stored", func() bool { seqs, _, _ := s.Stored(second.ID()); return len(seqs) == 10 })
	s.WantDense(second.ID(), 10)
}

// kill -9 of the MCP server, again and again, loses nothing that was in the
// spool and gives no number twice.
func TestKilledEmittersLoseNothingThatWasSpooled(t *testing.T) {
	if spool := os.Getenv("EMIT_TEST_SPOOL"); spool != "" {
		emitUntilKilled(t, spool)
		return
	}
	s := rpctest.New(t)
	s.Stop()
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
	s.Start()
	e := openEmitter(t, s.Address, spool)
	for id, n := range spooled {
		rpctest.Eventually(t, "everything that was spooled is stored", func() bool {
			seqs, _, _ := s.Stored(id)
			return uint64(len(seqs)) >= n
		})
	}
	mustClose(t, e)
	for id := range spooled {
		seqs, _, _ := s.Stored(id)
		s.WantDense(id, len(seqs))
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

// Promise 5, at the end: what was lost when the process ends is told by the next
// one, also when the spool is full.
func TestPromise5ALossAtTheEndIsTold(t *testing.T) {
	s := rpctest.New(t)
	s.Stop()
	spool := t.TempDir()
	small := func(c *emit.Config) { c.SpoolLimit = 20_000 }
	e := openEmitter(t, s.Address, spool, small)
	sent := 0
	rpctest.Eventually(t, "the spool takes nothing more", func() bool {
		if err := e.Send(t.Context(), call(sent)); err != nil {
			t.Fatal(err)
		}
		sent++
		return e.Failing()
	})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Close(gone); err == nil {
		t.Error("closing says that all is delivered")
	}
	s.Start()
	mustClose(t, openEmitter(t, s.Address, spool, small))
	calls, lost := told(t, s)
	if calls+lost != sent || lost == 0 {
		t.Errorf("%d calls are stored and %d said to be lost, of %d", calls, lost, sent)
	}
}

// told counts the stored calls and those that are said to be lost.
func told(t *testing.T, s *rpctest.Service) (calls, lost int) {
	t.Helper()
	for _, stored := range s.Events() {
		if stored.Method != "mcpaudit/lost" {
			calls++
			continue
		}
		n, err := strconv.Atoi(stored.Labels[0].Value)
		if err != nil {
			t.Error(err)
		}
		lost += n
	}
	return calls, lost
}

// segmentFiles are the files of an emitter's first spool.
func segmentFiles(t *testing.T, spool string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(spool, "files", "0", "*.spool"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	return files
}

func TestASpoolThatCannotBeReadForAWhileIsNotGivenUp(t *testing.T) {
	s := rpctest.New(t)
	s.Stop()
	spool := t.TempDir()
	e := openEmitter(t, s.Address, spool)
	emitAll(t, e, 0, 100)
	rpctest.Eventually(t, "all is in the spool", func() bool { return e.Stats().Pending == 100 })
	file := segmentFiles(t, spool)[0]
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	s.Start()
	emitAll(t, e, 100, 101) // wakes the shipper, which finds nothing to open
	rpctest.Eventually(t, "it is in the spool", func() bool { return e.Stats().Pending == 101 })
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	mustClose(t, e)
	s.WantDense(e.ID(), 101)
	if st := e.Stats(); st.Lost != 0 {
		t.Errorf("%+v", st)
	}
}

func TestADamagedSegmentIsPutAsideAndCounted(t *testing.T) {
	s := rpctest.New(t)
	s.Stop()
	spool := t.TempDir()
	small := func(c *emit.Config) { c.SpoolLimit = 200_000 } // so that there are several segments
	e := openEmitter(t, s.Address, spool, small)
	for n := range 300 {
		emitAll(t, e, n, n+1)
		rpctest.Eventually(t, "it is in the spool", func() bool { return e.Stats().Pending == uint64(n+1) })
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_ = e.Close(gone)
	files := segmentFiles(t, spool)
	if len(files) < 2 {
		t.Fatalf("only %v", files)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 0xff
	if err := os.WriteFile(files[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Start()
	mustClose(t, openEmitter(t, s.Address, spool, small))
	calls, lost := told(t, s)
	if calls+lost != 300 || lost == 0 || lost > 250 {
		t.Errorf("%d calls are stored and %d said to be lost, of 300", calls, lost)
	}
	if aside, _ := filepath.Glob(filepath.Join(spool, "files", "0", "*.damaged")); len(aside) != 1 {
		t.Errorf("put aside: %v", aside)
	}
}

func TestATornSpoolThatIsAdoptedSaysSo(t *testing.T) {
	s := rpctest.New(t)
	s.Stop()
	spool := t.TempDir()
	e := openEmitter(t, s.Address, spool)
	emitAll(t, e, 0, 10)
	rpctest.Eventually(t, "all is in the spool", func() bool { return e.Stats().Pending == 10 })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_ = e.Close(gone)
	file := segmentFiles(t, spool)[0]
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, info.Size()-3); err != nil {
		t.Fatal(err)
	}
	slot := filepath.Join(spool, "files")
	if err := os.Rename(filepath.Join(slot, "0"), filepath.Join(slot, "1")); err != nil {
		t.Fatal(err)
	}
	s.Start()
	next := openEmitter(t, s.Address, spool)
	rpctest.Eventually(t, "the whole ones are stored", func() bool { calls, _ := told(t, s); return calls == 9 })
	mustClose(t, next)
	if calls, lost := told(t, s); calls != 9 || lost != 1 {
		t.Errorf("%d stored, %d said to be lost", calls, lost)
	}
}

// A program may shut its emitter down and have a deferred Close as well.
func TestClosingTwiceIsClosingOnce(t *testing.T) {
	s := rpctest.New(t)
	spool := t.TempDir()
	e := openEmitter(t, s.Address, spool)
	emitAll(t, e, 0, 3)
	gone, cancel := context.WithCancel(t.Context())
	mustClose(t, e)
	cancel()
	next := openEmitter(t, s.Address, spool) // the spool is its now
	for range 2 {
		if err := e.Close(gone); err != nil {
			t.Error(err)
		}
	}
	emitAll(t, next, 3, 5)
	mustClose(t, next)
	s.WantDense(next.ID(), 5)
}

// What can't be redacted before the time is up is lost, and said to be.
func TestClosingDoesNotWaitForRedaction(t *testing.T) {
	s := rpctest.New(t)
	spool := t.TempDir()
	e := openEmitter(t, s.Address, spool)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	made := 0
	for range 50 {
		err := e.Send(t.Context(), emit.Record{Make: func() []emit.Record {
			made++
			cancel() // the time is up while the first is made
			<-e.Hurried()
			return []emit.Record{call(made)}
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = e.Close(ctx)
	if st := e.Stats(); made != 1 || st.Lost != 49 {
		t.Errorf("%d were made, %+v", made, st)
	}
	mustClose(t, openEmitter(t, s.Address, spool))
	if calls, lost := told(t, s); calls != 1 || lost != 49 {
		t.Errorf("%d stored, %d said to be lost", calls, lost)
	}
}
