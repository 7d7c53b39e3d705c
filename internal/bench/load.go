package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// The load generator. It shares the machine with what it measures, so it does
// as little as it can: requests are encoded beforehand, and sending one again
// writes a new id, time and sequence number into its bytes.
const (
	streams     = 4
	batchEvents = 500 // in one request
	window      = 16  // requests of one stream that wait for their answers
)

// load sends events on one stream until ctx ends: at a rate, in events a second, or
// as fast as they are taken when that is 0.
func load(ctx context.Context, e Env, at client.Config, seed uint64, rate int, stored, bytes *atomic.Int64) error {
	conn, c, err := dial(at)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := ready(ctx, c); err != nil {
		return err
	}
	t, err := newTraffic(seed, e.Now())
	if err != nil {
		return err
	}
	// One request for each place in the window: a request's bytes are gRPC's
	// until it is answered.
	requests := make([]*encoded, window)
	for i := range requests {
		if requests[i], err = encode(t, fmt.Sprintf("bench-%d", seed)); err != nil {
			return err
		}
	}
	bytes.Add(int64(len(requests[0].data)))
	stream, err := c.Publish(context.WithoutCancel(ctx), grpc.ForceCodecV2(encodedCodec{encoding.GetCodecV2("proto")}))
	if err != nil {
		return err
	}
	room := make(chan struct{}, window)
	g, gctx := errgroup.WithContext(context.Background())
	g.Go(func() error {
		defer stream.CloseSend()
		seq, due := uint64(0), time.Now()
		for round := 0; ; round++ {
			if rate > 0 { // what could not be sent in time is not sent faster later
				time.Sleep(time.Until(due))
				due = time.Now().Add(batchEvents * time.Second / time.Duration(rate))
			}
			select {
			case room <- struct{}{}:
			case <-gctx.Done():
				return nil
			}
			if ctx.Err() != nil {
				return nil
			}
			r := requests[round%window]
			seq = r.renew(t, seq, time.Now())
			if err := stream.SendMsg(r); err != nil {
				return nil // the receiver has the reason
			}
		}
	})
	g.Go(func() error {
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if n := len(resp.GetReceipt().GetRejected()); n > 0 {
				return fmt.Errorf("%d events were rejected: %s", n, resp.GetReceipt().GetRejected()[0].GetReason())
			}
			stored.Add(int64(resp.GetReceipt().GetStored()))
			<-room
		}
	})
	return g.Wait()
}

// encoded is a request as it goes over the wire, and where in it the fields lie
// that are new each time.
type encoded struct {
	data  []byte
	fresh []int // of each event, where its id's 36 letters begin
}

// Behind the id stand the sequence number and the time as varints of a fixed
// width, and between them these tags.
var (
	idTag   = fieldTag("event_id", protowire.BytesType)
	seqTag  = fieldTag("emitter_seq", protowire.VarintType)
	timeTag = fieldTag("occurred_at", protowire.BytesType)
)

const (
	idSize, varintSize = 36, 10
	timeSize           = 2 * (1 + varintSize) // seconds and nanos of a Timestamp, fields 1 and 2
)

func fieldTag(name protoreflect.Name, t protowire.Type) []byte {
	return protowire.AppendTag(nil, (&pb.Event{}).ProtoReflect().Descriptor().Fields().ByName(name).Number(), t)
}

func encode(t *traffic, emitter string) (*encoded, error) {
	r := &encoded{}
	blank := make([]byte, idSize)
	for range batchEvents {
		ev := t.next()
		ev.EmitterID = emitter
		m := wire.ToProto(ev)
		m.EventId, m.EmitterSeq, m.OccurredAt = "", 0, nil
		body, err := proto.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode the load: %w", err)
		}
		body = append(body, idTag...)
		body = protowire.AppendBytes(body, blank)
		at := len(body) - idSize
		body = appendPadded(append(body, seqTag...), 0)
		body = protowire.AppendVarint(append(body, timeTag...), timeSize)
		body = appendPadded(protowire.AppendTag(body, 1, protowire.VarintType), 0)
		body = appendPadded(protowire.AppendTag(body, 2, protowire.VarintType), 0)
		r.data = protowire.AppendTag(r.data, 1, protowire.BytesType) // PublishRequest.events
		r.data = protowire.AppendVarint(r.data, uint64(len(body)))
		r.fresh = append(r.fresh, len(r.data)+at)
		r.data = append(r.data, body...)
	}
	return r, nil
}

// renew makes the request one of new events, and returns the last sequence
// number.
func (r *encoded) renew(t *traffic, seq uint64, now time.Time) uint64 {
	seconds, nanos := uint64(now.Unix()), uint64(now.Nanosecond()/1000*1000)
	for _, at := range r.fresh {
		seq++
		copy(r.data[at:], t.id(now).String())
		at += idSize + len(seqTag)
		appendPadded(r.data[at:at], seq)
		at += varintSize + len(timeTag) + 2 // its length is one byte, then the tag of seconds
		appendPadded(r.data[at:at], seconds)
		at += varintSize + 1
		appendPadded(r.data[at:at], nanos)
	}
	return seq
}

// appendPadded is a varint of ten bytes, whatever its value.
func appendPadded(b []byte, v uint64) []byte {
	for range varintSize - 1 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// encodedCodec sends encoded requests as they are.
type encodedCodec struct{ encoding.CodecV2 }

func (c encodedCodec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(r.data)}, nil
	}
	return c.CodecV2.Marshal(v)
}
