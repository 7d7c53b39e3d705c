// Package kafka carries an emitter's events to a Kafka topic, from which the
// mcpaudit service reads them:
//
//	to, err := kafka.Open("kafkas://broker-1:9093,broker-2:9093/mcp-audit", os.Getenv)
//	e, err := emit.Open(emit.Config{Transport: to, …}, …)
//
// # The message
//
// One event is one message:
//
//	key      emitter_id, so that all events of an emitter are in one partition, in
//	         order; the partition is that of Kafka's Java client (murmur2)
//	value    mcpaudit.v1.Event as protobuf
//	header   content-type: application/protobuf
//	time     when it was sent
//
// Batches are compressed with zstd: 143 bytes of a 770-byte event are left on the
// wire and on every replica's disk, of which lz4 leaves 211 (and costs the emitter
// 2 µs less of 5 µs an event; see BenchmarkCompression).
//
// There are no CloudEvents headers. The four that its Kafka protocol binding demands
// in binary mode repeat what the event has, make writing a message half as costly
// again, and help nobody: who reads this topic needs the Event message in any case.
//
// # What is promised
//
// Messages are sent with acks=all: a spool forgets an event only when all in-sync
// replicas have it. For that to survive the loss of a broker, the topic needs a
// replication factor of 3 and min.insync.replicas=2. What is sent twice, after an
// answer that was lost, is stored once, because of (emitter_id, emitter_seq).
//
// There are no receipts over Kafka: who answers is a broker, not the log. That the
// log only grows is then for its anchors to show, see package ingest/anchor.
//
// What brokers refuse for its size or form would be refused for ever. It is
// counted and said in the log, and what is beside it goes on; the service sees the
// gap in the emitter's sequence. All else (no brokers, no topic, no right to write)
// keeps events in the spool until somebody mends it.
package kafka

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/emit"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Config of a transport.
type Config struct {
	Cluster broker.Config
	Topic   string           // that must exist: it is not made by being written to
	Now     func() time.Time // the clock of the messages' times; default time.Now
}

// Transport is an [emit.Transport] to a topic. Its methods may be called from any
// goroutine.
type Transport struct {
	cfg Config

	mu     sync.Mutex
	client *kafka.Client // nil while there are no connections
	most   int           // bytes of events in a request; becomes less when brokers take less
	idle   *time.Timer   // ends connections that nothing is sent over
}

var _ emit.Transport = (*Transport)(nil)

// idleAfter is how long connections are kept that nothing is sent over. There may
// be thousands of emitters, and each that is connected asks for the cluster's
// layout now and then.
const idleAfter = time.Minute

// Is says whether text is a URL of a topic, for [Open]; host:port of a service is
// not.
func Is(text string) bool {
	return strings.HasPrefix(text, "kafka://") || strings.HasPrefix(text, "kafkas://")
}

// Open makes a transport of a topic's URL, whose form [broker.Parse] describes. The
// password of SASL is what env gives for [broker.PasswordVariable], or stands in the file
// that it names by [broker.PasswordFileVariable]. Nothing is connected to.
func Open(url string, env func(string) string) (*Transport, error) {
	cluster, topic, err := broker.Parse(url)
	if err != nil {
		return nil, fmt.Errorf("open Kafka topic: %w", err)
	}
	if cluster.SASL.Mechanism != "" {
		if cluster.SASL.Password, err = broker.FindPassword(env); err != nil {
			return nil, fmt.Errorf("open Kafka topic: %w", err)
		}
	}
	return New(Config{Cluster: cluster, Topic: topic})
}

// New makes a transport. It reads no file and connects to nothing: files of TLS are
// read at each new connection to the cluster, so that certificates can be renewed.
func New(cfg Config) (*Transport, error) {
	if cfg.Topic == "" {
		return nil, errors.New("open Kafka topic: it has no name")
	}
	if err := cfg.Cluster.Validate(); err != nil {
		return nil, fmt.Errorf("open Kafka topic: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Transport{cfg: cfg, most: mostBytes}, nil
}

// String is the topic's URL, without parameters.
func (t *Transport) String() string { return t.cfg.Cluster.String() + "/" + t.cfg.Topic }

// Ledger is nil: nobody behind a topic answers with receipts.
func (t *Transport) Ledger() pb.LedgerServiceClient { return nil }

// Close ends the connections. The next delivery would make new ones.
func (t *Transport) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.disconnect()
}

// connected is the client that requests go through, and whether it has just been
// made.
func (t *Transport) connected() (c *kafka.Client, fresh bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client != nil {
		return t.client, false, nil
	}
	transport, err := t.cfg.Cluster.Transport()
	if err != nil {
		return nil, false, err
	}
	// A layout that has become wrong shows itself by errors, upon which connections
	// are made anew: there is no need to ask for it every few seconds.
	transport.MetadataTopics, transport.MetadataTTL = []string{t.cfg.Topic}, idleAfter
	t.client = &kafka.Client{Addr: t.cfg.Cluster.Addr(), Transport: transport}
	if t.idle == nil {
		t.idle = time.AfterFunc(idleAfter, t.Close)
	}
	return t.client, true, nil
}

// renew gives up the connections of c, and what is known through them of the
// cluster, unless somebody else has done so. Requests under way go on.
func (t *Transport) renew(c *kafka.Client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client == c {
		t.disconnect()
	}
}

// disconnect is called with mu.
func (t *Transport) disconnect() {
	if t.client != nil {
		t.client.Transport.(*kafka.Transport).CloseIdleConnections()
		t.client = nil
	}
	if t.idle != nil {
		t.idle.Stop()
	}
}

// used puts off the end of idle connections.
func (t *Transport) used() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client != nil {
		t.idle.Reset(idleAfter)
	}
}
