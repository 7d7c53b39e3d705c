package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const (
	batchEvents = 500 // in one request of the load generator
	streams     = 4
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
	address, stop, err := service(ctx, e, "ingest")
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
		g.Go(func() error { return load(gctx, e, address, uint64(i+1), &stored, &bytes) })
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
		plain("ingest event size", float64(bytes.Load())/float64(streams*batchEvents), "bytes on the wire"),
		atMost("ingest memory", peak/1e9, "GB resident, generator included", 0, "", 1.5),
		plain("ingest memory growth", (peak-before)/1e9, "GB during the run"),
	}, nil
}

// load sends events on one stream as fast as they are taken, until ctx ends.
func load(ctx context.Context, e Env, address string, seed uint64, stored, bytes *atomic.Int64) error {
	conn, c, err := client(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := ready(ctx, c); err != nil {
		return err
	}
	t, err := newTraffic(seed, e.Now())
	if err != nil {
		return err
	}
	// Contents are made beforehand: what is measured is taking them. Ids, times
	// and sequence numbers are new in each request.
	var templates []*pb.Event
	emitter := fmt.Sprintf("bench-%d", seed)
	for range 8 * batchEvents {
		ev := t.next()
		ev.EmitterID = emitter
		templates = append(templates, wire.ToProto(ev))
	}
	stream, err := c.Publish(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	const window = 16
	room := make(chan struct{}, window)
	g, gctx := errgroup.WithContext(context.Background())
	g.Go(func() error {
		defer stream.CloseSend()
		seq := uint64(0)
		for round := 0; ; round++ {
			select {
			case room <- struct{}{}:
			case <-gctx.Done():
				return nil
			}
			if ctx.Err() != nil {
				return nil
			}
			req := &pb.PublishRequest{Events: templates[round%8*batchEvents:][:batchEvents]}
			now := time.Now()
			for _, m := range req.Events {
				seq++
				m.EmitterSeq, m.EventId = seq, t.id(now).String()
				m.OccurredAt.Seconds, m.OccurredAt.Nanos = now.Unix(), int32(now.Nanosecond()/1000*1000)
			}
			if round == 0 {
				for _, m := range req.Events {
					bytes.Add(int64(protoSize(m)))
				}
			}
			if err := stream.Send(req); err != nil {
				return nil // the receiver has the reason
			}
		}
	})
	g.Go(func() error {
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if n := len(resp.GetReceipt().GetRejected()); n > 0 {
				return fmt.Errorf("%d events were rejected: %s", n, resp.GetReceipt().GetRejected()[0].GetReason())
			}
			stored.Add(int64(resp.GetReceipt().GetStored()))
			<-room
		}
	})
	return g.Wait()
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
	address, stop, err := service(ctx, e, "ack")
	if err != nil {
		return nil, err
	}
	const rate, senders = 5000, 50
	var mu sync.Mutex
	var all []time.Duration
	g, gctx := errgroup.WithContext(ctx)
	for i := range senders {
		g.Go(func() error {
			ds, err := sendSteadily(gctx, e, address, uint64(i+1), rate/senders)
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
func sendSteadily(ctx context.Context, e Env, address string, seed uint64, rate int) ([]time.Duration, error) {
	conn, c, err := client(address)
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
