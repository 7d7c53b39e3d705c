package export

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// Report is what a bundle that was verified proves.
type Report struct {
	Manifest *Manifest
	// SignedBy is the log whose key signed the manifest.
	SignedBy string
	// OwnKeys says that no key was given, so those that the bundle itself names were
	// trusted: it is whole, but who made it is for its keys to be compared.
	OwnKeys bool
	// Keys are the first keys of the bundle's logs.
	Keys []string
	// Dropped counts events that retention had removed lawfully before the export.
	Dropped uint64
	// Proven says in words what is proven, one sentence each.
	Proven []string
}

// A BundleError says what is wrong with a bundle, and where.
type BundleError struct {
	File  string
	Line  uint64 // from 1; 0 when it concerns the whole file
	Event string // id, when it is known
	Err   error
}

func (e *BundleError) Error() string {
	where := e.File
	if e.Line > 0 {
		where += fmt.Sprintf(", line %d", e.Line)
	}
	if e.Event != "" {
		where += ", event " + e.Event
	}
	return where + ": " + e.Err.Error()
}

func (e *BundleError) Unwrap() error { return e.Err }

func bad(file, format string, args ...any) error {
	return &BundleError{File: file, Err: fmt.Errorf(format, args...)}
}

// Verify checks a bundle without a service, in constant memory: who signed the
// manifest, that each file is the one that it names and no other is there, that each
// line is the event that was sealed, and that the batches are in their logs.
//
// trusted are verifier keys (C2SP signed-note) of the logs, as they are now or were
// once; when there is none, those that the bundle names are used and the report says
// so. progress is told now and then how many events are verified; it may be nil. The
// error is a *BundleError, or one of reading the files; its text may hold what the
// bundle says.
func Verify(bundle fs.FS, trusted []string, progress func(events uint64)) (*Report, error) {
	v := &verifier{bundle: bundle, progress: progress, logs: map[string]*verifiedLog{}}
	if err := v.open(trusted); err != nil {
		return nil, err
	}
	if err := v.listing(); err != nil {
		return nil, err
	}
	for _, part := range v.parts {
		if err := v.part(part); err != nil {
			return nil, err
		}
	}
	if err := v.end(); err != nil {
		return nil, err
	}
	v.report.Proven = v.words()
	return v.report, nil
}

// verifier is the state of one verification.
type verifier struct {
	bundle   fs.FS
	progress func(uint64)
	keys     *ledger.Keys
	manifest *Manifest
	evidence []LogEvidence
	report   *Report
	parts    [][]File // of each part its files of events, by format, and of proofs
	logs     map[string]*verifiedLog
	events   uint64
	entries  uint64
}

// verifiedLog is one log, as far as it is verified.
type verifiedLog struct {
	checkpoint ledger.Checkpoint
	about      ManifestLog
	tail       []ledger.Hash
	tree       *ledger.Tree
	events     uint64
	missing    uint64                // events of batches that are incomplete
	months     map[uint16]*monthLeft // of which batches are incomplete, or could be
	drops      []ledger.Drop
}

// monthLeft is what a bundle of everything has of the events that expire in a month.
type monthLeft struct {
	incomplete uint64      // the last batch that is not whole; 0 when all are
	present    uint64      // events up to it
	later      [][2]uint64 // whole batches behind it, and how many events each has
}

// add counts a batch.
func (m *monthLeft) add(batch, has, whole uint64) {
	m.later = append(m.later, [2]uint64{batch, has})
	if has == whole {
		return
	}
	for _, b := range m.later {
		m.present += b[1]
	}
	m.incomplete, m.later = batch, nil
}

// before counts the events of batches before a number, which lies behind the last
// incomplete one.
func (m *monthLeft) before(number uint64) uint64 {
	n := m.present
	for _, b := range m.later {
		if b[0] < number {
			n += b[1]
		}
	}
	return n
}

// lawful says that what is left of a month is what the newest of its drops that was
// carried out has kept. While all that a drop counted is there, it was not.
func (m *monthLeft) lawful(month uint16, drops []ledger.Drop) bool {
	for _, d := range slices.Backward(drops) {
		if d.Month != month || d.Before <= m.incomplete {
			continue
		}
		if n := m.before(d.Before); n != d.Events+d.Kept {
			return n == d.Kept
		}
	}
	return false
}

