package export

import (
	"io"

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
	w   io.Writer
	buf []byte
}

func newTextEncoder(t text, w io.Writer, first bool) (*textEncoder, error) {
	if !first || t.head == "" {
		return &textEncoder{text: t, w: w}, nil
	}
	_, err := io.WriteString(w, t.head)
	return &textEncoder{text: t, w: w}, err
}

func (t *textEncoder) add(e *event.Event) error {
	t.buf = t.append(t.buf[:0], e)
	_, err := t.w.Write(t.buf)
	return err
}

func (t *textEncoder) close() error { return nil }
