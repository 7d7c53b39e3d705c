// Package rpc is the gRPC side of ingest: it turns requests into events for the
// pipeline and the pipeline's word into answers. An answer leaves after the
// events are durable.
package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Limits of one request, as ingest.proto says.
const (
	MaxEvents = 5000
	MaxBytes  = 4 << 20

	// window is how many requests of one stream may wait for the store: so many that
	// small ones fill the batches of a slow disk. The stream is read no further: the
	// emitter feels it, memory does not, which is reserved for each.
	window = 64
)

// Config of the ingest service.
type Config struct {
	ClockTolerance time.Duration // difference of clocks that is said to be off; default 5 minutes
	RetryAfter     time.Duration // what emitters are told to wait when the store is away; default 2 s
	// Stopping, when closed, ends streams: what was read is answered, and the
	// emitter is told to send the rest again. A stream would hold up a shutdown.
	Stopping <-chan struct{}
	// Admit says who writes in a call. An error of it is the call's. It is asked for
	// every request, also of those of a stream. nil: whoever calls may write as anybody,
	// and as much as comes; for tests, and for what is guarded otherwise.
	Admit func(ctx context.Context) (Admission, error)
	// Elsewhere, when set, says where events are taken instead: nothing is taken here.
	Elsewhere string
}

// Admission is one who writes: as whom, and how much. *auth.Writer is one.
type Admission interface {
	// Admit lets an event in, after it has filled in what the writer's grants say, or
	// says why not: with an *auth.Denial, or an *event.Violation. It is called once for
	// each event, before it is checked.
	Admit(e *event.Event) error
	// Own is what the writer itself calls an emitter that is stored under this id.
	Own(stored string) string
	// Take charges a request before it is read, and may wait for that. When it is not
	// ok, nothing is charged, and the writer may try again after wait, which is 0 when
	// ctx has ended.
	Take(ctx context.Context, events, bytes int) (wait time.Duration, ok bool)
	// Payer names whose share of the memory a request takes.
	Payer() string
}

// anybody may write as anybody.
type anybody struct{}

func (anybody) Admit(*event.Event) error                             { return nil }
func (anybody) Own(stored string) string                             { return stored }
func (anybody) Take(context.Context, int, int) (time.Duration, bool) { return 0, true }
func (anybody) Payer() string                                        { return "" }

// Server implements mcpaudit.v1.IngestService.
type Server struct {
	pb.UnimplementedIngestServiceServer
	cfg      Config
	pipeline *ingest.Pipeline
	now      func() time.Time
}

// New makes the service on a pipeline.
func New(cfg Config, p *ingest.Pipeline, now func() time.Time) *Server {
	if cfg.ClockTolerance == 0 {
		cfg.ClockTolerance = 5 * time.Minute
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = 2 * time.Second
	}
	if cfg.Admit == nil {
		cfg.Admit = func(context.Context) (Admission, error) { return anybody{}, nil }
	}
	return &Server{cfg: cfg, pipeline: p, now: now}
}

// PublishBatch stores one batch.
func (s *Server) PublishBatch(ctx context.Context, req *pb.PublishBatchRequest) (*pb.PublishBatchResponse, error) {
	b, err := s.start(ctx, req)
	if err != nil {
		return nil, err
	}
	receipt, err := s.settle(ctx, b)
	if err != nil {
		return nil, err
	}
	return &pb.PublishBatchResponse{Receipt: receipt}, nil
}

// Publish stores the batches of a stream, in order. A request that can't be
// stored ends the stream with its error; everything before it was answered.
func (s *Server) Publish(stream pb.IngestService_PublishServer) error {
	ctx := stream.Context()
	under := make(chan *batch, window)
	// The receiver ends with the stream, at the latest when this method returns.
	go s.receive(ctx, stream, under)
	for left := window; left > 0; {
		var b *batch
		select {
		case b = <-under:
		case <-s.cfg.Stopping:
			left-- // what is under way is answered, not what a client sends on and on
			select {
			case b = <-under:
			default:
				return s.status(ingest.ErrUnavailable)
			}
		}
		if b == nil {
			return nil // the client is done, and all is answered
		}
		if b.err != nil {
			return b.err
		}
		receipt, err := s.settle(ctx, b)
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.PublishResponse{Receipt: receipt}); err != nil {
			return err
		}
	}
	return s.status(ingest.ErrUnavailable)
}

