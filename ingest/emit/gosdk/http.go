package gosdk

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/protocol"
)

// clientIPHeader carries the peer's address from Handler to the middleware, since
// the SDK hands headers on and nothing else. A word that only this process knows
// stands before it: where Handler is not used, a client could send the header.
const clientIPHeader = "Mcpaudit-Client-Ip"

// peer is the address that Handler put into the headers, "" when none did.
func (a *Auditor) peer(h http.Header) string {
	ip, ok := strings.CutPrefix(h.Get(clientIPHeader), a.word+" ")
	if !ok {
		return ""
	}
	return ip
}

// Bounds against callers who are refused on purpose: their events must not push
// out those of others, nor may they hold a request open.
const (
	refusalRate  = 50 // events a second
	refusalBurst = 500
	refusalBody  = 64 << 10 // of the refused request, to learn what was called
	refusalWait  = time.Second
	refusalText  = 512 // of the answer
)

// Handler wraps what serves the MCP endpoint, with its authentication inside. It
// records requests that are refused with 401, 403 or 429, with the tool that was
// called, and tells the middleware the peer's address. Everything else passes as
// it is, streams included.
//
// The address is that of the connection: behind a proxy it is the proxy's, because
// headers that claim another can be forged.
func (a *Auditor) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			peer = r.RemoteAddr
		}
		r.Header.Set(clientIPHeader, a.word+" "+peer)
		watch := &refusalWatch{ResponseWriter: w, auditor: a, request: r, began: time.Now()}
		next.ServeHTTP(watch, r)
		watch.done()
	})
}

// refusals bounds how many refused requests become events, and counts the others.
type refusals struct {
	limit *rate.Limiter
	mu    sync.Mutex
	held  int
}

// admit says whether a refusal becomes an event, and how many before it did not.
func (r *refusals) admit() (ok bool, heldBack int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.limit.Allow() {
		r.held++
		return false, 0
	}
	heldBack, r.held = r.held, 0
	return true, heldBack
}

// refusalWatch is a ResponseWriter that notices a refusal.
type refusalWatch struct {
	http.ResponseWriter
	auditor *Auditor
	request *http.Request
	began   time.Time

	status int
	event  *event.Event // of the refusal
	call   protocol.Request
	text   bytes.Buffer // what the client was told
}

// Unwrap lets http.ResponseController reach what the server's own writer can.
func (w *refusalWatch) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush passes on what is written, for handlers that stream.
func (w *refusalWatch) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// WriteHeader notices the status before the client sees it: HTTP/1 may not let
// the request be read any more afterwards.
func (w *refusalWatch) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
		if status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusTooManyRequests {
			w.refused()
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write keeps the beginning of a refusal's text.
func (w *refusalWatch) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.event != nil {
		w.text.Write(b[:min(len(b), refusalText-min(w.text.Len(), refusalText))])
	}
	return w.ResponseWriter.Write(b)
}

func (w *refusalWatch) refused() {
	ok, heldBack := w.auditor.refused.admit()
	if !ok {
		return
	}
	e := w.auditor.base
	e.OccurredAt, e.Kind, e.Method = w.began.UnixMicro(), "auth", w.request.Method+" "+w.request.URL.Path
	e.Transport, e.ClientIP, e.UserAgent = "http", w.auditor.peer(w.request.Header), w.request.UserAgent()
	e.SessionID, e.HTTPStatus = w.request.Header.Get("Mcp-Session-Id"), uint16(w.status)
	e.Outcome, e.Decision = "denied", "deny"
	if w.status == http.StatusTooManyRequests {
		e.Outcome, e.Decision = "rate_limited", ""
	}
	e.ScopesRequired = challengeScopes(w.Header().Values("WWW-Authenticate"))
	if heldBack > 0 {
		e.Labels = []event.Label{{Key: "refusals_not_recorded", Value: strconv.Itoa(heldBack)}}
	}
	w.event = &e
	w.read()
}

// read learns what was called from the request's body, which authentication
// leaves alone. A client that sends slowly is not waited for.
func (w *refusalWatch) read() {
	if w.request.Body == nil || w.request.Method != http.MethodPost {
		return
	}
	c := http.NewResponseController(w.ResponseWriter)
	if c.SetReadDeadline(time.Now().Add(refusalWait)) != nil {
		return
	}
	body, _ := io.ReadAll(io.LimitReader(w.request.Body, refusalBody))
	_ = c.SetReadDeadline(time.Time{})
	w.event.RequestBytes = uint64(len(body))
	m, err := protocol.ReadObject(body)
	if err != nil || m.Text("method") == "" {
		return
	}
	w.event.Method, w.event.RequestID = m.Text("method"), string(bytes.TrimSpace(m["id"]))
	w.call = protocol.ReadRequest(w.event.Method, m["params"])
	if kind := protocol.Kind(w.event.Method); kind != "other" {
		w.event.Kind = kind
	}
	w.event.Target, w.event.TaskID = w.call.Target, w.call.TaskID
	w.event.TraceID, w.event.SpanID = w.call.TraceID, w.call.SpanID
	peers := protocol.ReadPeers(m["params"])
	w.event.ClientName, w.event.ClientVersion, w.event.ProtocolVersion = peers.ClientName, peers.ClientVersion, peers.Version
}

// done hands the refusal over when its answer is written.
func (w *refusalWatch) done() {
	if w.event == nil {
		return
	}
	e := w.event
	e.Duration = uint64(time.Since(w.began).Microseconds())
	e.ErrorCode = strconv.Itoa(w.status)
	e.ErrorMessage = strings.TrimSpace(strings.ToValidUTF8(w.text.String(), "�"))
	if e.Decision == "deny" {
		e.DecisionReason = e.ErrorMessage
	}
	_, token, _ := strings.Cut(w.request.Header.Get("Authorization"), " ")
	a, arguments := w.auditor, w.call.Arguments
	_ = a.emitter.Emit(emit.Record{Make: func() []emit.Record { // a loss is counted and reported
		if token != "" {
			e.AuthMethod = "bearer"
			e.CredentialID = a.emitter.Emitter().Redactor().Pseudonym("credential:bearer", token)
		}
		return []emit.Record{{Event: e, Arguments: arguments}}
	}})
}

// challengeScopes are the scopes that a Bearer challenge asks for (RFC 6750,
// section 3).
func challengeScopes(challenges []string) []string {
	for _, c := range challenges {
		_, rest, found := strings.Cut(c, `scope="`)
		if !found {
			continue
		}
		scopes, _, _ := strings.Cut(rest, `"`)
		return strings.Fields(scopes)
	}
	return nil
}
