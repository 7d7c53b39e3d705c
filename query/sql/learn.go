package sql

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// learn asks the engine what else it calls the functions that are shut, which functions
// make tables, and which columns the system tables have beside those that are shown.
func learn(ctx context.Context, s Store) (*names, error) {
	limits := store.Limits{Time: 10 * time.Second}
	n := &names{shut: map[string]bool{}, functions: map[string]bool{}, restricted: map[string]bool{}}
	for _, ask := range []struct {
		sql  string
		args []any
		into map[string]bool
	}{
		{"SELECT lower(name) FROM system.functions WHERE lower(alias_to) IN ({shut:Array(String)})", []any{store.Named("shut", shutFunctions)}, n.shut},
		{"SELECT lower(name) FROM system.table_functions WHERE lower(name) NOT IN (SELECT lower(name) FROM system.functions)", nil, n.functions},
		{"SELECT lower(name) FROM system.columns WHERE database = 'system' AND table IN ({tables:Array(String)})", []any{store.Named("tables", limitedTables())}, n.restricted},
	} {
		rows, err := s.Query(ctx, limits, ask.sql, ask.args...)
		if err != nil {
			return nil, fmt.Errorf("ask the engine for its names: %w", err)
		}
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				rows.Close()
				return nil, fmt.Errorf("read the engine's names: %w", err)
			}
			ask.into[name] = true
		}
		err = rows.Err()
		rows.Close()
		if err != nil {
			return nil, fmt.Errorf("read the engine's names: %w", err)
		}
		if ask.into != nil && len(ask.into) == 0 {
			return nil, fmt.Errorf("ask the engine for its names: %q has no rows", strings.Fields(ask.sql)[3])
		}
	}
	for _, columns := range systemTables {
		for _, c := range columns {
			delete(n.restricted, c)
		}
	}
	return n, nil
}

// limitedTables are the system tables of which not all columns are shown.
func limitedTables() (out []string) {
	for _, table := range slices.Sorted(maps.Keys(systemTables)) {
		if systemTables[table] != nil {
			out = append(out, table)
		}
	}
	return out
}
