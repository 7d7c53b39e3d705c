package store_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// Days since 1970-01-01 to the first of two months, 2027-01 and 2027-02.
const thisMonth, nextMonth = 20819, 20850

// twoMonths is a store with two batches that expire in one month and one in the next.
func twoMonths(t *testing.T) (s *store.Store, events [][]*event.Event) {
	t.Helper()
	s = storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(5, 5))
	for batch := range uint64(3) {
		es := randomEvents(r, 20, batch+1)
		for i, e := range es {
			e.ExpiresMonth, e.Principal = thisMonth, fmt.Sprint("user:", i%2)
			if batch == 2 {
				e.ExpiresMonth = nextMonth
			}
		}
		events = append(events, es)
		if err := s.Append(t.Context(), store.Batch{Events: es, Token: fmt.Sprint(batch)}); err != nil {
			t.Fatal(err)
		}
	}
	return s, events
}

func share(before uint64) store.Share {
	return store.Share{LogID: "log", Month: thisMonth, Before: before}
}

func principal(name string) store.Condition {
	return store.Condition{SQL: "(principal = {p0:String})", Args: []any{store.Named("p0", name)}}
}

func TestAMonthIsDroppedAndNoOther(t *testing.T) {
	s, events := twoMonths(t)
	for range 2 { // again changes nothing
		if err := s.DropMonth(t.Context(), thisMonth); err != nil {
			t.Fatal(err)
		}
		checkEvents(t, s, events[2])
	}
	if size, n, err := s.MonthSize(t.Context(), thisMonth); err != nil || size != 0 || n != 0 {
		t.Errorf("%d bytes, %d events, %v", size, n, err)
	}
}

// What stays of a month stays byte for byte, what was left by a run that was killed
// does no harm, and the other months keep their memory of what was stored.
func TestAMonthIsReplacedByWhatStays(t *testing.T) {
	s, events := twoMonths(t)
	stage := func() {
		t.Helper()
		if err := s.Stage(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.StageHeld(t.Context(), share(2), 1, 1, principal("user:1")); err != nil {
			t.Fatal(err)
		}
	}
	stage() // and the process is killed
	stage()
	if err := s.StageOthers(t.Context(), thisMonth, []store.Share{share(2)}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Staged(t.Context()); err != nil || n != 30 {
		t.Fatalf("%d events stay, %v", n, err)
	}
	checkEvents(t, s, slices.Concat(events...)) // nothing is done yet
	if err := s.ReplaceMonth(t.Context(), thisMonth); err != nil {
		t.Fatal(err)
	}
	held := slices.DeleteFunc(slices.Clone(events[0]), func(e *event.Event) bool { return e.Principal != "user:1" })
	want := slices.Concat(held, events[1], events[2])
	checkEvents(t, s, want)
	for range 2 {
		if err := s.Unstage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Append(t.Context(), store.Batch{Events: events[2], Token: "2"}); err != nil {
		t.Fatal(err)
	}
	checkEvents(t, s, want)
	leaves, err := s.LeavesOf(t.Context(), store.Stored, share(3), []uint64{1, 2, 3})
	if err != nil || len(leaves) != 2 {
		t.Fatal(leaves, err)
	}
	for i, e := range held {
		if leaves[1].Positions[i] != e.Leaf || leaves[1].Leaves[i] != ledger.Leaf(event.AppendRow(nil, e)) {
			t.Errorf("event %d has another leaf", e.Leaf)
		}
	}
}

func TestWhatExpiresIsCountedByMonthAndHold(t *testing.T) {
	s, events := twoMonths(t)
	got, err := s.Expiring(t.Context(), thisMonth)
	if err != nil || len(got) != 1 || got[0].LogID != "log" || got[0].Month != thisMonth || got[0].Events != 40 {
		t.Fatalf("%+v, %v", got, err)
	}
	first, last := int64(math.MaxInt64), int64(0)
	for _, e := range slices.Concat(events[0], events[1]) {
		first, last = min(first, e.ReceivedAt), max(last, e.ReceivedAt)
	}
	if !got[0].First.Equal(time.UnixMicro(first)) || !got[0].Last.Equal(time.UnixMicro(last)) {
		t.Errorf("received from %v to %v", got[0].First, got[0].Last)
	}
	if got, err := s.Expiring(t.Context(), thisMonth-1); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	// Two holds that bind the same name.
	n, held, each, err := s.CountHeld(t.Context(), share(3), []store.Condition{principal("user:1"), principal("user:9")})
	if err != nil || n != 40 || held != 20 || !slices.Equal(each, []uint64{20, 0}) {
		t.Errorf("%d events, %d held, %v, %v", n, held, each, err)
	}
	if n, held, _, err := s.CountHeld(t.Context(), share(2), nil); err != nil || n != 20 || held != 0 {
		t.Errorf("%d events, %d held, %v", n, held, err)
	}
}

func TestProofsAreKeptOnce(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	for range 2 {
		if err := s.Keep(t.Context(), "log", 7, []uint64{1, 2}, [][]byte{{1, 0, 255}, {2}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Keep(t.Context(), "log", 9, []uint64{2}, [][]byte{{3}}); err != nil {
		t.Fatal(err)
	}
	proofs, err := s.KeptProofs(t.Context(), "log", 7)
	if err != nil || len(proofs) != 2 || !slices.Equal(proofs[0], []byte{1, 0, 255}) {
		t.Errorf("%v, %v", proofs, err)
	}
	of, err := s.KeptOf(t.Context(), "log", []uint64{2})
	if err != nil || len(of[2]) != 2 || of[2][0][0] != 3 {
		t.Errorf("%v, %v", of, err)
	}
}

// Many holds of the longest filters are one statement.
func TestManyHoldsAreOneQuestion(t *testing.T) {
	s, _ := twoMonths(t)
	var holds []store.Condition
	for i := range 40 {
		c := store.Condition{SQL: "(0"}
		for j := range 200 {
			name := fmt.Sprint("p", j)
			c.SQL += " OR principal = {" + name + ":String}"
			c.Args = append(c.Args, store.Named(name, fmt.Sprint("user:", i, "/", j)))
		}
		c.SQL += ")"
		holds = append(holds, c)
	}
	if n, held, each, err := s.CountHeld(t.Context(), share(3), append(holds, principal("user:1"))); err != nil || n != 40 || held != 20 || each[40] != 20 {
		t.Errorf("%d events, %d held, %v", n, held, err)
	}
}
