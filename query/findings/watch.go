package findings

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
)

const (
	watchEvery = 250 * time.Millisecond // between looks for what was told
	newTellers = 4                      // and for who has not told before, at one in so many
)

var errStopping = status.Error(codes.Unavailable, "the service is stopping; watch again when it is back")

// WatchFindings sends each version of a finding that is told from now on, once and in
// the order of its teller. Versions are numbered without holes by each teller and are
// appended in their order, so nothing appears behind the number that was seen last,
// but for what was told twice: a share of the detectors that has changed hands.
func (s *Server) WatchFindings(req *pb.WatchFindingsRequest, stream pb.FindingService_WatchFindingsServer) error {
	if err := query.Validate(req); err != nil {
		return err
	}
	ctx := stream.Context()
	who, err := s.store.Access(ctx)
	if err != nil {
		return err
	}
	filter, args, err := compile(req.GetFilter(), who)
	if err != nil {
		return err
	}
	seen, err := s.lastTold(ctx, nil, true)
	if err != nil {
		return s.status(ctx, err)
	}
	if err := s.send(ctx, stream, &pb.WatchFindingsResponse{}); err != nil {
		return err
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for look := 0; ; look++ {
		rung := s.bell.wait() // before the look, so that nothing is told between the two
		last, err := s.lastTold(ctx, seen, look%newTellers == 0)
		if err != nil {
			return s.status(ctx, err)
		}
		for _, teller := range slices.Sorted(maps.Keys(last)) {
			for seen[teller] < last[teller] {
				span := told{teller, seen[teller], min(last[teller], seen[teller]+maxTold)}
				if seen[teller], err = s.tell(ctx, stream, span, "("+filter+")"+hidden(req.GetShowSuppressed()), args); err != nil {
					return err
				}
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

// lastTold is the number of what each teller told last, of those that told something
// after what was seen of them. With others set, it looks for tellers of whom nothing
// was seen, too, who have told all of it since: that takes a look at the whole table,
// though at one narrow column.
func (s *Server) lastTold(ctx context.Context, seen map[string]uint64, others bool) (map[string]uint64, error) {
	where, args := "1", []any(nil)
	if len(seen) > 0 {
		var told, known []string
		for i, teller := range slices.Sorted(maps.Keys(seen)) {
			n := strconv.Itoa(i)
			told = append(told, "teller = {teller"+n+":String} AND seq > {seen"+n+":UInt64}")
			known = append(known, "{teller"+n+":String}")
			args = append(args, store.Named("teller"+n, teller), store.Named("seen"+n, seen[teller]))
		}
		if others {
			told = append(told, "teller NOT IN ("+strings.Join(known, ", ")+")")
		}
		where = strings.Join(told, " OR ")
	}
	last := map[string]uint64{}
	err := s.scan(ctx, func(rows driver.Rows) error {
		var teller string
		var seq uint64
		err := rows.Scan(&teller, &seq)
		last[teller] = seq
		return err
	}, "SELECT toString(teller) AS name, max(seq) FROM findings WHERE "+where+" GROUP BY name", args...)
	return last, err
}

// told is what a teller told after one number, up to another.
type told struct {
	teller    string
	after, to uint64
}

// tell sends what matches of some versions, all or as many as one answer has room
// for, and says how far it has come.
func (s *Server) tell(ctx context.Context, stream pb.FindingService_WatchFindingsServer, span told, condition string, args []any) (seen uint64, err error) {
	seen = span.after
	list, err := s.standings(ctx, "SELECT "+stateColumns+" FROM "+viewOf("teller = {teller:String} AND seq > {seen:UInt64} AND seq <= {to:UInt64}")+
		" WHERE "+condition+" ORDER BY seq LIMIT 1 BY finding_id, version LIMIT {limit:UInt32}"+viewSettings,
		slices.Concat(args, []any{store.Named("teller", span.teller), store.Named("seen", span.after), store.Named("to", span.to), store.Named("limit", maxTold)})...)
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
	return span.to, nil
}

// send hands one answer to a client; see query.Send.
func (s *Server) send(ctx context.Context, stream pb.FindingService_WatchFindingsServer, resp *pb.WatchFindingsResponse) error {
	return query.Send(ctx, s.cfg.Stopping, func() error { return stream.Send(resp) }, "watch again, and list what was told meanwhile")
}
