package emit_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/anchor"
	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/verify"
)

// oneLog is a log that can be tampered with.
type oneLog struct {
	key    *ledger.Key
	leaves []ledger.Hash
}

func (l *oneLog) checkpoint(t *testing.T) string {
	c, err := ledger.Checkpoint{LogID: l.key.LogID(), Size: uint64(len(l.leaves)), Root: ledger.Root(l.leaves)}.Sign(l.key)
	if err != nil {
		t.Error(err)
	}
	return c
}

func (l *oneLog) prove(from, to uint64) ([][]byte, error) {
	hashes, err := ledger.ProveConsistency(from, to, ledger.NodesOf(l.leaves[:min(to, uint64(len(l.leaves)))]))
	var out [][]byte
	for _, h := range hashes {
		out = append(out, h[:])
	}
	return out, err
}

// ledgerService stores nothing and keeps real trees: each batch is an entry of the
// log that writes. Its hooks change what it answers; all is guarded by mu.
type ledgerService struct {
	pb.UnimplementedIngestServiceServer
	pb.UnimplementedLedgerServiceServer
	t       *testing.T
	Address string

	mu        sync.Mutex
	logs      map[string]*oneLog
	writing   string
	rotations []string
	events    []*pb.Event
	asked     int // for proofs
	receipt   func(*pb.Receipt)
	list      func(*pb.ListLogsResponse) error
	proof     func(*pb.GetConsistencyProofResponse) error
}

func newLedgerService(t *testing.T) *ledgerService {
	t.Helper()
	s := &ledgerService{t: t, logs: map[string]*oneLog{}}
	s.startLog("first")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Address = l.Addr().String()
	server := grpc.NewServer()
	pb.RegisterIngestServiceServer(server, s)
	pb.RegisterLedgerServiceServer(server, s)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return s
}

func newKey(t *testing.T, log string) *ledger.Key {
	t.Helper()
	k, _, err := ledger.NewKey(rand.Reader, log)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// startLog has a new log written from now on.
func (s *ledgerService) startLog(id string) *oneLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[id], s.writing = &oneLog{key: newKey(s.t, id)}, id
	return s.logs[id]
}

// change changes the log that is written.
func (s *ledgerService) change(how func(l *oneLog)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	how(s.logs[s.writing])
}

func (s *ledgerService) PublishBatch(_ context.Context, req *pb.PublishBatchRequest) (*pb.PublishBatchResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[s.writing]
	s.events = append(s.events, req.GetEvents()...)
	l.leaves = append(l.leaves, ledger.Leaf([]byte(req.GetEvents()[0].GetEventId())))
	r := &pb.Receipt{Stored: uint32(len(req.GetEvents())), Checkpoint: l.checkpoint(s.t)}
	if k := req.GetKnown(); k.GetLogId() == s.writing && k.GetSize() < uint64(len(l.leaves)) {
		var err error
		if r.Consistency, err = l.prove(k.GetSize(), uint64(len(l.leaves))); err != nil {
			s.t.Error(err)
		}
	}
	if s.receipt != nil {
		s.receipt(r)
	}
	return &pb.PublishBatchResponse{Receipt: r}, nil
}

func (s *ledgerService) ListLogs(context.Context, *pb.ListLogsRequest) (*pb.ListLogsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &pb.ListLogsResponse{}
	for id, l := range s.logs {
		resp.Logs = append(resp.Logs, &pb.Log{LogId: id, Size: uint64(len(l.leaves)), VerifierKey: l.key.Verifier(), Rotations: s.rotations})
	}
	if s.list != nil {
		return resp, s.list(resp)
	}
	return resp, nil
}

func (s *ledgerService) GetConsistencyProof(_ context.Context, req *pb.GetConsistencyProofRequest) (*pb.GetConsistencyProofResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	l := s.logs[req.GetLogId()]
	if l == nil {
		return nil, status.Error(codes.NotFound, "no such log")
	}
	hashes, err := l.prove(req.GetFromSize(), req.GetToSize())
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	resp := &pb.GetConsistencyProofResponse{Hashes: hashes}
	if s.proof != nil {
		return resp, s.proof(resp)
	}
	return resp, nil
}

// lockedLog is a log that is read while it is written.
type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// watched is an emitter with its log and its first spool folder.
type watched struct {
	*emit.Emitter
	log  *lockedLog
	slot string
	sent int
}

