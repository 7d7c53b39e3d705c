package redact

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// keyed is HMAC-SHA-256 (RFC 2104) under one key. The padded key blocks are
// kept, so that one hash of a message costs two one-shot SHA-256 calls, no
// allocation and no shared state.
type keyed struct{ inner, outer [64]byte }

var errKey = errors.New("redaction key must have at least 16 bytes")

func newKeyed(key []byte) (keyed, error) {
	var k keyed
	if len(key) < 16 {
		return k, errKey
	}
	var block [64]byte
	if len(key) > len(block) {
		sum := sha256.Sum256(key)
		copy(block[:], sum[:])
	} else {
		copy(block[:], key)
	}
	for i, b := range block {
		k.inner[i] = b ^ 0x36
		k.outer[i] = b ^ 0x5c
	}
	return k, nil
}

// sum finishes a hash whose buffer starts with the inner block: see begin.
func (k *keyed) sum(begun []byte) [32]byte {
	in := sha256.Sum256(begun)
	var buf [96]byte
	copy(buf[:64], k.outer[:])
	copy(buf[64:], in[:])
	return sha256.Sum256(buf[:])
}

// begin empties buf and puts the inner block first; append the message to it.
func (k *keyed) begin(buf []byte) []byte { return append(buf[:0], k.inner[:]...) }

func (k *keyed) digest(begun []byte) (d event.Digest) {
	sum := k.sum(begun)
	copy(d[:], sum[:])
	return d
}

// mark is the 64-bit hash of a salient value: see event.Mark.
func (k *keyed) mark(buf []byte, class string, value []byte) (uint64, []byte) {
	buf = k.begin(buf)
	buf = append(buf, class...)
	buf = append(buf, 0)
	buf = append(buf, value...)
	sum := k.sum(buf)
	return binary.BigEndian.Uint64(sum[:8]), buf
}

// appendPseudonym writes `[PII:email:7f3a9c0d1e2f]`: 48 bits of a keyed hash over
// the class and the value in normal form. The leading word keeps pseudonyms and
// marks of the same value apart.
func (k *keyed) appendPseudonym(out []byte, class string, value []byte) []byte {
	var room [256]byte
	buf := k.begin(room[:0])
	buf = append(buf, "pseudonym\x00"...)
	buf = append(buf, class...)
	buf = append(buf, 0)
	buf = appendNormal(buf, class, value)
	sum := k.sum(buf)
	kind, name, ok := strings.Cut(class, ":")
	if !ok {
		kind, name = class, "value"
	}
	out = append(out, '[')
	for i := range len(kind) {
		c := kind[i]
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		out = append(out, c)
	}
	out = append(out, ':')
	out = append(out, name...)
	out = append(out, ':')
	out = hex.AppendEncode(out, sum[:6])
	return append(out, ']')
}

// appendNormal writes value in the form in which two spellings of one thing are
// equal: numbers without separators, addresses and names in lower case.
func appendNormal(out []byte, class string, value []byte) []byte {
	switch class {
	case "pii:card", "pii:phone", "pii:ssn", "pii:iban", "account":
		for _, c := range value {
			switch {
			case c >= '0' && c <= '9' || c >= 'A' && c <= 'Z':
				out = append(out, c)
			case c >= 'a' && c <= 'z':
				out = append(out, c-'a'+'A')
			}
		}
		return out
	}
	space := false
	for _, c := range value {
		if c == ' ' || c == '\n' || c == '\t' || c == '\r' {
			space = true
			continue
		}
		if space {
			out, space = append(out, ' '), false
		}
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		out = append(out, c)
	}
	return out
}
