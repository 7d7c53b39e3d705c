package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"time"
	"unsafe"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// RoundTrip runs one statement. What the engine says against it comes back as
// a response with status 500; an error means that no statement was decided
// on: the context ended, the body could not be read, or the engine is closed.
//
// An insert is durable as far as its table's settings make it so when RoundTrip
// returns. Once its last byte is with the engine it is no longer abandoned:
// the answer then is the outcome, even if the context has ended meanwhile.
func (e *Engine) RoundTrip(req *http.Request) (*http.Response, error) {
	return e.answer(req, 0)
}

// answer is RoundTrip that waits for a connection no longer than patience, when
// that is not 0.
func (e *Engine) answer(req *http.Request, patience time.Duration) (*http.Response, error) {
	resp, err := e.serve(req, patience)
	if req.Body != nil {
		req.Body.Close()
	}
	if said, ok := errors.AsType[*engineError](err); ok {
		return said.response(req), nil
	}
	return resp, err
}

func (e *Engine) serve(req *http.Request, patience time.Duration) (*http.Response, error) {
	ctx := req.Context()
	if req.Body != nil {
		// A producer that stalls must not hold a connection after ctx has ended.
		defer context.AfterFunc(ctx, func() { req.Body.Close() })()
	}
	r, err := parseRequest(req)
	if err != nil {
		return nil, ended(ctx, err)
	}
	if strings.TrimSpace(r.sql) == helloQuery && r.protocol > 0 {
		return e.hello(req, r.protocol)
	}
	c, err := e.acquire(ctx, false, patience)
	if err != nil {
		return nil, err
	}
	resp, c, err := e.run(req, r, c)
	if c != nil {
		e.release(c)
	}
	return resp, ended(ctx, err)
}

// ended puts the context's error before one that it caused.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		if _, ok := errors.AsType[*engineError](err); !ok {
			return context.Cause(ctx)
		}
	}
	return err
}

// run runs a statement on c. It returns the connection to release, which is
// nil once a response's body owns it.
func (e *Engine) run(req *http.Request, r *request, c *conn) (*http.Response, *conn, error) {
	c, err := e.prepare(c, r.database, r.settings)
	if err != nil {
		return nil, c, err
	}
	head, format, insert := r.insert()
	if insert {
		// Without what may follow the clause, such as a semicolon, which the
		// parser would take for data.
		r.sql = head + "\nFORMAT " + format
	}
	a, err := e.lib.classify(c.handle(), r.sql)
	if err != nil {
		return nil, c, err
	}
	if err := r.admit(a); err != nil {
		return nil, c, err
	}
	if r.data != nil {
		if insert && a.class == mutating {
			if err := e.insert(req.Context(), c, r, head, format); err != nil {
				return nil, c, err
			}
			return newResponse(req, http.StatusOK, http.NoBody, 0), c, nil
		}
		// As at a server, the body goes on where the URL's text ends. It may
		// change what the statement is, so it is looked at again.
		before := len(r.sql)
		if err := r.readStatement(r.data); err != nil {
			return nil, c, err
		}
		if r.data = nil; len(r.sql) != before {
			return e.run(req, r, c)
		}
	}
	return e.carryOut(req, r, c, a)
}

// carryOut has the engine run a statement that was looked at. The connection is as in
// run.
func (e *Engine) carryOut(req *http.Request, r *request, c *conn, a analysis) (*http.Response, *conn, error) {
	switch keyword(r.sql) {
	case "SELECT", "WITH":
		if a.class == readOnly {
			return e.stream(req, r, c)
		}
	}
	done := func() {}
	if a.class == readOnly {
		// What changes something is not stopped half-way: it has its time limit.
		done = e.whileRunning(req.Context(), c.mark)
	}
	result, err := e.lib.query(c.handle(), r.sql, r.format, r.params)
	done()
	if err != nil {
		if a.class == readOnly && req.Context().Err() != nil {
			err = req.Context().Err()
		}
		return nil, c, err
	}
	return newResponse(req, http.StatusOK, bytes.NewReader(result), int64(len(result))), c, nil
}

// helloQuery is what clickhouse-go asks on every new connection.
const helloQuery = "SELECT displayName(), version(), revision(), timezone()"

