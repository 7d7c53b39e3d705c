// Package gosdk audits an MCP server that is built with the official Go SDK
// (github.com/modelcontextprotocol/go-sdk). One line does it, after the server's
// own middleware and before it runs:
//
//	defer gosdk.Audit(server, nil).Close()
//
// Every request, answer and notification becomes an event: who called what, with
// which authority, what came of it. Content is redacted in this process and kept
// on a disk spool until the mcpaudit service has it. A call costs microseconds
// and never waits for disk or network. Nothing is printed to standard output,
// which belongs to the protocol.
//
// Over HTTP, [Auditor.Handler] around the handler also records what the SDK's
// authentication refuses before a call reaches the server:
//
//	audit := gosdk.Audit(server, nil)
//	defer audit.Close()
//	http.ListenAndServe(addr, audit.Handler(auth.RequireBearerToken(verify, nil)(mcpHandler)))
//
// What the SDK itself refuses before any middleware, such as an unknown method,
// is not seen. Nor are JSON-RPC ids, which the SDK keeps to itself.
package gosdk

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/time/rate"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/profile"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// Options of an audit. The zero value of a field means its default; environment
// variables are those of `mcpaudit wrap`.
type Options struct {
	// Server is the server's name in events; default: the program's.
	Server string
	// ServerVersion; default: the version that the program was built as.
	ServerVersion string
	// Tenant owns the events; default $MCPAUDIT_TENANT or "default".
	Tenant string
	// Environment is such as production; default $MCPAUDIT_ENVIRONMENT.
	Environment string
	// Principal is who calls over standard input and output; default
	// $MCPAUDIT_PRINCIPAL or the account that the program runs as. Over HTTP it is
	// who the verified token names.
	Principal string

	// Service is the address of the mcpaudit service, host:port; default
	// $MCPAUDIT_SERVICE or 127.0.0.1:4777.
	Service string
	// Client is how the service is reached: the key that an administrator made for this
	// server, TLS; its Address is Service. Default: what the environment says, such as
	// $MCPAUDIT_API_KEY_FILE and $MCPAUDIT_TLS_CA.
	Client *client.Config
	// Transport is another way than gRPC; Service and ServiceKey are left empty then.
	// A Kafka topic that the service reads is one of package ingest/emit/kafka, which
	// alone brings a Kafka client into the program:
	//
	//	kafka.Open("kafkas://kafka-1:9093,kafka-2:9093/mcp-audit", os.Getenv)
	Transport emit.Transport
	// ServiceKey is the public key of the service's log, or several, with spaces or
	// commas between them; default $MCPAUDIT_SERVICE_KEY. Without one, what the
	// service gives as its key at first is trusted from then on.
	ServiceKey string
	// Spool is the folder for events that wait; default: in the user's state folder.
	Spool string
	// KeyFile has the redaction key and is made when missing; default
	// $MCPAUDIT_REDACT_KEY_FILE or a file in the user's configuration folder.
	KeyFile string
	// Profile says what is redacted; default: that of the file which
	// $MCPAUDIT_REDACT_PROFILE names, or [redact.DefaultProfile].
	Profile *redact.Profile

	// FailClosed refuses calls that can't be audited. Otherwise they pass, and the
	// loss is an event once events are taken again.
	FailClosed bool
	// Flush is how long Close waits for the service; default 2 s. What is left is
	// sent by the next process.
	Flush time.Duration
	// Log hears what an operator should know; default: warnings to standard error.
	Log *slog.Logger
}

func (o *Options) setDefaults() {
	home, _ := os.UserHomeDir()
	set := func(field *string, otherwise ...string) {
		for i := 0; *field == "" && i < len(otherwise); i++ {
			*field = otherwise[i]
		}
	}
	program, build := "mcp-server", ""
	if path, err := os.Executable(); err == nil {
		program = filepath.Base(path)
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		build = info.Main.Version
	}
	set(&o.Server, program)
	set(&o.ServerVersion, build)
	set(&o.Tenant, os.Getenv("MCPAUDIT_TENANT"))
	set(&o.Environment, os.Getenv("MCPAUDIT_ENVIRONMENT"))
	set(&o.Principal, os.Getenv("MCPAUDIT_PRINCIPAL"))
	if o.Transport == nil {
		set(&o.Service, os.Getenv("MCPAUDIT_SERVICE"), emit.DefaultService)
		set(&o.ServiceKey, os.Getenv("MCPAUDIT_SERVICE_KEY"))
	}
	if o.Client == nil {
		c := client.FromEnv(os.Getenv, home)
		o.Client = &c
	}
	set(&o.Spool, emit.DefaultSpool(os.Getenv, home))
	set(&o.KeyFile, os.Getenv("MCPAUDIT_REDACT_KEY_FILE"), keyfile.Default(os.Getenv, home))
	if o.Flush == 0 {
		o.Flush = 2 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("from", "mcpaudit")
	}
}

