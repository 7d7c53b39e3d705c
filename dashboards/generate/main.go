// Command generate makes the dashboards: Go that is read and reviewed in place of
// thousands of lines of JSON, in which ids, places on the grid and what all dashboards
// share can't differ by mistake. Run it with go generate ./dashboards.
//
// Usage: generate DIR
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("name the folder to write the dashboards to")
	}
	for _, d := range []dashboard{overviewBoard(), investigateBoard(), detectionsBoard(), toolsAndServersBoard(), complianceBoard(), healthBoard()} {
		if err := write(args[0], d); err != nil {
			return err
		}
	}
	return nil
}

// write puts a dashboard into the file that has its uid without our name.
func write(dir string, d dashboard) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // people read the statements
	e.SetIndent("", "  ")
	if err := e.Encode(d); err != nil {
		return fmt.Errorf("encode dashboard %s: %w", d.UID, err)
	}
	name := filepath.Join(dir, d.UID[len("mcpaudit-"):]+".json")
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write dashboard: %w", err)
	}
	return nil
}

// board is what all dashboards have: variables, links to each other, how often they
// look again.
func board(uid, title, about, from string, more []any, asks []ask) dashboard {
	return dashboard{
		UID: uid, Title: title, Description: about, Tags: []string{"mcpaudit"}, SchemaVersion: schemaVersion,
		Editable: true, GraphTooltip: 1, Refresh: "1m", Time: timeRange{from, "now"}, Timezone: "browser",
		Annotations: list[any]{[]any{}},
		Links: []dashLink{{Title: "mcpaudit", Type: "dashboards", Tags: []string{"mcpaudit"}, Icon: "external link",
			Tooltip: "The other dashboards, with the same choice and time range", IncludeVars: true, KeepTime: true}},
		Templating: list[any]{append(variables(), more...)},
		Panels:     build(asks),
	}
}
