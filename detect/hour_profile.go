package detect

import (
	"fmt"
	"math"
	"time"
)

const (
	microsPerHour     = int64(time.Hour / time.Microsecond)
	weekHours         = 168
	dayHours          = 24
	profileOneOff     = 0.2  // share of a slot's weight that the smoothing gives to each neighbour
	profileTwoOff     = 0.05 // and to each one after that
	profileOwnWeekday = 0.2  // share of the estimate that comes from the same weekday alone
)

// hourProfile says in which of the 168 hours of the UTC week somebody is active.
// What is counted are days, not calls: a slot gets 1 for every day with activity in
// it, however much. Nothing asks for a time zone: whoever works from nine to five in
// Tokyo has a profile that says so. Slot 0 is Monday 00:00 to 01:00 UTC.
type hourProfile struct {
	Slots [weekHours]float32
	Total float32
}

// weekSlot is the slot of an hour that is counted from 1970-01-01 00:00 UTC, a
// Thursday.
func weekSlot(hour int64) int { return int((hour + 3*dayHours) % weekHours) }

// fade makes all that is known weigh less.
func (p *hourProfile) fade(by float32) {
	for i := range p.Slots {
		p.Slots[i] *= by
	}
	p.Total *= by
}

// add counts the hours of one day, a bit for each, with the given weight in each.
// Day is counted from 1970-01-01.
func (p *hourProfile) add(day int64, hours uint32, weight float32) {
	from := weekSlot(day * dayHours)
	for h := range dayHours {
		if hours>>h&1 != 0 {
			p.Slots[from+h] += weight
			p.Total += weight
		}
	}
}

// near is a slot's weight, smoothed over two hours to each side: people are early
// and late, and summer time moves them by one hour.
func (p *hourProfile) near(slot int) float64 {
	at := func(i int) float64 { return float64(p.Slots[(i+weekHours)%weekHours]) }
	return (1-2*profileOneOff-2*profileTwoOff)*at(slot) + profileOneOff*(at(slot-1)+at(slot+1)) + profileTwoOff*(at(slot-2)+at(slot+2))
}

// share is the probability that an active hour is this slot. It mixes what the slot
// itself says, which needs months to say anything, with the hour of the day on all
// weekdays times the weekday, the latter with a prior of one active hour for each
// (Laplace's rule), so that one Saturday at the desk is not a sensation.
func (p *hourProfile) share(slot int, week float64) float64 {
	if p.Total <= 0 {
		return 0
	}
	total := float64(p.Total)
	var hour, weekday float64
	for d := range 7 {
		hour += p.near((slot + d*dayHours) % weekHours)
	}
	from := slot / dayHours * dayHours
	for h := range dayHours {
		weekday += float64(p.Slots[from+h])
	}
	return week*p.near(slot)/total + (1-week)*hour/total*(weekday+1)/(total+7)
}

// onHour is the weight of an hour of the day over all weekdays.
func (p *hourProfile) onHour(h int) float64 {
	n := 0.0
	for d := range 7 {
		n += float64(p.Slots[d*dayHours+h])
	}
	return n
}

// onWeekday is the weight of a weekday, Monday being 0.
func (p *hourProfile) onWeekday(d int) float64 {
	n := 0.0
	for h := range dayHours {
		n += float64(p.Slots[d*dayHours+h])
	}
	return n
}

// profileNever is the weight below which a slot counts as never used: a day fades to it in
// four half-lives.
const profileNever = 0.06

// usual says in words when somebody is active: the shortest part of the day, and of
// the week where there is one, that has nine tenths of it.
func (p *hourProfile) usual() string {
	if p.Total <= 0 {
		return "nothing is known yet"
	}
	var hours [dayHours]float64
	for h := range hours {
		hours[h] = p.onHour(h)
	}
	from, length := 0, dayHours
	for start := range dayHours {
		sum := 0.0
		for n := 1; n < length; n++ {
			if sum += hours[(start+n-1)%dayHours]; sum >= 0.9*float64(p.Total) {
				from, length = start, n
			}
		}
	}
	text := fmt.Sprintf("nine tenths of its activity between %02d:00 and %02d:00 UTC", from, (from+length)%dayHours)
	if length >= dayHours-3 {
		text = "active around the clock"
	}
	if p.onWeekday(5)+p.onWeekday(6) < 0.02*float64(p.Total) {
		text += ", Monday to Friday"
	}
	return text
}

// unusual says in words what is known of a slot: how long the empty part of the day
// around it is, or how often it was used.
func (p *hourProfile) unusual(slot, days int) string {
	h, d := slot%dayHours, slot/dayHours
	if p.onHour(h) < profileNever {
		from, to := h, h+1
		for to-from < dayHours && p.onHour((from+dayHours-1)%dayHours) < profileNever {
			from--
		}
		for to-from < dayHours && p.onHour(to%dayHours) < profileNever {
			to++
		}
		return fmt.Sprintf("in %d active days never between %02d:00 and %02d:00", days, (from+dayHours)%dayHours, to%dayHours)
	}
	if p.onWeekday(d) < profileNever {
		return fmt.Sprintf("in %d active days never on a %s", days, weekdayName(d))
	}
	return fmt.Sprintf("in %d active days %s around this hour of a %s", days, someTimes(p.near(slot)), weekdayName(d))
}

// someTimes is a number of times that is not known exactly.
func someTimes(n float64) string {
	switch n = math.Round(n); n {
	case 0:
		return "hardly ever"
	case 1:
		return "about once"
	case 2:
		return "about twice"
	}
	return fmt.Sprintf("about %.0f times", n)
}

// weekdayName names a day of the week, Monday being 0.
func weekdayName(d int) string { return time.Weekday((d + 1) % 7).String() }
