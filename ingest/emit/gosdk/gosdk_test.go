package gosdk_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpaudit/mcpaudit/ingest/emit/gosdk"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
)

// secret has the form of a token and was never anyone's; it is assembled so that
// no scanner takes it for a leak.
var secret = "ghp_" + strings.Repeat("Rt5Xw", 7) + "b"

func options(t *testing.T, s *rpctest.Service) *gosdk.Options {
	t.Helper()
	return &gosdk.Options{Server: "library", ServerVersion: "1.2", Tenant: "acme", Service: s.Address, Spool: t.TempDir(),
		KeyFile: filepath.Join(t.TempDir(), "key"), Flush: 20 * time.Second, Log: slog.New(slog.DiscardHandler)}
}

type lookup struct {
	Path string `json:"path"`
}

// newServer has tools for each way in which a call can end.
func newServer() *mcp.Server {
	server := mcp.NewServer(&mcp.Implementation{Name: "library", Version: "1.2"}, nil)
	schema := json.RawMessage(`{"type":"object"}`)
	raw := func(name string, h mcp.ToolHandler) {
		server.AddTool(&mcp.Tool{Name: name, Description: "A tool named " + name, InputSchema: schema}, h)
	}
	mcp.AddTool(server, &mcp.Tool{Name: "read", Description: "Reads", Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}},
		func(_ context.Context, _ *mcp.CallToolRequest, in lookup) (*mcp.CallToolResult, any, error) {
			if strings.HasPrefix(in.Path, "/etc") {
				return nil, nil, errors.New("access denied: " + in.Path)
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "the token is " + secret}}}, nil, nil
		})
	raw("broken", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return nil, &jsonrpc.Error{Code: -32000, Message: "out of paper"}
	})
	raw("policy", func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		e := gosdk.Event(ctx)
		e.Decision, e.PolicyID, e.ScopesRequired, e.AgentID = "deny", "no-printing", []string{"print"}, "agent-7"
		return nil, errors.New("no")
	})
	raw("slow", func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	shared := map[string]any{"n": 0} // a tool that answers with a value that it goes on using
	raw("reuses", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		shared["n"] = shared["n"].(int) + 1
		return &mcp.CallToolResult{StructuredContent: shared, Content: []mcp.Content{}}, nil
	})
	raw("picture", func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.ImageContent{Data: []byte("pixels"), MIMEType: "image/png"}}}, nil
	})
	return server
}

// connect runs the server for a client in this process.
func connect(t *testing.T, server *mcp.Server) *mcp.ClientSession {
	t.Helper()
	ours, theirs := mcp.NewInMemoryTransports()
	ss, err := server.Connect(t.Context(), ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "tester", Version: "0.1"}, nil)
	cs, err := client.Connect(t.Context(), theirs, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cs.Close(); _ = ss.Wait() })
	return cs
}

func callTool(t *testing.T, cs *mcp.ClientSession, name, arguments string) {
	t.Helper()
	_, _ = cs.CallTool(t.Context(), &mcp.CallToolParams{Name: name, Arguments: json.RawMessage(arguments),
		Meta: mcp.Meta{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}})
}

// tools are the stored tool calls: what, outcome, decision.
func tools(s *rpctest.Service) (out []string) {
	for _, e := range s.Events() {
		if e.Kind == "tool_call" {
			out = append(out, strings.TrimSpace(e.Target+" "+e.Outcome+" "+e.ErrorCode))
		}
	}
	return out
}

