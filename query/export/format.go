package export

import (
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Formats are those that an export can have, JSONL first.
var Formats = []string{"jsonl", "csv", "parquet", "ocsf", "cef"}

// extension is the end of the names of a format's files.
var extension = map[string]string{"jsonl": ".jsonl", "csv": ".csv", "parquet": ".parquet", "ocsf": ".ocsf.jsonl", "cef": ".cef"}

// encoder writes events into one file. Parquet ends with Close; texts need none.
type encoder interface {
	add(e *event.Event) error
	close() error
}

// text is a format that is made event by event: the same event gives the same
// bytes, so that Verify can make them again.
type text struct {
	head   string // begins a file
	append func(b []byte, e *event.Event) []byte
}

// texts are the formats that are texts, as a service of this version writes them.
func texts(version string) map[string]text {
	return map[string]text{
		"jsonl": {append: appendLine},
		"csv":   {head: csvHead, append: appendCSV},
		"ocsf":  {append: ocsf(version)},
		"cef":   {append: cef(version)},
	}
}

// textEncoder writes a text.
type textEncoder struct {
	text
	f *file
}

func newTextEncoder(t text, f *file, first bool) *textEncoder {
	if first {
		f.buf = append(f.buf, t.head...)
	}
	return &textEncoder{t, f}
}

func (t *textEncoder) add(e *event.Event) error {
	t.f.buf = t.append(t.f.buf, e)
	return t.f.full()
}

func (t *textEncoder) close() error { return nil }
