package receiver

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	pagerdutyapi "github.com/PagerDuty/go-pagerduty"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// events are what PagerDuty got, checked by the rules of its Events API.
func events(t *testing.T, got []request) []pagerdutyapi.V2Event {
	t.Helper()
	var out []pagerdutyapi.V2Event
	for _, r := range got {
		var e pagerdutyapi.V2Event
		strict(t, r.body, &e)
		switch {
		case r.path != "/v2/enqueue" || r.header.Get("Authorization") != "":
			t.Errorf("sent to %s with %q", r.path, r.header.Get("Authorization"))
		case len(r.body) > 512<<10:
			t.Errorf("an event of %d bytes", len(r.body))
		case e.RoutingKey != keyOfPagerDuty || e.DedupKey == "" || len(e.DedupKey) > 255:
			t.Errorf("keys %q, %q", e.RoutingKey, e.DedupKey)
		case (e.Action == "trigger") != (e.Payload != nil):
			t.Errorf("%s with %+v", e.Action, e.Payload)
		}
		if p := e.Payload; p != nil {
			if p.Summary == "" || len([]rune(p.Summary)) > 1024 || p.Source == "" {
				t.Errorf("summary %q, source %q", p.Summary, p.Source)
			}
			if _, err := time.Parse(time.RFC3339, p.Timestamp); err != nil {
				t.Error(err)
			}
		}
		out = append(out, e)
	}
	return out
}

func TestPagerDutyIsToldEachFindingByItsKey(t *testing.T) {
	url, got := record(t)
	sender := newSender(t, settings(PagerDuty, url))
	worse := sample(2, message.Worse)
	worse.Finding.Severity = detect.Critical
	n := notification(sample(1, message.Firing), worse, sample(3, message.Acknowledged), sample(4, message.Resolved), sample(5, message.Test))
	n.Left = 7
	if status, err := sender.Send(t.Context(), n); err != nil || status != 202 {
		t.Fatalf("%d, %v", status, err)
	}
	all := events(t, got())
	var actions []string
	for i, e := range all {
		actions = append(actions, e.Action)
		if e.DedupKey != n.Alerts[i].Key() {
			t.Errorf("%d has the key %q", i, e.DedupKey)
		}
	}
	if want := []string{"trigger", "trigger", "acknowledge", "resolve", "trigger"}; !reflect.DeepEqual(actions, want) {
		t.Fatalf("told %v", actions)
	}
	link := n.Alerts[0].Link
	want := pagerdutyapi.V2Event{RoutingKey: keyOfPagerDuty, Action: "trigger", DedupKey: n.Alerts[0].Key(), Client: "mcpaudit", ClientURL: link,
		Links: []any{map[string]any{"href": link, "text": "What was found, and the calls behind it"}},
		Payload: &pagerdutyapi.V2Payload{Summary: "high: call-spike, user:ada at crm", Source: "crm", Severity: "error", Timestamp: "2026-10-02T09:26:12Z",
			Component: "search", Group: "acme", Class: "call-spike",
			Details: map[string]any{"what": "New", "severity": "high", "finding_id": n.Alerts[0].Finding.ID, "detector": "call_spike",
				"tenant": "acme", "principal": "user:ada", "agent": "helper", "server": "crm", "target": "search", "since": "2026-10-02 09:26:12 UTC",
				"observed": "142 calls in 5 min", "expected": "3 to 11", "reason": n.Alerts[0].Finding.Reason,
				"first_steps": "Ask the owner of the agent.\nStop it when nobody knows it.", "command": n.Alerts[0].Command,
				"also": "7 more findings of this group were left out"}}}
	if !reflect.DeepEqual(all[0], want) {
		t.Errorf("told\n%+v\n%+v\nnot\n%+v\n%+v", all[0], all[0].Payload, want, want.Payload)
	}
	if all[1].Payload.Severity != "critical" {
		t.Errorf("worse is %q", all[1].Payload.Severity)
	}
	if sender.Refresh() != 0 || sender.Groups() {
		t.Error("PagerDuty is not refreshed and does not get alerts at once")
	}
}

func TestPagerDutyKnowsFourSeverities(t *testing.T) {
	for s, want := range map[detect.Severity]string{detect.None: "info", detect.Info: "info", detect.Low: "info", detect.Medium: "warning", detect.High: "error", detect.Critical: "critical"} {
		if got := pagerDutySeverity(s); got != want {
			t.Errorf("%v is %q", s, got)
		}
	}
}

func TestAnEventThatFailsEndsTheSend(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 2 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		w.Write([]byte("{}"))
	}))
	defer s.Close()
	status, err := newSender(t, settings(PagerDuty, s.URL)).Send(t.Context(), notification(sample(1, message.Firing), sample(2, message.Firing), sample(3, message.Firing)))
	if err == nil || status != 500 || asked != 2 {
		t.Errorf("%d, %v after %d events", status, err, asked)
	}
}

func TestPagerDutyIsFoundAtItsOwnAndOtherAddresses(t *testing.T) {
	for given, want := range map[string]string{"": "pagerduty at events.pagerduty.com", "https://events.eu.pagerduty.com": "pagerduty at events.eu.pagerduty.com"} {
		if got := targetOf(newSender(t, settings(PagerDuty, given))).String(); got != want {
			t.Errorf("%q is %s", given, got)
		}
	}
	url, got := record(t)
	for _, end := range []string{"", "/", "/v2/enqueue"} {
		if _, err := newSender(t, settings(PagerDuty, url+end)).Send(t.Context(), notification(sample(1, message.Resolved))); err != nil {
			t.Errorf("%q: %v", end, err)
		}
	}
	events(t, got())
}

func TestPagerDutyTakesHostileFindings(t *testing.T) {
	url, got := record(t)
	sender := newSender(t, settings(PagerDuty, url))
	for _, name := range hostile {
		a := named(name)
		if _, err := sender.Send(t.Context(), notification(a)); err != nil {
			t.Errorf("%.40q: %v", name, err)
		}
	}
	for _, e := range events(t, got()) {
		if strings.ContainsAny(e.Payload.Summary+e.Payload.Source+e.Payload.Class, "\n\r\x00\u202e") {
			t.Errorf("told %q of %q", e.Payload.Summary, e.Payload.Source)
		}
	}
	if len(got()) != len(hostile) {
		t.Errorf("%d events", len(got()))
	}
}
