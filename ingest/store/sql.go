package store

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// sqlReaders is how many statements of people run at once in the engine in process.
// Their connections are apart from those of the service: however long they take, an
// append finds one.
const sqlReaders = 2

// What of the tables people's own statements see. TestPeoplesStatementsKnowEveryTable
// fails when a schema file brings a table that is in none of the three lists.
var (
	// sqlOfTenants have rows that belong to a tenant each.
	sqlOfTenants = []string{"events", "findings", "finding_actions", "notifications", "activity_hourly", "tools_hourly", "tool_definitions", "emitters_hourly"}
	// sqlOfAll are about all tenants at once; see Limits.Tenants.
	sqlOfAll = []string{"logs", "ledger", "kept"}
	// sqlClosed are shown to nobody.
	sqlClosed = []string{"api_keys", "cursors", "detector_state", "schema_migrations", "activity_ranges"}
)

// SQLTables are the tables that people's own statements may read.
func SQLTables() []string { return slices.Concat(sqlOfTenants, sqlOfAll) }

// HasEngine says whether the store is the engine in process, of which people's own
// statements can be asked. A server has accounts and rights of its own.
func (s *Store) HasEngine() bool { return s.engine != nil }

// errNoEngine is the error of the methods below on a server.
var errNoEngine = errors.New("the store is a ClickHouse server: ask it for statements")

// Outline says what the engine's parser makes of somebody's own statement, without
// running it. The error is an *embedded.Exception when the statement is to blame.
func (s *Store) Outline(ctx context.Context, r embedded.Reading) (embedded.Outline, error) {
	if s.engine == nil {
		return embedded.Outline{}, errNoEngine
	}
	r.Settings = sqlSettings(Limits{}.withDefaults(), nil)
	return s.engine.Outline(ctx, r)
}

// ReadSQL runs somebody's own statement under limits; see [embedded.Engine.Read]. Who
// calls it has judged the statement: a SETTINGS clause in a subquery, which the engine
// takes in spite of readonly, would undo the limits and the tenants of this one, and
// PREWHERE is evaluated on rows before those of other tenants are taken out.
//
// The settings of r come last and may not be any that is set here.
func (s *Store) ReadSQL(ctx context.Context, l Limits, r embedded.Reading) (*http.Response, error) {
	if s.engine == nil {
		return nil, errNoEngine
	}
	settings := sqlSettings(l.withDefaults(), s.sqlNarrowed(l.Tenants))
	for name, value := range r.Settings {
		if _, ok := settings[name]; ok && name != "max_execution_time" {
			return nil, embedded.Refuse(164, "READONLY", "the setting "+name+" can't be changed here")
		}
		settings[name] = value
	}
	r.Settings = settings
	return s.engine.Read(ctx, r)
}

// MaxSQL bounds the text of a statement, in bytes: ClickHouse's own max_query_size.
const MaxSQL = 256 << 10

// Bounds of one result.
const (
	maxSQLRows  = 100_000
	maxSQLBytes = 64 << 20
)

// sqlSettings are those of every statement.
func sqlSettings(l Limits, narrowed map[string]string) map[string]string {
	settings := map[string]string{
		"readonly":              "1",
		"allow_ddl":             "0",
		"max_threads":           "2",
		"max_query_size":        strconv.Itoa(2 * MaxSQL), // with what is put before it to look at it
		"max_execution_time":    strconv.FormatFloat(l.Time.Seconds(), 'f', -1, 64),
		"timeout_overflow_mode": "throw",
		"max_memory_usage":      strconv.FormatUint(l.Memory, 10),
		"max_temporary_data_on_disk_size_for_query": strconv.Itoa(1 << 30),
		"max_result_rows":                       strconv.Itoa(maxSQLRows),
		"max_result_bytes":                      strconv.Itoa(maxSQLBytes),
		"result_overflow_mode":                  "throw",
		"use_query_cache":                       "0",
		"output_format_write_statistics":        "0", // of rows read, which are also other tenants'
		"http_write_exception_in_output_format": "0",
	}
	if l.Rows > 0 {
		settings["max_rows_to_read"] = strconv.FormatUint(l.Rows, 10)
		settings["read_overflow_mode"] = "throw"
	}
	maps.Copy(settings, narrowed)
	return settings
}

// sqlNarrowed are the settings by which a statement sees its tenants' rows, and none of
// the service's own. For every tenant the latter alone.
//
// A statement that somebody writes himself can make values fail ("WHERE toUInt8(target)",
// whose error has the value in it), count rows or wait, on whatever rows its expressions
// are evaluated. The engine merges conditions and moves them down, into the reading, so
// that this would be other tenants' rows, too. So for some tenants alone it is kept from
// rearranging: each table is read, cut to the tenants, and what the statement says comes
// after. The primary key is used all the same.
func (s *Store) sqlNarrowed(tenants []string) map[string]string {
	var filters []string
	add := func(tables []string, condition string) {
		for _, table := range tables {
			for _, name := range s.layout.namesOf(table) {
				filters = append(filters, quoted(name)+":"+quoted(condition))
			}
		}
	}
	add(sqlClosed, "0")
	settings := map[string]string{}
	if tenants != nil {
		add(sqlOfTenants, tenantCondition(tenants))
		maps.Copy(settings, unarranged)
		for _, name := range s.memories {
			settings[name] = "0"
		}
	}
	settings["additional_table_filters"] = "{" + strings.Join(filters, ",") + "}"
	return settings
}

// unarranged keeps the engine from evaluating anything of a statement on rows before they
// are cut to the tenants. TestValuesOfOtherTenantsAreNotEvaluated has the statements by
// which each was found.
var unarranged = map[string]string{
	"query_plan_enable_optimizations": "0",
	"query_plan_optimize_prewhere":    "0",
	"optimize_move_to_prewhere":       "0",
	"optimize_use_projections":        "0",
	"enable_join_runtime_filters":     "0",
	"use_top_k_dynamic_filtering":     "0",
}
