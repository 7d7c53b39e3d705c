package app

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/internal/transport"
	"github.com/mcpaudit/mcpaudit/internal/transport/certtest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// seen is what a method was called with.
type seen struct {
	pb.UnimplementedQueryServiceServer
	pb.UnimplementedIngestServiceServer
	calls chan seenCall
}

type seenCall struct {
	md             metadata.MD
	address, agent string
	tls            *tls.ConnectionState
	inner          bool
}

func (s *seen) see(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	c := seenCall{md: md.Copy()}
	c.address, c.agent, c.tls, c.inner = transport.Caller(ctx)
	select {
	case s.calls <- c:
	default:
	}
}

func (s *seen) ListEvents(ctx context.Context, r *pb.ListEventsRequest) (*pb.ListEventsResponse, error) {
	s.see(ctx)
	_ = grpc.SetHeader(ctx, metadata.Pairs("secret", "of the service")) // must not get out
	switch r.GetFilter() {
	case "who":
		return nil, status.Error(codes.Unauthenticated, "the key has expired\r\nx: y")
	case "large":
		return &pb.ListEventsResponse{NextPageToken: strings.Repeat("x", 32<<20)}, nil
	}
	return &pb.ListEventsResponse{NextPageToken: "t"}, nil
}

func (s *seen) PublishBatch(ctx context.Context, _ *pb.PublishBatchRequest) (*pb.PublishBatchResponse, error) {
	s.see(ctx)
	return &pb.PublishBatchResponse{}, nil
}

// front is the service's edge with nothing behind it.
type front struct {
	*seen
	edge          *edge
	api           *gateway
	web           *http.Server
	grpc, webAddr net.Addr
	said          chan string // clients whose certificate was not taken
}

func newFront(t *testing.T, change func(*Config), tune func(*front)) *front {
	t.Helper()
	cfg := DefaultConfig("/data")
	cfg.Listen = ListenConfig{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0"}
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	f := &front{seen: &seen{calls: make(chan seenCall, 100)}, said: make(chan string, 100)}
	e, err := newEdge(&cfg, func(address string, reason error) { f.said <- address + " " + reason.Error() }, Deps{Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if f.api, err = newGateway(t.Context(), []string{"ingest", "query"}); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", f.api)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	f.edge, f.web = e, e.web(mux)
	if tune != nil {
		tune(f)
	}
	server := grpc.NewServer(e.options()...)
	pb.RegisterQueryServiceServer(server, f.seen)
	pb.RegisterIngestServiceServer(server, f.seen)
	forGRPC, forHTTP, err := e.listen()
	if err != nil {
		t.Fatal(err)
	}
	f.grpc, f.webAddr = forGRPC.Addr(), forHTTP.Addr()
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() { e.run(ctx) })
	running.Go(func() { _ = server.Serve(forGRPC) })
	running.Go(func() { _ = server.Serve(f.api.inner) })
	running.Go(func() {
		if err := e.serveWeb(f.web, forHTTP); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); f.web.Close(); server.Stop(); f.api.conn.Close(); running.Wait() })
	return f
}

// ask sends a request as it is written, and reads the whole answer.
func (f *front) ask(t *testing.T, text string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", f.webAddr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.200q: %v", text, err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // a connection may be closed at once
	return resp, string(body)
}

// What a client says in headers is its own word: nothing of it takes part in who it is.
func TestNoHeaderButItsOwnReachesTheService(t *testing.T) {
	f := newFront(t, nil, nil)
	const own = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/9\r\nConnection: close\r\n"
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, c := range []struct {
		name, headers string
		want          map[string][]string // metadata; others are gRPC's own
	}{
		{"none", "", nil},
		{"its own", "Authorization: Bearer k\r\nTraceparent: " + trace + "\r\n", map[string][]string{"authorization": {"Bearer k"}, "traceparent": {trace}}},
		{"two credentials", "Authorization: Bearer k\r\nauthorization: Bearer l\r\n", map[string][]string{"authorization": {"Bearer k", "Bearer l"}}},
		{"one of two that gRPC can't carry", "Authorization: Bearer \xff\r\nAuthorization: Bearer k\r\n", map[string][]string{"authorization": {"Bearer ?", "Bearer k"}}},
		{"two traces", "Traceparent: " + trace + "\r\nTraceparent: " + trace + "\r\n", nil},
		{"metadata", "Grpc-Metadata-Authorization: Bearer k\r\nGrpc-Metadata-Mcpaudit-Caller: x\r\nMcpaudit-Caller: x\r\nGrpc-Metadata-X-Bin: AAAA\r\nGrpc-Timeout: 1n\r\n", nil},
		{"forwarding", "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Host: evil.example\r\nForwarded: for=10.0.0.1\r\nX-Real-Ip: 10.0.0.1\r\nX-Client-Cert: x\r\nVia: 1.1 x\r\n", nil},
		{"by hop", "Proxy-Authorization: Bearer k\r\nCookie: a=b\r\nTe: trailers\r\nX-Api-Key: k\r\n", nil},
		{"another method", "X-HTTP-Method-Override: DELETE\r\n", nil},
	} {
		resp, body := f.ask(t, own+c.headers+"\r\n")
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d, %s", c.name, resp.StatusCode, body)
			continue
		}
		got := <-f.calls
		if got.address != "127.0.0.1" || got.agent != "curl/9" || got.tls != nil || !got.inner {
			t.Errorf("%s: the caller is %+v", c.name, got)
		}
		for name, values := range got.md {
			if slices.Contains([]string{":authority", "content-type", "user-agent", "grpc-accept-encoding", "mcpaudit-caller"}, name) {
				continue
			}
			if !slices.Equal(values, c.want[name]) {
				t.Errorf("%s: %s is %q", c.name, name, values)
			}
		}
		for name := range c.want {
			if len(got.md.Get(name)) == 0 {
				t.Errorf("%s: %s did not arrive", c.name, name)
			}
		}
		for name := range resp.Header {
			if strings.HasPrefix(name, "Grpc-") || strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: the answer has %s", c.name, name)
			}
		}
	}
}

