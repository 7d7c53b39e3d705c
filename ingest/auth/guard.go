package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpaudit/mcpaudit/ingest/diary"
)

// Noting says when a call becomes an event of the log.
type Noting int

// The ways.
const (
	// NoteAfter is for what is read: the event has the number of rows, and is durable
	// before they leave. Without it they don't.
	NoteAfter Noting = iota
	// NoteAround is for what is changed, and for streams: an event before anything
	// happens, and one with how it ended.
	NoteAround
	// NoteOwn is for methods that note themselves what they do. When they fail, that they
	// were called is noted as well.
	NoteOwn
	// NoteNever is for what shows nothing of the log and changes nothing, and for
	// events that are written: they are the log.
	NoteNever
)

// Rule is what a method asks of who calls it.
type Rule struct {
	Permission Permission
	// Whole methods show or change what belongs to all tenants: they want a grant for
	// every tenant.
	Whole bool
	Note  Noting
	// Open methods are for everybody, without a credential: the health check.
	Open bool
	// Lasting calls stay open and mostly wait for something to happen.
	Lasting bool
	// Discreet requests hold what even the log must not have; the event lacks them.
	Discreet bool
}

// Identifier proves who shows a text; the error of one that does not is a *Refusal.
type Identifier interface {
	Identify(ctx context.Context, text string) (*Identity, error)
}

// Certifier is the same for the certificates of a connection.
type Certifier interface {
	Identify(state tls.ConnectionState) (*Identity, error)
}

// Caller is what is known of a connection: the address is a machine's, without a port.
// TLS is nil when there was none.
type Caller struct {
	Address, UserAgent string
	HTTP               bool // it came through the HTTP API
	TLS                *tls.ConnectionState
}

// Notes make entries durable in the log; *diary.Diary does.
type Notes interface {
	Note(ctx context.Context, n diary.Entry) error
}

// Deps of a guard.
type Deps struct {
	Keys         Identifier
	Tokens       Identifier // nil when no issuer is trusted
	Certificates Certifier  // nil when no certificate is
	Caller       func(ctx context.Context) Caller
	Notes        Notes
	Queries      Queries // of people; nil for no limit
	Witnesses    Queries // of emitters that ask for proofs; nil for no limit
	Now          func() time.Time
	Log          *slog.Logger
	Refused      func(Reason) // for metrics
}

// Queries bounds what the readers of a tenant take of the store; see QueryQuota.
type Queries interface {
	// Begin waits for a place. The error is a status. Done gives it back.
	Begin(ctx context.Context, s Scope) (done func(), err error)
}

// Guard stands in front of every method.
type Guard struct {
	rules    map[string]Rule // by the full method, /mcpaudit.v1.QueryService/ListEvents
	d        Deps
	failures *failures     // of strangers, by where they are
	denials  *failures     // of those who are known, by who they are: strangers must not use up their room
	late     chan lateNote // refusals of those who can't wait until they are noted
	stall    time.Duration // how long an answer may wait to be read
}

type lateNote struct {
	refused
	attempts int
}

// NewGuard makes a guard. A method that has no rule is refused to everybody.
func NewGuard(rules map[string]Rule, d Deps) *Guard {
	return &Guard{rules: rules, d: d, failures: newFailures(d.Now), denials: newFailures(d.Now), late: make(chan lateNote, 100), stall: time.Minute}
}

const (
	// maxCredential bounds the header with the credential, in bytes.
	maxCredential = 16 << 10
	// recheck is how long a stream lives on a credential before it is looked at again.
	recheck = 10 * time.Second
)

// identify proves who calls. Of a token and a certificate the token counts: machines
// in between have certificates too.
func (g *Guard) identify(ctx context.Context, c Caller, header []string) (*Identity, error) {
	switch {
	case len(header) > 1:
		return nil, &Refusal{Reason: Malformed, Text: "there is more than one authorization header; send one"}
	case len(header) == 1:
		text, err := bearer(header[0])
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(text, KeyPrefix) {
			return g.d.Keys.Identify(ctx, text)
		}
		if g.d.Tokens == nil {
			return nil, &Refusal{Reason: WrongIssuer, Text: "this service takes API keys, and no tokens: it has no issuer in access.file"}
		}
		return g.d.Tokens.Identify(ctx, text)
	case c.TLS != nil && len(c.TLS.VerifiedChains) > 0 && g.d.Certificates != nil:
		return g.d.Certificates.Identify(*c.TLS)
	}
	return nil, &Refusal{Reason: NoCredential, Text: "there is no credential; send 'authorization: Bearer KEY' with an API key that 'mcpaudit access create' made"}
}

// bearer is the token of an Authorization header (RFC 6750 section 2.1).
func bearer(header string) (string, error) {
	if len(header) > maxCredential {
		return "", &Refusal{Reason: Malformed, Text: "the credential is longer than any that is taken"}
	}
	scheme, text, ok := strings.Cut(header, " ")
	text = strings.TrimLeft(text, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") || text == "" {
		return "", &Refusal{Reason: Malformed, Text: "the authorization header is not 'Bearer KEY'"}
	}
	return text, nil
}

// authorize says how far an identity may go under a rule.
func authorize(i *Identity, rule Rule) (*Access, bool) {
	grants := i.with(rule.Permission)
	scope, content := reach(grants)
	a := &Access{Identity: *i, Permission: rule.Permission, Scope: scope, Content: content}
	return a, len(grants) > 0 && (scope.Every || !rule.Whole)
}

