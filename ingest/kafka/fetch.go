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

// fetched is what one request to the brokers brought.
type fetched struct {
	records []record
	next    int64 // where to go on
	end     int64 // of the partition, by now
	lacking int64 // messages that should be before the first one and are not
	err     error
}

// fetch reads what there is from an offset on. While wait is true and there is nothing
// it waits a moment. After an error, next is where it was.
func (p *partition) fetch(ctx context.Context, from int64, wait bool) fetched {
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
	var f fetched
	if err == nil {
		f, err = readRecords(answer.Records, from)
	}
	if err != nil {
		return fetched{next: from, err: fmt.Errorf("fetch from offset %d: %w", from, err)}
	}
	f.end = answer.HighWatermark
	return f
}

// readRecords takes the messages from an offset on out of an answer.
func readRecords(from protocol.RecordReader, first int64) (fetched, error) {
	f := fetched{next: first}
	batches := []protocol.RecordReader{from}
	some := false
	var memory shelf
	if stream, ok := from.(*protocol.RecordStream); ok {
		batches, some = stream.Records, len(stream.Records) > 0
	}
	for _, b := range batches {
		_, control := b.(*protocol.ControlBatch) // ends of transactions
		for {
			r, err := b.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return f, err
			}
			if control || r.Offset < f.next {
				f.next = max(f.next, r.Offset+1)
				release(r)
				continue
			}
			// A topic that keeps everything has no holes. What is before one is handed over
			// first, and the next request begins at it.
			if r.Offset > f.next {
				if len(f.records) > 0 {
					release(r)
					return f, nil
				}
				f.lacking += r.Offset - f.next
			}
			one, err := memory.own(r)
			if err != nil {
				return f, err
			}
			f.records, f.next = append(f.records, one), r.Offset+1
		}
	}
	if some && f.next == first {
		// The brokers have sent the batch that has this offset, and in it there is none.
		return f, fmt.Errorf("offset %d: %w", first, errUnreadable)
	}
	return f, nil
}

// shelf is memory for the messages of a fetch, in pieces that several share.
type shelf []byte

const pieceBytes = 64 << 10

func (s *shelf) room(n int) []byte {
	if n > cap(*s)-len(*s) {
		*s = make([]byte, 0, max(n, pieceBytes))
	}
	at := len(*s)
	*s = (*s)[:at+n]
	return (*s)[at : at+n : at+n]
}

// own copies a record out of the client's buffers and gives those back.
func (s *shelf) own(r *protocol.Record) (record, error) {
	defer release(r)
	one := record{offset: r.Offset, time: r.Time, headers: r.Headers}
	for _, part := range []struct {
		from protocol.Bytes
		to   *[]byte
	}{{r.Key, &one.key}, {r.Value, &one.value}} {
		if part.from == nil {
			continue
		}
		*part.to = s.room(part.from.Len())
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

// maxInflated is how large a compressed batch may become, in bytes: many times of what
// producers put into one. It bounds one batch; a fetch may have many that are made to
// become so large, so who may write to the topic must be trusted that far.
const maxInflated = 16 << 20

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
