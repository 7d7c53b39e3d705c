package app

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mcpaudit/mcpaudit/internal/transport"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const (
	maxRequestBody = 16 << 20 // JSON is several times the size of the message it becomes
	maxGatewayPart = 64 << 20 // one message of the gRPC service
	writePatience  = time.Minute
	jsonType       = "*" // every content type is answered as JSON

)

// gateway is the API as HTTP/JSON. It is a client of the gRPC server like any
// other, over a connection in memory, so that whatever guards the one guards
// the other.
type gateway struct {
	inner *transport.Inner
	conn  *grpc.ClientConn
	mux   *runtime.ServeMux
	room  *bodyRoom
	// door, when it is set, refuses a request before its body is read, with an error of
	// gRPC: what a stranger sends is not worth the memory.
	// It says whose share of the memory for bodies the request takes.
	door     func(*http.Request) (payer string, err error)
	patience time.Duration // for a client to read what was written
}

func newGateway(ctx context.Context, roles []string) (*gateway, error) {
	g := &gateway{inner: transport.NewInner(), room: newBodyRoom(), patience: writePatience}
	var err error
	g.conn, err = grpc.NewClient("passthrough:///mcpaudit", append(g.inner.DialOptions(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxGatewayPart)))...)
	if err != nil {
		return nil, err
	}
	nothing := func(string) (string, bool) { return "", false }
	g.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(jsonType, &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{},
		}),
		// Nothing of a request's headers reaches the service but what it asks for, and
		// nothing of its metadata leaves. The gateway itself adds authorization.
		runtime.WithIncomingHeaderMatcher(func(name string) (string, bool) {
			return strings.ToLower(name), strings.EqualFold(name, "traceparent")
		}),
		runtime.WithOutgoingHeaderMatcher(nothing), runtime.WithOutgoingTrailerMatcher(nothing),
		runtime.WithMetadata(g.inner.Metadata),
		runtime.WithErrorHandler(answerError),
		// A request is of the method that it has: what a proxy in front has judged.
		runtime.WithDisableHTTPMethodOverride(), runtime.WithDisablePathLengthFallback(),
	)
	type register func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error
	services := []register{pb.RegisterLedgerServiceHandler, pb.RegisterAccessServiceHandler}
	for _, role := range roles {
		services = append(services, map[string][]register{
			"ingest": {pb.RegisterIngestServiceHandler, pb.RegisterRetentionServiceHandler},
			"detect": {pb.RegisterRuleServiceHandler, pb.RegisterNotifyServiceHandler},
			"query":  {pb.RegisterQueryServiceHandler, pb.RegisterExportServiceHandler, pb.RegisterFindingServiceHandler},
		}[role]...)
	}
	for _, service := range services {
		if err := service(ctx, g.mux, g.conn); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w = &patientWriter{ResponseWriter: w, deadline: http.NewResponseController(w), patience: g.patience}
	r, done := g.inner.Carry(r)
	defer done()
	payer := ""
	if g.door != nil {
		var err error
		if payer, err = g.door(r); err != nil {
			g.refuse(w, r, err)
			return
		}
	}
	switch size := r.ContentLength; {
	case size > maxRequestBody:
		g.refuse(w, r, &runtime.HTTPStatusError{HTTPStatus: http.StatusRequestEntityTooLarge,
			Err: status.Errorf(codes.InvalidArgument, "the request has %d bytes; at most %d are read", size, maxRequestBody)})
		return
	case size != 0 && r.Body != nil:
		held := &heldBody{ReadCloser: http.MaxBytesReader(w, r.Body, maxRequestBody), ctx: r.Context(), room: g.room.of(payer)}
		defer held.release()
		r.Body = held
	}
	g.mux.ServeHTTP(w, onlyKnown(r))
}

// onlyKnown is a request with the headers alone that mean something here. Others would
// be taken for more than a client's own word: whom it forwards for, how long to wait,
// metadata of gRPC.
func onlyKnown(r *http.Request) *http.Request {
	known := http.Header{}
	for _, name := range []string{"Accept", "Content-Type"} {
		if v := r.Header.Get(name); v != "" {
			known.Set(name, v)
		}
	}
	if v := r.Header.Values("Traceparent"); len(v) == 1 {
		known.Set("Traceparent", v[0])
	}
	// All of them, for the guard refuses two. One that gRPC can't carry would be left
	// out: it goes as one that nobody has.
	for _, v := range r.Header.Values("Authorization") {
		known.Add("Authorization", strings.Map(func(c rune) rune {
			if c < ' ' || c > '~' {
				return '?'
			}
			return c
		}, v))
	}
	out := *r
	out.Header, out.RemoteAddr, out.Host = known, "", "" // these two would go along as X-Forwarded-…
	return &out
}

func (g *gateway) refuse(w http.ResponseWriter, r *http.Request, err error) {
	_, marshaler := runtime.MarshalerForRequest(g.mux, r)
	runtime.HTTPError(r.Context(), g.mux, marshaler, w, r, err)
}

// answerError answers an error as JSON, and says when to come back (RFC 9110, section
// 10.2.3) as its RetryInfo does.
func answerError(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	var known *runtime.HTTPStatusError
	if !errors.As(err, &known) {
		for _, d := range status.Convert(err).Details() {
			if info, ok := d.(*errdetails.RetryInfo); ok {
				w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(max(info.GetRetryDelay().AsDuration().Seconds(), 0)))))
			}
		}
	}
	runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, err)
}

// patientWriter gives each write a deadline of its own: a watch may last for
// days, a client that does not read may not.
type patientWriter struct {
	http.ResponseWriter
	deadline *http.ResponseController
	patience time.Duration
}

// WriteHeader makes the challenge one (RFC 6750, section 3): the gateway puts the error's
// text there.
func (w *patientWriter) WriteHeader(code int) {
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="mcpaudit"`)
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *patientWriter) Write(b []byte) (int, error) {
	// An error means that the connection has no deadlines, which is as well.
	_ = w.deadline.SetWriteDeadline(time.Now().Add(w.patience))
	return w.ResponseWriter.Write(b)
}

func (w *patientWriter) Flush() { _ = w.deadline.Flush() }
