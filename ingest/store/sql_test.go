package store

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// A schema file that brings a table says here what people's own statements see of it: no
// list is the wrong one by silence.
func TestPeoplesStatementsKnowEveryTable(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	known := slices.Sorted(slices.Values(slices.Concat(sqlShown, sqlClosed)))
	rows, err := s.conn.Query(t.Context(), "SELECT name FROM system.tables WHERE database = currentDatabase() ORDER BY name")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table)
	}
	if !slices.Equal(tables, known) {
		t.Errorf("the store has %q, and known are %q", tables, known)
	}
}

// The rights of a reader in the engine, and of Grafana's account on a server, are those
// tables and no others.
func TestReadersHaveRightsToWhatIsShown(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("embedded", "users.xml"))
	if err != nil {
		t.Fatal(err)
	}
	_, reader, _ := strings.Cut(string(text), "<reader>")
	reader, _, _ = strings.Cut(reader, "</reader>")
	want := slices.Sorted(slices.Values(SQLTables()))
	if got := granted(reader, "GRANT SELECT, SHOW COLUMNS ON default."); !slices.Equal(got, want) {
		t.Errorf("users.xml: %q, want %q", got, want)
	}
	if strings.Count(reader, "GRANT") != len(want) {
		t.Error("users.xml grants a reader something else")
	}
	text, err = os.ReadFile(filepath.Join("..", "..", "deploy", "clickhouse", "grafana.sql"))
	if err != nil {
		t.Fatal(err)
	}
	var both []string
	for _, table := range want {
		both = append(both, table, table+"_local")
	}
	slices.Sort(both)
	if got := granted(string(text), "GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit."); !slices.Equal(got, both) {
		t.Errorf("grafana.sql: %q, want %q", got, both)
	}
}

// granted are the tables behind each grant.
func granted(text, grant string) (tables []string) {
	for i, part := range strings.Split(text, grant) {
		if i > 0 {
			tables = append(tables, strings.FieldsFunc(part, func(r rune) bool { return r == ' ' || r == '<' || r == ';' })[0])
		}
	}
	slices.Sort(tables)
	return tables
}

// Grafana's account on a server is read by the engine's parser, with the lines for one
// tenant that are to be uncommented, and as it is on a single server.
func TestGrafanasAccountIsReadable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "clickhouse", "grafana.sql"))
	if err != nil {
		t.Fatal(err)
	}
	_, one, ok := strings.Cut(string(text), "-- CREATE USER")
	if !ok {
		t.Fatal("there are no lines for one tenant")
	}
	s := openEmpty(t)
	for name, file := range map[string]string{
		"cluster":    string(text),
		"single":     strings.ReplaceAll(string(text), " ON CLUSTER audit", ""),
		"one tenant": "CREATE USER" + strings.ReplaceAll(one, "\n-- ", "\n"),
	} {
		var sql strings.Builder
		for line := range strings.Lines(file) {
			before, _, _ := strings.Cut(line, "--")
			sql.WriteString(strings.TrimRight(before, " \n") + "\n")
		}
		read := 0
		for _, stmt := range strings.Split(sql.String(), ";") {
			if strings.TrimSpace(stmt) == "" {
				continue
			}
			var parsed string
			if err := s.conn.QueryRow(t.Context(), "SELECT formatQuerySingleLine({stmt:String})", named("stmt", stmt)).Scan(&parsed); err != nil {
				t.Errorf("%s: %s: %v", name, stmt, err)
			}
			for _, word := range []string{"INSERT", "ALTER", "DROP", "CREATE TABLE", "TRUNCATE", "SYSTEM", "api_keys ON", "IMPERSONATE", "ALL ON"} {
				if strings.HasPrefix(parsed, "GRANT") && strings.Contains(parsed, word) {
					t.Errorf("%s: %s", name, parsed)
				}
			}
			read++
		}
		if read < 6 {
			t.Errorf("%s: %d statements", name, read)
		}
	}
}

// A request's setting never takes the place of one by which a statement is bounded,
// but for a shorter time; and nobody's statement is cut to tenants.
func TestSettingsOfAStatementStayInForce(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	for name := range s.sqlSettings(Limits{Rows: 1}.withDefaults()) {
		resp, err := s.ReadSQL(t.Context(), Limits{Rows: 1}, embedded.Reading{Text: "SELECT 1", Format: "TSV", Settings: map[string]string{name: "1"}})
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != (name == "max_execution_time") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, tenants := range [][]string{{}, {"acme"}} {
		resp, err := s.ReadSQL(t.Context(), Limits{Tenants: tenants}, embedded.Reading{Text: "SELECT 1", Format: "TSV"})
		if err == nil {
			resp.Body.Close()
			t.Errorf("a statement of tenants %q was answered", tenants)
		}
	}
	filters := s.sqlSettings(Limits{}.withDefaults())["additional_table_filters"]
	for _, table := range sqlClosed {
		if !strings.Contains(filters, "'"+table+"':'0'") {
			t.Errorf("%s is open", table)
		}
	}
}
