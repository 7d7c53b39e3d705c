package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/mcpaudit/mcpaudit/internal/transport"
)

// edge is where the service meets the network: its certificates, nil without TLS, and
// who is told of clients whose certificates are not taken.
type edge struct {
	cfg     *Config
	certs   *transport.Certificates
	refused func(address string, reason error)
	log     *slog.Logger

	most      int           // connections of each port
	handshake time.Duration // for TLS and the first frames of gRPC
}

// newEdge reads the certificates and says what goes unencrypted. refused may be nil; it
// must be quick.
func newEdge(cfg *Config, refused func(address string, reason error), d Deps) (*edge, error) {
	e := &edge{cfg: cfg, refused: refused, log: d.Log, most: transport.MaxConnections, handshake: 20 * time.Second}
	for _, what := range cfg.Access.Plaintext {
		d.Log.Warn("others on the network can read and change what goes over plaintext connections", "allowed", what, "reason", cfg.Access.PlaintextReason)
	}
	if cfg.Listen.TLSCert == "" {
		return e, nil
	}
	var err error
	e.certs, err = transport.Load(transport.Files{Cert: cfg.Listen.TLSCert, Key: cfg.Listen.TLSKey, ClientCA: cfg.Listen.ClientCA}, d.Log, d.Now)
	return e, err
}

// run looks for new certificates until ctx ends.
func (e *edge) run(ctx context.Context) {
	if e.certs != nil {
		e.certs.Run(ctx)
	}
}

// options are for the gRPC server: its credentials, and what bounds each connection. A
// connection that does nothing is let go of.
func (e *edge) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(transport.ServerCredentials(e.certs, e.refused)),
		grpc.ConnectionTimeout(e.handshake),
		grpc.MaxHeaderListSize(32 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second, MaxConnectionIdle: 15 * time.Minute}),
	}
}

// listen takes both ports, or neither.
func (e *edge) listen() (forGRPC, forHTTP net.Listener, err error) {
	if forGRPC, err = net.Listen("tcp", e.cfg.Listen.GRPC); err != nil {
		return nil, nil, listenError("gRPC", "grpc", err)
	}
	if forHTTP, err = net.Listen("tcp", e.cfg.Listen.HTTP); err != nil {
		forGRPC.Close()
		return nil, nil, listenError("HTTP", "http", err)
	}
	return transport.Bound(forGRPC, e.most), transport.Bound(forHTTP, e.most), nil
}

func listenError(what, setting string, err error) error {
	return fmt.Errorf("listen for %s: %w; another address: --listen.%s", what, err, setting)
}

// web is the HTTP server around what it answers.
func (e *edge) web(pages http.Handler) *http.Server {
	hosts := transport.Hosts{Listen: e.cfg.Listen.HTTP, Names: e.cfg.Listen.Names, Certs: e.certs}
	web := &http.Server{Handler: transport.Headers(hosts.Refuse(pages)),
		ReadHeaderTimeout: 10 * time.Second, // and TLS
		ReadTimeout:       30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 32 << 10,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 100, MaxReceiveBufferPerConnection: 256 << 10, MaxReceiveBufferPerStream: 128 << 10, SendPingTimeout: time.Minute, PingTimeout: 20 * time.Second},
		ErrorLog: log.New(webLog{e}, "", 0)}
	if e.certs != nil {
		web.TLSConfig = e.certs.Config("h2", "http/1.1")
	}
	return web
}

// serveWeb serves until the server is shut down.
func (e *edge) serveWeb(web *http.Server, l net.Listener) error {
	var err error
	if e.certs != nil {
		err = web.ServeTLS(l, "", "")
	} else {
		err = web.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// webLog hears what net/http has to say: whatever anybody sends makes it say something,
// so that it is for looking closely alone. Clients whose certificate was not taken are
// told on.
type webLog struct{ e *edge }

var handshakeError = []byte("http: TLS handshake error from ")

func (w webLog) Write(line []byte) (int, error) {
	text := bytes.TrimSpace(line)
	if rest, ok := bytes.CutPrefix(text, handshakeError); ok && w.e.refused != nil {
		address, reason, _ := bytes.Cut(rest, []byte(": "))
		if bytes.Contains(reason, []byte((&tls.CertificateVerificationError{Err: errors.New("")}).Error())) {
			host, _, _ := net.SplitHostPort(string(address))
			w.e.refused(host, errors.New(string(reason)))
		}
	}
	w.e.log.Debug("the HTTP server says", "text", string(text[:min(len(text), 500)]))
	return len(line), nil
}
