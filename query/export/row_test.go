package export

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

func sameAsParseRow(t *testing.T, row string, into *event.Event) {
	t.Helper()
	want, rest, err := event.ParseRow([]byte(row))
	ours := parseRow(row, into)
	if (ours == nil) != (err == nil && len(rest) == 0) {
		t.Fatalf("%x: %v, event.ParseRow says %v", row, ours, err)
	}
	if ours == nil && !reflect.DeepEqual(into, want) {
		t.Fatalf("%x:\n got %+v\nwant %+v", row, into, want)
	}
}

func TestRowsAreReadAsEventParseRowReadsThem(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var e event.Event // one for all: nothing of an event is left in the next
	for range 3000 {
		row := event.AppendRow(nil, event.Random(r))
		sameAsParseRow(t, string(row), &e)
		row[r.IntN(len(row))] ^= byte(1 << r.IntN(8))
		sameAsParseRow(t, string(row), &e)
		sameAsParseRow(t, string(row[:r.IntN(len(row))]), &e)
	}
}

func FuzzRow(f *testing.F) {
	f.Add(event.AppendRow(nil, event.Random(rand.New(rand.NewPCG(1, 1)))))
	f.Fuzz(func(t *testing.T, row []byte) { sameAsParseRow(t, string(row), &event.Event{}) })
}
