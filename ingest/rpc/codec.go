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

// load is what a request holds.
type load struct {
	bytes   int // on the wire
	events  int
	entries int // of the events' lists and maps
}

// What an event and an entry of its lists take in memory at most, in bytes: as a
// message and as the record while the one becomes the other, then as the record
// alone. Texts are not counted here: they stay where they came in. Measured by
// TestWhatIsReservedCoversWhatARequestTakes.
const (
	eventMemory, entryMemory         = 2600, 200
	eventMemoryAfter, entryAfterward = 1300, 72
)

// maxEntries bounds the entries of all lists of a request. Marks, the smallest
// ones that mean anything, take 18 bytes: no honest request comes near it.
const maxEntries = 400_000

// memory is what the request takes while it is read, after is what it takes from
// then on, both in bytes of memory: the unit of ingest.Config.MaxBytes.
func (l load) memory() int64 {
	return int64(l.bytes) + int64(l.events)*eventMemory + int64(l.entries)*entryMemory
}

func (l load) after() int64 {
	return int64(l.bytes) + int64(l.events)*eventMemoryAfter + int64(l.entries)*entryAfterward
}

// check says whether the request is within the limits of one.
func (l load) check() error {
	switch {
	case l.bytes > MaxBytes:
		return fmt.Errorf("a batch has at most %d bytes, this one has %d; send it in parts", MaxBytes, l.bytes)
	case l.events > MaxEvents:
		return fmt.Errorf("a batch has at most %d events, this one has %d; send it in parts", MaxEvents, l.events)
	case l.entries > maxEntries:
		return fmt.Errorf("the lists of a batch's events have at most %d entries, those of this one have %d; an event has at most %d signals and %d marks",
			maxEntries, l.entries, event.MaxSignals, 2*event.MaxMarks)
	}
	return nil
}

// weigh says what a request holds. Of one that is unopened it looks at the bytes
// alone and allocates nothing.
func weigh(req publish) (load, error) {
	data := req.ProtoReflect().GetUnknown()
	if len(data) > 0 && len(req.GetEvents()) == 0 {
		return weighBytes(data)
	}
	return load{bytes: req.SizeVT(), events: len(req.GetEvents())}, nil // another codec has read it
}

// eventsField is PublishRequest.events and PublishBatchRequest.events.
const eventsField = 1

// isList marks the numbers of an event's lists and maps.
var isList = func() (list [256]bool) {
	fields := (&pb.Event{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.IsList() || f.IsMap() {
			list[f.Number()] = true
		}
	}
	return list
}()

func weighBytes(data []byte) (load, error) {
	l := load{bytes: len(data)}
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
		l.events++
		for len(one) > 0 {
			number, kind, n := protowire.ConsumeTag(one)
			if n < 0 {
				return l, protowire.ParseError(n)
			}
			one = one[n:]
			if n = protowire.ConsumeFieldValue(number, kind, one); n < 0 {
				return l, protowire.ParseError(n)
			}
			one = one[n:]
			if int(number) < len(isList) && isList[number] {
				l.entries++
			}
		}
	}
	return l, nil
}
