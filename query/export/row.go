package export

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// parseRow reads a row as event.ParseRow does, several times as fast: texts share
// the row's memory, and e, which is overwritten, gives its lists' memory again. A
// row comes from the store, which may have been changed by hand: what event.AppendRow
// would not write is an error.
func parseRow(s string, e *event.Event) error {
	r := rowReader{s: s}
	r.id(&e.EventID)
	if e.Schema = uint16(r.fixed(2)); e.Schema != event.Schema {
		return errRow
	}
	r.texts(&e.EmitterID)
	e.EmitterSeq = r.fixed(8)
	e.OccurredAt, e.ReceivedAt, e.Duration = int64(r.fixed(8)), int64(r.fixed(8)), r.fixed(8)
	r.texts(&e.Tenant, &e.Principal, &e.PrincipalName, &e.PrincipalKind)
	e.OnBehalfOf = r.list(e.OnBehalfOf)
	r.texts(&e.AgentID, &e.AgentName, &e.Model, &e.ClientName, &e.ClientVersion, &e.AuthMethod, &e.CredentialID,
		&e.Server, &e.ServerVersion, &e.ServerInstance, &e.Environment, &e.Transport, &e.ProtocolVersion, &e.ClientIP,
		&e.UserAgent, &e.Kind, &e.Method, &e.Target)
	r.digest(&e.DefinitionDigest)
	e.Hints = event.Hints{ReadOnly: r.bit(), Destructive: r.bit(), Idempotent: r.bit(), OpenWorld: r.bit()}
	r.texts(&e.RequestID, &e.SessionID, &e.ConversationID, &e.TaskID, &e.TraceID, &e.SpanID, &e.ParentSpanID)
	e.Attempt = uint32(r.fixed(4))
	r.texts(&e.Decision, &e.DecisionReason, &e.PolicyID, &e.PolicyVersion)
	e.ScopesRequired, e.ScopesGranted = r.list(e.ScopesRequired), r.list(e.ScopesGranted)
	r.texts(&e.Outcome, &e.ErrorCode, &e.ErrorMessage)
	e.HTTPStatus, e.RequestBytes, e.ResponseBytes = uint16(r.fixed(2)), r.fixed(8), r.fixed(8)
	r.texts(&e.Arguments)
	e.Truncated, e.OriginalBytes = r.bit(), r.fixed(8)
	r.digest(&e.ArgumentsDigest)
	r.digest(&e.ResultDigest)
	r.digest(&e.ArgumentsShape)
	e.Signals = r.list(e.Signals)
	e.ArgumentMarks = r.marks(e.ArgumentMarks)
	e.ResultMarks = r.marks(e.ResultMarks)
	r.same(len(e.ResultMarks))
	for i := range e.ResultMarks {
		e.ResultMarks[i].NearInstruction = r.bit()
	}
	r.texts(&e.RedactionProfile, &e.RedactionProfileVersion, &e.RedactionError)
	e.Removed = resized(e.Removed, r.length(1))
	for i := range e.Removed {
		e.Removed[i].Path = r.text()
	}
	r.same(len(e.Removed))
	for i := range e.Removed {
		e.Removed[i].Class = r.text()
	}
	e.RemovedCount = uint32(r.fixed(4))
	r.texts(&e.LogID)
	e.Batch, e.Leaf, e.ExpiresMonth = r.fixed(8), uint32(r.fixed(4)), uint16(r.fixed(2))
	e.Labels = resized(e.Labels, r.length(2))
	for i := range e.Labels {
		e.Labels[i] = event.Label{Key: r.text(), Value: r.text()}
	}
	if r.bad || r.s != "" {
		return errRow
	}
	return nil
}

var errRow = errors.New("a row is not an event of this schema")

// resized is a list of n entries in the memory of list. A list that is empty is nil,
// as that of an event that was never stored.
func resized[T any](list []T, n int) []T {
	if n == 0 {
		return nil
	}
	if cap(list) < n {
		return make([]T, n)
	}
	list = list[:n]
	clear(list)
	return list
}

// rowReader reads RowBinary; see rowbinary.Reader. After a mistake everything is
// zero.
type rowReader struct {
	s   string
	bad bool
}

func (r *rowReader) take(n int) string {
	if r.bad || n > len(r.s) {
		r.bad = true
		return ""
	}
	s := r.s[:n]
	r.s = r.s[n:]
	return s
}

// fixed is a little-endian number of n bytes.
func (r *rowReader) fixed(n int) uint64 {
	s := r.take(n)
	var v uint64
	for i := len(s) - 1; i >= 0; i-- {
		v = v<<8 | uint64(s[i])
	}
	return v
}

func (r *rowReader) bit() bool {
	s := r.take(1)
	if s > "\x01" {
		r.bad = true
	}
	return s == "\x01"
}

func (r *rowReader) id(id *event.ID) {
	binary.BigEndian.PutUint64(id[:8], r.fixed(8))
	binary.BigEndian.PutUint64(id[8:], r.fixed(8))
}

func (r *rowReader) digest(d *event.Digest) { copy(d[:], r.take(len(d))) }

// length is a LEB128 count of things that take at least size bytes each.
func (r *rowReader) length(size int) int {
	if len(r.s) > 0 && r.s[0] < 0x80 { // nearly always
		n := int(r.s[0])
		if r.s = r.s[1:]; n > len(r.s)/size {
			r.bad = true
			return 0
		}
		return n
	}
	var n uint64
	for i := 0; i < len(r.s) && i < 9; i++ {
		c := r.s[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c >= 0x80 {
			continue
		}
		if r.s = r.s[i+1:]; c == 0 || n > uint64(len(r.s)/size) {
			break
		}
		return int(n)
	}
	r.bad = true
	return 0
}

// same is the length of an array that must be as long as the one before it.
func (r *rowReader) same(n int) {
	if m := r.length(1); m != n {
		r.bad = true
	}
}

func (r *rowReader) text() string {
	s := r.take(r.length(1))
	if !utf8.ValidString(s) {
		r.bad = true
	}
	return s
}

func (r *rowReader) texts(dst ...*string) {
	for _, d := range dst {
		*d = r.text()
	}
}

func (r *rowReader) list(was []string) []string {
	list := resized(was, r.length(1))
	for i := range list {
		list[i] = r.text()
	}
	return list
}

func (r *rowReader) marks(was []event.Mark) []event.Mark {
	ms := resized(was, r.length(8))
	for i := range ms {
		ms[i].Hash = r.fixed(8)
	}
	r.same(len(ms))
	for i := range ms {
		ms[i].Class = r.text()
	}
	return ms
}
