package app

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Whoever investigates an emitter's events finds which credential wrote them, once.
func TestWhoWritesAsAnEmitterAndHowMuchLeavesInFilesIsNoted(t *testing.T) {
	s := serve(t, testConfig(t, t.TempDir()))
	s.awaitReady(t)
	key := s.makeKey(t, &pb.CreateKeyRequest{Name: "crm", Roles: []string{"emitter"}, Tenant: "acme"})
	conn := s.dial(t, key)
	for seq := range uint64(3) {
		r, err := publish(t.Context(), conn, seq+1)
		if err != nil || r.GetStored() != 1 {
			t.Fatalf("%v, %v", r, err)
		}
	}
	list := func() []*pb.Event {
		t.Helper()
		resp, err := pb.NewQueryServiceClient(s.grpc).ListEvents(t.Context(), &pb.ListEventsRequest{Filter: `method = "mcpaudit/publish"`})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetEvents()
	}
	for deadline := time.Now().Add(20 * time.Second); len(list()) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the log does not say who wrote")
		}
	}
	// The log also says how many events left in files, which no answer is a list of.
	stream, err := pb.NewExportServiceClient(s.grpc).ExportEvents(t.Context(), &pb.ExportEventsRequest{Filter: `emitter_id = "acme::e"`, Formats: []string{"csv"}})
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	resp, err := pb.NewQueryServiceClient(s.grpc).ListEvents(t.Context(), &pb.ListEventsRequest{Filter: `method = "mcpaudit/export_events" AND labels.phase = "end"`})
	if err != nil || len(resp.GetEvents()) != 1 || resp.GetEvents()[0].GetLabels()["rows"] != "3" {
		t.Errorf("the export is noted as %v, %v", resp.GetEvents(), err)
	}
	got := list()
	if len(got) != 1 || got[0].GetTarget() != "acme::e" || got[0].GetTenant() != "acme" || got[0].GetPrincipalName() != "crm" ||
		!strings.HasPrefix(key, "mcpa_"+strings.TrimPrefix(got[0].GetCredentialId(), "key:")) {
		t.Errorf("the log says %v", got)
	}
}