// open reads what is signed.
func (v *verifier) open(trusted []string) error {
	signed, err := readWhole(v.bundle, manifestFile, maxManifest)
	if err != nil {
		return err
	}
	// A newer bundle may have anything below this line: it is said first, and is a
	// claim only.
	if title, _, _ := strings.Cut(string(signed), "\n"); strings.HasPrefix(title, manifestTitle) && title != fmt.Sprint(manifestTitle, Version) {
		return &BundleError{File: manifestFile, Err: parseTitled(title+"\n{}", &Manifest{})}
	}
	logs, err := readWhole(v.bundle, logsFile, maxLogs)
	if err != nil {
		return err
	}
	if v.evidence, err = parseEvidence(logs); err != nil {
		return &BundleError{File: logsFile, Err: err}
	}
	v.report = &Report{OwnKeys: len(trusted) == 0}
	var rotations []string
	for _, l := range v.evidence {
		rotations = append(rotations, l.Rotations...)
		v.report.Keys = append(v.report.Keys, l.VerifierKey)
	}
	if v.report.OwnKeys {
		trusted = v.report.Keys
	}
	if v.keys, err = ledger.TrustKeys(trusted, rotations); err != nil {
		return &BundleError{File: logsFile, Err: err}
	}
	if v.keys, err = v.newestKeys(); err != nil {
		return &BundleError{File: logsFile, Err: err}
	}
	text, by, err := ledger.OpenText(string(signed), v.keys)
	if err != nil {
		return &BundleError{File: manifestFile, Err: err}
	}
	if v.manifest, err = parseManifest(text); err != nil {
		return &BundleError{File: manifestFile, Err: err}
	}
	v.report.Manifest, v.report.SignedBy = v.manifest, by
	return v.openLogs()
}

// newestKeys are, of the trusted keys, those to which the logs' keys have handed over
// in the end, as the bundle shows it: who has an earlier key signs no more. Keys of
// logs that the bundle does not have stay.
func (v *verifier) newestKeys() (*ledger.Keys, error) {
	var newest []string
	for _, l := range v.evidence {
		k := ledger.NewestKey(l.VerifierKey, l.Rotations)
		if !v.keys.Has(k) {
			return nil, fmt.Errorf("log %q is signed with %s: %w", event.ClipText(l.LogID, 200), event.ClipText(k, 400), ledger.ErrSignature)
		}
		newest = append(newest, k)
	}
	if len(v.evidence) == 0 {
		return v.keys, nil
	}
	return ledger.TrustKeys(newest, nil)
}

// openLogs checks the checkpoints.
func (v *verifier) openLogs() error {
	if len(v.evidence) != len(v.manifest.Logs) {
		return bad(logsFile, "it has %d logs, the manifest %d", len(v.evidence), len(v.manifest.Logs))
	}
	for i, l := range v.evidence {
		about := v.manifest.Logs[i]
		c, err := ledger.OpenCheckpoint(l.Checkpoint, v.keys)
		if errors.Is(err, ledger.ErrSignature) {
			return bad(logsFile, "the checkpoint of log %q is not signed by a trusted key; its first key is %s", event.ClipText(l.LogID, 200), event.ClipText(l.VerifierKey, 400))
		}
		if err != nil {
			return &BundleError{File: logsFile, Err: err}
		}
		if l.LogID != about.LogID || c.LogID != l.LogID || c.Size != about.Size || c.Root.String() != about.Root || v.logs[l.LogID] != nil {
			return bad(logsFile, "the checkpoint of log %q is not the one that the manifest names", event.ClipText(l.LogID, 200))
		}
		one := &verifiedLog{checkpoint: c, about: about, tree: ledger.NewTree(), months: map[uint16]*monthLeft{}}
		for _, text := range l.Tail {
			h, err := hex.DecodeString(text)
			if err != nil || len(h) != len(ledger.Hash{}) || hex.EncodeToString(h) != text {
				return bad(logsFile, "log %q: %q is no hash", l.LogID, event.ClipText(text, 100))
			}
			one.tail = append(one.tail, ledger.Hash(h))
		}
		v.logs[l.LogID] = one
	}
	return nil
}

