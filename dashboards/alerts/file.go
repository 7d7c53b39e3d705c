package alerts

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// Data source uids that rules of a file refer to; deploy/grafana/provisioning/datasources
// makes data sources with them.
const (
	ClickHouseUID = "mcpaudit-clickhouse"
	PrometheusUID = "mcpaudit-prometheus"
)

// Query is one step of a rule as Grafana has it: a query, or an expression over others.
// Its keys are the same in the API (AlertQuery) and in files.
type Query struct {
	RefID             string         `yaml:"refId" json:"refId"`
	QueryType         string         `yaml:"queryType,omitempty" json:"queryType,omitempty"`
	RelativeTimeRange TimeRange      `yaml:"relativeTimeRange" json:"relativeTimeRange"`
	DatasourceUID     string         `yaml:"datasourceUid" json:"datasourceUid"`
	Model             map[string]any `yaml:"model" json:"model"`
}

// TimeRange is seconds before now.
type TimeRange struct {
	From int `yaml:"from" json:"from"`
	To   int `yaml:"to" json:"to"`
}

// Condition is the step whose outcome says whether a rule fires.
const Condition = "B"

// What Grafana adds to a model that lacks them; given, so that it adds nothing.
const (
	intervalMs    = 1000
	maxDataPoints = 43200
)

// Queries are the steps of a rule over a data source: A asks it, B compares.
//
// The models are those that the data sources' own editors write: for ClickHouse
// (grafana-clickhouse-datasource 4) an SQL query as a table, for Prometheus an instant
// query, for the comparison Grafana's server-side expression of type threshold.
func (r Rule) Queries(datasource string) []Query {
	model := map[string]any{"refId": "A", "intervalMs": intervalMs, "maxDataPoints": maxDataPoints}
	queryType := ""
	switch r.Source {
	case Prometheus:
		model["datasource"] = map[string]any{"type": "prometheus", "uid": datasource}
		model["expr"], model["instant"], model["range"], model["editorMode"] = r.Query, true, false, "code"
	default:
		queryType = "table"
		model["datasource"] = map[string]any{"type": "grafana-clickhouse-datasource", "uid": datasource}
		model["editorType"], model["format"], model["queryType"], model["rawSql"] = "sql", 1, queryType, r.Query
	}
	return []Query{
		{RefID: "A", QueryType: queryType, RelativeTimeRange: TimeRange{From: 600}, DatasourceUID: datasource, Model: model},
		{RefID: Condition, RelativeTimeRange: TimeRange{From: 600}, DatasourceUID: "__expr__", Model: map[string]any{
			"refId": Condition, "type": "threshold", "expression": "A", "intervalMs": intervalMs, "maxDataPoints": maxDataPoints,
			"datasource": map[string]any{"type": "__expr__", "uid": "__expr__"},
			"conditions": []any{map[string]any{"type": "query", "evaluator": map[string]any{"type": "gt", "params": []any{r.Above}}}},
		}},
	}
}

// Labels are those of each alert of a rule.
func (r Rule) Labels() map[string]string {
	return map[string]string{MarkLabel: MarkValue, "severity": r.Severity}
}

// Annotations are what an alert says; panel is the number of its panel, 0 for none.
func (r Rule) Annotations(panel int) map[string]string {
	a := map[string]string{"summary": r.Summary, "description": r.Description, "runbook": r.Runbook}
	if r.Dashboard != "" {
		if panel > 0 { // Grafana takes these two together or not at all
			a["__dashboardUid__"], a["__panelId__"] = r.Dashboard, strconv.Itoa(panel)
		} else {
			a["dashboard"] = r.Dashboard
		}
	}
	return a
}

// File is Grafana's format for rules in files, apiVersion 1
// (https://grafana.com/docs/grafana/latest/alerting/set-up/provision-alerting-resources/file-provisioning/).
type File struct {
	APIVersion int         `yaml:"apiVersion"`
	Groups     []FileGroup `yaml:"groups"`
}

// FileGroup is a group of rules in a file. Folder is a title, and is made if need be.
type FileGroup struct {
	OrgID    int        `yaml:"orgId"`
	Name     string     `yaml:"name"`
	Folder   string     `yaml:"folder"`
	Interval string     `yaml:"interval"`
	Rules    []FileRule `yaml:"rules"`
}

// FileRule is a rule in a file.
type FileRule struct {
	UID          string            `yaml:"uid"`
	Title        string            `yaml:"title"`
	Condition    string            `yaml:"condition"`
	Data         []Query           `yaml:"data"`
	DashboardUID string            `yaml:"dashboardUid,omitempty"`
	PanelID      int               `yaml:"panelId,omitempty"`
	NoDataState  string            `yaml:"noDataState"`
	ExecErrState string            `yaml:"execErrState"`
	For          string            `yaml:"for"`
	Annotations  map[string]string `yaml:"annotations"`
	Labels       map[string]string `yaml:"labels"`
	IsPaused     bool              `yaml:"isPaused"`
}

// FileOf is groups of rules as a file of Grafana's. panel gives the number of the panel
// that a rule is linked to, 0 for none.
func FileOf(groups []Group, folder string, panel func(Rule) int) File {
	file := File{APIVersion: 1}
	for _, g := range groups {
		to := FileGroup{OrgID: 1, Name: g.Name, Folder: folder, Interval: Span(g.Every)}
		for _, r := range g.Rules {
			uid := ClickHouseUID
			if r.Source == Prometheus {
				uid = PrometheusUID
			}
			rule := FileRule{UID: r.UID, Title: r.Title, Condition: Condition, Data: r.Queries(uid), NoDataState: r.NoData, ExecErrState: r.Error,
				For: Span(r.For), Annotations: r.Annotations(panel(r)), Labels: r.Labels()}
			if id := panel(r); id > 0 {
				rule.DashboardUID, rule.PanelID = r.Dashboard, id
			}
			to.Rules = append(to.Rules, rule)
		}
		file.Groups = append(file.Groups, to)
	}
	return file
}

// Provisioning is the file with the shipped rules, in the folder of our dashboards and
// linked to their panels.
func Provisioning(dashboards fs.FS) ([]byte, error) {
	groups, err := Shipped()
	if err != nil {
		return nil, err
	}
	panels, err := PanelsOf(dashboards)
	if err != nil {
		return nil, err
	}
	return FileOf(groups, "mcpaudit", func(r Rule) int { return panels[r.Dashboard][r.Panel] }).Text()
}

// Text is the file.
func (f File) Text() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Code generated from dashboards/alerts/rules.yaml by 'make generate'. DO NOT EDIT.\n")
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(f); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// Span is a duration as Prometheus, and so Grafana, writes it: 0s, 90s, 5m, 2h.
func Span(d time.Duration) string {
	switch {
	case d == 0:
		return "0s"
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
