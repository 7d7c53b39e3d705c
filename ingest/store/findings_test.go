package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

func aFinding(r *rand.Rand, seq uint64, id string, version uint32, state string) store.Finding {
	f := store.Finding{
		Seq: seq, ToldAt: 1_790_000_000_000_007, ID: id, Version: version, Worse: version == 1,
		Rule: "loops", Detector: "agent_loop", Severity: "high", Score: 3.25, Reason: "the same call \x00 'again' ünïcödé",
		Observed: "14 calls", Expected: "at most 3", Workings: []store.Working{{Name: "calls", Value: "14"}, {Name: "", Value: ""}},
		Tenant: "acme", Principal: "p", AgentID: "a", SessionID: "s", TraceID: "t", Server: "srv", Target: "tool", EmitterID: "e",
		StartedAt: 1_780_000_000_000_001, LastSeenAt: 1_780_000_001_000_002, OpenedAt: 1_780_000_000_500_003, Events: 14, State: state,
	}
	if state == "resolved" {
		f.EndedAt = f.LastSeenAt
	}
	for range 3 {
		f.EventIDs = append(f.EventIDs, event.Random(r).EventID)
	}
	return f
}

func readFindings(t *testing.T, s *store.Store) []store.Finding {
	t.Helper()
	rows, err := s.Query(t.Context(), store.Limits{}, "SELECT "+store.FindingColumns+" FROM findings ORDER BY seq")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []store.Finding
	for rows.Next() {
		f, err := store.ScanFinding(rows)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, *f)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

const (
	oneID = "0a0b0c0d-0000-8000-8000-000000000001"
	twoID = "f0000000-0000-8000-8000-000000000002"
)

func TestFindingsAreStoredOnceAndReadBack(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(5, 5))
	first := []store.Finding{aFinding(r, 1, oneID, 1, "open"), aFinding(r, 2, twoID, 1, "open")}
	second := []store.Finding{aFinding(r, 3, oneID, 2, "resolved")}
	second[0].Workings, second[0].EventIDs = nil, nil
	first[1].History = true
	for _, rows := range [][]store.Finding{first, first, second, second, nil} {
		if err := s.AppendFindings(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := readFindings(t, s), append(append([]store.Finding{}, first...), second...); !reflect.DeepEqual(got, want) {
		t.Errorf("stored\n%+v\nwant\n%+v", got, want)
	}
	if last, err := s.LastTold(t.Context(), ""); err != nil || last != 3 {
		t.Errorf("told last: %d, %v", last, err)
	}
	told := map[string]string{}
	for seq, want := range map[uint64]map[string]string{0: {oneID: "2 false", twoID: "1 true"}, 2: {oneID: "2 false"}, 3: {}} {
		clear(told)
		if err := s.ToldAfter(t.Context(), "", seq, func(id string, version uint32, open bool) { told[id] = fmt.Sprint(version, open) }); err != nil || !reflect.DeepEqual(told, want) {
			t.Errorf("told after %d: %v, %v", seq, told, err)
		}
	}
	open, err := s.OpenFindings(t.Context())
	if err != nil || !reflect.DeepEqual(open, first[1:]) {
		t.Errorf("open: %+v, %v", open, err)
	}
}

// Each teller has numbers of its own; what was told of one finding by several is one.
func TestTellersNumberForThemselves(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(5, 7))
	all, half := aFinding(r, 1, oneID, 1, "open"), aFinding(r, 1, twoID, 1, "open")
	half.Teller = "detect-0of2"
	more := aFinding(r, 2, oneID, 2, "open")
	more.Teller = half.Teller
	for _, f := range []store.Finding{all, half, more} {
		if err := s.AppendFindings(t.Context(), []store.Finding{f}); err != nil {
			t.Fatal(err)
		}
	}
	for teller, want := range map[string]uint64{"": 1, "detect-0of2": 2, "detect-1of2": 0} {
		if last, err := s.LastTold(t.Context(), teller); err != nil || last != want {
			t.Errorf("%q told %d last, %v; want %d", teller, last, err, want)
		}
	}
	told := map[string]string{}
	note := func(id string, version uint32, open bool) { told[id] = fmt.Sprint(version, open) }
	if err := s.ToldAfter(t.Context(), half.Teller, 1, note); err != nil || !reflect.DeepEqual(told, map[string]string{oneID: "2 true"}) {
		t.Errorf("told after 1: %v, %v", told, err)
	}
	clear(told)
	if err := s.ToldByAll(t.Context(), note); err != nil || !reflect.DeepEqual(told, map[string]string{oneID: "2 true", twoID: "1 true"}) {
		t.Errorf("told by all: %v, %v", told, err)
	}
	if open, err := s.OpenFindings(t.Context()); err != nil || !reflect.DeepEqual(open, []store.Finding{half, more}) {
		t.Errorf("open: %+v, %v", open, err)
	}
}

func TestAFindingThatCantBeStoredIsAnError(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	bad := aFinding(rand.New(rand.NewPCG(5, 6)), 1, "no id", 1, "open")
	if err := s.AppendFindings(t.Context(), []store.Finding{bad}); err == nil {
		t.Error("a finding without an id is stored")
	}
	if err := s.AppendFindings(t.Context(), make([]store.Finding, store.MaxFindings+1)); err == nil {
		t.Error("more findings are taken than go together")
	}
	if got := readFindings(t, s); len(got) != 0 {
		t.Errorf("%d are stored", len(got))
	}
	if errors.Is(store.ErrToldTwice, store.ErrDamaged) {
		t.Error("two errors are one")
	}
}

func TestAStepIsStoredOnce(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	at := time.UnixMicro(1_790_000_000_000_007).UTC()
	steps := []store.FindingAction{
		{ID: uuid.New(), FindingID: uuid.MustParse(oneID), Tenant: "acme", At: at, By: "ann", Step: "close", Verdict: "benign", Severity: "low", Note: "nightly 'job'"},
		{ID: uuid.New(), FindingID: uuid.MustParse(oneID), Tenant: "acme", At: at.Add(time.Second), By: "ann", Step: "suppress",
			SuppressionID: uuid.New(), Rule: "loops", Principal: "p", Server: "srv", Target: "tool", ExpiresAt: at.Add(90 * 24 * time.Hour)},
	}
	for _, a := range append(steps, steps...) {
		if err := s.AppendAction(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := s.Query(t.Context(), store.Limits{}, "SELECT "+store.FindingActionColumns+" FROM finding_actions ORDER BY at")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got []store.FindingAction
	for rows.Next() {
		var a store.FindingAction
		if err := rows.Scan(&a.ID, &a.FindingID, &a.Tenant, &a.At, &a.By, &a.Step, &a.Assignee, &a.Verdict, &a.Severity, &a.Note,
			&a.SuppressionID, &a.Rule, &a.Principal, &a.Server, &a.Target, &a.ExpiresAt); err != nil {
			t.Fatal(err)
		}
		got = append(got, a)
	}
	steps[0].ExpiresAt = time.Unix(0, 0).UTC()
	if !reflect.DeepEqual(got, steps) {
		t.Errorf("stored\n%+v\nwant\n%+v", got, steps)
	}
}
