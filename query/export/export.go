// Package export gives events out as files, in constant memory: JSONL, CSV, Parquet,
// OCSF and CEF, alone or as a bundle that proves what it holds.
//
// An export is fixed to one size of each log when it begins: it has events that were
// sealed by then and no others, however long it takes and however often it is
// interrupted. [Verify] checks a bundle on a machine that has no service, with a
// public key alone. FORMAT.md says what is in a bundle's files.
package export

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// Store is what the service needs of a store; *store.Store is it. What it reads may
// have been changed behind the service's back.
type Store interface {
	Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error)
	// Rows reads the canonical bytes of events, in no order.
	Rows(ctx context.Context, l store.Limits, where string, args []any, f func(batch uint64, leaf uint32, row []byte) error) error
	Logs(ctx context.Context) ([]store.LogInfo, error)
	LastEntry(ctx context.Context, logID string) (*store.Sealed, error)
	Entries(ctx context.Context, logID string, from, to uint64, f func(store.Sealed) error) error
	Rotations(ctx context.Context, logID string) ([]string, error)
	Nodes(ctx context.Context, logID string) ledger.Nodes
}

// Config of the export service.
type Config struct {
	// Limits of each statement; there are many in one export.
	Limits store.Limits
	// Concurrent exports, at most; default 2. When there is more than one place, those
	// of one tenant's people have one of them.
	Concurrent int
	// PartEvents is how many events a part of a bundle has, about: it ends with a
	// batch. An interrupted export goes on behind its last part. Default 500,000.
	PartEvents uint64
	// SpanEvents and SpanBytes bound what an export reads at a time; it holds two of
	// these in memory. Default 65,536 events and 64 MiB.
	SpanEvents uint64
	SpanBytes  int
	// Version of the service, for manifests and the formats that name it.
	Version string
	// Compile turns a filter into a condition on the events table and the values that
	// are bound in it. The names of these don't begin with "export_". Its errors are
	// shown to the caller.
	Compile func(filter string) (sql string, args []any, err error)
	// Sign signs a manifest; see ledger.Key.SignText.
	Sign func(text string) (string, error)
	// TokenKey authenticates resume tokens. It is a secret derived from the log's key
	// and is the same after a restart.
	TokenKey []byte
	// Now is the time.
	Now func() time.Time
}

func (c *Config) setDefaults() {
	c.Concurrent = cmp.Or(c.Concurrent, 2)
	c.PartEvents = cmp.Or(c.PartEvents, 500_000)
	c.SpanEvents = cmp.Or(c.SpanEvents, 65_536)
	c.SpanBytes = cmp.Or(c.SpanBytes, 64<<20)
}

// Server implements mcpaudit.v1.ExportService.
type Server struct {
	pb.UnimplementedExportServiceServer
	cfg   Config
	store *scoped
	log   *slog.Logger

	mu      sync.Mutex
	places  chan struct{}  // one for each export that runs
	running map[string]int // how many of each scope
}

// scoped is a store that gives no events but those that the call may see, and the
// ledger, which belongs to nobody, whole.
type scoped struct {
	Store
	reader *scope.Reader
}

func (s *scoped) Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error) {
	return s.reader.Query(ctx, l, sql, args...)
}

func (s *scoped) Rows(ctx context.Context, l store.Limits, where string, args []any, f func(batch uint64, leaf uint32, row []byte) error) error {
	l, err := s.reader.Limits(ctx, l)
	if err != nil {
		return err
	}
	return s.Store.Rows(ctx, l, where, args, f)
}

// New makes the service. Its calls need an auth.Access, which the guard gives them: an
// export has the events of its tenants.
func New(cfg Config, s Store, log *slog.Logger) *Server {
	cfg.setDefaults()
	if len(cfg.TokenKey) == 0 { // tokens of this run alone
		cfg.TokenKey = make([]byte, sha256.Size)
		rand.Read(cfg.TokenKey)
	}
	return &Server{cfg: cfg, store: &scoped{s, scope.Of(s, log)}, log: log, places: make(chan struct{}, cfg.Concurrent), running: map[string]int{}}
}

// ExportEvents streams the files of an export.
func (s *Server) ExportEvents(req *pb.ExportEventsRequest, stream grpc.ServerStreamingServer[pb.ExportEventsResponse]) error {
	if err := validate(req); err != nil {
		return err
	}
	ctx := stream.Context()
	who, err := s.store.reader.Access(ctx)
	if err != nil {
		return err
	}
	if !who.Content.AtLeast(auth.ContentRedacted) {
		// What proves an event is of all of it: nothing can be left out.
		return status.Errorf(codes.PermissionDenied, "an export has events whole, with what calls were about, which the content level %s does not show; ask for a grant of the role exporter with the content level %s",
			who.Content, auth.ContentRedacted)
	}
	leave, err := s.place(who.Scope)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.export(ctx, who, req, stream.Send); err != nil {
		return s.status(ctx, err)
	}
	return nil
}

