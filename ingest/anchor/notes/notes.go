// Package notes is the text in which checkpoints are kept outside of the store:
// receipts beside an emitter's spool, anchors in a file or at a URL. It is pure.
//
//	# key mcpaudit/LOG+HASH+KEY
//	mcpaudit/LOG
//	SIZE
//	ROOT
//	                                  (an empty line)
//	— mcpaudit/LOG SIGNATURE
//	                                  (an empty line)
//	mcpaudit/LOG
//	…
//
// Each checkpoint is a signed note (C2SP tlog-checkpoint and signed-note) as the
// service made it. Empty lines between notes don't count. Lines that begin with
// "#" are for people, but for "# key ", a public key that the notes of its log were
// checked with. Checkpoints are only ever added at the end, so a crash can
// leave the beginning of one there; a writer that goes on behind it begins with
// "# cut". Such a beginning is passed over. Anything else that is no checkpoint is
// an error: a damaged list must not pass for a whole one.
package notes

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// MaxRead is how many checkpoints Read takes; Each takes any number.
const MaxRead = 100_000

// maxKeys bounds the public keys of one list.
const maxKeys = 1000

const (
	keyPrefix       = "# key "
	signaturePrefix = "— "
	signatureSize   = 4 + 64 // of Ed25519 in a signed note, the key's hash before it
)

// List is what a text holds.
type List struct {
	Checkpoints []string // signed notes, in their order
	Keys        []string // public keys that the text names; whether to trust them is the reader's choice
}

// Append appends a signed checkpoint, and the empty line that ends it.
func Append(b []byte, checkpoint string) []byte {
	b = append(b, checkpoint...)
	return append(b, '\n')
}

// AppendKey appends the line of a public key. It stands between notes.
func AppendKey(b []byte, verifier string) []byte {
	b = append(append(b, keyPrefix...), verifier...)
	return append(b, '\n')
}

// AppendComment appends a line for people: text without its line breaks. It
// stands between notes.
func AppendComment(b []byte, text string) []byte {
	b = append(append(b, "# "...), strings.NewReplacer("\n", " ", "\r", " ").Replace(text)...)
	return append(b, '\n')
}

// IsWhole says that a text ends behind a note, a comment or nothing at all, given
// its last [ledger.MaxCheckpoint] bytes: more notes may be appended. Behind another
// end [Resume] comes first.
func IsWhole(tail []byte) bool {
	lines, ended := bytes.CutSuffix(tail, []byte("\n\n"))
	last := lines[bytes.LastIndexByte(lines, '\n')+1:]
	return len(tail) == 0 || ended && (isSignature(string(last)) || bytes.HasPrefix(last, []byte("#")))
}

// Resume is what is written, before anything else, behind a text whose end was
// cut.
const Resume = "\n" + cut + ": the checkpoint above was cut off, if it is not whole\n\n"

const cut = "# cut"

// Read reads a whole text of at most MaxRead checkpoints. Errors are those of
// Each.
func Read(r io.Reader) (List, error) {
	var l List
	err := each(r, func(checkpoint string) error {
		if len(l.Checkpoints) == MaxRead {
			return fmt.Errorf("it has more than %d checkpoints; give it in parts", MaxRead)
		}
		l.Checkpoints = append(l.Checkpoints, checkpoint)
		return nil
	}, func(key string) error {
		if len(l.Keys) == maxKeys {
			return fmt.Errorf("it has more than %d keys", maxKeys)
		}
		l.Keys = append(l.Keys, key)
		return nil
	})
	if err != nil {
		return List{}, err
	}
	return l, nil
}

// Each calls found with each signed checkpoint, in order, in constant memory;
// one that comes twice in a row is given once. What a checkpoint says is a claim
// until its signature is checked. The error names the line that is no part of a
// checkpoint, or is found's own or the reader's.
func Each(r io.Reader, found func(checkpoint string) error) error {
	return each(r, found, func(string) error { return nil })
}

func each(r io.Reader, found, key func(string) error) error {
	p := parser{found: found, key: key}
	lines := bufio.NewReaderSize(r, ledger.MaxCheckpoint)
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("read checkpoints: line %d is longer than a checkpoint", n)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read checkpoints: %w", err)
		}
		text, whole := strings.CutSuffix(string(line), "\n")
		err = nil
		if len(line) > 0 {
			err = p.line(text, whole)
		}
		if err == nil && !whole {
			if err = p.end(len(line) > 0); err == nil {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("read checkpoints: line %d: %w", n, err)
		}
	}
}

// parser puts lines together to notes.
type parser struct {
	found, key func(string) error

	note  strings.Builder // as far as it was read
	stage int             // see the constants; 1 and 2 are lines of a note's text
	bad   error           // the last line is no part of a note, unless a crash has cut it
	last  string          // the note before this one
}

const (
	between = 0
	text    = 3 // all three lines of the text
	blank   = 4 // the empty line behind it
	signed  = 5 // a signature at least
)

var errNoCheckpoint = errors.New("this, or what is before it, is no signed checkpoint; was the list edited, or is it a list of something else?")

// line takes a line; one that is not whole is the last.
func (p *parser) line(line string, whole bool) error {
	switch {
	case strings.HasPrefix(line, cut):
		p.bad = nil
	case p.bad != nil && strings.HasPrefix(Resume[1:], line):
		return nil // a crash may have cut the line of Resume as well
	case p.bad != nil:
		return p.bad
	case !strings.HasPrefix(line, "#"):
		p.bad = p.take(line, whole)
		return nil
	case p.stage != between && p.stage != signed:
		p.bad = errNoCheckpoint
		return nil
	}
	if err := p.give(); err != nil {
		return err
	}
	if v, ok := strings.CutPrefix(line, keyPrefix); ok && whole {
		return p.key(strings.TrimSpace(v))
	}
	return nil
}

// end ends the text, in the middle of a line or behind one.
func (p *parser) end(torn bool) error {
	if p.bad != nil && (!torn || p.stage == between) {
		return p.bad
	}
	return p.give()
}

func (p *parser) take(line string, whole bool) error {
	begins := strings.HasPrefix(line, ledger.Origin(""))
	switch {
	case line == "" && p.stage == between, !whole && p.stage == between && strings.HasPrefix(ledger.Origin(""), line):
		return nil
	case line == "" && p.stage == signed:
		return p.give()
	case line == "" && p.stage == text:
		p.stage = blank
	case p.stage == between && begins, line != "" && p.stage > between && p.stage < text:
		p.stage++
	case p.stage >= blank && isSignature(line):
		p.stage = signed
	case p.stage == signed && begins:
		if err := p.give(); err != nil {
			return err
		}
		p.stage = 1
	default:
		return errNoCheckpoint
	}
	if p.note.Len()+len(line)+1 > ledger.MaxCheckpoint {
		return fmt.Errorf("the checkpoint has more than %d bytes", ledger.MaxCheckpoint)
	}
	p.note.WriteString(line)
	p.note.WriteByte('\n')
	return nil
}

// isSignature says that a line is a whole signature: a shorter one was cut.
func isSignature(line string) bool {
	b, err := base64.StdEncoding.DecodeString(line[strings.LastIndexByte(line, ' ')+1:])
	return strings.HasPrefix(line, signaturePrefix) && err == nil && len(b) >= signatureSize
}

// give gives the note, if it is complete, and begins anew.
func (p *parser) give() error {
	note, stage := p.note.String(), p.stage
	p.note.Reset()
	p.stage = between
	if stage != signed || note == p.last {
		return nil
	}
	if _, err := ledger.PeekCheckpoint(note); err != nil {
		return err
	}
	p.last = note
	return p.found(note)
}
