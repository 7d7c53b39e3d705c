package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// The engine's Native format (revision 0) is blocks of columns: the number of
// columns and of rows, then for each column its name, its type and its cells. A
// cell of a number, a Date, a UUID, a FixedString or a String has the very bytes
// that RowBinary gives it. So a row's canonical bytes are put together of pieces of
// the columns, and no value is ever made of them.
// (ClickHouse documentation: Formats, Native; src/DataTypes/Serializations.)

// nativeColumn is the cells of one column of a block.
type nativeColumn interface {
	// prefix reads what comes before the column's cells.
	prefix(r *blockReader) error
	// read reads n cells and forgets those of the block before.
	read(r *blockReader, n int) error
	// appendCell appends cell i as RowBinary has it.
	appendCell(b []byte, i int) []byte
}

// fixedCells are of one width each.
type fixedCells struct {
	width int
	cells []byte
}

func (c *fixedCells) prefix(*blockReader) error { return nil }

func (c *fixedCells) read(r *blockReader, n int) error {
	var err error
	c.cells, err = r.more(c.cells[:0], n*c.width)
	return err
}

func (c *fixedCells) appendCell(b []byte, i int) []byte {
	return append(b, c.cells[i*c.width:(i+1)*c.width]...)
}

// textCells are strings, each behind its length.
type textCells struct {
	cells []byte
	ends  []int
}

func (c *textCells) prefix(*blockReader) error { return nil }

// read copies the cells as they are, all that the buffer has at a time: a cell is
// the same here and there.
func (c *textCells) read(r *blockReader, n int) error {
	c.cells, c.ends = c.cells[:0], c.ends[:0]
	for len(c.ends) < n {
		ahead := r.ahead()
		used, start := 0, len(c.cells)
		for len(c.ends) < n {
			length, w := binary.Uvarint(ahead[used:])
			if w <= 0 || length > uint64(len(ahead)-used-w) {
				break
			}
			used += w + int(length)
			c.ends = append(c.ends, start+used)
		}
		c.cells = append(c.cells, ahead[:used]...)
		r.skip(used)
		if len(c.ends) == n {
			return nil
		}
		// A cell that the buffer has no more than the beginning of.
		length, err := r.uvarint()
		if err != nil {
			return err
		}
		if length > maxText {
			return errTooMany
		}
		if c.cells, err = r.more(binary.AppendUvarint(c.cells, length), int(length)); err != nil {
			return err
		}
		c.ends = append(c.ends, len(c.cells))
	}
	return nil
}

func (c *textCells) cell(i int) []byte {
	start := 0
	if i > 0 {
		start = c.ends[i-1]
	}
	return c.cells[start:c.ends[i]]
}

func (c *textCells) appendCell(b []byte, i int) []byte { return append(b, c.cell(i)...) }

// dictionaryCells are LowCardinality(String): each a place in a dictionary of the
// block.
type dictionaryCells struct {
	words textCells
	raw   []byte
	width int // of a place, in bytes
}

const (
	dictionaryVersion = 1      // SharedDictionariesWithAdditionalKeys
	dictionaryFlags   = 0xff00 // beside the width of places
	ownDictionary     = 1 << 9 // HasAdditionalKeys: the words come with the block
	otherDictionary   = 1 << 8 // NeedGlobalDictionary, which this format never asks for
)

func (c *dictionaryCells) prefix(r *blockReader) error {
	version, err := r.uint64()
	if err == nil && version != dictionaryVersion {
		err = fmt.Errorf("dictionaries of version %d, not %d", version, dictionaryVersion)
	}
	return err
}

func (c *dictionaryCells) read(r *blockReader, n int) error {
	if n == 0 {
		return nil
	}
	kind, err := r.uint64()
	if err != nil {
		return err
	}
	if kind&ownDictionary == 0 || kind&otherDictionary != 0 || kind&^dictionaryFlags > 3 {
		return fmt.Errorf("a dictionary of kind %#x", kind)
	}
	c.width = 1 << (kind &^ dictionaryFlags)
	words, err := r.uint64()
	if err != nil {
		return err
	}
	if words > maxCells {
		return errTooMany
	}
	if err := c.words.read(r, int(words)); err != nil {
		return err
	}
	rows, err := r.uint64()
	if err != nil {
		return err
	}
	if rows != uint64(n) {
		return fmt.Errorf("%d places of a dictionary for %d cells", rows, n)
	}
	if c.raw, err = r.more(c.raw[:0], n*c.width); err != nil {
		return err
	}
	for i := range n {
		if c.place(i) >= words {
			return errors.New("a place outside of its dictionary")
		}
	}
	return nil
}

