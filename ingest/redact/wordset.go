package redact

// wordSet finds every occurrence of the words of a set, without regard to ASCII
// case. A filter over three bytes at a time, small enough for the first-level
// cache and free of dependent loads, says where a word may start; a trie says
// whether one does. (An Aho-Corasick automaton over the same words follows one
// dependent load per byte through a table of a megabyte: measured, a third of
// the speed.)
type wordSet struct {
	fold   [256]uint8 // 5 bits per byte; 0 for bytes in no word
	filter [1 << 15 / 64]uint64
	class  [256]uint8 // exact class per byte, for the trie
	next   []uint16   // state<<shift | class -> state, 0 for none
	shift  uint
	ends   [][]uint16 // by state: the words that end there
}

// hit is a word of the set that stands at start..end.
type hit struct {
	word       uint16
	start, end int32
}

// newWordSet prepares a set. Words are lower case and not empty; they may
// repeat, each has its own index. The sum of their lengths stays below 60,000.
func newWordSet(words []string) *wordSet {
	a := &wordSet{}
	classes := 1
	for _, w := range words {
		for i := 0; i < len(w); i++ {
			if a.class[w[i]] == 0 {
				a.class[w[i]] = uint8(classes)
				classes++
			}
		}
	}
	for c := 'a'; c <= 'z'; c++ {
		a.class[c-'a'+'A'] = a.class[c]
	}
	for b, c := range a.class {
		if c != 0 {
			a.fold[b] = c%31 + 1
		}
	}
	for 1<<a.shift < classes {
		a.shift++
	}
	width := 1 << a.shift
	a.next = make([]uint16, width)
	a.ends = [][]uint16{nil}
	for id, w := range words {
		s := 0
		for i := 0; i < len(w); i++ {
			at := s*width + int(a.class[w[i]])
			if a.next[at] == 0 {
				if len(a.ends) == 1<<16 {
					panic("redact: too many words")
				}
				a.next[at] = uint16(len(a.ends))
				a.next = append(a.next, make([]uint16, width)...)
				a.ends = append(a.ends, nil)
			}
			s = int(a.next[at])
		}
		a.ends[s] = append(a.ends[s], uint16(id))
		a.admit(w)
	}
	return a
}

// admit lets the first three bytes of w through the filter; bytes beyond the end
// of a short word may be any.
func (a *wordSet) admit(w string) {
	keys := []int{0}
	for i := range 3 {
		var grown []int
		for _, k := range keys {
			if i < len(w) {
				grown = append(grown, k<<5|int(a.fold[w[i]]))
				continue
			}
			for f := range 32 {
				grown = append(grown, k<<5|f)
			}
		}
		keys = grown
	}
	for _, k := range keys {
		a.filter[k>>6] |= 1 << (k & 63)
	}
}

// find appends the occurrences in text, in order of their start.
func (a *wordSet) find(text []byte, hits []hit) []hit {
	h := uint(0)
	for i, b := range text {
		h = (h<<5 | uint(a.fold[b])) & 0x7fff
		if a.filter[h>>6]>>(h&63)&1 != 0 && i >= 2 {
			hits = a.at(text, i-2, hits)
		}
	}
	// Short words may start in the last two bytes.
	for i := max(0, len(text)-2); i < len(text); i++ {
		hits = a.at(text, i, hits)
	}
	return hits
}

func (a *wordSet) at(text []byte, start int, hits []hit) []hit {
	s := uint(0)
	for i := start; i < len(text); i++ {
		s = uint(a.next[s<<a.shift|uint(a.class[text[i]])])
		if s == 0 {
			break
		}
		for _, w := range a.ends[s] {
			hits = append(hits, hit{w, int32(start), int32(i + 1)})
		}
	}
	return hits
}

// contains reports whether any word occurs in text.
func (a *wordSet) contains(text []byte) bool {
	for i := range text {
		s := uint(0)
		for j := i; j < len(text); j++ {
			s = uint(a.next[s<<a.shift|uint(a.class[text[j]])])
			if s == 0 {
				break
			}
			if len(a.ends[s]) > 0 {
				return true
			}
		}
	}
	return false
}
