package detect

import (
	"encoding/binary"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Key names a group of events in memory. It is a hash under a seed that nobody
// outside knows, so that nobody can make two groups one.
type Key [2]uint64

// Seen is an event as detectors see it, with what several of them need worked
// out once.
type Seen struct {
	*event.Event
	// At is when it happened, µs since 1970: OccurredAt, or ReceivedAt where the
	// emitter's clock is ahead of the service's.
	At int64
	// Clock is the engine's: what is received at the service later has a higher
	// one. It never goes back. Quiet times and expiry are measured by it, rates and
	// hours by At.
	Clock int64
	// Call is set for what agents do at a server: tool calls, reads of resources,
	// prompts and completions.
	Call bool
	// Retry is set for a repetition that the protocol asks for: the retry of an
	// input_required call, the poll of a task, a stream that broke.
	Retry bool

	Who     Key // tenant and identity, see Identity
	Session Key // Who and the session; zero when the event has none
	Trace   Key // Who and the trace; zero when the event has none
	Talk    Key // Who and the conversation; zero when the event has none
	Tool    Key // tenant, server and target
	Home    Key // tenant and server
}

// Identity is the name that an event's doings are counted for: the principal;
// where none is known, the agent, the credential or the address it came from.
func Identity(e *event.Event) string {
	switch {
	case e.Principal != "":
		return e.Principal
	case e.AgentID != "":
		return "agent " + e.AgentID
	case e.CredentialID != "":
		return "credential " + e.CredentialID
	case e.ClientIP != "":
		return "address " + e.ClientIP
	}
	return "anonymous"
}

// hasher makes keys.
type hasher struct {
	seed uint64
	buf  []byte
}

// key hashes parts, each with its length, so that no two lists of parts are one.
func (h *hasher) key(from Key, parts ...string) Key {
	b := binary.LittleEndian.AppendUint64(h.buf[:0], from[0])
	b = binary.LittleEndian.AppendUint64(b, from[1])
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	h.buf = b
	u := xxh3.Hash128Seed(b, h.seed)
	return Key{u.Hi, u.Lo}
}

// With is the key of a part of the group, such as one tool of one identity. Both
// are hashes under the seed already, so mixing them is enough.
func (k Key) With(other Key) Key {
	return Key{mix(k[0], other[1]), mix(k[1]^0x9e3779b97f4a7c15, other[0])}
}

// mix is the finaliser of MurmurHash3 over a sum that is not commutative.
func mix(a, b uint64) uint64 {
	x := a*0xff51afd7ed558ccd + b
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 29
	return x
}

// see works out what detectors need of an event.
func (h *hasher) see(e *event.Event, at, clock int64, v *Seen) {
	*v = Seen{Event: e, At: at, Clock: clock}
	switch e.Kind {
	case "tool_call", "resource_read", "prompt_get", "completion":
		v.Call = true
	}
	v.Retry = e.Attempt > 0 || e.Kind == "task"
	v.Who = h.key(Key{}, e.Tenant, Identity(e))
	v.Home = h.key(Key{1}, e.Tenant, e.Server)
	v.Tool = h.key(v.Home, e.Target)
	if e.SessionID != "" {
		v.Session = h.key(v.Who, "s", e.SessionID)
	}
	if e.TraceID != "" {
		v.Trace = h.key(v.Who, "t", e.TraceID)
	}
	if e.ConversationID != "" {
		v.Talk = h.key(v.Who, "c", e.ConversationID)
	}
}

// micros is a duration in the unit of the events' times.
func micros(d time.Duration) int64 { return int64(d / time.Microsecond) }
