package receiver

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/internal/alerttest"
)

// realAM is an Alertmanager that groups by alertname and calls a listener.
func realAM(t *testing.T) (*alerttest.AlertmanagerServer, *alerttest.Listener, func(...message.Alert)) {
	hook := alerttest.Listen(t)
	am := alerttest.Alertmanager(t, fmt.Sprintf(`
route:
  receiver: test
  group_by: [alertname]
  group_wait: 500ms
  group_interval: 300ms
  repeat_interval: 1h
receivers:
  - name: test
    webhook_configs: [{url: %q, send_resolved: true}]
`, hook.URL))
	sender := newSender(t, Settings{Kind: Alertmanager, URL: am.URL})
	return am, hook, func(alerts ...message.Alert) {
		t.Helper()
		if status, err := sender.Send(t.Context(), notification(alerts...)); err != nil || status != 200 {
			t.Fatalf("%d, %v", status, err)
		}
	}
}

// now is a finding that began five minutes ago and was found now.
func now(n int, rule string, what message.What) message.Alert {
	a := sample(n, what)
	a.Finding.Rule = rule
	a.Finding.StartedAt, a.Finding.OpenedAt = time.Now().Add(-5*time.Minute).UnixMicro(), time.Now().UnixMicro()
	if what == message.Resolved {
		a.Finding.EndedAt = time.Now().UnixMicro()
	}
	return a
}

// said are the findings of a call with status and severity, sorted.
func said(c alerttest.Call) []string {
	var out []string
	for _, a := range c.Alerts {
		id := a.Labels["finding_id"]
		out = append(out, id[len(id)-1:]+" "+a.Status+" "+a.Labels["severity"])
	}
	slices.Sort(out)
	return out
}

// says waits for a call that says this. An Alertmanager may look at its alerts while
// those of one request come in, and then it calls twice.
func says(t *testing.T, hook *alerttest.Listener, want ...string) alerttest.Call {
	t.Helper()
	for range 3 {
		c := hook.Next()
		got := said(c)
		if slices.Equal(got, want) {
			return c
		}
		t.Logf("called with %q, not %q", got, want)
		if len(want) == 1 {
			break
		}
	}
	t.Fatalf("nobody was called with %q", want)
	return alerttest.Call{}
}

func TestARealAlertmanagerGroupsWorsensAndResolves(t *testing.T) {
	am, hook, send := realAM(t)
	send(now(1, "call-spike", message.Firing), now(2, "call-spike", message.Firing), now(3, "call-spike", message.Firing))
	c := says(t, hook, "1 firing high", "2 firing high", "3 firing high")
	if c.Status != "firing" || c.CommonLabels["tenant"] != "acme" || c.CommonAnnotations["runbook"] == "" || c.Alerts[0].GeneratorURL == "" {
		t.Errorf("called with %+v", c)
	}
	ends := time.Time(*am.Alerts()[0].EndsAt)
	if left := time.Until(ends); left < 25*time.Minute || left > 31*time.Minute {
		t.Errorf("an open finding ends in %v", left)
	}

	worse := at(now(2, "call-spike", message.Worse), 2, detect.Critical)
	send(worse)
	says(t, hook, "1 firing high", "2 firing critical", "2 resolved high", "3 firing high")
	am.Await(1, `finding_id="`+worse.Finding.ID+`"`)

	send(now(1, "call-spike", message.Resolved), at(now(2, "call-spike", message.Resolved), 3, detect.Critical), now(3, "call-spike", message.Resolved))
	c = says(t, hook, "1 resolved high", "2 resolved critical", "3 resolved high")
	if c.Status != "resolved" {
		t.Errorf("called with %+v", c)
	}
	am.Await(0)
	hook.Quiet()
}

func TestARealAlertmanagerEndsWhatAProcessBeforeHadSent(t *testing.T) {
	am, hook, send := realAM(t)
	send(at(now(1, "call-spike", message.Firing), 1, detect.Low))
	says(t, hook, "1 firing low")
	// It worsened and was resolved while nobody could tell; another process does.
	another := newSender(t, Settings{Kind: Alertmanager, URL: am.URL})
	if _, err := another.Send(t.Context(), notification(at(now(1, "call-spike", message.Resolved), 3, detect.High))); err != nil {
		t.Fatal(err)
	}
	am.Await(0)
	if c := hook.Next(); c.Status != "resolved" || !slices.Contains(said(c), "1 resolved low") {
		t.Errorf("called with %+v", c)
	}
}

func TestARealAlertmanagerKeepsSilentWhatIsSilenced(t *testing.T) {
	am, hook, send := realAM(t)
	am.Silence("tenant", "acme")
	send(now(1, "call-spike", message.Firing))
	loud := now(2, "call-spike", message.Firing)
	loud.Finding.Tenant = "other"
	send(loud)
	says(t, hook, "2 firing high")
	if got := am.Await(1, `tenant="acme"`); len(got[0].Status.SilencedBy) != 1 {
		t.Errorf("it is %+v", got[0].Status)
	}
	hook.Quiet()
}

func TestARealAlertmanagerThatStartsAgainCallsOnce(t *testing.T) {
	am, hook, send := realAM(t)
	send(now(1, "call-spike", message.Firing))
	says(t, hook, "1 firing high")
	am.Settle()
	am.Stop()
	if _, err := newSender(t, Settings{Kind: Alertmanager, URL: am.URL}).Send(t.Context(), notification(now(1, "call-spike", message.Firing))); err == nil {
		t.Error("an Alertmanager that is down was told")
	}
	am.Start()
	send(now(1, "call-spike", message.Firing)) // as Refresh has it
	send(now(2, "off-hours", message.Firing))
	says(t, hook, "2 firing high")
	send(now(1, "call-spike", message.Resolved))
	says(t, hook, "1 resolved high")
	hook.Quiet()
}
