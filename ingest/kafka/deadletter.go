package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/mcpaudit/mcpaudit/ingest/diary"
)

// letter is a message that is no event, and why.
type letter struct {
	*record
	why *defect
}

// Headers that say where a dead letter comes from. Its own headers stand before them.
// headLength is there when something of it was left out, because the topic does not
// take it whole.
const (
	headReason    = "mcpaudit-reason"
	headDetail    = "mcpaudit-detail"
	headTopic     = "mcpaudit-topic"
	headPartition = "mcpaudit-partition"
	headOffset    = "mcpaudit-offset"
	headLength    = "mcpaudit-original-length" // of the value
)

const (
	buryTimeout = 30 * time.Second
	// What is kept of a message that the dead-letter topic does not take whole, in bytes:
	// of its value, and of its key and each header.
	cutValue, cutRest = 64 << 10, 1 << 10
	// letterHeaders is how many of its own headers a letter keeps.
	letterHeaders = 50
	lettersAtOnce = 100
)

// undeliverable means that the dead-letter topic takes nothing now.
type undeliverable struct {
	topic string
	err   error
}

func (u *undeliverable) Error() string {
	return fmt.Sprintf("put a message that is no event into the dead-letter topic %q: %v; make that topic, or allow this client to write to it", u.topic, u.err)
}

func (u *undeliverable) Unwrap() error { return u.err }

// bury puts messages into the dead-letter topic, and then says so in the log of
// events. When it returns nil both are durable. After a crash between the two, or
// before the offset behind them is committed, they are buried again.
func (s *Source) bury(ctx context.Context, partition int, dead []letter) error {
	slices.SortFunc(dead, func(a, b letter) int { return int(a.offset - b.offset) })
	ctx, cancel := context.WithTimeout(ctx, buryTimeout)
	defer cancel()
	to, err := s.letterbox(ctx, partition)
	for part := range slices.Chunk(dead, lettersAtOnce) {
		if err == nil {
			err = s.post(ctx, to, partition, part, false)
		}
		if errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge) { // one by one: those that are too large are cut
			for i := range part {
				if err = s.post(ctx, to, partition, part[i:i+1], false); errors.Is(err, kafka.MessageSizeTooLarge) || errors.Is(err, kafka.RecordListTooLarge) {
					err = s.post(ctx, to, partition, part[i:i+1], true)
				}
				if err != nil {
					break
				}
			}
		}
		if err != nil {
			return &undeliverable{s.cfg.DeadLetter, err}
		}
	}
	byReason := map[string]int{}
	for _, l := range dead {
		byReason[l.why.reason]++
	}
	labels := map[string]string{"topic": s.cfg.Topic, "partition": strconv.Itoa(partition), "dead_letter_topic": s.cfg.DeadLetter,
		"first_offset": strconv.FormatInt(dead[0].offset, 10), "last_offset": strconv.FormatInt(dead[len(dead)-1].offset, 10)}
	for reason, n := range byReason {
		labels["reason_"+reason] = strconv.Itoa(n)
	}
	if err := s.d.Diary.Note(ctx, diary.Entry{Method: "mcpaudit/dead_letter", Target: s.cfg.Topic, Outcome: "protocol_error", Labels: labels,
		Words: fmt.Sprintf("%d messages are no events and are in the dead-letter topic; the first: %s", len(dead), dead[0].why.words)}); err != nil {
		return err
	}
	for reason, n := range byReason {
		for range n {
			s.d.Watch.DeadLetter(reason)
		}
	}
	if now := s.d.Now().UnixNano(); now-s.buried.Load() > int64(sayEvery) {
		s.buried.Store(now)
		s.d.Log.Warn("kafka: messages are no events and were put into the dead-letter topic", "topic", s.cfg.Topic, "partition", partition,
			"messages", len(dead), "first_offset", dead[0].offset, "dead_letter", s.cfg.DeadLetter, "reason", dead[0].why.words)
	}
	return nil
}

// letterbox is the partition of the dead-letter topic that a partition's letters go to.
func (s *Source) letterbox(ctx context.Context, partition int) (int, error) {
	answer, err := s.client.Metadata(ctx, &kafka.MetadataRequest{Addr: s.client.Addr, Topics: []string{s.cfg.DeadLetter}})
	switch {
	case err != nil:
		return 0, err
	case len(answer.Topics) != 1:
		return 0, errors.New("the brokers don't say where it is")
	case answer.Topics[0].Error != nil:
		return 0, answer.Topics[0].Error
	case len(answer.Topics[0].Partitions) == 0:
		return 0, errors.New("it has no partitions")
	}
	return partition % len(answer.Topics[0].Partitions), nil
}

// post writes letters, whole or cut.
func (s *Source) post(ctx context.Context, to, partition int, letters []letter, cut bool) error {
	records := make([]kafka.Record, len(letters))
	for i, l := range letters {
		records[i] = s.message(partition, l, cut)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := s.client.Produce(ctx, &kafka.ProduceRequest{Addr: s.client.Addr, Topic: s.cfg.DeadLetter, Partition: to,
		RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(records...)})
	if err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	for _, e := range answer.RecordErrors {
		return e
	}
	return nil
}

// message is a letter as it is sent.
func (s *Source) message(partition int, l letter, cut bool) kafka.Record {
	key, value, length := l.key, l.value, 0
	headers := slices.Clone(l.headers[:min(len(l.headers), letterHeaders)])
	if cut {
		length = len(value)
		key, value = key[:min(len(key), cutRest)], value[:min(len(value), cutValue)]
		headers = slices.DeleteFunc(headers, func(h kafka.Header) bool { return len(h.Key)+len(h.Value) > cutRest })
	}
	add := func(key, value string) { headers = append(headers, kafka.Header{Key: key, Value: []byte(value)}) }
	if cut {
		add(headLength, strconv.Itoa(length))
	}
	add(headReason, l.why.reason)
	add(headDetail, l.why.words)
	add(headTopic, s.cfg.Topic)
	add(headPartition, strconv.Itoa(partition))
	add(headOffset, strconv.FormatInt(l.offset, 10))
	return kafka.Record{Key: kafka.NewBytes(key), Value: kafka.NewBytes(value), Headers: headers}
}

// noteMoved says that a partition does not go on where it was.
func (s *Source) noteMoved(ctx context.Context, partition int, was, now int64, why moved, lost int64) error {
	labels := map[string]string{"topic": s.cfg.Topic, "partition": strconv.Itoa(partition), "was": strconv.FormatInt(was, 10), "now": strconv.FormatInt(now, 10), "why": string(why)}
	words := fmt.Sprintf("partition %d is not the one that was read up to offset %d: the topic was made anew, or a broker that lacked its end became its leader; it is read from offset %d, and what is stored already is not stored again", partition, was, now)
	switch why {
	case compacted:
		labels["lost"] = strconv.FormatInt(lost, 10)
		words = fmt.Sprintf("%d messages lack in the midst of partition %d, from offset %d on; a topic of events must not be compacted (cleanup.policy=delete): its keys are emitters, not events", lost, partition, was)
	case expired:
		labels["lost"] = strconv.FormatInt(lost, 10)
		words = fmt.Sprintf("the topic's retention has deleted %d messages of partition %d before they were read; give it a longer one, and more instances to read it", lost, partition)
	}
	s.d.Log.Error("kafka: "+words, "topic", s.cfg.Topic)
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return s.d.Diary.Note(ctx, diary.Entry{Method: "mcpaudit/kafka_position", Target: s.cfg.Topic, Outcome: "protocol_error", Words: words, Labels: labels})
}
