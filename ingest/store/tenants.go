package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// What of the tables a statement for some tenants sees. TestEveryTableIsNarrowed knows
// all of them, and fails when a schema file brings one that is in neither list and was
// not thought of.
var (
	// ofTenants are the tables whose rows belong to a tenant each: those of its tenants.
	ofTenants = []string{"events", "findings", "finding_actions", "activity_hourly", "tools_hourly", "tool_definitions", "emitters_hourly", "notifications"}
	// closed are tables that are the service's own business: nothing.
	closed = []string{"activity_ranges", "api_keys", "cursors", "detector_state", "schema_migrations"}
	// The others, logs, ledger and kept, are about all tenants at once: which logs there
	// are, how many batches, and hashes by which somebody proves what is his own.
)

// narrowed are the settings by which the engine leaves other tenants' rows out; none
// when a statement is for every tenant. It is the engine that does it, behind
// everything that a statement may say: additional_table_filters puts a condition on a
// table before anything else is read of it, and uses the primary key like any other.
func (s *Store) narrowed(tenants []string) map[string]string {
	if tenants == nil {
		return nil
	}
	var filters []string
	add := func(tables []string, condition string) {
		for _, table := range tables {
			for _, name := range s.layout.namesOf(table) {
				filters = append(filters, quoted(name)+":"+quoted(condition))
			}
		}
	}
	add(ofTenants, tenantCondition(tenants))
	add(closed, "0")
	settings := map[string]string{"additional_table_filters": "{" + strings.Join(filters, ",") + "}"}
	for _, name := range s.memories {
		settings[name] = "0"
	}
	return settings
}

// memories are settings by which an engine remembers answers, and which rows are worth
// reading, from one statement to the next. What it has learnt for one tenant says
// something of that tenant to another, or is wrong for it, so narrowed statements go
// without. Older servers don't have the second one and refuse its name.
var memories = []string{"use_query_cache", "use_query_condition_cache"}

// learn asks which of the memories the engine has.
func (s *Store) learn(ctx context.Context) error {
	if err := s.conn.QueryRow(ctx, "SELECT groupArray(toString(name)) FROM system.settings WHERE name IN ({names:Array(String)})",
		named("names", memories)).Scan(&s.memories); err != nil {
		return fmt.Errorf("ask for the engine's settings: %w", err)
	}
	return nil
}

// namesOf are all the names under which a statement, or the part of it that a shard
// runs, reads a table. A shard has another current database and another name for what
// it has of the table, and the engine knows a table of another database by its full
// name alone.
func (l layout) namesOf(table string) []string {
	names := map[string]bool{table: true, l.local(table): true}
	if l.database != "" {
		names[l.database+"."+table] = true
		names[l.database+"."+l.local(table)] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// tenantCondition is true of the rows of some tenants, none when there are none. Names
// come as hexadecimal digits: whatever is in them, no quote of theirs ends a literal.
func tenantCondition(tenants []string) string {
	if len(tenants) == 0 {
		return "0"
	}
	names := make([]string, len(tenants))
	for i, name := range tenants {
		names[i] = "unhex('" + hex.EncodeToString([]byte(name)) + "')"
	}
	return "tenant IN (" + strings.Join(names, ", ") + ")"
}
