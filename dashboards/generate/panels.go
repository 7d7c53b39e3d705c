package main

import "strings"

// ask is a panel in short: the question, how it is answered, and where to go on.
type ask struct {
	id    int // of the panel, for ever: links and alert rules name it
	title string
	about string // what it shows, and what to do when it is odd
	kind  string // stat, timeseries, table, bargauge, heatmap, status-history
	w, h  int

	sql      string
	series   bool   // rows of times, with a text that names the series
	by       string // the column that names it
	prom     []promQL
	interval string

	unit    string
	decimal int    // places, when not 0
	none    string // what is said when there is nothing
	least   *float64
	most    *float64
	steps   []step
	stack   bool
	lines   bool
	colours map[string]string
	names   []string // of colours, in order
	columns []column
	links   []link
}

// column is what is said of one column of a table.
type column struct {
	name   string
	unit   string
	link   link
	hidden bool
	width  int
	shade  []step // background by the value
	bar    bool
}

type promQL struct{ expr, legend string }

func number(v float64) *float64 { return &v }

// scale makes steps: a colour, then from where on the next one holds.
func scale(first string, rest ...any) []step {
	out := []step{{Color: first}}
	for i := 0; i < len(rest); i += 2 {
		out = append(out, step{rest[i+1].(string), number(rest[i].(float64))})
	}
	return out
}

var (
	plain     = scale("text")
	badShare  = scale("green", 0.02, "yellow", 0.1, "red")
	wantsZero = scale("green", 1.0, "orange")
	mustBe0   = scale("green", 1.0, "red")
)

// build lays panels out from left to right, in the order in which they are named.
func build(asks []ask) []panel {
	var out []panel
	x, y, tallest := 0, 0, 0
	for _, a := range asks {
		if x+a.w > 24 {
			x, y, tallest = 0, y+tallest, 0
		}
		p := a.panel()
		p.GridPos = gridPos{H: a.h, W: a.w, X: x, Y: y}
		x, tallest = x+a.w, max(tallest, a.h)
		out = append(out, p)
	}
	return out
}

// row is a heading.
func row(id int, title string) ask { return ask{id: id, title: title, kind: "row", w: 24, h: 1} }

func (a *ask) panel() panel {
	if a.kind == "row" {
		open := false
		return panel{ID: a.id, Type: "row", Title: a.title, Collapsed: &open, Panels: []panel{}}
	}
	p := panel{ID: a.id, Type: a.kind, Title: a.title, Description: a.about, Interval: a.interval, Links: a.header(), Options: options(a), FieldConfig: a.fields()}
	if a.sql != "" {
		p.Datasource = &clickhouseSource
		t := target{RefID: "A", Datasource: clickhouseSource, EditorType: "sql", QueryType: "table", PluginVersion: "4.20.0", Format: 1, RawSQL: statement(a.sql)}
		if a.series {
			t.Format, t.QueryType = 0, "timeseries"
		}
		p.Targets = append(p.Targets, t)
	}
	for i, q := range a.prom {
		p.Datasource = &prometheusSource
		p.Targets = append(p.Targets, target{RefID: string(rune('A' + i)), Datasource: prometheusSource, Expr: q.expr, LegendFormat: q.legend, EditorMode: "code", Range: true})
	}
	return p
}

// header are the links of the title, which knows of no row and no series.
func (a *ask) header() (out []link) {
	for _, l := range a.links {
		if !strings.Contains(l.URL, "${__data.") && !strings.Contains(l.URL, "${__field.") {
			out = append(out, l)
		}
	}
	return out
}

