package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
)

// Key is a key with which a provider signs. Algorithm is RS256, ES256 or EdDSA.
type Key struct {
	ID, Algorithm string
	Private       crypto.Signer
}

// NewRSA makes a key for RS256, which takes a while.
func NewRSA(id string, bits int) Key {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return Key{id, "RS256", key}
}

// NewEC makes a key for ES256.
func NewEC(id string) Key {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return Key{id, "ES256", key}
}

// NewEd makes a key for EdDSA.
func NewEd(id string) Key {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return Key{id, "EdDSA", key}
}

// Sign makes a token of a header and a payload as they are given.
func (k Key) Sign(t testing.TB, header, payload string) string {
	t.Helper()
	text := Base64(header) + "." + Base64(payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(k.Signature(t, text))
}

// Signature is that of a text, in the form of RFC 7518, section 3.
func (k Key) Signature(t testing.TB, text string) []byte {
	t.Helper()
	digest, opts := []byte(text), crypto.SignerOpts(crypto.Hash(0))
	if k.Algorithm != "EdDSA" {
		h := crypto.SHA256.New()
		h.Write(digest)
		digest, opts = h.Sum(nil), crypto.SHA256
	}
	if key, ok := k.Private.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
	signature, err := k.Private.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// Base64 is a text as a part of a token (RFC 7515, section 2).
func Base64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// Header of a token that this key signs.
func (k Key) Header() string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"at+jwt"}`, k.Algorithm, k.ID)
}

// Token signs claims.
func (k Key) Token(t testing.TB, c map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return k.Sign(t, k.Header(), string(payload))
}

// Public is the half that a provider shows.
func (k Key) Public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Algorithm: k.Algorithm, Use: "sig"}
}
