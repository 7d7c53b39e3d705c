// Package kafkatest gives tests a Kafka cluster of their own: brokers of Apache Kafka
// as processes (KRaft, controller and broker in one), which a test can kill, freeze
// and start again on the same data and port.
//
//	c := kafkatest.Start(t, 3)
//	topic := c.NewTopic(6)
//	c.Produce(topic, -1, kafka.Message{Key: …, Value: …})
//	c.Kill(c.Leader(topic, 0))
//
// Brokers count from 0, and a broker's number is its node id. The brokers die with
// the test's process, even if that is killed. A package with many tests shares one
// cluster: see Shared.
//
// The brokers are what `make setup` installed. Where it could not, or when the
// environment variable MCPAUDIT_KAFKA is "kfake", the tests run against franz-go's
// kfake in this process and say so in a line; what needs a broker that can die is
// then skipped. With MCPAUDIT_KAFKA=real they fail instead. It may also name a folder
// with an installed Kafka.
//
// Every method that takes no error back fails the test when it can't do its work, so
// call it on the test's own goroutine.
package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
)

// patience is how long a cluster may take for one thing, on a machine that is busy
// with other tests.
const patience = 90 * time.Second

// Cluster of brokers, as one test sees it.
type Cluster struct {
	t testing.TB
	*cluster
}

// cluster is what the tests that share it have in common.
type cluster struct {
	id      string     // of the cluster, as its brokers know it
	brokers []*process // empty with kfake
	fake    *kfake.Cluster
	reason  error     // for kfake
	secure  *Security // nil unless asked for

	client *kafka.Client // for the cluster's administration, over the plaintext listener
	mu     sync.Mutex    // guards topics
	topics int           // NewTopic has made
}

// Option of a cluster.
type Option func(*options)

type options struct {
	secure     bool
	properties []string
}

// Property sets one more property of the brokers' configuration.
func Property(name, value string) Option {
	return func(o *options) { o.properties = append(o.properties, name+"="+value) }
}

// Start starts a cluster for one test, which ends with it.
func Start(t testing.TB, brokers int, opts ...Option) *Cluster {
	t.Helper()
	dir, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	c, err := start(dir, brokers, opts)
	if err != nil {
		os.RemoveAll(dir)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.close()
		os.RemoveAll(dir)
	})
	return &Cluster{t: t, cluster: c}
}

// shared are the clusters of this process by their number of brokers.
var shared struct {
	sync.Mutex
	clusters map[int]*cluster
	dirs     []string
}

// Shared gives the cluster of so many brokers that the tests of this package share.
// The first call starts it. Brokers that an earlier test left dead or frozen are
// brought back first. Tests that use it have topics and groups of their own names
// (NewTopic), and do not harm brokers in parallel.
//
// The package ends it in its TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(kafkatest.Main(m)) }
func Shared(t testing.TB, brokers int) *Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	c := shared.clusters[brokers]
	if c == nil {
		dir, err := newFolder()
		if err != nil {
			t.Fatal(err)
		}
		shared.dirs = append(shared.dirs, dir)
		if c, err = start(dir, brokers, nil); err != nil {
			t.Fatal(err)
		}
		if shared.clusters == nil {
			shared.clusters = map[int]*cluster{}
		}
		shared.clusters[brokers] = c
	}
	view := &Cluster{t: t, cluster: c}
	view.heal()
	return view
}

// Main runs a package's tests, then ends the clusters that they shared, and returns
// the code to exit with.
func Main(m *testing.M) int {
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	for _, c := range shared.clusters {
		c.close()
	}
	shared.clusters = nil
	for _, dir := range shared.dirs {
		os.RemoveAll(dir)
	}
	return code
}

// newFolder makes a folder for brokers, with the number of this process in its name,
// and removes those of test processes that were killed an hour ago or earlier.
func newFolder() (string, error) {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "kafkatest-*-*")) // the pattern is right, so there is no error
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[1])
		info, gone := os.Stat(dir)
		if err == nil && gone == nil && time.Since(info.ModTime()) > time.Hour && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			os.RemoveAll(dir)
		}
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("kafkatest-%d-", os.Getpid()))
	if err != nil {
		return "", fmt.Errorf("make a folder for the brokers: %w", err)
	}
	return dir, nil
}

