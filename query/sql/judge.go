package sql

import (
	"regexp"
	"slices"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
)

// ClickHouse's codes of what is refused here.
const (
	codeAccessDenied    = 497
	codeReadonly        = 164
	codeUnknownDatabase = 81
	codeSyntax          = 62
	codeTooBig          = 49 // its name is LOGICAL_ERROR at a server; only its text is shown
)

func denied(text string) error { return embedded.Refuse(codeAccessDenied, "ACCESS_DENIED", text) }

// nodes are those of a syntax tree that a statement may have. Whatever is not here is
// refused, also what a later engine brings: Set (a SETTINGS clause, which in a subquery
// undoes readonly and all limits), ColumnsApplyTransformer (it hides the function that it
// applies), and everything that is no SELECT.
var nodes = map[string]bool{
	"SelectWithUnionQuery": true, "SelectIntersectExceptQuery": true, "SelectQuery": true, "Subquery": true, "WithElement": true,
	"ExpressionList": true, "Literal": true, "Identifier": true, "Function": true, "Asterisk": true, "QualifiedAsterisk": true,
	"ColumnsTransformerList": true, "ColumnsExceptTransformer": true, "ColumnsReplaceTransformer": true, "ColumnsReplaceTransformer::Replacement": true,
	"ColumnsRegexpMatcher": true, "ColumnsListMatcher": true, "QualifiedColumnsRegexpMatcher": true, "QualifiedColumnsListMatcher": true,
	"TablesInSelectQuery": true, "TablesInSelectQueryElement": true, "TableExpression": true, "TableIdentifier": true, "TableJoin": true,
	"ArrayJoin": true, "OrderByElement": true, "InterpolateElement": true, "WindowDefinition": true, "WindowListElement": true,
	"SampleRatio": true,
}

// wide are the nodes that stand for columns without naming them.
var wide = []string{"Asterisk", "QualifiedAsterisk", "ColumnsRegexpMatcher", "ColumnsListMatcher", "QualifiedColumnsRegexpMatcher", "QualifiedColumnsListMatcher"}

// sources are the table functions that make rows of nothing.
var sources = []string{"numbers", "numbers_mt", "zeros", "zeros_mt", "generateseries", "generate_series", "values", "null"}

// shutFunctions read something other than their arguments, tell of the machine, or do
// nothing but wait. Aliases are found at the engine.
var shutFunctions = []string{
	"file", "sleep", "sleepeachrow", "logtrace", "joinget", "joingetornull", "hascolumnintable", "getsetting", "getsettingordefault",
	"getserversetting", "getmergetreesetting", "getmacro", "getserverport", "getclienthttpheader", "showcertificate", "globalvariable",
	"tcpport", "hostname", "fqdn", "serveruuid", "buildid", "getoskernelversion", "uptime", "zookeepersessionuptime", "filesystemavailable",
	"filesystemcapacity", "filesystemunreserved", "catboostevaluate", "evalmlmethod", "naivebayesclassifier", "naivebayesclassifierwithprob",
	"naivebayesclassifierwithallprobs", "runningconcurrency", "generateserialid", "connectionid", "hasthreadfuzzer", "tid", "addresstoline",
	"addresstolinewithinlines", "addresstosymbol", "demangle", "transactionid", "transactionlatestsnapshot", "transactionoldestsnapshot",
	"fuzzquery", "getmaxtablenamelengthfordatabase", "currentqueryid", "queryid", "initialqueryid", "initialquerystarttime",
	"generaterandomstructure", "partitionid", "mergetreepartinfo", "ismergetreepartcoveredby", "currentprofiles", "defaultprofiles",
	// These tell how the engine has laid rows out, of which no answer should depend.
	"indexhint", "blocknumber", "blocksize", "blockserializedsize", "rownumberinblock",
	"lowcardinalityindices", "lowcardinalitykeys", "dumpcolumnstructure",
	// A call can take minutes or gigabytes that no limit counts, and nothing stops it.
	"arraylevenshteindistance", "arraylevenshteindistanceweighted", "arraysimilarity", "geohashesinbox", "printf", "urlhierarchy",
	"urlpathhierarchy", "json_exists", "json_query", "json_value", // $[0 to 4294967295]
	"enabledprofiles", "currentroles", "defaultroles", "enabledroles", "errorcodetoname", "executable", "input",
}

// shutPrefixes are those of families of functions: dictionaries, models, regions, and the
// geometry of grids, of which one call can take minutes and all of the machine's memory.
var shutPrefixes = []string{"dict", "ai", "region", "timeseriesselector", "iceberg", "h3", "s2"}

// notShut are functions that begin like a family and are none of it.
var notShut = []string{"airlines"}

