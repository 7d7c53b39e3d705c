package app

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// asking is one method with a request that it understands. What begins with $ in it
// comes from answers to those before.
type asking struct {
	method, json string
	// rows are the lists of the answer whose lengths the log says, or the message of
	// which there is one; "" for answers without either.
	rows string
}

// asked is every method of the API once, in an order in which each finds what it needs.
var asked = []asking{
	{"IngestService/Publish", `{}`, ""},
	{"IngestService/PublishBatch", `{}`, ""},
	{"AccessService/WhoAmI", `{}`, ""},
	{"QueryService/ListEvents", `{"filter":"server = crm","order_by":"occurred_at","read_mask":"eventId,target"}`, "events"},
	{"QueryService/GetEvent", `{"event_id":"$event"}`, "event"},
	{"QueryService/WatchEvents", `{"filter":"server = crm"}`, ""},
	{"QueryService/GetTimeline", `{"principal":"user:ada"}`, "entries"},
	{"QueryService/AggregateEvents", `{"filter":"server = crm","group_by":["server"],"order_by":"count"}`, "groups"},
	{"QueryService/ListTools", `{"server":"crm"}`, "tools"},
	{"QueryService/ListToolDefinitions", `{"server":"crm","name":"read_account"}`, "definitions"},
	{"QueryService/ListEmitters", `{"limit":10}`, "emitters"},
	{"FindingService/ListFindings", `{"filter":"rule = \"auth-bruteforce\""}`, "findings"},
	{"FindingService/GetFinding", `{"finding_id":"$finding"}`, "versions events"},
	{"FindingService/WatchFindings", `{"filter":"severity = low"}`, ""},
	{"FindingService/TriageFinding", `{"finding_id":"$finding","step":"close","verdict":"benign","note":"a drill","suppress_days":1}`, ""},
	{"FindingService/ListSuppressions", `{}`, "suppressions"},
	{"FindingService/EndSuppression", `{"suppression_id":"$suppression"}`, ""},
	{"RuleService/ListRules", `{}`, "rules"},
	{"RuleService/ReloadRules", `{}`, ""},
	{"NotifyService/ListNotifications", `{"step":"sent"}`, "notifications"},
	{"NotifyService/ListReceivers", `{}`, "receivers"},
	{"NotifyService/TestReceivers", `{}`, ""},
	{"ExportService/ExportEvents", `{"filter":"server = crm","formats":["jsonl"],"reason":"a drill"}`, ""},
	{"LedgerService/ListLogs", `{}`, ""},
	{"LedgerService/GetConsistencyProof", `{"log_id":"$log","from_size":"1","to_size":"2"}`, ""},
	{"LedgerService/GetEventProof", `{"event_id":"$event"}`, "event"},
	{"LedgerService/VerifyStore", `{"verifier_keys":["$verifier"]}`, ""},
	{"RetentionService/PlanRetention", `{}`, "expired"},
	{"RetentionService/ApplyRetention", `{}`, ""},
	{"RetentionService/CreateHold", `{"filter":"server = nothing","reason":"a drill","owner":"legal"}`, ""},
	{"RetentionService/ListHolds", `{}`, "holds"},
	{"RetentionService/ReleaseHold", `{"hold_id":"$hold"}`, ""},
	{"AccessService/CreateKey", `{"name":"a drill","roles":["analyst"],"tenant":"acme"}`, "key"},
	{"AccessService/ListKeys", `{"page_size":1000}`, "keys"},
	{"AccessService/RotateKey", `{"key_id":"$key"}`, "key"},
	{"AccessService/RevokeKey", `{"key_id":"$key","reason":"a drill"}`, "key"},
	{"AccessService/LookUpPseudonym", `{"value":"very-secret@example.com"}`, ""},
}

// request is that of one method; known says what stands behind each $name.
func (a *asking) request(t *testing.T, m protoreflect.MethodDescriptor, known map[string]string) proto.Message {
	t.Helper()
	text := a.text(known)
	req := dynamicpb.NewMessage(m.Input())
	if err := protojson.Unmarshal([]byte(text), req); err != nil {
		t.Fatalf("%s: %v", a.method, err)
	}
	return req
}

func (a *asking) text(known map[string]string) string {
	var pairs []string
	for name, value := range known {
		pairs = append(pairs, `"$`+name+`"`, `"`+value+`"`)
	}
	return strings.NewReplacer(pairs...).Replace(a.json)
}

// askings are the methods with their requests. A method without one fails the test.
func askings(t *testing.T) (list []asking, byName map[string]protoreflect.MethodDescriptor) {
	t.Helper()
	byName = map[string]protoreflect.MethodDescriptor{}
	for _, m := range methods(t) {
		byName[shortName(m)] = m
	}
	for _, a := range asked {
		if byName[a.method] == nil {
			t.Fatalf("there is no method %s", a.method)
		}
	}
	if len(asked) != len(byName) {
		t.Errorf("%d methods have a request in this test's table, and there are %d: add the new one", len(asked), len(byName))
	}
	return asked, byName
}
