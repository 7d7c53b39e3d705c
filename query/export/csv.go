package export

import (
	"encoding/hex"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// csvColumns are the fields of the Event message in the order of their numbers.
var csvColumns = []string{"event_id", "schema", "emitter_id", "emitter_seq", "occurred_at", "received_at", "duration", "tenant", "principal",
	"principal_name", "principal_kind", "on_behalf_of", "agent_id", "agent_name", "model", "client_name", "client_version", "auth_method",
	"credential_id", "server", "server_version", "server_instance", "environment", "transport", "protocol_version", "client_ip", "user_agent",
	"kind", "method", "target", "definition_digest", "hints", "request_id", "session_id", "conversation_id", "task_id", "trace_id", "span_id",
	"parent_span_id", "attempt", "decision", "decision_reason", "policy_id", "policy_version", "scopes_required", "scopes_granted", "outcome",
	"error_code", "error_message", "http_status", "request_bytes", "response_bytes", "arguments", "truncated", "original_bytes",
	"arguments_digest", "result_digest", "arguments_shape", "signals", "argument_marks", "result_marks", "redaction_profile",
	"redaction_profile_version", "redaction_error", "removed", "removed_count", "log_id", "batch", "leaf", "expires_month", "labels"}

var csvHead = strings.Join(csvColumns, ",") + "\r\n"

// appendCSV appends an event as a record of RFC 4180: numbers and times bare, texts
// always in double quotes, lists and labels as JSON in a text, and an empty cell for
// what is empty.
//
// A text that a spreadsheet could take for a formula begins with an apostrophe that
// is not its own (OWASP, CSV Injection); see risky. So does one that begins with an
// apostrophe, so that who takes one apostrophe off each text that begins with one
// has the texts as they were.
func appendCSV(b []byte, e *event.Event) []byte {
	c := cells{b: appendID(b, e.EventID)}
	c.number(uint64(e.Schema))
	c.text(e.EmitterID)
	c.number(e.EmitterSeq)
	c.next()
	c.b = appendTime(c.b, e.OccurredAt)
	c.next()
	if e.ReceivedAt != 0 {
		c.b = appendTime(c.b, e.ReceivedAt)
	}
	c.next()
	c.b = appendDuration(c.b, e.Duration)
	c.text(e.Tenant, e.Principal, e.PrincipalName, e.PrincipalKind)
	c.json(len(e.OnBehalfOf), appendTexts(c.scratch[:0], e.OnBehalfOf))
	c.text(e.AgentID, e.AgentName, e.Model, e.ClientName, e.ClientVersion, e.AuthMethod, e.CredentialID, e.Server, e.ServerVersion,
		e.ServerInstance, e.Environment, e.Transport, e.ProtocolVersion, e.ClientIP, e.UserAgent, e.Kind, e.Method, e.Target)
	c.digest(&e.DefinitionDigest)
	c.json(1, appendHints(c.scratch[:0], e.Hints))
	c.text(e.RequestID, e.SessionID, e.ConversationID, e.TaskID, e.TraceID, e.SpanID, e.ParentSpanID)
	c.number(uint64(e.Attempt))
	c.text(e.Decision, e.DecisionReason, e.PolicyID, e.PolicyVersion)
	c.json(len(e.ScopesRequired), appendTexts(c.scratch[:0], e.ScopesRequired))
	c.json(len(e.ScopesGranted), appendTexts(c.scratch[:0], e.ScopesGranted))
	c.text(e.Outcome, e.ErrorCode, e.ErrorMessage)
	c.number(uint64(e.HTTPStatus))
	c.number(e.RequestBytes)
	c.number(e.ResponseBytes)
	c.text(e.Arguments)
	c.next()
	c.b = strconv.AppendBool(c.b, e.Truncated)
	c.number(e.OriginalBytes)
	c.digest(&e.ArgumentsDigest)
	c.digest(&e.ResultDigest)
	c.digest(&e.ArgumentsShape)
	c.json(len(e.Signals), appendTexts(c.scratch[:0], e.Signals))
	c.json(len(e.ArgumentMarks), appendMarks(c.scratch[:0], e.ArgumentMarks))
	c.json(len(e.ResultMarks), appendMarks(c.scratch[:0], e.ResultMarks))
	c.text(e.RedactionProfile, e.RedactionProfileVersion, e.RedactionError)
	c.json(len(e.Removed), appendRemoved(c.scratch[:0], e.Removed))
	c.number(uint64(e.RemovedCount))
	c.text(e.LogID)
	c.number(e.Batch)
	c.number(uint64(e.Leaf))
	c.next()
	if e.ExpiresMonth != 0 {
		c.b = appendMonth(c.b, e.ExpiresMonth)
	}
	c.json(len(e.Labels), appendLabels(c.scratch[:0], e.Labels))
	return append(c.b, "\r\n"...)
}

// cells appends the cells of a record, of which the first is there already.
type cells struct{ b, scratch []byte }

func (c *cells) next() { c.b = append(c.b, ',') }

func (c *cells) number(n uint64) {
	c.next()
	c.b = strconv.AppendUint(c.b, n, 10)
}

func (c *cells) text(texts ...string) {
	for _, s := range texts {
		c.next()
		if s == "" {
			continue
		}
		c.b = append(c.b, '"')
		if risky(s) {
			c.b = append(c.b, '\'')
		}
		c.b = appendDoubled(c.b, s)
		c.b = append(c.b, '"')
	}
}

// json appends a list of n entries, or an object, as JSON.
func (c *cells) json(n int, text []byte) {
	c.scratch = text
	if c.next(); n == 0 {
		return
	}
	c.b = append(appendDoubled(append(c.b, '"'), text), '"')
}

func (c *cells) digest(d *event.Digest) {
	c.next()
	if *d != (event.Digest{}) {
		// In quotes: a spreadsheet would take some for numbers.
		c.b = append(hex.AppendEncode(append(c.b, '"'), d[:]), '"')
	}
}

// appendDoubled appends a text with each double quote twice.
func appendDoubled[T string | []byte](b []byte, s T) []byte {
	from := 0
	for i := range len(s) {
		if s[i] == '"' {
			b = append(append(b, s[from:i+1]...), '"')
			from = i + 1
		}
	}
	return append(b, s[from:]...)
}

// risky says that a text may be taken for a formula, or begins with the apostrophe
// that marks those. Spreadsheets look for = + - @ and, in East Asian versions, for
// their full-width forms; a tab, a carriage return or a line feed makes some look
// behind it, and so may what doesn't show, so that all of it is passed over here.
func risky(s string) bool {
	for i, r := range s {
		switch r {
		case '=', '+', '-', '@', '\uff1d', '\uff0b', '\uff0d', '\uff20', '\u2212':
			return true
		case '\'', '\t', '\r', '\n', 0:
			if i == 0 {
				return true
			}
		}
		if r < utf8.RuneSelf && r > ' ' && r != 0x7f && r != '\'' && r != '"' {
			return false
		}
		if r >= utf8.RuneSelf && !unicode.In(r, unicode.Cc, unicode.Cf, unicode.Z, unicode.Mn) {
			return false
		}
	}
	return false
}
