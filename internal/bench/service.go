package bench

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/internal/app"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// service runs mcpaudit in this process, as 'mcpaudit serve' would, until stop. It is
// reached with the key of its first start, which may do everything.
func service(ctx context.Context, e Env, folder string, roles ...string) (at client.Config, stop func() error, err error) {
	cfg := app.DefaultConfig(filepath.Join(e.Dir, folder))
	cfg.Store.Engine = e.Library
	cfg.Roles = roles
	cfg.Quota = app.QuotaConfig{} // what the machine can take is measured, not what one caller may
	cfg.Listen = app.ListenConfig{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0"}
	ctx, cancel := context.WithCancel(ctx)
	started, done := make(chan string, 1), make(chan error, 1)
	key := "" // Serve's own until it has started
	go func() {
		done <- app.Serve(ctx, cfg, app.Deps{Now: e.Now, Log: e.Log, Version: "bench",
			Started:  func(grpc, _ net.Addr) { started <- grpc.String() },
			FirstKey: func(text string, _ auth.Key) error { key = text; return nil }})
	}()
	stop = func() error { cancel(); return <-done }
	select {
	case address := <-started:
		return client.Config{Address: address, Key: key}, stop, nil
	case err := <-done:
		cancel()
		return client.Config{}, nil, err
	}
}

func dial(at client.Config) (*grpc.ClientConn, pb.IngestServiceClient, error) {
	options, err := at.DialOptions()
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient(at.Address, append(options, grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(4<<20))...)
	if err != nil {
		return nil, nil, err
	}
	return conn, pb.NewIngestServiceClient(conn), nil
}

// ready waits until the service takes events.
func ready(ctx context.Context, c pb.IngestServiceClient) error {
	var err error
	for range 200 {
		if _, err = c.PublishBatch(ctx, &pb.PublishBatchRequest{}); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// emptyStore opens a store of its own for measuring a limit.
func emptyStore(ctx context.Context, e Env, folder string) (*store.Store, error) {
	s, err := store.Open(ctx, store.Config{Path: filepath.Join(e.Dir, folder), Library: e.Library})
	if err != nil {
		return nil, err
	}
	if _, err := s.Migrate(ctx, e.Now()); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// appendBatches appends batches of n events, made beforehand, one after the
// other for a time, and returns how long each took.
func appendBatches(ctx context.Context, e Env, s *store.Store, n int, during time.Duration) ([]time.Duration, error) {
	t, err := newTraffic(1, e.Now())
	if err != nil {
		return nil, err
	}
	const sets = 4
	batches := make([][]*event.Event, sets)
	for i := range batches {
		for j := range n {
			ev := t.next()
			ev.EmitterID, ev.EmitterSeq, ev.ReceivedAt, ev.LogID, ev.Leaf, ev.ExpiresMonth = "bench", uint64(i*n+j+1), ev.OccurredAt, "bench", uint32(j), 20819
			batches[i] = append(batches[i], ev)
		}
	}
	var took []time.Duration
	for i, end := 0, time.Now().Add(during); time.Now().Before(end) || i < 3; i++ {
		b := batches[i%sets]
		for _, ev := range b {
			ev.Batch = uint64(i + 1)
		}
		start := time.Now()
		if err := s.Append(ctx, store.Batch{Events: b, Token: fmt.Sprint(i)}); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}
