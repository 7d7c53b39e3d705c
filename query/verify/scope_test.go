package verify_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
	"github.com/mcpaudit/mcpaudit/query/verify"
)

// A tenant proves its own events, though others' are in the batch; another's event is
// like one that never existed, and what is about all tenants is not for one.
func TestATenantProvesItsOwnEventsAlone(t *testing.T) {
	a := filled(t, t.TempDir())
	s := verify.New(a.Store, "main", slog.New(slog.NewTextHandler(io.Discard, nil)))
	ids := map[string]string{}
	rows, err := a.Query(t.Context(), store.Limits{}, "SELECT tenant, toString(any(event_id)) FROM events GROUP BY tenant")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var tenant, id string
		if err := rows.Scan(&tenant, &id); err != nil {
			t.Fatal(err)
		}
		ids[tenant] = id
	}
	mine := scopetest.Of(t.Context(), "acme")
	proof, err := s.GetEventProof(mine, &pb.GetEventProofRequest{EventId: ids["acme"]})
	if err != nil {
		t.Fatal(err)
	}
	if e, _, err := verify.Event(proof, nil); err != nil || e.Tenant != "acme" {
		t.Errorf("%v, %v", e, err)
	}
	text := func(id string) string {
		_, err := s.GetEventProof(mine, &pb.GetEventProofRequest{EventId: id})
		if status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", id, err)
		}
		return strings.ReplaceAll(status.Convert(err).String(), id, "ID")
	}
	if other, never := text(ids["short"]), text("01890a5d-ac96-774b-8f00-00000000beef"); other != never {
		t.Errorf("%q, and of one that never was %q", other, never)
	}
	for _, id := range []string{ids["acme"], ids["short"]} {
		if _, err := s.GetEventProof(scopetest.With(t.Context(), "key:none", auth.ContentNone, "acme"), &pb.GetEventProofRequest{EventId: id}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("without content: %v", err)
		}
	}
	if err := s.VerifyStore(&pb.VerifyStoreRequest{}, &unread{ctx: mine}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("verify: %v", err)
	}
	if _, err := a.retention.ListHolds(mine, &pb.ListHoldsRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("holds: %v", err)
	}
	if _, err := a.retention.ApplyRetention(mine, &pb.ApplyRetentionRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("apply: %v", err)
	}
	_, plan := a.retention.PlanRetention(t.Context(), &pb.PlanRetentionRequest{})
	_, list := s.ListLogs(t.Context(), &pb.ListLogsRequest{})
	_, grown := s.GetConsistencyProof(t.Context(), &pb.GetConsistencyProofRequest{LogId: "main"})
	_, event := s.GetEventProof(t.Context(), &pb.GetEventProofRequest{EventId: ids["acme"]})
	for _, err := range []error{plan, list, grown, event, s.VerifyStore(&pb.VerifyStoreRequest{}, &unread{ctx: t.Context()})} {
		if status.Code(err) != codes.Internal {
			t.Errorf("past the guard: %v", err)
		}
	}
}

// unread is a stream that nobody reads.
type unread struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *unread) Context() context.Context           { return s.ctx }
func (s *unread) Send(*pb.VerifyStoreResponse) error { return nil }