func (a *ask) fields() *fieldConfig {
	d := fieldDefaults{Unit: a.unit, NoValue: a.none, Min: a.least, Max: a.most, Color: object{"mode": "palette-classic"}}
	if a.decimal > 0 {
		d.Decimals = &a.decimal
	}
	if a.by != "" {
		d.DisplayName = "${__field.labels." + a.by + "}"
	}
	if len(a.steps) > 0 {
		d.Thresholds, d.Color = &thresholds{"absolute", a.steps}, object{"mode": "thresholds"}
	}
	f := &fieldConfig{Overrides: []override{}}
	switch a.kind {
	case "timeseries":
		d.Custom = drawing(a)
		// The colour tells series apart; thresholds would give all of them one.
		d.Color = object{"mode": "palette-classic"}
	case "table":
		d.Custom = object{"align": "auto", "filterable": true, "cellOptions": object{"type": "auto"}}
		d.Color = object{"mode": "thresholds"}
	case "heatmap":
		d.Custom = object{"scaleDistribution": object{"type": "linear"}}
	case "status-history":
		d.Custom = object{"fillOpacity": 80, "lineWidth": 0}
	}
	if a.kind != "table" && len(a.links) > 0 {
		d.Links = a.links
	}
	f.Defaults = d
	for _, name := range a.names {
		f.Overrides = append(f.Overrides, override{property{ID: "byName", Options: name},
			[]property{{ID: "color", Value: object{"mode": "fixed", "fixedColor": a.colours[name]}}}})
	}
	for _, c := range a.columns {
		f.Overrides = append(f.Overrides, override{property{ID: "byName", Options: c.name}, c.properties()})
	}
	return f
}

