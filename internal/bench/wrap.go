package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// wrapped is what 'mcpaudit wrap' adds to a call: an echo server called through
// it and called directly, in turn. The limit is a relay that does nothing but
// copy, with a process and two pipes more, as any wrapper has.
func wrapped(ctx context.Context, e Env) ([]Result, error) {
	echo := []string{e.Self, "bench", "echo-server"}
	relay := []string{e.Self, "bench", "relay", "--"}
	wrap := []string{e.Self, "wrap", "--quiet", "--server", "echo", "--service", "127.0.0.1:1", "--flush", "0s",
		"--spool", filepath.Join(e.Dir, "spool"), "--key-file", filepath.Join(e.Dir, "redact.key"), "--"}
	var direct, copied, audited []time.Duration
	// In turn, so that all three see the same machine.
	for range 5 {
		for _, m := range []struct {
			command []string
			into    *[]time.Duration
		}{{echo, &direct}, {append(relay, echo...), &copied}, {append(wrap, echo...), &audited}} {
			ds, err := roundTrips(ctx, m.command, e.Time/15)
			if err != nil {
				return nil, err
			}
			*m.into = append(*m.into, ds...)
		}
	}
	d, c, a := quantile(direct, 0.5), quantile(copied, 0.5), quantile(audited, 0.5)
	return []Result{
		atMost("wrap", microseconds(a-d), "µs added to a call (median)", microseconds(c-d), "a relay that only copies", 200),
		plain("wrap p99", microseconds(quantile(audited, 0.99)-quantile(direct, 0.99)), "µs added to a call (p99)"),
		plain("wrap direct call", microseconds(d), "µs without wrap (median)"),
	}, nil
}

// roundTrips calls a server over stdio, one call after the other, for a time.
func roundTrips(ctx context.Context, command []string, during time.Duration) ([]time.Duration, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var took []time.Duration
	r := bufio.NewReader(out)
	callErr := func() error {
		end := time.Now().Add(during)
		for n := 0; time.Now().Before(end); n++ {
			line := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"echo","arguments":{"message":"quarterly report of the billing service","limit":%d,"path":"/srv/projects/report-%d.md"}}}`+"\n", n, n%100, n%50)
			start := time.Now()
			if _, err := io.WriteString(in, line); err != nil {
				return err
			}
			if _, err := r.ReadString('\n'); err != nil {
				return err
			}
			if n >= 50 { // the first calls start the process
				took = append(took, time.Since(start))
			}
		}
		return nil
	}()
	in.Close()
	return took, errors.Join(callErr, cmd.Wait())
}

// EchoServer answers each line of r with a result, as the fastest server would.
func EchoServer(r io.Reader, w io.Writer) error {
	lines := bufio.NewReader(r)
	for n := 0; ; n++ {
		if _, err := lines.ReadString('\n'); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"done"}]}}`+"\n", n); err != nil {
			return err
		}
	}
}

// Relay runs a command and copies its input and output.
func Relay(command []string, r io.Reader, w io.Writer) error {
	cmd := exec.Command(command[0], command[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(struct{ io.Writer }{in}, struct{ io.Reader }{r})
		in.Close()
	}()
	_, copied := io.Copy(struct{ io.Writer }{w}, struct{ io.Reader }{out})
	return errors.Join(copied, cmd.Wait())
}
