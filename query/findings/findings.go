// Package findings is the API of what the detectors have found: searching, watching
// and triage, and the declarations that something is usual.
//
// # What is stored
//
// The detectors append versions of findings, people append steps; neither is ever
// changed. What a finding is now is its newest version, what people made of it is the
// last of their steps, and both are worked out by each reading statement (view.go),
// so there is nothing that could disagree with the history.
//
// # Steps and the log
//
// Each step is an event in the signed log and a row of the store, under one id. The
// event comes first and the row second (see [Server.TriageFinding]): whatever people
// made of a finding is proven by the log. A crash between the two leaves an event of
// a step that has no effect, never a step of which nobody knows.
package findings

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// Config of the service.
type Config struct {
	Limits store.Limits // of each statement
	// Stopping is closed when the service stops: watchers are told to come back.
	Stopping <-chan struct{}
}

// Store is what the service needs of one; *store.Store is it.
type Store interface {
	query.Reader
	// AppendActions stores steps, all or none, durably and once: the same ids are the
	// same steps. After an error, which may come after the steps are stored, append
	// them again.
	AppendActions(ctx context.Context, steps []store.FindingAction) error
}

// Recorder appends to the log; *ingest.Pipeline is it.
type Recorder interface {
	// Submit makes events durable. After an error they may be so too; the same events
	// again are stored once.
	Submit(ctx context.Context, events []*event.Event, size int) (ingest.Settled, error)
}

// Server implements mcpaudit.v1.FindingService.
type Server struct {
	pb.UnimplementedFindingServiceServer
	cfg     Config
	store   *scope.Reader // what it reads is cut to what the call may see
	actions Store         // takes steps
	diary   *diary        // nil when this process writes no log
	now     func() time.Time
	log     *slog.Logger
	turn    turn // of those who change something
	bell    bell // for those who watch
}

// New makes the service. Without a recorder it only reads. Its calls need an
// auth.Access, which the guard gives them.
func New(cfg Config, s Store, r Recorder, now func() time.Time, log *slog.Logger) *Server {
	f := &Server{cfg: cfg, store: scope.Of(s, log), actions: s, now: now, log: log, turn: newTurn()}
	if r != nil {
		f.diary = newDiary("mcpaudit-findings", r, now, log)
	}
	return f
}

func (s *Server) status(ctx context.Context, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return query.Status(ctx, err, s.log)
}

var errNoLog = status.Error(codes.FailedPrecondition, "this instance writes no log, and what is done about findings has to be recorded in one; ask an instance that has the role ingest, or start this one with it")

// turn lets one change something at a time: what a step was decided on is still so
// when it is stored.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) begin(ctx context.Context) (end func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}
