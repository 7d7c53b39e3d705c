package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/internal/transport/certtest"
)

// service answers health checks and remembers what it was shown last.
type service struct {
	address string
	keys    []string
}

func serve(t *testing.T, creds credentials.TransportCredentials) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &service{address: l.Addr().String()}
	server := grpc.NewServer(grpc.Creds(creds), grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		s.keys = md.Get("authorization")
		return next(ctx, req)
	}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	go server.Serve(l) //nolint:errcheck // it is stopped below
	t.Cleanup(server.Stop)
	return s
}

// call makes one call, on a connection of its own.
func call(t *testing.T, c client.Config, more ...grpc.DialOption) error {
	t.Helper()
	options, err := c.DialOptions()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(c.Address, append(options, more...)...)
	if err != nil {
		return err
	}
	defer conn.Close()
	return check(t, conn)
}

func check(t *testing.T, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return m[name] }
}

func TestPlaintextGoesToThisMachineAlone(t *testing.T) {
	for _, c := range []struct {
		c      client.Config
		secure bool
		want   string // of the error; "" for none
	}{
		{client.Config{}, false, ""},
		{client.Config{Address: "127.0.0.1:1"}, false, ""},
		{client.Config{Address: "[::1]:1", Key: "k"}, false, ""},
		{client.Config{Address: "localhost:1", Key: "k"}, false, ""},
		{client.Config{Address: "localhost:1", TLS: client.TLS{CA: "f"}}, true, ""},
		{client.Config{Address: "127.0.0.1:1", TLS: client.TLS{Name: "audit.example"}}, true, ""},
		{client.Config{Address: "audit.example:1", Key: "k"}, true, ""},
		{client.Config{Address: "192.0.2.1:1"}, true, ""},
		{client.Config{Address: "localhost.example:1"}, true, ""},
		{client.Config{Address: "127.0.0.1.example:1"}, true, ""},
		{client.Config{Address: "0.0.0.0:1"}, true, ""},
		{client.Config{Address: "audit.example:1", Plaintext: true, PlaintextReason: "a mesh"}, false, ""},
		{client.Config{Address: "audit.example:1", PlaintextReason: "a mesh"}, true, ""}, // said once
		{client.Config{Address: "audit.example:1", Plaintext: true}, false, "needs a reason"},
		{client.Config{Address: "audit.example:1", Plaintext: true, PlaintextReason: " "}, false, "needs a reason"},
		{client.Config{Address: "audit.example:1", Plaintext: true, PlaintextReason: "a mesh", TLS: client.TLS{CA: "f"}}, true, "leave one of them out"},
		{client.Config{Address: "https://audit.example"}, false, "is a URL"},
		{client.Config{Address: "audit.example"}, false, "is not host:port"},
		{client.Config{TLS: client.TLS{Cert: "f"}}, true, "one is missing"},
		{client.Config{TLS: client.TLS{Key: "f"}}, true, "one is missing"},
		{client.Config{Key: "k", KeyFile: "f"}, false, "a key and a file with one"},
	} {
		err := c.c.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.c, err, c.want)
		}
		if err == nil && c.c.Secure() != c.secure {
			t.Errorf("%v: secure is %v", c.c, c.c.Secure())
		}
	}
}

// A name of this machine that leads elsewhere, by whoever answers for names, gets
// neither key nor bytes.
func TestPlaintextDoesNotFollowANameElsewhere(t *testing.T) {
	s := serve(t, insecure.NewCredentials())
	options, err := client.Config{Address: "localhost:1", Key: "k"}.DialOptions()
	if err != nil {
		t.Fatal(err)
	}
	// The connection goes by what the name leads to.
	conn, err := grpc.NewClient("passthrough:///"+s.address, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := check(t, conn); err != nil || fmt.Sprint(s.keys) != "[Bearer k]" {
		t.Fatalf("%v, %q", err, s.keys)
	}
	var own string
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.IsGlobalUnicast() {
			own = n.IP.String()
		}
	}
	if own == "" {
		t.Log("this machine has no address but loopback: what is elsewhere can't be tried")
		return
	}
	l, err := net.Listen("tcp", net.JoinHostPort(own, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	away, err := grpc.NewClient("passthrough:///"+l.Addr().String(), options...)
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	if err := check(t, away); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "is not this machine, and plaintext goes no further") {
		t.Errorf("%v", err)
	}
}

func TestAKeyIsNotSentWhereTLSIsMissing(t *testing.T) {
	s := serve(t, insecure.NewCredentials())
	c := client.Config{Address: s.address, Key: "secret", TLS: client.TLS{Name: "audit.example"}}
	if err := call(t, c); status.Code(err) != codes.Unavailable || s.keys != nil {
		t.Errorf("a service without TLS: %v, shown %q", err, s.keys)
	}
	// Nor when the program itself replaces the credentials of the connection.
	c = client.Config{Address: "audit.example:1", Key: "secret"}
	err := call(t, c, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
		}))
	if err == nil || s.keys != nil {
		t.Errorf("credentials replaced: %v, shown %q", err, s.keys)
	}
}