// A message that proxies and servers may read in two ways is not read at all.
func TestRequestsThatCanBeReadInTwoWaysAreRefused(t *testing.T) {
	f := newFront(t, nil, func(f *front) { f.web.MaxHeaderBytes = 8 << 10 })
	const line = "POST /v1/events:publish HTTP/1.1\r\n"
	for name, text := range map[string]string{
		"two lengths":          line + "Host: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
		"a length and a sign":  line + "Host: localhost\r\nContent-Length: +2\r\n\r\n{}",
		"two encodings":        line + "Host: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"an unknown encoding":  line + "Host: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"a blank in a name":    line + "Host: localhost\r\nContent-Length : 2\r\n\r\n{}",
		"a folded line":        line + "Host: localhost\r\n Content-Length: 2\r\n\r\n{}",
		"two hosts":            line + "Host: localhost\r\nHost: localhost\r\n\r\n",
		"no host":              line + "\r\n",
		"a NUL":                line + "Host: localhost\r\nX: a\x00b\r\n\r\n",
		"another version":      "POST / HTTP/3.0\r\nHost: localhost\r\n\r\n",
		"too many headers":     line + "Host: localhost\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 20) + "\r\n",
		"a body that is large": line + "Host: localhost\r\nContent-Length: 16777217\r\n\r\n",
		"another host":         line + "Host: evil.example\r\nContent-Length: 0\r\n\r\n",
		"an address elsewhere": line + "Host: 192.0.2.1:4778\r\nContent-Length: 0\r\n\r\n",
		"a host in the line":   "GET http://evil.example/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"another site":         line + "Host: localhost\r\nOrigin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 0\r\n\r\n",
		"a preflight":          "OPTIONS /v1/events HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: GET\r\n\r\n",
	} {
		resp, body := f.ask(t, text)
		if resp.StatusCode < 400 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d, %s", name, resp.StatusCode, body)
		}
	}
	if len(f.calls) != 0 {
		t.Errorf("%d calls reached the service", len(f.calls))
	}
}

