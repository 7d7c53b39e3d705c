package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/detect/share"
	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/activity"
	"github.com/mcpaudit/mcpaudit/ingest/anchor"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/kafka"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/profile"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/retention"
	"github.com/mcpaudit/mcpaudit/ingest/rpc"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
	"github.com/mcpaudit/mcpaudit/internal/transport"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query"
	"github.com/mcpaudit/mcpaudit/query/export"
	"github.com/mcpaudit/mcpaudit/query/findings"
	"github.com/mcpaudit/mcpaudit/query/verify"
)

// Deps are what the service takes from its surroundings.
type Deps struct {
	Now        func() time.Time
	Log        *slog.Logger
	Version    string
	EngineDirs []string // where to look for libchdb, beside the system's folders
	// Env reads environment variables; nil for none. Settings are in Config: these
	// are OpenTelemetry's own.
	Env func(string) string
	// Started, when set, is called once with the addresses that are listened on.
	Started func(grpc, http net.Addr)
	// FirstKey shows the API key that a first start on a laptop makes. It is the only
	// time that anybody sees it; after an error the key is not made. Nil makes none.
	FirstKey func(text string, k auth.Key) error
}

// Serve runs the service until ctx ends, then lets what is under way finish.
func Serve(ctx context.Context, cfg Config, d Deps) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	s, err := OpenStore(ctx, cfg, d.EngineDirs)
	if err != nil {
		return err
	}
	defer s.Close()
	applied, err := s.Migrate(ctx, d.Now())
	if err != nil {
		return err
	}
	for _, name := range applied {
		d.Log.Info("applied schema file", "file", name)
	}
	redactor, err := newRedactor(cfg.Redact, d.Log)
	if err != nil {
		return err
	}

	traces, err := newTracing(ctx, d)
	if err != nil {
		return err
	}
	defer traces.stop()

	m := newMetrics(d.Version)
	if slices.Contains(cfg.Roles, "ingest") {
		unlock, err := lockFolder(cfg.LedgerFolder())
		if err != nil {
			return err
		}
		defer unlock()
	}
	signed, err := signing(ctx, &cfg, s, d.Log)
	if err != nil {
		return err
	}
	var pipeline *ingest.Pipeline
	var own *lifetime
	var keeping []*anchor.Runner
	var expiry *retention.Server
	var topic *kafka.Source
	var adding *activity.Runner
	writing := ""
	if slices.Contains(cfg.Roles, "ingest") {
		if own, err = newLifetime(&cfg, d); err != nil {
			return err
		}
		if pipeline, keeping, err = newPipeline(ctx, &cfg, signed, s, redactor, own, d, m); err != nil {
			return err
		}
	}
	var record findings.Recorder // of what people do; there is none without a log to write
	if pipeline != nil {
		record = &afterStart{Pipeline: pipeline}
	}
	in, err := newAccess(ctx, &cfg, s, record, redactor, d, m)
	if err != nil {
		return err
	}
	defer in.close()
	outside, err := newEdge(&cfg, in.guard.Handshake, d)
	if err != nil {
		return err
	}
	in.certificates = outside.certs
	server := newServer(append(traces.options(), outside.options()...), in.guard)
	pb.RegisterAccessServiceServer(server, in.service)
	if pipeline != nil {
		publishing := rpc.Config{ClockTolerance: cfg.Ingest.ClockTolerance, Stopping: ctx.Done(), Admit: in.writer}
		if cfg.Ingest.Shared {
			publishing.Elsewhere = fmt.Sprintf("this store is shared by several instances, which take events from the Kafka topic %q alone; publish them there", cfg.Kafka.Topic)
		}
		pb.RegisterIngestServiceServer(server, rpc.New(publishing, pipeline, d.Now))
		writing = signed.Key.LogID()
		if cfg.Kafka.On() {
			if topic, err = newKafka(&cfg, s, pipeline, writing, d, m); err != nil {
				return err
			}
		}
		dropping := retention.Config{LogID: writing, Auto: cfg.Retention.Auto}
		if cfg.Ingest.Shared {
			dropping.Mine = topic.Leads
		}
		if adding, err = newActivity(&cfg, s, writing, dropping.Mine, d, m); err != nil {
			return err
		}
		expiry = retention.New(dropping, s, pipeline, query.Compile, d.Now, d.Log)
		pb.RegisterRetentionServiceServer(server, expiry)
	}
	var detecting *share.Team
	var telling *notifier
	told := func() {} // wakes who watches findings here
	if slices.Contains(cfg.Roles, "detect") {
		book := &ruleBook{files: cfg.Detect.Rules}
		if book.set, err = ReadRules(cfg.Detect.Rules); err != nil {
			return err
		}
		if detecting, err = newDetect(&cfg, book, s, pipeline, func() { told() }, d, m); err != nil {
			return err
		}
		pb.RegisterRuleServiceServer(server, findings.NewRules(book, record, d.Now, d.Log))
		if telling, err = newNotify(ctx, &cfg, s, book, detecting, d, m); err != nil {
			return err
		}
		var api findings.Notifier // without a plan there is nobody, and not nobody's runner
		if telling != nil {
			api, told = telling, telling.Bell
		}
		pb.RegisterNotifyServiceServer(server, findings.NewNotify(store.Limits{Time: cfg.Query.Timeout, Memory: cfg.Query.MemoryLimit}, s, api, d.Log))
	}
	if slices.Contains(cfg.Roles, "query") {
		limits := store.Limits{Time: cfg.Query.Timeout, Memory: cfg.Query.MemoryLimit}
		pb.RegisterQueryServiceServer(server, query.New(query.Config{Limits: limits, Stopping: ctx.Done()}, s, d.Log))
		pb.RegisterExportServiceServer(server, newExport(limits, signed, s, d))
		found := findings.New(findings.Config{Limits: limits, Stopping: ctx.Done()}, s, record, d.Now, d.Log)
		pb.RegisterFindingServiceServer(server, found)
		ring := told
		told = func() { found.Told(); ring() }
	}
	pb.RegisterLedgerServiceServer(server, verify.New(s, writing, d.Log))

	api, err := newGateway(ctx, cfg.Roles)
	if err != nil {
		return fmt.Errorf("set up the HTTP API: %w", err)
	}
	defer api.conn.Close()
	api.door = func(r *http.Request) (string, error) { return in.guard.Door(transport.Incoming(r)) }
	reading, err := newSQL(&cfg, s, in.guard, in.notes, outside, d)
	if err != nil {
		return err
	}
	asked := make(chan struct{}) // closed when nothing is asked with SQL any more
	if reading != nil {
		asked = reading.done
		defer reading.listener.Close() // where it never ran
	} else {
		close(asked)
	}
	grpcListener, httpListener, err := outside.listen()
	if err != nil {
		return err
	}
	web := outside.web(pages(s, pipeline, m, in.guard, api))

	// The pipeline outlives the servers: requests that are under way when ctx
	// ends are stored and answered.
	pipelineCtx, stopPipeline := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPipeline()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { outside.run(ctx); return nil })
	g.Go(func() error { in.run(ctx, pipeline); return nil })
	detectCtx := ctx
	if pipeline != nil {
		var stopDetect context.CancelFunc
		detectCtx, stopDetect = context.WithCancel(context.WithoutCancel(ctx))
		anchorCtx, stopAnchors := context.WithCancel(context.WithoutCancel(ctx))
		for _, r := range keeping {
			g.Go(func() error { r.Run(anchorCtx); return nil })
		}
		g.Go(func() error {
			defer stopDetect()  // the last batches count
			defer stopAnchors() // the last checkpoint is anchored too
			return pipeline.Run(pipelineCtx)
		})
		g.Go(func() error { expiry.Run(ctx); return nil })
		g.Go(func() error { return adding.Run(ctx) })
	}
	if telling != nil {
		g.Go(func() error { _ = telling.Run(ctx); return nil }) // its error is that it was told to end
	}
	drained := make(chan struct{}) // closed when nothing comes from the topic any more
	if topic != nil {
		g.Go(func() error { defer close(drained); return topic.Run(ctx) })
	} else {
		close(drained)
	}
	g.Go(func() error {
		if own != nil {
			own.begun(ctx) // before the detectors let their clock pass
		}
		if detecting != nil {
			return detecting.Run(detectCtx)
		}
		return nil
	})
	for _, l := range []net.Listener{grpcListener, api.inner} {
		g.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
				return err
			}
			return nil
		})
	}
	g.Go(func() error { return outside.serveWeb(web, httpListener) })
	if reading != nil {
		d.Log.Info("serving SQL for readers", "address", reading.address().String())
		g.Go(func() error { return reading.run(ctx) })
	}
	g.Go(func() error {
		<-ctx.Done()
		d.Log.Info("stopping")
		stopGracefully(server, 10*time.Second)
		<-drained
		<-asked
		if own != nil {
			own.stopped(ctx)
		}
		stopPipeline()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return web.Shutdown(late)
	})
	d.Log.Info("serving", "roles", cfg.Roles, "grpc", grpcListener.Addr().String(), "http", httpListener.Addr().String())
	if d.Started != nil {
		d.Started(grpcListener.Addr(), httpListener.Addr())
	}
	return g.Wait()
}

