package query

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// ListEmitters returns who emits, those heard last first. What is missing of a
// sequence is what an emitter numbered and the store does not have: every number
// is stored once, so counting suffices.
func (s *Server) ListEmitters(ctx context.Context, req *pb.ListEmittersRequest) (*pb.ListEmittersResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	limit := int(cmp.Or(req.GetLimit(), defaultList))
	rows, err := s.store.Query(ctx, s.cfg.Limits, `
		SELECT emitter_id, argMax(server, received_at), argMax(server_version, received_at),
			min(received_at), max(received_at) AS last, count() AS events, max(emitter_seq) AS highest, min(emitter_seq),
			quantileTDigest(0.5)(toFloat64(toUnixTimestamp64Micro(received_at) - toUnixTimestamp64Micro(occurred_at)) - duration_us),
			argMax(concat(redaction_profile, ' ', redaction_profile_version), received_at)
		FROM events GROUP BY emitter_id ORDER BY last DESC, emitter_id LIMIT {limit:UInt32}`, store.Named("limit", limit+1))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	defer rows.Close()
	resp := &pb.ListEmittersResponse{}
	for rows.Next() {
		e := &pb.Emitter{}
		var first, last time.Time
		var lowest uint64
		var delay float32
		if err := rows.Scan(&e.EmitterId, &e.Server, &e.ServerVersion, &first, &last, &e.Events, &e.HighestSeq, &lowest, &delay, &e.Redaction); err != nil {
			return nil, s.status(ctx, err)
		}
		e.FirstHeard, e.LastHeard, e.Delay = timestamppb.New(first), timestamppb.New(last), micros(delay)
		// An emitter older than the retention has no first events: they are not missing.
		// More events than numbers, which only a second writer brings about, hide some.
		if numbers := e.HighestSeq - lowest + 1; numbers > e.Events {
			e.Missing = numbers - e.Events
		}
		resp.Emitters = append(resp.Emitters, e)
	}
	if err := rows.Err(); err != nil {
		return nil, s.status(ctx, err)
	}
	if len(resp.Emitters) > limit {
		resp.Emitters, resp.Truncated = resp.Emitters[:limit], true
	}
	return resp, nil
}
