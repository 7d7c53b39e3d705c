package detect

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// silentSender sends at every step from one time on to another.
func silentSender(server, emitter string, from, to, step time.Duration) (events []*event.Event) {
	for at := from; at < to; at += step {
		e := call(at, "alice", server, "read")
		e.EmitterID = emitter
		events = append(events, e)
	}
	return events
}

func silentMerge(all ...[]*event.Event) []*event.Event {
	events := slices.Concat(all...)
	slices.SortStableFunc(events, func(a, b *event.Event) int { return int(a.OccurredAt/1000 - b.OccurredAt/1000) })
	return events
}

const silentDay = 24 * time.Hour

func TestAServerThatGoesQuiet(t *testing.T) {
	events := silentMerge(
		silentSender("files", "f1", 0, 3*silentDay, time.Minute),
		silentSender("mail", "m1", 0, 4*silentDay, 10*time.Minute))
	found := feedFor(t, DefaultEmitterSilent(), events)
	feedWant(t, found, `medium files: server "files" has sent nothing since 2026-03-05 08:59 UTC`)
	if late := found[0].OpenedAt - found[0].StartedAt; late > micros(18*time.Minute) {
		t.Errorf("told after %s", saySpan(late))
	}
	if found[0].LastSeenAt != found[0].StartedAt || found[0].Events != 1 { // the last one before the silence
		t.Errorf("%+v", found[0])
	}
}

func TestOfficeHoursAreARhythm(t *testing.T) {
	var office [][]*event.Event
	for day := range 56 {
		if day%7 >= 5 || day == 37 { // a holiday on a Wednesday
			continue
		}
		office = append(office, silentSender("files", "f1", time.Duration(day)*silentDay, time.Duration(day)*silentDay+8*time.Hour, 5*time.Minute))
	}
	other := silentSender("mail", "m1", 0, 63*silentDay, 20*time.Minute)
	found := feedFor(t, DefaultEmitterSilent(), silentMerge(append(office, other)...))
	feedWant(t, found, `low files: server "files" has sent nothing since 2026-04-24 16:55 UTC, for 3 d 20 h`)
	if len(found) == 1 && found[0].Severity != Low {
		t.Error("it may be a holiday")
	}
	// The first weeks, when nothing is known of weekends.
	for from := range 7 {
		var days [][]*event.Event
		for day := from; day < 24; day++ {
			if day%7 < 5 {
				days = append(days, silentSender("files", "f1", time.Duration(day)*silentDay, time.Duration(day)*silentDay+8*time.Hour, 5*time.Minute))
			}
		}
		days = append(days, silentSender("mail", "m1", time.Duration(from)*silentDay, 25*silentDay, 20*time.Minute))
		feedWant(t, feedFor(t, DefaultEmitterSilent(), silentMerge(days...)))
	}
}

func TestWhatEndsIsNotQuiet(t *testing.T) {
	feedWant(t, feedFor(t, DefaultEmitterSilent(), silentMerge(
		silentSender("cli", "once", 0, 5*time.Hour, time.Minute),
		silentSender("web", "pod1", 0, 2*silentDay, time.Minute), // replaced by the next
		silentSender("web", "pod2", 2*silentDay, 6*silentDay, 10*time.Minute),
		silentSender("web", "pod3", 2*silentDay, 6*silentDay, 10*time.Minute),
		silentSender("mail", "m1", 0, 6*silentDay, 10*time.Minute))))
}

func TestAnEmitterAloneThatGoesQuiet(t *testing.T) {
	feedWant(t, feedFor(t, DefaultEmitterSilent(), silentMerge(
		silentSender("web", "pod1", 0, 4*silentDay, 10*time.Minute),
		silentSender("web", "pod2", 0, 3*silentDay, time.Minute),
		silentSender("web", "pod3", 0, 3*silentDay, time.Minute))), `low web: emitter "pod`)
}

func TestOneOutageIsNoHabit(t *testing.T) {
	found := feedFor(t, DefaultEmitterSilent(), silentMerge(
		silentSender("files", "f1", 0, 18*silentDay, time.Minute),
		silentSender("files", "f1", 18*silentDay+8*time.Hour, 20*silentDay, time.Minute),
		silentSender("mail", "m1", 0, 21*silentDay, 10*time.Minute)))
	feedWant(t, found, `medium files: since 2026-03-20 08:59`, `medium files: since 2026-03-22 08:59`)
}

func TestTheEndOfTheInputIsNoSilence(t *testing.T) {
	events := silentMerge(silentSender("files", "f1", 0, 3*silentDay, 2*time.Hour), silentSender("files", "f2", 0, 3*silentDay, time.Minute), silentSender("mail", "m1", 0, 3*silentDay-time.Hour, time.Minute))
	feedNumber(events)
	n := 0
	x := New([]Rule{feedRule(DefaultEmitterSilent(), time.Hour)}, 1, func(c Change) {
		if c.Server != "mail" {
			n++
		}
	})
	for _, e := range events {
		x.Add(e)
	}
	x.rules[0].detector.(*emitterSilent).end()
	x.Finish()
	if n > 0 {
		t.Errorf("%d findings", n)
	}
}

func TestEmitterSilentSaved(t *testing.T) {
	feedSaved(t, DefaultEmitterSilent(), silentMerge(
		silentSender("web", "pod1", 0, 4*silentDay, 5*time.Minute),
		silentSender("web", "pod2", 0, 3*silentDay, 5*time.Minute),
		silentSender("files", "f", 0, 2*silentDay, 5*time.Minute),
		silentSender("files", "f", 3*silentDay, 4*silentDay, 5*time.Minute)))
}

func TestEmitterSilentHostile(t *testing.T) {
	c := DefaultEmitterSilent()
	c.MaxGroups = 500
	n := feedHostile(t, c, 1500, func(i int, r *rand.Rand, e *event.Event) {
		e.EmitterID, e.Server, e.ReceivedAt = fmt.Sprint("e", i), fmt.Sprint("s", i%100), e.ReceivedAt+int64(i)*1e7
	})
	t.Log(n)
}

// When somebody is told of does not depend on whom else there is: shares of the work
// have others beside it than all of it has.
func TestWhenSilenceIsToldIsNobodyElsesDoing(t *testing.T) {
	var both, one []*event.Event
	for at := time.Duration(0); at < 27*time.Hour; at += 10 * time.Second {
		if at%(30*time.Second) == 0 && at >= 90*time.Second && at < 26*time.Hour {
			e := call(at, "p", "files", "read")
			one, both = append(one, e), append(both, e)
		}
		if at%(20*time.Second) == 0 {
			e := call(at+1, "p", "mail", "send")
			e.Tenant, e.EmitterID = "other", "another"
			both = append(both, e)
		}
	}
	opened := func(events []*event.Event) (at int64) {
		for _, f := range feedFor(t, DefaultEmitterSilent(), events) {
			if f.Server == "files" {
				at = f.OpenedAt
			}
		}
		return at
	}
	if alone, among := opened(one), opened(both); alone == 0 || alone != among {
		t.Errorf("told at %v alone, and at %v beside another tenant", time.UnixMicro(alone).UTC(), time.UnixMicro(among).UTC())
	}
}
