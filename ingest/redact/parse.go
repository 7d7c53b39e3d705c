package redact

import (
	"unicode/utf8"
)

// maxDepth bounds nesting, so that neither this parser nor a reader of its
// output can be driven into deep recursion.
const maxDepth = 128

// span is a part of a text.
type span struct{ lo, hi int32 }

// text is a decoded string: a part of the source when it had no escapes, else
// of the arena.
type text struct {
	span
	arena bool
}

// node is one JSON value. The children of an object or array follow it in the
// node list; next is the index behind its last descendant.
type node struct {
	kind  byte // '{', '[', '"', '0' (number), 't', 'f', 'n'
	keyed bool // a member of an object: key is set
	key   text
	val   text // of a string: decoded; of others: the source bytes
	next  int32
}

// document is a parsed JSON text. It borrows the source.
type document struct {
	src   []byte
	arena []byte
	nodes []node
	// damaged is set when a string held invalid UTF-8 or a lone surrogate,
	// which are read as U+FFFD, the way lenient servers read them.
	damaged   bool
	duplicate bool // set by canonical: an object had one key twice
	most      int  // values that are read, 0 for any number
	tooMany   bool // there were more
}

func (d *document) bytes(t text) []byte {
	if t.arena {
		return d.arena[t.lo:t.hi]
	}
	return d.src[t.lo:t.hi]
}

// parse reads src as one JSON text (RFC 8259) and nothing else. It reports
// false for anything that is not, for nesting beyond maxDepth and for more than
// 1 GiB.
func (d *document) parse(src []byte) bool {
	d.src, d.arena, d.nodes = src, d.arena[:0], d.nodes[:0]
	d.damaged, d.duplicate, d.tooMany = false, false, false
	if len(src) > 1<<30 {
		return false
	}
	at := d.value(skipSpace(src, 0), 0, text{}, false)
	return at >= 0 && skipSpace(src, at) == len(src)
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// value reads the value at i and returns the index behind it, or -1.
func (d *document) value(i, depth int, key text, keyed bool) int {
	if i >= len(d.src) || depth > maxDepth {
		return -1
	}
	at := len(d.nodes)
	if d.most > 0 && at >= d.most {
		d.tooMany = true
		return -1
	}
	start := i
	c := d.src[i]
	d.nodes = append(d.nodes, node{kind: c, key: key, keyed: keyed})
	switch {
	case c == '{':
		i = d.object(i+1, depth)
	case c == '[':
		i = d.array(i+1, depth)
	case c == '"':
		var t text
		t, i = d.str(i + 1)
		d.nodes[at].val = t
	case c == '-' || c >= '0' && c <= '9':
		d.nodes[at].kind = '0'
		i = number(d.src, i)
	case c == 't':
		i = literal(d.src, i, "true")
	case c == 'f':
		i = literal(d.src, i, "false")
	case c == 'n':
		i = literal(d.src, i, "null")
	default:
		return -1
	}
	if i < 0 {
		return -1
	}
	if c != '"' {
		d.nodes[at].val = text{span: span{int32(start), int32(i)}}
	}
	d.nodes[at].next = int32(len(d.nodes))
	return i
}

func (d *document) object(i, depth int) int {
	b := d.src
	i = skipSpace(b, i)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return -1
		}
		key, at := d.str(i + 1)
		if at < 0 {
			return -1
		}
		i = skipSpace(b, at)
		if i >= len(b) || b[i] != ':' {
			return -1
		}
		if i = d.value(skipSpace(b, i+1), depth+1, key, true); i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		if i >= len(b) {
			return -1
		}
		switch b[i] {
		case '}':
			return i + 1
		case ',':
			i = skipSpace(b, i+1)
		default:
			return -1
		}
	}
}

func (d *document) array(i, depth int) int {
	b := d.src
	i = skipSpace(b, i)
	if i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i = d.value(i, depth+1, text{}, false); i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		if i >= len(b) {
			return -1
		}
		switch b[i] {
		case ']':
			return i + 1
		case ',':
			i = skipSpace(b, i+1)
		default:
			return -1
		}
	}
}

// plain marks the bytes that a string holds as they are.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// str reads a string from behind its opening quote.
func (d *document) str(i int) (text, int) {
	b := d.src
	start := i
	for i < len(b) && plain[b[i]] {
		i++
	}
	high := false
	for i < len(b) && (plain[b[i]] || b[i] >= 0x80) {
		high = high || b[i] >= 0x80
		i++
	}
	if i < len(b) && b[i] == '"' && (!high || utf8.Valid(b[start:i])) {
		return text{span: span{int32(start), int32(i)}}, i + 1
	}
	return d.escaped(start)
}

// escaped decodes a string with escapes, or with invalid UTF-8, into the arena.
func (d *document) escaped(i int) (text, int) {
	b := d.src
	from := len(d.arena)
	for i < len(b) {
		c := b[i]
		switch {
		case c == '"':
			return text{span{int32(from), int32(len(d.arena))}, true}, i + 1
		case c == '\\':
			if i+1 >= len(b) {
				return text{}, -1
			}
			i += 2
			switch e := b[i-1]; e {
			case '"', '\\', '/':
				d.arena = append(d.arena, e)
			case 'b':
				d.arena = append(d.arena, '\b')
			case 'f':
				d.arena = append(d.arena, '\f')
			case 'n':
				d.arena = append(d.arena, '\n')
			case 'r':
				d.arena = append(d.arena, '\r')
			case 't':
				d.arena = append(d.arena, '\t')
			case 'u':
				r, ok := hex4(b, i)
				if !ok {
					return text{}, -1
				}
				i += 4
				if r >= 0xD800 && r < 0xDC00 && i+6 <= len(b) && b[i] == '\\' && b[i+1] == 'u' {
					if low, ok := hex4(b, i+2); ok && low >= 0xDC00 && low < 0xE000 {
						r = 0x10000 + (r-0xD800)<<10 + (low - 0xDC00)
						i += 6
					}
				}
				if r >= 0xD800 && r < 0xE000 {
					r, d.damaged = utf8.RuneError, true
				}
				d.arena = utf8.AppendRune(d.arena, r)
			default:
				return text{}, -1
			}
		case c < 0x20:
			return text{}, -1
		case c < 0x80:
			d.arena = append(d.arena, c)
			i++
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n <= 1 {
				d.damaged = true
			}
			d.arena = utf8.AppendRune(d.arena, r)
			i += n
		}
	}
	return text{}, -1
}

func hex4(b []byte, i int) (rune, bool) {
	if i+4 > len(b) {
		return 0, false
	}
	r := rune(0)
	for _, c := range b[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func literal(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

// number reads a number of RFC 8259, section 6.
func number(b []byte, i int) int {
	digits := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return -1
		}
	}
	return i
}

// appendString writes s as a JSON string with the escapes of RFC 8785, section
// 3.2.2.2, which are also the shortest ones.
func appendString(out, s []byte) []byte {
	const digits = "0123456789abcdef"
	out = append(out, '"')
	from := 0
	for i, c := range s {
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		out = append(out, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, '\\', 'b')
		case '\t':
			out = append(out, '\\', 't')
		case '\n':
			out = append(out, '\\', 'n')
		case '\f':
			out = append(out, '\\', 'f')
		case '\r':
			out = append(out, '\\', 'r')
		default:
			out = append(out, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	out = append(out, s[from:]...)
	return append(out, '"')
}
