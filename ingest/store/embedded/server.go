package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

// Limits of the server. A request's head is bounded by what ClickHouse takes for a
// URL (http_max_uri_size, 1 MiB) and some for its other headers.
const (
	maxClients   = 1024 // connections that are open at once; further ones wait
	maxHead      = 1<<20 + 64<<10
	headTime     = 10 * time.Second
	idleTime     = 10 * time.Minute // longer than clients keep a connection they don't use
	defaultGrace = 20 * time.Second
	unixPrefix   = "unix:"
	unixSockMode = 0o600
)

// Listen opens a listener for Serve: an address of loopback ("127.0.0.1:8123",
// "[::1]:8123", "localhost:8123"), or "unix:" and the path of a socket, which only
// the user may open. Any other address is refused: what goes over it is not
// encrypted.
func Listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		return listenUnix(path)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: it is no address; write 127.0.0.1:8123", address)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("listen on %q: the engine is offered on this machine alone; use 127.0.0.1, and a ClickHouse server for several machines", address)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("listen for statements: %w", err)
	}
	return l, nil
}

func listenUnix(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		// A socket outlives a process that was killed. Of one that lives, it stays.
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("listen on %q: another process does", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %q: remove what a process left: %w", path, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for statements: %w", err)
	}
	if err := os.Chmod(path, unixSockMode); err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, errors.Join(err, l.Close()))
	}
	return l, nil
}

// Serve answers those who connect to l until ctx ends; then it takes no more, lets
// what is under way finish for some seconds, stops the rest and returns nil. l is
// closed. Close the engine afterwards: it waits for statements that can't be stopped.
func (e *Engine) Serve(ctx context.Context, l net.Listener, a Access) error {
	h, err := e.Handler(a)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: headTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHead,
		// Clients that break off are what it would write of.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(netutil.LimitListener(l, maxClients)) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve engine: %w", err)
	case <-ctx.Done():
	}
	if a.Grace == 0 {
		a.Grace = defaultGrace
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.Grace)
	defer cancel()
	if err := server.Shutdown(soon); err != nil {
		_ = server.Close() // ends the contexts of what still runs
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve engine: %w", err)
	}
	return nil
}
