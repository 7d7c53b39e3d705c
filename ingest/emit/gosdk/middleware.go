package gosdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.opentelemetry.io/otel/trace"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/protocol"
)

// Middleware is the audit as middleware of the SDK, for receiving and for
// sending. What middleware around it refuses is not seen: add it last.
func (a *Auditor) Middleware() mcp.Middleware {
	return func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			switch method {
			case "ping", "notifications/initialized", "notifications/progress", "notifications/message", "notifications/cancelled":
				return next(ctx, method, req) // nothing, or part of what it accompanies
			}
			if a.o.FailClosed && a.emitter.Failing() {
				return nil, errUnaudited
			}
			c := a.begin(ctx, method, req)
			if c.broken != nil && a.o.FailClosed {
				return nil, errUnaudited
			}
			returned := false
			defer func() {
				if !returned { // a panic: the process is about to end, and takes the queue along
					_ = a.emit(ctx, c, nil, errPanicked)
					soon, cancel := context.WithTimeout(context.Background(), time.Second)
					defer cancel()
					_ = a.emitter.Flush(soon)
				}
			}()
			result, err := next(context.WithValue(ctx, eventKey{}, &c.event), method, req)
			returned = true
			if a.emit(ctx, c, result, err) != nil && a.o.FailClosed {
				return nil, errUnaudited
			}
			return result, err
		}
	}
}

var errPanicked = errors.New("the handler panicked")

// errUnaudited is what a client sees when the owner chose to fail closed.
var errUnaudited = &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "refused: this server's audit log takes no events"}

// call is one request on its way through the server, or from it.
type call struct {
	event   event.Event
	began   time.Time
	request protocol.Request
	token   string // the credential; only its fingerprint is kept
	result  any    // a snapshot: marshalled later
	err     error
	broken  error // why there is no event
}

// survive keeps a fault of the audit, or of a type of the server's that it looks
// at, from the call: the call passes and counts as lost.
func (a *Auditor) survive(err *error) {
	if p := recover(); p != nil {
		a.o.Log.Error("a call could not be audited", "panic", fmt.Sprintf("%T", p))
		a.emitter.CountLost(1)
		*err = emit.ErrLost
	}
}

func (a *Auditor) begin(ctx context.Context, method string, req mcp.Request) (c *call) {
	c = &call{began: time.Now()}
	defer a.survive(&c.broken)
	e := &c.event
	a.caller(c, req)
	e.OccurredAt, e.Method = c.began.UnixMicro(), method
	params := req.GetParams()
	if v := reflect.ValueOf(params); v.Kind() == reflect.Pointer && v.IsNil() {
		params = nil // methods that may lack them
	}
	if p, ok := params.(*mcp.CallToolParamsRaw); ok {
		c.request = protocol.Request{Target: p.Name, Arguments: p.Arguments, Answers: p.InputResponses != nil || p.RequestState != ""}
		if p.InputResponses != nil {
			c.request.Inputs = marshalled(p.InputResponses)
		}
	} else if params != nil {
		// Handlers may change parameters of their own types, so they are read now.
		// Those of other methods are small.
		c.request = readParams(method, params)
	}
	if p, ok := params.(*mcp.InitializeParams); ok && p.ClientInfo != nil { // the session does not know it yet
		e.ClientName, e.ClientVersion = p.ClientInfo.Name, p.ClientInfo.Version
	}
	a.traced(ctx, c, params)
	return c
}

func readParams(method string, params mcp.Params) protocol.Request {
	raw, err := json.Marshal(params)
	if err != nil {
		return protocol.Request{}
	}
	return protocol.ReadRequest(method, raw)
}

// caller fills who calls and through what.
func (a *Auditor) caller(c *call, req mcp.Request) {
	e := &c.event
	session, _ := req.GetSession().(*mcp.ServerSession)
	extra := req.GetExtra()
	switch {
	case extra == nil && session != nil && session.ID() != "": // the server asks its client
		*e = a.base
		e.Transport, e.SessionID = "http", session.ID()
	case extra == nil || extra.Header == nil:
		*e = a.local
	default:
		*e = a.base
		e.Transport, e.UserAgent = "http", extra.Header.Get("User-Agent")
		e.ClientIP = a.peer(extra.Header)
		if session != nil {
			e.SessionID = session.ID()
		}
		if t := extra.TokenInfo; t != nil {
			e.Principal, e.AuthMethod, e.ScopesGranted = t.UserID, "bearer", slices.Clone(t.Scopes)
			e.PrincipalName, _ = t.Extra["name"].(string)
			if issuer, _ := t.Extra["iss"].(string); issuer != "" && e.Principal != "" {
				e.Principal = issuer + "#" + e.Principal
			}
			_, c.token, _ = strings.Cut(extra.Header.Get("Authorization"), " ")
		}
	}
	if session != nil {
		if p := session.InitializeParams(); p != nil {
			e.ProtocolVersion = p.ProtocolVersion
			if p.ClientInfo != nil {
				e.ClientName, e.ClientVersion = p.ClientInfo.Name, p.ClientInfo.Version
			}
		}
	}
}

