package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/rpc"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// The service's clock stands still here.
var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

type leaveAlone struct{}

func (leaveAlone) Again(*event.Event) bool { return false }

type unwatched struct{}

func (unwatched) Committed(int, time.Duration) {}
func (unwatched) Settled(int, int, int)        {}
func (unwatched) StoreFailed()                 {}

// gate is a store whose appends can be held up and made to fail.
type gate struct {
	ingest.Store
	mu   sync.Mutex
	hold chan struct{}
	err  error
}

func (g *gate) Append(ctx context.Context, b store.Batch) error {
	g.mu.Lock()
	hold, err := g.hold, g.err
	g.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if err != nil {
		return err
	}
	return g.Store.Append(ctx, b)
}

func (g *gate) set(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

// counted counts the messages that the service has read.
type counted struct {
	grpc.ServerStream
	read *counter
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) value() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c counted) RecvMsg(m any) error {
	err := c.ServerStream.RecvMsg(m)
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	c.read.n++
	return err
}

// service is the ingest service on a real store and a connection to it.
type service struct {
	pb.IngestServiceClient
	conn  *grpc.ClientConn
	store *store.Store
	gate  *gate
	read  *counter
}

func serve(t *testing.T, memory int64) *service {
	t.Helper()
	return serveWith(t, memory, rpc.Config{})
}

func serveWith(t *testing.T, memory int64, cfg rpc.Config) *service {
	t.Helper()
	real := storetest.Open(t, t.TempDir())
	s := &service{store: real, gate: &gate{Store: real}, read: &counter{}}
	p := ingest.New(ingest.Config{Key: rpctest.Key(t, "test"), MaxAge: time.Microsecond, MaxBytes: memory}, s.gate, leaveAlone{},
		func() time.Time { return noon }, slog.New(slog.NewTextHandler(io.Discard, nil)), unwatched{})
	server := grpc.NewServer(grpc.ForceServerCodecV2(rpc.NewCodec()), grpc.MaxRecvMsgSize(rpc.MaxBytes+64<<10),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return h(srv, counted{ss, s.read})
		}))
	pb.RegisterIngestServiceServer(server, rpc.New(cfg, p, func() time.Time { return noon }))
	listener := bufconn.Listen(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:service", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		cancel()
		wg.Wait()
	})
	s.conn, s.IngestServiceClient = conn, pb.NewIngestServiceClient(conn)
	eventually(t, "ingest is ready", func() bool { return p.Ready() == nil })
	return s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func message(emitter string, seq uint64) *pb.Event {
	e := event.Random(rand.New(rand.NewPCG(seq, 1)))
	e.EmitterID, e.EmitterSeq = emitter, seq
	return wire.ToProto(e)
}

func messages(emitter string, first, last uint64) []*pb.Event {
	var ms []*pb.Event
	for n := first; n <= last; n++ {
		ms = append(ms, message(emitter, n))
	}
	return ms
}

// count is how many events of an emitter are stored.
func (s *service) count(t *testing.T, emitter string) (n uint64) {
	t.Helper()
	runs, err := s.store.Sequences(context.Background(), []string{emitter})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runs[emitter] {
		n += r.Last - r.First + 1
	}
	return n
}

