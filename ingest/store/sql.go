package store

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// sqlReaders is how many statements of people run at once in the engine in process. Their
// connections are apart from those of the service: however long they take, an
// append finds one.
const sqlReaders = 4

// What of the tables people's own statements see. TestPeoplesStatementsKnowEveryTable
// fails when a schema file brings a table that is in neither list.
var (
	sqlShown = []string{"events", "findings", "finding_actions", "notifications", "activity_hourly", "tools_hourly", "tool_definitions", "emitters_hourly",
		"logs", "ledger", "kept"}
	// sqlClosed are shown to nobody.
	sqlClosed = []string{"api_keys", "cursors", "detector_state", "schema_migrations", "activity_ranges"}
)

// SQLTables are the tables that people's own statements may read.
func SQLTables() []string { return slices.Clone(sqlShown) }

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
	r.Settings = s.sqlSettings(Limits{}.withDefaults())
	return s.engine.Outline(ctx, r)
}

// ReadSQL runs somebody's own statement under limits; see [embedded.Engine.Read]. Who
// calls it has judged the statement: a SETTINGS clause in a subquery, which the engine
// takes in spite of readonly, would undo the limits of this one. The limits may not have
// tenants: package query/sql says why a statement of somebody's own can't be cut to them.
//
// The settings of r come last and may not be any that is set here.
func (s *Store) ReadSQL(ctx context.Context, l Limits, r embedded.Reading) (*http.Response, error) {
	if s.engine == nil {
		return nil, errNoEngine
	}
	if l.Tenants != nil {
		return nil, errors.New("read with SQL: it can't be cut to tenants")
	}
	settings := s.sqlSettings(l.withDefaults())
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
func (s *Store) sqlSettings(l Limits) map[string]string {
	settings := map[string]string{
		"readonly":       "1",
		"allow_ddl":      "0",
		"max_threads":    "2",
		"max_query_size": strconv.Itoa(2 * MaxSQL), // with what is put before it to look at it
		// Common table expressions that are each used twice double the tree with each.
		// The engine's own limit is ten times this, and no clock runs until it is reached.
		"max_expanded_ast_elements":                 "50000",
		"max_execution_time":                        strconv.FormatFloat(l.Time.Seconds(), 'f', -1, 64),
		"timeout_overflow_mode":                     "throw",
		"max_memory_usage":                          strconv.FormatUint(l.Memory, 10),
		"max_temporary_data_on_disk_size_for_query": strconv.Itoa(1 << 30),
		"max_result_rows":                           strconv.Itoa(maxSQLRows),
		"max_result_bytes":                          strconv.Itoa(maxSQLBytes),
		"result_overflow_mode":                      "throw",
		"use_query_cache":                           "0",
		"output_format_write_statistics":            "0", // of rows read
		"http_write_exception_in_output_format":     "0",
	}
	if l.Rows > 0 {
		settings["max_rows_to_read"] = strconv.FormatUint(l.Rows, 10)
		settings["read_overflow_mode"] = "throw"
	}
	// The service's own tables are empty, should the rights in the engine ever not do.
	var filters []string
	for _, table := range sqlClosed {
		for _, name := range s.layout.namesOf(table) {
			filters = append(filters, quoted(name)+":"+quoted("0"))
		}
	}
	settings["additional_table_filters"] = "{" + strings.Join(filters, ",") + "}"
	return settings
}
