package receiver

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/detect/wire"
)

// signed is a webhook whose requests are signed by Standard Webhooks
// (https://www.standardwebhooks.com, specification 1.0.0). FORMAT.md shows the body.
type signed struct {
	*target
	url  string
	hook *standardwebhooks.Webhook
}

// secretPrefix is what a signing secret starts with.
const secretPrefix = "whsec_"

func newWebhook(s Settings) (Sender, error) {
	t, u, err := newTarget(s, s.URL)
	if err != nil {
		return nil, err
	}
	encoded, found := strings.CutPrefix(s.Secret, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !found || err != nil || len(s.Secret) > mostSecret || len(key) < 24 || len(key) > 64 {
		return nil, s.wrong("secret_file has no signing secret: whsec_ and then 24 to 64 random bytes in base64")
	}
	hook, err := standardwebhooks.NewWebhookRaw(key)
	if err != nil {
		return nil, s.wrong("its signing secret can't be used")
	}
	return &signed{target: t, url: u.String(), hook: hook}, nil
}

// Refresh is of Sender.
func (w *signed) Refresh() time.Duration { return 0 }

// Groups is of Sender.
func (w *signed) Groups() bool { return false }

// Send is of Sender. The body and the id are the same when a notification is sent
// again; the timestamp and so the signature are of the attempt, as receivers refuse what
// is more than five minutes old.
func (w *signed) Send(ctx context.Context, n *message.Notification) (int, error) {
	defer w.idle()
	body, err := webhookBody(n)
	if err != nil {
		return 0, fmt.Errorf("write a notification for %s: %w", w, err)
	}
	now := w.now()
	signature, err := w.hook.Sign(n.ID, now, body)
	if err != nil {
		return 0, fmt.Errorf("sign a notification for %s: the signing secret can't be used", w)
	}
	return w.do(ctx, mostAnswer, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(standardwebhooks.HeaderWebhookID, n.ID)
		r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
		r.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
		answer, err := w.client.Do(r)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	}, func(status int, _ error) bool { return status >= 200 && status < 300 })
}

// The body; FORMAT.md says what each field means.
type (
	webhookMessage struct {
		Type      string      `json:"type"`
		Timestamp string      `json:"timestamp"`
		Data      webhookData `json:"data"`
	}
	webhookData struct {
		Receiver string            `json:"receiver"`
		Group    string            `json:"group,omitempty"`
		Labels   map[string]string `json:"labels,omitempty"`
		Alerts   []webhookAlert    `json:"alerts"`
		Left     int               `json:"left"`
	}
	webhookAlert struct {
		What    message.What    `json:"what"`
		Key     string          `json:"key"`
		Title   string          `json:"title"`
		Runbook string          `json:"runbook,omitempty"`
		Link    string          `json:"link,omitempty"`
		Command string          `json:"command,omitempty"`
		By      string          `json:"by,omitempty"`
		Verdict string          `json:"verdict,omitempty"`
		Finding json.RawMessage `json:"finding"`
	}
)

// webhookBody is the notification as JSON: the same bytes for the same notification.
func webhookBody(n *message.Notification) ([]byte, error) {
	m := webhookMessage{Type: "mcpaudit.finding." + kindOf(n), Timestamp: n.At.UTC().Format(time.RFC3339Nano),
		Data: webhookData{Receiver: line(n.Receiver, 255), Group: line(n.Group, 255), Left: n.Left}}
	for name, value := range n.Labels {
		if m.Data.Labels == nil {
			m.Data.Labels = map[string]string{}
		}
		m.Data.Labels[line(name, 64)] = line(value, 256)
	}
	for i := range n.Alerts {
		a := &n.Alerts[i]
		finding, err := wire.MarshalJSON(shown(&a.Finding))
		if err != nil {
			return nil, fmt.Errorf("write finding %q: %w", a.Finding.ID, err)
		}
		m.Data.Alerts = append(m.Data.Alerts, webhookAlert{What: a.What, Key: line(a.Key(), 255), Title: line(a.Title, 500),
			Runbook: paragraph(a.Runbook, 2000), Link: link(a), Command: line(a.Command, 500), By: line(a.By, 256), Verdict: line(a.Verdict, 64),
			Finding: finding})
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(m)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// kindOf is what has happened to all of a notification's findings, or "changed" when
// that is not one thing.
func kindOf(n *message.Notification) string {
	for i := range n.Alerts {
		if n.Alerts[i].What != n.Alerts[0].What {
			return "changed"
		}
	}
	return line(string(n.Alerts[0].What), 32)
}

// mostWorkings is how many steps of a finding's arithmetic are sent.
const mostWorkings = 40

// shown is a finding whose texts are bounded and can be shown.
func shown(f *detect.Finding) *detect.Finding {
	out := *f
	for _, text := range []*string{&out.ID, &out.Rule, &out.Detector, &out.Tenant, &out.Principal, &out.AgentID,
		&out.SessionID, &out.TraceID, &out.Server, &out.Target, &out.Emitter, &out.State} {
		*text = line(*text, 256)
	}
	for _, text := range []*string{&out.Reason, &out.Observed, &out.Expected} {
		*text = line(*text, 1000)
	}
	out.Workings = nil
	for _, w := range f.Workings[:min(len(f.Workings), mostWorkings)] {
		out.Workings = append(out.Workings, detect.Working{Name: line(w.Name, 200), Value: line(w.Value, 200)})
	}
	return &out
}
