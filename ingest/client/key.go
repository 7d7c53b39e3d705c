package client

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

const (
	// maxKey is the longest token that is sent; the service takes no longer ones.
	maxKey = 8 << 10
	// readAgain is how soon a key's file is looked at again.
	readAgain = time.Second
)

// bearer sends the key with each call (RFC 6750, section 2.1). Any goroutine may use
// it.
type bearer struct {
	c      Config
	secure bool

	mu   sync.Mutex
	key  string
	err  error
	read time.Time
}

func newBearer(c Config, secure bool) *bearer {
	return &bearer{c: c, secure: secure, key: c.Key}
}

// RequireTransportSecurity makes gRPC itself refuse a plaintext connection, unless
// this machine or the owner's word allows it.
func (b *bearer) RequireTransportSecurity() bool { return b.secure }

// GetRequestMetadata is the header of one call.
func (b *bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if b.secure {
		info, _ := credentials.RequestInfoFromContext(ctx)
		if err := credentials.CheckSecurityLevel(info.AuthInfo, credentials.PrivacyAndIntegrity); err != nil {
			return nil, status.Error(codes.Unauthenticated, "the key is not sent: the connection is not over TLS")
		}
	}
	key, err := b.current()
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return map[string]string{"authorization": "Bearer " + key}, nil
}

// current is the key as it is now, at most readAgain old. A file that can't be read
// is tried again: until then there is no key, for one that was taken away is not to
// be used on.
func (b *bearer) current() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c.KeyFile == "" {
		return b.key, checkKey(b.key, "the service's key")
	}
	if b.read.IsZero() || time.Since(b.read) > readAgain {
		b.key, b.err = readKey(b.c.KeyFile)
		b.read = time.Now()
	}
	return b.key, b.err
}

// readKey reads a file's only line.
func readKey(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", file("read the service's key from", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", file("read the service's key from", path, err)
	}
	switch {
	case info.IsDir():
		return "", fmt.Errorf("read the service's key from %s: it is a folder", path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0: // there the mode says nothing of rights
		return "", fmt.Errorf("read the service's key from %s: everybody may read it; run: chmod 600 %s", path, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKey+3))
	if err != nil {
		return "", file("read the service's key from", path, err)
	}
	key := strings.TrimSpace(string(text))
	return key, checkKey(key, path)
}

// checkKey refuses what can't be a key or token: its characters are those of a b64token
// (RFC 6750, section 2.1). The error does not show it.
func checkKey(key, where string) error {
	switch {
	case key == "":
		return fmt.Errorf("%s is empty; it should hold an API key or a token", where)
	case len(key) > maxKey:
		return fmt.Errorf("%s has more than %d bytes; it should hold an API key or a token alone", where, maxKey)
	}
	for _, c := range []byte(key) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~+/=", c) >= 0) {
			return fmt.Errorf("%s has characters that neither an API key nor a token has; it should hold one of them alone, in one line", where)
		}
	}
	return nil
}
