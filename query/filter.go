package query

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Limits of a filter: they bound the work of the parser and of the engine.
const (
	maxFilter  = 16 << 10
	maxNesting = 32
	maxTerms   = 200
	maxYear    = 2200 // DateTime64 of microseconds ends in 2299
)

// A FilterError says where in a filter what is wrong. Its text is safe to show.
type FilterError struct {
	Position int // in characters (code points), from 1; 0 when it concerns the whole filter
	Reason   string
}

func (e *FilterError) Error() string {
	if e.Position == 0 {
		return "filter: " + e.Reason
	}
	return fmt.Sprintf("filter, character %d: %s", e.Position, e.Reason)
}

// condition is SQL text made of static fragments, and the values bound in it.
type condition struct {
	sql  string
	args []any
	// What it says of time and tenant, as far as that is plain to see.
	since, until, tenant bool
}

// and joins two conditions that bind different names.
func (c condition) and(d condition) condition {
	return condition{sql: c.sql + " AND " + d.sql, args: slices.Concat(c.args, d.args),
		since: c.since || d.since, until: c.until || d.until, tenant: c.tenant || d.tenant}
}

// Compile makes a filter, as ListEventsRequest has it, a condition on the events
// table and the values that are bound in it, whose names begin with "p". The error
// is a *FilterError.
func Compile(filter string) (sql string, args []any, err error) {
	return ofEvents.Compile(filter)
}

// compile turns an AIP-160 filter into a condition. Names are looked up in f and
// values are bound: nothing of the filter's text becomes SQL.
func (f *Fields) compile(filter string) (condition, error) {
	if strings.TrimSpace(filter) == "" {
		return condition{sql: "1"}, nil
	}
	if len(filter) > maxFilter {
		return condition{}, &FilterError{Reason: fmt.Sprintf("has %d bytes, at most %d are taken", len(filter), maxFilter)}
	}
	source := quoteNumbers(filter)
	if source.parentheses > maxNesting {
		return condition{}, &FilterError{Reason: fmt.Sprintf("has more than %d parentheses", maxNesting)}
	}
	var p filtering.Parser
	p.Init(source.text)
	parsed, err := p.Parse()
	if err != nil {
		return condition{}, source.parseError(err, f.example)
	}
	c := compiler{fields: f, source: source, positions: parsed.GetSourceInfo().GetPositions()}
	sql, err := c.expression(parsed.GetExpr())
	if err != nil {
		return condition{}, err
	}
	return condition{sql: sql, args: c.args, since: c.since, until: c.until, tenant: c.tenant}, nil
}

type compiler struct {
	fields    *Fields
	source    source
	positions map[int64]int32
	args      []any
	terms     int
	// What was compared, also under OR and NOT: a hint, not a fact.
	since, until, tenant bool
}

func (c *compiler) errorf(e *expr.Expr, format string, args ...any) error {
	return &FilterError{Position: c.source.position(int(c.positions[e.GetId()])), Reason: fmt.Sprintf(format, args...)}
}

func (c *compiler) expression(e *expr.Expr) (string, error) {
	call := e.GetCallExpr()
	if call == nil {
		one, _, _ := strings.Cut(c.fields.example, " AND ")
		return "", c.errorf(e, "compare a field with a value, such as %s", one)
	}
	args := call.GetArgs()
	switch fn := call.GetFunction(); fn {
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd, filtering.FunctionOr:
		op := " AND "
		if fn == filtering.FunctionOr {
			op = " OR "
		}
		var parts []string
		for _, a := range args {
			sql, err := c.expression(a)
			if err != nil {
				return "", err
			}
			parts = append(parts, sql)
		}
		return "(" + strings.Join(parts, op) + ")", nil
	case filtering.FunctionNot:
		if len(args) != 1 {
			return "", c.errorf(e, "NOT takes one comparison")
		}
		sql, err := c.expression(args[0])
		return "NOT (" + sql + ")", err
	case "=", "!=", "<", "<=", ">", ">=", ":":
		if len(args) != 2 {
			return "", c.errorf(e, "%s takes a field and a value", fn)
		}
		if c.terms++; c.terms > maxTerms {
			return "", c.errorf(e, "there are more than %d comparisons", maxTerms)
		}
		return c.comparison(e, fn, args[0], args[1])
	default:
		return "", c.errorf(e, "there is no function %s here", strconv.Quote(event.ClipText(fn, 40)))
	}
}

