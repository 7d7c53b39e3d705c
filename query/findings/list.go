package findings

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

const defaultPage = 100

// ListFindings searches findings as they are now, those that started last first.
//
// When a finding started never changes, so pages neither repeat nor skip one while
// others come: those that start before a page's end appear on a later page, those
// that start after it on none. Whether a finding matches may change between pages.
func (s *Server) ListFindings(ctx context.Context, req *pb.ListFindingsRequest) (*pb.ListFindingsResponse, error) {
	if err := query.Validate(req); err != nil {
		return nil, err
	}
	who, err := s.store.Access(ctx)
	if err != nil {
		return nil, err
	}
	filter, args, err := compile(req.GetFilter(), who)
	if err != nil {
		return nil, err
	}
	search := searchHash(req, who)
	// The versions of a finding have one start: where the page begins bounds what is
	// read of the table, too.
	before, after := "1", "1"
	if t := req.GetPageToken(); t != "" {
		p, err := readToken(t, search)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		before = "started_at <= " + boundTime("after_time")
		after = "(started_at, finding_id) < (" + boundTime("after_time") + ", toUUID({after_id:String}))"
		args = append(args, store.Named("after_time", p.started), store.Named("after_id", p.finding.String()))
	}
	size := int(cmp.Or(req.GetPageSize(), defaultPage))
	newest := before + " AND (finding_id, version) IN (SELECT finding_id, max(version) FROM findings WHERE " + before + " GROUP BY finding_id)"
	list, err := s.standings(ctx, "SELECT "+stateColumns+" FROM "+viewOf(newest)+" WHERE "+after+hidden(req.GetShowSuppressed())+" AND ("+filter+`)
		ORDER BY started_at DESC, finding_id DESC LIMIT 1 BY finding_id LIMIT {limit:UInt32}`+viewSettings,
		slices.Concat(args, []any{store.Named("limit", size+1)})...)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	more := len(list) > size
	list = list[:min(len(list), size)]
	findings, read, err := s.versions(ctx, list)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	resp := &pb.ListFindingsResponse{Findings: findings}
	if more || read < len(list) {
		last := list[read-1]
		resp.NextPageToken = token(place{started: last.started.UnixMicro(), finding: last.finding}, search)
	}
	return resp, nil
}

// place is where a page ends.
type place struct {
	started int64 // µs since 1970
	finding uuid.UUID
}

// A page token is a place, a hash of the search that it belongs to, and a checksum
// of both. It carries nothing secret: a forged one finds what a filter on time would.
func token(p place, search uint64) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.started))
	b = append(b, p.finding[:]...)
	b = binary.BigEndian.AppendUint64(b, search)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, hash(string(b))))
}

func readToken(text string, search uint64) (p place, err error) {
	const size = 8 + 16 + 8
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != size+8 || binary.BigEndian.Uint64(b[size:]) != hash(string(b[:size])) {
		return p, errors.New("page_token: not one that this service gave")
	}
	if binary.BigEndian.Uint64(b[24:]) != search {
		return p, errors.New("page_token: belongs to another search; repeat the filter of the first page, or start again without a token")
	}
	p.started = int64(binary.BigEndian.Uint64(b))
	if p.started < 0 || time.UnixMicro(p.started).UTC().Year() > 2200 { // the engine's times end in 2299
		return p, errors.New("page_token: not one that this service gave")
	}
	copy(p.finding[:], b[8:])
	return p, nil
}

// searchHash is of what is searched, and for whom.
func searchHash(req *pb.ListFindingsRequest, who *auth.Access) uint64 {
	search := "\x00" + req.GetFilter() + scope.Mark(who)
	if req.GetShowSuppressed() {
		search = "all" + search
	}
	return hash(search)
}

func hash(text string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(text))
	return h.Sum64()
}
