package query

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const (
	watchEvery  = 250 * time.Millisecond // between looks for new batches
	fewWatchers = 5                      // that look so often
	watchPage   = 1000                   // events in one answer
	watchBytes  = 1 << 20                // memory of one answer, or one event: it lies about until the client reads it
	stalled     = time.Minute            // a client that reads nothing for so long is cut off
)

var errStopping = status.Error(codes.Unavailable, "the service is stopping; watch again when it is back")

// A cursor is how far a watcher has seen one log: all of the batches before
// batch, and of batch itself what lies before leaf. Batches of a log are
// committed in order, one writer each, so nothing appears behind a cursor.
type cursor struct {
	batch uint64
	leaf  uint32
}

// watcher tails the logs of the store.
type watcher struct {
	s      *Server
	cond   condition
	wanted mask
	seen   map[string]cursor // by log
}

// WatchEvents sends events as they are stored.
func (s *Server) WatchEvents(req *pb.WatchEventsRequest, stream pb.QueryService_WatchEventsServer) error {
	if err := validate(req); err != nil {
		return err
	}
	ctx := stream.Context()
	see, err := s.view(ctx)
	if err != nil {
		return err
	}
	cond, err := see.filter(req.GetFilter())
	if err != nil {
		return err
	}
	wanted, err := see.mask(req.GetReadMask())
	if err != nil {
		return err
	}
	w := &watcher{s: s, cond: cond, wanted: wanted, seen: map[string]cursor{}}
	ends, err := w.ends(ctx)
	if err != nil {
		return err
	}
	for log, last := range ends {
		w.seen[log] = cursor{batch: last + 1}
	}
	if err := s.send(ctx, stream, &pb.WatchEventsResponse{}); err != nil {
		return err
	}
	s.watching.Add(1)
	defer s.watching.Add(-1)
	for {
		// However many watch, they ask the store about as often as few do.
		look := time.NewTimer(watchEvery * time.Duration(1+s.watching.Load()/fewWatchers))
		select {
		case <-ctx.Done():
			look.Stop()
			return status.FromContextError(ctx.Err()).Err()
		case <-s.cfg.Stopping:
			look.Stop()
			return errStopping
		case <-look.C:
		}
		ends, err := w.ends(ctx)
		if err != nil {
			return err
		}
		for log, last := range ends {
			if err := w.follow(ctx, stream, log, last); err != nil {
				return err
			}
		}
	}
}

// ends are the last batches of the logs that have some which w has not seen.
func (w *watcher) ends(ctx context.Context) (map[string]uint64, error) {
	// Each log has a lower bound of its own, in a form that the index on batch
	// understands.
	var known []string
	var args []any
	for log, c := range w.seen {
		n := strconv.Itoa(len(known))
		known = append(known, "log_id = {log"+n+":String} AND batch >= {batch"+n+":UInt64}")
		args = append(args, store.Named("log"+n, log), store.Named("batch"+n, c.batch))
	}
	sql := "SELECT log_id, max(batch) FROM events WHERE 1 GROUP BY log_id"
	if len(known) > 0 {
		fresh, err := w.newLogs(ctx)
		if err != nil {
			return nil, err
		}
		for i, log := range fresh {
			n := "n" + strconv.Itoa(i)
			known = append(known, "log_id = {log"+n+":String}")
			args = append(args, store.Named("log"+n, log))
		}
		sql = "SELECT log_id, max(batch) FROM events WHERE " + strings.Join(known, " OR ") + " GROUP BY log_id"
	}
	rows, err := w.s.store.Query(ctx, w.s.cfg.Limits, sql, args...)
	if err != nil {
		return nil, w.s.status(ctx, err)
	}
	defer rows.Close()
	ends := map[string]uint64{}
	for rows.Next() {
		var log string
		var last uint64
		if err := rows.Scan(&log, &last); err != nil {
			return nil, w.s.status(ctx, err)
		}
		ends[log] = last
	}
	if err := rows.Err(); err != nil {
		return nil, w.s.status(ctx, err)
	}
	return ends, nil
}

// newLogs are the logs that were started since w last looked: of all tenants, whose
// table that is. Nobody is told of a log unless an event of his own is in it.
func (w *watcher) newLogs(ctx context.Context) ([]string, error) {
	rows, err := w.s.store.Query(ctx, w.s.cfg.Limits, "SELECT DISTINCT log_id FROM logs")
	if err != nil {
		return nil, w.s.status(ctx, err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var log string
		if err := rows.Scan(&log); err != nil {
			return nil, w.s.status(ctx, err)
		}
		if _, seen := w.seen[log]; !seen {
			out = append(out, log)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, w.s.status(ctx, err)
	}
	return out, nil
}

// follow sends what a log has up to and with batch last.
func (w *watcher) follow(ctx context.Context, stream pb.QueryService_WatchEventsServer, log string, last uint64) error {
	for {
		from := w.seen[log]
		args := append([]any{store.Named("log", log), store.Named("batch", from.batch), store.Named("leaf", from.leaf),
			store.Named("last", last), store.Named("limit", watchPage)}, w.cond.args...)
		events, full, err := w.s.events(ctx, watchBytes, "SELECT "+w.wanted.columns("log_id", "batch", "leaf")+` FROM events
			WHERE log_id = {log:String} AND batch BETWEEN {batch:UInt64} AND {last:UInt64}
				AND (batch, leaf) >= ({batch:UInt64}, {leaf:UInt32}) AND `+w.cond.sql+`
			ORDER BY batch, leaf LIMIT {limit:UInt32}`, args...)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			if err := w.s.send(ctx, stream, w.answer(events)); err != nil {
				return err
			}
		}
		if len(events) < watchPage && !full {
			w.seen[log] = cursor{batch: last + 1}
			return nil
		}
		e := events[len(events)-1]
		w.seen[log] = cursor{e.Batch, e.Leaf + 1}
	}
}

func (w *watcher) answer(events []*event.Event) *pb.WatchEventsResponse {
	resp := &pb.WatchEventsResponse{}
	for _, e := range events {
		resp.Events = append(resp.Events, w.wanted.prune(wire.ToProto(e)))
	}
	return resp
}

// send hands one answer to a client; see Send.
func (s *Server) send(ctx context.Context, stream pb.QueryService_WatchEventsServer, resp *pb.WatchEventsResponse) error {
	return Send(ctx, s.cfg.Stopping, func() error { return stream.Send(resp) }, "start again from the last event you have")
}

// Send hands one answer to a client that may have stopped reading: nothing gathers
// behind it, and after a minute it is given up with RESOURCE_EXHAUSTED, which says what
// to do next. stopping ends it as well.
func Send(ctx context.Context, stopping <-chan struct{}, send func() error, next string) error {
	sent := make(chan error, 1)
	// Ends with the stream at the latest: returning cancels it, and Send with it.
	go func() { sent <- send() }()
	patience := time.NewTimer(stalled)
	defer patience.Stop()
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-stopping:
		return errStopping
	case <-patience.C:
		return status.Error(codes.ResourceExhausted, "the client has read nothing for a minute; "+next)
	}
}
