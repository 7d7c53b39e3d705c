package kafkatest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

// What the product relies on in kafka-go, against the broker that is pinned.

func TestEveryCompressionIsRead(t *testing.T) {
	c := Shared(t, 3)
	for _, codec := range []kafka.Compression{kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		topic := c.NewTopic(1)
		transport, err := c.Config().Transport() // a used one would not know the topic for a while
		if err != nil {
			t.Fatal(err)
		}
		w := &kafka.Writer{Addr: c.Config().Addr(), Topic: topic, Transport: transport, RequiredAcks: kafka.RequireAll, Compression: codec, BatchTimeout: time.Millisecond}
		if err := w.WriteMessages(t.Context(), numbered(100)...); err != nil {
			t.Errorf("%v: %v", codec, err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("%v: %v", codec, err)
		}
		transport.CloseIdleConnections()
		if got := len(c.ReadAll(topic)); got != 100 {
			t.Errorf("%v: %d messages", codec, got)
		}
	}
}

func group(t *testing.T, c *Cluster, name, topic string) *kafka.ConsumerGroup {
	t.Helper()
	dialer, err := c.Config().Dialer()
	if err != nil {
		t.Fatal(err)
	}
	g, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{ID: name, Brokers: c.Brokers(), Dialer: dialer, Topics: []string{topic},
		HeartbeatInterval: 200 * time.Millisecond, SessionTimeout: 6 * time.Second, RebalanceTimeout: 5 * time.Second, JoinGroupBackoff: 100 * time.Millisecond, StartOffset: kafka.FirstOffset})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func TestAGroupSharesATopicAndCommits(t *testing.T) {
	c := Shared(t, 3)
	topic, name := c.NewTopic(4), t.Name()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first := group(t, c, name, topic)
	alone, err := first.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(alone.Assignments[topic]); n != 4 {
		t.Fatalf("a member alone has %d partitions", n)
	}
	if err := alone.CommitOffsets(map[string]map[int]int64{topic: {0: 3, 3: 9}}); err != nil {
		t.Fatal(err)
	}
	if got := c.Committed(name, topic); len(got) != 2 || got[0] != 3 || got[3] != 9 {
		t.Errorf("committed %v", got)
	}
	ended := make(chan struct{})
	alone.Start(func(ctx context.Context) { <-ctx.Done(); close(ended) })
	second := group(t, c, name, topic)
	shares := make(chan string, 2)
	for _, g := range []*kafka.ConsumerGroup{first, second} {
		go func() {
			for {
				mine, err := g.Next(ctx)
				if err != nil {
					shares <- err.Error()
					return
				}
				if n := len(mine.Assignments[topic]); n == 2 {
					mine.Start(func(ctx context.Context) { <-ctx.Done() })
					shares <- fmt.Sprint(n)
					return
				}
			}
		}()
	}
	for range 2 {
		if got := <-shares; got != "2" {
			t.Errorf("of two members one has %s partitions", got)
		}
	}
	<-ended
	if err := alone.CommitOffsets(map[string]map[int]int64{topic: {0: 4}}); err == nil {
		t.Error("a member committed in a generation that is over")
	}
}

func TestACommitKeepsItsMetadata(t *testing.T) {
	c := Shared(t, 3)
	topic, name := c.NewTopic(1), t.Name()
	_, err := c.client.OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{GroupID: name, GenerationID: -1,
		Topics: map[string][]kafka.OffsetCommit{topic: {{Offset: 5, Metadata: "said by a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.client.OffsetFetch(t.Context(), &kafka.OffsetFetchRequest{GroupID: name, Topics: map[string][]int{topic: {0}}})
	if err != nil || len(got.Topics[topic]) != 1 || got.Topics[topic][0].Metadata != "said by a" || got.Topics[topic][0].CommittedOffset != 5 {
		t.Errorf("it is %+v, %v", got, err)
	}
}
