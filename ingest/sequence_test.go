package ingest

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// model is what a sequence says it is, in the simplest form.
type model map[uint64]bool

// runs are the model's islands, in order.
func (m model) runs() []store.Run {
	numbers := make([]uint64, 0, len(m))
	for n := range m {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	var runs []store.Run
	for i, n := range numbers {
		if i > 0 && numbers[i-1] == n-1 {
			runs[len(runs)-1].Last = n
		} else {
			runs = append(runs, store.Run{First: n, Last: n})
		}
	}
	return runs
}

// add is what sequence.add should say and do.
func (m model) add(n uint64) verdict {
	switch {
	case m[n]:
		return isDuplicate
	}
	m[n] = true
	return isNew
}

func checkSequence(t *testing.T, q *sequence, m model) {
	t.Helper()
	want := m.runs()
	if !slices.Equal(q.runs, want) {
		t.Fatalf("runs %v, want %v", q.runs, want)
	}
	contiguous, highest := uint64(0), uint64(0)
	for m[contiguous+1] {
		contiguous++
	}
	if len(want) > 0 {
		highest = want[len(want)-1].Last
	}
	if m[0] { // never reaches a sequence: event.Check refuses it
		contiguous = 0
	}
	if q.contiguous() != contiguous || q.highest() != highest {
		t.Fatalf("contiguous %d, highest %d, want %d and %d", q.contiguous(), q.highest(), contiguous, highest)
	}
}

func TestASequenceIsASetOfNumbers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, c := range []struct {
		name string
		next func(step int) uint64
	}{
		{"in order", func(step int) uint64 { return uint64(step) + 1 }},
		{"in reverse", func(step int) uint64 { return 3000 - uint64(step) }},
		{"at random, dense", func(int) uint64 { return 1 + r.Uint64N(40) }},
		{"at random, with gaps", func(int) uint64 { return 1 + r.Uint64N(1000) }},
		{"nearly in order", func(step int) uint64 { return uint64(step) + 1 + r.Uint64N(8) }},
		{"around both ends of the numbers", func(int) uint64 { return 8 - r.Uint64N(16) }},
		{"around zero and one", func(int) uint64 { return r.Uint64N(4) }},
		{"at the very end", func(int) uint64 { return math.MaxUint64 - r.Uint64N(20) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, m := &sequence{}, model{}
			for step := range 400 {
				n := c.next(step)
				if got, want := q.add(n), m.add(n); got != want {
					t.Fatalf("step %d: add(%d) is %d, want %d; runs %v", step, n, got, want, q.runs)
				}
				checkSequence(t, q, m)
			}
		})
	}
}

// Promise 5 and the emitter's future: beyond the gaps that are kept track of, new
// events are taken, and the oldest gap is given up without ever being passed over.
func TestASequenceWithTooManyGapsGivesTheOldestOneUp(t *testing.T) {
	for _, first := range []uint64{1, 10} { // an emitter whose first event is there, and one whose is not
		q := &sequence{}
		stored := model{}
		for i := range uint64(2 * store.MaxRuns) {
			n := first + 3*i
			if got := q.add(n); got != isNew {
				t.Fatalf("add(%d), run %d of %d, is %d", n, i+1, store.MaxRuns, got)
			}
			stored[n] = true
			if len(q.runs) > store.MaxRuns {
				t.Fatalf("%d runs are kept", len(q.runs))
			}
		}
		want := uint64(0)
		if first == 1 {
			want = 1
		}
		if q.contiguous() != want {
			t.Errorf("contiguous %d, want %d: a gap was passed over", q.contiguous(), want)
		}
		// What comes now is taken, all of it.
		next := q.highest()
		for n := next + 2; n < next+100_000; n++ {
			if got := q.add(n); got != isNew {
				t.Fatalf("add(%d) is %d", n, got)
			}
		}
		if q.add(q.highest()) != isDuplicate || q.add(first+3*store.MaxRuns+6) != isDuplicate {
			t.Error("what is stored was taken again")
		}
		// Nothing that is stored is ever new, and nothing in a gap that was given up.
		for n := first; n <= next; n++ {
			got := q.add(n)
			switch {
			case stored[n] && got == isNew:
				t.Fatalf("add(%d), which is stored, is new", n)
			case !stored[n] && got == isDuplicate:
				t.Fatalf("add(%d), which is lost, is a duplicate: it would be acknowledged", n)
			case !stored[n] && n < q.unknown && got != isGivenUp, n >= q.unknown && got == isGivenUp:
				t.Fatalf("add(%d) is %d, gaps are known from %d on", n, got, q.unknown)
			}
		}
		if first == 1 && q.add(1) != isDuplicate {
			t.Error("what is stored for sure is no duplicate")
		}
		// Gaps that are kept are closed as ever.
		if runs := len(q.runs); runs != 2 {
			t.Errorf("%d runs are left", runs)
		}
		// After a restart.
		again := newSequence(stored.runs())
		if len(again.runs) != store.MaxRuns || again.contiguous() != want || again.add(first+1) != isGivenUp {
			t.Errorf("%d runs after a restart, contiguous %d", len(again.runs), again.contiguous())
		}
	}
}
