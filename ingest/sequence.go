package ingest

import (
	"slices"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// sequence is which numbers of one emitter are stored or about to be: sorted
// runs that do not touch. A healthy emitter has one run from 1.
type sequence struct {
	runs  []store.Run
	batch uint64 // the last batch that took an event of it
}

type verdict int

const (
	isNew verdict = iota
	isDuplicate
	isBeyondGaps // new, but it would open one gap more than is kept track of
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
	case len(q.runs) >= store.MaxRuns:
		return isBeyondGaps
	default:
		q.runs = slices.Insert(q.runs, i, store.Run{First: n, Last: n})
	}
	return isNew
}

// contiguous is the number up to which all are there, 0 when the first is not.
func (q *sequence) contiguous() uint64 {
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
