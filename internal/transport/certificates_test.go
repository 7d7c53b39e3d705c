package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/internal/transport/certtest"
)

// logged is a log that a test reads.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}
func (l *logged) String() string    { l.mu.Lock(); defer l.mu.Unlock(); return l.text.String() }
func (l *logged) log() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// served is a TLS listener that says hello, with its files.
type served struct {
	files   Files
	certs   *Certificates
	said    *logged
	address string
}

func serveTLS(t *testing.T, a *certtest.Authority, clients *certtest.Authority, ends time.Time) *served {
	t.Helper()
	dir := t.TempDir()
	s := &served{files: Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}, said: &logged{}}
	cert, key := a.Issue(t, 100, ends, "audit.example", "127.0.0.1")
	write(t, s.files.Cert, cert)
	write(t, s.files.Key, key)
	if clients != nil {
		s.files.ClientCA = filepath.Join(dir, "clients.crt")
		write(t, s.files.ClientCA, clients.PEM)
	}
	var err error
	if s.certs, err = Load(s.files, s.said.log(), time.Now); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.certs.run(ctx, 5*time.Millisecond) })
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(plain, s.certs.Config("h2"))
	s.address = plain.Addr().String()
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				_, _ = io.WriteString(conn, "hello")
			})
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); running.Wait() })
	return s
}

// greet connects and reads: a server's refusal of TLS 1.3 comes after the client's
// handshake.
func (s *served) greet(c *tls.Config) (tls.ConnectionState, error) {
	c.ServerName = "audit.example"
	c.NextProtos = []string{"h2"}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", s.address, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	_, err = io.ReadAll(conn)
	return conn.ConnectionState(), err
}

func TestOldVersionsOfTLSAreRefusedAndTheNewestIsPreferred(t *testing.T) {
	a := certtest.New(t, "a")
	s := serveTLS(t, a, nil, time.Now().Add(300*24*time.Hour))
	for _, c := range []struct {
		name     string
		least    uint16
		most     uint16
		want     uint16
		protocol string
	}{
		{"1.0", tls.VersionTLS10, tls.VersionTLS10, 0, ""},
		{"1.1", tls.VersionTLS10, tls.VersionTLS11, 0, ""},
		{"1.2", tls.VersionTLS10, tls.VersionTLS12, tls.VersionTLS12, "h2"},
		{"all", tls.VersionTLS10, 0, tls.VersionTLS13, "h2"},
	} {
		state, err := s.greet(&tls.Config{RootCAs: a.Pool(), MinVersion: c.least, MaxVersion: c.most})
		if (err != nil) != (c.want == 0) || state.Version != c.want || state.NegotiatedProtocol != c.protocol {
			t.Errorf("a client of %s: version %x, protocol %q, %v", c.name, state.Version, state.NegotiatedProtocol, err)
		}
	}
}

