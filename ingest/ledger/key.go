package ledger

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// ErrSignature means that a note is not signed by a key that is trusted.
var ErrSignature = errors.New("it is not signed by a trusted key")

// Key signs a log's checkpoints: Ed25519, in the encoding of C2SP signed-note (the
// one of golang.org/x/mod/sumdb/note). Its secret is in its signing key alone:
// neither String nor an error has it.
type Key struct {
	signer   note.Signer
	verifier string
	seed     []byte
}

// NewKey makes a key for a log and gives its secret form, PRIVATE+KEY+…, once.
func NewKey(random io.Reader, logID string) (k *Key, secret string, err error) {
	if !logIDs.MatchString(logID) {
		return nil, "", fmt.Errorf("make key: %q is no id of a log", logID)
	}
	if secret, _, err = note.GenerateKey(random, Origin(logID)); err != nil {
		return nil, "", fmt.Errorf("make key: %w", err)
	}
	if k, err = ParseKey(secret); err != nil {
		return nil, "", errors.New("make key: the new key can't be read")
	}
	return k, secret, nil
}

var logIDs = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// ParseKey reads a key's secret form. Errors say nothing of it.
func ParseKey(secret string) (*Key, error) {
	bad := errors.New("it is not a signing key (PRIVATE+KEY+mcpaudit/…)")
	signer, err := note.NewSigner(secret)
	if err != nil {
		return nil, bad
	}
	logID, ok := strings.CutPrefix(signer.Name(), originPrefix)
	parts := strings.SplitN(secret, "+", 5) // PRIVATE, KEY, name, hash, key
	if !ok || !logIDs.MatchString(logID) || len(parts) != 5 {
		return nil, bad
	}
	seed, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, bad
	}
	verifier, err := note.NewEd25519VerifierKey(signer.Name(), ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey))
	if err != nil {
		return nil, bad
	}
	return &Key{signer, verifier, seed[1:]}, nil
}

// LogID is the log that the key signs for.
func (k *Key) LogID() string { return strings.TrimPrefix(k.signer.Name(), originPrefix) }

// Verifier is the public form of the key, <origin>+<hash>+<key>.
func (k *Key) Verifier() string { return k.verifier }

func (k *Key) String() string { return k.verifier }

// Format keeps every verb from printing the secret.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.verifier) }

// Derive makes a secret of 32 bytes for another purpose than signing, the same
// each time for the same purpose (HKDF-SHA-256, RFC 5869).
func (k *Key) Derive(purpose string) []byte {
	secret, err := hkdf.Key(sha256.New, k.seed, nil, "mcpaudit "+purpose, sha256.Size)
	if err != nil {
		panic(err) // it is too long, which 32 bytes are not
	}
	return secret
}

// SignText signs text that is not a checkpoint. Its first line says what it is,
// and can't be that of a checkpoint.
func (k *Key) SignText(text string) (string, error) {
	if strings.HasPrefix(text, originPrefix) {
		return "", errors.New("sign text: it begins as a checkpoint does")
	}
	b, err := note.Sign(&note.Note{Text: text}, k.signer)
	if err != nil {
		return "", fmt.Errorf("sign text: %w", err)
	}
	return string(b), nil
}

// Rotate states that next replaces k. The statement is a note that both sign, so
// whoever trusts one of them trusts the other: the old key's checkpoints stay
// verifiable with the new key, and those of the new one with the old.
func (k *Key) Rotate(next *Key) (statement string, err error) {
	if next.LogID() != k.LogID() {
		return "", fmt.Errorf("rotate key: the new key is that of log %q, the old one that of log %q", next.LogID(), k.LogID())
	}
	b, err := note.Sign(&note.Note{Text: rotationLine + "\n" + k.verifier + "\n" + next.verifier + "\n"}, k.signer, next.signer)
	if err != nil {
		return "", fmt.Errorf("rotate key: %w", err)
	}
	return string(b), nil
}

const rotationLine = "mcpaudit key rotation v1"

// ParseRotation reads a statement of rotation and checks both signatures.
func ParseRotation(statement string) (old, next string, err error) {
	bad := errors.New("it is not a statement by which one key hands over to another")
	text, _, ok := strings.Cut(statement, "\n\n")
	lines := strings.Split(text, "\n")
	if len(statement) > MaxCheckpoint || !ok || len(lines) != 3 || lines[0] != rotationLine || lines[1] == lines[2] {
		return "", "", bad
	}
	old, next = lines[1], lines[2]
	from, err := note.NewVerifier(old)
	if err != nil {
		return "", "", bad
	}
	to, err := note.NewVerifier(next)
	if err != nil || from.Name() != to.Name() || !strings.HasPrefix(from.Name(), originPrefix) {
		return "", "", bad
	}
	n, err := openNote(statement, note.VerifierList(from, to))
	if err != nil || len(n.Sigs) != 2 || len(n.UnverifiedSigs) != 0 {
		return "", "", bad
	}
	return old, next, nil
}

