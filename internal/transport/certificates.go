// Package transport is the service's edge to the network: TLS with certificates that
// are replaced while it runs, which listener may speak plaintext, how many connections
// there may be, who calls, and what every HTTP answer carries.
//
// Certificates are our own few lines over crypto/tls. gRPC's certprovider/pemfile
// does the same and is experimental, says what goes wrong to gRPC's own log at each
// look, and has nothing for HTTP; controller-runtime's certwatcher needs Kubernetes'
// libraries.
package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how soon a file that was replaced is noticed.
	lookEvery = 5 * time.Second
	// warnBefore is how long before its end a certificate is warned of, once a day.
	warnBefore = 14 * 24 * time.Hour
	maxFile    = 4 << 20 // bytes of a PEM file; the authorities of a system are a quarter of it
)

// Files are PEM files. Cert and Key are required.
type Files struct {
	Cert, Key string
	// ClientCA are the authorities that sign certificates of clients; empty for none
	// being asked for.
	ClientCA string
}

// Certificates are the service's own, and the authorities of its clients', as their
// files are now. Any goroutine may use them.
type Certificates struct {
	files Files
	log   *slog.Logger
	now   func() time.Time

	current atomic.Pointer[loaded]
	// mu is held by whoever looks at the files.
	mu     sync.Mutex
	said   [sha256.Size]byte // of the contents that were found broken
	warned time.Time
}

// loaded is what the files gave at one time. It is never changed.
type loaded struct {
	contents [sha256.Size]byte
	config   *tls.Config
	leaf     *x509.Certificate
	roots    [][]byte // of the clients' authorities, DER
}

// Load reads the files. Later, [Certificates.Run] looks for changes.
func Load(files Files, log *slog.Logger, now func() time.Time) (*Certificates, error) {
	c := &Certificates{files: files, log: log, now: now}
	l, _, err := c.read()
	if err != nil {
		return nil, err
	}
	c.current.Store(l)
	c.warn(l)
	return c, nil
}

// Run looks at the files every few seconds until ctx ends. What is there by contents,
// not by time stamp, decides: a mount of a secret swaps links. While the new files are
// broken, or one of a pair is not written yet, the old ones are used.
func (c *Certificates) Run(ctx context.Context) { c.run(ctx, lookEvery) }

func (c *Certificates) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.look()
		}
	}
}

// look reads the files again.
func (c *Certificates) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.current.Load()
	l, contents, err := c.read()
	switch {
	case err != nil && contents != c.said:
		c.said = contents
		c.log.Error("the certificate's new files can't be used; the old certificate is", "error", err)
	case err == nil && l.contents != old.contents:
		c.said, c.warned = [sha256.Size]byte{}, time.Time{}
		c.current.Store(l)
		c.log.Info("new certificates are in force", "file", c.files.Cert, "ends", l.leaf.NotAfter.UTC().Format(time.RFC3339), "serial", l.leaf.SerialNumber.String())
	case err == nil:
		c.said = [sha256.Size]byte{}
	}
	c.warn(c.current.Load())
}

// warn says that the certificate ends soon, or has, once a day.
func (c *Certificates) warn(l *loaded) {
	now := c.now()
	left := l.leaf.NotAfter.Sub(now)
	if now.Sub(c.warned) < 24*time.Hour || left > warnBefore && !now.Before(l.leaf.NotBefore) {
		return
	}
	c.warned = now
	switch {
	case now.Before(l.leaf.NotBefore):
		c.log.Warn("the service's certificate is not valid yet: clients refuse it", "file", c.files.Cert, "begins", l.leaf.NotBefore.UTC().Format(time.RFC3339))
	case left <= 0:
		c.log.Error("the service's certificate has expired: clients refuse it; replace its files, nothing needs a restart", "file", c.files.Cert, "ended", l.leaf.NotAfter.UTC().Format(time.RFC3339))
	default:
		c.log.Warn("the service's certificate expires soon; replace its files, nothing needs a restart", "file", c.files.Cert, "ends", l.leaf.NotAfter.UTC().Format(time.RFC3339))
	}
}

// read reads the files. contents is what was read also when that can't be used.
func (c *Certificates) read() (l *loaded, contents [sha256.Size]byte, err error) {
	all := sha256.New()
	var texts [3][]byte
	var errs []error
	for i, path := range []string{c.files.Cert, c.files.Key, c.files.ClientCA} {
		if path == "" && i == 2 {
			continue
		}
		text, err := readFile(path)
		if err != nil {
			errs = append(errs, err)
			fmt.Fprintf(all, "%d %v\n", i, err)
		}
		fmt.Fprintf(all, "%d %d\n", i, len(text))
		all.Write(text)
		texts[i] = text
	}
	contents = [sha256.Size]byte(all.Sum(nil))
	if len(errs) > 0 {
		return nil, contents, errs[0]
	}
	l, err = c.parse(texts[0], texts[1], texts[2])
	if err != nil {
		return nil, contents, err
	}
	l.contents = contents
	return l, contents, nil
}

func (c *Certificates) parse(cert, key, clientCA []byte) (*loaded, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("read the service's certificate from %s and %s: %w", c.files.Cert, c.files.Key, err)
	}
	// Without session tickets every connection shows its certificate anew: an
	// authority that was taken out is not believed for a session that is resumed.
	// Connections here live long, so that a full handshake for each costs little.
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true}
	l := &loaded{config: config, leaf: pair.Leaf}
	if clientCA == nil {
		return l, nil
	}
	config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	for rest := clientCA; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, fmt.Errorf("read the clients' authorities from %s: it holds something that is no certificate", c.files.ClientCA)
		}
		config.ClientCAs.AddCert(root)
		l.roots = append(l.roots, root.Raw)
	}
	if len(l.roots) == 0 {
		return nil, fmt.Errorf("read the clients' authorities from %s: it has no certificate in PEM form", c.files.ClientCA)
	}
	return l, nil
}

// Config is TLS for a listener, 1.3 where the client has it and 1.2 at least, that
// speaks the protocols (ALPN, RFC 7301). A client may show a certificate, which must
// be good then; it need not, for there are keys and tokens.
func (c *Certificates) Config(protocols ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			config := c.current.Load().config.Clone()
			config.NextProtos = protocols
			return config, nil
		}}
}

// Names says whether the service's certificate is for a host.
func (c *Certificates) Names(host string) bool {
	return c.current.Load().leaf.VerifyHostname(host) == nil
}

// Trusts says whether the authority by which a client's certificate was verified is
// still one, for connections that have lasted longer than that.
func (c *Certificates) Trusts(state *tls.ConnectionState) bool {
	roots := c.current.Load().roots
	for _, chain := range state.VerifiedChains {
		for _, root := range roots {
			if len(chain) > 0 && bytes.Equal(chain[len(chain)-1].Raw, root) {
				return true
			}
		}
	}
	return false
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	var text []byte
	if err == nil && info.Size() > maxFile {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", path, maxFile)
	}
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return nil, fmt.Errorf("read %s: %w", path, p.Err)
	}
	return text, err
}