// traced fills the trace: of the span that is under way in this process, or else
// of what the client sent.
func (a *Auditor) traced(ctx context.Context, c *call, params mcp.Params) {
	if params != nil && c.request.TraceID == "" {
		parent, _ := params.GetMeta()["traceparent"].(string)
		c.request.TraceID, c.request.SpanID = protocol.TraceContext(parent)
	}
	if here := trace.SpanContextFromContext(ctx); here.IsValid() {
		c.event.ParentSpanID = c.request.SpanID
		c.request.TraceID, c.request.SpanID = here.TraceID().String(), here.SpanID().String()
	}
}

// emit hands a call over. It waits for room only where calls may not pass
// unaudited.
func (a *Auditor) emit(ctx context.Context, c *call, result mcp.Result, err error) (lost error) {
	if c.broken != nil {
		return c.broken
	}
	defer a.survive(&lost)
	c.result, c.err = snapshot(result), err
	c.event.Duration = uint64(time.Since(c.began).Microseconds())
	if ended := ctx.Err(); ended != nil && c.err == nil {
		c.err = ended
	}
	e := c.event // what a tool changes from here on does not count
	r := emit.Record{Size: c.size(), Make: func() []emit.Record { return a.records(&e, c) }}
	if a.o.FailClosed {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return a.emitter.Send(late, r)
	}
	return a.emitter.Emit(r)
}

// size is about how many bytes a call holds until it is redacted.
func (c *call) size() int {
	n := len(c.request.Arguments) + len(c.request.Inputs)
	switch r := c.result.(type) {
	case json.RawMessage:
		n += len(r)
	case *mcp.CallToolResult:
		for _, content := range r.Content {
			switch part := content.(type) {
			case *mcp.TextContent:
				n += len(part.Text)
			case *mcp.ImageContent:
				n += len(part.Data)
			case *mcp.AudioContent:
				n += len(part.Data)
			case rawContent:
				n += len(part.raw)
			}
		}
		if s, ok := r.StructuredContent.(json.RawMessage); ok {
			n += len(s)
		}
	case *mcp.ReadResourceResult:
		for _, part := range r.Contents {
			if part != nil {
				n += len(part.Text) + len(part.Blob)
			}
		}
	}
	return n
}

// records makes a call's events, in the emitter's worker.
func (a *Auditor) records(e *event.Event, c *call) (records []emit.Record) {
	result, broken := c.marshalResult()
	if c.token != "" {
		e.CredentialID = a.emitter.Emitter().Redactor().Pseudonym("credential:bearer", c.token)
	}
	a.learn(e, result)
	a.calls.Asked(e, c.request)
	e.RequestBytes, e.ResponseBytes = uint64(len(c.request.Arguments)), uint64(len(result))
	o := judge(e, c.err, result)
	if broken != "" && o.Message == "" {
		o.Message = broken
	}
	records = a.calls.Answered(e, c.request, result, o)
	return append(records, emit.Record{Event: e, Arguments: c.request.Arguments, Result: result})
}

// marshalResult is the result as JSON. Its types are the server's: should one
// panic, the event says so.
func (c *call) marshalResult() (result []byte, broken string) {
	if c.result == nil {
		return nil, ""
	}
	defer func() {
		if recover() != nil {
			result, broken = nil, "the result's type panicked when it was marshalled"
		}
	}()
	result, err := json.Marshal(c.result)
	if err != nil {
		return nil, "the result can't be written as JSON"
	}
	return result, ""
}

// learn fills what initialize and discover say of the server, for their own
// event.
func (a *Auditor) learn(e *event.Event, result []byte) {
	if e.Method != "initialize" && e.Method != "server/discover" {
		return
	}
	p := protocol.ReadPeers(result)
	if p.Version != "" {
		e.ProtocolVersion = p.Version
	}
	if p.ServerVersion != "" {
		e.ServerVersion = p.ServerVersion
	}
}

// judge says what came of a call.
func judge(e *event.Event, err error, result []byte) protocol.Outcome {
	var wire *jsonrpc.Error
	var o protocol.Outcome
	switch {
	case err == nil && result == nil: // a notification has no answer
		o.Outcome = "success"
	case err == nil:
		o = protocol.JudgeResult(e.Method, result)
	case errors.As(err, &wire):
		o = protocol.JudgeError(strconv.FormatInt(wire.Code, 10), wire.Message)
	case errors.Is(err, context.Canceled):
		o = protocol.Outcome{Outcome: "cancelled", Message: fmt.Sprint(err)}
	case errors.Is(err, context.DeadlineExceeded):
		o = protocol.Outcome{Outcome: "timeout", Message: fmt.Sprint(err)}
	default:
		o = protocol.JudgeError("", err.Error())
	}
	if e.Decision == "deny" && (o.Outcome == "tool_error" || o.Outcome == "protocol_error") {
		o.Outcome = "denied" // a policy of the server's own said so; what succeeds all the same stays a success
	}
	return o
}
