package detect

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/alertmanager/timeinterval"
)

// CalendarInterval is a time interval as Alertmanager's time_intervals have it
// (https://prometheus.io/docs/alerting/latest/configuration/#time_interval): what is
// named must all hold, what is not named holds always. Without a location, times are
// UTC.
type CalendarInterval struct {
	Times       []CalendarTimes `key:"times" json:"times,omitempty" doc:"times of the day; no time range passes midnight"`
	Weekdays    []string        `key:"weekdays" json:"weekdays,omitempty" doc:"such as 'monday:friday'"`
	DaysOfMonth []string        `key:"days_of_month" json:"days_of_month,omitempty" doc:"such as '24:26'; -1 is the last"`
	Months      []string        `key:"months" json:"months,omitempty" doc:"such as 'december' or '1:3'"`
	Years       []string        `key:"years" json:"years,omitempty" doc:"such as '2026' or '2026:2028'"`
	Location    string          `key:"location" json:"location,omitempty" doc:"name in the IANA time zone database, such as Europe/Berlin; UTC when left out"`
}

// CalendarTimes is a part of a day, from start_time until before end_time.
type CalendarTimes struct {
	StartTime string `key:"start_time" json:"start_time" doc:"such as '09:00'"`
	EndTime   string `key:"end_time" json:"end_time" doc:"such as '17:30', at most '24:00'"`
}

// calendar says when people are expected to work.
type calendar struct {
	open, closed []timeinterval.TimeInterval
	location     *time.Location // for the reasons of findings
}

// newCalendar reads business hours and holidays; it is nil when there are neither.
func newCalendar(hours, holidays []CalendarInterval) (*calendar, error) {
	if len(hours)+len(holidays) == 0 {
		return nil, nil
	}
	c := &calendar{location: time.UTC}
	read := func(key string, from []CalendarInterval) ([]timeinterval.TimeInterval, error) {
		var all []timeinterval.TimeInterval
		for n, f := range from {
			i, err := f.parse()
			if err != nil {
				return nil, fmt.Errorf("%s: entry %d: %w", key, n+1, err)
			}
			if i.Location != nil && c.location == time.UTC {
				c.location = i.Location.Location
			}
			all = append(all, i)
		}
		return all, nil
	}
	var err error
	if c.open, err = read("business_hours", hours); err != nil {
		return nil, err
	}
	if c.closed, err = read("holidays", holidays); err != nil {
		return nil, err
	}
	return c, nil
}

// parse gives the interval to Alertmanager's own reader.
func (f CalendarInterval) parse() (i timeinterval.TimeInterval, err error) {
	text, err := json.Marshal(f)
	if err != nil {
		return i, fmt.Errorf("write it as JSON: %w", err)
	}
	if string(text) == "{}" {
		return i, errors.New("is empty, and would be all of the time; name times, weekdays, days_of_month, months or years")
	}
	return i, json.Unmarshal(text, &i)
}

// outside says whether nobody is expected to work at a time, and why. A nil calendar
// expects people at any time.
func (c *calendar) outside(at int64) (why string) {
	if c == nil {
		return ""
	}
	t := time.UnixMicro(at).UTC()
	for _, i := range c.closed {
		if i.ContainsTime(t) {
			return "on a holiday"
		}
	}
	for _, i := range c.open {
		if i.ContainsTime(t) {
			return ""
		}
	}
	if len(c.open) == 0 {
		return ""
	}
	return "outside of business hours"
}
