package findings

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// everyone is a call that sees all tenants.
var everyone = scopetest.Every(context.Background())

// as is such a call of somebody.
func as(who string) context.Context {
	return scopetest.With(context.Background(), who, auth.ContentLookup, auth.EveryTenant)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// desk is a store with findings in it, the service on it, a log that keeps what it
// gets, and a clock that stands.
type desk struct {
	*Server
	store *store.Store
	seq   uint64
	book  *book

	mu   sync.Mutex
	time time.Time
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{store: storetest.Open(t, t.TempDir()), book: &book{}, time: noon}
	d.Server = New(Config{}, d.store, d.book, d.clock, quiet)
	return d
}

func (d *desk) clock() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.time
}

// pass lets time pass.
func (d *desk) pass(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.time = d.time.Add(by)
}

// book is a log that keeps events, once each.
type book struct {
	mu     sync.Mutex
	events []*event.Event
	fail   func() error // asked before it takes some; nil for never
	after  func() error // asked when it has taken them
	reject bool
}

func (b *book) Submit(_ context.Context, events []*event.Event, _ int) (ingest.Settled, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		if err := b.fail(); err != nil {
			return ingest.Settled{}, err
		}
	}
	var s ingest.Settled
	for i, e := range events {
		if err := e.Check(); err != nil || b.reject {
			s.Rejected = append(s.Rejected, ingest.Rejection{Index: i, Reason: err})
			continue
		}
		known := false
		for _, k := range b.events {
			known = known || k.EmitterID == e.EmitterID && k.EmitterSeq == e.EmitterSeq
		}
		if !known {
			b.events = append(b.events, e)
		}
	}
	if b.after != nil {
		return s, b.after()
	}
	return s, nil
}

// lines are the events of the log in short.
func (b *book) lines() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for i, e := range b.events {
		if e.EmitterSeq != uint64(i+1) {
			out = append(out, fmt.Sprintf("event %d has number %d", i, e.EmitterSeq))
		}
		out = append(out, fmt.Sprintf("%s %s by %s: %s", e.Method, e.Target[:min(8, len(e.Target))], e.Principal, e.Outcome))
	}
	return strings.Join(out, "\n")
}

// findingID is the id of the nth finding.
func findingID(n int) string {
	return fmt.Sprintf("%08x-0000-8000-8000-%012x", uint32(n*0x01010101), n)
}

// tell stores versions of findings.
func (d *desk) tell(t testing.TB, rows ...store.Finding) {
	t.Helper()
	for i := range rows {
		d.seq++
		rows[i].Seq = d.seq
	}
	if err := d.store.AppendFindings(everyone, rows); err != nil {
		t.Fatal(err)
	}
}

// found is the first version of the nth finding, which starts n minutes after noon.
func found(n int, change ...func(*store.Finding)) store.Finding {
	at := noon.Add(time.Duration(n) * time.Minute).UnixMicro()
	f := store.Finding{ToldAt: at, ID: findingID(n), Version: 1, Worse: true, Rule: "agent-loop", Detector: "agent_loop", Severity: "medium", Score: 1.5,
		Reason: fmt.Sprintf("the same call %d times", n), Observed: fmt.Sprint(n), Expected: "at most 3", Workings: []store.Working{{Name: "calls", Value: fmt.Sprint(n)}},
		Tenant: "acme", Principal: "agent:a", Server: "files", Target: "read", StartedAt: at, LastSeenAt: at, OpenedAt: at, Events: uint64(n), State: "open"}
	for _, c := range change {
		c(&f)
	}
	return f
}

func (d *desk) list(t testing.TB, req *pb.ListFindingsRequest) *pb.ListFindingsResponse {
	t.Helper()
	resp, err := d.ListFindings(everyone, req)
	if err != nil {
		t.Fatalf("list %v: %v", req, err)
	}
	return resp
}

// numbers are which findings of found these are, in order.
func numbers(list []*pb.Finding) string {
	var out []string
	for _, f := range list {
		var n int
		_, _ = fmt.Sscanf(f.GetFindingId()[24:], "%x", &n)
		out = append(out, fmt.Sprint(n))
	}
	return strings.Join(out, " ")
}

// matching are the findings that a filter finds, covered ones too.
func (d *desk) matching(t testing.TB, filter string) string {
	t.Helper()
	return numbers(d.list(t, &pb.ListFindingsRequest{Filter: filter, ShowSuppressed: true, PageSize: 1000}).GetFindings())
}

// triage takes a step that must be taken.
func (d *desk) triage(t testing.TB, req *pb.TriageFindingRequest) *pb.TriageFindingResponse {
	t.Helper()
	if req.By == "" {
		req.By = "ada"
	}
	who := as(req.By)
	req.By = "somebody else" // what a request says of who asks is not believed
	resp, err := d.TriageFinding(who, req)
	if err != nil {
		t.Fatalf("triage %v: %v", req, err)
	}
	return resp
}

// refused says whether an error has a code and a text that people may read.
func refused(t testing.TB, err error, code codes.Code, text string) {
	t.Helper()
	got := status.Convert(err)
	if got.Code() != code || !strings.Contains(got.Message(), text) {
		t.Errorf("%v: %s, want %v: …%s…", got.Code(), got.Message(), code, text)
	}
	for _, secret := range []string{"SELECT", "finding_actions", "INSERT", "DB::", "/tmp"} {
		if strings.Contains(got.Message(), secret) {
			t.Errorf("the message has %q in it: %s", secret, got.Message())
		}
	}
}

// shaky is a store that fails when it is told to.
type shaky struct {
	*store.Store
	mu      sync.Mutex
	before  func() error // asked before steps are appended
	after   func() error // asked when they are
	queries func() error
}

func (s *shaky) set(f func(*shaky)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *shaky) ask(which func(*shaky) func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := which(s); f != nil {
		return f()
	}
	return nil
}

func (s *shaky) AppendActions(ctx context.Context, steps []store.FindingAction) error {
	if err := s.ask(func(s *shaky) func() error { return s.before }); err != nil {
		return err
	}
	if err := s.Store.AppendActions(ctx, steps); err != nil {
		return err
	}
	return s.ask(func(s *shaky) func() error { return s.after })
}

func (s *shaky) Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error) {
	if err := s.ask(func(s *shaky) func() error { return s.queries }); err != nil {
		return nil, err
	}
	return s.Store.Query(ctx, l, sql, args...)
}