func TestACertificateAndAnAuthorityAreReadForEachConnection(t *testing.T) {
	a, b := certtest.New(t, "a"), certtest.New(t, "b")
	cert, key, ca := a.Files(t, "audit.example")
	creds, err := credentials.NewServerTLSFromFile(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, creds)
	c := client.Config{Address: s.address, Key: "k", TLS: client.TLS{CA: ca, Name: "audit.example"}}
	if err := call(t, c); err != nil || fmt.Sprint(s.keys) != "[Bearer k]" {
		t.Fatalf("%v, %q", err, s.keys)
	}
	wrong := c
	wrong.TLS.Name = "other.example"
	if err := call(t, wrong); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "other.example") {
		t.Errorf("a certificate for another name: %v", err)
	}
	options, err := c.DialOptions()
	if err != nil {
		t.Fatal(err)
	}
	write(t, ca, string(b.PEM), 0o600)
	conn, err := grpc.NewClient(c.Address, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := check(t, conn); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("another authority: %v", err)
	}
	write(t, ca, string(a.PEM), 0o600)
	conn.ResetConnectBackoff()
	for err, n := error(nil), 0; ; n++ { // the connection is tried anew by itself
		if err = check(t, conn); err == nil {
			break
		}
		if n == 200 {
			t.Fatalf("the authority is back: %v", err)
		}
		conn.ResetConnectBackoff()
		time.Sleep(10 * time.Millisecond)
	}
	c.TLS.CA = filepath.Join(t.TempDir(), "none")
	if err := c.Check(); err == nil || !strings.Contains(err.Error(), "none: no such file") {
		t.Errorf("no authority: %v", err)
	}
	if err := call(t, c); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a call without the authority: %v", err)
	}
}

func TestAKeyFileIsReadAgain(t *testing.T) {
	s := serve(t, insecure.NewCredentials())
	file := filepath.Join(t.TempDir(), "key")
	c := client.Config{Address: s.address, KeyFile: file}
	options, err := c.DialOptions() // the file may come later than the program
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(c.Address, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = check(t, conn)
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "key: no such file") || s.keys != nil {
		t.Errorf("no file: %v, %q", err, s.keys)
	}
	for _, key := range []string{"mcpa_one", "mcpa_two"} {
		write(t, file+".new", key+"\n", 0o600)
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		for n := 0; fmt.Sprint(s.keys) != "[Bearer "+key+"]"; n++ {
			if n == 500 {
				t.Fatalf("the key %q is not sent, but %q", key, s.keys)
			}
			time.Sleep(10 * time.Millisecond)
			_ = check(t, conn)
		}
	}
}

