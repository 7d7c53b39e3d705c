package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// engineAt serves a data folder and returns the process, its password and its address.
func engineAt(t *testing.T, dir string) (p *process, password, address string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p = &process{cmd: exec.Command(self, "engine", "serve", "--path", dir, "--listen", "127.0.0.1:0", "--library", storetest.Library(t)), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = append(os.Environ(), asCommand+"=1"), out, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.ended); _ = p.cmd.Wait() }()
	t.Cleanup(p.kill)
	waitFor(t, func() bool {
		select {
		case <-p.ended:
			t.Fatalf("it ended:\n%s", p.text())
		default:
		}
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(text), "PASSWORD@")
		address, _, _ = strings.Cut(rest, "/default\n")
		return ok && strings.HasSuffix(rest, "/default\n")
	})
	text, err := os.ReadFile(dir + ".password")
	if err != nil {
		t.Fatal(err)
	}
	return p, strings.TrimSpace(string(text)), address
}

// Two services share a store that is a third process: what one has stored the other
// shows and verifies, and what the other is asked the one notes in the log. The store
// stops when it is told to.
func TestServicesShareAnEngineThatIsServed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "engine")
	engine, password, address := engineAt(t, dir)
	info, err := os.Stat(dir + ".password")
	if err != nil || info.Mode().Perm() != 0o600 || len(password) < 20 {
		t.Fatalf("the password's file: %v, %v", info.Mode(), err)
	}
	resp, err := http.Post("http://"+address, "", strings.NewReader("SELECT 1"))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a password: %s", resp.Status)
	}
	// The DSN is a secret: it is not for the command line. Its first key is made there.
	config := writeFile(t, "mcpaudit.yaml", "store:\n  dsn: http://default:"+password+"@"+address+"/default\n")
	admin := filepath.Join(t.TempDir(), "admin.key")
	if made := succeed(t, "access", "bootstrap", "--config", config, "--out", admin); !regexp.MustCompile(`^` + regexp.QuoteMeta(admin) + ` \(key [a-z2-7]{16}, until [\d-]+\)\n$`).MatchString(made) {
		t.Errorf("%q", made)
	}
	serve := func(roles string, more ...string) string {
		p := launch(t, append([]string{"serve", "--config", config, "--roles", roles, "--ledger.path", filepath.Join(t.TempDir(), roles), "--listen.grpc", "127.0.0.1:0", "--listen.http", "127.0.0.1:0"}, more...)...)
		if roles != "query" {
			p.await(t, `ingest is ready`)
		}
		return p.await(t, `msg=serving .*grpc=(\S+)`)
	}
	addresses := []string{serve("ingest,detect")}
	useKey(t, admin)
	notes := newAPIKey(t, addresses[0], "query instance", "--role", "emitter", "--emitter", "mcpaudit-*")
	mine := newAPIKey(t, addresses[0], "tester", "--role", "emitter", "--role", "auditor")
	addresses = append(addresses, serve("query", "--access.notes_to", addresses[0], "--access.notes_key_file", notes.file))
	useKey(t, mine.file)
	if r := command(t, `{"emitter_id":"e","emitter_seq":1,"occurred_at":"2026-11-20T09:00:00Z","principal":"user:alice","server":"files","kind":"tool_call","method":"tools/call","target":"read_file","outcome":"success"}`,
		"import", "--service", addresses[0], "-"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	if r := command(t, "", "events", "list", "--service", addresses[1], `principal = "user:alice"`); r.status != 0 || !strings.Contains(r.stdout, "read_file") {
		t.Errorf("the other service shows %+v", r)
	}
	if r := command(t, "", "events", "list", "--service", addresses[1], `method = "mcpaudit/list_events" AND principal = "`+mine.id+`"`, "--json"); r.status != 0 || !strings.Contains(r.stdout, "user:alice") {
		t.Errorf("of what it was asked there is %+v", r)
	}
	if r := command(t, "", "verify", "--service", addresses[1]); r.status != 0 || !strings.Contains(r.stdout, "1 log") {
		t.Errorf("verify says %+v", r)
	}
	if r := command(t, "", "engine", "serve", "--path", dir, "--listen", "127.0.0.1:0", "--library", storetest.Library(t)); r.status != 1 || !strings.Contains(r.stderr, "another process is using this data folder") {
		t.Errorf("a second server of the folder: %+v", r)
	}
	if err := engine.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-engine.ended
	if code := engine.cmd.ProcessState.ExitCode(); code != 0 || engine.text() != "" {
		t.Errorf("it ended with status %d:\n%s", code, engine.text())
	}
}

func TestAnEngineIsNotServedCarelessly(t *testing.T) {
	open := writeFile(t, "open", "a password that all may read\n")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"others may read":                    {"--password-file", open},
		"fewer than 12 characters":           {"--password-file", writeFile(t, "short", "hunter2\n")},
		"no such file":                       {"--password-file", filepath.Join(t.TempDir(), "none")},
		"offered on this machine alone":      {"--listen", "0.0.0.0:8123"},
		"connections is 65, and may be 1 to": {"--connections", "65"},
	} {
		r := command(t, "", append([]string{"engine", "serve", "--path", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--library", storetest.Library(t)}, args...)...)
		if r.status != 1 || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "hunter2") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
