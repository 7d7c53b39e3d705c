package app

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Whoever makes a client from the served document has one that works: one is made
// here, by a library that knows nothing of us, and calls every operation.
func TestAClientMadeOfTheServedOpenAPIDocument(t *testing.T) {
	modules, err := filepath.Abs(filepath.Join("..", "..", "deploy", "dev", "npm"))
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, testConfig(t, t.TempDir()))
	const event = `{"event_id":"01a1fbaf-0f44-7705-b3f7-9d977b691dd5","schema":1,"emitter_id":"client","emitter_seq":1,"occurred_at":"2026-11-21T09:00:00Z",
		"principal":"user:ada","principal_kind":"human","server":"files","kind":"tool_call","method":"tools/call","target":"read_file",
		"decision":"none","outcome":"denied","trace_id":"0af7651916cd43dd8448eb211c80319c","arguments":"{\"path\":\"/etc/passwd\"}"}`
	cmd := exec.Command("node", "testdata/openapi_client.mjs", s.web, modules, event)
	cmd.Env = append(os.Environ(), "KEY="+s.key)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v; the client needs Node.js and what deploy/dev/setup.sh npm installs\n%s", err, stderr.String())
	}
	type emitter struct {
		EmitterID string `json:"emitter_id"`
	}
	var got struct {
		Title      string
		Operations []string
		Stored     int
		Listed     []map[string]any
		Got        map[string]any
		Entries    int
		Groups     []struct {
			Keys  []string
			Count string
		}
		Tools       []struct{ Server, Name, Calls string }
		Definitions struct{ Definitions []any }
		Emitters    []emitter
		Refused     struct {
			Status  int
			Message string
		}
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantOperations := []string{"AccessService_CreateKey", "AccessService_ListKeys", "AccessService_LookUpPseudonym", "AccessService_RevokeKey", "AccessService_RotateKey", "AccessService_WhoAmI",
		"ExportService_ExportEvents",
		"FindingService_EndSuppression", "FindingService_GetFinding", "FindingService_ListFindings", "FindingService_ListSuppressions", "FindingService_TriageFinding", "FindingService_WatchFindings",
		"IngestService_PublishBatch", "LedgerService_GetConsistencyProof", "LedgerService_GetEventProof", "LedgerService_ListLogs", "LedgerService_VerifyStore",
		"NotifyService_ListNotifications", "NotifyService_ListReceivers", "NotifyService_TestReceivers",
		"QueryService_AggregateEvents", "QueryService_GetEvent", "QueryService_GetTimeline",
		"QueryService_ListEmitters", "QueryService_ListEvents", "QueryService_ListToolDefinitions", "QueryService_ListTools", "QueryService_WatchEvents",
		"RetentionService_ApplyRetention", "RetentionService_CreateHold", "RetentionService_ListHolds", "RetentionService_PlanRetention", "RetentionService_ReleaseHold",
		"RuleService_ListRules", "RuleService_ReloadRules"}
	if got.Title != "mcpaudit" || !reflect.DeepEqual(got.Operations, wantOperations) {
		t.Errorf("%q has %q", got.Title, got.Operations)
	}
	if want := []map[string]any{{"event_id": "01a1fbaf-0f44-7705-b3f7-9d977b691dd5", "principal": "user:ada", "outcome": "denied"}}; got.Stored != 1 || !reflect.DeepEqual(got.Listed, want) {
		t.Errorf("stored %d, listed %v", got.Stored, got.Listed)
	}
	if got.Got["target"] != "read_file" || got.Got["batch"] == "" || got.Entries != 1 {
		t.Errorf("the event is %v, its timeline has %d entries", got.Got, got.Entries)
	}
	if len(got.Groups) != 1 || strings.Join(got.Groups[0].Keys, " ") != "files denied" || got.Groups[0].Count != "1" {
		t.Errorf("groups: %v", got.Groups)
	}
	if len(got.Tools) != 1 || got.Tools[0].Name != "read_file" || got.Tools[0].Calls != "1" || !slices.ContainsFunc(got.Emitters, func(e emitter) bool { return e.EmitterID == "client" }) {
		t.Errorf("tools %v, emitters %v", got.Tools, got.Emitters)
	}
	if got.Refused.Status != 400 || !strings.Contains(got.Refused.Message, "severity") {
		t.Errorf("a bad filter: %+v", got.Refused)
	}
}
