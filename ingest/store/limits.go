package store

import (
	"context"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// limited has a statement run under settings, and for no longer than most, which is 0
// for no limit of its own, nor than ctx has left: the engine gives it up by itself
// then, also when it no longer hears of us.
//
// The driver would put the time that ctx has left, and five seconds more, in place of
// the statement's own limit; so it does not get to see it. It still sees ctx end.
func limited(ctx context.Context, most time.Duration, settings clickhouse.Settings, options ...clickhouse.QueryOption) context.Context {
	if deadline, ok := ctx.Deadline(); ok {
		left := max(time.Until(deadline), time.Millisecond)
		if most == 0 || left < most {
			most = left
		}
	}
	if most > 0 {
		settings["max_execution_time"] = most.Seconds()
	}
	return clickhouse.Context(undated{ctx}, append(options, clickhouse.WithSettings(settings))...)
}

// undated is a context that ends when it ends and does not say when that will be.
type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }
