// Package enginetest runs the embedded engine as a server, in a process of its own,
// for tests of several processes that share a store and of servers that die:
//
//	server := enginetest.Start(t)
//	s, err := store.Open(ctx, store.Config{DSN: server.DSN()})
//	server.Kill()
//	server.Restart()
//
// The process is the test's own binary, started again with a variable in its
// environment that this package's init looks for: nothing has to be built, and no
// TestMain has to know of it. It serves as `mcpaudit engine serve` does, and ends
// when the test's process ends, however that comes about.
package enginetest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// asServer in the environment makes a test's binary be the server; its value is an
// order.
const asServer = "TEST_BE_AN_ENGINE"

// order is what the process is to serve.
type order struct {
	Library, Path, Address, Password string
	Connections                      int
	MemoryLimit                      uint64
	// Remove is a folder to remove when the test's process is gone.
	Remove string
}

const user = "default"

// ready is the line that the process prints when it can be reached.
const ready = "ready"

func init() {
	text := os.Getenv(asServer)
	if text == "" {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
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
		// The engine still writes there; it will not for long.
		for range 20 {
			if o.Remove == "" || os.RemoveAll(o.Remove) == nil {
				break
			}
		}
		os.Exit(3)
	}()
	l, err := embedded.Listen(o.Address)
	if err != nil {
		return err
	}
	engine, err := embedded.Open(embedded.Config{Library: o.Library, Path: o.Path, Connections: o.Connections, MemoryLimit: o.MemoryLimit})
	if err != nil {
		return err
	}
	fmt.Println(ready)
	return errors.Join(engine.Serve(ctx, l, embedded.Access{User: user, Password: o.Password}), engine.Close())
}

// Server is an engine in a process of its own. Its methods are for the test's own
// goroutine.
type Server struct {
	t       testing.TB
	order   order
	process *process // nil while there is none
}

// Option changes how a server is started.
type Option func(*order)

// Path has the server keep its data in a folder that outlives the test.
func Path(dir string) Option { return func(o *order) { o.Path = dir } }

// Connections is how many statements the server runs at once; 32 without it.
func Connections(n int) Option { return func(o *order) { o.Connections = n } }

// Start starts a server on an empty folder and a free port of loopback, and ends it
// with the test. Several can be started. The test fails when there is no engine, with
// the sentence that says how to install it.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	s := start(t, append([]Option{Path(filepath.Join(t.TempDir(), "engine"))}, options...)...)
	t.Cleanup(s.Kill)
	return s
}

// start starts a server that lasts as long as this process.
func start(t testing.TB, options ...Option) *Server {
	t.Helper()
	home, _ := os.UserHomeDir()
	library, err := embedded.Locate(os.Getenv("MCPAUDIT_ENGINE"), filepath.Join(home, ".local", "share", "mcpaudit", "engine"))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, order: order{Library: library, Password: rand.Text(), Connections: 32, MemoryLimit: 2 << 30, Address: freeAddress(t)}}
	for _, option := range options {
		option(&s.order)
	}
	s.Restart()
	return s
}

// freeAddress is one that nobody listens on, with a port below those that the system
// gives to outgoing connections: it must still be free after a Kill.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(12_000+mathrand.IntN(18_000)))
		if l, err := net.Listen("tcp", address); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return address
		}
	}
	t.Fatal("find a free port: there is none between 12000 and 30000")
	return ""
}

// DSN is the store's store.dsn for this server.
func (s *Server) DSN() string {
	u := url.URL{Scheme: "http", User: url.UserPassword(user, s.order.Password), Host: s.order.Address, Path: "/default"}
	return u.String()
}

// Address is where the server listens, host and port.
func (s *Server) Address() string { return s.order.Address }

// Password is that of its only user, "default".
func (s *Server) Password() string { return s.order.Password }

// Path is the server's data folder. Another process can open it while the server is
// dead.
func (s *Server) Path() string { return s.order.Path }

// PID is the server's process id; 0 while it is dead.
func (s *Server) PID() int {
	if s.process == nil {
		return 0
	}
	return s.process.cmd.Process.Pid
}

// Kill is kill -9: nothing of the process gets to tidy up. It returns when the process
// is gone. Killing a dead one does nothing.
func (s *Server) Kill() {
	if s.process != nil {
		_ = s.process.cmd.Process.Kill()
		<-s.process.ended
		s.process.stdin.Close()
		s.process = nil
	}
}

// Stop ends the server as its user would, and fails the test when it does not end well
// within a minute.
func (s *Server) Stop() {
	s.t.Helper()
	if s.process == nil {
		return
	}
	p := s.process
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Errorf("stop the engine's server: %v", err)
	}
	select {
	case <-p.ended:
		if p.err != nil {
			s.t.Errorf("stop the engine's server: %v\n%s", p.err, p.said.String())
		}
		p.stdin.Close()
		s.process = nil
	case <-time.After(time.Minute):
		s.t.Error("stop the engine's server: it still runs after a minute")
		s.Kill()
	}
}

// Restart starts the server again on the same folder, port and password, after a Kill
// or a Stop. It returns when the server can be reached.
func (s *Server) Restart() {
	s.t.Helper()
	if s.process != nil {
		s.t.Fatal("restart the engine's server: it is running")
	}
	p, err := launch(s.order)
	if err != nil {
		s.t.Fatalf("start the engine's server: %v", err)
	}
	s.process = p
}

// process is one life of a server.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer     // open as long as we live
	ended chan struct{} // closed when the process is gone
	err   error         // how it ended; set before ended is closed
	said  words
}

// words is what a process says on standard error, the newest 64 KiB.
type words struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(b)
	if excess := w.text.Len() - 64<<10; excess > 0 {
		w.text.Next(excess)
	}
	return len(b), nil
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// startTime is how long a server may take until it can be reached: a machine that is
// busy with other tests, and a folder in which a crash has left things to tidy up.
const startTime = time.Minute

func launch(o order) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asServer+"="+string(text))
	p.cmd.Stderr = &p.said
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	p.cmd.Stdout = out
	err = p.cmd.Start()
	out.Close()
	if err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	_ = stdout.SetReadDeadline(time.Now().Add(startTime))
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if strings.TrimSpace(line) == ready {
		return p, nil
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	return nil, fmt.Errorf("it did not come up: %w", errors.Join(err, errors.New(p.said.String())))
}
