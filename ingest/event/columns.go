package event

// Column is one hashed column of the events table.
type Column struct {
	Name string
	Type string // as ClickHouse prints it
}

// Columns are the hashed columns of schema 1, in the order in which [AppendRow]
// writes them. The events table has them under the same names; columns that it
// has beyond these (none today) are not hashed and must be derived.
//
// The list never changes for a schema version that has been released: a new
// column is a new schema version.
var Columns = []Column{
	{"event_id", "UUID"},
	{"schema", "UInt16"},
	{"emitter_id", lowCardinality},
	{"emitter_seq", "UInt64"},
	{"occurred_at", "DateTime64(6, 'UTC')"},
	{"received_at", "DateTime64(6, 'UTC')"},
	{"duration_us", "UInt64"},
	{"tenant", lowCardinality},
	{"principal", "String"},
	{"principal_name", "String"},
	{"principal_kind", lowCardinality},
	{"on_behalf_of", "Array(String)"},
	{"agent_id", "String"},
	{"agent_name", lowCardinality},
	{"model", lowCardinality},
	{"client_name", lowCardinality},
	{"client_version", lowCardinality},
	{"auth_method", lowCardinality},
	{"credential_id", "String"},
	{"server", lowCardinality},
	{"server_version", lowCardinality},
	{"server_instance", lowCardinality},
	{"environment", lowCardinality},
	{"transport", lowCardinality},
	{"protocol_version", lowCardinality},
	{"client_ip", "String"},
	{"user_agent", lowCardinality},
	{"kind", lowCardinality},
	{"method", lowCardinality},
	{"target", lowCardinality},
	{"definition_digest", digestType},
	{"hint_read_only", "Bool"},
	{"hint_destructive", "Bool"},
	{"hint_idempotent", "Bool"},
	{"hint_open_world", "Bool"},
	{"request_id", "String"},
	{"session_id", "String"},
	{"conversation_id", "String"},
	{"task_id", "String"},
	{"trace_id", "String"},
	{"span_id", "String"},
	{"parent_span_id", "String"},
	{"attempt", "UInt32"},
	{"decision", lowCardinality},
	{"decision_reason", "String"},
	{"policy_id", lowCardinality},
	{"policy_version", lowCardinality},
	{"scopes_required", stringArray},
	{"scopes_granted", stringArray},
	{"outcome", lowCardinality},
	{"error_code", lowCardinality},
	{"error_message", "String"},
	{"http_status", "UInt16"},
	{"request_bytes", "UInt64"},
	{"response_bytes", "UInt64"},
	{"arguments", "String"},
	{"truncated", "Bool"},
	{"original_bytes", "UInt64"},
	{"arguments_digest", digestType},
	{"result_digest", digestType},
	{"arguments_shape", digestType},
	{"signals", stringArray},
	{"argument_marks.hash", "Array(UInt64)"},
	{"argument_marks.class", stringArray},
	{"result_marks.hash", "Array(UInt64)"},
	{"result_marks.class", stringArray},
	{"result_marks.near_instruction", "Array(Bool)"},
	{"redaction_profile", lowCardinality},
	{"redaction_profile_version", lowCardinality},
	{"redaction_error", lowCardinality},
	{"removed.path", stringArray},
	{"removed.class", stringArray},
	{"removed_count", "UInt32"},
	{"log_id", lowCardinality},
	{"batch", "UInt64"},
	{"leaf", "UInt32"},
	{"expires_month", "Date"},
	{"labels", "Map(LowCardinality(String), String)"},
}

const (
	lowCardinality = "LowCardinality(String)"
	stringArray    = "Array(LowCardinality(String))"
	digestType     = "FixedString(16)"
)