func TestNewFilesAreInForceWithoutARestartAndBrokenOnesAreNot(t *testing.T) {
	a, clients, others := certtest.New(t, "a"), certtest.New(t, "clients"), certtest.New(t, "others")
	s := serveTLS(t, a, clients, time.Now().Add(300*24*time.Hour))
	certificate := func(by *certtest.Authority) tls.Certificate {
		cert, key := by.Issue(t, 7, time.Now().Add(time.Hour), "spiffe://example.org/mcp")
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	mine, theirs := certificate(clients), certificate(others)
	serial := func(c *tls.Config) int64 {
		c.RootCAs = a.Pool()
		state, err := s.greet(c)
		if err != nil {
			return 0
		}
		return state.PeerCertificates[0].SerialNumber.Int64()
	}
	if serial(&tls.Config{}) != 100 || serial(&tls.Config{Certificates: []tls.Certificate{mine}}) != 100 {
		t.Fatal("a client without a certificate, or with a good one, was refused")
	}
	if serial(&tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &theirs, nil }}) != 0 {
		t.Error("a client's certificate of another authority was taken")
	}

	// Half of a pair, rubbish, nothing at all: the old one is used, and it is said once.
	cert, key := a.Issue(t, 200, time.Now().Add(300*24*time.Hour), "audit.example")
	for i, broken := range [][]byte{cert, []byte("rubbish"), nil} {
		write(t, s.files.Cert, broken)
		eventually(t, "the broken file is noticed", func() bool { return strings.Count(s.said.String(), "can't be used") == i+1 })
		for range 3 {
			s.certs.look()
		}
		if n := strings.Count(s.said.String(), "can't be used"); n != i+1 || serial(&tls.Config{}) != 100 {
			t.Errorf("broken file %d: said %d times", i, n)
		}
	}
	write(t, s.files.Cert, cert)
	write(t, s.files.Key, key)
	eventually(t, "the new certificate is served", func() bool { return serial(&tls.Config{}) == 200 })
	if strings.Contains(s.said.String(), "PRIVATE") {
		t.Errorf("the key is in the log:\n%s", s.said)
	}

	// Links that are swapped, to a file of the same size and time.
	next, nextKey := a.Issue(t, 201, time.Now().Add(300*24*time.Hour), "audit.example")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "crt"), next)
	write(t, filepath.Join(dir, "key"), nextKey)
	for to, path := range map[string]string{"crt": s.files.Cert, "key": s.files.Key} {
		if err := os.Symlink(filepath.Join(dir, to), path+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the linked certificate is served", func() bool { return serial(&tls.Config{}) == 201 })

	// Another authority of clients: the new one's are taken, the old one's are not, nor
	// believed where they are connected.
	state := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{mine.Leaf, clients.Cert}}}
	if !s.certs.Trusts(state) || s.certs.Trusts(&tls.ConnectionState{}) {
		t.Error("a verified chain is not trusted, or none is")
	}
	write(t, s.files.ClientCA, others.PEM)
	force := func(pair tls.Certificate) *tls.Config {
		return &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
	}
	eventually(t, "the new authority is in force", func() bool { return serial(force(theirs)) == 201 })
	if serial(force(mine)) != 0 || s.certs.Trusts(state) {
		t.Error("an authority that was taken out is still believed")
	}
	write(t, s.files.ClientCA, append([]byte("junk\n"), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")...))
	eventually(t, "a broken authority is noticed", func() bool { return strings.Contains(s.said.String(), "something that is no certificate") })
	if serial(force(theirs)) != 201 {
		t.Error("a broken file of authorities was taken")
	}
}

func TestACertificateThatEndsIsWarnedOfOnceADay(t *testing.T) {
	a := certtest.New(t, "a")
	dir := t.TempDir()
	files := Files{Cert: filepath.Join(dir, "crt"), Key: filepath.Join(dir, "key")}
	ends := time.Now().Add(20 * 24 * time.Hour)
	cert, key := a.Issue(t, 1, ends, "audit.example")
	write(t, files.Cert, cert)
	write(t, files.Key, key)
	var said logged
	now := time.Now()
	c, err := Load(files, said.log(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for day := range 22 {
		for range 3 {
			c.look()
		}
		soon, over := strings.Count(said.String(), "expires soon"), strings.Count(said.String(), "has expired")
		if wantSoon, wantOver := min(max(day-5, 0), 14), max(day-19, 0); soon != wantSoon || over != wantOver {
			t.Fatalf("day %d: warned of %d times, said to be over %d times; want %d and %d", day, soon, over, wantSoon, wantOver)
		}
		now = now.Add(24 * time.Hour)
	}
}

func TestFilesThatCannotBeUsedAreNamed(t *testing.T) {
	a := certtest.New(t, "a")
	dir := t.TempDir()
	cert, key := a.Issue(t, 1, time.Now().Add(time.Hour), "audit.example")
	_, otherKey := a.Issue(t, 2, time.Now().Add(time.Hour), "audit.example")
	for name, text := range map[string][]byte{"crt": cert, "key": key, "other": otherKey, "empty": nil, "ca": a.PEM, "huge": make([]byte, maxFile+1)} {
		write(t, filepath.Join(dir, name), text)
	}
	for _, c := range []struct{ cert, key, ca, want string }{
		{"none", "key", "", "none: no such file or directory"},
		{"crt", "none", "", "none: no such file or directory"},
		{"crt", "other", "", "private key does not match public key"},
		{"key", "crt", "", "may have been switched"},
		{"empty", "key", "", "failed to find any PEM data"},
		{"crt", "key", "empty", "has no certificate in PEM form"},
		{"crt", "key", "key", "something that is no certificate"},
		{"crt", "key", "none", "none: no such file or directory"},
		{"huge", "key", "", "has more than"},
	} {
		f := Files{Cert: filepath.Join(dir, c.cert), Key: filepath.Join(dir, c.key)}
		if c.ca != "" {
			f.ClientCA = filepath.Join(dir, c.ca)
		}
		if _, err := Load(f, slog.New(slog.DiscardHandler), time.Now); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "PRIVATE KEY-----") {
			t.Errorf("%+v: %v, want %q", c, err, c.want)
		}
	}
}
