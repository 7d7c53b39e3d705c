package dashboards_test

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/findings"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// answer is what a statement gave.
type answer struct {
	columns []string
	types   []string
	rows    [][]any
}

// ask runs a statement, which has ten seconds on a small store.
func ask(t testing.TB, s *store.Store, sql string) (*answer, error) {
	t.Helper()
	rows, err := s.Query(context.Background(), store.Limits{Time: 10 * time.Second}, sql)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	a := &answer{columns: rows.Columns()}
	for _, c := range rows.ColumnTypes() {
		a.types = append(a.types, c.DatabaseTypeName())
	}
	for rows.Next() {
		values := make([]any, len(a.columns))
		for i, c := range rows.ColumnTypes() {
			values[i] = reflect.New(c.ScanType()).Interface()
		}
		if err := rows.Scan(values...); err != nil {
			return nil, err
		}
		for i := range values {
			values[i] = reflect.ValueOf(values[i]).Elem().Interface()
		}
		a.rows = append(a.rows, values)
	}
	return a, rows.Err()
}

func (a *answer) isText(i int) bool { return strings.Contains(a.types[i], "String") }

// values of a column, as texts.
func (a *answer) values(column string) (out []string) {
	if i := slices.Index(a.columns, column); i >= 0 {
		for _, r := range a.rows {
			v := reflect.ValueOf(r[i])
			if v.Kind() == reflect.Pointer && !v.IsNil() { // of what may be NULL
				v = v.Elem()
			}
			out = append(out, fmt.Sprint(v.Interface()))
		}
	}
	return out
}

// eachPanel visits the panels that ask ClickHouse.
func eachPanel(t *testing.T, visit func(f *file, p *panelModel, sql string)) {
	t.Helper()
	n := 0
	for _, f := range load(t) {
		for i := range f.Panels {
			for _, target := range f.Panels[i].Targets {
				if target.RawSQL != "" {
					visit(f, &f.Panels[i], target.RawSQL)
					n++
				}
			}
		}
	}
	if n < 80 {
		t.Fatalf("only %d statements were found", n)
	}
}

func TestPanelsOverAStoreInWhichEverythingHasHappened(t *testing.T) {
	s := seedStore(t) // a process has one open at a time
	for name, check := range map[string]func(*testing.T, *store.Store){
		"every panel shows what it says":            everyPanelShowsWhatItSays,
		"every variable has values":                 variablesHaveValues,
		"every choice works through the endpoint":   everyChoiceWorks,
		"events outside of the time range are left": timeRangesPrune,
		"numbers are those of what was stored":      numbersAreRight,
		"findings are those of the API":             findingsAreThoseOfTheAPI,
	} {
		t.Run(name, func(t *testing.T) { check(t, s) })
	}
}

// everyPanelShowsWhatItSays finds panels without anything to show, and names in links,
// overrides and legends that are not there.
func everyPanelShowsWhatItSays(t *testing.T, s *store.Store) {
	t.Helper()
	eachPanel(t, func(f *file, p *panelModel, sql string) {
		name := fmt.Sprintf("%s, %d %q", f.name, p.ID, p.Title)
		a, err := ask(t, s, f.scene(t, noon).at(t, p).expand(t, sql))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if len(a.rows) == 0 {
			t.Errorf("%s has no row", name)
		}
		for _, problem := range a.disagrees(t, p) {
			t.Errorf("%s: %s", name, problem)
		}
	})
}

var named = regexp.MustCompile(`\$\{__(data\.fields|field\.labels)\.(\w+)`)

// disagrees says what a panel names and its answer does not have.
func (a *answer) disagrees(t *testing.T, p *panelModel) (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	var texts []string
	for i, c := range a.columns {
		if a.isText(i) {
			texts = append(texts, c)
		}
	}
	series := p.Targets[0].Format == 0
	if series {
		if a.columns[0] != "time" || !strings.HasPrefix(a.types[0], "DateTime") {
			say("a series begins with a time, and this with %s %s", a.columns[0], a.types[0])
		}
		times := a.values("time")
		if !slices.IsSorted(times) {
			say("the times are not in order, and Grafana makes series of those alone")
		}
		if len(texts) > 1 {
			say("%v are two labels of one series", texts)
		}
		if (len(texts) == 1) != (p.FieldConfig.Defaults.DisplayName != "") {
			say("series are named by %v, and the legend by %q", texts, p.FieldConfig.Defaults.DisplayName)
		}
	}
	check := func(text string) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			if m[1] == "field.labels" {
				if !series || !slices.Contains(texts, m[2]) {
					say("%s is no label", m[2])
				}
			} else if series || !slices.Contains(a.columns, m[2]) {
				say("%s is no column of %v", m[2], a.columns)
			}
		}
	}
	check(p.FieldConfig.Defaults.DisplayName)
	for _, l := range p.links(t) {
		check(l.URL)
	}
	for _, o := range p.FieldConfig.Overrides {
		if slices.Contains(a.columns, o.Matcher.Options) {
			continue
		}
		if !series || len(texts) != 1 || !slices.Contains(slices.Concat(words, a.values(texts[0])), o.Matcher.Options) {
			say("there is no column or series %s", o.Matcher.Options)
		}
	}
	return problems
}

