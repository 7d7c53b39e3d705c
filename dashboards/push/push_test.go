package push

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/grafana/grafana-openapi-client-go/models"

	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
	"github.com/mcpaudit/mcpaudit/dashboards/push/grafanatest"
)

const (
	apiKey      = "mcpa_abcdefghijklmnop_abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst"
	slackSecret = "https://hooks.slack.example/services/T0/B0/verysecret"
)

const overview = `{"uid":"mcpaudit-overview","title":"Overview","tags":["mcpaudit"],"schemaVersion":39,"id":null,"version":7,
 "templating":{"list":[
  {"name":"datasource","type":"datasource","query":"grafana-clickhouse-datasource","current":{}},
  {"name":"prometheus","type":"datasource","query":"prometheus","current":{}},
  {"name":"tenant","type":"query","query":"SELECT 1"}]},
 "panels":[{"id":1,"type":"row","title":"Row","panels":[{"id":12,"type":"stat","title":"How many calls?"}]},
  {"id":3,"type":"timeseries","title":"What fails?","options":{"limit":1.50},"links":[]}]}`

func boardFiles() fstest.MapFS {
	files := fstest.MapFS{"overview.json": {Data: []byte(overview)}, "README.md": {Data: []byte("no dashboard")}}
	for _, name := range []string{"investigate", "detections", "compliance", "health"} {
		files[name+".json"] = &fstest.MapFile{Data: fmt.Appendf(nil, `{"uid":"mcpaudit-%s","title":"%s","tags":["mcpaudit"],"panels":[]}`, name, name)}
	}
	return files
}

func shippedRules(t testing.TB) []alerts.Group {
	t.Helper()
	groups, err := alerts.Shipped()
	if err != nil {
		t.Fatal(err)
	}
	return groups
}

// everything is a configuration that asks for all that there is.
func everything(t testing.TB, url string) Config {
	return Config{URL: url, Token: grafanatest.Token, Dashboards: boardFiles(), Rules: shippedRules(t),
		ClickHouse: &ClickHouse{URL: "https://audit.example:4779", Password: apiKey},
		Prometheus: &Prometheus{URL: "http://prometheus.example:9090"},
		Contact: &Contact{Integrations: []Integration{
			{Type: "slack", Settings: map[string]any{"url": slackSecret, "recipient": "#oncall"}},
			{Type: "prometheus-alertmanager", Settings: map[string]any{"url": "http://am.example:9093"}}}}}
}

// foreign fills a Grafana with what others have: nothing of it may ever change.
func foreign(t testing.TB, g *grafanatest.Server) {
	t.Helper()
	g.Folders["ops"] = &models.Folder{UID: "ops", Title: "Operations", Version: 3}
	g.Sources["prom"] = &models.DataSource{UID: "prom", Name: "Prometheus", Type: "prometheus", Version: 9, IsDefault: true, JSONData: map[string]any{"httpMethod": "GET"}}
	g.Secrets["prom"] = map[string]string{}
	g.Boards["node"] = map[string]any{"uid": "node", "title": "Node", "tags": []any{"mcpaudit"}, "version": 2, "id": 900}
	g.BoardMeta["node"] = &models.DashboardMeta{FolderUID: "ops"}
	title, folder, group := "Disk", "ops", "disks"
	var rule models.ProvisionedAlertRule
	if err := json.Unmarshal([]byte(`{"uid":"disk","title":"`+title+`","folderUID":"`+folder+`","ruleGroup":"`+group+`","condition":"A","data":[],"for":"5m","orgID":1,"noDataState":"OK","execErrState":"OK","labels":{"mcpaudit":"true"}}`), &rule); err != nil {
		t.Fatal(err)
	}
	g.Rules["disk"], g.Intervals["ops/disks"] = &rule, 60
	kind := "slack"
	g.Contacts["x1"] = &models.EmbeddedContactPoint{UID: "x1", Name: "team", Type: &kind, Settings: map[string]any{"url": "https://hooks.slack.example/other"}}
	g.Policies = json.RawMessage(`{"receiver":"grafana-default-email","group_by":["grafana_folder","alertname"],"group_wait":"45s","routes":[
	 {"receiver":"team","object_matchers":[["team","=","a<b&c"]],"continue":true,"mute_time_intervals":[],"routes":[{"receiver":"team","object_matchers":[["mcpaudit","=","true"]]}]},
	 {"receiver":"team","object_matchers":[["mcpaudit","=","true"],["severity","=","warning"]]},
	 {"receiver":"team","match_re":{"service":"^(a|b)$"}},
	 {"receiver":"team","object_matchers":[["mcpaudit","=~","true"]]}]}`)
}

