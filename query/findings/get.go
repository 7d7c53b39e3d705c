package findings

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// Bounds of one finding's history.
const (
	maxVersions = 100  // the newest
	maxSteps    = 1000 // the newest; a finding takes no more
	maxEvents   = 100  // an emitter may use an id twice
)

// GetFinding returns a finding, the newest of its versions, what people did, and the
// events that it names and the store still has. A finding of another tenant is none.
func (s *Server) GetFinding(ctx context.Context, req *pb.GetFindingRequest) (*pb.GetFindingResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	id := strings.ToLower(req.GetFindingId())
	versions, err := s.history(ctx, id, maxVersions)
	if err != nil {
		return nil, err
	}
	resp := &pb.GetFindingResponse{Finding: versions[len(versions)-1], Versions: versions}
	steps, err := s.steps(ctx, id)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	for i := range steps {
		resp.Steps = append(resp.Steps, steps[i].proto())
	}
	if resp.Events, err = s.evidence(ctx, resp.GetFinding()); err != nil {
		return nil, s.status(ctx, err)
	}
	return resp, nil
}

// history is the newest versions of a finding, oldest first, at least one.
func (s *Server) history(ctx context.Context, id string, most int) ([]*pb.Finding, error) {
	list, err := s.standings(ctx, "SELECT "+stateColumns+" FROM "+viewOf("finding_id = toUUID({id:String})")+`
		ORDER BY version DESC LIMIT 1 BY version LIMIT {most:UInt32}`+viewSettings, store.Named("id", id), store.Named("most", most))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	versions, _, err := s.versions(ctx, list)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	if len(versions) == 0 {
		return nil, status.Errorf(codes.NotFound, "there is no finding %s", id)
	}
	slices.Reverse(versions)
	return versions, nil
}

// current is a finding as it is now.
func (s *Server) current(ctx context.Context, id string) (*pb.Finding, error) {
	versions, err := s.history(ctx, id, 1)
	if err != nil {
		return nil, err
	}
	return versions[0], nil
}

// around is how far from its finding an event is looked for: the clock of an emitter
// may be ahead of the service's, by which the finding then goes.
const around = 24 * time.Hour

// evidence reads the events that a finding names, oldest first. It looks at the time
// of the finding; for those that are not there, at the times of which their ids say
// that they were made. It never looks at the whole store.
func (s *Server) evidence(ctx context.Context, f *pb.Finding) ([]*pb.Event, error) {
	var ids []event.ID
	for _, text := range f.GetEventIds() {
		id, err := event.ParseID(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	from, to := f.GetStartedAt().AsTime().Add(-around), f.GetLastSeenAt().AsTime().Add(around)
	found, err := s.named(ctx, ids, "occurred_at BETWEEN "+boundTime("from")+" AND "+boundTime("to"),
		store.Named("from", micros(from)), store.Named("to", micros(to)))
	if err != nil {
		return nil, err
	}
	var near []string
	var args []any
	var missing []event.ID
	for _, id := range ids {
		if slices.ContainsFunc(found, func(e *event.Event) bool { return e.EventID == id }) {
			continue
		}
		n := strconv.Itoa(len(missing))
		missing = append(missing, id)
		near = append(near, "occurred_at BETWEEN "+boundTime("from"+n)+" AND "+boundTime("to"+n))
		args = append(args, store.Named("from"+n, micros(id.Time().Add(-around))), store.Named("to"+n, micros(id.Time().Add(time.Hour))))
	}
	if len(missing) > 0 {
		more, err := s.named(ctx, missing, "("+strings.Join(near, " OR ")+")", args...)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	slices.SortFunc(found, func(a, b *event.Event) int { return int(a.OccurredAt - b.OccurredAt) })
	var out []*pb.Event
	who, err := s.store.Access(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range found {
		out = append(out, scope.StripEvent(who.Content, wire.ToProto(e)))
	}
	return out, nil
}

// micros is a time that the engine can hold, in µs since 1970.
func micros(t time.Time) int64 {
	const last = 7289654399e6 // of the year 2200
	return min(max(t.UnixMicro(), 0), last)
}

// named reads the events of some ids in a time.
func (s *Server) named(ctx context.Context, ids []event.ID, when string, args ...any) (out []*event.Event, err error) {
	texts := make([]string, len(ids))
	for i := range ids {
		texts[i] = ids[i].String()
	}
	size := 0
	err = s.scan(ctx, func(rows driver.Rows) error {
		e, err := store.ScanEvent(rows)
		if err != nil {
			return err
		}
		if size += e.Size(); size <= maxAnswer || len(out) == 0 {
			out = append(out, e)
		}
		return nil
	}, "SELECT "+store.EventColumns+" FROM events WHERE event_id IN (SELECT toUUID(arrayJoin({ids:Array(String)}))) AND "+when+`
		ORDER BY occurred_at LIMIT {most:UInt32}`, append(args, store.Named("ids", texts), store.Named("most", maxEvents))...)
	return out, err
}
