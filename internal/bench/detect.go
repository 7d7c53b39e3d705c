package bench

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/rules"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// detection is how many events a second one core takes through all shipped rules,
// and what they remember. Its limit is the engine without rules: the same events put
// in order, with the keys of their groups.
func detection(ctx context.Context, e Env) ([]Result, error) {
	set, err := rules.Load()
	if err != nil {
		return nil, err
	}
	const n = 400_000
	fmt.Fprintf(e.Say, "making %d events\n", n)
	events, err := receivedEvents(e, n)
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(e.Say, "measuring the engine")
	limit, _ := replayRate(ctx, nil, events)
	rate, counts := replayRate(ctx, set.Rules(), events)
	results := []Result{
		atLeast("detect", rate, "events/s per core, all shipped rules", limit, "the engine without rules", 300e3),
		plain("detect findings", float64(counts.Open), "open at the end"),
	}
	for _, r := range set {
		alone, _ := replayRate(ctx, []detect.Rule{r.Rule}, events)
		results = append(results, plain("detect "+r.Name, 1e9/alone-1e9/limit, "ns/event"))
	}
	bytes, err := memoryOfIdentities(set)
	if err != nil {
		return nil, err
	}
	results = append(results, plain("detect memory", bytes/1e6, "MB per thousand identities"))
	fmt.Fprintln(e.Say, "measuring the service")
	lag, err := findingLag(ctx, e)
	return append(results, lag...), err
}

// receivedEvents are events of agents at work as a store has them.
func receivedEvents(e Env, n int) ([]*event.Event, error) {
	t, err := newTraffic(1, e.Now())
	if err != nil {
		return nil, err
	}
	out := make([]*event.Event, n)
	for i := range out {
		out[i] = t.next()
		out[i].EmitterID, out[i].EmitterSeq = "bench", uint64(i+1)
		out[i].ReceivedAt = out[i].OccurredAt + int64(out[i].Duration) + 20_000
	}
	return out, nil
}

// replayRate is events a second of processor time, whichever core it was spent on:
// the collector's share counts.
func replayRate(ctx context.Context, some []detect.Rule, events []*event.Event) (float64, detect.Counts) {
	runtime.GC()
	before := processorTime()
	engine := detect.New(some, 1, func(detect.Change) {})
	for i, ev := range events {
		if i%4096 == 0 && ctx.Err() != nil {
			break
		}
		engine.Add(ev)
	}
	engine.Flush()
	return float64(len(events)) / (processorTime() - before).Seconds(), engine.Counts()
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memoryOfIdentities is what all shipped rules remember of a thousand identities that
// are active on three days, ten calls of five tools in two sessions each, in bytes.
func memoryOfIdentities(set rules.Set) (float64, error) {
	const identities, days, calls = 5000, 3, 20
	engine := detect.New(set.Rules(), 1, func(detect.Change) {})
	before := heap()
	start := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	for day := range days {
		for call := range calls {
			for who := range identities {
				at := start.AddDate(0, 0, day).Add(time.Duration(call)*20*time.Minute + time.Duration(who)*time.Millisecond)
				ev := &event.Event{EventID: event.NewID(at, [10]byte{byte(who), byte(who >> 8)}), OccurredAt: at.UnixMicro(), Kind: "tool_call", Outcome: "success", Tenant: "default",
					Principal: fmt.Sprint("agent:", who), SessionID: fmt.Sprint(who, "/", day, "/", call/10), Server: "files", Target: fmt.Sprint("tool-", call%5),
					EmitterID: "bench", EmitterSeq: uint64((day*calls+call)*identities + who + 1), ClientIP: fmt.Sprint("10.0.", who>>8, ".", who&255), CredentialID: fmt.Sprint("key-", who)}
				ev.ArgumentsDigest[0], ev.ArgumentsDigest[1], ev.ResultDigest[0] = byte(call), byte(day), byte(call*7+day)
				ev.SetDefaults()
				engine.Add(ev)
			}
		}
	}
	engine.Flush()
	bytes := float64(heap()-before) / identities * 1000
	runtime.KeepAlive(engine)
	return bytes, nil
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
