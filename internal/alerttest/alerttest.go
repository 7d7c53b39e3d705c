// Package alerttest gives tests a real Alertmanager and a real Prometheus: processes on
// free ports of loopback, with data in the test's folder, which end with the test, and
// with the test's process even if that is killed.
//
//	hook := alerttest.Listen(t)
//	am := alerttest.Alertmanager(t, "receivers: [{name: test, webhook_configs: [{url: '"+hook.URL+"'}]}]\nroute: {receiver: test, group_wait: 100ms}")
//	… send alerts to am.URL …
//	call := hook.Next()
//
//	p := alerttest.Prometheus(t, config)
//	p.Await(`up{job="mcpaudit"} == 1`)
//
// A configuration is checked by amtool or promtool first, and what they say about a bad
// one fails the test.
//
// The programs are Debian's packages prometheus and prometheus-alertmanager, or others
// of the same names on PATH (alertmanager or prometheus-alertmanager, amtool, prometheus,
// promtool). Where one is missing the test is skipped; with MCPAUDIT_ALERTMANAGER=real it
// fails instead.
//
// Every method that takes no error back fails the test when it can't do its work, so
// call it on the test's own goroutine.
package alerttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// choice is the environment variable that insists on the real programs.
const choice = "MCPAUDIT_ALERTMANAGER"

// patience is how long a server may take for one thing, on a machine that is busy with
// other tests.
const patience = 60 * time.Second

// Server is one of the two, as a process.
type Server struct {
	// URL is where it listens, without a slash at the end: http://127.0.0.1:12345.
	URL string

	t       testing.TB
	name    string // for messages
	process *process
}

// program finds the first of some names on PATH. It skips the test, or fails it where
// real programs are insisted on.
func program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing := fmt.Sprintf("alerttest: no %s is installed (make setup)", strings.Join(names, " or "))
	if os.Getenv(choice) == "real" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// start checks a configuration, starts a server with it, and ends that with the test.
// check and run make the commands; run is given the address to listen on.
func start(t testing.TB, name, dir, config string, check func(file string) *exec.Cmd, run func(file, address string) *exec.Cmd) *Server {
	t.Helper()
	file := filepath.Join(dir, name+".yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := check(file).CombinedOutput(); err != nil {
		t.Fatalf("check the configuration of %s: %v\n%s", name, err, out)
	}
	s := &Server{t: t, name: name}
	// A port may be taken between the look and the start: then another is tried.
	for attempt := 1; ; attempt++ {
		address, err := freeAddress()
		if err != nil {
			t.Fatal(err)
		}
		s.URL = "http://" + address
		s.process = &process{name: name, log: filepath.Join(dir, name+".log"), command: func() *exec.Cmd { return run(file, address) }}
		err = s.start()
		if err == nil {
			break
		}
		s.process.kill()
		if attempt == 3 || !strings.Contains(err.Error(), "in use") {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { s.process.kill() })
	return s
}

// start starts the process and waits until it is ready.
func (s *Server) start() error {
	if err := s.process.start(); err != nil {
		return err
	}
	return s.await("is ready", func(ctx context.Context) error {
		if !s.process.running() {
			return errEnded
		}
		return s.get(ctx, "/-/ready", nil)
	})
}

// Stop ends the server in order: it writes its data first.
func (s *Server) Stop() {
	s.t.Helper()
	if err := s.process.stop(); err != nil {
		s.t.Fatal(err)
	}
}

// Kill ends the server with SIGKILL.
func (s *Server) Kill() { s.process.kill() }

// Start starts the server again, on its data and port, after Stop or Kill.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// errEnded is what no waiting mends.
var errEnded = errors.New("it ended by itself")

// await asks until ask returns no error. What it says in the end is part of the error.
func (s *Server) await(what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, errEnded) || ctx.Err() != nil {
			return fmt.Errorf("wait until %s %s: %w; %s", s.name, what, err, s.process.lastWords())
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// mostAnswer is how much of an answer is read, in bytes.
const mostAnswer = 16 << 20

// get asks the server for a path and hands the body of an answer with status 200 to read.
func (s *Server) get(ctx context.Context, path string, read func([]byte) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return err
	}
	r.Close = true // a server that is started again has other connections
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, mostAnswer))
	switch {
	case err != nil:
		return err
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("ask %s for %s: it answered %d: %s", s.name, path, answer.StatusCode, body)
	case read == nil:
		return nil
	}
	return read(body)
}

// freeAddress finds a port of loopback that nobody listens on, below those that systems
// give to outgoing connections: a server that is stopped keeps its own.
func freeAddress() (string, error) {
	const tries = 100
	for range tries {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(12000+rand.IntN(20000))))
		if err == nil {
			defer l.Close()
			return l.Addr().String(), nil
		}
	}
	return "", fmt.Errorf("find a free port between 12000 and 32000: none of %d is free", tries)
}
