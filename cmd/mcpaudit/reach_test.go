package main

import (
	"bytes"
	"context"
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
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/internal/transport/certtest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// picky is a service that has one tool for one key.
type picky struct {
	pb.UnimplementedQueryServiceServer
}

func (picky) ListTools(ctx context.Context, _ *pb.ListToolsRequest) (*pb.ListToolsResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	switch strings.Join(md.Get("authorization"), ",") {
	case "Bearer mcpa_good":
		return &pb.ListToolsResponse{Tools: []*pb.Tool{{Server: "files", Name: "read_file"}}}, nil
	case "Bearer mcpa_emitter":
		return nil, status.Error(codes.PermissionDenied, "this credential may not do that: it wants read")
	}
	return nil, status.Error(codes.Unauthenticated, "the key is not known; ask for another one")
}

func servePicky(t *testing.T, creds credentials.TransportCredentials) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(creds))
	pb.RegisterQueryServiceServer(server, picky{})
	go server.Serve(l) //nolint:errcheck // it is stopped below
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// What is wrong between a command and the service is said so that one can mend it.
func TestACommandSaysWhyTheServiceDoesNotLetItIn(t *testing.T) {
	for _, name := range []string{"MCPAUDIT_SERVICE", "MCPAUDIT_API_KEY", "MCPAUDIT_API_KEY_FILE", "MCPAUDIT_TLS_CA", "MCPAUDIT_TLS_CERT", "MCPAUDIT_TLS_KEY", "MCPAUDIT_TLS_NAME", "MCPAUDIT_PLAINTEXT_REASON"} {
		t.Setenv(name, "")
	}
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	a := certtest.New(t, "a")
	cert, key, ca := a.Files(t, "127.0.0.1")
	creds, err := credentials.NewServerTLSFromFile(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	plain, secure := servePicky(t, insecure.NewCredentials()), servePicky(t, creds)
	_, _, otherCA := certtest.New(t, "b").Files(t, "x")
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, old, emitter, open := file("good", "mcpa_good\n", 0o600), file("old", "mcpa_old", 0o600), file("emitter", "mcpa_emitter", 0o600), file("open", "mcpa_good", 0o644)
	for _, c := range []struct {
		name  string
		env   map[string]string
		flags []string
		want  string // in standard error; "" for the tool in standard output
	}{
		{"no key", nil, []string{"--service", plain}, "list tools: the service wants a credential, and there is none; give a key: MCPAUDIT_API_KEY_FILE=FILE, made with 'mcpaudit access create'"},
		{"a key file", nil, []string{"--service", plain, "--api-key-file", good}, ""},
		{"a key in the environment", map[string]string{"MCPAUDIT_API_KEY": "mcpa_good", "MCPAUDIT_SERVICE": plain}, nil, ""},
		{"a flag wins over the environment", map[string]string{"MCPAUDIT_API_KEY": "mcpa_old"}, []string{"--service", plain, "--api-key-file", good}, ""},
		{"an old key", nil, []string{"--service", plain, "--api-key-file", old}, "list tools: the key is not known; ask for another one"},
		{"another role", nil, []string{"--service", plain, "--api-key-file", emitter}, "list tools: this credential may not do that: it wants read"},
		{"a key for all", nil, []string{"--service", plain, "--api-key-file", open}, "everybody may read it; run: chmod 600"},
		{"no file", nil, []string{"--service", plain, "--api-key-file", "/no/such"}, "list tools: read the service's key from /no/such: no such file or directory"},
		{"TLS", nil, []string{"--service", secure, "--api-key-file", good, "--tls-ca", ca}, ""},
		{"TLS by the environment", map[string]string{"MCPAUDIT_TLS_CA": ca, "MCPAUDIT_SERVICE": secure, "MCPAUDIT_API_KEY_FILE": good}, nil, ""},
		{"another authority", nil, []string{"--service", secure, "--api-key-file", good, "--tls-ca", otherCA}, "unknown authority"},
		{"another name", map[string]string{"MCPAUDIT_TLS_NAME": "audit.example"}, []string{"--service", secure, "--api-key-file", good, "--tls-ca", ca}, "audit.example"},
		{"plaintext to TLS", nil, []string{"--service", secure, "--api-key-file", good}, "it does not speak plaintext; if it speaks TLS, name its authority with --tls-ca"},
		{"TLS to plaintext", nil, []string{"--service", plain, "--api-key-file", good, "--tls-ca", ca}, "it does not speak TLS; leave out --tls-ca"},
		{"half a certificate", nil, []string{"--service", secure, "--tls-cert", cert}, "a certificate and its key come together"},
		{"a URL", nil, []string{"--service", "https://audit.example"}, "is a URL; its gRPC port is host:port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var stdout, stderr bytes.Buffer
			code := run(ctx, append([]string{"tools", "list"}, c.flags...), strings.NewReader(""), &stdout, &stderr)
			if c.want == "" && (code != 0 || !strings.Contains(stdout.String(), "read_file")) || c.want != "" && (code == 0 || !strings.Contains(stderr.String(), c.want)) {
				t.Errorf("status %d\n%s%s\nwant %q", code, stdout.String(), stderr.String(), c.want)
			}
			if strings.Contains(stdout.String()+stderr.String(), "mcpa_") {
				t.Errorf("a key is shown:\n%s", stderr.String())
			}
		})
	}
}
