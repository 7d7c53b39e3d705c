package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// item is one event on its way to the sender.
type item struct {
	event *pb.Event
	size  int // on the wire, in bytes
	file  string
	line  int
}

// identityBytes is how much of a file's beginning tells it from others.
const identityBytes = 4 << 10

// errRaw is about a raw call without a key: what it holds may not leave.
var errRaw = errors.New("is a raw call; name the key to redact it with, --key-file")

// read makes events of a file's lines. The sender has to release what was
// acquired of room.
func (im *importer) read(ctx context.Context, f *source, room *semaphore.Weighted, items chan<- item) error {
	lines := newLineReader(&counted{f, im.progress}, maxRawLine)
	begin, err := lines.r.Peek(identityBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("import %s: %w", f.name, err)
	}
	// The emitter's id is made of this text. Without a key, that would let others
	// test guesses of what is in it.
	if im.key == nil && (bytes.Contains(begin, []byte(`"raw_arguments"`)) || bytes.Contains(begin, []byte(`"raw_result"`))) {
		return fmt.Errorf("import %s: it has raw calls; name the key to redact them with, --key-file", f.name)
	}
	numbers := numbering{base: im.emitter(begin)}
	for {
		line, err := lines.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, errLong):
			return fmt.Errorf("import %s, line %d: %w", f.name, lines.n, err)
		case err == nil && len(bytes.TrimSpace(line)) == 0:
			continue
		}
		im.progress.line()
		it := item{file: f.name, line: lines.n}
		if err == nil {
			it.event, err = im.readEvent(line, &numbers)
		} else {
			numbers.next()
		}
		if err != nil {
			numbers.bad++
			im.progress.notTaken(it.file, it.line, err)
			if im.strict {
				return fmt.Errorf("import %s: %w", f.name, errStopped)
			}
			continue
		}
		it.size = proto.Size(it.event)
		if err := room.Acquire(ctx, it.weight()); err != nil {
			return fmt.Errorf("import %s: interrupted at line %d", f.name, it.line)
		}
		select {
		case items <- it:
		case <-ctx.Done():
			return fmt.Errorf("import %s: interrupted at line %d", f.name, it.line)
		}
	}
}

// weight is what the item takes of the room between reader and sender.
func (it item) weight() int64 { return int64(min(it.size, itemBytes)) }

// emitter is the id of what emits a file's lines: the same whenever the same
// file is read, under any name.
func (im *importer) emitter(begin []byte) string {
	h := sha256.New()
	if im.key != nil {
		h = hmac.New(sha256.New, im.key)
	}
	fmt.Fprintf(h, "mcpaudit import\x00%s\x00", im.name)
	h.Write(begin)
	return im.name + ":" + hex.EncodeToString(h.Sum(nil)[:8])
}

// numbering gives lines without a number theirs. Lines that can't be taken have
// one too, so that the same line put right in its place is known as new.
type numbering struct {
	base string // id of the emitter
	last uint64
	bad  int
}

// badPerEmitter bounds the gaps in an emitter's sequence: the service keeps
// track of store.MaxRuns, 1024. A file with more lines that can't be taken goes
// on as another emitter.
const badPerEmitter = 1000

func (n *numbering) next() (emitter string, seq uint64) {
	n.last++
	emitter = n.base
	if part := n.bad / badPerEmitter; part > 0 {
		emitter += fmt.Sprintf("/%d", part+1)
	}
	return emitter, n.last
}

// head is what must be known of a line before it is read as an event.
type head struct {
	EventID      json.RawMessage `json:"event_id"`
	EmitterID    json.RawMessage `json:"emitter_id"`
	EmitterSeq   json.RawMessage `json:"emitter_seq"`
	OccurredAt   json.RawMessage `json:"occurred_at"`
	RawArguments json.RawMessage `json:"raw_arguments"`
	RawResult    json.RawMessage `json:"raw_result"`
}

