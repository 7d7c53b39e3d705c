package embedded

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// cutFormat cuts a trailing FORMAT clause: the engine takes an insert's format
// apart from its statement. ok is false when sql does not end in one. head has
// no trailing space; nothing is cut inside quotes, since a quoted end cannot
// look like a clause.
func cutFormat(sql string) (head, format string, ok bool) {
	rest := strings.TrimRight(sql, " \t\r\n\f\v;")
	start := len(rest)
	for start > 0 && isWord(rest[start-1]) {
		start--
	}
	format = rest[start:]
	rest = strings.TrimRight(rest[:start], " \t\r\n\f\v")
	const clause = "FORMAT"
	if format == "" || len(rest) == start || len(rest) < len(clause) {
		return sql, "", false
	}
	head = rest[:len(rest)-len(clause)]
	if !strings.EqualFold(rest[len(head):], clause) {
		return sql, "", false
	}
	trimmed := strings.TrimRight(head, " \t\r\n\f\v")
	// "(a)FORMAT Native" is a clause, "reFORMAT Native" and "`FORMAT Native" are not.
	if trimmed == "" || (len(trimmed) == len(head) && !strings.HasSuffix(head, ")")) {
		return sql, "", false
	}
	return trimmed, format, true
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// keyword is the first word of a statement, in upper case, after spaces,
// comments and opening parentheses; "" when there is none.
func keyword(sql string) string {
	for {
		sql = strings.TrimLeft(sql, " \t\r\n\f\v(;")
		var end string
		switch {
		case strings.HasPrefix(sql, "--"), strings.HasPrefix(sql, "#"):
			end = "\n"
		case strings.HasPrefix(sql, "/*"):
			end = "*/"
		default:
			n := 0
			for n < len(sql) && isWord(sql[n]) {
				n++
			}
			return strings.ToUpper(sql[:n])
		}
		_, after, found := strings.Cut(sql, end)
		if !found {
			return ""
		}
		sql = after
	}
}

// clientSide matches the clauses that the engine, being its own client here,
// would carry out on this machine's files without asking its access control.
var clientSide = regexp.MustCompile(`(?i)\b(IN|OUT)FILE\b`)

// plainWords are all that may follow a SET: a setting's name.
var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// setStatement is the SET that takes a connection from the settings of its
// last statement to those that the next one wants: what changed is set, and
// what is no longer wanted goes back to base, or to the engine's default.
// It is "" when nothing changes.
func setStatement(inForce, want, base map[string]string) string {
	changes := make(map[string]string)
	for name, value := range want {
		if now, ok := inForce[name]; !ok || now != value {
			changes[name] = quote(value)
		}
	}
	for name := range inForce {
		if _, ok := want[name]; ok {
			continue
		}
		changes[name] = "DEFAULT"
		if value, ok := base[name]; ok {
			changes[name] = quote(value)
		}
	}
	if len(changes) == 0 {
		return ""
	}
	clauses := make([]string, 0, len(changes))
	for name, value := range changes {
		clauses = append(clauses, name+" = "+value)
	}
	slices.Sort(clauses)
	return "SET " + strings.Join(clauses, ", ")
}

var (
	stringEscaper     = strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	identifierEscaper = strings.NewReplacer(`\`, `\\`, "`", "\\`")
)

// quote makes a string literal; ClickHouse takes every other byte as it is.
func quote(s string) string { return "'" + stringEscaper.Replace(s) + "'" }

// quoteIdentifier makes a quoted identifier.
func quoteIdentifier(s string) string { return "`" + identifierEscaper.Replace(s) + "`" }

// A connection's statements are found among the running ones by a setting that
// does nothing else here: there is no query cache. A comment in the text would
// not do: of a statement with parameters the engine lists the text that it wrote
// itself after putting the values in.
const markSetting = "query_cache_tag"

// markStatement gives a connection its mark.
func markStatement(mark string) string { return "SET " + markSetting + " = " + quote(mark) }

// killStatement stops the statement of the connection with a mark.
func killStatement(mark string) string {
	return fmt.Sprintf("KILL QUERY WHERE Settings['%s'] = %s ASYNC", markSetting, quote(mark))
}
