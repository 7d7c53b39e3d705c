package share

import (
	"context"

	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// onceRead is a store whose events are read once for all runners of a process: each of
// them needs all events, at about the same time, and reading them is most of the
// work. It keeps those that were read last, up to keptBytes, and lets one runner read
// at a time.
type onceRead struct {
	live.Store
	turn chan struct{} // has room for one, who has the rest

	kept  map[batchName][]*event.Event
	order []batchName // the oldest first
	size  int         // bytes, about
}

type batchName struct {
	log   string
	batch uint64
}

const keptBytes = 64 << 20

// EventsOf implements live.History. The events are shared, and nobody changes them.
func (o *onceRead) EventsOf(ctx context.Context, batches []store.SealedBatch) (events []*event.Event, lacking int, err error) {
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	for len(batches) > 0 {
		n := 0
		for n < len(batches) && o.has(batches[n]) {
			events = append(events, o.kept[nameOf(batches[n])]...)
			n++
		}
		batches = batches[n:]
		for n = 0; n < len(batches) && !o.has(batches[n]); {
			n++
		}
		if n == 0 {
			continue
		}
		read, missing, err := o.Store.EventsOf(ctx, batches[:n])
		if err != nil {
			return nil, 0, err
		}
		if lacking += missing; missing == 0 { // otherwise they may be there the next time
			o.keep(batches[:n], read)
		}
		events = append(events, read...)
		batches = batches[n:]
	}
	return events, lacking, nil
}

func nameOf(b store.SealedBatch) batchName { return batchName{b.LogID, b.Batch} }

func (o *onceRead) has(b store.SealedBatch) bool { _, ok := o.kept[nameOf(b)]; return ok }

// keep keeps the events of batches, which are in their order.
func (o *onceRead) keep(batches []store.SealedBatch, events []*event.Event) {
	if o.kept == nil {
		o.kept = map[batchName][]*event.Event{}
	}
	for _, b := range batches {
		n := 0
		for n < len(events) && events[n].Batch == b.Batch {
			n++
		}
		o.kept[nameOf(b)] = events[:n:n]
		o.order = append(o.order, nameOf(b))
		o.size += sizeOf(events[:n])
		events = events[n:]
	}
	for o.size > keptBytes && len(o.order) > 0 {
		o.size -= sizeOf(o.kept[o.order[0]])
		delete(o.kept, o.order[0])
		o.order = o.order[1:]
	}
}

// sizeOf is about what events take in memory, and an entry for them.
func sizeOf(events []*event.Event) int {
	size := 100
	for _, e := range events {
		size += e.Size()
	}
	return size
}
