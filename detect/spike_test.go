package detect

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

const aDay = 24 * time.Hour

// every is a call of one identity after every gap, from one time to another after
// feedStart.
func every(gap, from, to time.Duration) (events []*event.Event) {
	for at := from; at < to; at += gap {
		events = append(events, call(at, "agent:a", "files", "read"))
	}
	return events
}

// inBursts is 50 calls in ten seconds, then five silent minutes, for some hours of
// each day.
func inBursts(days, hours int) (events []*event.Event) {
	for day := range days {
		for at := time.Duration(0); at < time.Duration(hours)*time.Hour; at += 310 * time.Second {
			from := time.Duration(day)*aDay + at
			events = append(events, every(200*time.Millisecond, from, from+10*time.Second)...)
		}
	}
	return events
}

// byDay is a random number of calls an hour, most of them by day, fewer at weekends;
// seen from the first day, it grows by so much a day.
func byDay(days int, growth float64) (events []*event.Event) {
	r := rand.New(rand.NewPCG(5, 6))
	rate := 1.0
	for day := range days {
		for hour := range 24 {
			n := 5.0
			if hour < 9 {
				n = 90
			}
			if day%7 >= 5 {
				n /= 3
			}
			n *= rate * (0.7 + 0.6*r.Float64())
			for range int(n) {
				at := time.Duration(day)*aDay + time.Duration(hour)*time.Hour + time.Duration(r.Int64N(int64(time.Hour)))
				events = append(events, call(at, "agent:a", "files", "read"))
			}
		}
		rate *= 1 + growth
	}
	return inOrder(events)
}

func inOrder(parts ...[]*event.Event) []*event.Event {
	all := slices.Concat(parts...)
	slices.SortStableFunc(all, func(a, b *event.Event) int { return int(a.OccurredAt - b.OccurredAt) })
	return all
}

// without leaves a time out.
func without(events []*event.Event, from, to time.Duration) []*event.Event {
	a, b := feedStart.Add(from).UnixMicro(), feedStart.Add(to).UnixMicro()
	return slices.DeleteFunc(events, func(e *event.Event) bool { return e.OccurredAt >= a && e.OccurredAt < b })
}

// later moves what comes after a time.
func later(events []*event.Event, from, by time.Duration) []*event.Event {
	a := feedStart.Add(from).UnixMicro()
	for _, e := range events {
		if e.OccurredAt >= a {
			e.OccurredAt += by.Microseconds()
		}
	}
	return inOrder(events)
}

func TestOrdinaryRatesAreSilent(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []*event.Event
	}{
		{"bursts all day from the first day on", inBursts(12, 24)},
		{"bursts in working hours", inBursts(12, 8)},
		{"a constant rate", every(10*time.Second, 0, 12*aDay)},
		{"one call a day", every(aDay, 0, 60*aDay)},
		{"busy by day", byDay(40, 0)},
		{"the first days of a newcomer", inOrder(every(6*time.Hour, 0, 2*aDay), every(2*time.Second, 2*aDay, 2*aDay+6*time.Hour))},
		{"daylight saving time begins", later(byDay(40, 0), 20*aDay, -time.Hour)},
		{"daylight saving time ends", later(byDay(40, 0), 20*aDay, time.Hour)},
		{"a holiday, and back to work", without(byDay(40, 0), 20*aDay, 27*aDay)},
		{"it returns after six weeks", later(byDay(40, 0), 20*aDay, 42*aDay)},
		{"it grows by a hundredth a day", byDay(60, 0.01)},
		{"a quiet key does one piece of work", inOrder(every(8*time.Hour, 0, 20*aDay), every(200*time.Millisecond, 19*aDay, 19*aDay+20*time.Second))},
	} {
		if found := feedQuiet(t, DefaultCallSpike(), time.Hour, c.events); len(found) != 0 {
			t.Errorf("%s: %d findings, such as: %s", c.name, len(found), found[0].Reason)
		}
	}
}

func TestRatesFarAboveTheUsualAreFound(t *testing.T) {
	constant := func(days int) []*event.Event { return every(10*time.Second, 0, time.Duration(days)*aDay) }
	from := 9*aDay + 3*time.Hour
	for _, c := range []struct {
		name   string
		events []*event.Event
		want   string
	}{
		{"a constant rate, five times", inOrder(constant(11), every(2500*time.Millisecond, from, from+time.Hour)), "medium agent:a: in an hour; usual on a Wednesday at 12:00 UTC: about"},
		{"a few calls a day, then hundreds in an hour", inOrder(every(6*time.Hour, 0, 11*aDay), every(10*time.Second, from, from+time.Hour)), "high agent:a: its busiest hour of a day: 1 to 1"},
		{"a ramp over half a day to ten times", inOrder(constant(11), rampUp(from, 12*time.Hour, 10)), "medium agent:a: about"},
		{"an absurd rate on the first day", every(5*time.Millisecond, time.Hour, time.Hour+time.Minute), "medium agent:a: while nothing is known yet"},
		{"the day's rate at night", inOrder(byDay(21, 0), every(20*time.Second, 20*aDay+14*time.Hour, 20*aDay+15*time.Hour)), "medium agent:a: UTC: about"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := feedQuiet(t, DefaultCallSpike(), time.Hour, c.events)
			feedWant(t, found, c.want)
			for _, f := range found {
				if f.State != Resolved || f.EndedAt < f.StartedAt {
					t.Errorf("it does not end: %+v", f)
				}
			}
		})
	}
}