func TestOneLineAuditsEveryCall(t *testing.T) {
	s := rpctest.New(t)
	server := newServer()
	audit := gosdk.Audit(server, options(t, s))
	cs := connect(t, server)
	if _, err := cs.ListTools(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	callTool(t, cs, "read", `{"path":"a.txt"}`)
	callTool(t, cs, "read", `{"path":"/etc/passwd"}`)
	callTool(t, cs, "broken", `{}`)
	callTool(t, cs, "policy", `{}`)
	callTool(t, cs, "picture", `{}`)
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _ = cs.CallTool(soon, &mcp.CallToolParams{Name: "slow"})
	rpctest.Eventually(t, "the cancelled call has ended", func() bool { return audit.Stats().Emitted >= 8 })
	if err := audit.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"read success", "read denied", "broken protocol_error -32000", "policy denied", "picture success", "slow cancelled"}
	if got := tools(s); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	var definitions int
	for _, e := range s.Events() {
		if strings.Contains(fmt.Sprintf("%+v", e), secret) {
			t.Errorf("the secret is in the store: %+v", e)
		}
		if e.Tenant != "acme" || e.Server != "library" || e.ServerVersion != "1.2" || e.Transport != "stdio" || e.Principal == "" || e.SessionID == "" {
			t.Errorf("who and where: %+v", e)
		}
		if e.Kind == "tools_list" && e.Target != "" {
			definitions++
		}
		if e.Kind != "tool_call" {
			continue
		}
		if e.ClientName != "tester" || e.ProtocolVersion == "" || e.DefinitionDigest == (event.Digest{}) {
			t.Errorf("%s: client %q, protocol %q, definition %v", e.Target, e.ClientName, e.ProtocolVersion, e.DefinitionDigest)
		}
		if e.Target != "slow" && (e.TraceID != "0af7651916cd43dd8448eb211c80319c" || e.SpanID != "b7ad6b7169203331") {
			t.Errorf("%s: trace %s, span %s", e.Target, e.TraceID, e.SpanID)
		}
		if e.Target == "read" && !e.Hints.ReadOnly || e.Target != "read" && e.Hints.ReadOnly {
			t.Errorf("%s: %+v", e.Target, e.Hints)
		}
		if e.Target == "policy" && (e.Decision != "deny" || e.PolicyID != "no-printing" || e.AgentID != "agent-7" || !slices.Equal(e.ScopesRequired, []string{"print"})) {
			t.Errorf("what the tool said is not in its event: %+v", e)
		}
	}
	if definitions != 6 {
		t.Errorf("%d definitions", definitions)
	}
}

// A tool may use again what it answered with: the audit neither sees the later
// value nor races with it.
func TestWhatAToolReusesIsRecordedAsItWas(t *testing.T) {
	s := rpctest.New(t)
	server := newServer()
	audit := gosdk.Audit(server, options(t, s))
	cs := connect(t, server)
	for range 200 {
		callTool(t, cs, "reuses", `{}`)
	}
	if err := audit.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	digests := map[event.Digest]bool{}
	for _, e := range s.Events() {
		if e.Kind == "tool_call" {
			digests[e.ResultDigest] = true
		}
	}
	if len(digests) != 200 {
		t.Errorf("%d different results of 200", len(digests))
	}
}

// A client of an older revision whose requests lack parameters: the audit must not
// be what breaks them.
func TestPromise8OddCallsPass(t *testing.T) {
	s := rpctest.New(t)
	server := newServer()
	audit := gosdk.Audit(server, options(t, s))
	ours, theirs := mcp.NewInMemoryTransports()
	if _, err := server.Connect(t.Context(), ours, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := theirs.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(method string, id int64, params string) {
		r := &jsonrpc.Request{Method: method, Params: json.RawMessage(params)}
		if id > 0 {
			if r.ID, err = jsonrpc.MakeID(float64(id)); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.Write(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if id == 0 {
			return
		}
		if _, err := conn.Read(t.Context()); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
	}
	send("initialize", 1, `{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"old","version":"1"}}`)
	send("notifications/initialized", 0, "")
	send("tools/list", 2, "")
	send("tools/list", 3, "null")
	send("resources/list", 4, "{}")
	if err := audit.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var lists int
	for _, e := range s.Events() {
		if e.Method == "tools/list" && e.Target == "" {
			lists++
		}
		if e.ProtocolVersion != "2025-06-18" || e.ClientName != "old" {
			t.Errorf("protocol %q, client %q", e.ProtocolVersion, e.ClientName)
		}
	}
	if lists != 2 || audit.Stats().Lost != 0 {
		t.Errorf("%d lists, %+v", lists, audit.Stats())
	}
}

// A call that waits for the user is made again with the answer: one logical call.
func TestACallThatAsksItsUserIsOneCall(t *testing.T) {
	s := rpctest.New(t)
	server := newServer()
	server.AddTool(&mcp.Tool{Name: "asks", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(_ context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if req.Params.InputResponses == nil {
			return &mcp.CallToolResult{RequestState: "s", InputRequests: mcp.InputRequestMap{"sure": &mcp.ElicitParams{Message: "Sure?"}}}, nil
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "done"}}}, nil
	})
	audit := gosdk.Audit(server, options(t, s))
	ours, theirs := mcp.NewInMemoryTransports()
	if _, err := server.Connect(t.Context(), ours, nil); err != nil {
		t.Fatal(err)
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "tester"}, &mcp.ClientOptions{
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"card": "4111 1111 1111 1111"}}, nil
		}})
	cs, err := client.Connect(t.Context(), theirs, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "asks", Arguments: map[string]any{"n": 1}}); err != nil {
		t.Fatal(err)
	}
	if err := audit.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range s.Events() {
		if e.Target == "asks" {
			got = append(got, fmt.Sprint(e.Method, " ", e.Outcome, " ", e.Attempt))
		}
		if strings.Contains(e.Arguments, "4111") {
			t.Errorf("what the user typed is in the store: %s", e.Arguments)
		}
	}
	if want := []string{"tools/call input_required 0", "mcpaudit/inputs success 1", "tools/call success 1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Promise 8: an audit that can't record lets calls pass or refuses them, as its
// owner chose.
func TestPromise8FailOpenOrClosed(t *testing.T) {
	s := rpctest.New(t)
	for _, closed := range []bool{false, true} {
		o := options(t, s)
		o.FailClosed, o.Spool = closed, "/proc/no-folder-can-be-made-here"
		server := newServer()
		audit := gosdk.Audit(server, o)
		ours, theirs := mcp.NewInMemoryTransports()
		if _, err := server.Connect(t.Context(), ours, nil); err != nil {
			t.Fatal(err)
		}
		cs, err := mcp.NewClient(&mcp.Implementation{Name: "tester"}, nil).Connect(t.Context(), theirs, nil)
		if !closed && err == nil {
			_, err = cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "read", Arguments: lookup{"a"}})
		}
		if refused := err != nil; refused != closed || closed && !strings.Contains(err.Error(), "audit log takes no events") {
			t.Errorf("closed is %v: %v", closed, err)
		}
		if err := audit.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if lost := audit.Stats().Lost; closed == (lost > 0) {
			t.Errorf("closed is %v: %d are lost", closed, lost)
		}
	}
}

