package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// AppendRow appends the event's canonical bytes: the ClickHouse RowBinary
// encoding of [Columns], in their order. The ledger hashes these bytes; the
// engine makes the same ones with formatRow('RowBinary', …), so a stored row
// can be checked without moving it.
//
// RowBinary: integers little-endian and of fixed width; a String is its length
// as an unsigned LEB128, then its bytes; an Array is its length as LEB128, then
// its elements; a Map is an Array of key, value; a UUID is its two halves, each
// little-endian; LowCardinality is invisible. Labels must be sorted
// ([Event.SetDefaults] does it).
func AppendRow(b []byte, e *Event) []byte {
	b = appendUUID(b, e.EventID)
	b = binary.LittleEndian.AppendUint16(b, e.Schema)
	b = appendString(b, e.EmitterID)
	b = binary.LittleEndian.AppendUint64(b, e.EmitterSeq)

	b = binary.LittleEndian.AppendUint64(b, uint64(e.OccurredAt))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.ReceivedAt))
	b = binary.LittleEndian.AppendUint64(b, e.Duration)

	b = appendString(b, e.Tenant)
	b = appendString(b, e.Principal)
	b = appendString(b, e.PrincipalName)
	b = appendString(b, e.PrincipalKind)
	b = appendStrings(b, e.OnBehalfOf)
	b = appendString(b, e.AgentID)
	b = appendString(b, e.AgentName)
	b = appendString(b, e.Model)
	b = appendString(b, e.ClientName)
	b = appendString(b, e.ClientVersion)
	b = appendString(b, e.AuthMethod)
	b = appendString(b, e.CredentialID)

	b = appendString(b, e.Server)
	b = appendString(b, e.ServerVersion)
	b = appendString(b, e.ServerInstance)
	b = appendString(b, e.Environment)
	b = appendString(b, e.Transport)
	b = appendString(b, e.ProtocolVersion)
	b = appendString(b, e.ClientIP)
	b = appendString(b, e.UserAgent)

	b = appendString(b, e.Kind)
	b = appendString(b, e.Method)
	b = appendString(b, e.Target)
	b = append(b, e.DefinitionDigest[:]...)
	b = append(b, bit(e.Hints.ReadOnly), bit(e.Hints.Destructive), bit(e.Hints.Idempotent), bit(e.Hints.OpenWorld))

	b = appendString(b, e.RequestID)
	b = appendString(b, e.SessionID)
	b = appendString(b, e.ConversationID)
	b = appendString(b, e.TaskID)
	b = appendString(b, e.TraceID)
	b = appendString(b, e.SpanID)
	b = appendString(b, e.ParentSpanID)
	b = binary.LittleEndian.AppendUint32(b, e.Attempt)

	b = appendString(b, e.Decision)
	b = appendString(b, e.DecisionReason)
	b = appendString(b, e.PolicyID)
	b = appendString(b, e.PolicyVersion)
	b = appendStrings(b, e.ScopesRequired)
	b = appendStrings(b, e.ScopesGranted)

	b = appendString(b, e.Outcome)
	b = appendString(b, e.ErrorCode)
	b = appendString(b, e.ErrorMessage)
	b = binary.LittleEndian.AppendUint16(b, e.HTTPStatus)
	b = binary.LittleEndian.AppendUint64(b, e.RequestBytes)
	b = binary.LittleEndian.AppendUint64(b, e.ResponseBytes)

	b = appendString(b, e.Arguments)
	b = append(b, bit(e.Truncated))
	b = binary.LittleEndian.AppendUint64(b, e.OriginalBytes)
	b = append(b, e.ArgumentsDigest[:]...)
	b = append(b, e.ResultDigest[:]...)
	b = append(b, e.ArgumentsShape[:]...)
	b = appendStrings(b, e.Signals)
	b = appendMarks(b, e.ArgumentMarks)
	b = appendMarks(b, e.ResultMarks)
	b = binary.AppendUvarint(b, uint64(len(e.ResultMarks)))
	for i := range e.ResultMarks {
		b = append(b, bit(e.ResultMarks[i].NearInstruction))
	}

	b = appendString(b, e.RedactionProfile)
	b = appendString(b, e.RedactionProfileVersion)
	b = appendString(b, e.RedactionError)
	b = binary.AppendUvarint(b, uint64(len(e.Removed)))
	for i := range e.Removed {
		b = appendString(b, e.Removed[i].Path)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Removed)))
	for i := range e.Removed {
		b = appendString(b, e.Removed[i].Class)
	}
	b = binary.LittleEndian.AppendUint32(b, e.RemovedCount)

	b = appendString(b, e.LogID)
	b = binary.LittleEndian.AppendUint64(b, e.Batch)
	b = binary.LittleEndian.AppendUint32(b, e.Leaf)
	b = binary.LittleEndian.AppendUint16(b, e.ExpiresMonth)

	b = binary.AppendUvarint(b, uint64(len(e.Labels)))
	for _, l := range e.Labels {
		b = appendString(b, l.Key)
		b = appendString(b, l.Value)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, ss []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(ss)))
	for _, s := range ss {
		b = appendString(b, s)
	}
	return b
}

