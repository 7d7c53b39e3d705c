package wrap

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// direction of a message.
type direction int

const (
	toServer direction = iota
	toClient
)

// Bounds of what a session remembers, against a peer that never answers or a
// server that invents tools.
const (
	maxPending = 10000
	maxTools   = 5000
	maxRetries = 10000
)

// session makes records of the messages that pass. One goroutine feeds it, in
// the order in which messages passed; a request is fed before the server sees
// it, so an answer never comes before its request.
type session struct {
	base   event.Event // what every event of the session has
	redact *redact.Redactor
	emit   func(emit.Record)

	pending map[direction]*simplelru.LRU[string, *request]
	tools   *simplelru.LRU[string, tool]
	retries *simplelru.LRU[string, uint32] // next attempt of a logical call
}

// request waits for its answer.
type request struct {
	event     event.Event
	arguments []byte
	retryKey  string
	settled   bool
}

// tool is what tools/list said of one.
type tool struct {
	digest event.Digest
	hints  event.Hints
}

func newSession(base event.Event, r *redact.Redactor, emit func(emit.Record)) *session {
	s := &session{base: base, redact: r, emit: emit, pending: map[direction]*simplelru.LRU[string, *request]{}}
	for _, d := range []direction{toServer, toClient} {
		s.pending[d], _ = simplelru.NewLRU(maxPending, func(_ string, q *request) { s.unanswered(q) })
	}
	s.tools, _ = simplelru.NewLRU[string, tool](maxTools, nil)
	s.retries, _ = simplelru.NewLRU[string, uint32](maxRetries, nil)
	return s
}

