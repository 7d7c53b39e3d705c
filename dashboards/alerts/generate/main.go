// Command generate writes the shipped alert rules as a file of Grafana's file
// provisioning.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/mcpaudit/mcpaudit/dashboards"
	"github.com/mcpaudit/mcpaudit/dashboards/alerts"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "generate alert rules: %v\n", err)
		os.Exit(1) //nolint:forbidigo // the main of a command
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("name the file to write")
	}
	text, err := alerts.Provisioning(dashboards.FS)
	if err != nil {
		return err
	}
	return os.WriteFile(args[0], text, 0o644)
}
