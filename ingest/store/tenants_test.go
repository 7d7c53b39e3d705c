package store_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// oddTenants are names that would end a literal, a condition or a statement if they
// were ever part of one as they are.
var oddTenants = []string{
	"", "acme", "ACME", "acme ", "acme\x00", "\x00", "o'neill", `o\'neill`, `\`, `\\`, `\'`, "''", `"`, "`", "unhex('61')",
	"') OR 1 OR tenant IN ('", "'}", `':'1','events':'1`, "%", "a,b", "größe 🜁", "line\nbreak\ttab", "--", "/*", "{p0:String}", strings.Repeat("x", 256),
}

// crowded is a store with some events of each of the odd tenants, in batches of all.
func crowded(t *testing.T) (*store.Store, map[string]int) {
	t.Helper()
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(21, 1))
	counts := map[string]int{}
	for batch := uint64(1); batch <= 3; batch++ {
		events := randomEvents(r, 4*len(oddTenants), batch)
		for i, e := range events {
			e.Tenant = oddTenants[i%len(oddTenants)]
			counts[e.Tenant]++
		}
		if err := s.Append(context.Background(), store.Batch{Events: events, Token: fmt.Sprint(batch)}); err != nil {
			t.Fatal(err)
		}
	}
	return s, counts
}

