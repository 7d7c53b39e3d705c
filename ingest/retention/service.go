package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Config of the retention service. The zero value of a field means its default.
type Config struct {
	LogID string        // of the log that this instance writes; required
	Auto  bool          // drop what has expired by itself, see Run
	First time.Duration // from the start to the first run of Run; default 5 min
	Every time.Duration // between runs; default 24 h
	// Mine says whether it is this instance that drops, of several that share a store;
	// nil when there is one.
	Mine func() bool
}

// Store is what retention needs of one; *store.Store is it. None of the methods that
// change something says, by its error, whether it was done.
type Store interface {
	// LastEntry is a log's entry with the highest number, nil when it has none.
	LastEntry(ctx context.Context, logID string) (*store.Sealed, error)
	// Entries calls f for a log's entries from one number to another.
	Entries(ctx context.Context, logID string, from, to uint64, f func(store.Sealed) error) error
	// Acts are the entries of some kinds, of all logs, in the order of their sealing.
	Acts(ctx context.Context, kinds ...string) ([]*ledger.Entry, error)
	// Gap names a log whose entries are not numbered from 1 without gaps, or is "".
	Gap(ctx context.Context) (logID string, err error)
	// SealedTimes are when the newest entry was sealed, and the newest until a time.
	SealedTimes(ctx context.Context, until time.Time) (newest, before time.Time, err error)

	// Expiring are the months up to a day and the logs that have events in them.
	Expiring(ctx context.Context, day uint16) ([]store.Expiring, error)
	// MonthSize is what a month takes on disk, and how many events it has.
	MonthSize(ctx context.Context, month uint16) (bytes, events uint64, err error)
	// CountHeld counts a share's events, those under a hold, and those under each.
	CountHeld(ctx context.Context, share store.Share, holds []store.Condition) (events, held uint64, each []uint64, err error)
	// CountMatching counts all events of which a condition is true.
	CountMatching(ctx context.Context, c store.Condition) (uint64, error)
	// Rows reads the canonical bytes of events, in no order.
	Rows(ctx context.Context, l store.Limits, where string, args []any, f func(batch uint64, leaf uint32, row []byte) error) error
	// Held are the positions of a share's events of which a condition is true.
	Held(ctx context.Context, share store.Share, c store.Condition) ([]store.BatchLeaves, error)
	// LeavesOf computes the leaf hashes of batches of a share.
	LeavesOf(ctx context.Context, table string, share store.Share, batches []uint64) (map[uint64]store.BatchLeaves, error)

	// KeptProofs are what a run has kept of a log; KeptOf what all runs have kept of
	// batches.
	KeptProofs(ctx context.Context, logID string, run uint64) ([][]byte, error)
	KeptOf(ctx context.Context, logID string, batches []uint64) (map[uint64][][]byte, error)
	// Keep stores proofs of a run durably and once; after an error, the same again.
	Keep(ctx context.Context, logID string, run uint64, batches []uint64, proofs [][]byte) error

	// DropMonth removes a month at once.
	DropMonth(ctx context.Context, month uint16) error
	// Stage begins to gather what stays of a month, StageHeld and StageOthers gather,
	// Staged counts it, ReplaceMonth puts it in the month's place at once, Unstage
	// ends it. After an error, Stage begins anew.
	Stage(ctx context.Context) error
	StageHeld(ctx context.Context, share store.Share, first, last uint64, c store.Condition) error
	StageOthers(ctx context.Context, month uint16, shares []store.Share) error
	Staged(ctx context.Context) (uint64, error)
	ReplaceMonth(ctx context.Context, month uint16) error
	Unstage(ctx context.Context) error
}

// Recorder appends to the log; *ingest.Pipeline is it.
type Recorder interface {
	// Record appends an entry, and returns its number when it is durable.
	Record(ctx context.Context, kind, detail string) (batch uint64, err error)
	// Submit makes events durable.
	Submit(ctx context.Context, events []*event.Event, size int) (ingest.Settled, error)
}

// Compile makes a filter a condition on the events table and the values that are
// bound in it; query.Compile is it.
type Compile func(filter string) (sql string, args []any, err error)

// Server implements mcpaudit.v1.RetentionService. One thing is done at a time: what a
// hold was told that it keeps is not dropped meanwhile.
type Server struct {
	pb.UnimplementedRetentionServiceServer
	cfg     Config
	store   Store
	record  Recorder
	compile Compile
	now     func() time.Time
	log     *slog.Logger
	turn    chan struct{} // has room for the one who is at work
	diary   *diary.Diary
}

