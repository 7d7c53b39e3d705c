package push

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/grafana/grafana-openapi-client-go/models"
	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/dashboards"
	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
	"github.com/mcpaudit/mcpaudit/dashboards/push/grafanatest"
)

// The formats of Grafana's file provisioning, as far as our files use them
// (https://grafana.com/docs/grafana/latest/administration/provisioning/ and
// …/alerting/set-up/provision-alerting-resources/file-provisioning/).
type sourceFile struct {
	APIVersion  int `yaml:"apiVersion"`
	Datasources []struct {
		Name           string            `yaml:"name"`
		UID            string            `yaml:"uid"`
		Type           string            `yaml:"type"`
		Access         string            `yaml:"access"`
		OrgID          int64             `yaml:"orgId"`
		Editable       bool              `yaml:"editable"`
		URL            string            `yaml:"url"`
		JSONData       map[string]any    `yaml:"jsonData"`
		SecureJSONData map[string]string `yaml:"secureJsonData"`
	} `yaml:"datasources"`
}

type boardFile struct {
	APIVersion int `yaml:"apiVersion"`
	Providers  []struct {
		Name                  string            `yaml:"name"`
		OrgID                 int64             `yaml:"orgId"`
		Folder                string            `yaml:"folder"`
		Type                  string            `yaml:"type"`
		DisableDeletion       bool              `yaml:"disableDeletion"`
		Editable              bool              `yaml:"editable"`
		AllowUIUpdates        bool              `yaml:"allowUiUpdates"`
		UpdateIntervalSeconds int               `yaml:"updateIntervalSeconds"`
		Options               map[string]string `yaml:"options"`
	} `yaml:"providers"`
}

type contactFile struct {
	APIVersion    int `yaml:"apiVersion"`
	ContactPoints []struct {
		OrgID     int64  `yaml:"orgId"`
		Name      string `yaml:"name"`
		Receivers []struct {
			UID                   string         `yaml:"uid"`
			Type                  string         `yaml:"type"`
			DisableResolveMessage bool           `yaml:"disableResolveMessage"`
			Settings              map[string]any `yaml:"settings"`
		} `yaml:"receivers"`
	} `yaml:"contactPoints"`
	Policies []map[string]any `yaml:"policies"` // orgId, and a route as the API has it
}

const provisioningFiles = "../../deploy/grafana/provisioning"