func mustApply(t testing.TB, c Config) Plan {
	t.Helper()
	p, err := Apply(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustDiff(t testing.TB, c Config) Plan {
	t.Helper()
	p, err := Diff(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestASecondApplyWritesNothing(t *testing.T) {
	g := grafanatest.New(t)
	foreign(t, g)
	c := everything(t, g.URL)
	planned := mustDiff(t, c)
	if len(g.Writes) > 0 {
		t.Fatalf("the diff wrote: %q", g.Writes)
	}
	done := mustApply(t, c)
	if fmt.Sprint(done.Changes) != fmt.Sprint(planned.Changes) || len(done.Changes) != len(g.Writes) {
		t.Errorf("planned %v\ndone %v\nin %d writes", planned.Changes, done.Changes, len(g.Writes))
	}
	for _, kind := range []string{"data source", "folder", "dashboard", "contact point", "route", "alert rule", "alert group"} {
		if !strings.Contains(fmt.Sprint(done.Changes), kind) {
			t.Errorf("no %s was written", kind)
		}
	}
	g.Reset()
	if p := mustDiff(t, c); len(p.Changes) > 0 {
		t.Errorf("after apply the diff has %v", p.Changes)
	}
	if p := mustApply(t, c); len(p.Changes) > 0 || len(g.Writes) > 0 {
		t.Errorf("a second apply changes %v in %q", p.Changes, g.Writes)
	}
	// Nor does one that is given no more than where Grafana is.
	bare := Config{URL: c.URL, Token: c.Token, Dashboards: c.Dashboards, Rules: c.Rules}
	if p := mustApply(t, bare); len(p.Changes) > 0 || len(g.Writes) > 0 {
		t.Errorf("an apply without settings changes %v in %q", p.Changes, g.Writes)
	}
}

func TestDashboardsBeginWithOurDataSources(t *testing.T) {
	g := grafanatest.New(t)
	mustApply(t, everything(t, g.URL))
	list := g.Boards["mcpaudit-overview"]["templating"].(map[string]any)["list"].([]any)
	for i, want := range []string{"mcpaudit-clickhouse mcpaudit ClickHouse", "mcpaudit-prometheus mcpaudit Prometheus"} {
		current := list[i].(map[string]any)["current"].(map[string]any)
		if got := fmt.Sprint(current["value"], " ", current["text"]); got != want {
			t.Errorf("variable %d begins with %q, want %q", i, got, want)
		}
	}
	if list[2].(map[string]any)["current"] != nil {
		t.Error("a variable that is no data source was changed")
	}
}

// What people change by hand is shown by a diff and mended by apply, and all else of
// theirs stays.
func TestApplyMendsWhatWasChangedByHand(t *testing.T) {
	cases := []struct {
		name string
		hand func(*grafanatest.Server)
		kind string
		path string
	}{
		{"a panel of a dashboard", func(g *grafanatest.Server) {
			g.Boards["mcpaudit-overview"]["panels"].([]any)[1].(map[string]any)["title"] = "Mine"
			g.Boards["mcpaudit-overview"]["version"] = 8
		}, "dashboard", "panels[1].title"},
		{"an added field of a dashboard", func(g *grafanatest.Server) { g.Boards["mcpaudit-overview"]["refresh"] = "5s" }, "dashboard", "refresh"},
		{"the folder of a dashboard", func(g *grafanatest.Server) { g.BoardMeta["mcpaudit-health"].FolderUID = "ops" }, "dashboard", "folder"},
		{"a deleted dashboard", func(g *grafanatest.Server) {
			delete(g.Boards, "mcpaudit-health")
			delete(g.BoardMeta, "mcpaudit-health")
		}, "dashboard", ""},
		{"the title of the folder", func(g *grafanatest.Server) { g.Folders["mcpaudit"].Title = "Audit"; g.Folders["mcpaudit"].Version = 4 }, "folder", "title"},
		{"the host of the data source", func(g *grafanatest.Server) {
			d := g.Sources["mcpaudit-clickhouse"]
			d.JSONData.(map[string]any)["host"], d.Version = "elsewhere", 5
		}, "data source", "jsonData.host"},
		{"TLS checks that were switched off", func(g *grafanatest.Server) {
			g.Sources["mcpaudit-clickhouse"].JSONData.(map[string]any)["tlsSkipVerify"] = true
		}, "data source", "jsonData.tlsSkipVerify"},
		{"a data source without its password", func(g *grafanatest.Server) { delete(g.Sources["mcpaudit-clickhouse"].SecureJSONFields, "password") }, "data source", "secureJsonData.password"},
		{"the address of Prometheus", func(g *grafanatest.Server) { g.Sources["mcpaudit-prometheus"].URL = "http://x" }, "data source", "url"},
		{"a query of a rule", func(g *grafanatest.Server) {
			g.Rules["mcpaudit-service-down"].Data[0].Model.(map[string]any)["expr"] = "vector(0)"
		}, "alert rule", "data[0].model.expr"},
		{"a rule that was paused", func(g *grafanatest.Server) { g.Rules["mcpaudit-service-down"].IsPaused = true }, "alert rule", "isPaused"},
		{"a deleted rule", func(g *grafanatest.Server) { delete(g.Rules, "mcpaudit-service-down") }, "alert rule", ""},
		{"how often a group is evaluated", func(g *grafanatest.Server) { g.Intervals["mcpaudit/mcpaudit"] = 300 }, "alert group", "interval"},
		{"a setting of the contact point", func(g *grafanatest.Server) {
			g.Contacts["mcpaudit"].Settings.(map[string]any)["recipient"] = "#random"
		}, "contact point", "settings.recipient"},
		{"the receiver of our route", func(g *grafanatest.Server) {
			g.Policies = json.RawMessage(strings.Replace(string(g.Policies), `"receiver":"mcpaudit"`, `"receiver":"team"`, 1))
		}, "route", "receiver"},
		{"the route is gone", func(g *grafanatest.Server) {
			g.Policies = json.RawMessage(`{"receiver":"grafana-default-email"}`)
		}, "route", ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			g := grafanatest.New(t)
			foreign(t, g)
			c := everything(t, g.URL)
			mustApply(t, c)
			before := g.State()
			tc.hand(g)
			if tc.name == "the route is gone" {
				before = ""
			}
			g.Reset()
			p := mustDiff(t, c)
			if len(p.Changes) != 1 || p.Changes[0].Kind != tc.kind || tc.path != "" && fmt.Sprint(p.Changes[0].Paths) != "["+tc.path+"]" {
				t.Fatalf("the diff is %+v", p.Changes)
			}
			if len(g.Writes) > 0 {
				t.Fatalf("the diff wrote %q", g.Writes)
			}
			mustApply(t, c)
			if after := g.State(); before != "" && after != before {
				t.Errorf("apply did not mend it:\n%s", firstDifference(before, after))
			}
			if len(g.Writes) != 1 {
				t.Errorf("it took %q", g.Writes)
			}
			if p := mustDiff(t, c); len(p.Changes) > 0 {
				t.Errorf("there is still %v", p.Changes)
			}
		})
	}
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range x {
		if i >= len(y) || x[i] != y[i] {
			return fmt.Sprintf("line %d: %q", i+1, x[i:min(i+3, len(x))]) + fmt.Sprintf("\nis %q", y[min(i, len(y)):min(i+3, len(y))])
		}
	}
	return "the second one is longer"
}

// What people add to our data source and route is theirs, and what they have of their
// own stays as it is, to the last byte of a route.
func TestApplyKeepsWhatPeopleAdd(t *testing.T) {
	g := grafanatest.New(t)
	foreign(t, g)
	c := everything(t, g.URL)
	mustApply(t, c)
	g.Sources["mcpaudit-clickhouse"].JSONData.(map[string]any)["maxOpenConns"] = "5"
	g.Sources["mcpaudit-clickhouse"].IsDefault = true
	g.Policies = json.RawMessage(strings.Replace(string(g.Policies), `"receiver":"mcpaudit"`, `"receiver":"mcpaudit","mute_time_intervals":["nights"]`, 1))
	if p := mustDiff(t, c); len(p.Changes) > 0 {
		t.Fatalf("what people added is a difference: %v", p.Changes)
	}
	c.ClickHouse.URL = "https://other.example:4779"
	c.Contact = &Contact{Name: "team"}
	mustApply(t, c)
	d := g.Sources["mcpaudit-clickhouse"]
	if data := d.JSONData.(map[string]any); data["maxOpenConns"] != "5" || data["host"] != "other.example" || !d.IsDefault {
		t.Errorf("the data source is %v", data)
	}
	var tree struct {
		Routes []json.RawMessage `json:"routes"`
	}
	if err := json.Unmarshal(g.Policies, &tree); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(tree.Routes[0]), "nights") || !strings.Contains(string(tree.Routes[0]), `"receiver":"team"`) {
		t.Errorf("our route is %s", tree.Routes[0])
	}
	for i, want := range []string{`{"receiver":"team","object_matchers":[["team","=","a<b&c"]],"continue":true,"mute_time_intervals":[],"routes":[{"receiver":"team","object_matchers":[["mcpaudit","=","true"]]}]}`,
		`{"receiver":"team","object_matchers":[["mcpaudit","=","true"],["severity","=","warning"]]}`, `{"receiver":"team","match_re":{"service":"^(a|b)$"}}`, `{"receiver":"team","object_matchers":[["mcpaudit","=~","true"]]}`} {
		if string(tree.Routes[i+1]) != want {
			t.Errorf("another's route is %s, was %s", tree.Routes[i+1], want)
		}
	}
}

func TestRemoveLeavesOnlyWhatOthersHave(t *testing.T) {
	g := grafanatest.New(t)
	foreign(t, g)
	before := g.State()
	c := everything(t, g.URL)
	mustApply(t, c)
	g.Reset()
	planned, err := Removal(t.Context(), c)
	if err != nil || len(g.Writes) > 0 {
		t.Fatalf("planning a removal: %v, %q", err, g.Writes)
	}
	done, err := RemoveAll(t.Context(), Config{URL: c.URL, Token: c.Token})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(done.Changes) != fmt.Sprint(planned.Changes) || len(done.Changes) == 0 {
		t.Errorf("planned %v\nremoved %v", planned.Changes, done.Changes)
	}
	if first, last := done.Changes[0].Kind, done.Changes[len(done.Changes)-1].Kind; first != "alert rule" || last != "data source" {
		t.Errorf("the first removed is a %s, the last a %s", first, last)
	}
	if after := g.State(); after != before {
		t.Errorf("removing leaves something else than was there:\n%s", firstDifference(before, after))
	}
	g.Reset()
	if p, err := RemoveAll(t.Context(), c); err != nil || len(p.Changes) > 0 || len(g.Writes) > 0 {
		t.Errorf("a second removal: %v, %v, %q", p.Changes, err, g.Writes)
	}
}

func TestAFolderThatOthersUseStays(t *testing.T) {
	for _, when := range []string{"before", "meanwhile"} {
		g := grafanatest.New(t)
		c := everything(t, g.URL)
		mustApply(t, c)
		put := func() {
			g.Boards["theirs"] = map[string]any{"uid": "theirs", "title": "Theirs"}
			g.BoardMeta["theirs"] = &models.DashboardMeta{FolderUID: "mcpaudit"}
		}
		if when == "before" {
			put()
		} else {
			c.Progress = func(step string) {
				if strings.Contains(step, "remove folder") {
					put()
				}
			}
		}
		p, err := RemoveAll(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if g.Folders["mcpaudit"] == nil || g.Boards["theirs"] == nil || len(g.Sources) > 0 {
			t.Errorf("%s: the folder or what is in it is gone, or the data sources are not", when)
		}
		if !strings.Contains(fmt.Sprint(p.Notes), "stays") {
			t.Errorf("%s: nothing is said of it: %q", when, p.Notes)
		}
	}
}

// What an older version had put there and this one has not is removed.
func TestApplyRemovesOursThatAreNotWanted(t *testing.T) {
	g := grafanatest.New(t)
	c := everything(t, g.URL)
	mustApply(t, c)
	files := boardFiles()
	delete(files, "investigate.json")
	c.Dashboards = files
	c.Rules = []alerts.Group{c.Rules[1]}
	p := mustApply(t, c)
	if g.Boards["mcpaudit-investigate"] != nil || len(g.Rules) != len(c.Rules[0].Rules) {
		t.Errorf("after %v there are %d rules", p.Changes, len(g.Rules))
	}
}

// Whatever write fails, done or not, the next run ends as one that nothing happened to.
func TestAnInterruptedRunIsFinishedByTheNext(t *testing.T) {
	reference := grafanatest.New(t)
	foreign(t, reference)
	empty := reference.State()
	mustApply(t, everything(t, reference.URL))
	full, writes := reference.State(), len(reference.Writes)
	reference.Reset()
	if _, err := RemoveAll(t.Context(), everything(t, reference.URL)); err != nil {
		t.Fatal(err)
	}
	removals := len(reference.Writes)
	for n := 1; n <= max(writes, removals); n++ {
		for _, done := range []bool{false, true} {
			g := grafanatest.New(t)
			foreign(t, g)
			c := everything(t, g.URL)
			if n <= writes {
				g.FailAt, g.FailDone = n, done
				p, err := Apply(t.Context(), c)
				if err == nil || len(p.Changes) != n-1 {
					t.Fatalf("write %d failed (done: %v), and apply says %v after %d changes", n, done, err, len(p.Changes))
				}
				g.Reset()
			}
			mustApply(t, c)
			if got := g.State(); got != full {
				t.Fatalf("write %d failed (done: %v); the next run ends otherwise:\n%s", n, done, firstDifference(full, got))
			}
			if n > removals {
				continue
			}
			g.Reset()
			g.FailAt, g.FailDone = n, done
			if _, err := RemoveAll(t.Context(), c); err == nil {
				t.Fatalf("removal %d failed (done: %v), and nothing is said", n, done)
			}
			g.Reset()
			if _, err := RemoveAll(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if got := g.State(); got != empty {
				t.Fatalf("removal %d failed (done: %v); the next run leaves:\n%s", n, done, firstDifference(empty, got))
			}
		}
	}
}

func TestARunStopsWhenItIsInterrupted(t *testing.T) {
	g := grafanatest.New(t)
	c := everything(t, g.URL)
	ctx, stop := context.WithCancel(t.Context())
	c.Progress = func(step string) {
		if strings.HasPrefix(step, "3 of") {
			stop()
		}
	}
	p, err := Apply(ctx, c)
	if err == nil || !strings.Contains(err.Error(), "interrupted") || len(p.Changes) != 2 || len(g.Writes) != 2 {
		t.Errorf("%v after %v", err, p.Changes)
	}
}
