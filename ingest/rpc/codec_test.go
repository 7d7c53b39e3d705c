package rpc

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

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
		if l, err := weigh(&got); err != nil || l.Bytes != len(data) || l.Events != len(want.GetEvents()) {
			t.Fatalf("weighed %+v, %v: %d bytes, %d events", l, err, len(data), len(want.GetEvents()))
		}
		if err := open(&got); err != nil {
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
		if err := NewCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, &got); err != nil {
			t.Fatal(err)
		}
		l, err := weigh(&got)
		if standard.Unmarshal(data, &want) != nil {
			return
		}
		entries := 0
		for _, e := range want.GetEvents() {
			entries += len(e.GetSignals()) + len(e.GetArgumentMarks()) + len(e.GetResultMarks()) + len(e.GetRemoved()) + len(e.GetLabels()) +
				len(e.GetOnBehalfOf()) + len(e.GetScopesRequired()) + len(e.GetScopesGranted())
		}
		if err != nil || l.Events != len(want.GetEvents()) || l.Entries < entries {
			t.Fatalf("weighed %+v, %v; it has %d events with %d entries", l, err, len(want.GetEvents()), entries)
		}
		if open(&got) != nil {
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

// What has to be reserved for a request before it is read covers what it takes,
// however it is made: wide or narrow, full or empty, and with lists of nothing.
func TestWhatIsReservedCoversWhatARequestTakes(t *testing.T) {
	repeat := func(n int, one *pb.Event) []byte {
		b, err := proto.Marshal(&pb.PublishRequest{Events: []*pb.Event{one}})
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Repeat(b, n)
	}
	full := wire.ToProto(event.Random(rand.New(rand.NewPCG(5, 5))))
	for name, data := range map[string][]byte{
		"empty events": repeat(MaxEvents, &pb.Event{}),
		"small events": repeat(MaxEvents, &pb.Event{EventId: "01890a5d-ac96-774b-bcce-b302099a8057", EmitterId: "e", EmitterSeq: 1, OccurredAt: timestamppb.Now()}),
		"full events":  repeat(1000, full),
		"long texts":   repeat(4, &pb.Event{Arguments: strings.Repeat("x", 1<<20-64)}),
		"empty marks":  repeat(1, &pb.Event{ResultMarks: many(maxEntries-1, &pb.Mark{})}),
		"marks":        repeat(600, &pb.Event{ResultMarks: many(256, &pb.Mark{Hash: 1 << 60, Class: "email"})}),
		"removals":     repeat(1, &pb.Event{Removed: many(maxEntries-1, &pb.Removal{})}),
		"signals":      repeat(1, &pb.Event{Signals: many(maxEntries-1, "")}),
		"labels":       repeat(1000, &pb.Event{Labels: map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6", "g": "7", "h": "8", "i": "9"}}),
	} {
		t.Run(name, func(t *testing.T) {
			heap := func() int64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return int64(m.HeapAlloc)
			}
			var req pb.PublishRequest
			before := heap()
			if err := NewCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, &req); err != nil {
				t.Fatal(err)
			}
			l, err := weigh(&req)
			if err != nil || check(l) != nil {
				t.Fatal(err, check(l))
			}
			if err := open(&req); err != nil {
				t.Fatal(err)
			}
			events := make([]event.Event, len(req.Events))
			for i, m := range req.Events {
				events[i].Signals = m.GetSignals() // of events that are refused, nothing is made
				if m.GetEventId() != "" {
					if err := wire.FromProto(m, &events[i]); err != nil {
						t.Fatal(err)
					}
				}
			}
			if took := heap() - before; took > l.Memory() {
				t.Errorf("%+v: %d bytes were reserved, it took %d", l, l.Memory(), took)
			}
			runtime.KeepAlive(&req)
			req.Reset()
			if took := heap() - before; took > l.After() {
				t.Errorf("%+v: %d bytes stay reserved, it takes %d", l, l.After(), took)
			}
			runtime.KeepAlive(events)
			runtime.KeepAlive(data)
		})
	}
}

func many[T any](n int, of T) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = of
	}
	return out
}
