package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
	"golang.org/x/text/width"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// screen is a stream that a command prints to, and what may be done there.
type screen struct {
	io.Writer
	terminal bool
	width    int // of the terminal, in columns; 0 when it is none
	colour   bool
}

// screen looks at a stream. Colour is for terminals, unless --color, NO_COLOR
// (https://no-color.org) or a dumb terminal says otherwise.
func (s *surroundings) screen(w io.Writer) screen {
	out := screen{Writer: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		out.terminal, out.width = true, 80
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			out.width = columns
		}
	}
	switch s.colour {
	case "always":
		out.colour = true
	case "never":
	default:
		out.colour = out.terminal && s.env("NO_COLOR") == "" && s.env("TERM") != "dumb"
	}
	return out
}

// style is how a text looks, as the parameters of a terminal's SGR sequence
// (ECMA-48, section 8.3.117).
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
	alarm  style = "1;31"
)

func (c screen) paint(look style, text string) string {
	if !c.colour || look == plain || text == "" {
		return text
	}
	return "\x1b[" + string(look) + "m" + text + "\x1b[0m"
}

// outcomeStyle is the colour of a call's end.
func outcomeStyle(outcome string) style {
	switch outcome {
	case "success":
		return green
	case "denied":
		return alarm
	case "tool_error", "protocol_error", "timeout":
		return red
	}
	return yellow
}

// printable keeps a text on its line, harmless to a terminal and at most so many
// columns wide. What events hold was written by others: it may try to move the
// cursor, turn the direction of writing or hide.
func printable(s string, most int) string {
	var b strings.Builder
	taken, fits := 0, 0 // columns; bytes behind which there is room for an ellipsis
	for _, r := range s {
		if unseen(r) {
			r = ' '
		}
		w := columnsOf(r)
		// Combining marks take no room: they are bounded by bytes.
		if taken+w > most || b.Len() > 16*most {
			return b.String()[:fits] + "…"
		}
		taken += w
		b.WriteRune(r)
		if taken < most {
			fits = b.Len()
		}
	}
	return b.String()
}

// unseen says whether a rune controls how others are shown or where: control
// characters, the invisible format characters, separators of lines.
func unseen(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// columnsOf is how many columns of a terminal a rune takes (Unicode Standard
// Annex #11).
func columnsOf(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// textWidth is how many columns a printable text takes.
func textWidth(s string) int {
	n := 0
	for _, r := range s {
		n += columnsOf(r)
	}
	return n
}

// compactJSON is a message as one line of JSON with the proto's own names. What
// a terminal would obey or hide is escaped; a program reads the same text.
func compactJSON(m proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil { // protojson varies its white space on purpose
		return nil, err
	}
	return visible(b.Bytes()), nil
}

// writeJSON prints a message as one line of JSON.
func writeJSON(w io.Writer, m proto.Message) error {
	line, err := compactJSON(m)
	if err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// visible escapes, in a JSON text, the runes that don't show. Outside of its
// strings a JSON text has none of them but white space, which stays.
func visible(text []byte) []byte {
	hidden := func(r rune) bool { return r >= 0x7f && unseen(r) }
	if bytes.IndexFunc(text, hidden) < 0 {
		return text
	}
	out := make([]byte, 0, len(text)+64)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case !hidden(r):
			out = append(out, text[:n]...)
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return out
}
