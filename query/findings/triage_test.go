package findings

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func (d *desk) get(t testing.TB, n int) *pb.GetFindingResponse {
	t.Helper()
	resp, err := d.GetFinding(everyone, &pb.GetFindingRequest{FindingId: strings.ToUpper(findingID(n))})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// steps are a finding's steps in short.
func stepsOf(resp *pb.GetFindingResponse) string {
	var out []string
	for _, s := range resp.GetSteps() {
		out = append(out, strings.TrimRight(fmt.Sprintf("%s:%s:%s%s", s.GetBy(), s.GetStep(), s.GetAssignee(), s.GetVerdict()), ":"))
	}
	return strings.Join(out, " ")
}

func TestAFindingIsTriagedStepByStepAndNothingIsOverwritten(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1), found(2))
	for _, c := range []struct {
		step, assignee, verdict, by string
		want                        string // triage, assignee, verdict
	}{
		{"note", "", "", "ada", "new,,"},
		{"acknowledge", "", "", "ada", "acknowledged,,"},
		{"assign", "bob", "", "ada", "acknowledged,bob,"},
		{"assign", "cem", "", "bob", "acknowledged,cem,"},
		{"close", "", "true_positive", "cem", "closed,cem,true_positive"},
		{"note", "", "", "ada", "closed,cem,true_positive"},
		{"reopen", "", "", "ada", "new,cem,"},
		{"close", "", "false_positive", "cem", "closed,cem,false_positive"},
	} {
		d.pass(time.Minute)
		req := &pb.TriageFindingRequest{FindingId: findingID(1), Step: c.step, Assignee: c.assignee, Verdict: c.verdict, By: c.by}
		if c.step == "note" {
			req.Note = "look at\nthe 🜁 timeline"
		}
		f := d.triage(t, req).GetFinding()
		if got := f.GetTriage() + "," + f.GetAssignee() + "," + f.GetVerdict(); got != c.want {
			t.Errorf("after %s by %s: %s, want %s", c.step, c.by, got, c.want)
		}
	}
	resp := d.get(t, 1)
	if got, want := stepsOf(resp), "ada:note ada:acknowledge ada:assign:bob bob:assign:cem cem:close:true_positive ada:note ada:reopen cem:close:false_positive"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	first := resp.GetSteps()[0]
	if first.GetNote() != "look at\nthe 🜁 timeline" || !first.GetAt().AsTime().Equal(noon.Add(time.Minute)) {
		t.Errorf("%v", first)
	}
	if f := d.get(t, 2).GetFinding(); f.GetTriage() != "new" {
		t.Errorf("another finding is %s", f.GetTriage())
	}
	for filter, want := range map[string]string{
		`triage = "closed"`: "1", `triage != "closed"`: "2", `assignee = "cem"`: "1", `verdict = "false_positive"`: "1", `verdict:*`: "1", `assignee = ""`: "2",
	} {
		if got := d.matching(t, filter); got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
	want := `findings/note 01010101 by ada: success
findings/acknowledge 01010101 by ada: success
findings/assign 01010101 by ada: success
findings/assign 01010101 by bob: success
findings/close 01010101 by cem: success
findings/note 01010101 by ada: success
findings/reopen 01010101 by ada: success
findings/close 01010101 by cem: success`
	if got := d.book.lines(); got != want {
		t.Errorf("the log:\n%s\nwant\n%s", got, want)
	}
	note := d.book.events[0]
	if note.Kind != "admin" || note.Tenant != "acme" || note.Arguments != `{"note":"look at\nthe 🜁 timeline"}` || note.Server != "mcpaudit" || note.Target != findingID(1) {
		t.Errorf("%+v", note)
	}
	// A step and its event have one id.
	steps, err := d.steps(everyone, findingID(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range steps {
		if event.ID(steps[i].id) != d.book.events[i].EventID {
			t.Errorf("step %d is %s, its event %s", i, steps[i].id, d.book.events[i].EventID)
		}
	}
}

func TestAStepThatMakesNoSenseIsRefused(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1), found(2), found(3))
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(2), Step: "acknowledge"})
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(2), Step: "assign", Assignee: "bob"})
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(3), Step: "close", Verdict: "benign"})
	was := d.book.lines()
	for _, c := range []struct {
		req  *pb.TriageFindingRequest
		code codes.Code
		want string
	}{
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "close"}, codes.InvalidArgument, "verdict: is missing"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "maybe"}, codes.InvalidArgument, "verdict"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "assign"}, codes.InvalidArgument, "assignee: is missing"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "assign", Assignee: " "}, codes.InvalidArgument, "assignee: is missing"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "note"}, codes.InvalidArgument, "note: is empty"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "acknowledge", Verdict: "benign"}, codes.InvalidArgument, "verdict: is for the step close"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "acknowledge", Assignee: "bob"}, codes.InvalidArgument, "assignee: is for the step assign"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "true_positive", SuppressDays: 3}, codes.InvalidArgument, "suppress_days: is for"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", SuppressDays: 367}, codes.InvalidArgument, "suppress_days"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "delete"}, codes.InvalidArgument, "step"},
		{&pb.TriageFindingRequest{FindingId: "1", Step: "acknowledge"}, codes.InvalidArgument, "finding_id"},
		{&pb.TriageFindingRequest{FindingId: findingID(9), Step: "acknowledge"}, codes.NotFound, "there is no finding 09090909-"},
		{&pb.TriageFindingRequest{FindingId: findingID(1), Step: "reopen"}, codes.FailedPrecondition, "is not closed"},
		{&pb.TriageFindingRequest{FindingId: findingID(2), Step: "reopen"}, codes.FailedPrecondition, "is not closed: it was acknowledged at 2026-11-20 12:00:00 UTC by ada"},
		{&pb.TriageFindingRequest{FindingId: findingID(2), Step: "acknowledge"}, codes.FailedPrecondition, "was acknowledged at 2026-11-20 12:00:00 UTC by ada"},
		{&pb.TriageFindingRequest{FindingId: findingID(2), Step: "assign", Assignee: "bob"}, codes.FailedPrecondition, "was assigned to bob at"},
		{&pb.TriageFindingRequest{FindingId: findingID(3), Step: "close", Verdict: "benign"}, codes.FailedPrecondition, "was closed as benign at"},
		{&pb.TriageFindingRequest{FindingId: findingID(3), Step: "acknowledge"}, codes.FailedPrecondition, "was closed at"},
		{&pb.TriageFindingRequest{FindingId: findingID(3), Step: "assign", Assignee: "bob"}, codes.FailedPrecondition, "was closed at"},
	} {
		if c.req.By == "" {
			c.req.By = "eve"
		}
		_, err := d.TriageFinding(as(c.req.GetBy()), c.req)
		refused(t, err, c.code, c.want)
	}
	if got := d.book.lines(); got != was {
		t.Errorf("the log has what was refused:\n%s", got)
	}
	if got := stepsOf(d.get(t, 2)) + ", " + stepsOf(d.get(t, 3)); got != "ada:acknowledge ada:assign:bob, ada:close:benign" {
		t.Errorf("%s", got)
	}
}

