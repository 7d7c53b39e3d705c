package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/wrap"
)

func wrapCommand(s *surroundings) *cobra.Command {
	var service, server, tenant, environment, principal, principalKind, agent, spool, keyFile, fail string
	var limit int64
	var flush time.Duration
	var quiet bool
	cmd := &cobra.Command{
		Use: "wrap [flags] -- COMMAND [ARG...]", Short: "Run a stdio MCP server and audit it", Args: cobra.MinimumNArgs(1),
		Long: `Run an MCP server's command and audit what passes between it and its client. All
bytes pass as they are, with standard error, signals and the exit status. Calls
are redacted here, kept in a spool on disk and sent to the service; while the
service is away they wait.

Put it in front of the command in your client's configuration.`,
		Example: `  mcpaudit wrap -- npx -y @modelcontextprotocol/server-filesystem ~/projects
  mcpaudit wrap --server files --principal user:alice -- python my_server.py
  mcpaudit wrap --fail closed -- ./server`,
	}
	cmd.Flags().SetInterspersed(false)
	f := cmd.Flags()
	orDefault := func(name, otherwise string) string {
		if v := s.env(name); v != "" {
			return v
		}
		return otherwise
	}
	f.StringVar(&service, "service", orDefault("MCPAUDIT_SERVICE", defaultService), "address of the service's gRPC port ($MCPAUDIT_SERVICE)")
	f.StringVar(&server, "server", "", "name of the server in events; default: from its command")
	f.StringVar(&tenant, "tenant", orDefault("MCPAUDIT_TENANT", "default"), "owner of the events ($MCPAUDIT_TENANT)")
	f.StringVar(&environment, "environment", s.env("MCPAUDIT_ENVIRONMENT"), "such as production ($MCPAUDIT_ENVIRONMENT)")
	f.StringVar(&principal, "principal", s.env("MCPAUDIT_PRINCIPAL"), "who calls; default: the account this runs as ($MCPAUDIT_PRINCIPAL)")
	f.StringVar(&principalKind, "principal-kind", "human", "human, service or agent")
	f.StringVar(&agent, "agent", s.env("MCPAUDIT_AGENT"), "id of the agent that calls ($MCPAUDIT_AGENT)")
	f.StringVar(&spool, "spool", emit.DefaultSpool(s.env, s.home), "folder for events that wait")
	f.Int64Var(&limit, "spool-limit", 256<<20, "most bytes that wait on disk")
	f.StringVar(&keyFile, "key-file", orDefault("MCPAUDIT_REDACT_KEY_FILE", keyfile.Default(s.env, s.home)), "file with the redaction key, made when missing ($MCPAUDIT_REDACT_KEY_FILE)")
	f.StringVar(&fail, "fail", "open", "open: calls pass when they can't be audited; closed: the server is stopped")
	f.DurationVar(&flush, "flush", 2*time.Second, "how long to wait at the end for the service; what is left is sent next time")
	f.BoolVarP(&quiet, "quiet", "q", false, "say nothing but errors")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if fail != "open" && fail != "closed" {
			return fmt.Errorf("wrap: --fail is %q; use open or closed", fail)
		}
		level := slog.LevelWarn
		if quiet {
			level = slog.LevelError
		}
		log := slog.New(slog.NewTextHandler(s.stderr, &slog.HandlerOptions{Level: level})).With("from", "mcpaudit wrap")
		key, _, err := keyfile.ReadOrMake(keyFile)
		if err != nil {
			return err
		}
		r, err := redact.New(redact.DefaultProfile(), key)
		if err != nil {
			return err
		}
		if server == "" {
			server = serverName(args)
		}
		em, err := emit.Open(emit.Config{Address: service, Name: server, Spool: spool, SpoolLimit: limit, Now: s.now}, r, log)
		if err != nil {
			return err
		}
		base := event.Event{Tenant: tenant, Environment: environment, Principal: principal, PrincipalKind: principalKind,
			AgentID: agent, Server: server, Transport: "stdio"}
		identify(&base)
		signals := make(chan os.Signal, 8)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
		stderr, _ := s.stderr.(*os.File)
		// The signals are the server's: it ends in its own way, and this with it.
		code, err := wrap.Run(context.WithoutCancel(cmd.Context()), wrap.Config{Command: args, Base: base, FailClosed: fail == "closed", Now: s.now},
			s.stdin, s.stdout, stderr, signals, em, r)
		ctx, cancel := context.WithTimeout(context.Background(), flush)
		defer cancel()
		if closeErr := em.Close(ctx); closeErr != nil {
			log.Warn(closeErr.Error())
		}
		if err != nil {
			return err
		}
		return exitStatus(code)
	}
	return cmd
}

// identify fills what this machine knows: the account, the host, a session id.
// A stdio server has one client: its process is the session.
func identify(e *event.Event) {
	host, _ := os.Hostname()
	if e.Principal == "" {
		if u, err := user.Current(); err == nil {
			e.Principal, e.PrincipalName, e.AuthMethod = "os:"+u.Username+"@"+host, u.Name, "os"
		}
	}
	e.ServerInstance = fmt.Sprintf("%s/%d", host, os.Getpid())
	var noise [8]byte
	rand.Read(noise[:])
	e.SessionID = "stdio-" + hex.EncodeToString(noise[:])
}

// launchers are commands whose argument is the server.
var launchers = map[string]bool{"npx": true, "node": true, "uvx": true, "uv": true, "python": true, "python3": true,
	"bunx": true, "bun": true, "deno": true, "docker": true, "sh": true, "bash": true, "env": true, "go": true, "pnpm": true}

// serverName guesses a readable name: the first word of the command that is
// not a launcher, its option or a subcommand.
func serverName(args []string) string {
	for i, a := range args {
		base := filepath.Base(a)
		if strings.HasPrefix(a, "-") || i < len(args)-1 && launchers[base] || a == "run" || a == "dlx" || a == "exec" {
			continue
		}
		base = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(base, ".py"), ".js"), ".ts")
		if base == "index" || base == "main" || base == "server" {
			if parent := filepath.Base(filepath.Dir(a)); parent != "." && parent != "/" && parent != "dist" {
				base = parent
			}
		}
		return base
	}
	return filepath.Base(args[0])
}
