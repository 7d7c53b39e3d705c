package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/kafka"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// partitions of the topic that is measured with.
const partitions = 4

// fromKafka is the rate at which events of a topic are stored, which lie there when
// it begins, beside what gRPC reaches in the same run; and at 5000 events a second,
// the time from the producer's stamp until an event is sealed.
func fromKafka(ctx context.Context, e Env) ([]Result, error) {
	grpc, err := ingestRate(ctx, e)
	if err != nil {
		return nil, err
	}
	t, err := newTopic(ctx, e)
	if err != nil {
		return nil, err
	}
	defer t.remove()

	count := max(200_000, int(grpc[0].Value*e.Time.Seconds()*1.2))
	fmt.Fprintf(e.Say, "writing %d events into the topic\n", count)
	if err := t.fill(ctx, e, count); err != nil {
		return nil, err
	}
	fmt.Fprintln(e.Say, "measuring how fast they are stored")
	rate, err := t.drain(ctx, e, count)
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(e.Say, "measuring the time at 5000 events a second")
	waited, err := t.follow(ctx, e, 5000)
	if err != nil {
		return nil, err
	}
	return []Result{
		atLeast("kafka", rate, "events/s", grpc[0].Limit, "the same rows appended to the store, made beforehand", min(100e3, 0.85*grpc[0].Value)),
		plain("kafka beside gRPC", rate/grpc[0].Value, "of what gRPC reaches in this run, load generator included"),
		plain("kafka p50", milliseconds(quantile(waited, 0.5)), "ms until sealed, of the oldest event of each fetch"),
		atMost("kafka p99", milliseconds(quantile(waited, 0.99)), "ms until sealed, of the oldest event of each fetch", 0, "", 1000),
	}, nil
}

// topic is one that this run has made.
type topic struct {
	client  *kafkago.Client
	cluster broker.Config
	name    string
	runs    int
	last    [partitions]uint64 // number of each emitter's last event
}

func newTopic(ctx context.Context, e Env) (*topic, error) {
	var noise [6]byte
	rand.Read(noise[:])
	t := &topic{cluster: broker.Config{Brokers: e.Brokers}, name: "mcpaudit-bench-" + hex.EncodeToString(noise[:])}
	pool, err := t.cluster.Transport()
	if err != nil {
		return nil, err
	}
	t.client = &kafkago.Client{Addr: t.cluster.Addr(), Transport: pool}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	made, err := t.client.CreateTopics(ctx, &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{
		{Topic: t.name, NumPartitions: partitions, ReplicationFactor: 1}, {Topic: t.name + "-dead-letter", NumPartitions: 1, ReplicationFactor: 1}}})
	if err == nil {
		err = errors.Join(made.Errors[t.name], made.Errors[t.name+"-dead-letter"])
	}
	if err != nil {
		return nil, fmt.Errorf("make a topic at %v: %w; 'make kafka-up' starts a broker here, --brokers names another one", e.Brokers, err)
	}
	time.Sleep(time.Second) // until its leaders are known everywhere
	return t, nil
}

func (t *topic) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, _ = t.client.DeleteTopics(ctx, &kafkago.DeleteTopicsRequest{Topics: []string{t.name, t.name + "-dead-letter"}})
}

// records are the events of an encoded request, one message each.
type records struct {
	values [][]byte
	next   int
	at     time.Time
}

func (r *records) ReadRecord() (*kafkago.Record, error) {
	if r.next == len(r.values) {
		return nil, io.EOF
	}
	r.next++
	return &kafkago.Record{Time: r.at, Value: kafkago.NewBytes(r.values[r.next-1]),
		Headers: []kafkago.Header{{Key: "content-type", Value: []byte("application/protobuf")}}}, nil
}

// messages are the events in a request's bytes.
func messages(request []byte) (values [][]byte) {
	for len(request) > 0 {
		_, _, n := protowire.ConsumeTag(request)
		one, m := protowire.ConsumeBytes(request[n:])
		values, request = append(values, one), request[n+m:]
	}
	return values
}

// produce writes the events of a request, stamped at.
func (t *topic) produce(ctx context.Context, partition int, values [][]byte, at time.Time) error {
	answer, err := t.client.Produce(ctx, &kafkago.ProduceRequest{Topic: t.name, Partition: partition, RequiredAcks: kafkago.RequireAll,
		Records: &records{values: values, at: at}, Compression: kafkago.Zstd})
	if err == nil {
		err = answer.Error
	}
	if err != nil {
		return fmt.Errorf("write events into the topic: %w", err)
	}
	return nil
}

