package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const testPassword = "a password, long enough"

// offer puts an engine behind a listener of loopback and returns its URL.
func offer(t testing.TB, e *Engine, change ...func(*Access)) string {
	t.Helper()
	a := Access{User: "default", Password: testPassword}
	for _, f := range change {
		f(&a)
	}
	h, err := e.Handler(a)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// ask sends a statement as curl would.
func ask(t testing.TB, method, server string, query url.Values, body io.Reader, head ...string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server+"/?"+query.Encode(), body)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("default", testPassword)
	for i := 0; i+1 < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		got = append(got, " and then: "+err.Error()...)
	}
	return resp.StatusCode, string(got)
}

func TestAServerAnswersWhatCurlAsks(t *testing.T) {
	e := open(t)
	server := offer(t, e)
	mustExec(t, connect(t, e), "CREATE DATABASE other", "CREATE TABLE other.t (a UInt8) ENGINE = MergeTree ORDER BY a")
	for _, c := range []struct {
		method string
		query  url.Values
		body   string
		head   []string
		status int
		want   string // what the answer begins with
	}{
		{"POST", nil, "SELECT 1, 'x'", nil, 200, "1\tx\n"},
		{"GET", url.Values{"query": {"SELECT 2 FORMAT CSV"}}, "", nil, 200, "2\n"},
		{"POST", url.Values{"query": {"SELECT {a:UInt8} + 1"}, "param_a": {"2"}}, "", nil, 200, "3\n"},
		{"POST", url.Values{"default_format": {"JSONEachRow"}}, "SELECT 4 AS a", nil, 200, "{\"a\":4}\n"},
		{"POST", nil, "SELECT 5 AS a", []string{"X-ClickHouse-Format", "JSONEachRow"}, 200, "{\"a\":5}\n"},
		{"POST", nil, "SELECT currentDatabase()", []string{"X-ClickHouse-Database", "other"}, 200, "other\n"},
		{"POST", url.Values{"database": {"other"}, "query": {"INSERT INTO t FORMAT TSV"}}, "6\n", nil, 200, ""},
		{"POST", url.Values{"max_threads": {"3"}}, "SELECT getSetting('max_threads')", nil, 200, "3\n"},
		{"POST", nil, "SELECT a FROM other.t", nil, 200, "6\n"},
		{"POST", nil, "SELECT 7 WHERE 0", nil, 200, ""},
		{"GET", nil, "", nil, 200, "Ok.\n"},
		{"GET", url.Values{"query": {"INSERT INTO other.t VALUES (8)"}}, "", nil, 500, "Code: 164. "},
		{"GET", url.Values{"query": {"INSERT INTO other.t VALUES (8)"}, "readonly": {"0"}}, "", nil, 500, "Code: 164. "},
		{"PUT", nil, "SELECT 1", nil, 405, ""},
		{"POST", nil, "SELECT * FROM url('http://127.0.0.1:1/')", nil, 500, "Code: 497. "},
		{"POST", nil, "SELECT * FROM file('/etc/passwd', 'LineAsString')", nil, 500, "Code: 497. "},
		{"POST", nil, "SELECT 1 INTO OUTFILE '/tmp/x'", nil, 500, "Code: "},
		{"POST", nil, "CREATE USER a", nil, 500, "Code: "},
		{"POST", nil, "SET max_threads = 1", nil, 500, "Code: 48. "},
		{"POST", url.Values{"compress": {"1"}}, "SELECT 1", nil, 500, "Code: 48. "},
		{"POST", nil, "SELECT throwIf(number = 300000, 'midway') FROM numbers(400000) SETTINGS max_threads = 1", nil, 200, "0\n"},
	} {
		status, text := ask(t, c.method, server, c.query, strings.NewReader(c.body), c.head...)
		if status != c.status || !strings.HasPrefix(text, c.want) {
			t.Errorf("%s %v %q: %d %.200q, want %d %q", c.method, c.query, c.body, status, text, c.status, c.want)
		}
		if strings.Contains(c.body, "midway") && (!strings.Contains(text, "Code: 395. ") || !strings.HasSuffix(text, " and then: unexpected EOF")) {
			t.Errorf("a result that fails midway ends with %q", text[max(0, len(text)-400):])
		}
	}
	for path, want := range map[string]int{"/ping": 200, "/play": 404, "/ping/x": 404} {
		resp, err := http.Get(server + path)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

func TestAServerAsksForUserAndPassword(t *testing.T) {
	server := offer(t, open(t))
	for _, c := range []struct {
		user, password string
		head           []string
		lets           bool
	}{
		{"default", testPassword, nil, true},
		{"", "", []string{"X-ClickHouse-User", "default", "X-ClickHouse-Key", testPassword}, true},
		{"", "", nil, false}, {"default", "", nil, false}, {"default", testPassword + "x", nil, false}, {"other", testPassword, nil, false},
		{"", "", []string{"X-ClickHouse-User", "default"}, false},
		{"default", "wrong", []string{"X-ClickHouse-User", "default", "X-ClickHouse-Key", testPassword}, false},
	} {
		for _, query := range []string{"", "?user=default&password=" + url.QueryEscape(testPassword)} { // which would be in logs
			req, _ := http.NewRequestWithContext(t.Context(), "POST", server+"/"+query, strings.NewReader("SELECT 1"))
			if c.user != "" {
				req.SetBasicAuth(c.user, c.password)
			}
			for i := 0; i+1 < len(c.head); i += 2 {
				req.Header.Set(c.head[i], c.head[i+1])
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if (resp.StatusCode == 200) != c.lets || !c.lets && (resp.StatusCode != 401 || !strings.HasPrefix(string(text), "Code: 516. ")) {
				t.Errorf("%+v%s: %s %s", c, query, resp.Status, text)
			}
		}
	}
	opt, _ := clickhouse.ParseDSN(strings.Replace(server, "http://", "http://default:not-the-password@", 1) + "/default")
	conn, err := clickhouse.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantCode(t, conn.Ping(t.Context()), codeNotLetIn)
}

func TestAccessIsChecked(t *testing.T) {
	for _, c := range []struct {
		access Access
		want   string
	}{
		{Access{Password: testPassword}, "serve engine: the user has no name"},
		{Access{User: "default"}, "serve engine: the password has fewer than 12 characters"},
		{Access{User: "default", Password: "hunter2"}, "serve engine: the password has fewer than 12 characters"},
		{Access{User: "default", Password: testPassword, Idle: -1}, "serve engine: a time limit is negative"},
	} {
		if err := c.access.Validate(); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	for _, address := range []string{"0.0.0.0:8123", ":8123", "10.1.2.3:8123", "example.org:8123", "8123", "[::]:8123", "unix:/no/such/folder/x"} {
		if l, err := Listen(address); err == nil {
			l.Close()
			t.Errorf("%s is listened on", address)
		}
	}
}

// cut writes a request by hand and breaks the connection off in the middle of it.
func cut(t *testing.T, server, request string, reset bool) {
	t.Helper()
	u, _ := url.Parse(server)
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if reset {
		_ = conn.(*net.TCPConn).SetLinger(0)
		return
	}
	// The server sees the end, as after a kill -9 of the client, and hangs up.
	_ = conn.(*net.TCPConn).CloseWrite()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if answer, err := io.ReadAll(conn); err != nil || strings.Contains(string(answer), " 200 ") {
		t.Errorf("the server answers %q, %v", answer, err)
	}
}

func TestAClientThatDiesInTheMiddleOfAnInsertLeavesNothing(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 2 })
	server, conn := offer(t, e), connect(t, e)
	mustExec(t, conn, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	_, block := ask(t, "POST", server, url.Values{"default_format": {"Native"}}, strings.NewReader("SELECT number AS a FROM numbers(60000)"))
	lines := strings.Repeat("{\"a\": 1}\n", 100_000)
	head := func(format, length string) string {
		return "POST /?query=" + url.QueryEscape("INSERT INTO t FORMAT "+format) + " HTTP/1.1\r\nHost: x\r\n" +
			"X-ClickHouse-User: default\r\nX-ClickHouse-Key: " + testPassword + "\r\n" + length + "\r\n\r\n"
	}
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	for _, whole := range []struct{ format, body string }{{"Native", block}, {"JSONEachRow", lines}, {"Values", strings.Repeat("(1),", 1000) + "(1)"}} {
		for _, size := range []int{0, 1, len(whole.body) / 2 / 9 * 9, len(whole.body) - 1, len(whole.body)} {
			part := whole.body[:size]
			for _, reset := range []bool{false, true} {
				// One byte more is promised; or the last chunk does not come, or not whole.
				cut(t, server, head(whole.format, fmt.Sprintf("Content-Length: %d", len(whole.body)+1))+part, reset)
				if size > 0 {
					cut(t, server, head(whole.format, "Transfer-Encoding: chunked")+chunk(part), reset)
					cut(t, server, head(whole.format, "Transfer-Encoding: chunked")+chunk(part)+"0\r", reset)
					cut(t, server, head(whole.format, "Transfer-Encoding: chunked")+chunk(part)[:size], reset)
				}
			}
		}
	}
	// A statement whose rows are in its own text.
	text := "INSERT INTO t VALUES " + strings.Repeat("(1),", 1000) + "(1)"
	cut(t, server, strings.Replace(head("x", fmt.Sprintf("Content-Length: %d", len(text)+1)), url.QueryEscape("INSERT INTO t FORMAT x"), "", 1)+text, false)
	eventually(t, conn, func(running uint64) bool { return running == 1 })
	if got := one[uint64](t, conn, "SELECT count() FROM t"); got != 0 {
		t.Errorf("%d rows were stored", got)
	}
	for range 4 { // the connections are none the worse for it
		if status, text := ask(t, "POST", server, url.Values{"query": {"INSERT INTO t FORMAT Native"}}, strings.NewReader(block)); status != 200 {
			t.Errorf("whole body: %d %s", status, text)
		}
	}
	if got := one[uint64](t, conn, "SELECT count() FROM t"); got != 4*60000 {
		t.Errorf("%d rows were stored", got)
	}
}

func TestARefusedInsertIsToldAlsoToWhoStillWrites(t *testing.T) {
	server := offer(t, open(t))
	for range 10 {
		status, text := ask(t, "POST", server, url.Values{"query": {"INSERT INTO nowhere FORMAT TSV"}}, bytes.NewReader(make([]byte, 8<<20)))
		if status != 500 || !strings.HasPrefix(text, "Code: 60. ") {
			t.Errorf("%d %s", status, text)
		}
	}
}

func TestAClientThatGoesAwayEndsItsStatement(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 3 })
	server, conn := offer(t, e), connect(t, e)
	for _, sql := range []string{
		"SELECT sum(sipHash64(number)) FROM numbers(1000000000000)", // before its first row
		"SELECT number FROM system.numbers",
		"EXPLAIN ANALYZE SELECT sum(sipHash64(number)) FROM numbers(1000000000000)",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", server, strings.NewReader(sql))
		req.SetBasicAuth("default", testPassword)
		var all sync.WaitGroup
		all.Go(func() {
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_, _ = io.ReadFull(resp.Body, make([]byte, 1<<20))
				<-ctx.Done()
				resp.Body.Close()
			}
		})
		eventually(t, conn, func(running uint64) bool { return running > 1 })
		cancel()
		all.Wait()
		eventually(t, conn, func(running uint64) bool { return running == 1 })
	}
}