// Every answer, of whatever kind, tells browsers to do nothing with it.
func TestEveryAnswerHasTheHeadersOfSecurity(t *testing.T) {
	a := certtest.New(t, "a")
	for _, secure := range []bool{false, true} {
		f := newFront(t, func(c *Config) {
			if secure {
				c.Listen.TLSCert, c.Listen.TLSKey, _ = a.Files(t, "127.0.0.1", "audit.example")
			}
		}, nil)
		scheme := map[bool]string{false: "http://", true: "https://"}[secure]
		web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool()}, ForceAttemptHTTP2: true}}
		defer web.CloseIdleConnections()
		for path, want := range map[string]int{"/healthz": 200, "/v1/events": 200, "/v1/events?filter=who": 401, "/v1/none": 404, "/none": 404, "/v1/events?page_size=x": 400} {
			resp, err := web.Get(scheme + f.webAddr.String() + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			h := resp.Header
			if resp.StatusCode != want || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") ||
				h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" || h.Get("X-Frame-Options") != "DENY" || h.Get("Cache-Control") != "no-store" ||
				(h.Get("Strict-Transport-Security") != "") != secure {
				t.Errorf("%s %s: %d, %v", scheme, path, resp.StatusCode, h)
			}
			if want := map[bool]string{true: `Bearer realm="mcpaudit"`}[resp.StatusCode == 401]; h.Get("WWW-Authenticate") != want {
				t.Errorf("%s: the challenge is %q", path, h.Get("WWW-Authenticate"))
			}
			if secure && resp.ProtoMajor != 2 {
				t.Errorf("%s: HTTP/%d", path, resp.ProtoMajor)
			}
		}
	}
}

