package detect

import (
	"fmt"
	"strconv"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// sayMost is how many bytes of a name a sentence has. Who keeps a name for one need not
// keep more.
const sayMost = 80

// sayName quotes what others named, for a sentence: it may be long, empty or
// hostile.
func sayName(s string) string {
	const most = sayMost
	if q := strconv.Quote(event.ClipText(s, most)); len(q) <= most+most/2 {
		return q
	}
	return strconv.Quote(event.ClipText(s, most/5)) // each byte of it takes four or more
}

// sayNames quotes at most four names and counts the others.
func sayNames(names []string) string {
	const most = 4
	s := ""
	for i, n := range names {
		if i == most {
			return s + fmt.Sprintf(" and %d more", len(names)-most)
		}
		if i > 0 {
			s += ", "
		}
		s += sayName(n)
	}
	return s
}

// farApart reports whether two times, µs, are more than span apart. Events may come
// in any order, and from clocks that are years off.
func farApart(a, b, span int64) bool { return a-b > span || b-a > span }

// saySpan is a time span as people say it: two units at most.
func saySpan(micros int64) string {
	micros = max(micros, -micros, 0)
	s := micros / 1e6
	two := func(big, per int64, bigUnit, unit string) string {
		if small := s / per % (big / per); small > 0 {
			return fmt.Sprintf("%d %s %d %s", s/big, bigUnit, small, unit)
		}
		return fmt.Sprintf("%d %s", s/big, bigUnit)
	}
	switch {
	case micros < 1e6:
		return fmt.Sprintf("%d ms", micros/1e3)
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return two(60, 1, "min", "s")
	case s < 86400:
		return two(3600, 60, "h", "min")
	}
	return two(86400, 3600, "d", "h")
}

// sayTime is a moment, to the minute, in UTC.
func sayTime(micros int64) string {
	return time.UnixMicro(micros).UTC().Format("2006-01-02 15:04") + " UTC"
}

// sayBytes is a size with three digits or so, in powers of 1024.
func sayBytes(n float64) string {
	for _, u := range []string{"bytes", "KiB", "MiB", "GiB", "TiB"} {
		if n < 1024 {
			if u == "bytes" || n >= 100 {
				return fmt.Sprintf("%.0f %s", n, u)
			}
			return fmt.Sprintf("%.1f %s", n, u)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.0f PiB", n)
}

// sayCount is a number and what is counted: "1 call", "3 calls".
func sayCount(n uint64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if s, ok := map[string]string{"identity": "identities", "class": "classes", "address": "addresses"}[one]; ok {
		return fmt.Sprintf("%d %s", n, s)
	}
	return fmt.Sprintf("%d %ss", n, one)
}
