package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// Bounds of asking an issuer for its keys.
const (
	keysPause   = 10 * time.Second // least time between the end of one asking and the next
	keysAge     = 5 * time.Minute  // after which they are asked for again, so that a key that was withdrawn is gone
	keysTimeout = 5 * time.Second  // of each of the two requests
	keysBytes   = 1 << 20          // of each answer
	maxKeys     = 100              // in one set
	maxWaiting  = 256              // callers that wait for one asking
	leastRSA    = 2048             // bits (RFC 7518, section 3.3)
	mostRSA     = 8192             // bits; what is longer costs too much to check
)

// keySet has the keys of one issuer. They are fetched when the first token comes, when
// one names a key that is not known, and when they are old; one fetch runs at a time,
// in a goroutine of its own that ends with its timeouts, and a pause follows each. While
// the issuer does not answer, the keys that are known stay in use, without an end: an
// outage of the issuer is not to become one of the log.
type keySet struct {
	issuer string
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	mu       sync.Mutex
	keys     []jose.JSONWebKey // of the last fetch that worked; replaced, never changed
	fetched  time.Time         // when that was
	ended    time.Time         // when the last fetch ended, whatever came of it
	err      error             // of the last fetch
	underway chan struct{}     // closed when the fetch that runs ends; nil when none does
	waiting  int
}

// errTooSoon is refresh's when the keys that are known are the newest that can be had now.
var errTooSoon = errors.New("the keys were fetched a moment ago")

// known are the keys at hand. It starts a fetch of new ones when they are old, and
// does not wait for it.
func (k *keySet) known(ctx context.Context) []jose.JSONWebKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if len(k.keys) > 0 && now.Sub(k.fetched) > keysAge && k.underway == nil && now.Sub(k.ended) >= keysPause {
		k.begin(ctx)
	}
	return k.keys
}

// refresh fetches the keys, or waits for the fetch that runs. It returns errTooSoon
// when the last one worked and is not long ago, and otherwise the last one's error.
func (k *keySet) refresh(ctx context.Context) error {
	k.mu.Lock()
	if k.underway == nil {
		if !k.ended.IsZero() && k.now().Sub(k.ended) < keysPause {
			defer k.mu.Unlock()
			if k.err != nil {
				return k.err
			}
			return errTooSoon
		}
		k.begin(ctx)
	}
	if k.waiting >= maxWaiting {
		k.mu.Unlock()
		return errors.New("too many callers wait for the keys")
	}
	underway := k.underway
	k.waiting++
	k.mu.Unlock()
	var gone error
	select {
	case <-underway:
	case <-ctx.Done():
		gone = ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting--
	if gone != nil {
		return gone
	}
	return k.err
}

// begin starts a fetch. The caller holds the lock. The fetch is everybody's, so it does
// not end with the call that began it.
func (k *keySet) begin(ctx context.Context) {
	underway := make(chan struct{})
	k.underway = underway
	go func() {
		keys, err := k.fetch(context.WithoutCancel(ctx))
		if err != nil {
			k.log.Warn("fetch the keys of an issuer of tokens; those that are known stay in use", "issuer", k.issuer, "error", clean(err.Error(), 400))
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.err, k.ended, k.underway = err, k.now(), nil
		if err == nil {
			k.keys, k.fetched = keys, k.ended
		}
		close(underway)
	}()
}

// fetch asks the issuer where its keys are (OpenID Connect Discovery 1.0, section 4;
// go-oidc compares the issuer in the answer) and gets them.
func (k *keySet) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	discovering, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	provider, err := oidc.NewProvider(oidc.ClientContext(discovering, k.client), k.issuer)
	if err != nil {
		return nil, fmt.Errorf("discover the provider: %w", err)
	}
	var metadata struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := provider.Claims(&metadata); err != nil {
		return nil, fmt.Errorf("read the provider's metadata: %w", err)
	}
	where, err := url.Parse(metadata.JWKS)
	if err != nil || where.Host == "" || where.User != nil || !k.mayAsk(where) {
		return nil, fmt.Errorf("jwks_uri %q of the provider's metadata is not an https URL", clean(metadata.JWKS, 200))
	}
	getting, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(getting, http.MethodGet, where.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask for the keys: %w", err)
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("get the keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get the keys: the provider answers %d", resp.StatusCode)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("get the keys: %w", err)
	}
	return parseKeys(body)
}

// mayAsk says whether keys may be fetched from a URL: over TLS, or on this machine when
// the issuer is there itself.
func (k *keySet) mayAsk(where *url.URL) bool {
	return where.Scheme == "https" || secure(where) && strings.HasPrefix(k.issuer, "http://")
}

// parseKeys reads a JSON Web Key Set (RFC 7517, section 5). As that section asks, keys
// that can't be used are passed over, and the others count: those of other kinds, for
// encryption, too weak, or private, which were given away by being in the set.
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("read the key set: %w", err)
	}
	if set.Keys == nil {
		return nil, errors.New("read the key set: it has no member keys")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("read the key set: it has %d keys, at most %d are taken", len(set.Keys), maxKeys)
	}
	keys := []jose.JSONWebKey{}
	for _, raw := range set.Keys {
		var about struct {
			Use string   `json:"use"`
			Ops []string `json:"key_ops"`
		}
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &about) != nil || json.Unmarshal(raw, &key) != nil || !verifies(about.Use, about.Ops) || !strong(key.Key) {
			continue
		}
		// What came with the key is of no use, and x5u must never be followed.
		keys = append(keys, jose.JSONWebKey{Key: key.Key, KeyID: key.KeyID, Algorithm: key.Algorithm})
	}
	return keys, nil
}