func TestAListenerAnswersToItsOwnNames(t *testing.T) {
	a := certtest.New(t, "a")
	cert, key, _ := a.Files(t, "audit.example", "*.inside.example", "10.1.2.3")
	certs, err := transport.Load(transport.Files{Cert: cert, Key: key}, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	loopback := transport.Hosts{Listen: "127.0.0.1:4778"}
	open := transport.Hosts{Listen: "0.0.0.0:4778", Certs: certs, Names: []string{"proxy.example"}}
	for _, c := range []struct {
		host           string
		loopback, open bool
	}{
		{"localhost:4778", true, true}, {"localhost", true, true}, {"127.0.0.1:4778", true, true}, {"[::1]:4778", true, true}, {"LOCALHOST.:1", true, true},
		{"audit.example", false, true}, {"Audit.Example:4778", false, true}, {"a.inside.example", false, true}, {"a.b.inside.example", false, false},
		{"proxy.example:443", false, true}, {"10.1.2.3:4778", false, true}, {"10.9.9.9:4778", false, true}, {"[2001:db8::1]:4778", false, true},
		{"evil.example", false, false}, {"127.0.0.1.evil.example", false, false}, {"localhost.evil.example", false, false}, {"", false, false}, {":4778", false, false},
	} {
		if loopback.Answers(c.host) != c.loopback || open.Answers(c.host) != c.open {
			t.Errorf("%q: on loopback %v, open %v", c.host, loopback.Answers(c.host), open.Answers(c.host))
		}
	}
}

// Whoever calls, and by whichever way, the service sees the same caller; nobody can say
// to be the connection in memory.
func TestACallerIsWhoHasTheConnection(t *testing.T) {
	a, clients, others := certtest.New(t, "a"), certtest.New(t, "clients"), certtest.New(t, "others")
	f := newFront(t, func(c *Config) {
		c.Listen.TLSCert, c.Listen.TLSKey, _ = a.Files(t, "127.0.0.1")
		_, _, c.Listen.ClientCA = clients.Files(t, "x")
	}, nil)
	pair := func(by *certtest.Authority) tls.Certificate {
		cert, key := by.Issue(t, 9, time.Now().Add(time.Hour), "spiffe://example.org/mcp")
		p, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	shown := func(p tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: a.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p, nil }}
	}
	byGRPC := func(c *tls.Config) error {
		conn, err := grpc.NewClient(f.grpc.String(), grpc.WithTransportCredentials(credentials.NewTLS(c)), grpc.WithUserAgent("agent"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx := metadata.AppendToOutgoingContext(t.Context(), "mcpaudit-caller", "x", "x-forwarded-for", "10.0.0.1")
		_, err = pb.NewQueryServiceClient(conn).ListEvents(ctx, &pb.ListEventsRequest{})
		return err
	}
	byHTTP := func(c *tls.Config) error {
		web := &http.Client{Transport: &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}}
		defer web.CloseIdleConnections()
		req, _ := http.NewRequest("GET", "https://"+f.webAddr.String()+"/v1/events", nil)
		req.Header.Set("User-Agent", strings.Repeat("u", 300))
		req.Header.Set("Mcpaudit-Caller", "x")
		resp, err := web.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		return nil
	}
	for _, c := range []struct {
		name string
		ask  func(*tls.Config) error
		http bool
	}{{"gRPC", byGRPC, false}, {"HTTP", byHTTP, true}} {
		if err := c.ask(shown(pair(clients))); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := <-f.calls
		var chain []*x509.Certificate
		if got.tls != nil && len(got.tls.VerifiedChains) > 0 {
			chain = got.tls.VerifiedChains[0]
		}
		if got.address != "127.0.0.1" || got.inner != c.http || len(chain) != 2 || chain[0].URIs[0].String() != "spiffe://example.org/mcp" || len(got.agent) > 200 {
			t.Errorf("%s with a certificate: %+v", c.name, got)
		}
		if err := c.ask(&tls.Config{RootCAs: a.Pool()}); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := <-f.calls; got.tls == nil || len(got.tls.VerifiedChains) != 0 || got.inner != c.http {
			t.Errorf("%s without a certificate: %+v", c.name, got)
		}
		if err := c.ask(shown(pair(others))); err == nil {
			t.Errorf("%s with a certificate of others: taken", c.name)
		}
		select {
		case said := <-f.said:
			if !strings.HasPrefix(said, "127.0.0.1 tls: failed to verify certificate") {
				t.Errorf("%s: %q", c.name, said)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: nobody was told of a certificate that was not taken", c.name)
		}
	}
	// Plaintext to a TLS port is no call.
	conn, err := grpc.NewClient(f.grpc.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := pb.NewQueryServiceClient(conn).ListEvents(t.Context(), &pb.ListEventsRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("plaintext: %v", err)
	}
	if len(f.calls) != 0 {
		t.Errorf("%d calls too many", len(f.calls))
	}
}

func TestAStrangersBodyIsNotRead(t *testing.T) {
	f := newFront(t, nil, func(f *front) {
		f.api.door = func(r *http.Request) (string, error) {
			if md, _ := metadata.FromIncomingContext(transport.Incoming(r)); len(md.Get("authorization")) != 1 {
				return "", status.Error(codes.Unauthenticated, "there is no credential")
			}
			if address, _, _, inner := transport.Caller(transport.Incoming(r)); address != "127.0.0.1" || inner {
				return "", status.Errorf(codes.Internal, "%s", address)
			}
			return "somebody", nil
		}
	})
	// The answer comes before the body, which never comes.
	resp, body := f.ask(t, "POST /v1/events:publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{")
	if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "there is no credential") {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	resp, body = f.ask(t, "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n\r\n")
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
}

// Slow clients hold what they hold for a bounded time, by whichever way they are slow.
func TestSlowClientsAreCutOff(t *testing.T) {
	f := newFront(t, nil, func(f *front) { // the same limits, scaled
		f.web.ReadHeaderTimeout, f.web.ReadTimeout, f.web.IdleTimeout = 200*time.Millisecond, 600*time.Millisecond, 300*time.Millisecond
	})
	for name, c := range map[string]struct {
		begin string
		drip  string // sent again and again
	}{
		"says nothing":   {"", ""},
		"slow headers":   {"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n", "X: y\r\n"},
		"slow body":      {"POST /v1/events:publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n", " "},
		"slow chunks":    {"POST /v1/events:publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"},
		"idle afterward": {"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", f.webAddr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.begin); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { defer close(ended); _, _ = io.Copy(io.Discard, conn) }()
			for n := 0; ; n++ {
				select {
				case <-ended:
					return
				case <-time.After(20 * time.Millisecond):
				}
				if n == 1000 {
					t.Fatal("it was never cut off")
				}
				_, _ = io.WriteString(conn, c.drip) // it fails once it is cut off
			}
		})
	}
}

func TestAClientThatReadsNothingIsCutOff(t *testing.T) {
	closed := make(chan struct{}, 1)
	f := newFront(t, nil, func(f *front) {
		f.api.patience = 300 * time.Millisecond
		f.web.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				closed <- struct{}{}
			}
		}
	})
	conn, err := net.Dial("tcp", f.webAddr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err := io.WriteString(conn, "GET /v1/events?filter=large HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("it was never cut off")
	}
}

