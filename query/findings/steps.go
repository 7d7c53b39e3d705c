package findings

import (
	"context"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// step is something that somebody did about a finding.
type step struct {
	id       uuid.UUID
	at       time.Time
	by       string
	name     string // acknowledge, assign, close, reopen or note
	assignee string
	verdict  string
	note     string
}

func (t *step) proto() *pb.TriageStep {
	return &pb.TriageStep{Step: t.name, Assignee: t.assignee, Verdict: t.verdict, Note: t.note, By: t.by, At: timestamppb.New(t.at)}
}

// steps are the newest steps of a finding, oldest first.
func (s *Server) steps(ctx context.Context, finding string) (out []step, err error) {
	err = s.scan(ctx, func(rows driver.Rows) error {
		var t step
		if err := rows.Scan(&t.id, &t.at, &t.by, &t.name, &t.assignee, &t.verdict, &t.note); err != nil {
			return err
		}
		out = append(out, t)
		return nil
	}, "SELECT action_id, at, `by`, step, assignee, verdict, note FROM finding_actions"+`
		WHERE finding_id = toUUID({id:String}) AND step IN ('acknowledge', 'assign', 'close', 'reopen', 'note')
		ORDER BY at DESC, action_id DESC LIMIT 1 BY action_id LIMIT {most:UInt32}`, store.Named("id", finding), store.Named("most", maxSteps))
	slices.Reverse(out)
	return out, err
}

// last is the newest step that is one of names; nil when there is none.
func last(steps []step, names ...string) *step {
	for i := len(steps) - 1; i >= 0; i-- {
		if slices.Contains(names, steps[i].name) {
			return &steps[i]
		}
	}
	return nil
}

// allowed says why a step makes no sense after others; nil when it does. The error is
// a status.
//
//	             new  acknowledged  closed
//	acknowledge   ✓
//	assign        ✓        ✓               to somebody else than before
//	close         ✓        ✓
//	reopen                            ✓    it is new again, and keeps its assignee
//	note          ✓        ✓          ✓
//
// A finding that was closed and then became worse is new.
func allowed(req *pb.TriageFindingRequest, f *pb.Finding, steps []step) error {
	if len(steps) >= maxSteps {
		return status.Errorf(codes.FailedPrecondition, "%d steps were taken about this finding, which is as many as it may have", len(steps))
	}
	refuse := func(what string, by *step) error {
		return status.Errorf(codes.FailedPrecondition, "finding %s %s at %s by %s", req.GetFindingId(), what, by.at.UTC().Format("2006-01-02 15:04:05 UTC"), by.by)
	}
	now := last(steps, "acknowledge", "close", "reopen")
	if now != nil && now.name == "close" && f.GetTriage() == "new" {
		now = nil
	}
	closed := now != nil && now.name == "close"
	switch req.GetStep() {
	case "acknowledge":
		if now != nil && now.name == "acknowledge" {
			return refuse("was acknowledged", now)
		}
		if closed {
			return refuse("was closed", now)
		}
	case "assign":
		if closed {
			return refuse("was closed", now)
		}
		if a := last(steps, "assign"); a != nil && a.assignee == req.GetAssignee() {
			return refuse("was assigned to "+a.assignee, a)
		}
	case "close":
		if closed {
			return refuse("was closed as "+now.verdict, now)
		}
	case "reopen":
		if now == nil {
			return status.Errorf(codes.FailedPrecondition, "finding %s is not closed", req.GetFindingId())
		}
		if !closed {
			return refuse("is not closed: it was "+map[string]string{"acknowledge": "acknowledged", "reopen": "reopened"}[now.name], now)
		}
	}
	return nil
}
