package export

import (
	"encoding/hex"
	"net/netip"
	"strconv"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// ocsf is an event as OCSF 1.9 (https://schema.ocsf.io) has it, one JSON object a
// line: class API Activity (6003) with the profiles ai_operation, record_integrity,
// security_control and trace. What has no place in the class is under unmapped, by
// the names of the Event message and in their form.
func ocsf(version string) func(b []byte, e *event.Event) []byte {
	return func(b []byte, e *event.Event) []byte {
		o := object{b: append(b, '{')}
		o.ocsfBase(e)
		o.ocsfMetadata(e, version)
		o.ocsfActor(e)
		o.ocsfAPI(e)
		o.ocsfEndpoints(e)
		o.ocsfAI(e)
		o.ocsfTrace(e)
		o.ocsfAttestation(e)
		o.ocsfUnmapped(e)
		return append(o.b, "}\n"...)
	}
}

// named is a value of one of OCSF's enumerations.
type named struct {
	id   int
	name string
}

func (o *object) enum(name string, n named) {
	o.name(name + "_id")
	o.b = strconv.AppendInt(o.b, int64(n.id), 10)
	o.text(name, n.name)
}

func (o *object) integer(name string, n int64) {
	o.name(name)
	o.b = strconv.AppendInt(o.b, n, 10)
}

// open begins an object within the object, shut ends it.
func (o *object) open(name string) {
	o.name(name)
	o.b = append(o.b, '{')
}

func (o *object) shut() { o.b = append(o.b, '}') }

// list begins a list of one object, unlist ends it.
func (o *object) list(name string) {
	o.name(name)
	o.b = append(o.b, '[', '{')
}

func (o *object) unlist() { o.b = append(o.b, '}', ']') }

const apiActivity = 6003

func (o *object) ocsfBase(e *event.Event) {
	activity := ocsfActivity(e)
	o.integer("activity_id", int64(activity.id))
	o.text("activity_name", activity.name)
	o.integer("category_uid", 6)
	o.text("category_name", "Application Activity")
	o.integer("class_uid", apiActivity)
	o.text("class_name", "API Activity")
	o.integer("type_uid", int64(apiActivity*100+activity.id))
	o.text("type_name", "API Activity: "+activity.name)
	o.enum("severity", ocsfSeverity(e))
	o.enum("status", ocsfStatus(e))
	o.text("status_code", e.ErrorCode)
	o.text("status_detail", e.ErrorMessage)
	o.integer("time", e.OccurredAt/1000)
	switch e.Decision {
	case "allow":
		o.enum("action", named{1, "Allowed"})
		o.enum("disposition", named{1, "Allowed"})
	case "deny":
		o.enum("action", named{2, "Denied"})
		o.enum("disposition", named{2, "Blocked"})
	default:
		o.enum("action", named{3, "Observed"})
		o.enum("disposition", named{17, "Logged"})
	}
}

// ocsfActivity: a tool that says of itself that it only reads is read; what another
// tool does is not known, and "call" says no more than that.
func ocsfActivity(e *event.Event) named {
	switch e.Kind {
	case "tool_call":
		if e.Hints.ReadOnly {
			return named{2, "Read"}
		}
		return named{99, "Call"}
	case "tools_list", "resource_read", "prompt_get", "completion":
		return named{2, "Read"}
	}
	return named{99, e.Kind}
}

func ocsfSeverity(e *event.Event) named {
	switch {
	case e.Outcome == "denied" || e.Decision == "deny":
		return named{3, "Medium"}
	case e.Outcome == "success" || e.Outcome == "input_required":
		return named{1, "Informational"}
	}
	return named{2, "Low"}
}

func ocsfStatus(e *event.Event) named {
	switch e.Outcome {
	case "success":
		return named{1, "Success"}
	case "cancelled", "input_required":
		return named{99, e.Outcome}
	}
	return named{2, "Failure"}
}

func (o *object) ocsfMetadata(e *event.Event, version string) {
	o.open("metadata")
	o.text("version", "1.9.0")
	o.open("product")
	o.text("name", "mcpaudit")
	o.text("vendor_name", "mcpaudit")
	o.text("version", version)
	o.shut()
	o.name("profiles")
	o.b = append(o.b, `["ai_operation","record_integrity","security_control","trace"]`...)
	o.text("uid", e.EventID.String())
	o.text("event_code", e.Kind)
	o.text("log_name", e.LogID)
	if e.ReceivedAt != 0 {
		o.integer("logged_time", e.ReceivedAt/1000)
	}
	o.text("tenant_uid", e.Tenant)
	o.text("correlation_uid", e.ConversationID)
	o.shut()
}

var ocsfUserTypes = map[string]named{"human": {1, "User"}, "service": {4, "Service"}, "agent": {99, "agent"}}

func (o *object) ocsfActor(e *event.Event) {
	o.open("actor")
	o.open("user")
	name := e.PrincipalName
	if e.Principal == "" && name == "" {
		name = "anonymous"
	}
	o.text("name", name)
	o.text("uid", e.Principal)
	kind, ok := ocsfUserTypes[e.PrincipalKind]
	if !ok {
		kind = named{0, "Unknown"}
	}
	o.enum("type", kind)
	o.text("credential_uid", e.CredentialID)
	o.shut()
	if e.SessionID != "" {
		o.open("session")
		o.text("uid", e.SessionID)
		o.shut()
	}
	o.text("app_name", e.ClientName)
	if e.Decision != "none" {
		o.list("authorizations")
		o.text("decision", e.Decision)
		if e.PolicyID != "" {
			o.open("policy")
			o.text("uid", e.PolicyID)
			o.text("version", e.PolicyVersion)
			o.shut()
		}
		o.unlist()
	}
	o.shut()
}

func (o *object) ocsfAPI(e *event.Event) {
	o.open("api")
	operation := e.Method
	if operation == "" {
		operation = e.Kind
	}
	o.text("operation", operation)
	o.text("version", e.ProtocolVersion)
	if e.Server != "" {
		o.open("service")
		o.text("name", e.Server)
		o.text("version", e.ServerVersion)
		o.shut()
	}
	uid := e.RequestID
	if uid == "" {
		uid = e.EventID.String()
	}
	o.open("request")
	o.text("uid", uid)
	o.text("data", e.Arguments)
	o.shut()
	o.open("response")
	o.text("error", e.ErrorCode)
	o.text("error_message", e.ErrorMessage)
	o.shut()
	o.shut()
	if e.Target != "" {
		o.list("resources")
		o.text("name", e.Target)
		o.text("type", e.Kind)
		o.enum("role", named{1, "Target"})
		o.unlist()
	}
}

func (o *object) ocsfEndpoints(e *event.Event) {
	name := e.ClientName
	if name == "" {
		name = "unknown"
	}
	o.open("src_endpoint")
	o.text("name", name)
	if ocsfIP(e.ClientIP) {
		o.text("ip", e.ClientIP)
	}
	o.shut()
	if e.Server != "" || e.ServerInstance != "" {
		o.open("dst_endpoint")
		o.text("svc_name", e.Server)
		o.text("instance_uid", e.ServerInstance)
		o.shut()
	}
	if e.UserAgent != "" {
		o.open("http_request")
		o.text("user_agent", e.UserAgent)
		o.shut()
	}
	if e.HTTPStatus != 0 {
		o.open("http_response")
		o.integer("code", int64(e.HTTPStatus))
		o.shut()
	}
}

// ocsfIP says that a text is what OCSF takes for an address (type ip_t).
func ocsfIP(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && len(s) <= 40 && ip.Zone() == "" && !ip.Is4In6()
}

func (o *object) ocsfAI(e *event.Event) {
	model := func() {
		if e.Model != "" {
			o.open("ai_model")
			o.text("name", e.Model)
			o.text("ai_provider", "unknown") // nobody says it
			o.shut()
		}
	}
	if e.AgentID != "" || e.AgentName != "" {
		o.open("ai_agent")
		o.text("uid", e.AgentID)
		o.text("name", e.AgentName)
		model()
		o.shut()
	} else {
		model()
	}
	if e.ConversationID != "" && e.Server != "" {
		o.open("message_context")
		o.text("uid", e.ConversationID)
		o.enum("ai_role", named{3, "Tool"})
		o.open("service")
		o.text("name", e.Server)
		o.shut()
		o.shut()
	}
}

func (o *object) ocsfTrace(e *event.Event) {
	if e.TraceID == "" {
		return
	}
	o.open("trace")
	o.text("uid", e.TraceID)
	if e.SpanID != "" {
		o.open("span")
		o.text("uid", e.SpanID)
		o.text("parent_uid", e.ParentSpanID)
		o.integer("start_time", e.OccurredAt/1000)
		o.integer("end_time", (e.OccurredAt+int64(min(e.Duration, 1<<53)))/1000)
		o.shut()
	}
	o.shut()
}

// ocsfAttestation is the event's leaf in its log; a bundle's proofs lead from it to
// a signature.
func (o *object) ocsfAttestation(e *event.Event) {
	leaf := ledger.Leaf(event.AppendRow(nil, e))
	o.list("attestation_list")
	o.text("uid", strconv.FormatUint(e.Batch, 10)+"/"+strconv.FormatUint(uint64(e.Leaf), 10))
	o.text("chain_uid", e.LogID)
	o.text("authority_uid", ledger.Origin(e.LogID))
	o.open("fingerprint")
	o.enum("algorithm", named{3, "SHA-256"})
	o.enum("encoding", named{1, "Hex"})
	o.enum("serialization", named{99, "RFC 6962 leaf of ClickHouse RowBinary"})
	o.text("value", hex.EncodeToString(leaf[:]))
	o.shut()
	o.unlist()
}

// ocsfUnmapped are the fields that have no other place, or whose place says less.
func (o *object) ocsfUnmapped(e *event.Event) {
	o.open("unmapped")
	o.number("schema", uint64(e.Schema))
	o.text("emitter_id", e.EmitterID)
	o.long("emitter_seq", e.EmitterSeq)
	o.name("occurred_at")
	o.b = append(appendTime(append(o.b, '"'), e.OccurredAt), '"')
	o.name("duration")
	o.b = append(appendDuration(append(o.b, '"'), e.Duration), '"')
	o.text("principal_kind", e.PrincipalKind)
	o.texts("on_behalf_of", e.OnBehalfOf)
	o.text("client_version", e.ClientVersion)
	o.text("auth_method", e.AuthMethod)
	if e.Server == "" {
		o.text("server_version", e.ServerVersion)
	}
	o.text("environment", e.Environment)
	o.text("transport", e.Transport)
	if !ocsfIP(e.ClientIP) {
		o.text("client_ip", e.ClientIP)
	}
	o.digest("definition_digest", &e.DefinitionDigest)
	o.name("hints")
	o.b = appendHints(o.b, e.Hints)
	o.text("task_id", e.TaskID)
	if e.TraceID == "" {
		o.text("span_id", e.SpanID)
	}
	if e.TraceID == "" || e.SpanID == "" {
		o.text("parent_span_id", e.ParentSpanID)
	}
	o.number("attempt", uint64(e.Attempt))
	o.text("decision_reason", e.DecisionReason)
	if e.Decision == "none" || e.PolicyID == "" {
		o.text("policy_id", e.PolicyID)
		o.text("policy_version", e.PolicyVersion)
	}
	o.texts("scopes_required", e.ScopesRequired)
	o.texts("scopes_granted", e.ScopesGranted)
	o.text("outcome", e.Outcome)
	o.long("request_bytes", e.RequestBytes)
	o.long("response_bytes", e.ResponseBytes)
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
	if e.ExpiresMonth != 0 {
		o.name("expires_month")
		o.b = append(appendMonth(append(o.b, '"'), e.ExpiresMonth), '"')
	}
	if len(e.Labels) > 0 {
		o.name("labels")
		o.b = appendLabels(o.b, e.Labels)
	}
	o.shut()
}
