package keyfile

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestAKeyIsMadeForItsOwnerAloneAndReadBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "deep", "er", "redact.key")
	key, made, err := ReadOrMake(file)
	if err != nil || !made || len(key) != 32 || bytes.Equal(key, make([]byte, 32)) {
		t.Fatalf("%x, made %v, %v", key, made, err)
	}
	for path, want := range map[string]os.FileMode{file: 0o600, filepath.Dir(file): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v; %v", path, info.Mode(), want, err)
		}
	}
	again, made, err := ReadOrMake(file)
	if err != nil || made || !bytes.Equal(again, key) {
		t.Errorf("the second time %x, made %v, %v; want %x", again, made, err, key)
	}
	if read, err := Read(file); err != nil || !bytes.Equal(read, key) {
		t.Errorf("Read: %x, %v", read, err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("%v is left in the folder, %v", left, err)
	}
}

func TestManyThatMakeAKeyEndUpWithOne(t *testing.T) {
	file := filepath.Join(t.TempDir(), "redact.key")
	keys, makers := map[string]bool{}, 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			key, made, err := ReadOrMake(file)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if keys[hex.EncodeToString(key)] = true; made {
				makers++
			}
		})
	}
	wg.Wait()
	if len(keys) != 1 || makers != 1 {
		t.Errorf("%d keys of %d makers", len(keys), makers)
	}
}

func TestABadKeyFileIsRefusedAndNeverQuoted(t *testing.T) {
	good := strings.Repeat("0123456789abcdef", 4)
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"readable by the group": {good, 0o640, "others may read"},
		"readable by all":       {good, 0o604, "others may read"},
		"writable by all":       {good, 0o602, "others may read"},
		"too short":             {good[1:], 0o600, "does not hold 64 hex digits; make one with: openssl rand -hex 32"},
		"too long":              {good + "00", 0o600, "does not hold 64 hex digits"},
		"no hex":                {strings.Repeat("x", 64), 0o600, "does not hold 64 hex digits"},
		"empty":                 {"", 0o600, "does not hold 64 hex digits"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "redact.key")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, c.mode); err != nil {
				t.Fatal(err)
			}
			for range 2 { // a file that is there is never made anew
				_, _, err := ReadOrMake(file)
				if err == nil || !strings.HasPrefix(err.Error(), "read redaction key: ") || !strings.Contains(err.Error(), c.want) ||
					!strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "0123456789") {
					t.Errorf("%v, want %q", err, c.want)
				}
			}
		})
	}
	file := filepath.Join(t.TempDir(), "redact.key")
	if err := os.WriteFile(file, []byte("\n "+strings.ToUpper(good)+" \r\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	if key, err := Read(file); err != nil || hex.EncodeToString(key) != good {
		t.Errorf("white space around a key: %x, %v", key, err)
	}
}
