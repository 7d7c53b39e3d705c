package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// An API key is
//
//	mcpa_ + id + _ + secret
//
// where id is 10 random bytes and secret 32, both in the base32 alphabet of RFC 4648
// section 6 in lower case, without padding. The prefix lets scanners for secrets find
// keys that were committed or logged. The id is public: it is in lists, in the log and
// in messages. Of the secret only its SHA-256 is kept: it has 256 random bits, so that a
// slow hash for passwords would protect nothing more.
const KeyPrefix = "mcpa_"

const (
	idBytes, secretBytes = 10, 32
	idLength             = 16 // characters
	secretLength         = 52
	keyLength            = len(KeyPrefix) + idLength + 1 + secretLength
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// secret is an API key whole. It is shown once, and never formatted by accident.
type secret string

// Reveal is the text of the key.
func (s secret) Reveal() string { return string(s) }

func (secret) String() string               { return "mcpa_…" }
func (secret) GoString() string             { return "mcpa_…" }
func (secret) MarshalText() ([]byte, error) { return []byte("mcpa_…"), nil }

// Key is what is known of an API key.
type Key struct {
	ID        string
	Name      string
	Grants    []Grant
	MadeAt    time.Time
	MadeBy    string
	ExpiresAt time.Time // also when it was revoked or rotated
	Revoked   bool
	Successor string // that took its place, when it was rotated
	hash      [sha256.Size]byte
}

// Limits of keys.
const (
	MaxKeyLife = 2 * 366 * 24 * time.Hour
	MaxKeyName = 100 // bytes
	MaxOverlap = 30 * 24 * time.Hour
	MaxKeys    = 100_000 // that are not expired, in one store
	// MaxTenantKeys are those of one tenant, or of all tenants together (EveryTenant).
	MaxTenantKeys = 10_000
	maxKeyRoles   = 6
)

// NewKey makes a key; the caller stores it and shows the secret once.
func NewKey(name string, grants []Grant, by string, now, expires time.Time) (Key, secret, error) {
	k := Key{Name: name, Grants: grants, MadeAt: now, MadeBy: by, ExpiresAt: expires}
	if err := k.validate(now); err != nil {
		return Key{}, "", err
	}
	var id [idBytes]byte
	var random [secretBytes]byte
	rand.Read(id[:])
	rand.Read(random[:])
	k.ID = base32Lower.EncodeToString(id[:])
	text := base32Lower.EncodeToString(random[:])
	k.hash = sha256.Sum256([]byte(text))
	return k, secret(KeyPrefix + k.ID + "_" + text), nil
}

func (k *Key) validate(now time.Time) error {
	switch {
	case strings.TrimSpace(k.Name) == "":
		return errors.New("name: is empty; say whose key it is or what it is for")
	case len(k.Name) > MaxKeyName || strings.ContainsFunc(k.Name, unicode.IsControl):
		return fmt.Errorf("name: use at most %d bytes, without control characters", MaxKeyName)
	case len(k.Grants) == 0:
		return fmt.Errorf("roles: is empty; use %s", list(Roles))
	case len(k.Grants) > maxKeyRoles:
		return fmt.Errorf("roles: there are %d, and each counts once; use %s", len(k.Grants), list(Roles))
	case !k.ExpiresAt.After(now):
		return errors.New("lifetime: the key would have expired already")
	case k.ExpiresAt.Sub(now) > MaxKeyLife:
		return fmt.Errorf("lifetime: a key lives for at most %d days; rotate it before it ends", int(MaxKeyLife.Hours())/24)
	}
	for i, g := range k.Grants {
		if err := g.Validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(k.Grants[:i], func(o Grant) bool { return o.Role == g.Role }) {
			return fmt.Errorf("roles: %s is there twice", g.Role)
		}
	}
	return nil
}

// splitKey is the id and the hash of the secret of an API key's text.
func splitKey(text string) (id string, hash [sha256.Size]byte, ok bool) {
	if len(text) != keyLength || !strings.HasPrefix(text, KeyPrefix) || text[len(KeyPrefix)+idLength] != '_' {
		return "", hash, false
	}
	id, text = text[len(KeyPrefix):len(KeyPrefix)+idLength], text[len(KeyPrefix)+idLength+1:]
	for _, part := range []string{id, text} {
		if strings.Trim(part, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			return "", hash, false
		}
	}
	return id, sha256.Sum256([]byte(text)), true
}

// IdentityOf is how the log names who holds a key.
func (k *Key) IdentityOf() string { return "key:" + k.ID }

// identity is who a key proves.
func (k *Key) identity() *Identity {
	return &Identity{ID: k.IdentityOf(), Name: k.Name, Kind: "service", Method: "api_key", Credential: k.IdentityOf(), Grants: k.Grants}
}

// check says whether a key that was shown is this one, and good.
func (k *Key) check(hash [sha256.Size]byte, now time.Time) *Refusal {
	refused := func(r Reason, text string) *Refusal {
		return &Refusal{Reason: r, Text: text, Claimed: k.IdentityOf(), Credential: k.IdentityOf()}
	}
	switch {
	case subtle.ConstantTimeCompare(k.hash[:], hash[:]) != 1:
		// As for an id that was never given out. The fingerprint is that of what was
		// shown: guesses are many credentials.
		return unknownKey(k.ID, hash)
	case k.Revoked:
		return refused(Revoked, "this API key was revoked; ask for another with 'mcpaudit access create'")
	case !now.Before(k.ExpiresAt):
		return refused(Expired, "this API key has expired; ask for another with 'mcpaudit access create', and rotate it in time")
	}
	return nil
}

func unknownKey(id string, hash [sha256.Size]byte) *Refusal {
	return &Refusal{Reason: Unknown, Text: "there is no such API key; check that it was copied whole", Claimed: "key:" + id,
		Credential: "guess:" + hex.EncodeToString(hash[:8])}
}
