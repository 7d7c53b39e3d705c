package app

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/auth/authtest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// bounded is how long anything that is asked may take, however the machine is loaded.
const bounded = 20 * time.Second

// somewhere is a connection from an address of its own: all of 127.0.0.0/8 is this
// machine, and each of its addresses is somebody else to the service.
func (s *service) somewhere(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", to) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// raw sends bytes as they are from an address, and reads one answer. A large request
// may be answered before it is read.
func (s *service) raw(t *testing.T, address, text string) (*http.Response, string) {
	t.Helper()
	conn := s.plug(t, address)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(bounded))
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() { _, _ = io.WriteString(conn, text) })
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Errorf("%.80q: %v", text, err)
		conn.Close()
		return &http.Response{Header: http.Header{}}, ""
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // it may be cut off
	conn.Close()
	return resp, string(body)
}

func (s *service) plug(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).Dial("tcp", strings.TrimPrefix(s.web, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// noted are the events that a filter finds, by the address that they are of. The
// operator asks.
func (s *service) noted(t *testing.T, filter string) map[string][]*pb.Event {
	t.Helper()
	found := map[string][]*pb.Event{}
	req := &pb.ListEventsRequest{Filter: filter, PageSize: 1000}
	for {
		resp, err := pb.NewQueryServiceClient(s.grpc).ListEvents(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.GetEvents() {
			found[e.GetClientIp()] = append(found[e.GetClientIp()], e)
		}
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			return found
		}
	}
}

// guarded is a service with keys, and with tokens of a provider in this process.
type guarded struct {
	*service
	dir                        string
	provider                   *authtest.Provider
	signs                      authtest.Key
	emitter, analyst, exporter string // keys of the tenant acme
}

const accessYAML = `issuers:
  - issuer: %[1]s
    audience: mcpaudit
    ca: provider.pem
grants:
  - token: {issuer: %[1]s, claim: groups, value: soc}
    roles: [analyst, exporter]
    tenant_claim: org
  - certificate: spiffe://example.org/ns/prod/crm
    roles: [emitter]
    tenant: acme
`

// accessFile trusts the provider, in a folder of the test.
func accessFile(t *testing.T, p *authtest.Provider) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"access.yaml": fmt.Sprintf(accessYAML, p.URL), "provider.pem": string(p.PEM())} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "access.yaml")
}

func claims(p *authtest.Provider, changes map[string]any) map[string]any {
	now := time.Now()
	out := map[string]any{"iss": p.URL, "aud": "mcpaudit", "sub": "u-17", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "groups": []string{"soc"}, "org": "acme"}
	for name, value := range changes {
		out[name] = value
	}
	return out
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{dir: t.TempDir(), signs: authtest.NewRSA("rsa-1", 2048)}
	g.provider = authtest.New(t, g.signs)
	cfg := testConfig(t, g.dir)
	cfg.Access.File = accessFile(t, g.provider)
	cfg.Quota.QuerySeconds = 0 // this one is somewhere else
	g.service = serve(t, cfg)
	g.awaitReady(t)
	g.emitter = g.makeKey(t, &pb.CreateKeyRequest{Roles: []string{"emitter"}, Tenant: "acme", Servers: []string{"crm*"}, Emitters: []string{"crm-*"}})
	g.analyst = g.makeKey(t, &pb.CreateKeyRequest{Roles: []string{"analyst"}, Tenant: "acme", Content: "lookup"})
	g.exporter = g.makeKey(t, &pb.CreateKeyRequest{Roles: []string{"exporter"}, Tenant: "acme"})
	return g
}

