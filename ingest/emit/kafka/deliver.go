package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// mostBytes and leastBytes bound the events of one request, before compression.
// Brokers limit what is left after it, by default to 1 MiB (max.message.bytes), to
// which these compress unless their content is random.
const (
	mostBytes  = 2 << 20
	leastBytes = 64 << 10
)

// noTime is a message's time that is not known: Kafka's protocol has -1 for it. Such
// a message ages by the broker's clock.
var noTime = time.UnixMilli(-1)

// Deliver sends events with acks=all, as [emit.Transport] describes.
func (t *Transport) Deliver(ctx context.Context, events [][]byte, _ *pb.KnownCheckpoint) (emit.Answer, error) {
	defer t.used()
	var a emit.Answer
	messages, refused := read(events)
	a.Refused = refused
	for len(messages) > 0 {
		n := first(messages, t.size())
		refused, err := t.put(ctx, messages[:n])
		if err != nil {
			return emit.Answer{}, err // all are sent again; what was refused will be again
		}
		a.Refused, messages = append(a.Refused, refused...), messages[n:]
	}
	return a, nil
}

func (t *Transport) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.most
}

// tooMuch learns that brokers did not take so many bytes at once.
func (t *Transport) tooMuch(size int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.most = max(min(t.most, size/2), leastBytes)
}

// put has messages of one key written. What brokers find wrong is sent again in
// halves, until it is one message that they find wrong: that one is refused.
func (t *Transport) put(ctx context.Context, messages []message) ([]emit.Refusal, error) {
	err := t.send(ctx, messages, t.cfg.Now())
	if errors.Is(err, kafka.InvalidTimestamp) {
		// This machine's clock is off. The event says so, and is worth more than the
		// message's time.
		err = t.send(ctx, messages, noTime)
	}
	large := errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge)
	switch {
	case err == nil:
		return nil, nil
	case !large && !errors.Is(err, kafka.InvalidRecord):
		return nil, t.explain(err)
	case len(messages) == 1:
		return []emit.Refusal{t.refusal(messages[0], large, err)}, nil
	}
	if large {
		t.tooMuch(bytesOf(messages))
	}
	half := len(messages) / 2
	before, err := t.put(ctx, messages[:half])
	if err != nil {
		return nil, err
	}
	after, err := t.put(ctx, messages[half:])
	return append(before, after...), err
}

// send produces messages of one key in one request. Connections may have gone stale
// and leaders moved since the last one: then it is tried once more, over new ones.
func (t *Transport) send(ctx context.Context, messages []message, at time.Time) error {
	for {
		client, fresh, err := t.connected()
		if err != nil {
			return err // a file of TLS can't be read
		}
		err = t.produce(ctx, client, messages, at)
		if err == nil || ofMessages(err) {
			return err
		}
		t.renew(client)
		if fresh || ctx.Err() != nil {
			return err
		}
	}
}

// ofMessages says whether brokers found something wrong with the messages, not with
// where they were sent.
func ofMessages(err error) bool {
	for _, e := range []error{kafka.MessageSizeTooLarge, kafka.RecordListTooLarge, kafka.InvalidRecord, kafka.InvalidTimestamp} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (t *Transport) produce(ctx context.Context, client *kafka.Client, messages []message, at time.Time) error {
	partition, err := t.partition(ctx, client, messages[0].key)
	if err != nil {
		return err
	}
	answer, err := client.Produce(ctx, &kafka.ProduceRequest{Topic: t.cfg.Topic, Partition: partition, RequiredAcks: kafka.RequireAll,
		Compression: compression, Records: &records{messages: messages, at: at}})
	if err != nil {
		return err
	}
	return answer.Error
}

// partition is where messages of a key go. The layout of the cluster comes with the
// connections; it is not asked for here.
func (t *Transport) partition(ctx context.Context, client *kafka.Client, key []byte) (int, error) {
	known, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{t.cfg.Topic}})
	if err != nil {
		return 0, err
	}
	if len(known.Topics) != 1 {
		return 0, errors.New("the brokers do not say where the topic's partitions are")
	}
	if err := known.Topics[0].Error; err != nil {
		return 0, err
	}
	numbers := make([]int, len(known.Topics[0].Partitions))
	for i, p := range known.Topics[0].Partitions {
		numbers[i] = p.ID // in order
	}
	if len(numbers) == 0 {
		return 0, kafka.UnknownTopicOrPartition
	}
	return kafka.Murmur2Balancer{}.Balance(kafka.Message{Key: key}, numbers...), nil
}

// refusal says why a message will never be taken, and what helps the next one.
func (t *Transport) refusal(m message, large bool, err error) emit.Refusal {
	if large {
		return emit.Refusal{Seq: m.seq, Reason: fmt.Sprintf(
			"its %d bytes are more than the topic %s takes; raise the topic's max.message.bytes, or have redaction cut arguments shorter", len(m.value), t.cfg.Topic)}
	}
	return emit.Refusal{Seq: m.seq, Reason: "the brokers take it for invalid: " + err.Error()}
}

// explain says what to do about errors that waiting does not mend.
func (t *Transport) explain(err error) error {
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "kafka.(*Client)") {
		err = inner // which function of the client it was helps nobody
	}
	who := "this client"
	if u := t.cfg.Cluster.SASL.User; u != "" {
		who = fmt.Sprintf("the user %q", u)
	}
	for _, known := range []struct {
		is   error
		says string
	}{
		{kafka.UnknownTopicOrPartition, fmt.Sprintf("there is no topic %q; create it, with kafka-topics.sh --create --topic %s --replication-factor 3, or grant %s the right to see it",
			t.cfg.Topic, t.cfg.Topic, who)},
		{kafka.TopicAuthorizationFailed, fmt.Sprintf("%s may not write to the topic %q; grant it the operations Write and Describe, with kafka-acls.sh --add --topic %s --producer",
			who, t.cfg.Topic, t.cfg.Topic)},
		{kafka.ClusterAuthorizationFailed, who + " is refused by the cluster; grant it the operations Write and Describe on the topic"},
		{kafka.SASLAuthenticationFailed, who + " is not let in; check the mechanism, the user and its password"},
		{kafka.UnsupportedSASLMechanism, "the brokers don't know the SASL mechanism; use one that they are configured with"},
		{kafka.UnsupportedCompressionType, "the brokers are too old: they don't know how messages are compressed here; Kafka 2.1 is the oldest that does"},
	} {
		if errors.Is(err, known.is) {
			return fmt.Errorf("%s (%w)", known.says, err)
		}
	}
	return err
}
