package wrap

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// chunks reads its text in pieces of random sizes, as pipes do.
type chunks struct {
	left []byte
	r    *rand.Rand
}

func (c *chunks) Read(b []byte) (int, error) {
	if len(c.left) == 0 {
		return 0, io.EOF
	}
	n := min(len(c.left), len(b), 1+c.r.IntN(40))
	copy(b, c.left[:n])
	c.left = c.left[n:]
	return n, nil
}

// through sends text through a tee and the parser, as Run does, and returns what
// came out.
func through(t testing.TB, from direction, text []byte, seed uint64) ([]byte, []passed) {
	t.Helper()
	lines := newQueue()
	var out bytes.Buffer
	tee := tee{from: from, now: time.Now, lines: lines}
	if err := tee.copy(&out, &chunks{bytes.Clone(text), rand.New(rand.NewPCG(seed, 0))}); err != nil {
		t.Fatal(err)
	}
	lines.close()
	var all []passed
	for batch := lines.take(); len(batch) > 0; batch = lines.take() {
		all = append(all, batch...)
	}
	return out.Bytes(), all
}

// Whatever passes, passes byte for byte, and reading copies of it ends well.
func FuzzTee(f *testing.F) {
	f.Add([]byte("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\"}\r\n\n\xff\xfe no line feed"), uint64(1))
	f.Add([]byte("[[[[{}]]]]\n{\"id\":null}\n"), uint64(2))
	r := testRedactor(f)
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		s := newSession(event.Event{Server: "fuzz"}, r, func(rec emit.Record) {
			if rec.Event.Outcome == "" || rec.Event.Method == "" {
				t.Errorf("an event without method or outcome: %+v", rec.Event)
			}
		})
		for _, from := range []direction{toServer, toClient} {
			out, lines := through(t, from, text, seed)
			if !bytes.Equal(out, text) {
				t.Fatalf("%q became %q", text, out)
			}
			var again []byte
			for _, l := range lines {
				again = append(append(again, l.line...), '\n')
				s.line(from, l.line, time.Unix(1e9, 0))
			}
			want := bytes.TrimRight(bytes.Join(nonEmpty(bytes.Split(text, []byte("\n"))), []byte("\n")), "\n")
			if !bytes.Equal(bytes.TrimRight(again, "\n"), want) {
				t.Fatalf("the parser was given %q of %q", again, text)
			}
		}
		s.end()
	})
}

func nonEmpty(lines [][]byte) (out [][]byte) {
	for _, l := range lines {
		if len(l) > 0 {
			out = append(out, l)
		}
	}
	return out
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{}}}`,
		`[{"id":"a","result":null},{"method":"m"}]`, `{"id":1e400,"error":{"code":"x","message":3}}`,
		strings.Repeat("[", 100), `{"id":{},"method":{}}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		before := bytes.Clone(line)
		messages, err := parse(line)
		if !bytes.Equal(line, before) {
			t.Fatal("parsing changed the line")
		}
		if err != nil && len(messages) > 0 {
			t.Fatalf("messages beside the error %v", err)
		}
		for _, m := range messages {
			if !m.isRequest() && !m.isNotification() && !m.isResponse() && m.Error == nil {
				t.Errorf("a message that is nothing: %+v", m)
			}
		}
	})
}

func TestALineTooLongPassesAndIsCounted(t *testing.T) {
	long := append(bytes.Repeat([]byte("x"), maxLine+10), "\n{\"a\":1}\n"...)
	lines := newQueue()
	var out bytes.Buffer
	tee := tee{from: toClient, now: time.Now, lines: lines}
	if err := tee.copy(&out, bytes.NewReader(long)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), long) {
		t.Fatal("the bytes changed")
	}
	got := lines.take()
	if len(got) != 2 || got[0].line != nil || got[0].size != maxLine+10 || string(got[1].line) != `{"a":1}` {
		t.Errorf("%d lines, the first of %d bytes", len(got), got[0].size)
	}
}

// The parser may be as slow as it likes: memory is bounded and nothing is lost
// without a word.
func TestAParserThatIsBehindIsToldWhatItMissed(t *testing.T) {
	q := newQueue()
	line := make([]byte, 1<<20)
	put := 0
	for ; q.missed == 0; put++ {
		q.put(passed{line: line, size: len(line)})
		if put > 10_000_000 {
			t.Fatal("the queue has no bound")
		}
	}
	lines := q.take()
	kept, counted, missed := 0, 0, 0
	for _, l := range lines {
		switch {
		case l.missed > 0:
			missed += l.missed
		case l.line == nil:
			counted++
		default:
			kept++
		}
	}
	if kept*len(line) > maxBacklog || kept+counted+missed != put || missed != 1 {
		t.Errorf("of %d lines %d were kept, %d counted, %d missed", put, kept, counted, missed)
	}
	q.put(passed{line: line})
	if got := q.take(); len(got) != 1 || got[0].line == nil {
		t.Error("the queue takes nothing when it is empty again")
	}
}