func TestAKeyFileThatIsNoneIsRefusedWithoutShowingIt(t *testing.T) {
	const secret = "mcpa_hunter2"
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{secret, 0o600, ""}, {" " + secret + "\r\n\n", 0o400, ""}, {secret, 0o640, ""}, {secret, 0o660, ""},
		{strings.Repeat("a", 8<<10) + "\n", 0o600, ""},
		{secret, 0o644, "everybody may read it; run: chmod 600"}, {secret, 0o601, "everybody may read it"},
		{"", 0o600, "is empty"}, {"\n", 0o600, "is empty"},
		{secret + "\n" + secret, 0o600, "characters that neither"}, {secret + "\x00", 0o600, "characters that neither"}, {secret + "ü", 0o600, "characters that neither"},
		{"Bearer " + secret, 0o600, "characters that neither"}, {secret + "\r\nx-other: 1", 0o600, "characters that neither"},
		{secret + strings.Repeat("a", 8<<10), 0o600, "more than 8192 bytes"}, {strings.Repeat("a", 1<<20), 0o600, "more than 8192 bytes"},
	} {
		file := filepath.Join(t.TempDir(), "key")
		write(t, file, c.text, c.mode)
		err := client.Config{KeyFile: file}.Check()
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%.30q of mode %o: %v, want %q", c.text, c.mode, err, c.want)
		}
	}
	if err := (client.Config{KeyFile: t.TempDir()}).Check(); err == nil || !strings.Contains(err.Error(), "it is a folder") {
		t.Errorf("a folder: %v", err)
	}
}

func TestTheEnvironmentSaysHowTheServiceIsReached(t *testing.T) {
	home, config := t.TempDir(), t.TempDir()
	if got := client.FromEnv(env(), home); got != (client.Config{Address: "127.0.0.1:4777"}) {
		t.Errorf("nothing: %v", got)
	}
	got := client.FromEnv(env("MCPAUDIT_SERVICE", "a:1", "MCPAUDIT_API_KEY", "k", "MCPAUDIT_TLS_CA", "ca", "MCPAUDIT_TLS_CERT", "c", "MCPAUDIT_TLS_KEY", "ck",
		"MCPAUDIT_TLS_NAME", "n", "MCPAUDIT_PLAINTEXT_REASON", "r"), home)
	if want := (client.Config{Address: "a:1", Key: "k", TLS: client.TLS{CA: "ca", Cert: "c", Key: "ck", Name: "n"}, Plaintext: true, PlaintextReason: "r"}); got != want {
		t.Errorf("all: %v, want %v", got, want)
	}
	for _, dir := range []string{filepath.Join(home, ".config", "mcpaudit"), filepath.Join(config, "mcpaudit")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "key"), "mcpa_x", 0o600)
	}
	for _, c := range []struct {
		env  func(string) string
		home string
		want string
	}{
		{env(), home, filepath.Join(home, ".config", "mcpaudit", "key")},
		{env("XDG_CONFIG_HOME", config), home, filepath.Join(config, "mcpaudit", "key")},
		{env("XDG_CONFIG_HOME", config+"/none"), home, ""},
		{env("MCPAUDIT_API_KEY_FILE", "f"), home, "f"},
		{env("MCPAUDIT_API_KEY", "k"), home, ""},
		{env("MCPAUDIT_TLS_CERT", "c"), home, ""},
		{env(), "", ""},
	} {
		if got := client.FromEnv(c.env, c.home); got.KeyFile != c.want {
			t.Errorf("the key is in %q, want %q", got.KeyFile, c.want)
		}
	}
}

func TestAConfigurationThatIsPrintedHoldsNoKey(t *testing.T) {
	c := client.Config{Address: "a:1", Key: "hunter2"}
	text, err := json.Marshal(map[string]any{"c": c, "p": &c})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{c.String(), fmt.Sprint(c), fmt.Sprintf("%+v %#v %s %q", c, c, c, c), fmt.Sprintf("%v %+v", &c, []client.Config{c}), string(text)} {
		if strings.Contains(s, "hunter2") {
			t.Errorf("%s", s)
		}
	}
}

func TestARefusalSaysWhatToDo(t *testing.T) {
	who, may := status.Error(codes.Unauthenticated, "the key has expired"), status.Error(codes.PermissionDenied, "it wants read")
	for _, c := range []struct {
		c    client.Config
		err  error
		want string
	}{
		{client.Config{}, who, "the service wants a credential, and there is none; give a key: MCPAUDIT_API_KEY_FILE=FILE, made with 'mcpaudit access create'"},
		{client.Config{Key: "k"}, who, "the key has expired"}, {client.Config{}, may, "it wants read"},
		{client.Config{}, status.Error(codes.Unavailable, "away"), ""}, {client.Config{}, nil, ""},
	} {
		if what, refused := c.c.Refused(c.err); what != c.want || refused != (c.want != "") {
			t.Errorf("%v: %q, %v; want %q", c.err, what, refused, c.want)
		}
	}
}
