package findings

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// served is a client of the service over gRPC.
func served(t *testing.T, s *Server) pb.FindingServiceClient {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(scopetest.Server()...)
	pb.RegisterFindingServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///findings", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		serving.Wait()
	})
	return pb.NewFindingServiceClient(conn)
}

// watch begins to watch: the first answer has come.
func watch(ctx context.Context, t *testing.T, c pb.FindingServiceClient, req *pb.WatchFindingsRequest) pb.FindingService_WatchFindingsClient {
	t.Helper()
	stream, err := c.WatchFindings(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || len(first.GetFindings()) != 0 {
		t.Fatalf("the first answer is %v, %v", first, err)
	}
	return stream
}

// Whoever watches gets each version that is told after the first answer, once and in
// order, however many are told at once; a filter and a suppression leave some out.
func TestAWatcherGetsEachVersionOnceAndInOrder(t *testing.T) {
	d := newDesk(t)
	stopping := make(chan struct{})
	d.cfg.Stopping = stopping
	client := served(t, d.Server)
	ctx, cancel := context.WithTimeout(everyone, 2*time.Minute)
	defer cancel()
	d.tell(t, found(1))
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", SuppressDays: 30})
	whole := watch(ctx, t, client, &pb.WatchFindingsRequest{ShowSuppressed: true})
	narrow := watch(ctx, t, client, &pb.WatchFindingsRequest{Filter: `severity >= "high" OR state = "resolved"`})
	d.tell(t, found(2)) // covered
	d.tell(t, found(2, func(f *store.Finding) { f.Version, f.Severity = 2, "critical" }), found(3, func(f *store.Finding) { f.Principal, f.Severity = "agent:b", "high" }))
	var many []store.Finding
	for n := range 1500 { // more than one answer has
		many = append(many, found(10+n, func(f *store.Finding) { f.Principal = fmt.Sprint(n) }))
	}
	d.tell(t, many...)
	d.tell(t, found(3, func(f *store.Finding) {
		f.Principal, f.Severity, f.Version, f.State = "agent:b", "medium", 2, "resolved"
	}))
	read := func(stream pb.FindingService_WatchFindingsClient) (out []string) {
		for {
			resp, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if n := len(resp.GetFindings()); n == 0 || n > maxTold {
				t.Errorf("an answer has %d findings", n)
			}
			for _, f := range resp.GetFindings() {
				out = append(out, fmt.Sprintf("%s/%d", numbers([]*pb.Finding{f}), f.GetVersion()))
				if f.GetState() == "resolved" {
					return out
				}
			}
		}
	}
	// What is worse than the finding that was suppressed is told.
	if got := strings.Join(read(narrow), " "); got != "2/2 3/1 3/2" {
		t.Errorf("narrow: %s", got)
	}
	got := read(whole)
	want := []string{"2/1", "2/2", "3/1"}
	for n := range 1500 {
		want = append(want, fmt.Sprintf("%d/1", 10+n))
	}
	if want = append(want, "3/2"); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%d versions came, want %d; they begin with %v", len(got), len(want), got[:min(len(got), 5)])
	}
	// The service stops, or the client.
	close(stopping)
	_, err := whole.Recv()
	refused(t, err, codes.Unavailable, "the service is stopping; watch again")
	cancel()
	if _, err := narrow.Recv(); status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
		t.Error(err)
	}
}

// stuck is a client that reads nothing after the first answer.
type stuck struct {
	grpc.ServerStream
	ctx  context.Context
	sent int
}

func (s *stuck) Context() context.Context { return s.ctx }

func (s *stuck) Send(*pb.WatchFindingsResponse) error {
	if s.sent++; s.sent == 1 {
		return nil
	}
	<-s.ctx.Done()
	return s.ctx.Err()
}

// silent is a store in which nothing is told any more.
type silent struct {
	Store
	asked int
}

func (s *silent) Query(_ context.Context, _ store.Limits, sql string, _ ...any) (driver.Rows, error) {
	s.asked++
	if !strings.Contains(sql, "max(seq)") {
		return nil, errors.New("nothing is new, and it asks for " + sql)
	}
	return &fixed{left: s.asked == 1}, nil
}

// fixed is one row, of a teller and its number 7, or none.
type fixed struct {
	driver.Rows
	left bool
}

func (r *fixed) Next() bool   { return r.left }
func (r *fixed) Close() error { return nil }
func (r *fixed) Err() error   { return nil }

func (r *fixed) Scan(to ...any) error {
	*to[0].(*string), *to[1].(*uint64) = "", 7
	r.left = false
	return nil
}

func TestAClientThatReadsNothingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{}, &silent{}, nil, time.Now, quiet)
		ctx, cancel := context.WithCancel(everyone)
		defer cancel()
		start := time.Now()
		stream := &stuck{ctx: ctx}
		err := s.send(ctx, stream, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = s.send(ctx, stream, &pb.WatchFindingsResponse{})
		if waited := time.Since(start); status.Code(err) != codes.ResourceExhausted || waited != time.Minute {
			t.Errorf("after %v: %v", waited, err)
		}
		cancel()
		synctest.Wait()
	})
}

// A watcher of a store in which nothing is told asks two small questions, and then one
// four times a second.
func TestAWatcherOfASilentStoreCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &silent{}
		ctx, cancel := context.WithTimeout(everyone, 10*time.Second)
		defer cancel()
		err := New(Config{}, s, nil, time.Now, quiet).WatchFindings(&pb.WatchFindingsRequest{}, &stuck{ctx: ctx})
		if status.Code(err) != codes.DeadlineExceeded || s.asked > 42 {
			t.Errorf("%d statements in 10 seconds, %v", s.asked, err)
		}
	})
}
