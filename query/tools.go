package query

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const (
	defaultList    = 1000
	maxDefinitions = 100
	// knownFirst puts events that know their tool's definition, and so its hints,
	// behind all others in time: more microseconds than any time has.
	knownFirst = 1 << 60
)

// ListTools returns the tools that servers defined or that were called.
func (s *Server) ListTools(ctx context.Context, req *pb.ListToolsRequest) (*pb.ListToolsResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	limit := int(cmp.Or(req.GetLimit(), defaultList))
	rows, err := s.store.Query(ctx, s.cfg.Limits, `
		SELECT server, target,
			lower(hex(argMaxIf(definition_digest, occurred_at, definition_digest != toFixedString('', 16)))) AS digest,
			uniqExactIf(definition_digest, definition_digest != toFixedString('', 16)),
			argMax(toUInt8(hint_read_only + 2 * hint_destructive + 4 * hint_idempotent + 8 * hint_open_world),
				toUnixTimestamp64Micro(occurred_at) + if(definition_digest != toFixedString('', 16), {known:Int64}, 0)),
			min(occurred_at), maxIf(occurred_at, kind = 'tool_call'),
			countIf(kind = 'tool_call') AS calls, countIf(kind = 'tool_call' AND `+isError+`), countIf(kind = 'tool_call' AND `+isDenial+`)
		FROM events
		WHERE kind IN ('tool_call', 'tools_list') AND target != '' AND ({server:String} = '' OR server = {server:String})
		GROUP BY server, target ORDER BY server, target LIMIT {limit:UInt32}`,
		store.Named("server", req.GetServer()), store.Named("limit", limit+1), store.Named("known", int64(knownFirst)))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	defer rows.Close()
	resp := &pb.ListToolsResponse{}
	for rows.Next() {
		t := &pb.Tool{}
		var hints uint8
		var first, called time.Time
		var definitions uint64
		if err := rows.Scan(&t.Server, &t.Name, &t.DefinitionDigest, &definitions, &hints,
			&first, &called, &t.Calls, &t.Errors, &t.Denials); err != nil {
			return nil, s.status(ctx, err)
		}
		t.Definitions, t.FirstSeen = uint32(definitions), timestamppb.New(first)
		readOnly, destructive, idempotent, openWorld := hints&1 != 0, hints&2 != 0, hints&4 != 0, hints&8 != 0
		t.Hints = &pb.Hints{ReadOnly: &readOnly, Destructive: &destructive, Idempotent: &idempotent, OpenWorld: &openWorld}
		if t.Calls > 0 {
			t.LastCalled = timestamppb.New(called)
		}
		if definitions == 0 {
			t.DefinitionDigest = ""
		}
		resp.Tools = append(resp.Tools, t)
	}
	if err := rows.Err(); err != nil {
		return nil, s.status(ctx, err)
	}
	if len(resp.Tools) > limit {
		resp.Tools, resp.Truncated = resp.Tools[:limit], true
	}
	return resp, nil
}

// ListToolDefinitions returns the definitions that one tool has had, newest
// first. The text is that of the event which brought it first.
func (s *Server) ListToolDefinitions(ctx context.Context, req *pb.ListToolDefinitionsRequest) (*pb.ListToolDefinitionsResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	see, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.store.Query(ctx, s.cfg.Limits, `
		SELECT lower(hex(definition_digest)), min(occurred_at) AS first, max(occurred_at),
			argMinIf(arguments, occurred_at, kind = 'tools_list'), argMinIf(signals, occurred_at, kind = 'tools_list'),
			toString(argMin(event_id, (kind != 'tools_list', occurred_at)))
		FROM events
		WHERE kind IN ('tool_call', 'tools_list') AND server = {server:String} AND target = {name:String}
			AND definition_digest != toFixedString('', 16)
		GROUP BY definition_digest ORDER BY first DESC, definition_digest LIMIT {most:UInt32}`,
		store.Named("server", req.GetServer()), store.Named("name", req.GetName()), store.Named("most", maxDefinitions))
	if err != nil {
		return nil, s.status(ctx, err)
	}
	defer rows.Close()
	resp := &pb.ListToolDefinitionsResponse{}
	for rows.Next() {
		d := &pb.ToolDefinition{}
		var first, last time.Time
		if err := rows.Scan(&d.Digest, &first, &last, &d.Definition, &d.Signals, &d.EventId); err != nil {
			return nil, s.status(ctx, err)
		}
		if see.fields.hidden["arguments"] { // which is where a listing has its definitions
			d.Definition, d.Signals = "", nil
		}
		d.FirstSeen, d.LastSeen = timestamppb.New(first), timestamppb.New(last)
		resp.Definitions = append(resp.Definitions, d)
	}
	if err := rows.Err(); err != nil {
		return nil, s.status(ctx, err)
	}
	return resp, nil
}
