package detect

import "math/bits"

// silenceNorm is how regularly somebody sends: the longest pauses of the last two
// weeks, and in which hours of the week there was something. All times are µs of the
// engine's clock.
type silenceNorm struct {
	First, Last int64
	Events      uint32
	Day         int32
	Pauses      [silenceDays]uint32 // s, the longest that ended on each of the last days
	Week        int32
	Hours       [7 * 24]uint8 // bit n: something in this hour of the week n weeks ago
	// What fades within months: the most usual hours that a pause has taken, and the
	// longest pause of one who has nights, s.
	Missed uint16
	Free   uint32
}

const (
	silenceDays   = 14
	silenceLeast  = 24 * microsPerHour // a sender that is known for less has no habits
	silenceEvents = 100
	silenceHours  = 12 // usual hours without an event are remarkable, or twice as many as ever
	silenceWeek   = 7 * 24 * microsPerHour
	silenceNight  = 3 * 3600  // s: who pauses so long has nights,
	silenceFree   = 80 * 3600 // and a weekend that the first days did not show
)

// heard takes an event.
func (n *silenceNorm) heard(clock int64) {
	if n.Events == 0 {
		n.First, n.Last = clock, clock
		n.Day, n.Week = int32(clock/microsPerDay), int32(clock/silenceWeek)
	}
	if n.Events < 1<<31 {
		n.Events++
	}
	pause := clock - n.Last
	if pause < 0 {
		return
	}
	if pause > microsPerHour {
		usual, _ := n.usualHours(n.Last, clock, 1<<15)
		n.Missed = max(n.Missed, uint16(usual))
		if n.longest() >= silenceNight {
			n.Free = max(n.Free, uint32(min(pause/1e6, 1<<31)))
		}
	}
	day, week := int32(clock/microsPerDay), int32(clock/silenceWeek)
	if day-n.Day >= silenceDays {
		n.Pauses = [silenceDays]uint32{}
		n.Day = day
	}
	for n.Day < day {
		n.Day++
		n.Pauses[n.Day%silenceDays] = 0
	}
	if at := &n.Pauses[day%silenceDays]; pause > int64(*at)*1e6 {
		*at = uint32(min(pause/1e6, 1<<31))
	}
	if by := week - n.Week; by > 0 {
		for h := range n.Hours {
			n.Hours[h] <<= min(by, 8)
		}
		for range min(by, 52) {
			n.Missed, n.Free = n.Missed-(n.Missed+7)/8, n.Free-n.Free/8
		}
		n.Week = week
	}
	n.Hours[clock/microsPerHour%(7*24)] |= 1
	n.Last = clock
}

// longest is the longest usual pause, s. One outage in two weeks is not usual, where
// most days had events.
func (n *silenceNorm) longest() int64 {
	a, b, days := uint32(0), uint32(0), 0
	for _, p := range n.Pauses {
		if p > 0 {
			days++
		}
		if p > a {
			a, b = p, a
		} else {
			b = max(b, p)
		}
	}
	if n.Last-n.First > (silenceDays+1)*microsPerDay && days > silenceDays/2 {
		return int64(b)
	}
	return int64(a)
}

// usualHours counts the hours after from, until to, that had an event in three of
// the four weeks before that of the last event, and when the nth of them ends.
func (n *silenceNorm) usualHours(from, to int64, nth int) (count int, at int64) {
	for h := from/microsPerHour + 1; (h+1)*microsPerHour <= to && count < nth; h++ {
		if bits.OnesCount8(n.Hours[h%(7*24)]>>1&15) >= 3 {
			count++
			at = (h + 1) * microsPerHour
		}
	}
	return count, at
}

// due is when the silence since the last event becomes remarkable, 0 for never. By
// habit, it is because hours pass that usually have something.
func (n *silenceNorm) due(least int64, factor float64) (at int64, habit bool) {
	if n.Events < silenceEvents || n.Last-n.First < silenceLeast {
		return 0, false
	}
	s := n.longest()
	wait := int64(factor * float64(s) * 1e6)
	if s >= silenceNight {
		wait = max(wait, int64(n.Free)*15e5) // half as long again as what turned out to be nothing
		if n.Last-n.First < 8*microsPerDay {
			wait = max(wait, silenceFree*1e6)
		}
	}
	at = n.Last + max(least, wait)
	if need := max(silenceHours, 2*int(n.Missed)); n.Last-n.First > 4*silenceWeek {
		if count, usual := n.usualHours(n.Last, at, need); count == need && usual < at {
			return usual, true
		}
	}
	return at, false
}