// newServer makes the gRPC server; a guard stands in front of all its methods.
func newServer(options []grpc.ServerOption, guard *auth.Guard) *grpc.Server {
	server := grpc.NewServer(append(options,
		grpc.UnaryInterceptor(guard.Unary), grpc.StreamInterceptor(guard.Stream),
		grpc.ForceServerCodecV2(rpc.NewCodec()),
		grpc.MaxRecvMsgSize(rpc.MaxBytes+64<<10),
		grpc.MaxConcurrentStreams(1000),
		grpc.WriteBufferSize(256<<10), // exports are large
		// What strangers may send before they are looked at, on each of many connections.
		grpc.InitialWindowSize(256<<10), grpc.InitialConnWindowSize(512<<10),
	)...)
	healthpb.RegisterHealthServer(server, health.NewServer())
	return server
}

// newPipeline makes the pipeline, and what keeps its checkpoints.
func newPipeline(ctx context.Context, cfg *Config, signed keyfile.Signing, s *store.Store, redactor *redact.Redactor, own *lifetime, d Deps, m *metrics) (*ingest.Pipeline, []*anchor.Runner, error) {
	age := cfg.Ingest.BatchAge
	if age == 0 && cfg.Store.DSN != "" {
		age = 200 * time.Millisecond
	}
	remembers := newMemory(cfg, signed.Key.LogID())
	known, err := remembers.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	policy, err := retention.ParsePolicy(cfg.Retention.Default, cfg.Retention.Tenants)
	if err != nil {
		return nil, nil, err
	}
	p := ingest.New(ingest.Config{
		MaxRows: cfg.Ingest.BatchRows, MaxAge: age, MaxBytes: cfg.Ingest.MemoryBytes, Retention: policy,
		Key: signed.Key, Rotations: signed.Rotations, MACBefore: signed.Before, Remembered: known, First: own.started, Shared: cfg.Ingest.Shared,
	}, s, redactor, d.Now, d.Log, m)
	own.writeTo(p, d.Now)
	keeping, err := anchors(cfg, remembers, func() string { newest, _ := p.Checkpoint(); return newest }, d.Log, m.anchored)
	return p, keeping, err
}

