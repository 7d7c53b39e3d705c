package main

import "strings"

// variables are those of every dashboard. The service itself, which is the server mcpaudit,
// and those who read the log are among them: links to them would go nowhere otherwise. They are asked of the hourly sums, most used
// first and at most a thousand: a list in a browser is of no use beyond that.
func variables() []any {
	return []any{
		dataSource("datasource", "Log", clickhouse, "mcpaudit-clickhouse"),
		dataSource("prometheus", "Metrics", prometheus, "mcpaudit-prometheus"),
		choice("tenant", "Tenant", "Those that the data source's key may see.", "tenant", "1"),
		choice("environment", "Environment", "Where servers run, such as production.", "environment", "{tenant}"),
		choice("server", "Server", "MCP servers, the most used ones first.", "server", "{tenant}"),
		choice("principal", "Principal", "Who called, the busiest first; at most 1,000 of the time range.", "principal", "principal != '' AND {tenant}"),
		choice("tool", "Tool", "Tools, resources and prompts, the most used ones first.", "target", "target != '' AND {tenant_and_server}"),
	}
}

func dataSource(name, label, kind, uid string) sourceVariable {
	return sourceVariable{Type: "datasource", Name: name, Label: label, Query: kind, Refresh: 1,
		Current: object{"selected": true, "text": uid, "value": uid}, Options: []object{}}
}

// choice is a variable with the values of a column of the hourly sums.
func choice(name, label, about, column, which string) queryVariable {
	table := "tools_hourly" // which is the same without principals
	if column == "principal" {
		table = "activity_hourly"
	}
	sql := statement(`
		SELECT ` + column + ` FROM ` + table + `
		WHERE {hours} AND ` + which + `
		GROUP BY ` + column + ` ORDER BY sum(events) DESC, ` + column + ` LIMIT 1000`)
	return queryVariable{Type: "query", Name: name, Label: label, Description: about, Datasource: clickhouseSource, Definition: strings.ReplaceAll(sql, "\n", " "),
		Query: object{"editorType": "sql", "queryType": "table", "pluginVersion": "4.20.0", "format": 1, "rawSql": sql}, Refresh: 2, Multi: true, IncludeAll: true,
		Current: object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}}, Options: []object{}}
}

// text is a variable that is typed, or that a link brings.
func text(name, label, about string) textVariable {
	return textVariable{Type: "textbox", Name: name, Label: label, Description: about,
		Current: object{"selected": true, "text": "", "value": ""}, Options: []object{{"selected": true, "text": "", "value": ""}}}
}
