package notify

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/receiver"
)

// written is a folder with files in it, the plan among them.
func written(t testing.TB, plan string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"notify.yaml": plan, "pd.key": "0123456789abcdef0123456789abcdef\n", "slack.url": "https://hooks.slack.com/services/T0/B0/hushhush\n",
		"hook.key": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "empty.key": " \n", "long.key": strings.Repeat("x", maxSecret+1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "open.key"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "open.key"), 0o604); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "notify.yaml")
}

const wholePlan = `
link: https://grafana.example.com/d/mcpaudit-investigate?var-finding={finding_id}&var-tenant={tenant}
time_intervals:
  - name: nights
    time_intervals:
      - times: [{start_time: '22:00', end_time: '24:00'}, {start_time: '00:00', end_time: '06:00'}]
        location: Europe/Berlin
  - name: offices
    time_intervals: [{weekdays: ['monday:friday'], months: ['1:11'], days_of_month: ['1:-1'], years: ['2020:2040']}]
receivers:
  - name: oncall
    pagerduty: {routing_key_file: pd.key, url: https://events.eu.pagerduty.com}
  - name: chat
    slack: {url_file: slack.url}
  - name: alerts
    alertmanager: {url: http://alerts:9093, plaintext_reason: a network of its own}
    content: none
  - name: siem
    webhook: {url: https://siem.example.com/in/secret-path, secret_file: hook.key}
routes:
  - receiver: oncall
    severity: high
    rules: [call-*, off-hours]
    detectors: [call_spike]
    tenants: [acme]
    servers: [crm*]
    group_by: [rule, principal]
    group_wait: 1s
    group_interval: 1m
    repeat_interval: 0
    limit: 0
    mute_time_intervals: [nights]
    resolved: false
    continue: true
  - receiver: chat
    active_time_intervals: [offices]
    continue: true
  - receiver: alerts
    tenants: [acme]
    continue: true
  - receiver: siem
`

func TestAPlanIsRead(t *testing.T) {
	p, err := Read(written(t, wholePlan))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.ReceiverInfos()); got != "[{oncall pagerduty events.eu.pagerduty.com} {chat slack hooks.slack.com} {alerts alertmanager alerts:9093} {siem webhook siem.example.com}]" {
		t.Error(got)
	}
	if s := p.Receivers[1].Settings; s.Secret != "https://hooks.slack.com/services/T0/B0/hushhush" || s.Kind != receiver.Slack || !p.Receivers[1].Quotes || p.Receivers[2].Settings.PlaintextReason == "" || p.Receivers[2].Quotes {
		t.Errorf("%#v", p.Receivers)
	}
	r := p.Routes[0]
	if r.Severity != detect.High || r.GroupWait != time.Second || r.GroupInterval != time.Minute || r.RepeatInterval != 0 || r.Limit != 0 || r.Resolved || !r.Continue || !slices.Equal(r.GroupBy, []string{"rule", "principal"}) {
		t.Errorf("%+v", r)
	}
	r = p.Routes[3]
	if r.GroupWait != 10*time.Second || r.GroupInterval != 5*time.Minute || r.RepeatInterval != 4*time.Hour || r.Limit != 30 || !r.Resolved || r.Continue || !slices.Equal(r.GroupBy, []string{"rule", "tenant"}) {
		t.Errorf("by default %+v", r)
	}
	// In Berlin it is an hour later in winter.
	for at, muted := range map[string]bool{"2026-11-20T20:59:00Z": false, "2026-11-20T21:00:00Z": true, "2026-11-21T04:59:59Z": true, "2026-11-21T05:00:00Z": false} {
		when, err := time.Parse(time.RFC3339, at)
		if err != nil || p.Routes[0].Muted(when) != muted {
			t.Errorf("%s: muted %v, want %v, %v", at, !muted, muted, err)
		}
	}
	for at, muted := range map[string]bool{"2026-11-20T12:00:00Z": false, "2026-11-21T12:00:00Z": true, "2026-12-01T12:00:00Z": true} {
		when, err := time.Parse(time.RFC3339, at)
		if err != nil || p.Routes[1].Muted(when) != muted {
			t.Errorf("%s: muted %v, want %v, %v", at, !muted, muted, err)
		}
	}
}

