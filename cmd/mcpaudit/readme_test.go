package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// The lines that README gives to secure a service do what they say, in a shell, as they
// are written; only the service's name and ports are those of this machine.
func TestTheReadmesLinesToSecureItWorkAsWritten(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "## Secure it")
	section, _, _ = strings.Cut(section, "\n## ")
	var lines []string
	for line := range strings.Lines(section) {
		if code, ok := strings.CutPrefix(line, "    "); ok && len(lines) < 5 {
			lines = append(lines, code)
		}
	}
	grpcPort, httpPort := freePort(t), freePort(t)
	text := strings.NewReplacer("audit.example.com:4777", "localhost:"+grpcPort, ":4777", ":"+grpcPort, ":4778", ":"+httpPort).Replace(strings.Join(lines, ""))
	if len(lines) != 5 || strings.Count(text, grpcPort) != 2 {
		t.Fatalf("the lines are %q", text)
	}
	// The service takes a moment to start and to take what it notes, which a person does
	// not notice.
	begin, rest, _ := strings.Cut(text, "mcpaudit access create")
	script := "set -eu\n" + begin + `
for i in $(seq 300); do mcpaudit access list >/dev/null 2>&1 && break; sleep 0.1; done
mcpaudit access create` + rest + `
kill_it() { kill %1; wait %1 || true; }
trap kill_it EXIT
MCPAUDIT_API_KEY_FILE=ada.key mcpaudit events list > listed
if MCPAUDIT_API_KEY_FILE=crm.key mcpaudit events list 2> refused; then echo "an emitter's key reads"; exit 1; fi
grep -q 'may not do that: it wants read' refused
if echo '{}' | MCPAUDIT_API_KEY_FILE=ada.key mcpaudit import - 2> refused; then echo "an analyst's key writes"; exit 1; fi
if MCPAUDIT_API_KEY_FILE=/dev/null mcpaudit events list 2> refused; then echo "no key reads"; exit 1; fi
MCPAUDIT_API_KEY_FILE=admin.key mcpaudit access list
`
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("mcpaudit", "#!/bin/sh\n"+asCommand+"=1 exec '"+self+"' \"$@\"\n", 0o755)
	writeCertificates(t, write)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "MCPAUDIT_ENGINE="+storetest.Library(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"crm servers", "server crm*", "Ada, on call", "bootstrap"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the list of keys has no %q:\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "mcpa_") {
		t.Errorf("a key is on the screen:\n%s", out)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// writeCertificates makes an authority, ca.crt, and what it signs for localhost: tls.crt
// and tls.key.
func writeCertificates(t *testing.T, write func(name, text string, mode os.FileMode)) {
	t.Helper()
	make := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	ca, signer, text := make(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	write("ca.crt", text, 0o644)
	_, key, text := make(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"localhost"}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, signer)
	write("tls.crt", text, 0o644)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write("tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
}