func TestClosedRefusesNothingWhileAllIsWell(t *testing.T) {
	s := rpctest.New(t)
	o := options(t, s)
	o.FailClosed = true
	server := newServer()
	audit := gosdk.Audit(server, o)
	cs := connect(t, server)
	for range 50 {
		if _, err := cs.CallTool(t.Context(), &mcp.CallToolParams{Name: "read", Arguments: lookup{"a"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := audit.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := tools(s); len(got) != 50 {
		t.Errorf("%d calls are stored", len(got))
	}
}

// bearer adds a token to each request.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if b != "" {
		r.Header.Set("Authorization", "Bearer "+string(b))
	}
	r.Header.Set("Mcpaudit-Client-Ip", "6.6.6.6") // a forged one
	return http.DefaultTransport.RoundTrip(r)
}

func TestOverHTTPWhoCallsIsWhoTheTokenNamesAndRefusalsAreRecorded(t *testing.T) {
	s := rpctest.New(t)
	server := newServer()
	audit := gosdk.Audit(server, options(t, s))
	verify := func(_ context.Context, token string, _ *http.Request) (*auth.TokenInfo, error) {
		info := &auth.TokenInfo{UserID: "alice", Expiration: time.Now().Add(time.Hour), Extra: map[string]any{"iss": "https://id.example", "name": "Alice"}}
		switch token {
		case "good-token-of-alice":
			info.Scopes = []string{"books"}
		case "narrow-token-of-alice":
		default:
			return nil, fmt.Errorf("%w: unknown", auth.ErrInvalidToken)
		}
		return info, nil
	}
	guard := auth.RequireBearerToken(verify, &auth.RequireBearerTokenOptions{Scopes: []string{"books"}})
	web := httptest.NewServer(audit.Handler(guard(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil))))
	defer web.Close()

	cs, err := mcp.NewClient(&mcp.Implementation{Name: "tester", Version: "0.1"}, nil).Connect(t.Context(),
		&mcp.StreamableClientTransport{Endpoint: web.URL, HTTPClient: &http.Client{Transport: bearer("good-token-of-alice")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	callTool(t, cs, "read", `{"path":"a.txt"}`)
	cs.Close()
	// Clients that are refused; the body is what they tried to call.
	for _, token := range []string{"", "stolen-token", "narrow-token-of-alice"} {
		body := `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","arguments":{"path":"/etc/shadow"}}}`
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, web.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := bearer(token).RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("%q was let in", token)
		}
	}
	if err := audit.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var granted, refused []*event.Event
	for _, e := range s.Events() {
		if strings.Contains(fmt.Sprintf("%+v", e), "token-of-alice") {
			t.Errorf("a token is in the store: %+v", e)
		}
		switch {
		case e.ClientIP != "127.0.0.1":
			t.Errorf("the client's address is %q", e.ClientIP)
		case e.HTTPStatus != 0:
			refused = append(refused, e)
		case e.Kind == "tool_call":
			granted = append(granted, e)
		}
	}
	if len(granted) != 1 || len(refused) != 3 {
		t.Fatalf("%d calls and %d refusals", len(granted), len(refused))
	}
	e := granted[0]
	if e.Principal != "https://id.example#alice" || e.PrincipalName != "Alice" || e.AuthMethod != "bearer" || !slices.Equal(e.ScopesGranted, []string{"books"}) ||
		e.CredentialID == "" || e.Transport != "http" || e.UserAgent == "" || e.Outcome != "success" {
		t.Errorf("%+v", e)
	}
	for i, want := range []struct {
		status uint16
		reason string
	}{{401, "no bearer token"}, {401, "invalid token: unknown"}, {403, "insufficient scope"}} {
		e := refused[i]
		if e.HTTPStatus != want.status || e.Kind != "tool_call" || e.Target != "read" || e.Outcome != "denied" || e.Decision != "deny" ||
			e.DecisionReason != want.reason || !slices.Equal(e.ScopesRequired, []string{"books"}) || !strings.Contains(e.Arguments, "/etc/shadow") {
			t.Errorf("refusal %d: %+v", i, e)
		}
		if (e.CredentialID == "") != (i == 0) || i > 0 && e.CredentialID == granted[0].CredentialID {
			t.Errorf("refusal %d: credential %q", i, e.CredentialID)
		}
	}
}

// The example server, as somebody would run it: a process on standard input and
// output that knows the service from its environment.
func TestTheExampleServerIsAudited(t *testing.T) {
	s := rpctest.New(t)
	program := filepath.Join(t.TempDir(), "library")
	if out, err := exec.Command("go", "build", "-o", program, "./example").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "MCPAUDIT_SERVICE="+s.Address, "MCPAUDIT_REDACT_KEY_FILE="+filepath.Join(t.TempDir(), "key"), "XDG_STATE_HOME="+t.TempDir())
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "tester", Version: "0.1"}, nil).Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	callTool(t, cs, "find_books", `{"words":"cities"}`)
	callTool(t, cs, "lend_book", `{"book":"Solaris","reader":"ada@example.com"}`)
	callTool(t, cs, "lend_book", `{"book":"Solaris","reader":"bob"}`)
	if err := cs.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"find_books success", "lend_book success", "lend_book tool_error"}
	if got := tools(s); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, e := range s.Events() {
		if e.Server != "library" || strings.Contains(fmt.Sprintf("%+v", e), "ada@example.com") {
			t.Errorf("%+v", e)
		}
	}
}

