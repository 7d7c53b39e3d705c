package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/emit/kafka"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/profile"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/wrap"
)

func wrapCommand(s *surroundings) *cobra.Command {
	reached := client.FromEnv(s.env, s.home)
	var service, serviceKey, server, tenant, environment, principal, principalKind, agent, spool, keyFile, profileFile, fail string
	var limit int64
	var flush time.Duration
	var quiet bool
	cmd := &cobra.Command{
		Use: "wrap [flags] -- COMMAND [ARG...]", Short: "Run a stdio MCP server and audit it", Args: cobra.MinimumNArgs(1),
		Long: `Run an MCP server's command and audit what passes between it and its client. All
bytes pass as they are, with standard error, signals and the exit status. Calls
are redacted here, kept in a spool on disk and sent to the service; while the
service is away they wait.

--service is the service's own port, or a Kafka topic that it reads:
kafka://HOST:PORT,HOST:PORT/TOPIC, or kafkas:// for TLS. Parameters are ca, cert, key
and server_name (of TLS), mechanism and user (of SASL). Its password comes from
$MCPAUDIT_KAFKA_PASSWORD, or from the file that $MCPAUDIT_KAFKA_PASSWORD_FILE names.

The service lets in who shows a key. An administrator makes one for this server, as
'mcpaudit access create' does; put it into a file that only you may read, and name the
file with --api-key-file. Without a good key events wait on disk. The file is read again
when it changes. The server behind the wrap is given neither key nor password; it runs as
you, though, and can read files that you can: give it a key that only writes, and not the
one of 'access login', which is used, with a warning, when nothing else is named.

Put it in front of the command in your client's configuration.`,
		Example: `  mcpaudit wrap -- npx -y @modelcontextprotocol/server-filesystem ~/projects
  mcpaudit wrap --server files --principal user:alice -- python my_server.py
  mcpaudit wrap --fail closed -- ./server
  mcpaudit wrap --service 'kafkas://kafka-1:9093,kafka-2:9093/mcp-audit?mechanism=SCRAM-SHA-512&user=files' -- ./server`,
	}
	cmd.Flags().SetInterspersed(false)
	f := cmd.Flags()
	orDefault := func(name, otherwise string) string {
		if v := s.env(name); v != "" {
			return v
		}
		return otherwise
	}
	f.StringVar(&service, "service", orDefault("MCPAUDIT_SERVICE", emit.DefaultService), "address of the service's gRPC port, or kafka://HOST:PORT,…/TOPIC ($MCPAUDIT_SERVICE)")
	f.Var(&keyFlag{&reached, reached.KeyFile}, "api-key-file", "file with the API key that an administrator made for this server; its text may be in $MCPAUDIT_API_KEY instead ($MCPAUDIT_API_KEY_FILE)")
	s.tlsFlags(f, &reached.TLS)
	f.StringVar(&serviceKey, "service-key", s.env("MCPAUDIT_SERVICE_KEY"), "public key of the service's log, which its receipts must be signed with; default: the key that it gives at first is trusted from then on ($MCPAUDIT_SERVICE_KEY)")
	f.StringVar(&server, "server", "", "name of the server in events; default: from its command")
	f.StringVar(&tenant, "tenant", orDefault("MCPAUDIT_TENANT", "default"), "owner of the events ($MCPAUDIT_TENANT)")
	f.StringVar(&environment, "environment", s.env("MCPAUDIT_ENVIRONMENT"), "such as production ($MCPAUDIT_ENVIRONMENT)")
	f.StringVar(&principal, "principal", s.env("MCPAUDIT_PRINCIPAL"), "who calls; default: the account this runs as ($MCPAUDIT_PRINCIPAL)")
	f.StringVar(&principalKind, "principal-kind", "human", "human, service or agent")
	f.StringVar(&agent, "agent", s.env("MCPAUDIT_AGENT"), "id of the agent that calls ($MCPAUDIT_AGENT)")
	f.StringVar(&spool, "spool", emit.DefaultSpool(s.env, s.home), "folder for events that wait")
	f.Int64Var(&limit, "spool-limit", 256<<20, "most bytes that wait on disk")
	f.StringVar(&keyFile, "key-file", orDefault("MCPAUDIT_REDACT_KEY_FILE", keyfile.Default(s.env, s.home)), "file with the redaction key, made when missing ($MCPAUDIT_REDACT_KEY_FILE)")
	f.StringVar(&profileFile, "profile", s.env("MCPAUDIT_REDACT_PROFILE"), "file that says what else is redacted; see 'mcpaudit redact --help' ($MCPAUDIT_REDACT_PROFILE)")
	f.StringVar(&fail, "fail", "open", "open: calls pass when they can't be audited; closed: the server is stopped once an event was lost")
	f.DurationVar(&flush, "flush", time.Second, "how long to wait at the end for the service; what is left is sent next time")
	f.BoolVarP(&quiet, "quiet", "q", false, "say nothing but errors")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		base := event.Event{Tenant: tenant, Environment: environment, Principal: principal, PrincipalKind: principalKind,
			AgentID: agent, Transport: "stdio", Hints: event.DefaultHints}
		switch {
		case fail != "open" && fail != "closed":
			return fmt.Errorf("wrap: --fail is %q; use open or closed", fail)
		case !slices.Contains(event.PrincipalKinds, principalKind):
			return fmt.Errorf("wrap: --principal-kind is %q; use one of %v", principalKind, event.PrincipalKinds)
		case flush < 0:
			return fmt.Errorf("wrap: --flush is %v, must not be negative", flush)
		case service == "":
			return errors.New("wrap: --service is empty; name the service's gRPC port, such as 127.0.0.1:4777")
		case kafka.Is(service) && serviceKey != "":
			return errors.New("wrap: --service-key is for receipts, and there are none over Kafka; leave it out, and have the log's anchors checked instead")
		}
		if err := emit.CheckServiceKey(serviceKey); err != nil {
			return fmt.Errorf("wrap: --service-key: %w", err)
		}
		level := slog.LevelWarn
		if quiet {
			level = slog.LevelError
		}
		// Before anything is said: without this a client that closes its end of a pipe would end the audit by
		// SIGPIPE, and the server with it. Caught, and not ignored: the server
		// inherits what is ignored.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		// A client that does not read standard error must not hold the audit up.
		messages := newLossyWriter(s.stderr)
		defer messages.flush(time.Second)
		log := slog.New(slog.NewTextHandler(messages, &slog.HandlerOptions{Level: level})).With("from", "mcpaudit wrap")
		if server == "" {
			server = serverName(args)
		}
		undumpable() // the key may be in the environment
		if own := client.DefaultKeyFile(s.env, s.home); own != "" && reached.KeyFile == own && !kafka.Is(service) {
			log.Warn("this uses your own key, which the server behind it can read; make one for it that only writes, and name it with --api-key-file",
				"make", "mcpaudit access create "+server+" --role emitter --server "+server+" --out "+server+".key")
		}
		base.Server = server
		emit.Identify(&base)
		em, err := emit.OpenPatiently(func() (*emit.Emitter, error) {
			key, _, err := keyfile.ReadOrMake(keyFile)
			if err != nil {
				return nil, err
			}
			p, err := profile.Read(profileFile)
			if err != nil {
				return nil, err
			}
			r, err := redact.New(p, key)
			if err != nil {
				return nil, err
			}
			cfg := emit.Config{Address: service, Client: reached, ServiceKey: serviceKey, Name: server, Spool: spool, SpoolLimit: limit, Now: s.now, Base: base}
			if kafka.Is(service) {
				cfg.Address = ""
				if cfg.Transport, err = kafka.Open(service, s.env); err != nil {
					return nil, err
				}
			}
			return emit.Open(cfg, r, log)
		}, log)
		if err != nil && fail == "closed" {
			return errors.Join(err, em.Close(cmd.Context()))
		}
		if err != nil {
			log.Error("calls pass unaudited until this is mended", "error", err)
		}
		// A definition's digest needs no key: it is the same at every emitter.
		r, err := redact.New(redact.DefaultProfile(), keyfile.New())
		if err != nil {
			return err
		}
		signals := make(chan os.Signal, 8)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
		stderr, _ := s.stderr.(*os.File)
		stdout := s.stdout
		if f, ok := stdout.(*os.File); ok {
			stdout = lastWords{f}
		}
		// The signals are the server's: it ends in its own way, and this with it.
		code, err := wrap.Run(context.WithoutCancel(cmd.Context()), wrap.Config{Command: args, Base: base, FailClosed: fail == "closed",
			Withhold: append([]string{broker.PasswordVariable, broker.PasswordFileVariable, grafanaTokenVariable, grafanaTokenFileVariable}, client.Secrets...), Flush: flush, Now: s.now, Log: log}, s.stdin, stdout, stderr, signals, em, r)
		if err != nil {
			return err
		}
		return exitStatus(code)
	}
	return cmd
}

// lastWords is a standard output that can be ended. The file's number stays taken,
// so that no file opened later is written to by what means standard output.
type lastWords struct{ *os.File }

// Close lets the reader see the end.
func (w lastWords) Close() error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return unix.Dup2(int(null.Fd()), int(w.Fd()))
}

// lossyWriter writes in the background and drops what comes while the reader does
// not read.
type lossyWriter struct {
	lines chan []byte // nil ends it
	ended chan struct{}
}

func newLossyWriter(w io.Writer) *lossyWriter {
	l := &lossyWriter{make(chan []byte, 100), make(chan struct{})}
	go func() {
		defer close(l.ended)
		for line := range l.lines {
			if line == nil {
				return
			}
			_, _ = w.Write(line) // nobody is left to be told
		}
	}()
	return l
}

func (l *lossyWriter) Write(b []byte) (int, error) {
	select {
	case l.lines <- bytes.Clone(b):
	default:
	}
	return len(b), nil
}

// flush waits until all is written, or not longer than patience. What is written
// later is dropped.
func (l *lossyWriter) flush(patience time.Duration) {
	late := time.After(patience)
	select {
	case l.lines <- nil:
	case <-late:
		return
	}
	select {
	case <-l.ended:
	case <-late:
	}
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
