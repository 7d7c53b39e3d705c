package receiver

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

const (
	keyOfPagerDuty = "0123456789abcdef0123456789ABCDEF"
	tokenOfAM      = "token-of-alertmanager"
	pathOfSlack    = "/services/T0/B0/path-of-slack"
)

var (
	rawOfWebhook    = []byte("raw-secret-of-webhook-32-bytes..")
	secretOfWebhook = "whsec_" + base64.StdEncoding.EncodeToString(rawOfWebhook)
	clock           = time.Date(2026, 10, 2, 9, 31, 12, 0, time.UTC)
	kinds           = []string{Alertmanager, PagerDuty, Slack, Webhook}
)

// settings of a receiver of any kind at a test server.
func settings(kind, base string) Settings {
	s := Settings{Kind: kind, URL: base, Now: func() time.Time { return clock }}
	switch kind {
	case Alertmanager:
		s.Secret = tokenOfAM
	case PagerDuty:
		s.Secret = keyOfPagerDuty
	case Slack:
		s.URL, s.Secret = "", base+pathOfSlack
	case Webhook:
		s.URL, s.Secret = base+"/hooks/path-of-webhook?query=of-webhook", secretOfWebhook
	}
	return s
}

// secrets are what is nowhere to be seen.
var secrets = []string{keyOfPagerDuty, tokenOfAM, "path-of-slack", "of-webhook", string(rawOfWebhook), secretOfWebhook, "said by the receiver"}

func newSender(t *testing.T, s Settings) Sender {
	t.Helper()
	sender, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

// sample is a finding as notify tells it.
func sample(n int, what message.What) message.Alert {
	id := fmt.Sprintf("0198f3c2-6a51-8c1e-9d3e-%012d", n)
	a := message.Alert{What: what, Title: "high: call-spike, user:ada at crm", Runbook: "Ask the owner of the agent.\nStop it when nobody knows it.",
		Link: "https://grafana.example/d/mcpaudit-investigate?var-finding=" + id + "&var-tenant=acme", Command: "mcpaudit findings show " + id,
		Finding: detect.Finding{ID: id, Version: 1, Rule: "call-spike", Detector: "call_spike", Severity: detect.High, Score: 12.5,
			Reason: "user:ada made 142 calls in 5 minutes, where 3 to 11 are usual", Observed: "142 calls in 5 min", Expected: "3 to 11",
			Workings:  []detect.Working{{Name: "calls in the last 5 minutes", Value: "142"}},
			Subject:   detect.Subject{Tenant: "acme", Principal: "user:ada", AgentID: "helper", SessionID: "s-1", Server: "crm", Target: "search"},
			StartedAt: clock.Add(-5 * time.Minute).UnixMicro(), LastSeenAt: clock.Add(-time.Minute).UnixMicro(), OpenedAt: clock.Add(-4 * time.Minute).UnixMicro(),
			Events: 142, EventIDs: []event.ID{{1: 1, 15: 7}}, State: detect.Open}}
	if what == message.Resolved {
		a.Finding.State, a.Finding.EndedAt = detect.Resolved, clock.Add(-30*time.Second).UnixMicro()
	}
	return a
}

func notification(alerts ...message.Alert) *message.Notification {
	return &message.Notification{ID: "0198f3c2-6a51-7c1e-9d3e-3f0f6a1b2c3d", Receiver: "siem", Group: "call-spike/acme",
		Labels: map[string]string{"rule": "call-spike", "tenant": "acme"}, Alerts: alerts, At: clock.Add(-10 * time.Second)}
}

// request is what a receiver got.
type request struct {
	path, query string
	header      http.Header
	body        []byte
}

// record is a server that takes everything and answers each kind of receiver as it
// wants; it fails the test for a request that is not a POST of JSON.
func record(t *testing.T) (string, func() []request) {
	var mu sync.Mutex
	var got []request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s with %q: %v", r.Method, r.URL, r.Header.Get("Content-Type"), err)
		}
		mu.Lock()
		got = append(got, request{r.URL.Path, r.URL.RawQuery, r.Header, body})
		mu.Unlock()
		if strings.HasSuffix(r.URL.Path, "/v2/enqueue") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusAccepted)
			io.WriteString(w, `{"status":"success","message":"Event processed","dedup_key":"x"}`)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []request {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

// strict decodes JSON that has nothing else.
func strict(t *testing.T, body []byte, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if d.More() {
		t.Fatalf("more than one value in %s", body)
	}
}

// showsNothing checks a text that people or logs see.
func showsNothing(t *testing.T, text string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("%q has %q in it", text, s)
		}
	}
}

