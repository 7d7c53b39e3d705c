package rpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that Codec builds on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Codec is gRPC's proto codec with a faster way in for requests that have one:
// generated code reads them without reflection, and their strings share the
// bytes of the request instead of being copied one by one. Three quarters of
// what a request allocates falls away.
//
// Requests that carry events are not read here but left unopened: their bytes
// stand in the message's unknown fields until [Server] has looked at how much
// they hold and found memory for it. Two megabytes of empty events are two
// gigabytes of messages. An interceptor sees them without events.
//
// A request keeps its bytes in memory as long as one of its events, or a string
// of one: who keeps a string longer than that clones it. Unlike the standard one,
// the generated code takes text that is not UTF-8; event.Check refuses it, for
// its event alone.
type Codec struct{ standard encoding.CodecV2 }

// NewCodec makes the codec for a server's grpc.ForceServerCodecV2.
func NewCodec() Codec { return Codec{encoding.GetCodecV2("proto")} }

// Name is that of the standard codec: the bytes are the same.
func (c Codec) Name() string { return c.standard.Name() }

// Marshal is the standard codec's.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) { return c.standard.Marshal(v) }

// Unmarshal reads v, which shares memory with a copy of data where it can, or
// leaves it unopened.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *pb.PublishRequest:
		*m = pb.PublishRequest{} //nolint:govet // nobody else has it yet
		m.ProtoReflect().SetUnknown(data.Materialize())
		return nil
	case *pb.PublishBatchRequest:
		*m = pb.PublishBatchRequest{} //nolint:govet // nobody else has it yet
		m.ProtoReflect().SetUnknown(data.Materialize())
		return nil
	case interface{ UnmarshalVTUnsafe([]byte) error }:
		return m.UnmarshalVTUnsafe(data.Materialize())
	}
	return c.standard.Unmarshal(data, v)
}

// publish is a request that carries events.
type publish interface {
	proto.Message
	GetEvents() []*pb.Event
	GetSentAt() *timestamppb.Timestamp
	GetKnown() *pb.KnownCheckpoint
	SizeVT() int
	UnmarshalVTUnsafe(b []byte) error
}

// open reads a request that the codec left unopened.
func open(req publish) error {
	m := req.ProtoReflect()
	data := m.GetUnknown()
	m.SetUnknown(nil)
	return req.UnmarshalVTUnsafe(data)
}

// maxEntries bounds the entries of all lists of a request. Marks, the smallest
// ones that mean anything, take 18 bytes: no honest request comes near it.
const maxEntries = 400_000

// check says whether a request is within the limits of one.
func check(l wire.Load) error {
	switch {
	case l.Bytes > MaxBytes:
		return fmt.Errorf("a batch has at most %d bytes, this one has %d; send it in parts", MaxBytes, l.Bytes)
	case l.Events > MaxEvents:
		return fmt.Errorf("a batch has at most %d events, this one has %d; send it in parts", MaxEvents, l.Events)
	case l.Entries > maxEntries:
		return fmt.Errorf("the lists of a batch's events have at most %d entries, those of this one have %d; an event has at most %d signals and %d marks",
			maxEntries, l.Entries, event.MaxSignals, 2*event.MaxMarks)
	}
	return nil
}

// weigh says what a request holds. Of one that is unopened it looks at the bytes
// alone and allocates nothing.
func weigh(req publish) (wire.Load, error) {
	data := req.ProtoReflect().GetUnknown()
	if len(data) > 0 && len(req.GetEvents()) == 0 {
		return weighBytes(data)
	}
	return wire.Load{Bytes: req.SizeVT(), Events: len(req.GetEvents())}, nil // another codec has read it
}

// eventsField is PublishRequest.events and PublishBatchRequest.events.
const eventsField = 1

func weighBytes(data []byte) (wire.Load, error) {
	l := wire.Load{Bytes: len(data)}
	for b := data; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return l, protowire.ParseError(n)
		}
		b = b[n:]
		if number != eventsField || kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return l, protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		one, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return l, protowire.ParseError(n)
		}
		b = b[n:]
		if err := l.Add(one); err != nil {
			return l, err
		}
	}
	return l, nil
}
