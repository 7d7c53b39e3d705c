package push

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/grafana/grafana-openapi-client-go/models"

	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
	"github.com/mcpaudit/mcpaudit/dashboards/push/grafanatest"
)

// An object with one of our names that is not ours, or that somebody else keeps, is left
// alone, and nothing else is written either.
func TestWhatIsNotOursStopsARun(t *testing.T) {
	cases := []struct {
		name string
		put  func(*grafanatest.Server)
		says []string
	}{
		{"a dashboard without our tag", func(g *grafanatest.Server) {
			g.Boards["mcpaudit-health"] = map[string]any{"uid": "mcpaudit-health", "title": "Theirs", "tags": []any{"ops"}, "version": 1}
			g.BoardMeta["mcpaudit-health"] = &models.DashboardMeta{}
		}, []string{`dashboard "mcpaudit-health"`, "lacks the tag", "nothing was written"}},
		{"a dashboard of a file", func(g *grafanatest.Server) {
			g.Boards["mcpaudit-health"] = map[string]any{"uid": "mcpaudit-health", "title": "x", "tags": []any{"mcpaudit"}, "version": 1}
			g.BoardMeta["mcpaudit-health"] = &models.DashboardMeta{Provisioned: true}
		}, []string{"provisioned from a file"}},
		{"a data source without our mark", func(g *grafanatest.Server) {
			g.Sources["mcpaudit-clickhouse"] = &models.DataSource{UID: "mcpaudit-clickhouse", Type: ClickHouseType, JSONData: map[string]any{"host": "x"}}
		}, []string{`data source "mcpaudit-clickhouse"`, "does not say that it is mcpaudit's", "--clickhouse-uid"}},
		{"a data source of a file", func(g *grafanatest.Server) {
			g.Sources["mcpaudit-prometheus"] = &models.DataSource{UID: "mcpaudit-prometheus", Type: "prometheus", ReadOnly: true, JSONData: map[string]any{"managedBy": "mcpaudit"}}
		}, []string{"provisioned from a file"}},
		{"an alert rule without our label", func(g *grafanatest.Server) {
			g.Folders["ops"] = &models.Folder{UID: "ops"}
			folder, group, title := "ops", "g", "x"
			g.Rules["mcpaudit-service-down"] = &models.ProvisionedAlertRule{UID: "mcpaudit-service-down", FolderUID: &folder, RuleGroup: &group, Title: &title, For: new(strfmt.Duration)}
		}, []string{`alert rule "mcpaudit-service-down"`, "lacks the label"}},
		{"an alert rule of a file", func(g *grafanatest.Server) {
			folder, group, title := "ops", "g", "x"
			g.Rules["mcpaudit-service-down"] = &models.ProvisionedAlertRule{UID: "mcpaudit-service-down", FolderUID: &folder, RuleGroup: &group, Title: &title, For: new(strfmt.Duration),
				Labels: map[string]string{"mcpaudit": "true"}, Provenance: "file"}
		}, []string{"provisioned from a file"}},
		{"a contact point of theirs with our name", func(g *grafanatest.Server) {
			kind := "email"
			g.Contacts["abc"] = &models.EmbeddedContactPoint{UID: "abc", Name: "mcpaudit", Type: &kind, Settings: map[string]any{"addresses": "a@b"}}
		}, []string{`"abc" is not mcpaudit's`, "--contact"}},
		{"a contact point with our uid", func(g *grafanatest.Server) {
			kind := "email"
			g.Contacts["mcpaudit-2"] = &models.EmbeddedContactPoint{UID: "mcpaudit-2", Name: "team", Type: &kind, Settings: map[string]any{"addresses": "a@b"}}
		}, []string{`"mcpaudit-2" is not mcpaudit's`}},
		{"policies of a file", func(g *grafanatest.Server) { g.PolicyOwner = "file" }, []string{"notification policies", "provisioned from a file", "mcpaudit=true"}},
		{"policies of Terraform", func(g *grafanatest.Server) { g.PolicyOwner = "api" }, []string{"notification policies", `provenance "api"`, "without a contact"}},
		{"two routes like ours", func(g *grafanatest.Server) {
			route := `{"receiver":"grafana-default-email","object_matchers":[["mcpaudit","=","true"]]}`
			g.Policies = json.RawMessage(`{"receiver":"grafana-default-email","routes":[` + route + `,` + route + `]}`)
		}, []string{"two notification policies match"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			g := grafanatest.New(t)
			tc.put(g)
			before := g.State()
			c := everything(t, g.URL)
			for name, run := range map[string]func() error{
				"diff":  func() error { _, err := Diff(t.Context(), c); return err },
				"apply": func() error { _, err := Apply(t.Context(), c); return err },
			} {
				err := run()
				if err == nil {
					t.Fatalf("%s says nothing", name)
				}
				for _, want := range tc.says {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s says %q, without %q", name, err, want)
					}
				}
			}
			if len(g.Writes) > 0 || g.State() != before {
				t.Errorf("something was written: %q", g.Writes)
			}
			if tc.name == "two routes like ours" {
				return
			}
			// A removal leaves it and says so, or has nothing to do with it.
			if _, err := RemoveAll(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if g.State() != before {
				t.Errorf("a removal changed it:\n%s", firstDifference(before, g.State()))
			}
		})
	}
}

