package kafka

import (
	"context"
	"fmt"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// kafka-go (v0.4.51) sends a client's Heartbeat to any broker instead of the group's
// coordinator, and reads the answer's error where its throttling time is. So these are
// the messages as the protocol has them (Kafka protocol, Heartbeat, versions 0 to 3);
// registering them replaces the library's.

type heartbeatRequest struct {
	GroupID         string `kafka:"min=v0,max=v3"`
	GenerationID    int32  `kafka:"min=v0,max=v3"`
	MemberID        string `kafka:"min=v0,max=v3"`
	GroupInstanceID string `kafka:"min=v3,max=v3,nullable"`
}

// ApiKey and Group are how the library finds out where a request goes.
func (*heartbeatRequest) ApiKey() protocol.ApiKey { return protocol.Heartbeat }
func (r *heartbeatRequest) Group() string         { return r.GroupID }

type heartbeatResponse struct {
	ThrottleTimeMs int32 `kafka:"min=v1,max=v3"`
	ErrorCode      int16 `kafka:"min=v0,max=v3"`
}

// ApiKey is that of the request.
func (*heartbeatResponse) ApiKey() protocol.ApiKey { return protocol.Heartbeat }

func init() { protocol.Register(&heartbeatRequest{}, &heartbeatResponse{}) }

// heartbeat gives the group a sign of life. The error is a kafka.Error when the
// coordinator has answered with one.
func (x *generation) heartbeat(ctx context.Context) error {
	answer, err := x.s.pool.RoundTrip(ctx, x.s.client.Addr, &heartbeatRequest{GroupID: x.s.cfg.Group, GenerationID: x.id, MemberID: x.me})
	if err != nil {
		return fmt.Errorf("give a sign of life: %w", err)
	}
	r, ok := answer.(*heartbeatResponse)
	if !ok {
		return fmt.Errorf("give a sign of life: the answer is a %T", answer)
	}
	if r.ErrorCode != 0 {
		return kafka.Error(r.ErrorCode)
	}
	return nil
}
