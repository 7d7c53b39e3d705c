package auth

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/mcpaudit/mcpaudit/ingest/auth/authtest"
)

// waitFor waits until something holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("%s did not come about", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAFloodOfForeignKeysDoesNotReachTheIssuer(t *testing.T) {
	c, p := newTestClock(), newProvider(t, ecKey())
	tokens := p.tokens(c)
	payload, err := json.Marshal(p.claims(c, nil))
	if err != nil {
		t.Fatal(err)
	}
	flood := make([]string, 1000)
	for i := range flood {
		flood[i] = ecKey().Sign(t, fmt.Sprintf(`{"alg":"ES256","kid":"foreign-%d"}`, i), string(payload))
	}
	var group sync.WaitGroup
	var unknown, busy atomic.Int64
	for worker := range 20 {
		group.Go(func() {
			for i := worker; i < len(flood); i += 20 {
				switch reason := reasonOf(t, tokens, flood[i]); reason {
				case Unknown:
					unknown.Add(1)
				case CantBeChecked:
					busy.Add(1)
				default:
					t.Errorf("refused for %q", reason)
				}
			}
		})
	}
	group.Wait()
	if unknown.Load() != 1000 {
		t.Errorf("%d were refused as unknown and %d as not to be checked", unknown.Load(), busy.Load())
	}
	if d, s := p.Discoveries.Load(), p.Sets.Load(); d > 2 || s > 2 {
		t.Errorf("the issuer was asked %d times where its keys are and %d times for them", d, s)
	}
	if reason := reasonOf(t, tokens, ecKey().Token(t, p.claims(c, nil))); reason != "" {
		t.Errorf("a good token after the flood was refused for %q", reason)
	}
}

func TestNewKeysAreFoundAndOldOnesForgotten(t *testing.T) {
	c, p := newTestClock(), newProvider(t, ecKey())
	tokens := p.tokens(c)
	old, fresh := ecKey().Token(t, p.claims(c, nil)), authtest.NewEC("ec-2")
	next := fresh.Token(t, p.claims(c, nil))
	if reason := reasonOf(t, tokens, old); reason != "" {
		t.Fatalf("refused for %q", reason)
	}
	p.Rotate(ecKey(), fresh)
	if reason := reasonOf(t, tokens, next); reason != Unknown {
		t.Errorf("a new key within the pause: %q", reason)
	}
	c.advance(keysPause)
	if reason := reasonOf(t, tokens, next); reason != "" {
		t.Errorf("a new key was refused for %q", reason)
	}
	// The old key is withdrawn, and nobody uses one that is not known.
	p.Rotate(fresh)
	sets := p.Sets.Load()
	if reason := reasonOf(t, tokens, old); reason != "" {
		t.Errorf("a key that is still known was refused for %q", reason)
	}
	c.advance(keysAge + time.Second)
	waitFor(t, "forgetting a key that was withdrawn", func() bool { return reasonOf(t, tokens, old) == Unknown })
	if reason := reasonOf(t, tokens, next); reason != "" {
		t.Errorf("the key that stayed was refused for %q", reason)
	}
	if n := p.Sets.Load() - sets; n != 1 {
		t.Errorf("the keys were fetched %d times more", n)
	}
}

func TestAnIssuerThatNamesNoKeysMayHaveOne(t *testing.T) {
	c := newTestClock()
	first, second := authtest.NewEC(""), authtest.NewEC("")
	p := newProvider(t, first)
	tokens := p.tokens(c)
	sign := func(k testKey) string {
		payload, err := json.Marshal(p.claims(c, nil))
		if err != nil {
			t.Fatal(err)
		}
		return k.Sign(t, `{"alg":"ES256"}`, string(payload))
	}
	if reason := reasonOf(t, tokens, sign(first)); reason != "" {
		t.Errorf("the one key was refused for %q", reason)
	}
	p.Rotate(second)
	c.advance(keysPause)
	if reason := reasonOf(t, tokens, sign(second)); reason != "" {
		t.Errorf("the key that took its place was refused for %q", reason)
	}
	p.Rotate(first, second)
	c.advance(keysAge + time.Second)
	waitFor(t, "refusing to choose between two keys", func() bool { return reasonOf(t, tokens, sign(second)) == Unknown })
}

