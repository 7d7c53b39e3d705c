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
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// Emitter is what wrap needs of one; *emit.Emitter and *emit.Patient are it.
type Emitter interface {
	// Send takes a record and waits for room; an error means that it is lost, and
	// counted.
	Send(ctx context.Context, r emit.Record) error
	// Failing says that what is sent now would be lost.
	Failing() bool
	// Close keeps what was sent; ctx bounds how long that may take.
	Close(ctx context.Context) error
}

// Config of a wrapped server.
type Config struct {
	Command []string
	Base    event.Event // who and where, the same for all events
	// Withhold are environment variables that the server does not get: secrets of
	// the audit, with which it could write events of its own.
	Withhold []string
	// FailClosed cuts the server off and stops it once an event was lost or a
	// message could not be read: nothing more passes. What passed until then is not
	// undone. Otherwise calls pass, and the loss is reported later.
	FailClosed bool
	// Flush is how long events may take to be kept and sent after the server has
	// ended.
	Flush time.Duration
	Now   func() time.Time
	Log   *slog.Logger // hears what is left to be sent
}

// ErrNotAudited is why a server was stopped: its owner chose to fail closed.
var ErrNotAudited = errors.New("the server was stopped: an audit event could not be kept and --fail is closed")

// Run runs the command until it ends and returns its exit status: its own, or
// 128 and the signal's number. Signals that arrive on signals are passed on. It
// closes the emitter, and standard output when that can be closed. The error says
// why the command could not be run, or ErrNotAudited.
func Run(ctx context.Context, cfg Config, stdin io.Reader, stdout io.Writer, stderr *os.File, signals <-chan os.Signal, em Emitter, r *redact.Redactor) (int, error) {
	server, err := start(cfg, stderr)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("wrap %q: %w", cfg.Command[0], err), em.Close(ctx))
	}
	// What is recorded ends with the time that there is for it, not with ctx: that
	// asks the server to end, which it does in its own way.
	recording, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	var stopped atomic.Bool
	lost := func() {
		if cfg.FailClosed && !stopped.Swap(true) {
			server.cutOff()
		}
	}
	lines := newQueue()
	var reader sync.WaitGroup
	reader.Go(func() {
		s := newSession(cfg.Base, r, func(rec emit.Record) {
			// Waiting holds up the reader alone, never what passes.
			if em.Send(recording, rec) != nil || em.Failing() {
				lost()
			}
		})
		read(s, lines, lost)
	})

	// The client's side may stay open for ever: the server's end ends the wrap.
	clientDone := make(chan struct{})
	go func() {
		defer close(clientDone)
		t := tee{from: toServer, now: cfg.Now, lines: lines}
		_ = t.copy(server.in, stdin) // the server has ended: its exit status says more
		server.in.Close()
	}()
	output := tee{from: toClient, now: cfg.Now, lines: lines}
	outputDone := make(chan struct{})
	go func() {
		defer close(outputDone)
		if output.copy(stdout, server.out) != nil {
			// The client is gone: the server learns it as it would without us.
			_, _ = io.Copy(io.Discard, server.out)
		}
	}()
	err = server.wait(ctx, signals)

	hurried := make(chan struct{})
	go func() { // the server has ended: a signal now is for the wrap
		select {
		case <-signals:
			close(hurried)
			giveUp()
		case <-recording.Done():
		}
	}()
	await(outputDone, hurried, clientDone, &output)
	server.out.Close()
	if c, ok := stdout.(io.Closer); ok {
		c.Close() // the client sees the end before the audit is done
	}
	lines.close()
	timer := time.AfterFunc(cfg.Flush, giveUp)
	defer timer.Stop()
	reader.Wait()
	if left := em.Close(recording); left != nil {
		cfg.Log.Warn(left.Error())
	}
	if stopped.Load() {
		return 1, ErrNotAudited
	}
	return status(err)
}

// read makes events of the lines until there are no more.
func read(s *session, lines *queue, lost func()) {
	for batch := lines.take(); len(batch) > 0; batch = lines.take() {
		for _, p := range batch {
			if p.line == nil {
				lost()
			}
			s.take(p)
		}
	}
	s.end()
}

// await waits for the end of the output of a server that has ended. Children of
// the server may hold it open and go on serving; once the client has closed its
// side, too, they are waited for only while they write.
func await(outputDone, hurried, clientDone <-chan struct{}, output *tee) {
	const poll, patience = 50 * time.Millisecond, 20 // a second without a byte
	quiet, reads := 0, output.reads.Load()
	for quiet < patience {
		select {
		case <-outputDone:
			return
		case <-hurried:
			return
		case <-time.After(poll):
		}
		quiet++
		if now := output.reads.Load(); now != reads || !output.reading.Load() || !closed(clientDone) {
			quiet, reads = 0, now
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