// systemTables are the engine's own tables that tell what there is to be read: Grafana's
// lists of tables, columns and functions come from them. The value says which columns may
// be named; nil is all. Other columns tell how many rows all tenants have together, and
// where files are.
var systemTables = map[string][]string{
	"one": nil, "numbers": nil, "numbers_mt": nil, "zeros": nil, "functions": nil, "table_functions": nil, "data_type_families": nil,
	"formats": nil, "keywords": nil, "time_zones": nil, "aggregate_function_combinators": nil,
	"databases": {"name", "engine", "comment", "database"},
	"tables": {"database", "name", "table", "engine", "is_temporary", "create_table_query", "engine_full", "as_select", "partition_key",
		"sorting_key", "primary_key", "sampling_key", "comment"},
	"columns": {"database", "table", "name", "column", "type", "position", "default_kind", "default_expression", "comment", "is_in_partition_key",
		"is_in_sorting_key", "is_in_primary_key", "is_in_sampling_key", "compression_codec", "character_octet_length", "numeric_precision",
		"numeric_precision_radix", "numeric_scale", "datetime_precision"},
}

// formats are those of results. None tells how many rows were read for it.
var formats = regexp.MustCompile(`(?i)^(Native|RowBinary\w*|(TabSeparated|TSV)(Raw)?(WithNames(AndTypes)?)?|CSV(WithNames(AndTypes)?)?|CustomSeparated\w*|` +
	`JSON|JSONStrings|JSONCompact|JSONCompactStrings|JSONColumns|JSONColumnsWithMetadata|JSONCompactColumns|JSONEachRow|JSONLines|NDJSON|JSONStringsEachRow|` +
	`JSONCompact(Strings)?EachRow(WithNames(AndTypes)?)?|Pretty\w*|Vertical|Values|Markdown|LineAsString|RawBLOB|Null|SQLInsert|XML|Parquet|Arrow|ArrowStream)$`)

// explains are the kinds of EXPLAIN.
var explains = []string{"", "AST", "SYNTAX", "QUERY TREE", "PLAN", "PIPELINE", "ESTIMATE"}

// shows are the statements of SHOW whose tree says nothing of what they are.
var shows = regexp.MustCompile("^SHOW (DATABASES|TABLES( FROM (default|`default`))?)( (NOT )?I?LIKE '[^'\\\\]*')?( LIMIT \\d+)?( FORMAT (\\w+))?$")

// names are what the engine calls things, asked for once.
type names struct {
	shut       map[string]bool // aliases of shutFunctions, lower case
	functions  map[string]bool // that are tables' and not scalar, lower case
	restricted map[string]bool // columns of systemTables that may not be named
}

// node is a line of a tree.
type node struct {
	depth      int
	kind, rest string
}

// parseTree takes apart what EXPLAIN AST drew. A name or alias with a line break in it adds
// lines, and hides none: each node begins one. What is added is judged like a node.
func parseTree(text string) []node {
	lines := strings.Split(text, "\n")
	out := make([]node, 0, len(lines))
	for _, line := range lines {
		bare := strings.TrimLeft(line, " ")
		kind, rest, _ := strings.Cut(bare, " ")
		out = append(out, node{depth: len(line) - len(bare), kind: kind, rest: rest})
	}
	return out
}

// judge says whether a statement may run. The error is an *embedded.Exception.
func judge(o embedded.Outline, known *names) error {
	tree := parseTree(o.Tree)
	root := tree[0]
	begin := 0
	switch root.kind {
	case "SelectWithUnionQuery", "SelectIntersectExceptQuery":
	case "DescribeQuery", "ExistsTableQuery", "ShowCreateTableQuery":
		begin = 1
	case "ShowTables":
		if !shows.MatchString(o.Canonical) {
			return denied("of SHOW there are SHOW DATABASES, SHOW TABLES and SHOW CREATE TABLE here, with LIKE at most")
		}
		return judgeFormat(tree)
	case "Explain":
		kind, _, _ := strings.Cut(strings.TrimPrefix(root.rest, "EXPLAIN"), "(")
		if !slices.Contains(explains, strings.TrimSpace(kind)) {
			return denied("this EXPLAIN is not taken here; use EXPLAIN PLAN, ESTIMATE, AST, SYNTAX or QUERY TREE")
		}
		begin = 1
		if len(tree) > 1 && tree[1].kind == "Set" && tree[1].depth == 1 {
			begin = 2 // of EXPLAIN itself, which knows no other settings than its own
		}
	default:
		return embedded.Refuse(codeReadonly, "READONLY", "this endpoint only reads: SELECT, EXPLAIN, DESCRIBE TABLE, SHOW TABLES, SHOW DATABASES and EXISTS TABLE")
	}
	if err := judgeFormat(tree); err != nil {
		return err
	}
	w := walk{known: known}
	for i := begin; i < len(tree); i++ {
		if err := w.node(tree[i], tree[i-min(i, 1)]); err != nil {
			return err
		}
	}
	if w.limited && w.wide {
		return denied("of system.tables, system.columns and system.databases columns are to be named; not all of them are shown")
	}
	if w.limited {
		for _, part := range w.parts {
			if known.restricted[part] {
				return denied("the column " + part + " of the system tables is not shown")
			}
		}
	}
	return nil
}

