package kafka_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/kafka"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/verify"
)

func TestMain(m *testing.M) { os.Exit(kafkatest.Main(m)) }

// message is the event of an emitter and a number, as its emitter sends it. Its
// contents depend on both alone.
func message(emitter string, seq uint64) client.Message {
	b, err := proto.Marshal(wire.ToProto(sent(emitter, seq)))
	if err != nil {
		panic(err)
	}
	return client.Message{Key: []byte(emitter), Value: b, Headers: []client.Header{{Key: "content-type", Value: []byte("application/protobuf")}}}
}

func sent(emitter string, seq uint64) *event.Event {
	h := uint64(14695981039346656037)
	for _, c := range []byte(emitter) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	e := event.Random(mathrand.New(mathrand.NewPCG(h, seq)))
	e.EmitterID, e.EmitterSeq = emitter, seq
	e.ReceivedAt, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = 0, "", 0, 0, 0
	return e
}

// messages are those of some numbers, first to last.
func messages(emitter string, first, last uint64) (out []client.Message) {
	for n := first; n <= last; n++ {
		out = append(out, message(emitter, n))
	}
	return out
}

// observer counts what a source says.
type observer struct {
	mu                           sync.Mutex
	settled, commits, failed     int
	dead                         map[string]int
	assigned, held, stuck, gains int
	lag                          map[int]int64
}

