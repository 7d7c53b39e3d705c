package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// again verifies until it is interrupted. What is wrong becomes an event of kind
// finding, once.
func (v *verification) again(ctx context.Context) error {
	if v.every < time.Second {
		return fmt.Errorf("verify: --every is %v, must be at least 1s", v.every)
	}
	var noise [6]byte
	rand.Read(noise[:])
	w := &watcher{v: v, emitter: "mcpaudit-verify-" + hex.EncodeToString(noise[:]), said: map[string]bool{}}
	for {
		err := v.once(ctx)
		var wrong exitStatus
		if err != nil && !errors.As(err, &wrong) && ctx.Err() == nil {
			fmt.Fprintf(v.s.stderr, "mcpaudit: %v; trying again in %v\n", err, v.every)
		}
		if err := w.tell(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintf(v.s.stderr, "mcpaudit: record what is wrong: %v; trying again in %v\n", err, v.every)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(v.every):
		}
	}
}

// watcher records problems as events of its own emitter.
type watcher struct {
	v       *verification
	emitter string
	seq     uint64
	said    map[string]bool // problems that are recorded
	waiting []*pb.Event     // not acknowledged yet
}

// maxFindings is how many problems are events; the first ones say where to look.
const maxFindings = 1000

func (w *watcher) tell(ctx context.Context) error {
	for _, p := range w.v.found {
		key := fmt.Sprint(p.GetCode(), p.GetLogId(), p.GetBatch(), p.GetHasLeaf(), p.GetLeaf())
		if w.said[key] || len(w.said) >= maxFindings {
			continue
		}
		w.said[key] = true
		w.seq++
		var random [10]byte
		rand.Read(random[:])
		w.waiting = append(w.waiting, &pb.Event{
			EventId: event.NewID(w.v.s.now(), random).String(), EmitterId: w.emitter, EmitterSeq: w.seq, OccurredAt: timestamppb.New(w.v.s.now()),
			Principal: "mcpaudit:verify", PrincipalKind: "service", Server: "mcpaudit", Kind: "finding", Method: "mcpaudit/verify",
			Target: event.ClipText(p.GetLogId(), event.MaxText), Outcome: "protocol_error", ErrorCode: p.GetCode().String(), ErrorMessage: event.ClipText(p.GetMessage(), event.MaxText),
			Labels: map[string]string{"batch": fmt.Sprint(p.GetBatch()), "event_id": p.GetEventId()},
		})
	}
	if len(w.waiting) == 0 {
		return nil
	}
	c, err := dial("record what is wrong", w.v.address, "")
	if err != nil {
		return err
	}
	defer c.conn.Close()
	if _, err := pb.NewIngestServiceClient(c.conn).PublishBatch(ctx, &pb.PublishBatchRequest{Events: w.waiting}); err != nil {
		return c.explain(err) // sent again next time, with the same numbers
	}
	w.waiting = nil
	return nil
}
