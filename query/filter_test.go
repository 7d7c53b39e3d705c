package query

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// bound is a condition's values, in the order of their names.
func bound(c condition) string {
	var values []string
	for _, a := range c.args {
		values = append(values, fmt.Sprintf("%#v", a.(driver.NamedValue).Value))
	}
	return strings.Join(values, " ")
}

func TestAFilterBecomesSQLWithItsValuesBound(t *testing.T) {
	for _, c := range []struct{ filter, sql, args string }{
		{"", "1", ""},
		{" \n\t", "1", ""},
		{`server = "files"`, "`server` = {p0:String}", `"files"`},
		{`server = files`, "`server` = {p0:String}", `"files"`},
		{`server = 'files'`, "`server` = {p0:String}", `"files"`},
		{`server = ""`, "`server` = {p0:String}", `""`},
		{`server = "'; DROP TABLE events --"`, "`server` = {p0:String}", `"'; DROP TABLE events --"`},
		{`server = "a\"b\\c"`, "`server` = {p0:String}", `"a\"b\\c"`},
		{`server >= "f" AND server < "g"`, "(`server` >= {p0:String} AND `server` < {p1:String})", `"f" "g"`},
		{`server = "files*"`, "startsWith(`server`, {p0:String})", `"files"`},
		{`server = files*`, "startsWith(`server`, {p0:String})", `"files"`},
		{`server = "*files"`, "endsWith(`server`, {p0:String})", `"files"`},
		{`server != "*files*"`, "NOT position(`server`, {p0:String}) > 0", `"files"`},
		{`server = *`, "`server` != ''", ""},
		{`server:*`, "`server` != ''", ""},
		{`server:"file"`, "positionCaseInsensitiveUTF8(`server`, {p0:String}) > 0", `"file"`},
		// Numbers in texts stay as they were written.
		{`server_version = 1.10`, "`server_version` = {p0:String}", `"1.10"`},
		{`request_id = 007`, "`request_id` = {p0:String}", `"007"`},
		{`policy_version = 2026-11-20`, "`policy_version` = {p0:String}", `"2026-11-20"`},
		{`server = "a = 1.10"`, "`server` = {p0:String}", `"a = 1.10"`},
		{`http_status >= 500`, "`http_status` >= {p0:UInt64}", "0x1f4"},
		{`request_bytes = 18446744073709551615`, "`request_bytes` = {p0:UInt64}", "0xffffffffffffffff"},
		{`duration > 1.5s`, "`duration_us` > {p0:UInt64}", "0x16e360"},
		{`duration <= "200ms"`, "`duration_us` <= {p0:UInt64}", "0x30d40"},
		{`occurred_at > "2026-11-20T09:00:00Z"`, "`occurred_at` > fromUnixTimestamp64Micro({p0:Int64}, 'UTC')", "1795165200000000"},
		{`occurred_at>2026-11-20T09:00:00Z`, "`occurred_at` > fromUnixTimestamp64Micro({p0:Int64}, 'UTC')", "1795165200000000"},
		{`received_at <= timestamp("2026-11-20T11:00:00+02:00")`, "`received_at` <= fromUnixTimestamp64Micro({p0:Int64}, 'UTC')", "1795165200000000"},
		{`truncated = true`, "`truncated` = {p0:Bool}", "true"},
		{`hint_read_only != false`, "`hint_read_only` != {p0:Bool}", "false"},
		{`signals:"secret:github-pat"`, "has(`signals`, {p0:String})", `"secret:github-pat"`},
		{`signals:"secret:*"`, "arrayExists(x -> startsWith(x, {p0:String}), `signals`)", `"secret:"`},
		{`signals:""`, "arrayExists(x -> empty(x), `signals`)", ""},
		{`removed:*`, "notEmpty(`removed.class`)", ""},
		{`result_marks:email`, "has(`result_marks.class`, {p0:String})", `"email"`},
		{`arguments_digest = "00FF00000000000000000000000000AA"`, "`arguments_digest` = unhex({p0:String})", `"00ff00000000000000000000000000aa"`},
		{`event_id = "01890A5D-AC96-774B-BCCE-B302099A8057"`, "`event_id` = toUUID({p0:String})", `"01890a5d-ac96-774b-bcce-b302099a8057"`},
		{`expires_month = "2027-12"`, "formatDateTime(`expires_month`, '%Y-%m') = {p0:String}", `"2027-12"`},
		{`labels.team = "search"`, "`labels`[{p0:String}] = {p1:String}", `"team" "search"`},
		{`labels."my-key" : x`, "positionCaseInsensitiveUTF8(`labels`[{p0:String}], {p1:String}) > 0", `"my-key" "x"`},
		{`labels.a.b = 1`, "`labels`[{p0:String}] = {p1:String}", `"a.b" "1"`},
		{`labels:team`, "mapContains(`labels`, {p0:String})", `"team"`},
		{`labels:*`, "notEmpty(`labels`)", ""},
		{`NOT server = a`, "NOT (`server` = {p0:String})", `"a"`},
		{`-server = a`, "NOT (`server` = {p0:String})", `"a"`},
		// OR binds tighter than AND (AIP-160).
		{`server = a OR server = b AND target = c`, "((`server` = {p0:String} OR `server` = {p1:String}) AND `target` = {p2:String})", `"a" "b" "c"`},
		{`server = a target = b`, "(`server` = {p0:String} AND `target` = {p1:String})", `"a" "b"`},
		{`(server = a AND target = b) OR NOT (kind = auth)`, "((`server` = {p0:String} AND `target` = {p1:String}) OR NOT (`kind` = {p2:String}))", `"a" "b" "auth"`},
		{`server = "((((((((((((((((((((((((((((((((((("`, "`server` = {p0:String}", `"((((((((((((((((((((((((((((((((((("`},
	} {
		got, err := ofEvents.compile(c.filter)
		if err != nil || got.sql != c.sql || bound(got) != c.args {
			t.Errorf("%s\n got %s [%s], %v\nwant %s [%s]", c.filter, got.sql, bound(got), err, c.sql, c.args)
		}
	}
}

