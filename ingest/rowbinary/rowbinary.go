// Package rowbinary writes and reads ClickHouse's RowBinary encoding, which is the
// canonical form of everything that the ledger hashes: the engine makes the same
// bytes with formatRow('RowBinary', …).
//
// Integers are little-endian and of fixed width; a String is its length as an
// unsigned LEB128, then its bytes; an Array is its length as LEB128, then its
// elements; a Map is an Array of key, value; a UUID is its two halves, each
// little-endian; LowCardinality is invisible. ([ClickHouse documentation], Formats,
// RowBinary.)
//
// The package is pure: standard library only, no I/O.
//
// [ClickHouse documentation]: https://clickhouse.com/docs/interfaces/formats/RowBinary
package rowbinary

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// AppendString appends a String.
func AppendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// AppendStrings appends an Array(String).
func AppendStrings(b []byte, ss []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(ss)))
	for _, s := range ss {
		b = AppendString(b, s)
	}
	return b
}

// Bit is a Bool.
func Bit(v bool) byte {
	if v {
		return 1
	}
	return 0
}

var (
	errShort     = errors.New("bytes end in the middle of a value")
	errCanonical = errors.New("not the canonical encoding")
	errUTF8      = errors.New("a string is not valid UTF-8")
)

// Reader reads RowBinary values and remembers the first error; after one,
// every read returns a zero value. It takes hostile bytes: lengths are checked
// before anything is allocated, and what the Append functions would write
// differently is an error.
type Reader struct {
	b   []byte
	Err error // the first one
}

// NewReader reads b.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Rest is what was not read yet.
func (r *Reader) Rest() []byte { return r.b }

func (r *Reader) take(n int) []byte {
	if r.Err != nil || n > len(r.b) {
		if r.Err == nil {
			r.Err = errShort
		}
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// Fixed reads a FixedString of dst's length.
func (r *Reader) Fixed(dst []byte) { copy(dst, r.take(len(dst))) }

// Uint16 reads a UInt16.
func (r *Reader) Uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// Uint32 reads a UInt32.
func (r *Reader) Uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// Uint64 reads a UInt64.
func (r *Reader) Uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Bool reads a Bool.
func (r *Reader) Bool() bool {
	b := r.take(1)
	if b == nil {
		return false
	}
	if b[0] > 1 {
		r.Err = errCanonical
	}
	return b[0] == 1
}

// Length reads a LEB128 count of things that take at least size bytes each, so
// that what is allocated for them is bounded by what was received.
func (r *Reader) Length(size int) int {
	n := r.Uvarint()
	if n > uint64(len(r.b)/size) {
		r.Err = errShort
		return 0
	}
	return int(n)
}

// Text reads a String, which must be UTF-8.
func (r *Reader) Text() string {
	b := r.take(r.Length(1))
	if !utf8.Valid(b) {
		r.Err = errUTF8
	}
	return string(b)
}

// Texts reads several Strings.
func (r *Reader) Texts(dst ...*string) {
	for _, d := range dst {
		*d = r.Text()
	}
}

// Strings reads an Array(String).
func (r *Reader) Strings() []string {
	n := r.Length(1)
	if n == 0 {
		return nil
	}
	ss := make([]string, n)
	for i := range ss {
		ss[i] = r.Text()
	}
	return ss
}

// Parallel reads the length of an array that must be as long as the one before
// it: the columns of a Nested.
func (r *Reader) Parallel(n int) {
	if m := r.Length(1); r.Err == nil && m != n {
		r.Err = errCanonical
	}
}

// Uvarint reads an unsigned LEB128.
func (r *Reader) Uvarint() uint64 {
	if r.Err != nil {
		return 0
	}
	n, w := binary.Uvarint(r.b)
	switch {
	case w <= 0:
		r.Err = errShort
		return 0
	case w > 1 && r.b[w-1] == 0:
		r.Err = errCanonical
		return 0
	}
	r.b = r.b[w:]
	return n
}
