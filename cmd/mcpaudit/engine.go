package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

func engineCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "engine", Short: "Install, find or serve the embedded ClickHouse engine",
		Long: `The embedded engine is libchdb, ClickHouse as a library. It is needed where the
service keeps events itself, without a ClickHouse server.`,
	}
	var dir string
	install := &cobra.Command{
		Use: "install", Short: "Fetch the pinned engine with npm and check its hash", Args: cobra.NoArgs,
		Long: `Fetch the engine's npm package (about 180 MB), check it against the hash that this
program holds, and unpack it (about 570 MB). Does nothing when it is there.`,
		Example: `  mcpaudit engine install
  mcpaudit engine install --dir /usr/local/lib`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := embedded.Install(cmd.Context(), dir, s.stderr)
			if err != nil {
				return err
			}
			return writeLine(s.stdout, path)
		},
	}
	install.Flags().StringVar(&dir, "dir", s.engineDir(), "folder to install into")
	path := &cobra.Command{
		Use: "path", Short: "Print where the engine is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			path, err := embedded.Locate(s.env("MCPAUDIT_ENGINE"), s.engineDir())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.stdout, path)
			return err
		},
	}
	cmd.AddCommand(install, path, engineServeCommand(s))
	return cmd
}