// rampUp adds calls to one per ten seconds until there are so many times as many.
func rampUp(from, over time.Duration, times float64) (events []*event.Event) {
	for at := time.Duration(0); at < over; {
		share := max(float64(at)/float64(over), 0.02)
		at += time.Duration(float64(10*time.Second) / (share * (times - 1)))
		events = append(events, call(from+at, "agent:a", "files", "read"))
	}
	return events
}

func TestALastingShiftIsToldOnceAndAccepted(t *testing.T) {
	shift := 10*aDay + 2*time.Hour
	found := feedQuiet(t, DefaultCallSpike(), time.Hour, inOrder(every(10*time.Second, 0, shift), every(3*time.Second, shift, 40*aDay)))
	feedWant(t, found, "medium agent:a: its busiest hour of a day: 360 to 360")
	if f := found[0]; f.EndedAt-f.StartedAt > micros(26*time.Hour) {
		t.Errorf("it was open for %s", saySpan(f.EndedAt-f.StartedAt))
	}
	// The new level is the usual one by now.
	again := inOrder(every(10*time.Second, 0, shift), every(3*time.Second, shift, 40*aDay), every(700*time.Millisecond, 38*aDay, 38*aDay+time.Hour))
	if found = feedQuiet(t, DefaultCallSpike(), time.Hour, again); len(found) != 2 {
		t.Errorf("%d findings, want one of the shift and one of the spike on top of it", len(found))
	}
}

func TestAnAttackDoesNotTeachThatItIsNormal(t *testing.T) {
	events := every(10*time.Second, 0, 25*aDay)
	for day := 9; day < 25; day += 4 {
		from := time.Duration(day)*aDay + time.Hour
		events = append(events, every(time.Second, from, from+time.Hour)...)
	}
	if found := feedQuiet(t, DefaultCallSpike(), time.Hour, inOrder(events)); len(found) != 4 {
		t.Errorf("%d findings of four attacks", len(found))
	}
}

func TestWhatComesBackWithinADayIsToldAgainOnlyWhenWorse(t *testing.T) {
	from := 9*aDay + time.Hour
	same := inOrder(every(10*time.Second, 0, 11*aDay), every(2*time.Second, from, from+time.Hour), every(2*time.Second, from+4*time.Hour, from+5*time.Hour))
	if found := feedQuiet(t, DefaultCallSpike(), time.Hour, same); len(found) != 1 {
		t.Errorf("%d findings of the same twice, want 1", len(found))
	}
	worse := inOrder(same, every(time.Second, from+8*time.Hour, from+9*time.Hour))
	if found := feedQuiet(t, DefaultCallSpike(), time.Hour, worse); len(found) != 2 {
		t.Errorf("%d findings of the same, and then worse, want 2", len(found))
	}
}

// crowd is a tool that many use: n identities, each a call in each gap.
func crowd(n int, gap, from, to time.Duration) (events []*event.Event) {
	for i := range n {
		for at := from + time.Duration(i)*gap/time.Duration(n); at < to; at += gap {
			events = append(events, call(at, fmt.Sprintf("agent:%d", i), "files", "read"))
		}
	}
	return inOrder(events)
}

func TestAToolIsToldOfWhenNobodyExplainsIt(t *testing.T) {
	from := 9*aDay + 3*time.Hour
	usual := crowd(20, 10*time.Minute, 0, 10*aDay)
	// Each of them makes four times as many: not much for one.
	feedWant(t, feedQuiet(t, DefaultCallSpike(), time.Hour, inOrder(usual, crowd(20, 4*time.Minute, from, from+2*time.Hour))),
		`medium files read: calls of "read" in`)
	// One of them makes all of it.
	one := every(time.Second, from, from+time.Hour)
	for _, e := range one {
		e.Principal = "agent:3"
	}
	feedWant(t, feedQuiet(t, DefaultCallSpike(), time.Hour, inOrder(usual, one)), `high agent:3 files read: calls of "read" (`)
	// A newcomer of whom nothing is known, so the tool speaks for it.
	for _, e := range one {
		e.Principal = "agent:new"
	}
	feedWant(t, feedQuiet(t, DefaultCallSpike(), time.Hour, inOrder(usual, one)), `high agent:new files read: % of them by "agent:new") in an hour`)
}

