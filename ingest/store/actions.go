package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// FindingAction is one step that somebody took about a finding or a suppression: a
// row of the table finding_actions.
type FindingAction struct {
	ID        uuid.UUID
	FindingID uuid.UUID // zero for end_suppression
	Tenant    string
	At        time.Time
	By        string
	// Step is acknowledge, assign, close, reopen, note, suppress or end_suppression.
	Step     string
	Assignee string // for assign
	Verdict  string // for close: true_positive, benign or false_positive
	Severity string // of the finding when the step was taken
	Note     string
	// For suppress and end_suppression; for the second only the id counts.
	SuppressionID uuid.UUID
	Rule          string
	Principal     string
	Server        string // empty for any
	Target        string // empty for any
	ExpiresAt     time.Time
}

// FindingActionColumns are the columns of a step, in the order of FindingAction.
const FindingActionColumns = "action_id, finding_id, tenant, at, `by`, step, assignee, verdict, severity, note, suppression_id, rule, principal, server, target, expires_at"

// AppendAction stores a step, durably and once: the same id is the same step. After
// an error, append it again.
func (s *Store) AppendAction(ctx context.Context, a FindingAction) error {
	return s.AppendActions(ctx, []FindingAction{a})
}

// AppendActions stores steps that belong together, all or none, durably and once: the
// same ids are the same steps. After an error, which may come after they are stored,
// append them again.
func (s *Store) AppendActions(ctx context.Context, steps []FindingAction) error {
	if len(steps) == 0 {
		return nil
	}
	token := "action"
	for i := range steps {
		token += "/" + steps[i].ID.String()
	}
	insert, err := s.conn.PrepareBatch(once(ctx, token), "INSERT INTO finding_actions ("+FindingActionColumns+")")
	if err != nil {
		return fmt.Errorf("note the step %s: %w", steps[0].Step, err)
	}
	for i := range steps {
		a := &steps[i]
		expires := a.ExpiresAt
		if expires.IsZero() {
			expires = time.Unix(0, 0)
		}
		if err := insert.Append(a.ID, a.FindingID, a.Tenant, a.At, a.By, a.Step, a.Assignee, a.Verdict, a.Severity, a.Note,
			a.SuppressionID, a.Rule, a.Principal, a.Server, a.Target, expires); err != nil {
			_ = insert.Abort() // nothing was sent
			return fmt.Errorf("note the step %s: %w", a.Step, err)
		}
	}
	if err := insert.Send(); err != nil {
		return fmt.Errorf("note the step %s: %w", steps[0].Step, err)
	}
	return nil
}
