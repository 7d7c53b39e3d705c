package query

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// source is a filter's text as the parser gets it, and the way back to the text
// as it was sent, for positions in messages.
type source struct {
	text        string
	quotes      []int // where in text a quote stands that was not sent, ascending
	lead        int   // white space before the filter, which the parser drops
	sent        int   // length of what was sent, in bytes
	parentheses int   // opening ones, outside of strings
}

// quoteNumbers puts quotes around every bare value that begins as a number
// does: 1.5s, 2026-11-20T09:00:00Z, 1.10 or 007. The parser would refuse the
// first two, and make other texts of the last two.
func quoteNumbers(filter string) source {
	s := source{lead: len(filter) - len(strings.TrimLeft(filter, " \t\r\n\v\f")), sent: len(filter)}
	var b strings.Builder
	quote := func() {
		s.quotes = append(s.quotes, b.Len())
		b.WriteByte('"')
	}
	compared := false // the last thing that was read is a comparator
	for i := 0; i < len(filter); {
		c := filter[i]
		end := i + 1
		switch {
		case c == '"' || c == '\'':
			for end < len(filter) && filter[end] != c {
				if filter[end] == '\\' {
					end++
				}
				end++
			}
			end = min(end+1, len(filter))
		case compared && beginsNumber(filter[i:]):
			for end < len(filter) && isBare(filter[end]) {
				end++
			}
			quote()
			b.WriteString(filter[i:end])
			quote()
			i, compared = end, false
			continue
		case c == '(':
			s.parentheses++
		}
		b.WriteString(filter[i:end])
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			compared = strings.IndexByte("=<>:", c) >= 0
		}
		i = end
	}
	s.text = b.String()
	return s
}

func beginsNumber(s string) bool {
	s = strings.TrimPrefix(s, "-")
	s = strings.TrimPrefix(s, ".")
	return s != "" && '0' <= s[0] && s[0] <= '9'
}

// isBare is what a number, a duration, a time or a version is written with.
func isBare(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte(".:+-_*", c) >= 0
}

// position is where the parser's offset is in what was sent, in bytes from 1.
func (s *source) position(offset int) int {
	offset += s.lead
	added, _ := slices.BinarySearch(s.quotes, offset)
	return min(offset-added, s.sent) + 1
}

// where is how the parser ends its messages: line and column, from 1.
var where = regexp.MustCompile(` \((\d+):(\d+)\)$`)

// parseError makes a parser's error ours. It nests a line for every rule of the
// grammar that it was in; the last one is the reason.
func (s *source) parseError(err error) error {
	text := strings.TrimSpace(err.Error())
	text = text[strings.LastIndexByte(text, '\n')+1:]
	f := &FilterError{}
	if at := where.FindStringSubmatch(text); at != nil {
		line, _ := strconv.Atoi(at[1])
		column, _ := strconv.Atoi(at[2])
		offset := 0
		rest := s.text[s.lead:]
		for ; line > 1; line-- {
			offset += strings.IndexByte(rest[offset:], '\n') + 1
		}
		for i := range rest[offset:] {
			if column--; column == 0 {
				offset += i
				break
			}
		}
		if column > 0 { // behind the end
			offset = len(rest)
		}
		f.Position = s.position(offset)
		text = strings.TrimSuffix(text, at[0])
	}
	if text = strings.TrimLeft(text, " ^"); text == "parse token" {
		text = "it ends too early"
	}
	f.Reason = text + `; write comparisons such as server = "files" AND outcome != "success"`
	return f
}