func (c *dictionaryCells) place(i int) uint64 {
	switch c.width {
	case 1:
		return uint64(c.raw[i])
	case 2:
		return uint64(binary.LittleEndian.Uint16(c.raw[2*i:]))
	case 4:
		return uint64(binary.LittleEndian.Uint32(c.raw[4*i:]))
	}
	return binary.LittleEndian.Uint64(c.raw[8*i:])
}

func (c *dictionaryCells) appendCell(b []byte, i int) []byte {
	return append(b, c.words.cell(int(c.place(i)))...)
}

// listCells are arrays of one column's cells, or of several side by side: a Map is a
// list of keys and values.
type listCells struct {
	of   []nativeColumn
	ends []uint64
	raw  []byte
}

func (c *listCells) prefix(r *blockReader) error {
	for _, o := range c.of {
		if err := o.prefix(r); err != nil {
			return err
		}
	}
	return nil
}

func (c *listCells) read(r *blockReader, n int) error {
	var err error
	if c.raw, err = r.more(c.raw[:0], 8*n); err != nil {
		return err
	}
	c.ends = c.ends[:0]
	last := uint64(0)
	for i := range n {
		end := binary.LittleEndian.Uint64(c.raw[8*i:])
		if end < last || end > maxCells {
			return errTooMany
		}
		c.ends = append(c.ends, end)
		last = end
	}
	for _, o := range c.of {
		if err := o.read(r, int(last)); err != nil {
			return err
		}
	}
	return nil
}

func (c *listCells) appendCell(b []byte, i int) []byte {
	start := uint64(0)
	if i > 0 {
		start = c.ends[i-1]
	}
	b = binary.AppendUvarint(b, c.ends[i]-start)
	for at := start; at < c.ends[i]; at++ {
		for _, o := range c.of {
			b = o.appendCell(b, int(at))
		}
	}
	return b
}

// maxCells bounds the cells of a block's column: a block has some thousand rows, and
// a list of one a few hundred entries.
const maxCells = 1 << 25

var errTooMany = errors.New("more cells than a block has")

// maxText bounds a text: no column has a longer one.
const maxText = 16 << 20

// blockReader reads the parts of a block.
type blockReader struct{ b *bufio.Reader }

// ahead is what can be read without waiting.
func (r *blockReader) ahead() []byte {
	b, _ := r.b.Peek(r.b.Buffered()) // so much is there
	return b
}

func (r *blockReader) skip(n int) { _, _ = r.b.Discard(n) }

func (r *blockReader) uvarint() (uint64, error) { return binary.ReadUvarint(r.b) }

func (r *blockReader) full(b []byte) error {
	_, err := io.ReadFull(r.b, b)
	return err
}

// more reads n bytes behind b. What it allocates is bounded by what comes.
func (r *blockReader) more(b []byte, n int) ([]byte, error) {
	const step = 1 << 20
	for n > 0 {
		start, now := len(b), min(n, step)
		b = slices.Grow(b, now)[:start+now]
		if err := r.full(b[start:]); err != nil {
			return b, err
		}
		n -= now
	}
	return b, nil
}

func (r *blockReader) uint64() (uint64, error) {
	var b [8]byte
	err := r.full(b[:])
	return binary.LittleEndian.Uint64(b[:]), err
}

