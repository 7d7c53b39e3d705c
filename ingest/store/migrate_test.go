package store

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// openEmpty opens a store that was not migrated. storetest can't be used here: it
// imports this package.
func openEmpty(t *testing.T) *Store {
	t.Helper()
	home, _ := os.UserHomeDir()
	library, err := embedded.Locate(os.Getenv("MCPAUDIT_ENGINE"), filepath.Join(home, ".local", "share", "mcpaudit", "engine"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{Path: t.TempDir(), Library: library})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestAStoreOfAnotherProgramIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change string
		want   string
	}{
		"newer": {"INSERT INTO schema_migrations SELECT 99, '0099_later.sql', '', now64(6)", "migrate store: it has schema 99, this program knows 8; use a newer mcpaudit"},
		"other contents": {"INSERT INTO schema_migrations SELECT 1, '0001_events.sql', 'another', now64(6)",
			"migrate store: schema file 0001_events.sql was applied with other contents; use the mcpaudit that made this store"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openEmpty(t)
			for _, stmt := range []string{createMigrations, c.change} {
				if err := s.conn.Exec(t.Context(), stmt); err != nil {
					t.Fatal(err)
				}
			}
			if names, err := s.Migrate(t.Context(), time.Now()); err == nil || err.Error() != c.want || len(names) != 0 {
				t.Errorf("applied %v, %v", names, err)
			}
		})
	}
}

// Each state that a store may have been left in is brought up to date: with the first
// files applied and recorded, and some statements of the next one, which a crash kept
// from being recorded; with the rows that were in it, and twice.
func TestEveryPastSchemaIsBroughtUpToDate(t *testing.T) {
	all, err := migrations(schemaFiles)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range all {
		names = append(names, m.name)
	}
	for applied := range all {
		for done := range len(all[applied].statements) + 1 {
			s := openEmpty(t)
			exec := func(stmt string, args ...any) {
				t.Helper()
				if err := s.conn.Exec(t.Context(), stmt, args...); err != nil {
					t.Fatal(err)
				}
			}
			exec(createMigrations)
			for _, m := range all[:applied] {
				for _, stmt := range m.statements {
					exec(stmt)
				}
				exec("INSERT INTO schema_migrations SELECT {version:UInt32}, {name:String}, {digest:String}, now64(6)",
					named("version", m.version), named("name", m.name), named("digest", m.digest))
			}
			for _, stmt := range all[applied].statements[:done] {
				exec(stmt)
			}
			if applied > 0 {
				exec("INSERT INTO events (event_id, tenant) SELECT generateUUIDv4(), 'kept'")
			}
			if got, err := s.Migrate(t.Context(), time.Now()); err != nil || !slices.Equal(got, names[applied:]) {
				t.Errorf("%d files and %d statements: applied %v, %v", applied, done, got, err)
			}
			if got, err := s.Migrate(t.Context(), time.Now()); err != nil || len(got) != 0 {
				t.Errorf("%d files and %d statements: applied again %v, %v", applied, done, got, err)
			}
			if n, err := s.Events(t.Context()); err != nil || applied > 0 && n != 1 {
				t.Errorf("%d files and %d statements: %d events, %v", applied, done, n, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// Promises 1 and 2 stand on settings of the table.
func TestPromise1ATableThatCouldLoseEventsIsRefused(t *testing.T) {
	for _, setting := range []string{"fsync_after_insert = 1", "fsync_part_directory = 1", "non_replicated_deduplication_window = 10000"} {
		s := openEmpty(t)
		if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(setting, " ")
		if err := s.conn.Exec(t.Context(), "ALTER TABLE events MODIFY SETTING "+name+" = 0"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Migrate(t.Context(), time.Now()); err == nil || !strings.Contains(err.Error(), setting) {
			t.Errorf("%s = 0: %v", name, err)
		}
		s.Close()
	}
}

func TestSchemaFilesAreNumberedWithoutGaps(t *testing.T) {
	file := &fstest.MapFile{Data: []byte("SELECT 1;\n")}
	for want, files := range map[string]fstest.MapFS{
		"": {"schema/0001_a.sql": file, "schema/0002_b.sql": file},
		"schema file 0003_b.sql: its number must be 0002": {"schema/0001_a.sql": file, "schema/0003_b.sql": file},
		"schema file x.sql: its number must be 0001":      {"schema/x.sql": file},
	} {
		if _, err := migrations(files); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for text, want := range map[string][]string{
		"":                              nil,
		"-- only; a comment;\n":         nil,
		"A;\nB\n  C;\n":                 {"A", "B\nC"},
		"A 'x;y' -- not; the end\nB;\n": {"A 'x;y' -- not; the end\nB"},
		"A\n-- a comment;\nB;":          {"A\nB"},
		"A; \n\n  B":                    {"A", "B"},
	} {
		if got := statements(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestQueriesLeaveConnectionsForWhatIsWritten(t *testing.T) {
	if connections < maxReaders+readersOfIngest+2+readersOfDetect {
		t.Error("queries, the recovery of sequences and detection may take all connections")
	}
}

// readersOfIngest is how many Sequences the pipeline asks for at a time.
const readersOfIngest = 2

// readersOfDetect is how many statements a detect/live.Runner has under way: it
// follows the logs, saves what it remembers, and warms up a new rule.
const readersOfDetect = 3

func TestTheEngineIsBoundedUnlessToldOtherwise(t *testing.T) {
	s := openEmpty(t)
	var limit string
	if err := s.conn.QueryRow(context.Background(), "SELECT value FROM system.server_settings WHERE name = 'max_server_memory_usage'").Scan(&limit); err != nil || limit != "2147483648" {
		t.Errorf("max_server_memory_usage is %q, %v", limit, err)
	}
}
