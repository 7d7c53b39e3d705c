package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/sql"
)

// mayCall is who may call what, written by hand beside the rules: a mistake there must
// not be one here. "all" is a method of the whole store, which one tenant's people may
// not call.
var mayCall = map[string]string{
	"IngestService/Publish":            "emitter",
	"IngestService/PublishBatch":       "emitter",
	"QueryService/ListEvents":          "analyst auditor",
	"QueryService/GetEvent":            "analyst auditor",
	"QueryService/WatchEvents":         "analyst auditor",
	"QueryService/GetTimeline":         "analyst auditor",
	"QueryService/AggregateEvents":     "analyst auditor",
	"QueryService/ListTools":           "analyst auditor",
	"QueryService/ListToolDefinitions": "analyst auditor",
	"QueryService/ListEmitters":        "analyst auditor",
	"FindingService/ListFindings":      "analyst auditor",
	"FindingService/GetFinding":        "analyst auditor",
	"FindingService/WatchFindings":     "analyst auditor",
	"FindingService/TriageFinding":     "analyst auditor",
	"FindingService/ListSuppressions":  "analyst auditor",
	"FindingService/EndSuppression":    "analyst auditor",
	"RuleService/ListRules":            "analyst auditor",
	"RuleService/ReloadRules":          "admin all",
	"NotifyService/ListNotifications":  "analyst auditor",
	"NotifyService/ListReceivers":      "admin all",
	"NotifyService/TestReceivers":      "admin all",
	"ExportService/ExportEvents":       "exporter",
	"LedgerService/GetEventProof":      "auditor",
	"LedgerService/VerifyStore":        "auditor all",
	// Of an emitter, which is a witness of what it was told; it sees no row.
	"LedgerService/ListLogs":            "auditor emitter",
	"LedgerService/GetConsistencyProof": "auditor emitter",
	"RetentionService/PlanRetention":    "admin all",
	"RetentionService/ApplyRetention":   "admin all",
	"RetentionService/CreateHold":       "admin all",
	"RetentionService/ReleaseHold":      "admin all",
	"RetentionService/ListHolds":        "admin all",
	"AccessService/WhoAmI":              "emitter analyst auditor exporter admin monitor",
	"AccessService/CreateKey":           "admin",
	"AccessService/ListKeys":            "admin",
	"AccessService/RotateKey":           "admin",
	"AccessService/RevokeKey":           "admin",
	"AccessService/LookUpPseudonym":     "analyst auditor",
}

// methods are all methods of the API.
func methods(t *testing.T) (out []protoreflect.MethodDescriptor) {
	t.Helper()
	protoregistry.GlobalFiles.RangeFilesByPackage("mcpaudit.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			all := f.Services().Get(i).Methods()
			for j := range all.Len() {
				out = append(out, all.Get(j))
			}
		}
		return true
	})
	if len(out) < 30 {
		t.Fatalf("only %d methods were found", len(out))
	}
	return out
}