// A connection that does not get to the point of saying anything is let go of.
func TestHalfAHandshakeIsCutOff(t *testing.T) {
	a := certtest.New(t, "a")
	tune := func(f *front) { f.edge.handshake, f.web.ReadHeaderTimeout = 300*time.Millisecond, 300*time.Millisecond }
	plain := newFront(t, nil, tune)
	secure := newFront(t, func(c *Config) { c.Listen.TLSCert, c.Listen.TLSKey, _ = a.Files(t, "127.0.0.1") }, tune)
	for name, c := range map[string]struct {
		address net.Addr
		begin   string
	}{
		"gRPC, nothing":                {plain.grpc, ""},
		"gRPC, half a preface":         {plain.grpc, "PRI * HTTP/2.0\r\n"},
		"gRPC, another protocol":       {plain.grpc, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"},
		"gRPC with TLS, nothing":       {secure.grpc, ""},
		"gRPC with TLS, half a hello":  {secure.grpc, "\x16\x03\x01\x02\x00\x01"},
		"HTTP with TLS, nothing":       {secure.webAddr, ""},
		"HTTP with TLS, half a hello":  {secure.webAddr, "\x16\x03\x01\x02\x00\x01"},
		"HTTP with TLS, in plain text": {secure.webAddr, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", c.address.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.WriteString(conn, c.begin); err != nil {
				t.Fatal(err)
			}
			var late net.Error
			if _, err := io.Copy(io.Discard, conn); errors.As(err, &late) && late.Timeout() {
				t.Error("it was never cut off")
			}
		})
	}
}

// As many connections as there may be, all of them of the sort that only costs: those
// that say nothing, those that begin a request and those that begin HTTP/2 and stop.
// Whoever has something to say is answered, on both ports, and what they cost is
// bounded.
func TestTenThousandConnectionsKeepNobodyOut(t *testing.T) {
	count := transport.MaxConnections + 200
	limit := syscall.Rlimit{Cur: uint64(2*count + 1000), Max: uint64(2*count + 1000)}
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	if now.Cur < limit.Cur {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil { // both ends are in this process
			count = int(now.Cur-1000) / 2
			t.Logf("this process may have %d files, so that it tries %d connections: %v", now.Cur, count, err)
		}
	}
	f := newFront(t, nil, func(f *front) { f.edge.most = min(f.edge.most, count*9/10) }) // the last ones find it full
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	conns := make([]net.Conn, 0, count)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for n := range count {
		address, begin := f.grpc.String(), ""
		switch {
		case n%50 == 0:
			address, begin = f.webAddr.String(), "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nX: "
		case n%2 == 0:
			begin = preface
		}
		c, err := net.DialTimeout("tcp", address, 20*time.Second)
		if err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
		conns = append(conns, c)
		if _, err := io.WriteString(c, begin); err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := grpc.NewClient(f.grpc.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		if _, err := pb.NewQueryServiceClient(conn).ListEvents(ctx, &pb.ListEventsRequest{}); err != nil {
			t.Fatalf("gRPC beside %d connections: %v", count, err)
		}
		if resp, body := f.ask(t, "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); resp.StatusCode != http.StatusOK {
			t.Fatalf("HTTP beside %d connections: %d, %s", count, resp.StatusCode, body)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / int64(count)
	t.Logf("%d connections, %d bytes each", count, each)
	if each > 100<<10 {
		t.Errorf("each connection costs %d bytes", each)
	}
}