// Whatever an issuer's answers are like: nothing hangs, nobody is let in, the issuer is
// left alone for a while, and when it works again so do its tokens.
func TestAnIssuerThatDoesNotAnswerIsAskedAgainLater(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	onKeys := func(f func(w http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/keys" {
				return false
			}
			f(w)
			return true
		}
	}
	everywhere := func(f func(w http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { f(w); return true }
	}
	says := func(text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, text)
		}
	}
	huge := func(w http.ResponseWriter) {
		fmt.Fprint(w, `{"keys":[],"x":"`)
		chunk := bytes.Repeat([]byte("A"), 1<<16)
		for range 64 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		fmt.Fprint(w, `"}`)
	}
	bomb := func(w http.ResponseWriter) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		fmt.Fprint(z, `{"keys":[]}`)
		chunk := bytes.Repeat([]byte(" "), 1<<16)
		for range 64 {
			if _, err := z.Write(chunk); err != nil {
				return
			}
		}
	}
	redirect := func(w http.ResponseWriter) {
		w.Header().Set("Location", other.URL)
		w.WriteHeader(http.StatusFound)
	}
	tooMany, err := json.Marshal(jose.JSONWebKeySet{Keys: bulk(ecKey(), maxKeys+1)})
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"an error":                   everywhere(func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }),
		"an error for the keys":      onKeys(func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }),
		"HTML":                       everywhere(func(w http.ResponseWriter) { fmt.Fprint(w, "<html>") }),
		"another issuer's metadata":  everywhere(says(`{"issuer":"https://login.example.org","jwks_uri":"https://login.example.org/keys"}`)),
		"a redirection":              everywhere(redirect),
		"a redirection for the keys": onKeys(redirect),
		"too much":                   everywhere(huge),
		"too much for keys":          onKeys(huge),
		"too much once unpacked":     onKeys(bomb),
		"too many keys":              onKeys(says(string(tooMany))),
		"no set":                     onKeys(says(`{}`)),
		"a list":                     onKeys(says(`[]`)),
		"nothing":                    onKeys(func(http.ResponseWriter) {}),
		"a broken connection":        everywhere(func(http.ResponseWriter) { panic(http.ErrAbortHandler) }),
	} {
		t.Run(name, func(t *testing.T) {
			c, p := newTestClock(), newProvider(t, ecKey())
			var log bytes.Buffer
			tokens := NewTokens([]Issuer{p.trust()}, p.rules(), TokenDeps{Now: c.now, Log: slog.New(slog.NewTextHandler(&log, nil))})
			good := ecKey().Token(t, p.claims(c, nil))
			p.Answers(answer)
			for range 5 {
				if reason := reasonOf(t, tokens, good); reason != CantBeChecked {
					t.Errorf("refused for %q", reason)
				}
			}
			if n := p.Discoveries.Load(); n > 2 { // the HTTP client asks twice where a connection breaks
				t.Errorf("asked %d times within the pause", n)
			}
			if n := strings.Count(log.String(), "fetch the keys"); n != 1 || log.Len() > 2000 {
				t.Errorf("the log has %d lines: %.3000s", n, log.String())
			}
			p.Answers(nil)
			c.advance(keysPause)
			if reason := reasonOf(t, tokens, good); reason != "" {
				t.Errorf("after the issuer came back: refused for %q", reason)
			}
			// Now that keys are known they stay in use.
			p.Answers(answer)
			c.advance(keysAge + time.Minute)
			asked := p.Discoveries.Load()
			if reason := reasonOf(t, tokens, good); reason != "" {
				t.Errorf("while the issuer was away: refused for %q", reason)
			}
			waitFor(t, "asking again", func() bool {
				k := tokens.issuers[p.URL].keys
				k.mu.Lock()
				defer k.mu.Unlock()
				return p.Discoveries.Load() > asked && k.underway == nil
			})
			if reason := reasonOf(t, tokens, good); reason != "" {
				t.Errorf("after asking in vain: refused for %q", reason)
			}
			if reason := reasonOf(t, tokens, authtest.NewEC("new").Token(t, p.claims(c, nil))); reason != CantBeChecked {
				t.Errorf("a key that may be new: refused for %q", reason)
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("a redirection was followed %d times", n)
	}
}

func bulk(k testKey, n int) []jose.JSONWebKey {
	out := make([]jose.JSONWebKey, n)
	for i := range out {
		out[i] = k.Public()
		out[i].KeyID = fmt.Sprint("k", i)
	}
	return out
}

func TestASlowIssuerHoldsUpNobodyWhoseKeyIsKnown(t *testing.T) {
	c, p := newTestClock(), newProvider(t, ecKey())
	tokens := p.tokens(c)
	good := ecKey().Token(t, p.claims(c, nil))
	if reason := reasonOf(t, tokens, good); reason != "" {
		t.Fatalf("refused for %q", reason)
	}
	let, asked := make(chan struct{}), make(chan struct{}, 8)
	p.Answers(func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		select {
		case <-let:
		case <-r.Context().Done():
		}
		return false
	})
	c.advance(keysPause)
	foreign := authtest.NewEC("new").Token(t, p.claims(c, nil))
	ctx, cancel := context.WithCancel(t.Context())
	waiter := make(chan error, 1)
	go func() {
		_, err := tokens.Identify(ctx, foreign)
		waiter <- err
	}()
	<-asked
	began := time.Now()
	if reason := reasonOf(t, tokens, good); reason != "" {
		t.Errorf("refused for %q", reason)
	}
	if took := time.Since(began); took > keysTimeout/2 {
		t.Errorf("a token of a known key waited %s", took)
	}
	k := tokens.issuers[p.URL].keys
	waitFor(t, "a caller that waits", func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.waiting == 1 })
	cancel()
	if r, ok := errors.AsType[*Refusal](<-waiter); !ok || r.Reason != CantBeChecked {
		t.Errorf("a caller that went away was refused with %v", r)
	}
	// The others wait, but not any number of them.
	k.mu.Lock()
	k.waiting = maxWaiting
	k.mu.Unlock()
	if reason := reasonOf(t, tokens, foreign); reason != CantBeChecked {
		t.Errorf("one waiter too many was refused for %q", reason)
	}
	k.mu.Lock()
	if k.underway == nil {
		t.Error("it waited until the issuer was given up")
	}
	k.waiting = 0
	k.mu.Unlock()
	close(let)
	waitFor(t, "the end of the fetch", func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.underway == nil })
}

