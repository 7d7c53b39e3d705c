package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
	"github.com/mcpaudit/mcpaudit/internal/bench"
)

func benchCommand(s *surroundings) *cobra.Command {
	var asJSON bool
	var during time.Duration
	var data string
	var events uint64
	var brokers []string
	cmd := &cobra.Command{
		Use: "bench NAME...", Short: "Measure speed, memory and size beside what the machine can do",
		Long: `Run benchmarks and print each figure beside its goal and beside the limit that the
same machine showed in the same run. There are: ` + strings.Join(bench.Names, ", ") + `, and all.`,
		Example: `  mcpaudit bench all
  mcpaudit bench ingest --time 60s --json
  mcpaudit bench kafka --brokers 127.0.0.1:9092
  mcpaudit bench search --events 100000000 --data ~/mcpaudit-bench`,
		Args: cobra.MinimumNArgs(1), ValidArgs: append(bench.Names, "all"),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.Flags().StringVar(&data, "data", "", "folder for the events to search, used again by the next run; default: a temporary one")
	cmd.Flags().Uint64Var(&events, "events", 2_000_000, "how many events to search")
	cmd.Flags().DurationVar(&during, "time", 15*time.Second, "how long to measure, each")
	cmd.Flags().StringSliceVar(&brokers, "brokers", []string{"127.0.0.1:9092"}, "brokers of Kafka for the benchmark of that name; 'make kafka-up' starts some here")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, name := range args {
			if name != "all" && !slices.Contains(bench.Names, name) {
				return fmt.Errorf("bench: there is no %q; there are %s, and all", name, strings.Join(bench.Names, ", "))
			}
		}
		if slices.Contains(args, "all") {
			args = bench.Names
		}
		library, err := embedded.Locate(s.env("MCPAUDIT_ENGINE"), s.engineDir())
		if err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		s.tuneMemory()
		for _, name := range args {
			dir, err := os.MkdirTemp("", "mcpaudit-bench-")
			if err != nil {
				return fmt.Errorf("bench %s: %w", name, err)
			}
			results, err := bench.Run(cmd.Context(), name, bench.Env{Library: library, Dir: dir, Data: cmp.Or(data, dir), Events: events, Time: during, Self: self, Brokers: brokers,
				Log: slog.New(slog.NewTextHandler(s.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Say: s.stderr, Now: s.now})
			os.RemoveAll(dir)
			if err != nil {
				return err
			}
			if err := bench.Print(s.stdout, asJSON, results); err != nil {
				return err
			}
		}
		return nil
	}
	// The two ends of the wrap benchmark.
	cmd.AddCommand(
		&cobra.Command{Use: "echo-server", Hidden: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			return bench.EchoServer(s.stdin, s.stdout)
		}},
		&cobra.Command{Use: "relay -- COMMAND [ARG...]", Hidden: true, Args: cobra.MinimumNArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			return bench.Relay(args, s.stdin, s.stdout)
		}},
	)
	return cmd
}
