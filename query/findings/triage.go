package findings

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// TriageFinding notes one step.
//
// The log gets an event of it first, under the id that the step will have, and the
// store gets the step second. So there is no step without proof of who took it. A
// crash between the two leaves an event without a step: the finding is as it was,
// whoever asked has no answer and asks again, and the log has both. The other order
// would leave a step that nobody can prove, which is worse.
//
// Two people at once: steps are decided and stored one after the other, so the second
// one is told what the first one did. Two services on one store can't see each other
// in time; the later step by time and id then counts, for every reader alike, and
// whose step came between is told.
func (s *Server) TriageFinding(ctx context.Context, req *pb.TriageFindingRequest) (*pb.TriageFindingResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	if err := complete(req); err != nil {
		return nil, err
	}
	who, err := s.store.Access(ctx)
	if err != nil {
		return nil, err
	}
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	id := strings.ToLower(req.GetFindingId())
	f, err := s.current(ctx, id)
	if err != nil {
		return nil, err
	}
	before, err := s.steps(ctx, id)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	if err := allowed(req, f, before); err != nil {
		return nil, err
	}
	if req.GetSuppressDays() > 0 && !narrow(f) {
		return nil, status.Errorf(codes.FailedPrecondition, "finding %s is about no identity, server or target, so a suppression would cover all that rule %s finds of this kind; close it without, and change the rule if it is wrong", id, f.GetRule())
	}
	// Steps are in the order in which they were decided, also where clocks go back.
	at := s.now().UTC().Truncate(time.Microsecond)
	if n := len(before); n > 0 && !at.After(before[n-1].at) {
		at = before[n-1].at.Add(time.Microsecond)
	}
	taken := []taking{{deed: deed{method: "findings/" + req.GetStep(), target: id, tenant: f.GetTenant(), who: who, note: req.GetNote(), labels: map[string]string{
		"rule": f.GetRule(), "severity": f.GetSeverity(), "version": strconv.FormatUint(uint64(f.GetVersion()), 10),
		"assignee": req.GetAssignee(), "verdict": req.GetVerdict(),
	}}, action: store.FindingAction{FindingID: uuid.MustParse(id), Tenant: f.GetTenant(), At: at, By: scope.By(who), Step: req.GetStep(),
		Assignee: req.GetAssignee(), Verdict: req.GetVerdict(), Severity: f.GetSeverity(), Note: req.GetNote()}}}
	if req.GetSuppressDays() > 0 {
		taken = append(taken, suppressing(f, req, who, at))
	}
	if err := s.take(ctx, taken); err != nil {
		return nil, err
	}
	resp := &pb.TriageFindingResponse{}
	if len(taken) > 1 {
		resp.Suppression = suppressed(&taken[1].action)
	}
	after, err := s.steps(ctx, id)
	if err == nil {
		resp.Finding, err = s.current(ctx, id)
	}
	if err != nil {
		s.log.Error("query", "error", err)
		return nil, status.Error(codes.Unavailable, "the step is stored, and the finding can't be read now; look at it before you try again")
	}
	if other := between(before, after, taken[0].action.ID); other != nil && req.GetStep() != "note" {
		return nil, status.Errorf(codes.Aborted, "your step is stored, and so is that of %s, who at the same time did: %s. Look at the finding, and correct it where it is not what you meant", other.by, other.name)
	}
	return resp, nil
}

// complete refuses a request whose parts don't belong together.
func complete(req *pb.TriageFindingRequest) error {
	invalid := func(text string) error { return status.Error(codes.InvalidArgument, text) }
	switch step := req.GetStep(); {
	case step == "assign" && strings.TrimSpace(req.GetAssignee()) == "":
		return invalid("assignee: is missing; name who looks after the finding")
	case step != "assign" && req.GetAssignee() != "":
		return invalid("assignee: is for the step assign")
	case step == "close" && req.GetVerdict() == "":
		return invalid("verdict: is missing; a finding is closed as true_positive, benign or false_positive")
	case step != "close" && req.GetVerdict() != "":
		return invalid("verdict: is for the step close")
	case step == "note" && strings.TrimSpace(req.GetNote()) == "":
		return invalid("note: is empty")
	case req.GetSuppressDays() > 0 && (step != "close" || req.GetVerdict() != "benign"):
		return invalid("suppress_days: is for the step close as benign: what is usual of an identity is suppressed, not what a rule gets wrong or what is an attack")
	}
	return nil
}

// begin takes the turn of somebody who is about to change something, and makes sure
// that the log can be written.
func (s *Server) begin(ctx context.Context) (end func(), err error) {
	if s.diary == nil {
		return nil, errNoLog
	}
	if end, err = s.turn.begin(ctx); err != nil {
		return nil, err
	}
	if err := s.diary.open(ctx); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// taking is a step that is about to be taken: its event and its row.
type taking struct {
	deed   deed
	action store.FindingAction
}

// storePatience is how long, and storeTries how often, the store is asked to take
// steps that the log has.
const (
	storePatience = 15 * time.Second
	storeTries    = 4
)

// take records steps in the log and stores them. The error is a status.
func (s *Server) take(ctx context.Context, list []taking) error {
	events := make([]*event.Event, len(list))
	actions := make([]store.FindingAction, len(list))
	for i := range list {
		t := &list[i]
		// A microsecond apart, so that the log lists them in their order.
		events[i] = s.diary.entry(t.deed, t.action.At.Add(time.Duration(i)*time.Microsecond))
		t.action.ID = stepID(events[i])
		if t.action.Step == "suppress" {
			t.action.SuppressionID = t.action.ID
		}
		actions[i] = t.action
	}
	undone := list[0].deed
	undone.note, undone.labels = "", map[string]string{"action": list[0].action.ID.String()}
	undone.failure = "the log did not confirm the record of this step, so it was not taken"
	if err := s.diary.enter(ctx, events, undone); err != nil {
		return err
	}
	// It is in the log: whether whoever asked is still there does not matter any more.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), storePatience)
	defer cancel()
	err := s.actions.AppendActions(late, actions)
	for try := 1; err != nil && try < storeTries && late.Err() == nil; try++ {
		select {
		case <-late.Done():
		case <-time.After(time.Duration(try) * 200 * time.Millisecond):
			err = s.actions.AppendActions(late, actions)
		}
	}
	if err == nil {
		return nil
	}
	s.log.Error("a step of triage is in the log and the store did not confirm it", "step", list[0].action.Step, "action", list[0].action.ID, "error", err)
	undone.failure = "the store did not confirm this step; the history of the finding says whether it counts"
	s.diary.note(ctx, undone)
	return status.Error(codes.Unavailable, "the store did not confirm the step; look whether the finding has it before you try again")
}

// between is a step of somebody else that counts and was stored since before.
func between(before, after []step, own uuid.UUID) *step {
	known := map[uuid.UUID]bool{own: true}
	for i := range before {
		known[before[i].id] = true
	}
	for i := range after {
		if t := &after[i]; !known[t.id] && t.name != "note" {
			return t
		}
	}
	return nil
}
