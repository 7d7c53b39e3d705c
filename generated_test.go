package mcpaudit_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The files are read here, so that the test cache knows of them.
func readAll(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("no file matches %s: %v", pattern, err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(name)] = text
	}
	return files
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func TestCodeOfTheAPIIsCurrent(t *testing.T) {
	readAll(t, "proto/mcpaudit/v1/*.proto")
	committed := readAll(t, "proto/mcpaudit/v1/*.pb.go")
	dir := t.TempDir()
	run(t, "deploy/dev/generate.sh", "-o", dir)
	made := readAll(t, filepath.Join(dir, "proto/mcpaudit/v1/*.pb.go"))
	for name, text := range made {
		if !bytes.Equal(text, committed[name]) {
			t.Errorf("%s is not what its .proto gives; run make generate", name)
		}
	}
	if len(made) != len(committed) {
		t.Errorf("%d generated files are committed, %d are made; run make generate", len(committed), len(made))
	}
}

func TestSecretRulesAreCurrent(t *testing.T) {
	readAll(t, "ingest/redact/rulegen/*.go")
	made := filepath.Join(t.TempDir(), "gitleaks.go")
	run(t, "go", "run", "./ingest/redact/rulegen", made)
	got, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, readAll(t, "ingest/redact/gitleaks.go")["gitleaks.go"]) {
		t.Error("ingest/redact/gitleaks.go is not what rulegen makes; run make generate")
	}
}
