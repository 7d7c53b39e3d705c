// Package storetest opens stores for tests, on the real engine.
package storetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// Library finds the engine as the program itself would; a test that needs one
// fails without it, with the sentence that says how to install it.
func Library(t testing.TB) string {
	t.Helper()
	home, _ := os.UserHomeDir()
	path, err := embedded.Locate(os.Getenv("MCPAUDIT_ENGINE"), filepath.Join(home, ".local", "share", "mcpaudit", "engine"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Server, when a package's tests have set it, says which database of a server stands
// for a data folder: Open opens its stores there. See internal/enginetest.
var Server func(t testing.TB, dir string) (dsn string)

// Open opens the store in dir, migrated, and closes it when the test ends. A
// process has one embedded store open at a time: tests that use it don't run in
// parallel.
func Open(t testing.TB, dir string) *store.Store {
	t.Helper()
	config := store.Config{Path: dir, Library: Library(t)}
	if Server != nil {
		config = store.Config{DSN: Server(t, dir)}
	}
	s, err := store.Open(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.Migrate(context.Background(), time.Now()); err != nil {
		t.Fatal(err)
	}
	return s
}

// Exec runs a statement behind the store's back, as somebody who tampers with it
// would, and returns when the engine has carried it out.
func Exec(t testing.TB, s *store.Store, sql string) {
	t.Helper()
	count(t, s, sql)
	for count(t, s, "SELECT 1 FROM system.mutations WHERE NOT is_done") > 0 {
		time.Sleep(time.Millisecond)
	}
}

// count runs a statement and counts its rows.
func count(t testing.TB, s *store.Store, sql string) (n int) {
	t.Helper()
	rows, err := s.Query(context.Background(), store.Limits{}, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	for rows.Next() {
		n++
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}
