package sql

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// Whatever comes, what is taken of a request is within its bounds, and no setting of it is
// one that decides who sees what.
func FuzzRequest(f *testing.F) {
	f.Add("query=SELECT+1&max_execution_time=5", "", "", "")
	f.Add("param_x=1&limit=5&readonly=0", "SELECT {x:UInt8}", "JSON", "gzip")
	f.Add("additional_table_filters={}", "SELECT 1", "Native", "")
	f.Add("%zz", "", "", "")
	f.Fuzz(func(t *testing.T, query, body, format, encoding string) {
		r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/", RawQuery: query}, Header: http.Header{"X-Clickhouse-Format": {format}, "Content-Encoding": {encoding}},
			Body: http.NoBody}
		r.Body = readCloser{strings.NewReader(body)}
		q, err := parse(r, 30*time.Second)
		if err != nil {
			return
		}
		if len(q.text) > store.MaxSQL || len(q.params) > maxParams || !formats.MatchString(q.format) {
			t.Errorf("%+v", q)
		}
		for name := range q.settings {
			if strings.HasPrefix(name, "max_") && name != "max_execution_time" || strings.Contains(name, "filter") || strings.HasPrefix(name, "query_plan") || name == "readonly" {
				t.Errorf("%q is let through", name)
			}
		}
	})
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// A tree with a node that is not known is refused, whatever stands around it.
func FuzzTree(f *testing.F) {
	f.Add("SelectWithUnionQuery (children 1)\n ExpressionList (children 1)\n  SelectQuery (children 1)\n   ExpressionList (children 1)\n    Literal UInt64_1", "SELECT 1")
	f.Add("ShowTables", "SHOW TABLES")
	f.Add("Explain EXPLAIN AST (children 1)\n SelectWithUnionQuery", "EXPLAIN AST SELECT 1")
	f.Add("SelectWithUnionQuery (children 2)\n Identifier JSON", "SELECT 'PREWHERE' FORMAT JSON")
	known := &names{shut: map[string]bool{}, functions: map[string]bool{"url": true}, restricted: map[string]bool{"total_rows": true}}
	f.Fuzz(func(t *testing.T, tree, canonical string) {
		o := embedded.Outline{Tree: tree, Canonical: canonical}
		if judge(o, known) != nil {
			return
		}
		if strings.HasPrefix(tree, "ShowTables") {
			return
		}
		for _, more := range []string{"  Set", "    ColumnsApplyTransformer", "   TableIdentifier system.processes", "   Function file (children 1)", "   Function url", "   TableIdentifier other.events", "   Identifier system.processes", "   Identifier t._part", "   InsertQuery"} {
			if judge(embedded.Outline{Tree: tree + "\n" + more, Canonical: canonical}, known) == nil {
				t.Errorf("%q is let through behind %q", more, tree)
			}
		}
	})
}