// Auditor audits one server. Its methods may be called from any goroutine.
type Auditor struct {
	o       Options
	emitter *emit.Patient
	base    event.Event // what every event of this process has
	local   event.Event // base, and who calls over standard input
	calls   *emit.Calls // used by the emitter's worker alone
	refused refusals
	word    string // known to this process alone; see peer
}

// Audit adds an audit to a server, around the middleware that it has by now. It
// does not fail: while nothing can be recorded (the log says why, and it is tried
// again), calls pass, or are refused if the options say so. [Open] is for programs
// that want the error.
func Audit(server *mcp.Server, o *Options) *Auditor {
	a, err := Open(o)
	if err != nil {
		calls := "pass unaudited"
		if a.o.FailClosed {
			calls = "are refused"
		}
		a.o.Log.Error("calls "+calls+" until this is mended", "server", a.o.Server, "error", err)
	}
	server.AddReceivingMiddleware(a.Middleware())
	server.AddSendingMiddleware(a.Middleware())
	return a
}

// Open makes an auditor without adding it to a server; see [Auditor.Middleware].
// With an error, too, the auditor can be used and does what [Audit] says.
func Open(o *Options) (*Auditor, error) {
	a := &Auditor{refused: refusals{limit: rate.NewLimiter(refusalRate, refusalBurst)}, word: rand.Text()}
	if o != nil {
		a.o = *o
	}
	a.o.setDefaults()
	a.base = event.Event{Tenant: a.o.Tenant, Environment: a.o.Environment, Server: a.o.Server,
		ServerVersion: a.o.ServerVersion, Hints: event.DefaultHints}
	a.local = a.base
	a.local.Principal, a.local.PrincipalKind, a.local.Transport = a.o.Principal, "human", "stdio"
	emit.Identify(&a.local)
	a.base.ServerInstance = a.local.ServerInstance
	// A definition's digest needs no key and no profile: it is the same at every
	// emitter.
	definitions, err := redact.New(redact.DefaultProfile(), keyfile.New())
	if err != nil {
		return nil, err // the default profile can be used
	}
	a.calls = emit.NewCalls(definitions)
	a.emitter, err = emit.OpenPatiently(func() (*emit.Emitter, error) {
		rules := a.o.Profile
		if rules == nil {
			p, err := profile.Read(os.Getenv("MCPAUDIT_REDACT_PROFILE"))
			if err != nil {
				return nil, err
			}
			rules = &p
		}
		key, _, err := keyfile.ReadOrMake(a.o.KeyFile)
		if err != nil {
			return nil, err
		}
		r, err := redact.New(*rules, key)
		if err != nil {
			return nil, err
		}
		return emit.Open(emit.Config{Address: a.o.Service, Client: *a.o.Client, Transport: a.o.Transport, ServiceKey: a.o.ServiceKey, Name: a.o.Server, Spool: a.o.Spool, Base: a.local}, r, a.o.Log)
	}, a.o.Log)
	return a, err
}

// Close is Shutdown within the time that the options give; what is left is in the
// log.
func (a *Auditor) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), a.o.Flush)
	defer cancel()
	if err := a.Shutdown(ctx); err != nil {
		a.o.Log.Warn(err.Error())
	}
}

// Shutdown waits until what was called is in the spool, and until the service has
// taken it or ctx ends. The error says what is left for the next start.
func (a *Auditor) Shutdown(ctx context.Context) error { return a.emitter.Close(ctx) }

// Stats counts events since the start.
func (a *Auditor) Stats() emit.Stats { return a.emitter.Stats() }

type eventKey struct{}

// Event is the event of the call that ctx belongs to, nil outside one. Tools and
// middleware may complete it until they return: what they decided, the scopes
// that a call requires, an agent or conversation that only they know, labels.
func Event(ctx context.Context) *event.Event {
	e, _ := ctx.Value(eventKey{}).(*event.Event)
	return e
}
