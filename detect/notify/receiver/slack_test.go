package receiver

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/slack-go/slack"

	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// checked decodes what a chat got and checks it by Slack's rules, Discord's limit, and
// ours for what others wrote.
func checked(t *testing.T, body []byte) *slack.WebhookMessage {
	t.Helper()
	var m slack.WebhookMessage
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatalf("%v in %.500s", err, body)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		t.Fatal(err)
	}
	for key := range raw {
		switch key {
		case "text", "blocks", "unfurl_links", "unfurl_media", "replace_original", "delete_original":
		default:
			t.Errorf("it has %q", key)
		}
	}
	if m.Text == "" || characters(m.Text) > 2000 {
		t.Errorf("a text of %d characters", characters(m.Text))
	}
	quiet(t, m.Text)
	if n := len(m.Blocks.BlockSet); n == 0 || n > 50 {
		t.Errorf("%d blocks", n)
	}
	for _, b := range m.Blocks.BlockSet {
		switch b := b.(type) {
		case *slack.HeaderBlock:
			text(t, b.Text, 150)
		case *slack.SectionBlock:
			if b.Text == nil && len(b.Fields) == 0 || len(b.Fields) > 10 {
				t.Errorf("a section with %d fields", len(b.Fields))
			}
			if b.Text != nil {
				text(t, b.Text, 3000)
			}
			for _, f := range b.Fields {
				text(t, f, 2000)
			}
			if b.Accessory != nil {
				button := b.Accessory.ButtonElement
				if button == nil || len(button.URL) > 3000 || !strings.HasPrefix(button.URL, "https://grafana.example/") {
					t.Errorf("an accessory %+v", b.Accessory)
				}
			}
		case *slack.ContextBlock:
			if n := len(b.ContextElements.Elements); n == 0 || n > 10 {
				t.Errorf("a context of %d", n)
			}
			for _, e := range b.ContextElements.Elements {
				text(t, e.(*slack.TextBlockObject), 3000)
			}
		default:
			t.Errorf("a block %T", b)
		}
	}
	return &m
}

func text(t *testing.T, o *slack.TextBlockObject, most int) {
	t.Helper()
	if err := o.Validate(); err != nil || o.Text == "" || characters(o.Text) > most {
		t.Errorf("a text of %d characters: %v", characters(o.Text), err)
	}
	switch o.Type {
	case slack.PlainTextType:
		if strings.ContainsAny(o.Text, "<>") {
			t.Errorf("plain text %.200q", o.Text)
		}
	case slack.MarkdownType:
		if !o.Verbatim {
			t.Errorf("%.200q is not verbatim", o.Text)
		}
		quiet(t, o.Text)
	default:
		t.Errorf("a text of type %q", o.Type)
	}
}

var (
	quotes = regexp.MustCompile("`[^`\n]+`")
	ours   = regexp.MustCompile(`<https://grafana\.example/[^<>|]*>`)
)

// quiet checks text with markup: what others wrote is between backticks, on one line;
// outside of them nothing calls or leads anywhere but our link.
func quiet(t *testing.T, s string) {
	t.Helper()
	outside := ours.ReplaceAllString(quotes.ReplaceAllString(s, ""), "")
	if strings.ContainsAny(outside, "<>@`[]!\x00\u202e") || strings.Contains(outside, "://") || strings.Contains(outside, "www.") || strings.Contains(outside, "evil") {
		t.Errorf("outside of quotes stands %.300q", outside)
	}
	if inside := strings.Join(quotes.FindAllString(s, -1), ""); strings.ContainsAny(inside, "<>\x00\u202e") {
		t.Errorf("inside of quotes stands %.300q", inside)
	}
}

