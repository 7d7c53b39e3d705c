package store

import (
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
)

var update = flag.Bool("update", false, "write what the cluster's statements are now to testdata")

var audit = layout{cluster: "audit", database: "mcp"}

// clusterStatements are all statements that define tables on a cluster, each with the
// text that it is derived from: those of the schema files, and retention's.
func clusterStatements(t *testing.T) (texts []string, derived [][]string) {
	t.Helper()
	all, err := migrations(schemaFiles)
	if err != nil {
		t.Fatal(err)
	}
	texts = append(texts, strings.TrimSpace(createMigrations))
	for _, m := range all {
		texts = append(texts, m.statements...)
	}
	month := partitionID(20819)
	texts = append(texts,
		"CREATE TABLE "+retained+" AS events",
		"ALTER TABLE events REPLACE PARTITION ID '"+month+"' FROM "+retained,
		"ALTER TABLE events DROP PARTITION ID '"+month+"'",
		"ALTER TABLE activity_hourly DROP PARTITION ID '"+month+"'",
		"DROP TABLE IF EXISTS "+retained+" SYNC",
		"OPTIMIZE TABLE events FINAL",
		// What a later schema file may ask for.
		"ALTER TABLE events ADD COLUMN IF NOT EXISTS later String CODEC(ZSTD(1)) AFTER batch_mac",
		"ALTER TABLE events ADD INDEX IF NOT EXISTS by_later later TYPE minmax GRANULARITY 1")
	for _, text := range texts {
		d, err := audit.derive(text)
		if err != nil {
			t.Fatal(err)
		}
		derived = append(derived, d)
	}
	return texts, derived
}

// The derived schema is reviewed as text, in testdata/cluster.sql: a table that would
// be left on one machine, or lose a setting, is seen there.
func TestTheSchemaOfAClusterIsTheOneThatWasReviewed(t *testing.T) {
	texts, derived := clusterStatements(t)
	var b strings.Builder
	for i, text := range texts {
		head, _, _ := strings.Cut(text, "\n")
		fmt.Fprintf(&b, "-- from: %s\n", head)
		for _, d := range derived[i] {
			b.WriteString(d + ";\n")
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "-- the parts of all shards\n%s;\n\n-- before something is decided by what is stored\n%s;\n%s;\n", audit.createParts(), audit.sync("events"), audit.sync("findings"))
	path := filepath.Join("testdata", "cluster.sql")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the statements of a cluster are not those of %s; look at what 'go test ./ingest/store -run Reviewed -update' changes there", path)
	}
}

// The engine's parser reads each statement, and as what it is meant to be.
func TestTheEngineReadsTheStatementsOfACluster(t *testing.T) {
	s := openEmpty(t)
	_, derived := clusterStatements(t)
	derived = append(derived, []string{audit.createParts(), audit.sync("events"), audit.sync("findings")})
	for _, list := range derived {
		for _, stmt := range list {
			var text string
			if err := s.conn.QueryRow(t.Context(), "SELECT formatQuerySingleLine({stmt:String})", named("stmt", stmt)).Scan(&text); err != nil {
				t.Errorf("%s: %v", stmt, err)
			}
			// Only what replicas tell each other needs no ON CLUSTER.
			told := strings.HasPrefix(text, "ALTER TABLE mcp.findings") || strings.HasPrefix(text, "ALTER TABLE mcp.activity_hourly")
			if !strings.Contains(text, "ON CLUSTER audit") && !told {
				t.Errorf("not for all machines: %s", text)
			}
		}
	}
}

func TestPromise1EveryTableOfAClusterIsReplicatedAndSynced(t *testing.T) {
	_, derived := clusterStatements(t)
	tables := 0
	for _, list := range derived {
		for _, stmt := range list {
			if !strings.HasPrefix(stmt, "CREATE TABLE") || strings.Contains(stmt, "ENGINE = Distributed(") {
				continue
			}
			tables++
			for _, want := range []string{"ENGINE = Replicated", "fsync_after_insert = 1", "fsync_part_directory = 1",
				"min_compressed_bytes_to_fsync_after_fetch = 1", replicatedWindow} {
				if !strings.Contains(stmt, want) {
					t.Errorf("lacks %q: %s", want, stmt)
				}
			}
			if strings.Contains(stmt, "non_replicated_deduplication_window") {
				t.Errorf("a window that replicas don't look at: %s", stmt)
			}
		}
	}
	if tables < 16 {
		t.Errorf("%d tables", tables)
	}
}

func TestAStatementThatCantBeDerivedIsRefused(t *testing.T) {
	for stmt, want := range map[string]string{
		"TRUNCATE TABLE events":             `derive the statement for cluster "audit": it is of no known form: TRUNCATE TABLE events`,
		"ALTER TABLE events DELETE WHERE 1": `derive the statement for cluster "audit": it is of no known form: ALTER TABLE events DELETE WHERE 1`,
		"CREATE TABLE IF NOT EXISTS x (a UInt8) ENGINE = MergeTree\nORDER BY a": `derive table x for cluster "audit": its definition lacks a key, or settings that sync what is inserted`,
		"CREATE TABLE x AS y": `derive table x for cluster "audit": there is no table y in the schema`,
	} {
		if got, err := audit.derive(stmt); err == nil || err.Error() != want {
			t.Errorf("%s: %q, %v", stmt, got, err)
		}
		if got, err := (layout{}).derive(stmt); err != nil || len(got) != 1 || got[0] != stmt {
			t.Errorf("on one machine: %q, %v", got, err)
		}
	}
}