// A service that faces a hostile network: what each of them sends is answered in
// bounded time with the right refusal, noted where somebody was refused, and shows
// nothing. Those who belong are served all the while.
func TestHostileRequestsAreRefusedNotedAndHarmless(t *testing.T) {
	g := newGuarded(t)
	slow := g.plug(t, "127.0.8.1") // begins, and never ends
	defer slow.Close()
	if _, err := io.WriteString(slow, "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nX: "); err != nil {
		t.Fatal(err)
	}
	cut := make(chan time.Duration, 1)
	go func() {
		began := time.Now()
		_ = slow.SetReadDeadline(began.Add(2 * time.Minute))
		_, _ = io.Copy(io.Discard, slow)
		cut <- time.Since(began)
	}()
	t.Run("credentials", g.refusesCredentials)
	t.Run("HTTP", g.refusesRequests)
	t.Run("emitter", g.holdsEmittersToWhatTheyAre)
	t.Run("analyst", g.keepsAnalystsFromWriting)
	t.Run("texts", g.answersNothingToHostileTexts)

	if d := <-cut; d > time.Minute {
		t.Errorf("a client that never ends its request was held for %v", d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bounded)
	defer cancel()
	if _, err := publish(ctx, g.grpc, 1); err != nil {
		t.Errorf("afterwards, who belongs publishes: %v", err)
	}
	if code, text := g.page(t, "/readyz"); code != http.StatusOK {
		t.Errorf("afterwards, /readyz: %d, %s", code, text)
	}
}

// revoked is the text of a key that counts no more.
func (g *guarded) revoked(t *testing.T) string {
	t.Helper()
	keys := pb.NewAccessServiceClient(g.grpc)
	k, err := keys.CreateKey(t.Context(), &pb.CreateKeyRequest{Name: "lost", Roles: []string{"analyst"}, Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.RevokeKey(t.Context(), &pb.RevokeKeyRequest{KeyId: k.GetKey().GetKeyId()}); err != nil {
		t.Fatal(err)
	}
	return k.GetText()
}

// foreign is a key of another store.
func foreign(t *testing.T) string {
	t.Helper()
	now := time.Now()
	_, text, err := auth.NewKey("x", []auth.Grant{{Role: auth.Analyst, Tenant: auth.EveryTenant}}, "key:x", now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return text.Reveal()
}

// confused is a token whose HMAC is made with the provider's public key.
func (g *guarded) confused(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(g.signs.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims(g.provider, nil))
	if err != nil {
		t.Fatal(err)
	}
	text := authtest.Base64(`{"alg":"HS256","kid":"rsa-1"}`) + "." + authtest.Base64(string(payload))
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Whatever is shown in place of a credential, by either way.
func (g *guarded) refusesCredentials(t *testing.T) {
	token := func(changes map[string]any) string { return g.signs.Token(t, claims(g.provider, changes)) }
	other := authtest.NewEC("ec-9")
	payload, err := json.Marshal(claims(g.provider, nil))
	if err != nil {
		t.Fatal(err)
	}
	expired := g.makeKey(t, &pb.CreateKeyRequest{Roles: []string{"analyst"}, Tenant: "acme", Lifetime: durationpb.New(time.Microsecond)})
	wrong := g.analyst[:len(g.analyst)-10] + strings.Repeat("a", 10)
	bearer := func(text string) []string { return []string{"Bearer " + text} }
	now := time.Now()
	cases := []struct {
		name   string
		header []string // values of Authorization
		reason auth.Reason
	}{
		{"none", nil, auth.NoCredential},
		{"an expired key", bearer(expired), auth.Expired},
		{"a revoked key", bearer(g.revoked(t)), auth.Revoked},
		{"a key with another secret", bearer(wrong), auth.Unknown},
		{"a key of another store", bearer(foreign(t)), auth.Unknown},
		{"half a key", bearer(g.analyst[:40]), auth.Malformed},
		{"a key twice in one header", bearer(g.analyst + ", Bearer " + g.analyst), auth.Malformed},
		{"Basic", []string{"Basic " + base64.StdEncoding.EncodeToString([]byte("key:"+g.analyst))}, auth.Malformed},
		{"a key without a scheme", []string{g.analyst}, auth.Malformed},
		{"two headers, both good", []string{"Bearer " + g.analyst, "Bearer " + g.analyst}, auth.Malformed},
		{"two headers, the second good", []string{"Bearer x", "Bearer " + g.analyst}, auth.Malformed},
		{"too long", bearer("mcpa_" + strings.Repeat("a", 17<<10)), auth.Malformed},
		{"a token that is too long", bearer(token(map[string]any{"x": strings.Repeat("x", 9<<10)})), auth.Malformed},
		{"a token that is nested deeply", bearer(g.signs.Sign(t, g.signs.Header(), strings.Repeat(`{"a":`, 1000)+"1"+strings.Repeat("}", 1000))), auth.Malformed},
		{"alg none", bearer(authtest.Base64(`{"alg":"none"}`) + "." + authtest.Base64(string(payload)) + "."), auth.WrongAlgorithm},
		{"the public key as a secret", bearer(g.confused(t)), auth.WrongAlgorithm},
		{"an expired token", bearer(token(map[string]any{"exp": now.Add(-time.Hour).Unix()})), auth.Expired},
		{"a token of tomorrow", bearer(token(map[string]any{"nbf": now.Add(24 * time.Hour).Unix(), "exp": now.Add(25 * time.Hour).Unix()})), auth.NotYetValid},
		{"another issuer's token", bearer(token(map[string]any{"iss": "https://evil.example"})), auth.WrongIssuer},
		{"a token for another service", bearer(token(map[string]any{"aud": "billing"})), auth.WrongAudience},
		{"a token of a key that nobody has", bearer(other.Token(t, claims(g.provider, nil))), auth.Unknown},
		{"a signature of somebody else", bearer(authtest.NewRSA("rsa-1", 2048).Token(t, claims(g.provider, nil))), auth.WrongSignature},
		{"a token that nobody gave a role", bearer(token(map[string]any{"groups": []string{"sales"}})), auth.NoGrant},
		{"a token of every tenant", bearer(token(map[string]any{"org": "*"})), auth.NoGrant},
		{"a token of the operator's tenant", bearer(token(map[string]any{"org": "default"})), auth.NoGrant},
	}
	var all sync.WaitGroup
	for i, c := range cases {
		byGRPC, byHTTP := fmt.Sprintf("127.1.0.%d", i+1), fmt.Sprintf("127.1.1.%d", i+1)
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), bounded)
			defer cancel()
			for _, h := range c.header {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", h)
			}
			resp, err := pb.NewQueryServiceClient(g.somewhere(t, byGRPC)).ListEvents(ctx, &pb.ListEventsRequest{})
			if status.Code(err) != codes.Unauthenticated || resp != nil {
				t.Errorf("%s over gRPC: %v, %v", c.name, resp, err)
			}
			tellsNothing(t, g, c.name, status.Convert(err).Message())
		})
		all.Go(func() {
			text := "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
			for _, h := range c.header {
				text += "Authorization: " + h + "\r\n"
			}
			resp, body := g.raw(t, byHTTP, text+"\r\n")
			if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s over HTTP: %d, %s", c.name, resp.StatusCode, body)
			}
			tellsNothing(t, g, c.name, body)
		})
	}
	all.Wait()
	events := g.noted(t, `kind = "auth" AND client_ip = "127.1.*"`)
	for i, c := range cases {
		for way, address := range map[string]string{"grpc": fmt.Sprintf("127.1.0.%d", i+1), "http": fmt.Sprintf("127.1.1.%d", i+1)} {
			checkRefusal(t, c.name+" over "+way, events[address], c.reason, http.StatusUnauthorized, way)
		}
	}
}

