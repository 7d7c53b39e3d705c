package detect

import (
	"regexp"
	"slices"
)

// undeclared is how CEL speaks of a name that it does not know.
var undeclared = regexp.MustCompile(`undeclared reference to '([^']+)'`)

// hint names the field that is most like the one that was misspelt.
func hint(message string, names []string) string {
	m := undeclared.FindStringSubmatch(message)
	if m == nil {
		return ""
	}
	return "; the nearest field is " + Nearest(m[1], names)
}

// Nearest is the name that is most like a misspelt one: the one with the
// longest common letters at both ends, and of those the closest in length.
func Nearest(name string, names []string) string {
	score := func(n string) int {
		head := 0
		for head < len(n) && head < len(name) && n[head] == name[head] {
			head++
		}
		tail := 0
		for tail < len(n)-head && tail < len(name)-head && n[len(n)-1-tail] == name[len(name)-1-tail] {
			tail++
		}
		return 4*(head+tail) - max(len(n)-len(name), len(name)-len(n))
	}
	return slices.MaxFunc(slices.Sorted(slices.Values(names)), func(a, b string) int { return score(a) - score(b) })
}
