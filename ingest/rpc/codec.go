package rpc

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that Codec builds on
	"google.golang.org/grpc/mem"
)

// Codec is gRPC's proto codec with a faster way in for requests that have one:
// generated code reads them without reflection, and their strings share the
// bytes of the request instead of being copied one by one. Three quarters of
// what a request allocates falls away.
//
// Such a request keeps its bytes in memory as long as one of its events, which
// is until it is stored. Unlike the standard one, the generated code takes text
// that is not UTF-8; event.Check refuses it, for its event alone.
type Codec struct{ standard encoding.CodecV2 }

// NewCodec makes the codec for a server's grpc.ForceServerCodecV2.
func NewCodec() Codec { return Codec{encoding.GetCodecV2("proto")} }

// Name is that of the standard codec: the bytes are the same.
func (c Codec) Name() string { return c.standard.Name() }

// Marshal is the standard codec's.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) { return c.standard.Marshal(v) }

// Unmarshal reads v, which shares memory with a copy of data where it can.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(interface{ UnmarshalVTUnsafe([]byte) error }); ok {
		return m.UnmarshalVTUnsafe(data.Materialize())
	}
	return c.standard.Unmarshal(data, v)
}