func TestErrorsSayWhatToDoNext(t *testing.T) {
	page := func(status int, kind, body string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Location", "https://login.example/x?token="+r.Header.Get("Authorization"))
			w.WriteHeader(status)
			w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tls.Close)
	with := func(change func(*grafanatest.Server)) func() Config {
		return func() Config {
			g := grafanatest.New(t)
			change(g)
			return everything(t, g.URL)
		}
	}
	at := func(url string) func() Config { return func() Config { return everything(t, url) } }
	changed := func(change func(*Config)) func() Config {
		return func() Config {
			c := everything(t, grafanatest.New(t).URL)
			change(&c)
			return c
		}
	}
	cases := []struct {
		name string
		c    func() Config
		says []string
	}{
		{"a web page", at(page(200, "text/html", "<html>").URL), []string{"not Grafana's API", "text/html", "root_url"}},
		{"another API", at(page(200, "application/json", `{"hello":1}`).URL), []string{"not Grafana"}},
		{"no JSON", at(page(200, "application/json", `{"hello"`).URL), []string{"no JSON"}},
		{"a login in front", at(page(302, "text/html", "").URL), []string{"it leads to https://login.example/x instead"}},
		{"a missing path", at(page(404, "text/html", "").URL), []string{"not Grafana's API", "404"}},
		{"a missing API", at(page(404, "application/json", "{}").URL), []string{"no Grafana API there"}},
		{"a server that fails", at(page(502, "text/html", "<html>").URL), []string{"status 502"}},
		{"nobody there", at(gone.URL), []string{"nothing answers at", "is Grafana running"}},
		{"an unknown authority", at(tls.URL), []string{"certificate is signed by nobody", "--ca"}},
		{"TLS spoken to plaintext", func() Config {
			return everything(t, strings.Replace(page(200, "text/html", "").URL, "http:", "https:", 1))
		}, []string{"it does not speak"}},
		{"an unknown host", at("https://no-such-host.invalid"), []string{"there is no host no-such-host.invalid"}},
		{"an unknown token", changed(func(c *Config) { c.Token = "glsa_wrong" }), []string{"does not know the token", "Service accounts"}},
		{"no right to read", with(func(g *grafanatest.Server) { g.Deny["GET /api/datasources"] = "datasources:read" }), []string{"read data source", "may not", "Permissions needed: datasources:read"}},
		{"no right to write", with(func(g *grafanatest.Server) { g.Deny["POST /api/folders"] = "folders:create" }), []string{"create folder", "folders:create", "role Admin"}},
		{"no plugin", with(func(g *grafanatest.Server) { g.NoPlugin = true }), []string{"has no plugin grafana-clickhouse-datasource", "plugins install"}},
		{"an old Grafana", with(func(g *grafanatest.Server) { g.Version = "9.5.2" }), []string{"version 9.5.2", "10 or newer"}},
		{"no ClickHouse", changed(func(c *Config) { c.ClickHouse = nil }), []string{"--clickhouse-url", "--clickhouse-uid"}},
		{"a data source that is not there", changed(func(c *Config) { c.ClickHouse, c.ClickHouseUID = nil, "zzz" }), []string{`use data source "zzz"`}},
		{"a data source of another type", with(func(g *grafanatest.Server) {
			g.Sources["mcpaudit-clickhouse"] = &models.DataSource{UID: "mcpaudit-clickhouse", Type: "mysql"}
		}), []string{"does not say that it is mcpaudit's"}},
		{"a contact that is not there", changed(func(c *Config) { c.Contact = &Contact{Name: "nobody"} }), []string{`contact point "nobody"`}},
		{"a folder that is not there", changed(func(c *Config) { c.FolderUID = "ops" }), []string{`use folder "ops"`}},
		{"no token", changed(func(c *Config) { c.Token = "" }), []string{"no token", "service account"}},
		{"a token with a line end", changed(func(c *Config) { c.Token = "a\nb" }), []string{"blanks or line ends"}},
		{"plaintext to another machine", changed(func(c *Config) { c.URL = "http://grafana.example" }), []string{"in plaintext", "https"}},
		{"a password in the URL", changed(func(c *Config) { c.URL = "https://a:hunter2@x" }), []string{"a user or a password in it"}},
		{"no URL", changed(func(c *Config) { c.URL = "grafana.example:3000" }), []string{"begins with http:// or https://"}},
		{"two ClickHouses", changed(func(c *Config) { c.ClickHouseUID = "x" }), []string{"leave one of them out"}},
		{"two contacts", changed(func(c *Config) { c.Contact.Name = "x" }), []string{"one of them"}},
		{"our own contact", changed(func(c *Config) { c.Contact = &Contact{Name: "mcpaudit"} }), []string{"name one of your own"}},
		{"two dashboards with one uid", changed(func(c *Config) {
			files := boardFiles()
			files["x.json"] = files["health.json"]
			c.Dashboards = files
		}), []string{"two dashboards have the uid mcpaudit-health"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := tc.c()
			_, err := Apply(t.Context(), c)
			if err == nil {
				t.Fatal("nothing is said")
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			noSecrets(t, c, err.Error())
		})
	}
}

// noSecrets fails when a text has one of a configuration's secrets.
func noSecrets(t *testing.T, c Config, text string) {
	t.Helper()
	for _, s := range []string{apiKey, slackSecret, grafanatest.Token, "hunter2", "glsa_wrong", string(c.Token)} {
		if s != "" && strings.Contains(text, s) {
			t.Errorf("%q has the secret %q", text, s)
		}
	}
}

// Whatever is printed of a configuration, a plan or an error has no secret, also when
// Grafana sends back what it was sent.
func TestNothingSecretIsShown(t *testing.T) {
	g := grafanatest.New(t)
	c := everything(t, g.URL)
	g.Unhealthy = "dial with password " + apiKey + " failed\n\x1b[31mred"
	p := mustApply(t, c)
	g.Sources["mcpaudit-clickhouse"].JSONData.(map[string]any)["host"] = "x"
	g.Contacts["mcpaudit"].Settings.(map[string]any)["recipient"] = "x"
	d := mustDiff(t, c)
	text, err := json.Marshal([]any{p, d, c.Token, c.ClickHouse.Password, c.ClickHouse})
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{string(text), fmt.Sprint(c, p, d), fmt.Sprintf("%v %+v %#v %s %#v", c, c, c, c.Token, *c.ClickHouse), fmt.Sprintf("%q %x %v", c.Token, c.ClickHouse.Password, c.ClickHouse)} {
		noSecrets(t, c, shown)
	}
	if notes := fmt.Sprint(p.Notes); !strings.Contains(notes, "does not reach ClickHouse") || strings.ContainsAny(notes, "\x1b\n") {
		t.Errorf("the notes are %q", notes)
	}
	for _, path := range []string{"mcpaudit-clickhouse", "mcpaudit"} {
		if !strings.Contains(fmt.Sprint(d.Changes), path) {
			t.Errorf("the diff lacks %s", path)
		}
	}
	if g.Secrets["mcpaudit-clickhouse"]["password"] != apiKey {
		t.Error("the password did not get there")
	}
}

// The digest that tells keys apart is made of API keys alone.
func TestAPasswordThatPeopleThinkOfLeavesNoDigest(t *testing.T) {
	g := grafanatest.New(t)
	c := everything(t, g.URL)
	c.ClickHouse.Password = "hunter2"
	mustApply(t, c)
	if text := fmt.Sprint(g.Sources["mcpaudit-clickhouse"].JSONData); strings.Contains(text, "sha256") {
		t.Errorf("jsonData is %s", text)
	}
	g.Reset()
	c.ClickHouse.Password = "hunter3"
	if p := mustApply(t, c); len(g.Writes) > 0 || !strings.Contains(fmt.Sprint(p.Notes), "not compared") {
		t.Errorf("%q was written; notes %q", g.Writes, p.Notes)
	}
	c.WriteSecrets = true
	mustApply(t, c)
	if g.Secrets["mcpaudit-clickhouse"]["password"] != "hunter3" {
		t.Error("--secrets did not write the password")
	}
	c.WriteSecrets, c.ClickHouse.Password = false, apiKey
	if p := mustApply(t, c); fmt.Sprint(p.Changes[0].Paths) != "[jsonData."+digestKey+"]" || g.Secrets["mcpaudit-clickhouse"]["password"] != apiKey {
		t.Errorf("an API key in place of a password: %v", p.Changes)
	}
	c.ClickHouse.Password = Secret(strings.Replace(apiKey, "abc", "cba", 1))
	if p := mustDiff(t, c); len(p.Changes) != 1 {
		t.Errorf("another key is no difference: %v", p.Changes)
	}
	c.ClickHouse.Password = "hunter2"
	mustApply(t, c)
	if text := fmt.Sprint(g.Sources["mcpaudit-clickhouse"].JSONData); strings.Contains(text, "sha256") {
		t.Errorf("after a password jsonData is %s", text)
	}
}

// Data sources of the owner's are read and never written.
func TestDataSourcesOfTheOwnerAreUsed(t *testing.T) {
	g := grafanatest.New(t)
	g.Sources["ch"] = &models.DataSource{UID: "ch", Name: "Audit", Type: ClickHouseType, ReadOnly: true}
	c := everything(t, g.URL)
	c.ClickHouse, c.ClickHouseUID, c.Prometheus, c.Contact = nil, "ch", nil, &Contact{AlertmanagerURL: "http://am:9093/"}
	p := mustApply(t, c)
	if len(g.Sources) != 1 || g.Rules["mcpaudit-service-down"] != nil || g.Rules["mcpaudit-finding-waits"].Data[0].DatasourceUID != "ch" {
		t.Errorf("after %v there are %d data sources", p.Changes, len(g.Sources))
	}
	if !strings.Contains(fmt.Sprint(p.Notes), "no Prometheus") {
		t.Errorf("notes %q", p.Notes)
	}
	if url := g.Contacts["mcpaudit"].Settings.(map[string]any)["url"]; url != "http://am:9093" {
		t.Errorf("the contact point leads to %v", url)
	}
	g.Reset()
	if p := mustApply(t, c); len(g.Writes) > 0 {
		t.Errorf("a second apply: %v", p.Changes)
	}
}

// The token is shown to Grafana alone: not before that is known, and not where it leads.
func TestTheTokenIsNotShownToStrangers(t *testing.T) {
	var seen []string
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
	}))
	defer stranger.Close()
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		if r.URL.Path != "/api/health" {
			http.Redirect(w, r, stranger.URL, http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"database":"ok"}`))
	}))
	defer first.Close()
	if _, err := Diff(t.Context(), everything(t, stranger.URL)); err == nil {
		t.Error("a stranger is taken for Grafana")
	}
	if strings.Join(seen, "") != "" {
		t.Errorf("the token was shown: %d times", len(seen))
	}
	seen = nil
	if _, err := Diff(t.Context(), everything(t, first.URL)); err == nil || !strings.Contains(err.Error(), "it leads to") {
		t.Errorf("a redirect: %v", err)
	}
	if len(seen) != 2 {
		t.Errorf("%d requests were made; the redirect was followed", len(seen))
	}
}

func TestLongAnswersAreNotRead(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range 70 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	if _, err := Diff(t.Context(), everything(t, s.URL)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("%v", err)
	}
}

// A Grafana below a path, and of another organisation, is asked there.
func TestURLsWithAPathAndAnOrganisation(t *testing.T) {
	g := grafanatest.New(t)
	inner, err := url.Parse(g.URL)
	if err != nil {
		t.Fatal(err)
	}
	var orgs []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/sub/api/") {
			t.Errorf("asked for %s", r.URL.Path)
		}
		if r.Header.Get("Authorization") != "" {
			orgs = append(orgs, r.Header.Get("X-Grafana-Org-Id"))
		}
		http.StripPrefix("/sub", httputil.NewSingleHostReverseProxy(inner)).ServeHTTP(w, r)
	}))
	defer proxy.Close()
	c := everything(t, proxy.URL+"/sub/")
	c.Org = 7
	mustApply(t, c)
	for _, org := range orgs {
		if org != "7" {
			t.Fatalf("organisations %q", orgs)
		}
	}
	if len(orgs) == 0 || *g.Rules["mcpaudit-service-down"].OrgID != 7 {
		t.Error("the organisation is not named")
	}
}

func FuzzPolicies(f *testing.F) {
	f.Add([]byte(`{"receiver":"a","provenance":"api","routes":[{"object_matchers":[["mcpaudit","=","true"]]},{"x":1e999}]}`))
	f.Add([]byte(`{"routes":null}`))
	f.Add([]byte(`{"routes":[null,3,{"object_matchers":[["mcpaudit","=","true",""]]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		tree, err := parseTree(text)
		if err != nil {
			return
		}
		tree.keeper()
		at, err := tree.ours()
		if err != nil {
			return
		}
		if _, err := tree.differences(at, "x"); err != nil && at >= 0 {
			return
		}
		again, err := tree.text()
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		back, err := parseTree(again)
		if err != nil || len(back.routes) != len(tree.routes) {
			t.Fatalf("what was written can't be read: %v", err)
		}
		if place, err := back.ours(); err != nil || place != at {
			t.Fatalf("our route was at %d and is at %d: %v", at, place, err)
		}
	})
}

func FuzzDashboards(f *testing.F) {
	f.Add([]byte(overview))
	f.Add([]byte(`{"uid":"mcpaudit-a","title":"a","tags":["mcpaudit"],"templating":{"list":[1,{"type":"datasource","query":3}]},"panels":[{"panels":[[]]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		files := boardFiles()
		files["x.json"] = &fstest.MapFile{Data: text}
		b, err := readBoard(files, "x.json")
		if err != nil {
			return
		}
		b.choose(map[string]chosen{ClickHouseType: {"u", "n"}})
		if _, err := alerts.PanelsOf(files); err != nil && !strings.Contains(err.Error(), "x.json") {
			t.Fatal(err)
		}
		if d := differences(strip(b.model), strip(b.model)); len(d) > 0 {
			t.Fatalf("a dashboard differs from itself at %q", d)
		}
	})
}

func TestRulesOfAnotherGroupMove(t *testing.T) {
	g := grafanatest.New(t)
	c := everything(t, g.URL)
	mustApply(t, c)
	c.Rules = shippedRules(t)
	c.Rules[0].Name = "mcpaudit two"
	c.Rules[0].Every = 20 * time.Second
	mustApply(t, c)
	if g.Intervals["mcpaudit/mcpaudit two"] != 20 || *g.Rules["mcpaudit-service-down"].RuleGroup != "mcpaudit two" {
		t.Errorf("intervals are %v", g.Intervals)
	}
	if p := mustDiff(t, c); len(p.Changes) > 0 {
		t.Errorf("there is still %v", p.Changes)
	}
	if alerts.ClickHouseUID != "mcpaudit-clickhouse" || alerts.PrometheusUID != "mcpaudit-prometheus" {
		t.Error("the uids of data sources are promised elsewhere too")
	}
}
