// Package dashboards holds the Grafana dashboards of mcpaudit: JSON files in Grafana's
// classic model, which dashboards/push and Grafana's file provisioning load. They are made
// by the command in generate; README.md says what they hold to.
package dashboards

import "embed"

// FS has the dashboards, one file each, named after the uid without "mcpaudit-":
// overview.json has mcpaudit-overview.
//
//go:embed *.json
var FS embed.FS

//go:generate go run ./generate .
