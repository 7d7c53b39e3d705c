// Package event is mcpaudit's record: one Event for each thing that happened at
// an MCP server, its limits, its ids and the canonical bytes that the ledger
// hashes.
//
// The package is pure: standard library only, no I/O, no clock, no logging. An
// emitter in an MCP server and the service share it, so both mean the same by a
// field, a limit and a byte.
//
// An Event is made by an emitter (identity, time, who, where, what, correlation,
// authority, result, content, redaction) and completed by the service
// (ReceivedAt and the integrity group). Text is valid UTF-8 within the limits
// of limits.go; [Event.Check] says what is wrong with one that is not.
package event

import (
	"slices"
	"strings"
)

// Schema is the version of the record that this package writes. The order and
// types of the hashed columns (see [Columns]) are fixed for each version.
const Schema = 1

// Event is one audited operation at an MCP server. Fields are grouped as in the
// design; a zero value means "not known" unless the field says otherwise.
type Event struct {
	// Identity. (EmitterID, EmitterSeq) is the key of de-duplication: the same
	// pair delivered twice is one row.
	EventID    ID     // UUIDv7, made by the emitter
	Schema     uint16 // version of the record; see Schema
	EmitterID  string // who sent it: one queue in one process, kept across restarts
	EmitterSeq uint64 // from 1, +1 for each event of this emitter

	// Time, in microseconds since 1970-01-01 UTC.
	OccurredAt int64  // start of the call, by the emitter's clock
	ReceivedAt int64  // arrival, by the service's clock (set by the service)
	Duration   uint64 // microseconds from request to answer

	// Who.
	Tenant        string
	Principal     string   // stable and issuer-qualified; empty for anonymous
	PrincipalName string   // readable name
	PrincipalKind string   // one of PrincipalKinds
	OnBehalfOf    []string // delegation chain, nearest first
	AgentID       string
	AgentName     string
	Model         string
	ClientName    string // self-reported by the client: never an identity
	ClientVersion string // self-reported by the client
	AuthMethod    string
	CredentialID  string // fingerprint of the credential, never the credential

	// Where.
	Server          string
	ServerVersion   string
	ServerInstance  string
	Environment     string
	Transport       string // one of Transports
	ProtocolVersion string // MCP revision, such as 2025-11-25
	ClientIP        string
	UserAgent       string

	// What.
	Kind             string // one of Kinds
	Method           string // JSON-RPC method, such as tools/call
	Target           string // tool name, resource URI or prompt name
	DefinitionDigest Digest // tool description and schemas, white space normalised
	Hints            Hints

	// Correlation. A session is one key among several: MCP 2026-07-28 has none.
	RequestID      string // JSON-RPC id as its JSON text
	SessionID      string
	ConversationID string
	TaskID         string
	TraceID        string // W3C trace-id, 32 hex digits
	SpanID         string // W3C parent-id, 16 hex digits
	ParentSpanID   string
	Attempt        uint32 // 0 for a first try, n for the nth retry of the same logical call

	// Authority.
	Decision       string // one of Decisions
	DecisionReason string
	PolicyID       string
	PolicyVersion  string
	ScopesRequired []string
	ScopesGranted  []string

	// Result. A transport 200 is not a success: the HTTP status, the JSON-RPC
	// error and the tool's own isError are three facts.
	Outcome       string // one of Outcomes
	ErrorCode     string // JSON-RPC code or the tool's own
	ErrorMessage  string // redacted
	HTTPStatus    uint16
	RequestBytes  uint64
	ResponseBytes uint64

	// Content. Digests and marks are keyed (HMAC-SHA-256): equal values are seen
	// as equal after redaction, and nobody without the key can test a guess.
	Arguments       string // redacted JSON; see Truncated
	Truncated       bool   // Arguments was cut; OriginalBytes is its length before
	OriginalBytes   uint64 // length of the arguments before cutting; 0 when not cut
	ArgumentsDigest Digest // over the canonical JSON (RFC 8785) before redaction
	ResultDigest    Digest
	ArgumentsShape  Digest   // over keys and types alone
	Signals         []string // seen before redaction; "result:" marks those of the result
	ArgumentMarks   []Mark
	ResultMarks     []Mark

	// Redaction report.
	RedactionProfile        string
	RedactionProfileVersion string
	RedactionError          string // why content was dropped whole; empty when it was not
	Removed                 []Removal
	RemovedCount            uint32 // all removals, also those beyond MaxRemoved

	// Integrity, set by the service.
	LogID        string // the log (one writer) that sealed the event
	Batch        uint64 // batch within the log, from 1
	Leaf         uint32 // position within the batch, from 0
	ExpiresMonth uint16 // first day of the month in which the row expires, days since 1970-01-01

	Labels []Label // sorted by Key, each Key once
}

