package query

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// served is a client of the service over gRPC. Its windows don't grow: what the
// transport holds for a client that does not read is 64 KiB.
func served(t *testing.T, s *Server) pb.QueryServiceClient {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(scopetest.Server()...)
	pb.RegisterQueryServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///query", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(1<<20),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		serving.Wait()
	})
	return pb.NewQueryServiceClient(conn)
}

// watch begins to watch: the first answer has come.
func watch(ctx context.Context, t *testing.T, c pb.QueryServiceClient, req *pb.WatchEventsRequest) pb.QueryService_WatchEventsClient {
	t.Helper()
	stream, err := c.WatchEvents(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || len(first.GetEvents()) != 0 {
		t.Fatalf("the first answer has %d events, %v", len(first.GetEvents()), err)
	}
	return stream
}

// Whoever watches gets each event that is stored after the first answer once and
// in the order of its log, while three logs are written to.
func TestAWatcherGetsEachEventOnceAndInOrder(t *testing.T) {
	s := newShelf(t)
	client := served(t, s.Server)
	ctx, cancel := context.WithTimeout(everyone, time.Minute)
	defer cancel()
	var logs [3]string
	for i := range logs {
		id := fmt.Sprint("log", i)
		if err := s.store.StartLog(ctx, store.LogInfo{ID: id, StartedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
		logs[i] = id
	}
	const batches = 16
	var started [3]atomic.Uint64 // batches that may be stored already
	sizes := func(log int, batch uint64) int {
		switch {
		case batch == 7 && log == 0:
			return 1100 // more than an answer has
		case batch == 6 && log == 1:
			return 5
		}
		return int(batch)%4 + 1
	}
	write := func(log int, first, last uint64) {
		for batch := first; batch <= last; batch++ {
			started[log].Store(batch)
			var events []*event.Event
			for leaf := range sizes(log, batch) {
				events = append(events, call(int64(-leaf), func(e *event.Event) { // the log's order is not that of time
					e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = logs[log], batch, uint32(leaf), 20819
					e.Server = []string{"even", "odd"}[leaf%2]
					if leaf == 0 && batch == batches {
						e.Target = "the end"
					}
					if log == 1 && batch == 6 {
						e.Arguments = strings.Repeat("x", 1<<19) // two fill an answer
					}
				}))
			}
			if err := s.store.Append(ctx, store.Batch{Events: events, Token: fmt.Sprint(log, "/", batch)}); err != nil {
				t.Error(err)
				return
			}
		}
	}
	// read follows a watch to the end of all logs, and gives the events of each.
	// lastButOne is called for each log when its batch before the last has come.
	read := func(stream pb.QueryService_WatchEventsClient, lastButOne func()) (got [3][]*pb.Event) {
		for ends := 0; ends < 3; {
			resp, err := stream.Recv()
			if err != nil {
				t.Errorf("watch: %v", err)
				return got
			}
			if len(resp.GetEvents()) == 0 || len(resp.GetEvents()) > watchPage {
				t.Errorf("an answer has %d events", len(resp.GetEvents()))
			}
			for _, e := range resp.GetEvents() {
				for i := range logs {
					if logs[i] == e.GetLogId() {
						got[i] = append(got[i], e)
					}
				}
				if e.GetTarget() == "the end" {
					ends++
				}
				if e.GetBatch() == batches-1 && e.GetLeaf() == 0 {
					lastButOne()
				}
			}
		}
		return got
	}
	// check says that a log's events are all those from a batch on that keep accepts.
	check := func(who string, log int, got []*pb.Event, from uint64, keep func(leaf int) bool) {
		for batch := from; batch <= batches; batch++ {
			for leaf := range sizes(log, batch) {
				if batch == batches && leaf > 0 {
					return // behind the end
				}
				if !keep(leaf) {
					continue
				}
				if len(got) == 0 || got[0].GetBatch() != batch || got[0].GetLeaf() != uint32(leaf) {
					t.Errorf("%s, log %d: want event %d/%d next, there are %d", who, log, batch, leaf, len(got))
					return
				}
				got = got[1:]
			}
		}
	}
	everything := func(int) bool { return true }
	early := watch(ctx, t, client, &pb.WatchEventsRequest{})
	narrow := watch(ctx, t, client, &pb.WatchEventsRequest{Filter: `server = "even"`, ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"batch", "leaf", "log_id", "target"}}})
	var writers, watchers sync.WaitGroup
	for log := range logs {
		writers.Go(func() { write(log, 1, 10) })
	}
	watchers.Go(func() {
		got := read(early, func() {})
		for log := range logs {
			check("from the start", log, got[log], 1, everything)
		}
	})
	watchers.Go(func() {
		got := read(narrow, func() {})
		for log := range logs {
			check("with a filter", log, got[log], 1, func(leaf int) bool { return leaf%2 == 0 })
			for _, e := range got[log] {
				if e.GetEventId() != "" || e.GetServer() != "" || e.GetArguments() != "" || e.GetOccurredAt() != nil {
					t.Errorf("the mask lets %v through", e)
				}
			}
		}
	})
	for range 2 { // begin while batches arrive
		late := watch(ctx, t, client, &pb.WatchEventsRequest{})
		var begun [3]uint64
		for log := range logs {
			begun[log] = started[log].Load()
		}
		watchers.Go(func() {
			got := read(late, func() {})
			for log := range logs {
				if len(got[log]) == 0 || got[log][0].GetBatch() > begun[log]+1 {
					t.Errorf("log %d: the first of %d events is %v, batch %d was stored after watching had begun", log, len(got[log]), got[log][:min(1, len(got[log]))], begun[log]+1)
					continue
				}
				check("late", log, got[log], got[log][0].GetBatch(), everything)
			}
		})
	}
	writers.Wait()
	between := watch(ctx, t, client, &pb.WatchEventsRequest{}) // when nothing arrives
	var caughtUp sync.WaitGroup
	caughtUp.Add(len(logs))
	watchers.Go(func() {
		got := read(between, caughtUp.Done)
		for log := range logs {
			check("from the middle", log, got[log], 11, everything)
		}
	})
	for log := range logs {
		writers.Go(func() { write(log, 11, batches-1) })
	}
	writers.Wait()
	caught := make(chan struct{})
	go func() { caughtUp.Wait(); close(caught) }()
	select {
	case <-caught:
	case <-ctx.Done():
	}
	for log := range logs { // one batch alone
		write(log, batches, batches)
	}
	watchers.Wait()
}

// tape is a store whose one log has a batch without end: as many events as
// anybody reads, of 16 KiB each.
type tape struct {
	empty bool
	open  atomic.Int32 // rows that are not closed
	read  atomic.Int32 // events that were read
}

const tapeArguments = 16 << 10

func (p *tape) Query(ctx context.Context, _ store.Limits, sql string, args ...any) (driver.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	named := map[string]any{}
	for _, a := range args {
		named[a.(driver.NamedValue).Name] = a.(driver.NamedValue).Value
	}
	r := &tapeRows{tape: p}
	switch {
	case strings.Contains(sql, "FROM logs"):
		r.left, r.scan = 1, func(into ...any) { *into[0].(*string) = "log" }
	case strings.Contains(sql, "max(batch)"):
		last := uint64(0) // what the log begins with
		for name, v := range named {
			if strings.HasPrefix(name, "batch") && !p.empty {
				last = max(last, v.(uint64))
			}
		}
		r.left, r.scan = 1, func(into ...any) { *into[0].(*string), *into[1].(*uint64) = "log", last }
	default:
		leaf := named["leaf"].(uint32)
		r.left, r.scan = named["limit"].(int), func(into ...any) {
			for i, c := range event.Columns {
				switch c.Name {
				case "arguments":
					*into[i].(*string) = strings.Repeat("x", tapeArguments)
				case "batch":
					*into[i].(*uint64) = named["batch"].(uint64)
				case "leaf":
					*into[i].(*uint32) = leaf
				}
			}
			leaf++
			p.read.Add(1)
		}
		if p.empty {
			r.left = 0
		}
	}
	p.open.Add(1)
	return r, nil
}

type tapeRows struct {
	driver.Rows // what is not here is not called
	tape        *tape
	left        int
	scan        func(into ...any)
}

func (r *tapeRows) Next() bool             { r.left--; return r.left >= 0 }
func (r *tapeRows) Scan(into ...any) error { r.scan(into...); return nil }
func (r *tapeRows) Err() error             { return nil }
func (r *tapeRows) Close() error           { r.tape.open.Add(-1); return nil }

// A client that stops reading is cut off after a minute. Until then the service
// reads no more for it than what the transport and one answer hold, and keeps
// nothing of the store open.
func TestAWatcherThatStopsReadingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &tape{}
		stream := watch(everyone, t, served(t, New(Config{}, p, quiet)), &pb.WatchEventsRequest{})
		begun := time.Now()
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		read := p.read.Load()
		if most := int32(3 * watchBytes / tapeArguments); read == 0 || read > most {
			t.Errorf("%d events were read for a client that reads nothing, want at most %d", read, most)
		}
		if n := p.open.Load(); n != 0 {
			t.Errorf("%d statements are open for a client that reads nothing", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		time.Sleep(time.Hour)
		if n := p.read.Load(); n != read {
			t.Errorf("%d events were read after it was cut off", n-read)
		}
		events := 0
		for {
			resp, err := stream.Recv()
			if err != nil {
				if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "has read nothing for a minute") {
					t.Errorf("it is told %v", err)
				}
				break
			}
			for _, e := range resp.GetEvents() { // what was sent before is whole and in order
				if int(e.GetLeaf()) != events {
					t.Fatalf("event %d is %d", events, e.GetLeaf())
				}
				events++
			}
		}
		if events > int(read) || time.Since(begun) > 2*time.Hour {
			t.Errorf("%d events of %d came, after %s", events, read, time.Since(begun))
		}
	})
}

