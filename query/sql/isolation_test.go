package sql

import (
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// ofOne are statements about one tenant's rows; T stands for each table with a tenant, V
// for its column of values.
var ofOne = []string{
	"SELECT count(), uniq(tenant), min(tenant), max(tenant) FROM T", "SELECT count() FROM T", "SELECT min(V), max(V) FROM T", "SELECT tenant, count() FROM T GROUP BY tenant ORDER BY tenant", "SELECT DISTINCT tenant FROM T AS e ORDER BY tenant",
	"SELECT count() FROM default.T", "SELECT count() FROM `default`.`T`", "SELECT count() FROM \"T\"", "SELECT count() FROM T WHERE tenant = 'acme'", "SELECT count() FROM T WHERE tenant = 'acme' OR 1", "SELECT 'acme' IN (SELECT tenant FROM T)",
	"SELECT count() FROM (SELECT * FROM T UNION ALL SELECT * FROM T)", "WITH x AS (SELECT * FROM T) SELECT count() FROM x WHERE tenant = 'acme'", "SELECT (SELECT count() FROM T)", "SELECT exists(SELECT 1 FROM T WHERE tenant = 'acme')", "SELECT count() FROM T a LEFT JOIN T b ON a.V = b.V AND a.tenant != b.tenant WHERE b.tenant != ''",
	"SELECT count() FROM T a CROSS JOIN (SELECT tenant FROM T LIMIT 1) b WHERE a.tenant != b.tenant", "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT count(), (SELECT count() FROM T) FROM r", "SELECT count() FROM T WHERE V IN (SELECT V FROM T WHERE tenant = 'acme')",
	// Values that fail: what is evaluated on another tenant's rows would be told in the error.
	"SELECT count() FROM T WHERE throwIf(tenant = 'acme') = 0", "SELECT count() FROM T WHERE toUInt32(V) >= 0", "SELECT count() FROM T WHERE toUInt32(V) >= 0 AND intDiv(1, tenant = 'globex') = 1", "SELECT sum(toUInt32(V)) FROM T", "SELECT V FROM T WHERE toUInt32(V) >= 0 ORDER BY V DESC LIMIT 1",
	"SELECT toUInt32(V) AS z FROM T ORDER BY z LIMIT 1", "SELECT count() FROM T JOIN (SELECT '1' AS V) AS x USING V WHERE toUInt32(V) >= 0", "SELECT count() FROM T x JOIN T y ON toUInt32(x.V) = toUInt32(y.V) WHERE toUInt32(x.V) > 0 AND toUInt32(y.V) > 1",
	"SELECT DISTINCT toUInt32(V) % 2 AS d FROM T ORDER BY d", "SELECT toUInt32(V) AS z, count() FROM T GROUP BY z HAVING z > 0 ORDER BY z LIMIT 1", "SELECT z FROM (SELECT toUInt32(V) AS z FROM T) WHERE z > 5 ORDER BY z LIMIT 1", "SELECT count() FROM T ARRAY JOIN [toUInt32(V)] AS z WHERE z > 3",
	"SELECT count() FROM T WHERE (SELECT max(toUInt32(V)) FROM T) > 1", "SELECT count() FROM (SELECT * FROM T UNION ALL SELECT * FROM T) WHERE toUInt32(V) >= 0", "SELECT count() FROM T x, T y WHERE x.V = y.V AND toUInt32(x.V) = toUInt32(y.V)", "SELECT count() FROM T x ANTI JOIN T y ON toUInt32(x.V) = toUInt32(y.V)",
	"SELECT count() FROM T x LEFT JOIN T y ON toUInt32(x.V) = toUInt32(y.V) WHERE throwIf(y.tenant = 'acme') = 0", "SELECT count() FROM (SELECT DISTINCT V FROM T) WHERE toUInt32(V) >= 0", "SELECT count() FROM (SELECT V AS m FROM T GROUP BY V) WHERE toUInt32(m) >= 0", "WITH x AS (SELECT * FROM T) SELECT count() FROM x a JOIN x b ON toUInt32(a.V) = toUInt32(b.V)",
	"SELECT count() FROM (SELECT V, row_number() OVER (ORDER BY V) AS r FROM T) WHERE toUInt32(V) >= 0 AND r > 5", "SELECT countIf(throwIf(tenant = 'acme') = 0) FROM T", "SELECT count() FROM T WHERE V = '1' OR toUInt32(V) = 5", "SELECT count() FROM T WHERE identity(toUInt32(V)) > 0", "SELECT count() FROM T GROUP BY toUInt32(V) >= 0",
	"SELECT count() FROM T WHERE accurateCast(V, 'UInt32') >= 0", "SELECT count() FROM T WHERE JSONExtractUInt(V) >= 0 AND reinterpretAsUInt32(V) >= 0", "SELECT count() FROM T WHERE parseDateTimeBestEffortOrNull(V) IS NULL OR 1", "SELECT sum(toUInt32(V)) FROM T GROUP BY tenant WITH TOTALS",
	"SELECT count() FROM T WHERE V IN (SELECT toString(toUInt32(V)) FROM T)", "SELECT max(r) < 2000 FROM (SELECT rowNumberInAllBlocks() AS r FROM T WHERE r >= 0)", "SELECT count() FROM T WHERE rowNumberInAllBlocks() >= 0",
	"SELECT uniqExact(V) FROM T ORDER BY ALL", "SELECT V FROM T ORDER BY V LIMIT 1 BY V LIMIT 2", "SELECT count() FROM T QUALIFY toUInt32(any(V)) >= 0", "SELECT top FROM (SELECT arraySort(topK(3)(tenant)) AS top FROM T)",
}

var tablesOfTenants = map[string]string{
	"events": "target", "tools_hourly": "target", "findings": "principal", "finding_actions": "note", "notifications": "rule", "activity_hourly": "target", "tool_definitions": "target", "emitters_hourly": "emitter_id",
}

// What a tenant's key is answered is what it would be if the other tenant did not exist: to
// the letter, errors and all.
func TestValuesOfOtherTenantsAreNotEvaluated(t *testing.T) {
	type asked struct{ sql, body, code string }
	var alone []asked
	dir := t.TempDir()
	t.Run("alone", func(t *testing.T) {
		s := storetest.Open(t, dir)
		seed(t, s, "globex")
		p := serve(t, s)
		key, _ := p.key(t, auth.Analyst, "globex", "")
		for table, column := range tablesOfTenants {
			statements := ofOne
			if table != "events" && table != "notifications" { // whose keys begin with the tenant, and don't
				statements = ofOne[:26]
			}
			for _, sql := range statements {
				sql = written(sql, table, column)
				got := p.ask(t, key, sql)
				alone = append(alone, asked{sql, got.body, got.code})
			}
		}
	})
	s := storetest.Open(t, dir)
	seed(t, s, "acme")
	for _, table := range []string{"events", "notifications", "findings"} {
		storetest.Exec(t, s, "OPTIMIZE TABLE "+table+" FINAL") // the rows of both lie in one part
	}
	p := serve(t, s)
	key, _ := p.key(t, auth.Analyst, "globex", "")
	answered := 0
	for _, a := range alone {
		got := p.ask(t, key, a.sql)
		if got.body != a.body || got.code != a.code {
			t.Errorf("%s: %s %q, and alone %s %q", a.sql, got.code, got.body, a.code, a.body)
		}
		if got.status == 200 {
			answered++
		}
		if strings.Contains(got.body, "secret") {
			t.Errorf("%s: %q", a.sql, got.body)
		}
	}
	if answered < len(alone)*9/10 {
		t.Errorf("%d of %d statements were answered", answered, len(alone))
	}
}

// written is a statement about a table.
func written(sql, table, column string) string {
	var out []string
	for _, word := range strings.FieldsFunc(strings.NewReplacer("(", "\x00(\x00", ")", "\x00)\x00", " ", "\x00 \x00", ".", "\x00.\x00", "`", "\x00`\x00", `"`, "\x00\"\x00", ",", "\x00,\x00").Replace(sql), func(r rune) bool { return r == 0 }) {
		switch word {
		case "T":
			word = table
		case "V":
			word = column
		}
		out = append(out, word)
	}
	return strings.Join(out, "")
}

// The engine keeps a statement of some tenants in the order in which it was written: their
// rows are cut out of each table first.
func TestRowsAreCutBeforeAnythingElseIsDone(t *testing.T) {
	p := newPort(t)
	key, _ := p.key(t, auth.Analyst, "globex", "")
	for _, sql := range []string{"EXPLAIN SELECT count() FROM events", "EXPLAIN PLAN SELECT 1", "EXPLAIN indexes = 1 SELECT 1 FROM events", "EXPLAIN ESTIMATE SELECT * FROM events", "EXPLAIN PIPELINE SELECT 1", "EXPLAIN AST graph = 1 SELECT 1"} {
		if got := p.ask(t, key, sql); got.code != "497" {
			t.Errorf("%s: %+v", sql, got)
		}
	}
	for _, sql := range []string{"EXPLAIN AST SELECT 1 FROM events", "EXPLAIN SYNTAX SELECT count() FROM events", "SELECT name FROM system.tables WHERE database = 'default'"} {
		if got := p.ask(t, key, sql); got.status != 200 || strings.Contains(got.body, "api_keys") {
			t.Errorf("%s: %+v", sql, got)
		}
	}
	for _, sql := range []string{"SELECT count() FROM events FORMAT JSON", "SELECT count() FROM events FORMAT XML", "SELECT count() FROM events FORMAT JSONCompact"} {
		if got := p.ask(t, key, sql); got.status != 200 || strings.Contains(got.body, "rows_read") {
			t.Errorf("%s: %+v", sql, got)
		}
	}
	if got := p.ask(t, key, "SELECT count() FROM events WHERE toUInt32(concat('x', target)) > 0"); got.code != "6" || strings.Contains(got.body, "x1") || !strings.Contains(got.body, "CANNOT_PARSE_TEXT") {
		t.Errorf("%+v", got)
	}
}

// A key of no tenant that exists sees nothing, and a role that does not read is refused.
func TestKeysSeeWhatTheyMay(t *testing.T) {
	p := newPort(t)
	nobody, _ := p.key(t, auth.Analyst, "nobody", "")
	if got := p.ask(t, nobody, "SELECT count() FROM events"); got.body != "0" {
		t.Errorf("%+v", got)
	}
	for _, role := range []auth.Role{auth.Exporter, auth.Admin, auth.Monitor} {
		key, _ := p.key(t, role, auth.EveryTenant, "")
		if got := p.ask(t, key, "SELECT 1"); got.status != 403 || got.code != "497" {
			t.Errorf("%s: %+v", role, got)
		}
	}
	none, _ := p.key(t, auth.Analyst, auth.EveryTenant, auth.ContentNone)
	if got := p.ask(t, none, "SELECT 1"); got.status != 403 || got.code != "497" || !strings.Contains(got.body, "content") {
		t.Errorf("%+v", got)
	}
	key, _ := p.key(t, auth.Auditor, "acme", "")
	for _, table := range store.SQLTables() {
		if got := p.ask(t, key, "SELECT count() > 0 FROM "+table); got.status != 200 {
			t.Errorf("%s: %+v", table, got)
		}
	}
}