// hello answers it. The driver reads this one block with the latest protocol
// that it knows, and every later one with the revision it finds in here: 0 is
// the plain Native format that the engine reads and writes.
func (e *Engine) hello(req *http.Request, protocol uint64) (*http.Response, error) {
	block := proto.NewBlock()
	for _, c := range []struct {
		name  string
		typ   column.Type
		value any
	}{
		{"displayName()", "String", "mcpaudit embedded"},
		{"version()", "String", e.version},
		{"revision()", "UInt32", uint32(0)},
		{"timezone()", "String", e.zone},
	} {
		if err := block.AddColumn(c.name, c.typ); err != nil {
			return nil, fmt.Errorf("answer hello: %w", err)
		}
		if err := block.Columns[len(block.Columns)-1].AppendRow(c.value); err != nil {
			return nil, fmt.Errorf("answer hello: %w", err)
		}
	}
	var buffer chproto.Buffer
	if err := block.Encode(&buffer, protocol); err != nil {
		return nil, fmt.Errorf("answer hello: %w", err)
	}
	return newResponse(req, http.StatusOK, bytes.NewReader(buffer.Buf), int64(len(buffer.Buf))), nil
}

// appendSize is how much of an insert's body goes to the engine in one call.
const appendSize = 1 << 20

// insert streams body into an insert. Unless it returns nil, no block is
// stored that had not been complete when it failed; a driver's batch is one
// block.
//
// Nothing is stored either of an insert whose rows come so slowly that its
// max_execution_time, counted from its arrival, is over before the last of them. From
// there on the engine's own clock holds, which it looks at between blocks: one that is
// being written is written.
func (e *Engine) insert(ctx context.Context, c *conn, r *request, head, format string) error {
	body, buffer := r.data, make([]byte, appendSize)
	n, readErr := fill(body, buffer)
	if n == 0 {
		if errors.Is(readErr, io.EOF) {
			// The driver closes the body like this, and takes a success for an
			// answer, when it could not encode a batch: columns of unequal length.
			return refuse(codeNoData, "NO_DATA_TO_INSERT", "the insert has no rows: its body is empty")
		}
		return fmt.Errorf("read insert: %w", readErr)
	}
	head += "\n" // so that FORMAT is not lost in a comment at the end
	stream := e.lib.streamInsert(c.handle(),
		unsafe.Pointer(bytePointer(head)), uintptr(len(head)),
		unsafe.Pointer(bytePointer(format)), uintptr(len(format)))
	runtime.KeepAlive(head)
	runtime.KeepAlive(format)
	// Destroying a stream that is not done abandons the insert.
	defer e.lib.destroyInsertStream(stream)
	if text := e.lib.streamInsertError(stream); text != "" {
		return newEngineError(text)
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.overdue(); err != nil {
			return err
		}
		if n > 0 && e.lib.streamAppend(stream, unsafe.Pointer(&buffer[0]), uintptr(n)) != 0 {
			break // done tells why
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return fmt.Errorf("read insert: %w", readErr)
		}
		n, readErr = fill(body, buffer)
	}
	runtime.KeepAlive(buffer)
	if err := r.overdue(); err != nil {
		return err
	}
	result := e.lib.streamDone(stream)
	defer e.lib.destroyQueryResult(result)
	return e.lib.errorOf(result)
}

// fill reads until the buffer is full or the body has ended, with io.EOF alone when
// it has ended as its sender meant. A body over a network that breaks off says
// io.ErrUnexpectedEOF, which io.ReadFull would also say of a whole one.
func fill(body io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var more int
		more, err = body.Read(buffer[n:])
		n += more
	}
	return n, err
}

// stream starts a SELECT and answers as soon as its first block is there, so
// that what fails early fails with status 500. An empty result, of which the
// driver wants to hear by its length, frees the connection at once.
func (e *Engine) stream(req *http.Request, r *request, c *conn) (*http.Response, *conn, error) {
	s := &stream{engine: e, conn: c, tell: r.tell, rows: r.rows}
	s.ctx, s.cancel = context.WithCancel(req.Context())
	if err := s.start(r); err != nil {
		s.finish()
		return nil, c, err
	}
	if err := s.fetch(); err != nil {
		s.finish()
		return nil, c, err
	}
	if s.ended {
		s.finish()
		return newResponse(req, http.StatusOK, http.NoBody, 0), c, nil
	}
	return newResponse(req, http.StatusOK, s, -1), nil, nil
}

// killInterval is how often a statement whose context has ended is told so.
// Once may be too early: the engine lists a statement only after parsing it.
const killInterval = 20 * time.Millisecond

// whileRunning has the engine stop the statement of the connection with this
// mark if ctx ends before the returned function is called, which then waits for
// the killing to be over: the connection's next statement must not be hit.
func (e *Engine) whileRunning(ctx context.Context, mark string) (done func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	over, killed := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		tick := time.NewTicker(killInterval)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			default:
			}
			e.kill(mark)
			select {
			case <-over:
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		close(over)
		if !stop() {
			<-killed
		}
	}
}
