package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Promise 8: a machine on which nothing can be recorded still runs its servers,
// unless their owner chose otherwise.
func TestPromise8AServerStartsWhenItsAuditCannot(t *testing.T) {
	noFolder := writeFile(t, "file", "not a folder")
	openKey := writeFile(t, "key", strings.Repeat("ab", 32))
	if err := os.Chmod(openKey, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{
		"no spool":     {"--spool", filepath.Join(noFolder, "spool"), "--key-file", filepath.Join(t.TempDir(), "key")},
		"a broken key": {"--spool", t.TempDir(), "--key-file", openKey},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"wrap", "--service", "127.0.0.1:1"}, flags...)
			server := []string{"--", "sh", "-c", "echo hello; exit 3"}
			r := command(t, "", append(args, server...)...)
			if r.status != 3 || r.stdout != "hello\n" || !strings.Contains(r.stderr, "calls pass unaudited") {
				t.Errorf("open: %+v", r)
			}
			r = command(t, "", append(append(args, "--fail", "closed"), server...)...)
			if r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, "mcpaudit: ") {
				t.Errorf("closed: %+v", r)
			}
		})
	}
}

// A client that closes its ends of the server's output ends neither the audit nor
// the server.
func TestPromise8AClientThatStopsListeningEndsNothing(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	closed := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		t.Cleanup(func() { w.Close() })
		return w
	}
	done := filepath.Join(t.TempDir(), "done")
	// The spool can't be opened, so that wrap itself has something to say.
	cmd := exec.Command(self, "wrap", "--service", "127.0.0.1:1", "--spool", filepath.Join(writeFile(t, "file", ""), "spool"),
		"--key-file", filepath.Join(t.TempDir(), "key"), "--", "sh", "-c", `trap '' PIPE; read line; echo answer; read line; echo "$line" > `+done+`; exit 5`)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	cmd.Stdout, cmd.Stderr = closed(), closed()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "one\ntwo\n"); err != nil {
		t.Error(err)
	}
	in.Close()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
	if text, err := os.ReadFile(done); err != nil || string(text) != "two\n" {
		t.Errorf("the server got as far as %q, %v", text, err)
	}
}