func fullName(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

func shortName(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("%s/%s", m.Parent().Name(), m.Name())
}

func TestEveryMethodHasARule(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range methods(t) {
		seen[fullName(m)] = true
		rule, ok := rights[fullName(m)]
		if !ok || rule.Permission == "" || rule.Open {
			t.Errorf("%s has the rule %+v", fullName(m), rule)
		}
		if mayCall[shortName(m)] == "" {
			t.Errorf("%s is not in this test's own table", shortName(m))
		}
	}
	for name := range rights {
		if !seen[name] && name != sql.Method && !strings.HasPrefix(name, "/"+healthpb.Health_ServiceDesc.ServiceName+"/") {
			t.Errorf("there is a rule for %s, and no such method", name)
		}
	}
	if len(mayCall) != len(seen) {
		t.Errorf("this test's table has %d methods, the API %d", len(mayCall), len(seen))
	}
}

// makeKey makes a key with a role and the connection that shows it.
func (s *service) makeKey(t *testing.T, req *pb.CreateKeyRequest) string {
	t.Helper()
	if req.Name == "" {
		req.Name = strings.Join(req.GetRoles(), "+") + "@" + req.GetTenant()
	}
	resp, err := pb.NewAccessServiceClient(s.grpc).CreateKey(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetText()
}

// Every method of every service, over gRPC and HTTP, as every role of one tenant and of
// all: what the table says, and nothing else.
func TestEachRoleMayCallWhatIsItsOwnAndNothingElse(t *testing.T) {
	s := serve(t, testConfig(t, t.TempDir()))
	s.awaitReady(t)
	type somebody struct {
		role, tenant, key string
		conn              *grpc.ClientConn
	}
	people := []somebody{{"nobody", "", "", s.dial(t, "")}, {"a stranger", "", "mcpa_aaaaaaaaaaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", nil}}
	people[1].conn = s.dial(t, people[1].key)
	for _, role := range auth.Roles {
		for _, tenant := range []string{"acme", auth.EveryTenant} {
			key := s.makeKey(t, &pb.CreateKeyRequest{Roles: []string{string(role)}, Tenant: tenant})
			people = append(people, somebody{string(role), tenant, key, s.dial(t, key)})
		}
	}
	var known, strangers sync.WaitGroup // who is a stranger is made to wait, the longer the oftener
	for i, m := range methods(t) {
		roles := strings.Fields(mayCall[shortName(m)])
		for _, p := range people {
			may := slices.Contains(roles, p.role) && (p.tenant == auth.EveryTenant || !slices.Contains(roles, "all"))
			want := codes.PermissionDenied
			if p.key == "" || p.role == "a stranger" {
				want = codes.Unauthenticated
			}
			check := func() {
				// A call that was let in fails with something else, or does not: the request
				// is empty.
				if err := invoke(t.Context(), p.conn, m, may); may == refusedFor(err, want) {
					t.Errorf("gRPC %s as %s of %q: %v", shortName(m), p.role, p.tenant, err)
				}
				for _, binding := range bindings(m) {
					code, body := s.call(t, binding, p.key, may)
					refused := code == http.StatusForbidden && want == codes.PermissionDenied && strings.Contains(body, "this credential may not") || code == http.StatusUnauthorized
					if may == refused {
						t.Errorf("HTTP %v as %s of %q: %d %s", binding, p.role, p.tenant, code, body)
					}
				}
			}
			if want == codes.Unauthenticated {
				strangers.Go(check)
			} else {
				known.Go(check)
			}
		}
		if i%5 == 4 {
			known.Wait()
		}
	}
	known.Wait()
	strangers.Wait()
}

// refusedFor says whether an error is that of a guard.
func refusedFor(err error, want codes.Code) bool {
	return status.Code(err) == want && (want == codes.Unauthenticated || strings.Contains(err.Error(), "this credential may not"))
}

// invoke calls a method with an empty request and returns how that begins.
func invoke(ctx context.Context, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, may bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, resp := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingServer() && !m.IsStreamingClient() {
		return conn.Invoke(ctx, fullName(m), req, resp)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, fullName(m))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if may && strings.HasPrefix(string(m.Name()), "Watch") { // it goes on for ever
		time.AfterFunc(300*time.Millisecond, cancel)
	}
	return stream.RecvMsg(resp)
}

// bindings are the HTTP forms of a method.
func bindings(m protoreflect.MethodDescriptor) (out [][2]string) {
	rule, ok := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule == nil {
		return nil
	}
	for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		if r.GetGet() != "" {
			out = append(out, [2]string{http.MethodGet, r.GetGet()})
		} else {
			out = append(out, [2]string{http.MethodPost, r.GetPost()})
		}
	}
	return out
}

var pathField = regexp.MustCompile(`\{[^}]*\}`)

func (s *service) call(t *testing.T, binding [2]string, key string, may bool) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if may && strings.Contains(binding[1], ":watch") {
		time.AfterFunc(300*time.Millisecond, cancel)
	}
	var body io.Reader
	if binding[0] == http.MethodPost {
		body = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(ctx, binding[0], s.web+pathField.ReplaceAllString(binding[1], "x"), body)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() == nil || !strings.Contains(binding[1], ":watch") {
			t.Error(err)
		}
		return http.StatusOK, "" // a watch was let in and waits
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16)) // a watch is cut off
	return resp.StatusCode, string(text)
}
