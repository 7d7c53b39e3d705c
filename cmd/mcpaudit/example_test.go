package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// deploy/mcpaudit.yaml is what `mcpaudit config` prints for an account "you"
// without settings of its own.
func TestExampleConfigurationIsCurrent(t *testing.T) {
	t.Setenv("HOME", "/home/you")
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "MCPAUDIT_") || strings.HasPrefix(name, "XDG_") {
			t.Setenv(name, "")
		}
	}
	var printed, errors bytes.Buffer
	if code := run(t.Context(), []string{"config"}, nil, &printed, &errors); code != 0 {
		t.Fatalf("config: status %d: %s", code, errors.String())
	}
	example, err := os.ReadFile("../../deploy/mcpaudit.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(example, printed.Bytes()) {
		t.Errorf("deploy/mcpaudit.yaml is not what mcpaudit config prints; it prints\n%s", printed.String())
	}
	var checked bytes.Buffer
	if code := run(t.Context(), []string{"serve", "--config", "../../deploy/mcpaudit.yaml", "--check"}, nil, &checked, &errors); code != 0 {
		t.Errorf("the example is not accepted: %s", errors.String())
	}
}