// checkRefusal looks at the one event that a refusal left.
func checkRefusal(t *testing.T, name string, events []*pb.Event, reason auth.Reason, code uint32, way string) {
	t.Helper()
	if len(events) != 1 {
		t.Errorf("%s left %d events", name, len(events))
		return
	}
	e := events[0]
	if e.GetDecisionReason() != string(reason) || e.GetDecision() != "deny" || e.GetOutcome() != "denied" || e.GetHttpStatus() != code || e.GetServer() != "mcpaudit" || e.GetLabels()["via"] != way {
		t.Errorf("%s is noted as %v, want %s, %d", name, e, reason, code)
	}
	if code == http.StatusUnauthorized && (e.GetPrincipal() != "" || e.GetMethod() != "mcpaudit/login") {
		t.Errorf("%s is noted as somebody's: %v", name, e)
	}
}

// tellsNothing looks at a text that strangers, or another tenant's people, get.
func tellsNothing(t *testing.T, g *guarded, name, text string) {
	t.Helper()
	for _, leak := range []string{"SELECT", "WHERE", "INSERT", "DB::", "Exception", "ClickHouse", "clickhouse", "Code: ", "goroutine", "runtime error", "panic", ".go:", g.dir, "/root", "/tmp", "unseen", "initech7",
		g.analyst, g.emitter, g.key, "api_keys", "additional_table_filters"} {
		if strings.Contains(text, leak) {
			t.Errorf("%s is told %q: %.400s", name, leak, text)
		}
	}
}

