package query

import (
	"maps"
	"slices"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// kind is how a field is compared.
type kind int

const (
	textKind kind = iota
	listKind
	boolKind
	numberKind
	durationKind
	timeKind
	digestKind
	idKind
	mapKind
)

// operators of a kind, each between spaces.
func (k kind) operators() string {
	switch k {
	case textKind:
		return " = != < <= > >= : "
	case listKind:
		return " : "
	case boolKind, digestKind, idKind: // the engine does not order ids by their time
		return " = != "
	case mapKind:
		return " = != : "
	}
	return " = != < <= > >= "
}

// field is a name of the API and the column that it stands for.
type field struct {
	sql  string
	kind kind
}

// fields are all fields that a filter may name: those of the Event message.
// Hints go by their column's name, and removed, argument_marks and result_marks
// by the class of what was removed or marked.
var fields = func() map[string]field {
	m := map[string]field{}
	for _, c := range event.Columns {
		name, f := c.Name, field{sql: "`" + c.Name + "`"}
		switch {
		case strings.HasPrefix(c.Type, "Map"):
			f.kind = mapKind
		case strings.HasPrefix(c.Type, "Array"):
			parent, part, nested := strings.Cut(name, ".")
			if nested && part != "class" {
				continue
			}
			name, f.kind = parent, listKind
		case strings.HasPrefix(c.Type, "UInt"):
			f.kind = numberKind
		case strings.HasPrefix(c.Type, "DateTime"):
			f.kind = timeKind
		case c.Type == "Bool":
			f.kind = boolKind
		case c.Type == "UUID":
			f.kind = idKind
		case strings.HasPrefix(c.Type, "FixedString"):
			f.kind = digestKind
		case c.Type == "Date":
			f.sql = "formatDateTime(" + f.sql + ", '%Y-%m')"
		}
		if name == "duration_us" {
			name, f.kind = "duration", durationKind
		}
		m[name] = f
	}
	return m
}()

// fieldNames are the names of fields, sorted.
var fieldNames = slices.Sorted(maps.Keys(fields))

// nearest is the name that is most like a misspelt one.
func nearest(name string, names []string) string {
	name = strings.ToLower(event.ClipText(name, 64))
	return slices.MinFunc(names, func(a, b string) int { return distance(name, a) - distance(name, b) })
}

// distance is the Levenshtein distance of two short texts.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
