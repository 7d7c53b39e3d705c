package findings

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
)

const watchEvery = 250 * time.Millisecond // between looks for what was told

var errStopping = status.Error(codes.Unavailable, "the service is stopping; watch again when it is back")

// WatchFindings sends each version of a finding that is told from now on, once and in
// order. Versions are numbered without holes by one teller and are appended in their
// order, so nothing appears behind the number that was seen last.
func (s *Server) WatchFindings(req *pb.WatchFindingsRequest, stream pb.FindingService_WatchFindingsServer) error {
	if err := query.Validate(req); err != nil {
		return err
	}
	filter, args, err := Compile(req.GetFilter())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	ctx := stream.Context()
	seen, err := s.lastTold(ctx, 0)
	if err != nil {
		return s.status(ctx, err)
	}
	if err := s.send(ctx, stream, &pb.WatchFindingsResponse{}); err != nil {
		return err
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		rung := s.bell.wait() // before the look, so that nothing is told between the two
		last, err := s.lastTold(ctx, seen)
		if err != nil {
			return s.status(ctx, err)
		}
		for seen < last {
			to := min(last, seen+maxTold)
			if seen, err = s.tell(ctx, stream, seen, to, "("+filter+")"+hidden(req.GetShowSuppressed()), args); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-s.cfg.Stopping:
			return errStopping
		case <-tick.C:
		case <-rung:
		}
	}
}

// Told wakes those who watch: something was told by this process. Without it they
// look four times a second. It never blocks.
func (s *Server) Told() { s.bell.ring() }

// bell wakes all who wait for it.
type bell struct {
	mu     sync.Mutex
	waited chan struct{} // nil while nobody waits
}

func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waited == nil {
		b.waited = make(chan struct{})
	}
	return b.waited
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waited != nil {
		close(b.waited)
		b.waited = nil
	}
}

// lastTold is the number of what was told last, if that was after seen.
func (s *Server) lastTold(ctx context.Context, seen uint64) (last uint64, err error) {
	err = s.scan(ctx, func(rows driver.Rows) error { return rows.Scan(&last) },
		"SELECT max(seq) FROM findings WHERE seq > {seen:UInt64}", store.Named("seen", seen))
	return last, err
}

// tell sends what matches of the versions after seen, up to to or as many as one
// answer has room for, and says how far it has come.
func (s *Server) tell(ctx context.Context, stream pb.FindingService_WatchFindingsServer, seen, to uint64, condition string, args []any) (uint64, error) {
	list, err := s.standings(ctx, "SELECT "+stateColumns+" FROM "+viewOf("seq > {seen:UInt64} AND seq <= {to:UInt64}")+
		" WHERE "+condition+" ORDER BY seq LIMIT {limit:UInt32}"+viewSettings,
		slices.Concat(args, []any{store.Named("seen", seen), store.Named("to", to), store.Named("limit", maxTold)})...)
	if err != nil {
		return seen, s.status(ctx, err)
	}
	found, read, err := s.versions(ctx, list)
	if err != nil {
		return seen, s.status(ctx, err)
	}
	if len(found) > 0 {
		if err := s.send(ctx, stream, &pb.WatchFindingsResponse{Findings: found}); err != nil {
			return seen, err
		}
	}
	if read < len(list) {
		return list[read-1].seq, nil
	}
	return to, nil
}

// send hands one answer to a client; see query.Send.
func (s *Server) send(ctx context.Context, stream pb.FindingService_WatchFindingsServer, resp *pb.WatchFindingsResponse) error {
	return query.Send(ctx, s.cfg.Stopping, func() error { return stream.Send(resp) }, "watch again, and list what was told meanwhile")
}
