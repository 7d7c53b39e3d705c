package wrap

import (
	"bytes"
	"strconv"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/protocol"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// direction of a message.
type direction int

const (
	toServer direction = iota
	toClient
)

// Bounds of the requests that wait, against a peer that never answers: their
// number, and the bytes of their contents. A request beyond the second is recorded
// without its content.
const (
	maxPending      = 10000
	maxPendingBytes = 64 << 20
)

// maxUnread bounds the events of one line of garbage.
const maxUnread = 10

// session makes records of the messages that pass. One goroutine feeds it, in
// the order in which messages passed; a request is fed before the server sees
// it, so an answer never comes before its request.
type session struct {
	base    event.Event // what every event of the session has
	calls   *emit.Calls
	emit    func(emit.Record)
	pending map[direction]*simplelru.LRU[string, *request]
	waiting int // bytes that pending requests hold
}

// request waits for its answer.
type request struct {
	event     event.Event
	asked     protocol.Request
	at        time.Time // with the monotonic clock: a step of the wall clock is no duration
	held      int       // bytes of its contents
	dropped   string    // why it has no contents
	settled   bool
	cancelled bool // an event says so; the answer may still come
}

func (q *request) record(e *event.Event, result []byte) emit.Record {
	return emit.Record{Event: e, Arguments: q.asked.Arguments, Result: result, Dropped: q.dropped}
}

func newSession(base event.Event, r *redact.Redactor, keep func(emit.Record)) *session {
	base.Hints = event.DefaultHints
	s := &session{base: base, calls: emit.NewCalls(r), emit: keep, pending: map[direction]*simplelru.LRU[string, *request]{}}
	for _, d := range []direction{toServer, toClient} {
		s.pending[d], _ = simplelru.NewLRU(maxPending, func(_ string, q *request) {
			s.waiting -= q.held
			s.unanswered(q)
		})
	}
	return s
}

// take records one line that passed, or that lines were missed. Whatever a peer
// sends, reading it must not end the server's process.
func (s *session) take(p passed) {
	defer func() {
		if recover() != nil { // what it says may quote the message
			s.unparsed(p.from, p.size, "the audit could not read it", p.at)
		}
	}()
	switch {
	case p.missed > 0:
		s.missed(p.missed, p.at)
	case p.line == nil:
		s.unparsed(p.from, p.size, "the message was too long, or came faster than it could be read", p.at)
	default:
		s.line(p.from, p.line, p.at)
	}
}

// line takes one line that passed at a time.
//
// JSON allows a carriage return between its parts, and a peer that reads text
// with universal newlines, such as Python's, ends a line there. What it then sees
// is recorded beside the whole.
func (s *session) line(d direction, line []byte, at time.Time) {
	s.read(d, line, at)
	parts := bytes.Split(bytes.TrimSpace(line), []byte("\r"))
	if len(parts) == 1 {
		return
	}
	s.unparsed(d, len(line), "a carriage return inside a message: one peer may read it as a whole and another in parts; both are recorded", at)
	for _, part := range parts[:min(len(parts), maxBatch)] {
		if messages, _ := parse(part); len(messages) > 0 {
			s.read(d, part, at)
		}
	}
}

func (s *session) read(d direction, line []byte, at time.Time) {
	messages, unread := parse(line)
	for i := range messages {
		m := &messages[i]
		switch {
		case m.isRequest():
			s.request(d, m, at)
		case m.isNotification():
			s.notification(d, m, at)
		default:
			s.response(d, m, at)
		}
	}
	for _, err := range unread[:min(len(unread), maxUnread)] {
		s.unparsed(d, len(line), err.Error(), at)
	}
}

// unparsed records a message that passed and could not be read.
func (s *session) unparsed(d direction, size int, reason string, at time.Time) {
	e := s.base
	e.OccurredAt, e.Kind, e.Outcome = at.UnixMicro(), "other", "protocol_error"
	e.Method, e.ErrorCode, e.ErrorMessage = "mcpaudit/unparsed", "-32700", reason
	if d == toServer {
		e.RequestBytes = uint64(size)
	} else {
		e.ResponseBytes = uint64(size)
	}
	s.emit(emit.Record{Event: &e})
}

// missed records messages that passed while the parser was too far behind to
// keep even their lengths.
func (s *session) missed(n int, at time.Time) {
	e := s.base
	e.OccurredAt, e.Kind, e.Outcome, e.Method = at.UnixMicro(), "other", "protocol_error", "mcpaudit/lost"
	e.ErrorMessage = strconv.Itoa(n) + " messages passed faster than they could be read and are not recorded"
	e.Labels = []event.Label{{Key: "lost", Value: strconv.Itoa(n)}}
	s.emit(emit.Record{Event: &e})
}

func (s *session) request(d direction, m *message, at time.Time) {
	if d == toServer {
		s.learn(d, m.Params)
	}
	q := &request{event: s.base, asked: protocol.ReadRequest(m.Method, m.Params), at: at, held: m.size}
	e := &q.event
	e.OccurredAt, e.Method, e.RequestID, e.RequestBytes = at.UnixMicro(), m.Method, m.key(), uint64(m.size)
	s.calls.Asked(e, q.asked)
	if s.waiting+q.held > maxPendingBytes {
		q.held, q.dropped, q.asked.Arguments, q.asked.Inputs = 0, "too_much_waiting", nil, nil
		e.Clip()
	}
	s.pending[d].Remove(m.key()) // an id that is used again: the first one will not be answered
	s.pending[d].Add(m.key(), q)
	s.waiting += q.held
}

// learn keeps what a peer says of itself: once, in initialize, or with each
// request and result.
func (s *session) learn(from direction, said []byte) {
	p := protocol.ReadPeers(said)
	if p.ClientName != "" && from == toServer {
		s.base.ClientName, s.base.ClientVersion = p.ClientName, p.ClientVersion
	}
	if p.ServerName != "" && from == toClient {
		s.base.ServerVersion = p.ServerVersion
		if s.base.Server == "" {
			s.base.Server = p.ServerName
		}
	}
	if p.Version != "" {
		s.base.ProtocolVersion = p.Version
	}
}

func (s *session) notification(d direction, m *message, at time.Time) {
	switch m.Method {
	case "notifications/initialized", "notifications/progress", "notifications/message":
		return // part of what they accompany
	case "notifications/cancelled":
		p := protocol.ReadRequest(m.Method, m.Params)
		if q, ok := s.pending[d].Peek(p.Cancels); ok {
			e := q.event
			e.Outcome, e.ErrorMessage = "cancelled", p.Reason
			e.Duration = uint64(max(at.Sub(q.at).Microseconds(), 0))
			s.emit(q.record(&e, nil))
			q.settled, q.cancelled = true, true
		}
		return
	}
	e := s.base
	e.OccurredAt, e.Kind, e.Method, e.Outcome, e.RequestBytes = at.UnixMicro(), "other", m.Method, "success", uint64(m.size)
	s.emit(emit.Record{Event: &e, Arguments: protocol.ReadRequest(m.Method, m.Params).Arguments})
}

// response settles a request, which went the other way.
func (s *session) response(d direction, m *message, at time.Time) {
	asked := toServer
	if d == toServer {
		asked = toClient
	}
	q, ok := s.pending[asked].Peek(m.key())
	if !ok {
		e := s.base
		e.OccurredAt, e.Kind, e.Method, e.RequestID = at.UnixMicro(), "other", "mcpaudit/unasked", m.key()
		e.ResponseBytes = uint64(m.size)
		o := m.outcome("")
		e.Outcome, e.ErrorCode, e.ErrorMessage = o.Outcome, o.Code, o.Message
		if e.Outcome == "success" {
			e.Outcome, e.ErrorMessage = "protocol_error", "an answer to a request that was not seen or had its answer"
		}
		s.emit(emit.Record{Event: &e})
		return
	}
	s.forget(asked, m.key())
	if q.cancelled {
		// Cancelling and answering may cross: the call was made all the same, and
		// whoever investigates wants to know that it was.
		q.event.Method = "mcpaudit/answered_after_cancel"
		q.event.Kind = "other"
	}
	if q.event.Method == "initialize" || q.event.Method == "server/discover" || bytes.Contains(m.Result, []byte(`"_meta"`)) {
		s.learn(d, m.Result)
		q.event.ServerVersion, q.event.ProtocolVersion = s.base.ServerVersion, s.base.ProtocolVersion
		q.event.ClientName, q.event.ClientVersion = s.base.ClientName, s.base.ClientVersion
	}
	result := m.Result
	if m.Error != nil {
		result = m.Error.Data
	}
	e := &q.event
	e.ResponseBytes, e.Duration = uint64(m.size), uint64(max(at.Sub(q.at).Microseconds(), 0))
	more := s.calls.Answered(e, q.asked, m.Result, m.outcome(e.Method))
	if e.Method == "ping" && e.Outcome == "success" && q.asked.Arguments == nil && string(bytes.TrimSpace(m.Result)) == "{}" {
		return // a sign of life, and nothing else
	}
	for _, r := range more {
		s.emit(r)
	}
	s.emit(q.record(e, result))
}

// forget drops a settled request without reporting it as unanswered.
func (s *session) forget(d direction, key string) {
	if q, ok := s.pending[d].Peek(key); ok {
		q.settled = true
		s.pending[d].Remove(key)
	}
}

// unanswered records a request that will have no answer.
func (s *session) unanswered(q *request) {
	if q.settled {
		return
	}
	q.event.Outcome, q.event.ErrorCode = "protocol_error", "no_answer"
	q.event.ErrorMessage = "no answer was seen: the server or the client ended, or the id was used again"
	s.emit(q.record(&q.event, nil))
}

// end settles what is still waiting when the session is over.
func (s *session) end() {
	for _, d := range []direction{toServer, toClient} {
		s.pending[d].Purge()
	}
}