func TestSettingsThatAreWrongAreNamed(t *testing.T) {
	with := func(kind string, change func(*Settings)) Settings {
		s := settings(kind, "https://receiver.example")
		change(&s)
		return s
	}
	for want, s := range map[string]Settings{
		"make a receiver: there is no kind \"pigeon\"; use alertmanager, pagerduty, slack or webhook": {Kind: "pigeon"},
		"it has no URL":                            with(Alertmanager, func(s *Settings) { s.URL = "" }),
		"its URL is not one":                       with(Alertmanager, func(s *Settings) { s.URL = "path-of-slack" }),
		"neither https nor http":                   with(Webhook, func(s *Settings) { s.URL = "ftp://receiver.example" }),
		"would be readable on the way":             with(Webhook, func(s *Settings) { s.URL = "http://receiver.example/" }),
		"has a user name or password":              with(Webhook, func(s *Settings) { s.URL = "https://a:of-webhook@receiver.example/" }),
		"a part after #":                           with(Webhook, func(s *Settings) { s.URL += "#x" }),
		"the alertmanager receiver: its URL has a": with(Alertmanager, func(s *Settings) { s.URL += "?x=y" }),
		"the pagerduty receiver: its URL has a":    with(PagerDuty, func(s *Settings) { s.URL += "?" }),
		"more than 2048 bytes":                     with(Slack, func(s *Settings) { s.Secret += strings.Repeat("x", 2048) }),
		"the slack receiver: its URL is not one":   with(Slack, func(s *Settings) { s.Secret = "path-of-slack\x00" }),
		"the slack receiver: it has no URL":        with(Slack, func(s *Settings) { s.Secret = "" }),
		"put it into url_file":                     with(Slack, func(s *Settings) { s.URL = s.Secret }),
		"has no routing key":                       with(PagerDuty, func(s *Settings) { s.Secret += "x" }),
		"has no bearer token":                      with(Alertmanager, func(s *Settings) { s.Secret += " x" }),
		"has no signing secret: ":                  with(Webhook, func(s *Settings) { s.Secret = base64.StdEncoding.EncodeToString(rawOfWebhook) }),
		"has no signing secret: whsec_":            with(Webhook, func(s *Settings) { s.Secret = "whsec_" + base64.StdEncoding.EncodeToString(rawOfWebhook[:23]) }),
		"has no signing secret: whsec_ and":        with(Webhook, func(s *Settings) { s.Secret = "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)) }),
		"has no signing secret: whsec_ and then":   with(Webhook, func(s *Settings) { s.Secret += "%" }),
		"ca_file has no certificate":               with(Webhook, func(s *Settings) { s.CA = "-----BEGIN CERTIFICATE-----" }),
	} {
		sender, err := New(s)
		if err == nil || sender != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
			continue
		}
		showsNothing(t, err.Error())
	}
}

func TestHTTPIsForLoopbackAlone(t *testing.T) {
	for _, base := range []string{"http://localhost:9093", "http://127.0.0.1:9093", "http://[::1]:9093", "https://receiver.example"} {
		for _, kind := range kinds {
			if _, err := New(settings(kind, base)); err != nil {
				t.Errorf("%s at %s: %v", kind, base, err)
			}
		}
	}
	for _, base := range []string{"http://localhost.example", "http://10.0.0.1", "http://0.0.0.0", "http://127.0.0.1.example"} {
		for _, kind := range kinds {
			if _, err := New(settings(kind, base)); err == nil {
				t.Errorf("%s at %s is not refused", kind, base)
			}
		}
	}
}

func TestSettingsAndSendersShowKindAndHostAlone(t *testing.T) {
	for _, kind := range kinds {
		s := settings(kind, "https://receiver.example:8443")
		sender := newSender(t, s)
		for _, x := range []any{s, &s, sender} {
			var logged bytes.Buffer
			slog.New(slog.NewJSONHandler(&logged, nil)).Info("test", "x", x)
			slog.New(slog.NewTextHandler(&logged, nil)).Info("test", "x", x)
			encoded, err := json.Marshal(x)
			if err != nil {
				t.Error(err)
			}
			text := fmt.Sprintf("%v %+v %#v %s %q", x, x, x, x, x) + logged.String() + string(encoded)
			if strings.Count(text, kind+" at receiver.example:8443") < 8 {
				t.Errorf("%T shows %s", x, text)
			}
			showsNothing(t, text)
		}
	}
}

func FuzzNewAndItsErrorsShowNothing(f *testing.F) {
	f.Add(Slack, "", "https://hooks.slack.example"+pathOfSlack, "")
	f.Add(Alertmanager, "http://127.0.0.1:9093/am", tokenOfAM, "")
	f.Add(PagerDuty, "", keyOfPagerDuty, "x")
	f.Add(Webhook, "https://[::1]:99/%zz", secretOfWebhook, "-----BEGIN CERTIFICATE-----")
	f.Fuzz(func(t *testing.T, kind, address, secret, ca string) {
		s := Settings{Kind: kind, URL: address, Secret: secret, CA: ca}
		sender, err := New(s)
		if (sender == nil) == (err == nil) {
			t.Fatalf("%v, %v", sender, err)
		}
		if err != nil && len(secret) > 24 && strings.Contains(err.Error(), secret) {
			t.Errorf("%v shows the secret", err)
		}
		if err == nil && kind != Slack && len(secret) > 24 && strings.Contains(fmt.Sprintf("%v %#v", sender, s), secret) && !strings.Contains(address, secret) {
			t.Errorf("%v shows the secret", sender)
		}
	})
}
