package sql

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// Method is what the guard knows a statement by, and Rule what it asks of who sends one.
// What is asked is noted here; see [Server.Run].
const Method = "/mcpaudit.sql/Statement"

// Rule is the right that a statement wants: reading, of every tenant. The package comment
// says why some of them won't do.
var Rule = auth.Rule{Permission: auth.Read, Whole: true, Note: auth.NoteNever}

// Config of a server.
type Config struct {
	// Limits of one statement; Rows of 0 is a thousand million rows read. Its result has
	// at most 100,000 rows and 64 MiB.
	Limits store.Limits
	// Patience is how long a statement waits for one of the engine's connections for
	// readers. Default 10 s.
	Patience time.Duration
	// Stall is how long a client may send nothing of a statement, or take nothing of a
	// result. Default 30 s.
	Stall time.Duration
	// Incoming makes a request the context of a call of gRPC, which the guard judges.
	// Required.
	Incoming func(*http.Request) context.Context
}

// Store is what is read; *store.Store is it.
type Store interface {
	Outline(ctx context.Context, r embedded.Reading) (embedded.Outline, error)
	ReadSQL(ctx context.Context, l store.Limits, r embedded.Reading) (*http.Response, error)
	Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error)
}

// Guard lets calls in; *auth.Guard does.
type Guard interface {
	Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error)
}

// Deps of a server.
type Deps struct {
	Store Store
	Guard Guard
	Notes auth.Notes
	Now   func() time.Time
	Log   *slog.Logger
}

// Server answers statements. It is an http.Handler; its methods may be called by many
// goroutines.
type Server struct {
	cfg     Config
	d       Deps
	journal *journal

	mu    sync.Mutex
	known *names // nil until the engine was asked
}

// New makes a server. Run it, so that what is asked is counted in the log.
func New(cfg Config, d Deps) *Server {
	if cfg.Limits.Time == 0 {
		cfg.Limits.Time = 30 * time.Second
	}
	if cfg.Limits.Rows == 0 {
		cfg.Limits.Rows = 1_000_000_000
	}
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.Stall == 0 {
		cfg.Stall = 30 * time.Second
	}
	return &Server{cfg: cfg, d: d, journal: newJournal(d.Notes, d.Now, d.Log)}
}

// Run notes at the end of each hour how much was asked and seen in it, until ctx ends, and
// then of the hour that has begun. Let the statements under way end before.
func (s *Server) Run(ctx context.Context) { s.journal.run(ctx) }

const (
	alive        = "Ok.\n" // what ClickHouse says to a sign of life
	codeNotLetIn = 516
	codeTooMany  = 202
	codeQuota    = 201
	codeNoLog    = 210 // NETWORK_ERROR: drivers try again
)

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-ClickHouse-Server-Display-Name", "mcpaudit")
	switch {
	case r.Method != http.MethodPost && r.Method != http.MethodGet:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "statements come by GET or POST", http.StatusMethodNotAllowed)
		return
	case r.URL.Path == "/ping", r.URL.Path == "/" && r.Method == http.MethodGet && !r.URL.Query().Has("query"):
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		_, _ = io.WriteString(w, alive)
		return
	case r.URL.Path != "/":
		http.NotFound(w, r)
		return
	}
	conn := http.NewResponseController(w)
	call := r.Clone(r.Context())
	call.Header = http.Header{"Authorization": credentials(r)}
	if agent := r.UserAgent(); agent != "" {
		call.Header.Set("User-Agent", agent)
	}
	var broken error
	_, err := s.d.Guard.Unary(s.cfg.Incoming(call), nil, &grpc.UnaryServerInfo{FullMethod: Method}, func(ctx context.Context, _ any) (any, error) {
		broken = s.statement(ctx, w, r, conn)
		return nil, nil
	})
	switch {
	case err != nil:
		s.refuse(w, err)
	case broken != nil:
		panic(http.ErrAbortHandler) // what came is not the whole
	}
}

