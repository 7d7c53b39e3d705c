package findings

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// begun makes a finding begin at one time, and be seen last at another, by the minutes
// after noon.
func begun(from, to int) func(*store.Finding) {
	return func(f *store.Finding) {
		f.StartedAt = noon.Add(time.Duration(from) * time.Minute).UnixMicro()
		f.OpenedAt, f.LastSeenAt = f.StartedAt, noon.Add(time.Duration(to)*time.Minute).UnixMicro()
	}
}

func (d *desk) shown(t *testing.T) string {
	t.Helper()
	return numbers(d.list(t, &pb.ListFindingsRequest{}).GetFindings())
}

// What is benign of an identity is not listed for the days that were named: what the
// same rule finds of the same identity at the same place, while that is in force.
func TestASuppressionCoversTheSameOfTheSameIdentityUntilItEnds(t *testing.T) {
	const day = 24 * 60
	d := newDesk(t)
	d.tell(t, found(1, begun(-10, -5)), found(2, begun(-5, -1))) // both are there before
	made := d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", SuppressDays: 30, Note: "the nightly job"}).GetSuppression()
	if made.GetTenant() != "acme" || made.GetRule() != "agent-loop" || made.GetPrincipal() != "agent:a" || made.GetServer() != "files" || made.GetTarget() != "read" ||
		made.GetFindingId() != findingID(1) || made.GetBy() != "ada" || made.GetNote() != "the nightly job" || !made.GetExpiresAt().AsTime().Equal(noon.Add(30*day*time.Minute)) {
		t.Errorf("%v", made)
	}
	d.tell(t,
		found(3, begun(10, 20)), // covered
		found(4, begun(10, 20), func(f *store.Finding) { f.Tenant = "beta" }),
		found(5, begun(10, 20), func(f *store.Finding) { f.Rule = "call-spike" }),
		found(6, begun(10, 20), func(f *store.Finding) { f.Principal = "agent:b" }),
		found(7, begun(10, 20), func(f *store.Finding) { f.Server = "mail" }),
		found(8, begun(10, 20), func(f *store.Finding) { f.Target = "" }),
		found(9, begun(29*day, 31*day)), // it goes on when the suppression has ended
		found(10, begun(31*day, 31*day)))
	if got := d.shown(t); got != "10 9 8 7 6 5 4 2 1" {
		t.Errorf("shown: %s", got)
	}
	all := d.list(t, &pb.ListFindingsRequest{ShowSuppressed: true, Filter: "suppression_id:*"}).GetFindings()
	if numbers(all) != "3" || all[0].GetSuppressionId() != made.GetSuppressionId() || all[0].GetTriage() != "new" {
		t.Errorf("covered: %v", all)
	}
	if got := d.get(t, 3).GetFinding().GetSuppressionId(); got != made.GetSuppressionId() {
		t.Errorf("shown by itself it is covered by %q", got)
	}

	// Ended by somebody: what was over stays as it was, what goes on is told again.
	d.tell(t, found(11, begun(30, 40)))
	d.pass(60 * time.Minute)
	ended, err := d.EndSuppression(as("bob"), &pb.EndSuppressionRequest{SuppressionId: made.GetSuppressionId(), By: "bob"})
	if err != nil || !ended.GetSuppression().GetEndedAt().AsTime().Equal(noon.Add(time.Hour)) || ended.GetSuppression().GetBy() != "ada" {
		t.Errorf("%v, %v", ended, err)
	}
	d.tell(t, found(12, begun(70, 71)), found(11, begun(30, 80), func(f *store.Finding) { f.Version = 2 }))
	if got := d.shown(t); got != "10 9 12 11 8 7 6 5 4 2 1" {
		t.Errorf("after its end: %s", got)
	}
	if got := d.matching(t, "suppression_id:*"); got != "3" {
		t.Errorf("covered after its end: %s", got)
	}
	for id, want := range map[string]struct {
		code codes.Code
		text string
	}{
		made.GetSuppressionId(): {codes.FailedPrecondition, "was ended at 2026-11-20 13:00:00 UTC"}, findingID(1): {codes.NotFound, "there is no suppression"}, "x": {codes.InvalidArgument, "suppression_id"},
	} {
		_, err := d.EndSuppression(as("bob"), &pb.EndSuppressionRequest{SuppressionId: id, By: "bob"})
		refused(t, err, want.code, want.text)
	}
	if got, want := d.book.lines(), "findings/close 01010101 by ada: success\nfindings/suppress 01010101 by ada: success\nfindings/end_suppression 01010101 by bob: success"; got != want {
		t.Errorf("the log:\n%s", got)
	}
}

