package query

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.einride.tech/aip/filtering"
)

// source is a filter's text as the parser gets it, and the way back to the text
// as it was sent, for positions in messages.
type source struct {
	text        string
	quotes      []int  // where in text a quote stands that was not sent, ascending
	lead        int    // white space before the filter, which the parser drops
	sent        string // as it was sent
	parentheses int    // opening ones, outside of strings
}

// quoteNumbers puts quotes around every bare value that begins as a number
// does: 1.5s, 2026-11-20T09:00:00Z, 1.10 or 007. The parser would refuse the
// first two, and make other texts of the last two.
//
// It reads with the parser's own lexer, so that both see the same parentheses: a
// quote inside a word, for one, begins no string.
func quoteNumbers(filter string) source {
	s := source{lead: len(filter) - len(strings.TrimLeftFunc(filter, unicode.IsSpace)), sent: filter}
	var b strings.Builder
	quote := func() {
		s.quotes = append(s.quotes, b.Len())
		b.WriteByte('"')
	}
	var lexer filtering.Lexer
	compared := false // the last thing that was read is a comparator
	for i := 0; i < len(filter); {
		if compared && beginsNumber(filter[i:]) {
			end := i + 1
			for end < len(filter) && isBare(filter[end]) {
				end++
			}
			quote()
			b.WriteString(filter[i:end])
			quote()
			i, compared = end, false
			continue
		}
		lexer.Init(filter[i:])
		token, err := lexer.Lex()
		if err != nil { // the parser finds it too, and says where
			b.WriteString(filter[i:])
			break
		}
		b.WriteString(token.Value)
		i += len(token.Value)
		switch {
		case token.Type == filtering.TokenTypeLeftParen:
			s.parentheses++
			compared = false
		case token.Type != filtering.TokenTypeWhitespace:
			compared = token.Type.IsComparator()
		}
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

// position is where the parser's offset, in bytes, is in what was sent, in
// characters from 1.
func (s *source) position(offset int) int {
	offset += s.lead
	added, _ := slices.BinarySearch(s.quotes, offset)
	return utf8.RuneCountInString(s.sent[:min(offset-added, len(s.sent))]) + 1
}

// where is how the parser ends its messages: line and column, from 1.
var where = regexp.MustCompile(` \((\d+):(\d+)\)$`)

// parseError makes a parser's error ours. It nests a line for every rule of the
// grammar that it was in; the last one is the reason. example is a filter as it
// should be.
func (s *source) parseError(err error, example string) error {
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
	f.Reason = text + "; write comparisons such as " + example
	return f
}
