package profile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "shop.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestAProfileSaysWhatElseIsRedacted(t *testing.T) {
	p, err := Read(write(t, `
key_names: [customer_no]
tools:
  "shop/*":
    drop: [note]
    keep: [$.who.name]
  pay:
    drop_all: true
`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := redact.New(p, []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ server, tool, arguments, want string }{
		{"shop", "order", `{"customerNo":"77","note":"x","n":1}`, `{"customerNo":"[REDACTED:key:customerno]","note":"[REDACTED:drop]","n":1}`},
		{"desk", "order", `{"note":"x"}`, `{"note":"x"}`},
		{"desk", "pay", `{"to":"x"}`, ``},
	} {
		var e event.Event
		r.Apply(redact.Call{Server: c.server, Method: "tools/call", Target: c.tool, Arguments: []byte(c.arguments)}, &e)
		if c.want != "" && e.Arguments != c.want || c.want == "" && strings.Contains(e.Arguments, `"x"`) {
			t.Errorf("%s/%s: %s, want %s", c.server, c.tool, e.Arguments, c.want)
		}
		if e.RedactionProfile != "shop" || !strings.Contains(e.RedactionProfileVersion, "+gitleaks-") || e.RedactionProfileVersion == redact.DefaultProfile().Version {
			t.Errorf("the event names profile %q, version %q", e.RedactionProfile, e.RedactionProfileVersion)
		}
	}
	if p, err := Read(""); err != nil || p.Name != "default" {
		t.Errorf("without a file: %v, %v", p.Name, err)
	}
}

func TestABadProfileIsRefusedWithItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"key_name: [x]\n":                  "line 1: field key_name not found",
		"tools:\n  pay:\n    dropp: [x]\n": "line 3: field dropp not found",
		"key_names: 5\n":                   "line 1: cannot unmarshal",
		"key_names: ['--']\n":              `key name "--" has no letter or digit`,
		"pseudonyms: [pii:mood]\n":         `unknown class "pii:mood"`,
		"max_string: 3\n":                  "max_string must be at least 64",
		"tools: {'[': {drop: [x]}}\n":      "tool pattern",
		"name: a\n---\nname: b\n":          "more than one document",
		"a: [\n":                           "line 1",
	} {
		if _, err := Read(write(t, text)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "shop.yaml") || strings.Contains(err.Error(), "profile.file") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := Read("/no/such/profile.yaml"); err == nil {
		t.Error("a file that is missing is no error")
	}
}