func (s *service) publish(t *testing.T, ctx context.Context) pb.IngestService_PublishClient {
	t.Helper()
	stream, err := s.Publish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestAStreamIsAnsweredInOrderOneAnswerARequest(t *testing.T) {
	s := serve(t, 0)
	stream := s.publish(t, t.Context())
	const requests = 150 // more than the window
	for n := range uint64(requests) {
		if err := stream.Send(&pb.PublishRequest{Events: messages("e", 3*n+1, 3*n+3)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(requests) {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		r := resp.GetReceipt()
		// A later request may be in the same batch: progress is at least this far.
		if r.GetStored() != 3 || len(r.GetProgress()) != 1 || r.GetProgress()[0].GetEmitterId() != "e" || r.GetProgress()[0].GetContiguousSeq() != 3*n+3 {
			t.Fatalf("answer %d is %v", n, r)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	if n := s.count(t, "e"); n != 3*requests {
		t.Errorf("%d events are stored", n)
	}
}

func TestABadEventIsRefusedAloneAndNamed(t *testing.T) {
	s := serve(t, 0)
	const planted = "hunter2-SELECT-/etc/passwd"
	for name, c := range map[string]struct {
		spoil func(*pb.Event)
		want  string
	}{
		"an id that is none":   {func(m *pb.Event) { m.EventId = planted }, "event_id: not a UUID"},
		"an unknown outcome":   {func(m *pb.Event) { m.Outcome = planted }, "outcome: must be one of"},
		"no time":              {func(m *pb.Event) { m.OccurredAt = nil }, "occurred_at: is required"},
		"a time out of range":  {func(m *pb.Event) { m.OccurredAt = &timestamppb.Timestamp{Seconds: 1 << 60} }, "occurred_at: must lie between"},
		"a negative duration":  {func(m *pb.Event) { m.Duration = durationpb.New(-1) }, "duration: must not be negative"},
		"a digest that is not": {func(m *pb.Event) { m.ResultDigest = planted }, "result_digest: not a digest"},
		"a huge status":        {func(m *pb.Event) { m.HttpStatus = 70000 }, "http_status: is above 65535"},
		"a newer schema":       {func(m *pb.Event) { m.Schema = 77 }, "schema: is 77, this service knows 1"},
		"too long a target":    {func(m *pb.Event) { m.Target = strings.Repeat(planted, 100) }, "target: has 2600 bytes, at most 2048 are taken"},
		"nothing in it":        {func(m *pb.Event) { *m = pb.Event{} }, "event_id: "}, //nolint:govet // a message not in use yet
	} {
		t.Run(name, func(t *testing.T) {
			events := messages(name, 1, 5)
			c.spoil(events[2])
			resp, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: events})
			if err != nil {
				t.Fatal(err)
			}
			r := resp.GetReceipt()
			if r.GetStored() != 4 || len(r.GetRejected()) != 1 || s.count(t, name) != 4 {
				t.Fatalf("receipt %v, %d are stored", r, s.count(t, name))
			}
			got := r.GetRejected()[0]
			if got.GetIndex() != 2 || got.GetEmitterSeq() != events[2].GetEmitterSeq() || got.GetCode() != pb.Rejection_CODE_INVALID || !strings.HasPrefix(got.GetReason(), c.want) {
				t.Errorf("rejection %v, want index 2 and %q", got, c.want)
			}
			if strings.Contains(got.GetReason(), "hunter2") {
				t.Errorf("the reason holds the value: %q", got.GetReason())
			}
			if p := r.GetProgress(); len(p) != 1 || p[0].GetContiguousSeq() != 2 || p[0].GetHighestSeq() != 5 {
				t.Errorf("progress %v", p)
			}
		})
	}
}

func TestRejectionsAreInTheOrderOfTheRequest(t *testing.T) {
	s := serve(t, 0)
	events := messages("e", 1, 6)
	events[4].EventId = "x" // seen first, when the message is read
	events[1].Outcome = "x" // seen second, when the event is checked
	events = append(events, messages("gaps", 5000, 5000)...)
	var gaps []*pb.Event
	for n := range uint64(store.MaxRuns + 1) { // one gap more than is kept track of
		gaps = append(gaps, message("gaps", 2+2*n))
	}
	if _, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: gaps}); err != nil {
		t.Fatal(err)
	}
	events = append([]*pb.Event{message("gaps", 3)}, events...) // seen last, when the batch is sealed
	resp, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: events})
	if err != nil {
		t.Fatal(err)
	}
	var got []uint32
	for _, r := range resp.GetReceipt().GetRejected() {
		got = append(got, r.GetIndex())
	}
	if len(got) != 3 || got[0] != 0 || got[1] != 2 || got[2] != 5 || resp.GetReceipt().GetRejected()[0].GetCode() != pb.Rejection_CODE_TOO_MANY_GAPS {
		t.Errorf("rejected %v", resp.GetReceipt().GetRejected())
	}
	if resp.GetReceipt().GetRejected()[0].GetEmitterSeq() != 3 {
		t.Errorf("the first rejection is of number %d", resp.GetReceipt().GetRejected()[0].GetEmitterSeq())
	}
}

func TestARequestThatIsTooLargeEndsTheStreamAfterTheAnswersBeforeIt(t *testing.T) {
	for name, c := range map[string]struct {
		large *pb.PublishRequest
		code  codes.Code
		text  string
	}{
		"too many events": {&pb.PublishRequest{Events: make([]*pb.Event, rpc.MaxEvents+1)}, codes.InvalidArgument,
			"a batch has at most 5000 events, this one has 5001; send it in parts"},
		"too many bytes": {&pb.PublishRequest{Events: []*pb.Event{{Arguments: strings.Repeat("x", rpc.MaxBytes)}}}, codes.InvalidArgument,
			"a batch has at most 4194304 bytes, this one has 4194315; send it in parts"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, 0)
			for i := range c.large.Events {
				if c.large.Events[i] == nil {
					c.large.Events[i] = &pb.Event{}
				}
			}
			stream := s.publish(t, t.Context())
			for n := range uint64(3) {
				if err := stream.Send(&pb.PublishRequest{Events: messages("e", n+1, n+1)}); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.Send(c.large); err != nil {
				t.Fatal(err)
			}
			for n := range uint64(3) {
				if resp, err := stream.Recv(); err != nil || resp.GetReceipt().GetProgress()[0].GetContiguousSeq() != n+1 {
					t.Fatalf("answer %d: %v, %v", n, resp, err)
				}
			}
			_, err := stream.Recv()
			if status.Code(err) != c.code || status.Convert(err).Message() != c.text {
				t.Errorf("the stream ended with %v", err)
			}
			if _, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: c.large.Events}); status.Code(err) != c.code {
				t.Errorf("the same as one batch: %v", err)
			}
		})
	}
}

