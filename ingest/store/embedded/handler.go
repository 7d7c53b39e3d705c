package embedded

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Access is how other processes reach an engine.
type Access struct {
	// User and Password are asked for with each statement. Required.
	User, Password string
	// Patience is how long a statement waits for one of the engine's connections
	// before it is refused with ClickHouse's code 202. Default 30 s.
	Patience time.Duration
	// Idle is how long a client may send nothing of a body, or take nothing of a
	// result, before it is given up. Default 5 min.
	Idle time.Duration
	// Grace is how long statements that are under way may go on when the server
	// stops. Default 20 s.
	Grace time.Duration
}

// Validate reports what is wrong with it. The password is never part of the message.
func (a Access) Validate() error {
	switch {
	case a.User == "":
		return errors.New("serve engine: the user has no name")
	case len(a.Password) < minPassword:
		return errors.New("serve engine: the password has fewer than " + strconv.Itoa(minPassword) + " characters")
	case a.Patience < 0 || a.Idle < 0 || a.Grace < 0:
		return errors.New("serve engine: a time limit is negative")
	}
	return nil
}

// minPassword is the length of the shortest password that is taken, in bytes: any
// process of the machine can try as many as it likes.
const minPassword = 12

// Handler answers ClickHouse's HTTP interface with the engine
// (clickhouse.com/docs/interfaces/http): statements in the URL or the body, settings
// and param_* in the URL, user and password by HTTP basic authentication or in
// X-ClickHouse-User and -Key, and /ping. What it may be asked for is what the engine
// itself may be asked for here; see the package comment.
//
// Rows travel through in constant memory, both ways. An insert is carried out only
// when its body has come to the end that its sender gave it (by Content-Length or
// the last chunk of chunked coding, RFC 9112 sections 6.2 and 7.1): of a client that
// dies on the way nothing is kept. A client that goes away while it waits for a
// result ends its statement; a statement that changes something and has begun goes
// on to its end, or to its max_execution_time.
//
// A result that fails when parts of it have gone out already ends with the
// exception, framed as ClickHouse frames it, and then with a connection that breaks
// off: no client takes what came for the whole.
func (e *Engine) Handler(a Access) (http.Handler, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	if a.Patience == 0 {
		a.Patience = 30 * time.Second
	}
	if a.Idle == 0 {
		a.Idle = 5 * time.Minute
	}
	h := &handler{engine: e, access: a}
	h.user, h.password = sha256.Sum256([]byte(a.User)), sha256.Sum256([]byte(a.Password))
	return h, nil
}

type handler struct {
	engine         *Engine
	access         Access
	user, password [sha256.Size]byte // digests, so that comparing them tells no lengths
}

const letIn = "Ok.\n" // what ClickHouse says to a sign of life

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	switch {
	case r.URL.Path == "/ping", r.URL.Path == "/" && r.Method == http.MethodGet && !query.Has("query"):
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		_, _ = io.WriteString(w, letIn)
		return
	case r.URL.Path != "/":
		http.NotFound(w, r)
		return
	case r.Method != http.MethodPost && r.Method != http.MethodGet:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "statements come by POST, and those that only read also by GET", http.StatusMethodNotAllowed)
		return
	}
	if !h.lets(r) {
		refused := refuse(codeNotLetIn, "AUTHENTICATION_FAILED", "authentication failed: the password is incorrect, or there is no such user").response(r) //nolint:bodyclose // it lies in memory
		refused.StatusCode = http.StatusUnauthorized
		refused.Header.Set("WWW-Authenticate", `Basic realm="mcpaudit engine"`)
		h.write(w, refused)
		return
	}
	// The headers that stand for parameters, and what a server takes for granted that
	// the driver in process does not.
	for _, d := range []struct{ name, header, otherwise string }{
		{"database", "X-ClickHouse-Database", ""},
		{"default_format", "X-ClickHouse-Format", "TabSeparated"},
	} {
		if value := r.Header.Get(d.header); query.Get(d.name) == "" {
			if value == "" {
				value = d.otherwise
			}
			query.Set(d.name, value)
		}
	}
	if r.Method == http.MethodGet {
		query.Set("readonly", "2") // a link must not change anything
	}
	body := &steadyBody{body: r.Body, conn: http.NewResponseController(w), idle: h.access.Idle}
	in := r.Clone(r.Context())
	in.URL.RawQuery = query.Encode()
	in.Body = body
	resp, err := h.engine.answer(in, h.access.Patience)
	switch {
	case err != nil && (body.broken || r.Context().Err() != nil):
		panic(http.ErrAbortHandler) // nobody listens
	case err != nil:
		// The engine is closed, or has no connection left. Why is not for clients.
		http.Error(w, "the engine can't answer now; try again", http.StatusServiceUnavailable)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body.drain()
	}
	h.write(w, resp)
}