func TestAServerThatIsBusySaysSo(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 1 })
	server := offer(t, e, func(a *Access) { a.Patience = 50 * time.Millisecond })
	held, err := e.acquire(t.Context(), false, 0)
	if err != nil {
		t.Fatal(err)
	}
	status, text := ask(t, "POST", server, nil, strings.NewReader("SELECT 1"))
	if status != 500 || !strings.HasPrefix(text, "Code: 202. ") {
		t.Errorf("%d %s", status, text)
	}
	e.release(held)
	if status, text := ask(t, "POST", server, nil, strings.NewReader("SELECT 1")); status != 200 {
		t.Errorf("%d %s", status, text)
	}
}

// A hundred clients ask for a gigabyte each, take little and stay: what is in memory
// is bounded by the engine's connections, and who takes nothing for too long loses
// his. After it all is as before.
func TestSlowReadersTakeNoMemoryAndAreGivenUp(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 4 })
	server := offer(t, e, func(a *Access) { a.Idle, a.Patience = 400*time.Millisecond, 50*time.Millisecond })
	conn := connect(t, e)
	slowReaders(t, e, conn, server) // the engine takes its buffers
	goroutines, before := runtime.NumGoroutine(), resident(t)
	for range 2 {
		slowReaders(t, e, conn, server)
	}
	within(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines+5 })
	if grown := resident(t) - before; grown > 100<<20 {
		t.Errorf("%d MB more are resident than after the first hundred", grown>>20)
	}
}

