package sql

import (
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
)

// Statements that want more than to read what is theirs. Each is tried by a key that sees
// every tenant: what even that may not do, nobody may.
var hostile = map[string][]string{
	"writes": {
		"INSERT INTO events (tenant) VALUES ('x')", "INSERT INTO events SELECT * FROM events", "WITH x AS (SELECT 1) INSERT INTO events (tenant) SELECT 'x'",
		"ALTER TABLE events DELETE WHERE 1", "ALTER TABLE events UPDATE tenant = 'x' WHERE 1", "DELETE FROM events WHERE 1", "UPDATE events SET tenant = 'x' WHERE 1", "TRUNCATE TABLE events",
		"DROP TABLE events", "DETACH TABLE events", "RENAME TABLE events TO e", "EXCHANGE TABLES events AND logs", "OPTIMIZE TABLE events FINAL",
		"CREATE TABLE x (a Int8) ENGINE = Memory", "CREATE TEMPORARY TABLE x (a Int8)", "CREATE VIEW v AS SELECT * FROM events", "CREATE DATABASE x", "CREATE FUNCTION f AS x -> x", "CREATE DICTIONARY d (a Int8) PRIMARY KEY a SOURCE(NULL()) LAYOUT(FLAT()) LIFETIME(0)",
		"CREATE USER x", "GRANT SELECT ON *.* TO default", "CREATE ROW POLICY p ON events USING 1 TO ALL",
		"SYSTEM STOP MERGES", "SYSTEM FLUSH LOGS", "KILL QUERY WHERE 1", "BACKUP DATABASE default TO Disk('default', 'x')", "RESTORE DATABASE default FROM Disk('default', 'x')",
		"SET readonly = 0", "SET ROLE engine", "SET DEFAULT ROLE ALL TO default", "USE system", "EXECUTE AS default SELECT 1", "CHECK TABLE events", "UNDROP TABLE x", "ATTACH TABLE events",
		"BEGIN TRANSACTION", "PARALLEL WITH SELECT 1", "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE events", "EXPLAIN AST SELECT 1; DROP TABLE events",
		"SELECT 1 INTO OUTFILE '/tmp/mcpaudit-sql-test'", "SELECT 1 INTO OUTFILE '/tmp/mcpaudit-sql-test' APPEND", "WITH 1 AS x SELECT x INTO OUTFILE '/tmp/mcpaudit-sql-test' FORMAT CSV", "(SELECT 1) INTO OUTFILE '/tmp/mcpaudit-sql-test'",
		"INSERT INTO FUNCTION file('/tmp/mcpaudit-sql-test') SELECT 1", "EXPLAIN INSERT INTO events SELECT * FROM events", "EXPLAIN SELECT 1 INTO OUTFILE '/tmp/mcpaudit-sql-test'",
	},
	"settings": {
		"SELECT 1 SETTINGS readonly = 0", "SELECT 1 SETTINGS max_result_rows = 0", "SELECT count() FROM events SETTINGS additional_table_filters = {}", "SELECT 1 SETTINGS use_query_cache = 1",
		"SELECT * FROM (SELECT * FROM events SETTINGS additional_table_filters = {})", "SELECT * FROM (SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 0))",
		"WITH x AS (SELECT * FROM events SETTINGS additional_table_filters = {}) SELECT * FROM x", "SELECT (SELECT count() FROM events SETTINGS additional_table_filters = {})",
		"SELECT 1 IN (SELECT 1 SETTINGS readonly = 0)", "SELECT 1 UNION ALL SELECT 2 SETTINGS max_threads = 64", "SELECT 1 SETTINGS max_threads = 64 UNION ALL SELECT 2", "(SELECT 1 SETTINGS max_threads = 64) INTERSECT (SELECT 1)",
		"SELECT 1 FORMAT TSV SETTINGS max_threads = 64", "SELECT 1 SETTINGS max_threads = 64 FORMAT TSV", "SELECT 1 /* */ SETTINGS /* */ max_threads = 64", "SELECT 1 -- \n SETTINGS max_threads = 64",
		"EXPLAIN SELECT 1 SETTINGS max_threads = 64", "EXPLAIN AST SELECT * FROM (SELECT 1 SETTINGS max_threads = 64)", "EXPLAIN SYNTAX SELECT 1 SETTINGS max_threads = 64", "DESCRIBE TABLE (SELECT 1 SETTINGS max_threads = 64)",
		"SELECT * FROM events AS a JOIN (SELECT 1 AS leaf SETTINGS additional_table_filters = {}) AS b ON a.leaf = b.leaf", "SELECT exists(SELECT 1 SETTINGS readonly = 0)", "DESCRIBE TABLE events SETTINGS describe_include_virtual_columns = 1",
		"SHOW TABLES SETTINGS readonly = 0",
	},
	"outside": {
		"SELECT file('/etc/passwd')", "SELECT * FROM file('/etc/passwd', 'LineAsString')", "DESCRIBE TABLE file('/etc/passwd')", "SELECT 1 WHERE '' IN file('/etc/passwd', 'LineAsString')", "SELECT FILE('/etc/passwd')", "SELECT `file`('/etc/passwd')",
		"SELECT * APPLY(file) FROM (SELECT '/etc/passwd')", "SELECT * APPLY(x -> file(x)) FROM (SELECT '/etc/passwd')", "SELECT arrayMap(x -> file(x), ['/etc/passwd'])", "SELECT COLUMNS('x') APPLY file FROM (SELECT '/etc/passwd' AS x)",
		"SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "SELECT * FROM remote('127.0.0.1', 'system.one')", "SELECT * FROM s3('http://127.0.0.1:1/x', 'TSV')", "SELECT * FROM executable('x', 'TSV', 'a Int8')",
		"SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')", "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')", "SELECT * FROM sqlite('/tmp/x', 'y')", "SELECT * FROM cluster('default', 'system.one')", "SELECT * FROM clusterAllReplicas('default', 'system.one')",
		"SELECT * FROM input('a Int8')", "SELECT * FROM dictionary('x')", "SELECT dictGet('x', 'y', 1)", "SELECT joinGet('default.events', 'tenant', 1)", "SELECT hasColumnInTable('default', 'api_keys', 'hash')", "SELECT * FROM filesystem('/')",
		"SELECT * FROM merge('default', '.*')", "SELECT * FROM merge('.*')", "SELECT * FROM merge('system', 'processes')", "SELECT * FROM loop(events)", "SELECT * FROM view(SELECT 1)", "SELECT * FROM viewIfPermitted(SELECT 1 ELSE null('a Int8'))", "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT 1))", "SELECT * FROM (EXPLAIN SELECT 1)",
		"SELECT * FROM mergeTreeIndex('default', 'events')", "SELECT * FROM mergeTreeProjection('default', 'events', 'x')", "SELECT * FROM mergeTreeAnalyzeIndexes('default', 'events')", "SELECT * FROM generateRandom('a Int8')", "SELECT * FROM fuzzJSON('x')", "SELECT * FROM eval('SELECT 1')", "SELECT * FROM fuzzQuery('SELECT 1')",
		"SELECT sleep(3)", "SELECT sleepEachRow(1) FROM numbers(3)", "SELECT SLEEP(3)", "SELECT getSetting('additional_table_filters')", "SELECT getServerSetting('max_server_memory_usage')", "SELECT getMacro('x')", "SELECT hostName()", "SELECT hostname()", "SELECT FQDN()", "SELECT fullHostName()", "SELECT serverUUID()",
		"SELECT filesystemAvailable()", "SELECT uptime()", "SELECT showCertificate()", "SELECT aiGenerate('x', 'y')", "SELECT AIGenerate('x', 'y')", "SELECT catboostEvaluate('/x', 1)", "SELECT addressToLine(1)", "SELECT getClientHTTPHeader('Authorization')", "SELECT getOSKernelVersion()", "SELECT query_id()", "SELECT count() FROM events WHERE indexHint(tenant = 'x')", "SELECT max(blockSize()) FROM events", "SELECT max(rowNumberInBlock()) FROM events",
	},
	"tables": {
		"SELECT * FROM api_keys", "SELECT count() FROM api_keys", "SELECT * FROM default.api_keys", "SELECT * FROM `default`.`api_keys`", "SELECT * FROM \"api_keys\"", "SELECT 'x' IN api_keys", "SELECT 'x' IN (default.api_keys)", "SELECT 1 IN (SELECT 1 FROM api_keys)", "SELECT in('x', api_keys)", "SELECT * FROM events, api_keys",
		"SELECT * FROM cursors", "SELECT * FROM detector_state", "SELECT * FROM schema_migrations", "SELECT * FROM activity_ranges", "DESCRIBE TABLE api_keys", "SHOW CREATE TABLE api_keys", "EXISTS TABLE api_keys", "EXPLAIN SELECT * FROM api_keys", "WITH x AS (SELECT * FROM api_keys) SELECT * FROM x",
		"SELECT * FROM system.processes", "SELECT * FROM `system`.`processes`", "SELECT * FROM system.query_log", "SELECT * FROM system.parts", "SELECT * FROM system.parts_columns", "SELECT * FROM system.disks", "SELECT * FROM system.users", "SELECT * FROM system.grants", "SELECT * FROM system.settings", "SELECT * FROM system.server_settings", "SELECT * FROM system.metrics", "SELECT * FROM system.asynchronous_metrics", "SELECT * FROM system.events",
		"SELECT 'x' IN system.processes", "SELECT 'x' IN (SELECT query FROM system.processes)", "SELECT nullIn('x', system.processes)", "SELECT * FROM numbers(1) WHERE number IN system.processes", "WITH x AS (SELECT query FROM system.processes) SELECT * FROM x", "SELECT * FROM events JOIN system.processes ON 1", "SELECT 1 UNION ALL SELECT count() FROM system.processes", "SELECT (SELECT count() FROM system.processes)", "SELECT exists(SELECT 1 FROM system.processes)", "SELECT count() FROM SYSTEM.PROCESSES", "EXPLAIN SELECT * FROM system.processes", "DESCRIBE TABLE system.processes", "SHOW CREATE TABLE system.processes",
		"SELECT 1 AS `a\nTableIdentifier system.one`, * FROM system.processes", "SELECT * FROM /* */ system /* */ . /* */ processes", "SELECT * FROM system.`processes` AS events", "SELECT * FROM information_schema.tables", "SELECT * FROM INFORMATION_SCHEMA.TABLES", "SELECT 1 IN information_schema.tables",
		"SELECT total_rows FROM system.tables", "SELECT name, total_bytes FROM system.tables", "SELECT * FROM system.tables", "SELECT t.* FROM system.tables AS t", "SELECT COLUMNS('total') FROM system.tables", "SELECT name FROM system.tables WHERE total_rows > 5", "SELECT name FROM system.tables ORDER BY total_rows", "SELECT t.total_rows FROM system.tables t", "SELECT tables.total_rows FROM system.tables", "SELECT sum(data_compressed_bytes) FROM system.columns", "SELECT data_path FROM system.databases", "SELECT * EXCEPT(name) FROM system.databases", "SELECT name FROM system.tables JOIN (SELECT 1 AS total_rows) AS x USING total_rows",
		"SHOW PROCESSLIST", "SHOW GRANTS", "SHOW USERS", "SHOW SETTINGS LIKE '%'", "SHOW CLUSTERS", "SHOW MERGES", "SHOW TABLES FROM system", "SHOW TABLES WHERE total_rows > 5", "SHOW CREATE DATABASE default", "SHOW CREATE USER default", "SHOW ACCESS", "SHOW ENGINES", "SHOW FUNCTIONS", "SHOW FILESYSTEM CACHES", "SHOW ROW POLICIES",
		"SELECT _part, _part_offset FROM events", "SELECT events._part_offset FROM events", "SELECT max(_part_offset) FROM events", "SELECT 1 FROM events WHERE _part_offset > 5", "SELECT * FROM events ORDER BY _part_offset LIMIT 1", "SELECT count() FROM events GROUP BY _partition_id", "SELECT `_part` FROM events", "SELECT _table FROM events",
		"SELECT {t:Identifier} FROM events", "EXPLAIN TABLE OVERRIDE mysql('127.0.0.1:1', 'a', 'b', 'c', 'd') PARTITION BY 1", "EXPLAIN CURRENT TRANSACTION",
		"SELECT 1 FORMAT JSONEachRowWithProgress", "SELECT 1 FORMAT JSONCompactEachRowWithProgress", "SELECT 1 FORMAT Template", "SELECT 1 FORMAT ODBCDriver2", "SELECT 1 FORMAT Prometheus", "SELECT 1 FORMAT Capn", "DESCRIBE TABLE remote('127.0.0.1', 'system.one')", "",
	},
}

