package alerttest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPrometheusScrapesWithATokenAndCallsAnAlertmanager(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer of-a-monitor" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintln(w, "# TYPE mcpaudit_test gauge\nmcpaudit_test{a=\"b\"} 42")
	}))
	defer target.Close()
	token, rules := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "rules.yml")
	write(t, token, "of-a-monitor\n")
	write(t, rules, `groups: [{name: test, interval: 1s, rules: [{alert: TooMany, expr: mcpaudit_test > 41, labels: {severity: high}, annotations: {summary: "{{ $value }} of them"}}]}]`)
	hook := Listen(t)
	am := Alertmanager(t, route(hook))
	p := Prometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}
scrape_configs:
  - job_name: test
    authorization: {credentials_file: %q}
    static_configs: [{targets: [%q]}]
`, rules, strings.TrimPrefix(am.URL, "http://"), token, strings.TrimPrefix(target.URL, "http://")))
	got := p.Await("mcpaudit_test")
	if len(got) != 1 || got[0].Value != 42 || got[0].Labels["a"] != "b" || got[0].Labels["job"] != "test" {
		t.Errorf("scraped %+v", got)
	}
	if got := p.Query("mcpaudit_test > 100"); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if got := am.Await(1, `alertname="TooMany"`); got[0].Labels["severity"] != "high" {
		t.Errorf("alerted with %+v", got[0].Labels)
	}
	if c := hook.Next(); c.Status != "firing" || len(c.Alerts) != 1 || c.Alerts[0].Annotations["summary"] != "42 of them" {
		t.Errorf("called with %+v", c)
	}
}

func TestAServerKeepsItsPortAndDataThroughStopAndKill(t *testing.T) {
	am := Alertmanager(t, route(Listen(t)))
	id := am.Silence("alertname", "TooMany")
	am.Stop()
	if am.process.running() {
		t.Error("it runs after Stop")
	}
	am.Start()
	if err := am.get(t.Context(), "/api/v2/silence/"+id, nil); err != nil {
		t.Error(err)
	}
	am.Kill()
	if am.process.running() {
		t.Error("it runs after Kill")
	}
	am.Start()
	if err := am.get(t.Context(), "/api/v2/silence/"+id, nil); err != nil {
		t.Error(err)
	}
}

func route(hook *Listener) string {
	return fmt.Sprintf("route: {receiver: test, group_wait: 100ms}\nreceivers: [{name: test, webhook_configs: [{url: %q}]}]\n", hook.URL)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
