package export

import (
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Bounds of a row group, which is in memory until it is written.
const (
	groupRows  = 20_000
	groupBytes = 32 << 20
)

// parquetRow is one row. Columns are the fields of the Event message; hints are four
// columns, digests are hex and labels a list, which keeps their order.
type parquetRow struct {
	EventID          string   `parquet:"event_id"`
	Schema           uint32   `parquet:"schema"`
	EmitterID        string   `parquet:"emitter_id,dict"`
	EmitterSeq       uint64   `parquet:"emitter_seq"`
	OccurredAt       int64    `parquet:"occurred_at,timestamp(microsecond)"`
	ReceivedAt       int64    `parquet:"received_at,timestamp(microsecond)"`
	DurationUS       uint64   `parquet:"duration_us"`
	Tenant           string   `parquet:"tenant,dict"`
	Principal        string   `parquet:"principal,dict"`
	PrincipalName    string   `parquet:"principal_name,dict"`
	PrincipalKind    string   `parquet:"principal_kind,dict"`
	OnBehalfOf       []string `parquet:"on_behalf_of,list"`
	AgentID          string   `parquet:"agent_id,dict"`
	AgentName        string   `parquet:"agent_name,dict"`
	Model            string   `parquet:"model,dict"`
	ClientName       string   `parquet:"client_name,dict"`
	ClientVersion    string   `parquet:"client_version,dict"`
	AuthMethod       string   `parquet:"auth_method,dict"`
	CredentialID     string   `parquet:"credential_id,dict"`
	Server           string   `parquet:"server,dict"`
	ServerVersion    string   `parquet:"server_version,dict"`
	ServerInstance   string   `parquet:"server_instance,dict"`
	Environment      string   `parquet:"environment,dict"`
	Transport        string   `parquet:"transport,dict"`
	ProtocolVersion  string   `parquet:"protocol_version,dict"`
	ClientIP         string   `parquet:"client_ip,dict"`
	UserAgent        string   `parquet:"user_agent,dict"`
	Kind             string   `parquet:"kind,dict"`
	Method           string   `parquet:"method,dict"`
	Target           string   `parquet:"target,dict"`
	DefinitionDigest string   `parquet:"definition_digest,dict"`
	HintReadOnly     bool     `parquet:"hint_read_only"`
	HintDestructive  bool     `parquet:"hint_destructive"`
	HintIdempotent   bool     `parquet:"hint_idempotent"`
	HintOpenWorld    bool     `parquet:"hint_open_world"`
	RequestID        string   `parquet:"request_id"`
	SessionID        string   `parquet:"session_id,dict"`
	ConversationID   string   `parquet:"conversation_id,dict"`
	TaskID           string   `parquet:"task_id,dict"`
	TraceID          string   `parquet:"trace_id,dict"`
	SpanID           string   `parquet:"span_id"`
	ParentSpanID     string   `parquet:"parent_span_id"`
	Attempt          uint32   `parquet:"attempt"`
	Decision         string   `parquet:"decision,dict"`
	DecisionReason   string   `parquet:"decision_reason,dict"`
	PolicyID         string   `parquet:"policy_id,dict"`
	PolicyVersion    string   `parquet:"policy_version,dict"`
	ScopesRequired   []string `parquet:"scopes_required,list"`
	ScopesGranted    []string `parquet:"scopes_granted,list"`
	Outcome          string   `parquet:"outcome,dict"`
	ErrorCode        string   `parquet:"error_code,dict"`
	ErrorMessage     string   `parquet:"error_message,dict"`
	HTTPStatus       uint32   `parquet:"http_status"`
	RequestBytes     uint64   `parquet:"request_bytes"`
	ResponseBytes    uint64   `parquet:"response_bytes"`
	Arguments        string   `parquet:"arguments"`
	Truncated        bool     `parquet:"truncated"`
	OriginalBytes    uint64   `parquet:"original_bytes"`
	ArgumentsDigest  string   `parquet:"arguments_digest"`
	ResultDigest     string   `parquet:"result_digest"`
	ArgumentsShape   string   `parquet:"arguments_shape,dict"`
	Signals          []string `parquet:"signals,list"`

	ArgumentMarks []parquetMark `parquet:"argument_marks,list"`
	ResultMarks   []parquetMark `parquet:"result_marks,list"`

	RedactionProfile        string           `parquet:"redaction_profile,dict"`
	RedactionProfileVersion string           `parquet:"redaction_profile_version,dict"`
	RedactionError          string           `parquet:"redaction_error,dict"`
	Removed                 []parquetRemoval `parquet:"removed,list"`
	RemovedCount            uint32           `parquet:"removed_count"`
	LogID                   string           `parquet:"log_id,dict"`
	Batch                   uint64           `parquet:"batch"`
	Leaf                    uint32           `parquet:"leaf"`
	ExpiresMonth            string           `parquet:"expires_month,dict"`
	Labels                  []parquetLabel   `parquet:"labels,list"`
}

type parquetMark struct {
	Hash            uint64 `parquet:"hash"`
	Class           string `parquet:"class,dict"`
	NearInstruction bool   `parquet:"near_instruction"`
}

type parquetRemoval struct {
	Path  string `parquet:"path"`
	Class string `parquet:"class,dict"`
}

type parquetLabel struct {
	Key   string `parquet:"key,dict"`
	Value string `parquet:"value"`
}

func rowOf(e *event.Event) parquetRow {
	r := parquetRow{
		EventID: e.EventID.String(), Schema: uint32(e.Schema), EmitterID: e.EmitterID, EmitterSeq: e.EmitterSeq, OccurredAt: e.OccurredAt,
		ReceivedAt: e.ReceivedAt, DurationUS: e.Duration, Tenant: e.Tenant, Principal: e.Principal, PrincipalName: e.PrincipalName,
		PrincipalKind: e.PrincipalKind, OnBehalfOf: e.OnBehalfOf, AgentID: e.AgentID, AgentName: e.AgentName, Model: e.Model,
		ClientName: e.ClientName, ClientVersion: e.ClientVersion, AuthMethod: e.AuthMethod, CredentialID: e.CredentialID, Server: e.Server,
		ServerVersion: e.ServerVersion, ServerInstance: e.ServerInstance, Environment: e.Environment, Transport: e.Transport,
		ProtocolVersion: e.ProtocolVersion, ClientIP: e.ClientIP, UserAgent: e.UserAgent, Kind: e.Kind, Method: e.Method, Target: e.Target,
		DefinitionDigest: e.DefinitionDigest.String(), HintReadOnly: e.Hints.ReadOnly, HintDestructive: e.Hints.Destructive,
		HintIdempotent: e.Hints.Idempotent, HintOpenWorld: e.Hints.OpenWorld, RequestID: e.RequestID, SessionID: e.SessionID,
		ConversationID: e.ConversationID, TaskID: e.TaskID, TraceID: e.TraceID, SpanID: e.SpanID, ParentSpanID: e.ParentSpanID,
		Attempt: e.Attempt, Decision: e.Decision, DecisionReason: e.DecisionReason, PolicyID: e.PolicyID, PolicyVersion: e.PolicyVersion,
		ScopesRequired: e.ScopesRequired, ScopesGranted: e.ScopesGranted, Outcome: e.Outcome, ErrorCode: e.ErrorCode,
		ErrorMessage: e.ErrorMessage, HTTPStatus: uint32(e.HTTPStatus), RequestBytes: e.RequestBytes, ResponseBytes: e.ResponseBytes,
		Arguments: e.Arguments, Truncated: e.Truncated, OriginalBytes: e.OriginalBytes, ArgumentsDigest: e.ArgumentsDigest.String(),
		ResultDigest: e.ResultDigest.String(), ArgumentsShape: e.ArgumentsShape.String(), Signals: e.Signals,
		RedactionProfile: e.RedactionProfile, RedactionProfileVersion: e.RedactionProfileVersion, RedactionError: e.RedactionError,
		RemovedCount: e.RemovedCount, LogID: e.LogID, Batch: e.Batch, Leaf: e.Leaf,
	}
	for _, m := range e.ArgumentMarks {
		r.ArgumentMarks = append(r.ArgumentMarks, parquetMark(m))
	}
	for _, m := range e.ResultMarks {
		r.ResultMarks = append(r.ResultMarks, parquetMark(m))
	}
	for _, one := range e.Removed {
		r.Removed = append(r.Removed, parquetRemoval(one))
	}
	for _, l := range e.Labels {
		r.Labels = append(r.Labels, parquetLabel(l))
	}
	if e.ExpiresMonth != 0 {
		r.ExpiresMonth = string(appendMonth(nil, e.ExpiresMonth))
	}
	return r
}

// parquetEncoder writes Parquet (https://parquet.apache.org), a row group at a time.
type parquetEncoder struct {
	w           *parquet.GenericWriter[parquetRow]
	rows, bytes int // of the row group
}

func newParquetEncoder(w io.Writer, version string) *parquetEncoder {
	return &parquetEncoder{w: parquet.NewGenericWriter[parquetRow](w, parquet.Compression(&zstd.Codec{Level: zstd.SpeedFastest}),
		parquet.CreatedBy("mcpaudit", version, ""), parquet.PageBufferSize(64<<10))}
}

func (p *parquetEncoder) add(e *event.Event) error {
	if _, err := p.w.Write([]parquetRow{rowOf(e)}); err != nil {
		return fmt.Errorf("write parquet row: %w", err)
	}
	p.rows++
	p.bytes += e.Size()
	if p.rows < groupRows && p.bytes < groupBytes {
		return nil
	}
	p.rows, p.bytes = 0, 0
	if err := p.w.Flush(); err != nil {
		return fmt.Errorf("write parquet row group: %w", err)
	}
	return nil
}

func (p *parquetEncoder) close() error {
	if err := p.w.Close(); err != nil {
		return fmt.Errorf("end parquet file: %w", err)
	}
	return nil
}
