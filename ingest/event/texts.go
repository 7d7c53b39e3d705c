package event

// Text is one text of the record. Check, Clip and the second pass of redaction
// go through [Texts] and [Lists], so that none of them can forget a field.
type Text struct {
	Name  string // of the column
	Limit int    // most bytes
	Of    func(*Event) *string
}

// TextList is one list of texts.
type TextList struct {
	Name  string
	Most  int // entries
	Limit int // bytes of each
	Of    func(*Event) *[]string
}

// Texts are the texts of an event as an emitter sends it, but for the closed
// sets and the arguments. Those that the service sets (log_id) are not among
// them.
var Texts = []Text{
	{"emitter_id", MaxID, func(e *Event) *string { return &e.EmitterID }},
	{"tenant", MaxID, func(e *Event) *string { return &e.Tenant }},
	{"principal", MaxText, func(e *Event) *string { return &e.Principal }},
	{"principal_name", MaxText, func(e *Event) *string { return &e.PrincipalName }},
	{"agent_id", MaxID, func(e *Event) *string { return &e.AgentID }},
	{"agent_name", MaxID, func(e *Event) *string { return &e.AgentName }},
	{"model", MaxID, func(e *Event) *string { return &e.Model }},
	{"client_name", MaxID, func(e *Event) *string { return &e.ClientName }},
	{"client_version", MaxID, func(e *Event) *string { return &e.ClientVersion }},
	{"auth_method", MaxID, func(e *Event) *string { return &e.AuthMethod }},
	{"credential_id", MaxID, func(e *Event) *string { return &e.CredentialID }},
	{"server", MaxID, func(e *Event) *string { return &e.Server }},
	{"server_version", MaxID, func(e *Event) *string { return &e.ServerVersion }},
	{"server_instance", MaxID, func(e *Event) *string { return &e.ServerInstance }},
	{"environment", MaxID, func(e *Event) *string { return &e.Environment }},
	{"protocol_version", MaxID, func(e *Event) *string { return &e.ProtocolVersion }},
	{"client_ip", MaxID, func(e *Event) *string { return &e.ClientIP }},
	{"user_agent", MaxText, func(e *Event) *string { return &e.UserAgent }},
	{"method", MaxID, func(e *Event) *string { return &e.Method }},
	{"target", MaxText, func(e *Event) *string { return &e.Target }},
	{"request_id", MaxID, func(e *Event) *string { return &e.RequestID }},
	{"session_id", MaxID, func(e *Event) *string { return &e.SessionID }},
	{"conversation_id", MaxID, func(e *Event) *string { return &e.ConversationID }},
	{"task_id", MaxID, func(e *Event) *string { return &e.TaskID }},
	{"trace_id", MaxID, func(e *Event) *string { return &e.TraceID }},
	{"span_id", MaxID, func(e *Event) *string { return &e.SpanID }},
	{"parent_span_id", MaxID, func(e *Event) *string { return &e.ParentSpanID }},
	{"decision_reason", MaxText, func(e *Event) *string { return &e.DecisionReason }},
	{"policy_id", MaxID, func(e *Event) *string { return &e.PolicyID }},
	{"policy_version", MaxID, func(e *Event) *string { return &e.PolicyVersion }},
	{"error_code", MaxID, func(e *Event) *string { return &e.ErrorCode }},
	{"error_message", MaxText, func(e *Event) *string { return &e.ErrorMessage }},
	{"redaction_profile", MaxID, func(e *Event) *string { return &e.RedactionProfile }},
	{"redaction_profile_version", MaxID, func(e *Event) *string { return &e.RedactionProfileVersion }},
	{"redaction_error", MaxID, func(e *Event) *string { return &e.RedactionError }},
}

// Lists are the lists of texts. Labels and removals, whose entries are pairs,
// are not among them.
var Lists = []TextList{
	{"on_behalf_of", MaxList, MaxText, func(e *Event) *[]string { return &e.OnBehalfOf }},
	{"scopes_required", MaxList, MaxText, func(e *Event) *[]string { return &e.ScopesRequired }},
	{"scopes_granted", MaxList, MaxText, func(e *Event) *[]string { return &e.ScopesGranted }},
	{"signals", MaxSignals, MaxText, func(e *Event) *[]string { return &e.Signals }},
}
