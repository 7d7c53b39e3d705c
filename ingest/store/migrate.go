package store

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// migration is one numbered file of schema/. Every statement in it can be run
// twice: a crash between a statement and its record runs the file again.
type migration struct {
	version    uint32
	name       string
	statements []string
	digest     string // of the file: a file that was applied must never change
}

const createMigrations = `
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version UInt32,
    name String,
    digest String,
    applied_at DateTime64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1`

// Migrate brings the schema up to date and returns the names of the files that
// it applied. Running it again applies nothing. A store that is newer than this
// program, or whose applied files differ from this program's, is refused.
func (s *Store) Migrate(ctx context.Context, now time.Time) ([]string, error) {
	all, err := migrations(schemaFiles)
	if err != nil {
		return nil, err
	}
	if err := s.recordMigrations(ctx); err != nil {
		return nil, err
	}
	applied, err := s.appliedMigrations(ctx)
	if err != nil {
		return nil, err
	}
	for version := range applied {
		if version > all[len(all)-1].version {
			return nil, fmt.Errorf("migrate store: it has schema %d, this program knows %d; use a newer mcpaudit", version, all[len(all)-1].version)
		}
	}
	var names []string
	for _, m := range all {
		if digest, ok := applied[m.version]; ok {
			if digest != m.digest {
				return names, fmt.Errorf("migrate store: schema file %s was applied with other contents; use the mcpaudit that made this store", m.name)
			}
			continue
		}
		for i, stmt := range m.statements {
			if err := s.define(ctx, stmt); err != nil {
				return names, fmt.Errorf("apply statement %d of schema file %s: %w", i+1, m.name, err)
			}
		}
		if err := s.conn.Exec(ctx, "INSERT INTO schema_migrations SELECT {version:UInt32}, {name:String}, {digest:String}, fromUnixTimestamp64Micro({at:Int64}, 'UTC')",
			named("version", m.version), named("name", m.name), named("digest", m.digest), named("at", now.UnixMicro())); err != nil {
			return names, fmt.Errorf("record schema file %s: %w", m.name, err)
		}
		names = append(names, m.name)
	}
	if err := s.checkTables(ctx); err != nil {
		return names, err
	}
	// Who migrates goes on to resume a log and a reader's place: by what all replicas have.
	return names, s.settle(ctx, "logs", "ledger", "events", "findings", "cursors", "detector_state")
}

// recordMigrations makes the table in which migrations are recorded, when it is not
// there: an account that may not create tables serves a store that is up to date.
func (s *Store) recordMigrations(ctx context.Context) error {
	var there uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'schema_migrations'").Scan(&there); err != nil {
		return fmt.Errorf("look for the table of schema migrations: %w", err)
	}
	if there > 0 {
		return nil
	}
	if s.layout.cluster != "" { // first: the table of migrations says that it is there
		if err := s.conn.Exec(ctx, s.layout.createParts()); err != nil {
			return fmt.Errorf("create the table %s: %w", clusterParts, err)
		}
	}
	if err := s.define(ctx, strings.TrimSpace(createMigrations)); err != nil {
		return fmt.Errorf("create the table of schema migrations: %w", err)
	}
	return nil
}

// checkTables refuses tables that were made by other hands without what the
// promises stand on, and those of another layout.
func (s *Store) checkTables(ctx context.Context) error {
	for _, table := range []string{"events", "ledger", "findings", "finding_actions"} {
		if err := s.checkTable(ctx, table); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) checkTable(ctx context.Context, table string) error {
	engineOf := func(name string) (engine string, err error) {
		if err := s.conn.QueryRow(ctx, "SELECT max(engine_full) FROM system.tables WHERE database = currentDatabase() AND name = {table:String}", named("table", name)).Scan(&engine); err != nil {
			return "", fmt.Errorf("look at the table %s: %w", name, err)
		}
		return engine, nil
	}
	local := s.layout.local(table)
	engine, err := engineOf(local)
	if err != nil {
		return err
	}
	replicated := strings.HasPrefix(engine, "Replicated")
	switch {
	case s.layout.cluster != "" && !replicated:
		return fmt.Errorf("migrate store: the table %s is not replicated: this store was made without store.cluster, and can't become one of a cluster; give the cluster a database of its own", local)
	case s.layout.cluster == "" && (strings.HasPrefix(engine, "Distributed") || replicated && strings.Contains(engine, "/all/"+table+"'")):
		return fmt.Errorf("migrate store: the table %s is one of a cluster; set store.cluster to its name", table)
	}
	if local != table {
		switch way, err := engineOf(table); {
		case err != nil:
			return err
		case !strings.HasPrefix(way, "Distributed"):
			return fmt.Errorf("migrate store: the table %s is not the way to %s on all shards; give the cluster a database of its own", table, local)
		}
	}
	want := []string{"fsync_after_insert = 1", "fsync_part_directory = 1"}
	switch {
	case s.layout.cluster != "":
		want = append(want, "min_compressed_bytes_to_fsync_after_fetch = 1", "replicated_deduplication_window = 10000", "replicated_deduplication_window_seconds = 604800")
	case !replicated: // there, deduplication is on by default
		want = append(want, "non_replicated_deduplication_window = 10000")
	}
	for _, setting := range want {
		if !strings.Contains(engine, setting) {
			return fmt.Errorf("migrate store: the table %s lacks %q, without which what was acknowledged could be lost or stored twice; set it with ALTER TABLE %s MODIFY SETTING", local, setting, local)
		}
	}
	return nil
}

func (s *Store) appliedMigrations(ctx context.Context) (map[uint32]string, error) {
	rows, err := s.conn.Query(ctx, "SELECT version, any(digest) FROM schema_migrations GROUP BY version")
	if err != nil {
		return nil, fmt.Errorf("read applied schema migrations: %w", err)
	}
	defer rows.Close()
	applied := map[uint32]string{}
	for rows.Next() {
		var version uint32
		var digest string
		if err := rows.Scan(&version, &digest); err != nil {
			return nil, fmt.Errorf("read applied schema migrations: %w", err)
		}
		applied[version] = digest
	}
	return applied, rows.Err()
}

// migrations reads the numbered files, in order, without gaps.
func migrations(files fs.FS) ([]migration, error) {
	entries, err := fs.ReadDir(files, "schema")
	if err != nil {
		return nil, fmt.Errorf("read schema files: %w", err)
	}
	var all []migration
	for _, e := range entries {
		text, err := fs.ReadFile(files, "schema/"+e.Name())
		if err != nil {
			return nil, fmt.Errorf("read schema file %s: %w", e.Name(), err)
		}
		number, _, _ := strings.Cut(e.Name(), "_")
		version, err := strconv.ParseUint(number, 10, 32)
		if err != nil || int(version) != len(all)+1 {
			return nil, fmt.Errorf("schema file %s: its number must be %04d", e.Name(), len(all)+1)
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{uint32(version), e.Name(), statements(string(text)), hex.EncodeToString(sum[:])})
	}
	return all, nil
}

// statements cuts a schema file at the semicolons that end a line and drops
// comment lines.
func statements(text string) []string {
	var out []string
	var b strings.Builder
	for line := range strings.Lines(text) {
		bare := strings.TrimSpace(line)
		if strings.HasPrefix(bare, "--") {
			continue
		}
		if end, ok := strings.CutSuffix(bare, ";"); ok {
			b.WriteString(end)
			out = append(out, strings.TrimSpace(b.String()))
			b.Reset()
			continue
		}
		b.WriteString(line)
	}
	if rest := strings.TrimSpace(b.String()); rest != "" {
		out = append(out, rest)
	}
	return out
}