// NewestKey is the key to which a log's first one has handed over in the end.
func NewestKey(first string, rotations []string) string {
	for range rotations { // each hands over once
		next := NextKey(first, rotations)
		if next == "" {
			break
		}
		first = next
	}
	return first
}

// NextKey is the key to which this one has handed over, "" when it has not.
func NextKey(key string, rotations []string) string {
	for _, r := range rotations {
		if old, next, err := ParseRotation(r); err == nil && old == key {
			return next
		}
	}
	return ""
}

// Keys are the public keys that are trusted.
type Keys struct {
	list map[string]note.Verifier // by public form
}

// TrustKeys trusts these public keys, and those that handed over to or took over
// from one of them by a statement of rotation.
func TrustKeys(verifiers []string, rotations []string) (*Keys, error) {
	k := &Keys{map[string]note.Verifier{}}
	for _, v := range verifiers {
		if err := k.add(v); err != nil {
			return nil, err
		}
	}
	type pair struct{ old, next string }
	var pairs []pair
	for _, r := range rotations {
		if old, next, err := ParseRotation(r); err == nil {
			pairs = append(pairs, pair{old, next})
		}
	}
	for grown := true; grown; {
		grown = false
		for _, p := range pairs {
			if (k.list[p.old] == nil) != (k.list[p.next] == nil) {
				if err := errors.Join(k.add(p.old), k.add(p.next)); err != nil {
					return nil, err
				}
				grown = true
			}
		}
	}
	return k, nil
}

func (k *Keys) add(verifier string) error {
	verifier = strings.TrimSpace(verifier)
	v, err := note.NewVerifier(verifier)
	if err != nil || !strings.HasPrefix(v.Name(), originPrefix) {
		return fmt.Errorf("%q is not a verifier key (mcpaudit/<log>+<hash>+<key>)", short(verifier))
	}
	k.list[verifier] = v
	return nil
}

// Has says whether a public key is trusted.
func (k *Keys) Has(verifier string) bool { return k.list[verifier] != nil }

// Logs are the ids of the logs that the keys are of.
func (k *Keys) Logs() map[string]bool {
	out := map[string]bool{}
	for _, v := range k.list {
		out[strings.TrimPrefix(v.Name(), originPrefix)] = true
	}
	return out
}

// Verifier finds a key; it makes Keys a note.Verifiers.
func (k *Keys) Verifier(name string, hash uint32) (note.Verifier, error) {
	var found note.Verifier
	for _, v := range k.list {
		if v.Name() == name && v.KeyHash() == hash {
			if found != nil {
				return nil, fmt.Errorf("two trusted keys of %q have the same hash", name)
			}
			found = v
		}
	}
	if found == nil {
		return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
	}
	return found, nil
}

// open checks a note's signatures and returns its text. The key must be one of the
// log that a checkpoint names.
func (k *Keys) open(signed string) (string, error) {
	n, err := openNote(signed, k)
	if err != nil {
		return "", err
	}
	origin, _, _ := strings.Cut(n.Text, "\n")
	if strings.HasPrefix(origin, originPrefix) {
		for _, s := range n.Sigs {
			if s.Name == origin {
				return n.Text, nil
			}
		}
		return "", ErrSignature
	}
	return n.Text, nil
}

// openNote checks a note's signatures. Base64 that says the same in other letters
// is not the signature that was made.
func openNote(signed string, keys note.Verifiers) (*note.Note, error) {
	n, err := note.Open([]byte(signed), keys)
	if err != nil {
		return nil, ErrSignature
	}
	for _, s := range n.Sigs {
		if b, err := base64.StdEncoding.DecodeString(s.Base64); err != nil || base64.StdEncoding.EncodeToString(b) != s.Base64 {
			return nil, ErrSignature
		}
	}
	return n, nil
}

// OpenText reads what SignText signed with one of the keys, and says with which
// log's.
func OpenText(signed string, keys *Keys) (text, logID string, err error) {
	n, err := openNote(signed, keys)
	if err != nil || strings.HasPrefix(n.Text, originPrefix) {
		return "", "", ErrSignature
	}
	return n.Text, strings.TrimPrefix(n.Sigs[0].Name, originPrefix), nil
}

func short(s string) string { return s[:min(len(s), 60)] }