// ingest-0, ingest-1, … take the shards in turn; a log without a number has one shard
// all the same, and always the same.
func TestLogsWithNumbersTakeShardsInTurn(t *testing.T) {
	s := openEmpty(t)
	for id, want := range map[string]uint64{
		"ingest-0-a1b2c3d4e5f6":   0,
		"ingest-07-123456789012":  7,
		"eu.west_12-0123456789ab": 12,
		"main-a1b2c3d4e5f6":       14719190639841441311,
		"ingest-7":                16695384018651257206,
		"":                        11160318154034397263,
	} {
		var key uint64
		var kind string
		if err := s.conn.QueryRow(t.Context(), "SELECT "+shardOf+" AS key, toTypeName(key) FROM (SELECT toLowCardinality({id:String}) AS log_id)", named("id", id)).Scan(&key, &kind); err != nil {
			t.Fatal(err)
		}
		if key != want || kind != "UInt64" {
			t.Errorf("%q: %d (%s), want %d", id, key, kind, want)
		}
	}
}

func TestAClusterNeedsAServerAndAPlainName(t *testing.T) {
	for want, c := range map[string]Config{
		"": {DSN: "clickhouse://u:p@host:9000/mcp", Cluster: "audit_2x2"},
		"store: cluster is set and dsn is empty; name one of the cluster's servers in dsn":              {Path: "x", Cluster: "audit"},
		"store: cluster \"a`b\" is not a name of 1 to 64 letters, digits, dots, dashes and underscores": {DSN: "clickhouse://host:9000", Cluster: "a`b"},
	} {
		if err := c.Validate(); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A setting that a server does not know is refused with every statement.
func TestTheEngineKnowsTheSettingsOfACluster(t *testing.T) {
	s := openEmpty(t)
	for _, settings := range []clickhouse.Settings{clusterSettings, settling} {
		var one uint8
		if err := s.conn.QueryRow(clickhouse.Context(t.Context(), clickhouse.WithSettings(settings)), "SELECT 1").Scan(&one); err != nil {
			t.Error(err)
		}
		for name := range settings {
			var known uint64
			if err := s.conn.QueryRow(t.Context(), "SELECT count() FROM system.settings WHERE name = {name:String}", named("name", name)).Scan(&known); err != nil || known != 1 {
				t.Errorf("%s: %d, %v", name, known, err)
			}
		}
	}
}

func TestAServerWithoutTheClusterIsRefused(t *testing.T) {
	s := openEmpty(t)
	if err := s.openCluster(t.Context(), nil, "audit"); err == nil || !strings.Contains(err.Error(), `the server has none of this name in its remote_servers`) {
		t.Error(err)
	}
}

func TestTablesOfAnotherLayoutAreRefused(t *testing.T) {
	s := openEmpty(t)
	exec := func(stmt string) {
		t.Helper()
		if err := s.conn.Exec(t.Context(), stmt); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE TABLE events_local (a UInt8) ENGINE = MergeTree ORDER BY a")
	cluster := &Store{conn: s.conn, layout: audit}
	const alone = "migrate store: the table events_local is not replicated: this store was made without store.cluster, and can't become one of a cluster; give the cluster a database of its own"
	if err := cluster.checkTable(t.Context(), "events"); err == nil || err.Error() != alone {
		t.Error(err)
	}
}

// What deploy/clickhouse hands out is read by the engine's parser, and as XML.
func TestTheFilesForAClusterAreReadable(t *testing.T) {
	folder := filepath.Join("..", "..", "deploy", "clickhouse")
	text, err := os.ReadFile(filepath.Join(folder, "users.sql"))
	if err != nil {
		t.Fatal(err)
	}
	var sql strings.Builder
	for line := range strings.Lines(string(text)) {
		before, _, _ := strings.Cut(line, "--")
		sql.WriteString(strings.TrimRight(before, " \n") + "\n")
	}
	s := openEmpty(t)
	read := 0
	for _, stmt := range statements(sql.String()) {
		var parsed string
		if err := s.conn.QueryRow(t.Context(), "SELECT formatQuerySingleLine({stmt:String})", named("stmt", stmt)).Scan(&parsed); err != nil {
			t.Errorf("%s: %v", stmt, err)
		}
		if strings.Contains(parsed, "mcpaudit_writer") && (strings.Contains(parsed, "ALTER") || strings.Contains(parsed, "DROP") || strings.Contains(parsed, "TRUNCATE")) {
			t.Errorf("the writer may change what is stored: %s", parsed)
		}
		read++
	}
	if read < 15 {
		t.Errorf("%d statements", read)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.xml"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := xml.Unmarshal(text, new(struct{})); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// A shard has another name for what it has of a table, and another current database.
func TestACommonTableIsNarrowedUnderAllItsNames(t *testing.T) {
	got := (&Store{layout: audit}).narrowed([]string{"a"})["additional_table_filters"]
	for _, name := range []string{"events", "events_local", "mcp.events", "mcp.events_local", "findings", "mcp.findings", "finding_actions", "mcp.finding_actions"} {
		if !strings.Contains(got, "'"+name+`':'tenant IN (unhex(\'61\'))'`) {
			t.Errorf("%s is not narrowed: %s", name, got)
		}
	}
}
