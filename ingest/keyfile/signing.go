package keyfile

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// Signing is a log's signing key, and how it came to be the log's.
type Signing struct {
	Key *ledger.Key
	// Rotations are the statements by which the log's earlier keys handed over, up
	// to this key, oldest first.
	Rotations []string
	// Before is a secret derived from the key before this one, see [BatchMAC]: a
	// batch may have been stored with that and not sealed yet. nil for a first key.
	Before []byte
}

// BatchMAC is the purpose ([ledger.Key.Derive]) of the secret that authenticates
// batches until they are sealed.
const BatchMAC = "batch mac"

// signingFile is the file of a Signing: JSON, because it is one value that is
// always replaced whole.
type signingFile struct {
	Comment   string   `json:"comment"`
	Verifier  string   `json:"verifier_key"`
	Secret    string   `json:"signing_key"`
	Rotations []string `json:"rotations,omitempty"`
	Before    []byte   `json:"batch_mac_key_before,omitempty"`
}

const (
	signingComment = "Signs the log. Keep it secret, and keep a copy elsewhere: without it the log can't go on. The verifier key is public."
	maxSigning     = 1 << 20
)

// ReadSigning reads a signing key from a file that only its owner may read. The
// error is fs.ErrNotExist when there is none; it never has the key.
func ReadSigning(file string) (Signing, error) {
	f, err := os.Open(file)
	if err != nil {
		return Signing{}, fmt.Errorf("read signing key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of what is read, whatever the name means by then
	if err != nil {
		return Signing{}, fmt.Errorf("read signing key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return Signing{}, fmt.Errorf("read signing key: others may read %s; run: chmod 600 %s; who has read it can sign, see 'mcpaudit keys rotate --help'", file, file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSigning+1))
	if err != nil {
		return Signing{}, fmt.Errorf("read signing key: %w", err)
	}
	bad := func(what string) (Signing, error) {
		return Signing{}, fmt.Errorf("read signing key: %s %s; 'mcpaudit keys new' makes such files", file, what)
	}
	var content signingFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if len(text) > maxSigning || d.Decode(&content) != nil || d.More() {
		return bad("is not a file of a signing key")
	}
	key, err := ledger.ParseKey(content.Secret)
	if err != nil || key.Verifier() != content.Verifier {
		return bad("has no signing key, or one of another verifier key")
	}
	last := ""
	for _, r := range content.Rotations {
		old, next, err := ledger.ParseRotation(r)
		if err != nil || last != "" && old != last {
			return bad("has a statement of rotation that is not right")
		}
		last = next
	}
	if last != "" && last != key.Verifier() {
		return bad("has statements of rotation that lead to another key")
	}
	return Signing{key, content.Rotations, content.Before}, nil
}

// NewSigning makes the key of a new log and keeps it in a file, which must not be
// there yet: it is on disk, whole, when NewSigning returns.
func NewSigning(file, logID string) (Signing, error) {
	key, secret, err := ledger.NewKey(rand.Reader, logID)
	if err != nil {
		return Signing{}, err
	}
	if err := writeSigning(file, signingFile{signingComment, key.Verifier(), secret, nil, nil}, false); err != nil {
		return Signing{}, fmt.Errorf("make signing key: %w", err)
	}
	return Signing{Key: key}, nil
}

// Rotate replaces the key of a file by a new one, with the statement by which the
// old one hands over. The old key is gone then, but for copies of the file.
func Rotate(file string) (old string, now Signing, err error) {
	was, err := ReadSigning(file)
	if err != nil {
		return "", Signing{}, err
	}
	key, secret, err := ledger.NewKey(rand.Reader, was.Key.LogID())
	if err != nil {
		return "", Signing{}, err
	}
	statement, err := was.Key.Rotate(key)
	if err != nil {
		return "", Signing{}, err
	}
	now = Signing{key, append(was.Rotations, statement), was.Key.Derive(BatchMAC)}
	if err := writeSigning(file, signingFile{signingComment, key.Verifier(), secret, now.Rotations, now.Before}, true); err != nil {
		return "", Signing{}, fmt.Errorf("rotate signing key: %w", err)
	}
	return was.Key.Verifier(), now, nil
}

// writeSigning writes the file whole or not at all: a crash leaves the old one, or
// none.
func writeSigning(file string, content signingFile, replace bool) error {
	text, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return errors.New("encode the key file") // the cause might have the key
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "signing-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(f.Name(), file)
	} else if err = os.Link(f.Name(), file); errors.Is(err, os.ErrExist) { // never over a key that is there
		return fmt.Errorf("%s is there already; a key that is lost ends its log", file)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
