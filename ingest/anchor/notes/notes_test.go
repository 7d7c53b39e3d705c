package notes_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mcpaudit/mcpaudit/ingest/anchor/notes"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// checkpoints are signed checkpoints of a log of sizes 1 to n, and its key.
func checkpoints(t testing.TB, n int) ([]string, string) {
	t.Helper()
	k, _, err := ledger.NewKey(rand.Reader, "log-1")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for size := range n {
		c, err := ledger.Checkpoint{LogID: "log-1", Size: uint64(size + 1), Root: ledger.Leaf([]byte{byte(size)})}.Sign(k)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out, k.Verifier()
}

func text(list []string) string {
	var b []byte
	for _, c := range list {
		b = notes.Append(b, c)
	}
	return string(b)
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	all, key := checkpoints(t, 3)
	b := notes.AppendComment(nil, "made\nby a test")
	b = notes.AppendKey(b, key)
	b = append(b, text(all)...)
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(b), "byte for byte": iotest.OneByteReader(bytes.NewReader(b))} {
		l, err := notes.Read(r)
		if err != nil || !slices.Equal(l.Checkpoints, all) || !slices.Equal(l.Keys, []string{key}) {
			t.Errorf("%s: %v, %q, %q", name, err, l.Checkpoints, l.Keys)
		}
	}
}

func TestACheckpointThatWasPastedIsRead(t *testing.T) {
	all, _ := checkpoints(t, 2)
	for _, paste := range []string{
		all[0], strings.TrimSuffix(all[0], "\n"), "\n\n" + all[0] + "\n\n\n",
		all[0] + all[0], all[0] + "\n" + all[0], all[0] + "# a word\n",
	} {
		l, err := notes.Read(strings.NewReader(paste))
		if err != nil || !slices.Equal(l.Checkpoints, all[:1]) {
			t.Errorf("%q: %v, %q", paste, err, l.Checkpoints)
		}
	}
	l, err := notes.Read(strings.NewReader(all[0] + all[1])) // without the empty line
	if err != nil || !slices.Equal(l.Checkpoints, all) {
		t.Errorf("%v, %q", err, l.Checkpoints)
	}
}

// A crash may leave any beginning of what was written; the writer goes on behind
// it.
func TestATornEndIsPassedOver(t *testing.T) {
	all, _ := checkpoints(t, 3)
	whole := text(all[:2])
	first := len(text(all[:1]))
	for n := first; n < len(whole); n++ {
		want := all[:1]
		if n >= len(whole)-2 { // but for the line's end and the empty line it is all there
			want = all[:2]
		}
		l, err := notes.Read(strings.NewReader(whole[:n]))
		if err != nil || !slices.Equal(l.Checkpoints, want) {
			t.Fatalf("torn at %d: %v, %d checkpoints", n-first, err, len(l.Checkpoints))
		}
		want = append(slices.Clone(want), all[2])
		for m := range notes.Resume + "." { // the writer may crash again
			l, err = notes.Read(strings.NewReader(whole[:n] + notes.Resume[:m] + notes.Resume + text(all[2:])))
			if err != nil || !slices.Equal(l.Checkpoints, want) {
				t.Fatalf("torn at %d, again at %d, and gone on with: %v, %d checkpoints", n-first, m, err, len(l.Checkpoints))
			}
			// What is whole is the only end that is gone on with without a word.
			if tail := whole[:n] + notes.Resume[:m]; notes.IsWhole([]byte(tail)) {
				l, err = notes.Read(strings.NewReader(tail + text(all[2:])))
				if err != nil || !slices.Equal(l.Checkpoints, want) {
					t.Fatalf("torn at %d, again at %d, and taken for whole: %v, %d checkpoints", n-first, m, err, len(l.Checkpoints))
				}
			}
		}
	}
}

func TestAnEditedListIsAnError(t *testing.T) {
	all, _ := checkpoints(t, 2)
	lines := strings.SplitAfter(text(all), "\n")
	for name, list := range map[string]string{
		"another text":           "hello\n",
		"another text, unended":  "hello",
		"a line is missing":      strings.Join(slices.Delete(slices.Clone(lines), 1, 2), ""),
		"a line is there twice":  strings.Join(slices.Insert(slices.Clone(lines), 1, lines[1]), ""),
		"a line is cut":          strings.Replace(text(all), all[0][len(all[0])-20:], "\n", 1),
		"a size is no number":    strings.Replace(text(all), "\n1\n", "\none\n", 1),
		"a note without sign":    "mcpaudit/log-1\n1\nAAAA\n\n# word\n" + all[0],
		"a line without end":     strings.Repeat("a", 1<<20),
		"signatures without end": all[0] + strings.Repeat(lines[4], 100),
	} {
		l, err := notes.Read(strings.NewReader(list))
		if err == nil {
			t.Errorf("%s: it is read as %q", name, l.Checkpoints)
		}
	}
}

func TestReadingStopsWhenItIsToldTo(t *testing.T) {
	all, _ := checkpoints(t, 3)
	stop, n := errors.New("enough"), 0
	err := notes.Each(strings.NewReader(text(all)), func(string) error { n++; return stop })
	if !errors.Is(err, stop) || n != 1 {
		t.Errorf("%v after %d", err, n)
	}
	if err := notes.Each(iotest.ErrReader(stop), func(string) error { return nil }); !errors.Is(err, stop) {
		t.Errorf("a reader's error is lost: %v", err)
	}
}

func TestAnyNumberIsReadInConstantMemory(t *testing.T) {
	all, _ := checkpoints(t, 2)
	const pairs = 100_000
	list := func() io.Reader { return io.LimitReader(&repeat{text: text(all)}, int64(len(text(all)))*pairs) }
	n, before, most := 0, heap(), uint64(0)
	err := notes.Each(list(), func(string) error {
		if n++; n%50_000 == 0 {
			most = max(most, heap())
		}
		return nil
	})
	if err != nil || n != 2*pairs {
		t.Errorf("%d were read: %v", n, err)
	}
	if most > before+1<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, most)
	}
	if _, err := notes.Read(list()); err == nil || !strings.Contains(err.Error(), strconv.Itoa(notes.MaxRead)) {
		t.Errorf("too many at once: %v", err)
	}
}

// heap is what is in use, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// repeat reads the same text again and again.
type repeat struct {
	text string
	at   int
}

func (r *repeat) Read(b []byte) (int, error) {
	n := copy(b, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

func FuzzRead(f *testing.F) {
	all, key := checkpoints(f, 2)
	f.Add([]byte(text(all)))
	f.Add(append(notes.AppendKey(nil, key), text(all)...))
	f.Add([]byte(all[0] + notes.Resume + all[1]))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := notes.Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, c := range l.Checkpoints {
			if _, err := ledger.PeekCheckpoint(c); err != nil || len(c) > ledger.MaxCheckpoint {
				t.Errorf("%q is no checkpoint: %v", c, err)
			}
		}
		again, err := notes.Read(strings.NewReader(text(l.Checkpoints)))
		if err != nil || !slices.Equal(again.Checkpoints, l.Checkpoints) {
			t.Errorf("what was read is written and read as %q, %v", again.Checkpoints, err)
		}
	})
}
