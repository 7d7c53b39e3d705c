package anchor

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// farewell is how long the last checkpoint may take at shutdown.
const farewell = 5 * time.Second

// Runner puts a log's newest checkpoint into sinks, again and again. Each sink has
// a goroutine of its own: a slow one holds up no other.
type Runner struct {
	Sinks []Sink
	// Every is how often; default 1 minute. A put that failed is tried again then,
	// with the checkpoint that is the newest by that time.
	Every time.Duration
	// Newest is the newest checkpoint that is durable in the store, "" while there is
	// none. It is called from several goroutines.
	Newest func() string
	// Log hears when a sink begins to fail and when it works again.
	Log *slog.Logger
	// Observe, when it is set, hears of each put: its sink, by its place in Sinks,
	// and what came of it. It is called from several goroutines.
	Observe func(sink int, err error)
}

// Run anchors until ctx ends, then once more, and returns at most 5 seconds later
// unless a sink's Put does not end with its context.
func (r *Runner) Run(ctx context.Context) {
	every := r.Every
	if every <= 0 {
		every = time.Minute
	}
	var sinks sync.WaitGroup
	for i, s := range r.Sinks {
		a := anchored{r: r, index: i, sink: s}
		sinks.Go(func() { a.run(ctx, every) })
	}
	sinks.Wait()
}

// anchored is one sink and how far it is.
type anchored struct {
	r       *Runner
	index   int
	sink    Sink
	last    string // the checkpoint that it has
	failing bool
}

func (a *anchored) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		a.put(ctx, false)
		select {
		case <-tick.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
			defer cancel()
			a.put(last, true)
			return
		}
	}
}

// put puts the newest checkpoint, if the sink does not have it.
func (a *anchored) put(ctx context.Context, last bool) {
	newest := a.r.Newest()
	if newest == "" || newest == a.last {
		return
	}
	err := a.sink.Put(ctx, newest)
	if err != nil && !last && ctx.Err() != nil {
		return // the service ends, and the last try says what there is to say
	}
	if err == nil {
		a.last = newest
	}
	if a.r.Observe != nil {
		a.r.Observe(a.index, err)
	}
	if failing := err != nil; failing != a.failing {
		a.failing = failing
		if failing {
			a.r.Log.Error("the log's checkpoints are not anchored; it is tried again", "anchor", a.sink.String(), "error", err)
		} else {
			a.r.Log.Info("the log's checkpoints are anchored again", "anchor", a.sink.String())
		}
	}
}
