package kafka

import (
	"bytes"
	"io"
	"time"

	"github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
)

// compression of requests; see BenchmarkCompression for what others cost.
const compression = kafka.Zstd

// message is an event on its way.
type message struct {
	key   []byte // emitter_id
	seq   uint64
	value []byte // the event
}

// read looks into events for what their messages need. Those in which there is no
// emitter_id are refused: nobody would know them from each other.
func read(events [][]byte) (messages []message, refused []emit.Refusal) {
	for _, e := range events {
		m := message{value: e}
		if m.identify() && len(m.key) > 0 {
			messages = append(messages, m)
		} else {
			refused = append(refused, emit.Refusal{Seq: m.seq, Reason: "it has no emitter_id that can be read"})
		}
	}
	return messages, refused
}

// The fields of mcpaudit.v1.Event that a message needs.
const (
	emitterID  protowire.Number = 3
	emitterSeq protowire.Number = 4
)

// identify reads the emitter's id and number without decoding the whole event, and
// says whether it is one.
func (m *message) identify() bool {
	for b := m.value; len(b) > 0 && (m.key == nil || m.seq == 0); {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case number == emitterID && kind == protowire.BytesType:
			m.key, n = protowire.ConsumeBytes(b)
		case number == emitterSeq && kind == protowire.VarintType:
			m.seq, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return false
		}
		b = b[n:]
	}
	return true
}

// first is how many of the first messages go into one request: those of one key, and
// of no more than size bytes unless it is one message.
func first(messages []message, size int) int {
	n, sum := 1, len(messages[0].value)
	for ; n < len(messages); n++ {
		sum += len(messages[n].value)
		if sum > size || !bytes.Equal(messages[n].key, messages[0].key) {
			break
		}
	}
	return n
}

func bytesOf(messages []message) (sum int) {
	for _, m := range messages {
		sum += len(m.value)
	}
	return sum
}

var headers = []kafka.Header{{Key: "content-type", Value: []byte("application/protobuf")}}

// records gives messages to a request, one after the other in the same memory.
type records struct {
	messages   []message
	at         time.Time
	key, value content
	record     kafka.Record
}

// ReadRecord is kafka.RecordReader's; a record is good until the next.
func (r *records) ReadRecord() (*kafka.Record, error) {
	if len(r.messages) == 0 {
		return nil, io.EOF
	}
	r.key.Reset(r.messages[0].key)
	r.value.Reset(r.messages[0].value)
	r.messages = r.messages[1:]
	r.record = kafka.Record{Time: r.at, Key: &r.key, Value: &r.value, Headers: headers}
	return &r.record, nil
}

// content is kafka.Bytes of a slice.
type content struct{ bytes.Reader }

func (*content) Close() error { return nil }
