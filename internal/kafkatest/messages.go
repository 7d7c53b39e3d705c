package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// requestBytes is about how much Produce sends at once.
const requestBytes = 500 << 10

// Produce writes messages, with acks of all replicas in sync: into one partition, or
// by key as Java's clients do (murmur2) when partition is -1, where messages with no
// key take turns. A message's Topic, Partition and Offset are not looked at. It
// repeats only what a broker refused, so nothing is doubled.
func (c *Cluster) Produce(topic string, partition int, messages ...kafka.Message) {
	c.t.Helper()
	parts := map[int][]kafka.Message{partition: messages}
	if partition < 0 {
		parts = c.spread(topic, messages)
	}
	for part, messages := range parts {
		if len(c.running()) < c.size() {
			c.Leader(topic, part) // until the others know that a dead broker does not lead it
		}
		for len(messages) > 0 {
			size, n := 0, 0
			for n < len(messages) && (n == 0 || size+len(messages[n].Value) < requestBytes) {
				size += len(messages[n].Key) + len(messages[n].Value) + 100
				n++
			}
			if err := c.produce(topic, part, messages[:n]); err != nil {
				c.t.Fatalf("produce %d messages to %s/%d: %v", n, topic, part, err)
			}
			messages = messages[n:]
		}
	}
}

func (c *Cluster) spread(topic string, messages []kafka.Message) map[int][]kafka.Message {
	c.t.Helper()
	numbers := c.partitions(topic)
	byKey := kafka.Murmur2Balancer{}
	var inTurn kafka.RoundRobin
	parts := map[int][]kafka.Message{}
	for _, m := range messages {
		var part int
		if m.Key == nil {
			part = inTurn.Balance(m, numbers...)
		} else {
			part = byKey.Balance(m, numbers...)
		}
		parts[part] = append(parts[part], m)
	}
	return parts
}

// partitions are the numbers of a topic's partitions, in order.
func (c *Cluster) partitions(topic string) []int {
	c.t.Helper()
	var out []int
	err := await(func(ctx context.Context) error {
		out = out[:0]
		found, _, err := metadata(ctx, c.running()[0], topic)
		for _, p := range found {
			out = append(out, p.ID)
		}
		return err
	})
	if err != nil {
		c.t.Fatalf("find the partitions of topic %q: %v", topic, err)
	}
	slices.Sort(out)
	return out
}

// refused are the errors of a broker that has not written what it was sent, and of a
// client that did not know whom to send it to.
var refused = []error{kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.UnknownTopicOrPartition,
	kafka.NotEnoughReplicas, kafka.ReplicaNotAvailable, kafka.FencedLeaderEpoch, kafka.BrokerNotAvailable,
	protocol.ErrNoTopic, protocol.ErrNoPartition, protocol.ErrNoLeader, syscall.ECONNREFUSED}

func (c *cluster) produce(topic string, partition int, messages []kafka.Message) error {
	var fatal error
	err := await(func(ctx context.Context) error {
		records := make([]kafka.Record, len(messages))
		for i, m := range messages {
			if m.Time.IsZero() {
				m.Time = time.Now()
			}
			records[i] = kafka.Record{Time: m.Time, Key: kafka.NewBytes(m.Key), Value: kafka.NewBytes(m.Value), Headers: m.Headers}
		}
		answer, err := c.client.Produce(ctx, &kafka.ProduceRequest{Topic: topic, Partition: partition,
			RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(records...)})
		if err == nil {
			err = answer.Error
		}
		if err == nil || slices.ContainsFunc(refused, func(r error) bool { return errors.Is(err, r) }) {
			return err
		}
		fatal = err
		return nil
	})
	return errors.Join(fatal, err)
}

// ReadAll reads all messages that a topic has now, by partition and offset.
func (c *Cluster) ReadAll(topic string) []kafka.Message {
	c.t.Helper()
	var out []kafka.Message
	for _, partition := range c.partitions(topic) {
		messages, err := c.readPartition(topic, partition)
		if err != nil {
			c.t.Fatalf("read %s/%d: %v", topic, partition, err)
		}
		out = append(out, messages...)
	}
	return out
}

