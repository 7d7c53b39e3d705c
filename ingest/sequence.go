package ingest

import (
	"slices"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// sequence is which numbers of one emitter are stored or about to be: sorted
// runs that do not touch. A healthy emitter has one run from 1.
//
// At most store.MaxRuns runs are kept. When there are more, the oldest gap is
// given up: the runs around it become one, and what lies in it is refused if it
// ever comes. The new events are what matters then, and a gap that is a thousand
// gaps old is no delay any more but a loss, which the store shows.
type sequence struct {
	runs    []store.Run
	unknown uint64 // up to here, in the first run, gaps were given up
	dense   uint64 // and up to here all are there; for contiguous
	batch   uint64 // the last batch that took an event of it
	waited  int    // parked requests that need it
}

func newSequence(runs []store.Run) *sequence {
	q := &sequence{runs: runs}
	if n := len(runs); n > store.MaxRuns {
		q.giveUp(n - store.MaxRuns)
	}
	return q
}

// giveUp joins the oldest runs over their gaps, of which n go.
func (q *sequence) giveUp(n int) {
	if q.unknown == 0 {
		q.dense = q.contiguous()
	}
	q.unknown = q.runs[n].First
	q.runs[n].First = q.runs[0].First
	q.runs = slices.Delete(q.runs, 0, n)
}

type verdict int

const (
	isNew verdict = iota
	isDuplicate
	isGivenUp // below what is kept track of: whether it is stored is not known
)

// add takes a number and says whether it was new.
func (q *sequence) add(n uint64) verdict {
	if last := len(q.runs) - 1; last >= 0 && n == q.runs[last].Last+1 && n != 0 {
		q.runs[last].Last = n
		return isNew
	}
	// i is the first run that ends at n or behind it.
	i, _ := slices.BinarySearchFunc(q.runs, n, func(r store.Run, n uint64) int {
		if r.Last < n {
			return -1
		}
		return 1
	})
	if n < q.unknown {
		if n <= q.dense {
			return isDuplicate
		}
		return isGivenUp
	}
	if i < len(q.runs) && q.runs[i].First <= n {
		return isDuplicate
	}
	joinsLeft := i > 0 && q.runs[i-1].Last+1 == n
	joinsRight := i < len(q.runs) && q.runs[i].First-1 == n
	switch {
	case joinsLeft && joinsRight:
		q.runs[i-1].Last = q.runs[i].Last
		q.runs = slices.Delete(q.runs, i, i+1)
	case joinsLeft:
		q.runs[i-1].Last = n
	case joinsRight:
		q.runs[i].First = n
	default:
		q.runs = slices.Insert(q.runs, i, store.Run{First: n, Last: n})
		if len(q.runs) > store.MaxRuns {
			q.giveUp(1)
		}
	}
	return isNew
}

// contiguous is the number up to which all are there, 0 when the first is not.
func (q *sequence) contiguous() uint64 {
	if q.unknown > 0 {
		return q.dense
	}
	if len(q.runs) == 0 || q.runs[0].First != 1 {
		return 0
	}
	return q.runs[0].Last
}

func (q *sequence) highest() uint64 {
	if len(q.runs) == 0 {
		return 0
	}
	return q.runs[len(q.runs)-1].Last
}
