// Package wire turns the API's Event message into the record and back. Nothing
// else in mcpaudit knows both.
//
// The JSON form of an event is protojson of the message with the proto's own
// names; [MarshalJSON] and [UnmarshalJSON] are that form.
package wire

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// FromProto fills e with what an emitter sent. Fields that only the service
// sets (received_at and the integrity group) are left alone, whatever the
// message says; [Sealed] reads those too. Defaults are set and labels sorted.
//
// The error is an *event.Violation that names the first field of a wrong form;
// limits are [event.Event.Check]'s to check. e shares the message's strings and
// lists.
func FromProto(m *pb.Event, e *event.Event) error {
	id, err := event.ParseID(m.GetEventId())
	if err != nil {
		return &event.Violation{Field: "event_id", Reason: err.Error()}
	}
	if m.GetSchema() > 65535 {
		return &event.Violation{Field: "schema", Reason: "is above 65535"}
	}
	if m.GetHttpStatus() > 65535 {
		return &event.Violation{Field: "http_status", Reason: "is above 65535"}
	}
	occurred, err := micros(m.GetOccurredAt())
	if err != nil {
		return &event.Violation{Field: "occurred_at", Reason: err.Error()}
	}
	duration, err := length(m.GetDuration())
	if err != nil {
		return &event.Violation{Field: "duration", Reason: err.Error()}
	}
	*e = event.Event{
		EventID: id, Schema: uint16(m.GetSchema()), EmitterID: m.GetEmitterId(), EmitterSeq: m.GetEmitterSeq(),
		OccurredAt: occurred, Duration: duration,
		Tenant: m.GetTenant(), Principal: m.GetPrincipal(), PrincipalName: m.GetPrincipalName(),
		PrincipalKind: m.GetPrincipalKind(), OnBehalfOf: m.GetOnBehalfOf(), AgentID: m.GetAgentId(),
		AgentName: m.GetAgentName(), Model: m.GetModel(), ClientName: m.GetClientName(),
		ClientVersion: m.GetClientVersion(), AuthMethod: m.GetAuthMethod(), CredentialID: m.GetCredentialId(),
		Server: m.GetServer(), ServerVersion: m.GetServerVersion(), ServerInstance: m.GetServerInstance(),
		Environment: m.GetEnvironment(), Transport: m.GetTransport(), ProtocolVersion: m.GetProtocolVersion(),
		ClientIP: m.GetClientIp(), UserAgent: m.GetUserAgent(),
		Kind: m.GetKind(), Method: m.GetMethod(), Target: m.GetTarget(), Hints: hints(m.GetHints()),
		RequestID: m.GetRequestId(), SessionID: m.GetSessionId(), ConversationID: m.GetConversationId(),
		TaskID: m.GetTaskId(), TraceID: m.GetTraceId(), SpanID: m.GetSpanId(), ParentSpanID: m.GetParentSpanId(),
		Attempt:  m.GetAttempt(),
		Decision: m.GetDecision(), DecisionReason: m.GetDecisionReason(), PolicyID: m.GetPolicyId(),
		PolicyVersion: m.GetPolicyVersion(), ScopesRequired: m.GetScopesRequired(), ScopesGranted: m.GetScopesGranted(),
		Outcome: m.GetOutcome(), ErrorCode: m.GetErrorCode(), ErrorMessage: m.GetErrorMessage(),
		HTTPStatus: uint16(m.GetHttpStatus()), RequestBytes: m.GetRequestBytes(), ResponseBytes: m.GetResponseBytes(),
		Arguments: m.GetArguments(), Truncated: m.GetTruncated(), OriginalBytes: m.GetOriginalBytes(),
		Signals: m.GetSignals(), ArgumentMarks: marks(m.GetArgumentMarks()), ResultMarks: marks(m.GetResultMarks()),
		RedactionProfile: m.GetRedactionProfile(), RedactionProfileVersion: m.GetRedactionProfileVersion(),
		RedactionError: m.GetRedactionError(), RemovedCount: m.GetRemovedCount(),
	}
	for _, d := range [...]struct {
		field string
		text  string
		dst   *event.Digest
	}{
		{"definition_digest", m.GetDefinitionDigest(), &e.DefinitionDigest},
		{"arguments_digest", m.GetArgumentsDigest(), &e.ArgumentsDigest},
		{"result_digest", m.GetResultDigest(), &e.ResultDigest},
		{"arguments_shape", m.GetArgumentsShape(), &e.ArgumentsShape},
	} {
		if *d.dst, err = event.ParseDigest(d.text); err != nil {
			return &event.Violation{Field: d.field, Reason: err.Error()}
		}
	}
	if rs := m.GetRemoved(); len(rs) > 0 {
		e.Removed = make([]event.Removal, len(rs))
		for i, r := range rs {
			e.Removed[i] = event.Removal{Path: r.GetPath(), Class: r.GetClass()}
		}
	}
	if ls := m.GetLabels(); len(ls) > 0 {
		e.Labels = make([]event.Label, 0, len(ls))
		for k, v := range ls {
			e.Labels = append(e.Labels, event.Label{Key: k, Value: v})
		}
	}
	e.SetDefaults()
	return nil
}

