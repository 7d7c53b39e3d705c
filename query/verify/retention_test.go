package verify_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/retention"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
	"github.com/mcpaudit/mcpaudit/query/verify"
)

// archive is a store with a pipeline and retention on it, and a clock that tests
// set.
type archive struct {
	*log
	clock     atomic.Int64 // µs
	pipeline  *ingest.Pipeline
	retention *retention.Server
	compile   retention.Compile
	silent    *slog.Logger
	stop      func()
	sent      uint64
}

var january = time.Date(2026, 1, 10, 12, 0, 0, 0, time.UTC)

func (a *archive) now() time.Time { return time.UnixMicro(a.clock.Load()) }

func (a *archive) at(t time.Time) { a.clock.Store(t.UnixMicro()) }

// openArchive begins a life of the service on a data folder.
func openArchive(t *testing.T, dir string, at time.Time) *archive {
	t.Helper()
	a := &archive{log: &log{Store: storetest.Open(t, dir), key: newKey(t, 1, "main")}, compile: query.Compile}
	a.at(at)
	a.start(t)
	return a
}

func (a *archive) start(t *testing.T) {
	t.Helper()
	a.silent = slog.New(slog.NewTextHandler(io.Discard, nil))
	cfg := ingest.Config{Key: a.key, MaxAge: time.Microsecond, Retention: ingest.Retention{Default: 12, Tenants: map[string]int{"short": 1}}}
	a.pipeline = ingest.New(cfg, a.Store, leaveAlone{}, a.now, a.silent, unwatched{})
	ctx, cancel := context.WithCancel(scopetest.Every(context.Background()))
	ended := make(chan error, 1)
	go func() { ended <- a.pipeline.Run(ctx) }()
	for a.pipeline.Ready() != nil {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	a.retention = retention.New(retention.Config{LogID: a.key.LogID()}, a.Store, a.pipeline, func(f string) (string, []any, error) { return a.compile(f) }, a.now, a.silent)
	a.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		a.stop = func() {}
	}
	t.Cleanup(func() { a.stop() })
}

// send stores a batch of events of a tenant; each third one is of user:held, each
// fifth one calls the tool "wanted".
func (a *archive) send(t *testing.T, tenant string, events int) {
	t.Helper()
	r := rand.New(rand.NewPCG(a.sent, 7))
	var es []*event.Event
	for i := range events {
		e := event.Random(r)
		a.sent++
		e.EmitterID, e.EmitterSeq, e.Tenant, e.Principal, e.Target = "emitter", a.sent, tenant, "user:other", "other"
		if i%3 == 1 {
			e.Principal = "user:held"
		}
		if i%5 == 1 {
			e.Target = "wanted"
		}
		e.ReceivedAt, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = 0, "", 0, 0, 0
		es = append(es, e)
	}
	if s, err := a.pipeline.Submit(t.Context(), es, 1000); err != nil || s.Stored != events {
		t.Fatal(s, err)
	}
	a.newest, a.batches = a.pipeline.Checkpoint()
}

// filled is an archive in March with three batches that have expired, of 10 events
// each: 9 of user:held, 6 with wanted, 3 with both; and two that have not.
func filled(t *testing.T, dir string) *archive {
	t.Helper()
	a := openArchive(t, dir, january)
	for range 3 {
		a.send(t, "short", 10)
	}
	a.send(t, "acme", 5)
	a.at(march)
	a.send(t, "acme", 5) // the log is in use
	a.at(march.Add(48 * time.Hour))
	return a
}

var march = time.Date(2026, 3, 3, 12, 0, 0, 0, time.UTC)