// New makes the service; it does nothing by itself until Run. Its calls need an
// auth.Access for every tenant, which the guard gives them.
func New(cfg Config, s Store, r Recorder, c Compile, now func() time.Time, log *slog.Logger) *Server {
	if cfg.First == 0 {
		cfg.First = 5 * time.Minute
	}
	if cfg.Every == 0 {
		cfg.Every = 24 * time.Hour
	}
	return &Server{cfg: cfg, store: s, record: r, compile: c, now: now, log: log, turn: make(chan struct{}, 1), diary: diary.New("retention", r, now)}
}

// Run drops what has expired every now and then, until ctx ends. It does nothing
// when that is not configured. A run that fails is tried again with the next one.
func (s *Server) Run(ctx context.Context) {
	if !s.cfg.Auto {
		return
	}
	for wait := s.cfg.First; ; wait = s.cfg.Every {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if _, err := s.apply(ctx, schedule); err != nil && ctx.Err() == nil && !errors.Is(err, errElsewhere) {
			s.log.Error("retention: what has expired was not dropped; it is tried again", "in", s.cfg.Every, "error", err)
		}
	}
}

// begin waits for its turn.
func (s *Server) begin(ctx context.Context) (end func(), err error) {
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// PlanRetention says what ApplyRetention would drop now.
func (s *Server) PlanRetention(ctx context.Context, req *pb.PlanRetentionRequest) (*pb.PlanRetentionResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	if _, err := s.admit(ctx); err != nil {
		return nil, err
	}
	end, err := s.begin(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	defer end()
	holds, err := s.active(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	months, err := s.expired(ctx, holds)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &pb.PlanRetentionResponse{Expired: proto3(months)}, nil
}

// ApplyRetention drops what has expired, but for events under a hold.
func (s *Server) ApplyRetention(ctx context.Context, req *pb.ApplyRetentionRequest) (*pb.ApplyRetentionResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	by, err := s.admit(ctx)
	if err != nil {
		return nil, err
	}
	months, err := s.apply(ctx, by)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	return &pb.ApplyRetentionResponse{Expired: proto3(months)}, nil
}

// admit says who calls. Retention is about the events of all tenants: a call that is
// not for every one of them is refused, as the guard has done before, and so is one
// that came past the guard. The error is a status.
func (s *Server) admit(ctx context.Context) (who, error) {
	a, ok := auth.From(ctx)
	if !ok {
		s.log.Error("retention: a call came past the guard, without an access; it is refused")
		return who{}, status.Error(codes.Internal, "the service does not know who calls; its log has more")
	}
	if !a.Scope.Every {
		s.log.Error("retention: a call for some tenants came past the guard; it is refused", "identity", a.ID)
		return who{}, status.Error(codes.PermissionDenied, "retention is about every tenant; it wants a grant for every tenant")
	}
	w := who{words: a.ID, Who: diary.Who{Principal: a.ID, Name: a.Name, Kind: a.Kind, AuthMethod: a.Method, Credential: a.Credential, Address: a.Address, UserAgent: a.UserAgent}}
	if a.Name != "" && a.Name != a.ID {
		w.words += " (" + a.Name + ")"
	}
	return w, nil
}

func proto3(months []month) (out []*pb.ExpiredMonth) {
	for _, m := range months {
		out = append(out, &pb.ExpiredMonth{Month: m.name(), Dropped: m.dropped, Held: m.held, Bytes: m.bytes,
			FirstReceived: timestamppb.New(m.first), LastReceived: timestamppb.New(m.last)})
	}
	return out
}

// refusal is why something is not done. Its text is safe to show.
type refusal struct {
	code codes.Code
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code codes.Code, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// status says what a caller may know of an error; the log has the rest.
func (s *Server) status(ctx context.Context, err error) error {
	var r *refusal
	switch {
	case errors.As(err, &r):
		return status.Error(r.code, r.text)
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, ingest.ErrUnavailable):
		return status.Error(codes.Unavailable, "the log can't be written to now; try again in a moment")
	}
	s.log.Error("retention", "error", err)
	return status.Error(codes.Unavailable, "the store did not do what was asked; the service's log says why. What was begun is finished by the next 'mcpaudit retention apply'")
}

func validate(m proto.Message) error {
	err := protovalidate.Validate(m)
	var v *protovalidate.ValidationError
	if errors.As(err, &v) {
		return status.Error(codes.InvalidArgument, strings.Join(strings.Split(v.Error(), "\n"), " "))
	}
	if err != nil {
		return status.Error(codes.Internal, "the request could not be checked")
	}
	return nil
}
