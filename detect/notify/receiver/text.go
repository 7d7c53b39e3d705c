package receiver

import (
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// What a finding quotes was written by emitters and, through them, by whoever called a
// server: it is as long and as strange as they like. Nothing of it reaches a receiver
// but by the functions below.

// line makes one line of a text: valid UTF-8, without control characters, line breaks
// and those that are invisible or turn the direction of writing, at most most
// characters long. A text that is cut ends in "…".
func line(s string, most int) string { return clip(printable(s, most, false), most) }

// paragraph is like line, but keeps line breaks.
func paragraph(s string, most int) string { return clip(printable(s, most, true), most) }

// printable leaves out what can't be seen. It looks at no more than it takes to fill
// most characters.
func printable(s string, most int, breaks bool) string {
	var b strings.Builder
	space := true // no space at the start
	count := 0
	for i, r := range s {
		if count > most || i > 16*most+64 {
			break
		}
		switch {
		case r == '\n' && breaks:
			if b.Len() > 0 {
				b.WriteByte('\n')
				count++
			}
			space = true
			continue
		case r == utf8.RuneError:
			r = '\uFFFD'
		case unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs):
			continue
		case unicode.IsSpace(r), unicode.IsControl(r), r == '\u2028', r == '\u2029':
			if space {
				continue
			}
			r = ' '
		}
		b.WriteRune(r)
		count++
		space = r == ' '
	}
	return strings.TrimSpace(b.String())
}

// clip cuts valid UTF-8 after most characters.
func clip(s string, most int) string {
	n := 0
	cut := 0 // where most-1 characters end
	for i := range s {
		if n == most-1 {
			cut = i
		}
		if n++; n > most {
			return strings.TrimRight(s[:cut], " ") + "…"
		}
	}
	return s
}

// when is a time of a finding, which has microseconds since 1970.
func when(us int64) string { return time.UnixMicro(us).UTC().Format("2006-01-02 15:04:05 UTC") }

// mostLink is how long a link may be, in bytes; a button of Slack takes 3000.
const mostLink = 2048

// link is where more is to be seen, or empty when it is not a URL that can be followed.
func link(a *message.Alert) string {
	u, err := url.Parse(a.Link)
	if err != nil || len(a.Link) > mostLink || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return ""
	}
	return u.String()
}

// fact is one thing to know about a finding, in the order in which people ask.
type fact struct{ key, name, value string }

// facts are who, where and since when, what was seen and what is usual. What is not
// known is left out.
func facts(a *message.Alert) []fact {
	f := &a.Finding
	all := []fact{
		{"tenant", "Tenant", f.Tenant},
		{"principal", "Who", f.Principal},
		{"agent", "Agent", f.AgentID},
		{"server", "Where", f.Server},
		{"target", "What", f.Target},
		{"emitter", "Emitter", f.Emitter},
		{"since", "Since", when(f.StartedAt)},
		{"observed", "Observed", f.Observed},
		{"expected", "Expected", f.Expected},
	}
	out := all[:0]
	for _, x := range all {
		if x.value = line(x.value, 300); x.value != "" {
			out = append(out, x)
		}
	}
	return out
}

// headline says what has happened, in a few words that are ours but for who did it.
func headline(a *message.Alert) (words, by string) {
	switch by = line(a.By, 200); a.What {
	case message.Firing:
		return "New", ""
	case message.Worse:
		return "Worse now", ""
	case message.Acknowledged:
		return "Acknowledged", by
	case message.Resolved:
		if by == "" && a.Verdict == "" {
			return "Resolved by itself", ""
		}
		return strings.TrimSpace("Closed " + verdict(a)), by
	case message.Test:
		return "Test of this receiver, nothing has happened", ""
	}
	return "Changed", by
}

// verdict is how a finding was closed, such as "as false_positive".
func verdict(a *message.Alert) string {
	if v := line(a.Verdict, 60); v != "" {
		return "as " + v
	}
	return ""
}