// lets says whether the request brings the user's name and password.
func (h *handler) lets(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	if !ok {
		user, password = r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	}
	u, p := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(u[:], h.user[:])&subtle.ConstantTimeCompare(p[:], h.password[:]) == 1
}

// resultSize is how much of a result goes out in one piece.
const resultSize = 64 << 10

var resultBuffers = sync.Pool{New: func() any { return new([resultSize]byte) }}

// write sends a response as it comes from the engine. It panics with
// http.ErrAbortHandler when it can't be sent to its end.
func (h *handler) write(w http.ResponseWriter, resp *http.Response) {
	head := w.Header()
	for name, values := range resp.Header {
		head[name] = values
	}
	if head.Get("Content-Type") == "" {
		head.Set("Content-Type", "application/octet-stream")
	}
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("X-ClickHouse-Server-Display-Name", "mcpaudit")
	if resp.ContentLength >= 0 {
		head.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	} else {
		head.Set("X-ClickHouse-Exception-Tag", exceptionTag)
	}
	w.WriteHeader(resp.StatusCode)
	conn := http.NewResponseController(w)
	buffer := resultBuffers.Get().(*[resultSize]byte)
	defer resultBuffers.Put(buffer)
	for {
		n, err := resp.Body.Read(buffer[:])
		if n > 0 {
			_ = conn.SetWriteDeadline(time.Now().Add(h.access.Idle))
			if _, err := w.Write(buffer[:n]); err != nil {
				panic(http.ErrAbortHandler)
			}
			if resp.ContentLength < 0 {
				_ = conn.Flush() // what is there is not held back until the next block is
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if s, ok := resp.Body.(*stream); ok && s.failed() {
		panic(http.ErrAbortHandler)
	}
	// The connection may serve other requests, whose time begins then.
	_ = conn.SetWriteDeadline(time.Now().Add(h.access.Idle))
}

// steadyBody is a request's body of which something has to come again and again. It
// is the handler's alone: the engine's Close does nothing, since what has not been
// read says whether the connection can be used again.
type steadyBody struct {
	body io.Reader
	conn *http.ResponseController
	idle time.Duration
	// done is whether it is at its end, or broken.
	done, broken bool
}

// errBroken is a body that did not come to its end.
var errBroken = errors.New("the body broke off")

func (b *steadyBody) Read(p []byte) (int, error) {
	_ = b.conn.SetReadDeadline(time.Now().Add(b.idle))
	n, err := b.body.Read(p)
	switch {
	case err == io.EOF:
		// What is read behind a body is whether the client is still there.
		_ = b.conn.SetReadDeadline(time.Time{})
		b.done = true
	case err != nil:
		// Whoever reads on, as net/http does before it hangs up, need not wait.
		_ = b.conn.SetReadDeadline(time.Now())
		b.done, b.broken = true, true
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errBroken // which no reader of records takes for an end
		}
	}
	return n, err
}

func (b *steadyBody) Close() error { return nil }

// mostDrained is how much of a refused body is read, in bytes.
const mostDrained = 256 << 20

// drain reads what is left of a body that is not wanted: a client that still writes
// would not see the answer.
func (b *steadyBody) drain() {
	if !b.done {
		_, _ = io.CopyN(io.Discard, b, mostDrained)
	}
}
