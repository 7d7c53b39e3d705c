// Command mcpaudit is an audit log and anomaly detector for MCP servers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"
	_ "time/tzdata" // business hours have locations, also where the system has no time zones

	"github.com/spf13/cobra"
)

// version is set by the build; without it the module's own is used.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// surroundings are what commands take from the process: streams, environment,
// clock and folders. Nothing below a command touches them.
type surroundings struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(string) string
	now            func() time.Time
	home           string
	colour         string // auto, always or never; a flag
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	home, _ := os.UserHomeDir()
	s := &surroundings{stdin: stdin, stdout: stdout, stderr: stderr, env: os.Getenv, now: time.Now, home: home}
	root := rootCommand(s)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var exit exitStatus
	switch {
	case errors.As(err, &exit):
		return int(exit)
	case err != nil:
		fmt.Fprintf(stderr, "mcpaudit: %v\n", err)
		return 1
	}
	return 0
}

// exitStatus is an error that has been reported already and sets the status.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func rootCommand(s *surroundings) *cobra.Command {
	root := &cobra.Command{
		Use:   "mcpaudit",
		Short: "Audit log and anomaly detector for MCP servers",
		Long: `mcpaudit keeps a redacted, immutable record of every call to your MCP servers.

  mcpaudit serve                          take events, keep them, answer questions
  mcpaudit wrap -- npx some-mcp-server    audit a server that can't be changed
  mcpaudit events list                    see what was called`,
		SilenceUsage: true, SilenceErrors: true,
	}
	s.colour = "auto"
	colours := &choice{&s.colour, []string{"auto", "always", "never"}}
	root.PersistentFlags().Var(colours, "color", "colour the output: auto, always or never; auto is on a terminal, unless $NO_COLOR is set")
	completeWords(root, "color", colours.words...)
	root.AddCommand(serveCommand(s), wrapCommand(s), eventsCommand(s), toolsCommand(s), emittersCommand(s), importCommand(s), exportCommand(s), verifyCommand(s), keysCommand(s), retentionCommand(s), holdsCommand(s), findingsCommand(s), rulesCommand(s), notifyCommand(s), dashboardsCommand(s), accessCommand(s), redactCommand(s),
		engineCommand(s), migrateCommand(s), configCommand(s), benchCommand(s), versionCommand(s))
	for _, c := range root.Commands() {
		if c.HasSubCommands() && !c.Runnable() {
			refuseUnknown(c)
		}
	}
	return root
}

// refuseUnknown makes a misspelt command of a group an error. Cobra would show
// the group's help and succeed.
func refuseUnknown(group *cobra.Command) {
	group.SuggestionsMinimumDistance = 2
	group.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return fmt.Errorf("unknown command %q for %q; the nearest is %q", args[0], cmd.CommandPath(), near[0])
		}
		return fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	}
}

func versionCommand(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.stdout, buildVersion())
			return err
		},
	}
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// dataHome is the user's folder for mcpaudit's data (XDG Base Directory
// specification).
func (s *surroundings) dataHome() string {
	if dir := s.env("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "mcpaudit")
	}
	return filepath.Join(s.home, ".local", "share", "mcpaudit")
}

func (s *surroundings) engineDir() string { return filepath.Join(s.dataHome(), "engine") }