// Sealed is FromProto for an event that came out of a store: received_at and
// the integrity group are read as well.
func Sealed(m *pb.Event, e *event.Event) error {
	if err := FromProto(m, e); err != nil {
		return err
	}
	var err error
	if m.GetReceivedAt() != nil {
		if e.ReceivedAt, err = micros(m.GetReceivedAt()); err != nil {
			return &event.Violation{Field: "received_at", Reason: err.Error()}
		}
	}
	e.LogID, e.Batch, e.Leaf = m.GetLogId(), m.GetBatch(), m.GetLeaf()
	if s := m.GetExpiresMonth(); s != "" {
		month, err := time.Parse("2006-01", s)
		if err != nil || month.Year() < 1970 || month.Year() > 2148 {
			return &event.Violation{Field: "expires_month", Reason: "must be a month such as 2027-03"}
		}
		e.ExpiresMonth = uint16(month.Unix() / 86400)
	}
	return nil
}

// ToProto is the message of an event, all fields. It shares the event's strings
// and lists.
func ToProto(e *event.Event) *pb.Event {
	m := &pb.Event{
		EventId: e.EventID.String(), Schema: uint32(e.Schema), EmitterId: e.EmitterID, EmitterSeq: e.EmitterSeq,
		OccurredAt: timestamppb.New(time.UnixMicro(e.OccurredAt)),
		Duration:   &durationpb.Duration{Seconds: int64(e.Duration / 1e6), Nanos: int32(e.Duration % 1e6 * 1e3)},
		Tenant:     e.Tenant, Principal: e.Principal, PrincipalName: e.PrincipalName, PrincipalKind: e.PrincipalKind,
		OnBehalfOf: e.OnBehalfOf, AgentId: e.AgentID, AgentName: e.AgentName, Model: e.Model, ClientName: e.ClientName,
		ClientVersion: e.ClientVersion, AuthMethod: e.AuthMethod, CredentialId: e.CredentialID,
		Server: e.Server, ServerVersion: e.ServerVersion, ServerInstance: e.ServerInstance, Environment: e.Environment,
		Transport: e.Transport, ProtocolVersion: e.ProtocolVersion, ClientIp: e.ClientIP, UserAgent: e.UserAgent,
		Kind: e.Kind, Method: e.Method, Target: e.Target, DefinitionDigest: e.DefinitionDigest.String(),
		Hints: &pb.Hints{ReadOnly: &e.Hints.ReadOnly, Destructive: &e.Hints.Destructive,
			Idempotent: &e.Hints.Idempotent, OpenWorld: &e.Hints.OpenWorld},
		RequestId: e.RequestID, SessionId: e.SessionID, ConversationId: e.ConversationID, TaskId: e.TaskID,
		TraceId: e.TraceID, SpanId: e.SpanID, ParentSpanId: e.ParentSpanID, Attempt: e.Attempt,
		Decision: e.Decision, DecisionReason: e.DecisionReason, PolicyId: e.PolicyID, PolicyVersion: e.PolicyVersion,
		ScopesRequired: e.ScopesRequired, ScopesGranted: e.ScopesGranted,
		Outcome: e.Outcome, ErrorCode: e.ErrorCode, ErrorMessage: e.ErrorMessage, HttpStatus: uint32(e.HTTPStatus),
		RequestBytes: e.RequestBytes, ResponseBytes: e.ResponseBytes,
		Arguments: e.Arguments, Truncated: e.Truncated, OriginalBytes: e.OriginalBytes,
		ArgumentsDigest: e.ArgumentsDigest.String(), ResultDigest: e.ResultDigest.String(),
		ArgumentsShape: e.ArgumentsShape.String(), Signals: e.Signals,
		RedactionProfile: e.RedactionProfile, RedactionProfileVersion: e.RedactionProfileVersion,
		RedactionError: e.RedactionError, RemovedCount: e.RemovedCount,
		LogId: e.LogID, Batch: e.Batch, Leaf: e.Leaf,
	}
	if e.ReceivedAt != 0 {
		m.ReceivedAt = timestamppb.New(time.UnixMicro(e.ReceivedAt))
	}
	if e.ExpiresMonth != 0 {
		m.ExpiresMonth = time.Unix(int64(e.ExpiresMonth)*86400, 0).UTC().Format("2006-01")
	}
	m.ArgumentMarks, m.ResultMarks = protoMarks(e.ArgumentMarks), protoMarks(e.ResultMarks)
	for _, r := range e.Removed {
		m.Removed = append(m.Removed, &pb.Removal{Path: r.Path, Class: r.Class})
	}
	if len(e.Labels) > 0 {
		m.Labels = make(map[string]string, len(e.Labels))
		for _, l := range e.Labels {
			m.Labels[l.Key] = l.Value
		}
	}
	return m
}