func appendMarks(b []byte, ms []Mark) []byte {
	b = binary.AppendUvarint(b, uint64(len(ms)))
	for i := range ms {
		b = binary.LittleEndian.AppendUint64(b, ms[i].Hash)
	}
	b = binary.AppendUvarint(b, uint64(len(ms)))
	for i := range ms {
		b = appendString(b, ms[i].Class)
	}
	return b
}

func appendUUID(b []byte, id ID) []byte {
	b = binary.LittleEndian.AppendUint64(b, binary.BigEndian.Uint64(id[:8]))
	return binary.LittleEndian.AppendUint64(b, binary.BigEndian.Uint64(id[8:]))
}

func bit(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// ParseRow reads one row that AppendRow wrote and returns the rest of b. It
// takes hostile bytes: lengths are checked before anything is allocated, and a
// row that AppendRow would write differently is an error.
func ParseRow(b []byte) (*Event, []byte, error) {
	r := rowReader{b: b}
	e := &Event{}
	hi, lo := r.uint64(), r.uint64()
	binary.BigEndian.PutUint64(e.EventID[:8], hi)
	binary.BigEndian.PutUint64(e.EventID[8:], lo)
	e.Schema = r.uint16()
	if r.err == nil && e.Schema != Schema {
		return nil, nil, fmt.Errorf("parse row: schema %d is not %d", e.Schema, Schema)
	}
	r.texts(&e.EmitterID)
	e.EmitterSeq = r.uint64()
	e.OccurredAt, e.ReceivedAt, e.Duration = int64(r.uint64()), int64(r.uint64()), r.uint64()
	r.texts(&e.Tenant, &e.Principal, &e.PrincipalName, &e.PrincipalKind)
	e.OnBehalfOf = r.array()
	r.texts(&e.AgentID, &e.AgentName, &e.Model, &e.ClientName, &e.ClientVersion, &e.AuthMethod, &e.CredentialID,
		&e.Server, &e.ServerVersion, &e.ServerInstance, &e.Environment, &e.Transport, &e.ProtocolVersion, &e.ClientIP,
		&e.UserAgent, &e.Kind, &e.Method, &e.Target)
	r.fixed(e.DefinitionDigest[:])
	e.Hints = Hints{r.bool(), r.bool(), r.bool(), r.bool()}
	r.texts(&e.RequestID, &e.SessionID, &e.ConversationID, &e.TaskID, &e.TraceID, &e.SpanID, &e.ParentSpanID)
	e.Attempt = r.uint32()
	r.texts(&e.Decision, &e.DecisionReason, &e.PolicyID, &e.PolicyVersion)
	e.ScopesRequired, e.ScopesGranted = r.array(), r.array()
	r.texts(&e.Outcome, &e.ErrorCode, &e.ErrorMessage)
	e.HTTPStatus, e.RequestBytes, e.ResponseBytes = r.uint16(), r.uint64(), r.uint64()
	r.texts(&e.Arguments)
	e.Truncated, e.OriginalBytes = r.bool(), r.uint64()
	r.fixed(e.ArgumentsDigest[:])
	r.fixed(e.ResultDigest[:])
	r.fixed(e.ArgumentsShape[:])
	e.Signals = r.array()
	e.ArgumentMarks = r.marks()
	e.ResultMarks = r.marks()
	r.parallel(len(e.ResultMarks))
	for i := range e.ResultMarks {
		e.ResultMarks[i].NearInstruction = r.bool()
	}
	r.texts(&e.RedactionProfile, &e.RedactionProfileVersion, &e.RedactionError)
	if paths := r.array(); len(paths) > 0 {
		e.Removed = make([]Removal, len(paths))
		r.parallel(len(paths))
		for i := range paths {
			e.Removed[i] = Removal{paths[i], r.string()}
		}
	} else {
		r.parallel(0)
	}
	e.RemovedCount = r.uint32()
	e.LogID = r.string()
	e.Batch, e.Leaf, e.ExpiresMonth = r.uint64(), r.uint32(), r.uint16()
	if n := r.length(2); n > 0 {
		e.Labels = make([]Label, n)
		for i := range e.Labels {
			e.Labels[i] = Label{r.string(), r.string()}
		}
	}
	if r.err != nil {
		return nil, nil, fmt.Errorf("parse row: %w", r.err)
	}
	return e, r.b, nil
}

var (
	errShort     = errors.New("bytes end in the middle of a value")
	errCanonical = errors.New("not the canonical encoding")
	errUTF8      = errors.New("a string is not valid UTF-8")
)

// rowReader reads RowBinary values and remembers the first error; after one,
// every read returns a zero value.
type rowReader struct {
	b   []byte
	err error
}

func (r *rowReader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		if r.err == nil {
			r.err = errShort
		}
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *rowReader) fixed(dst []byte) { copy(dst, r.take(len(dst))) }

func (r *rowReader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *rowReader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *rowReader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *rowReader) bool() bool {
	b := r.take(1)
	if b == nil {
		return false
	}
	if b[0] > 1 {
		r.err = errCanonical
	}
	return b[0] == 1
}

// length reads a LEB128 count of things that take at least size bytes each, so
// that what is allocated for them is bounded by what was received.
func (r *rowReader) length(size int) int {
	if r.err != nil {
		return 0
	}
	n, w := binary.Uvarint(r.b)
	if w <= 0 {
		r.err = errShort
		return 0
	}
	if w > 1 && r.b[w-1] == 0 {
		r.err = errCanonical
		return 0
	}
	r.b = r.b[w:]
	if n > uint64(len(r.b)/size) {
		r.err = errShort
		return 0
	}
	return int(n)
}

func (r *rowReader) string() string {
	b := r.take(r.length(1))
	if !utf8.Valid(b) {
		r.err = errUTF8
	}
	return string(b)
}

func (r *rowReader) texts(dst ...*string) {
	for _, d := range dst {
		*d = r.string()
	}
}

func (r *rowReader) array() []string {
	n := r.length(1)
	if n == 0 {
		return nil
	}
	ss := make([]string, n)
	for i := range ss {
		ss[i] = r.string()
	}
	return ss
}

func (r *rowReader) marks() []Mark {
	n := r.length(8)
	var ms []Mark
	if n > 0 {
		ms = make([]Mark, n)
	}
	for i := range ms {
		ms[i].Hash = r.uint64()
	}
	r.parallel(n)
	for i := range ms {
		ms[i].Class = r.string()
	}
	return ms
}

// parallel reads the length of an array that must be as long as the one before
// it: the columns of a Nested.
func (r *rowReader) parallel(n int) {
	if m := r.length(1); r.err == nil && m != n {
		r.err = errCanonical
	}
}
