package query

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// slow is a store in which every event is there a trillion times: the engine has
// work for hours with each statement that reads events.
type slow struct{ Reader }

func (s slow) Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error) {
	return s.Reader.Query(ctx, l, strings.Replace(sql, "FROM events",
		"FROM (SELECT e.* FROM numbers(1000000000000) AS n CROSS JOIN events AS e) AS events", 1), args...)
}

// asks are questions of every kind.
var asks = map[string]func(context.Context, *Server) error{
	"list": func(ctx context.Context, s *Server) error {
		_, err := s.ListEvents(ctx, &pb.ListEventsRequest{Filter: `arguments != "none such"`, OrderBy: "duration"})
		return err
	},
	"get": func(ctx context.Context, s *Server) error {
		_, err := s.GetEvent(ctx, &pb.GetEventRequest{EventId: "01890a5d-ac96-774b-bcce-b302099a8057"})
		return err
	},
	"aggregate": func(ctx context.Context, s *Server) error {
		_, err := s.AggregateEvents(ctx, &pb.AggregateEventsRequest{GroupBy: []string{"server"}, Interval: durationpb.New(time.Second)})
		return err
	},
	"timeline": func(ctx context.Context, s *Server) error {
		_, err := s.GetTimeline(ctx, trace("t"))
		return err
	},
	"tools": func(ctx context.Context, s *Server) error {
		_, err := s.ListTools(ctx, &pb.ListToolsRequest{})
		return err
	},
	"definitions": func(ctx context.Context, s *Server) error {
		_, err := s.ListToolDefinitions(ctx, &pb.ListToolDefinitionsRequest{Server: "files", Name: "read"})
		return err
	},
	"emitters": func(ctx context.Context, s *Server) error {
		_, err := s.ListEmitters(ctx, &pb.ListEmittersRequest{})
		return err
	},
	"watch": func(ctx context.Context, s *Server) error {
		return s.WatchEvents(&pb.WatchEventsRequest{}, &deaf{ctx: ctx})
	},
}

// What the engine says of a limit is what the caller is told, whatever he asked.
func TestEveryQuestionHasLimits(t *testing.T) {
	s := newShelf(t)
	s.put(t, defined(0, "files", "read", 'a', span("t", "read", "1", "")), called(1, "files", "read", 'a', span("t", "read", "2", "1")))
	endless := New(Config{}, slow{s.store}, quiet)
	for name, ask := range asks {
		if name != "get" && name != "watch" { // there is none such; it lasts
			if err := ask(everyone, s.Server); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		endless.cfg.Limits = store.Limits{Rows: 100, Time: unbearable}
		if err := ask(everyone, endless); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "more than it may") {
			t.Errorf("%s that reads too many rows: %v", name, err)
		}
	}
	for _, name := range []string{"list", "aggregate"} {
		endless.cfg.Limits = store.Limits{Time: time.Second}
		if err := asks[name](everyone, endless); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "longer than it may") {
			t.Errorf("%s that takes too long: %v", name, err)
		}
		// The caller's own patience is a limit too.
		endless.cfg.Limits = store.Limits{Time: unbearable}
		ctx, cancel := context.WithTimeout(everyone, 300*time.Millisecond)
		if err := soon(t, name, asking(ctx, endless, name)); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s of an impatient caller: %v", name, err)
		}
		cancel()
		endless.cfg.Limits = store.Limits{Memory: 1 << 10}
		if err := asks[name](everyone, endless); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s that takes too much memory: %v", name, err)
		}
	}
	waitForNone(t, s.store)
}

// running counts the statements that the engine is at, of slow.
func running(t *testing.T, s *store.Store) (n uint64) {
	t.Helper()
	rows, err := s.Query(everyone, store.Limits{}, "SELECT count() FROM system.processes WHERE query LIKE '%CROSS JOIN events%' AND query NOT LIKE '%system.processes%'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// unbearable is the limit of time of a statement that a caller's leaving should
// end: a statement that goes on does so for longer than soon waits.
const unbearable = 2 * patience

const patience = 20 * time.Second

// asking asks on another goroutine.
func asking(ctx context.Context, s *Server, name string) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- asks[name](ctx, s) }()
	return ended
}

// soon is how a question ended, which it does long before its limit of time.
func soon(t *testing.T, name string, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		t.Fatalf("%s goes on in the engine though its caller has left", name)
		return nil
	}
}

// waitForNone waits until the engine is at no such statement.
func waitForNone(t *testing.T, s *store.Store) {
	t.Helper()
	for begun := time.Now(); running(t, s) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > patience {
			t.Fatal("the engine still runs the statement of a caller that has left")
		}
	}
}

// A caller that goes away ends its statement in the engine, whatever it asked.
func TestACallerThatLeavesEndsItsStatement(t *testing.T) {
	s := newShelf(t)
	s.put(t, defined(0, "files", "read", 'a', span("t", "read", "1", "")))
	endless := New(Config{Limits: store.Limits{Time: unbearable}}, slow{s.store}, quiet)
	for name := range asks {
		if name == "get" { // the engine sees at once that there is none such
			continue
		}
		ctx, cancel := context.WithCancel(everyone)
		ended := asking(ctx, endless, name)
		for running(t, s.store) == 0 {
			select {
			case err := <-ended:
				cancel()
				t.Fatalf("%s ends by itself: %v", name, err)
			case <-time.After(5 * time.Millisecond):
			}
		}
		cancel()
		if err := soon(t, name, ended); status.Code(err) != codes.Canceled {
			t.Errorf("%s whose caller left: %v", name, err)
		}
		waitForNone(t, s.store)
	}
	// The places of the readers are free again.
	for range 10 {
		s.list(t, &pb.ListEventsRequest{})
	}
}

// A server's own profile may have limits as well.
func TestALimitOfTheServersProfileIsALimit(t *testing.T) {
	for text, code := range map[string]codes.Code{
		"Code: 307. DB::Exception: Limit for rows or bytes to read exceeded":       codes.ResourceExhausted,
		"Code: 396. DB::Exception: Limit for result exceeded, max bytes: 1.00 KiB": codes.ResourceExhausted,
	} {
		for name, ask := range asks {
			if err := ask(everyone, New(Config{}, broken{errors.New(text)}, quiet)); status.Code(err) != code {
				t.Errorf("%s: %s: %v", name, text, err)
			}
		}
	}
}
