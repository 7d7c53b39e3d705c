package export

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// chunk is how much of a file a message has, in bytes: a message fits into a buffer
// of the pool of gRPC, whose largest have 1 MiB.
const chunk = 1<<20 - 4<<10

// writer makes files of spans and sends them.
type writer struct {
	cfg   *Config
	state *state
	send  func(*pb.ExportEventsResponse) error

	// The part that is being written; nil between two parts.
	part *part
	// Of the unit that is being written.
	positions []uint32
	leaves    []ledger.Hash
	scratch   []byte
	current   event.Event // shares the memory of its row
}

// part is a part's files.
type part struct {
	files    []*file
	encoders []encoder
	proofs   *file // of a bundle
	events   uint64
}

// span writes a span's events and the proofs of its units.
func (w *writer) span(s *span) error {
	log := &w.state.Logs[s.log]
	w.state.Log = s.log
	rows := s.rows
	for i, u := range s.units {
		if err := w.open(); err != nil {
			return err
		}
		for len(rows) > 0 && rows[0].batch == u.entry.Batch {
			if err := w.event(u, rows[0]); err != nil {
				return err
			}
			rows = rows[1:]
		}
		if i == len(s.units)-1 && len(rows) > 0 {
			return damaged(log, fmt.Sprintf("batch %d has no entry of events in the ledger", rows[0].batch))
		}
		if s.next == 0 { // more of the batch comes with the next span
			continue
		}
		if err := w.seal(log, u); err != nil {
			return err
		}
		if w.part.events >= w.cfg.PartEvents && w.state.inParts() {
			if err := w.close(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) event(u *unit, r row) error {
	n := len(w.positions)
	if n > 0 && w.positions[n-1] >= r.leaf || r.leaf >= u.entry.Events {
		return damaged(&w.state.Logs[w.state.Log], fmt.Sprintf("batch %d has two events at position %d, or one outside of it", r.batch, r.leaf))
	}
	w.positions = append(w.positions, r.leaf)
	if w.state.Bundle {
		w.scratch = append(w.scratch[:0], r.bytes...)
		w.leaves = append(w.leaves, ledger.Leaf(w.scratch))
	}
	e := &w.current
	if err := parseRow(r.bytes, e); err != nil {
		return damaged(&w.state.Logs[w.state.Log], fmt.Sprintf("batch %d, position %d is no event", r.batch, r.leaf))
	}
	for i, enc := range w.part.encoders {
		if err := enc.add(e); err != nil {
			return fmt.Errorf("write %s: %w", w.part.files[i].name, err)
		}
	}
	w.part.events++
	return nil
}

// seal ends a unit: its events are all written.
func (w *writer) seal(log *logState, u *unit) error {
	if len(w.positions) != int(u.want) {
		return damaged(log, fmt.Sprintf("batch %d has %d events where there must be %d", u.entry.Batch, len(w.positions), u.want))
	}
	if w.state.Bundle {
		r := &record{skipped: u.skipped, dropped: u.dropped && u.want == 0}
		var err error
		if r.proof, err = w.prove(u); err != nil {
			return err
		}
		if !r.dropped && r.proof.Check(w.leaves) != nil {
			return damaged(log, fmt.Sprintf("the events of batch %d are not those that were sealed", u.entry.Batch))
		}
		if _, err := w.part.proofs.Write(r.append(nil)); err != nil {
			return err
		}
		log.Touched = u.entry.Batch
		w.state.Entries++
	}
	log.Events += uint64(u.want)
	w.state.Events += uint64(u.want)
	w.state.Next = u.entry.Batch + 1
	w.positions, w.leaves = w.positions[:0], w.leaves[:0]
	return nil
}

func (w *writer) prove(u *unit) (*ledger.BatchProof, error) {
	switch {
	case u.want == 0 || u.want == u.entry.Events:
		return &ledger.BatchProof{Entry: u.entry, Positions: w.positions}, nil
	case u.kept != nil:
		return u.kept.Narrow(u.leaves, w.positions)
	}
	return ledger.ProveBatch(u.entry, w.positions, u.leaves)
}

// open begins a part when none is open.
func (w *writer) open() error {
	if w.part != nil {
		return nil
	}
	number := w.state.Parts + 1
	p := &part{}
	for _, format := range w.state.Formats {
		name := fmt.Sprintf("events-%05d%s", number, extension[format])
		if !w.state.Bundle {
			name = "events" + extension[format]
		}
		f := w.newFile(name)
		p.files, p.encoders = append(p.files, f), append(p.encoders, w.encoder(format, f, w.state.Bundle || number == 1))
	}
	if w.state.Bundle {
		p.proofs = w.newFile(fmt.Sprintf("proofs-%05d.bin", number))
		if _, err := p.proofs.Write([]byte(proofsMagic)); err != nil {
			return err
		}
	}
	w.part = p
	return nil
}

func (w *writer) encoder(format string, f *file, first bool) encoder {
	if format == "parquet" {
		return newParquetEncoder(f, w.cfg.Version)
	}
	return newTextEncoder(texts(w.cfg.Version)[format], f, first)
}

// close ends a part. What is sent up to here is whole, so the export can go on from
// here.
func (w *writer) close() error {
	if err := w.closeFiles(); err != nil {
		return err
	}
	token, err := w.state.seal(w.cfg.TokenKey)
	if err != nil {
		return err
	}
	if len(token) > maxToken { // it goes on from an earlier one
		token = nil
	}
	return w.send(&pb.ExportEventsResponse{ResumeToken: token, Events: w.state.Events, EventsTotal: max(w.state.Total, w.state.Events)})
}

func (w *writer) closeFiles() error {
	p := w.part
	w.part = nil
	for i, enc := range p.encoders {
		if err := enc.close(); err != nil {
			return fmt.Errorf("write %s: %w", p.files[i].name, err)
		}
		p.files[i].events = p.events
	}
	files := p.files
	if p.proofs != nil {
		files = append(files, p.proofs)
	}
	for _, f := range files {
		if err := f.end(); err != nil {
			return err
		}
		if w.state.Bundle {
			w.state.Files = append(w.state.Files, f.summary())
		}
	}
	w.state.Parts++
	return nil
}

// end ends the last part. An export of nothing has one that is empty.
func (w *writer) end() error {
	if w.part == nil && w.state.Parts > 0 {
		return nil
	}
	if err := w.open(); err != nil {
		return err
	}
	return w.closeFiles()
}

// file sends a whole file.
func (w *writer) file(name string, data []byte) error {
	f := w.newFile(name)
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.end(); err != nil {
		return err
	}
	w.state.Files = append(w.state.Files, f.summary())
	return nil
}

// file is one file that is being sent.
type file struct {
	w      *writer
	name   string
	buf    []byte    // not sent yet
	hash   hash.Hash // of a bundle's file
	bytes  uint64
	events uint64
}

func (w *writer) newFile(name string) *file {
	f := &file{w: w, name: name}
	if w.state.Bundle {
		f.hash = sha256.New()
	}
	return f
}

// Write appends p to the file.
func (f *file) Write(p []byte) (int, error) {
	f.buf = append(f.buf, p...)
	return len(p), f.full()
}

// full sends what is in the buffer when it is enough for a message.
func (f *file) full() error {
	for len(f.buf) >= chunk {
		if err := f.flush(f.buf[:chunk]); err != nil {
			return err
		}
		f.buf = append(f.buf[:0], f.buf[chunk:]...)
	}
	return nil
}

func (f *file) flush(data []byte) error {
	if f.hash != nil {
		f.hash.Write(data)
	}
	f.bytes += uint64(len(data))
	st := f.w.state
	return f.w.send(&pb.ExportEventsResponse{File: f.name, Data: data, Events: st.Events, EventsTotal: max(st.Total, st.Events)})
}

// end sends what is left. A file that is empty is sent too.
func (f *file) end() error {
	if len(f.buf) == 0 && f.bytes > 0 {
		return nil
	}
	err := f.flush(f.buf)
	f.buf = nil
	return err
}

func (f *file) summary() File {
	return File{Name: f.name, SHA256: hex.EncodeToString(f.hash.Sum(nil)), Bytes: f.bytes, Events: f.events}
}
