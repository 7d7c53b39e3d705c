package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// Run is a range of sequence numbers, both ends included.
type Run struct{ First, Last uint64 }

// MaxRuns is how many runs of an emitter's sequence are kept track of: it is
// dense but for what was lost.
const MaxRuns = 1024

// Sequences reads which sequence numbers of the emitters the store has, as
// sorted runs that do not touch; an emitter that it does not have has none. When
// there is an error, the emitters that were read all the same are in the map,
// and no others.
//
// It looks at the emitters' whole history: seconds for each ten million of their
// events, nothing for an emitter that was never heard of (the index by_emitter),
// and a few KiB of memory for each 65,536 numbers. A number that is stored twice,
// which only a second writer brings about, counts once.
func (s *Store) Sequences(ctx context.Context, emitters []string) (map[string][]Run, error) {
	// An insert of who had the emitter before may not be visible everywhere yet.
	if err := s.settle(ctx, "events"); err != nil {
		return nil, fmt.Errorf("read sequences of %d emitters: %w", len(emitters), err)
	}
	known := make(map[string]bool, len(emitters))
	for _, e := range emitters {
		known[e] = true
	}
	found := make(map[string][]Run, len(emitters))
	holes, err := s.dense(ctx, emitters, found)
	if err != nil {
		return nil, fmt.Errorf("read sequences of %d emitters: %w", len(emitters), err)
	}
	for from := 0; from < len(holes.emitter); from += bucketsAtOnce {
		to := min(from+bucketsAtOnce, len(holes.emitter))
		if err == nil {
			err = s.holed(ctx, buckets{holes.emitter[from:to], holes.number[from:to]}, found)
		}
		if err != nil {
			for _, e := range holes.emitter[from:to] {
				delete(known, e)
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("read sequences of emitters with gaps: %w", err)
	}
	out := make(map[string][]Run, len(known))
	for e := range known {
		out[e] = joined(found[e])
	}
	return out, err
}

// bucketBits is the size of the buckets in which sequences are read: a bitmap of
// one takes 8 KiB.
const bucketBits = 16

// bucketsAtOnce is how many buckets one statement asks for. Their emitters' names
// travel in a request's URL, of which a server takes 1 MiB.
const bucketsAtOnce = 1000

// buckets of sequences, in two lists, as a statement takes them.
type buckets struct {
	emitter []string
	number  []uint64
}

// dense adds the buckets that are one run to found and returns the others.
func (s *Store) dense(ctx context.Context, emitters []string, found map[string][]Run) (holes buckets, err error) {
	rows, err := s.conn.Query(ctx, `
		SELECT emitter_id, bitShiftRight(emitter_seq, 16) AS bucket, min(emitter_seq), max(emitter_seq), groupBitmap(toUInt32(bitAnd(emitter_seq, 65535)))
		FROM events WHERE emitter_id IN ({emitters:Array(String)}) GROUP BY emitter_id, bucket`, named("emitters", emitters))
	if err != nil {
		return holes, err
	}
	defer rows.Close()
	for rows.Next() {
		var emitter string
		var bucket uint64
		var distinct uint32
		var r Run
		if err := rows.Scan(&emitter, &bucket, &r.First, &r.Last, &distinct); err != nil {
			return holes, err
		}
		if r.Last-r.First+1 == uint64(distinct) {
			found[emitter] = append(found[emitter], r)
		} else {
			holes.emitter, holes.number = append(holes.emitter, emitter), append(holes.number, bucket)
		}
	}
	return holes, rows.Err()
}

// holed adds the runs of these buckets to found.
func (s *Store) holed(ctx context.Context, b buckets, found map[string][]Run) error {
	rows, err := s.conn.Query(ctx, `
		WITH arraySort(groupUniqArray(toUInt16(bitAnd(emitter_seq, 65535)))) AS numbers, arrayDifference(numbers) AS steps
		SELECT emitter_id, bitShiftRight(emitter_seq, 16) AS bucket,
			arrayFilter((n, step) -> step != 1, numbers, steps),
			arrayFilter((n, step) -> step != 1, numbers, arrayPushBack(arrayPopFront(steps), 0))
		FROM events
		WHERE emitter_id IN ({emitters:Array(String)}) AND (emitter_id, bitShiftRight(emitter_seq, 16)) IN (
			SELECT b.1, b.2 FROM (SELECT arrayJoin(arrayZip({emitters:Array(String)}, {buckets:Array(UInt64)})) AS b))
		GROUP BY emitter_id, bucket`, named("emitters", b.emitter), named("buckets", b.number))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var emitter string
		var bucket uint64
		var first, last []uint16
		if err := rows.Scan(&emitter, &bucket, &first, &last); err != nil {
			return err
		}
		for i := range min(len(first), len(last)) {
			found[emitter] = append(found[emitter], Run{bucket<<bucketBits | uint64(first[i]), bucket<<bucketBits | uint64(last[i])})
		}
	}
	return rows.Err()
}

// joined sorts runs and joins those that touch.
func joined(runs []Run) []Run {
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.First, b.First) })
	var out []Run
	for _, r := range runs {
		if last := len(out) - 1; last >= 0 && out[last].Last+1 == r.First {
			out[last].Last = r.Last
		} else {
			out = append(out, r)
		}
	}
	return out
}