// words that have a colour of their own though the seed may not have all of them.
var words = []string{"info", "low", "medium", "high", "critical", "success", "tool_error", "protocol_error", "timeout", "denied", "rate_limited", "cancelled", "input_required"}

// variablesHaveValues runs the statements of the variables.
func variablesHaveValues(t *testing.T, s *store.Store) {
	t.Helper()
	n := 0
	for _, f := range load(t) {
		base := f.scene(t, noon)
		base.interval = time.Minute
		for _, v := range f.Templating.List {
			if v.Type != "query" || v.Datasource.Type != "grafana-clickhouse-datasource" {
				continue
			}
			n++
			a, err := ask(t, s, base.expand(t, v.sql(t)))
			if err != nil || len(a.rows) == 0 || len(a.columns) != 1 || !a.isText(0) {
				t.Errorf("%s: variable %s: %+v, %v", f.name, v.Name, a, err)
				continue
			}
			if want := oddly[v.Name]; !slices.Contains(a.values(a.columns[0]), want) {
				t.Errorf("%s: variable %s has %q, and not %q", f.name, v.Name, a.values(a.columns[0]), want)
			}
		}
	}
	if n != 30 {
		t.Errorf("%d variables were asked for, want five in each dashboard", n)
	}
}

// everyChoiceWorks runs all statements with values that are hard to quote, over an hour,
// where the finer half of a statement is used, through the endpoint that Grafana reads an
// embedded node by: it judges statements before the engine gets them.
func everyChoiceWorks(t *testing.T, s *store.Store) {
	t.Helper()
	grafana := openEndpoint(t, s)
	hard := map[string][]string{}
	for name, v := range oddly {
		hard[name] = []string{v}
		if name != "session" && name != "trace" && name != "finding" {
			hard[name] = []string{v, `\`}
		}
	}
	eachPanel(t, func(f *file, p *panelModel, sql string) {
		c := f.scene(t, noon)
		c.from = noon.Add(-time.Hour)
		for name := range c.values {
			c.values[name] = hard[name]
		}
		if problem := grafana.ask(t, c.at(t, p).expand(t, sql)); problem != "" {
			t.Errorf("%s, %d %q with %q: %s", f.name, p.ID, p.Title, hard, problem)
		}
	})
}

// usual is a choice of one or two of each; without a session or a trace, whose indexes
// would hide that a time range is missing.
var usual = map[string][]string{"tenant": {"acme", "globex"}, "environment": {"production"}, "server": {"files", "mail"}, "principal": {"agent:helpdesk"}, "tool": {"read"}}

// timeRangesPrune has the engine say how much of the events it would read for the last
// six hours of ten days, of some tenants, servers and principals.
func timeRangesPrune(t *testing.T, s *store.Store) {
	t.Helper()
	asked := 0
	eachPanel(t, func(f *file, p *panelModel, sql string) {
		c := f.scene(t, noon)
		c.from = noon.Add(-6 * time.Hour)
		for name := range c.values {
			c.values[name] = usual[name]
		}
		a, err := ask(t, s, "EXPLAIN ESTIMATE "+c.at(t, p).expand(t, sql))
		if err != nil {
			t.Errorf("%s, %d %q: %v", f.name, p.ID, p.Title, err)
			return
		}
		for i, table := range a.values("table") {
			if table != "events" {
				continue
			}
			asked++
			var rows int
			if _, err := fmt.Sscan(a.values("rows")[i], &rows); err != nil {
				t.Fatal(err)
			}
			if rows > seeded/2 {
				t.Errorf("%s, %d %q would read %d of %d events for six hours of ten days", f.name, p.ID, p.Title, rows, seeded)
			}
		}
	})
	if asked < 20 {
		t.Errorf("only %d statements say that they read events", asked)
	}
}

// numbersAreRight compares panels with what was seeded.
func numbersAreRight(t *testing.T, s *store.Store) {
	t.Helper()
	find := func(dashboard string, id int) (*file, *panelModel) {
		for _, f := range load(t) {
			for i := range f.Panels {
				if f.UID == dashboard && f.Panels[i].ID == id {
					return f, &f.Panels[i]
				}
			}
		}
		t.Fatalf("%s has no panel %d", dashboard, id)
		return nil, nil
	}
	hard := map[string][]string{}
	for name, v := range oddly {
		hard[name] = []string{v}
	}
	events := map[string][]string{}
	for name, v := range hard {
		if name != "finding" {
			events[name] = v
		}
	}
	for _, c := range []struct {
		dashboard string
		panel     int
		choice    map[string][]string
		column    string
		want      string
		back      time.Duration // 0 for what the dashboard opens with
	}{
		{"mcpaudit-overview", 2, hard, "calls", fmt.Sprint(odd), 0},
		// A day of the seed: 3,928 events without 99 listings and 66 sign-ins, and the odd
		// ones. From the sums without principals, and from those with.
		{"mcpaudit-overview", 2, nil, "calls", fmt.Sprint(3928 - 99 - 66 + odd), 0},
		{"mcpaudit-overview", 2, map[string][]string{"principal": {"user:ada", "agent:helpdesk", `CORP\bob`, oddly["principal"]}}, "calls", fmt.Sprint(3928 - 99 - 66 + odd), 0},
		{"mcpaudit-overview", 2, map[string][]string{"principal": {`o'brien`}}, "calls", "0", 0},
		{"mcpaudit-overview", 2, map[string][]string{"principal": {`.*`, "user"}}, "calls", "0", 0},
		{"mcpaudit-overview", 11, hard, "calls", fmt.Sprint(odd), time.Hour},
		{"mcpaudit-overview", 6, map[string][]string{"tenant": {"acme"}}, "principals", "3", 0},
		{"mcpaudit-investigate", 2, events, "n", fmt.Sprint(odd), 0},
		{"mcpaudit-investigate", 2, hard, "n", "0", 0}, // there is no such finding
		{"mcpaudit-investigate", 5, map[string][]string{"session": {"session-1"}}, "principals", "3", 0},
		{"mcpaudit-investigate", 2, nil, "n", "", 9 * 24 * time.Hour}, // nobody is chosen
		{"mcpaudit-investigate", 2, map[string][]string{"session": {"session-1"}}, "n", "50", 9 * 24 * time.Hour},
		// Twelve findings, one every twenty minutes backwards: 1, 5 and 9 are resolved, 2 is
		// acknowledged, 3 and 4 are closed, and 2, 5 and 8 are declared to be usual, but not
		// 11 of the same rule, which was before that.
		{"mcpaudit-overview", 7, nil, "findings", "5", 0}, // 6, 7, 10, 11 and 12
		{"mcpaudit-detections", 2, nil, "open", "5", 0},
		{"mcpaudit-detections", 3, nil, "waiting", "4", 0}, // without 12, which is low
		{"mcpaudit-detections", 4, nil, "opened", "9", 0},
		{"mcpaudit-detections", 5, nil, "noise", "0.5", 0},
		{"mcpaudit-detections", 6, nil, "looked_after", "840", 0}, // from the opening, a minute after the start, to 15 minutes after it
		{"mcpaudit-detections", 7, nil, "covered", "3", 0},
		{"mcpaudit-detections", 41, map[string][]string{"tenant": {"acme"}}, "waiting", "0 1", 0},
		{"mcpaudit-detections", 41, map[string][]string{"tenant": {"acme"}}, "sent", "2 0", 0},
		{"mcpaudit-tools", 2, nil, "servers", "4", 0},
		{"mcpaudit-compliance", 3, nil, "silent", "0", 0},
		{"mcpaudit-compliance", 7, nil, "holds", "1", 0},
		{"mcpaudit-compliance", 6, nil, "problems", "1", 0},
	} {
		f, p := find(c.dashboard, c.panel)
		base := f.scene(t, noon)
		if c.back != 0 {
			base.from = noon.Add(-c.back)
		}
		for name := range base.values {
			base.values[name] = c.choice[name]
		}
		look := base.at(t, p)
		look.interval = max(look.interval, time.Hour)
		a, err := ask(t, s, look.expand(t, p.Targets[0].RawSQL))
		if err != nil {
			t.Errorf("%q: %v", p.Title, err)
			continue
		}
		if got := strings.Join(a.values(c.column), " "); got != c.want {
			t.Errorf("%q with %q shows %s, want %s", p.Title, c.choice, got, c.want)
		}
	}
}

// findingsAreThoseOfTheAPI compares what the dashboards make of findings and of steps of
// triage with what the API does, which has its own statement.
func findingsAreThoseOfTheAPI(t *testing.T, s *store.Store) {
	t.Helper()
	api := findings.New(findings.Config{}, s, nil, func() time.Time { return noon }, slog.New(slog.DiscardHandler))
	resp, err := api.ListFindings(scopetest.Every(context.Background()), &pb.ListFindingsRequest{Filter: `state = "open" AND triage != "closed"`, PageSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range resp.GetFindings() {
		want = append(want, f.GetFindingId()+" "+f.GetSeverity()+" "+f.GetTriage())
	}
	for _, f := range load(t) {
		for i := range f.Panels {
			p := &f.Panels[i]
			if p.Title != "Which findings come first?" {
				continue
			}
			a, err := ask(t, s, f.scene(t, noon).at(t, p).expand(t, p.Targets[0].RawSQL))
			if err != nil {
				t.Fatal(err)
			}
			ids, severities, triages := a.values("finding_id"), a.values("severity"), a.values("triage")
			var got []string
			for i := range ids {
				got = append(got, ids[i]+" "+severities[i]+" "+triages[i])
			}
			slices.Sort(want)
			slices.Sort(got)
			if len(want) == 0 || !slices.Equal(got, want) {
				t.Errorf("the dashboards show\n%s\nand the API\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			return
		}
	}
	t.Error("no panel lists findings")
}