func TestSuppressionsAreListedAlsoWhenTheyHaveEnded(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1, begun(-10, -5)),
		found(2, begun(-10, -5), func(f *store.Finding) { f.Principal, f.Server = "", "" }),                                 // about no identity
		found(5, begun(-9, -5), func(f *store.Finding) { f.Principal, f.Server, f.Target, f.EmitterID = "", "", "", "e1" })) // about nothing that could be named
	_, err := d.TriageFinding(as("ada"), &pb.TriageFindingRequest{FindingId: findingID(5), Step: "close", Verdict: "benign", SuppressDays: 1, By: "ada"})
	refused(t, err, codes.FailedPrecondition, "is about no identity, server or target")
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", SuppressDays: 1})
	d.pass(time.Hour)
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(2), Step: "close", Verdict: "benign", SuppressDays: 365})
	resp, err := d.ListSuppressions(everyone, &pb.ListSuppressionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	list := resp.GetSuppressions()
	if len(list) != 2 || list[0].GetFindingId() != findingID(2) || list[1].GetFindingId() != findingID(1) || list[0].GetEndedAt() != nil || list[0].GetPrincipal() != "" {
		t.Fatalf("%v", list)
	}
	// It holds at any server, for findings about no identity.
	d.tell(t, found(3, begun(90, 90), func(f *store.Finding) { f.Principal, f.Server = "", "mail" }), found(4, begun(90, 90), func(f *store.Finding) { f.Server = "mail" }))
	if got := d.shown(t); got != "4 5 2 1" {
		t.Errorf("shown: %s", got)
	}
	// Expired by itself: it can't be ended again.
	d.pass(48 * time.Hour)
	_, err = d.EndSuppression(as("ada"), &pb.EndSuppressionRequest{SuppressionId: list[1].GetSuppressionId(), By: "ada"})
	refused(t, err, codes.FailedPrecondition, "expired at 2026-11-21 12:00:00 UTC")
}

// Events that say that they happened while a suppression was in force, and came when
// it had ended, are not covered: an emitter's clock is not ours.
func TestASuppressionThatHasEndedCoversNothingThatBeginsLater(t *testing.T) {
	const day = 24 * 60
	d := newDesk(t)
	d.tell(t, found(1, begun(-10, -5)))
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", SuppressDays: 2})
	d.tell(t, found(2, begun(day, day)), found(3, begun(day, day), func(f *store.Finding) { f.OpenedAt = noon.Add(20 * day * time.Minute).UnixMicro() }))
	if got := d.shown(t); got != "3 1" {
		t.Errorf("shown: %s", got)
	}
}

// A suppression and the close that it belongs to are stored together or not at all.
func TestASuppressionIsStoredWithItsClose(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1))
	s := &shaky{Store: d.store, after: func() error { return errAway }}
	d.Server = New(Config{}, s, d.book, d.clock, quiet)
	_, err := d.TriageFinding(as("ada"), &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", SuppressDays: 2, By: "ada"})
	refused(t, err, codes.Unavailable, "did not confirm")
	list, err := d.ListSuppressions(everyone, &pb.ListSuppressionsRequest{})
	if err != nil || len(list.GetSuppressions()) != 1 || stepsOf(d.get(t, 1)) != "ada:close:benign" {
		t.Errorf("%v, %v, %s", list, err, stepsOf(d.get(t, 1)))
	}
}

// A suppression is for what was seen when it was made. What is worse was not meant: it
// is told, and a finding that was closed and becomes worse is new again.
func TestWhatIsWorseIsNeitherSuppressedNorClosed(t *testing.T) {
	d := newDesk(t)
	of := func(severity string, version uint32) func(*store.Finding) {
		return func(f *store.Finding) { f.Severity, f.Version = severity, version }
	}
	d.tell(t, found(1, begun(-10, -5), of("low", 1)))
	made := d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", SuppressDays: 30}).GetSuppression()
	if made.GetSeverity() != "low" {
		t.Errorf("it is for %q", made.GetSeverity())
	}
	d.tell(t, found(2, begun(10, 20), of("low", 1)), found(3, begun(10, 20), of("critical", 1)))
	if got := d.matching(t, `triage != "closed" AND NOT suppression_id:*`); got != "3" {
		t.Errorf("to be looked at: %s", got)
	}
	d.tell(t, found(2, begun(10, 30), of("high", 2)), found(1, begun(-10, 30), of("medium", 2)))
	if got := d.matching(t, `triage != "closed" AND NOT suppression_id:*`); got != "3 2 1" {
		t.Errorf("to be looked at when they became worse: %s", got)
	}
	f := d.get(t, 1).GetFinding()
	if f.GetTriage() != "new" || f.GetSuppressionId() != "" {
		t.Errorf("closed, and worse since then: %v", f)
	}
	d.pass(time.Minute)
	if got := d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "true_positive"}).GetFinding(); got.GetTriage() != "closed" || got.GetVerdict() != "true_positive" {
		t.Errorf("closed again: %v", got)
	}
	d.tell(t, found(1, begun(-10, 40), of("medium", 3)))
	if got := d.get(t, 1).GetFinding().GetTriage(); got != "closed" {
		t.Errorf("it goes on as it was, and is %s", got)
	}
}
