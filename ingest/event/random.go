package event

import (
	"math/rand/v2"
	"time"
)

// Random makes a valid event from r: every field is used some of the time, with
// empty, long, multi-byte and NUL-holding texts and extreme numbers. It is for
// property tests, here and in the packages that carry events further.
func Random(r *rand.Rand) *Event {
	pick := func(set []string) string { return set[r.IntN(len(set))] }
	texts := []string{"", "", "a", "files", "mcp.example", "ünïcödé 🜁", "nul\x00inside", "line\nbreak\t\"quoted\"", string(make([]byte, 200))}
	text := func() string { return pick(texts) }
	list := func(most int) []string {
		var l []string
		for range r.IntN(most + 1) {
			l = append(l, text())
		}
		return l
	}
	number := func() uint64 {
		return []uint64{0, 1, 127, 128, 300, 1 << 32, ^uint64(0)}[r.IntN(7)]
	}
	digest := func() (d Digest) {
		if r.IntN(2) == 0 {
			for i := range d {
				d[i] = byte(r.Uint32())
			}
		}
		return d
	}
	marks := func(near bool) []Mark {
		var ms []Mark
		for range r.IntN(4) {
			ms = append(ms, Mark{r.Uint64(), pick(MarkClasses), near && r.IntN(2) == 0})
		}
		return ms
	}
	var noise [10]byte
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	at := minOccurred + r.Int64N(maxOccurred-minOccurred)
	e := &Event{
		EventID: NewID(time.UnixMicro(at), noise), Schema: Schema, EmitterID: "emitter-" + pick([]string{"1", "2"}),
		EmitterSeq: 1 + r.Uint64N(1<<40), OccurredAt: at, ReceivedAt: at + r.Int64N(1e6), Duration: r.Uint64N(1 << 53),
		Tenant: "default", Principal: text(), PrincipalName: text(), PrincipalKind: pick(PrincipalKinds),
		OnBehalfOf: list(3), AgentID: text(), AgentName: text(), Model: text(), ClientName: text(), ClientVersion: text(),
		AuthMethod: text(), CredentialID: text(), Server: text(), ServerVersion: text(), ServerInstance: text(),
		Environment: text(), Transport: pick(Transports), ProtocolVersion: text(), ClientIP: text(), UserAgent: text(),
		Kind: pick(Kinds), Method: text(), Target: text(), DefinitionDigest: digest(),
		Hints:     Hints{r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(2) == 0},
		RequestID: text(), SessionID: text(), ConversationID: text(), TaskID: text(), TraceID: text(), SpanID: text(),
		ParentSpanID: text(), Attempt: uint32(number()), Decision: pick(Decisions), DecisionReason: text(),
		PolicyID: text(), PolicyVersion: text(), ScopesRequired: list(3), ScopesGranted: list(3),
		Outcome: pick(Outcomes), ErrorCode: text(), ErrorMessage: text(), HTTPStatus: uint16(number()),
		RequestBytes: number(), ResponseBytes: number(), Arguments: text(), Truncated: r.IntN(2) == 0,
		OriginalBytes: number(), ArgumentsDigest: digest(), ResultDigest: digest(), ArgumentsShape: digest(),
		Signals: list(4), ArgumentMarks: marks(false), ResultMarks: marks(true), RedactionProfile: text(),
		RedactionProfileVersion: text(), RedactionError: text(), RemovedCount: uint32(number()),
		LogID: text(), Batch: number(), Leaf: uint32(number()), ExpiresMonth: uint16(r.Uint32()),
	}
	for range r.IntN(3) {
		e.Removed = append(e.Removed, Removal{text(), text()})
	}
	for _, k := range []string{"a", "b", "ключ"}[:r.IntN(4)] {
		e.Labels = append(e.Labels, Label{k, text()})
	}
	return e
}
