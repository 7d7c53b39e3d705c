package query

import (
	"maps"
	"slices"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Kind is how a field is compared.
type Kind int

// The kinds of fields.
const (
	TextKind     Kind = iota // a String
	ListKind                 // an Array(String)
	BoolKind                 // a Bool
	NumberKind               // an unsigned number
	DecimalKind              // a Float64
	DurationKind             // microseconds in an unsigned number
	TimeKind                 // a DateTime64
	DigestKind               // a FixedString(16)
	IDKind                   // a UUID
	MapKind                  // a Map(String, String)
	RankKind                 // a number from 1, said as one of Words
)

// operators of a kind, each between spaces.
func (k Kind) operators() string {
	switch k {
	case TextKind:
		return " = != < <= > >= : "
	case ListKind:
		return " : "
	case BoolKind, DigestKind, IDKind: // the engine does not order ids by their time
		return " = != "
	case MapKind:
		return " = != : "
	}
	return " = != < <= > >= "
}

// field is a name of the API and the column that it stands for.
type field struct {
	sql   string
	kind  Kind
	known string   // see Field
	words []string // see Field
}

// Field is a name that a filter may compare. Its SQL is static text.
type Field struct {
	Name string
	SQL  string // an expression of the type that Kind says
	Kind Kind
	// Known, when it is not empty, is a condition that is true when the field has a
	// value: a comparison with one that has none is false.
	Known string
	Words []string // of a RankKind: what its numbers are called, from 1
}

// Fields are what a filter over one table may name.
type Fields struct {
	byName  map[string]field
	names   []string // sorted
	example string
	// hidden are names that there are and that may not be compared, because level does
	// not show what they stand for; they are not in byName.
	hidden map[string]bool
	level  auth.Content
}

// Hiding are the fields without some of them, which a content level does not show.
func (f *Fields) Hiding(level auth.Content, names ...string) *Fields {
	if len(names) == 0 {
		return f
	}
	out := &Fields{byName: maps.Clone(f.byName), example: f.example, hidden: map[string]bool{}, level: level}
	for _, name := range names {
		delete(out.byName, name)
		out.hidden[name] = true
	}
	out.names = slices.Sorted(maps.Keys(out.byName))
	return out
}

// NewFields makes a table's fields; example is a filter of two comparisons, for
// messages.
func NewFields(example string, list ...Field) *Fields {
	f := &Fields{byName: map[string]field{}, example: example}
	for _, x := range list {
		f.byName[x.Name] = field{sql: x.SQL, kind: x.Kind, known: x.Known, words: x.Words}
	}
	f.names = slices.Sorted(maps.Keys(f.byName))
	return f
}

// Compile makes an AIP-160 filter (https://google.aip.dev/160) a condition and the
// values that are bound in it, whose names begin with "p". The error is a
// *FilterError.
func (f *Fields) Compile(filter string) (sql string, args []any, err error) {
	c, err := f.compile(filter)
	return c.sql, c.args, err
}

// ofEvents are the fields of the events table.
var ofEvents = &Fields{byName: fields, names: fieldNames, example: `server = "files" AND outcome != "success"`}

// fields are all fields that a filter over events may name: those of the Event message.
// Hints go by their column's name, and removed, argument_marks and result_marks
// by the class of what was removed or marked.
var fields = func() map[string]field {
	m := map[string]field{}
	for _, c := range event.Columns {
		name, f := c.Name, field{sql: "`" + c.Name + "`"}
		switch {
		case strings.HasPrefix(c.Type, "Map"):
			f.kind = MapKind
		case strings.HasPrefix(c.Type, "Array"):
			parent, part, nested := strings.Cut(name, ".")
			if nested && part != "class" {
				continue
			}
			name, f.kind = parent, ListKind
		case strings.HasPrefix(c.Type, "UInt"):
			f.kind = NumberKind
		case strings.HasPrefix(c.Type, "DateTime"):
			f.kind = TimeKind
		case c.Type == "Bool":
			f.kind = BoolKind
		case c.Type == "UUID":
			f.kind = IDKind
		case strings.HasPrefix(c.Type, "FixedString"):
			f.kind = DigestKind
		case c.Type == "Date":
			f.sql = "formatDateTime(" + f.sql + ", '%Y-%m')"
		}
		if name == "duration_us" {
			name, f.kind = "duration", DurationKind
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
