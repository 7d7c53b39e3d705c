package wrap

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"
)

const (
	// maxLine bounds the copy of one message that is parsed. A longer message
	// passes like any other and is recorded with its length alone.
	maxLine = 16 << 20
	// maxBacklog bounds the copies that wait for the parser, in bytes. What does
	// not fit passes all the same and is counted.
	maxBacklog = 64 << 20
	chunkSize  = 64 << 10
)

// passed is a line that went by.
type passed struct {
	from direction
	line []byte // without the line feed; nil when it was too long or the parser was behind
	size int
	at   time.Time
	// missed, when not 0, is how many lines before this point were not even
	// counted one by one; the rest of it is empty.
	missed int
}

// tee copies bytes exactly and queues copies of whole lines for the parser.
type tee struct {
	from  direction
	now   func() time.Time
	lines *queue

	reading atomic.Bool   // it waits for bytes
	reads   atomic.Uint64 // how often some came

	partial []byte
	size    int // of the line so far, also when partial was given up
	tooLong bool
}

// copy moves bytes from r to w until r ends. A line to the server is queued
// before its last byte is written, so that the parser sees a request before the
// server can answer it; a line to the client after.
func (t *tee) copy(w io.Writer, r io.Reader) error {
	buf := make([]byte, chunkSize)
	for {
		t.reading.Store(true)
		n, err := r.Read(buf)
		t.reading.Store(false)
		t.reads.Add(1)
		if n > 0 {
			if t.from == toServer {
				t.take(buf[:n])
			}
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
			if t.from == toClient {
				t.take(buf[:n])
			}
		}
		if err != nil {
			t.flush()
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

func (t *tee) take(b []byte) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		part := b
		if end >= 0 {
			part = b[:end]
		}
		t.size += len(part)
		if !t.tooLong {
			if len(t.partial)+len(part) > maxLine {
				t.partial, t.tooLong = nil, true
			} else {
				t.partial = append(t.partial, part...)
			}
		}
		if end < 0 {
			return
		}
		t.flush()
		b = b[end+1:]
	}
}

// flush hands the line over; also the last one, which may lack its line feed.
func (t *tee) flush() {
	if t.size == 0 {
		return
	}
	t.lines.put(passed{from: t.from, line: t.partial, size: t.size, at: t.now()})
	t.partial, t.size, t.tooLong = nil, 0, false
}
