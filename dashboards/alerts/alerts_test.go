package alerts

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/dashboards"
)

func shippedGroups(t testing.TB) []Group {
	t.Helper()
	groups, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	return groups
}

// each calls visit for every shipped rule of a source.
func each(t testing.TB, source string, visit func(Rule)) {
	t.Helper()
	n := 0
	for _, g := range shippedGroups(t) {
		for _, r := range g.Rules {
			if r.Source == source {
				visit(r)
				n++
			}
		}
	}
	if n == 0 {
		t.Fatalf("there is no rule over %s", source)
	}
}

func TestTheFileForGrafanaIsCurrent(t *testing.T) {
	committed, err := os.ReadFile("../../deploy/grafana/provisioning/alerting/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	made, err := Provisioning(dashboards.FS)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(committed, made) {
		t.Error("deploy/grafana/provisioning/alerting/rules.yaml is not what rules.yaml gives; run make generate")
	}
	if i := bytes.IndexByte(committed, '$'); i >= 0 {
		t.Errorf("there is a dollar sign, which Grafana takes for a variable: %.60q", committed[i:])
	}
	d := yaml.NewDecoder(bytes.NewReader(committed))
	d.KnownFields(true)
	var file File
	if err := d.Decode(&file); err != nil || len(file.Groups) != len(shippedGroups(t)) {
		t.Errorf("the file is not of its own format: %v", err)
	}
}

func TestEveryRuleIsLinkedToAPanelThatIsThere(t *testing.T) {
	panels, err := PanelsOf(dashboards.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range shippedGroups(t) {
		for _, r := range g.Rules {
			if panels[r.Dashboard] == nil {
				t.Errorf("%s: there is no dashboard %q", r.UID, r.Dashboard)
			} else if panels[r.Dashboard][r.Panel] == 0 {
				t.Errorf("%s: dashboard %s has no panel %q", r.UID, r.Dashboard, r.Panel)
			}
		}
	}
}

// What annotations take from an alert's labels is there: the texts of the query's answer
// or what PromQL keeps. The query is run elsewhere; this is about names.
var labelOf = regexp.MustCompile(`\.Labels\.(\w+)`)

func TestLabelsOfAnnotationsAreThoseOfTheQuery(t *testing.T) {
	for _, g := range shippedGroups(t) {
		for _, r := range g.Rules {
			for _, m := range labelOf.FindAllStringSubmatch(r.Summary+r.Description+r.Runbook, -1) {
				switch k := keptBy.FindStringSubmatch(r.Query); {
				case r.Source == Prometheus && (k == nil || k[1] != m[1]):
					t.Errorf("%s: the summary has the label %s, the query keeps %v", r.UID, m[1], k)
				case r.Source == ClickHouse && !strings.Contains(r.Query, " AS "+m[1]):
					t.Errorf("%s: the summary has the label %s, which no column is called", r.UID, m[1])
				}
			}
			if strings.Contains(r.Summary, "severity }}") && strings.Contains(r.Summary, ".Labels.severity") {
				t.Errorf("%s: the label severity is the rule's own", r.UID)
			}
		}
	}
}

// Metrics that rules ask for are those that the program registers.
func TestEveryMetricOfARuleExists(t *testing.T) {
	registered := map[string]bool{}
	name := regexp.MustCompile(`Name:\s+"(mcpaudit_\w+)"`)
	for _, room := range []string{"internal", "ingest", "detect", "query"} {
		err := filepath.WalkDir("../../"+room, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range name.FindAllSubmatch(text, -1) {
				registered[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(registered) < 20 {
		t.Fatalf("only %d metrics were found in the sources", len(registered))
	}
	metric := regexp.MustCompile(`mcpaudit_\w+`)
	each(t, Prometheus, func(r Rule) {
		names := metric.FindAllString(r.Query, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for no metric", r.UID)
		}
		for _, n := range names {
			if !registered[n] {
				t.Errorf("%s asks for %s, which nothing registers", r.UID, n)
			}
		}
	})
}

const one = `groups: [{name: g, every: 1m, rules: [{uid: mcpaudit-a, title: A, source: prometheus, query: up, severity: high, no_data: OK, summary: s, description: d, runbook: r}]}]`

func TestARuleThatGrafanaWouldRefuseIsNamed(t *testing.T) {
	if _, err := Parse([]byte(one)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ from, to, want string }{
		{"severity: high", "severity: hi", `severity is "hi"`},
		{"no_data: OK", "no_data: KeepLast", `no_data is "KeepLast"`},
		{"uid: mcpaudit-a", "uid: a", "a uid is mcpaudit-"},
		{"uid: mcpaudit-a", "uid: mcpaudit-" + strings.Repeat("a", 32), "a uid is mcpaudit-"},
		{"source: prometheus", "source: mysql", `source is "mysql"`},
		{"query: up", "query: ''", "there is no query"},
		{"query: up", "query: up$x", "a dollar sign"},
		{"query: up", "query: up, for: 90s", "whole minutes"},
		{"query: up", "query: up, panel: P", "a panel and no dashboard"},
		{"query: up", "query: up, error: Maybe", `error is "Maybe"`},
		{"query: up", "querry: up", "querry"},
		{"summary: s", "summary: ''", "somebody is woken"},
		{"title: A", "title: ''", "1 to 190"},
		{"every: 1m", "every: 15s", "a multiple of 10s"},
		{"name: g", "name: ''", "1 to 190"},
		{"]}]", "]}]\n---\n{}", "second document"},
		{"runbook: r}]", "runbook: r}, {uid: mcpaudit-a, title: B, source: prometheus, query: up, severity: high, no_data: OK, summary: s, description: d, runbook: r}]", "there twice"},
		{one, "groups: [{name: g, every: 1m}]", "there are no rules"},
		{one, strings.Repeat("#", maxFile+1), "bytes are more than"},
	} {
		if _, err := Parse([]byte(strings.Replace(one, c.from, c.to, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s: %v; want %q", c.to, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(one))
	f.Add(shipped)
	f.Fuzz(func(t *testing.T, text []byte) {
		groups, err := Parse(text)
		if err != nil {
			return
		}
		if _, err := FileOf(groups, "f", func(Rule) int { return 1 }).Text(); err != nil {
			t.Fatal(err)
		}
	})
}
