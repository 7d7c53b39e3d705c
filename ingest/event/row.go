package event

import (
	"encoding/binary"
	"fmt"

	"github.com/mcpaudit/mcpaudit/ingest/rowbinary"
)

// AppendRow appends the event's canonical bytes: the ClickHouse RowBinary
// encoding of [Columns], in their order. The ledger hashes these bytes; the
// engine makes the same ones with formatRow('RowBinary', …), so a stored row
// can be checked without moving it.
//
// Labels must be sorted ([Event.SetDefaults] does it).
func AppendRow(b []byte, e *Event) []byte {
	b = appendUUID(b, e.EventID)
	b = binary.LittleEndian.AppendUint16(b, e.Schema)
	b = rowbinary.AppendString(b, e.EmitterID)
	b = binary.LittleEndian.AppendUint64(b, e.EmitterSeq)

	b = binary.LittleEndian.AppendUint64(b, uint64(e.OccurredAt))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.ReceivedAt))
	b = binary.LittleEndian.AppendUint64(b, e.Duration)

	b = rowbinary.AppendString(b, e.Tenant)
	b = rowbinary.AppendString(b, e.Principal)
	b = rowbinary.AppendString(b, e.PrincipalName)
	b = rowbinary.AppendString(b, e.PrincipalKind)
	b = rowbinary.AppendStrings(b, e.OnBehalfOf)
	b = rowbinary.AppendString(b, e.AgentID)
	b = rowbinary.AppendString(b, e.AgentName)
	b = rowbinary.AppendString(b, e.Model)
	b = rowbinary.AppendString(b, e.ClientName)
	b = rowbinary.AppendString(b, e.ClientVersion)
	b = rowbinary.AppendString(b, e.AuthMethod)
	b = rowbinary.AppendString(b, e.CredentialID)

	b = rowbinary.AppendString(b, e.Server)
	b = rowbinary.AppendString(b, e.ServerVersion)
	b = rowbinary.AppendString(b, e.ServerInstance)
	b = rowbinary.AppendString(b, e.Environment)
	b = rowbinary.AppendString(b, e.Transport)
	b = rowbinary.AppendString(b, e.ProtocolVersion)
	b = rowbinary.AppendString(b, e.ClientIP)
	b = rowbinary.AppendString(b, e.UserAgent)

	b = rowbinary.AppendString(b, e.Kind)
	b = rowbinary.AppendString(b, e.Method)
	b = rowbinary.AppendString(b, e.Target)
	b = append(b, e.DefinitionDigest[:]...)
	b = append(b, rowbinary.Bit(e.Hints.ReadOnly), rowbinary.Bit(e.Hints.Destructive), rowbinary.Bit(e.Hints.Idempotent), rowbinary.Bit(e.Hints.OpenWorld))

	b = rowbinary.AppendString(b, e.RequestID)
	b = rowbinary.AppendString(b, e.SessionID)
	b = rowbinary.AppendString(b, e.ConversationID)
	b = rowbinary.AppendString(b, e.TaskID)
	b = rowbinary.AppendString(b, e.TraceID)
	b = rowbinary.AppendString(b, e.SpanID)
	b = rowbinary.AppendString(b, e.ParentSpanID)
	b = binary.LittleEndian.AppendUint32(b, e.Attempt)

	b = rowbinary.AppendString(b, e.Decision)
	b = rowbinary.AppendString(b, e.DecisionReason)
	b = rowbinary.AppendString(b, e.PolicyID)
	b = rowbinary.AppendString(b, e.PolicyVersion)
	b = rowbinary.AppendStrings(b, e.ScopesRequired)
	b = rowbinary.AppendStrings(b, e.ScopesGranted)

	b = rowbinary.AppendString(b, e.Outcome)
	b = rowbinary.AppendString(b, e.ErrorCode)
	b = rowbinary.AppendString(b, e.ErrorMessage)
	b = binary.LittleEndian.AppendUint16(b, e.HTTPStatus)
	b = binary.LittleEndian.AppendUint64(b, e.RequestBytes)
	b = binary.LittleEndian.AppendUint64(b, e.ResponseBytes)

	b = rowbinary.AppendString(b, e.Arguments)
	b = append(b, rowbinary.Bit(e.Truncated))
	b = binary.LittleEndian.AppendUint64(b, e.OriginalBytes)
	b = append(b, e.ArgumentsDigest[:]...)
	b = append(b, e.ResultDigest[:]...)
	b = append(b, e.ArgumentsShape[:]...)
	b = rowbinary.AppendStrings(b, e.Signals)
	b = appendMarks(b, e.ArgumentMarks)
	b = appendMarks(b, e.ResultMarks)
	b = binary.AppendUvarint(b, uint64(len(e.ResultMarks)))
	for i := range e.ResultMarks {
		b = append(b, rowbinary.Bit(e.ResultMarks[i].NearInstruction))
	}

	b = rowbinary.AppendString(b, e.RedactionProfile)
	b = rowbinary.AppendString(b, e.RedactionProfileVersion)
	b = rowbinary.AppendString(b, e.RedactionError)
	b = binary.AppendUvarint(b, uint64(len(e.Removed)))
	for i := range e.Removed {
		b = rowbinary.AppendString(b, e.Removed[i].Path)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Removed)))
	for i := range e.Removed {
		b = rowbinary.AppendString(b, e.Removed[i].Class)
	}
	b = binary.LittleEndian.AppendUint32(b, e.RemovedCount)

	b = rowbinary.AppendString(b, e.LogID)
	b = binary.LittleEndian.AppendUint64(b, e.Batch)
	b = binary.LittleEndian.AppendUint32(b, e.Leaf)
	b = binary.LittleEndian.AppendUint16(b, e.ExpiresMonth)

	b = binary.AppendUvarint(b, uint64(len(e.Labels)))
	for _, l := range e.Labels {
		b = rowbinary.AppendString(b, l.Key)
		b = rowbinary.AppendString(b, l.Value)
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
		b = rowbinary.AppendString(b, ms[i].Class)
	}
	return b
}

