package auth

import (
	"crypto/x509"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/auth/authtest"
)

// testKey is a key with which a provider signs.
type testKey = authtest.Key

// Keys are made once: RSA ones take a while.
var (
	rsaKey     = sync.OnceValue(func() testKey { return authtest.NewRSA("rsa-1", 2048) })
	weakRSAKey = sync.OnceValue(func() testKey { return authtest.NewRSA("weak", 1024) })
	ecKey      = sync.OnceValue(func() testKey { return authtest.NewEC("ec-1") })
	edKey      = sync.OnceValue(func() testKey { return authtest.NewEd("ed-1") })
)

// provider is an OpenID Connect provider in this process.
type provider struct{ *authtest.Provider }

func newProvider(t testing.TB, keys ...testKey) *provider {
	return &provider{authtest.New(t, keys...)}
}

// testClock is a time that a test moves.
type testClock struct{ at atomic.Int64 }

func newTestClock() *testClock {
	c := &testClock{}
	c.at.Store(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *testClock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *testClock) advance(d time.Duration) { c.at.Add(int64(d)) }

// trust is the configuration for a provider.
func (p *provider) trust() Issuer {
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	return Issuer{Issuer: p.URL, Audience: "mcpaudit", Algorithms: algorithms, Roots: roots, ClockTolerance: 30 * time.Second}
}

func (p *provider) rules() []TokenRule {
	return []TokenRule{
		{Issuer: p.URL, Claim: "groups", Value: "soc", Grants: []Grant{{Role: Analyst, Tenant: "acme"}, {Role: Exporter, Tenant: "acme"}}},
		{Issuer: p.URL, Claim: "realm_access.roles", Value: "writer", Grants: []Grant{{Role: Emitter}}, TenantClaim: "org"},
	}
}

func (p *provider) tokens(c *testClock) *Tokens {
	return NewTokens([]Issuer{p.trust()}, p.rules(), TokenDeps{Now: c.now})
}

// claims of somebody who is let in, with changes; nil takes a claim away.
func (p *provider) claims(c *testClock, changes map[string]any) map[string]any {
	out := map[string]any{"iss": p.URL, "aud": "mcpaudit", "sub": "u-17", "exp": c.now().Add(time.Hour).Unix(),
		"iat": c.now().Unix(), "groups": []string{"soc"}, "email": "ada@example.com"}
	for name, value := range changes {
		if out[name] = value; value == nil {
			delete(out, name)
		}
	}
	return out
}
