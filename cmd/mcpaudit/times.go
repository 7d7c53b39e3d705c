package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// period is what --since and --until name.
type period struct{ since, until string }

const momentForms = "a duration back from now such as 90m, 24h or 7d, a day such as 2026-11-20, or a time such as 2026-11-20T09:00:00Z"

// periodFlags adds --since and --until.
func periodFlags(cmd *cobra.Command) *period {
	p := &period{}
	cmd.Flags().StringVar(&p.since, "since", "", "only what occurred since then: a duration back from now, such as 24h, a day or a time (RFC 3339)")
	cmd.Flags().StringVar(&p.until, "until", "", "only what occurred before then, named like --since")
	completeWords(cmd, "since", "15m", "1h", "24h", "7d", "30d")
	completeWords(cmd, "until", "15m", "1h", "24h", "7d", "30d")
	return p
}

// bounds are the times that the flags name; a zero one is not set.
func (p *period) bounds(now time.Time) (from, to time.Time, err error) {
	if from, err = moment("--since", p.since, now); err != nil {
		return
	}
	if to, err = moment("--until", p.until, now); err != nil {
		return
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		err = fmt.Errorf("--since %s is not before --until %s", p.since, p.until)
	}
	return from, to, err
}

// narrow adds the period to a filter, behind it, so that positions in messages
// are those of what was typed. AND binds less than all else in a filter.
func (p *period) narrow(filter string, now time.Time) (string, error) {
	from, to, err := p.bounds(now)
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(filter) == "" {
		filter = ""
	}
	for _, bound := range []struct {
		op string
		at time.Time
	}{{">=", from}, {"<", to}} {
		if bound.at.IsZero() {
			continue
		}
		if filter != "" {
			filter += " AND "
		}
		filter += fmt.Sprintf("occurred_at %s %q", bound.op, bound.at.UTC().Format(time.RFC3339Nano))
	}
	return filter, nil
}

// moment reads a time, a day in the zone of now, or a duration back from now. No
// duration at all, "0", is as if nothing was said.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" || text == "0" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, now.Location()); err == nil {
		return t, nil
	}
	if d, err := length(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%s is %q; name %s", flag, text, momentForms)
}

// length is time.ParseDuration that knows days of 24 hours, such as 7d.
func length(text string) (time.Duration, error) {
	days, rest, found := strings.Cut(text, "d")
	if !found {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, err
	}
	d := time.Duration(n) * 24 * time.Hour
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil {
			return 0, err
		}
		d += more
	}
	return d, nil
}

// clock writes times in the zone of the person who reads them. A heading names
// the zone as it is now; a time at which it was another one names its own.
type clock struct {
	now  time.Time
	zone string
}

func (s *surroundings) clock() clock {
	now := s.now()
	return clock{now, now.Format("MST")}
}

func (c clock) head(name string) string { return name + " (" + c.zone + ")" }

// text is a time to the millisecond.
func (c clock) text(at *timestamppb.Timestamp) string {
	if at == nil {
		return ""
	}
	return c.format(at.AsTime(), "15:04:05.000")
}

// second is a time to the second.
func (c clock) second(t time.Time) string { return c.format(t, time.TimeOnly) }

func (c clock) format(t time.Time, form string) string {
	t = t.In(c.now.Location())
	day := "01-02 "
	if t.Year() != c.now.Year() {
		day = "2006-01-02 "
	}
	if t.Format("MST") != c.zone {
		form += " MST"
	}
	return t.Format(day + form)
}

// ago is how long a time is past, as people say it.
func (c clock) ago(at *timestamppb.Timestamp) string {
	if at == nil {
		return "never"
	}
	d := c.now.Sub(at.AsTime())
	if d < 0 {
		return "in " + roughly(-d)
	}
	return roughly(d) + " ago"
}

func roughly(d time.Duration) string {
	switch {
	case d < time.Second:
		return "less than 1s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// took is a duration as short as it can be read.
func took(d time.Duration) string {
	switch abs := d.Abs(); {
	case abs >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case abs >= time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}
