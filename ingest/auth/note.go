package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/mcpaudit/mcpaudit/ingest/diary"
)

// begin is before anything is done of a call: what is changed is noted before it is,
// and what uses the store takes its place among the calls of its tenant. The error
// is a status; done gives the place back.
func (c *call) begin(ctx context.Context, req any) (done func(), err error) {
	done = func() {}
	places := c.g.d.Queries
	switch c.rule.Permission {
	case Publish, Anybody: // these don't ask the store
		places = nil
	case Witness: // emitters must not use up what their tenant's people have
		places = c.g.d.Witnesses
	}
	if places != nil {
		if done, err = places.Begin(ctx, c.access.Scope); err != nil {
			return nil, err
		}
	}
	if c.rule.Note != NoteAround {
		return done, nil
	}
	e := c.entry(req)
	e.Labels["phase"] = "begin"
	if err := c.note(ctx, e); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// end notes how a call ended. The error, a status, is the answer then: what is not in
// the log is not shown.
func (c *call) end(ctx context.Context, req any, err error) error {
	if c.rule.Note == NoteNever || c.rule.Note == NoteOwn && err == nil {
		return nil
	}
	e := c.entry(req)
	if c.rule.Note == NoteAround { // it stands behind its begin in the order of time
		e.Labels["phase"], e.Took = "end", c.g.d.Now().Sub(c.began)
	} else {
		e.Started = c.began
	}
	e.Labels["rows"] = strconv.FormatInt(c.report.count(), 10)
	if err != nil {
		st := status.Convert(err)
		e.Outcome, e.Words, e.Who.ErrorCode = outcome(st.Code()), st.Message(), st.Code().String()
	}
	if noted := c.note(ctx, e); noted != nil && c.rule.Note == NoteAfter {
		return noted
	}
	return nil // of what was done already, the begin is in the log; the end is stored with a later entry
}

func (c *call) note(ctx context.Context, e diary.Entry) error {
	// Whoever asked may have gone; what they asked for is noted all the same.
	if err := c.g.d.Notes.Note(context.WithoutCancel(ctx), e); err != nil {
		c.g.d.Log.Error("the log did not take the event of a call", "method", e.Method, "error", err)
		return status.Error(codes.Unavailable, "the log can't be written to now, and nothing is shown or done that it does not have; try again in a moment")
	}
	return nil
}

// entry is the event of a call.
func (c *call) entry(req any) diary.Entry {
	e := diary.Entry{Method: methodName(c.method), Labels: map[string]string{"tenants": c.access.Scope.String(), "via": via(c.who)}, Who: who(c.access)}
	e.Who.Decision, e.Who.Required = "allow", []string{string(c.rule.Permission)}
	if m, ok := req.(proto.Message); ok {
		e.Target = target(m.ProtoReflect())
		if about := c.report.target.Load(); about != nil {
			e.Target = *about
		}
		if !c.rule.Discreet {
			e.Request = requestText(m)
		}
	}
	return e
}

// who is an access as the log names it. What one tenant's people do is in that
// tenant's log.
func who(a *Access) diary.Who {
	w := diary.Who{Principal: a.ID, Name: a.Name, Kind: a.Kind, AuthMethod: a.Method, Credential: a.Credential, Address: a.Address, UserAgent: a.UserAgent}
	w.Tenant, _ = a.Scope.Only()
	return w
}

// Who is the caller of a method, for the events that it notes itself.
func (a *Access) Who() diary.Who {
	w := who(a)
	w.Decision, w.Required = "allow", []string{string(a.Permission)}
	return w
}

func via(c Caller) string {
	if c.HTTP {
		return "http"
	}
	return "grpc"
}

// noteRefusal puts a refusal in the log; attempts is how many it stands for.
func (g *Guard) noteRefusal(ctx context.Context, r refused, attempts int) {
	e := diary.Entry{Kind: "auth", Method: r.method, Outcome: "denied", Words: r.refusal.Text, Labels: map[string]string{"attempts": strconv.Itoa(attempts), "via": via(r.who)}}
	if r.access != nil {
		e.Who = who(r.access)
		e.Who.Status, e.Who.Required = http.StatusForbidden, []string{string(r.access.Permission)}
	} else {
		e.Who = diary.Who{Address: r.who.Address, UserAgent: r.who.UserAgent, Kind: "anonymous", Credential: r.refusal.Credential, Status: http.StatusUnauthorized}
		if r.refusal.Claimed != "" {
			e.Labels["claimed"] = r.refusal.Claimed // not proved: whoever guesses could put anybody's name there
		}
	}
	e.Who.Decision, e.Who.Reason, e.Who.ErrorCode = "deny", string(r.refusal.Reason), string(r.refusal.Reason)
	// The caller is refused either way; what can't be stored now is stored with what
	// is noted next, or counted in a later event.
	if err := g.d.Notes.Note(context.WithoutCancel(ctx), e); err != nil {
		if errors.Is(err, diary.ErrFull) {
			f := g.failures
			if r.access != nil {
				f = g.denials
			}
			f.later(attempts, r)
		}
		g.d.Log.Warn("the log has no event yet of a refused call", "reason", r.refusal.Reason, "error", err)
	}
}

func outcome(c codes.Code) string {
	switch c {
	case codes.OK:
		return "success"
	case codes.PermissionDenied, codes.Unauthenticated:
		return "denied"
	case codes.ResourceExhausted:
		return "rate_limited"
	case codes.DeadlineExceeded:
		return "timeout"
	case codes.Canceled:
		return "cancelled"
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange, codes.FailedPrecondition, codes.Unimplemented:
		return "protocol_error"
	}
	return "tool_error"
}

// methodName is how the log names a method: mcpaudit/list_events.
func methodName(full string) string {
	name := full[strings.LastIndexByte(full, '/')+1:]
	var b strings.Builder
	b.WriteString("mcpaudit/")
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// target is what a request is about: its first id.
func target(m protoreflect.Message) string {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() == protoreflect.StringKind && !f.IsList() && !f.IsMap() && strings.HasSuffix(string(f.Name()), "_id") {
			if v := m.Get(f).String(); v != "" {
				return v
			}
		}
	}
	return ""
}

// requestText is a request as JSON, or nothing when it can't be written. The log
// redacts it like the arguments of any call.
func requestText(m proto.Message) string {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return ""
	}
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return ""
	}
	return b.String()
}

