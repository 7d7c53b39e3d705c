package keyfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

func newSigning(t *testing.T) (file string, k keyfile.Signing) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "ledger", "signing-key.json")
	k, err := keyfile.NewSigning(file, "main-0a1b2c")
	if err != nil {
		t.Fatal(err)
	}
	return file, k
}

// secretOf is the signing key in a file.
func secretOf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), `"signing_key": "`)
	secret, _, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 || !strings.HasPrefix(secret, "PRIVATE+KEY+") {
		t.Fatal("the file has no signing key")
	}
	return secret
}

func TestASigningKeyIsKeptForItsOwnerAndReadBack(t *testing.T) {
	file, k := newSigning(t)
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	got, err := keyfile.ReadSigning(file)
	if err != nil || got.Key.Verifier() != k.Key.Verifier() || got.Key.LogID() != "main-0a1b2c" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := keyfile.NewSigning(file, "main-0a1b2c"); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("a key is written over: %v", err)
	}
	if again, err := keyfile.ReadSigning(file); err != nil || again.Key.Verifier() != k.Key.Verifier() {
		t.Errorf("%v, %v", again, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestARotatedKeyReplacesTheOldOneAndStatesIt(t *testing.T) {
	file, first := newSigning(t)
	secret := secretOf(t, file)
	for n := 1; n <= 3; n++ {
		old, now, err := keyfile.Rotate(file)
		if err != nil || len(now.Rotations) != n || now.Key.Verifier() == old {
			t.Fatalf("%v, %v", now, err)
		}
		got, err := keyfile.ReadSigning(file)
		if err != nil || got.Key.Verifier() != now.Key.Verifier() || len(got.Rotations) != n {
			t.Fatalf("%v, %v", got, err)
		}
		keys, err := ledger.TrustKeys([]string{first.Key.Verifier()}, got.Rotations)
		if err != nil || !keys.Has(now.Key.Verifier()) || ledger.NewestKey(first.Key.Verifier(), got.Rotations) != now.Key.Verifier() {
			t.Errorf("the first key does not lead to key %d: %v", n+1, err)
		}
	}
	if text, _ := os.ReadFile(file); strings.Contains(string(text), secret) {
		t.Error("the old signing key is still in the file")
	}
}

func TestABadSigningKeyIsRefusedWithoutSayingIt(t *testing.T) {
	file, _ := newSigning(t)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	secret := secretOf(t, file)
	body := strings.SplitN(secret, "+", 5)[4]
	other, otherKey := newSigning(t)
	_ = other
	for name, text := range map[string]string{
		"empty": "", "not JSON": "PRIVATE+KEY", "cut": string(good[:len(good)/2]), "more behind it": string(good) + "{}",
		"an unknown field": strings.Replace(string(good), `"comment"`, `"coment"`, 1),
		"another key":      strings.Replace(string(good), secret, strings.Replace(secret, body[:4], "AAAA", 1), 1),
		"another verifier": strings.Replace(string(good), `"verifier_key": "`, `"verifier_key": "`+otherKey.Key.Verifier(), 1),
		"a rotation":       strings.Replace(string(good), "\n}", ",\n  \"rotations\": [\"x\"]\n}", 1),
		"too long":         string(good) + strings.Repeat(" ", 2<<20),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keyfile.ReadSigning(file); err == nil || strings.Contains(err.Error(), body[4:12]) || !strings.Contains(err.Error(), "'mcpaudit keys new' makes such files") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(os.WriteFile(file, good, 0o600), os.Chmod(file, 0o640)); err != nil {
		t.Fatal(err)
	}
	if _, err := keyfile.ReadSigning(file); err == nil || !strings.Contains(err.Error(), "others may read") || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others may read: %v", err)
	}
	if _, err := keyfile.ReadSigning(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
