package sql

import (
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Who reads, and reads of every tenant, is answered; everybody else is refused, whatever
// the statement is: for a tenant's key nothing is evaluated at all.
func TestKeysSeeWhatTheyMay(t *testing.T) {
	p := newPort(t)
	for _, role := range []auth.Role{auth.Analyst, auth.Auditor} {
		key, _ := p.key(t, role, auth.EveryTenant, "")
		for _, table := range store.SQLTables() {
			if got := p.ask(t, key, "SELECT count() > 0 FROM "+table); got.status != 200 {
				t.Errorf("%s, %s: %+v", role, table, got)
			}
		}
		for _, tenant := range []string{"acme", "globex", "nobody", auth.DefaultTenant} {
			key, _ := p.key(t, role, tenant, "")
			for _, sql := range []string{"SELECT 1", "SELECT count() FROM events", "SHOW TABLES", "this is no statement"} {
				if got := p.ask(t, key, sql); got.status != 403 || got.code != "497" || strings.Contains(got.body, "secret") {
					t.Errorf("%s of %s, %s: %+v", role, tenant, sql, got)
				}
			}
		}
	}
	for _, role := range []auth.Role{auth.Emitter, auth.Exporter, auth.Admin, auth.Monitor} {
		key, _ := p.key(t, role, auth.EveryTenant, "")
		if got := p.ask(t, key, "SELECT 1"); got.status != 403 || got.code != "497" {
			t.Errorf("%s: %+v", role, got)
		}
	}
	none, _ := p.key(t, auth.Analyst, auth.EveryTenant, auth.ContentNone)
	if got := p.ask(t, none, "SELECT 1"); got.status != 403 || got.code != "497" || !strings.Contains(got.body, "content") {
		t.Errorf("%+v", got)
	}
}
