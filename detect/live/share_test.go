package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// versions is what the store has of findings, whoever told it, in no order of telling,
// and how many each teller has told. Whether it was told as history is left out.
func versions(t *testing.T, s *store.Store) (out []string, tellers map[string]int) {
	t.Helper()
	tellers = map[string]int{}
	rows, err := s.Query(t.Context(), store.Limits{}, "SELECT "+store.FindingColumns+" FROM findings ORDER BY teller, seq")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		f, err := store.ScanFinding(rows)
		if err != nil {
			t.Fatal(err)
		}
		if tellers[f.Teller]++; f.Seq != uint64(tellers[f.Teller]) {
			t.Errorf("version %d of teller %q has number %d", tellers[f.Teller], f.Teller, f.Seq)
		}
		f.ToldAt, f.Seq, f.Teller, f.History = 0, 0, "", false
		out = append(out, fmt.Sprintf("%+v", *f))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out, tellers
}

// wanted is what one run found, in no order.
func (h *theatre) wanted(t *testing.T) []string {
	t.Helper()
	if len(h.sorted) == 0 {
		h.sorted, _ = versions(t, h.store)
	}
	return h.sorted
}

// perform runs all shares of the work from one batch to another, one after the other,
// and stops them.
func (h *theatre) perform(t *testing.T, of, from, to int, startAt int64) {
	t.Helper()
	for n := range of {
		s := h.stage()
		s.set(max(startAt, s.now))
		a := act(t, s, Config{Share: detect.Share{Number: n, Of: of}, SaveEvery: 1000 * time.Hour, Contended: true})
		a.step()
		a.play(h.script, from, to)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := a.stop(ctx, ctx.Err()); err != nil {
			t.Error(err)
		}
	}
}

func TestTheSharesTogetherTellWhatOneRunnerDoes(t *testing.T) {
	const batches = 14
	h := newTheatre(t, 6, batches)
	want := h.wanted(t)
	for _, of := range []int{2, 3} {
		h.empty(t)
		// With a restart of each of them.
		h.perform(t, of, 0, batches/2, 0)
		h.perform(t, of, batches/2, batches, 0)
		got, tellers := versions(t, h.store)
		compare(t, fmt.Sprint(of, " shares"), got, want)
		if len(tellers) < 2 {
			t.Errorf("%d shares: all is told by %v: the test is of no use", of, tellers)
		}
		for teller := range tellers {
			if share, ok := strings.CutPrefix(teller, "detect-"); !ok || !strings.HasSuffix(share, fmt.Sprint("of", of)) {
				t.Errorf("%d shares: %q tells", of, teller)
			}
		}
		names, err := h.store.SnapshotNames(t.Context(), "detect")
		if err != nil || len(names) != of {
			t.Errorf("%d shares: snapshots of %v, %v", of, names, err)
		}
		// What the first of the two would still write has a lower number.
		for _, name := range names {
			if n, err := h.store.LastSnapshot(t.Context(), name); err != nil || n < 2*leap {
				t.Errorf("the second runner of %s wrote snapshot %d, %v", name, n, err)
			}
		}
	}
}

// The number of shares is changed, and changed back: what was told is not told again,
// what was open is ended by the share that has it now, and nothing is missed.
func TestAnotherNumberOfSharesLearnsAgainAndTellsNothingTwice(t *testing.T) {
	const batches = 12
	h := newTheatre(t, 7, batches)
	want := h.wanted(t)
	for _, numbers := range [][]int{{1, 2}, {2, 3, 2}, {2, 1}} {
		h.empty(t)
		now, each := int64(0), batches/len(numbers)
		for i, of := range numbers {
			from, to := i*each, (i+1)*each
			if i == len(numbers)-1 {
				to = batches
			}
			h.perform(t, of, from, to, now)
			now = h.script.sealed[to-1] + second
			// Nobody saves for long: the time of what was saved is put back.
			storetest.Exec(t, h.store, "ALTER TABLE cursors UPDATE written_at = written_at - INTERVAL 1 DAY WHERE 1")
		}
		got, _ := versions(t, h.store)
		compare(t, fmt.Sprint("in ", numbers, " shares"), got, want)
	}
}

// Two numbers of shares at a time would tell everything twice.
func TestARunnerWaitsWhileTheWorkIsSplitOtherwise(t *testing.T) {
	const batches = 7
	h := newTheatre(t, 2, batches)
	h.empty(t)
	h.perform(t, 2, 0, batches, 0)
	s := h.stage()
	s.set(h.script.end + second)
	r := New(Config{Rules: testRules(), Share: detect.Share{Number: 2, Of: 3}}, Deps{Store: s, Now: s.clock, Log: quiet, Watch: &counts{}})
	var other *OtherSplit
	err := r.begin(t.Context())
	if !errors.As(err, &other) || other.Shares != 2 || other.Ours != 3 || !strings.Contains(err.Error(), "detect.shards = 2 until") || !strings.Contains(err.Error(), "it is 3 here") {
		t.Errorf("%v", err)
	}
	s.set(h.script.end + 601*second)
	if err := r.begin(t.Context()); err != nil {
		t.Errorf("they have been gone for ten minutes: %v", err)
	}
	// The two themselves go on at any time.
	for n := range 2 {
		act(t, s, Config{Share: detect.Share{Number: n, Of: 2}})
	}
}

