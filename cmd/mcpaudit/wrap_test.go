package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
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

// The calls of a wrapped server come to a Kafka topic.
func TestWrapSendsToATopic(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	topic := c.NewTopic(1)
	c.Produce(topic, 0, kafka.Message{Value: []byte("the partition has a leader")})
	var calls strings.Builder
	for n := range 20 {
		fmt.Fprintf(&calls, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"read","arguments":{"n":%d}}}`+"\n", n+1, n)
	}
	r := command(t, calls.String(), "wrap", "--service", "kafka://"+strings.Join(c.Brokers(), ",")+"/"+topic, "--server", "files", "--principal", "user:ada",
		"--spool", t.TempDir(), "--key-file", filepath.Join(t.TempDir(), "key"), "--flush", "30s", "--",
		"sh", "-c", `i=0; while read -r line; do i=$((i+1)); echo '{"jsonrpc":"2.0","id":'$i',"result":{}}'; done`)
	if r.status != 0 || strings.Count(r.stdout, "result") != 20 {
		t.Errorf("%+v", r)
	}
	var seqs []uint64
	for _, m := range c.ReadAll(topic)[1:] {
		var e pb.Event
		if err := proto.Unmarshal(m.Value, &e); err != nil {
			t.Fatal(err)
		}
		if e.GetKind() != "tool_call" || e.GetTarget() != "read" || e.GetServer() != "files" || e.GetPrincipal() != "user:ada" || e.GetOutcome() != "success" {
			t.Errorf("%v", &e)
		}
		seqs = append(seqs, e.GetEmitterSeq())
	}
	if len(seqs) != 20 || !slices.IsSorted(seqs) || seqs[19] != 20 {
		t.Errorf("events %v", seqs)
	}
}

// What is secret stays out of the server's environment, and all else comes to it.
func TestWrapKeepsPasswordAndKeyToItself(t *testing.T) {
	t.Setenv("MCPAUDIT_KAFKA_PASSWORD", "secret")
	t.Setenv("MCPAUDIT_KAFKA_PASSWORD_FILE", "/a/secret")
	t.Setenv("MCPAUDIT_API_KEY", "mcpa_secret")
	t.Setenv("MCPAUDIT_TLS_CERT", "/a/secret.crt")
	t.Setenv("MCPAUDIT_TLS_KEY", "/a/secret.key")
	t.Setenv("OTHER", "thing")
	r := command(t, "", "wrap", "--service", "127.0.0.1:1", "--flush", "1ms", "--spool", t.TempDir(), "--key-file", filepath.Join(t.TempDir(), "key"),
		"--", "sh", "-c", "env")
	if r.status != 0 || strings.Contains(r.stdout, "secret") || strings.Contains(r.stdout, "MCPAUDIT_KAFKA_PASSWORD") || strings.Contains(r.stdout, "MCPAUDIT_API_KEY") || !strings.Contains(r.stdout, "OTHER=thing\n") {
		t.Errorf("%+v", r)
	}
}

func TestWrapRefusesAKeyForReceiptsThatKafkaDoesNotGive(t *testing.T) {
	r := command(t, "", "wrap", "--service", "kafka://127.0.0.1:1/audit", "--service-key", "mcpaudit/log+00000000+AA==", "--", "true")
	if r.status == 0 || !strings.Contains(r.stderr, "there are none over Kafka") {
		t.Errorf("%+v", r)
	}
}
