package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/internal/app"
)

// settings are the service's configuration as a command's flags, the
// environment and a file give it.
type settings struct {
	s      *surroundings
	file   string
	config app.Config
	flags  map[string]*string
	set    *pflag.FlagSet
}

// settings are those of a command; when names are given, only they are flags.
func (s *surroundings) settings(cmd *cobra.Command, names ...string) *settings {
	st := &settings{s: s, config: app.DefaultConfig(filepath.Join(s.dataHome(), "data")), flags: map[string]*string{}, set: cmd.Flags()}
	cmd.Flags().StringVarP(&st.file, "config", "c", "", "YAML file with settings ($MCPAUDIT_CONFIG)")
	for _, o := range st.config.Settings() {
		if len(names) > 0 && !slices.Contains(names, o.Name) {
			continue
		}
		st.flags[o.Name] = cmd.Flags().String(o.Name, o.String(), fmt.Sprintf("%s ($%s)", o.Doc, o.Env()))
		if o.IsBool() {
			cmd.Flags().Lookup(o.Name).NoOptDefVal = "true"
		}
	}
	return st
}

// load reads the file, then the environment, then the flags, and checks all.
func (st *settings) load() (app.Config, error) {
	file := st.file
	if file == "" {
		file = st.s.env("MCPAUDIT_CONFIG")
	}
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return app.Config{}, fmt.Errorf("read configuration: %w", err)
		}
		defer f.Close()
		if err := st.config.ReadYAML(file, f); err != nil {
			return app.Config{}, err
		}
	}
	for _, o := range st.config.Settings() {
		if v := st.s.env(o.Env()); v != "" {
			if err := o.Set(v); err != nil {
				return app.Config{}, fmt.Errorf("environment variable %s: %w", o.Env(), err)
			}
		}
		if st.set.Changed(o.Name) {
			if err := o.Set(*st.flags[o.Name]); err != nil {
				return app.Config{}, fmt.Errorf("flag --%w", err)
			}
		}
	}
	if v := st.s.env("MCPAUDIT_ENGINE"); v != "" && st.config.Store.Engine == "" {
		st.config.Store.Engine = v
	}
	return st.config, st.config.Validate()
}

func (s *surroundings) logger(c app.LoggingConfig) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // Validate has refused it
	}
	opt := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(s.stderr, opt))
	}
	return slog.New(slog.NewTextHandler(s.stderr, opt))
}

func serveCommand(s *surroundings) *cobra.Command {
	var check, dump bool
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the service: take events, keep them, answer queries", Args: cobra.NoArgs,
		Long: `Run the service until it is interrupted.

Without settings it keeps events with the ClickHouse engine in process, in your
data folder, and listens on loopback: gRPC on 127.0.0.1:4777; HTTP/JSON, health and
metrics on 127.0.0.1:4778. Every setting is a flag, an environment variable and a
key of the YAML file; 'mcpaudit config' prints them all with what is in force.
Traces of its own work go to an OpenTelemetry collector when the standard
OTEL_EXPORTER_OTLP_ENDPOINT names one.`,
		Example: `  mcpaudit serve
  mcpaudit serve --store.path ./audit-data --listen.grpc 127.0.0.1:5000
  mcpaudit serve --config mcpaudit.yaml --check
  MCPAUDIT_STORE_DSN=clickhouse://writer:…@db:9000/audit mcpaudit serve --roles ingest`,
	}
	st := s.settings(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "check the settings and stop")
	cmd.Flags().BoolVar(&dump, "dump-config", false, "print the settings in force, without secrets, and stop")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := st.load()
		if err != nil {
			return err
		}
		if dump {
			cfg.Dump(s.stdout)
			return nil
		}
		if check {
			if cfg.Access.File != "" {
				if _, err := auth.ReadAccessFile(cfg.Access.File); err != nil {
					return fmt.Errorf("access.file: %w", err)
				}
			}
			_, err := fmt.Fprintln(s.stdout, "the settings are right")
			return err
		}
		s.tuneMemory()
		// Keys are in memory: a crash must not leave it in a file.
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		return app.Serve(cmd.Context(), cfg, app.Deps{
			Now: s.now, Log: s.logger(cfg.Logging), Version: buildVersion(), EngineDirs: []string{s.engineDir()}, Env: s.env,
			FirstKey: func(text string, k auth.Key) error { return s.showFirstKey(cfg, text, k) },
		})
	}
	return cmd
}

func migrateCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "migrate", Short: "Bring the store's schema up to date", Args: cobra.NoArgs,
		Long: `Apply the schema files that the store lacks, and say which. 'mcpaudit serve' does
the same at its start; this command is for accounts and times of your own.`,
		Example: `  mcpaudit migrate
  mcpaudit migrate --store.dsn clickhouse://admin:…@db:9000/audit`,
	}
	st := s.settings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := st.load()
		if err != nil {
			return err
		}
		db, err := app.OpenStore(cmd.Context(), cfg, []string{s.engineDir()})
		if err != nil {
			return err
		}
		defer db.Close()
		applied, err := db.Migrate(cmd.Context(), s.now())
		for _, name := range applied {
			fmt.Fprintf(s.stdout, "applied %s\n", name)
		}
		if err == nil && len(applied) == 0 {
			fmt.Fprintln(s.stdout, "the schema is up to date")
		}
		return err
	}
	return cmd
}

func configCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Print every setting, what it means and what is in force", Args: cobra.NoArgs,
		Long: `Print the settings in force as a commented YAML file; secrets are left out. With no
file, environment or flags it prints the defaults: a file to start from.`,
		Example: `  mcpaudit config > mcpaudit.yaml
  mcpaudit config --config mcpaudit.yaml`,
	}
	st := s.settings(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := st.load()
		if err != nil {
			return err
		}
		cfg.Dump(s.stdout)
		return nil
	}
	return cmd
}

// writeLine is for output whose reader may be gone, such as head.
func writeLine(w io.Writer, parts ...string) error {
	_, err := io.WriteString(w, strings.Join(parts, "")+"\n")
	return err
}

// tuneMemory trades memory for speed: events live shortly, so a larger heap is
// collected much less often. Near 700 MB the collector works harder. Whoever set
// Go's own variables knows better.
func (s *surroundings) tuneMemory() {
	if s.env("GOGC") == "" && s.env("GOMEMLIMIT") == "" {
		debug.SetGCPercent(400)
		debug.SetMemoryLimit(700 << 20)
	}
}

// firstKeyFile is where the key of a first start is left when nobody looks on.
const firstKeyFile = "first-key"

// showFirstKey shows the key of a first start to who has started the service. What is
// not a terminal is a log, and a key does not belong there: it is left in a file that
// the user alone may read.
func (s *surroundings) showFirstKey(cfg app.Config, text string, k auth.Key) error {
	until := k.ExpiresAt.Format("2006-01-02")
	if s.screen(s.stderr).terminal {
		fmt.Fprintf(s.stderr, `
This store is new. Here is its first API key, for everything, until %s. It is shown this once:

  %s

Keep it for your commands:  mcpaudit access login   (and paste it, then Ctrl-D)
Make one for each server:   mcpaudit access create NAME --role emitter

`, until, text)
		return nil
	}
	if err := os.MkdirAll(cfg.LedgerFolder(), 0o755); err != nil {
		return err
	}
	file := filepath.Join(cfg.LedgerFolder(), firstKeyFile)
	if err := keepKey(file, text); err != nil {
		return err
	}
	fmt.Fprintf(s.stderr, "mcpaudit: this store is new; its first API key, for everything, until %s, is in %s: take it from there, 'mcpaudit access login < %s' keeps it for your commands, and remove the file\n", until, file, file)
	return nil
}
