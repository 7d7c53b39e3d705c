package rpc_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Promise 4: an acknowledgement carries a checkpoint of the log, and to whoever says
// which one he has kept, the proof that the log has only grown.
func TestPromise4AnAcknowledgementProvesThatTheLogOnlyGrew(t *testing.T) {
	s := rpctest.New(t)
	keys, err := ledger.TrustKeys([]string{s.Key.Verifier()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := pb.NewIngestServiceClient(conn).Publish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	publish := func(seq uint64, known *pb.KnownCheckpoint) (*pb.Receipt, ledger.Checkpoint) {
		t.Helper()
		if err := stream.Send(&pb.PublishRequest{Events: []*pb.Event{message("one", seq)}, Known: known}); err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		c, err := ledger.OpenCheckpoint(resp.GetReceipt().GetCheckpoint(), keys)
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetReceipt(), c
	}
	r, first := publish(1, nil)
	if len(r.GetConsistency()) > 0 || first.LogID != s.Key.LogID() {
		t.Errorf("%v, %+v", r, first)
	}
	last := first
	for seq := uint64(2); seq < 12; seq++ {
		last = grown(t, publish, seq, last)
	}
	grown(t, publish, 12, first)
	// A duplicate is in the log too.
	if _, c := publish(1, nil); c.Size < last.Size {
		t.Errorf("a duplicate's checkpoint is of %d entries, after %d", c.Size, last.Size)
	}
	for _, known := range []*pb.KnownCheckpoint{{LogId: "another", Size: 1}, {LogId: first.LogID, Size: 1 << 40}} {
		if r, _ := publish(13, known); len(r.GetConsistency()) > 0 {
			t.Errorf("proof of %v: %v", known, r)
		}
	}
}

// grown publishes an event, knowing a checkpoint, and checks the proof.
func grown(t *testing.T, publish func(uint64, *pb.KnownCheckpoint) (*pb.Receipt, ledger.Checkpoint), seq uint64, known ledger.Checkpoint) ledger.Checkpoint {
	t.Helper()
	r, c := publish(seq, &pb.KnownCheckpoint{LogId: known.LogID, Size: known.Size})
	var proof []ledger.Hash
	for _, h := range r.GetConsistency() {
		proof = append(proof, ledger.Hash(h))
	}
	if err := ledger.CheckConsistency(known.Size, c.Size, known.Root, c.Root, proof); err != nil || c.Size <= known.Size {
		t.Errorf("%d to %d: %v", known.Size, c.Size, err)
	}
	return c
}
