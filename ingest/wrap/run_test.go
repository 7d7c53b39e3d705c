package wrap_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/rpc/rpctest"
	"github.com/mcpaudit/mcpaudit/ingest/wrap"
)

// kept is an emitter that keeps records in memory, or refuses them.
type kept struct {
	mu      sync.Mutex
	records []emit.Record
	refuse  bool
}

func (k *kept) Send(_ context.Context, r emit.Record) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse {
		return errors.New("full")
	}
	k.records = append(k.records, r)
	return nil
}

func (k *kept) Failing() bool { return k.refuse }

func (k *kept) Close(context.Context) error { return nil }

func redactor(t testing.TB) *redact.Redactor {
	t.Helper()
	r, err := redact.New(redact.DefaultProfile(), []byte("a key for tests alone, 32 bytes."))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// outcome of a wrapped shell script.
type outcome struct {
	code           int
	err            error
	stdout, stderr string
}

func runScript(t *testing.T, script string, stdin io.Reader, em wrap.Emitter, change ...func(*wrap.Config)) outcome {
	t.Helper()
	cfg := wrap.Config{Command: []string{"sh", "-c", script}, Base: event.Event{Server: "s", Tenant: "t"}, Now: time.Now, Flush: 20 * time.Second, Log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	var stdout bytes.Buffer
	var o outcome
	o.code, o.err = wrap.Run(t.Context(), cfg, stdin, &stdout, stderr, nil, em, redactor(t))
	text, err := os.ReadFile(stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	o.stdout, o.stderr = stdout.String(), string(text)
	return o
}

func TestExitStatusOutputAndErrorsAreTheServersOwn(t *testing.T) {
	for _, c := range []struct {
		name, script   string
		code           int
		stdout, stderr string
	}{
		{"success", `echo out; echo err >&2`, 0, "out\n", "err\n"},
		{"a status", `exit 37`, 37, "", ""},
		{"killed", `kill -KILL $$`, 128 + 9, "", ""},
		{"no line feed at the end", `printf '{"a":'`, 0, `{"a":`, ""},
		{"closes its output early", `exec 1>&-; sleep 0.05; exit 3`, 3, "", ""},
		{"reads nothing", `exit 0`, 0, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := runScript(t, c.script, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`+"\n"), &kept{})
			if o.err != nil || o.code != c.code || o.stdout != c.stdout || o.stderr != c.stderr {
				t.Errorf("%+v", o)
			}
		})
	}
}

func TestMegabytesPassBothWays(t *testing.T) {
	in := bytes.Repeat([]byte("0123456789abcdef\n"), 300_000)
	o := runScript(t, `head -c 3000000 /dev/zero | tr '\0' 'z' >&2; cat`, bytes.NewReader(in), &kept{})
	if o.err != nil || o.code != 0 || len(o.stderr) != 3_000_000 {
		t.Fatalf("status %d, %v, %d bytes of errors", o.code, o.err, len(o.stderr))
	}
	if o.stdout != string(in) {
		t.Errorf("%d bytes came back, %d went in", len(o.stdout), len(in))
	}
}

func TestACommandThatIsMissingIsNamed(t *testing.T) {
	o := runScript(t, "", nil, &kept{}, func(c *wrap.Config) { c.Command = []string{"no-such-server-here"} })
	if o.err == nil || !strings.Contains(o.err.Error(), `"no-such-server-here"`) {
		t.Errorf("%v", o.err)
	}
}

func TestTheClientsEndReachesTheServer(t *testing.T) {
	o := runScript(t, `while read -r line; do echo "got $line"; done; echo over; exit 5`, strings.NewReader("a\nb\n"), &kept{})
	if o.code != 5 || o.stdout != "got a\ngot b\nover\n" {
		t.Errorf("%+v", o)
	}
}

func TestSignalsReachTheServer(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1} {
		t.Run(sig.String(), func(t *testing.T) {
			signals := make(chan os.Signal, 1)
			stdin, hold := io.Pipe() // the client stays
			defer hold.Close()
			out, stdout := io.Pipe()
			done := make(chan int, 1)
			go func() {
				code, err := wrap.Run(context.Background(), wrap.Config{
					Command: []string{"sh", "-c", fmt.Sprintf(`trap 'exit 9' %d; echo ready; while :; do sleep 0.01; done`, int(sig))}, Now: time.Now, Flush: time.Second,
				}, stdin, stdout, nil, signals, &kept{}, redactor(t))
				if err != nil {
					t.Error(err)
				}
				done <- code
			}()
			if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
				t.Fatal(err)
			}
			signals <- sig
			if code := <-done; code != 9 {
				t.Errorf("status %d", code)
			}
		})
	}
}

// Promise 8, closed: a call that can't be recorded stops the server. Open: it
// passes.
func TestPromise8AnOwnerChoosesOpenOrClosed(t *testing.T) {
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}` + "\n"
	script := `read -r line; echo '{"jsonrpc":"2.0","id":1,"result":{}}'; sleep 5`
	o := runScript(t, script, strings.NewReader(call), &kept{refuse: true}, func(c *wrap.Config) { c.FailClosed = true })
	if o.err == nil || !strings.Contains(o.err.Error(), "--fail is closed") || o.code == 0 {
		t.Errorf("closed: %+v", o)
	}
	o = runScript(t, strings.Replace(script, "sleep 5", "exit 4", 1), strings.NewReader(call), &kept{refuse: true})
	if o.err != nil || o.code != 4 || !strings.Contains(o.stdout, "result") {
		t.Errorf("open: %+v", o)
	}
}

// Also when it must not fail open: a queue that is full for a moment loses
// nothing.
func TestABurstIsRecordedWhole(t *testing.T) {
	s := rpctest.New(t)
	em := openEmitter(t, s, func(c *emit.Config) { c.Queue = 2 })
	o := runScript(t, `i=0; while read -r line; do i=$((i+1)); echo '{"jsonrpc":"2.0","id":'$i',"result":{}}'; done`,
		strings.NewReader(burst(2000)), em, func(c *wrap.Config) { c.FailClosed = true })
	if o.err != nil || o.code != 0 {
		t.Errorf("%v, status %d", o.err, o.code)
	}
	s.WantDense(em.ID(), 2000)
}

func openEmitter(t *testing.T, s *rpctest.Service, change ...func(*emit.Config)) *emit.Emitter {
	t.Helper()
	cfg := emit.Config{Address: s.Address, Name: "files", Spool: t.TempDir()}
	for _, c := range change {
		c(&cfg)
	}
	em, err := emit.Open(cfg, redactor(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return em
}

// What can't be recorded before the time is up holds nobody up: the queue here
// would take minutes.
func TestTheEndDoesNotWaitForTheAudit(t *testing.T) {
	k := &slow{kept: &kept{}}
	o := runScript(t, `while read -r line; do :; done; exit 3`, strings.NewReader(burst(1000)), k, func(c *wrap.Config) { c.Flush = time.Millisecond })
	if o.code != 3 || k.refused == 0 {
		t.Errorf("status %d, %d were given up", o.code, k.refused)
	}
}

// slow is an emitter whose queue never has room.
type slow struct {
	*kept
	refused int
}

func (s *slow) Send(ctx context.Context, _ emit.Record) error {
	<-ctx.Done()
	s.refused++
	return ctx.Err()
}

// A child that the server leaves behind holds its output open. A client that has
// closed its side does not wait for it; one that has not is still served.
func TestWhatTheServerLeavesBehind(t *testing.T) {
	held, release := io.Pipe()
	o := runScript(t, `(read -r line <&3; echo late) 3<&0 & exit 6`, held, &kept{}, func(*wrap.Config) {
		go func() { _, _ = io.WriteString(release, "go\n"); release.Close() }()
	})
	if o.code != 6 || o.stdout != "late\n" {
		t.Errorf("with its client: %+v", o)
	}
	o = runScript(t, `sleep 600 & exit 7`, strings.NewReader(""), &kept{})
	if o.code != 7 {
		t.Errorf("without: %+v", o)
	}
}

func burst(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"x","arguments":{"n":%d}}}`+"\n", i+1, i)
	}
	return b.String()
}

// The real server-filesystem behind wrap, the real service and its store: what a
// client did is there, a refusal is told from a failure, and a planted secret is
// nowhere.
func TestARealServerEndToEnd(t *testing.T) {
	server := filepath.Join("..", "..", "deploy", "dev", "npm", "node_modules", "@modelcontextprotocol", "server-filesystem", "dist", "index.js")
	if _, err := os.Stat(server); err != nil {
		t.Fatalf("%v; install it with: deploy/dev/setup.sh npm", err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("%v; install Node.js (Debian: apt-get install nodejs)", err)
	}
	project := t.TempDir()
	secret := "ghp_" + strings.Repeat("Zq7Lw", 7) + "a" // assembled, so that no scanner takes it for a leak
	client := []string{
		`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}`,
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`,
		fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write_file","arguments":{"path":%q,"content":"the token is %s"}}}`, filepath.Join(project, "a.txt"), secret),
		fmt.Sprintf(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"read_text_file","arguments":{"path":%q}}}`, filepath.Join(project, "a.txt")),
		`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"read_text_file","arguments":{"path":"/etc/passwd"}}}`,
		fmt.Sprintf(`{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"read_text_file","arguments":{"path":%q}}}`, filepath.Join(project, "missing.txt")),
		`{"jsonrpc":"2.0","id":5,"method":"tools/list"}`,
	}
	s := rpctest.New(t)
	em := openEmitter(t, s)
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	code := make(chan int, 1)
	go func() {
		n, err := wrap.Run(context.Background(), wrap.Config{Command: []string{node, server, project}, Now: time.Now, Flush: 20 * time.Second, Log: slog.New(slog.DiscardHandler),
			Base: event.Event{Server: "files", Tenant: "t", Principal: "p", PrincipalKind: "human"}},
			stdin, stdout, nil, nil, em, redactor(t))
		if err != nil {
			t.Error(err)
		}
		code <- n
	}()
	answers := bufio.NewScanner(out)
	answers.Buffer(nil, 1<<20)
	// One at a time, as a client that waits for its answers.
	for _, line := range client {
		if _, err := io.WriteString(in, line+"\n"); err != nil {
			t.Fatal(err)
		}
		for strings.Contains(line, `"id"`) && answers.Scan() && !strings.Contains(answers.Text(), `"id":`) {
			t.Logf("beside the answer: %s", answers.Text())
		}
	}
	if err := answers.Err(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	go io.Copy(io.Discard, out)
	if n := <-code; n != 0 {
		t.Errorf("status %d", n)
	}
	got := map[string]string{}
	for _, e := range s.Events() {
		if e.Kind == "tool_call" {
			got[e.RequestID] = e.Target + " " + e.Outcome
		}
		if text := fmt.Sprintf("%+v", e); strings.Contains(text, secret) {
			t.Errorf("the secret is in the store: %s", text)
		}
	}
	for id, want := range map[string]string{"1": "write_file success", "2": "read_text_file success", "3": "read_text_file denied", "4": "read_text_file tool_error"} {
		if got[id] != want {
			t.Errorf("call %s: %q, want %q", id, got[id], want)
		}
	}
}
