package export

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
)

// maxLine bounds a line of JSONL, in bytes: the longest event there can be, all of
// it escaped.
const maxLine = 32 << 20

// partFiles are the files of one part.
type partFiles struct {
	events *bundleFile // JSONL
	proofs *bundleFile
	others []*bundleFile
	texts  []text // of others; with a nil append for a format that is not a text
	line   uint64
	buf    []byte
}

// part verifies one part. When what a file holds is wrong, the error names the file
// that is not the one of the manifest, whatever the mistake looked like.
func (v *verifier) part(files []File) error {
	p, err := v.openPart(files)
	if err != nil {
		return err
	}
	err = v.contents(p, files)
	var wrong *BundleError
	var other error // of the first file that is not the one of the manifest
	for _, f := range p.all() {
		same := f.end()
		f.close()
		if same == nil {
			continue
		}
		if errors.As(err, &wrong) && wrong.File == f.about.Name {
			other = err
		} else if other == nil {
			other = same
		}
	}
	if other != nil {
		return other
	}
	return err
}

func (p *partFiles) all() []*bundleFile {
	return append([]*bundleFile{p.events, p.proofs}, p.others...)
}

// close closes the files that are open.
func (p *partFiles) close() {
	for _, f := range p.all() {
		if f != nil {
			f.close()
		}
	}
}

func (v *verifier) openPart(files []File) (*partFiles, error) {
	p := &partFiles{}
	known := texts(v.version())
	for i, about := range files {
		f, err := v.openFile(about)
		if err != nil {
			p.close()
			return nil, err
		}
		switch {
		case i == 0:
			p.events = f
		case i == len(files)-1:
			p.proofs = f
		default:
			p.others, p.texts = append(p.others, f), append(p.texts, known[v.manifest.Formats[i]])
		}
	}
	return p, nil
}

// contents reads the proofs and, as they say, the events.
func (v *verifier) contents(p *partFiles, files []File) error {
	for i, t := range p.texts {
		if err := p.others[i].expect([]byte(t.head), 0); err != nil {
			return err
		}
	}
	magic := make([]byte, len(proofsMagic))
	if _, err := io.ReadFull(p.proofs.in, magic); err != nil || string(magic) != proofsMagic {
		return bad(p.proofs.about.Name, "it is not a file of proofs; use a newer mcpaudit if the bundle is new")
	}
	for {
		r, err := readRecord(p.proofs.in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = v.entry(r)
		}
		if err != nil {
			return &BundleError{File: p.proofs.about.Name, Err: err}
		}
		if err := v.batch(p, r); err != nil {
			return err
		}
	}
	if _, err := p.events.in.ReadByte(); err == nil {
		return &BundleError{File: p.events.about.Name, Line: p.line + 1, Err: errors.New("there are more events than proofs")}
	}
	for i, f := range p.others {
		if _, err := f.in.ReadByte(); err == nil && p.texts[i].append != nil {
			return bad(f.about.Name, "there is more in it than in %s", p.events.about.Name)
		}
	}
	for i, about := range files {
		if want := p.line; i < len(files)-1 && about.Events != want {
			return bad(manifestFile, "%s: it says %d events, there are %d", about.Name, about.Events, want)
		}
	}
	return nil
}

// entry puts a record's entry into its log.
func (v *verifier) entry(r *record) error {
	e := r.proof.Entry
	l := v.logs[e.LogID]
	if l == nil {
		return fmt.Errorf("there is no log %q in the bundle", event.ClipText(e.LogID, 200))
	}
	if e.Batch == 0 || e.Batch > l.checkpoint.Size {
		return fmt.Errorf("log %q has no entry %d", e.LogID, e.Batch)
	}
	if err := l.tree.Skip(e.Batch-1, r.skipped); err != nil {
		return fmt.Errorf("entry %d of log %q: %w", e.Batch, e.LogID, err)
	}
	l.tree.Append(e.Leaf())
	v.entries++
	if e.Kind == ledger.KindDrop {
		var d ledger.Drop
		if err := ledger.ParseDetail(e.Detail, &d); err != nil {
			return err
		}
		if of := v.logs[cmp.Or(d.Log, e.LogID)]; of != nil {
			of.drops = append(of.drops, d)
		}
	}
	if v.manifest.Completeness != everything {
		return nil
	}
	if len(r.skipped) > 0 {
		return fmt.Errorf("log %q: the manifest says that the bundle has everything, and entries before %d are left out", e.LogID, e.Batch)
	}
	if e.HasEvents() {
		has, whole := uint64(len(r.proof.Positions)), uint64(e.Events)
		l.missing += whole - has
		if l.months[e.ExpiresMonth] == nil {
			l.months[e.ExpiresMonth] = &monthLeft{}
		}
		l.months[e.ExpiresMonth].add(e.Batch, has, whole)
	}
	return nil
}

// batch reads the events of one record and checks them against its proof.
func (v *verifier) batch(p *partFiles, r *record) error {
	e := r.proof.Entry
	first := p.line + 1
	leaves := make([]ledger.Hash, 0, min(len(r.proof.Positions), 1<<16))
	for _, at := range r.proof.Positions {
		leaf, err := v.event(p, e, at)
		if err != nil {
			return err
		}
		leaves = append(leaves, leaf)
	}
	if r.dropped {
		return nil
	}
	if err := r.proof.Check(leaves); err != nil {
		return &BundleError{File: p.events.about.Name, Line: first, Err: fmt.Errorf("lines %d to %d of log %q, %w", first, p.line, e.LogID, err)}
	}
	v.logs[e.LogID].events += uint64(len(leaves))
	return nil
}

