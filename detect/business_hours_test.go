package detect

import (
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests name time zones, also where the system has none

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// berlinOffice is Monday to Friday from nine to five in Berlin, but Christmas.
func berlinOffice() *OffHours {
	c := DefaultOffHours()
	c.BusinessHours = []CalendarInterval{{
		Weekdays: []string{"monday:friday"}, Times: []CalendarTimes{{"09:00", "17:00"}}, Location: "Europe/Berlin",
	}}
	c.Holidays = []CalendarInterval{{DaysOfMonth: []string{"24:26"}, Months: []string{"december"}, Location: "Europe/Berlin"}}
	return c
}

func TestBusinessHours(t *testing.T) {
	c := berlinOffice()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	cal, err := newCalendar(c.BusinessHours, c.Holidays)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		"2026-03-27T08:00:00Z": "", // Friday, 09:00, winter
		"2026-03-27T07:59:00Z": "outside of business hours",
		"2026-03-30T07:00:00Z": "", // Monday, 09:00, summer
		"2026-03-30T15:00:00Z": "outside of business hours",
		"2026-03-28T10:00:00Z": "outside of business hours", // Saturday
		"2026-12-24T10:00:00Z": "on a holiday",
		"2026-12-23T23:30:00Z": "on a holiday", // already the 24th in Berlin
	} {
		x, _ := time.Parse(time.RFC3339, at)
		if got := cal.outside(x.UnixMicro()); got != want {
			t.Errorf("%s: %q, want %q", at, got, want)
		}
	}
}

func TestBusinessHoursThatAreWrong(t *testing.T) {
	for want, i := range map[string]CalendarInterval{
		"business_hours: entry 1: is empty":                      {},
		"business_hours: entry 1: tooday is not a valid weekday": {Weekdays: []string{"tooday"}},
		"business_hours: entry 1: unknown time zone Atlantis":    {Weekdays: []string{"monday"}, Location: "Atlantis"},
		"business_hours: entry 1: couldn't parse timestamp 9":    {Times: []CalendarTimes{{"9", "17:00"}}},
	} {
		c := DefaultOffHours()
		c.BusinessHours = []CalendarInterval{i}
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestOffHoursWithACalendarTellsEarlier(t *testing.T) {
	c := berlinOffice()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	// After two weeks the hours alone would not be judged.
	ann := func(at ...time.Time) []*event.Event {
		events := office("ann", 2, 8, 16, time.UTC)
		for _, at := range at {
			events = append(events, hoursCall(at, "ann"))
		}
		return events
	}
	night := time.Date(2026, 1, 20, 1, 30, 0, 0, time.UTC)
	feedWant(t, feedQuiet(t, c, 7*24*time.Hour, ann(night)),
		"medium ann: active on Tuesday 01:30 UTC (02:30 CET, outside of business hours); in 10 active days never between 16:00 and 08:00")
	feedWant(t, feedQuiet(t, DefaultOffHours(), 7*24*time.Hour, ann(night)))

	// Who is used to work in the evening does not become a finding by the calendar.
	late := office("late", 12, 16, 23, time.UTC)
	feedWant(t, feedQuiet(t, c, 7*24*time.Hour, hoursSorted(slices.Concat(late, office("ann", 12, 8, 16, time.UTC)))))

	// A holiday is outside, but an hour in which she works anyway is not rare for her.
	feedWant(t, feedQuiet(t, c, 7*24*time.Hour, ann(time.Date(2026, 12, 25, 10, 0, 0, 0, time.UTC))))
}
