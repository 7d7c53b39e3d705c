// Package query reads the store for people and programs: searches with AIP-160
// filters, events by id, timelines, aggregates, the catalogue of tools, who
// emits, and what is being stored now.
//
// Filters and names compile to static SQL with bound values. Every statement has
// limits of time and memory, every answer one of size, and a caller that goes
// away ends its statement.
package query

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// Reader is what the service needs of a store; *store.Store is it.
type Reader interface {
	// Query runs one reading statement with bound parameters under limits.
	Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error)
}

// Config of the query service.
type Config struct {
	Limits store.Limits // of each statement
	// Stopping is closed when the service stops: watchers are told to come back.
	Stopping <-chan struct{}
}

// Server implements mcpaudit.v1.QueryService.
type Server struct {
	pb.UnimplementedQueryServiceServer
	cfg   Config
	store *scope.Reader // what it reads is cut to what the call may see
	log   *slog.Logger

	tenants  tenants
	watching atomic.Int64 // how many watch
}

// New makes the service. Its calls need an auth.Access, which the guard gives them: they
// see the tenants and the content that it says, and without one nothing.
func New(cfg Config, r Reader, log *slog.Logger) *Server {
	return &Server{cfg: cfg, store: scope.Of(r, log), log: log}
}

const defaultPage = 100

// ListEvents searches events, newest first unless order_by says otherwise.
func (s *Server) ListEvents(ctx context.Context, req *pb.ListEventsRequest) (*pb.ListEventsResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	see, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	cond, err := see.filter(req.GetFilter())
	if err != nil {
		return nil, err
	}
	by, err := readOrder(req.GetOrderBy())
	if err != nil {
		return nil, err
	}
	wanted, err := see.mask(req.GetReadMask())
	if err != nil {
		return nil, err
	}
	search := see.search(req.GetFilter())
	if t := req.GetPageToken(); t != "" {
		place, err := by.readToken(t, search)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		cond = by.after(place).and(cond)
	}
	size := int(cmp.Or(req.GetPageSize(), defaultPage))
	events, full, err := s.page(ctx, cond, by, wanted, size)
	if err != nil {
		return nil, err
	}
	resp := &pb.ListEventsResponse{}
	if len(events) > size {
		events, full = events[:size], true
	}
	if full {
		resp.NextPageToken = by.token(events[len(events)-1], search)
	}
	for _, e := range events {
		resp.Events = append(resp.Events, wanted.prune(wire.ToProto(e)))
	}
	return resp, nil
}

// page reads one event more than a page has, which tells whether there is another.
func (s *Server) page(ctx context.Context, cond condition, by order, wanted mask, size int) (events []*event.Event, full bool, err error) {
	read := func(cond condition, sorted string) ([]*event.Event, bool, error) {
		return s.events(ctx, maxAnswer, "SELECT "+wanted.columns(by.needs()...)+" FROM events WHERE "+cond.sql+
			" ORDER BY "+sorted+" LIMIT {limit:UInt32}", slices.Concat(cond.args, []any{store.Named("limit", size+1)})...)
	}
	if by.name != "occurred_at" {
		return read(cond, by.by())
	}
	if cond, err = s.inOrder(ctx, cond, by); err != nil {
		return nil, false, err
	}
	events, full, err = read(cond, by.byTime())
	if err != nil {
		return nil, false, err
	}
	// Where a page ends between events of one microsecond, the time alone does not
	// say which of them belong to it.
	if full || len(events) > size && events[size-1].OccurredAt == events[size].OccurredAt {
		return read(cond, by.by())
	}
	by.settle(events)
	return events, false, nil
}

// GetEvent returns one event. An id is a UUIDv7 and so knows about when its
// event occurred: the engine looks there first and everywhere only then.
func (s *Server) GetEvent(ctx context.Context, req *pb.GetEventRequest) (*pb.GetEventResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	id, err := event.ParseID(req.GetEventId())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "event_id: "+err.Error())
	}
	see, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	wanted, err := see.mask(req.GetReadMask())
	if err != nil {
		return nil, err
	}
	const byID = " FROM events WHERE event_id = toUUID({id:String})"
	const near = " AND occurred_at BETWEEN fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND fromUnixTimestamp64Micro({to:Int64}, 'UTC')"
	made := id.Time()
	args := []any{store.Named("id", id.String()), store.Named("from", made.Add(-24*time.Hour).UnixMicro()), store.Named("to", made.Add(time.Hour).UnixMicro())}
	for _, sql := range []string{near, ""} {
		events, _, err := s.events(ctx, maxAnswer, "SELECT "+wanted.columns("event_id")+byID+sql+" LIMIT 1", args...)
		if err != nil {
			return nil, err
		}
		if len(events) == 1 {
			return &pb.GetEventResponse{Event: wanted.prune(wire.ToProto(events[0]))}, nil
		}
		args = args[:1]
	}
	return nil, status.Errorf(codes.NotFound, "there is no event %s", id)
}

// maxAnswer bounds the events of one answer, in bytes of memory.
const maxAnswer = 16 << 20

// events reads events. It stops when they take more than most bytes of memory,
// however many rows there are, and then says so.
func (s *Server) events(ctx context.Context, most int, sql string, args ...any) (events []*event.Event, full bool, err error) {
	rows, err := s.store.Query(ctx, s.cfg.Limits, sql, args...)
	if err != nil {
		return nil, false, s.status(ctx, err)
	}
	defer rows.Close()
	size := 0
	for rows.Next() {
		e, err := store.ScanEvent(rows)
		if err != nil {
			return nil, false, s.status(ctx, err)
		}
		events = append(events, e)
		if size += e.Size(); size > most {
			return events, true, nil
		}
	}
	if err := rows.Err(); err != nil {
		return nil, false, s.status(ctx, err)
	}
	return events, false, nil
}

func (s *Server) status(ctx context.Context, err error) error { return Status(ctx, err, s.log) }

// Status says what a caller may know of an error of Reader; the log has the rest.
func Status(ctx context.Context, err error, log *slog.Logger) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	if _, ok := status.FromError(err); ok { // of scope: it is said already, and logged
		return err
	}
	switch store.Code(err) {
	case codeTimeout, codeTooSlow:
		return status.Error(codes.DeadlineExceeded, "the query took longer than it may; narrow it, by time above all")
	case codeMemory, codeTooManyRows, codeTooManyBytes, codeTooMuchInAll:
		return status.Error(codes.ResourceExhausted, "the query would read more than it may; narrow it, by time above all")
	}
	log.Error("query", "error", err)
	return status.Error(codes.Unavailable, "the store did not answer the query; the service's log says why")
}

// ClickHouse error codes (src/Common/ErrorCodes.cpp).
const (
	codeTooManyRows  = 158
	codeTimeout      = 159
	codeTooSlow      = 160
	codeMemory       = 241
	codeTooManyBytes = 307 // a server's own profile may bound these two
	codeTooMuchInAll = 396
)

func validate(m proto.Message) error { return Validate(m) }

// Validate checks a request against the rules of its message. The error is a status.
func Validate(m proto.Message) error {
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
