package rpc

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func randomRequest(r *rand.Rand) *pb.PublishRequest {
	req := &pb.PublishRequest{}
	for range r.IntN(5) {
		req.Events = append(req.Events, wire.ToProto(event.Random(r)))
	}
	return req
}

func TestCodecReadsWhatTheStandardOneReads(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		want := randomRequest(r)
		data, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		// In several buffers, as a request of more than one frame comes.
		cut := r.IntN(len(data) + 1)
		var got pb.PublishRequest
		if err := NewCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data[:cut]), mem.SliceBuffer(data[cut:])}, &got); err != nil {
			t.Fatal(err)
		}
		clear(data) // the buffer is gRPC's and is used again
		if !proto.Equal(want, &got) {
			t.Fatalf("read\n%v\nwant\n%v", &got, want)
		}
	}
}

// Whatever bytes a client sends, reading them ends, and where both codecs read
// a message, they read the same. Fields that the API does not have are left out of
// this: the two differ in which of them they keep.
func FuzzCodec(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3 { // small: minimizing large inputs takes a fuzzer minutes
		data, err := proto.Marshal(&pb.PublishRequest{Events: []*pb.Event{{EventId: "a", Labels: map[string]string{"k": "v"}, Attempt: r.Uint32()}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var want, got pb.PublishRequest
		standard := proto.UnmarshalOptions{DiscardUnknown: true}
		if NewCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, &got) != nil || standard.Unmarshal(data, &want) != nil {
			return
		}
		again, err := proto.Marshal(&got)
		if err != nil {
			t.Fatal(err)
		}
		got.Reset()
		if err := standard.Unmarshal(again, &got); err != nil || !proto.Equal(&want, &got) {
			t.Fatalf("read\n%v\nwant\n%v", &got, &want)
		}
	})
}