// newExport makes the export service. Its bundles are signed by the log's key.
func newExport(limits store.Limits, signed keyfile.Signing, s *store.Store, d Deps) *export.Server {
	limits.Time = max(limits.Time, 10*time.Minute) // a filter is counted over the whole store first
	cfg := export.Config{Limits: limits, Version: d.Version, Compile: query.Compile, Now: d.Now}
	if signed.Key == nil {
		cfg.Sign = func(string) (string, error) {
			return "", status.Error(codes.FailedPrecondition, "this instance has no signing key; ask one that has it for a bundle, or give it --ledger.path")
		}
		return export.New(cfg, s, d.Log)
	}
	cfg.Sign, cfg.TokenKey = signed.Key.SignText, signed.Key.Derive("export token")
	return export.New(cfg, s, d.Log)
}

func stopGracefully(server *grpc.Server, patience time.Duration) {
	done := make(chan struct{})
	go func() { server.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		server.Stop()
	}
}

// OpenStore opens the configured store, finding the engine when it is needed.
func OpenStore(ctx context.Context, cfg Config, engineDirs []string) (*store.Store, error) {
	c := store.Config{DSN: cfg.Store.DSN, Cluster: cfg.Store.Cluster, Path: cfg.Store.Path, MemoryLimit: cfg.Store.MemoryLimit}
	if c.DSN == "" {
		var err error
		if c.Library, err = embedded.Locate(cfg.Store.Engine, engineDirs...); err != nil {
			return nil, err
		}
	}
	return store.Open(ctx, c)
}

func newRedactor(c RedactConfig, log *slog.Logger) (*redact.Redactor, error) {
	key := keyfile.New()
	if c.KeyFile != "" {
		var err error
		if key, err = keyfile.Read(c.KeyFile); err != nil {
			return nil, err
		}
	} else {
		log.Info("no redact.key_file: pseudonyms that this service makes can't be looked up after it stops")
	}
	p, err := profile.Read(c.Profile)
	if err != nil {
		return nil, err
	}
	return redact.New(p, key)
}

// pages are what HTTP answers: the API, its description, and what machines look
// at.
func pages(s *store.Store, p *ingest.Pipeline, m *metrics, guard *auth.Guard, api http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/", api)
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(pb.OpenAPI)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		reason := "ok"
		if p != nil {
			if err := p.Ready(); err != nil {
				reason = err.Error()
			}
		}
		if err := s.Ping(ctx); err != nil {
			reason = "the store does not answer"
		}
		if reason != "ok" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, reason)
	})
	mux.Handle("GET /metrics", guard.HTTP(auth.Observe, transport.Incoming, promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})))
	return mux
}