// listing checks that the bundle has the files of its manifest, and finds its parts.
func (v *verifier) listing() error {
	there, err := fs.ReadDir(v.bundle, ".")
	if err != nil {
		return fmt.Errorf("list the bundle: %w", err)
	}
	extra := map[string]bool{}
	for _, f := range there {
		extra[f.Name()] = true
	}
	for _, f := range v.manifest.Files {
		if !extra[f.Name] {
			return bad(f.Name, "the file is missing")
		}
		delete(extra, f.Name)
	}
	delete(extra, manifestFile)
	for _, f := range there {
		if extra[f.Name()] {
			return bad(event.ClipText(f.Name(), 200), "the manifest names no such file")
		}
	}
	files := v.manifest.Files
	width := len(v.manifest.Formats) + 1
	if len(files) < width+1 || (len(files)-1)%width != 0 || files[len(files)-1].Name != logsFile || v.manifest.Formats[0] != "jsonl" {
		return bad(manifestFile, "its files are not those of a bundle")
	}
	for from := 0; from < len(files)-1; from += width {
		part := files[from : from+width]
		number := from/width + 1
		for i, f := range part {
			want := fmt.Sprintf("proofs-%05d.bin", number)
			if i < len(v.manifest.Formats) {
				want = fmt.Sprintf("events-%05d%s", number, extension[v.manifest.Formats[i]])
			}
			if f.Name != want {
				return bad(manifestFile, "it names %q where %q must be", f.Name, want)
			}
		}
		v.parts = append(v.parts, part)
	}
	return v.sameFile(files[len(files)-1])
}

// end checks the totals and the logs' roots.
func (v *verifier) end() error {
	if v.events != v.manifest.Events || v.entries != v.manifest.Entries {
		return bad(manifestFile, "it says %d events of %d entries; there are %d of %d", v.manifest.Events, v.manifest.Entries, v.events, v.entries)
	}
	for _, about := range v.manifest.Logs {
		l := v.logs[about.LogID]
		if l.events != about.Events {
			return bad(manifestFile, "log %q: it says %d events, there are %d", about.LogID, about.Events, l.events)
		}
		if v.manifest.Completeness == everything && l.tree.Size() != l.checkpoint.Size {
			return bad(manifestFile, "log %q: it says that the bundle has everything, and entries from %d on are missing", about.LogID, l.tree.Size()+1)
		}
		if err := l.tree.Skip(l.checkpoint.Size, l.tail); err != nil {
			return bad(logsFile, "log %q: %w", about.LogID, err)
		}
		if l.tree.Root() != l.checkpoint.Root {
			return bad(logsFile, "log %q: the batches are not those of the checkpoint", about.LogID)
		}
		for month, left := range l.months {
			if left.incomplete > 0 && !left.lawful(month, l.drops) {
				return bad(manifestFile, "log %q: batch %d is incomplete, and what is left of the events that expire in its month is not what an entry of the log says that retention has left of them", about.LogID, left.incomplete)
			}
		}
		v.report.Dropped += l.missing
	}
	return nil
}

// words say what is proven, and what is not.
func (v *verifier) words() []string {
	m := v.manifest
	var out []string
	if m.Completeness == everything {
		for _, about := range m.Logs {
			l := v.logs[about.LogID]
			s := fmt.Sprintf("every event of batches 1–%d of log %q is here, unchanged and in its place; nothing is left out: %d events", about.Size, about.LogID, about.Events)
			if l.missing > 0 {
				s += fmt.Sprintf(", and %d that retention had dropped before, as the log records", l.missing)
			}
			out = append(out, s)
		}
		if len(out) == 0 {
			out = append(out, "the service had no log, and so no event")
		}
		return out
	}
	out = append(out, fmt.Sprintf("%s matched %s when the service looked, at %s", counted(m.Events), m.asked(), m.MadeAt))
	for _, about := range m.Logs {
		out = append(out, fmt.Sprintf("log %q has %d of them, unchanged and in place, among its first %d batches", about.LogID, about.Events, about.Size))
	}
	return append(out, "that none that matched is missing rests on the service's word, which it signed")
}

func counted(events uint64) string {
	if events == 1 {
		return "1 event"
	}
	return fmt.Sprintf("%d events", events)
}

// readWhole reads a small file.
func readWhole(bundle fs.FS, name string, most int64) ([]byte, error) {
	if info, err := fs.Stat(bundle, name); err == nil && !info.Mode().IsRegular() { // a pipe would be waited for
		return nil, bad(name, "it is no file")
	}
	f, err := bundle.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bad(name, "the file is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > most {
		return nil, bad(name, "it is longer than %d bytes", most)
	}
	return data, nil
}

// sameFile checks that a file is the one that the manifest names.
func (v *verifier) sameFile(f File) error {
	in, err := v.openFile(f)
	if err != nil {
		return err
	}
	defer in.close()
	return in.end()
}

// version is that of the service that made the bundle.
func (v *verifier) version() string { return strings.TrimPrefix(v.manifest.Service, "mcpaudit ") }
