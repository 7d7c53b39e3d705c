package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// again verifies until it is interrupted. What is wrong becomes an event of kind
// finding, once. The status is 1 when anything was found, or the last verification did
// not come to an end.
func (v *verification) again(ctx context.Context) error {
	if v.every < time.Second {
		return fmt.Errorf("verify: --every is %v, must be at least 1s", v.every)
	}
	var noise [6]byte
	rand.Read(noise[:])
	w := &watcher{v: v, emitter: "mcpaudit-verify-" + hex.EncodeToString(noise[:]), said: map[string]bool{}}
	found, unknown := false, false
	for {
		err := v.once(ctx)
		found = found || len(v.found) > 0
		var wrong exitStatus
		if ctx.Err() == nil {
			if unknown = err != nil && !errors.As(err, &wrong); unknown {
				fmt.Fprintf(v.s.stderr, "mcpaudit: %v; trying again in %v\n", err, v.every)
			}
		}
		if err := w.tell(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintf(v.s.stderr, "mcpaudit: %v; trying again in %v\n", err, v.every)
		}
		select {
		case <-ctx.Done():
			if found || unknown {
				return exitStatus(1)
			}
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
	c, err := dial("record what is wrong", w.v.reach, "")
	if err != nil {
		return err
	}
	defer c.conn.Close()
	// What is not stored is sent again next time, with the same numbers.
	resp, err := pb.NewIngestServiceClient(c.conn).PublishBatch(ctx, &pb.PublishBatchRequest{Events: w.waiting})
	switch {
	case status.Code(err) == codes.PermissionDenied:
		return fmt.Errorf("%w; %s", c.explain(err), watcherKey)
	case err != nil:
		return c.explain(err)
	}
	refused := map[uint64]bool{}
	why, key := "", false
	for _, r := range resp.GetReceipt().GetRejected() {
		refused[r.GetEmitterSeq()], why = true, printable(r.GetReason(), 300)
		key = key || r.GetCode() == pb.Rejection_CODE_FORBIDDEN || r.GetCode() == pb.Rejection_CODE_RESERVED
	}
	w.waiting = slices.DeleteFunc(w.waiting, func(e *pb.Event) bool { return !refused[e.GetEmitterSeq()] })
	switch {
	case key:
		return fmt.Errorf("%s: the service does not take it from this key: %s; %s", c.doing, why, watcherKey)
	case why != "":
		return fmt.Errorf("%s: the service does not take it: %s", c.doing, why)
	}
	return nil
}

// watcherKey is what a watching verification needs: its events bear a name that is
// believed, which a key has to be given in so many words.
const watcherKey = "what is wrong is printed here and is not in the log yet; give 'verify --watch' a key that may do both: " +
	"mcpaudit access create NAME --tenant '*' --role auditor --role emitter --emitter 'mcpaudit-verify-*'"
