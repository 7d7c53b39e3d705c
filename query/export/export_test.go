package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

var quiet = slog.New(slog.DiscardHandler)

// shelf is a store with a sealed log, and the service on it.
type shelf struct {
	*sealer
	cfg    Config
	client pb.ExportServiceClient
}

// compile knows two filters; the real ones are query's.
func compile(filter string) (string, []any, error) {
	switch filter {
	case "even":
		return "emitter_seq % 2 = {n:UInt64}", []any{store.Named("n", 0)}, nil
	case "rare":
		return "emitter_seq % 97 = {n:UInt64}", []any{store.Named("n", 5)}, nil
	case "none":
		return "emitter_id = {n:String}", []any{store.Named("n", "nobody")}, nil
	}
	return "", nil, errors.New("filter, character 1: there is no such filter")
}

func matches(filter string, e *event.Event) bool {
	switch filter {
	case "even":
		return e.EmitterSeq%2 == 0
	case "rare":
		return e.EmitterSeq%97 == 5
	case "none":
		return false
	}
	return true
}

func newShelf(t testing.TB, change func(*Config)) *shelf {
	t.Helper()
	s := &shelf{sealer: newSealer(t, storetest.Open(t, t.TempDir()), "main")}
	at := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	s.cfg = Config{Version: "1.2.3", Compile: compile, Sign: func(text string) (string, error) { return s.key.SignText(text) }, TokenKey: []byte("a secret of tests"),
		Now: func() time.Time { at = at.Add(time.Second); return at }}
	if change != nil {
		change(&s.cfg)
	}
	s.client = serve(t, New(s.cfg, s.store, quiet))
	return s
}

func serve(t testing.TB, service pb.ExportServiceServer) pb.ExportServiceClient {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(scopetest.Server()...)
	pb.RegisterExportServiceServer(server, service)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop() })
	return pb.NewExportServiceClient(conn)
}

// seals seals batches of random events of these sizes.
func (s *shelf) seals(t testing.TB, r *rand.Rand, sizes ...int) {
	t.Helper()
	for _, n := range sizes {
		var events []*event.Event
		for range n {
			e := event.Random(r)
			e.OccurredAt = 1795000000_000000 + r.Int64N(1e12)
			events = append(events, e)
		}
		s.seal(t, events...)
	}
}

