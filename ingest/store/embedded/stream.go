package embedded

import (
	"context"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// stream is the body of a SELECT's response. It owns a connection from the
// first fetch to the end of the result or to Close, whichever is first.
type stream struct {
	engine *Engine
	ctx    context.Context    // ends with the request's, or with Close
	cancel context.CancelFunc // ends ctx

	mu     sync.Mutex // Close may come while Read waits
	conn   *conn      // nil once given back
	handle unsafe.Pointer
	result unsafe.Pointer // the block being read, in the engine's memory
	rest   []byte         // what of it has not been read: a view of result
	ended  bool           // no further block
	tail   io.Reader      // an exception to append, or nothing
	broken bool           // tail is an exception
	closed bool

	tell func(code int, text string) string // see request
	rows *atomic.Int64
}

// start begins the statement without computing a block.
func (s *stream) start(r *request) error {
	lib := s.engine.lib
	b := bind(r.params)
	s.handle = lib.streamQueryWithParams(s.conn.handle(),
		unsafe.Pointer(bytePointer(r.sql)), uintptr(len(r.sql)),
		unsafe.Pointer(bytePointer(r.format)), uintptr(len(r.format)),
		b.namesP, b.nameLensP, b.valuesP, b.valueLensP, uintptr(len(b.names)))
	runtime.KeepAlive(b)
	runtime.KeepAlive(r.sql)
	runtime.KeepAlive(r.format)
	return lib.errorOf(s.handle)
}

// fetch replaces the block being read by the next one. It is the call in which
// the engine works, so it is the one that is stopped when the context ends.
func (s *stream) fetch() error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	lib := s.engine.lib
	s.drop()
	done := s.engine.whileRunning(s.ctx, s.conn.mark)
	s.result = lib.streamFetchResult(s.conn.handle(), s.handle)
	done()
	if err := lib.errorOf(s.result); err != nil {
		s.ended = true
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		return err
	}
	s.rest = lib.view(s.result)
	if s.rows != nil {
		s.rows.Add(int64(lib.resultRows(s.result)))
	}
	s.ended = len(s.rest) == 0
	return nil
}

// drop gives the block being read back to the engine.
func (s *stream) drop() {
	if s.result != nil {
		s.engine.lib.destroyQueryResult(s.result)
		s.result, s.rest = nil, nil
	}
}

// finish ends the statement, whatever is left of it.
func (s *stream) finish() {
	defer s.cancel()
	s.drop()
	if s.handle == nil {
		return
	}
	if !s.ended {
		// Cancelling alone waits for the whole result when no block has been
		// fetched yet, which may be for ever; killing makes it return.
		over, cancel := context.WithCancel(context.Background())
		cancel()
		done := s.engine.whileRunning(over, s.conn.mark)
		s.engine.lib.streamCancelQuery(s.conn.handle(), s.handle)
		done()
	}
	s.engine.lib.destroyQueryResult(s.handle)
	s.handle = nil
}

// giveBack finishes the statement and returns the connection to the pool.
func (s *stream) giveBack() {
	if s.conn != nil {
		s.finish()
		s.engine.release(s.conn)
		s.conn = nil
	}
}

// Read copies from the current block, and fetches the next when it is used up.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, io.ErrClosedPipe
	}
	if s.tail != nil {
		return s.tail.Read(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.rest) == 0 {
		err := s.fetch()
		if ctxErr := s.ctx.Err(); err != nil && ctxErr != nil {
			s.giveBack()
			s.tail = failing{ctxErr}
			return 0, ctxErr
		}
		if err != nil {
			s.giveBack()
			said := newEngineError(err.Error())
			if s.tell != nil {
				said.text = s.tell(said.code, said.text)
			}
			s.tail, s.broken = strings.NewReader(said.framed()), true
			return s.tail.Read(p)
		}
		if s.ended {
			s.giveBack()
			s.tail = strings.NewReader("")
			return 0, io.EOF
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close stops the statement if it is not at its end, and a Read that waits for
// it. It returns when the connection is free.
func (s *stream) Close() error {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.giveBack()
	return nil
}

// failed says that the result ended in an exception, which is in the body's last
// bytes.
func (s *stream) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// failing is a reader that gives an error again and again.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
