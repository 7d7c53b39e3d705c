package detect

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// office is somebody's calls at some hours of each weekday, by a local clock: a call
// about every twenty minutes, not all hours of all days.
func office(who string, weeks, from, to int, in *time.Location) []*event.Event {
	r := rand.New(rand.NewPCG(uint64(len(who)), uint64(from)))
	monday := time.Date(2026, 1, 5, 0, 0, 0, 0, in)
	var events []*event.Event
	for day := range weeks * 7 {
		if day%7 > 4 {
			continue
		}
		for hour := from; hour < to; hour++ {
			if r.IntN(3) == 0 {
				continue
			}
			for range 3 {
				at := monday.AddDate(0, 0, day).Add(time.Duration(hour)*time.Hour + time.Duration(r.IntN(3600))*time.Second)
				events = append(events, hoursCall(at, who))
			}
		}
	}
	return hoursSorted(events)
}

func hoursCall(at time.Time, who string) *event.Event {
	return call(at.Sub(feedStart), who, "files", "read_file")
}

func hoursSorted(events []*event.Event) []*event.Event {
	slices.SortStableFunc(events, func(a, b *event.Event) int { return int(a.OccurredAt/1e6 - b.OccurredAt/1e6) })
	return events
}

// hoursSunday is in the tenth week of office.
var hoursSunday = time.Date(2026, 3, 15, 3, 10, 0, 0, time.UTC)

func TestOffHoursTellsOfTheFirstCallInTheNight(t *testing.T) {
	events := office("ann", 10, 8, 17, time.UTC)
	for i := range 9 {
		events = append(events, hoursCall(hoursSunday.Add(time.Duration(i)*20*time.Minute), "ann"))
	}
	found := feedQuiet(t, DefaultOffHours(), 7*24*time.Hour, hoursSorted(events))
	feedWant(t, found, "medium ann: active on Sunday 05:50 UTC; in 50 active days never between 17:00 and 08:00; 9 calls in 3 rare hours since 2026-03-15 03:10")
	if f := found[0]; f.StartedAt != hoursSunday.UnixMicro() || f.Events != 9 || f.Expected != "nine tenths of its activity between 08:00 and 17:00 UTC, Monday to Friday" {
		t.Errorf("started %v, %d events, expected %q", time.UnixMicro(f.StartedAt).UTC(), f.Events, f.Expected)
	}
}

func TestOffHoursCountsANightFromItsBeginning(t *testing.T) {
	events := office("ann", 10, 8, 17, time.UTC)
	for i := range 6 { // from Saturday 23:10 to Sunday 02:30
		events = append(events, hoursCall(hoursSunday.Add(-4*time.Hour+time.Duration(i)*40*time.Minute), "ann"))
	}
	found := feedQuiet(t, DefaultOffHours(), 7*24*time.Hour, hoursSorted(events))
	if len(found) != 1 || time.UnixMicro(found[0].StartedAt).UTC().Day() != 14 || strings.Contains(found[0].Reason, "weeks before") {
		t.Errorf("%+v", found)
	}
}

func TestOffHoursTellsOfAnotherRhythm(t *testing.T) {
	// Both of them work in hours that many others work in. From the ninth week on
	// somebody in Tokyo uses the name of somebody in New York.
	var events []*event.Event
	for i := range 8 {
		events = append(events, office(fmt.Sprintf("peer%d", i), 12, 3*i, 3*i+8, time.UTC)...)
	}
	mine := office("eve", 12, 14, 22, time.UTC)
	taken := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for _, e := range mine {
		if e.OccurredAt >= taken.UnixMicro() {
			e.OccurredAt -= 13 * microsPerHour
		}
	}
	found := feedQuiet(t, DefaultOffHours(), 7*24*time.Hour, hoursSorted(append(events, mine...)))
	if len(found) != 1 || found[0].Principal != "eve" {
		t.Fatalf("%d findings: %+v", len(found), found)
	}
	if d := time.UnixMicro(found[0].StartedAt).Sub(taken); d < 0 || d > 72*time.Hour {
		t.Errorf("seen after %v", d)
	}
}

