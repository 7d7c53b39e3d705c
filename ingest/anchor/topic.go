package anchor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// topic is a Kafka topic with one checkpoint a message, the log's id as its key.
// Connections are made for each put: there is one a minute.
type topic struct {
	cluster broker.Config
	name    string
}

func openTopic(url string) (*topic, error) {
	cluster, name, err := broker.Parse(url)
	if err != nil {
		return nil, fmt.Errorf("open anchor in Kafka: %w", err)
	}
	if cluster.SASL.Mechanism != "" {
		if cluster.SASL.Password, err = broker.FindPassword(os.Getenv); err != nil {
			return nil, fmt.Errorf("open anchor in Kafka: %w", err)
		}
	}
	return &topic{cluster, name}, nil
}

func (t *topic) String() string { return t.cluster.String() + "/" + t.name }

// client gives up what it knows of the cluster when renew is called, and can be used
// again.
func (t *topic) client() (c *kafka.Client, renew func(), err error) {
	transport, err := t.cluster.Transport()
	if err != nil {
		return nil, nil, err
	}
	transport.MetadataTopics = []string{t.name}
	return &kafka.Client{Addr: t.cluster.Addr(), Transport: transport}, transport.CloseIdleConnections, nil
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
	client, renew, err := t.client()
	if err != nil {
		return err
	}
	defer renew()
	// A checkpoint that is there twice does no harm: no need for a producer id, and
	// the rights to get one.
	return patiently(ctx, renew, func(ctx context.Context) error {
		partitions, err := t.partitions(ctx, client)
		if err != nil {
			return err
		}
		partition := kafka.Murmur2Balancer{}.Balance(kafka.Message{Key: []byte(c.LogID)}, partitions...)
		answer, err := client.Produce(ctx, &kafka.ProduceRequest{Topic: t.name, Partition: partition, RequiredAcks: kafka.RequireAll,
			Records: kafka.NewRecordReader(kafka.Record{Key: kafka.NewBytes([]byte(c.LogID)), Value: kafka.NewBytes([]byte(checkpoint))})})
		if err != nil {
			return err
		}
		return answer.Error
	})
}

// each reads every partition up to the end that it has when reading begins.
func (t *topic) each(ctx context.Context, found func(string) error) error {
	client, renew, err := t.client()
	if err != nil {
		return err
	}
	defer renew()
	var all []kafka.PartitionOffsets
	err = patiently(ctx, renew, func(ctx context.Context) (err error) {
		all, err = t.offsets(ctx, client)
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := t.readPartition(ctx, client, renew, p, found); err != nil {
			return fmt.Errorf("partition %d: %w", p.Partition, err)
		}
	}
	return nil
}

// readPartition gives what lies between two offsets.
func (t *topic) readPartition(ctx context.Context, client *kafka.Client, renew func(), p kafka.PartitionOffsets, found func(string) error) error {
	moved := time.Now()
	for at := p.FirstOffset; at < p.LastOffset; {
		var records kafka.RecordReader
		err := patiently(ctx, renew, func(ctx context.Context) error {
			answer, err := client.Fetch(ctx, &kafka.FetchRequest{Topic: t.name, Partition: p.Partition, Offset: at, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Second})
			if err == nil && answer.Error == nil {
				records = answer.Records
			}
			return errors.Join(err, answerError(answer))
		})
		if err != nil {
			return err
		}
		next, err := take(records, at, p.LastOffset, found)
		if err != nil {
			return err
		}
		if next > at {
			at, moved = next, time.Now()
		} else if time.Since(moved) > patience {
			// Retention may have deleted the last ones meanwhile.
			return fmt.Errorf("the brokers gave nothing for %v from offset %d on, before the end at %d", patience, at, p.LastOffset)
		}
	}
	return nil
}

func answerError(a *kafka.FetchResponse) error {
	if a == nil {
		return nil
	}
	return a.Error
}

// take gives the checkpoints of what was fetched from an offset on, unless they came
// after the end, and says where to fetch next.
func take(records kafka.RecordReader, at, end int64, found func(string) error) (next int64, err error) {
	next = max(at, behindMarks(records))
	for {
		r, err := records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return next, nil
		}
		if err != nil {
			return next, err
		}
		value, err := kafka.ReadAll(r.Value)
		if err != nil {
			return next, fmt.Errorf("offset %d: %w", r.Offset, err)
		}
		if r.Offset < at || r.Offset >= end {
			continue // a batch comes whole
		}
		next = max(next, r.Offset+1)
		checkpoint := string(value)
		if _, err := ledger.PeekCheckpoint(checkpoint); err != nil {
			return next, fmt.Errorf("offset %d: %w", r.Offset, err)
		}
		if err := found(checkpoint); err != nil {
			return next, err
		}
	}
}

// behindMarks is the offset behind the last mark of a transaction among records: marks
// take offsets and are not read as records, and one may be the last before the end.
func behindMarks(records kafka.RecordReader) (offset int64) {
	if s, ok := records.(*protocol.RecordStream); ok {
		for _, batch := range s.Records {
			if mark, ok := batch.(*protocol.ControlBatch); ok {
				offset = max(offset, mark.BaseOffset+1)
			}
		}
	}
	return offset
}

// offsets asks where the partitions begin and end.
func (t *topic) offsets(ctx context.Context, client *kafka.Client) ([]kafka.PartitionOffsets, error) {
	partitions, err := t.partitions(ctx, client)
	if err != nil {
		return nil, err
	}
	var ask []kafka.OffsetRequest
	for _, p := range partitions {
		ask = append(ask, kafka.FirstOffsetOf(p), kafka.LastOffsetOf(p))
	}
	answer, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{t.name: ask}})
	if err != nil {
		return nil, err
	}
	for _, p := range answer.Topics[t.name] {
		if p.Error != nil {
			return nil, fmt.Errorf("partition %d: %w", p.Partition, p.Error)
		}
	}
	if n := len(answer.Topics[t.name]); n != len(partitions) {
		return nil, fmt.Errorf("%d of %d partitions said how far they go", n, len(partitions))
	}
	return answer.Topics[t.name], nil
}

// partitions are the numbers of the topic's partitions, in order.
func (t *topic) partitions(ctx context.Context, client *kafka.Client) ([]int, error) {
	known, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{t.name}})
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, topic := range known.Topics {
		if topic.Error != nil {
			return nil, topic.Error
		}
		for _, p := range topic.Partitions {
			numbers = append(numbers, p.ID)
		}
	}
	if len(numbers) == 0 {
		return nil, errors.New("the topic has no partitions")
	}
	return numbers, nil
}

// patiently does something until it works, for as long as brokers may say nothing.
// After each failure connections are made anew: leaders move.
func patiently(ctx context.Context, renew func(), do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no broker did it within %v", patience))
	defer cancel()
	var why error // it did not work, as far as that was known before the time was up
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := do(ctx)
		var said kafka.Error
		if err == nil || errors.As(err, &said) && (!said.Temporary() || said == kafka.UnknownTopicOrPartition) {
			return err
		}
		if ctx.Err() == nil || why == nil {
			why = err
		}
		renew()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w; the last time: %w", context.Cause(ctx), why)
		}
	}
}
