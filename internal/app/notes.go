package app

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// afterStart is the pipeline as the recorder of what is asked. A call that comes in the
// first moments, when the pipeline still looks at what is stored, waits for it instead of
// being refused.
type afterStart struct {
	*ingest.Pipeline
	ready atomic.Bool
}

// startPatience is how long such a call waits.
const startPatience = 5 * time.Second

// Submit makes events durable.
func (a *afterStart) Submit(ctx context.Context, events []*event.Event, size int) (ingest.Settled, error) {
	if !a.ready.Load() {
		wait, cancel := context.WithTimeout(ctx, startPatience)
		awaitReady(wait, a.Pipeline)
		cancel()
		a.ready.Store(true) // from now on it says itself what it can't
	}
	return a.Pipeline.Submit(ctx, events, size)
}

// elsewhere has the notes of an instance without a log written by one that has one.
// It is a diary.Recorder: what it returns without an error is durable there.
type elsewhere struct {
	conn   *grpc.ClientConn
	ingest pb.IngestServiceClient
}

func newElsewhere(c client.Config) (*elsewhere, error) {
	options, err := c.DialOptions()
	if err != nil {
		return nil, fmt.Errorf("access.notes_to: %w", err)
	}
	conn, err := grpc.NewClient(c.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("access.notes_to: %w", err)
	}
	return &elsewhere{conn: conn, ingest: pb.NewIngestServiceClient(conn)}, nil
}

// Submit has events stored. An event that is refused is an error: there is nobody to
// mend it, and what it notes must not be done.
func (e *elsewhere) Submit(ctx context.Context, events []*event.Event, _ int) (ingest.Settled, error) {
	req := &pb.PublishBatchRequest{}
	for _, one := range events {
		req.Events = append(req.Events, wire.ToProto(one))
	}
	resp, err := e.ingest.PublishBatch(ctx, req)
	if err != nil {
		return ingest.Settled{}, fmt.Errorf("have what was done noted by %s: %w", e.conn.Target(), err)
	}
	r := resp.GetReceipt()
	settled := ingest.Settled{Stored: int(r.GetStored()), Duplicates: int(r.GetDuplicates())}
	for _, refused := range r.GetRejected() {
		switch refused.GetCode() {
		case pb.Rejection_CODE_FORBIDDEN, pb.Rejection_CODE_RESERVED: // until somebody changes the key
			return ingest.Settled{}, fmt.Errorf("have what was done noted by %s: it refuses an event: %s; "+
				"its key needs the role emitter for every tenant with --emitter 'mcpaudit-*'", e.conn.Target(), refused.GetReason())
		}
		settled.Rejected = append(settled.Rejected, ingest.Rejection{Index: int(refused.GetIndex()), Reason: errors.New(refused.GetReason())})
	}
	return settled, nil
}
