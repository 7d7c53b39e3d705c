package main

import (
	"bufio"
	"cmp"
	"fmt"
	"strings"
)

// column is one of a table's.
type column struct {
	head  string
	most  int  // widest, in columns of the terminal
	fixed int  // width in a table without an end; 0 is most
	right bool // numbers are read from the right
	rest  bool // takes what a terminal's line has left, in place of most
}

// cell is what stands in one column of a row. Its text may be anything: the
// table makes it printable.
type cell struct {
	text string
	look style
}

// row is one line: cells, or one text across all columns.
type row struct {
	cells []cell
	note  *cell
}

// table prints rows in columns. The first rows wait until it is known how wide
// columns must be; a table without an end has columns of their widest width from
// the start, and waits for nothing.
type table struct {
	out     *bufio.Writer
	screen  screen
	columns []column
	waiting []row
	widths  []int // once they are known
	headed  bool
}

// waitingRows is how many rows decide about the widths of a long table.
const waitingRows = 1000

func newTable(out screen, columns ...column) *table {
	return &table{out: bufio.NewWriter(out), screen: out, columns: columns}
}

// endless fixes the widths and prints the heading.
func (t *table) endless() error {
	t.widths = make([]int, len(t.columns))
	for i := range t.columns {
		c := &t.columns[i]
		c.most = cmp.Or(c.fixed, c.most)
		t.widths[i] = c.most
	}
	t.fit()
	t.head()
	return t.out.Flush()
}

// fit makes the columns fit on a terminal's line: the last one takes what is
// left, and the widest texts give way to it.
func (t *table) fit() {
	const least, leastLast = 10, 12 // narrower is of no use; the line wraps then
	last := len(t.columns) - 1
	if !t.columns[last].rest || t.screen.width == 0 {
		return
	}
	for {
		left, widest := t.screen.width, -1
		for i, w := range t.widths[:last] {
			left -= w + 2
			if !t.columns[i].right && w > least && (widest < 0 || w > t.widths[widest]) {
				widest = i
			}
		}
		if left >= min(leastLast, t.widths[last]) || widest < 0 {
			t.columns[last].most = max(left, leastLast)
			t.widths[last] = min(t.widths[last], t.columns[last].most)
			return
		}
		t.widths[widest]--
		t.columns[widest].most = t.widths[widest]
	}
}

// add takes a row, one cell a column.
func (t *table) add(cells ...cell) error { return t.take(row{cells: cells}) }

// note takes a line across all columns.
func (t *table) note(look style, text string) error {
	return t.take(row{note: &cell{text, look}})
}

func (t *table) take(r row) error {
	for i := range r.cells {
		r.cells[i].text = printable(r.cells[i].text, t.columns[i].most)
	}
	if t.widths != nil {
		t.print(r)
		return t.out.Flush()
	}
	if t.waiting = append(t.waiting, r); len(t.waiting) < waitingRows {
		return nil
	}
	return t.flush()
}

// flush prints what waits.
func (t *table) flush() error {
	if t.widths == nil && len(t.waiting) > 0 {
		t.widths = make([]int, len(t.columns))
		for i, c := range t.columns {
			t.widths[i] = textWidth(c.head)
			for _, r := range t.waiting {
				if r.note == nil {
					t.widths[i] = max(t.widths[i], textWidth(r.cells[i].text))
				}
			}
		}
		t.fit()
		t.head()
		for _, r := range t.waiting {
			t.print(r)
		}
		t.waiting = nil
	}
	return t.out.Flush()
}

func (t *table) head() {
	if t.headed {
		return
	}
	t.headed = true
	heads := make([]cell, len(t.columns))
	for i, c := range t.columns {
		heads[i] = cell{c.head, bold}
	}
	t.print(row{cells: heads})
}

func (t *table) print(r row) {
	if r.note != nil {
		most := 200
		if t.screen.width > 0 {
			most = t.screen.width
		}
		fmt.Fprintln(t.out, t.screen.paint(r.note.look, printable(r.note.text, most)))
		return
	}
	var b strings.Builder
	pad := 0 // spaces that are due before the next text
	for i, c := range r.cells {
		text := printable(c.text, t.columns[i].most)
		room := max(t.widths[i]-textWidth(text), 0)
		if t.columns[i].right {
			pad += room
			room = 0
		}
		if text != "" {
			b.WriteString(strings.Repeat(" ", pad) + t.screen.paint(c.look, text))
			pad = 0
		}
		pad += room + 2
	}
	fmt.Fprintln(t.out, b.String())
}

// Blocks of a character's height and width, by eighths.
var (
	rising  = []rune("▁▂▃▄▅▆▇█")
	filling = []rune("▏▎▍▌▋▊▉█")
)

// bar is a share of a width as a bar, to an eighth of a column. What is not
// nothing can be seen.
func bar(part, whole float64, most int) string {
	if part <= 0 || whole <= 0 {
		return ""
	}
	eighths := max(int(part/whole*float64(most*8)+0.5), 1)
	eighths = min(eighths, most*8)
	text := strings.Repeat("█", eighths/8)
	if eighths%8 > 0 {
		text += string(filling[eighths%8-1])
	}
	return text
}

// sparkline draws numbers as heights, a column each, against the largest of all
// lines beside it. Nothing is a dot.
func sparkline(values []float64, largest float64) string {
	var b strings.Builder
	for _, v := range values {
		if v <= 0 || largest <= 0 {
			b.WriteRune('·')
			continue
		}
		b.WriteRune(rising[min(int(v/largest*float64(len(rising))), len(rising)-1)])
	}
	return b.String()
}