// Offsets are those of a partition's first message and behind its last.
func (c *Cluster) Offsets(topic string, partition int) (first, end int64) {
	c.t.Helper()
	first, end, err := c.offsets(topic, partition)
	if err != nil {
		c.t.Fatalf("find the offsets of %s/%d: %v", topic, partition, err)
	}
	return first, end
}

func (c *cluster) offsets(topic string, partition int) (first, end int64, err error) {
	err = await(func(ctx context.Context) error {
		answer, err := c.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{
			topic: {kafka.FirstOffsetOf(partition), kafka.LastOffsetOf(partition)}}})
		if err != nil {
			return err
		}
		found := answer.Topics[topic]
		if len(found) != 1 {
			return fmt.Errorf("list the offsets: %d partitions answered", len(found))
		}
		first, end = found[0].FirstOffset, found[0].LastOffset
		return found[0].Error
	})
	return first, end, err
}

func (c *cluster) readPartition(topic string, partition int) ([]kafka.Message, error) {
	first, end, err := c.offsets(topic, partition)
	if err != nil {
		return nil, err
	}
	var out []kafka.Message
	for at := first; at < end; {
		var got []kafka.Message
		err := await(func(ctx context.Context) (err error) {
			got, err = c.fetch(ctx, topic, partition, at)
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(got) == 0 { // what is left are records of transactions or compacted away
			break
		}
		out = append(out, got...)
		at = got[len(got)-1].Offset + 1
	}
	return slices.DeleteFunc(out, func(m kafka.Message) bool { return m.Offset >= end }), nil
}

func (c *cluster) fetch(ctx context.Context, topic string, partition int, at int64) ([]kafka.Message, error) {
	answer, err := c.client.Fetch(ctx, &kafka.FetchRequest{Topic: topic, Partition: partition, Offset: at,
		MinBytes: 1, MaxBytes: 8 << 20, MaxWait: 500 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, answer.Error
	}
	var out []kafka.Message
	for {
		r, err := answer.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the records at offset %d: %w", at, err)
		}
		m := kafka.Message{Topic: topic, Partition: partition, Offset: r.Offset, Time: r.Time, Headers: r.Headers, HighWaterMark: answer.HighWatermark}
		if m.Key, err = kafka.ReadAll(r.Key); err != nil {
			return nil, err
		}
		if m.Value, err = kafka.ReadAll(r.Value); err != nil {
			return nil, err
		}
		if m.Offset >= at { // a batch comes whole, with what lies before at
			out = append(out, m)
		}
	}
}

// Committed are the offsets that a group has committed, by partition: those of the
// messages it reads next. Partitions without one are not there.
func (c *Cluster) Committed(group, topic string) map[int]int64 {
	c.t.Helper()
	numbers := c.partitions(topic)
	out := map[int]int64{}
	err := await(func(ctx context.Context) error {
		answer, err := c.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: numbers}})
		if err == nil {
			err = answer.Error
		}
		if errors.Is(err, kafka.GroupIdNotFound) { // kfake's word for one that has never been
			return nil
		}
		if err != nil {
			return err
		}
		for _, p := range answer.Topics[topic] {
			if p.Error != nil {
				return p.Error
			}
			if p.CommittedOffset >= 0 {
				out[p.Partition] = p.CommittedOffset
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("read what group %q committed of %q: %v", group, topic, err)
	}
	return out
}

// SetCommitted commits an offset for a group that has no members now, as an operator
// does who resets it.
func (c *Cluster) SetCommitted(group, topic string, partition int, offset int64) {
	c.t.Helper()
	err := await(func(ctx context.Context) error {
		answer, err := c.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{GroupID: group, GenerationID: -1,
			Topics: map[string][]kafka.OffsetCommit{topic: {{Partition: partition, Offset: offset}}}})
		if err != nil {
			return err
		}
		for _, p := range answer.Topics[topic] {
			if p.Error != nil {
				return p.Error
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatalf("commit offset %d of %s/%d for group %q: %v", offset, topic, partition, group, err)
	}
}
