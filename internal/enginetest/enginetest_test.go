package enginetest_test

import (
	"context"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
)

func TestAServerIsKilledStoppedAndStartedAgain(t *testing.T) {
	server := enginetest.Start(t)
	s, err := store.Open(t.Context(), store.Config{DSN: server.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){server.Kill, server.Stop} {
		if server.PID() == 0 {
			t.Fatal("it has no process")
		}
		end()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := s.Ping(ctx); err == nil || server.PID() != 0 {
			t.Errorf("it answers though it is gone: %v", err)
		}
		cancel()
		server.Restart()
		if err := s.Ping(t.Context()); err != nil {
			t.Errorf("it does not answer after a restart: %v", err)
		}
		if names, err := s.Migrate(t.Context(), time.Now()); err != nil || len(names) != 0 {
			t.Errorf("its data is gone: %v, %v", names, err)
		}
	}
}
