// Package wrap audits an MCP server that can't be changed: it runs the server's
// command and stands between it and its client.
//
// Standard input and output pass byte for byte, whatever they hold: the audit
// reads copies. Standard error, signals and the exit status pass as well. What
// the audit can't read is recorded as unread; it is never held back.
package wrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// Emitter is what wrap needs of one; *emit.Emitter is it.
type Emitter interface {
	// Send takes a record and waits for room; an error means that it is lost, and
	// counted.
	Send(ctx context.Context, r emit.Record) error
	// Accepting says whether an event emitted now would be kept.
	Accepting() bool
}

// Config of a wrapped server.
type Config struct {
	Command []string
	Base    event.Event // who and where, the same for all events
	// FailClosed cuts the server off and stops it when an event can't be kept:
	// nothing more passes unaudited. Otherwise calls pass and the loss is reported
	// later.
	FailClosed bool
	Now        func() time.Time
}

// grace is how long a server that is cut off has to end by itself.
const grace = 5 * time.Second

// Run runs the command until it ends and returns its exit status: its own, or
// 128 and the signal's number. Signals that arrive on signals are passed on.
// The error says why the command could not be run.
func Run(ctx context.Context, cfg Config, stdin io.Reader, stdout io.Writer, stderr *os.File, signals <-chan os.Signal, em Emitter, r *redact.Redactor) (int, error) {
	cmd := exec.Command(cfg.Command[0], cfg.Command[1:]...)
	cmd.Stderr = stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, fmt.Errorf("wrap %q: %w", cfg.Command[0], err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("wrap %q: %w", cfg.Command[0], err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("wrap %q: %w", cfg.Command[0], err)
	}
	done := make(chan struct{})
	go passSignals(ctx, cmd.Process, signals, done)

	lines := newQueue()
	var closedBy atomic.Bool
	s := newSession(cfg.Base, r, func(rec emit.Record) {
		// Waiting holds up the parser alone, never what passes.
		err := em.Send(ctx, rec)
		if cfg.FailClosed && (err != nil || !em.Accepting()) && !closedBy.Swap(true) {
			// The pipes first: a server may take its time to end, or leave children
			// that hold them.
			in.Close()
			out.Close()
			cmd.Process.Signal(syscall.SIGTERM)
			time.AfterFunc(grace, func() { _ = cmd.Process.Kill() }) // it may have ended
		}
	})
	var parser sync.WaitGroup
	parser.Go(func() {
		for batch := lines.take(); len(batch) > 0; batch = lines.take() {
			for _, p := range batch {
				if p.missed > 0 {
					s.missed(p.missed, p.at)
				} else if p.line == nil {
					s.unparsed(p.from, p.size, "the message was too long, or came faster than it could be read", p.at)
				} else {
					s.line(p.from, p.line, p.at)
				}
			}
		}
		s.end()
	})

	// The client's side may stay open for ever; the server's end ends the wrap,
	// and what the client sends after that is not queued.
	go func() {
		t := tee{from: toServer, now: cfg.Now, lines: lines}
		_ = t.copy(in, stdin) // the server has ended: its exit status says more
		in.Close()
	}()
	t := tee{from: toClient, now: cfg.Now, lines: lines}
	copyErr := t.copy(stdout, out)
	if copyErr != nil {
		// The client is gone: the server learns it as it would without us.
		_, _ = io.Copy(io.Discard, out)
	}
	err = cmd.Wait()
	close(done)
	lines.close()
	parser.Wait()
	if closedBy.Load() {
		return 1, errors.New("the server was stopped: an audit event could not be kept and --fail is closed")
	}
	return status(err)
}

// passSignals hands signals to the server until it has ended.
func passSignals(ctx context.Context, p *os.Process, signals <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case s := <-signals:
			p.Signal(s)
		case <-ctx.Done():
			p.Signal(syscall.SIGTERM)
			<-done
			return
		case <-done:
			return
		}
	}
}

func status(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}