func (o *observer) do(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

func (o *observer) Settled(_, n int, _ time.Duration) { o.do(func() { o.settled += n }) }
func (o *observer) Lag(p int, n int64)                { o.do(func() { o.lag[p] = n }) }
func (o *observer) DeadLetter(reason string)          { o.do(func() { o.dead[reason]++ }) }
func (o *observer) Committed(ok bool)                 { o.do(func() { o.commits++ }) }
func (o *observer) Held(n int)                        { o.do(func() { o.held = n }) }
func (o *observer) Failed()                           { o.do(func() { o.failed++ }) }
func (o *observer) Assigned(n int) {
	o.do(func() {
		o.assigned = n
		if n > 0 {
			o.gains++
		}
	})
}
func (o *observer) Stuck(_ int, yes bool) {
	o.do(func() {
		if o.stuck++; !yes {
			o.stuck -= 2
		}
	})
}

func (o *observer) see(f func(*observer) bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return f(o)
}

type unwatched struct{}

func (unwatched) Committed(int, time.Duration) {}
func (unwatched) Settled(int, int, int)        {}
func (unwatched) StoreFailed()                 {}

// faulty is a store with faults, for the pipeline and the source alike. What is set is
// asked before the store is.
type faulty struct {
	*store.Store
	mu                          sync.Mutex
	append, sequences, unsealed func(context.Context) error
}

func (f *faulty) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// mend removes all faults.
func (f *faulty) mend() { f.set(func() { f.append, f.sequences, f.unsealed = nil, nil, nil }) }

func (f *faulty) first(ctx context.Context, which *func(context.Context) error) error {
	f.mu.Lock()
	do := *which
	f.mu.Unlock()
	if do == nil {
		return nil
	}
	return do(ctx)
}

func (f *faulty) Append(ctx context.Context, b store.Batch) error {
	if err := f.first(ctx, &f.append); err != nil {
		return err
	}
	return f.Store.Append(ctx, b)
}

func (f *faulty) Sequences(ctx context.Context, emitters []string) (map[string][]store.Run, error) {
	if err := f.first(ctx, &f.sequences); err != nil {
		return nil, err
	}
	return f.Store.Sequences(ctx, emitters)
}

func (f *faulty) UnsealedOfOthers(ctx context.Context, own string, lost []string) ([]store.BatchID, error) {
	if err := f.first(ctx, &f.unsealed); err != nil {
		return nil, err
	}
	return f.Store.UnsealedOfOthers(ctx, own, lost)
}

// hangs is a fault: no answer.
func hangs(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// fails is one with an answer.
func fails(context.Context) error { return errors.New("no route to the store") }

// instance is a pipeline that reads a topic.
type instance struct {
	t     *testing.T
	store *faulty
	watch *observer
	cfg   kafka.Config

	leave, end context.CancelFunc
	left, done chan struct{}
	err        error // of the pipeline
}

func newKey(t *testing.T, log string) *ledger.Key {
	t.Helper()
	k, _, err := ledger.NewKey(rand.Reader, log)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// run starts an instance on a store; it is stopped when the test ends, if not before.
func run(t *testing.T, s *store.Store, key *ledger.Key, cfg kafka.Config) *instance {
	t.Helper()
	if cfg.SessionTimeout == 0 {
		cfg.SessionTimeout = 6 * time.Second
	}
	if cfg.CommitEvery == 0 {
		cfg.CommitEvery = 50 * time.Millisecond
	}
	i := &instance{t: t, store: &faulty{Store: s}, watch: &observer{dead: map[string]int{}, lag: map[int]int64{}}, cfg: cfg, left: make(chan struct{}), done: make(chan struct{})}
	r, err := redact.New(redact.DefaultProfile(), []byte("the service's key in tests, 32 b"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	p := ingest.New(ingest.Config{Key: key, Shared: cfg.Shared}, i.store, r, time.Now, log, unwatched{})
	source, err := kafka.New(cfg, kafka.Deps{Pipeline: p, Store: i.store, LogID: key.LogID(), Diary: diary.New("kafka", p, time.Now), Now: time.Now, Log: log, Watch: i.watch})
	if err != nil {
		t.Fatal(err)
	}
	pipeline, end := context.WithCancel(context.Background())
	reading, leave := context.WithCancel(context.Background())
	i.leave, i.end = leave, end
	go func() {
		defer close(i.done)
		defer leave() // as the service does
		i.err = p.Run(pipeline)
	}()
	go func() {
		defer close(i.left)
		if err := source.Run(reading); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		i.store.mend()
		i.stop()
	})
	return i
}

// stop ends it as the service does: what is under way is settled.
func (i *instance) stop() {
	i.leave()
	<-i.left
	i.end()
	<-i.done
}

// eventually waits until is reports true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// stored counts the rows and the different numbers of an emitter.
func stored(t *testing.T, s *store.Store, emitter string) (rows, different uint64) {
	t.Helper()
	r, err := s.Query(t.Context(), store.Limits{}, "SELECT count(), uniqExact(emitter_seq) FROM events WHERE emitter_id = {id:String}", store.Named("id", emitter))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for r.Next() {
		if err := r.Scan(&rows, &different); err != nil {
			t.Fatal(err)
		}
	}
	return rows, different
}

// has says whether an emitter's first n events are stored.
func has(t *testing.T, s *store.Store, emitter string, n uint64) bool {
	t.Helper()
	_, different := stored(t, s, emitter)
	return different >= n
}

// problems is a verification's report.
type problems struct{ found []string }

func (p *problems) Problem(x *pb.VerifyProblem) error {
	p.found = append(p.found, x.String())
	return nil
}
func (p *problems) Progress(uint64, uint64) error { return nil }

// verified verifies the whole store, and checks that it has these emitters' events
// from 1 on, each once, and of others only what the service says of itself.
func verified(t *testing.T, s *store.Store, want map[string]uint64) {
	t.Helper()
	report := &problems{}
	summary, err := verify.Run(t.Context(), s, verify.Options{}, report)
	if err != nil {
		t.Fatal(err)
	}
	if summary.GetProblems() != 0 || len(report.found) > 0 {
		t.Errorf("verify finds %d problems: %s", summary.GetProblems(), strings.Join(report.found, "; "))
	}
	var sum uint64
	for emitter, n := range want {
		sum += n
		if rows, different := stored(t, s, emitter); rows != n || different != n {
			t.Errorf("%s: %d rows of %d events, want %d", emitter, rows, different, n)
		}
	}
	r, err := s.Query(t.Context(), store.Limits{}, "SELECT count() FROM events WHERE NOT startsWith(emitter_id, 'mcpaudit-')")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all uint64
	for r.Next() {
		if err := r.Scan(&all); err != nil {
			t.Fatal(err)
		}
	}
	if all != sum {
		t.Errorf("%d events are stored, want %d", all, sum)
	}
}

// ownEvents are the service's own events of a method, eventsOf those of an emitter.
func ownEvents(t *testing.T, s *store.Store, method string) []*event.Event {
	t.Helper()
	return eventsWhere(t, s, "method", method)
}

func eventsOf(t *testing.T, s *store.Store, emitter string) []*event.Event {
	t.Helper()
	return eventsWhere(t, s, "emitter_id", emitter)
}

func eventsWhere(t *testing.T, s *store.Store, column, value string) (out []*event.Event) {
	t.Helper()
	r, err := s.Query(t.Context(), store.Limits{}, "SELECT "+store.EventColumns+" FROM events WHERE "+column+" = {value:String} ORDER BY emitter_seq", store.Named("value", value))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for r.Next() {
		e, err := store.ScanEvent(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// setUp makes a topic with its dead-letter topic.
func setUp(c *kafkatest.Cluster, partitions int) kafka.Config {
	topic := c.NewTopic(partitions)
	dead := c.NewTopic(1)
	return kafka.Config{Cluster: c.Config(), Topic: topic, Group: "g-" + topic, DeadLetter: dead}
}

func emitters(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("emitter-%d", i))
	}
	return out
}

// openShared makes a store that several instances open.
func openShared(t *testing.T) (open func() *store.Store) {
	t.Helper()
	server := enginetest.Start(t)
	open = func() *store.Store {
		s, err := store.Open(t.Context(), store.Config{DSN: server.DSN()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	if _, err := open().Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	return open
}

func openStore(t *testing.T) *store.Store { return storetest.Open(t, t.TempDir()) }