// line takes one line that passed at a time.
func (s *session) line(d direction, line []byte, at time.Time) {
	messages, err := parse(line)
	if err != nil {
		s.unparsed(d, len(line), err.Error(), at)
		return
	}
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

// meta are the keys of params._meta that an audit needs (MCP 2026-07-28;
// traceparent by SEP-414).
type meta struct {
	ProtocolVersion string          `json:"io.modelcontextprotocol/protocolVersion"`
	ClientInfo      *implementation `json:"io.modelcontextprotocol/clientInfo"`
	ServerInfo      *implementation `json:"io.modelcontextprotocol/serverInfo"`
	TraceParent     string          `json:"traceparent"`
}

type implementation struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// params are the parts of any method's parameters that name or correlate.
type params struct {
	Name            string          `json:"name"`
	URI             string          `json:"uri"`
	Arguments       json.RawMessage `json:"arguments"`
	Ref             *params         `json:"ref"`
	TaskID          string          `json:"taskId"`
	RequestID       json.RawMessage `json:"requestId"`
	InputResponses  json.RawMessage `json:"inputResponses"`
	ProtocolVersion string          `json:"protocolVersion"`
	ClientInfo      *implementation `json:"clientInfo"`
	ServerInfo      *implementation `json:"serverInfo"` // of results
	Meta            *meta           `json:"_meta"`
	Reason          string          `json:"reason"`
}

func readParams(raw json.RawMessage) params {
	var p params
	if json.Unmarshal(raw, &p) != nil {
		// A field of an unexpected type: keep what can be read one by one.
		var name struct {
			Name string `json:"name"`
		}
		_ = json.Unmarshal(raw, &name) // what can't be read stays empty
		return params{Name: name.Name, Arguments: raw}
	}
	return p
}

// kindOf sorts methods; an unknown one is "other".
func kindOf(method string) string {
	switch method {
	case "tools/call":
		return "tool_call"
	case "tools/list":
		return "tools_list"
	case "resources/read":
		return "resource_read"
	case "prompts/get":
		return "prompt_get"
	case "completion/complete":
		return "completion"
	case "initialize", "server/discover":
		return "session"
	}
	if strings.HasPrefix(method, "tasks/") {
		return "task"
	}
	return "other"
}

func (s *session) request(d direction, m *message, at time.Time) {
	p := readParams(m.Params)
	s.learn(d, p)
	q := &request{event: s.base, arguments: p.Arguments}
	e := &q.event
	e.OccurredAt, e.Kind, e.Method, e.RequestID = at.UnixMicro(), kindOf(m.Method), m.Method, m.key()
	e.RequestBytes, e.TaskID = uint64(m.size), p.TaskID
	e.Target = p.Name
	if e.Target == "" {
		e.Target = p.URI
	}
	if e.Target == "" && p.Ref != nil {
		e.Target = p.Ref.Name + p.Ref.URI
	}
	if q.arguments == nil && e.Kind != "session" {
		q.arguments = withoutMeta(m.Params)
	}
	e.Hints = event.DefaultHints
	if t, ok := s.tools.Get(e.Target); ok && e.Kind == "tool_call" {
		e.DefinitionDigest, e.Hints = t.digest, t.hints
	}
	if p.Meta != nil {
		e.TraceID, e.SpanID = traceContext(p.Meta.TraceParent)
	}
	s.countAttempt(q, p)
	s.pending[d].Remove(m.key()) // an id that is used again: the first one will not be answered
	s.pending[d].Add(m.key(), q)
}

// countAttempt marks legitimate repetition: an answer to input_required and a
// poll of a task are the same logical call again.
func (s *session) countAttempt(q *request, p params) {
	switch {
	case q.event.Kind == "task" && p.TaskID != "":
		q.retryKey = q.event.Method + "\x00" + p.TaskID
		n, _ := s.retries.Get(q.retryKey)
		q.event.Attempt = n
		s.retries.Add(q.retryKey, n+1)
	case q.event.Kind == "tool_call" || q.event.Kind == "prompt_get" || q.event.Kind == "resource_read":
		q.retryKey = q.event.Method + "\x00" + q.event.Target + "\x00" + string(q.arguments[:min(len(q.arguments), 4096)])
		if len(p.InputResponses) > 0 {
			n, _ := s.retries.Get(q.retryKey)
			q.event.Attempt = max(n, 1)
		}
	}
}

// learn keeps what peers say of themselves: once, in initialize, or with each
// request and result.
func (s *session) learn(d direction, p params) {
	client, server := p.ClientInfo, p.ServerInfo
	version := p.ProtocolVersion
	if p.Meta != nil {
		if p.Meta.ClientInfo != nil {
			client = p.Meta.ClientInfo
		}
		if p.Meta.ServerInfo != nil {
			server = p.Meta.ServerInfo
		}
		if p.Meta.ProtocolVersion != "" {
			version = p.Meta.ProtocolVersion
		}
	}
	if client != nil && d == toServer {
		s.base.ClientName, s.base.ClientVersion = client.Name, client.Version
	}
	if server != nil && d == toClient {
		s.base.ServerVersion = server.Version
		if s.base.Server == "" {
			s.base.Server = server.Name
		}
	}
	if version != "" {
		s.base.ProtocolVersion = version
	}
}

func (s *session) notification(d direction, m *message, at time.Time) {
	switch m.Method {
	case "notifications/initialized", "notifications/progress", "notifications/message":
		return // part of what they accompany
	case "notifications/cancelled":
		p := readParams(m.Params)
		key := string(bytes.TrimSpace(p.RequestID))
		if q, ok := s.pending[d].Peek(key); ok {
			q.event.Outcome, q.event.ErrorMessage = "cancelled", p.Reason
			s.finish(q, nil, at)
			s.forget(d, key)
		}
		return
	}
	e := s.base
	e.OccurredAt, e.Kind, e.Method, e.Outcome, e.RequestBytes = at.UnixMicro(), "other", m.Method, "success", uint64(m.size)
	s.emit(emit.Record{Event: &e, Arguments: withoutMeta(m.Params)})
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
		judge(&e, m)
		if e.Outcome == "success" {
			e.Outcome, e.ErrorMessage = "protocol_error", "an answer to a request that was not seen, was cancelled or had its answer"
		}
		s.emit(emit.Record{Event: &e})
		return
	}
	s.forget(asked, m.key())
	if q.event.Method == "initialize" || q.event.Method == "server/discover" || bytes.Contains(m.Result, []byte(`"_meta"`)) {
		s.learn(d, readParams(m.Result))
		q.event.ServerVersion, q.event.ProtocolVersion = s.base.ServerVersion, s.base.ProtocolVersion
		q.event.ClientName, q.event.ClientVersion = s.base.ClientName, s.base.ClientVersion
	}
	q.event.ResponseBytes = uint64(m.size)
	judge(&q.event, m)
	if q.event.Outcome == "input_required" && q.retryKey != "" {
		s.retries.Add(q.retryKey, q.event.Attempt+1)
	}
	if q.event.Method == "ping" && q.event.Outcome == "success" {
		return
	}
	result := m.Result
	if m.Error != nil {
		result = m.Error.Data
	}
	if q.event.Kind == "tools_list" {
		s.definitions(q, m.Result, at)
	}
	s.finish(q, result, at)
}

