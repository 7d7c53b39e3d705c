package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// ingestRate is the rate at which events are taken over gRPC: redacted again,
// sealed, synced and acknowledged. Its limit is the store alone: the same rows,
// made beforehand, appended in batches of 20000.
func ingestRate(ctx context.Context, e Env) ([]Result, error) {
	fmt.Fprintln(e.Say, "measuring the store alone")
	s, err := emptyStore(ctx, e, "limit")
	if err != nil {
		return nil, err
	}
	took, err := appendBatches(ctx, e, s, 20000, e.Time/3)
	s.Close()
	if err != nil {
		return nil, err
	}
	limit := 20000 / quantile(took, 0.5).Seconds()

	fmt.Fprintln(e.Say, "measuring the service")
	at, stop, err := service(ctx, e, "ingest", "ingest", "query")
	if err != nil {
		return nil, err
	}
	var stored atomic.Int64
	var bytes atomic.Int64
	var before, peak float64
	begin := time.Time{}
	measure := sync.OnceFunc(func() { begin, before = time.Now(), residentBytes(); stored.Store(0) })
	ctx2, cancel := context.WithCancel(ctx)
	g, gctx := errgroup.WithContext(ctx2)
	for i := range streams {
		g.Go(func() error { return load(gctx, e, at, uint64(i+1), 0, &stored, &bytes) })
	}
	time.Sleep(e.Time / 5) // warm up
	measure()
	for range 10 {
		time.Sleep(e.Time / 10)
		peak = max(peak, residentBytes())
	}
	n, elapsed := stored.Load(), time.Since(begin)
	cancel()
	loadErr := g.Wait()
	if err := stop(); err != nil {
		return nil, err
	}
	if loadErr != nil {
		return nil, loadErr
	}
	return []Result{
		atLeast("ingest", float64(n)/elapsed.Seconds(), "events/s", limit, "the same rows appended to the store, made beforehand", 120e3),
		plain("ingest event", float64(bytes.Load())/float64(streams*batchEvents), "bytes on the wire"),
		atMost("ingest memory", peak/1e9, "GB resident, generator included", 0, "", 1.5),
		plain("ingest memory growth", (peak-before)/1e9, "GB during the run"),
	}, nil
}

// ack is the time from sending an event to its acknowledgement at 5000 events
// a second, from 50 senders that each wait for their answers. Its limit is the
// store alone: one batch of what arrives in 25 ms, appended and synced.
func ack(ctx context.Context, e Env) ([]Result, error) {
	fmt.Fprintln(e.Say, "measuring the store alone")
	s, err := emptyStore(ctx, e, "limit")
	if err != nil {
		return nil, err
	}
	took, err := appendBatches(ctx, e, s, 125, e.Time/4)
	s.Close()
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(e.Say, "measuring the service")
	at, stop, err := service(ctx, e, "ack", "ingest", "query")
	if err != nil {
		return nil, err
	}
	const rate, senders = 5000, 50
	var mu sync.Mutex
	var all []time.Duration
	g, gctx := errgroup.WithContext(ctx)
	for i := range senders {
		g.Go(func() error {
			ds, err := sendSteadily(gctx, e, at, uint64(i+1), rate/senders)
			mu.Lock()
			all = append(all, ds...)
			mu.Unlock()
			return err
		})
	}
	loadErr := g.Wait()
	if err := stop(); err != nil {
		return nil, err
	}
	if loadErr != nil {
		return nil, loadErr
	}
	return []Result{
		atMost("ack p50", milliseconds(quantile(all, 0.5)), "ms", milliseconds(quantile(took, 0.5)), "one synced batch of 125 rows, p50", 40),
		atMost("ack p99", milliseconds(quantile(all, 0.99)), "ms", milliseconds(quantile(took, 0.99)), "one synced batch of 125 rows, p99", 150),
		plain("ack rate", float64(len(all))/e.Time.Seconds(), "events/s offered and acknowledged"),
	}, nil
}

// sendSteadily sends single events at a rate, each on time whether or not the
// one before it was answered, and returns the time to each answer.
func sendSteadily(ctx context.Context, e Env, at client.Config, seed uint64, rate int) ([]time.Duration, error) {
	conn, c, err := dial(at)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := ready(ctx, c); err != nil {
		return nil, err
	}
	t, err := newTraffic(seed, e.Now())
	if err != nil {
		return nil, err
	}
	stream, err := c.Publish(ctx)
	if err != nil {
		return nil, err
	}
	sent := make(chan time.Time, 100000)
	var took []time.Duration
	g, _ := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer stream.CloseSend()
		defer close(sent)
		gap := time.Second / time.Duration(rate)
		start := time.Now().Add(time.Duration(t.r.Int64N(int64(gap))))
		for n := uint64(1); ; n++ {
			due := start.Add(time.Duration(n) * gap)
			if due.Sub(start) > e.Time {
				return nil
			}
			ev := t.next()
			ev.EmitterID, ev.EmitterSeq = fmt.Sprintf("ack-%d", seed), n
			m := wire.ToProto(ev)
			time.Sleep(time.Until(due))
			sent <- due
			if err := stream.Send(&pb.PublishRequest{Events: []*pb.Event{m}}); err != nil {
				return nil
			}
		}
	})
	g.Go(func() error {
		for due := range sent {
			if _, err := stream.Recv(); err != nil {
				return err
			}
			took = append(took, time.Since(due))
		}
		return nil
	})
	err = g.Wait()
	return took, err
}