func TestWithoutALogNothingIsChanged(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1))
	d.Server = New(Config{}, d.store, nil, d.clock, quiet)
	_, err := d.TriageFinding(as("ada"), &pb.TriageFindingRequest{FindingId: findingID(1), Step: "acknowledge", By: "ada"})
	refused(t, err, codes.FailedPrecondition, "ask an instance that has the role ingest")
	_, err = d.EndSuppression(as("ada"), &pb.EndSuppressionRequest{SuppressionId: findingID(1), By: "ada"})
	refused(t, err, codes.FailedPrecondition, "ask an instance that has the role ingest")
	if got := d.matching(t, ""); got != "1" {
		t.Errorf("it can't be read either: %q", got)
	}
}

// Of those who close a finding at the same moment one does, and the others are told
// who.
func TestOfTwoWhoCloseAFindingOneDoes(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1))
	var people sync.WaitGroup
	var mu sync.Mutex
	done, told := 0, 0
	for i := range 6 {
		people.Go(func() {
			_, err := d.TriageFinding(as(fmt.Sprint("person", i)), &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", By: fmt.Sprint("person", i)})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case status.Code(err) == codes.FailedPrecondition && strings.Contains(err.Error(), "was closed as benign at 2026-11-20 12:00:00 UTC by person"):
				told++
			default:
				t.Error(err)
			}
		})
	}
	people.Wait()
	if steps := d.get(t, 1).GetSteps(); done != 1 || told != 5 || len(steps) != 1 || len(d.book.events) != 1 {
		t.Errorf("%d closed it, %d were told so; it has %d steps, the log %d events", done, told, len(steps), len(d.book.events))
	}
}

