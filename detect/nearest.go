package detect

import (
	"regexp"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// undeclared is how CEL speaks of a name that it does not know.
var undeclared = regexp.MustCompile(`undeclared reference to '([^']+)'`)

// hint names the field that is most like the one that was misspelt.
func hint(message string, names []string) string {
	m := undeclared.FindStringSubmatch(message)
	if m == nil {
		return ""
	}
	return "; the nearest field is " + event.Nearest(m[1], names)
}
