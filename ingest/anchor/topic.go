package anchor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// topic is a Kafka topic with one checkpoint a message, the log's id as its key.
// Connections are plaintext and made for each put: there is one a minute.
type topic struct {
	brokers []string
	name    string
}

func openTopic(rest string) (*topic, error) {
	hosts, name, _ := strings.Cut(rest, "/")
	t := &topic{strings.Split(hosts, ","), name}
	for _, b := range t.brokers {
		if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("open anchor: %q is not HOST:PORT of a broker; an anchor in Kafka is kafka://HOST:PORT,HOST:PORT/TOPIC", b)
		}
	}
	if name == "" || strings.ContainsAny(name, "/?#") {
		return nil, fmt.Errorf("open anchor: %q is no topic; an anchor in Kafka is kafka://HOST:PORT,HOST:PORT/TOPIC", name)
	}
	return t, nil
}

func (t *topic) String() string { return "kafka://" + strings.Join(t.brokers, ",") + "/" + t.name }

func (t *topic) client(more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(more, kgo.SeedBrokers(t.brokers...), kgo.DialTimeout(patience), kgo.RetryTimeout(patience))...)
}

func (t *topic) Put(ctx context.Context, checkpoint string) error {
	if err := t.put(ctx, checkpoint); err != nil {
		return fmt.Errorf("produce to %s: %w", t, err)
	}
	return nil
}

func (t *topic) put(ctx context.Context, checkpoint string) error {
	c, err := ledger.PeekCheckpoint(checkpoint)
	if err != nil {
		return err
	}
	// A checkpoint that is there twice does no harm: no need for a producer id, and
	// the rights to get one.
	client, err := t.client(kgo.RequiredAcks(kgo.AllISRAcks()), kgo.DisableIdempotentWrite(), kgo.RecordDeliveryTimeout(patience))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no broker took it within %v", patience))
	defer cancel()
	err = client.ProduceSync(ctx, &kgo.Record{Topic: t.name, Key: []byte(c.LogID), Value: []byte(checkpoint)}).FirstErr()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// each reads every partition up to the end that it has when each begins.
func (t *topic) each(ctx context.Context, found func(string) error) error {
	admin, err := t.client()
	if err != nil {
		return err
	}
	defer admin.Close()
	left, err := t.ends(ctx, admin) // by partition, the offset at which to end
	if err != nil {
		return err
	}
	from := map[int32]kgo.Offset{}
	for p, end := range left {
		from[p] = kgo.NewOffset().AtStart()
		if end == 0 {
			delete(left, p)
		}
	}
	// Control records are kept, because one may be the last before the end.
	client, err := t.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.name: from}), kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(1<<20))
	if err != nil {
		return err
	}
	defer client.Close()
	for len(left) > 0 {
		// A record may never come: retention can delete the last ones meanwhile.
		wait, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%d partitions gave nothing for %v before their end", len(left), patience))
		fetched := client.PollFetches(wait)
		cause := context.Cause(wait)
		cancel()
		if cause != nil {
			return cause
		}
		for _, e := range fetched.Errors() {
			return fmt.Errorf("partition %d: %w", e.Partition, e.Err)
		}
		for records := fetched.RecordIter(); !records.Done(); {
			if err := take(records.Next(), left, found); err != nil {
				return err
			}
		}
	}
	return nil
}

// take gives one record's checkpoint, unless it came after the end.
func take(r *kgo.Record, left map[int32]int64, found func(string) error) error {
	end, ok := left[r.Partition]
	if !ok {
		return nil
	}
	if r.Offset >= end-1 {
		delete(left, r.Partition)
	}
	if r.Offset >= end || r.Attrs.IsControl() {
		return nil
	}
	checkpoint := string(r.Value)
	if _, err := ledger.PeekCheckpoint(checkpoint); err != nil {
		return fmt.Errorf("partition %d, offset %d: %w", r.Partition, r.Offset, err)
	}
	return found(checkpoint)
}

// ends asks how far the partitions go, 0 for those that have no record now.
func (t *topic) ends(ctx context.Context, client *kgo.Client) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no broker answered within %v", patience))
	defer cancel()
	ends, err := t.offsets(ctx, client, -1)
	if err == nil {
		var starts map[int32]int64
		if starts, err = t.offsets(ctx, client, -2); err == nil {
			for p, start := range starts {
				if start >= ends[p] {
					ends[p] = 0
				}
			}
		}
	}
	return ends, cmp.Or(context.Cause(ctx), err)
}

// offsets asks for one offset of each partition: -1 is the end, -2 the start
// (Kafka protocol, ListOffsets).
func (t *topic) offsets(ctx context.Context, client *kgo.Client, at int64) (map[int32]int64, error) {
	meta := kmsg.NewPtrMetadataRequest()
	meta.Topics = append(meta.Topics, kmsg.NewMetadataRequestTopic())
	meta.Topics[0].Topic = kmsg.StringPtr(t.name)
	known, err := meta.RequestWith(ctx, client)
	if err != nil {
		return nil, err
	}
	list := kmsg.NewListOffsetsRequestTopic()
	list.Topic = t.name
	for _, topic := range known.Topics {
		if err := kerr.ErrorForCode(topic.ErrorCode); err != nil {
			return nil, err
		}
		for _, p := range topic.Partitions {
			ask := kmsg.NewListOffsetsRequestTopicPartition()
			ask.Partition, ask.Timestamp = p.Partition, at
			list.Partitions = append(list.Partitions, ask)
		}
	}
	if len(list.Partitions) == 0 {
		return nil, errors.New("the topic has no partitions")
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.Topics = -1, append(req.Topics, list)
	got, err := req.RequestWith(ctx, client)
	if err != nil {
		return nil, err
	}
	out := map[int32]int64{}
	for _, topic := range got.Topics {
		for _, p := range topic.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("partition %d: %w", p.Partition, err)
			}
			out[p.Partition] = p.Offset
		}
	}
	if len(out) != len(list.Partitions) {
		return nil, fmt.Errorf("%d of %d partitions said how far they go", len(out), len(list.Partitions))
	}
	return out, nil
}