func TestASpikeSurvivesRestarts(t *testing.T) {
	from := 4*aDay + time.Hour
	feedSaved(t, DefaultCallSpike(), inOrder(crowd(5, time.Minute, 0, 5*aDay), every(time.Second, from, from+time.Hour), every(5*time.Hour, 0, 5*aDay)))
}

func TestASpikeNamesWhatLedToIt(t *testing.T) {
	from := 9*aDay + 3*time.Hour
	f := feedQuiet(t, DefaultCallSpike(), time.Hour, inOrder(every(10*time.Second, 0, 10*aDay), every(time.Second, from, from+time.Hour)))[0]
	if len(f.EventIDs) != MaxEvidence || len(f.Workings) < 4 || f.Score < 2 {
		t.Errorf("%+v", f)
	}
	if start := feedStart.Add(from).UnixMicro(); f.StartedAt > start+micros(2*time.Minute) || f.StartedAt < start-micros(time.Hour) {
		t.Errorf("it starts at %s", sayTime(f.StartedAt))
	}
	if open := f.OpenedAt - feedStart.Add(from).UnixMicro(); open > micros(3*time.Minute) {
		t.Errorf("opened after %s", saySpan(open))
	}
}

// What is delivered hours late counts for nothing now, and breaks nothing.
func TestLateAndImpossibleTimes(t *testing.T) {
	d := DefaultCallSpike().New().(*callSpike)
	h := hasher{seed: 1}
	see := func(at int64) {
		var v Seen
		h.see(call(0, "agent:a", "files", "read"), at, at, &v)
		d.Observe(&v, &Out{v: &v, cases: newCases(&Rule{}), tell: func(Change) { t.Fatal("found") }})
	}
	start := feedStart.UnixMicro()
	for i := range int64(1000) {
		see(start + i*1e6)
		see(start - 3*usMinute*60 + i)
		see(start - 2*aDay.Microseconds() + i)
	}
	for _, at := range []int64{-1, 0, 1, -1 << 62, start, start + 400*365*aDay.Microseconds(), 1<<62 - 1, start} {
		see(at)
	}
}

func TestSpikeMemoryIsBounded(t *testing.T) {
	c := DefaultCallSpike()
	c.MaxGroups = 100
	feedHostile(t, c, 300, nil)
	if n := unsafe.Sizeof(spikeCount{}) + unsafe.Sizeof(spikeBaseline{}); n > 2400 {
		t.Errorf("a key needs %d bytes", n)
	}
	t.Logf("%d bytes for a key on its first day, %d from the second on", unsafe.Sizeof(spikeCount{}), unsafe.Sizeof(spikeCount{})+unsafe.Sizeof(spikeBaseline{}))
}

func TestSpikeSettings(t *testing.T) {
	for want, change := range map[string]func(c *CallSpike){
		`by: has "user", use principal, tool or server`:                   func(c *CallSpike) { c.By = []string{"user"} },
		"by: is empty, must name at least one of principal, tool, server": func(c *CallSpike) { c.By = nil },
		"chance: is 0, must lie between 1e-06 and 0.5":                    func(c *CallSpike) { c.Chance = 0 },
		"days: is 2, must lie between 3 and 21":                           func(c *CallSpike) { c.Days = 2 },
		"cooldown: is 1m0s, must lie between 1h0m0s and 168h0m0s":         func(c *CallSpike) { c.Cooldown = time.Minute },
	} {
		c := DefaultCallSpike()
		change(&c)
		if err := c.Validate(); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func BenchmarkCallSpike(b *testing.B) {
	b.Run("each minute", func(b *testing.B) { benchmarkCallSpike(b, crowd(200, 10*time.Second, 0, time.Hour)) })
	b.Run("every ten minutes", func(b *testing.B) { benchmarkCallSpike(b, crowd(200, 10*time.Minute, 0, 24*time.Hour)) })
}

// benchmarkCallSpike goes through a stream again and again, later each time.
func benchmarkCallSpike(b *testing.B, events []*event.Event) {
	seen := make([]Seen, len(events))
	h := hasher{seed: 1}
	for i, e := range events {
		h.see(e, e.OccurredAt, e.OccurredAt, &seen[i])
	}
	d := DefaultCallSpike().New()
	out := Out{cases: newCases(&Rule{}), tell: func(Change) {}}
	again := events[len(events)-1].OccurredAt - events[0].OccurredAt
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v := &seen[i%len(seen)]
		if i >= len(seen) {
			v.At += again
		}
		out.v, out.clock = v, v.At
		d.Observe(v, &out)
	}
}
