package app

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

// NewKey makes a redaction key.
func NewKey() []byte {
	key := make([]byte, keyBytes)
	rand.Read(key)
	return key
}

// ReadKey reads a redaction key: 64 hex digits in a file that only its owner
// may read.
func ReadKey(file string) ([]byte, error) {
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

// ReadOrMakeKey reads the key of a file and makes the file when there is none.
// Two processes that make it at the same time end up with one key.
func ReadOrMakeKey(file string) (key []byte, made bool, err error) {
	key, err = ReadKey(file)
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
	_, err = f.WriteString(hex.EncodeToString(NewKey()) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), file) // never over a key that another process made
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, false, fmt.Errorf("make redaction key: %w", err)
	}
	made = err == nil
	key, err = ReadKey(file)
	return key, made, err
}