// Two services on one store: both steps are there, the later one counts, and who was
// second to know is told.
func TestAStepOfAnotherServiceAtTheSameTimeIsTold(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1))
	s := &shaky{Store: d.store}
	d.Server = New(Config{}, s, d.book, d.clock, quiet)
	other := New(Config{}, d.store, &book{}, func() time.Time { return noon.Add(time.Second) }, quiet)
	s.before = func() error {
		_, err := other.TriageFinding(as("bob"), &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", By: "bob"})
		return err
	}
	_, err := d.TriageFinding(as("ada"), &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "true_positive", By: "ada"})
	refused(t, err, codes.Aborted, "your step is stored, and so is that of bob, who at the same time did: close")
	if resp := d.get(t, 1); resp.GetFinding().GetVerdict() != "benign" || stepsOf(resp) != "ada:close:true_positive bob:close:benign" {
		t.Errorf("%s: %s", resp.GetFinding().GetVerdict(), stepsOf(resp))
	}
}

// The order of steps is that in which they were taken, whatever the clock does.
func TestStepsKeepTheirOrderWhenTheClockGoesBack(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1))
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign"})
	d.pass(-time.Hour)
	f := d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "reopen"}).GetFinding()
	d.pass(-time.Hour)
	g := d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "acknowledge"}).GetFinding()
	if f.GetTriage() != "new" || g.GetTriage() != "acknowledged" || stepsOf(d.get(t, 1)) != "ada:close:benign ada:reopen ada:acknowledge" {
		t.Errorf("%s, %s, %s", f.GetTriage(), g.GetTriage(), stepsOf(d.get(t, 1)))
	}
}

var errAway = errors.New("DB::Exception: dial tcp: INSERT INTO finding_actions /tmp")

// Whatever fails between the log and the store: no step is stored that the log does
// not have, none is stored twice, the log says what was not done, and the emitter's
// numbers have no hole.
func TestAStepIsInTheLogBeforeItIsStored(t *testing.T) {
	once := func(at *func() error) {
		asked := false
		*at = func() error {
			if !asked {
				asked = true
				return errAway
			}
			return nil
		}
	}
	always := func(at *func() error) { *at = func() error { return errAway } }
	const ack = "findings/acknowledge 01010101 by ada: "
	for _, c := range []struct {
		name       string
		breakIt    func(b *book, s *shaky)
		code       codes.Code // of the first try; OK when it gets through
		text       string
		stored     int    // steps after the first try
		log, after string // the log after the first try, and after the second one
	}{
		{"the log is away", func(b *book, _ *shaky) { b.fail = func() error { return ingest.ErrUnavailable } }, codes.Unavailable, "the log can't be written to", 0,
			"", ack + "success\n" + ack + "tool_error\n" + ack + "success"},
		{"the log took it and said that it did not", func(b *book, _ *shaky) { b.after = func() error { return ingest.ErrUnavailable } }, codes.Unavailable, "the log can't be written to", 0,
			ack + "success", ack + "success\n" + ack + "tool_error\n" + ack + "success"},
		{"the log refuses it", func(b *book, _ *shaky) { b.reject = true }, codes.Internal, "the log refused", 0, "", ""},
		{"the store fails once", func(_ *book, s *shaky) { once(&s.before) }, codes.OK, "", 1, ack + "success", ""},
		{"the store took it and said once that it did not", func(_ *book, s *shaky) { once(&s.after) }, codes.OK, "", 1, ack + "success", ""},
		{"the store is away", func(_ *book, s *shaky) { always(&s.before) }, codes.Unavailable, "the store did not confirm the step", 0,
			ack + "success\n" + ack + "tool_error", ack + "success\n" + ack + "tool_error\n" + ack + "success"},
		{"the store takes it and always says that it did not", func(_ *book, s *shaky) { always(&s.after) }, codes.Unavailable, "the store did not confirm the step", 1,
			ack + "success\n" + ack + "tool_error", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t)
			d.tell(t, found(1))
			s := &shaky{Store: d.store}
			d.Server = New(Config{}, s, d.book, d.clock, quiet)
			c.breakIt(d.book, s)
			req := &pb.TriageFindingRequest{FindingId: findingID(1), Step: "acknowledge", By: "ada"}
			_, err := d.TriageFinding(as(req.GetBy()), req)
			refused(t, err, c.code, c.text)
			d.book.fail, d.book.after, d.book.reject = nil, nil, false
			s.set(func(s *shaky) { s.before, s.after = nil, nil })
			if got := d.get(t, 1); len(got.GetSteps()) != c.stored {
				t.Errorf("after the first try there are %d steps", len(got.GetSteps()))
			}
			if c.text != "the log refused" {
				if got := d.book.lines(); got != c.log {
					t.Errorf("the log has\n%s\nwant\n%s", got, c.log)
				}
			}
			_, err = d.TriageFinding(as(req.GetBy()), req)
			if c.stored == 0 {
				refused(t, err, codes.OK, "")
			} else {
				refused(t, err, codes.FailedPrecondition, "was acknowledged")
			}
			if got := d.book.lines(); c.after != "" && got != c.after {
				t.Errorf("after the second try the log has\n%s\nwant\n%s", got, c.after)
			}
			steps, err := d.steps(everyone, findingID(1))
			if err != nil || len(steps) != 1 {
				t.Fatalf("%d steps, %v", len(steps), err)
			}
			for i := range steps {
				proven := false
				for _, e := range d.book.events {
					proven = proven || e.EventID == event.ID(steps[i].id)
				}
				if !proven {
					t.Errorf("the log knows nothing of step %d", i)
				}
			}
		})
	}
}