// let lets a call in, or says with a status why not.
func (g *Guard) let(ctx context.Context, method string) (*call, error) {
	rule, ok := g.rules[method]
	if !ok {
		g.d.Log.Error("a method has no rule of access; nobody may call it", "method", method)
		return nil, status.Error(codes.PermissionDenied, "nobody may call this method")
	}
	if rule.Open {
		return &call{rule: rule}, nil
	}
	return g.admit(ctx, method, rule, g.d.Caller(ctx), authorization(ctx))
}

func (g *Guard) admit(ctx context.Context, method string, rule Rule, who Caller, header []string) (*call, error) {
	identity, err := g.identify(ctx, who, header)
	if err != nil {
		var r *Refusal
		if !errors.As(err, &r) {
			g.d.Log.Error("check a credential", "error", err)
			return nil, status.Error(codes.Unavailable, "the credential can't be checked now; try again in a moment")
		}
		return nil, g.refuse(ctx, network(who.Address), refused{method: "mcpaudit/login", who: who, refusal: r})
	}
	access, ok := authorize(identity, rule)
	access.Address, access.UserAgent, access.Lasting = who.Address, who.UserAgent, rule.Lasting
	if !ok {
		text := "this credential may not do that: it wants " + string(rule.Permission)
		if rule.Whole {
			text += " for every tenant"
		}
		r := refused{method: methodName(method), who: who, access: access, refusal: &Refusal{Reason: Forbidden, Text: text, Credential: identity.Credential}}
		return nil, g.refuse(ctx, identity.ID, r)
	}
	c := &call{g: g, rule: rule, method: method, who: who, header: header, access: access, began: g.d.Now(), checked: g.d.Now()}
	access.report = &c.report
	return c, nil
}

// refuse answers a refusal, when its delay is over, and notes it.
func (g *Guard) refuse(ctx context.Context, key string, r refused) error {
	if g.d.Refused != nil {
		g.d.Refused(r.refusal.Reason)
	}
	if r.refusal.Reason == CantBeChecked { // it is the issuer that fails, so nobody is made to wait
		if attempts, _ := g.failures.add(key, r); attempts > 0 {
			g.noteRefusal(ctx, r, attempts)
		}
		return retryIn(r.refusal.Text, 10*time.Second)
	}
	if r.refusal.Reason == Forbidden { // who is known guesses nothing, and is not made to wait
		if attempts, _ := g.denials.add(key, r); attempts > 0 {
			g.noteRefusal(ctx, r, attempts)
		}
		return status.Error(codes.PermissionDenied, r.refusal.Text)
	}
	attempts, delay := g.failures.add(key, r)
	if attempts > 0 {
		g.noteRefusal(ctx, r, attempts)
	}
	if delay > 0 {
		select {
		case g.failures.delays <- struct{}{}:
			select {
			case <-time.After(delay):
			case <-ctx.Done():
			}
			<-g.failures.delays
		default: // enough of them wait
		}
	}
	return status.Error(codes.Unauthenticated, r.refusal.Text)
}

// retryIn is UNAVAILABLE with the time to wait (google.rpc.RetryInfo).
func retryIn(text string, wait time.Duration) error {
	st := status.New(codes.Unavailable, text)
	if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}); err == nil {
		st = with
	}
	return st.Err()
}

// Handshake notes that a connection was refused for its client certificate. It does not
// wait: the event is Run's.
func (g *Guard) Handshake(address string, reason error) {
	r := refused{method: "mcpaudit/login", who: Caller{Address: address}, refusal: &Refusal{Reason: BadCertificate, Text: clipText(reason.Error())}}
	if g.d.Refused != nil {
		g.d.Refused(BadCertificate)
	}
	attempts, _ := g.failures.add(network(address), r)
	if attempts == 0 {
		return
	}
	select {
	case g.late <- lateNote{r, attempts}:
	default:
		g.failures.later(attempts, r)
	}
}

// clipText bounds a text that others wrote.
func clipText(s string) string { return strings.ToValidUTF8(s[:min(len(s), 300)], "") }

// Run notes what of a flood of refusals the log does not have yet, until ctx ends.
func (g *Guard) Run(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			g.noteLeft(context.WithoutCancel(ctx), 0)
			return
		case n := <-g.late:
			g.noteRefusal(ctx, n.refused, n.attempts)
		case <-tick.C:
			g.noteLeft(ctx, time.Minute)
		}
	}
}

func (g *Guard) noteLeft(ctx context.Context, pause time.Duration) {
	for _, f := range []*failures{g.denials, g.failures} {
		list, attempts := f.left(pause)
		for i, r := range list {
			g.noteRefusal(ctx, r, attempts[i])
		}
	}
}

// Unary guards methods of one request and one answer.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c, err := g.let(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if c.rule.Open {
		return handler(ctx, req)
	}
	ctx = With(ctx, c.access)
	done, err := c.begin(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, err := handler(ctx, req)
	done()
	c.count(resp)
	if noted := c.end(ctx, req, err); noted != nil {
		return nil, noted
	}
	return resp, err
}

// call is one call that was let in.
type call struct {
	g       *Guard
	rule    Rule
	method  string
	who     Caller
	header  []string
	access  *Access
	began   time.Time
	mu      sync.Mutex
	checked time.Time // when the credential of a stream was looked at last
	report  report
}