func appendUUID(b []byte, id ID) []byte {
	b = binary.LittleEndian.AppendUint64(b, binary.BigEndian.Uint64(id[:8]))
	return binary.LittleEndian.AppendUint64(b, binary.BigEndian.Uint64(id[8:]))
}

// ParseRow reads one row that AppendRow wrote and returns the rest of b. It
// takes hostile bytes: lengths are checked before anything is allocated, and a
// row that AppendRow would write differently is an error.
func ParseRow(b []byte) (*Event, []byte, error) {
	r := rowbinary.NewReader(b)
	e := &Event{}
	hi, lo := r.Uint64(), r.Uint64()
	binary.BigEndian.PutUint64(e.EventID[:8], hi)
	binary.BigEndian.PutUint64(e.EventID[8:], lo)
	e.Schema = r.Uint16()
	if r.Err == nil && e.Schema != Schema {
		return nil, nil, fmt.Errorf("parse row: schema %d is not %d", e.Schema, Schema)
	}
	r.Texts(&e.EmitterID)
	e.EmitterSeq = r.Uint64()
	e.OccurredAt, e.ReceivedAt, e.Duration = int64(r.Uint64()), int64(r.Uint64()), r.Uint64()
	r.Texts(&e.Tenant, &e.Principal, &e.PrincipalName, &e.PrincipalKind)
	e.OnBehalfOf = r.Strings()
	r.Texts(&e.AgentID, &e.AgentName, &e.Model, &e.ClientName, &e.ClientVersion, &e.AuthMethod, &e.CredentialID,
		&e.Server, &e.ServerVersion, &e.ServerInstance, &e.Environment, &e.Transport, &e.ProtocolVersion, &e.ClientIP,
		&e.UserAgent, &e.Kind, &e.Method, &e.Target)
	r.Fixed(e.DefinitionDigest[:])
	e.Hints = Hints{r.Bool(), r.Bool(), r.Bool(), r.Bool()}
	r.Texts(&e.RequestID, &e.SessionID, &e.ConversationID, &e.TaskID, &e.TraceID, &e.SpanID, &e.ParentSpanID)
	e.Attempt = r.Uint32()
	r.Texts(&e.Decision, &e.DecisionReason, &e.PolicyID, &e.PolicyVersion)
	e.ScopesRequired, e.ScopesGranted = r.Strings(), r.Strings()
	r.Texts(&e.Outcome, &e.ErrorCode, &e.ErrorMessage)
	e.HTTPStatus, e.RequestBytes, e.ResponseBytes = r.Uint16(), r.Uint64(), r.Uint64()
	r.Texts(&e.Arguments)
	e.Truncated, e.OriginalBytes = r.Bool(), r.Uint64()
	r.Fixed(e.ArgumentsDigest[:])
	r.Fixed(e.ResultDigest[:])
	r.Fixed(e.ArgumentsShape[:])
	e.Signals = r.Strings()
	e.ArgumentMarks = readMarks(r)
	e.ResultMarks = readMarks(r)
	r.Parallel(len(e.ResultMarks))
	for i := range e.ResultMarks {
		e.ResultMarks[i].NearInstruction = r.Bool()
	}
	r.Texts(&e.RedactionProfile, &e.RedactionProfileVersion, &e.RedactionError)
	if paths := r.Strings(); len(paths) > 0 {
		e.Removed = make([]Removal, len(paths))
		r.Parallel(len(paths))
		for i := range paths {
			e.Removed[i] = Removal{paths[i], r.Text()}
		}
	} else {
		r.Parallel(0)
	}
	e.RemovedCount = r.Uint32()
	e.LogID = r.Text()
	e.Batch, e.Leaf, e.ExpiresMonth = r.Uint64(), r.Uint32(), r.Uint16()
	if n := r.Length(2); n > 0 {
		e.Labels = make([]Label, n)
		for i := range e.Labels {
			e.Labels[i] = Label{r.Text(), r.Text()}
		}
	}
	if r.Err != nil {
		return nil, nil, fmt.Errorf("parse row: %w", r.Err)
	}
	return e, r.Rest(), nil
}

func readMarks(r *rowbinary.Reader) []Mark {
	n := r.Length(8)
	var ms []Mark
	if n > 0 {
		ms = make([]Mark, n)
	}
	for i := range ms {
		ms[i].Hash = r.Uint64()
	}
	r.Parallel(n)
	for i := range ms {
		ms[i].Class = r.Text()
	}
	return ms
}
