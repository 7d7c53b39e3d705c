package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// asCommand in the environment makes this test binary be mcpaudit itself, so
// that tests can kill one.
const asCommand = "TEST_BE_THE_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	// Nothing of the account that runs the tests has a say in them.
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "MCPAUDIT_") && name != "MCPAUDIT_ENGINE" && name != "MCPAUDIT_KAFKA" || strings.HasPrefix(name, "XDG_") {
			os.Unsetenv(name)
		}
	}
	os.Exit(withoutHome(func() int { return kafkatest.Main(m) }))
}

// withoutHome runs tests with a home folder that is empty: the account may have a key of
// its own there. The engine is still the account's.
func withoutHome(tests func() int) int {
	home, err := os.UserHomeDir()
	if err == nil && os.Getenv("MCPAUDIT_ENGINE") == "" {
		if path, err := embedded.Locate("", filepath.Join(home, ".local", "share", "mcpaudit", "engine")); err == nil {
			os.Setenv("MCPAUDIT_ENGINE", path)
		}
	}
	empty, err := os.MkdirTemp("", "home-of-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(empty)
	os.Setenv("HOME", empty)
	return tests()
}

// process is an mcpaudit in a process of its own.
type process struct {
	cmd   *exec.Cmd
	mu    sync.Mutex
	said  bytes.Buffer // on standard error
	ended chan struct{}
}

func launch(t *testing.T, args ...string) *process {
	t.Helper()
	return launchReading(t, nil, args...)
}

// launchReading is launch with a standard input.
func launchReading(t *testing.T, stdin *os.File, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(self, args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asCommand+"=1")
	p.cmd.Stderr = p
	if stdin != nil {
		p.cmd.Stdin = stdin
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.ended); _ = p.cmd.Wait() }()
	t.Cleanup(func() {
		p.kill()
		keepsKeys(t, args, p.text())
	})
	return p
}

// keyText is an API key, whole.
var keyText = regexp.MustCompile(`mcpa_[a-z2-7]{16}_[a-z2-7]{52}`)

// keepsKeys checks that no key is in what was written on standard error: it is what
// people see over a shoulder, and what logs are made of.
func keepsKeys(t *testing.T, args []string, said string) {
	t.Helper()
	if keyText.MatchString(said) {
		t.Errorf("mcpaudit %q has written a key on standard error:\n%s", args, keyText.ReplaceAllString(said, "A KEY"))
	}
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// kill is kill -9: nothing of the process gets to tidy up.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// await waits until the process has said something and returns the first group.
func (p *process) await(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if at := re.FindStringSubmatch(p.text()); at != nil {
			return at[len(at)-1]
		}
		select {
		case <-p.ended:
			t.Fatalf("it ended and had not said %q:\n%s", pattern, p.text())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("it has not said %q:\n%s", pattern, p.text())
		}
	}
}

// serveArgs serve the data folder dir on ports of the system's choice.
func serveArgs(t *testing.T, dir string) []string {
	t.Helper()
	return []string{"serve", "--store.path", dir, "--store.engine", storetest.Library(t), "--listen.grpc", "127.0.0.1:0", "--listen.http", "127.0.0.1:0"}
}

// launchServe runs the service and returns it with its gRPC address when its start is
// stored.
func launchServe(t *testing.T, dir string) (p *process, address string) {
	t.Helper()
	since := time.Now()
	p, address = launchReady(t, dir)
	awaitStart(t, address, since)
	return p, address
}

// launchReady is launchServe for tests that don't wait for its start to be stored.
func launchReady(t *testing.T, dir string) (p *process, address string) {
	t.Helper()
	p = launch(t, serveArgs(t, dir)...)
	p.await(t, `ingest is ready`)
	address = p.await(t, `msg=serving .*grpc=(\S+)`)
	useKeyOf(t, dir)
	return p, address
}

// firstKeyOf is where the service leaves the key of a new store, which has all rights.
func firstKeyOf(dir string) string { return filepath.Join(dir+".ledger", firstKeyFile) }