// within waits for a condition.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for start := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Fatalf("it did not come to it that %s", what)
		}
	}
}

// slowReaders are a hundred at once, until they are given up.
func slowReaders(t *testing.T, e *Engine, conn driver.Conn, server string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	var served atomic.Int32
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	before := resident(t)
	for range 100 {
		all.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "POST", server, strings.NewReader("SELECT number, repeat('x', 100) FROM numbers(10000000) SETTINGS max_threads = 1"))
			req.SetBasicAuth("default", testPassword)
			resp, err := client.Do(req)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode == 200 {
				served.Add(1)
				_, _ = io.ReadFull(resp.Body, make([]byte, 1000))
				<-ctx.Done()
			}
		})
	}
	within(t, "as many are served as there are connections", func() bool { return int(served.Load()) >= cap(e.idle) })
	if grown := resident(t) - before; grown > 200<<20 {
		t.Errorf("%d MB more are resident", grown>>20)
	}
	// They have not gone away.
	within(t, "slow readers are given up", func() bool { return one[uint64](t, conn, "SELECT count() FROM system.processes") == 1 })
	cancel()
	all.Wait()
}

func TestABodyThatStallsIsGivenUp(t *testing.T) {
	e := open(t, func(c *Config) { c.Connections = 1 })
	server, conn := offer(t, e, func(a *Access) { a.Idle = 100 * time.Millisecond }), connect(t, e)
	mustExec(t, conn, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	u, _ := url.Parse(server)
	stalled, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	_ = stalled.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(stalled, "POST /?query="+url.QueryEscape("INSERT INTO t FORMAT JSONEachRow")+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"+
		"X-ClickHouse-User: default\r\nX-ClickHouse-Key: "+testPassword+"\r\n\r\n{\"a\": 1}\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(stalled); err != nil || len(answer) > 0 {
		t.Errorf("it is answered %q, %v", answer, err)
	}
	if got := one[uint64](t, conn, "SELECT count() FROM t"); got != 0 {
		t.Errorf("%d rows were stored", got)
	}
	// One that waits, with its body read, is not: it sends nothing more.
	if status, text := ask(t, "POST", server, nil, strings.NewReader("SELECT sleepEachRow(0.1) FROM numbers(5) SETTINGS max_block_size = 1")); status != 200 || text != "0\n0\n0\n0\n0\n" {
		t.Errorf("%d %q", status, text)
	}
}

func TestAnInsertHasNoMoreTimeThanItsLimit(t *testing.T) {
	e := open(t)
	conn := connect(t, e)
	mustExec(t, conn, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	lines := strings.Repeat("{\"a\": 1}\n", 200_000)
	for _, first := range []int{1, len(lines) - 1, len(lines)} { // in the middle of the engine's buffers, and when all has come
		started := time.Now()
		late := &body{strings.NewReader(lines[:first]), func() error {
			for time.Since(started) < 150*time.Millisecond {
				time.Sleep(time.Millisecond)
			}
			return io.EOF
		}}
		rows := io.MultiReader(late, strings.NewReader(lines[first:]))
		status, text, err := post(t.Context(), e, url.Values{"query": {"INSERT INTO t FORMAT JSONEachRow"}, "max_execution_time": {"0.1"}}, rows)
		if err != nil || status != 500 || !strings.HasPrefix(text, "Code: 159. ") {
			t.Errorf("%d bytes in time: %d %s %v", first, status, text, err)
		}
	}
	if got := one[uint64](t, conn, "SELECT count() FROM t"); got != 0 {
		t.Errorf("%d rows were stored", got)
	}
}

func TestStatementsAsLongAsAServerTakes(t *testing.T) {
	e := open(t)
	l, err := Listen("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- e.Serve(ctx, l, Access{User: "default", Password: testPassword, Grace: 100 * time.Millisecond})
	}()
	server := "http://" + l.Addr().String()
	for size, want := range map[int]int{1_000_000: 200, 3_000_000: 431} {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", server+"/?param_a="+strings.Repeat("x", size), strings.NewReader("SELECT length({a:String})"))
		req.SetBasicAuth("default", testPassword)
		resp, err := http.DefaultClient.Do(req)
		if want == 431 && err != nil {
			continue // it hung up while we were writing
		}
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != want {
			t.Errorf("%d bytes: %s", size, resp.Status)
		}
	}
	// Stopping ends what has no end.
	endless, _ := http.NewRequestWithContext(t.Context(), "POST", server, strings.NewReader("SELECT number FROM system.numbers"))
	endless.SetBasicAuth("default", testPassword)
	resp, err := http.DefaultClient.Do(endless)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("an endless result came to its end")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := http.Get(server + "/ping"); err == nil {
		t.Error("it still answers")
	}
}

func TestASocketIsForItsUserAlone(t *testing.T) {
	e := open(t)
	path := t.TempDir() + "/engine.sock"
	for range 2 { // the second finds what the first has left
		l, err := Listen("unix:" + path)
		if err != nil {
			t.Fatal(err)
		}
		if other, err := Listen("unix:" + path); err == nil {
			other.Close()
			t.Error("two listen on one socket")
		}
		h, err := e.Handler(Access{User: "default", Password: testPassword})
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: h}
		go func() { _ = server.Serve(l) }()
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
		resp, err := client.Get("http://engine/ping")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		client.CloseIdleConnections()
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		if err := errors.Join(server.Close()); err != nil {
			t.Error(err)
		}
	}
}