// readEvent makes an event of a line. Errors never quote the line.
func (im *importer) readEvent(line []byte, numbers *numbering) (*pb.Event, error) {
	var h head
	if line = bytes.TrimSpace(line); line[0] != '{' || json.Unmarshal(line, &h) != nil {
		numbers.next()
		return nil, errors.New("not a JSON object")
	}
	line, err := h.complete(line, numbers)
	if err != nil {
		return nil, err
	}
	if h.RawArguments != nil || h.RawResult != nil {
		if im.redact == nil {
			return nil, errRaw
		}
		if line, err = redactLine(line, im.redact); err != nil {
			return nil, err
		}
	}
	m := &pb.Event{}
	if err := protojson.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("not an event: %w", nameOnly(err))
	}
	var e event.Event
	if err := wire.FromProto(m, &e); err != nil {
		return nil, err
	}
	return m, e.Check()
}

// complete gives a line, a JSON object, the ids that it lacks.
func (h *head) complete(line []byte, numbers *numbering) ([]byte, error) {
	if h.EmitterID != nil && h.EmitterSeq != nil && h.EventID != nil {
		return line, nil
	}
	var ids []byte
	key := append(append([]byte{}, h.EmitterID...), h.EmitterSeq...)
	switch {
	case h.EmitterID == nil && h.EmitterSeq == nil:
		emitter, seq := numbers.next()
		ids = fmt.Appendf(ids, `"emitter_id":%s,"emitter_seq":"%d",`, quoted(emitter), seq)
		key = fmt.Appendf(key, "%s\x00%d", emitter, seq)
	case h.EmitterID == nil:
		return nil, errors.New("emitter_id: is missing, and there is an emitter_seq; give both or neither")
	case h.EmitterSeq == nil:
		return nil, errors.New("emitter_seq: is missing, and there is an emitter_id; give both or neither")
	}
	if h.EventID == nil {
		ids = fmt.Appendf(ids, `"event_id":"%s",`, h.newID(key))
	}
	rest := line[1:] // behind the brace
	if len(bytes.TrimSpace(rest)) == 1 {
		ids = ids[:len(ids)-1] // nothing follows
	}
	return append(append([]byte("{"), ids...), rest...), nil
}

// newID is an event's id made of its emitter and number, and its time: the same
// whenever the line is read. Nothing else of the line is in it, for it may be
// secret.
func (h *head) newID(key []byte) event.ID {
	var text string
	var at time.Time
	if json.Unmarshal(h.OccurredAt, &text) == nil {
		at, _ = time.Parse(time.RFC3339Nano, text) // what is no time is reported later
	}
	if at.Unix() < 0 {
		at = time.Unix(0, 0)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "mcpaudit import event\x00%s\x00%d", key, at.UnixMicro()))
	return event.NewID(at, [10]byte(sum[:10]))
}

func quoted(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		return `""` // a text always has a JSON form
	}
	return string(text)
}

// counted counts bytes that are read, for the progress.
type counted struct {
	io.Reader
	progress *progress
}

// Read reads.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.progress.read(n)
	return n, err
}

// errLong is about a line that is longer than may be.
var errLong = errors.New("the line is too long")

// lineReader reads lines in bounded memory. A line that is too long is skipped.
type lineReader struct {
	r    *bufio.Reader
	most int
	n    int    // number of the line that was read last
	buf  []byte // of a line that is longer than the reader's own buffer
}

func newLineReader(r io.Reader, most int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10), most: most}
}

// next is the next line, without its line feed, until next is called again. The
// error is io.EOF behind the last one, or says errLong.
func (l *lineReader) next() ([]byte, error) {
	if cap(l.buf) > 1<<20 {
		l.buf = nil
	}
	l.buf = l.buf[:0]
	long := false
	for part := 0; ; part++ {
		b, err := l.r.ReadSlice('\n')
		if part == 0 && len(b) == 0 && err != nil {
			return nil, err
		}
		if part == 0 {
			l.n++
		}
		b = bytes.TrimSuffix(b, []byte("\n"))
		if long = long || len(l.buf)+len(b) > l.most; !long {
			l.buf = append(l.buf, b...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case long:
			return nil, fmt.Errorf("%w: more than %s", errLong, bytesText(uint64(l.most)))
		}
		return l.buf, nil
	}
}
