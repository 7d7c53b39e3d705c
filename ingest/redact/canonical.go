package redact

import (
	"bytes"
	"slices"
	"strconv"
	"unicode/utf8"
)

// canonicalizer writes the canonical form of a document (RFC 8785) and its
// shape in one walk, because both need the members in the same order.
//
// Two things lie outside the RFC, which knows I-JSON alone: of equal keys each
// member is kept, in the order of the source; and a number beyond the range of
// a double is written as it stood.
type canonicalizer struct {
	json  []byte // canonical JSON
	shape []byte // keys and types alone; equal neighbours in an array once
	order []int32
}

func (c *canonicalizer) walk(d *document, at int32) {
	n := &d.nodes[at]
	switch n.kind {
	case '{':
		c.object(d, at)
	case '[':
		c.array(d, at)
	case '"':
		if n.val.arena {
			c.json = appendString(c.json, d.bytes(n.val))
		} else { // without escapes the source is canonical
			c.json = append(c.json, d.src[n.val.lo-1:n.val.hi+1]...)
		}
		c.shape = append(c.shape, 's')
	case '0':
		c.json = appendNumber(c.json, d.bytes(n.val))
		c.shape = append(c.shape, 'd')
	case 'n':
		c.json = append(c.json, "null"...)
		c.shape = append(c.shape, 'n')
	default:
		c.json = append(c.json, d.bytes(n.val)...)
		c.shape = append(c.shape, 'b')
	}
}

func (c *canonicalizer) object(d *document, at int32) {
	from := len(c.order)
	sorted := true
	for i := at + 1; i < d.nodes[at].next; i = d.nodes[i].next {
		if sorted && len(c.order) > from {
			sorted = compareUTF16(d.bytes(d.nodes[c.order[len(c.order)-1]].key), d.bytes(d.nodes[i].key)) < 0
		}
		c.order = append(c.order, i)
	}
	if !sorted {
		slices.SortStableFunc(c.order[from:], func(a, b int32) int {
			return compareUTF16(d.bytes(d.nodes[a].key), d.bytes(d.nodes[b].key))
		})
	}
	c.json = append(c.json, '{')
	c.shape = append(c.shape, '{')
	to := len(c.order)
	for k := from; k < to; k++ {
		i := c.order[k]
		key := d.bytes(d.nodes[i].key)
		if k > from {
			c.json = append(c.json, ',')
			if !sorted && bytes.Equal(d.bytes(d.nodes[c.order[k-1]].key), key) {
				d.duplicate = true
			}
		}
		mark := len(c.json)
		c.json = appendString(c.json, key)
		c.shape = append(c.shape, c.json[mark:]...)
		c.json = append(c.json, ':')
		c.walk(d, i)
	}
	c.order = c.order[:from]
	c.json = append(c.json, '}')
	c.shape = append(c.shape, '}')
}

func (c *canonicalizer) array(d *document, at int32) {
	c.json = append(c.json, '[')
	c.shape = append(c.shape, '[')
	last, size := len(c.shape), -1
	for i := at + 1; i < d.nodes[at].next; i = d.nodes[i].next {
		if i > at+1 {
			c.json = append(c.json, ',')
		}
		from := len(c.shape)
		c.walk(d, i)
		if size >= 0 && bytes.Equal(c.shape[last:last+size], c.shape[from:]) {
			c.shape = c.shape[:from]
		} else {
			last, size = from, len(c.shape)-from
		}
	}
	c.json = append(c.json, ']')
	c.shape = append(c.shape, ']')
}

// compareUTF16 orders keys by UTF-16 code units (RFC 8785, section 3.2.3). Byte
// order differs from it only between U+E000..U+FFFF and the planes above.
func compareUTF16(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		if a[i] >= 0xEE && b[i] >= 0xEE && (a[i] >= 0xF0) != (b[i] >= 0xF0) {
			if a[i] >= 0xF0 { // surrogates sort below U+E000
				return -1
			}
			return 1
		}
		if a[i] < b[i] {
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

// appendNumber writes a JSON number as ECMAScript's Number::toString does (RFC
// 8785, section 3.2.2.3).
func appendNumber(out, raw []byte) []byte {
	if isSmallInt(raw) {
		return append(out, raw...)
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil {
		return append(out, raw...)
	}
	if f == 0 {
		return append(out, '0')
	}
	abs := f
	if abs < 0 {
		abs = -abs
	}
	if abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(out, f, 'f', -1, 64)
	}
	from := len(out)
	out = strconv.AppendFloat(out, f, 'e', -1, 64)
	// Go writes at least two exponent digits, ECMAScript does not.
	if n := len(out); n-from >= 4 && out[n-2] == '0' && (out[n-3] == '-' || out[n-3] == '+') {
		out[n-2] = out[n-1]
		out = out[:n-1]
	}
	return out
}

// isSmallInt reports whether raw is an integer of at most 15 digits, which
// every double holds exactly and which is its own canonical form.
func isSmallInt(raw []byte) bool {
	digits := raw
	if raw[0] == '-' {
		digits = raw[1:]
		if digits[0] == '0' {
			return false // -0
		}
	}
	if len(digits) > 15 {
		return false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// validText returns s, or a copy with each invalid byte replaced by U+FFFD.
func validText(s []byte) []byte {
	if utf8.Valid(s) {
		return s
	}
	return bytes.ToValidUTF8(s, []byte("\uFFFD"))
}