// One of the shares before never came to save anything: nobody is woken for what it
// may have missed, and it is told all the same.
func TestWhatAShareThatNeverSavedWouldHaveToldIsHistory(t *testing.T) {
	const batches = 14
	h := newTheatre(t, 6, batches)
	want := h.wanted(t)
	h.empty(t)
	s := h.stage()
	a := act(t, s, Config{Share: detect.Share{Number: 0, Of: 2}, SaveEvery: 1000 * time.Hour})
	a.play(h.script, 0, batches)
	if err := a.saveNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := len(a.heard)
	s.set(h.script.end + 601*second)
	a = act(t, s, Config{})
	a.step()
	for _, x := range a.heard {
		if !x.History {
			t.Errorf("%s is told as news", x.ID)
		}
	}
	if first == 0 || len(a.heard) == 0 || first+len(a.heard) != len(want) {
		t.Errorf("%d and %d of %d versions are told", first, len(a.heard), len(want))
	}
	got, _ := versions(t, h.store)
	compare(t, "both", got, want)
	history, err := h.store.Query(t.Context(), store.Limits{}, "SELECT 1 FROM findings WHERE history")
	if err != nil {
		t.Fatal(err)
	}
	defer history.Close()
	n := 0
	for history.Next() {
		n++
	}
	if err := history.Err(); err != nil || n != len(a.heard) {
		t.Errorf("%d versions are stored as history, %v; want %d", n, err, len(a.heard))
	}
}

// What is lost with the history is ended by the share that would find it, and by that
// one alone.
func TestAFindingOfAnotherSplitIsEndedOnce(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	const of = 3
	var rows []store.Finding
	for i, f := range []store.Finding{
		{Rule: "crowd", Tenant: "a", Principal: "p1"}, {Rule: "crowd", Tenant: "a", Principal: "p2"}, {Rule: "crowd", Tenant: "b", Principal: "p1"},
		{Rule: "hush", Tenant: "a", Principal: "p1"}, {Rule: "hush", Tenant: "b"}, {Rule: "gone", Tenant: "a", Principal: "p1", EmitterID: "e"},
	} {
		f.Teller, f.Seq, f.ID = "detect-0of2", uint64(i+1), fmt.Sprintf("0a0b0c0d-0000-8000-8000-%012d", i)
		f.Version, f.Detector, f.Severity, f.State, f.StartedAt, f.LastSeenAt, f.OpenedAt = 3, "d", "low", detect.Open, began, began, began
		rows = append(rows, f)
	}
	if err := s.AppendFindings(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	at := began + 3600*second
	for n := range of {
		a := act(t, &stage{Store: s, now: at}, Config{Share: detect.Share{Number: n, Of: of}})
		a.step()
		a.step()
	}
	open, err := s.OpenFindings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range open {
		t.Errorf("%s of %s %s is open", f.Rule, f.Tenant, f.Principal)
	}
	got, _ := versions(t, s)
	if len(got) != 2*len(rows) {
		t.Errorf("%d versions are told, want %d: %v", len(got), 2*len(rows), got)
	}
}

// Where others write to the store too, what this process has sealed says nothing of
// theirs: the margin counts as well, and what is behind.
func TestTheClockWaitsForThoseWhoWriteElsewhere(t *testing.T) {
	now := time.UnixMicro(began)
	own := began
	r := New(Config{}, Deps{Now: func() time.Time { return now }, Settled: func() int64 { return own }})
	if got := r.settled(now); got != own {
		t.Errorf("alone: %d, want %d", got, own)
	}
	r.d.OthersWrite = true
	if got := r.settled(now); got != began-second {
		t.Errorf("with others: %d, want a second before %d", got, began)
	}
	own -= 5 * second
	if got := r.settled(now); got != own {
		t.Errorf("behind the others: %d, want %d", got, own)
	}
	r.held = now.Add(time.Second)
	if got := r.settled(now); got != 0 {
		t.Errorf("after a fault: %d, want the clock to stand", got)
	}
}

func TestSnapshotsSayHowTheWorkWasSplit(t *testing.T) {
	for name, want := range map[string]int{"detect": 1, "detect-0of2": 2, "detect-7of8": 8, "detect-3of8x": 0, "detect-03of8": 0, "detect-of8": 0, "detect-": 0, "detector": 0, "other": 0, "detect-1of1": 0, "detect--1of2": 0} {
		if of, ok := sharesOf("detect", name); of != want && ok || ok != (want > 0) {
			t.Errorf("%q: %d, %v, want %d", name, of, ok, want)
		}
	}
}