// saidSo: that the tests run against kfake is said once.
var saidSo sync.Once

// start starts a cluster whose data is in dir.
func start(dir string, brokers int, opts []Option) (*cluster, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	home, err := installed()
	if err != nil && os.Getenv(choice) != "kfake" && os.Getenv(choice) != "" {
		return nil, err
	}
	if reason := err; reason != nil {
		fake, err := kfake.NewCluster(kfake.NumBrokers(brokers), kfake.GroupMinSessionTimeout(time.Second))
		if err != nil {
			return nil, fmt.Errorf("start kfake: %w", err)
		}
		saidSo.Do(func() { fmt.Fprintf(os.Stderr, "kafkatest: %v; running against kfake\n", reason) })
		c := &cluster{fake: fake, reason: reason}
		c.connect()
		return c, nil
	}
	// Ports may be taken between the look and the start: then others are tried.
	for attempt := 1; ; attempt++ {
		c, err := startBrokers(home, fmt.Sprintf("%s/%d", dir, attempt), brokers, o)
		if err == nil || attempt == 3 || !strings.Contains(err.Error(), "in use") {
			return c, err
		}
	}
}

func startBrokers(home, dir string, brokers int, o options) (*cluster, error) {
	c := &cluster{id: newID()}
	if err := c.configure(home, dir, brokers, o); err != nil {
		return nil, err
	}
	err := c.eachBroker(func(b *process) error { return b.start() })
	if err == nil {
		c.connect()
		err = c.waitForAll()
	}
	if err == nil {
		err = c.waitForGroups()
	}
	if err == nil && c.secure != nil {
		err = c.secure.addUser(c.client)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// connect makes the client for administration. MetadataTTL is how old its view of the
// cluster may be, and also how long the question for it may take.
func (c *cluster) connect() {
	c.client = &kafka.Client{
		Addr:      kafka.TCP(c.addresses()...),
		Timeout:   20 * time.Second,
		Transport: &kafka.Transport{MetadataTTL: 2 * time.Second, ClientID: "kafkatest"},
	}
}

func (c *cluster) close() {
	if c.client != nil {
		c.forget()
	}
	for _, b := range c.brokers {
		b.kill()
	}
	if c.fake != nil {
		c.fake.Close()
	}
}

// eachBroker does something with all brokers at once and returns the first error.
func (c *cluster) eachBroker(do func(*process) error) error {
	errs := make(chan error, len(c.brokers))
	for _, b := range c.brokers {
		go func() { errs <- do(b) }()
	}
	var first error
	for range c.brokers {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

func (c *cluster) addresses() []string {
	if c.fake != nil {
		return c.fake.ListenAddrs()
	}
	out := make([]string, len(c.brokers))
	for i, b := range c.brokers {
		out[i] = b.address(plain)
	}
	return out
}

func (c *cluster) size() int { return len(c.addresses()) }

// Brokers are the addresses (HOST:PORT) of the plaintext listeners, by broker.
func (c *Cluster) Brokers() []string { return slices.Clone(c.addresses()) }

// Config reaches the cluster over its plaintext listeners.
func (c *Cluster) Config() broker.Config { return broker.Config{Brokers: c.Brokers()} }

// Real says whether these are Apache Kafka's brokers, not kfake.
func (c *Cluster) Real() bool { return c.fake == nil }

// NeedReal skips the test when the brokers are kfake's; why says what that can't do.
func (c *Cluster) NeedReal(why string) {
	c.t.Helper()
	if !c.Real() {
		c.t.Skipf("kafkatest: %v, and kfake can't %s", c.reason, why)
	}
}

// errEnded is what no waiting mends.
var errEnded = errors.New("it ended by itself")

// await asks until done says yes, and returns what it last said when that takes too
// long.
func await(done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := done(ctx)
		if err == nil || errors.Is(err, errEnded) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(30 * time.Millisecond):
		}
	}
}