// report is what a method tells the log of itself beyond what can be seen.
type report struct {
	seen   atomic.Int64 // rows in its answers
	rows   atomic.Pointer[int64]
	target atomic.Pointer[string]
}

// Rows says how many rows a call returned, when its answers don't show it: of files,
// above all.
func (a *Access) Rows(n int64) {
	if a.report != nil {
		a.report.rows.Store(&n)
	}
}

func (r *report) count() int64 {
	if n := r.rows.Load(); n != nil {
		return *n
	}
	return r.seen.Load()
}

// About says what a call was about when its request does not: something that it made.
func (a *Access) About(target string) {
	if a.report != nil {
		a.report.target.Store(&target)
	}
}

// count adds the rows of an answer: the elements of its lists of messages, or the one
// message that it has.
func (c *call) count(resp any) {
	m, ok := resp.(proto.Message)
	if !ok || m == nil || !m.ProtoReflect().IsValid() {
		return
	}
	lists, single := 0, 0
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind || f.IsMap():
		case f.IsList():
			lists += v.List().Len()
		default:
			single = 1
		}
		return true
	})
	if lists == 0 {
		lists = single
	}
	c.report.seen.Add(int64(lists))
}

// String is the scope as the log has it.
func (s Scope) String() string {
	if s.Every {
		return EveryTenant
	}
	return strings.Join(s.Names, ",")
}

func sameAccess(a, b *Access) bool {
	return a.ID == b.ID && a.Scope.Every == b.Scope.Every && a.Content == b.Content && slices.Equal(a.Scope.Names, b.Scope.Names) &&
		slices.EqualFunc(a.Grants, b.Grants, func(x, y Grant) bool {
			return x.Role == y.Role && x.Tenant == y.Tenant && slices.Equal(x.Servers, y.Servers) && slices.Equal(x.Emitters, y.Emitters)
		})
}

// Door refuses whoever has no good credential, before anything else of a request is
// read of an HTTP request. ctx is as of a call of gRPC. payer is whose share of what is
// bounded the request takes: a tenant, or an identity of several.
func (g *Guard) Door(ctx context.Context) (payer string, err error) {
	c, err := g.admit(ctx, "", Rule{Permission: Anybody, Note: NoteNever}, g.byHTTP(ctx), authorization(ctx))
	if err != nil {
		return "", err
	}
	if tenant, ok := c.access.Scope.Only(); ok {
		return "tenant " + tenant, nil
	}
	return "identity " + c.access.ID, nil
}

// byHTTP is who sends an HTTP request that has not become a call yet.
func (g *Guard) byHTTP(ctx context.Context) Caller {
	c := g.d.Caller(ctx)
	c.HTTP = true
	return c
}

// HTTP lets only those through to next who have a permission. It is for what is not
// part of the API, such as metrics, and notes refusals alone. incoming makes a request
// the context of a call.
func (g *Guard) HTTP(p Permission, incoming func(*http.Request) context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := incoming(r)
		_, err := g.admit(ctx, "/http"+r.URL.Path, Rule{Permission: p, Note: NoteNever}, g.byHTTP(ctx), authorization(ctx))
		if err == nil {
			next.ServeHTTP(w, r)
			return
		}
		code := http.StatusUnauthorized
		switch status.Code(err) {
		case codes.PermissionDenied:
			code = http.StatusForbidden
		case codes.Unavailable:
			code = http.StatusServiceUnavailable
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="mcpaudit"`) // RFC 6750, section 3
		}
		http.Error(w, status.Convert(err).Message(), code)
	})
}

// authorization are the credentials of a call, all that were sent.
func authorization(ctx context.Context) []string {
	md, _ := metadata.FromIncomingContext(ctx)
	return md.Get("authorization")
}