// gRPC itself refuses what is larger still, unread, and ends the stream at once.
func TestAMessageBeyondAllBoundsIsNotRead(t *testing.T) {
	s := serve(t, 0)
	huge := []*pb.Event{{Arguments: strings.Repeat("x", 2*rpc.MaxBytes)}}
	if _, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: huge}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("as a batch: %v", err)
	}
	stream := s.publish(t, t.Context())
	if err := stream.Send(&pb.PublishRequest{Events: huge}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("on a stream: %v", err)
	}
	if _, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: messages("e", 1, 1)}); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

func TestPromise5AClockThatIsOffIsSaidAndItsEventsAreStored(t *testing.T) {
	s := serve(t, 0)
	for i, c := range []struct {
		sentAt *timestamppb.Timestamp
		skew   *durationpb.Duration
		off    bool
	}{
		{nil, nil, false},
		{timestamppb.New(noon), durationpb.New(0), false},
		{timestamppb.New(noon.Add(-4 * time.Minute)), durationpb.New(4 * time.Minute), false},
		{timestamppb.New(noon.Add(-6 * time.Minute)), durationpb.New(6 * time.Minute), true},
		{timestamppb.New(noon.Add(6 * time.Minute)), durationpb.New(-6 * time.Minute), true},
		{timestamppb.New(time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)), durationpb.New(noon.Sub(time.Unix(0, 0))), true},
		{&timestamppb.Timestamp{Seconds: 1 << 62}, durationpb.New(-1 << 63), true}, // no time at all
		{&timestamppb.Timestamp{Seconds: -1 << 62}, durationpb.New(1<<63 - 1), true},
	} {
		e := message("e", uint64(i)+1)
		e.OccurredAt = timestamppb.New(noon.AddDate(-20, 0, i)) // the emitter's own clock, kept as it is
		resp, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: []*pb.Event{e}, SentAt: c.sentAt})
		if err != nil {
			t.Fatal(err)
		}
		r := resp.GetReceipt()
		if r.GetStored() != 1 || r.GetClockOff() != c.off || r.GetClockSkew().AsDuration() != c.skew.AsDuration() || (r.GetClockSkew() == nil) != (c.skew == nil) {
			t.Errorf("sent at %v: receipt %v, want skew %v, off %v", c.sentAt, r, c.skew, c.off)
		}
	}
	if n := s.count(t, "e"); n != 8 {
		t.Errorf("%d events are stored", n)
	}
}

// raw is the client's codec: it sends bytes as they are.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (raw) Unmarshal(mem.BufferSlice, any) error { return nil }

// Four megabytes on the wire become thousands of megabytes of messages when they
// are read. They are counted first.
func TestABombIsRefusedBeforeItIsRead(t *testing.T) {
	s := serve(t, 0)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty events":  {bytes.Repeat([]byte("\x0a\x00"), 2<<20), "a batch has at most 5000 events, this one has 2097152; send it in parts"},
		"empty signals": {append(protowire.AppendVarint([]byte("\x0a"), 3<<20), bytes.Repeat([]byte("\xda\x03\x00"), 1<<20)...), "the lists of a batch's events have at most 400000 entries, those of this one have 1048576; "},
		"half a tag":    {[]byte("\x0a\x02\x0a"), "the request is not a protobuf message of its type"},
		"half an event": {[]byte("\x0a\x05\x0a"), "the request is not a protobuf message of its type"},
		"a wrong type":  {[]byte("\x0a\x03\x0a\x01\xff\x12\x01"), "the request is not a protobuf message of its type"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := s.conn.Invoke(t.Context(), pb.IngestService_PublishBatch_FullMethodName, c.data, nil, grpc.ForceCodecV2(raw{}))
			runtime.ReadMemStats(&after)
			if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), c.want) {
				t.Errorf("answered %v", err)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 20<<20 {
				t.Errorf("it took %d bytes of memory", took)
			}
		})
	}
	if _, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: messages("e", 1, 1)}); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

// An emitter is known by its name alone, not by the request in which it came
// first.
func TestWhatIsKeptOfAnEmitterIsItsNameNotItsRequest(t *testing.T) {
	s := serve(t, 0)
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	large := strings.Repeat("x", 1<<20)
	publish := func(n int) {
		e := message(fmt.Sprint("emitter-", n), 1)
		e.Arguments = large
		if _, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: []*pb.Event{e}}); err != nil {
			t.Fatal(err)
		}
	}
	publish(0)
	before := heap()
	for n := range 50 {
		publish(n + 1)
	}
	if grown := heap() - before; grown > 20<<20 {
		t.Errorf("50 emitters keep %d bytes", grown)
	}
}
