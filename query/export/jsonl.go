package export

import (
	"encoding/hex"
	"strconv"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// appendLine appends an event as a line of JSONL, line feed included: protojson of
// the Event message with the proto's own names. protojson is slow, and varies its
// white space on purpose; this is one text for one event: fields in the order of
// their numbers, those of a zero value left out, no white space, texts escaped as
// RFC 8785, section 3.2.2.2 has it, labels in the order of their keys.
func appendLine(b []byte, e *event.Event) []byte {
	return append(appendEvent(b, e), '\n')
}

func appendEvent(b []byte, e *event.Event) []byte {
	o := object{b: append(b, `{"event_id":"`...)}
	o.b = append(appendID(o.b, e.EventID), '"')
	o.number("schema", uint64(e.Schema))
	o.text("emitter_id", e.EmitterID)
	o.long("emitter_seq", e.EmitterSeq)
	o.name("occurred_at")
	o.b = append(appendTime(append(o.b, '"'), e.OccurredAt), '"')
	if e.ReceivedAt != 0 {
		o.name("received_at")
		o.b = append(appendTime(append(o.b, '"'), e.ReceivedAt), '"')
	}
	o.name("duration")
	o.b = append(appendDuration(append(o.b, '"'), e.Duration), '"')
	o.text("tenant", e.Tenant)
	o.text("principal", e.Principal)
	o.text("principal_name", e.PrincipalName)
	o.text("principal_kind", e.PrincipalKind)
	o.texts("on_behalf_of", e.OnBehalfOf)
	o.text("agent_id", e.AgentID)
	o.text("agent_name", e.AgentName)
	o.text("model", e.Model)
	o.text("client_name", e.ClientName)
	o.text("client_version", e.ClientVersion)
	o.text("auth_method", e.AuthMethod)
	o.text("credential_id", e.CredentialID)
	o.text("server", e.Server)
	o.text("server_version", e.ServerVersion)
	o.text("server_instance", e.ServerInstance)
	o.text("environment", e.Environment)
	o.text("transport", e.Transport)
	o.text("protocol_version", e.ProtocolVersion)
	o.text("client_ip", e.ClientIP)
	o.text("user_agent", e.UserAgent)
	o.text("kind", e.Kind)
	o.text("method", e.Method)
	o.text("target", e.Target)
	o.digest("definition_digest", &e.DefinitionDigest)
	o.name("hints")
	o.b = appendHints(o.b, e.Hints)
	o.text("request_id", e.RequestID)
	o.text("session_id", e.SessionID)
	o.text("conversation_id", e.ConversationID)
	o.text("task_id", e.TaskID)
	o.text("trace_id", e.TraceID)
	o.text("span_id", e.SpanID)
	o.text("parent_span_id", e.ParentSpanID)
	o.number("attempt", uint64(e.Attempt))
	o.text("decision", e.Decision)
	o.text("decision_reason", e.DecisionReason)
	o.text("policy_id", e.PolicyID)
	o.text("policy_version", e.PolicyVersion)
	o.texts("scopes_required", e.ScopesRequired)
	o.texts("scopes_granted", e.ScopesGranted)
	o.text("outcome", e.Outcome)
	o.text("error_code", e.ErrorCode)
	o.text("error_message", e.ErrorMessage)
	o.number("http_status", uint64(e.HTTPStatus))
	o.long("request_bytes", e.RequestBytes)
	o.long("response_bytes", e.ResponseBytes)
	o.text("arguments", e.Arguments)
	o.yes("truncated", e.Truncated)
	o.long("original_bytes", e.OriginalBytes)
	o.digest("arguments_digest", &e.ArgumentsDigest)
	o.digest("result_digest", &e.ResultDigest)
	o.digest("arguments_shape", &e.ArgumentsShape)
	o.texts("signals", e.Signals)
	if len(e.ArgumentMarks) > 0 {
		o.name("argument_marks")
		o.b = appendMarks(o.b, e.ArgumentMarks)
	}
	if len(e.ResultMarks) > 0 {
		o.name("result_marks")
		o.b = appendMarks(o.b, e.ResultMarks)
	}
	o.text("redaction_profile", e.RedactionProfile)
	o.text("redaction_profile_version", e.RedactionProfileVersion)
	o.text("redaction_error", e.RedactionError)
	if len(e.Removed) > 0 {
		o.name("removed")
		o.b = appendRemoved(o.b, e.Removed)
	}
	o.number("removed_count", uint64(e.RemovedCount))
	o.text("log_id", e.LogID)
	o.long("batch", e.Batch)
	o.number("leaf", uint64(e.Leaf))
	if e.ExpiresMonth != 0 {
		o.name("expires_month")
		o.b = append(appendMonth(append(o.b, '"'), e.ExpiresMonth), '"')
	}
	if len(e.Labels) > 0 {
		o.name("labels")
		o.b = appendLabels(o.b, e.Labels)
	}
	return append(o.b, '}')
}

// object appends the members of a JSON object. As in protojson, a zero value is left
// out.
type object struct{ b []byte }

func (o *object) name(name string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) text(name, s string) {
	if s != "" {
		o.name(name)
		o.b = appendQuoted(o.b, s)
	}
}

func (o *object) texts(name string, ss []string) {
	if len(ss) > 0 {
		o.name(name)
		o.b = appendTexts(o.b, ss)
	}
}

func (o *object) number(name string, n uint64) {
	if n != 0 {
		o.name(name)
		o.b = strconv.AppendUint(o.b, n, 10)
	}
}

// long is a 64-bit number, which protojson quotes.
func (o *object) long(name string, n uint64) {
	if n != 0 {
		o.name(name)
		o.b = append(strconv.AppendUint(append(o.b, '"'), n, 10), '"')
	}
}

func (o *object) yes(name string, v bool) {
	if v {
		o.name(name)
		o.b = append(o.b, "true"...)
	}
}

func (o *object) digest(name string, d *event.Digest) {
	if *d != (event.Digest{}) {
		o.name(name)
		o.b = append(hex.AppendEncode(append(o.b, '"'), d[:]), '"')
	}
}

func appendTexts(b []byte, ss []string) []byte {
	b = append(b, '[')
	for i, s := range ss {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendQuoted(b, s)
	}
	return append(b, ']')
}

func appendHints(b []byte, h event.Hints) []byte {
	b = strconv.AppendBool(append(b, `{"read_only":`...), h.ReadOnly)
	b = strconv.AppendBool(append(b, `,"destructive":`...), h.Destructive)
	b = strconv.AppendBool(append(b, `,"idempotent":`...), h.Idempotent)
	b = strconv.AppendBool(append(b, `,"open_world":`...), h.OpenWorld)
	return append(b, '}')
}

func appendMarks(b []byte, ms []event.Mark) []byte {
	b = append(b, '[')
	for i, m := range ms {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		if m.Hash != 0 {
			b = append(strconv.AppendUint(append(b, `"hash":"`...), m.Hash, 10), `",`...)
		}
		b = appendQuoted(append(b, `"class":`...), m.Class)
		if m.NearInstruction {
			b = append(b, `,"near_instruction":true`...)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendRemoved(b []byte, rs []event.Removal) []byte {
	b = append(b, '[')
	for i, r := range rs {
		if i > 0 {
			b = append(b, ',')
		}
		switch {
		case r.Path == "" && r.Class == "":
			b = append(b, `{}`...)
			continue
		case r.Path == "":
			b = appendQuoted(append(b, `{"class":`...), r.Class)
		case r.Class == "":
			b = appendQuoted(append(b, `{"path":`...), r.Path)
		default:
			b = appendQuoted(append(b, `{"path":`...), r.Path)
			b = appendQuoted(append(b, `,"class":`...), r.Class)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendLabels(b []byte, ls []event.Label) []byte {
	b = append(b, '{')
	for i, l := range ls {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, l.Key), ':')
		b = appendQuoted(b, l.Value)
	}
	return append(b, '}')
}

func appendID(b []byte, id event.ID) []byte {
	b = append(hex.AppendEncode(b, id[:4]), '-')
	b = append(hex.AppendEncode(b, id[4:6]), '-')
	b = append(hex.AppendEncode(b, id[6:8]), '-')
	b = append(hex.AppendEncode(b, id[8:10]), '-')
	return hex.AppendEncode(b, id[10:])
}

// appendTime is a time in microseconds since 1970 as RFC 3339 in UTC, with no, 3 or
// 6 digits behind the second.
func appendTime(b []byte, micros int64) []byte {
	t := time.UnixMicro(micros).UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = append(appendPadded(b, uint64(year), 4), '-')
	b = append(appendPadded(b, uint64(month), 2), '-')
	b = append(appendPadded(b, uint64(day), 2), 'T')
	b = append(appendPadded(b, uint64(hour), 2), ':')
	b = append(appendPadded(b, uint64(minute), 2), ':')
	b = appendPadded(b, uint64(second), 2)
	return append(appendFraction(b, uint64(t.Nanosecond()/1000)), 'Z')
}

// appendDuration is microseconds as protojson writes a Duration, such as 1.500s.
func appendDuration(b []byte, micros uint64) []byte {
	b = strconv.AppendUint(b, micros/1e6, 10)
	return append(appendFraction(b, micros%1e6), 's')
}

func appendFraction(b []byte, micros uint64) []byte {
	switch {
	case micros == 0:
		return b
	case micros%1000 == 0:
		return appendPadded(append(b, '.'), micros/1000, 3)
	}
	return appendPadded(append(b, '.'), micros, 6)
}

// appendMonth is a day, counted from 1970-01-01, as YYYY-MM.
func appendMonth(b []byte, day uint16) []byte {
	return time.Unix(int64(day)*86400, 0).UTC().AppendFormat(b, "2006-01")
}

func appendPadded(b []byte, n uint64, digits int) []byte {
	at := len(b)
	for range digits {
		b = append(b, '0')
	}
	for i := len(b) - 1; i >= at && n > 0; i-- {
		b[i] += byte(n % 10)
		n /= 10
	}
	return b
}

// appendQuoted is a text of valid UTF-8 as a JSON string.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\f':
			b = append(b, '\\', 'f')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}

const hexDigits = "0123456789abcdef"