func TestNoWayOfPrintingShowsASecret(t *testing.T) {
	p, err := Read(written(t, wholePlan))
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "plan", p, "receivers", p.Receivers, "one", p.Receivers[0], "info", p.ReceiverInfos())
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{log.String(), string(text), fmt.Sprintf("%v %+v %#v %s", p, p, *p, p.Receivers), fmt.Sprintf("%v %+v %#v", p.Receivers[1], p.Receivers[1], p.Receivers[1]), fmt.Sprint(p.ReceiverInfos())} {
		for _, secret := range []string{"0123456789abcdef", "hushhush", "whsec_", "secret-path"} {
			if strings.Contains(printed, secret) {
				t.Errorf("%q is in %s", secret, printed)
			}
		}
	}
}

func TestFindingsGoWhereTheRoutesSay(t *testing.T) {
	p, err := Read(written(t, wholePlan))
	if err != nil {
		t.Fatal(err)
	}
	f := func(change func(*detect.Finding)) *detect.Finding {
		f := &detect.Finding{Rule: "call-spike", Detector: "call_spike", Severity: detect.High, Subject: detect.Subject{Tenant: "acme", Server: "crm-2"}}
		change(f)
		return f
	}
	for _, c := range []struct {
		change func(*detect.Finding)
		want   string
	}{
		{func(f *detect.Finding) {}, "oncall chat alerts siem"},
		{func(f *detect.Finding) { f.Severity = detect.Critical }, "oncall chat alerts siem"},
		{func(f *detect.Finding) { f.Severity = detect.Medium }, "chat alerts siem"},
		{func(f *detect.Finding) { f.Rule = "off-hours" }, "oncall chat alerts siem"},
		{func(f *detect.Finding) { f.Rule = "off-hours-2" }, "chat alerts siem"},
		{func(f *detect.Finding) { f.Detector = "custom" }, "chat alerts siem"},
		{func(f *detect.Finding) { f.Tenant = "acme2" }, "chat siem"},
		{func(f *detect.Finding) { f.Server = "" }, "chat alerts siem"},
	} {
		finding := f(c.change)
		var got []string
		for _, r := range p.routesOf(finding) {
			got = append(got, r.Receiver)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v goes to %v, want %s", finding, got, c.want)
		}
	}
	p.Routes[1].Continue = false // the first that matches and says nothing is the last
	if got := p.routesOf(f(func(*detect.Finding) {})); len(got) != 2 {
		t.Errorf("%d routes", len(got))
	}
	if r := p.routeTo("siem", f(func(*detect.Finding) {})); r == nil || r.Receiver != "siem" {
		t.Errorf("one who was told hears no more: %v", r)
	}
}

