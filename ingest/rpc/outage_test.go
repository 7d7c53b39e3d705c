package rpc_test

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// leak is what no answer may hold: statements, codes and files of the store.
var leak = regexp.MustCompile(`(?i)insert|select|events \(|/var|/home|/tmp|code: |exception|\.go:|goroutine|column`)

func checkUnavailable(t *testing.T, err error) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != codes.Unavailable {
		t.Fatalf("answered %v", err)
	}
	var retry *errdetails.RetryInfo
	for _, d := range st.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			retry = r
		}
	}
	if d := retry.GetRetryDelay().AsDuration(); d != 2*time.Second {
		t.Errorf("RetryInfo says %v", d)
	}
	if leak.MatchString(st.Message()) {
		t.Errorf("the text tells too much: %q", st.Message())
	}
}

func TestAStoreThatFailsIsUnavailableWithTheTimeToWait(t *testing.T) {
	s := serve(t, 0)
	s.gate.set(errors.New("append batch: Code: 243. DB::Exception: not enough space at /var/lib/x: INSERT INTO events (`a`)"))
	stream := s.publish(t, t.Context())
	if err := stream.Send(&pb.PublishRequest{Events: messages("stream", 1, 2)}); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Recv()
	checkUnavailable(t, err)
	_, err = s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: messages("batch", 1, 2)})
	checkUnavailable(t, err)
	if n := s.count(t, "stream") + s.count(t, "batch"); n != 0 {
		t.Errorf("%d events are stored", n)
	}
	s.gate.set(nil)
	for _, emitter := range []string{"stream", "batch"} {
		eventually(t, "the same events are taken", func() bool {
			_, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: messages(emitter, 1, 2)})
			return err == nil
		})
		if n := s.count(t, emitter); n != 2 {
			t.Errorf("%d events of %s are stored", n, emitter)
		}
	}
}

// A slow store slows the emitter: no more than the window is read of a stream.
func TestAStreamIsReadNoFurtherThanItsWindow(t *testing.T) {
	s := serve(t, 0)
	hold := make(chan struct{})
	s.gate.hold = hold
	stream := s.publish(t, t.Context())
	const requests = 200
	go func() {
		for n := range uint64(requests) {
			if stream.Send(&pb.PublishRequest{Events: messages("e", n+1, n+1)}) != nil {
				return
			}
		}
		_ = stream.CloseSend()
	}()
	// One is waited for, a window of them waits behind it, and one more is in the hand.
	const most = 66
	eventually(t, "the window is full", func() bool { return s.read.value() >= most })
	for range 50 { // a service that reads on would do so at once
		time.Sleep(time.Millisecond)
		if n := s.read.value(); n > most {
			t.Fatalf("%d requests were read while none was stored", n)
		}
	}
	close(hold)
	for n := range requests {
		if _, err := stream.Recv(); err != nil {
			t.Fatalf("answer %d: %v", n, err)
		}
	}
	if n := s.count(t, "e"); n != requests {
		t.Errorf("%d events are stored", n)
	}
}

// Clients go away in the middle of everything, or stop reading their answers.
// The memory that their events held is free again for others.
func TestClientsThatLeaveHoldNothing(t *testing.T) {
	s := serve(t, 200_000)
	hold := make(chan struct{})
	s.gate.hold = hold
	var leave []context.CancelFunc
	var silent []pb.IngestService_PublishClient
	for range 6 {
		ctx, cancel := context.WithCancel(t.Context())
		leave = append(leave, cancel)
		stream := s.publish(t, ctx)
		silent = append(silent, stream)
		go func() {
			for stream.Send(&pb.PublishRequest{Events: messages("e", 1, 40)}) == nil && ctx.Err() == nil {
			}
		}()
	}
	eventually(t, "they are all heard", func() bool { return s.read.value() >= 6 })
	for _, cancel := range leave[:3] {
		cancel()
	}
	close(hold)
	// Three have left, three send and never read. One who behaves is served.
	behaves := messages("good", 1, 200)
	resp, err := s.PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: behaves})
	if err != nil || resp.GetReceipt().GetStored() != 200 {
		t.Errorf("answered %v, %v", resp, err)
	}
	for _, cancel := range leave[3:] {
		cancel()
	}
	for _, stream := range silent {
		for {
			if _, err := stream.Recv(); err != nil {
				break
			}
		}
	}
	if n := s.count(t, "e"); n != 40 {
		t.Errorf("%d events of the others are stored, want each of 40 once", n)
	}
}

func TestACallersOwnDeadlineIsItsAnswer(t *testing.T) {
	s := serve(t, 0)
	hold := make(chan struct{})
	s.gate.hold = hold
	defer close(hold)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.PublishBatch(ctx, &pb.PublishBatchRequest{Events: messages("e", 1, 1)}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("answered %v", err)
	}
}
