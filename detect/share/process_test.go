package share

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// asInstance in the environment makes this test's binary an instance that detects.
const asInstance = "TEST_BE_A_DETECTOR"

// order is what the instance is to do.
type order struct {
	DSN, Topic, Group string
	Brokers           []string
	Shares            int
	Session           time.Duration
}

func TestMain(m *testing.M) {
	if text := os.Getenv(asInstance); text != "" {
		if err := serve(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve is the whole life of the process. It ends with SIGTERM, or when the test's
// process is gone and standard input with it.
func serve(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	s, err := store.Open(ctx, store.Config{DSN: o.DSN})
	if err != nil {
		return err
	}
	defer s.Close()
	team, err := New(o.config(), deps(s, slog.New(slog.NewTextHandler(os.Stderr, nil))))
	if err != nil {
		return err
	}
	go func() {
		for last := "?"; ; time.Sleep(20 * time.Millisecond) {
			if now := fmt.Sprint(team.Shares()); now != last {
				fmt.Println(now)
				last = now
			}
		}
	}()
	return team.Run(ctx)
}

func (o *order) config() Config {
	return Config{Shares: o.Shares, Runner: live.Config{Rules: rules(), SaveEvery: 2 * time.Second, Poll: 50 * time.Millisecond},
		Lock: &Lock{Broker: broker.Config{Brokers: o.Brokers}, Topic: o.Topic, Group: o.Group, Session: o.Session}}
}

func deps(s live.Store, log *slog.Logger) Deps {
	return Deps{Runner: live.Deps{Store: s, Now: time.Now, Log: log}, Watch: func(int) live.Observer { return silent{} }, Log: log}
}

// rules find who is refused again and again, by identity, and a server where many are.
func rules() []detect.Rule {
	rule := func(name string, threshold int, by ...string) detect.Rule {
		c := detect.DefaultCustom()
		c.Condition, c.GroupBy, c.Threshold, c.Window = `outcome == "denied"`, by, threshold, time.Minute
		if err := c.Validate(); err != nil {
			panic(err)
		}
		return detect.Rule{Name: name, Detector: "custom", Severity: detect.Medium, ResolveAfter: 2 * time.Second, With: c, Digest: "1"}
	}
	return []detect.Rule{rule("refused", 5, "principal"), rule("refusing", 30, "server")}
}

type silent struct{}

func (silent) Observed(int, time.Duration)             {}
func (silent) Late(int)                                {}
func (silent) Told(detect.Severity, bool)              {}
func (silent) Holds(detect.Counts)                     {}
func (silent) Saved(int, time.Duration, time.Duration) {}
func (silent) Failed()                                 {}

// instance is such a process.
type instance struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	in   io.Closer

	mu     sync.Mutex
	shares string
	said   strings.Builder
	gone   chan struct{}
}

func start(t *testing.T, name string, o order) *instance {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	p := &instance{t: t, name: name, cmd: exec.Command(os.Args[0]), gone: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asInstance+"="+string(text))
	p.in, err = p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.mu.Lock()
			p.shares = lines.Text()
			p.mu.Unlock()
		}
		_ = p.cmd.Wait()
		close(p.gone)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
		_ = p.cmd.Process.Kill()
		<-p.gone
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.said.String())
		}
	})
	return p
}

// Write keeps what the process says.
func (p *instance) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

// has is how many shares the process does.
func (p *instance) has() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(strings.Fields(strings.Trim(p.shares, "[]")))
}

func (p *instance) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// await waits until something is so.
func await(t *testing.T, what string, within time.Duration, so func() bool) {
	t.Helper()
	for began := time.Now(); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > within {
			t.Fatalf("waited %v, and it is not so that %s", within, what)
		}
	}
}