func TestAnIssuerThatNeverAnswersIsGivenUp(t *testing.T) {
	c, p := newTestClock(), newProvider(t, ecKey())
	trust := p.trust()
	k := &keySet{issuer: p.URL, client: issuerClient(nil, trust.Roots), now: c.now, log: slog.New(slog.DiscardHandler)}
	k.client.Timeout = 50 * time.Millisecond
	stop := make(chan struct{})
	defer close(stop)
	p.Answers(func(w http.ResponseWriter, r *http.Request) bool {
		fmt.Fprint(w, "{")
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-stop:
		}
		return true
	})
	if err := k.refresh(t.Context()); err == nil {
		t.Error("an answer that does not end was taken")
	}
}

func TestOnlyAuthoritiesThatAreNamedSpeakForAnIssuer(t *testing.T) {
	c, p := newTestClock(), newProvider(t, ecKey())
	trust := p.trust()
	trust.Roots = nil // the system's, which did not sign the provider's certificate
	tokens := NewTokens([]Issuer{trust}, p.rules(), TokenDeps{Now: c.now})
	if reason := reasonOf(t, tokens, ecKey().Token(t, p.claims(c, nil))); reason != CantBeChecked {
		t.Errorf("refused for %q", reason)
	}
	if n := p.Sets.Load() + p.Discoveries.Load(); n != 0 {
		t.Errorf("it was asked %d times all the same", n)
	}
}

func TestKeysAreNeverFetchedInTheClear(t *testing.T) {
	var inClear atomic.Int64
	open := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inClear.Add(1) }))
	defer open.Close()
	c, p := newTestClock(), newProvider(t, ecKey())
	for _, where := range []string{open.URL, "", "file:///etc/passwd", "https://user:secret@127.0.0.1/", "//127.0.0.1/keys", ":"} {
		p.Answers(func(w http.ResponseWriter, _ *http.Request) bool {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL, where)
			return true
		})
		if reason := reasonOf(t, p.tokens(c), ecKey().Token(t, p.claims(c, nil))); reason != CantBeChecked {
			t.Errorf("keys at %q: refused for %q", where, reason)
		}
	}
	if n := inClear.Load(); n != 0 {
		t.Errorf("keys were asked for in the clear %d times", n)
	}
}

