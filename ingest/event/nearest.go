package event

import "slices"

// Nearest is the name that is most like a misspelt one: the one with the longest
// common letters at both ends, and of those the closest in length; "" when there are
// no names.
func Nearest(name string, names []string) string {
	if len(names) == 0 {
		return ""
	}
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