// verifies says whether a key is for signatures (RFC 7517, sections 4.2 and 4.3).
func verifies(use string, ops []string) bool {
	if use != "" && use != "sig" {
		return false
	}
	for _, op := range ops {
		if op == "verify" {
			return true
		}
	}
	return len(ops) == 0
}

// strong says whether a key is a public one of a kind that is taken.
func strong(key any) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= leastRSA && key.N.BitLen() <= mostRSA
	case *ecdsa.PublicKey:
		return fitsCurve(key.Curve) != ""
	case ed25519.PublicKey:
		return len(key) == ed25519.PublicKeySize
	}
	return false
}

// fitsCurve is the algorithm that a curve is for (RFC 7518, section 3.4).
func fitsCurve(c elliptic.Curve) string {
	switch c {
	case elliptic.P256():
		return "ES256"
	case elliptic.P384():
		return "ES384"
	case elliptic.P521():
		return "ES512"
	}
	return ""
}

// fits says whether a key may check a signature of an algorithm: a key is for one kind
// of algorithm alone (RFC 8725, section 3.1).
func fits(key jose.JSONWebKey, algorithm string) bool {
	if key.Algorithm != "" && key.Algorithm != algorithm {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return fitsCurve(k.Curve) == algorithm
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}

// fitting are the keys that may have made a signature. A token that names no key is
// only taken when there is no choice (OpenID Connect Core 1.0, section 10.1).
func fitting(keys []jose.JSONWebKey, id, algorithm string) (out []jose.JSONWebKey) {
	for _, key := range keys {
		if fits(key, algorithm) && (id == "" || key.KeyID == id) {
			out = append(out, key)
		}
	}
	if id == "" && len(out) > 1 {
		return nil
	}
	return out
}

// verify checks a signature. It returns "" when one of the issuer's keys made it, and
// otherwise Unknown, WrongSignature or CantBeChecked.
func (k *keySet) verify(ctx context.Context, jws *jose.JSONWebSignature, id, algorithm string) Reason {
	reason := tryKeys(fitting(k.known(ctx), id, algorithm), jws)
	// A key that is not known may be a new one, and an issuer that does not name its
	// keys may have another one now.
	if reason == "" || reason == WrongSignature && id != "" {
		return reason
	}
	switch err := k.refresh(ctx); {
	case errors.Is(err, errTooSoon):
		return reason
	case err != nil:
		return CantBeChecked
	}
	return tryKeys(fitting(k.known(ctx), id, algorithm), jws)
}

func tryKeys(keys []jose.JSONWebKey, jws *jose.JSONWebSignature) Reason {
	for _, key := range keys {
		if _, err := jws.Verify(key.Key); err == nil {
			return ""
		}
	}
	if len(keys) == 0 {
		return Unknown
	}
	return WrongSignature
}