// export reads a whole export.
func (s *shelf) export(t testing.TB, req *pb.ExportEventsRequest) fstest.MapFS {
	t.Helper()
	files, err := collect(s.client, req, fstest.MapFS{}, func(*pb.ExportEventsResponse) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var errCutOff = errors.New("cut off by the test")

// collect adds what an export sends to files until it is finished or more says no.
func collect(c pb.ExportServiceClient, req *pb.ExportEventsRequest, files fstest.MapFS, more func(*pb.ExportEventsResponse) bool) (fstest.MapFS, error) {
	ctx, cancel := context.WithCancel(scopetest.Every(context.Background()))
	defer cancel()
	stream, err := c.ExportEvents(ctx, req)
	if err != nil {
		return nil, err
	}
	finished := false
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if !finished {
				return nil, errors.New("the stream ended without being finished")
			}
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if !more(m) {
			return nil, errCutOff
		}
		if m.GetFile() != "" {
			f := files[m.GetFile()]
			if f == nil {
				f = &fstest.MapFile{Mode: 0o600}
				files[m.GetFile()] = f
			}
			f.Data = append(f.Data, m.GetData()...)
		}
		finished = m.GetFinished()
	}
}

// lines are the JSONL that an export must have, in order.
func (s *shelf) lines(filter string) []byte {
	var b []byte
	for _, e := range s.all {
		if matches(filter, e) {
			b = appendLine(b, e)
		}
	}
	return b
}

func concat(files fstest.MapFS, extension string) []byte {
	var b []byte
	for i := 1; ; i++ {
		f := files[fmt.Sprintf("events-%05d%s", i, extension)]
		if f == nil {
			return b
		}
		b = append(b, f.Data...)
	}
}

func TestABundleHasEverySealedEventAndVerifies(t *testing.T) {
	s := newShelf(t, func(c *Config) { c.PartEvents, c.SpanEvents = 40, 30 })
	r := rand.New(rand.NewPCG(1, 1))
	s.seals(t, r, 1, 20, 33, 7)
	s.entry(t, &ledger.Entry{Kind: ledger.KindHold, Detail: `{"id":"h","owner":"o"}`})
	s.seals(t, r, 70, 1, 2, 64)
	var unsealed []*event.Event
	for range 5 { // in flight: stored, not sealed
		unsealed = append(unsealed, event.Random(r))
	}
	s.put(t, s.tree.Size()+1, unsealed)
	for _, filter := range []string{"", "even", "rare", "none"} {
		files := s.export(t, &pb.ExportEventsRequest{Filter: filter, Bundle: true, RequestedBy: "ann", Reason: "audit \u2028 <1>\x00"})
		if !bytes.Equal(concat(files, ".jsonl"), s.lines(filter)) {
			t.Fatalf("filter %q: the lines are not those of the sealed events", filter)
		}
		report, err := Verify(files, []string{s.key.Verifier()}, nil)
		if err != nil {
			t.Fatalf("filter %q: %v", filter, err)
		}
		if report.OwnKeys || report.SignedBy != "main" || report.Manifest.By != scopetest.Who || len(report.Proven) == 0 {
			t.Errorf("%+v", report)
		}
		t.Log(filter, strings.Join(report.Proven, "; "))
		if filter == "" && (report.Manifest.Entries != 9 || !strings.Contains(report.Proven[0], "every event of batches 1–9 of log \"main\"")) {
			t.Errorf("%+v", report)
		}
	}
}

func TestOneFormatAloneIsOneFile(t *testing.T) {
	s := newShelf(t, func(c *Config) { c.PartEvents = 10 })
	s.seals(t, rand.New(rand.NewPCG(2, 2)), 15, 15, 15)
	files := s.export(t, &pb.ExportEventsRequest{})
	if len(files) != 1 || !bytes.Equal(files["events.jsonl"].Data, s.lines("")) {
		t.Errorf("%d files", len(files))
	}
}

// Wherever an export breaks, what it goes on to is what it would have been.
func TestAnExportThatBreaksAnywhereGoesOnToTheSameBytes(t *testing.T) {
	s := newShelf(t, func(c *Config) { c.PartEvents, c.SpanEvents = 50, 35 })
	r := rand.New(rand.NewPCG(3, 3))
	s.seals(t, r, 5, 19, 30, 1, 12, 8, 25)
	second := &shelf{sealer: newSealer(t, s.store, "second")}
	second.seals(t, r, 9, 31)
	at := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	s.cfg.Now = func() time.Time { return at }
	s.client = serve(t, New(s.cfg, s.store, quiet))
	keys := []string{s.key.Verifier(), second.key.Verifier()}
	for _, req := range []*pb.ExportEventsRequest{
		{Bundle: true, Reason: "r"},
		{Bundle: true, Filter: "even", Formats: []string{"csv"}},
		{Formats: []string{"csv"}},
	} {
		for cut := 0; ; cut++ {
			whole := s.export(t, req)
			var token []byte
			kept, now := fstest.MapFS{}, fstest.MapFS{} // kept are the files as they were when the token came
			n := 0
			_, err := collect(s.client, req, now, func(m *pb.ExportEventsResponse) bool {
				if n == cut {
					return false
				}
				n++
				if t := m.GetResumeToken(); len(t) > 0 {
					token, kept = t, fstest.MapFS{}
					for name, f := range now {
						kept[name] = &fstest.MapFile{Data: bytes.Clone(f.Data), Mode: f.Mode}
					}
				}
				return true
			})
			if err == nil {
				if req.GetBundle() && cut < 8 || cut < 3 {
					t.Errorf("there are only %d messages", cut)
				}
				break
			}
			if !errors.Is(err, errCutOff) {
				t.Fatal(err)
			}
			if token == nil { // it begins anew
				continue
			}
			s.seals(t, r, 1) // the log grows meanwhile
			again, err := collect(s.client, &pb.ExportEventsRequest{ResumeToken: token}, kept, func(*pb.ExportEventsResponse) bool { return true })
			if err != nil {
				t.Fatalf("cut at message %d: %v", cut, err)
			}
			if len(again) != len(whole) {
				t.Fatalf("cut at message %d: %d files, want %d", cut, len(again), len(whole))
			}
			for name, f := range whole {
				if !bytes.Equal(again[name].Data, f.Data) {
					t.Fatalf("cut at message %d: %s is another than that of the export that did not break", cut, name)
				}
			}
			if !req.GetBundle() {
				continue
			}
			if _, err := Verify(again, keys, nil); err != nil {
				t.Fatalf("cut at message %d: %v", cut, err)
			}
		}
	}
}

func TestATokenIsGoodForItsOwnServiceAlone(t *testing.T) {
	s := newShelf(t, func(c *Config) { c.PartEvents = 10 })
	s.seals(t, rand.New(rand.NewPCG(4, 4)), 15, 15)
	var token []byte
	if _, err := collect(s.client, &pb.ExportEventsRequest{Bundle: true}, fstest.MapFS{}, func(m *pb.ExportEventsResponse) bool {
		token = append(token[:0:0], m.GetResumeToken()...)
		return len(token) == 0
	}); !errors.Is(err, errCutOff) || len(token) == 0 {
		t.Fatal(err)
	}
	refused := func(token []byte, want codes.Code) {
		t.Helper()
		_, err := collect(s.client, &pb.ExportEventsRequest{ResumeToken: token}, fstest.MapFS{}, func(*pb.ExportEventsResponse) bool { return true })
		if status.Code(err) != want {
			t.Errorf("%q: %v, want %v", token, err, want)
		}
	}
	refused([]byte("x"), codes.InvalidArgument)
	refused(bytes.Repeat([]byte("x"), 100), codes.InvalidArgument)
	refused(bytes.Replace(token, []byte(`"size":2`), []byte(`"size":1`), 1), codes.FailedPrecondition)
	for i := range token {
		damaged := bytes.Clone(token)
		damaged[i] ^= 1
		if _, err := openToken(damaged, s.cfg.TokenKey); err == nil {
			t.Fatalf("byte %d of the token was changed and nothing noticed", i)
		}
	}
	other := s.cfg
	other.TokenKey = []byte("another")
	client := serve(t, New(other, s.store, quiet))
	if _, err := collect(client, &pb.ExportEventsRequest{ResumeToken: token}, fstest.MapFS{}, nil); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
}
