package dashboards_test

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// scene is what a dashboard is looked at with: variables and their values, nil for All,
// and the time range.
type scene struct {
	values   map[string][]string
	from, to time.Time
	interval time.Duration
}

// expand makes a statement what reaches ClickHouse, as version 4.20.0 of the data source
// and Grafana 12 do it: first $__conditionalAll (applyConditionalAll in
// src/data/CHDatasource.ts), then variables (Grafana's formats), both in the browser; then
// the macros of pkg/macros, on the server.
func (s *scene) expand(t testing.TB, sql string) string {
	t.Helper()
	sql = s.conditionalAll(t, sql)
	for _, name := range regexp.MustCompile(`\$__\w+`).FindAllString(sql, -1) {
		if macro.FindString(name+"(x)") == "" {
			t.Fatalf("%s is no macro of the data source", name)
		}
	}
	return s.macros(t, s.variables(t, sql))
}

// conditionalAll takes conditions away whose variable is All or empty. The arguments are
// found by counting brackets, also those in texts, and the phrase goes in by JavaScript's
// String.replace, which reads $$, $&, $` and $' in it.
func (s *scene) conditionalAll(t testing.TB, sql string) string {
	t.Helper()
	const macro = "$__conditionalAll("
	for {
		start := strings.LastIndex(sql, macro)
		if start < 0 {
			return sql
		}
		args := macroArgs(sql[start+len(macro)-1:])
		if len(args) != 2 {
			t.Fatalf("$__conditionalAll has %d arguments: %q", len(args), args)
		}
		name := regexp.MustCompile(`\$\{?(\w+)`).FindStringSubmatch(args[1])
		if name == nil {
			t.Fatalf("%q is no variable", args[1])
		}
		values, known := s.values[name[1]]
		if !known {
			t.Fatalf("$__conditionalAll names %s, which the dashboard does not have: the data source would fail", name[1])
		}
		phrase := args[0]
		if value := strings.Join(values, ","); value == "" {
			phrase = "1=1"
		}
		whole := macro + args[0] + "," + args[1] + ")"
		first := strings.Index(sql, whole) // String.replace takes the first
		before, after := sql[:first], sql[first+len(whole):]
		phrase = regexp.MustCompile("\\$[$&`']").ReplaceAllStringFunc(phrase, func(p string) string {
			return map[string]string{"$$": "$", "$&": whole, "$`": before, "$'": after}[p]
		})
		sql = before + phrase + after
	}
}

// macroArgs are the arguments of a macro, from its bracket on; see getMacroArgs.
func macroArgs(text string) (args []string) {
	depth, start := 0, 1
	for i, c := range text {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		}
		if c == ',' && depth == 1 || depth == 0 {
			args = append(args, text[start:i])
			start = i + 1
		}
		if depth == 0 {
			return args
		}
	}
	return nil
}

var variable = regexp.MustCompile(`\$(\w+)|\$\{(\w+)(?:\.([^:^}]+))?(?::([^}]+))?\}`)

// variables puts values in; what is no variable stays as it is.
func (s *scene) variables(t testing.TB, sql string) string {
	return variable.ReplaceAllStringFunc(sql, func(match string) string {
		parts := variable.FindStringSubmatch(match)
		name, format := parts[1]+parts[2], parts[4]
		values, known := s.values[name]
		if !known {
			return match
		}
		switch format {
		case "regex":
			escaped := make([]string, len(values))
			for i, v := range values {
				escaped[i] = regexp.MustCompile(`[\\^$*+?.()|[\]{}/]`).ReplaceAllString(v, `\$0`)
			}
			if len(values) == 1 {
				return escaped[0]
			}
			return "(" + strings.Join(escaped, "|") + ")"
		case "percentencode":
			if len(values) != 1 {
				t.Fatalf("%s is for one value that was typed", match)
			}
			return percentEncoded(values[0])
		}
		t.Fatalf("%s: values get into statements as :regex or :percentencode alone, which stand whatever is in them", match)
		return ""
	})
}

// percentEncoded is encodeURIComponent, and !'()* as well.
func percentEncoded(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

var macro = regexp.MustCompile(`\$__(timeFilter|timeInterval|fromTime|toTime|interval_s)(\((\w+)\))?`)

func (s *scene) macros(t testing.TB, sql string) string {
	from, to := fmt.Sprintf("toDateTime(%d)", s.from.Unix()), fmt.Sprintf("toDateTime(%d)", s.to.Unix())
	return macro.ReplaceAllStringFunc(sql, func(match string) string {
		parts := macro.FindStringSubmatch(match)
		column := parts[3]
		if withColumn := parts[1] == "timeFilter" || parts[1] == "timeInterval"; withColumn != (column != "") {
			t.Fatalf("%s: the data source wants its arguments otherwise", match)
		}
		seconds := max(1, int(s.interval.Seconds()))
		switch parts[1] {
		case "timeFilter":
			return column + " >= " + from + " AND " + column + " <= " + to
		case "timeInterval":
			return fmt.Sprintf("toStartOfInterval(toDateTime(%s), INTERVAL %d second)", column, seconds)
		case "fromTime":
			return from
		case "toTime":
			return to
		}
		return fmt.Sprint(seconds)
	})
}

func TestStatementsAreExpandedAsTheDataSourceDoes(t *testing.T) {
	s := scene{values: map[string][]string{"server": {"a.b", `o'\c`}, "tool": nil, "one": {`x y&'\`}},
		from: time.Unix(100, 0), to: time.Unix(200, 0), interval: 90 * time.Second}
	for in, want := range map[string]string{
		"$__timeFilter(at)":                    "at >= toDateTime(100) AND at <= toDateTime(200)",
		"$__fromTime - 1":                      "toDateTime(100) - 1",
		"$__interval_s":                        "90",
		"SELECT $__timeInterval(hour) AS time": "SELECT toStartOfInterval(toDateTime(hour), INTERVAL 90 second) AS time",
		"$__conditionalAll(f(a, b) IN (${tool:regex}), $tool) AND b": "1=1 AND b",
		"$__conditionalAll(match(a, '${server:regex}'), $server)":    `match(a, '(a\.b|o'\\c)')`,
		"$__conditionalAll(a = '$$', $server)":                       "a = '$'",
		"f('${one:percentencode}')":                                  "f('x%20y%26%27%5C')",
		"$re$":                                                       "$re$",
	} {
		if got := s.expand(t, in); got != want {
			t.Errorf("%s\n gives %s\n  want %s", in, got, want)
		}
	}
}