func watch(t *testing.T, address, spool string, change ...func(*emit.Config)) *watched {
	t.Helper()
	cfg := emit.Config{Address: address, Name: "files", Spool: spool, Linger: time.Millisecond}
	for _, c := range change {
		c(&cfg)
	}
	log := &lockedLog{}
	e, err := emit.Open(cfg, redactor(t), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return &watched{e, log, filepath.Join(spool, "files", "0"), 0}
}

// batch has one event acknowledged.
func (w *watched) batch(t *testing.T) {
	t.Helper()
	before := w.Stats().Acknowledged
	emitAll(t, w.Emitter, w.sent, w.sent+1)
	w.sent++
	rpctest.Eventually(t, "the event is acknowledged", func() bool { st := w.Stats(); return st.Acknowledged > before && st.Pending == 0 })
}

func (w *watched) receipts(t *testing.T) []string {
	t.Helper()
	return list(t, filepath.Join(w.slot, "receipts.txt"))
}

func list(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := anchor.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func evidence(t *testing.T, slot string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(slot, "contradiction-*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// alarms are the events that the service has of contradictions.
func (s *ledgerService) alarms() (out []*pb.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.GetMethod() == "mcpaudit/receipt" {
			out = append(out, e)
		}
	}
	return out
}

func TestTheNewestReceiptIsKept(t *testing.T) {
	s := newLedgerService(t)
	spool := t.TempDir()
	w := watch(t, s.Address, spool)
	for range 5 {
		w.batch(t)
	}
	first := s.logs["first"].checkpoint(t)
	rpctest.Eventually(t, "the receipt is on disk while the emitter is idle", func() bool {
		text, _ := os.ReadFile(filepath.Join(w.slot, "receipts.txt"))
		return strings.Contains(string(text), first)
	})
	mustClose(t, w.Emitter)
	again := watch(t, s.Address, spool)
	again.batch(t)
	mustClose(t, again.Emitter)
	if got, want := again.receipts(t), []string{s.logs["first"].checkpoint(t)}; !slices.Equal(got, want) {
		t.Errorf("%q are kept, want %q", got, want)
	}
	if text, _ := os.ReadFile(filepath.Join(w.slot, "receipts.txt")); !strings.Contains(string(text), "\n# key "+s.logs["first"].key.Verifier()+"\n") {
		t.Errorf("the key is not kept: %s", text)
	}
	if w.log.String()+again.log.String() != "" || s.asked != 0 || w.Stats().Contradictions != 0 {
		t.Errorf("%s, asked %d times, %+v", w.log, s.asked, w.Stats())
	}
}

// Each is an honest log of some batches, what is done to it then, and what the
// emitter makes of the next batch.
func TestAContradictionIsFoundAndRecorded(t *testing.T) {
	garble := func(hashes [][]byte) {
		for _, h := range hashes {
			h[7] ^= 1
		}
	}
	for _, c := range []struct {
		name   string
		class  string // "" for none
		config func(s *ledgerService, c *emit.Config)
		do     func(s *ledgerService)
		says   string // in the log
		stays  bool   // the last receipt is the last good one
	}{
		{name: "nothing", do: func(*ledgerService) {}},
		{name: "the log is cut", class: "cut", do: func(s *ledgerService) {
			s.change(func(l *oneLog) { l.leaves = l.leaves[:2] })
		}},
		{name: "the log is cut to one less and goes on", class: "forked", do: func(s *ledgerService) {
			s.change(func(l *oneLog) { l.leaves = l.leaves[:len(l.leaves)-1] })
		}},
		{name: "an entry is changed", class: "rewritten", do: func(s *ledgerService) {
			s.change(func(l *oneLog) { l.leaves[1][0] ^= 1 })
		}},
		{name: "the log is begun anew under its name", class: "cut", do: func(s *ledgerService) {
			s.change(func(l *oneLog) { l.leaves = nil })
		}},
		{name: "another key", class: "other_key", do: func(s *ledgerService) {
			s.change(func(l *oneLog) { l.key = newKey(t, "first") })
		}},
		{name: "another key that was handed over to by a stranger", class: "other_key", do: func(s *ledgerService) {
			s.change(func(l *oneLog) {
				l.key = newKey(t, "first")
				statement, err := newKey(t, "first").Rotate(l.key)
				if err != nil {
					t.Error(err)
				}
				s.rotations = []string{statement}
			})
		}},
		{name: "the key hands over", do: func(s *ledgerService) {
			s.change(func(l *oneLog) {
				for range 2 {
					next := newKey(t, "first")
					statement, err := l.key.Rotate(next)
					if err != nil {
						t.Error(err)
					}
					s.rotations, l.key = append(s.rotations, statement), next
				}
			})
		}},
		{name: "a signature is changed", class: "other_key", do: func(s *ledgerService) {
			s.receipt = func(r *pb.Receipt) { r.Checkpoint = strings.Replace(r.GetCheckpoint(), "\n", "\n1", 1) }
		}},
		{name: "all proofs are wrong", class: "rewritten", do: func(s *ledgerService) {
			s.receipt = func(r *pb.Receipt) { garble(r.GetConsistency()) }
			s.proof = func(r *pb.GetConsistencyProofResponse) error { garble(r.GetHashes()); return nil }
		}},
		{name: "the receipt's proof is wrong", says: "proof was wrong", do: func(s *ledgerService) {
			s.receipt = func(r *pb.Receipt) { garble(r.GetConsistency()) }
		}},
		{name: "the receipt's proof is of odd bytes", says: "proof was wrong", do: func(s *ledgerService) {
			s.receipt = func(r *pb.Receipt) { r.Consistency = append(r.GetConsistency(), []byte("odd")) }
		}},
		{name: "the proof is missing", do: func(s *ledgerService) {
			s.receipt = func(r *pb.Receipt) { r.Consistency = nil }
		}},
		{name: "the proof is missing and refused", class: "rewritten", do: func(s *ledgerService) {
			s.receipt = func(r *pb.Receipt) { r.Consistency = nil }
			s.proof = func(*pb.GetConsistencyProofResponse) error {
				return status.Error(codes.NotFound, "the log has no such size")
			}
		}},
		{name: "the proof is missing and nobody answers", says: "can't be checked now", stays: true, do: func(s *ledgerService) {
			s.receipt = func(r *pb.Receipt) { r.Consistency = nil }
			s.proof = func(*pb.GetConsistencyProofResponse) error { return status.Error(codes.Unavailable, "later") }
		}},
		{name: "no checkpoint", class: "unreadable", do: func(s *ledgerService) {
			s.receipt = func(r *pb.Receipt) { r.Checkpoint = "trust me\n\x00\n" }
		}},
		{name: "no receipt any more", says: "gives no receipts any more", stays: true, do: func(s *ledgerService) {
			s.receipt = func(r *pb.Receipt) { r.Checkpoint, r.Consistency = "", nil }
		}},
		{name: "another log instead", class: "gone", do: func(s *ledgerService) {
			s.startLog("second")
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.logs, "first")
		}},
		{name: "another log beside", do: func(s *ledgerService) { s.startLog("second") }},
		{name: "another log beside one that was cut", class: "cut", do: func(s *ledgerService) {
			s.change(func(l *oneLog) { l.leaves = l.leaves[:1] })
			s.startLog("second")
		}},
		{name: "another log that is not listed", class: "other_log", do: func(s *ledgerService) {
			s.startLog("second")
			s.list = func(r *pb.ListLogsResponse) error {
				r.Logs = slices.DeleteFunc(r.GetLogs(), func(l *pb.Log) bool { return l.GetLogId() == "second" })
				return nil
			}
		}},
		{name: "another log beside, and a key of the first", class: "other_log",
			config: func(s *ledgerService, c *emit.Config) { c.ServiceKey = s.logs["first"].key.Verifier() },
			do:     func(s *ledgerService) { s.startLog("second") }},
		{name: "the configured key", config: func(s *ledgerService, c *emit.Config) {
			c.ServiceKey = s.logs["first"].key.Verifier()
			s.list = func(*pb.ListLogsResponse) error { return status.Error(codes.Unimplemented, "not needed") }
		}, do: func(*ledgerService) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newLedgerService(t)
			w := watch(t, s.Address, t.TempDir(), func(cfg *emit.Config) {
				if c.config != nil {
					c.config(s, cfg)
				}
			})
			for range 5 {
				w.batch(t)
			}
			good := s.logs["first"].checkpoint(t)
			c.do(s)
			w.batch(t)
			w.batch(t) // says nothing new
			mustClose(t, w.Emitter)
			if !strings.Contains(w.log.String(), c.says) || c.says == "" && c.class == "" && w.log.String() != "" {
				t.Errorf("the log says %s", w.log)
			}
			if n := strings.Count(w.log.String(), "gives no receipts") + strings.Count(w.log.String(), "checked now"); n > 1 {
				t.Errorf("it is said %d times", n)
			}
			kept := w.receipts(t)
			if c.class != "" {
				if !slices.Contains(kept, good) {
					t.Errorf("the last good receipt is not kept: %q", kept)
				}
				w.wantAlarm(t, s, c.class, good)
				return
			}
			want := good
			if !c.stays {
				want = s.logs[s.writing].checkpoint(t)
			}
			if n := w.Stats().Contradictions; n != 0 || len(evidence(t, w.slot))+len(s.alarms()) > 0 || !slices.Contains(kept, want) {
				t.Errorf("%d contradictions, %q, %q; %q are kept", n, evidence(t, w.slot), s.alarms(), kept)
			}
		})
	}
}

// wantAlarm wants one contradiction of a class, in the log, in a file and as an
// event, with the checkpoint that it contradicts.
func (w *watched) wantAlarm(t *testing.T, s *ledgerService, class, kept string) {
	t.Helper()
	files, alarms, said := evidence(t, w.slot), s.alarms(), strings.Count(w.log.String(), "level=ERROR msg=\"THE AUDIT LOG CAN'T BE TRUSTED")
	if len(files) != 1 || len(alarms) != 1 || said != 1 || w.Stats().Contradictions != 1 {
		t.Fatalf("%d files, %d events, said %d times, %+v: %s", len(files), len(alarms), said, w.Stats(), w.log)
	}
	e := alarms[0]
	labels := e.GetLabels()
	if e.GetKind() != "finding" || e.GetOutcome() != "protocol_error" || e.GetServer() != "files" ||
		labels["contradiction"] != class || labels["evidence"] != filepath.Base(files[0]) {
		t.Errorf("the event is %v", e)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	words, _, _ := strings.Cut(e.GetErrorMessage(), ";")
	if !strings.Contains(string(text), words) || !strings.Contains(w.log.String(), strings.ReplaceAll(words, `"`, `\"`)) {
		t.Errorf("the event says %q, the log %s, the file %s", words, w.log, text)
	}
	if class == "other_log" || class == "unreadable" && labels["kept_size"] == "" { // contradict no checkpoint
		return
	}
	c, err := ledger.PeekCheckpoint(kept)
	if err != nil {
		t.Fatal(err)
	}
	if labels["kept_root"] != c.Root.String() || labels["kept_size"] != strconv.FormatUint(c.Size, 10) || !strings.Contains(e.GetErrorMessage(), c.Root.String()) {
		t.Errorf("the checkpoint that is contradicted is not in the event: %v", e)
	}
	if got := list(t, files[0]); !slices.Contains(got, kept) {
		t.Errorf("the checkpoint that is contradicted is not in the file: %s", text)
	}
}

// An outage of what proves is no contradiction, and is made good later.
func TestWhatCouldNotBeCheckedIsCheckedLater(t *testing.T) {
	s := newLedgerService(t)
	s.list = func(*pb.ListLogsResponse) error { return status.Error(codes.Unavailable, "later") }
	w := watch(t, s.Address, t.TempDir())
	w.batch(t)
	s.mu.Lock()
	s.list = nil
	s.mu.Unlock()
	rpctest.Eventually(t, "the log's key is learned", func() bool {
		w.batch(t)
		text, _ := os.ReadFile(filepath.Join(w.slot, "receipts.txt"))
		return strings.Contains(string(text), "mcpaudit/first\n")
	})
	s.change(func(l *oneLog) { l.leaves = l.leaves[:1] })
	w.batch(t)
	mustClose(t, w.Emitter)
	if len(s.alarms()) != 1 {
		t.Errorf("%d alarms: %s", len(s.alarms()), w.log)
	}
}

// A process that starts again knows what was seen, and what was found.
func TestAContradictionIsFoundAcrossRestartsAndTakenDownOnce(t *testing.T) {
	s := newLedgerService(t)
	spool := t.TempDir()
	for round := range 3 {
		w := watch(t, s.Address, spool)
		for range 3 - round { // fewer than before, so that a cut log stays behind
			w.batch(t)
		}
		mustClose(t, w.Emitter)
		if round == 0 {
			s.change(func(l *oneLog) { l.leaves = nil })
			continue
		}
		if said := strings.Count(w.log.String(), "CAN'T BE TRUSTED"); said != 1 || w.Stats().Contradictions != 1 {
			t.Errorf("round %d: said %d times: %s", round, said, w.log)
		}
		if n := len(evidence(t, w.slot)); n != 1 || len(s.alarms()) != 1 {
			t.Errorf("round %d: %d files, %d events", round, n, len(s.alarms()))
		}
	}
}

// A configured key stays the one that trust begins with: whoever has it in a
// configuration need not change that when the service's key hands over.
func TestAConfiguredKeyLeadsToThoseThatItHandedOverTo(t *testing.T) {
	s := newLedgerService(t)
	spool, key := t.TempDir(), s.logs["first"].key.Verifier()
	for range 3 {
		w := watch(t, s.Address, spool, func(c *emit.Config) { c.ServiceKey = key })
		w.batch(t)
		s.change(func(l *oneLog) {
			next := newKey(t, "first")
			statement, err := l.key.Rotate(next)
			if err != nil {
				t.Error(err)
			}
			s.rotations, l.key = append(s.rotations, statement), next
		})
		w.batch(t)
		mustClose(t, w.Emitter)
		if w.log.String() != "" || w.Stats().Contradictions != 0 {
			t.Errorf("%+v: %s", w.Stats(), w.log)
		}
	}
	stranger := newKey(t, "first").Verifier()
	w := watch(t, s.Address, spool, func(c *emit.Config) { c.ServiceKey = stranger })
	w.batch(t)
	mustClose(t, w.Emitter)
	if alarms := s.alarms(); len(alarms) != 1 || alarms[0].GetLabels()["contradiction"] != "other_key" {
		t.Errorf("%v: %s", alarms, w.log)
	}
}

// What the last answer shows before the end is an event too.
func TestAContradictionAtTheEndIsRecorded(t *testing.T) {
	s := newLedgerService(t)
	w := watch(t, s.Address, t.TempDir())
	w.batch(t)
	w.batch(t)
	good := s.logs["first"].checkpoint(t)
	s.change(func(l *oneLog) { l.leaves = nil })
	release := make(chan struct{})
	s.receipt = func(*pb.Receipt) { <-release } // the answer comes when the emitter is closing
	emitAll(t, w.Emitter, 10, 11)
	time.AfterFunc(100*time.Millisecond, func() { close(release) })
	mustClose(t, w.Emitter)
	w.wantAlarm(t, s, "cut", good)
}

// The receipts of a process that was killed are a witness for what delivers its
// spool, and for a new process beside it.
func TestReceiptsOfOtherSpoolsAreUsed(t *testing.T) {
	s := newLedgerService(t)
	spool := t.TempDir()
	first, second := watch(t, s.Address, spool), watch(t, s.Address, spool)
	first.batch(t)
	second.batch(t)
	mustClose(t, second.Emitter)
	mustClose(t, first.Emitter)
	if err := os.RemoveAll(first.slot); err != nil { // so that the second's is what there is
		t.Fatal(err)
	}
	if err := os.MkdirAll(first.slot, 0o700); err != nil {
		t.Fatal(err)
	}
	s.startLog("other")
	s.mu.Lock()
	delete(s.logs, "first")
	s.mu.Unlock()
	w := watch(t, s.Address, spool)
	w.batch(t)
	mustClose(t, w.Emitter)
	if alarms := s.alarms(); len(alarms) != 1 || !strings.Contains(alarms[0].GetErrorMessage(), "gone") {
		t.Errorf("%v: %s", alarms, w.log)
	}
}

// Another service is not the one that was there before; the same log is, at any
// address.
func TestAnotherServiceIsNotHeldToTheLogsOfTheFirst(t *testing.T) {
	one, other := newLedgerService(t), newLedgerService(t)
	other.startLog("second")
	delete(other.logs, "first")
	spool := t.TempDir()
	w := watch(t, one.Address, spool)
	for range 3 {
		w.batch(t)
	}
	mustClose(t, w.Emitter)
	w = watch(t, other.Address, spool)
	w.batch(t)
	mustClose(t, w.Emitter)
	if n := len(other.alarms()); n != 0 || len(w.receipts(t)) != 2 {
		t.Errorf("%d alarms, %q: %s", n, w.receipts(t), w.log)
	}
	moved := newLedgerService(t)
	moved.logs["first"] = &oneLog{key: one.logs["first"].key}
	w = watch(t, moved.Address, spool)
	w.batch(t)
	mustClose(t, w.Emitter)
	if len(moved.alarms()) != 1 {
		t.Errorf("the log was cut on its way, and nobody says so: %s", w.log)
	}
}

func TestDamagedReceiptsAreSaidAndKept(t *testing.T) {
	s := newLedgerService(t)
	spool := t.TempDir()
	w := watch(t, s.Address, spool)
	w.batch(t)
	mustClose(t, w.Emitter)
	path := filepath.Join(w.slot, "receipts.txt")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kept := w.receipts(t)
	for i := range text {
		damaged := slices.Clone(text)
		damaged[i] ^= 1
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		w := watch(t, "127.0.0.1:1", spool) // nothing is sent
		mustClose(t, w.Emitter)
		if !strings.Contains(w.log.String(), "damaged") {
			if got := w.receipts(t); !slices.Equal(got, kept) {
				t.Fatalf("byte %d: %q are kept, and nothing is said", i, got)
			}
			continue
		}
		if aside, err := os.ReadFile(path + ".damaged"); err != nil || !bytes.Equal(aside, damaged) {
			t.Fatalf("byte %d: what is damaged is not kept: %v", i, err)
		}
	}
}

func TestAServiceKeyThatIsNoneIsRefused(t *testing.T) {
	key := newKey(t, "a").Verifier()
	for text, good := range map[string]bool{"": true, key: true, key + ", " + newKey(t, "b").Verifier() + "\n": true, "key": false, key + ",x": false} {
		if err := emit.CheckServiceKey(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
		e, err := emit.Open(emit.Config{Address: "127.0.0.1:1", Name: "n", Spool: t.TempDir(), ServiceKey: text}, redactor(t), nil)
		if (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
		if err == nil {
			mustClose(t, e)
		}
	}
}

// The real service's receipts are good ones, over restarts too.
func TestTheServicesOwnReceiptsAreGood(t *testing.T) {
	s := rpctest.New(t)
	spool := t.TempDir()
	w := watch(t, s.Address, spool, func(c *emit.Config) { c.ServiceKey = s.Key.Verifier() })
	for range 10 {
		w.batch(t)
	}
	s.Stop()
	s.Start()
	emitAll(t, w.Emitter, 10, 500)
	mustClose(t, w.Emitter)
	got := w.receipts(t)
	if w.Stats().Contradictions != 0 || len(got) != 1 || w.log.String() != "" {
		t.Fatalf("%+v, %q: %s", w.Stats(), got, w.log)
	}
	if c, err := ledger.PeekCheckpoint(got[0]); err != nil || c.Size < 11 { // ten batches, and those after the restart
		t.Errorf("the receipt that is kept is of %d entries: %v", c.Size, err)
	}
}

// Without a key the emitter trusts the first one that the service names, and from
// then on no other: a store that was set back, as a backup does it, is a
// contradiction, and the event that says so is in the log.
func TestAServiceWhoseStoreWasSetBackIsContradicted(t *testing.T) {
	s := rpctest.New(t)
	s.Stop()
	s.More = func(g *grpc.Server) {
		pb.RegisterLedgerServiceServer(g, verify.New(s.Store, s.Key.LogID(), slog.New(slog.DiscardHandler)))
	}
	s.Start()
	w := watch(t, s.Address, t.TempDir())
	for range 4 {
		w.batch(t)
	}
	if w.Stats().Contradictions != 0 || len(w.receipts(t)) != 1 {
		t.Fatalf("%+v, %q: %s", w.Stats(), w.receipts(t), w.log)
	}
	s.Stop()
	storetest.Exec(t, s.Store, "ALTER TABLE ledger DELETE WHERE batch > 2")
	storetest.Exec(t, s.Store, "ALTER TABLE events DELETE WHERE batch > 2")
	s.Start()
	w.batch(t)
	rpctest.Eventually(t, "the contradiction is in the log", func() bool {
		for _, e := range s.Events() {
			if e.Kind == "finding" && e.Method == "mcpaudit/receipt" {
				return true
			}
		}
		return false
	})
	mustClose(t, w.Emitter)
	if w.Stats().Contradictions != 1 {
		t.Errorf("%+v: %s", w.Stats(), w.log)
	}
}