func micros(t *timestamppb.Timestamp) (int64, error) {
	if t == nil {
		return 0, fmt.Errorf("is required")
	}
	if err := t.CheckValid(); err != nil {
		return 0, fmt.Errorf("must lie between the years 1 and 9999")
	}
	return t.GetSeconds()*1e6 + int64(t.GetNanos())/1e3, nil
}

func length(d *durationpb.Duration) (uint64, error) {
	if d == nil {
		return 0, nil
	}
	if d.CheckValid() != nil || d.GetSeconds() < 0 || d.GetNanos() < 0 {
		return 0, fmt.Errorf("must not be negative")
	}
	return uint64(d.GetSeconds())*1e6 + uint64(d.GetNanos())/1e3, nil
}

func hints(m *pb.Hints) event.Hints {
	h := event.DefaultHints
	if m == nil {
		return h
	}
	for _, f := range [...]struct {
		set *bool
		dst *bool
	}{{m.ReadOnly, &h.ReadOnly}, {m.Destructive, &h.Destructive}, {m.Idempotent, &h.Idempotent}, {m.OpenWorld, &h.OpenWorld}} {
		if f.set != nil {
			*f.dst = *f.set
		}
	}
	return h
}

func marks(ms []*pb.Mark) []event.Mark {
	if len(ms) == 0 {
		return nil
	}
	out := make([]event.Mark, len(ms))
	for i, m := range ms {
		out[i] = event.Mark{Hash: m.GetHash(), Class: m.GetClass(), NearInstruction: m.GetNearInstruction()}
	}
	return out
}

func protoMarks(ms []event.Mark) []*pb.Mark {
	if len(ms) == 0 {
		return nil
	}
	out := make([]*pb.Mark, len(ms))
	for i, m := range ms {
		out[i] = &pb.Mark{Hash: m.Hash, Class: m.Class, NearInstruction: m.NearInstruction}
	}
	return out
}

// MarshalJSON is the event as one line of JSON, without a line feed.
func MarshalJSON(e *event.Event) ([]byte, error) {
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(ToProto(e))
}

// UnmarshalJSON reads one event as MarshalJSON writes it, the service's fields
// included. Unknown names are errors: a misspelt field would be lost otherwise.
func UnmarshalJSON(line []byte, e *event.Event) error {
	var m pb.Event
	if err := protojson.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	return Sealed(&m, e)
}
