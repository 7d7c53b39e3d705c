// Package authtest is an OpenID Connect provider for tests, and the keys with which one
// signs. It knows nothing of this project's identities, so that the tests of these can
// use it too.
package authtest

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
)

// Provider is an OpenID Connect provider in this process, over TLS: its URL is its
// issuer.
type Provider struct {
	*httptest.Server
	Discoveries, Sets atomic.Int64 // requests for its description and for its keys

	mu     sync.Mutex
	keys   []jose.JSONWebKey
	answer func(w http.ResponseWriter, r *http.Request) bool
}

// New starts a provider with keys; it stops when the test ends.
func New(t testing.TB, keys ...Key) *Provider {
	p := &Provider{}
	p.Rotate(keys...)
	p.Server = httptest.NewTLSServer(p)
	t.Cleanup(p.Close)
	return p
}

// Rotate gives it other keys.
func (p *Provider) Rotate(keys ...Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = nil
	for _, k := range keys {
		p.keys = append(p.keys, k.Public())
	}
}

// Answers has f stand in for the real answers, nil for none; it says whether it did.
func (p *Provider) Answers(f func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

// PEM is who signs its certificate: itself.
func (p *Provider) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
}

// ServeHTTP answers as OpenID Connect Discovery 1.0, section 4, and RFC 7517, section 5
// have it.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	discovery := strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration")
	if discovery {
		p.Discoveries.Add(1)
	} else {
		p.Sets.Add(1)
	}
	p.mu.Lock()
	answer, keys := p.answer, p.keys
	p.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if discovery {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL, p.URL+"/keys")
		return
	}
	if err := json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: keys}); err != nil {
		panic(err)
	}
}
