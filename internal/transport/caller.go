package transport

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/test/bufconn"
)

const (
	innerBuffer  = 1 << 20 // bytes between the HTTP API and the gRPC server
	maxUserAgent = 200
	// callerKey is the metadata by which a call over the connection in memory names the
	// HTTP request that it is of.
	callerKey = "mcpaudit-caller"
)

// Inner is the connection in memory over which the HTTP API calls the gRPC server. It
// alone can say that a call is another's: who calls is kept here, and what goes over
// the connection is a word that means nothing anywhere else.
type Inner struct {
	*bufconn.Listener
	callers sync.Map // word → *caller, while their requests last
}

type caller struct {
	address, userAgent string
	tls                *tls.ConnectionState
}

// NewInner makes one. It is a listener for the gRPC server, whose credentials must be
// [ServerCredentials].
func NewInner() *Inner { return &Inner{Listener: bufconn.Listen(innerBuffer)} }

// Accept waits for the next connection.
func (i *Inner) Accept() (net.Conn, error) {
	conn, err := i.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return innerConn{conn, i}, nil
}

// innerConn is the server's end. Nothing that comes over a network is of this type.
type innerConn struct {
	net.Conn
	inner *Inner
}

// innerInfo is what the gRPC server knows a call's connection by.
type innerInfo struct {
	credentials.CommonAuthInfo
	inner *Inner
}

func (innerInfo) AuthType() string { return "inner" }

// DialOptions are for the client's end.
func (i *Inner) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return i.DialContext(ctx) })}
}

type wordKey struct{}

// Carry makes a request one whose calls are its sender's. Call done when the request
// has been answered.
func (i *Inner) Carry(r *http.Request) (carried *http.Request, done func()) {
	word := rand.Text()
	i.callers.Store(word, &caller{host(r.RemoteAddr), clip(r.UserAgent()), r.TLS})
	return r.WithContext(context.WithValue(r.Context(), wordKey{}, word)), func() { i.callers.Delete(word) }
}

// Metadata is what a call takes along of a request that is carried.
func (i *Inner) Metadata(ctx context.Context, _ *http.Request) metadata.MD {
	word, _ := ctx.Value(wordKey{}).(string)
	return metadata.Pairs(callerKey, word)
}

// Caller is who calls: of a gRPC call whoever is at the other end, of an HTTP request
// its sender. What a caller says of itself, such as X-Forwarded-For, is not asked for:
// behind a proxy, address is the proxy's. address is an IP address, "" when it is not
// known; userAgent is clipped; tls is nil for plaintext. inner says that the call came
// by the HTTP API.
//
// It is for interceptors and handlers of a server with [ServerCredentials], and for
// contexts of [Incoming].
func Caller(ctx context.Context) (address, userAgent string, tls *tls.ConnectionState, inner bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", "", nil, false
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if info, ok := p.AuthInfo.(innerInfo); ok {
		words := md.Get(callerKey)
		if len(words) != 1 {
			return "", "", nil, true
		}
		c, ok := info.inner.callers.Load(words[0])
		if !ok { // the request has ended
			return "", "", nil, true
		}
		outer := c.(*caller)
		return outer.address, outer.userAgent, outer.tls, true
	}
	if p.Addr != nil {
		address = host(p.Addr.String())
	}
	if agents := md.Get("user-agent"); len(agents) > 0 {
		userAgent = clip(agents[0])
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		tls = &info.State
	}
	return address, userAgent, tls, false
}

// Incoming is an HTTP request as the context of a gRPC call, for what judges calls:
// its authorization headers as metadata, its sender as the peer.
func Incoming(r *http.Request) context.Context {
	md := metadata.MD{}
	if values := r.Header.Values("Authorization"); len(values) > 0 {
		md.Set("authorization", values...)
	}
	if agent := r.UserAgent(); agent != "" {
		md.Set("user-agent", agent)
	}
	p := &peer.Peer{Addr: textAddr(r.RemoteAddr)}
	if r.TLS != nil {
		p.AuthInfo = credentials.TLSInfo{State: *r.TLS, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	}
	return peer.NewContext(metadata.NewIncomingContext(r.Context(), md), p)
}

type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

// host is the IP address of host:port.
func host(address string) string {
	if a, err := netip.ParseAddrPort(address); err == nil {
		return a.Addr().Unmap().WithZone("").String()
	}
	return ""
}

// clip makes a text that anybody may have chosen one line of bounded length.
func clip(s string) string {
	if len(s) > maxUserAgent {
		s = s[:maxUserAgent]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// ServerCredentials are the gRPC server's: TLS with certs, plaintext when certs is nil,
// and neither for the connection in memory. refused, when it is set, hears of clients
// whose certificate was not taken, with a reason of crypto/tls; it must be quick.
func ServerCredentials(certs *Certificates, refused func(address string, reason error)) credentials.TransportCredentials {
	s := serverCredentials{TransportCredentials: insecure.NewCredentials(), refused: refused}
	if certs != nil {
		s.TransportCredentials = credentials.NewTLS(certs.Config("h2"))
	}
	return s
}

type serverCredentials struct {
	credentials.TransportCredentials
	refused func(string, error)
}

func (s serverCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c, ok := conn.(innerConn); ok {
		return conn, innerInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, c.inner}, nil
	}
	secured, info, err := s.TransportCredentials.ServerHandshake(conn)
	if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) && s.refused != nil {
		s.refused(host(conn.RemoteAddr().String()), bad)
	}
	return secured, info, err
}

func (s serverCredentials) Clone() credentials.TransportCredentials {
	return serverCredentials{s.TransportCredentials.Clone(), s.refused}
}
