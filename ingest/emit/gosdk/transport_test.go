package gosdk_test

import (
	"context"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/emit/gosdk"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// memory is a transport to this process.
type memory struct {
	mu     sync.Mutex
	events []*pb.Event
	closed bool
}

func (m *memory) Deliver(_ context.Context, events [][]byte, _ *pb.KnownCheckpoint) (emit.Answer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range events {
		e := &pb.Event{}
		if err := proto.Unmarshal(b, e); err != nil {
			return emit.Answer{}, err
		}
		m.events = append(m.events, e)
	}
	return emit.Answer{}, nil
}

func (m *memory) Ledger() pb.LedgerServiceClient { return nil }
func (m *memory) String() string                 { return "memory" }
func (m *memory) Close()                         { m.closed = true }

// What the environment says of a service is not for a server that has a transport.
func TestEventsLeaveByTheTransportOfTheOptions(t *testing.T) {
	t.Setenv("MCPAUDIT_SERVICE", "127.0.0.1:1")
	t.Setenv("MCPAUDIT_SERVICE_KEY", "a key of that service")
	to := &memory{}
	server := newServer()
	audit, err := gosdk.Open(&gosdk.Options{Server: "library", Transport: to, Spool: t.TempDir(), KeyFile: filepath.Join(t.TempDir(), "key"),
		Flush: 20 * time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server.AddReceivingMiddleware(audit.Middleware())
	callTool(t, connect(t, server), "read", `{"path":"a.txt"}`)
	audit.Close()
	read := 0
	for _, e := range to.events {
		if e.GetTarget() == "read" && e.GetOutcome() == "success" {
			read++
		}
	}
	if read != 1 || !to.closed {
		t.Errorf("%d reads among %d events, closed: %v", read, len(to.events), to.closed)
	}
}

// Who audits over gRPC does not carry a Kafka client about: of the packages of this
// module that gosdk is made of, none imports one.
func TestNoKafkaClientComesAlong(t *testing.T) {
	const module = "github.com/mcpaudit/mcpaudit/"
	seen := map[string]bool{}
	var visit func(pkg string)
	visit = func(pkg string) {
		if seen[pkg] {
			return
		}
		seen[pkg] = true
		dir := filepath.Join("..", "..", "..", filepath.FromSlash(pkg))
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, f.Name()), nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range parsed.Imports {
				name, _ := strconv.Unquote(i.Path.Value)
				if strings.Contains(name, "kafka") || strings.Contains(name, "franz-go") {
					t.Errorf("%s imports %s", pkg, name)
				}
				if ours, ok := strings.CutPrefix(name, module); ok {
					visit(ours)
				}
			}
		}
	}
	visit("ingest/emit/gosdk")
	if !seen["ingest/emit"] || !seen["proto/mcpaudit/v1"] {
		t.Errorf("only %v were looked at", seen)
	}
}
