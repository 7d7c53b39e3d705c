package event

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// Limits of one event. They bound what a hostile emitter can make the service
// hold, and they leave room for anything a real MCP server says.
const (
	MaxID        = 256     // bytes in an id, a name or a version
	MaxText      = 2048    // bytes in a principal, target, user agent, reason or message
	MaxArguments = 1 << 20 // bytes of redacted arguments; redaction cuts at 16 KiB unless configured
	MaxList      = 64      // scopes, delegation links, labels
	MaxSignals   = 128
	MaxMarks     = 256 // marks of the arguments, and of the result
	MaxRemoved   = 256 // removals listed; RemovedCount counts all
	MaxLabelKey  = 128

	minOccurred = 946684800_000000  // 2000-01-01: before it, a clock was never set
	maxOccurred = 7258118400_000000 // 2200-01-01: inside DateTime64's range with room to spare
)

// A Violation says which field of an event breaks which limit. Its text is safe
// to send back: it never holds the field's value.
type Violation struct {
	Field  string
	Reason string
}

func (v *Violation) Error() string { return v.Field + ": " + v.Reason }

// Check says what is wrong with an event as an emitter sends it, or nil. The
// error is a *Violation. Events that SetDefaults completed are what it expects.
func (e *Event) Check() error {
	switch {
	case e.EventID.Version() != 7 || e.EventID[8]&0xc0 != 0x80:
		return &Violation{"event_id", "must be a UUID version 7"}
	case e.Schema != Schema:
		return &Violation{"schema", fmt.Sprintf("is %d, this service knows %d; upgrade the service or the emitter", e.Schema, Schema)}
	case e.EmitterID == "":
		return &Violation{"emitter_id", "is required"}
	case e.EmitterSeq == 0:
		return &Violation{"emitter_seq", "is required and starts at 1"}
	case e.OccurredAt < minOccurred || e.OccurredAt > maxOccurred:
		return &Violation{"occurred_at", "must lie between the years 2000 and 2200; set the emitter's clock"}
	case e.Duration > 1<<53:
		return &Violation{"duration", "is longer than 285 years"}
	}
	for _, c := range [...]struct {
		field, value string
		set          []string
	}{
		{"kind", e.Kind, Kinds}, {"principal_kind", e.PrincipalKind, PrincipalKinds},
		{"decision", e.Decision, Decisions}, {"outcome", e.Outcome, Outcomes},
	} {
		if !slices.Contains(c.set, c.value) {
			return &Violation{c.field, fmt.Sprintf("must be one of %v", c.set)}
		}
	}
	if e.Transport != "" && !slices.Contains(Transports, e.Transport) {
		return &Violation{"transport", fmt.Sprintf("must be one of %v", Transports)}
	}
	if v := e.checkText(); v != nil {
		return v
	}
	if v := e.checkLists(); v != nil {
		return v
	}
	return nil
}

func (e *Event) checkText() *Violation {
	for _, t := range [...]struct {
		field, value string
		max          int
	}{
		{"emitter_id", e.EmitterID, MaxID}, {"tenant", e.Tenant, MaxID},
		{"principal", e.Principal, MaxText}, {"principal_name", e.PrincipalName, MaxText},
		{"agent_id", e.AgentID, MaxID}, {"agent_name", e.AgentName, MaxID}, {"model", e.Model, MaxID},
		{"client_name", e.ClientName, MaxID}, {"client_version", e.ClientVersion, MaxID},
		{"auth_method", e.AuthMethod, MaxID}, {"credential_id", e.CredentialID, MaxID},
		{"server", e.Server, MaxID}, {"server_version", e.ServerVersion, MaxID},
		{"server_instance", e.ServerInstance, MaxID}, {"environment", e.Environment, MaxID},
		{"protocol_version", e.ProtocolVersion, MaxID}, {"client_ip", e.ClientIP, MaxID},
		{"user_agent", e.UserAgent, MaxText}, {"method", e.Method, MaxID}, {"target", e.Target, MaxText},
		{"request_id", e.RequestID, MaxID}, {"session_id", e.SessionID, MaxID},
		{"conversation_id", e.ConversationID, MaxID}, {"task_id", e.TaskID, MaxID},
		{"trace_id", e.TraceID, MaxID}, {"span_id", e.SpanID, MaxID}, {"parent_span_id", e.ParentSpanID, MaxID},
		{"decision_reason", e.DecisionReason, MaxText}, {"policy_id", e.PolicyID, MaxID},
		{"policy_version", e.PolicyVersion, MaxID}, {"error_code", e.ErrorCode, MaxID},
		{"error_message", e.ErrorMessage, MaxText}, {"arguments", e.Arguments, MaxArguments},
		{"redaction_profile", e.RedactionProfile, MaxID},
		{"redaction_profile_version", e.RedactionProfileVersion, MaxID},
		{"redaction_error", e.RedactionError, MaxID},
	} {
		if v := checkString(t.field, t.value, t.max); v != nil {
			return v
		}
	}
	return nil
}

