package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// cluster is an organisation's: a topic, a ClickHouse server and instances that share
// both, each a process of its own.
type cluster struct {
	t      *testing.T
	kafka  *kafkatest.Cluster
	engine *enginetest.Server
	topic  string
	dir    string
	admin  string // file of a key that makes others
	store  *store.Store
}

func newCluster(t *testing.T, partitions int) *cluster {
	t.Helper()
	c := &cluster{t: t, kafka: kafkatest.Shared(t, 3), engine: enginetest.Start(t), dir: t.TempDir()}
	c.topic = c.kafka.NewTopic(partitions)
	c.kafka.CreateTopic(c.topic+"-dead-letter", 1, 1, nil)
	var err error
	if c.store, err = store.Open(t.Context(), store.Config{DSN: c.engine.DSN()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.store.Close() })
	c.admin = filepath.Join(c.dir, "admin.key")
	succeed(t, "access", "bootstrap", "--store.dsn", c.engine.DSN(), "--out", c.admin)
	return c
}

// key has an instance make a key of some roles.
func (c *cluster) key(p *process, roles string) apiKey {
	c.t.Helper()
	return newAPIKey(c.t, p.await(c.t, `msg=serving .*grpc=(\S+)`), "tester", "--role", roles, "--api-key-file", c.admin)
}

// instance starts one. The same number is the same instance again.
func (c *cluster) instance(n int) *process {
	c.t.Helper()
	return launch(c.t, "serve", "--store.dsn", c.engine.DSN(), "--roles", "ingest,query", "--listen.grpc", "127.0.0.1:0", "--listen.http", "127.0.0.1:0",
		"--ledger.path", filepath.Join(c.dir, fmt.Sprint("instance-", n)), "--ledger.log", fmt.Sprint("instance-", n), "--ingest.shared", "--kafka.session_timeout", "3s",
		"--kafka.brokers", strings.Join(c.kafka.Brokers(), ","), "--kafka.topic", c.topic, "--kafka.group", c.topic)
}

// reads waits until an instance has been given partitions.
func (c *cluster) reads(p *process) *process {
	c.t.Helper()
	p.await(c.t, `partitions are assigned.* partitions=[1-9]`)
	return p
}

// load writes events of some emitters until it is ended.
type load struct {
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	want map[string]uint64
}

func (c *cluster) load(emitters int) *load {
	l := &load{stop: make(chan struct{}), want: map[string]uint64{}}
	l.wg.Go(func() {
		for n := uint64(1); ; n += 25 {
			for e := range emitters {
				select {
				case <-l.stop:
					return
				default:
				}
				name := fmt.Sprintf("emitter-%02d", e)
				var messages []kafka.Message
				for seq := n; seq < n+25; seq++ {
					b, err := proto.Marshal(sent(name, seq))
					if err != nil {
						panic(err)
					}
					messages = append(messages, kafka.Message{Key: []byte(name), Value: b})
				}
				c.kafka.Produce(c.topic, -1, messages...)
				l.mu.Lock()
				l.want[name] = n + 24
				l.mu.Unlock()
			}
		}
	})
	return l
}

func (l *load) sent() (n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.want {
		n += x
	}
	return n
}

// flows waits until so many more events were sent, while whatever happens happens.
func (c *cluster) flows(l *load, more uint64) {
	c.t.Helper()
	before := l.sent()
	waitFor(c.t, func() bool { return l.sent() > before+more })
}

// count is the rows and the different events of all emitters of the load.
func (c *cluster) count() (rows, different uint64) {
	r, err := c.store.Query(c.t.Context(), store.Limits{}, "SELECT count(), uniqExact(emitter_id, emitter_seq) FROM events WHERE startsWith(emitter_id, 'emitter-')")
	if err != nil {
		return 0, 0 // the server is away
	}
	defer r.Close()
	for r.Next() {
		_ = r.Scan(&rows, &different)
	}
	return rows, different
}

// settled ends the load, waits until all of it is stored, and verifies: every event
// once, and the logs of all instances as they were signed.
func (c *cluster) settled(l *load, by *process) {
	c.t.Helper()
	close(l.stop)
	l.wg.Wait()
	want := l.sent()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		rows, different := c.count()
		if different == want {
			if rows != want {
				c.t.Errorf("%d rows of %d events", rows, want)
			}
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%d events of %d are stored\n%s", different, want, by.text())
		}
		time.Sleep(100 * time.Millisecond)
	}
	verified(c.t, by.await(c.t, `msg=serving .*grpc=(\S+)`), "--api-key-file", c.key(by, "auditor").file)
}

// Promises 1, 2 and 4 with Kafka: an instance is killed in the middle of batches, the
// other one takes over; the first one comes back and is killed again.
func TestPromise2InstancesThatAreKilledLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	first := c.reads(c.instance(1))
	l := c.load(12)
	second := c.reads(c.instance(2))
	c.flows(l, 2000)
	for range 2 {
		first.kill()
		c.flows(l, 2000)
		first = c.reads(c.instance(1))
		c.flows(l, 2000)
	}
	// All of what the first one left is sealed: it is back.
	c.settled(l, second)
	waitFor(t, func() bool {
		sum := uint64(0)
		for _, at := range c.kafka.Committed(c.topic, c.topic) {
			sum += uint64(max(at, 0))
		}
		return sum >= l.sent()
	})
}

// The store goes away for a minute, by kill -9, while events keep coming.
func TestPromise1TheStoreIsAwayForAMinuteAndNothingIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	p := c.reads(c.instance(1))
	l := c.load(3)
	c.flows(l, 1000)
	c.engine.Kill()
	away := time.Now()
	p.await(t, `does not take events|has not answered`)
	c.flows(l, 500)
	time.Sleep(time.Until(away.Add(time.Minute)))
	c.engine.Restart()
	c.flows(l, 1000)
	c.settled(l, p)
}

// A frozen instance wakes up when others have been given what it was about to store.
func TestAnInstanceThatWasFrozenStoresNothingOfWhatOthersWereGiven(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4)
	first, second := c.reads(c.instance(1)), c.instance(2)
	c.reads(second)
	l := c.load(8)
	c.flows(l, 1000)
	joined := func() int { return strings.Count(first.text(), "partitions are assigned") }
	before := joined()
	toProcess(t, first, syscall.SIGSTOP)
	second.await(t, `partitions=4`)
	c.flows(l, 1000)
	toProcess(t, first, syscall.SIGCONT)
	c.flows(l, 1000)
	// It goes on as a new member, or ends, where it does not know what became of a batch
	// that was on its way; then whoever looks after it starts it again.
	waitFor(t, func() bool { return joined() > before || strings.Contains(first.text(), "others may have been given") })
	if strings.Contains(first.text(), "others may have been given") {
		<-first.ended
		c.reads(c.instance(1))
	}
	c.settled(l, second)
}

func TestASharedStoreTakesNothingOverGRPC(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	p := c.reads(c.instance(1))
	publisher := pb.NewIngestServiceClient(connectAs(t, p.await(t, `msg=serving .*grpc=(\S+)`), c.key(p, "emitter").file))
	_, err := publisher.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: []*pb.Event{sent("x", 1)}})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), c.topic) {
		t.Errorf("answered %v", err)
	}
}

func toProcess(t *testing.T, p *process, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}
