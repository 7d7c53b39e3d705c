package retention

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// hold is a legal hold: what the ledger says of it, which is all there is. Its filter
// names times and values, nothing that depends on when it is read, so it means the
// same for ever.
type hold struct {
	ledger.Hold
	since      int64 // µs since 1970-01-01
	released   int64 // 0 while it holds
	releasedBy string
	condition  store.Condition
}

func (h *hold) proto() *pb.Hold {
	out := &pb.Hold{HoldId: h.ID, Filter: h.Filter, Reason: h.Reason, Owner: h.Owner, CreatedAt: micros(h.since)}
	if h.released != 0 {
		out.ReleasedAt, out.ReleasedBy = micros(h.released), h.releasedBy
	}
	return out
}

func micros(us int64) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: us / 1e6, Nanos: int32(us%1e6) * 1000}
}

func conditions(holds []hold) []store.Condition {
	out := make([]store.Condition, len(holds))
	for i := range holds {
		out[i] = holds[i].condition
	}
	return out
}

// holds reads all holds, oldest first. An entry that can't be read is an error: it
// may be a hold.
func (s *Server) holds(ctx context.Context) ([]hold, error) {
	entries, err := s.store.Acts(ctx, ledger.KindHold, ledger.KindRelease)
	if err != nil {
		return nil, err
	}
	var out []hold
	for _, e := range entries {
		var h ledger.Hold
		if err := ledger.ParseDetail(e.Detail, &h); err != nil {
			return nil, refuse(codes.FailedPrecondition, "entry %d of log %q is a hold or its release, and this program can't read it: use the mcpaudit that wrote it, or a newer one; see also 'mcpaudit verify'", e.Batch, e.LogID)
		}
		at := slices.IndexFunc(out, func(o hold) bool { return o.ID == h.ID })
		switch {
		case e.Kind == ledger.KindHold && at < 0:
			out = append(out, hold{Hold: h, since: e.SealedAt})
		case e.Kind == ledger.KindRelease && at >= 0 && out[at].released == 0:
			out[at].released, out[at].releasedBy = e.SealedAt, h.Owner
		}
	}
	return out, nil
}

// active are the holds that hold now, ready to be asked. One whose filter this
// program does not understand stops every drop.
func (s *Server) active(ctx context.Context) ([]hold, error) {
	all, err := s.holds(ctx)
	if err != nil {
		return nil, err
	}
	var out []hold
	for _, h := range all {
		if h.released != 0 {
			continue
		}
		if h.condition, err = s.condition(h.Filter); err != nil {
			return nil, refuse(codes.FailedPrecondition, "the filter of hold %s is not understood by this program (%v), so what it keeps is not known. Nothing is dropped; use the mcpaudit that made the hold, or release it and create another", h.ID, err)
		}
		out = append(out, h)
	}
	return out, nil
}

func (s *Server) condition(filter string) (store.Condition, error) {
	sql, args, err := s.compile(filter)
	return store.Condition{SQL: "(" + sql + ")", Args: args}, err
}

// CreateHold begins a hold.
func (s *Server) CreateHold(ctx context.Context, req *pb.CreateHoldRequest) (*pb.CreateHoldResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	if strings.TrimSpace(req.GetFilter()) == "" {
		return nil, s.status(ctx, refuse(codes.InvalidArgument, "filter: is empty; to hold everything, say so: occurred_at >= \"2000-01-01T00:00:00Z\""))
	}
	by, err := s.admit(ctx)
	if err != nil {
		return nil, err
	}
	condition, err := s.condition(req.GetFilter())
	if err != nil {
		return nil, s.status(ctx, refuse(codes.InvalidArgument, "%v", err))
	}
	end, err := s.begin(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	defer end()
	// Counting shows that the engine takes the filter too.
	n, err := s.store.CountMatching(ctx, condition)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	var noise [6]byte
	rand.Read(noise[:])
	h := hold{Hold: ledger.Hold{ID: "hold-" + hex.EncodeToString(noise[:]), Filter: req.GetFilter(), Reason: req.GetReason(), Owner: req.GetOwner()}}
	if err := s.enter(ctx, ledger.KindHold, &h); err != nil {
		return nil, s.status(ctx, err)
	}
	s.note(ctx, deed{method: "mcpaudit/hold", target: h.ID, by: by, labels: map[string]string{
		"filter": event.ClipText(h.Filter, event.MaxText), "reason": h.Reason, "owner": h.Owner, "events": fmt.Sprint(n)}})
	return &pb.CreateHoldResponse{Hold: h.proto(), Events: n}, nil
}

// enter records a hold or its release, and reads back when it was sealed.
func (s *Server) enter(ctx context.Context, kind string, h *hold) error {
	detail := h.Hold
	if kind == ledger.KindRelease {
		detail = ledger.Hold{ID: h.ID, Owner: h.releasedBy}
	}
	number, err := s.record.Record(ctx, kind, ledger.Detail(detail))
	if err != nil {
		return err
	}
	return s.store.Entries(ctx, s.cfg.LogID, number, number, func(r store.Sealed) error {
		if kind == ledger.KindRelease {
			h.released = r.Entry.SealedAt
		} else {
			h.since = r.Entry.SealedAt
		}
		return nil
	})
}

// ReleaseHold ends a hold.
func (s *Server) ReleaseHold(ctx context.Context, req *pb.ReleaseHoldRequest) (*pb.ReleaseHoldResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	by, err := s.admit(ctx)
	if err != nil {
		return nil, err
	}
	end, err := s.begin(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	defer end()
	all, err := s.holds(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	at := slices.IndexFunc(all, func(h hold) bool { return h.ID == req.GetHoldId() })
	if at < 0 {
		return nil, s.status(ctx, refuse(codes.NotFound, "there is no hold %q; 'mcpaudit holds list' shows all", event.ClipText(req.GetHoldId(), 64)))
	}
	h := &all[at]
	if h.released != 0 {
		return nil, s.status(ctx, refuse(codes.FailedPrecondition, "hold %s was released at %s by %s", h.ID, micros(h.released).AsTime().Format("2006-01-02 15:04:05 UTC"), h.releasedBy))
	}
	h.releasedBy = by.words
	if err := s.enter(ctx, ledger.KindRelease, h); err != nil {
		return nil, s.status(ctx, err)
	}
	s.note(ctx, deed{method: "mcpaudit/release", target: h.ID, by: by, labels: map[string]string{
		"filter": event.ClipText(h.Filter, event.MaxText), "reason": h.Reason, "owner": h.Owner}})
	return &pb.ReleaseHoldResponse{Hold: h.proto()}, nil
}

// ListHolds returns all holds, oldest first.
func (s *Server) ListHolds(ctx context.Context, req *pb.ListHoldsRequest) (*pb.ListHoldsResponse, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	if _, err := s.admit(ctx); err != nil {
		return nil, err
	}
	all, err := s.holds(ctx)
	if err != nil {
		return nil, s.status(ctx, err)
	}
	resp := &pb.ListHoldsResponse{}
	for i := range all {
		resp.Holds = append(resp.Holds, all[i].proto())
	}
	return resp, nil
}
