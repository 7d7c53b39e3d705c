package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
)

// record is one message, in memory of its own.
type record struct {
	offset  int64
	time    time.Time // the broker's stamp or the producer's, as the topic says
	key     []byte
	value   []byte
	headers []protocol.Header
}

const (
	askTimeout  = 10 * time.Second
	fetchWait   = 500 * time.Millisecond // how long a broker waits for the first message
	tookTooLong = 30 * time.Second
)

// errUnreadable is about a message that the brokers have and that can't be read.
var errUnreadable = errors.New("a message of the partition can't be read")

// fetch reads what there is from an offset on, and where to go on after it. While
// wait is true and there is nothing it waits a moment. The values are those that the
// brokers hold at most FetchBytes of at once, or one batch.
func (p *partition) fetch(ctx context.Context, from int64, wait bool) (out []record, next int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, tookTooLong)
	defer cancel()
	request := &kafka.FetchRequest{Addr: p.s.client.Addr, Topic: p.s.cfg.Topic, Partition: p.id, Offset: from, MinBytes: 1, MaxBytes: int64(p.s.cfg.FetchBytes), MaxWait: fetchWait}
	if !wait {
		request.MaxWait = time.Millisecond
	}
	answer, err := p.s.client.Fetch(ctx, request)
	if err == nil {
		err = answer.Error
	}
	if err != nil {
		return nil, from, fmt.Errorf("fetch from offset %d: %w", from, err)
	}
	p.end = answer.HighWatermark
	out, next, some, err := readRecords(answer.Records, from)
	if err == nil && some && next == from {
		// The broker has sent the batch that has this offset, and in it there is none.
		err = fmt.Errorf("offset %d: %w", from, errUnreadable)
	}
	if err != nil {
		return nil, from, fmt.Errorf("fetch from offset %d: %w", from, err)
	}
	return out, next, nil
}

// readRecords takes the messages from an offset on out of an answer. some is true when
// there was anything at all in it.
func readRecords(from protocol.RecordReader, first int64) (out []record, next int64, some bool, err error) {
	next = first
	batches := []protocol.RecordReader{from}
	if stream, ok := from.(*protocol.RecordStream); ok {
		batches = stream.Records
	}
	for _, b := range batches {
		_, control := b.(*protocol.ControlBatch) // ends of transactions
		for {
			r, err := b.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, first, true, err
			}
			some = true
			if control || r.Offset < next {
				next = max(next, r.Offset+1)
				release(r)
				continue
			}
			// Offsets of a topic that keeps everything have no holes, but where this is the
			// first one: the brokers have deleted what was before.
			if r.Offset > next && len(out) > 0 {
				release(r)
				return out, next, true, nil
			}
			one, err := own(r)
			if err != nil {
				return nil, first, true, err
			}
			out, next = append(out, one), r.Offset+1
		}
	}
	return out, next, some, nil
}

// own copies a record out of the client's buffers and gives those back.
func own(r *protocol.Record) (record, error) {
	defer release(r)
	one := record{offset: r.Offset, time: r.Time, headers: r.Headers}
	for _, part := range []struct {
		from protocol.Bytes
		to   *[]byte
	}{{r.Key, &one.key}, {r.Value, &one.value}} {
		if part.from == nil {
			continue
		}
		*part.to = make([]byte, part.from.Len())
		if _, err := io.ReadFull(part.from, *part.to); err != nil {
			return one, fmt.Errorf("read the message at offset %d: %w", r.Offset, err)
		}
	}
	return one, nil
}

func release(r *protocol.Record) {
	for _, b := range []protocol.Bytes{r.Key, r.Value} {
		if b != nil {
			b.Close()
		}
	}
}

// maxInflated is how large a compressed batch may become, in bytes: 64 times of what
// brokers take unless they are told otherwise. Without a bound, whoever may write to
// the topic could fill this machine's memory with one megabyte.
const maxInflated = 64 << 20

var errInflated = fmt.Errorf("a compressed batch becomes larger than %d bytes", maxInflated)

// The client has one table of codecs for the whole program, and reads batches into
// memory whole.
func init() {
	for i, c := range compress.Codecs {
		if c != nil {
			compress.Codecs[i] = boundedCodec{c}
		}
	}
}

type boundedCodec struct{ compress.Codec }

func (c boundedCodec) NewReader(r io.Reader) io.ReadCloser {
	return &boundedReader{c.Codec.NewReader(r), maxInflated}
}

type boundedReader struct {
	io.ReadCloser
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errInflated
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
