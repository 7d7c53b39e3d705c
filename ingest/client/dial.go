package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// dialTimeout is how long a connection to this machine may take.
const dialTimeout = 10 * time.Second

// DialOptions are for a [grpc.NewClient] to Address. The error says what contradicts
// itself; files are read later, when they are needed, so that a program can start
// before them: a call fails meanwhile, with UNAUTHENTICATED for a key and with
// UNAVAILABLE for TLS.
func (c Config) DialOptions() ([]grpc.DialOption, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	secure := c.Secure()
	var options []grpc.DialOption
	if secure {
		options = append(options, grpc.WithTransportCredentials(&fresh{tls: c.TLS}))
		if c.TLS.Name != "" {
			options = append(options, grpc.WithAuthority(c.TLS.Name))
		}
	} else {
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if !c.Plaintext {
			options = append(options, grpc.WithContextDialer(dialLoopback))
		}
	}
	if c.Key != "" || c.KeyFile != "" {
		options = append(options, grpc.WithPerRPCCredentials(newBearer(c, secure)))
	}
	return options, nil
}

// dialLoopback connects to this machine, whatever a name leads to.
func dialLoopback(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		_ = conn.Close() // nothing was written
		return nil, fmt.Errorf("%s is not this machine, and plaintext goes no further", conn.RemoteAddr())
	}
	return conn, nil
}

// config reads the files.
func (t TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.Name}
	if t.CA != "" {
		pem, err := readFile(t.CA)
		if err != nil {
			return nil, file("read the service's authorities from", t.CA, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the service's authorities from %s: it has no certificate in PEM form", t.CA)
		}
	}
	if t.Cert != "" {
		cert, err := readFile(t.Cert)
		if err != nil {
			return nil, file("read this program's certificate from", t.Cert, err)
		}
		key, err := readFile(t.Key)
		if err != nil {
			return nil, file("read the certificate's key from", t.Key, err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read this program's certificate from %s and %s: %w", t.Cert, t.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// readFile reads a PEM file, of a size that one may have.
func readFile(path string) ([]byte, error) {
	const most = 4 << 20 // the authorities of a system are a quarter of it
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("it has more than %d bytes", most)
	}
	return os.ReadFile(path)
}

// fresh is TLS whose files are read for each connection: authorities and certificates
// are replaced while programs run. While they can't be read, those that worked last
// are used.
type fresh struct {
	tls TLS

	mu   sync.Mutex
	last credentials.TransportCredentials
}

// now are the credentials of a connection that is made now.
func (f *fresh) now() (credentials.TransportCredentials, error) {
	config, err := f.tls.config()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.last = credentials.NewTLS(config)
	case f.last == nil:
		return nil, err
	}
	return f.last, nil
}

func (f *fresh) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := f.now()
	if err != nil {
		return nil, nil, err
	}
	return c.ClientHandshake(ctx, authority, conn)
}

// ServerHandshake is never called: this end is the client.
func (f *fresh) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("accept a connection: these are the credentials of a client")
}

func (f *fresh) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (f *fresh) Clone() credentials.TransportCredentials { return &fresh{tls: f.tls} }

// OverrideServerName is gRPC's older way to say [TLS.Name].
func (f *fresh) OverrideServerName(name string) error {
	f.tls.Name = name
	return nil
}