// refuse answers what the guard says.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	st := status.Convert(err)
	x, code := embedded.Refuse(codeNoLog, "NETWORK_ERROR", st.Message()), http.StatusServiceUnavailable
	switch st.Code() {
	case codes.Unauthenticated:
		x, code = embedded.Refuse(codeNotLetIn, "AUTHENTICATION_FAILED", st.Message()), http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Basic realm="mcpaudit"`)
	case codes.PermissionDenied:
		x, code = embedded.Refuse(codeAccessDenied, "ACCESS_DENIED", st.Message()), http.StatusForbidden
	case codes.ResourceExhausted:
		x = embedded.Refuse(codeQuota, "QUOTA_EXCEEDED", st.Message())
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(max(info.GetRetryDelay().AsDuration().Seconds(), 0)))))
		}
	}
	x.Answer(w, code)
}

// statement answers a request that was let in. An error says that the answer broke off.
func (s *Server) statement(ctx context.Context, w http.ResponseWriter, r *http.Request, conn *http.ResponseController) error {
	a, err := scope.Whole(ctx, s.d.Log)
	if err != nil {
		s.refuse(w, err)
		return nil
	}
	_ = conn.SetReadDeadline(time.Now().Add(s.cfg.Stall))
	q, err := parse(r, s.cfg.Limits.Time)
	_ = conn.SetReadDeadline(time.Time{}) // what is read from now on is whether the client is there
	if err == nil && !a.Content.AtLeast(auth.ContentRedacted) {
		err = denied("this key shows no content, and statements could ask for it; use the API, or a key with the content level redacted")
	}
	var resp *http.Response
	var rows atomic.Int64
	if err == nil {
		resp, err = s.run(ctx, a, q, &rows)
	}
	if err != nil {
		s.failed(ctx, w, err)
		if q != nil && !embedded.IsHello(q.text) {
			s.journal.count(a, 0, true)
		}
		return nil
	}
	defer resp.Body.Close()
	err = s.send(w, conn, resp)
	if !embedded.IsHello(q.text) {
		s.journal.count(a, rows.Load(), err != nil)
	}
	return err
}

// run judges a statement, notes it and has it begun.
func (s *Server) run(ctx context.Context, a *auth.Access, q *asked, rows *atomic.Int64) (*http.Response, error) {
	reading := embedded.Reading{Text: q.text, Format: q.format, Params: q.params, Settings: q.settings, Protocol: q.protocol, Tell: tell, Rows: rows, Patience: s.cfg.Patience}
	if q.protocol > 0 && embedded.IsHello(q.text) {
		return s.d.Store.ReadSQL(ctx, s.cfg.Limits, reading) // a driver's greeting, answered without the engine
	}
	known, err := s.names(ctx)
	if err != nil {
		return nil, err
	}
	outline, err := s.d.Store.Outline(ctx, reading)
	if err == nil {
		err = judge(outline, known)
	} else if x, ok := errors.AsType[*embedded.Exception](err); !ok || x.Code == codeTooMany {
		return nil, err // nothing is known of it yet
	}
	if outline.Normal == "" {
		outline.Normal = q.text
	}
	if noted := s.journal.note(ctx, a, q, outline.Normal, err); noted != nil {
		return nil, noted
	}
	if err != nil {
		return nil, err
	}
	return s.d.Store.ReadSQL(ctx, s.cfg.Limits, reading)
}

// firstPart is how much of a result is waited for before any of it leaves: what is not
// larger gives its connection back at once, has a length, and fails with a status if it
// fails.
const firstPart = 1 << 20

// mostSent bounds what leaves of a result, in bytes: the engine bounds it before it is
// written in its format, and counts what is the same in all rows once.
const mostSent = 256 << 20

var parts = sync.Pool{New: func() any { return new([firstPart]byte) }}

// send writes a result. It holds one of the engine's connections only when there is more
// of it than the first part, and then for as long as its client reads it.
func (s *Server) send(w http.ResponseWriter, conn *http.ResponseController, resp *http.Response) error {
	part := parts.Get().(*[firstPart]byte)
	defer parts.Put(part)
	n, err := io.ReadFull(resp.Body, part[:])
	whole := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !whole {
		return err
	}
	head := w.Header()
	head.Set("Content-Type", "application/octet-stream")
	if whole && embedded.Failed(resp) {
		return s.sendFailure(w, part[:n])
	}
	if whole {
		head.Set("Content-Length", strconv.Itoa(n))
	}
	_ = conn.SetWriteDeadline(time.Now().Add(s.cfg.Stall))
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(part[:n])
	for sent := n; err == nil && !whole; sent += n {
		if sent > mostSent {
			return errors.New("the result is too large")
		}
		n, err = resp.Body.Read(part[:])
		if n > 0 {
			_ = conn.SetWriteDeadline(time.Now().Add(s.cfg.Stall))
			if _, failed := w.Write(part[:n]); failed != nil {
				return failed
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && embedded.Failed(resp) {
		_ = conn.Flush() // the exception, in which it ends, leaves before the connection breaks off
		err = errors.New("the result ended in an exception")
	}
	return err
}

// sendFailure answers a result that failed before any of it left: with the exception that
// its body ends in, alone.
func (s *Server) sendFailure(w http.ResponseWriter, body []byte) error {
	x := &embedded.Exception{Text: string(body)}
	if i := strings.LastIndex(x.Text, "Code: "); i >= 0 {
		x.Text = x.Text[i:]
		if end := strings.IndexByte(x.Text, '\n'); end >= 0 {
			x.Text = x.Text[:end]
		}
		x.Code, _ = strconv.Atoi(strings.TrimRight(strings.Fields(x.Text + " 0")[1], "."))
	}
	x.Answer(w, statusOf(x.Code))
	return nil
}

// failed answers a statement that was refused or failed.
func (s *Server) failed(ctx context.Context, w http.ResponseWriter, err error) {
	if ctx.Err() != nil {
		return // nobody listens
	}
	x, ok := errors.AsType[*embedded.Exception](err)
	switch {
	case ok:
		x = &embedded.Exception{Code: x.Code, Text: tell(x.Code, x.Text)}
	case status.Code(err) == codes.Unavailable:
		s.refuse(w, err)
		return
	default:
		s.d.Log.Error("answer a statement", "error", err)
		x = embedded.Refuse(codeNoLog, "NETWORK_ERROR", "the statement can't be answered now; try again in a moment")
	}
	if x.Code == codeTooMany {
		w.Header().Set("Retry-After", "1")
	}
	x.Answer(w, statusOf(x.Code))
}

// statusOf is the status that ClickHouse gives to a code.
func statusOf(code int) int {
	switch code {
	case codeNotLetIn:
		return http.StatusUnauthorized
	case codeAccessDenied:
		return http.StatusForbidden
	case codeSyntax:
		return http.StatusBadRequest
	case codeUnknownDatabase, 60, 47: // UNKNOWN_TABLE, UNKNOWN_IDENTIFIER
		return http.StatusNotFound
	case codeTooMany, codeNoLog, codeQuota:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// names asks the engine once for what judge has to know of it.
func (s *Server) names(ctx context.Context) (*names, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known != nil {
		return s.known, nil
	}
	known, err := learn(ctx, s.d.Store)
	if err == nil {
		s.known = known
	}
	return known, err
}
