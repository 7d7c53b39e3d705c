// Package kafka takes events from a topic: one member of a consumer group, with a
// pipeline for each partition that it is given.
//
// # What is guaranteed
//
// An offset is committed when every message before it is settled: its event is sealed
// in the store, or was there already, or the message is in the dead-letter topic. So a
// crash at any point reads again what was under way, and the store knows its events by
// (emitter_id, emitter_seq). Offsets that go back, messages that a producer has sent
// twice, a topic that was deleted and made anew: all of it is read again and stored
// once.
//
// Before a partition is given up, in a rebalance or at the end, nothing more of it is
// fetched, what is under way is settled and its offset committed; only then does this
// member join the group again. A member that can't do that in time (it was frozen, cut
// off from the brokers, or its store is away for longer than RebalanceTimeout) loses its
// [ingest.Tenure]: it stores nothing more of what others may have been given by then.
// A new member has its pipeline forget what it knew of emitters, and reads back what
// is stored.
//
// Each partition stands for itself. One whose message can't be settled, because the
// dead-letter topic refuses it or its batch can't be read, waits and says so, and is
// never passed over in silence; the others go on. A partition is fetched no further
// than the pipeline takes: that is the flow control.
//
// Each emitter's events have to be in one partition, or two members would store them
// side by side. Where the store is shared, a message whose key is not its event's
// emitter_id is a dead letter for that reason: it may be anywhere. And the number of
// partitions is not to be changed while emitters send.
//
// Messages of transactions that were aborted are read like others: their producer sends
// them again, and they are stored once.
//
// # Where a partition goes on
//
// With each offset a fingerprint of the last message before it is committed (as the
// metadata of the commit). Whoever goes on from there looks first whether that message
// is still where it was. If not, or if the partition ends before the offset, the topic
// is not the one that was read: it was deleted and made anew, or a broker that had
// fallen behind became its leader. Then the partition is read from its first message.
package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Config of a source. The zero value of a field means its default.
type Config struct {
	Cluster broker.Config
	Topic   string // that events are read from; required
	Group   string // the consumer group; default "mcpaudit"
	// DeadLetter is the topic for messages that are no events; default the topic's name
	// with "-dead-letter". It has to exist.
	DeadLetter string
	// FetchBytes is how much of a partition is fetched at once, in bytes as the brokers
	// keep them; default 256 KiB. One batch may be larger. Two of them are in memory for
	// each partition, unpacked: events become some six times as large.
	FetchBytes int
	// SessionTimeout is after how long without a sign of life the others are given
	// this member's partitions; default 30 s. The brokers allow 6 s to 30 min.
	SessionTimeout time.Duration
	// RebalanceTimeout is for how long the others wait until this member has settled
	// what is under way; default 2 minutes.
	RebalanceTimeout time.Duration
	// CommitEvery is the time between commits of offsets, and with it how much is read
	// again after a crash; default 1 s.
	CommitEvery time.Duration
	// Shared says that other instances write logs of their own to the store; see
	// ingest.Config.Shared.
	Shared bool
	// LostLogs are logs of a shared store whose instance will not come back. Offsets
	// wait for what others have stored and not sealed yet, but not for theirs.
	LostLogs []string
}

func (c Config) withDefaults() Config {
	c.Group = cmp.Or(c.Group, "mcpaudit")
	c.DeadLetter = cmp.Or(c.DeadLetter, c.Topic+"-dead-letter")
	c.FetchBytes = cmp.Or(c.FetchBytes, 256<<10)
	c.SessionTimeout = cmp.Or(c.SessionTimeout, 30*time.Second)
	c.RebalanceTimeout = cmp.Or(c.RebalanceTimeout, 2*time.Minute)
	c.CommitEvery = cmp.Or(c.CommitEvery, time.Second)
	return c
}

// Validate names the first setting that is wrong.
func (c Config) Validate() error {
	c = c.withDefaults()
	if err := c.Cluster.Validate(); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	for _, name := range []string{c.Topic, c.DeadLetter} {
		if err := broker.CheckTopic(name); err != nil {
			return fmt.Errorf("kafka: %w", err)
		}
	}
	switch {
	case c.DeadLetter == c.Topic:
		return errors.New("kafka: the topic for dead letters is the one that is read; they would come back for ever")
	case c.FetchBytes < 64<<10 || c.FetchBytes > 64<<20:
		return fmt.Errorf("kafka: fetch_bytes is %d, and may be 65536 to 67108864", c.FetchBytes)
	case c.SessionTimeout < time.Second || c.SessionTimeout > 30*time.Minute:
		return fmt.Errorf("kafka: session_timeout is %v, and may be 1s to 30m", c.SessionTimeout)
	case c.RebalanceTimeout < c.SessionTimeout || c.RebalanceTimeout > time.Hour:
		return fmt.Errorf("kafka: rebalance_timeout is %v, and may be %v (session_timeout) to 1h", c.RebalanceTimeout, c.SessionTimeout)
	case c.CommitEvery < 10*time.Millisecond || c.CommitEvery > time.Minute:
		return fmt.Errorf("kafka: commit_every is %v, and may be 10ms to 1m", c.CommitEvery)
	}
	return nil
}

// Store is what a source needs of the store: which batches others have not sealed.
type Store interface {
	UnsealedOfOthers(ctx context.Context, own string, lost []string) ([]store.BatchID, error)
}