func TestHostileStatementsAreRefused(t *testing.T) {
	p := newPort(t)
	key, _ := p.key(t, auth.Auditor, auth.EveryTenant, "")
	for what, statements := range hostile {
		for _, sql := range statements {
			got := p.ask(t, key, sql)
			if got.status == 200 {
				t.Errorf("%s: %s: answered %.200q", what, sql, got.body)
				continue
			}
			if got.code == "" || !strings.HasPrefix(got.body, "Code: "+got.code) || strings.Contains(got.body, "root:x:") || strings.Contains(got.body, t.TempDir()) {
				t.Errorf("%s: %s: %d %s %q", what, sql, got.status, got.code, got.body)
			}
		}
	}
	for _, table := range []string{"events", "findings", "logs"} {
		if got := p.ask(t, key, "EXISTS TABLE "+table); got.body != "1" {
			t.Errorf("%s: %+v", table, got)
		}
	}
	if got := p.ask(t, key, "SELECT count() FROM events"); got.body != "4000" {
		t.Errorf("events: %+v", got)
	}
}

// Statements that dashboards and their authors send are answered.
func TestStatementsThatReadAreAnswered(t *testing.T) {
	p := newPort(t)
	key, _ := p.key(t, auth.Analyst, auth.EveryTenant, "")
	for sql, want := range map[string]string{
		"SELECT 1":   "1",
		"(SELECT 1)": "1",
		"-- a panel\nSELECT /* one */ 1 FORMAT CSV;":                                                                     "1",
		"WITH x AS (SELECT number AS n FROM numbers(5)) SELECT sum(n) FROM x":                                            "10",
		"SELECT count() FROM events FINAL":                                                                               "",
		"SELECT tenant, count() AS \"Total calls\" FROM default.events GROUP BY tenant ORDER BY \"Total calls\", tenant": "acme\t2000\nglobex\t2000",
		"SELECT toStartOfInterval(occurred_at, INTERVAL 1 DAY) AS time, count() FROM events WHERE occurred_at >= toDateTime(1) AND tenant IN ('acme') GROUP BY time ORDER BY time": "2026-11-20 00:00:00\t2000",
		"SELECT arrayElement(quantilesBFloat16Merge(0.5, 0.95, 0.99)(durations), 1) > 0, sum(events) FROM activity_hourly WHERE tenant = 'acme'":                                   "1\t100",
		"SELECT a.n FROM (SELECT number n FROM numbers(3)) a LEFT JOIN (SELECT number n FROM numbers(2)) b USING n ORDER BY a.n WITH FILL LIMIT 1":                                 "0",
		"SELECT number, sum(number) OVER (ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) FROM numbers(2)":                                                       "0\t0\n1\t1",
		"SELECT * EXCEPT (b) REPLACE (2 AS a) FROM (SELECT 1 AS a, 2 AS b)":                                                                                                        "2",
		"SELECT arrayMap(x -> x + 1, [1, 2]), CASE WHEN 1 THEN 'system.processes' END, 1 IN (1, 2), format('{}', 'x')":                                                             "[2,3]\tsystem.processes\t1\tx",
		"SELECT 'PREWHERE', 'a\\nTableIdentifier system.processes', `__x` FROM (SELECT 1 AS `__x`)":                                                                                "PREWHERE\ta\\nTableIdentifier system.processes\t1",
		"SHOW DATABASES":                       "default",
		"SHOW TABLES LIKE 'event%'":            "events",
		"SHOW TABLES FROM default LIKE 'logs'": "logs",
		"EXISTS TABLE events":                  "1",
		"SELECT name FROM system.tables WHERE database = 'default' AND name LIKE '%keys%'":                                                                                          "",
		"SELECT database, name FROM system.tables WHERE database = 'default' AND name = 'events' ORDER BY database":                                                                 "default\tevents",
		"SELECT database, table, name, type, comment FROM system.columns WHERE (database, table) IN (('default', 'events')) AND name = 'tenant' ORDER BY database, table, position": "default\tevents\ttenant\tLowCardinality(String)\t",
		"SELECT name FROM system.databases WHERE name = 'default'":                                                                                                                  "default",
		"SELECT count() > 100 FROM system.functions":                                                                                                                                "1",
		"SELECT currentDatabase()":                       "default",
		"SELECT count() FROM logs":                       "0",
		"SELECT 1 UNION ALL SELECT 1 INTERSECT SELECT 1": "1\n1",
		"SELECT count() FROM events WHERE target IN (SELECT target FROM activity_hourly)": "200",
	} {
		got := p.ask(t, key, sql)
		if want == "" && strings.Contains(sql, "FINAL") {
			if got.code != "181" { // the engine's own words
				t.Errorf("%s: %+v", sql, got)
			}
			continue
		}
		if got.status != 200 || got.body != want {
			t.Errorf("%s: %d %q, want %q", sql, got.status, got.body, want)
		}
	}
	for _, sql := range []string{"DESCRIBE TABLE events", "DESC TABLE \"default\".\"activity_hourly\"", "SHOW CREATE TABLE events", "EXPLAIN SELECT * FROM events", "EXPLAIN indexes = 1 SELECT * FROM events WHERE tenant = 'acme'", "EXPLAIN ESTIMATE SELECT * FROM events",
		"EXPLAIN PIPELINE SELECT 1", "EXPLAIN SYNTAX SELECT 1", "EXPLAIN AST SELECT 1", "EXPLAIN QUERY TREE SELECT 1", "DESCRIBE TABLE (SELECT 1)", "SELECT * FROM system.functions LIMIT 1", "SELECT * FROM events LIMIT 1 FORMAT JSON", "SELECT 1 FORMAT Pretty"} {
		if got := p.ask(t, key, sql); got.status != 200 || got.body == "" {
			t.Errorf("%s: %+v", sql, got)
		}
	}
}