// seen counts rows by tenant.
func seen(t *testing.T, s *store.Store, tenants []string, sql string, args ...any) map[string]int {
	t.Helper()
	rows, err := s.Query(context.Background(), store.Limits{Tenants: tenants}, sql, args...)
	if err != nil {
		t.Fatalf("%q: %s: %v", tenants, sql, err)
	}
	defer rows.Close()
	got := map[string]int{}
	for rows.Next() {
		var tenant string
		if err := rows.Scan(&tenant); err != nil {
			t.Fatal(err)
		}
		got[tenant]++
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return got
}

// A statement for some tenants sees their rows and no others, whatever it says and
// whatever the tenants are called.
func TestAStatementForSomeTenantsSeesNoOthers(t *testing.T) {
	s, counts := crowded(t)
	statements := []string{
		"SELECT tenant FROM events",
		"SELECT tenant FROM events WHERE 1 OR tenant != ''",
		"SELECT tenant FROM events AS e PREWHERE leaf >= 0",
		"SELECT tenant FROM events WHERE event_id IN (SELECT event_id FROM events)",
		"SELECT x.tenant FROM (SELECT * FROM events) AS x LEFT JOIN (SELECT event_id, tenant FROM events) AS y ON x.event_id = y.event_id AND x.tenant = y.tenant",
		"WITH all AS (SELECT tenant FROM events) SELECT tenant FROM all",
		"SELECT tenant FROM events UNION ALL SELECT tenant FROM events WHERE 0",
		"SELECT tenant FROM default.events",
	}
	cases := [][]string{nil, {}, {"acme", "ACME"}, {"nobody"}, {"\xff\xfe"}, oddTenants}
	for _, name := range oddTenants {
		cases = append(cases, []string{name})
	}
	for _, tenants := range cases {
		want := map[string]int{}
		for name, n := range counts {
			if tenants == nil || slices.Contains(tenants, name) {
				want[name] = n
			}
		}
		for _, sql := range statements {
			if strings.Contains(sql, "default.") && database(t, s) != "default" {
				continue
			}
			if got := seen(t, s, tenants, sql); !maps.Equal(got, want) {
				t.Errorf("%q: %s\nsees %v, want %v", tenants, sql, got, want)
			}
		}
		n := 0
		for _, c := range want {
			n += c
		}
		if got := hashed(t, s, tenants); got != n {
			t.Errorf("%q: %d events are hashed, want %d", tenants, got, n)
		}
		if got := rowsOf(t, s, tenants); !maps.Equal(got, want) {
			t.Errorf("%q: rows of %v, want %v", tenants, got, want)
		}
	}
}

func database(t *testing.T, s *store.Store) (name string) {
	t.Helper()
	for name = range seen(t, s, nil, "SELECT currentDatabase()") {
	}
	return name
}

func hashed(t *testing.T, s *store.Store, tenants []string) (n int) {
	t.Helper()
	if err := s.Hash(context.Background(), store.Limits{Tenants: tenants}, "log", 1, 3, func(uint64, uint32, *ledger.Hash) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// rowsOf counts the canonical rows by tenant, by both ways of reading them.
func rowsOf(t *testing.T, s *store.Store, tenants []string) map[string]int {
	t.Helper()
	var ways []map[string]int
	for _, args := range [][]any{
		{store.Named("from", uint64(1))},                                     // as columns, with the engine in process
		{store.Named("from", uint64(1)), store.Named("none", []string{"a"})}, // as formatRow
	} {
		got := map[string]int{}
		if err := s.Rows(context.Background(), store.Limits{Tenants: tenants}, "batch >= {from:UInt64} AND (1 OR tenant = 'acme')", args, func(_ uint64, _ uint32, row []byte) error {
			e, _, err := event.ParseRow(row)
			if err == nil {
				got[e.Tenant]++
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		ways = append(ways, got)
	}
	if !maps.Equal(ways[0], ways[1]) {
		t.Errorf("%q: rows of %v one way and %v the other", tenants, ways[0], ways[1])
	}
	return ways[0]
}

// Connections are used again: what one statement was narrowed to is not the next one's.
// And what the engine has learnt of a condition for one tenant is not what it knows of
// it for another.
func TestWhatOneStatementIsNarrowedToTheNextIsNot(t *testing.T) {
	s, counts := crowded(t)
	const sql = "SELECT tenant FROM events WHERE leaf >= {leaf:UInt32}"
	for range 12 {
		for _, tenants := range [][]string{{"acme"}, nil, {"o'neill"}, {}, {"nobody"}, nil} {
			want := 0
			for name, n := range counts {
				if tenants == nil || slices.Contains(tenants, name) {
					want += n
				}
			}
			got := 0
			for _, n := range seen(t, s, tenants, sql, store.Named("leaf", uint32(0))) {
				got += n
			}
			if got != want {
				t.Fatalf("%q: %d events, want %d", tenants, got, want)
			}
		}
	}
}

// Of each table it is decided what a statement for some tenants sees of it, also of one
// that a later schema brings.
func TestEveryTableIsNarrowed(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	whole := []string{"logs", "ledger", "kept"} // about all tenants at once, and read with care
	own := []string{"events", "findings", "finding_actions", "activity_hourly", "tools_hourly", "tool_definitions", "emitters_hourly", "notifications"}
	tables := seen(t, s, nil, "SELECT name FROM system.tables WHERE database = currentDatabase()")
	if len(tables) < 8 {
		t.Fatalf("there are only the tables %v", tables)
	}
	for table := range tables {
		switch {
		case slices.Contains(whole, table):
			if of := seen(t, s, nil, "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {table:String} AND name = 'tenant'", store.Named("table", table)); len(of) > 0 {
				t.Errorf("table %s has a tenant and is not narrowed", table)
			}
		case slices.Contains(own, table):
			storetest.Exec(t, s, "INSERT INTO "+table+" (tenant, server) SELECT (arrayJoin([('acme', 'a'), ('acme', 'b'), ('globex', 'a')]) AS x).1, x.2")
			if got := seen(t, s, []string{"acme"}, "SELECT tenant FROM "+table); !maps.Equal(got, map[string]int{"acme": 2}) {
				t.Errorf("of table %s, acme sees %v", table, got)
			}
		default:
			column := ""
			for column = range seen(t, s, nil, "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {table:String} ORDER BY position LIMIT 1", store.Named("table", table)) {
			}
			storetest.Exec(t, s, "INSERT INTO "+table+" ("+column+") VALUES (DEFAULT)")
			if all := seen(t, s, nil, "SELECT 'a row' FROM "+table); len(all) != 1 {
				t.Errorf("of table %s, everybody sees %v", table, all)
			}
			if got := seen(t, s, []string{"acme"}, "SELECT 'a row' FROM "+table); len(got) > 0 {
				t.Errorf("of table %s, acme sees %v; say in tenants.go what it may see", table, got)
			}
		}
	}
}

// A statement for one tenant reads that tenant's rows, not all of them.
func TestNarrowingUsesThePrimaryKey(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(21, 2))
	events := randomEvents(r, 20_000, 1)
	for i, e := range events {
		e.Tenant = []string{"acme", "globex"}[min(i/5000, 1)]
	}
	if err := s.Append(context.Background(), store.Batch{Events: events, Token: "1"}); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Query(context.Background(), store.Limits{Tenants: []string{"acme"}, Rows: 15_000}, "SELECT count() FROM events WHERE principal != 'nobody'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var n uint64
	for rows.Next() {
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil || n != 5000 {
		t.Errorf("%d events, %v", n, err)
	}
}
