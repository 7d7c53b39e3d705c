package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const (
	lagRate   = 20_000 // events a second beside the attacks
	lagEvery  = 250 * time.Millisecond
	lagRepeat = 11 // the same call so often is a loop
)

// findingLag is the time from the last event that makes a finding to the moment when
// a client who watches has it, while the whole service, detectors included, takes
// 20000 events a second. Four times a second an agent begins a loop. It can't be less
// than what events are held back for, to bring them in order.
func findingLag(ctx context.Context, e Env) ([]Result, error) {
	at, stop, err := service(ctx, e, "lag", "ingest", "detect", "query")
	if err != nil {
		return nil, err
	}
	var stored, bytes atomic.Int64
	done, cancel := context.WithCancel(ctx)
	defer cancel()
	g, gctx := errgroup.WithContext(done)
	for i := range streams {
		g.Go(func() error { return load(gctx, e, at, uint64(i+1), lagRate/streams, &stored, &bytes) })
	}
	var lags []time.Duration
	attacks, rate := 0, 0.0
	g.Go(func() error {
		defer cancel()
		time.Sleep(e.Time / 5) // warm up
		stored.Store(0)
		var err error
		begun := time.Now()
		lags, attacks, err = loops(gctx, e, at)
		rate = float64(stored.Load()) / time.Since(begun).Seconds()
		return err
	})
	if err := errors.Join(g.Wait(), stop()); err != nil {
		return nil, err
	}
	if len(lags) < attacks {
		return nil, fmt.Errorf("%d loops were begun and %d found", attacks, len(lags))
	}
	held := milliseconds(detect.Lateness)
	return []Result{
		atMost("detect lag p50", milliseconds(quantile(lags, 0.5)), "ms from event to finding", held, "how long events are held back to be put in order", 0),
		atMost("detect lag p99", milliseconds(quantile(lags, 0.99)), "ms from event to finding", held, "the same", 2000),
		plain("detect lag rate", rate, "events/s stored meanwhile"),
	}, nil
}

// loops begins loops until the time is over, and says how long each took to be found.
func loops(ctx context.Context, e Env, at client.Config) (lags []time.Duration, attacks int, err error) {
	conn, c, err := dial(at)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := pb.NewFindingServiceClient(conn).WatchFindings(watching, &pb.WatchFindingsRequest{Filter: `rule = "agent-loop" AND principal = "agent:lag"`})
	if err != nil {
		return nil, 0, err
	}
	var mu sync.Mutex
	sent := map[string]time.Time{} // when the last event of a session left
	var g errgroup.Group
	g.Go(func() error {
		for {
			resp, err := stream.Recv()
			if status.Code(err) == codes.Canceled {
				return nil
			}
			if err != nil {
				return err
			}
			now := time.Now()
			mu.Lock()
			for _, f := range resp.GetFindings() {
				if at, ok := sent[f.GetSessionId()]; ok {
					lags = append(lags, now.Sub(at))
					delete(sent, f.GetSessionId())
				}
			}
			mu.Unlock()
		}
	})
	t, err := newTraffic(99, e.Now())
	if err != nil {
		return nil, 0, err
	}
	for end := time.Now().Add(e.Time); time.Now().Before(end) && ctx.Err() == nil; attacks++ {
		session := fmt.Sprint("lag-", attacks)
		now := time.Now()
		mu.Lock()
		sent[session] = now
		mu.Unlock()
		if _, err := c.PublishBatch(ctx, &pb.PublishBatchRequest{Events: loop(t, session, now, attacks)}); err != nil {
			return nil, 0, err
		}
		time.Sleep(time.Until(now.Add(lagEvery)))
	}
	for range 100 { // those that are under way
		mu.Lock()
		left := len(sent)
		mu.Unlock()
		if left == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	err = g.Wait()
	return lags, attacks, err
}

// loop is a session in which an agent makes the same call again and again, the last
// time now.
func loop(t *traffic, session string, now time.Time, n int) []*pb.Event {
	var out []*pb.Event
	for i := range lagRepeat {
		at := now.Add(time.Duration(i-lagRepeat+1) * time.Millisecond)
		ev := &event.Event{EventID: t.id(at), EmitterID: "lag", EmitterSeq: uint64(n*lagRepeat + i + 1), OccurredAt: at.UnixMicro(), Kind: "tool_call", Method: "tools/call",
			Outcome: "success", Principal: "agent:lag", PrincipalKind: "agent", SessionID: session, Server: "files", Target: "read_file"}
		ev.ArgumentsDigest[0], ev.ResultDigest[0] = 1, 2
		ev.SetDefaults()
		out = append(out, wire.ToProto(ev))
	}
	return out
}
