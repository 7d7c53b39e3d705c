package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// sent is the event of an emitter and a number. Its contents depend on both
// alone, so that what is stored can be compared with what was sent.
func sent(emitter string, seq uint64) *pb.Event {
	at := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC).Add(time.Duration(seq) * time.Millisecond)
	var noise [10]byte
	copy(noise[:], fmt.Sprintf("%s%07d", emitter, seq))
	return &pb.Event{EventId: event.NewID(at, noise).String(), EmitterId: emitter, EmitterSeq: seq, OccurredAt: timestamppb.New(at),
		Duration: durationpb.New(time.Duration(seq%977) * time.Microsecond), Principal: "user:alice", Server: "files", Kind: "tool_call",
		Method: "tools/call", Target: "read_file", Outcome: "success", Transport: "stdio",
		Arguments: fmt.Sprintf(`{"page":%d}`, seq), Labels: map[string]string{"n": fmt.Sprint(seq)}}
}

// asSent is what a stored event has to be: what sent makes, a start of the service
// itself, whose ids and time nobody knows beforehand, or what it notes of who asks it
// something, of which nobody here knows more than that it is one.
func asSent(e *event.Event) (*event.Event, error) {
	want := &event.Event{}
	switch {
	case isNote(e.EmitterID):
		if e.Server != "mcpaudit" || e.Kind != "admin" && e.Kind != "auth" || !strings.HasPrefix(e.Method, "mcpaudit/") {
			return nil, fmt.Errorf("the service notes %v", wire.ToProto(e))
		}
		copied := *e
		return &copied, nil
	case !strings.HasPrefix(e.EmitterID, "mcpaudit-service-"):
		return want, wire.FromProto(sent(e.EmitterID, e.EmitterSeq), want)
	}
	config := slices.IndexFunc(e.Labels, func(l event.Label) bool { return l.Key == "config" && l.Value != "" })
	if config < 0 {
		return nil, fmt.Errorf("a start without its settings: %v", wire.ToProto(e))
	}
	want = &event.Event{EventID: e.EventID, EmitterID: e.EmitterID, EmitterSeq: 1, OccurredAt: e.OccurredAt,
		Principal: "mcpaudit:service", PrincipalKind: "service",
		Server: "mcpaudit", Kind: "admin", Method: "mcpaudit/start", Outcome: "success",
		Labels: []event.Label{e.Labels[config], {Key: "roles", Value: "ingest,detect,query"}, {Key: "version", Value: buildVersion()}}}
	want.SetDefaults()
	return want, nil
}

// isNote says whether an emitter is the service's diary of who asks it something.
func isNote(emitter string) bool { return strings.HasPrefix(emitter, "mcpaudit-access-") }

