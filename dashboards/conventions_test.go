package dashboards_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/dashboards"
)

// What Grafana, those who push dashboards and those who read them count on.
func TestDashboardsHoldToGrafanasConventions(t *testing.T) {
	uids := map[string]*file{}
	for _, f := range load(t) {
		if uids[f.UID] != nil {
			t.Errorf("two dashboards are %s", f.UID)
		}
		uids[f.UID] = f
		if f.UID != "mcpaudit-"+strings.TrimSuffix(f.name, ".json") || len(f.UID) > 40 || !slices.Contains(f.Tags, "mcpaudit") {
			t.Errorf("%s: uid %s, tags %v", f.name, f.UID, f.Tags)
		}
		if f.SchemaVersion < 39 || f.Title == "" || f.Description == "" || f.Refresh != "1m" {
			t.Errorf("%s: schemaVersion %d, title %q, description %q, refresh %q", f.name, f.SchemaVersion, f.Title, f.Description, f.Refresh)
		}
		if len(f.Links) != 1 || f.Links[0].Type != "dashboards" || !slices.Equal(f.Links[0].Tags, []string{"mcpaudit"}) || !f.Links[0].IncludeVars || !f.Links[0].KeepTime {
			t.Errorf("%s: it is linked to the others by %+v", f.name, f.Links)
		}
		var names []string
		for _, v := range f.Templating.List {
			names = append(names, v.Name)
		}
		if want := []string{"datasource", "prometheus", "tenant", "environment", "server", "principal", "tool"}; !slices.Equal(names[:len(want)], want) {
			t.Errorf("%s: the variables are %v", f.name, names)
		}
		ids := map[int]bool{}
		titles := map[string]bool{}
		for i := range f.Panels {
			p := &f.Panels[i]
			if ids[p.ID] || p.ID <= 0 || titles[p.Title] {
				t.Errorf("%s: panel %d %q is there twice, or has no id", f.name, p.ID, p.Title)
			}
			ids[p.ID], titles[p.Title] = true, true
			for _, problem := range p.problems(t) {
				t.Errorf("%s: panel %d %q: %s", f.name, p.ID, p.Title, problem)
			}
			for j := range f.Panels[:i] {
				a, b := p.GridPos, f.Panels[j].GridPos
				if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
					t.Errorf("%s: panels %d and %d lie on each other", f.name, p.ID, f.Panels[j].ID)
				}
			}
		}
	}
	for _, f := range load(t) {
		for i := range f.Panels {
			for _, l := range f.Panels[i].links(t) {
				if problem := goesNowhere(l.URL, uids); problem != "" {
					t.Errorf("%s: %q: link %q: %s", f.name, f.Panels[i].Title, l.Title, problem)
				}
			}
		}
	}
}

// problems are what a panel lacks.
func (p *panelModel) problems(t *testing.T) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if g := p.GridPos; g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
		say("it lies at %+v of 24 columns", g)
	}
	if p.Type == "row" {
		return out
	}
	if !strings.HasSuffix(p.Title, "?") {
		say("the title asks nothing")
	}
	if len(p.Description) < 40 || !strings.HasSuffix(p.Description, ".") {
		say("the description says nothing: %q", p.Description)
	}
	if p.FieldConfig.Defaults.Unit == "" || p.FieldConfig.Defaults.NoValue == "" {
		say("it has the unit %q, and says %q when there is nothing", p.FieldConfig.Defaults.Unit, p.FieldConfig.Defaults.NoValue)
	}
	if len(p.links(t)) == 0 {
		say("it leads nowhere")
	}
	for _, l := range p.Links {
		if strings.Contains(l.URL, "${__data.") || strings.Contains(l.URL, "${__field.") {
			say("the link %q of its title needs a row", l.Title)
		}
	}
	if len(p.Targets) == 0 || p.Datasource == nil {
		say("it asks nothing")
	}
	var refs []string
	for _, q := range p.Targets {
		want := map[string]string{"grafana-clickhouse-datasource": "${datasource}", "prometheus": "${prometheus}"}[q.Datasource.Type]
		if want == "" || q.Datasource.UID != want || p.Datasource.UID != want || (q.RawSQL == "") == (q.Expr == "") || (q.RawSQL != "") != (want == "${datasource}") {
			say("it asks %+v", q)
		}
		if q.RawSQL != "" && q.EditorType != "sql" {
			say("the data source would open it in its builder")
		}
		if slices.Contains(refs, q.RefID) {
			say("two queries are %s", q.RefID)
		}
		refs = append(refs, q.RefID)
	}
	return out
}

var set = regexp.MustCompile(`^(?:\$\{(\w+):queryparam\}|\$\{__url_time_range\}|(var-\w+|from|to)=(.+))$`)

// goesNowhere says what is wrong with a link to another dashboard.
func goesNowhere(url string, uids map[string]*file) string {
	path, query, ok := strings.Cut(url, "?")
	to := uids[strings.TrimPrefix(path, "/d/")]
	if !ok || to == nil {
		return "there is no dashboard " + path
	}
	named := map[string]bool{}
	for _, v := range to.Templating.List {
		named[v.Name] = true
	}
	seen := map[string]int{}
	for part := range strings.SplitSeq(query, "&") {
		m := set.FindStringSubmatch(part)
		if m == nil {
			return "it has " + part
		}
		name := m[1] + strings.TrimPrefix(m[2], "var-")
		if seen[name]++; seen[name] > 1 {
			return name + " is set twice"
		}
		if time := name == "" || name == "from" || name == "to"; !time && !named[name] {
			return to.UID + " has no variable " + name
		}
		if strings.Contains(m[3], "${") && !strings.HasSuffix(m[3], ":percentencode}") {
			return m[3] + " is not encoded: a value with & in it would set something else"
		}
	}
	if (seen[""] == 1) == (seen["from"] == 1 && seen["to"] == 1) {
		return "it takes no time range along, or two"
	}
	return ""
}

// A dashboard may be read with other data sources than ours.
func TestNoDataSourceIsNamedOutsideOfVariables(t *testing.T) {
	for _, f := range load(t) {
		text, err := dashboards.FS.ReadFile(f.name)
		if err != nil {
			t.Fatal(err)
		}
		var tree any
		if err := json.Unmarshal(text, &tree); err != nil {
			t.Fatal(err)
		}
		n := 0
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				if source, ok := v["datasource"].(map[string]any); ok {
					n++
					if uid, _ := source["uid"].(string); uid != "${datasource}" && uid != "${prometheus}" {
						t.Errorf("%s names the data source %q", f.name, uid)
					}
				}
				for _, part := range v {
					walk(part)
				}
			case []any:
				for _, part := range v {
					walk(part)
				}
			}
		}
		walk(tree)
		if n < 20 {
			t.Errorf("%s has only %d data sources", f.name, n)
		}
	}
}
