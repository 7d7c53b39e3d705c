package sql

import (
	"regexp"
	"strconv"
	"strings"
)

// Parts of ClickHouse's texts that are not for clients.
var (
	// partOf tells where a part lies, and how large it is.
	partOf = regexp.MustCompile(`\s*\(while reading (from part|column)[^)]*(\([^)]*\)[^)]*)*\)`)
	// nested is the beginning of a text that has another one in front.
	nested = regexp.MustCompile(`Code: \d+\. DB::Exception: `)
	// place is an absolute path.
	place = regexp.MustCompile(`(^|[\s'"(=])/[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)+/?`)
)

// counted are the codes whose text says how much was read of the tables, whoever's rows it
// was, and what is said instead to those who don't see every tenant.
var counted = map[int]string{
	158: "Limit for rows to read exceeded: narrow the statement by time",
	159: "Timeout exceeded: narrow the statement by time",
	160: "The statement would take too long: narrow it by time",
	241: "Memory limit exceeded: narrow the statement, or group by less",
	307: "Limit for bytes to read exceeded: narrow the statement by time",
}

// name is that of an error, which its text ends with: (TIMEOUT_EXCEEDED).
var name = regexp.MustCompile(`\(([A-Z][A-Z0-9_]+)\)[^()]*$`)

// tell is what a client reads of an error. Nobody is told of the engine's paths. Who sees
// some tenants alone is not told on which value a function failed, or how much was read:
// that no other tenant's value is evaluated is the engine's plan, and this stands behind
// it.
func tell(code int, text string, narrowed bool) string {
	if i := strings.LastIndex(text, "Code: "); i > 0 && nested.MatchString(text[i:]) {
		text = text[i:]
	}
	text = place.ReplaceAllString(partOf.ReplaceAllString(text, ""), "$1…")
	if !narrowed {
		return text
	}
	instead := counted[code]
	if instead == "" && strings.Contains(text, "hile executing") {
		instead = "a function failed on a value; use its …OrNull or …OrZero kind"
	}
	if instead == "" {
		return text
	}
	called := "ERROR"
	if m := name.FindStringSubmatch(text); m != nil {
		called = m[1]
	}
	return "Code: " + strconv.Itoa(code) + ". DB::Exception: " + instead + ". (" + called + ")"
}
