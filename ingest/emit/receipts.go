package emit

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/anchor/notes"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// openWitness reads what was kept in dir, or else in the first of the other folders
// that has something: spools of other processes of the same name, whose receipts
// are older than any that this one will get.
func openWitness(w witness, dir string, others []string) *witness {
	w.dir, w.logs, w.wait = dir, map[string]*seenLog{}, askSoonest
	for _, d := range append([]string{dir}, others...) {
		path := filepath.Join(d, receiptsFile)
		err := w.load(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) && d == dir {
			// It is replaced whole, so this was no crash.
			w.log.Error("the kept receipts of the audit service are damaged; those that can be read are used, and the file is kept as *.damaged",
				"file", path, "error", errors.Join(err, os.Rename(path, path+".damaged")))
			w.dirty = true
		}
		if len(w.logs) > 0 {
			w.dirty = w.dirty || d != dir
			break
		}
	}
	return &w
}

func (w *witness) load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxReceipts))
	if err != nil {
		return err
	}
	return w.parse(string(text))
}

// parse takes up what it can read; the error says what it can't.
func (w *witness) parse(text string) error {
	var bad []error
	parts := strings.Split("\n"+text, "\n"+serviceLine)
	if head, err := notes.Read(strings.NewReader(parts[0])); err != nil || len(head.Checkpoints) > 0 {
		bad = append(bad, errors.New("a checkpoint is of no service"), err)
	}
	for _, part := range parts[1:] {
		service, rest, _ := strings.Cut(part, "\n")
		list, err := notes.Read(strings.NewReader(rest))
		bad = append(bad, err)
		if len(list.Keys) > maxLogs || len(list.Checkpoints) > maxLogs {
			bad = append(bad, errors.New("it is longer than any that was written"))
			continue
		}
		for _, signed := range list.Checkpoints {
			c, key, err := openWith(signed, list.Keys)
			if err != nil || len(w.logs) == maxLogs {
				bad = append(bad, err)
				continue
			}
			w.logs[c.LogID] = &seenLog{service: service, key: key, trusted: w.base(c.LogID, key), signed: signed, Checkpoint: c}
			w.last = c.LogID
		}
	}
	return errors.Join(bad...)
}

// base are the keys that trust in a log begins with.
func (w *witness) base(logID, first string) []string {
	if len(w.given) == 0 {
		return []string{first}
	}
	var out []string
	for _, k := range w.given {
		if keys, err := ledger.TrustKeys([]string{k}, nil); err == nil && keys.Logs()[logID] {
			out = append(out, k)
		}
	}
	return out
}

// openWith opens a checkpoint and says with which of the keys.
func openWith(signed string, keys []string) (ledger.Checkpoint, string, error) {
	err := ledger.ErrSignature
	for _, k := range keys {
		trusted, bad := ledger.TrustKeys([]string{k}, nil)
		if bad != nil {
			err = bad
			continue
		}
		c, bad := ledger.OpenCheckpoint(signed, trusted)
		if bad == nil {
			return c, k, nil
		}
		err = bad
	}
	return ledger.Checkpoint{}, "", err
}

// save writes the file, if there is something new in it and the last time is long
// enough ago, or now.
func (w *witness) save(now bool) {
	if !w.dirty || !now && time.Since(w.saved) < saveEvery {
		return
	}
	w.saved = time.Now()
	err := replaceFile(filepath.Join(w.dir, receiptsFile), w.text())
	if failed := err != nil; failed != w.unsaved {
		if w.unsaved = failed; failed {
			w.log.Warn("the receipts of the audit service can't be kept; it is tried again", "error", err)
		}
	}
	w.dirty = err != nil
}

// due is when there is something to save, nil when there is not.
func (w *witness) due() <-chan time.Time {
	if !w.dirty {
		return nil
	}
	return time.After(time.Until(w.saved.Add(saveEvery)))
}

func (w *witness) text() []byte {
	b := notes.AppendComment(nil, "Receipts of mcpaudit: the newest checkpoint of each log that acknowledged events of this spool.")
	b = notes.AppendComment(b, "Whether the log still has them: mcpaudit verify --receipt THIS-FILE")
	for _, id := range slices.SortedFunc(maps.Keys(w.logs), func(x, y string) int {
		if x == w.last || y == w.last {
			return cmp.Compare(b2i(x == w.last), b2i(y == w.last))
		}
		return cmp.Compare(x, y)
	}) {
		s := w.logs[id]
		b = append(append(append(b, serviceLine...), s.service...), '\n')
		b = notes.AppendKey(b, s.key)
		b = notes.Append(b, s.signed)
	}
	return b
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(text))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}
