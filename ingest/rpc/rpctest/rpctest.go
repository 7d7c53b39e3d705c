// Package rpctest runs an ingest service for the tests of what sends to one: the
// real pipeline, the real engine, a real port.
package rpctest

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/rpc"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// Service can be stopped and started again at the same address with the same
// data.
type Service struct {
	Address string
	Store   *store.Store
	// Lose, when set, makes the service store the next request and lose its
	// answer; it is cleared then.
	Lose atomic.Bool

	Key *ledger.Key // of the log
	// Admit, when set before a Start, says who may write; see rpc.Config.
	Admit func(ctx context.Context) (rpc.Admission, error)
	// More, when set before a Start, adds services to the server.
	More func(*grpc.Server)

	t    testing.TB
	stop func()
}

// Key makes the key of a log.
func Key(t testing.TB, logID string) *ledger.Key {
	t.Helper()
	k, _, err := ledger.NewKey(rand.Reader, logID)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// New starts a service on an empty store; it stops when the test ends.
func New(t testing.TB) *Service {
	t.Helper()
	s := &Service{t: t, Store: storetest.Open(t, t.TempDir()), Address: "127.0.0.1:0", Key: Key(t, "test")}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

type unwatched struct{}

func (unwatched) Committed(int, time.Duration) {}
func (unwatched) Settled(int, int, int)        {}
func (unwatched) StoreFailed()                 {}

// Start starts a service that was stopped, and returns when it takes events.
func (s *Service) Start() {
	s.t.Helper()
	var listener net.Listener
	Eventually(s.t, "the address is free", func() bool {
		var err error
		listener, err = net.Listen("tcp", s.Address)
		return err == nil
	})
	s.Address = listener.Addr().String()
	r, err := redact.New(redact.DefaultProfile(), []byte("the service's key in tests, 32 b"))
	if err != nil {
		s.t.Fatal(err)
	}
	p := ingest.New(ingest.Config{Key: s.Key}, s.Store, r, time.Now, slog.New(slog.DiscardHandler), unwatched{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	Eventually(s.t, "ingest is ready", func() bool { return p.Ready() == nil })
	server := grpc.NewServer(grpc.ForceServerCodecV2(rpc.NewCodec()), grpc.UnaryInterceptor(s.intercept))
	pb.RegisterIngestServiceServer(server, rpc.New(rpc.Config{RetryAfter: 20 * time.Millisecond, Admit: s.Admit}, p, time.Now))
	if s.More != nil {
		s.More(server)
	}
	go func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.t.Error(err)
		}
	}()
	s.stop = func() {
		server.Stop()
		cancel()
		<-done
	}
}

// Stop stops the service at once; requests under way get no answer.
func (s *Service) Stop() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

func (s *Service) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	// Nobody guards this server: whoever calls is let through to everything.
	ctx = auth.With(ctx, &auth.Access{Identity: auth.Identity{ID: "key:test", Grants: everything()}, Scope: auth.Scope{Every: true}, Content: auth.ContentLookup})
	resp, err := handle(ctx, req)
	if err == nil && s.Lose.Swap(false) {
		return nil, status.Error(codes.Unavailable, "the answer was lost")
	}
	return resp, err
}

func everything() (grants []auth.Grant) {
	for _, r := range auth.Roles {
		grants = append(grants, auth.Grant{Role: r, Tenant: auth.EveryTenant, Content: auth.ContentLookup})
	}
	return grants
}

// Stored are the sequence numbers, methods and arguments that the store has of
// an emitter, in order.
func (s *Service) Stored(emitter string) (seqs []uint64, methods, arguments []string) {
	s.t.Helper()
	rows, err := s.Store.Query(s.t.Context(), store.Limits{},
		"SELECT emitter_seq, method, arguments FROM events WHERE emitter_id = {id:String} ORDER BY emitter_seq", store.Named("id", emitter))
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var seq uint64
		var method, args string
		if err := rows.Scan(&seq, &method, &args); err != nil {
			s.t.Fatal(err)
		}
		seqs, methods, arguments = append(seqs, seq), append(methods, method), append(arguments, args)
	}
	return seqs, methods, arguments
}

// WantDense fails the test unless the store has exactly the numbers 1 to n of an
// emitter, each once.
func (s *Service) WantDense(emitter string, n int) {
	s.t.Helper()
	seqs, _, _ := s.Stored(emitter)
	for i, seq := range seqs {
		if seq != uint64(i+1) {
			s.t.Fatalf("number %d stands in place %d: %v", seq, i+1, seqs)
		}
	}
	if len(seqs) != n {
		s.t.Errorf("%d events are stored, want %d", len(seqs), n)
	}
}

// Events are all events of the store in the order of their time.
func (s *Service) Events() []*event.Event {
	s.t.Helper()
	rows, err := s.Store.Query(s.t.Context(), store.Limits{}, "SELECT "+store.EventColumns+" FROM events ORDER BY occurred_at, emitter_seq")
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	var events []*event.Event
	for rows.Next() {
		e, err := store.ScanEvent(rows)
		if err != nil {
			s.t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// Eventually waits until is reports true, and fails the test when it never does.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