// receive starts one request after the other and passes them on; an error is
// passed on in its place and ends it.
func (s *Server) receive(ctx context.Context, stream pb.IngestService_PublishServer, under chan<- *batch) {
	defer close(under)
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		var b *batch
		if err == nil {
			b, err = s.start(ctx, req)
		}
		if err != nil {
			b = &batch{err: err}
		}
		select {
		case under <- b:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// batch is a request on its way.
type batch struct {
	pending  *ingest.Pending
	who      Admission
	seqs     []uint64 // as sent, for the rejections
	rejected []*pb.Rejection
	skew     *durationpb.Duration
	clockOff bool
	known    *pb.KnownCheckpoint
	err      error
}

// start reads a request and hands its events to the pipeline. It weighs the
// request, charges it, and waits for that much memory first.
func (s *Server) start(ctx context.Context, req publish) (*batch, error) {
	if s.cfg.Elsewhere != "" {
		return nil, status.Error(codes.FailedPrecondition, s.cfg.Elsewhere)
	}
	l, err := weigh(req)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "the request is not a protobuf message of its type")
	}
	if err := check(l); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	who, err := s.cfg.Admit(ctx)
	if err != nil {
		return nil, err
	}
	if wait, ok := who.Take(ctx, l.Events, l.Bytes); !ok {
		if ctx.Err() != nil {
			return nil, s.status(ctx.Err())
		}
		return nil, auth.Exhausted("more events are sent than the quota of this credential, or of its tenant, allows; nothing is lost, send the same events again when there is room", wait)
	}
	room, err := s.pipeline.ReserveFor(ctx, who.Payer(), l.Memory())
	if err != nil {
		return nil, s.status(err)
	}
	defer room.Release() // what Start has taken over stays
	if len(req.GetEvents()) == 0 {
		if err := open(req); err != nil {
			return nil, status.Error(codes.InvalidArgument, "the request is not a protobuf message of its type")
		}
	}
	messages := req.GetEvents()
	b := &batch{who: who, seqs: make([]uint64, len(messages)), known: req.GetKnown()}
	if sentAt := req.GetSentAt(); sentAt != nil {
		skew := s.now().Sub(sentAt.AsTime())
		b.skew, b.clockOff = durationpb.New(skew), skew.Abs() > s.cfg.ClockTolerance
	}
	events := make([]*event.Event, len(messages))
	all := make([]event.Event, len(messages))
	for i, m := range messages {
		b.seqs[i] = m.GetEmitterSeq()
		if err := wire.FromProto(m, &all[i]); err != nil {
			b.reject(i, pb.Rejection_CODE_INVALID, err)
			continue
		}
		if err := who.Admit(&all[i]); err != nil {
			b.reject(i, codeOf(err), err)
			continue
		}
		events[i] = &all[i]
	}
	room.Shrink(l.After()) // the messages are garbage now
	if b.pending, err = room.Start(ctx, events); err != nil {
		return nil, s.status(err)
	}
	return b, nil
}

// codeOf is the category of an event that is not let in.
func codeOf(err error) pb.Rejection_Code {
	var d *auth.Denial
	switch {
	case !errors.As(err, &d):
		return pb.Rejection_CODE_INVALID
	case d.Reserved:
		return pb.Rejection_CODE_RESERVED
	}
	return pb.Rejection_CODE_FORBIDDEN
}

func (b *batch) reject(i int, code pb.Rejection_Code, reason error) {
	b.rejected = append(b.rejected, &pb.Rejection{Index: uint32(i), EmitterSeq: b.seqs[i], Code: code, Reason: reason.Error()})
}

func (s *Server) settle(ctx context.Context, b *batch) (*pb.Receipt, error) {
	settled, err := b.pending.Wait(ctx)
	if err != nil {
		return nil, s.status(err)
	}
	for _, r := range settled.Rejected {
		code := pb.Rejection_CODE_INVALID
		if r.Gaps {
			code = pb.Rejection_CODE_TOO_MANY_GAPS
		}
		b.reject(r.Index, code, r.Reason)
	}
	slices.SortFunc(b.rejected, func(x, y *pb.Rejection) int { return cmp.Compare(x.Index, y.Index) })
	receipt := &pb.Receipt{
		Stored: uint32(settled.Stored), Duplicates: uint32(settled.Duplicates), Rejected: b.rejected,
		ClockSkew: b.skew, ClockOff: b.clockOff, Checkpoint: settled.Checkpoint,
	}
	if k := b.known; k != nil && k.GetLogId() == settled.LogID && k.GetSize() < settled.Size {
		// The events are stored. Without the proof the emitter asks for it elsewhere.
		if proof, err := s.pipeline.Consistency(ctx, k.GetSize(), settled.Size); err == nil {
			for i := range proof {
				receipt.Consistency = append(receipt.Consistency, proof[i][:])
			}
		}
	}
	receipt.Progress = b.progress(settled.Progress)
	return receipt, nil
}

// progress is that of the emitters as their writer calls them. One that writes for
// several tenants is several emitters in the log; what is true of one of them is true
// of it.
func (b *batch) progress(stored []ingest.Progress) (out []*pb.Progress) {
	at := make(map[string]*pb.Progress, len(stored))
	for _, p := range stored {
		id := b.who.Own(p.Emitter)
		q := at[id]
		if q == nil {
			q = &pb.Progress{EmitterId: id}
			at[id] = q
			out = append(out, q)
		}
		q.ContiguousSeq, q.HighestSeq = max(q.ContiguousSeq, p.Contiguous), max(q.HighestSeq, p.Highest)
	}
	return out
}

// status turns a pipeline's error into what an emitter may see.
func (s *Server) status(err error) error {
	if !errors.Is(err, ingest.ErrUnavailable) {
		return status.FromContextError(err).Err()
	}
	st, detailErr := status.New(codes.Unavailable, fmt.Sprintf("%v; nothing is lost, send the same events again in %v", err, s.cfg.RetryAfter)).
		WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(s.cfg.RetryAfter)})
	if detailErr != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return st.Err()
}