func (e *Event) checkLists() *Violation {
	for _, l := range [...]struct {
		field  string
		values []string
		max    int
	}{
		{"on_behalf_of", e.OnBehalfOf, MaxList}, {"scopes_required", e.ScopesRequired, MaxList},
		{"scopes_granted", e.ScopesGranted, MaxList}, {"signals", e.Signals, MaxSignals},
	} {
		if len(l.values) > l.max {
			return tooMany(l.field, len(l.values), l.max)
		}
		for _, s := range l.values {
			if v := checkString(l.field, s, MaxText); v != nil {
				return v
			}
		}
	}
	for _, m := range [...]struct {
		field string
		marks []Mark
	}{{"argument_marks", e.ArgumentMarks}, {"result_marks", e.ResultMarks}} {
		if len(m.marks) > MaxMarks {
			return tooMany(m.field, len(m.marks), MaxMarks)
		}
		for i := range m.marks {
			if !slices.Contains(MarkClasses, m.marks[i].Class) {
				return &Violation{m.field, fmt.Sprintf("class must be one of %v", MarkClasses)}
			}
		}
	}
	if len(e.Removed) > MaxRemoved {
		return tooMany("removed", len(e.Removed), MaxRemoved)
	}
	for _, r := range e.Removed {
		if v := checkString("removed", r.Path, MaxText); v != nil {
			return v
		}
		if v := checkString("removed", r.Class, MaxID); v != nil {
			return v
		}
	}
	if len(e.Labels) > MaxList {
		return tooMany("labels", len(e.Labels), MaxList)
	}
	for _, l := range e.Labels {
		if v := checkString("labels", l.Key, MaxLabelKey); v != nil {
			return v
		}
		if v := checkString("labels", l.Value, MaxText); v != nil {
			return v
		}
	}
	return nil
}

func checkString(field, s string, limit int) *Violation {
	if len(s) > limit {
		return &Violation{field, fmt.Sprintf("has %d bytes, at most %d are taken", len(s), limit)}
	}
	if !utf8.ValidString(s) {
		return &Violation{field, "is not valid UTF-8"}
	}
	return nil
}

func tooMany(field string, n, limit int) *Violation {
	return &Violation{field, fmt.Sprintf("has %d entries, at most %d are taken", n, limit)}
}

// Clip cuts every over-long text and list to its limit, at a rune's border, and
// replaces invalid UTF-8, so that an emitter never has an event rejected for
// what a client or a tool said. It reports whether it cut anything.
func (e *Event) Clip() bool {
	cut := false
	clip := func(s *string, limit int) {
		if t := ClipText(*s, limit); t != *s {
			*s, cut = t, true
		}
	}
	for _, s := range []*string{&e.EmitterID, &e.Tenant, &e.AgentID, &e.AgentName, &e.Model, &e.ClientName,
		&e.ClientVersion, &e.AuthMethod, &e.CredentialID, &e.Server, &e.ServerVersion, &e.ServerInstance,
		&e.Environment, &e.ProtocolVersion, &e.ClientIP, &e.Method, &e.RequestID, &e.SessionID,
		&e.ConversationID, &e.TaskID, &e.TraceID, &e.SpanID, &e.ParentSpanID, &e.PolicyID, &e.PolicyVersion,
		&e.ErrorCode} {
		clip(s, MaxID)
	}
	for _, s := range []*string{&e.Principal, &e.PrincipalName, &e.UserAgent, &e.Target, &e.DecisionReason,
		&e.ErrorMessage} {
		clip(s, MaxText)
	}
	for _, l := range []*[]string{&e.OnBehalfOf, &e.ScopesRequired, &e.ScopesGranted} {
		if len(*l) > MaxList {
			*l, cut = (*l)[:MaxList], true
		}
		for i := range *l {
			clip(&(*l)[i], MaxText)
		}
	}
	if len(e.Labels) > MaxList {
		e.Labels, cut = e.Labels[:MaxList], true
	}
	for i := range e.Labels {
		clip(&e.Labels[i].Key, MaxLabelKey)
		clip(&e.Labels[i].Value, MaxText)
	}
	return cut
}

// ClipText returns s as valid UTF-8 of at most limit bytes, ending in "…" when
// it was cut.
func ClipText(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) {
		return s
	}
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	if len(s) <= limit {
		return s
	}
	const ellipsis = "…"
	end := max(limit-len(ellipsis), 0)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}