func TestABadFilterSaysWhereAndWhat(t *testing.T) {
	for _, c := range []struct {
		filter   string
		position int
		text     string
	}{
		{`srver = "a"`, 1, `there is no field "srver"; the nearest is server`},
		{"\n  server = a AND tragte = b", 19, `there is no field "tragte"; the nearest is target`},
		{`duration > 1.5s AND outcom = denied`, 21, `there is no field "outcom"; the nearest is outcome`},
		{`Principal = "a"`, 1, `the nearest is principal`},
		{`hints.read_only = true`, 1, `there is no field "hints.read_only"; the nearest is hint_read_only`},
		{`argument_marks.hash = 1`, 1, `argument_marks has no parts`},
		{`server`, 1, `compare a field with a value, such as server = "files"`},
		{`"files"`, 1, `compare a field with a value`},
		{`server = "a" and target = "b"`, 14, `compare a field with a value`},
		{`"a" = server`, 1, `begin a comparison with a field's name`},
		{`now() = 1`, 1, `begin a comparison with a field's name`},
		{`url("http://x")`, 1, `there is no function "url" here`},
		{`server = (a OR b)`, 11, `end a comparison with a value; put texts in double quotes`},
		{`server = url("x")`, 10, `end a comparison with a value`},
		{`server = "a`, 10, `unterminated string`},
		{`server =`, 9, `it ends too early`},
		{`(server = a`, 12, ``},
		{`ünknown = a`, 1, `there is no field "ünknown"`},
		{`server = "ü" AND AND`, 18, `unexpected token AND`},
		{`server = "日本🜁" AND tragte = b`, 20, `there is no field "tragte"`},
		{"server = \"\u00e9\"\nAND kind = \"\u00e9\" AND duration > many", 44, `duration is compared with a duration`},
		{"\u00a0\u2003server = 1.5 AND tragte = b", 20, `there is no field "tragte"`},
		{`server = a = b`, 12, `unexpected token =`},
		{"server = \"\xff\"", 10, `invalid UTF-8`},
		{`http_status = ok`, 15, `http_status is compared with a whole number from 0`},
		{`http_status = 200.5`, 15, `http_status is compared with a whole number from 0`},
		{`http_status > -1`, 15, `http_status is compared with a whole number from 0`},
		{`request_bytes = 18446744073709551616`, 17, `request_bytes is compared with a whole number from 0`},
		{`http_status : 200`, 1, `http_status can't be compared by :; use one of = != < <= > >=`},
		{`duration > 5`, 12, `duration is compared with a duration such as 1.5s or 200ms`},
		{`duration > -1s`, 12, `duration is compared with a duration`},
		{`occurred_at > yesterday`, 15, `occurred_at is compared with a time such as "2026-11-20T09:00:00Z"`},
		{`occurred_at > "1969-12-31T00:00:00Z"`, 15, `occurred_at is compared with a time`},
		{`occurred_at > "9999-01-01T00:00:00Z"`, 15, `occurred_at is compared with a time`},
		{`truncated = yes`, 13, `truncated is true or false`},
		{`truncated > true`, 1, `truncated can't be compared by >; use one of = !=`},
		{`signals = "x"`, 1, `signals can't be compared by =; use one of :`},
		{`arguments_digest = "abc"`, 20, `arguments_digest is compared with 32 hex digits`},
		{`event_id = "x"`, 12, `event_id is compared with a UUID`},
		{`event_id > "01890a5d-ac96-774b-bcce-b302099a8057"`, 1, `event_id can't be compared by >; use one of = !=`},
		{`server.x = 1`, 1, `server has no parts`},
		{`labels = "x"`, 1, `name a label, such as labels.team = "search"`},
		{`labels.team > "x"`, 1, `a label can't be compared by >; use = != or :`},
		{strings.Repeat("(", 33) + "server = a" + strings.Repeat(")", 33), 0, `has more than 32 parentheses`},
		{strings.Repeat("server = a OR ", 200) + "server = a", 2801, `there are more than 200 comparisons`},
		{strings.Repeat("x", maxFilter+1), 0, `has 16385 bytes, at most 16384 are taken`},
	} {
		got, err := ofEvents.compile(c.filter)
		var f *FilterError
		if !errors.As(err, &f) || f.Position != c.position || !strings.Contains(err.Error(), c.text) || got.sql != "" {
			t.Errorf("%.60q: %v, want %q at %d", c.filter, err, c.text, c.position)
		}
	}
}