func (c *compiler) comparison(e *expr.Expr, op string, left, right *expr.Expr) (string, error) {
	name, key, err := c.name(left)
	if err != nil {
		return "", err
	}
	f, ok := c.fields.byName[name]
	if c.fields.hidden[name] {
		return "", c.errorf(left, "%s", hiddenText(name, c.fields.level))
	}
	if !ok {
		if key != "" {
			name += "." + key
		}
		return "", c.errorf(left, "there is no field %s; the nearest is %s", strconv.Quote(event.ClipText(name, 60)), nearest(name, c.fields.names))
	}
	if f.kind == MapKind {
		return c.mapEntry(e, f, op, key, right)
	}
	if key != "" {
		return "", c.errorf(left, "%s has no parts", name)
	}
	value, err := c.value(right)
	if err != nil {
		return "", err
	}
	if !strings.Contains(f.kind.operators(), " "+op+" ") {
		return "", c.errorf(e, "%s can't be compared by %s; use one of%s", name, op, f.kind.operators())
	}
	switch name {
	case "occurred_at":
		c.since = c.since || op != "<" && op != "<="
		c.until = c.until || op != ">" && op != ">="
	case "tenant":
		c.tenant = true
	}
	sql, err := c.compare(f, name, op, value, right)
	if err == nil && f.known != "" {
		sql = "(" + f.known + " AND " + sql + ")"
	}
	return sql, err
}

// compare compares a field with a value by an operator that its kind has.
func (c *compiler) compare(f field, name, op, value string, right *expr.Expr) (string, error) {
	switch f.kind {
	case TextKind:
		return c.text(f.sql, op, value), nil
	case ListKind:
		if value == "*" {
			return "notEmpty(" + f.sql + ")", nil
		}
		if value == "" { // has doesn't find it in a list of LowCardinality
			return "arrayExists(x -> empty(x), " + f.sql + ")", nil
		}
		if value[0] == '*' || value[len(value)-1] == '*' {
			return "arrayExists(x -> " + c.text("x", "=", value) + ", " + f.sql + ")", nil
		}
		return "has(" + f.sql + ", " + c.bind("String", value) + ")", nil
	case BoolKind:
		if value != "true" && value != "false" {
			return "", c.errorf(right, "%s is true or false", name)
		}
		return f.sql + " " + op + " " + c.bind("Bool", value == "true"), nil
	case NumberKind:
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return "", c.errorf(right, "%s is compared with a whole number from 0", name)
		}
		return f.sql + " " + op + " " + c.bind("UInt64", n), nil
	case DecimalKind:
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return "", c.errorf(right, "%s is compared with a number such as 2.5", name)
		}
		return f.sql + " " + op + " " + c.bind("Float64", n), nil
	case RankKind:
		rank := slices.Index(f.words, value) + 1
		if rank == 0 {
			return "", c.errorf(right, "%s is one of %s", name, strings.Join(f.words, ", "))
		}
		return f.sql + " " + op + " " + c.bind("UInt8", uint8(rank)), nil
	case DurationKind:
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return "", c.errorf(right, "%s is compared with a duration such as 1.5s or 200ms", name)
		}
		return f.sql + " " + op + " " + c.bind("UInt64", uint64(d.Microseconds())), nil
	case TimeKind:
		t, err := time.Parse(time.RFC3339Nano, value)
		if err != nil || t.Unix() < 0 || t.Year() > maxYear {
			return "", c.errorf(right, `%s is compared with a time such as "2026-11-20T09:00:00Z"`, name)
		}
		if op == "<" || op == ">=" { // nothing lies between two microseconds
			t = t.Add(time.Microsecond - 1)
		}
		return f.sql + " " + op + " fromUnixTimestamp64Micro(" + c.bind("Int64", t.UnixMicro()) + ", 'UTC')", nil
	case DigestKind:
		d, err := event.ParseDigest(strings.ToLower(value))
		if err != nil {
			return "", c.errorf(right, "%s is compared with 32 hex digits", name)
		}
		return f.sql + " " + op + " unhex(" + c.bind("String", fmt.Sprintf("%x", d[:])) + ")", nil
	case IDKind:
		id, err := event.ParseID(value)
		if err != nil {
			return "", c.errorf(right, "%s is compared with a UUID", name)
		}
		return f.sql + " " + op + " toUUID(" + c.bind("String", id.String()) + ")", nil
	}
	return "", c.errorf(right, "%s can't be searched", name)
}