func (c *column) properties() (out []property) {
	if c.unit != "" {
		out = append(out, property{ID: "unit", Value: c.unit})
	}
	if c.width > 0 {
		out = append(out, property{ID: "custom.width", Value: c.width})
	}
	if c.hidden {
		out = append(out, property{ID: "custom.hidden", Value: true})
	}
	if c.link.URL != "" {
		out = append(out, property{ID: "links", Value: []link{c.link}})
	}
	if len(c.shade) > 0 {
		out = append(out, property{ID: "custom.cellOptions", Value: object{"type": "color-background", "mode": "basic"}},
			property{ID: "thresholds", Value: thresholds{"absolute", c.shade}})
	}
	if c.bar {
		out = append(out, property{ID: "custom.cellOptions", Value: object{"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}},
			property{ID: "min", Value: 0}, property{ID: "color", Value: object{"mode": "fixed", "fixedColor": "blue"}})
	}
	return out
}

// drawing is how a series is drawn. Hours in which nothing was are no rows: bars show
// that, and a line over them would invent something.
func drawing(a *ask) object {
	o := object{"drawStyle": "bars", "fillOpacity": 70, "lineWidth": 0, "showPoints": "never", "spanNulls": false, "barAlignment": 1,
		"axisSoftMin": 0, "stacking": object{"mode": "none", "group": "A"}}
	if a.lines {
		o["drawStyle"], o["fillOpacity"], o["lineWidth"], o["showPoints"], o["lineInterpolation"] = "line", 8, 1, "auto", "linear"
		delete(o, "barAlignment")
	}
	if a.stack {
		o["stacking"] = object{"mode": "normal", "group": "A"}
	}
	return o
}

func options(a *ask) object {
	legend := object{"showLegend": true, "displayMode": "list", "placement": "bottom", "calcs": []string{}}
	reduce := object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}
	switch a.kind {
	case "stat":
		return object{"reduceOptions": reduce, "colorMode": "value", "graphMode": "none", "textMode": "value", "justifyMode": "auto", "orientation": "auto", "wideLayout": true}
	case "bargauge":
		reduce = object{"calcs": []string{}, "fields": "", "values": true, "limit": 25}
		return object{"reduceOptions": reduce, "displayMode": "basic", "orientation": "horizontal", "valueMode": "color", "showUnfilled": true, "namePlacement": "left", "sizing": "auto", "minVizHeight": 16, "minVizWidth": 8}
	case "timeseries":
		calc := "max"
		if a.stack {
			calc = "sum"
		}
		legend["displayMode"], legend["calcs"] = "table", []string{calc}
		legend["placement"] = "right"
		return object{"legend": legend, "tooltip": object{"mode": "multi", "sort": "desc"}}
	case "table":
		return object{"showHeader": true, "cellHeight": "sm", "footer": object{"show": false, "reducer": []string{"sum"}, "fields": "", "countRows": false}}
	case "heatmap":
		return object{"calculate": false, "cellGap": 1, "rowsFrame": object{"layout": "auto"}, "yAxis": object{"axisPlacement": "left", "reverse": false},
			"color":  object{"mode": "scheme", "scheme": "Oranges", "scale": "exponential", "exponent": 0.5, "steps": 64, "fill": "dark-orange", "reverse": false},
			"legend": object{"show": true}, "tooltip": object{"mode": "single", "yHistogram": false, "showColorScale": false}, "filterValues": object{"le": 1e-9}, "exemplars": object{"color": "rgba(255,0,255,0.7)"}}
	case "status-history":
		return object{"showValue": "never", "rowHeight": 0.9, "colWidth": 0.9, "legend": legend, "tooltip": object{"mode": "single", "sort": "none"}}
	}
	return nil
}

// carried are the variables that links take along.
var carried = []string{"datasource", "prometheus", "tenant", "environment", "server", "principal", "tool"}

// to is a link to another dashboard: what is set here and not said anew is kept. set has
// pairs of a variable and its value.
func to(title, uid string, set ...string) link {
	var b strings.Builder
	b.WriteString("/d/" + uid + "?")
	parts := []string{}
	own := map[string]bool{}
	for i := 0; i < len(set); i += 2 {
		own[set[i]] = true
	}
	if !own["from"] {
		parts = append(parts, "${__url_time_range}")
	}
	for _, name := range carried {
		if !own[name] {
			parts = append(parts, "${"+name+":queryparam}")
		}
	}
	for i := 0; i < len(set); i += 2 {
		name := "var-" + set[i]
		if set[i] == "from" || set[i] == "to" {
			name = set[i]
		}
		parts = append(parts, name+"="+set[i+1])
	}
	b.WriteString(strings.Join(parts, "&"))
	return link{title, b.String()}
}

// field is the value of another column in the row that was clicked, label that of the
// series.
func field(name string) string { return "${__data.fields." + name + ":percentencode}" }
func label(name string) string { return "${__field.labels." + name + ":percentencode}" }

const (
	overview    = "mcpaudit-overview"
	investigate = "mcpaudit-investigate"
	detections  = "mcpaudit-detections"
	toolsBoard  = "mcpaudit-tools"
	compliance  = "mcpaudit-compliance"
	health      = "mcpaudit-health"
)

// ofFinding opens a finding, with the time from its begin to its last event.
var ofFinding = to("Investigate this finding", investigate, "finding", field("finding_id"), "from", field("from_ms"), "to", field("to_ms"),
	"server", "$__all", "principal", "$__all", "tool", "$__all", "environment", "$__all")

// findingColumns are those of every list of findings.
var findingColumns = []column{
	{name: "finding_id", link: ofFinding, width: 120},
	{name: "severity", width: 80},
	{name: "principal", link: to("Investigate this principal", investigate, "principal", field("principal"), "from", field("from_ms"), "to", field("to_ms"))},
	{name: "started", unit: "dateTimeFromNow"},
	{name: "last_seen", unit: "dateTimeFromNow"},
	{name: "from_ms", hidden: true},
	{name: "to_ms", hidden: true},
}

// listOfFindings selects them. An hour before and after shows what was normal then.
const listOfFindings = `toString(finding_id) AS finding_id, severity, rule, reason, principal, server, target, observed, expected,
			started_at AS started, last_seen_at AS last_seen, events, state, triage, assignee, tenant,
			toString(toUnixTimestamp64Milli(started_at) - 3600000) AS from_ms, toString(toUnixTimestamp64Milli(last_seen_at) + 3600000) AS to_ms`