// The minute is one from when the service began to send.
func TestAWatcherIsGivenAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		err := New(Config{}, &tape{}, quiet).WatchEvents(&pb.WatchEventsRequest{}, &deaf{ctx: scopetest.Every(t.Context()), hears: 1})
		if lasted := time.Since(begun) - watchEvery; status.Code(err) != codes.ResourceExhausted || lasted != time.Minute {
			t.Errorf("it is told %v after %s", err, lasted)
		}
	})
}

// One that reads slowly, but reads, is not cut off.
func TestASlowWatcherIsNotCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream := watch(scopetest.Every(t.Context()), t, served(t, New(Config{}, &tape{}, quiet)), &pb.WatchEventsRequest{})
		next := uint32(0)
		for range 10 {
			time.Sleep(time.Minute - 5*time.Second)
			resp, err := stream.Recv()
			if err != nil {
				t.Fatalf("a slow reader is told %v", err)
			}
			for _, e := range resp.GetEvents() {
				if e.GetLeaf() != next {
					t.Fatalf("event %d came, want %d", e.GetLeaf(), next)
				}
				next++
			}
		}
	})
}

// A service that stops tells its watchers to come back, at once: those that wait
// for events, and those that do not read.
func TestAWatcherIsToldThatTheServiceStops(t *testing.T) {
	for _, c := range []struct {
		what  string
		store *tape
	}{{"waits", &tape{empty: true}}, {"does not read", &tape{}}} {
		synctest.Test(t, func(t *testing.T) {
			stopping := make(chan struct{})
			ended := make(chan error, 1)
			s := New(Config{Stopping: stopping}, c.store, quiet)
			go func() {
				ended <- s.WatchEvents(&pb.WatchEventsRequest{}, &deaf{ctx: scopetest.Every(t.Context()), hears: 1})
			}()
			time.Sleep(10 * time.Second)
			close(stopping)
			stopped := time.Now()
			err := <-ended
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "watch again") || time.Since(stopped) > watchEvery {
				t.Errorf("one that %s is told %v, after %s", c.what, err, time.Since(stopped))
			}
		})
	}
}