// Requests that are odd as such. The good key in them must not help where it is not
// where it belongs.
func (g *guarded) refusesRequests(t *testing.T) {
	const end = "Connection: close\r\n\r\n"
	get := func(target, headers string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n" + headers + end
	}
	as := func(key string) string { return "Authorization: Bearer " + key + "\r\n" }
	post := func(target, headers, body string) string {
		return "POST " + target + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + headers + end + body
	}
	deep := strings.Repeat(`{"events":[`, 20_000)
	chunks := strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", 1<<20, strings.Repeat(" ", 1<<20)), 17) + "0\r\n\r\n"
	cases := []struct {
		name, text string
		want       []int
		reason     auth.Reason // of the event, when somebody was refused
	}{
		{"a key in the query", get("/v1/events?access_token="+g.analyst+"&key="+g.analyst, ""), []int{401}, auth.NoCredential},
		{"a key in a cookie", get("/v1/events", "Cookie: authorization=Bearer "+g.analyst+"\r\n"), []int{401}, auth.NoCredential},
		{"a key as metadata", get("/v1/events", "Grpc-Metadata-Authorization: Bearer "+g.analyst+"\r\n"), []int{401}, auth.NoCredential},
		{"a key for a proxy", get("/v1/events", "Proxy-Authorization: Bearer "+g.analyst+"\r\nX-Api-Key: "+g.analyst+"\r\nX-Authorization: Bearer "+g.analyst+"\r\n"), []int{401}, auth.NoCredential},
		{"another caller", get("/v1/events", "Grpc-Metadata-Mcpaudit-Caller: x\r\nMcpaudit-Caller: x\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Real-Ip: 10.0.0.1\r\nX-Forwarded-Client-Cert: URI=spiffe://example.org/ns/prod/crm\r\n"), []int{401}, auth.NoCredential},
		{"another method", post("/v1/events", as(g.analyst)+"X-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n", ""), []int{404, 405, 501}, ""},
		{"another method, as a form", "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n" + as(g.analyst) + end + "filter=id", []int{404, 405, 501}, ""},
		{"a folded header", get("/v1/events", "X: a\r\n Authorization: Bearer "+g.analyst+"\r\n"), []int{401}, auth.NoCredential},
		{"a bare CR in a header", get("/v1/events", "X: a\rAuthorization: Bearer "+g.analyst+"\r\n"), []int{400}, ""},
		{"a bare LF in a credential", get("/v1/events", "Authorization: Bearer x\nX: y\r\n"), []int{401}, auth.Malformed},
		{"a NUL in a credential", get("/v1/events", "Authorization: Bearer x\x00\r\n"), []int{400}, ""},
		{"a blank before the colon", get("/v1/events", "Authorization : Bearer "+g.analyst+"\r\n"), []int{400}, ""},
		{"escaped line ends in the path", get("/v1/events%0d%0aAuthorization:%20Bearer%20"+g.analyst, ""), []int{401, 404}, auth.NoCredential},
		{"a header that is too large", get("/v1/events", "X: "+strings.Repeat("x", 64<<10)+"\r\n"), []int{431}, ""},
		{"a path that is too long", get("/v1/"+strings.Repeat("x", 64<<10), ""), []int{414, 431}, ""},
		{"a way out of /v1", get("/v1/../metrics", ""), []int{301, 307, 308, 401}, ""},
		{"a way out of /v1, escaped", get("/v1/%2e%2e/metrics", ""), []int{301, 307, 308, 401}, ""},
		{"a way into /v1", get("/healthz/../v1/events", ""), []int{301, 307, 308, 401}, ""},
		{"two slashes", get("//v1/events", ""), []int{301, 307, 308, 401}, ""},
		{"two slashes and a host", get("//evil.example/v1/../..", ""), []int{301, 307, 308, 404}, ""},
		{"an escaped slash and dots", get("/v1/events%2f..", ""), []int{301, 307, 308, 401}, ""},
		{"an escaped slash and dots, with a key", get("/v1/events%2f..%2f..%2fmetrics", as(g.analyst)), []int{301, 307, 308, 400, 404}, ""},
		{"another API's path", get("/mcpaudit.v1.QueryService/ListEvents", as(g.analyst)), []int{404}, ""},
		{"profiles", get("/debug/pprof/", as(g.key)), []int{404}, ""},
		{"metrics of an analyst", get("/metrics", as(g.analyst)), []int{403}, auth.Forbidden},
		{"metrics of nobody", get("/metrics", ""), []int{401}, auth.NoCredential},
		{"the whole address, of nobody", get("http://localhost/v1/events", ""), []int{401}, auth.NoCredential},
		{"the whole address, of another host", get("http://evil.example/v1/events", as(g.analyst)), []int{403, 421}, ""},
		{"another host", "GET /v1/events HTTP/1.1\r\nHost: evil.example\r\n" + as(g.analyst) + end, []int{403, 421}, ""},
		{"CONNECT", "CONNECT 192.0.2.1:22 HTTP/1.1\r\nHost: localhost\r\n" + as(g.key) + end, []int{400, 403, 404, 405, 421}, ""},
		{"TRACE", "TRACE /v1/events HTTP/1.1\r\nHost: localhost\r\n" + as(g.key) + end, []int{405, 501}, ""},
		{"a length that is no number", post("/v1/events:publish", as(g.emitter)+"Content-Length: 0x10\r\n", ""), []int{400}, ""},
		{"two lengths", post("/v1/events:publish", as(g.emitter)+"Content-Length: 2\r\nContent-Length: 4\r\n", "{}{}"), []int{400}, ""},
		{"a body that is declared too large", post("/v1/events:publish", as(g.emitter)+"Content-Length: 1073741824\r\n", ""), []int{413}, ""},
		{"a body that grows too large", post("/v1/events:publish", as(g.emitter)+"Transfer-Encoding: chunked\r\n", chunks), []int{400, 413}, ""},
		{"a stranger's body", post("/v1/events:publish", "Content-Length: 1073741824\r\n", ""), []int{401}, auth.NoCredential},
		{"JSON that is nested deeply", post("/v1/events:publish", as(g.emitter)+fmt.Sprintf("Content-Length: %d\r\n", len(deep)), deep), []int{400}, ""},
		{"brackets that never end", post("/v1/events:publish", as(g.emitter)+fmt.Sprintf("Content-Length: %d\r\n", len(`{"x":`)+1<<20), `{"x":`+strings.Repeat("[", 1<<20)), []int{400}, ""},
		{"no JSON", post("/v1/events:publish", as(g.emitter)+"Content-Length: 9\r\n", "\x00\xff\xfe<a/>{}\x80"), []int{400}, ""},
		{"a websocket", get("/v1/events:watch", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), []int{401}, auth.NoCredential},
		{"another site's page", get("/v1/events", as(g.analyst)+"Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n"), []int{403}, ""},
	}
	var all sync.WaitGroup
	for i, c := range cases {
		all.Go(func() {
			resp, body := g.raw(t, fmt.Sprintf("127.2.0.%d", i+1), c.text)
			if !slices.Contains(c.want, resp.StatusCode) {
				t.Errorf("%s: %d, want %d; %.300s", c.name, resp.StatusCode, c.want, body)
			}
			if at := resp.Header.Get("Location"); strings.HasPrefix(at, "//") || strings.Contains(at, ":") || strings.Contains(at, "\\") {
				t.Errorf("%s: is sent away to %q", c.name, at)
			}
			if strings.Contains(body, `"events"`) || strings.Contains(body, "# HELP") || resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: %.300s", c.name, body)
			}
			tellsNothing(t, g, c.name, body)
		})
	}
	all.Wait()
	events := g.noted(t, `kind = "auth" AND client_ip = "127.2.*"`)
	for i, c := range cases {
		code := uint32(http.StatusUnauthorized)
		if c.reason == auth.Forbidden {
			code = http.StatusForbidden
		}
		if c.reason != "" {
			checkRefusal(t, c.name, events[fmt.Sprintf("127.2.0.%d", i+1)], c.reason, code, "http")
		}
	}
	if seen := g.noted(t, `client_ip = "10.0.0.1"`); len(seen) > 0 {
		t.Errorf("what a client said of its address counts: %v", seen)
	}
	g.hidesNoRequestInAnother(t)
}

// A message with a length and chunks is read in one way, and what another way would
// take for a second request is never the answer to one.
func (g *guarded) hidesNoRequestInAnother(t *testing.T) {
	hidden := "GET /v1/access:whoami HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + g.analyst + "\r\n\r\n"
	// By its chunks the request ends before the hidden one; by its length, after it.
	text := fmt.Sprintf("POST /v1/events:publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n%s",
		g.emitter, len("2\r\n{}\r\n0\r\n\r\n")+len(hidden), hidden)
	conn := g.plug(t, "127.2.1.1")
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(bounded))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	all, _ := io.ReadAll(conn) // until the service closes
	if n := strings.Count(string(all), "HTTP/1.1 "); n != 1 || strings.Contains(string(all), `"identity"`) {
		t.Errorf("%d answers to a request that hides another one: %s", n, all)
	}
}