// judgeFormat looks at the format that a statement names for its result: an Identifier
// right below the statement's node.
func judgeFormat(tree []node) error {
	for _, n := range tree[1:] {
		switch {
		case n.depth != 1:
		case n.kind == "Literal":
			return denied("a result can't be written to a file here")
		case n.kind == "Identifier" && tree[0].kind != "ExistsTableQuery" && tree[0].kind != "ShowCreateTableQuery" && tree[0].kind != "ShowTables" && !formats.MatchString(n.rest):
			return denied("this format is not taken here; use Native, JSON, JSONEachRow, CSV, TSV or Parquet")
		}
	}
	return nil
}

// walk is what is kept in mind of a tree.
type walk struct {
	known   *names
	parts   []string // of all identifiers, lower case
	wide    bool     // columns are taken without naming them
	limited bool     // a system table is read of which not all columns are shown
}

func (w *walk) node(n, before node) error {
	if !nodes[n.kind] {
		switch {
		case n.kind == "Set":
			return embedded.Refuse(codeReadonly, "READONLY", "settings can't be changed in a statement here; leave SETTINGS out")
		case n.kind == "ColumnsApplyTransformer":
			return denied("APPLY is not taken here; write the columns out")
		}
		return denied("the statement has something that is not known here, or a name with a line break")
	}
	text, _, _ := strings.Cut(n.rest, " (")
	name := strings.ToLower(text)
	switch n.kind {
	case "Function":
		if before.kind == "TableExpression" && n.depth == before.depth+1 {
			if !slices.Contains(sources, name) {
				return denied("the table function " + clip(text) + " is not taken here; numbers, zeros, generateSeries and values are")
			}
			return nil
		}
		if w.shut(name) {
			return denied("the function " + clip(text) + " is not taken here")
		}
	case "TableIdentifier":
		return w.table(name)
	case "Identifier":
		return w.identifier(name)
	}
	w.wide = w.wide || slices.Contains(wide, n.kind)
	return nil
}

func (w *walk) shut(name string) bool {
	if w.known.functions[name] && !slices.Contains(sources, name) || w.known.shut[name] || slices.Contains(shutFunctions, name) {
		return true
	}
	return slices.ContainsFunc(shutPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }) && !slices.Contains(notShut, name)
}

var (
	onePart  = regexp.MustCompile(`^[^.]+$`)
	twoParts = regexp.MustCompile(`^(default|system)\.([a-z_][a-z0-9_]*)$`)
)

// table judges a name behind FROM: a table of ours or of a WITH, which the engine knows and
// has rights for, or a system table of the list.
func (w *walk) table(name string) error {
	parts := twoParts.FindStringSubmatch(name)
	switch {
	case parts == nil && onePart.MatchString(name):
		return nil
	case parts == nil:
		return denied("this database is not shown here; use the tables of default")
	case parts[1] == "system":
		return w.system(parts[2])
	}
	return nil
}

func (w *walk) system(table string) error {
	columns, ok := systemTables[table]
	if !ok {
		return denied("this system table is not shown here; tables, columns, databases, functions and one are")
	}
	w.limited = w.limited || columns != nil
	return nil
}

// virtual are names that ClickHouse gives to what is no column: of which part a row is, and
// how many stand before it. Dashboards' own names begin with two.
var virtual = regexp.MustCompile(`^_[^_]`)

// identifier judges a name anywhere else, which may be a table's all the same: x IN table.
func (w *walk) identifier(name string) error {
	parts := strings.Split(name, ".")
	for _, p := range parts {
		if virtual.MatchString(p) {
			return denied("names that begin with an underscore are not taken here")
		}
	}
	w.parts = append(w.parts, parts...)
	switch parts[0] {
	case "information_schema":
		return denied("this database is not shown here; use the tables of default")
	case "system":
		if len(parts) < 2 {
			return denied("this name is not taken here")
		}
		return w.system(parts[1])
	}
	return nil
}

// clip bounds what is repeated of a statement.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 60)], "") }
