package dashboards_test

import (
	"encoding/json"
	"io/fs"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/dashboards"
)

// file is what the tests look at of a dashboard. Unknown fields are Grafana's business.
type file struct {
	name                             string
	UID, Title, Description, Refresh string
	Tags                             []string
	SchemaVersion                    int
	Time                             struct{ From, To string }
	Links                            []struct {
		Type                  string
		Tags                  []string
		IncludeVars, KeepTime bool
	}
	Templating struct{ List []varModel }
	Panels     []panelModel
}

type varModel struct {
	Type, Name, Label, Description string
	Datasource                     *struct{ Type, UID string }
	Query                          json.RawMessage
	Multi, IncludeAll              bool
}

func (v *varModel) sql(t testing.TB) string {
	t.Helper()
	var q struct{ RawSQL string }
	if err := json.Unmarshal(v.Query, &q); err != nil {
		t.Fatalf("variable %s: %v", v.Name, err)
	}
	return q.RawSQL
}

type panelModel struct {
	ID                                 int
	Type, Title, Description, Interval string
	Datasource                         *struct{ Type, UID string }
	GridPos                            struct{ H, W, X, Y int }
	Links                              []linkModel
	FieldConfig                        struct {
		Defaults struct {
			Unit, NoValue, DisplayName string
			Links                      []linkModel
		}
		Overrides []struct {
			Matcher    struct{ ID, Options string }
			Properties []struct {
				ID    string
				Value json.RawMessage
			}
		}
	}
	Targets []struct {
		RefID, EditorType, QueryType, RawSQL, Expr, LegendFormat string
		Datasource                                               struct{ Type, UID string }
		Format                                                   int
	}
}

type linkModel struct{ Title, URL string }

// links are all links of a panel.
func (p *panelModel) links(t testing.TB) []linkModel {
	all := append(append([]linkModel{}, p.Links...), p.FieldConfig.Defaults.Links...)
	for _, o := range p.FieldConfig.Overrides {
		for _, q := range o.Properties {
			var own []linkModel
			if q.ID == "links" {
				if err := json.Unmarshal(q.Value, &own); err != nil {
					t.Fatal(err)
				}
				all = append(all, own...)
			}
		}
	}
	return all
}

func load(t testing.TB) []*file {
	t.Helper()
	names, err := fs.Glob(dashboards.FS, "*.json")
	if err != nil || len(names) != 6 {
		t.Fatalf("there are the dashboards %v, %v; want six", names, err)
	}
	var out []*file
	for _, name := range names {
		text, err := fs.ReadFile(dashboards.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		f := &file{name: name}
		if err := json.Unmarshal(text, f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, f)
	}
	return out
}

// scene is the dashboard as it opens, in a window 1,000 points wide.
func (f *file) scene(t testing.TB, now time.Time) *scene {
	t.Helper()
	back := map[string]time.Duration{"now-6h": 6 * time.Hour, "now-24h": 24 * time.Hour, "now-7d": 7 * 24 * time.Hour, "now-30d": 30 * 24 * time.Hour}[f.Time.From]
	if back == 0 {
		t.Fatalf("%s: %q is not known to the test", f.name, f.Time.From)
	}
	s := &scene{values: map[string][]string{}, from: now.Add(-back), to: now}
	for _, v := range f.Templating.List {
		s.values[v.Name] = nil
	}
	return s
}

// at is the scene with the step that Grafana gives to a panel.
func (s *scene) at(t testing.TB, p *panelModel) *scene {
	t.Helper()
	c := *s
	c.interval = s.to.Sub(s.from) / 1000
	if p.Interval != "" {
		least, err := time.ParseDuration(map[string]string{"1d": "24h"}[p.Interval])
		if p.Interval != "1d" {
			least, err = time.ParseDuration(p.Interval)
		}
		if err != nil {
			t.Fatalf("panel %d: interval: %v", p.ID, err)
		}
		c.interval = max(c.interval, least)
	}
	return &c
}