func TestWhatIsWrongWithAPlanIsSaid(t *testing.T) {
	const (
		oncall = "receivers:\n  - {name: oncall, pagerduty: {routing_key_file: pd.key}}\n"
		routed = "routes:\n  - {receiver: oncall}\n"
	)
	nights := "time_intervals:\n  - {name: nights, time_intervals: [{weekdays: [monday]}]}\n"
	for _, c := range []struct{ text, want string }{
		{"", "there are no receivers; name somebody who is told"},
		{oncall, "there are no routes, so nobody would be told of anything; add one with the name of a receiver"},
		{oncall + "routes: []\n", "there are no routes, so nobody would be told of anything"},
		{"receivrs: x\n", `line 1: the file has no key "receivrs"; the nearest is "receivers"`},
		{"- x\n", "line 1: the file must have keys"},
		{"a: [\n", "line 1: did not find expected node content"},
		{oncall + routed + "---\nx: 1\n", "the file has more than one document"},
		{oncall + routed + routed, "line 5: routes of the file is set twice"},
		{oncall + "routes:\n", "routes has no value; leave the key out, or give it one"},
		{"receivers:\n  - &a {name: x, slack: {url_file: slack.url}}\n  - *a\n", "line 3: receivers, entry 2: aliases are not taken"},
		{"receivers:\n  - {slack: {url_file: slack.url}}\n" + routed, "line 2: the receiver has no name"},
		{"receivers:\n  - {name: 'on call', slack: {url_file: slack.url}}\n" + routed, `line 2: receiver "on call": a name has 1 to 64 letters`},
		{"receivers:\n  - {name: oncall}\n" + routed, `line 2: receiver "oncall" is of no kind; give it alertmanager, pagerduty, slack or webhook`},
		{"receivers:\n  - {name: oncall, slack: {url_file: slack.url}, pagerduty: {routing_key_file: pd.key}}\n" + routed, `line 2: receiver "oncall" is of several kinds; write a receiver for each`},
		{oncall + "  - {name: oncall, slack: {url_file: slack.url}}\n" + routed, `line 3: receiver "oncall" is there twice`},
		{"receivers:\n  - {name: oncall, pagerduty: {url: 'https://x'}}\n" + routed, `line 2: receiver "oncall": pagerduty needs routing_key_file`},
		{"receivers:\n  - {name: oncall, slack: {}}\n" + routed, `receiver "oncall": slack needs url_file`},
		{"receivers:\n  - {name: oncall, slack: {url: 'https://x'}}\n" + routed, `line 2: slack has no key "url"; the nearest is "url_file"`},
		{"receivers:\n  - {name: oncall, webhook: {secret_file: hook.key}}\n" + routed, `receiver "oncall": webhook needs a url`},
		{"receivers:\n  - {name: oncall, webhook: {url: 'https://x'}}\n" + routed, `receiver "oncall": webhook needs secret_file`},
		{"receivers:\n  - {name: oncall, alertmanager: {bearer_token_file: pd.key}}\n" + routed, `receiver "oncall": alertmanager needs a url`},
		{"receivers:\n  - {name: oncall, slack: {url_file: missing}}\n" + routed, "missing: no such file or directory"},
		{"receivers:\n  - {name: oncall, slack: {url_file: open.key}}\n" + routed, `receiver "oncall": url_file: everybody may read `},
		{"receivers:\n  - {name: oncall, slack: {url_file: empty.key}}\n" + routed, "empty.key is empty"},
		{"receivers:\n  - {name: oncall, slack: {url_file: long.key}}\n" + routed, "has more than 65536 bytes"},
		{"receivers:\n  - {name: oncall, slack: {url_file: .}}\n" + routed, " is not a file"},
		{"receivers:\n  - {name: oncall, slack: {url_file: slack.url, ca_file: missing}}\n" + routed, `receiver "oncall": ca_file: open `},
		{"receivers:\n  - {name: oncall, slack: {url_file: slack.url}, content: all}\n" + routed, `receiver "oncall": there is no content "all"; use redacted or none`},
		{oncall + "routes:\n  - {severity: high}\n", "line 4: the route has no receiver"},
		{oncall + "routes:\n  - {receiver: onkall}\n", `line 4: there is no receiver "onkall"; the nearest is "oncall"`},
		{oncall + "routes:\n  - {receiver: oncall, severity: urgent}\n", `line 4: there is no severity "urgent"; use info, low, medium, high or critical`},
		{oncall + "routes:\n  - {receiver: oncall, rules: []}\n", "line 4: rules is empty and would match nothing; leave it out to match all"},
		{oncall + "routes:\n  - {receiver: oncall, tenants: ['*acme']}\n", `line 4: tenants: "*acme" is not a name, or the beginning of one with * at its end`},
		{oncall + "routes:\n  - {receiver: oncall, group_by: [rules]}\n", `line 4: group_by: there is no "rules"; use rule, detector, tenant, principal, server, severity`},
		{oncall + "routes:\n  - {receiver: oncall, group_by: [rule, rule]}\n", "line 4: group_by: rule is there twice"},
		{oncall + "routes:\n  - {receiver: oncall, group_wait: 2h}\n", "line 4: group_wait 2h0m0s is not between 0s and 1h0m0s"},
		{oncall + "routes:\n  - {receiver: oncall, group_interval: -1s}\n", "line 4: group_interval -1s is not between 0s and 24h0m0s"},
		{oncall + "routes:\n  - {receiver: oncall, group_wait: soon}\n", `line 4: group_wait: "soon" is not a duration such as 30s, 5m or 4h`},
		{oncall + "routes:\n  - {receiver: oncall, repeat_interval: 1m}\n", "line 4: repeat_interval 1m0s is neither 0, for never, nor between 5m and 336h"},
		{oncall + "routes:\n  - {receiver: oncall, limit: -1}\n", "line 4: limit -1 is not between 0, for none, and 10000 messages an hour"},
		{oncall + "routes:\n  - {receiver: oncall, limit: many}\n", `line 4: limit: "many" is not a whole number`},
		{oncall + "routes:\n  - {receiver: oncall, resolved: no}\n", `line 4: resolved: "no" is neither true nor false`},
		{oncall + "routes:\n  - {receiver: oncall, mute_time_intervals: [nights]}\n", `line 4: mute_time_intervals: there is no time interval "nights"; the file has none`},
		{nights + oncall + "routes:\n  - {receiver: oncall, active_time_intervals: [night]}\n", `line 6: active_time_intervals: there is no time interval "night"; the nearest is "nights"`},
		{oncall + "routes:\n  - {receiver: oncall, mute_time_intervals: []}\n", "line 4: mute_time_intervals is empty; leave it out"},
		{oncall + "routes:\n  - {receiver: oncall}\n  - {receiver: oncall, severity: high}\n", "line 5: this route is never reached: the one at line 4 takes every finding"},
		{oncall + "  - {name: chat, slack: {url_file: slack.url}}\n" + routed, `line 3: no route leads to receiver "chat"`},
		{"time_intervals:\n  - {time_intervals: [{weekdays: [monday]}]}\n" + oncall + routed, "line 2: the time interval has no name"},
		{nights + "  - {name: nights, time_intervals: [{weekdays: [monday]}]}\n" + oncall + routed, `line 3: time interval "nights" is there twice`},
		{"time_intervals:\n  - {name: nights}\n" + oncall + routed, `line 2: time interval "nights" is empty`},
		{"time_intervals:\n  - {name: n, time_intervals: [{}]}\n" + oncall + routed, "line 2: time_intervals, entry 1 is empty, and would be all of the time"},
		{"time_intervals:\n  - {name: n, time_intervals: [{weekday: [monday]}]}\n" + oncall + routed, `line 2: time_intervals, entry 1 has no key "weekday"; the nearest is "weekdays"`},
		{"time_intervals:\n  - {name: n, time_intervals: [{times: [{start_time: '09:00', end: '10:00'}]}]}\n" + oncall + routed, `line 2: times has no key "end"; the nearest is "end_time"`},
		{"time_intervals:\n  - {name: n, time_intervals: [{times: [{start_time: '22:00', end_time: '06:00'}]}]}\n" + oncall + routed, "line 2: time_intervals, entry 1: start time cannot be equal or greater than end time"},
		{"time_intervals:\n  - {name: n, time_intervals: [{weekdays: [monday], location: Nowhere/Land}]}\n" + oncall + routed, "line 2: time_intervals, entry 1: "},
		{"receivers:\n  - {name: oncall, pagerduty: {routing_key_file: hook.key}}\n" + routed, `receiver "oncall": make the pagerduty receiver: `},
		{"receivers:\n  - {name: oncall, alertmanager: {url: 'http://alerts:9093'}}\n" + routed, `receiver "oncall": make the alertmanager receiver: its URL is http`},
		{"link: ftp://x\n" + oncall + routed, `link: "ftp://x" is not a URL such as `},
		{"link: https://x/{find}\n" + oncall + routed, "link: there is no value {find}; the nearest is {finding_id}"},
		{"link: https://x/{tenant\n" + oncall + routed, "link: {tenant has no closing brace"},
	} {
		_, err := Read(written(t, c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hushhush") || strings.Contains(err.Error(), "whsec_Mf") {
			t.Errorf("%s\nsays: %v\nwant: %s", c.text, err, c.want)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "read notify file: open ") {
		t.Error(err)
	}
	if _, err := Read(written(t, strings.Repeat("# much\n", maxPlan/7+1))); err == nil || !strings.Contains(err.Error(), "has more than 1048576 bytes") {
		t.Error(err)
	}
	many := "receivers:\n" + strings.Repeat("  - {name: a, slack: {url_file: slack.url}}\n", maxReceivers+1)
	if _, err := Read(written(t, many+routed)); err == nil || !strings.Contains(err.Error(), "line 52: there are more than 50 receivers") {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(wholePlan))
	f.Add([]byte("receivers: [{name: a, slack: {url_file: x}}]\nroutes: [{receiver: a, mute_time_intervals: [n]}]\ntime_intervals: [{name: n, time_intervals: [{years: ['2020:9999999999']}]}]\n"))
	f.Add([]byte("link: 'http://{finding_id}/{tenant}'\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parse(text, func(string, string) (string, error) { return "secret", nil })
		if err != nil {
			if p != nil && len(p.Routes) == 0 && len(p.Receivers) == 0 && err.Error() == "" {
				t.Error("an error without a text")
			}
			return
		}
		// Whatever is taken can be used.
		now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
		finding := &detect.Finding{Severity: detect.Critical, Rule: "r", ID: idNo(1)}
		for i := range p.Routes {
			p.Routes[i].Muted(now)
			if p.receiver(p.Routes[i].Receiver) == nil || p.routeTo(p.Routes[i].Receiver, finding) == nil {
				t.Errorf("a route leads nowhere: %+v", p.Routes[i])
			}
		}
		if p.link != "" {
			if _, err := fillLink(p.link, finding); err != nil {
				t.Errorf("link %q: %v", p.link, err)
			}
		}
		if len(p.ReceiverInfos()) == 0 {
			t.Error("a plan without receivers")
		}
	})
}
