package receiver

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestAWebhookIsSignedAndSaysWhatFORMATSays(t *testing.T) {
	url, got := record(t)
	s := settings(Webhook, url)
	now := time.Now() // the library's Verify has the real clock
	s.Now = func() time.Time { return now }
	sender := newSender(t, s)
	closed := sample(2, message.Resolved)
	closed.By, closed.Verdict = "user:grace", "false_positive"
	n := notification(sample(1, message.Firing), closed)
	n.Left = 3
	for range 2 {
		if status, err := sender.Send(t.Context(), n); err != nil || status != 200 {
			t.Fatalf("%d, %v", status, err)
		}
		now = now.Add(time.Minute)
	}
	hook, err := standardwebhooks.NewWebhook(secretOfWebhook)
	if err != nil {
		t.Fatal(err)
	}
	calls := got()
	for _, c := range calls {
		if err := hook.Verify(c.body, c.header); err != nil {
			t.Error(err)
		}
		if err := hook.Verify(append(bytes.Clone(c.body), ' '), c.header); err == nil {
			t.Error("a body that was changed is taken")
		}
		if c.path != "/hooks/path-of-webhook" || c.query != "query=of-webhook" || c.header.Get("webhook-id") != n.ID {
			t.Errorf("called %s?%s with the id %q", c.path, c.query, c.header.Get("webhook-id"))
		}
	}
	first, second := calls[0], calls[1]
	if !bytes.Equal(first.body, second.body) {
		t.Errorf("sent again it is\n%s\nnot\n%s", second.body, first.body)
	}
	if a, b := first.header.Get("webhook-timestamp"), second.header.Get("webhook-timestamp"); a == b || a != strconv.FormatInt(now.Add(-2*time.Minute).Unix(), 10) {
		t.Errorf("attempts at %s and %s", a, b)
	}
	golden(t, "webhook.json", first.body)
}

// golden compares JSON with a file of testdata, in which it is indented.
func golden(t *testing.T, name string, body []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		var b bytes.Buffer
		if err := json.Indent(&b, body, "", "  "); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b.Bytes(), '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), body) {
		t.Errorf("%s is\n%s\nnot\n%s", name, b.Bytes(), body)
	}
}

func TestTheTypeOfAMessageIsWhatHappenedToAll(t *testing.T) {
	for want, alerts := range map[string][]message.Alert{
		"mcpaudit.finding.firing":       {sample(1, message.Firing)},
		"mcpaudit.finding.worse":        {sample(1, message.Worse), sample(2, message.Worse)},
		"mcpaudit.finding.acknowledged": {sample(1, message.Acknowledged)},
		"mcpaudit.finding.resolved":     {sample(1, message.Resolved)},
		"mcpaudit.finding.test":         {sample(1, message.Test)},
		"mcpaudit.finding.changed":      {sample(1, message.Firing), sample(2, message.Resolved)},
	} {
		body, err := webhookBody(notification(alerts...))
		if err != nil {
			t.Fatal(err)
		}
		var m webhookMessage
		strict(t, body, &m)
		if m.Type != want || len(m.Data.Alerts) != len(alerts) {
			t.Errorf("%s with %d alerts, not %s", m.Type, len(m.Data.Alerts), want)
		}
	}
}

func TestWebhooksTakeHostileFindings(t *testing.T) {
	url, got := record(t)
	sender := newSender(t, settings(Webhook, url))
	for _, name := range hostile {
		n := notification(named(name))
		n.Labels = map[string]string{"principal": name}
		if _, err := sender.Send(t.Context(), n); err != nil {
			t.Errorf("%.40q: %v", name, err)
		}
	}
	for _, c := range got() {
		var m webhookMessage
		strict(t, c.body, &m)
		if len(c.body) > 100<<10 || bytes.ContainsAny(c.body, "\u202e\u200b") || bytes.Contains(c.body, []byte(`\u0000`)) {
			t.Errorf("%d bytes: %.400s", len(c.body), c.body)
		}
	}
	if len(got()) != len(hostile) {
		t.Errorf("%d calls", len(got()))
	}
}