// fragment is all that a condition may be made of, however it is nested.
var fragment = regexp.MustCompile("^(?:[()]| AND | OR |NOT | = | != | < | <= | > | >= |, |1|0|''" +
	`|\{p[0-9]+:(?:String|UInt64|Int64|Bool)\}|positionCaseInsensitiveUTF8|position|startsWith|endsWith|has|arrayExists|x -> empty\(x\)|notEmpty|mapContains` +
	`|fromUnixTimestamp64Micro|'UTC'|unhex|toUUID|formatDateTime|'%Y-%m'|\[|\]` + "|`[a-z_.]+`)*$")

// Whatever a filter says, reading it ends, and nothing of its text becomes SQL:
// that is made of known fragments and columns alone.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{`server = "files" AND duration > 1.5s`, `labels.team:"x" OR NOT signals:*`, `-a = 1 (b : 2)`, "server = \"\\\"'`\xff", `f(a, b).c = 0x1`,
		`occurred_at >= "2026-11-20T09:00:00Z"`, `((((((server="a*"))))))`, "a\n=\r\t'x' b=.5 c=-1.5.2:3", `event_id = "01890a5d-ac96-774b-bcce-b302099a8057"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, filter string) {
		c, err := ofEvents.compile(filter)
		if err != nil {
			var e *FilterError
			if !errors.As(err, &e) || e.Position < 0 || e.Position > utf8.RuneCountInString(filter)+1 || len(err.Error()) > 1000 {
				t.Fatalf("error %v of %q", err, filter)
			}
			return
		}
		if !fragment.MatchString(c.sql) {
			t.Fatalf("%q became %s", filter, c.sql)
		}
		if len(c.sql) > 200*(len(filter)+10) || len(c.args) > 2*maxTerms {
			t.Fatalf("%d bytes became %d bytes with %d values", len(filter), len(c.sql), len(c.args))
		}
		for i, a := range c.args {
			name := a.(driver.NamedValue).Name
			if name != fmt.Sprint("p", i) || strings.Count(c.sql, "{"+name+":") != 1 {
				t.Fatalf("value %d of %s is called %s", i, c.sql, name)
			}
		}
	})
}