// A crash between the log and the store: the finding is as it was, and can be triaged
// by the next process.
func TestACrashBetweenLogAndStoreLeavesTheFindingAsItWas(t *testing.T) {
	d := newDesk(t)
	d.tell(t, found(1))
	s := &shaky{Store: d.store, before: func() error { panic("killed") }}
	d.Server = New(Config{}, s, d.book, d.clock, quiet)
	func() {
		defer func() { _ = recover() }()
		_, _ = d.TriageFinding(as("ada"), &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", SuppressDays: 30, By: "ada"})
	}()
	d.Server = New(Config{}, d.store, d.book, d.clock, quiet)
	if f := d.get(t, 1); f.GetFinding().GetTriage() != "new" || len(f.GetSteps()) != 0 {
		t.Errorf("%v", f)
	}
	if list, err := d.ListSuppressions(everyone, &pb.ListSuppressionsRequest{}); err != nil || len(list.GetSuppressions()) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	resp := d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "close", Verdict: "benign", SuppressDays: 30})
	if resp.GetFinding().GetTriage() != "closed" || resp.GetSuppression() == nil {
		t.Errorf("%v", resp)
	}
	if n := len(d.book.events); n != 4 {
		t.Errorf("the log has %d events:\n%s", n, d.book.lines())
	}
}

func TestWhatCantBeReadIsSaidWithoutTheStoresWords(t *testing.T) {
	d := newDesk(t)
	s := &shaky{Store: d.store, queries: func() error { return errAway }}
	d.Server = New(Config{}, s, d.book, d.clock, quiet)
	ctx := everyone
	_, list := d.ListFindings(ctx, &pb.ListFindingsRequest{})
	_, get := d.GetFinding(ctx, &pb.GetFindingRequest{FindingId: findingID(1)})
	_, triage := d.TriageFinding(ctx, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "acknowledge", By: "ada"})
	_, suppressions := d.ListSuppressions(ctx, &pb.ListSuppressionsRequest{})
	_, end := d.EndSuppression(ctx, &pb.EndSuppressionRequest{SuppressionId: findingID(1), By: "ada"})
	for _, err := range []error{list, get, triage, suppressions, end} {
		refused(t, err, codes.Unavailable, "the store did not answer")
	}
}