// text reads a name.
func (r *blockReader) text() ([]byte, error) {
	n, err := r.uvarint()
	if err == nil && n > 1000 {
		err = errTooMany
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	return b, r.full(b)
}

// nativeColumns are those of the events, in the order in which they are hashed.
func nativeColumns() ([]nativeColumn, error) {
	var out []nativeColumn
	for _, c := range event.Columns {
		n, err := newNativeColumn(c.Type)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		out = append(out, n)
	}
	return out, nil
}

var fixedWidths = map[string]int{"Bool": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8, "Date": 2, "DateTime64(6, 'UTC')": 8, "UUID": 16, "FixedString(16)": 16}

func newNativeColumn(kind string) (nativeColumn, error) {
	if w, ok := fixedWidths[kind]; ok {
		return &fixedCells{width: w}, nil
	}
	switch kind {
	case "String":
		return &textCells{}, nil
	case "LowCardinality(String)":
		return &dictionaryCells{}, nil
	}
	if inner, ok := strings.CutPrefix(kind, "Array("); ok {
		of, err := newNativeColumn(strings.TrimSuffix(inner, ")"))
		return &listCells{of: []nativeColumn{of}}, err
	}
	if inner, ok := strings.CutPrefix(kind, "Map("); ok {
		key, value, _ := strings.Cut(strings.TrimSuffix(inner, ")"), ", ")
		k, err := newNativeColumn(key)
		v, err2 := newNativeColumn(value)
		return &listCells{of: []nativeColumn{k, v}}, errors.Join(err, err2)
	}
	return nil, fmt.Errorf("cells of type %s can't be read", kind)
}

// readBlocks puts the rows of a stream of blocks together, each behind the byte that
// begins a leaf.
// buffer is the size of what is read at a time, in bytes.
func readBlocks(body io.Reader, buffer int, f func(batch uint64, leaf uint32, prefixed []byte) error) error {
	columns, err := nativeColumns()
	if err != nil {
		return err
	}
	batch := columns[columnAt("batch")].(*fixedCells)
	leaf := columns[columnAt("leaf")].(*fixedCells)
	ahead := readAhead(body, buffer)
	defer ahead.close()
	r := &blockReader{bufio.NewReaderSize(ahead, buffer/2)}
	row := []byte{0} // RFC 6962, section 2.1
	for {
		rows, err := readBlock(r, columns)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the engine's columns: %w", err)
		}
		for i := range rows {
			row = row[:1]
			for _, c := range columns {
				row = c.appendCell(row, i)
			}
			if err := f(binary.LittleEndian.Uint64(batch.cells[8*i:]), binary.LittleEndian.Uint32(leaf.cells[4*i:]), row); err != nil {
				return err
			}
		}
	}
}

// readingAhead reads while what was read before is hashed: the engine works only
// while it is asked.
type readingAhead struct {
	full, empty chan []byte
	rest        []byte
	current     []byte
	err         error // set before full is closed
	stop        chan struct{}
}

func readAhead(r io.Reader, size int) *readingAhead {
	const buffers = 3
	a := &readingAhead{full: make(chan []byte, buffers), empty: make(chan []byte, buffers), stop: make(chan struct{})}
	for range buffers {
		a.empty <- make([]byte, size)
	}
	go func() {
		defer close(a.full)
		for {
			select {
			case b := <-a.empty:
				n, err := io.ReadAtLeast(r, b, size/2)
				if errors.Is(err, io.ErrUnexpectedEOF) {
					err = io.EOF
				}
				a.full <- b[:n]
				if a.err = err; err != nil {
					return
				}
			case <-a.stop:
				a.err = io.ErrClosedPipe
				return
			}
		}
	}()
	return a
}

func (a *readingAhead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.current != nil {
			a.empty <- a.current[:cap(a.current)]
			a.current = nil
		}
		b, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.current, a.rest = b, b
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// close waits until nothing is read any more.
func (a *readingAhead) close() {
	close(a.stop)
	for range a.full {
		continue
	}
}

// errCut makes an end in the middle of a block an error.
func errCut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// columnAt is the place of an event's column.
func columnAt(name string) int {
	return slices.IndexFunc(event.Columns, func(c event.Column) bool { return c.Name == name })
}

// readBlock reads a block and says how many rows it has. The error is io.EOF behind
// the last one.
func readBlock(r *blockReader, columns []nativeColumn) (int, error) {
	n, err := r.uvarint()
	if err != nil {
		return 0, err // io.EOF between two blocks alone
	}
	rows, err := r.uvarint()
	if err != nil {
		return 0, errCut(err)
	}
	if rows > maxCells {
		return 0, errTooMany
	}
	if n == 0 && rows == 0 {
		return 0, nil
	}
	if n != uint64(len(columns)) {
		return 0, fmt.Errorf("%d columns, not %d", n, len(columns))
	}
	for i, c := range columns {
		name, err := r.text()
		if err != nil {
			return 0, errCut(err)
		}
		if !bytes.Equal(name, []byte(event.Columns[i].Name)) {
			return 0, fmt.Errorf("column %q where %q belongs", name, event.Columns[i].Name)
		}
		kind, err := r.text()
		if err != nil {
			return 0, errCut(err)
		}
		if !bytes.Equal(kind, []byte(event.Columns[i].Type)) {
			return 0, fmt.Errorf("column %q has type %s, not %s", name, kind, event.Columns[i].Type)
		}
		if rows == 0 {
			continue
		}
		if err := c.prefix(r); err != nil {
			return 0, errCut(err)
		}
		if err := c.read(r, int(rows)); err != nil {
			return 0, fmt.Errorf("column %q: %w", event.Columns[i].Name, errCut(err))
		}
	}
	return int(rows), nil
}