// text compares strings. A * at an end of the value stands for any text, as
// AIP-160 has it, and alone for any but the empty one; ":" finds the value
// anywhere in the field, in either case.
func (c *compiler) text(sql, op, value string) string {
	if op == ":" {
		if value == "*" {
			return sql + " != ''"
		}
		return "positionCaseInsensitiveUTF8(" + sql + ", " + c.bind("String", value) + ") > 0"
	}
	if op != "=" && op != "!=" || len(value) < 2 && value != "*" {
		return sql + " " + op + " " + c.bind("String", value)
	}
	middle, prefix := strings.CutSuffix(value, "*")
	middle, suffix := strings.CutPrefix(middle, "*")
	var match string
	switch {
	case value == "*":
		match = sql + " != ''"
	case prefix && suffix:
		match = "position(" + sql + ", " + c.bind("String", middle) + ") > 0"
	case prefix:
		match = "startsWith(" + sql + ", " + c.bind("String", middle) + ")"
	case suffix:
		match = "endsWith(" + sql + ", " + c.bind("String", middle) + ")"
	default:
		return sql + " " + op + " " + c.bind("String", value)
	}
	if op == "!=" {
		return "NOT " + match
	}
	return match
}

func (c *compiler) mapEntry(e *expr.Expr, f field, op, key string, right *expr.Expr) (string, error) {
	value, err := c.value(right)
	if err != nil {
		return "", err
	}
	switch {
	case key == "" && op == ":" && value == "*":
		return "notEmpty(" + f.sql + ")", nil
	case key == "" && op == ":":
		return "mapContains(" + f.sql + ", " + c.bind("String", value) + ")", nil
	case key == "":
		return "", c.errorf(e, "name a label, such as labels.team = \"search\", or ask for a key, such as labels:team")
	case op != "=" && op != "!=" && op != ":":
		return "", c.errorf(e, "a label can't be compared by %s; use = != or :", op)
	}
	return c.text(f.sql+"["+c.bind("String", key)+"]", op, value), nil
}

// name reads field or field.key; a key may have dots of its own.
func (c *compiler) name(e *expr.Expr) (name, key string, err error) {
	var keys []string // the last one first
	for at := e; ; {
		if id := at.GetIdentExpr(); id != nil {
			slices.Reverse(keys)
			return id.GetName(), strings.Join(keys, "."), nil
		}
		s := at.GetSelectExpr()
		if s == nil {
			return "", "", c.errorf(at, "begin a comparison with a field's name")
		}
		keys = append(keys, s.GetField())
		at = s.GetOperand()
	}
}

// value reads a constant; a bare word is a text, and so is a number as it was
// written: see quoteNumbers.
func (c *compiler) value(e *expr.Expr) (text string, err error) {
	if k, ok := e.GetConstExpr().GetConstantKind().(*expr.Constant_StringValue); ok {
		return k.StringValue, nil
	}
	if call := e.GetCallExpr(); call != nil && len(call.GetArgs()) == 1 &&
		(call.GetFunction() == filtering.FunctionTimestamp || call.GetFunction() == filtering.FunctionDuration) {
		return c.value(call.GetArgs()[0])
	}
	name, key, err := c.name(e)
	if err != nil {
		return "", c.errorf(e, "end a comparison with a value; put texts in double quotes")
	}
	if key != "" {
		name += "." + key
	}
	return name, nil
}

func (c *compiler) bind(typ string, value any) string {
	name := "p" + strconv.Itoa(len(c.args))
	c.args = append(c.args, store.Named(name, value))
	return "{" + name + ":" + typ + "}"
}