func TestOffHoursIsSilent(t *testing.T) {
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	streams := map[string]func() []*event.Event{
		"in the first weeks": func() []*event.Event {
			return append(office("ann", 3, 8, 17, time.UTC), hoursCall(time.Date(2026, 1, 25, 3, 0, 0, 0, time.UTC), "ann"))
		},
		"when the clock is put forward": func() []*event.Event { return office("bob", 30, 9, 17, newYork) },
		"after holidays, and for less than usual": func() []*event.Event {
			return slices.DeleteFunc(office("ann", 20, 8, 17, time.UTC), func(e *event.Event) bool {
				day := time.UnixMicro(e.OccurredAt).YearDay()
				return day > 60 && day < 95 || day > 110 && day%3 > 0
			})
		},
		"for a service that runs all day": func() []*event.Event {
			var events []*event.Event
			for h := range 24 * 90 {
				events = append(events, hoursCall(time.Date(2026, 1, 5, h, 7, 0, 0, time.UTC), "svc"))
			}
			return events
		},
		"for one call a day": func() []*event.Event {
			var events []*event.Event
			r := rand.New(rand.NewPCG(1, 1))
			for d := range 120 {
				events = append(events, hoursCall(time.Date(2026, 1, 5+d, 9+r.IntN(6), r.IntN(60), 0, 0, time.UTC), "daily"))
			}
			return events
		},
		"for half an hour of overtime": func() []*event.Event {
			return hoursSorted(append(office("ann", 12, 8, 17, time.UTC), hoursCall(time.Date(2026, 3, 18, 17, 25, 0, 0, time.UTC), "ann")))
		},
		"for addresses and for nobody": func() []*event.Event {
			events := office("", 12, 8, 17, time.UTC)
			return append(events, hoursCall(time.Date(2026, 3, 29, 3, 0, 0, 0, time.UTC), ""))
		},
		"for retries and for what is no call": func() []*event.Event {
			events := office("ann", 12, 8, 17, time.UTC)
			night := hoursCall(time.Date(2026, 3, 29, 3, 0, 0, 0, time.UTC), "ann")
			night.Attempt = 1
			poll := hoursCall(time.Date(2026, 3, 29, 3, 1, 0, 0, time.UTC), "ann")
			poll.Kind = "task"
			return append(events, night, poll)
		},
	}
	for name, stream := range streams {
		t.Run(name, func(t *testing.T) {
			feedWant(t, feedQuiet(t, DefaultOffHours(), 7*24*time.Hour, stream()))
		})
	}
}

func TestOffHoursGetsUsedToNewHours(t *testing.T) {
	early := office("ann", 40, 8, 16, time.UTC)
	for _, e := range early {
		if e.OccurredAt >= time.Date(2026, 4, 6, 0, 0, 0, 0, time.UTC).UnixMicro() {
			e.OccurredAt += 10 * microsPerHour
		}
	}
	found := feedQuiet(t, DefaultOffHours(), 7*24*time.Hour, hoursSorted(early))
	if len(found) != 1 {
		t.Fatalf("%d findings", len(found))
	}
	if d := time.Duration(found[0].EndedAt-found[0].StartedAt) * time.Microsecond; d < 24*time.Hour || d > 45*24*time.Hour {
		t.Errorf("it lasted %v", d)
	}
}

func TestOffHoursAfterAClockThatWasAhead(t *testing.T) {
	events := office("ann", 10, 8, 17, time.UTC)
	ahead := hoursCall(time.Date(2126, 3, 1, 9, 0, 0, 0, time.UTC), "ann")
	events = slices.Insert(events, 100, ahead)
	events = append(events, hoursCall(hoursSunday, "ann"))
	for _, e := range events {
		e.ReceivedAt = e.OccurredAt + 1000
	}
	ahead.ReceivedAt = events[99].ReceivedAt + 1
	feedWant(t, feedQuiet(t, DefaultOffHours(), 7*24*time.Hour, events), "medium ann: active on Sunday 03:10")
}

func TestOffHoursSavedInTheMiddle(t *testing.T) {
	events := office("ann", 10, 8, 17, time.UTC)
	for i := range 40 {
		events = append(events, hoursCall(hoursSunday.Add(time.Duration(i)*15*time.Minute), "ann"))
	}
	feedSaved(t, DefaultOffHours(), hoursSorted(events))
}

func TestOffHoursHostile(t *testing.T) {
	cfg := DefaultOffHours()
	cfg.MaxGroups = 100
	if n := feedHostile(t, cfg, 300, nil); n != 0 {
		t.Errorf("%d findings", n)
	}
}

func TestHourProfileSpeaks(t *testing.T) {
	var p hourProfile
	for day := range int64(50) {
		if d := (day + 3) % 7; d < 5 {
			p.add(day, 0b1_1111_1111<<8, 1)
		}
	}
	for want, slot := range map[string]int{
		"in 50 active days never between 17:00 and 08:00":                           6*dayHours + 3,
		"in 50 active days never on a Sunday":                                       6*dayHours + 12,
		"in 50 active days about 7 times around this hour of a Monday":              12,
		"nine tenths of its activity between 08:00 and 17:00 UTC, Monday to Friday": -1,
	} {
		got := p.usual()
		if slot >= 0 {
			got = p.unusual(slot, 50)
		}
		if got != want {
			t.Errorf("slot %d: %q, want %q", slot, got, want)
		}
	}
	sum := 0.0
	for s := range weekHours {
		sum += p.share(s, profileOwnWeekday)
	}
	if sum < 0.98 || sum > 1.02 {
		t.Errorf("the shares add up to %v", sum)
	}
}
