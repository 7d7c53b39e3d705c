// Package query reads the store for people and programs: searches with AIP-160
// filters, events by id.
package query

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
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
)

// Reader is what the service needs of a store; *store.Store is it.
type Reader interface {
	// Query runs one reading statement with bound parameters under limits.
	Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error)
}

// Config of the query service.
type Config struct {
	Limits store.Limits // of each statement
}

// Server implements mcpaudit.v1.QueryService.
type Server struct {
	pb.UnimplementedQueryServiceServer
	cfg   Config
	store Reader
	log   *slog.Logger
}

// New makes the service.
func New(cfg Config, r Reader, log *slog.Logger) *Server {
	return &Server{cfg: cfg, store: r, log: log}
}

const defaultPage = 100

// ListEvents searches events, newest first.
func (s *Server) ListEvents(ctx context.Context, req *pb.ListEventsRequest) (*pb.ListEventsResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	cond, err := compileFilter(req.GetFilter())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	// One event more than the page tells whether there is another page.
	args := append(cond.args, store.Named("limit", size+1))
	after := "1"
	if t := req.GetPageToken(); t != "" {
		at, id, err := parsePageToken(t, req.GetFilter())
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		after = `occurred_at <= fromUnixTimestamp64Micro({after:Int64}, 'UTC')
			AND (occurred_at, event_id) < (fromUnixTimestamp64Micro({after:Int64}, 'UTC'), toUUID({after_id:String}))`
		args = append(args, store.Named("after", at), store.Named("after_id", id.String()))
	}
	events, err := s.events(ctx, "SELECT "+store.EventColumns+" FROM events WHERE "+after+" AND "+cond.sql+
		" ORDER BY occurred_at DESC, event_id DESC LIMIT {limit:UInt32}", args...)
	if err != nil {
		return nil, err
	}
	resp := &pb.ListEventsResponse{}
	if len(events) > size {
		events = events[:size]
		last := events[size-1]
		resp.NextPageToken = pageToken(last.OccurredAt, last.EventID, req.GetFilter())
	}
	for _, e := range events {
		resp.Events = append(resp.Events, wire.ToProto(e))
	}
	return resp, nil
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
	const byID = " FROM events WHERE event_id = toUUID({id:String})"
	const near = " AND occurred_at BETWEEN fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND fromUnixTimestamp64Micro({to:Int64}, 'UTC')"
	made := id.Time()
	args := []any{store.Named("id", id.String()), store.Named("from", made.Add(-24*time.Hour).UnixMicro()), store.Named("to", made.Add(time.Hour).UnixMicro())}
	for _, sql := range []string{near, ""} {
		events, err := s.events(ctx, "SELECT "+store.EventColumns+byID+sql+" LIMIT 1", args...)
		if err != nil {
			return nil, err
		}
		if len(events) == 1 {
			return &pb.GetEventResponse{Event: wire.ToProto(events[0])}, nil
		}
		args = args[:1]
	}
	return nil, status.Errorf(codes.NotFound, "there is no event %s", id)
}

func (s *Server) events(ctx context.Context, sql string, args ...any) ([]*event.Event, error) {
	rows, err := s.store.Query(ctx, s.cfg.Limits, sql, args...)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	defer rows.Close()
	var events []*event.Event
	for rows.Next() {
		e, err := store.ScanEvent(rows)
		if err != nil {
			return nil, s.status(ctx, err)
		}
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		return nil, s.status(ctx, err)
	}
	return events, nil
}

// status says what a caller may know of a store's error; the log has the rest.
func (s *Server) status(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	switch store.Code(err) {
	case codeTimeout, codeTooSlow:
		return status.Error(codes.DeadlineExceeded, "the query took longer than it may; narrow it, by time above all")
	case codeMemory, codeTooManyRows:
		return status.Error(codes.ResourceExhausted, "the query would read more than it may; narrow it, by time above all")
	}
	s.log.Error("query", "error", err)
	return status.Error(codes.Unavailable, "the store did not answer the query; the service's log says why")
}

// ClickHouse error codes (src/Common/ErrorCodes.cpp).
const (
	codeTooManyRows = 158
	codeTimeout     = 159
	codeTooSlow     = 160
	codeMemory      = 241
)

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

// A page token is the key of the page's last event and a hash of the filter: a
// page continues only the search that it belongs to.
func pageToken(occurred int64, id event.ID, filter string) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(occurred))
	b = append(b, id[:]...)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(b, filterHash(filter)))
}

func parsePageToken(token, filter string) (occurred int64, id event.ID, err error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 28 {
		return 0, id, errors.New("page_token: not one that this service gave")
	}
	if binary.BigEndian.Uint32(b[24:]) != filterHash(filter) {
		return 0, id, fmt.Errorf("page_token: belongs to another filter; repeat the filter of the first page, or start again without a token")
	}
	copy(id[:], b[8:24])
	return int64(binary.BigEndian.Uint64(b[:8])), id, nil
}

func filterHash(filter string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(filter))
	return h.Sum32()
}
