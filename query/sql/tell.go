package sql

import (
	"regexp"
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

// tell is what a client reads of an error: nobody is told of the engine's paths.
func tell(_ int, text string) string {
	if i := strings.LastIndex(text, "Code: "); i > 0 && nested.MatchString(text[i:]) {
		text = text[i:]
	}
	return place.ReplaceAllString(partOf.ReplaceAllString(text, ""), "$1…")
}
