package embedded

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// libraryPath finds the real engine, without which these tests are worth
// nothing.
func libraryPath(t testing.TB) string {
	t.Helper()
	var dirs []string
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, ".local", "share", "mcpaudit", "engine"))
	}
	path, err := Locate(os.Getenv("MCPAUDIT_ENGINE"), dirs...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens an engine on a fresh folder for the test's duration.
func open(t testing.TB, configure ...func(*Config)) *Engine {
	t.Helper()
	cfg := Config{Library: libraryPath(t), Path: t.TempDir()}
	for _, f := range configure {
		f(&cfg)
	}
	e, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// connect opens the driver over an engine.
func connect(t testing.TB, e *Engine) driver.Conn {
	t.Helper()
	conn, err := clickhouse.Open(&clickhouse.Options{
		Protocol:      clickhouse.HTTP,
		Addr:          []string{Addr},
		TransportFunc: e.Transport,
		MaxOpenConns:  16,
		MaxIdleConns:  16,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func mustExec(t testing.TB, conn driver.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// one is the single value a query returns.
func one[T any](t testing.TB, conn driver.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}