// One that leaves ends its watch, wherever that is, and nothing of it stays: a
// goroutine that did would fail the test.
func TestAWatcherThatLeavesLeavesNothingBehind(t *testing.T) {
	for _, c := range []struct {
		what  string
		store *tape
	}{{"waits", &tape{empty: true}}, {"does not read", &tape{}}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(scopetest.Every(t.Context()))
			ended := make(chan error, 1)
			s := New(Config{}, c.store, quiet)
			go func() { ended <- s.WatchEvents(&pb.WatchEventsRequest{}, &deaf{ctx: ctx, hears: 1}) }()
			time.Sleep(10 * time.Second)
			cancel()
			left := time.Now()
			if err := <-ended; status.Code(err) != codes.Canceled || time.Since(left) > watchEvery {
				t.Errorf("one that %s and leaves ends with %v, after %s", c.what, err, time.Since(left))
			}
			synctest.Wait()
			if n := c.store.open.Load(); n != 0 {
				t.Errorf("one that %s leaves %d statements open", c.what, n)
			}
		})
	}
}

// A store that fails, or a client that is gone already, ends a watch with a code.
func TestAWatchEndsWithWhatFailed(t *testing.T) {
	err := New(Config{}, broken{errors.New("dial tcp 10.0.0.1:9000: secret")}, quiet).WatchEvents(&pb.WatchEventsRequest{}, &deaf{ctx: everyone})
	if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "secret") {
		t.Errorf("a store that is away: %v", err)
	}
	err = New(Config{}, &tape{}, quiet).WatchEvents(&pb.WatchEventsRequest{}, &deaf{ctx: everyone, err: io.ErrClosedPipe})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a stream that is broken: %v", err)
	}
}

// deaf is the stream of a client that reads some answers and then nothing.
type deaf struct {
	grpc.ServerStream
	ctx   context.Context
	hears int
	err   error
}

func (d *deaf) Context() context.Context { return d.ctx }

func (d *deaf) Send(*pb.WatchEventsResponse) error {
	if d.err != nil {
		return d.err
	}
	if d.hears--; d.hears >= 0 {
		return nil
	}
	<-d.ctx.Done()
	return d.ctx.Err()
}