// Observer hears what a source does, for metrics. Its methods are called by several
// goroutines and must not block.
type Observer interface {
	// Settled: so many messages are stored, or were known, or are in the dead-letter
	// topic; waited is how long the oldest of them took from the broker's stamp on.
	Settled(partition, messages int, waited time.Duration)
	// Lag: so many messages of a partition are behind the last one that is settled.
	Lag(partition int, messages int64)
	// DeadLetter: a message was put there; reason is one of Reasons.
	DeadLetter(reason string)
	// Committed: offsets were committed, or the attempt failed.
	Committed(ok bool)
	// Held: so many partitions have offsets that wait for others to seal.
	Held(partitions int)
	// Assigned: the group has given this member so many partitions.
	Assigned(partitions int)
	// Stuck: a partition waits for something that does not go away by itself; false
	// when it goes on.
	Stuck(partition int, yes bool)
	// Failed: a request to a broker failed and is made again.
	Failed()
}

// Deps are what a source takes from its surroundings.
type Deps struct {
	Pipeline *ingest.Pipeline
	Store    Store
	LogID    string // of the log that the pipeline writes
	Diary    *diary.Diary
	Now      func() time.Time
	Log      *slog.Logger
	Watch    Observer
}

// Source reads the topic. Make it with New, then Run it.
type Source struct {
	cfg    Config
	d      Deps
	dialer *kafka.Dialer
	client *kafka.Client
	pool   *kafka.Transport

	leads   atomic.Bool  // it has partition 0
	buried  atomic.Int64 // when dead letters were last spoken of, ns
	begun   bool         // it has had partitions
	missing bool         // there was no topic, and that was said
}

// New makes a source; it connects to nothing until Run, but reads the files of TLS.
func New(cfg Config, d Deps) (*Source, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dialer, err := cfg.Cluster.Dialer()
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	pool, err := cfg.Cluster.Transport()
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	pool.MetadataTopics = []string{cfg.Topic, cfg.DeadLetter}
	return &Source{cfg: cfg, d: d, dialer: dialer, pool: pool,
		client: &kafka.Client{Addr: cfg.Cluster.Addr(), Transport: pool}}, nil
}

// Leads says whether this member has been given partition 0: of all members one has.
func (s *Source) Leads() bool { return s.leads.Load() }

// Run reads until ctx ends; then it settles and commits what is under way, and leaves
// the group. Brokers that are away are no error.
func (s *Source) Run(ctx context.Context) error {
	defer s.pool.CloseIdleConnections()
	if !s.untilReady(ctx) {
		return nil
	}
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: s.cfg.Group, Brokers: s.cfg.Cluster.Brokers, Dialer: s.dialer, Topics: []string{s.cfg.Topic},
		GroupBalancers:    []kafka.GroupBalancer{kafka.RangeGroupBalancer{}},
		HeartbeatInterval: s.cfg.SessionTimeout / 10, SessionTimeout: s.cfg.SessionTimeout, RebalanceTimeout: s.cfg.RebalanceTimeout,
		JoinGroupBackoff: time.Second, WatchPartitionChanges: true, PartitionWatchInterval: 2 * time.Second,
		StartOffset: kafka.FirstOffset, Timeout: 10 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	// Leaving is a courtesy: without it the others take over after SessionTimeout.
	defer leave(group)
	stop := context.AfterFunc(ctx, func() { _ = group.Close() })
	defer stop()
	failing := false
	for wait := firstWait; ; {
		g, err := group.Next(ctx)
		again := true // there is nothing to read until the group has something new to say
		switch {
		case ctx.Err() != nil || errors.Is(err, kafka.ErrGroupClosed):
			return nil
		case err != nil:
			s.d.Watch.Failed()
			if !failing && !errors.Is(err, kafka.RebalanceInProgress) {
				failing = true
				s.d.Log.Error("kafka: joining the consumer group; it is tried again, and events wait in the topic", "group", s.cfg.Group, "brokers", s.cfg.Cluster.String(), "error", err)
			}
		default:
			if failing {
				s.d.Log.Info("kafka: the consumer group works again", "group", s.cfg.Group)
			}
			failing = false
			again = s.generation(ctx, g) == 0
		}
		if !again {
			wait = firstWait
		} else {
			pause(ctx, &wait)
		}
	}
}

// leave leaves the group, if that can be done soon: a broker that does not answer is
// asked again and again.
func leave(group *kafka.ConsumerGroup) {
	left := make(chan struct{})
	go func() { defer close(left); _ = group.Close() }()
	select {
	case <-left:
	case <-time.After(shutdownTimeout):
	}
}

// shutdownTimeout is how long each step of ending may take: to settle what is under
// way, and to leave the group.
const shutdownTimeout = 10 * time.Second

// untilReady waits until the pipeline takes events.
func (s *Source) untilReady(ctx context.Context) bool {
	for wait := firstWait; s.d.Pipeline.Ready() != nil; {
		if !pause(ctx, &wait) {
			return false
		}
	}
	return true
}

const (
	firstWait = 50 * time.Millisecond
	mostWait  = 5 * time.Second
)

// pause waits, longer each time, and says whether ctx is still going on.
func pause(ctx context.Context, wait *time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(*wait + rand.N(*wait/2)):
		*wait = min(2**wait, mostWait)
		return true
	}
}
