package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// skewEvent happened at one time by its emitter's clock and was received at another.
func skewEvent(occurred, received time.Duration) *event.Event {
	e := call(occurred, "alice", "files", "read")
	e.ReceivedAt = feedStart.Add(received).UnixMicro()
	return e
}

// skewRun sends every ten seconds for an hour.
func skewRun(occurred func(at time.Duration) time.Duration) (events []*event.Event) {
	for at := time.Duration(0); at < time.Hour; at += 10 * time.Second {
		events = append(events, skewEvent(occurred(at), at))
	}
	return events
}

func TestClocksThatAreWrong(t *testing.T) {
	found := feedFor(t, DefaultClockSkew(), skewRun(func(at time.Duration) time.Duration { return at + time.Minute }))
	feedWant(t, found, `low files emitter: is 1 min ahead by the service's`)
	found = feedFor(t, DefaultClockSkew(), skewRun(func(at time.Duration) time.Duration { return at + 3*time.Hour }))
	feedWant(t, found, `medium files emitter: is 3 h ahead by the service's`)
	if found[0].Events < 200 {
		t.Errorf("%d events", found[0].Events)
	}
	feedWant(t, feedFor(t, DefaultClockSkew(), skewRun(func(at time.Duration) time.Duration { return at - time.Hour })), `medium files emitter: is 59 min 59 s behind by the service's`)
}

func TestLateEventsAreNoWrongClock(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for name, run := range map[string]func(time.Duration) time.Duration{
		"on time":             func(at time.Duration) time.Duration { return at - time.Duration(r.IntN(2000))*time.Millisecond },
		"some ahead":          func(at time.Duration) time.Duration { return at + time.Duration(r.IntN(40)-20)*time.Second },
		"a spool that drains": func(at time.Duration) time.Duration { return -6*time.Hour + 6*at },
		"an import":           func(at time.Duration) time.Duration { return -3000*time.Hour + at/50 },
		"an hourly upload":    func(at time.Duration) time.Duration { return at - time.Duration(r.IntN(3600))*time.Second },
	} {
		if found := feedFor(t, DefaultClockSkew(), skewRun(run)); len(found) > 0 {
			t.Errorf("%s: %s", name, found[0].Reason)
		}
	}
	var unreceived []*event.Event
	for _, e := range skewRun(func(at time.Duration) time.Duration { return at + time.Hour }) {
		e.ReceivedAt = 0
		unreceived = append(unreceived, e)
	}
	feedWant(t, feedFor(t, DefaultClockSkew(), unreceived))
}

func TestClockSkewSaved(t *testing.T) {
	feedSaved(t, DefaultClockSkew(), skewRun(func(at time.Duration) time.Duration { return at + time.Hour }))
}

func TestClockSkewHostile(t *testing.T) {
	c := DefaultClockSkew()
	c.MaxGroups = 500
	n := feedHostile(t, c, 500, func(i int, r *rand.Rand, e *event.Event) {
		e.EmitterID, e.Duration = fmt.Sprint("e", i%400), r.Uint64()>>(i%64)
	})
	t.Log(n)
}
