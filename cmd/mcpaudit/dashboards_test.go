package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/dashboards/push"
	"github.com/mcpaudit/mcpaudit/dashboards/push/grafanatest"
)

const grafanaKey = "mcpa_abcdefghijklmnop_abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst"

// dashboardsRun runs a command of dashboards as run does.
func dashboardsRun(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	s := &surroundings{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, env: func(name string) string { return env[name] }, now: time.Now, colour: "never"}
	root := &cobra.Command{Use: "mcpaudit", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(dashboardsCommand(s))
	root.SetArgs(append([]string{"dashboards"}, args...))
	root.SetOut(&out)
	root.SetErr(&errs)
	status := 0
	if err := root.ExecuteContext(t.Context()); err != nil {
		status = 1
		if exit := exitStatus(0); errors.As(err, &exit) {
			status = int(exit)
		} else {
			errs.WriteString(err.Error())
		}
	}
	for _, secret := range []string{grafanaKey, grafanatest.Token, "T0/B0/secret"} {
		if strings.Contains(out.String()+errs.String(), secret) {
			t.Errorf("mcpaudit dashboards %q has shown a secret", args)
		}
	}
	return result{status, out.String(), errs.String()}
}

// private is a file that its owner alone may read.
func private(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The shipped dashboards and rules, on a Grafana, from the first diff to the end.
func TestDashboardsAreAppliedOnceAndRemoved(t *testing.T) {
	g := grafanatest.New(t)
	empty := g.State()
	env := map[string]string{"MCPAUDIT_GRAFANA_URL": g.URL, "MCPAUDIT_GRAFANA_TOKEN": grafanatest.Token + "\n"}
	wanted := []string{"--clickhouse-url", "http://127.0.0.1:4779", "--clickhouse-key-file", private(t, grafanaKey+"\n"), "--prometheus-url", "http://127.0.0.1:9090",
		"--contact-file", private(t, `[{"type": "slack", "settings": {"url": "https://hooks.example/T0/B0/secret"}}]`)}

	if r := dashboardsRun(t, env, append([]string{"diff"}, wanted...)...); r.status != 1 || !strings.Contains(r.stdout, "mcpaudit overview") || !strings.Contains(r.stdout, "changes to make") {
		t.Fatalf("the first diff: %+v", r)
	}
	if r := dashboardsRun(t, env, append([]string{"apply", "--dry-run"}, wanted...)...); r.status != 0 || len(g.Writes) > 0 {
		t.Fatalf("a dry run: %+v, %q", r, g.Writes)
	}
	if r := dashboardsRun(t, env, append([]string{"apply"}, wanted...)...); r.status != 0 || !strings.Contains(r.stdout, "changes made") || g.Boards["mcpaudit-overview"] == nil {
		t.Fatalf("apply: %+v", r)
	}
	rule := g.Rules["mcpaudit-finding-waits"]
	if rule == nil || rule.Annotations["__dashboardUid__"] != "mcpaudit-detections" || rule.Annotations["__panelId__"] == "" {
		t.Errorf("the rule is not linked to its panel: %+v", rule)
	}
	g.Reset()
	if r := dashboardsRun(t, env, "apply"); r.status != 0 || len(g.Writes) > 0 || !strings.Contains(r.stdout, "nothing was changed") {
		t.Fatalf("a second apply: %+v, %q", r, g.Writes)
	}
	if r := dashboardsRun(t, env, append([]string{"diff", "--json"}, wanted...)...); r.status != 0 || !strings.HasPrefix(r.stdout, `{"changes":[]`) {
		t.Fatalf("a diff of nothing: %+v", r)
	}
	g.Boards["mcpaudit-overview"]["title"] = "Mine"
	r := dashboardsRun(t, env, "diff", "--json")
	var p push.Plan
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil || r.status != 1 || len(p.Changes) != 1 || p.Changes[0].UID != "mcpaudit-overview" || p.Changes[0].Paths[0] != "title" {
		t.Fatalf("a diff for programs: %+v, %v", r, err)
	}
	if r := dashboardsRun(t, env, "remove", "--dry-run"); r.status != 0 || len(g.Writes) > 0 {
		t.Fatalf("a dry removal: %+v", r)
	}
	if r := dashboardsRun(t, env, "remove"); r.status != 0 || g.State() != empty {
		t.Fatalf("remove: %+v, leaves\n%s", r, g.State())
	}
}

func TestDashboardsSayWhatIsWrong(t *testing.T) {
	g := grafanatest.New(t)
	env := map[string]string{"MCPAUDIT_GRAFANA_URL": g.URL, "MCPAUDIT_GRAFANA_TOKEN": grafanatest.Token}
	open := private(t, grafanaKey)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env    map[string]string
		args   []string
		status int
		want   string
	}{
		{nil, []string{"diff"}, 2, "which Grafana? give --url, or set MCPAUDIT_GRAFANA_URL"},
		{nil, []string{"apply", "--url", g.URL}, 1, "there is no token of Grafana"},
		{nil, []string{"apply", "--url", g.URL, "--token-file", open}, 1, "everybody may read it; run: chmod 600"},
		{nil, []string{"apply", "--url", g.URL, "--token-file", private(t, " \n")}, 1, "the file is empty"},
		{nil, []string{"apply", "--url", g.URL, "--token-file", t.TempDir()}, 1, "it is a folder"},
		{nil, []string{"apply", "--url", g.URL, "--token-file", private(t, "glsa_other")}, 1, "Grafana does not know the token"},
		{nil, []string{"apply", "--url", "http://grafana.example", "--token-file", private(t, "glsa_other")}, 1, "in plaintext"},
		{env, []string{"apply"}, 1, "say where ClickHouse is (--clickhouse-url"},
		{env, []string{"diff"}, 2, "say where ClickHouse is (--clickhouse-url"},
		{env, []string{"apply", "--clickhouse-url", "http://x:1"}, 1, "needs --clickhouse-key-file"},
		{env, []string{"apply", "--clickhouse-user", "x"}, 1, "no --clickhouse-url"},
		{env, []string{"apply", "--clickhouse-uid", "x", "--contact-file", private(t, `{"url":"T0/B0/secret"}`)}, 1, "it is no list such as"},
		{env, []string{"apply", "--clickhouse-uid", "x", "--contact-file", private(t, `[]`)}, 1, "the list is empty"},
		{env, []string{"apply", "--clickhouse-uid", "x"}, 1, `use data source "x"`},
		{env, []string{"remove", "--ca", filepath.Join(t.TempDir(), "none")}, 1, "read certificates"},
	} {
		if r := dashboardsRun(t, c.env, c.args...); r.status != c.status || !strings.Contains(r.stderr, c.want) || r.stdout != "" {
			t.Errorf("%q: %+v; want status %d and %q", c.args, r, c.status, c.want)
		}
	}
	if len(g.Writes) > 0 {
		t.Errorf("something was written: %q", g.Writes)
	}
}

// What was done before a failure is shown with it.
func TestAFailureShowsWhatWasDone(t *testing.T) {
	g := grafanatest.New(t)
	g.FailAt = 3
	env := map[string]string{"MCPAUDIT_GRAFANA_URL": g.URL, "MCPAUDIT_GRAFANA_TOKEN": grafanatest.Token}
	r := dashboardsRun(t, env, "apply", "--clickhouse-url", "http://127.0.0.1:4779", "--clickhouse-key-file", private(t, grafanaKey))
	if r.status != 1 || !strings.Contains(r.stdout, "2 changes made") || !strings.Contains(r.stderr, "Grafana failed with status 500") {
		t.Errorf("%+v", r)
	}
}
