package findings

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// Receiver is somebody whom a Notifier tells of findings.
type Receiver struct {
	Name, Kind, Host string
	Waiting          int       // findings that it is still to be told of
	Since            time.Time // when the oldest of them was found; zero when there is none
}

// Sample is what came of sending one receiver a sample.
type Sample struct {
	Receiver, Kind string
	Status         int // HTTP status of the answer; 0 for none
	Took           time.Duration
	Err            error // in words that may be shown; nil when it was taken
}

// UnknownReceiver says that there is no receiver of a name, and which is the nearest.
type UnknownReceiver struct{ Text string }

func (u UnknownReceiver) Error() string { return u.Text }

// Notifier tells receivers of findings. Its methods may be called by many goroutines.
type Notifier interface {
	// Receivers are all of them, and whether this process is the one that sends.
	Receivers() (receivers []Receiver, sending bool)
	// Test sends those that are named, or all when none is, a sample, and returns when
	// each has answered or its time is over, which is some seconds. The error is an
	// UnknownReceiver when one of them is not there.
	Test(ctx context.Context, receivers []string) ([]Sample, error)
}

// NotifyServer implements mcpaudit.v1.NotifyService.
type NotifyServer struct {
	pb.UnimplementedNotifyServiceServer
	limits   store.Limits
	store    *scope.Reader
	notifier Notifier // nil when nobody is told of anything
	log      *slog.Logger
}

// NewNotify makes the service; n may be nil.
func NewNotify(limits store.Limits, s query.Reader, n Notifier, log *slog.Logger) *NotifyServer {
	return &NotifyServer{limits: limits, store: scope.Of(s, log), notifier: n, log: log}
}

var errNobody = status.Error(codes.FailedPrecondition, "this instance tells nobody of findings: it has no notify.file; see 'mcpaudit notify --help'")

// ListReceivers returns who is told. Receivers belong to the operator: they are for those
// who see every tenant.
func (s *NotifyServer) ListReceivers(ctx context.Context, req *pb.ListReceiversRequest) (*pb.ListReceiversResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	if _, err := scope.Whole(ctx, s.log); err != nil {
		return nil, err
	}
	if s.notifier == nil {
		return nil, errNobody
	}
	list, sending := s.notifier.Receivers()
	resp := &pb.ListReceiversResponse{Sending: sending}
	for _, r := range list {
		m := &pb.Receiver{Name: r.Name, Kind: r.Kind, Host: r.Host, Waiting: uint32(min(r.Waiting, 1<<31))}
		if !r.Since.IsZero() {
			m.WaitingSince = timestamppb.New(r.Since)
		}
		resp.Receivers = append(resp.Receivers, m)
	}
	return resp, nil
}

// TestReceivers sends samples. The guard has noted that they were asked for.
func (s *NotifyServer) TestReceivers(ctx context.Context, req *pb.TestReceiversRequest) (*pb.TestReceiversResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	if _, err := scope.Whole(ctx, s.log); err != nil {
		return nil, err
	}
	if s.notifier == nil {
		return nil, errNobody
	}
	samples, err := s.notifier.Test(ctx, req.GetReceivers())
	if unknown, ok := errors.AsType[UnknownReceiver](err); ok {
		return nil, status.Error(codes.NotFound, unknown.Text)
	}
	if err != nil {
		return nil, query.Status(ctx, err, s.log)
	}
	resp := &pb.TestReceiversResponse{}
	for _, x := range samples {
		m := &pb.ReceiverTest{Receiver: x.Receiver, Kind: x.Kind, Ok: x.Err == nil, Status: uint32(x.Status), Took: durationpb.New(x.Took)}
		if x.Err != nil {
			m.Error = x.Err.Error()
		}
		resp.Results = append(resp.Results, m)
	}
	return resp, nil
}

const defaultNotifications = 100

// ListNotifications returns steps with messages about findings of the call's tenants.
func (s *NotifyServer) ListNotifications(ctx context.Context, req *pb.ListNotificationsRequest) (*pb.ListNotificationsResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	limit := int(cmp.Or(req.GetLimit(), defaultNotifications))
	sql := `SELECT at, step, receiver, what, finding_id, version, tenant, rule, severity, attempt, status, error FROM notifications
		WHERE step != 'read' AND ({receiver:String} = '' OR receiver = {receiver:String})
			AND ({finding:String} = '' OR toString(finding_id) = {finding:String}) AND ({step:String} = '' OR step = {step:String})`
	if req.GetStep() == "queued" { // what waits: what came of the others is a later step
		sql += ` AND notification_id NOT IN (SELECT notification_id FROM notifications WHERE step IN ('sent', 'skipped'))`
	}
	rows, err := s.store.Query(ctx, s.limits, sql+` ORDER BY at DESC, notification_id, step LIMIT {limit:UInt32}`,
		store.Named("receiver", req.GetReceiver()), store.Named("finding", req.GetFindingId()), store.Named("step", req.GetStep()), store.Named("limit", limit+1))
	if err != nil {
		return nil, query.Status(ctx, err, s.log)
	}
	defer rows.Close()
	resp := &pb.ListNotificationsResponse{}
	for rows.Next() {
		n, err := notification(rows)
		if err != nil {
			return nil, query.Status(ctx, err, s.log)
		}
		resp.Notifications = append(resp.Notifications, n)
	}
	if err := rows.Err(); err != nil {
		return nil, query.Status(ctx, err, s.log)
	}
	if len(resp.Notifications) > limit {
		resp.Notifications, resp.Truncated = resp.Notifications[:limit], true
	}
	return resp, nil
}

func notification(rows driver.Rows) (*pb.Notification, error) {
	n := &pb.Notification{}
	var at time.Time
	var finding uuid.UUID
	var code uint16
	if err := rows.Scan(&at, &n.Step, &n.Receiver, &n.What, &finding, &n.Version, &n.Tenant, &n.Rule, &n.Severity, &n.Attempt, &code, &n.Error); err != nil {
		return nil, err
	}
	n.At, n.Status = timestamppb.New(at), uint32(code)
	if finding != uuid.Nil {
		n.FindingId = finding.String()
	}
	return n, nil
}