func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(provisioningFiles, name))
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// What files provision is what push puts there: a Grafana that was pushed to has what
// the files say, and nothing besides.
func TestFilesAndPushDescribeTheSame(t *testing.T) {
	var sources sourceFile
	var boards boardFile
	var contact contactFile
	var rules alerts.File
	readYAML(t, "datasources/mcpaudit.yaml", &sources)
	readYAML(t, "dashboards/mcpaudit.yaml", &boards)
	readYAML(t, "alerting/contact.yaml", &contact)
	readYAML(t, "alerting/rules.yaml", &rules)

	g := grafanatest.New(t)
	mustApply(t, Config{URL: g.URL, Token: grafanatest.Token, Dashboards: dashboards.FS, Rules: shippedRules(t),
		ClickHouse: &ClickHouse{URL: "http://clickhouse", User: "mcpaudit_grafana", Database: "mcpaudit", Password: "a password"},
		Prometheus: &Prometheus{URL: "http://prometheus:9090"}, Contact: &Contact{AlertmanagerURL: "http://alertmanager:9093"}})

	if len(sources.Datasources) != len(g.Sources) {
		t.Errorf("files have %d data sources, push makes %d", len(sources.Datasources), len(g.Sources))
	}
	for _, f := range sources.Datasources {
		if host, ok := f.JSONData["host"].(string); ok {
			if host != "${MCPAUDIT_CLICKHOUSE_HOST}" {
				t.Errorf("the host is %q; compose sets MCPAUDIT_CLICKHOUSE_HOST", host)
			}
			if db := f.JSONData["defaultDatabase"]; db != "${MCPAUDIT_CLICKHOUSE_DATABASE}" {
				t.Errorf("the database is %q; compose sets MCPAUDIT_CLICKHOUSE_DATABASE", db)
			}
			f.JSONData["host"], f.JSONData["defaultDatabase"] = "clickhouse", "mcpaudit"
		}
		secret := map[string]bool{}
		for k, v := range f.SecureJSONData {
			if secret[k] = true; !strings.HasPrefix(v, "$__file{/") {
				t.Errorf("%s: the secret %s is not read from a file", f.UID, k)
			}
		}
		d := g.Sources[f.UID]
		if d == nil {
			t.Errorf("push makes no data source %s", f.UID)
			continue
		}
		got := map[string]any{"name": d.Name, "type": d.Type, "access": d.Access, "url": d.URL, "jsonData": d.JSONData, "secrets": d.SecureJSONFields}
		want := map[string]any{"name": f.Name, "type": f.Type, "access": f.Access, "url": f.URL, "jsonData": f.JSONData, "secrets": secret}
		same(t, "data source "+f.UID, want, got)
		if f.OrgID != 1 || f.Editable {
			t.Errorf("%s: %+v", f.UID, f)
		}
	}

	p := boards.Providers[0]
	if len(boards.Providers) != 1 || p.Folder != g.Folders["mcpaudit"].Title || p.Type != "file" || p.Options["path"] != "/etc/mcpaudit/dashboards" {
		t.Errorf("the dashboards are provided by %+v", boards.Providers)
	}

	n := 0
	for _, group := range rules.Groups {
		if group.Folder != g.Folders["mcpaudit"].Title || group.OrgID != 1 {
			t.Errorf("group %s is in folder %q", group.Name, group.Folder)
		}
		if got := fmt.Sprintf("%dm", g.Intervals["mcpaudit/"+group.Name]/60); got != group.Interval {
			t.Errorf("group %s is evaluated every %s by push, %s by files", group.Name, got, group.Interval)
		}
		for _, f := range group.Rules {
			n++
			r := g.Rules[f.UID]
			if r == nil {
				t.Errorf("push makes no rule %s", f.UID)
				continue
			}
			if f.Annotations["__panelId__"] != fmt.Sprint(f.PanelID) || f.Annotations["__dashboardUid__"] != f.DashboardUID || g.Boards[f.DashboardUID] == nil {
				t.Errorf("%s is linked to panel %d of %s, and its annotations say %v", f.UID, f.PanelID, f.DashboardUID, f.Annotations)
			}
			var data []map[string]any
			for _, q := range r.Data {
				data = append(data, map[string]any{"refId": q.RefID, "queryType": q.QueryType, "datasourceUid": q.DatasourceUID, "model": q.Model,
					"relativeTimeRange": map[string]any{"from": q.RelativeTimeRange.From, "to": q.RelativeTimeRange.To}})
			}
			same(t, "rule "+f.UID,
				map[string]any{"title": f.Title, "condition": f.Condition, "data": f.Data, "noData": f.NoDataState, "error": f.ExecErrState, "annotations": f.Annotations, "labels": f.Labels, "group": group.Name, "paused": f.IsPaused},
				map[string]any{"title": *r.Title, "condition": *r.Condition, "data": data, "noData": *r.NoDataState, "error": *r.ExecErrState, "annotations": r.Annotations, "labels": r.Labels, "group": *r.RuleGroup, "paused": r.IsPaused})
		}
	}
	if n != len(g.Rules) {
		t.Errorf("files have %d rules, push makes %d", n, len(g.Rules))
	}

	c := contact.ContactPoints[0]
	have := g.Contacts[c.Receivers[0].UID]
	if have == nil || len(contact.ContactPoints) != 1 || len(c.Receivers) != 1 {
		t.Fatalf("contact points of the file are %+v", contact.ContactPoints)
	}
	same(t, "contact point", map[string]any{"name": c.Name, "type": c.Receivers[0].Type, "settings": c.Receivers[0].Settings},
		map[string]any{"name": have.Name, "type": *have.Type, "settings": have.Settings})

	tree := contact.Policies[0]
	delete(tree, "orgId")
	var pushed map[string]any
	if err := json.Unmarshal(g.Policies, &pushed); err != nil {
		t.Fatal(err)
	}
	same(t, "policies", tree, pushed)
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&models.Route{}); err != nil {
		t.Errorf("the policies are not of Grafana's type: %v", err)
	}
}

// same compares what two ways say of a thing.
func same(t *testing.T, what string, file, push any) {
	t.Helper()
	a, err := plain(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := plain(push)
	if err != nil {
		t.Fatal(err)
	}
	if d := differences(bare(a), bare(b)); len(d) > 0 {
		t.Errorf("%s: files and push differ in %q", what, d)
	}
}

// Grafana puts environment variables and files in place of what follows a dollar sign:
// there is none that we don't know of.
func TestFilesAskForNoOtherVariables(t *testing.T) {
	known := []string{"${MCPAUDIT_CLICKHOUSE_HOST}", "${MCPAUDIT_CLICKHOUSE_DATABASE}", "$__file{/run/secrets/clickhouse_grafana}"}
	found := 0
	for _, pattern := range []string{"*/*.yaml", "*/*.yml", "*/*.json"} {
		names, err := filepath.Glob(filepath.Join(provisioningFiles, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			found++
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
					continue
				}
				for _, v := range regexp.MustCompile(`\$\S*`).FindAllString(line, -1) {
					if !slices.Contains(known, v) {
						t.Errorf("%s has %q", name, v)
					}
				}
			}
		}
	}
	if found != 4 {
		t.Errorf("%d files were looked at; 4 are tested here", found)
	}
}
