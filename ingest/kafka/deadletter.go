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
const (
	headReason    = "mcpaudit-reason"
	headDetail    = "mcpaudit-detail"
	headTopic     = "mcpaudit-topic"
	headPartition = "mcpaudit-partition"
	headOffset    = "mcpaudit-offset"
	headLength    = "mcpaudit-original-length" // there when the value is cut
)

const (
	buryTimeout = 30 * time.Second
	// cutLetter is what is kept of a message that the dead-letter topic does not take.
	cutLetter = 64 << 10
	// letterHeaders is how many of its own headers a letter keeps.
	letterHeaders = 50
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
	out := &kafka.Writer{Addr: s.client.Addr, Topic: s.cfg.DeadLetter, Transport: s.pool, Balancer: &kafka.Hash{}, RequiredAcks: kafka.RequireAll,
		MaxAttempts: 3, BatchTimeout: time.Millisecond, BatchBytes: 100 << 20, WriteTimeout: askTimeout, ReadTimeout: askTimeout}
	defer func() { _ = out.Close() }() // all was written, or has failed, by then
	for part := range slices.Chunk(dead, 100) {
		messages := make([]kafka.Message, len(part))
		for i, l := range part {
			messages[i] = s.message(partition, l, len(l.value))
		}
		err := out.WriteMessages(ctx, messages...)
		if tooLarge(err) { // one by one: those that are too large are cut
			for i, l := range part {
				if err = out.WriteMessages(ctx, messages[i]); tooLarge(err) {
					err = out.WriteMessages(ctx, s.message(partition, l, cutLetter))
				}
				if err != nil {
					break
				}
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				err = errors.New("the brokers did not take it in time")
			}
			return &undeliverable{s.cfg.DeadLetter, first(err)}
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
	s.d.Log.Warn("kafka: messages are no events and were put into the dead-letter topic", "topic", s.cfg.Topic, "partition", partition,
		"messages", len(dead), "first_offset", dead[0].offset, "dead_letter", s.cfg.DeadLetter, "reason", dead[0].why.words)
	return nil
}

// message is a letter as it is sent, with at most so many bytes of it.
func (s *Source) message(partition int, l letter, most int) kafka.Message {
	m := kafka.Message{Key: l.key, Value: l.value[:min(len(l.value), most)], Headers: slices.Clone(l.headers[:min(len(l.headers), letterHeaders)])}
	if len(m.Value) < len(l.value) {
		m.Headers = append(m.Headers, kafka.Header{Key: headLength, Value: []byte(strconv.Itoa(len(l.value)))})
		m.Key = m.Key[:min(len(m.Key), 1024)]
	}
	for _, h := range []struct{ key, value string }{{headReason, l.why.reason}, {headDetail, l.why.words}, {headTopic, s.cfg.Topic},
		{headPartition, strconv.Itoa(partition)}, {headOffset, strconv.FormatInt(l.offset, 10)}} {
		m.Headers = append(m.Headers, kafka.Header{Key: h.key, Value: []byte(h.value)})
	}
	return m
}

func tooLarge(err error) bool {
	var large kafka.MessageTooLargeError
	if errors.As(err, &large) || errors.Is(err, kafka.MessageSizeTooLarge) {
		return true
	}
	var each kafka.WriteErrors
	return errors.As(err, &each) && slices.ContainsFunc(each, func(err error) bool { return errors.Is(err, kafka.MessageSizeTooLarge) })
}

// first is one error of several for people.
func first(err error) error {
	var each kafka.WriteErrors
	if errors.As(err, &each) {
		for _, e := range each {
			if e != nil {
				return e
			}
		}
	}
	return err
}

// noteMoved says that a partition does not go on where it was.
func (s *Source) noteMoved(ctx context.Context, partition int, was, now int64, why moved, lost int64) error {
	labels := map[string]string{"topic": s.cfg.Topic, "partition": strconv.Itoa(partition), "was": strconv.FormatInt(was, 10), "now": strconv.FormatInt(now, 10), "why": string(why)}
	words := fmt.Sprintf("partition %d is not the one that was read up to offset %d: the topic was made anew, or a broker that lacked its end became its leader; it is read from offset %d, and what is stored already is not stored again", partition, was, now)
	if why == expired {
		labels["lost"] = strconv.FormatInt(lost, 10)
		words = fmt.Sprintf("the topic's retention has deleted %d messages of partition %d before they were read; give it a longer one, and more instances to read it", lost, partition)
	}
	s.d.Log.Error("kafka: "+words, "topic", s.cfg.Topic)
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return s.d.Diary.Note(ctx, diary.Entry{Method: "mcpaudit/kafka_position", Target: s.cfg.Topic, Outcome: "protocol_error", Words: words, Labels: labels})
}