// storedOnce reads a data folder that no process has open, and checks that it is
// a log: every event once and as it was sent, batches and leaves without holes.
// It returns how many there are of each emitter, the services among them.
func storedOnce(t *testing.T, dir string) map[string]map[uint64]bool {
	t.Helper()
	s := storetest.Open(t, dir)
	defer s.Close()
	rows, err := s.Query(context.Background(), store.Limits{}, "SELECT "+store.EventColumns+" FROM events ORDER BY batch, leaf")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := map[string]map[uint64]bool{}
	batch, leaf := uint64(1), uint32(0)
	for rows.Next() {
		e, err := store.ScanEvent(rows)
		if err != nil {
			t.Fatal(err)
		}
		if found[e.EmitterID] == nil {
			found[e.EmitterID] = map[uint64]bool{}
		}
		if found[e.EmitterID][e.EmitterSeq] {
			t.Errorf("event %d of %s is stored twice", e.EmitterSeq, e.EmitterID)
		}
		found[e.EmitterID][e.EmitterSeq] = true
		if e.Batch == batch+1 && leaf > 0 {
			batch, leaf = batch+1, 0
		}
		if e.Batch != batch || e.Leaf != leaf {
			t.Fatalf("there is leaf %d of batch %d where leaf %d of batch %d belongs", e.Leaf, e.Batch, leaf, batch)
		}
		leaf++
		want, err := asSent(e)
		if err != nil {
			t.Fatal(err)
		}
		want.ReceivedAt, want.LogID, want.Batch, want.Leaf, want.ExpiresMonth = e.ReceivedAt, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth
		if !proto.Equal(wire.ToProto(e), wire.ToProto(want)) {
			t.Errorf("event %d of %s was changed:\n got %v\nwant %v", e.EmitterSeq, e.EmitterID, wire.ToProto(e), wire.ToProto(want))
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// sender is an emitter that sends again whatever it knows no answer for.
type sender struct {
	name  string
	acked uint64 // all up to here
	r     *rand.Rand
}

// send keeps a stream busy until it breaks; answered is called for each answer.
func (s *sender) send(client pb.IngestServiceClient, answered func()) error {
	stream, err := client.Publish(context.Background())
	if err != nil {
		return err
	}
	sizes := make([]uint64, 2000)
	for i := range sizes {
		sizes[i] = 1 + s.r.Uint64N(20)
	}
	go func() {
		for next, i := s.acked+1, 0; i < len(sizes); i++ {
			req := &pb.PublishRequest{}
			for n := next; n < next+sizes[i]; n++ {
				req.Events = append(req.Events, sent(s.name, n))
			}
			if next += sizes[i]; stream.Send(req) != nil {
				return
			}
		}
		_ = stream.CloseSend()
	}()
	for last, i := s.acked, 0; i < len(sizes); i++ {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		r := resp.GetReceipt()
		if last += sizes[i]; uint64(r.GetStored()+r.GetDuplicates()) != sizes[i] || r.GetProgress()[0].GetContiguousSeq() < last {
			return fmt.Errorf("the answer to events up to %d is %v", last, r)
		}
		s.acked = last
		answered()
	}
	return nil
}

// Promises 1 and 2: what was acknowledged survives kill -9, once, whenever it
// comes, though every emitter sends again what it had no answer for.
func TestPromise1DurableAndPromise2ExactlyOnceAcrossKillNine(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 9)) // anywhere, another place each time
	senders := []*sender{{name: "one"}, {name: "two"}, {name: "six"}}
	const lives = 6
	for life := range lives {
		p, address := launchReady(t, dir)
		client := pb.NewIngestServiceClient(connect(t, address))
		answers := make(chan struct{}, 1<<20)
		var wg sync.WaitGroup
		for _, s := range senders {
			s.r = rand.New(rand.NewPCG(r.Uint64(), 0))
			wg.Go(func() {
				if err := s.send(client, func() { answers <- struct{}{} }); err != nil && status.Code(err) != codes.Unavailable {
					t.Errorf("life %d: %v", life, err)
				}
			})
		}
		for range 1 + r.IntN(60) {
			<-answers
		}
		// In the middle of whatever it does now.
		time.Sleep(time.Duration(r.IntN(30_000)) * time.Microsecond)
		p.kill()
		wg.Wait()
	}
	// The last start seals what the last kill has left, and then all is proven.
	p, address := launchServe(t, dir)
	verified(t, address)
	p.kill()
	found := storedOnce(t, dir)
	for _, s := range senders {
		t.Logf("%s: %d were acknowledged, %d are stored", s.name, s.acked, len(found[s.name]))
		for n := uint64(1); n <= s.acked; n++ {
			if !found[s.name][n] {
				t.Errorf("event %d of %s was acknowledged and is gone", n, s.name)
			}
		}
		delete(found, s.name)
	}
	// What is left are the starts of services, which were killed before they could note
	// a stop; the last of them was waited for. And what they noted of their callers.
	maps.DeleteFunc(found, func(emitter string, _ map[uint64]bool) bool { return isNote(emitter) })
	if len(found) < 1 || len(found) > lives+1 {
		t.Errorf("%d starts are stored of %d services", len(found), lives+1)
	}
	for emitter, numbers := range found {
		if !strings.HasPrefix(emitter, "mcpaudit-service-") || len(numbers) != 1 {
			t.Errorf("of %s there are the events %v", emitter, numbers)
		}
	}
}