// place takes one for an export; leave gives it back. The error is a status.
func (s *Server) place(tenants auth.Scope) (leave func(), err error) {
	name := tenants.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !tenants.Every && cap(s.places) > 1 && s.running[name] > 0:
		return nil, status.Error(codes.ResourceExhausted, "an export of your tenant runs already; try again when it has ended")
	case len(s.places) == cap(s.places):
		return nil, status.Error(codes.ResourceExhausted, "as many exports run as may; try again when one has ended")
	}
	s.places <- struct{}{}
	s.running[name]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		<-s.places
		if s.running[name]--; s.running[name] == 0 {
			delete(s.running, name)
		}
	}, nil
}

func (s *Server) export(ctx context.Context, who *auth.Access, req *pb.ExportEventsRequest, send func(*pb.ExportEventsResponse) error) error {
	st, err := s.begin(ctx, who, req)
	if err != nil {
		return err
	}
	cond, args := "1", []any(nil)
	if strings.TrimSpace(st.Filter) != "" {
		if cond, args, err = s.cfg.Compile(st.Filter); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
	if st.Total == 0 {
		if st.Total, err = s.count(ctx, cond, args); err != nil {
			return err
		}
	}
	before := st.Events // of an export that goes on, the log has them already
	defer func() { who.Rows(int64(st.Events - before)) }()
	r := &reader{cfg: &s.cfg, store: s.store, state: *st, cond: cond, args: args}
	r.state.Logs = slices.Clone(st.Logs)
	w := &writer{cfg: &s.cfg, state: st, send: send}
	g, inner := errgroup.WithContext(ctx)
	spans := make(chan *span)
	g.Go(func() error {
		defer close(spans)
		return r.run(inner, func(one *span) error {
			select {
			case spans <- one:
				return nil
			case <-inner.Done():
				return inner.Err()
			}
		})
	})
	g.Go(func() error {
		for one := range spans {
			if err := w.span(one); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return s.finish(ctx, w)
}

// begin makes the state of a new export, or reads that of one that broke.
func (s *Server) begin(ctx context.Context, who *auth.Access, req *pb.ExportEventsRequest) (*state, error) {
	if t := req.GetResumeToken(); len(t) > 0 {
		st, err := openToken(t, s.cfg.TokenKey)
		switch {
		case errors.Is(err, errOtherToken):
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		case err != nil:
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		if st.Owner != who.ID || !sameTenants(st.Tenants, scope.Tenants(who)) {
			return nil, status.Error(codes.FailedPrecondition, errNotOwn.Error())
		}
		return st, nil
	}
	st := &state{Filter: req.GetFilter(), Bundle: req.GetBundle(), By: scope.By(who), Owner: who.ID, Tenants: scope.Tenants(who), Reason: req.GetReason(),
		MadeAt: s.cfg.Now().UTC().Format(time.RFC3339), Next: 1}
	if strings.TrimSpace(st.Filter) == "" {
		st.Filter = ""
	}
	for _, f := range Formats { // in their own order, whatever that of the request is
		if slices.Contains(req.GetFormats(), f) || f == "jsonl" && (st.Bundle || len(req.GetFormats()) == 0) {
			st.Formats = append(st.Formats, f)
		}
	}
	if !st.Bundle && len(st.Formats) != 1 {
		return nil, status.Error(codes.InvalidArgument, "formats: name one, or ask for a bundle")
	}
	logs, err := s.store.Logs(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range logs {
		last, err := s.store.LastEntry(ctx, l.ID)
		if err != nil {
			return nil, err
		}
		if last != nil {
			st.Logs = append(st.Logs, logState{ID: l.ID, Size: last.Entry.Batch})
		}
	}
	return st, nil
}

// count counts the events of an export, about.
func (s *Server) count(ctx context.Context, cond string, args []any) (uint64, error) {
	q, err := s.store.Query(ctx, s.cfg.Limits, "SELECT count() FROM events WHERE "+cond, args...)
	if err != nil {
		return 0, err
	}
	defer q.Close()
	var n uint64
	for q.Next() {
		if err := q.Scan(&n); err != nil {
			return 0, err
		}
	}
	return n, q.Err()
}

// status says what a caller may know of an error; the log has the rest.
func (s *Server) status(ctx context.Context, err error) error {
	var bad *damagedError
	if _, ok := status.FromError(err); ok {
		return err
	}
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.As(err, &bad):
		s.log.Error("export", "error", err)
		return status.Error(codes.DataLoss, bad.Error())
	}
	s.log.Error("export", "error", err)
	switch store.Code(err) {
	case codeTimeout, codeTooSlow:
		return status.Error(codes.DeadlineExceeded, "a query of the export took longer than it may; narrow the filter, by time above all")
	case codeMemory, codeTooManyRows:
		return status.Error(codes.ResourceExhausted, "a query of the export would take more than it may; narrow the filter, by time above all")
	}
	return status.Error(codes.Unavailable, "the store did not answer a query of the export; the service's log says why")
}

// ClickHouse error codes (src/Common/ErrorCodes.cpp).
const (
	codeTooManyRows = 158
	codeTimeout     = 159
	codeTooSlow     = 160
)

func validate(req *pb.ExportEventsRequest) error {
	err := protovalidate.Validate(req)
	var v *protovalidate.ValidationError
	if errors.As(err, &v) {
		return status.Error(codes.InvalidArgument, strings.Join(strings.Split(v.Error(), "\n"), " "))
	}
	if err != nil {
		return status.Error(codes.Internal, "the request could not be checked")
	}
	return nil
}

// finish ends the last part and, of a bundle, writes what proves it.
func (s *Server) finish(ctx context.Context, w *writer) error {
	if err := w.end(); err != nil {
		return err
	}
	if w.state.Bundle {
		if err := s.evidence(ctx, w); err != nil {
			return err
		}
	}
	return w.send(&pb.ExportEventsResponse{Events: w.state.Events, EventsTotal: w.state.Events, Finished: true})
}

// evidence writes the logs and the manifest.
func (s *Server) evidence(ctx context.Context, w *writer) error {
	m := &Manifest{Schema: event.Schema, Service: "mcpaudit " + s.cfg.Version, MadeAt: w.state.MadeAt, By: w.state.By, Reason: w.state.Reason,
		Filter: w.state.Filter, Tenants: w.state.Tenants, Formats: w.state.Formats, Completeness: filtered, Events: w.state.Events, Entries: w.state.Entries, Logs: []ManifestLog{}}
	if w.state.whole() {
		m.Completeness = everything
	}
	infos, err := s.store.Logs(ctx)
	if err != nil {
		return err
	}
	logs := []LogEvidence{}
	for i := range w.state.Logs {
		l := &w.state.Logs[i]
		at := slices.IndexFunc(infos, func(info store.LogInfo) bool { return info.ID == l.ID })
		if at < 0 {
			return damaged(l, "it is not in the store any more")
		}
		one, about, err := s.logEvidence(ctx, l)
		if err != nil {
			return err
		}
		one.VerifierKey = infos[at].VerifierKey
		logs, m.Logs = append(logs, one), append(m.Logs, about)
	}
	text, err := appendEvidence(logs)
	if err != nil {
		return err
	}
	if err := w.file(logsFile, text); err != nil {
		return err
	}
	m.Files = w.state.Files
	body, err := m.text()
	if err != nil {
		return err
	}
	signed, err := s.cfg.Sign(body)
	if err != nil {
		return fmt.Errorf("sign manifest: %w", err)
	}
	return w.file(manifestFile, []byte(signed))
}

func (s *Server) logEvidence(ctx context.Context, l *logState) (one LogEvidence, about ManifestLog, err error) {
	one = LogEvidence{LogID: l.ID, Rotations: []string{}, Tail: []string{}}
	if err := s.store.Entries(ctx, l.ID, l.Size, l.Size, func(e store.Sealed) error {
		one.Checkpoint = e.Checkpoint
		return nil
	}); err != nil {
		return one, about, err
	}
	c, err := ledger.PeekCheckpoint(one.Checkpoint)
	if err != nil || c.LogID != l.ID || c.Size != l.Size {
		return one, about, damaged(l, fmt.Sprintf("entry %d has no checkpoint of the log", l.Size))
	}
	rotations, err := s.store.Rotations(ctx, l.ID)
	if err != nil {
		return one, about, err
	}
	one.Rotations = append(one.Rotations, rotations...)
	tail, err := s.store.Nodes(ctx, l.ID)(ledger.Between(l.Touched, l.Size))
	if err != nil {
		return one, about, err
	}
	for _, h := range tail {
		one.Tail = append(one.Tail, h.String())
	}
	return one, ManifestLog{LogID: l.ID, Size: l.Size, Root: c.Root.String(), Events: l.Events}, nil
}