// useKeyOf lets what a test starts from now on act with the first key of a store that a
// service has begun: commands of this process and of others, and connect. They find it
// as their users would.
func useKeyOf(t *testing.T, dir string) {
	t.Helper()
	useKey(t, firstKeyOf(dir))
}

func useKey(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	t.Setenv(client.KeyFileVariable, file)
}

// keyIn is the key in a file.
func keyIn(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// apiKey is a key that a test has had made.
type apiKey struct{ id, file string } // its identity, and where it lies

func (k apiKey) flag() string { return " --api-key-file " + k.file }

// newAPIKey makes a key as its users do. Without a tenant it is for all of them.
func newAPIKey(t *testing.T, address, name string, args ...string) apiKey {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if !slices.Contains(args, "--tenant") {
		args = append(args, "--tenant", "*")
	}
	made := jsonLines[struct {
		Key struct {
			ID string `json:"key_id"`
		}
	}](t, succeed(t, append([]string{"access", "create", name, "--out", file, "--json", "--service", address}, args...)...))
	if len(made) != 1 || made[0].Key.ID == "" {
		t.Fatalf("made %v", made)
	}
	return apiKey{"key:" + made[0].Key.ID, file}
}

// identity is how the log names who a test's commands are.
func identity(t *testing.T, address string) string {
	t.Helper()
	me := jsonLines[struct{ Identity string }](t, succeed(t, "access", "whoami", "--json", "--service", address))
	if len(me) != 1 || !strings.HasPrefix(me[0].Identity, "key:") {
		t.Fatalf("it is %+v", me)
	}
	return me[0].Identity
}

// notItself is the filter of all events but those that a service writes of itself: that
// it started, who was let in and what they asked, the tests among them.
const notItself = `server != "mcpaudit"`

// awaitStart waits until the event of a service's start is stored, so that a test
// knows how many events and batches there are beside its own. The service was started
// after since, by its own clock.
func awaitStart(t *testing.T, address string, since time.Time) {
	t.Helper()
	query := pb.NewQueryServiceClient(connect(t, address))
	filter := fmt.Sprintf(`method = "mcpaudit/start" AND principal = "mcpaudit:service" AND occurred_at >= %q`, since.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano))
	waitFor(t, func() bool {
		resp, err := query.ListEvents(t.Context(), &pb.ListEventsRequest{Filter: filter})
		if err != nil {
			t.Fatalf("wait for the service's start: %v", err)
		}
		return len(resp.GetEvents()) == 1
	})
}

// connect is a connection with the key of the environment.
func connect(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	return connectAs(t, address, os.Getenv(client.KeyFileVariable))
}

// connectAs is a connection with the key in a file.
func connectAs(t *testing.T, address, keyFile string) *grpc.ClientConn {
	t.Helper()
	options, err := client.Config{Address: address, KeyFile: keyFile}.DialOptions()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// result is what a command did.
type result struct {
	status         int
	stdout, stderr string
}

func command(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	keepsKeys(t, args, errs.String())
	return result{code, out.String(), errs.String()}
}

// inService runs a service in this process while a test runs, and returns its
// gRPC and its HTTP address when its start is stored.
func inService(t *testing.T, dir string) (address, httpAddress string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	log := &process{ended: make(chan struct{})} // for its ears alone
	since := time.Now()
	var code int
	go func() {
		defer close(log.ended)
		code = run(ctx, serveArgs(t, dir), nil, io.Discard, log)
	}()
	t.Cleanup(func() {
		stop()
		<-log.ended
		keepsKeys(t, []string{"serve"}, log.text())
		if code != 0 {
			t.Errorf("serve ended with status %d:\n%s", code, log.text())
		}
	})
	log.await(t, `ingest is ready`)
	address, httpAddress = log.await(t, `msg=serving .*grpc=(\S+)`), log.await(t, `msg=serving .*http=(\S+)`)
	useKeyOf(t, dir)
	awaitStart(t, address, since)
	return address, httpAddress
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
