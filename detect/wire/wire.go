// Package wire turns findings into the messages of the API and into JSON, and
// nothing else does.
package wire

import (
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/detect"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// ToProto is the finding as a message. What people made of it is not part of it.
func ToProto(f *detect.Finding) *pb.Finding {
	m := &pb.Finding{
		FindingId: f.ID, Version: f.Version, Rule: f.Rule, Detector: f.Detector, Severity: f.Severity.String(), Score: f.Score,
		Reason: f.Reason, Observed: f.Observed, Expected: f.Expected,
		Tenant: f.Tenant, Principal: f.Principal, AgentId: f.AgentID, SessionId: f.SessionID, TraceId: f.TraceID,
		Server: f.Server, Target: f.Target, EmitterId: f.Emitter,
		StartedAt: at(f.StartedAt), LastSeenAt: at(f.LastSeenAt), EndedAt: at(f.EndedAt), OpenedAt: at(f.OpenedAt),
		EventCount: f.Events, State: f.State,
	}
	for _, w := range f.Workings {
		m.Workings = append(m.Workings, &pb.Working{Name: w.Name, Value: w.Value})
	}
	for _, id := range f.EventIDs {
		m.EventIds = append(m.EventIds, id.String())
	}
	return m
}

func at(micros int64) *timestamppb.Timestamp {
	if micros == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMicro(micros))
}

// MarshalJSON is the finding as one line of JSON, without a line feed.
func MarshalJSON(f *detect.Finding) ([]byte, error) {
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(ToProto(f))
}