// event reads one line and gives its leaf.
func (v *verifier) event(p *partFiles, entry *ledger.Entry, at uint32) (ledger.Hash, error) {
	p.line++
	name := p.events.about.Name
	wrong := func(id, format string, args ...any) (ledger.Hash, error) {
		return ledger.Hash{}, &BundleError{File: name, Line: p.line, Event: id, Err: fmt.Errorf(format, args...)}
	}
	line, err := p.events.line()
	if errors.Is(err, io.EOF) {
		return wrong("", "the file ends before the event at position %d of batch %d", at, entry.Batch)
	}
	if err != nil {
		return wrong("", "%w", err)
	}
	var e event.Event
	same := parseLine(line, &e)
	if same {
		p.buf, same = sameLine(p.buf, line, &e)
	}
	if !same { // say what is wrong with it
		if err := wire.UnmarshalJSON(line, &e); err != nil {
			return wrong("", "%w", err)
		}
		return wrong(e.EventID.String(), "the line is not as mcpaudit writes it")
	}
	id := e.EventID.String()
	if e.LogID != entry.LogID || e.Batch != entry.Batch || e.Leaf != at {
		return wrong(id, "it is the event at position %d of batch %d of log %q, where that at position %d of batch %d of log %q must be",
			e.Leaf, e.Batch, event.ClipText(e.LogID, 200), at, entry.Batch, entry.LogID)
	}
	if e.ExpiresMonth != entry.ExpiresMonth {
		return wrong(id, "it expires in another month than its batch")
	}
	p.buf = event.AppendRow(p.buf[:0], &e)
	leaf := ledger.Leaf(p.buf)
	for i, t := range p.texts {
		if t.append == nil {
			continue
		}
		p.buf = t.append(p.buf[:0], &e)
		if err := p.others[i].expect(p.buf, p.line); err != nil {
			err.Event = id
			return ledger.Hash{}, err
		}
	}
	v.events++
	if v.progress != nil && v.events%10_000 == 0 {
		v.progress(v.events)
	}
	return leaf, nil
}

// bundleFile is a file that is hashed while it is read.
type bundleFile struct {
	about File
	file  fs.File
	in    *bufio.Reader
	hash  hash.Hash
	bytes uint64
	buf   []byte
}

func (v *verifier) openFile(about File) (*bundleFile, error) {
	if info, err := fs.Stat(v.bundle, about.Name); err == nil && !info.Mode().IsRegular() {
		return nil, bad(about.Name, "it is no file")
	}
	f, err := v.bundle.Open(about.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bad(about.Name, "the file is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	b := &bundleFile{about: about, file: f, hash: sha256.New()}
	// One byte more than there must be shows that there is more.
	b.in = bufio.NewReaderSize(io.TeeReader(io.LimitReader(f, int64(min(about.Bytes, 1<<62))+1), b), 256<<10)
	return b, nil
}

// Write takes what was read.
func (b *bundleFile) Write(p []byte) (int, error) {
	b.hash.Write(p)
	b.bytes += uint64(len(p))
	return len(p), nil
}

func (b *bundleFile) close() { _ = b.file.Close() } // it was only read

// end reads the rest and says whether the file is the one of the manifest.
func (b *bundleFile) end() error {
	if _, err := io.Copy(io.Discard, b.in); err != nil {
		return fmt.Errorf("read %s: %w", b.about.Name, err)
	}
	if b.bytes != b.about.Bytes || hex.EncodeToString(b.hash.Sum(nil)) != b.about.SHA256 {
		return bad(b.about.Name, "it is not the file that was exported: its length or its SHA-256 is not that of the manifest")
	}
	return nil
}

// line reads a line, without its line feed; it is valid until the next one.
func (b *bundleFile) line() ([]byte, error) {
	line, err := b.in.ReadSlice('\n')
	if err == nil {
		return line[:len(line)-1], nil
	}
	b.buf = b.buf[:0]
	for {
		b.buf = append(b.buf, line...)
		switch {
		case len(b.buf) > maxLine:
			return nil, fmt.Errorf("it is longer than %d bytes", maxLine)
		case err == nil:
			return b.buf[:len(b.buf)-1], nil
		case errors.Is(err, io.EOF) && len(b.buf) > 0:
			return nil, errors.New("the file ends in the middle of the line")
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
		line, err = b.in.ReadSlice('\n')
	}
}

// expect reads what must come next: event number, from 1, or the beginning when that
// is 0.
func (b *bundleFile) expect(want []byte, number uint64) *BundleError {
	for len(want) > 0 {
		got, err := b.in.Peek(min(len(want), b.in.Size()))
		if err != nil && len(got) == 0 || !bytes.HasPrefix(want, got) {
			wrong := fmt.Errorf("event %d of it is not the event as mcpaudit writes it in this format", number)
			if number == 0 {
				wrong = errors.New("it does not begin as such a file does")
			}
			return &BundleError{File: b.about.Name, Err: wrong}
		}
		_, _ = b.in.Discard(len(got)) // it is in the buffer
		want = want[len(got):]
	}
	return nil
}