func TestAChatIsToldAFindingInBlocksAndInText(t *testing.T) {
	url, got := record(t)
	sender := newSender(t, settings(Slack, url))
	if status, err := sender.Send(t.Context(), notification(sample(1, message.Firing))); err != nil || status != 200 {
		t.Fatalf("%d, %v", status, err)
	}
	c := got()[0]
	if c.path != pathOfSlack {
		t.Errorf("called %s", c.path)
	}
	m := checked(t, c.body)
	for _, want := range []string{"*New* `high: call-spike, user:ada at crm`", "Who: `user:ada`", "Where: `crm`", "Since: `2026-10-02 09:26:12 UTC`", "Observed: `142 calls in 5 min`",
		"Expected: `3 to 11`", "Why: `user:ada made 142 calls", "First steps: `Ask the owner of the agent. Stop it", "Command: `mcpaudit findings show 0198",
		"More: <https://grafana.example/d/mcpaudit-investigate?var-finding=0198f3c2-6a51-8c1e-9d3e-000000000001&amp;var-tenant=acme>"} {
		if !strings.Contains(m.Text, want) {
			t.Errorf("the text lacks %q:\n%s", want, m.Text)
		}
	}
	golden(t, "slack.json", c.body)
}

func TestAChatIsToldWhatHappened(t *testing.T) {
	closed := sample(1, message.Resolved)
	closed.By, closed.Verdict = "user:grace", "false_positive"
	acknowledged := sample(1, message.Acknowledged)
	acknowledged.By = "user:grace"
	for want, a := range map[string]message.Alert{
		"*New*": sample(1, message.Firing), "*Worse now*": sample(1, message.Worse), "*Resolved by itself*": sample(1, message.Resolved),
		"*Closed as false_positive*": closed, "By: `user:grace`": acknowledged, "*Test of this receiver, nothing has happened*": sample(1, message.Test),
	} {
		body, err := json.Marshal(slackMessage(notification(a)))
		if err != nil {
			t.Fatal(err)
		}
		if m := checked(t, body); !strings.Contains(m.Text, want) {
			t.Errorf("the text lacks %q:\n%s", want, m.Text)
		}
	}
}

func TestAChatIsToldTenOfAGroupAndHowManyMore(t *testing.T) {
	var alerts []message.Alert
	for i := range 50 {
		alerts = append(alerts, sample(i, message.Firing))
	}
	n := notification(alerts...)
	n.Left = 33
	body, err := json.Marshal(slackMessage(n))
	if err != nil {
		t.Fatal(err)
	}
	m := checked(t, body)
	if n := len(m.Blocks.BlockSet); n != 42 {
		t.Errorf("%d blocks", n)
	}
	if h := m.Blocks.BlockSet[0].(*slack.HeaderBlock).Text.Text; h != "83 findings: rule call-spike, tenant acme" {
		t.Errorf("the header is %q", h)
	}
	if !strings.Contains(string(body), "and 73 more findings") {
		t.Error("the blocks don't say how many more there are")
	}
	told := strings.Count(m.Text, "*New*")
	if told != 10 || !strings.Contains(m.Text, "Who: `user:ada`") || !strings.HasPrefix(m.Text, "*83 findings*\n") || !strings.HasSuffix(m.Text, "\nand 73 more findings") {
		t.Errorf("the text tells %d:\n%s", told, m.Text)
	}
}

func TestNamesInAChatCallNobodyAndLeadNowhere(t *testing.T) {
	url, got := record(t)
	sender := newSender(t, settings(Slack, url))
	for _, name := range hostile {
		for _, n := range []int{1, 12} {
			var alerts []message.Alert
			for range n {
				alerts = append(alerts, named(name))
			}
			m := notification(alerts...)
			m.Labels = map[string]string{"rule": name, "tenant": name, "server": name, "principal": name}
			if _, err := sender.Send(t.Context(), m); err != nil {
				t.Errorf("%.40q: %v", name, err)
			}
		}
	}
	for _, c := range got() {
		checked(t, c.body)
	}
	if len(got()) != 2*len(hostile) {
		t.Errorf("%d calls", len(got()))
	}
}