// The README shows the example's one line.
func TestTheReadmeShowsTheExample(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example/main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, diff, _ := strings.Cut(string(readme), "```diff\n")
	diff, _, ok := strings.Cut(diff, "```")
	var after strings.Builder
	for line := range strings.Lines(diff) {
		after.WriteString(line[1:])
	}
	if !ok || !strings.Contains(string(example), after.String()) || strings.Count(string(example), "gosdk.") != 1 {
		t.Errorf("the example does not have\n%s", after.String())
	}
}

// Without Handler nobody knows the peer: a client that sends the header itself is
// not believed.
func TestAClientCannotNameItsOwnAddress(t *testing.T) {
	s := rpctest.New(t)
	server := newServer()
	audit := gosdk.Audit(server, options(t, s))
	web := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil))
	defer web.Close()
	cs, err := mcp.NewClient(&mcp.Implementation{Name: "tester"}, nil).Connect(t.Context(),
		&mcp.StreamableClientTransport{Endpoint: web.URL, HTTPClient: &http.Client{Transport: bearer("")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	callTool(t, cs, "read", `{"path":"a.txt"}`)
	cs.Close()
	if err := audit.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	events := s.Events()
	if len(tools(s)) != 1 {
		t.Errorf("%d events", len(events))
	}
	for _, e := range events {
		if e.ClientIP != "" || e.Transport != "http" || e.Principal != "" {
			t.Errorf("address %q, transport %q, principal %q", e.ClientIP, e.Transport, e.Principal)
		}
	}
}

// A flood of refusals does not become a flood of events, and what is held back is
// counted.
func TestAFloodOfRefusalsIsHeldBack(t *testing.T) {
	s := rpctest.New(t)
	audit, err := gosdk.Open(options(t, s))
	if err != nil {
		t.Fatal(err)
	}
	h := audit.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	for range 5000 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/mcp", nil))
	}
	if err := audit.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Events()); n < 100 || n > 4000 {
		t.Errorf("%d of 5000 refusals are events", n)
	}
}
