package app

import (
	"bytes"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Who says that much will come and sends little takes little of the memory for bodies,
// and who sends much takes no more than his share.
func TestOnePayersBodiesLeaveRoomForOthers(t *testing.T) {
	room := newBodyRoom()
	body := func(payer string, size int) *heldBody {
		return &heldBody{ReadCloser: io.NopCloser(bytes.NewReader(make([]byte, size))), ctx: t.Context(), room: room.of(payer)}
	}
	var open []*heldBody
	for range 1000 { // each could send 16 MiB, and has sent a byte so far
		b := body("tenant slow", maxRequestBody)
		open = append(open, b)
		if _, err := b.Read(make([]byte, 1)); err != nil {
			if status.Code(err) != codes.Unavailable {
				t.Fatal(err)
			}
			break
		}
	}
	if held := int64(len(open)-1) * bodyStep; held != payerBodies {
		t.Errorf("one payer holds %d bytes, may hold %d", held, payerBodies)
	}
	other := body("tenant other", maxRequestBody)
	if n, err := io.Copy(io.Discard, other); err != nil || n != maxRequestBody {
		t.Errorf("another one reads %d bytes, %v", n, err)
	}
	other.release()
	for _, b := range open {
		b.release()
	}
	if len(room.payers) != 0 || !room.all.TryAcquire(bodies) {
		t.Errorf("when all have ended, %d payers are remembered", len(room.payers))
	}
}