// forget drops a settled request without reporting it as unanswered.
func (s *session) forget(d direction, key string) {
	if q, ok := s.pending[d].Peek(key); ok {
		q.settled = true
		s.pending[d].Remove(key)
	}
}

func (s *session) finish(q *request, result []byte, at time.Time) {
	e := q.event
	e.Duration = uint64(max(at.UnixMicro()-e.OccurredAt, 0))
	s.emit(emit.Record{Event: &e, Arguments: q.arguments, Result: result})
}

// unanswered records a request that will have no answer.
func (s *session) unanswered(q *request) {
	if q.settled {
		return
	}
	q.event.Outcome, q.event.ErrorCode = "protocol_error", "no_answer"
	q.event.ErrorMessage = "no answer was seen: the server or the client ended, or the id was used again"
	s.emit(emit.Record{Event: &q.event, Arguments: q.arguments})
}

// end settles what is still waiting when the session is over.
func (s *session) end() {
	for _, d := range []direction{toServer, toClient} {
		s.pending[d].Purge()
	}
}

// definitions keeps the digest of every tool that a tools/list answer defines,
// and records each definition that is new or has changed.
func (s *session) definitions(q *request, result []byte, at time.Time) {
	var list struct {
		Tools []json.RawMessage `json:"tools"`
	}
	if json.Unmarshal(result, &list) != nil {
		return
	}
	for _, raw := range list.Tools[:min(len(list.Tools), maxTools)] {
		var t struct {
			Name         string          `json:"name"`
			Description  string          `json:"description"`
			InputSchema  json.RawMessage `json:"inputSchema"`
			OutputSchema json.RawMessage `json:"outputSchema"`
			Annotations  struct {
				ReadOnly    *bool `json:"readOnlyHint"`
				Destructive *bool `json:"destructiveHint"`
				Idempotent  *bool `json:"idempotentHint"`
				OpenWorld   *bool `json:"openWorldHint"`
			} `json:"annotations"`
		}
		if json.Unmarshal(raw, &t) != nil || t.Name == "" {
			continue
		}
		schemas, _ := json.Marshal([]json.RawMessage{orNull(t.InputSchema), orNull(t.OutputSchema)})
		digest, signals := s.redact.Definition(t.Description, schemas)
		now := tool{digest: digest, hints: event.DefaultHints}
		for _, h := range []struct {
			said *bool
			hint *bool
		}{{t.Annotations.ReadOnly, &now.hints.ReadOnly}, {t.Annotations.Destructive, &now.hints.Destructive},
			{t.Annotations.Idempotent, &now.hints.Idempotent}, {t.Annotations.OpenWorld, &now.hints.OpenWorld}} {
			if h.said != nil {
				*h.hint = *h.said
			}
		}
		before, known := s.tools.Get(t.Name)
		s.tools.Add(t.Name, now)
		if known && before == now {
			continue
		}
		e := s.base
		e.OccurredAt, e.Kind, e.Method, e.Target = at.UnixMicro(), "tools_list", "tools/list", t.Name
		e.RequestID, e.TraceID, e.SpanID, e.Outcome = q.event.RequestID, q.event.TraceID, q.event.SpanID, "success"
		e.DefinitionDigest, e.Hints, e.ResponseBytes = digest, now.hints, uint64(len(raw))
		e.Signals = signals
		e.Labels = []event.Label{{Key: "definition", Value: "new"}}
		if known {
			e.Labels[0].Value = "changed"
		}
		s.emit(emit.Record{Event: &e})
	}
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}

// withoutMeta drops _meta, which is read apart and differs from call to call.
func withoutMeta(raw json.RawMessage) []byte {
	if len(raw) == 0 || !bytes.Contains(raw, []byte(`"_meta"`)) {
		return raw
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return raw
	}
	delete(m, "_meta")
	out, err := json.Marshal(m)
	if err != nil {
		return raw
	}
	return out
}

// traceContext reads a W3C traceparent (Trace Context, section 3.2): version,
// trace-id, parent-id, flags. Anything malformed is no trace.
func traceContext(parent string) (traceID, spanID string) {
	parts := strings.Split(parent, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" || len(parts[1]) != 32 || len(parts[2]) != 16 {
		return "", ""
	}
	for _, p := range parts[:3] {
		if _, err := hex.DecodeString(p); err != nil || p != strings.ToLower(p) {
			return "", ""
		}
	}
	if n, err := strconv.ParseUint(parts[2], 16, 64); err != nil || n == 0 || parts[1] == strings.Repeat("0", 32) {
		return "", ""
	}
	return parts[1], parts[2]
}
