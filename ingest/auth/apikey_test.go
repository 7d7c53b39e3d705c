package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func analystOf(tenant string) []Grant { return []Grant{{Role: Analyst, Tenant: tenant}} }

func refusedFor(t *testing.T, err error) Reason {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("the error is no refusal: %v", err)
	}
	return r.Reason
}

func TestAKeyHasTheFormThatIsDocumentedAndIsNeverTheSame(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		k, text, err := NewKey("x", analystOf("acme"), "me", noon, noon.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		id, hash, ok := splitKey(text.Reveal())
		if !ok || id != k.ID || hash != k.hash || len(text.Reveal()) != keyLength || seen[id] || seen[text.Reveal()] {
			t.Fatalf("key %q of %+v", text.Reveal(), k)
		}
		seen[id], seen[text.Reveal()] = true, true
	}
}

func TestAKeyIsNotPrintedByAccident(t *testing.T) {
	_, text, err := NewKey("x", analystOf("acme"), "me", noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("made", "key", text)
	slog.New(slog.NewTextHandler(&log, nil)).Info("made", "key", text)
	object, _ := json.Marshal(map[string]any{"key": text})
	all := fmt.Sprintf("%v %s %+v %#v %q", text, text, text, struct{ K secret }{text}, text) + log.String() + string(object)
	if _, secretPart, _ := strings.Cut(strings.TrimPrefix(text.Reveal(), KeyPrefix), "_"); strings.Contains(all, secretPart) {
		t.Errorf("the secret is in %s", all)
	}
}

// A key that somebody gives to a tool is removed from its event like any other secret.
func TestAKeyInArgumentsIsRedacted(t *testing.T) {
	_, text, err := NewKey("x", analystOf("acme"), "me", noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	r, err := redact.New(redact.DefaultProfile(), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	e := event.Event{Arguments: `{"text":"use ` + text.Reveal() + ` there"}`}
	r.Again(&e)
	if strings.Contains(e.Arguments, text.Reveal()[22:]) {
		t.Errorf("left in %s", e.Arguments)
	}
}

func TestWhatIsNoWholeKeyIsMalformed(t *testing.T) {
	r, _ := newTestKeyring(t)
	_, text, err := r.Make(t.Context(), "x", analystOf("acme"), "me", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	good := text.Reveal()
	for name, shown := range map[string]string{
		"empty": "", "prefix": KeyPrefix, "cut": good[:len(good)-1], "longer": good + "a", "upper case": strings.ToUpper(good), "another prefix": "mcpb_" + good[5:],
		"space": " " + good[1:], "NUL": good[:30] + "\x00" + good[31:], "other letters": good[:30] + "1" + good[31:], "no separator": good[:21] + "a" + good[22:], "huge": good + strings.Repeat("a", 1<<20),
	} {
		if _, err := r.Identify(t.Context(), shown); refusedFor(t, err) != Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzSplitKey(f *testing.F) {
	_, text, err := NewKey("x", analystOf("acme"), "me", noon, noon.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text.Reveal())
	f.Add("mcpa_")
	f.Fuzz(func(t *testing.T, shown string) {
		id, _, ok := splitKey(shown)
		if ok && (len(shown) != keyLength || shown[len(KeyPrefix):len(KeyPrefix)+idLength] != id) {
			t.Errorf("%q is key %q", shown, id)
		}
	})
}