func (a *archive) plan(t *testing.T) []*pb.ExpiredMonth {
	t.Helper()
	resp, err := a.retention.PlanRetention(scopetest.Every(t.Context()), &pb.PlanRetentionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetExpired()
}

func (a *archive) apply(t *testing.T) []*pb.ExpiredMonth {
	t.Helper()
	resp, err := a.retention.ApplyRetention(scopetest.Every(t.Context()), &pb.ApplyRetentionRequest{RequestedBy: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetExpired()
}

func (a *archive) hold(t *testing.T, filter string) *pb.CreateHoldResponse {
	t.Helper()
	resp, err := a.retention.CreateHold(scopetest.Every(t.Context()), &pb.CreateHoldRequest{Filter: filter, Reason: "case 7", Owner: "legal"})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func (a *archive) release(t *testing.T, id string) {
	t.Helper()
	if _, err := a.retention.ReleaseHold(scopetest.Every(t.Context()), &pb.ReleaseHoldRequest{HoldId: id, ReleasedBy: "counsel"}); err != nil {
		t.Fatal(err)
	}
}

// found counts the events that the query service finds.
func (a *archive) found(t *testing.T, filter string) int {
	t.Helper()
	s := query.New(query.Config{}, a.Store, slog.New(slog.NewTextHandler(io.Discard, nil)))
	resp, err := s.ListEvents(scopetest.Every(t.Context()), &pb.ListEventsRequest{Filter: filter, PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return len(resp.GetEvents())
}

// clean checks that verify calls the store right.
func (a *archive) clean(t *testing.T, dropped uint64) {
	t.Helper()
	newest, _ := a.pipeline.Checkpoint()
	kept := []string{newest}
	if a.newest != "" { // of before
		kept = append(kept, a.newest)
	}
	s, r := a.verify(t, verify.Options{Checkpoints: kept})
	if len(r.problems) > 0 || s.GetProblems() > 0 {
		t.Fatalf("problems: %v", r.problems)
	}
	if s.GetDropped() != dropped {
		t.Errorf("verify counts %d events that were dropped, want %d", s.GetDropped(), dropped)
	}
}

// inJanuary says whether a request was received while the clock stood at january: each
// is stamped a microsecond after the one before.
func inJanuary(at time.Time) bool {
	return !at.Before(january) && at.Before(january.Add(10*time.Microsecond))
}

func checkMonth(t *testing.T, got []*pb.ExpiredMonth, month string, dropped, held uint64) {
	t.Helper()
	if len(got) != 1 || got[0].GetMonth() != month || got[0].GetDropped() != dropped || got[0].GetHeld() != held || got[0].GetBytes() == 0 ||
		!inJanuary(got[0].GetFirstReceived().AsTime()) || !inJanuary(got[0].GetLastReceived().AsTime()) {
		t.Errorf("months %v, want %s with %d dropped and %d held", got, month, dropped, held)
	}
}

func TestWhatHasExpiredIsDroppedAsPlanned(t *testing.T) {
	a := filled(t, t.TempDir())
	a.clean(t, 0)
	checkMonth(t, a.plan(t), "2026-03", 30, 0)
	checkMonth(t, a.plan(t), "2026-03", 30, 0) // planning does nothing
	a.clean(t, 0)
	checkMonth(t, a.apply(t), "2026-03", 30, 0)
	a.clean(t, 30)
	if n := a.found(t, `tenant = "short"`); n != 0 {
		t.Errorf("%d events that expired are found", n)
	}
	if n := a.found(t, `tenant = "acme"`); n != 10 {
		t.Errorf("%d events of 10 that have not expired are found", n)
	}
	if n := a.found(t, `kind = "admin" AND method = "mcpaudit/retention" AND target = "2026-03" AND outcome = "success" AND labels.dropped = "30" AND principal = "key:test"`); n != 1 {
		t.Errorf("%d events say what was dropped", n)
	}
	if p := append(a.plan(t), a.apply(t)...); len(p) > 0 {
		t.Errorf("there is more: %v", p)
	}
	// The service goes on, also in its next life.
	a.send(t, "short", 4)
	a.stop()
	a.start(t)
	a.send(t, "short", 4)
	a.clean(t, 30)
}

func TestEventsExpireWhenTheirMonthComesAndNotBefore(t *testing.T) {
	a := filled(t, t.TempDir())
	first := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	a.at(first.Add(-time.Microsecond))
	if p := a.plan(t); len(p) > 0 {
		t.Errorf("expired too early: %v", p)
	}
	a.at(first)
	checkMonth(t, a.plan(t), "2026-03", 30, 0)
}

func TestWhatAHoldKeepsSurvivesSearchableAndProvable(t *testing.T) {
	a := filled(t, t.TempDir())
	if h := a.hold(t, `principal = "user:held" AND tenant = "short"`); h.GetEvents() != 9 || !strings.HasPrefix(h.GetHold().GetHoldId(), "hold-") || h.GetHold().GetCreatedAt() == nil {
		t.Errorf("held %v", h)
	}
	checkMonth(t, a.plan(t), "2026-03", 21, 9)
	checkMonth(t, a.apply(t), "2026-03", 21, 9)
	a.clean(t, 21)
	if n := a.found(t, `principal = "user:held" AND tenant = "short"`); n != 9 {
		t.Errorf("%d held events are found", n)
	}
	checkMonth(t, a.plan(t), "2026-03", 0, 9)
	checkMonth(t, a.apply(t), "2026-03", 0, 9) // nothing more
	a.clean(t, 21)
}

// Of what two holds kept, one is released: the proofs of what stays are made of those
// of what was kept before. When the last one ends, all go.
func TestWhatAReleasedHoldKeptIsDroppedByTheNextRun(t *testing.T) {
	a := filled(t, t.TempDir())
	one, two := a.hold(t, `principal = "user:held"`), a.hold(t, `target = "wanted"`)
	checkMonth(t, a.apply(t), "2026-03", 18, 12)
	a.clean(t, 18)
	a.release(t, one.GetHold().GetHoldId())
	checkMonth(t, a.plan(t), "2026-03", 6, 6)
	checkMonth(t, a.apply(t), "2026-03", 6, 6)
	a.clean(t, 24)
	if n := a.found(t, `tenant = "short" AND target = "wanted"`); n != 6 {
		t.Errorf("%d held events are found", n)
	}
	a.release(t, two.GetHold().GetHoldId())
	checkMonth(t, a.apply(t), "2026-03", 6, 0)
	a.clean(t, 30)
	if n := a.found(t, `tenant = "short"`); n != 0 {
		t.Errorf("%d events are found", n)
	}
}

func TestHoldsAreListedAndReleasedOnce(t *testing.T) {
	a := filled(t, t.TempDir())
	h := a.hold(t, `target = "wanted"`).GetHold()
	a.at(a.now().Add(time.Hour))
	a.release(t, h.GetHoldId())
	open := a.hold(t, `outcome = "denied"`).GetHold()
	resp, err := a.retention.ListHolds(scopetest.Every(t.Context()), &pb.ListHoldsRequest{})
	if err != nil || len(resp.GetHolds()) != 2 {
		t.Fatal(resp, err)
	}
	got := resp.GetHolds()
	if got[0].GetHoldId() != h.GetHoldId() || got[0].GetReleasedBy() != scopetest.Who || got[0].GetReleasedAt().AsTime().Sub(got[0].GetCreatedAt().AsTime()) != time.Hour ||
		got[1].GetHoldId() != open.GetHoldId() || got[1].GetReleasedAt() != nil || got[1].GetOwner() != "legal" || got[1].GetReason() != "case 7" || got[1].GetFilter() != `outcome = "denied"` {
		t.Errorf("holds %v", got)
	}
	for id, want := range map[string]codes.Code{h.GetHoldId(): codes.FailedPrecondition, "hold-0": codes.NotFound, "": codes.InvalidArgument} {
		if _, err := a.retention.ReleaseHold(scopetest.Every(t.Context()), &pb.ReleaseHoldRequest{HoldId: id, ReleasedBy: "x"}); status.Code(err) != want {
			t.Errorf("release %q: %v, want %v", id, err, want)
		}
	}
	for _, filter := range []string{" ", `outcom = "denied"`, `outcome = `} {
		if _, err := a.retention.CreateHold(scopetest.Every(t.Context()), &pb.CreateHoldRequest{Filter: filter, Reason: "r", Owner: "o"}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("hold %q: %v", filter, err)
		}
	}
	for method, n := range map[string]int{"mcpaudit/hold": 2, "mcpaudit/release": 1} {
		if got := a.found(t, fmt.Sprintf(`kind = "admin" AND method = %q`, method)); got != n {
			t.Errorf("%d events of %s, want %d", got, method, n)
		}
	}
	a.clean(t, 0)
}

func (a *archive) refused(t *testing.T, says string) {
	t.Helper()
	_, err := a.retention.ApplyRetention(scopetest.Every(t.Context()), &pb.ApplyRetentionRequest{})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), says) {
		t.Errorf("apply: %v, want a refusal that says %q", err, says)
	}
	if n := a.found(t, `tenant = "short"`); n != 30 {
		t.Errorf("%d of 30 events are left", n)
	}
}

// A program that does not understand a hold drops nothing.
func TestAHoldThatIsNotUnderstoodStopsEveryDrop(t *testing.T) {
	a := filled(t, t.TempDir())
	id := a.hold(t, `target = "wanted"`).GetHold().GetHoldId()
	a.compile = func(string) (string, []any, error) { return "", nil, fmt.Errorf("filter: there is no field x") }
	a.refused(t, id)
	if _, err := a.retention.PlanRetention(scopetest.Every(t.Context()), &pb.PlanRetentionRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("plan: %v", err)
	}
	if _, err := a.retention.ListHolds(scopetest.Every(t.Context()), &pb.ListHoldsRequest{}); err != nil {
		t.Errorf("holds can't be listed: %v", err)
	}
	a.release(t, id)
	checkMonth(t, a.apply(t), "2026-03", 30, 0)
	a.clean(t, 30)
}

func TestNothingIsDroppedByAClockThatJumped(t *testing.T) {
	a := filled(t, t.TempDir())
	a.at(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))
	a.refused(t, "the clock may have jumped ahead")
	a.send(t, "acme", 5) // what comes in by that clock says nothing
	a.refused(t, "the clock may have jumped ahead")
	if n := a.found(t, `kind = "admin" AND target = "refused" AND outcome = "denied"`); n != 2 {
		t.Errorf("%d events say that it was refused", n)
	}
	a.at(march.Add(48 * time.Hour)) // somebody sets it
	a.refused(t, "the clock is wrong now, or was wrong then")
}

// A store that was idle for long is dropped from a day after somebody asked.
func TestAStoreThatWasIdleIsDroppedFromADayLater(t *testing.T) {
	a := filled(t, t.TempDir())
	a.at(january.AddDate(0, 6, 0))
	a.refused(t, "apply again after")
	a.at(a.now().Add(24 * time.Hour))
	checkMonth(t, a.apply(t), "2026-03", 30, 0)
	a.clean(t, 30)
}

func TestNothingIsDroppedWhenTheLedgerLacksEntries(t *testing.T) {
	a := filled(t, t.TempDir())
	a.hold(t, `target = "wanted"`)
	a.exec(t, "ALTER TABLE ledger DELETE WHERE kind = 'hold'")
	a.refused(t, `entries of log "main" are missing`)
}

// A drop is the last that is seen of a month. Who has changed or removed events of
// it, those that a hold should keep or others, is found before it and not covered by
// it.
func TestPromise4AMonthThatIsNotAsItWasSealedIsNotDropped(t *testing.T) {
	for name, do := range map[string]string{
		"a held event is changed":             "UPDATE outcome = 'denied', error_code = 'q' WHERE batch = 2 AND leaf = 3",
		"a held event is made not to be held": "UPDATE target = 'unwanted' WHERE batch = 2 AND target = 'wanted'",
		"an event that is not held is":        "UPDATE error_code = 'q' WHERE batch = 1 AND leaf = 0",
		"held events are deleted":             "DELETE WHERE batch = 2 AND target = 'wanted'",
		"a batch is deleted":                  "DELETE WHERE batch = 2",
	} {
		t.Run(name, func(t *testing.T) {
			a := filled(t, t.TempDir())
			a.hold(t, `target = "wanted"`)
			a.exec(t, "ALTER TABLE events "+do)
			left := a.found(t, `tenant = "short"`)
			_, err := a.retention.ApplyRetention(scopetest.Every(t.Context()), &pb.ApplyRetentionRequest{})
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "is not as it was sealed") {
				t.Errorf("apply: %v", err)
			}
			if n := a.found(t, `tenant = "short"`); n != left {
				t.Errorf("%d of %d events are left", n, left)
			}
			if s, _ := a.verify(t, verify.Options{}); s.GetProblems() == 0 { // what speaks against the one who did it is there still
				t.Errorf("verify finds %v", s)
			}
		})
	}
}

// Nor does a second drop of the month cover what was taken from the first one's
// leavings, with the proofs that they were kept.
func TestPromise4ASecondDropCoversNothingUp(t *testing.T) {
	a := filled(t, t.TempDir())
	one := a.hold(t, `principal = "user:held"`).GetHold()
	a.hold(t, `target = "wanted"`)
	a.apply(t)
	a.exec(t, "ALTER TABLE events DELETE WHERE batch = 2 AND target = 'wanted'")
	a.exec(t, "TRUNCATE TABLE kept")
	a.release(t, one.GetHoldId())
	if _, err := a.retention.ApplyRetention(scopetest.Every(t.Context()), &pb.ApplyRetentionRequest{}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "is not as it was sealed") {
		t.Errorf("apply: %v", err)
	}
}

func TestAMonthWithEventsOfALogThatNobodyKnowsIsRefused(t *testing.T) {
	a := filled(t, t.TempDir())
	a.exec(t, "INSERT INTO events ("+store.EventColumns+") SELECT "+strings.Replace(store.EventColumns, "`log_id`", "'other' AS `log_id`", 1)+" FROM (SELECT * FROM events WHERE batch = 1)")
	_, err := a.retention.ApplyRetention(scopetest.Every(t.Context()), &pb.ApplyRetentionRequest{})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `events of log "other", which has no entries`) {
		t.Error(err)
	}
	if n := a.found(t, `tenant = "short"`); n != 40 {
		t.Errorf("%d of 40 events are left", n)
	}
}

// A store whose log was replaced by another, because its key is gone: the new log
// records what is dropped of the old one.
func TestTheEventsOfAnOlderLogExpireToo(t *testing.T) {
	a := filled(t, t.TempDir())
	old := a.key.Verifier()
	a.stop()
	a.key = newKey(t, 2, "second")
	a.at(january) // a log of its own has a clock of its own
	a.start(t)
	a.send(t, "short", 10) // expires in the same month
	a.at(march.Add(72 * time.Hour))
	a.send(t, "acme", 5)
	a.at(march.Add(96 * time.Hour))
	clean := func(dropped uint64) {
		t.Helper()
		s, r := a.verify(t, verify.Options{Keys: []string{old, a.key.Verifier()}})
		if len(r.problems) > 0 || s.GetDropped() != dropped || s.GetLogs() != 2 {
			t.Errorf("%v, %v", s, r.problems)
		}
	}
	h := a.hold(t, `target = "wanted"`).GetHold()
	s := &steps{}
	a.through(s)
	for s.fail = 1; ; s.fail++ { // until it fails no more
		if _, err := a.retention.ApplyRetention(scopetest.Every(t.Context()), &pb.ApplyRetentionRequest{}); err == nil {
			break
		}
		s.n = 0
		clean(a.dropped(t))
	}
	s.fail = 0
	a.apply(t)
	clean(32)
	if n := a.found(t, `tenant = "short"`); n != 8 {
		t.Errorf("%d held events are left", n)
	}
	a.release(t, h.GetHoldId())
	a.apply(t)
	clean(40)
	// An entry about another log says nothing about its own.
	a.exec(t, "ALTER TABLE events DROP PARTITION ID '20270401'")
	if s, _ := a.verify(t, verify.Options{Keys: []string{old, a.key.Verifier()}}); s.GetProblems() == 0 {
		t.Error("nothing was found")
	}
}

// dropped counts the events of the 40 that have expired which are gone.
func (a *archive) dropped(t *testing.T) uint64 {
	t.Helper()
	return uint64(40 - a.found(t, `tenant = "short"`))
}

// Promise 4, of a store from which retention has dropped: what a hold kept can't be
// removed or changed, and nothing else may go.
func TestPromise4WhatIsDoneToAReducedStoreIsFound(t *testing.T) {
	template := t.TempDir()
	var newest string
	func() {
		a := filled(t, template)
		one := a.hold(t, `principal = "user:held"`).GetHold()
		a.hold(t, `target = "wanted"`)
		a.apply(t)
		a.release(t, one.GetHoldId())
		a.apply(t)
		a.clean(t, 24)
		a.stop()
		newest, _ = a.pipeline.Checkpoint()
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	const kept = "run = (SELECT max(run) FROM kept)"
	for name, c := range map[string]struct {
		do   []string
		code pb.VerifyProblem_Code
		says string
	}{
		"a held event is deleted":         {[]string{"ALTER TABLE events DELETE WHERE batch = 2 AND leaf = 6"}, pb.VerifyProblem_CODE_EVENT_MISSING, "a hold keeps event 6"},
		"a held event is changed":         {[]string{"ALTER TABLE events UPDATE error_code = 'q' WHERE batch = 2 AND leaf = 6"}, pb.VerifyProblem_CODE_EVENT_CHANGED, "event 6 of batch 2"},
		"all of a batch is deleted":       {[]string{"ALTER TABLE events DELETE WHERE batch = 2"}, pb.VerifyProblem_CODE_EVENT_MISSING, "all 10 events of batch 2 are missing"},
		"all that is held is deleted":     {[]string{"ALTER TABLE events DROP PARTITION ID '20260301'"}, pb.VerifyProblem_CODE_EVENT_MISSING, "a hold keeps event 1"},
		"a proof is deleted":              {[]string{"ALTER TABLE kept DELETE WHERE batch = 2 AND " + kept}, pb.VerifyProblem_CODE_RETENTION, "is not what it says"},
		"a proof is changed":              {[]string{"ALTER TABLE kept UPDATE proof = concat(substring(proof, 1, length(proof) - 1), char(0)) WHERE batch = 2 AND " + kept}, pb.VerifyProblem_CODE_RETENTION, ""},
		"all proofs are deleted":          {[]string{"TRUNCATE TABLE kept"}, pb.VerifyProblem_CODE_RETENTION, "is not what it says"},
		"proofs and events are deleted":   {[]string{"ALTER TABLE kept DELETE WHERE " + kept, "ALTER TABLE events DROP PARTITION ID '20260301'"}, pb.VerifyProblem_CODE_RETENTION, "is not what it says"},
		"a month without an entry":        {[]string{"ALTER TABLE events DROP PARTITION ID '20270201'"}, pb.VerifyProblem_CODE_EVENT_MISSING, "all 5 events of batch 4 are missing"},
		"a drop entry is deleted":         {[]string{"ALTER TABLE ledger DELETE WHERE kind = 'drop'"}, pb.VerifyProblem_CODE_ENTRY_MISSING, ""},
		"a drop entry is changed":         {[]string{`ALTER TABLE ledger UPDATE detail = replaceOne(detail, '"kept":6', '"kept":0') WHERE kind = 'drop'`}, pb.VerifyProblem_CODE_ENTRY_CHANGED, ""},
		"an entry becomes a drop":         {[]string{`ALTER TABLE ledger UPDATE kind = 'drop', detail = '{"month":20879,"before":99,"events":5,"kept":0,"by":"me"}' WHERE batch = 5`, "ALTER TABLE events DROP PARTITION ID '20270201'"}, pb.VerifyProblem_CODE_ENTRY_CHANGED, ""},
		"an event is put into the month":  {[]string{"INSERT INTO events (" + store.EventColumns + ") SELECT " + strings.Replace(store.EventColumns, "`leaf`", "toUInt32(9) AS `leaf`", 1) + " FROM (SELECT * FROM events WHERE batch = 2 AND leaf = 6)"}, pb.VerifyProblem_CODE_EVENT_MISSING, "it kept fewer of them"},
		"a held event is stored twice":    {[]string{"INSERT INTO events (" + store.EventColumns + ") SELECT " + store.EventColumns + " FROM events WHERE batch = 2 AND leaf = 6"}, pb.VerifyProblem_CODE_EVENT_ADDED, "more than once"},
		"an older drop is made to be law": {[]string{"ALTER TABLE events DELETE WHERE batch = 2 AND leaf = 6", "ALTER TABLE kept DELETE WHERE " + kept}, pb.VerifyProblem_CODE_RETENTION, "is not what it says"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
				t.Fatal(err)
			}
			l := &log{Store: storetest.Open(t, dir), key: newKey(t, 1, "main")}
			for _, sql := range c.do {
				l.exec(t, sql)
			}
			s, r := l.verify(t, verify.Options{Checkpoints: []string{newest}})
			if s.GetProblems() == 0 {
				t.Fatal("nothing was found")
			}
			for _, p := range r.problems {
				if p.GetCode() == c.code && strings.Contains(p.GetMessage(), c.says) {
					return
				}
			}
			t.Errorf("found %v", r.problems)
		})
	}
}

// Who has the key and records the drop of a month that has not come is found too.
func TestADropBeforeItsMonthIsFound(t *testing.T) {
	a := filled(t, t.TempDir())
	month := uint16(time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC).Unix() / 86400)
	if _, err := a.pipeline.Record(t.Context(), ledger.KindDrop, ledger.Detail(ledger.Drop{Month: month, Before: math.MaxUint32, Events: 5, By: "me"})); err != nil {
		t.Fatal(err)
	}
	a.exec(t, "ALTER TABLE events DROP PARTITION ID '20270201'")
	_, r := a.verify(t, verify.Options{})
	codes := map[pb.VerifyProblem_Code]bool{}
	for _, p := range r.problems {
		codes[p.GetCode()] = true
	}
	if !codes[pb.VerifyProblem_CODE_RETENTION] || !codes[pb.VerifyProblem_CODE_EVENT_MISSING] {
		t.Errorf("found %v", r.problems)
	}
}