// Hints are a tool's self-declared MCP annotations. They come from the server
// and are as trustworthy as the server is.
type Hints struct {
	ReadOnly, Destructive, Idempotent, OpenWorld bool
}

// DefaultHints are what the MCP specification assumes of a tool without
// annotations (schema 2025-11-25 and 2026-07-28, ToolAnnotations).
var DefaultHints = Hints{Destructive: true, OpenWorld: true}

// Mark is the keyed hash of one salient value, so that a value which came in
// with a result and left in a later call's arguments is seen to be the same.
type Mark struct {
	Hash  uint64 // first 64 bits of HMAC-SHA-256(key, class ‖ 0x00 ‖ normalised value)
	Class string // one of MarkClasses
	// NearInstruction is set on result marks whose value stood within about 200
	// characters of an instruction-like phrase.
	NearInstruction bool
}

// Removal says what redaction took out and where.
type Removal struct {
	Path  string // JSON path such as $.user.password
	Class string // such as secret:github-pat, pii:email, key:password
}

// Label is one free key and value.
type Label struct{ Key, Value string }

// The closed sets of values. An empty value is filled by [Event.SetDefaults]
// where a default exists.
var (
	Kinds          = []string{"tool_call", "tools_list", "resource_read", "prompt_get", "completion", "auth", "session", "task", "admin", "finding", "other"}
	PrincipalKinds = []string{"human", "service", "agent", "anonymous"}
	Decisions      = []string{"allow", "deny", "none"}
	Outcomes       = []string{"success", "tool_error", "protocol_error", "denied", "rate_limited", "timeout", "cancelled", "input_required"}
	Transports     = []string{"stdio", "http", "sse", "in_memory", "other"}
	MarkClasses    = []string{"email", "url", "domain", "account", "identifier", "file"}
)

// SetDefaults fills what an emitter may leave out: schema, tenant, principal
// kind and decision. It sorts labels and keeps the last of equal keys, so that
// an event has one encoding.
func (e *Event) SetDefaults() {
	if e.Schema == 0 {
		e.Schema = Schema
	}
	if e.Tenant == "" {
		e.Tenant = "default"
	}
	if e.PrincipalKind == "" {
		e.PrincipalKind = "anonymous"
		if e.Principal != "" {
			e.PrincipalKind = "service"
		}
	}
	if e.Decision == "" {
		e.Decision = "none"
	}
	e.SortLabels()
}

// SortLabels puts labels into the order of their keys and keeps the last of equal
// keys.
func (e *Event) SortLabels() {
	if len(e.Labels) > 1 {
		e.Labels = sortLabels(e.Labels)
	}
}

func sortLabels(ls []Label) []Label {
	slices.SortStableFunc(ls, func(a, b Label) int { return strings.Compare(a.Key, b.Key) })
	out := ls[:0]
	for i, l := range ls {
		if i+1 < len(ls) && ls[i+1].Key == l.Key {
			continue
		}
		out = append(out, l)
	}
	return out
}

// Size is about what the event takes in memory, in bytes.
func (e *Event) Size() int {
	const fixed = 1500 // the struct, and texts of a usual length
	n := fixed + len(e.Arguments) + len(e.ErrorMessage) + len(e.DecisionReason) + len(e.Target) + len(e.UserAgent)
	n += 24*len(e.ArgumentMarks) + 32*len(e.ResultMarks) + 48*len(e.Removed)
	for _, l := range e.Labels {
		n += len(l.Key) + len(l.Value) + 32
	}
	return n
}