// fill writes events as fast as they are taken, one emitter for each partition.
func (t *topic) fill(ctx context.Context, e Env, count int) error {
	g, ctx := errgroup.WithContext(ctx)
	for p := range partitions {
		g.Go(func() error {
			load, err := newTraffic(uint64(100+p), e.Now())
			if err != nil {
				return err
			}
			r, err := encode(load, fmt.Sprintf("bench-%d", p))
			if err != nil {
				return err
			}
			for written := 0; written < count/partitions; written += batchEvents {
				t.last[p] = r.renew(load, t.last[p], e.Now())
				if err := t.produce(ctx, p, messages(r.data), e.Now()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// watching hears a source.
type watching struct {
	mu      sync.Mutex
	settled int
	waited  []time.Duration
	dead    int
}

func (w *watching) Settled(_, n int, waited time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled += n
	w.waited = append(w.waited, waited)
}

func (w *watching) DeadLetter(string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead++
}
func (*watching) Lag(int, int64)  {}
func (*watching) Committed(bool)  {}
func (*watching) Held(int)        {}
func (*watching) Assigned(int)    {}
func (*watching) Stuck(int, bool) {}
func (*watching) Failed()         {}

func (w *watching) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settled
}

// unheard is a pipeline's observer.
type unheard struct{}

func (unheard) Committed(int, time.Duration) {}
func (unheard) Settled(int, int, int)        {}
func (unheard) StoreFailed()                 {}

// read stores the topic's events, as the service would, until stop.
func (t *topic) read(ctx context.Context, e Env) (w *watching, stop func() error, err error) {
	t.runs++
	s, err := emptyStore(ctx, e, fmt.Sprint("kafka-", t.runs))
	if err != nil {
		return nil, nil, err
	}
	key, _, err := ledger.NewKey(rand.Reader, "bench")
	if err != nil {
		return nil, nil, err
	}
	scrub, err := redact.New(redact.DefaultProfile(), []byte("a key of the benchmark, 32 bytes"))
	if err != nil {
		return nil, nil, err
	}
	p := ingest.New(ingest.Config{Key: key}, s, scrub, e.Now, e.Log, unheard{})
	w = &watching{}
	source, err := kafka.New(kafka.Config{Cluster: t.cluster, Topic: t.name, Group: t.name, SessionTimeout: 10 * time.Second},
		kafka.Deps{Pipeline: p, Store: s, LogID: key.LogID(), Diary: diary.New("kafka", p, e.Now), Now: e.Now, Log: e.Log, Watch: w})
	if err != nil {
		return nil, nil, err
	}
	reading, leave := context.WithCancel(ctx)
	storing, end := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	left := make(chan struct{})
	g.Go(func() error { defer close(left); return source.Run(reading) })
	g.Go(func() error { return p.Run(storing) })
	return w, func() error {
		leave()
		<-left
		end()
		return errors.Join(g.Wait(), s.Close())
	}, nil
}

// drain stores what lies in the topic, and says how many events a second: of the
// middle, without the first and the last tenth.
func (t *topic) drain(ctx context.Context, e Env, count int) (float64, error) {
	w, stop, err := t.read(ctx, e)
	if err != nil {
		return 0, err
	}
	var from, to time.Time
	first, last := 0, 0
	for started := time.Now(); last < count*9/10; time.Sleep(5 * time.Millisecond) {
		n := w.count()
		if from.IsZero() && n >= count/10 {
			from, first = time.Now(), n
		}
		if !from.IsZero() {
			to, last = time.Now(), n
		}
		if time.Since(started) > 10*time.Minute || ctx.Err() != nil {
			return 0, errors.Join(fmt.Errorf("%d events of %d are stored after %v", n, count, time.Since(started)), stop())
		}
	}
	if err := stop(); err != nil {
		return 0, err
	}
	if w.dead > 0 {
		return 0, fmt.Errorf("%d messages were dead letters", w.dead)
	}
	return float64(last-first) / to.Sub(from).Seconds(), nil
}

// follow writes events at a rate while they are stored, and says how long each fetch's
// oldest took.
func (t *topic) follow(ctx context.Context, e Env, rate int) ([]time.Duration, error) {
	w, stop, err := t.read(ctx, e)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stop() }()
	before := -1
	for since := time.Now(); time.Since(since) < 2*time.Second; time.Sleep(50 * time.Millisecond) {
		if n := w.count(); n != before { // what drain has left
			before, since = n, time.Now()
		}
	}
	w.mu.Lock()
	w.waited, w.settled = nil, 0
	w.mu.Unlock()
	const portion = 10 // events in one request to the broker
	g, gctx := errgroup.WithContext(ctx)
	wrote := make([]int, partitions)
	for p := range partitions {
		g.Go(func() error {
			load, err := newTraffic(uint64(200+p), e.Now())
			if err != nil {
				return err
			}
			r, err := encode(load, fmt.Sprintf("slow-%d", p))
			if err != nil {
				return err
			}
			seq, gap := uint64(0), portion*partitions*time.Second/time.Duration(rate)
			start := time.Now()
			for n := 1; ; {
				seq = r.renew(load, seq, e.Now())
				for part := range slices.Chunk(messages(r.data), portion) {
					due := start.Add(time.Duration(n) * gap)
					if due.Sub(start) > e.Time {
						return nil
					}
					time.Sleep(time.Until(due))
					if err := t.produce(gctx, p, part, e.Now()); err != nil {
						return err
					}
					wrote[p] += len(part)
					n++
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := 0
	for _, n := range wrote {
		all += n
	}
	for end := time.Now().Add(time.Minute); w.count() < all; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return nil, fmt.Errorf("%d events of %d are stored a minute after the last", w.count(), all)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.waited), nil
}
