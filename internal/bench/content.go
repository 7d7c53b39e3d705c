package bench

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// redaction is the time of redacting one typical call, and of the service's
// second pass. The limit is one SHA-256 over the same bytes, twice: the two
// digests that no redactor can do without.
func redaction(_ context.Context, e Env) ([]Result, error) {
	t, err := newTraffic(1, e.Now())
	if err != nil {
		return nil, err
	}
	const calls = 1000
	var all []redact.Call
	var events []event.Event
	size := 0
	for range calls {
		a, r := t.content()
		for len(a) < 500 {
			a = append(a[:len(a)-1], fmt.Sprintf(`,"more%d":%q}`, len(a), t.sentence(6))...)
		}
		size += len(a)
		all = append(all, redact.Call{Server: "files", Method: "tools/call", Target: "read_file", Arguments: a, Result: nil})
		events = append(events, *t.next())
		_ = r
	}
	each := func(f func(i int)) time.Duration {
		var rounds []time.Duration
		for end := time.Now().Add(e.Time / 4); time.Now().Before(end); {
			start := time.Now()
			for i := range calls {
				f(i)
			}
			rounds = append(rounds, time.Since(start)/calls)
		}
		return quantile(rounds, 0.5)
	}
	limit := each(func(i int) { sha256.Sum256(all[i].Arguments); sha256.Sum256(all[i].Arguments) })
	call := each(func(i int) { t.redact.Call(all[i]) })
	again := each(func(i int) { ev := events[i]; t.redact.Again(&ev) })
	return []Result{
		atMost("redact", microseconds(call), fmt.Sprintf("µs a call (%d bytes of arguments)", size/calls), microseconds(limit), "two SHA-256 of the same bytes", 10),
		plain("redact again", microseconds(again), "µs an event in the service"),
	}, nil
}

// size is what an event takes on disk once parts are merged, and which columns
// take it. The limit is what can't be compressed: ids, digests and marks, which
// are random by design.
func size(ctx context.Context, e Env) ([]Result, error) {
	s, err := emptyStore(ctx, e, "size")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	t, err := newTraffic(1, e.Now())
	if err != nil {
		return nil, err
	}
	const batches, rows = 10, 20000
	random := 0
	for b := range batches {
		var events []*event.Event
		for i := range rows {
			ev := t.next()
			ev.EmitterID, ev.EmitterSeq = fmt.Sprintf("emitter-%d", i%20), uint64(b*rows/20+i/20+1)
			ev.ReceivedAt, ev.LogID, ev.Batch, ev.Leaf, ev.ExpiresMonth = ev.OccurredAt+5000, "main-0123456789ab", uint64(b+1), uint32(i), 20819
			random += 10 + 8 + 16 + 16 + 8*(len(ev.ArgumentMarks)+len(ev.ResultMarks)) // id, span, digests, marks
			events = append(events, ev)
		}
		fmt.Fprintf(e.Say, "\rstoring %d of %d events", (b+1)*rows, batches*rows)
		if err := s.Append(ctx, store.Batch{Events: events, Token: fmt.Sprint(b)}); err != nil {
			return nil, err
		}
	}
	fmt.Fprintln(e.Say, "\nmerging")
	if err := s.Merge(ctx); err != nil {
		return nil, err
	}
	total, columns, err := s.Sizes(ctx)
	if err != nil {
		return nil, err
	}
	const n = batches * rows
	results := []Result{atMost("size", float64(total)/n, "bytes an event", float64(random)/n, "ids, digests and marks, which are random", 160)}
	for _, c := range columns[:min(12, len(columns))] {
		results = append(results, plain("size of "+c.Name, float64(c.Bytes)/n, "bytes an event"))
	}
	return results, nil
}
