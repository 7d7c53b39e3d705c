package verify

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// Server implements mcpaudit.v1.LedgerService.
type Server struct {
	pb.UnimplementedLedgerServiceServer
	store   *scoped
	writing string
	log     *slog.Logger
	turn    chan struct{}
}

// scoped is a store that gives no events but those that the call may see, and the
// ledger, which belongs to nobody, whole.
type scoped struct {
	Store
	reader *scope.Reader
}

func (s *scoped) Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error) {
	return s.reader.Query(ctx, l, sql, args...)
}

func (s *scoped) Hash(ctx context.Context, l store.Limits, logID string, from, to uint64, f func(batch uint64, leaf uint32, hash *ledger.Hash) error) error {
	l, err := s.reader.Limits(ctx, l)
	if err != nil {
		return err
	}
	return s.Store.Hash(ctx, l, logID, from, to, f)
}

// New makes the service. writing is the id of the log that this instance writes,
// "" for none. Its calls need an auth.Access, which the guard gives them.
func New(s Store, writing string, log *slog.Logger) *Server {
	return &Server{store: &scoped{s, scope.Of(s, log)}, writing: writing, log: log, turn: make(chan struct{}, 1)}
}

// ListLogs returns the logs of the store. They have events of all tenants, and their
// sizes are in every receipt: nothing of it is for some tenants alone.
func (s *Server) ListLogs(ctx context.Context, _ *pb.ListLogsRequest) (*pb.ListLogsResponse, error) {
	if _, err := s.store.reader.Access(ctx); err != nil {
		return nil, err
	}
	logs, err := s.store.Logs(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	resp := &pb.ListLogsResponse{}
	for _, l := range logs {
		out := &pb.Log{LogId: l.ID, StartedAt: timestamppb.New(l.StartedAt), VerifierKey: l.VerifierKey, Writing: l.ID == s.writing}
		last, err := s.store.LastEntry(ctx, l.ID)
		if err != nil {
			return nil, s.status(ctx, err)
		}
		if last != nil {
			out.Size, out.Checkpoint = last.Entry.Batch, last.Checkpoint
		}
		if out.VerifierKey, out.Rotations, err = s.keys(ctx, l); err != nil {
			return nil, err
		}
		resp.Logs = append(resp.Logs, out)
	}
	return resp, nil
}

// keys are a log's newest verifier key and how it came to be that.
func (s *Server) keys(ctx context.Context, l store.LogInfo) (verifier string, rotations []string, err error) {
	if rotations, err = s.store.Rotations(ctx, l.ID); err != nil {
		return "", nil, s.status(ctx, err)
	}
	return ledger.NewestKey(l.VerifierKey, rotations), rotations, nil
}

// GetConsistencyProof proves that a log has only grown between two sizes: whoever has a
// receipt may ask, of whatever tenant.
func (s *Server) GetConsistencyProof(ctx context.Context, req *pb.GetConsistencyProofRequest) (*pb.GetConsistencyProofResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	if _, err := s.store.reader.Access(ctx); err != nil {
		return nil, err
	}
	last, err := s.store.LastEntry(ctx, req.GetLogId())
	if err != nil {
		return nil, s.status(ctx, err)
	}
	if last == nil {
		return nil, status.Errorf(codes.NotFound, "there is no log %q with entries", req.GetLogId())
	}
	size, signed := last.Entry.Batch, last.Checkpoint
	if to := req.GetToSize(); to != 0 && to < size {
		signed = ""
		err := s.store.Entries(ctx, req.GetLogId(), to, to, func(r store.Sealed) error { signed = r.Checkpoint; return nil })
		if err != nil {
			return nil, s.status(ctx, err)
		}
		size = to
	} else if to > size {
		return nil, status.Errorf(codes.NotFound, "log %q has %d entries, not %d", req.GetLogId(), size, to)
	}
	if req.GetFromSize() > size {
		return nil, status.Errorf(codes.NotFound, "log %q has %d entries, not %d", req.GetLogId(), size, req.GetFromSize())
	}
	hashes, err := ledger.ProveConsistency(req.GetFromSize(), size, s.store.Nodes(ctx, req.GetLogId()))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &pb.GetConsistencyProofResponse{Hashes: raw(hashes), Checkpoint: signed}, nil
}

// errNone ends a search without a result.
var errNone = errors.New("no such event")

// GetEventProof proves that one event is in its log. Another tenant's event is none.
// The proof is of the whole event, with what the call was about.
func (s *Server) GetEventProof(ctx context.Context, req *pb.GetEventProofRequest) (*pb.GetEventProofResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	who, err := s.store.reader.Access(ctx)
	if err != nil {
		return nil, err
	}
	if !who.Content.AtLeast(auth.ContentRedacted) {
		return nil, status.Errorf(codes.PermissionDenied, "a proof has the event whole, with what the call was about, which the content level %s does not show; ask for a grant with the content level %s",
			who.Content, auth.ContentRedacted)
	}
	resp, err := s.proof(ctx, req.GetEventId())
	if errors.Is(err, errNone) {
		return nil, status.Errorf(codes.NotFound, "there is no event %s", req.GetEventId())
	}
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return resp, nil
}

func (s *Server) proof(ctx context.Context, id string) (*pb.GetEventProofResponse, error) {
	row, e, err := s.row(ctx, id)
	if err != nil {
		return nil, err
	}
	var sealed *store.Sealed
	if err := s.store.Entries(ctx, e.LogID, e.Batch, e.Batch, func(r store.Sealed) error { sealed = &r; return nil }); err != nil {
		return nil, err
	}
	last, err := s.store.LastEntry(ctx, e.LogID)
	if err != nil {
		return nil, err
	}
	if sealed == nil || last == nil {
		return nil, errNone // stored, and sealed in a moment
	}
	inBatch, err := s.batchProof(ctx, e, sealed.Entry)
	if err != nil {
		return nil, err
	}
	inLog, err := ledger.ProveInclusion(e.Batch-1, last.Entry.Batch, s.store.Nodes(ctx, e.LogID))
	if err != nil {
		return nil, err
	}
	resp := &pb.GetEventProofResponse{Event: wire.ToProto(e), Row: row, BatchProof: raw(inBatch), Entry: sealed.Entry.Append(nil), LogProof: raw(inLog), Checkpoint: last.Checkpoint}
	logs, err := s.store.Logs(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range logs {
		if l.ID == e.LogID {
			if resp.VerifierKey, resp.Rotations, err = s.keys(ctx, l); err != nil {
				return nil, err
			}
		}
	}
	return resp, nil
}

// row reads an event's canonical bytes.
func (s *Server) row(ctx context.Context, id string) ([]byte, *event.Event, error) {
	parsed, err := event.ParseID(id)
	if err != nil {
		return nil, nil, errNone
	}
	const near = " AND occurred_at BETWEEN fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND fromUnixTimestamp64Micro({to:Int64}, 'UTC')"
	made := parsed.Time()
	args := []any{store.Named("id", id), store.Named("from", made.Add(-24*time.Hour).UnixMicro()), store.Named("to", made.Add(time.Hour).UnixMicro())}
	for _, where := range []string{near, ""} { // an id knows about when its event occurred
		row, err := s.one(ctx, "SELECT "+store.RowSQL+" FROM events WHERE event_id = toUUID({id:String})"+where+" LIMIT 1", args...)
		if err != nil {
			return nil, nil, err
		}
		if row != nil {
			e, _, err := event.ParseRow(row)
			return row, e, err
		}
		args = args[:1]
	}
	return nil, nil, errNone
}

func (s *Server) one(ctx context.Context, sql string, args ...any) ([]byte, error) {
	rows, err := s.store.Query(ctx, store.Limits{}, sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []byte
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = []byte(text)
	}
	return out, rows.Err()
}

// batchProof proves that an event is in its batch.
func (s *Server) batchProof(ctx context.Context, e *event.Event, entry *ledger.Entry) ([]ledger.Hash, error) {
	leaves := make([]ledger.Hash, 0, entry.Events)
	err := s.store.reader.Leaves(ctx, store.Limits{}, e.LogID, []uint64{e.Batch}, func(_ uint64, at uint32, hash ledger.Hash) error {
		if int(at) != len(leaves) {
			return errPartial
		}
		leaves = append(leaves, hash)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(leaves) != int(entry.Events) {
		return nil, errPartial
	}
	return ledger.ProveInclusion(uint64(e.Leaf), uint64(entry.Events), ledger.NodesOf(leaves))
}

// errPartial is a batch of which events are gone.
var errPartial = status.Error(codes.FailedPrecondition, "the event's batch is not whole: retention has dropped events of it, then export a bundle instead; or see what is wrong with 'mcpaudit verify'")

// VerifyStore verifies the store, the events of all tenants. One verification runs at a
// time.
func (s *Server) VerifyStore(req *pb.VerifyStoreRequest, stream pb.LedgerService_VerifyStoreServer) error {
	if err := validate(req); err != nil {
		return err
	}
	ctx := stream.Context()
	who, err := scope.Whole(ctx, s.log)
	if err != nil {
		return err
	}
	who.Rows(0) // it says what it thinks of rows, and shows none
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	default:
		return status.Error(codes.ResourceExhausted, "a verification is running already; wait for its end")
	}
	opt := Options{Keys: req.GetVerifierKeys(), Checkpoints: req.GetCheckpoints()}
	if t := req.GetStartTime(); t != nil {
		opt.From = t.AsTime()
	}
	if t := req.GetEndTime(); t != nil {
		opt.To = t.AsTime()
	}
	if _, err := ledger.TrustKeys(opt.Keys, nil); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	summary, err := Run(ctx, s.store, opt, &streamed{stream: stream})
	if err != nil {
		return s.status(ctx, err)
	}
	return stream.Send(&pb.VerifyStoreResponse{Step: &pb.VerifyStoreResponse_Summary{Summary: summary}})
}

// streamed sends a report on.
type streamed struct {
	stream pb.LedgerService_VerifyStoreServer
	said   time.Time
}

func (s *streamed) Problem(p *pb.VerifyProblem) error {
	return s.stream.Send(&pb.VerifyStoreResponse{Step: &pb.VerifyStoreResponse_Problem{Problem: p}})
}

func (s *streamed) Progress(events, total uint64) error {
	if time.Since(s.said) < 200*time.Millisecond {
		return nil
	}
	s.said = time.Now()
	return s.stream.Send(&pb.VerifyStoreResponse{Step: &pb.VerifyStoreResponse_Progress{Progress: &pb.VerifyProgress{Events: events, EventsTotal: total}}})
}

// status says what a caller may know of an error; the log has the rest.
func (s *Server) status(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	if st, ok := status.FromError(err); ok {
		return st.Err()
	}
	s.log.Error("ledger", "error", err)
	return status.Error(codes.Unavailable, "the store did not answer; the service's log says why")
}

func validate(m proto.Message) error {
	err := protovalidate.Validate(m)
	var v *protovalidate.ValidationError
	if errors.As(err, &v) {
		return status.Error(codes.InvalidArgument, v.Error())
	}
	if err != nil {
		return status.Error(codes.Internal, "the request could not be checked")
	}
	return nil
}

func raw(hashes []ledger.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}
