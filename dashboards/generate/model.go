package main

// The classic dashboard model of Grafana, as far as it is used here; see
// https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/.
// What Grafana fills in by itself is left out. Fields are in the order in which
// encoding/json writes them, so the files are the same after every run.

// schemaVersion is that of Grafana 12.0. Later ones read it and add what they know;
// earlier ones, from 11.6, which the ClickHouse data source asks for, ignore nothing of it.
const schemaVersion = 41

// The types of the two data sources. Which of that type is read is a variable.
const (
	clickhouse = "grafana-clickhouse-datasource"
	prometheus = "prometheus"
)

type dashboard struct {
	UID           string     `json:"uid"`
	Title         string     `json:"title"`
	Description   string     `json:"description"`
	Tags          []string   `json:"tags"`
	SchemaVersion int        `json:"schemaVersion"`
	Editable      bool       `json:"editable"`
	GraphTooltip  int        `json:"graphTooltip"` // 1: one crosshair in all panels
	Refresh       string     `json:"refresh"`
	Time          timeRange  `json:"time"`
	Timepicker    struct{}   `json:"timepicker"`
	Timezone      string     `json:"timezone"`
	Annotations   list[any]  `json:"annotations"`
	Links         []dashLink `json:"links"`
	Templating    list[any]  `json:"templating"`
	Panels        []panel    `json:"panels"`
}

type list[T any] struct {
	List []T `json:"list"`
}

type timeRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// dashLink is the row of links to the other dashboards.
type dashLink struct {
	Title       string   `json:"title"`
	Type        string   `json:"type"`
	Tags        []string `json:"tags"`
	Icon        string   `json:"icon"`
	Tooltip     string   `json:"tooltip"`
	URL         string   `json:"url"`
	AsDropdown  bool     `json:"asDropdown"`
	IncludeVars bool     `json:"includeVars"`
	KeepTime    bool     `json:"keepTime"`
	TargetBlank bool     `json:"targetBlank"`
}

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

var (
	clickhouseSource = source{clickhouse, "${datasource}"}
	prometheusSource = source{prometheus, "${prometheus}"}
)

type panel struct {
	ID          int          `json:"id"`
	Type        string       `json:"type"`
	Title       string       `json:"title"`
	Description string       `json:"description,omitempty"`
	Datasource  *source      `json:"datasource,omitempty"`
	GridPos     gridPos      `json:"gridPos"`
	Collapsed   *bool        `json:"collapsed,omitempty"` // of rows
	Panels      any          `json:"panels,omitempty"`    // of rows: an empty list, while they are open
	Interval    string       `json:"interval,omitempty"`  // the finest step
	Links       []link       `json:"links,omitempty"`
	FieldConfig *fieldConfig `json:"fieldConfig,omitempty"`
	Options     object       `json:"options,omitempty"`
	Targets     []target     `json:"targets,omitempty"`
}

// object is what one kind of panel alone knows.
type object map[string]any

type gridPos struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

type link struct {
	Title string `json:"title"`
	URL   string `json:"url"`
}

type fieldConfig struct {
	Defaults  fieldDefaults `json:"defaults"`
	Overrides []override    `json:"overrides"`
}

type fieldDefaults struct {
	Unit        string      `json:"unit,omitempty"`
	Decimals    *int        `json:"decimals,omitempty"`
	Min         *float64    `json:"min,omitempty"`
	Max         *float64    `json:"max,omitempty"`
	NoValue     string      `json:"noValue"`
	DisplayName string      `json:"displayName,omitempty"`
	Color       object      `json:"color"`
	Thresholds  *thresholds `json:"thresholds,omitempty"`
	Links       []link      `json:"links,omitempty"`
	Custom      object      `json:"custom,omitempty"`
}

type thresholds struct {
	Mode  string `json:"mode"`
	Steps []step `json:"steps"`
}

type step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"` // null in the first
}

type override struct {
	Matcher    property   `json:"matcher"`
	Properties []property `json:"properties"`
}

// property is one setting of an override, and what it is for: their JSON differs in a name.
type property struct {
	ID      string `json:"id"`
	Options any    `json:"options,omitempty"`
	Value   any    `json:"value,omitempty"`
}

// target is a question to a data source: SQL, or PromQL.
type target struct {
	RefID      string `json:"refId"`
	Datasource source `json:"datasource"`

	// Of the ClickHouse data source 4.20: CHSqlQuery in its src/types/sql.ts.
	EditorType    string `json:"editorType,omitempty"`
	QueryType     string `json:"queryType,omitempty"`
	PluginVersion string `json:"pluginVersion,omitempty"`
	Format        any    `json:"format,omitempty"` // 0 for series, 1 for a table
	RawSQL        string `json:"rawSql,omitempty"`

	// Of Prometheus.
	Expr         string `json:"expr,omitempty"`
	LegendFormat string `json:"legendFormat,omitempty"`
	EditorMode   string `json:"editorMode,omitempty"`
	Range        bool   `json:"range,omitempty"`
}

// queryVariable is a list that people choose from, any number at once.
type queryVariable struct {
	Type        string   `json:"type"`
	Name        string   `json:"name"`
	Label       string   `json:"label"`
	Description string   `json:"description"`
	Datasource  source   `json:"datasource"`
	Definition  string   `json:"definition"`
	Query       object   `json:"query"`
	Refresh     int      `json:"refresh"` // 2: with the time range
	Regex       string   `json:"regex"`
	Sort        int      `json:"sort"`
	Multi       bool     `json:"multi"`
	IncludeAll  bool     `json:"includeAll"`
	AllValue    *string  `json:"allValue"`
	Current     object   `json:"current"`
	Options     []object `json:"options"`
	Hide        int      `json:"hide"`
}

// sourceVariable says which data source of a type is read.
type sourceVariable struct {
	Type       string   `json:"type"`
	Name       string   `json:"name"`
	Label      string   `json:"label"`
	Query      string   `json:"query"`
	Refresh    int      `json:"refresh"`
	Regex      string   `json:"regex"`
	Multi      bool     `json:"multi"`
	IncludeAll bool     `json:"includeAll"`
	Current    object   `json:"current"`
	Options    []object `json:"options"`
	Hide       int      `json:"hide"`
}

// textVariable is typed.
type textVariable struct {
	Type        string   `json:"type"`
	Name        string   `json:"name"`
	Label       string   `json:"label"`
	Description string   `json:"description"`
	Query       string   `json:"query"`
	Current     object   `json:"current"`
	Options     []object `json:"options"`
	Hide        int      `json:"hide"`
}