func TestKeysThatCannotBeTrustedArePassedOver(t *testing.T) {
	good, err := json.Marshal(ecKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	private, err := json.Marshal(&jose.JSONWebKey{Key: authtest.NewEC("p").Private, KeyID: "private", Algorithm: "ES256"})
	if err != nil {
		t.Fatal(err)
	}
	weak, err := json.Marshal(weakRSAKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	use := func(was, is string) string { return strings.Replace(string(good), was, is, 1) }
	for name, text := range map[string]string{
		"private":            string(private),
		"RSA with 1024 bits": string(weak),
		"RSA with 64 Kibit":  `{"kty":"RSA","kid":"big","e":"AQAB","n":"` + strings.Repeat("_", 8<<10*4/3) + `"}`,
		"for encryption":     use(`"use":"sig"`, `"use":"enc"`),
		"for signing alone":  use(`"use":"sig"`, `"key_ops":["sign"]`),
		"symmetric":          `{"kty":"oct","kid":"s","k":"c2VjcmV0"}`,
		"of an unknown kind": `{"kty":"AKP2","kid":"s"}`,
		"of another curve":   `{"kty":"EC","kid":"s","crv":"secp256k1","x":"AA","y":"AA"}`,
		"off its curve":      `{"kty":"EC","kid":"s","crv":"P-256","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}`,
		"short Ed25519":      `{"kty":"OKP","kid":"s","crv":"Ed25519","x":"AA"}`,
		"X25519":             `{"kty":"OKP","kid":"s","crv":"X25519","x":"` + strings.Repeat("A", 43) + `"}`,
		"null":               `null`,
		"a text":             `"key"`,
		"with a name twice":  use(`"use":"sig"`, `"use":"sig","use":"sig"`),
	} {
		keys, err := parseKeys([]byte(`{"keys":[` + text + `,` + string(good) + `]}`))
		if err != nil || len(keys) != 1 || keys[0].KeyID != "ec-1" {
			t.Errorf("a key that is %s: %d keys are taken, error %v", name, len(keys), err)
		}
	}
	for _, ops := range []string{`"key_ops":["verify"]`, `"use":"sig","key_ops":["sign","verify"]`, `"comment":"neither"`} {
		if keys, err := parseKeys([]byte(`{"keys":[` + use(`"use":"sig"`, ops) + `]}`)); err != nil || len(keys) != 1 {
			t.Errorf("a key with %s is not taken: %v", ops, err)
		}
	}
}

func TestAKeyIsForItsAlgorithmAlone(t *testing.T) {
	curve := func(c elliptic.Curve) jose.JSONWebKey {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return jose.JSONWebKey{Key: key.Public()}
	}
	plainRSA := rsaKey().Public()
	plainRSA.Algorithm = ""
	for name, tt := range map[string]struct {
		key  jose.JSONWebKey
		want string
	}{
		"RSA":           {plainRSA, "RS256 RS384 RS512 PS256 PS384 PS512"},
		"RSA for RS256": {rsaKey().Public(), "RS256"},
		"P-256":         {curve(elliptic.P256()), "ES256"},
		"P-384":         {curve(elliptic.P384()), "ES384"},
		"P-521":         {curve(elliptic.P521()), "ES512"},
		"P-224":         {curve(elliptic.P224()), ""},
		"Ed25519":       {edKey().Public(), "EdDSA"},
		"a secret":      {jose.JSONWebKey{Key: []byte("secret")}, ""},
	} {
		var got []string
		for _, algorithm := range append([]string{"none", "HS256", ""}, algorithms...) {
			if fits(tt.key, algorithm) {
				got = append(got, algorithm)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s is for %q, want %q", name, got, tt.want)
		}
		if strong(tt.key.Key) != (tt.want != "") {
			t.Errorf("%s: taken is %v", name, strong(tt.key.Key))
		}
	}
}

// FuzzParseKeys looks for key sets that crash, or that give keys which nothing may be
// checked with.
func FuzzParseKeys(f *testing.F) {
	for _, k := range []testKey{rsaKey(), ecKey(), edKey()} {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.Public()}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA","x5c":["AA=="]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseKeys(text)
		if err != nil && keys != nil {
			t.Fatal("an error and keys")
		}
		for _, k := range keys {
			if !strong(k.Key) || !k.IsPublic() {
				t.Fatalf("took %T", k.Key)
			}
		}
	})
}
