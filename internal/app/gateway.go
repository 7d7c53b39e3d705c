package app

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const (
	maxRequestBody = 16 << 20    // JSON is several times the size of the message it becomes
	maxGatewayPart = 64 << 20    // one message of the gRPC service
	writePatience  = time.Minute // for a client to read what was written
	innerBuffer    = 1 << 20     // between the gateway and the gRPC server, in process
	jsonType       = "*"         // every content type is answered as JSON
)

// gateway is the API as HTTP/JSON. It is a client of the gRPC server like any
// other, over a connection in memory, so that whatever guards the one guards
// the other.
type gateway struct {
	inner *bufconn.Listener
	conn  *grpc.ClientConn
	mux   *runtime.ServeMux
}

func newGateway(ctx context.Context, roles []string) (*gateway, error) {
	g := &gateway{inner: bufconn.Listen(innerBuffer)}
	var err error
	g.conn, err = grpc.NewClient("passthrough:///mcpaudit",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.inner.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxGatewayPart)))
	if err != nil {
		return nil, err
	}
	g.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(jsonType, &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{},
		}),
		// Nothing of a request's headers reaches the service but what it asks for.
		runtime.WithIncomingHeaderMatcher(func(name string) (string, bool) {
			return strings.ToLower(name), strings.EqualFold(name, "authorization") || strings.EqualFold(name, "traceparent")
		}),
	)
	type register func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error
	services := []register{pb.RegisterLedgerServiceHandler}
	for _, role := range roles {
		services = append(services, map[string][]register{
			"ingest": {pb.RegisterIngestServiceHandler, pb.RegisterRetentionServiceHandler},
			"detect": {pb.RegisterRuleServiceHandler},
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
	if r.Body != nil {
		r.Body = http.MaxBytesReader(w, r.Body, maxRequestBody)
	}
	g.mux.ServeHTTP(&patientWriter{ResponseWriter: w, deadline: http.NewResponseController(w)}, r)
}

// patientWriter gives each write a deadline of its own: a watch may last for
// days, a client that does not read may not.
type patientWriter struct {
	http.ResponseWriter
	deadline *http.ResponseController
}

func (w *patientWriter) Write(b []byte) (int, error) {
	// An error means that the connection has no deadlines, which is as well.
	_ = w.deadline.SetWriteDeadline(time.Now().Add(writePatience))
	return w.ResponseWriter.Write(b)
}

func (w *patientWriter) Flush() { _ = w.deadline.Flush() }

// ownHost refuses requests that name another host: a web page whose name was
// bound to this machine's address (DNS rebinding) would otherwise read the log
// with its visitor's browser. Requests that browsers send for other sites are
// refused as well.
func ownHost(listen string, next http.Handler) http.Handler {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		host = listen
	}
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			name = r.Host
		}
		ip := net.ParseIP(strings.Trim(name, "[]"))
		if name != host && name != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this address answers to its own name alone, such as localhost", http.StatusMisdirectedRequest)
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			http.Error(w, "requests from other web sites are not answered", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	}))
}
