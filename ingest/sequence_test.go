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
	case len(m.runs()) >= store.MaxRuns && !m[n-1] && !m[n+1]:
		return isBeyondGaps
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

func TestASequenceWithTooManyGapsTakesOnlyWhatOpensNone(t *testing.T) {
	q, m := &sequence{}, model{}
	for i := range uint64(store.MaxRuns) {
		n := 10 + 3*i
		if got := q.add(n); got != isNew {
			t.Fatalf("add(%d), run %d of %d, is %d", n, i+1, store.MaxRuns, got)
		}
		m[n] = true
	}
	last := uint64(10 + 3*(store.MaxRuns-1))
	for _, n := range []uint64{1, 8, last + 2, math.MaxUint64} {
		if got := q.add(n); got != isBeyondGaps {
			t.Errorf("add(%d) is %d, want a refusal: it opens one gap more", n, got)
		}
	}
	checkSequence(t, q, m)

	// Neighbours of a run on either side are taken, and closing a gap makes room.
	for _, n := range []uint64{9, last + 1, 11, 12} {
		if got, want := q.add(n), m.add(n); got != isNew || want != isNew {
			t.Errorf("add(%d) is %d", n, got)
		}
	}
	if got := q.add(1); got != isNew {
		t.Errorf("add(1) is %d after a gap was closed", got)
	}
	m[1] = true
	checkSequence(t, q, m)

	// What was refused is not remembered as taken.
	if got := q.add(math.MaxUint64); got != isBeyondGaps {
		t.Errorf("a refused number was taken for %d the second time", got)
	}
}
