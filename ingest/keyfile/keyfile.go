// Package keyfile keeps keys in files of their owner: the redaction key, with
// which emitters make digests, marks and pseudonyms, and the signing key of a log.
package keyfile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keyBytes is the length of a redaction key.
const keyBytes = 32

// Default is where the emitters of one user keep their key, so that the digests of
// all of them can be compared (XDG Base Directory specification); "" for a user
// without a home.
func Default(env func(string) string, home string) string {
	if dir := env("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "mcpaudit", "redact.key")
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".config", "mcpaudit", "redact.key")
}

// New makes a redaction key.
func New() []byte {
	key := make([]byte, keyBytes)
	rand.Read(key)
	return key
}

// Read reads a redaction key: 64 hex digits in a file that only its owner
// may read.
func Read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read redaction key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read redaction key: others may read %s; run: chmod 600 %s", file, file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read redaction key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != keyBytes {
		return nil, fmt.Errorf("read redaction key: %s does not hold %d hex digits; make one with: openssl rand -hex %d", file, 2*keyBytes, keyBytes)
	}
	return key, nil
}

// ReadOrMake reads the key of a file and makes the file when there is none.
// Two processes that make it at the same time end up with one key.
func ReadOrMake(file string) (key []byte, made bool, err error) {
	if file == "" {
		return nil, false, errors.New("find the redaction key: there is no home folder to keep it in; name a file for it")
	}
	key, err = Read(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, false, fmt.Errorf("make redaction key: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), "redact-*.key")
	if err != nil {
		return nil, false, fmt.Errorf("make redaction key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(hex.EncodeToString(New()) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), file) // never over a key that another process made
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, false, fmt.Errorf("make redaction key: %w", err)
	}
	made = err == nil
	key, err = Read(file)
	return key, made, err
}
