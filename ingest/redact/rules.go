package redact

import (
	"bytes"
	"math"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"
)

// ruleSource is one rule as it is written down: in gitleaks.go, generated, or
// in supplement.go. A rule is tried only where one of its keywords stands.
type ruleSource struct {
	id       string
	class    string   // "secret:" + id when empty
	keywords []string // lower case
	// regex finds the value in the text around a keyword: its group, or its
	// first group that took part, or all of it.
	regex string
	group int
	// ident and value stand for a regex of the form "identifier, assignment
	// operator, value"; that middle part is matched by hand.
	ident, value string
	entropy      float64  // least Shannon entropy of the value, in bits per byte
	allow        []string // values that are no secrets
	stop         string   // words, one a line, that a real value does not contain
	until        string   // the secret goes on to the line with this, or to the end
	digits       int      // least number of digits in the value
	needs        byte     // a byte that follows within the same word
	valid        func([]byte) bool
}

// rule is a rule ready for use. Its regular expressions are compiled when they
// are first needed: most processes never meet most kinds of secrets.
type rule struct {
	*ruleSource
	class    string
	once     sync.Once
	re       *regexp.Regexp
	allow    []*regexp.Regexp
	stop     *wordSet
	index    int  // among those of a lexicon
	min, max int  // length of a match: of value, or of regex
	anchored bool // regex is run from where a head fits
	bounded  bool // regex begins with \b
}

func newRule(src *ruleSource) *rule {
	r := &rule{ruleSource: src, class: src.class}
	if r.class == "" {
		r.class = "secret:" + src.id
	}
	expr := src.regex
	if src.value != "" {
		expr = src.value
	}
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		panic("redact: rule " + src.id + ": " + err.Error())
	}
	r.min, r.max = lengths(re)
	r.bounded = strings.HasPrefix(strings.TrimPrefix(expr, "(?i)"), `\b`)
	return r
}

func (r *rule) compile() {
	r.once.Do(func() {
		if r.value != "" {
			r.re = regexp.MustCompile(`^(?:` + r.value + ")(?:[\\x60'\"\\s;,)&<\\\\]|$)")
		} else if r.anchored {
			r.re = regexp.MustCompile(`\A(?:` + r.regex + `)`)
		} else {
			r.re = regexp.MustCompile(r.regex)
		}
		for _, a := range r.ruleSource.allow {
			r.allow = append(r.allow, regexp.MustCompile(a))
		}
		if r.ruleSource.stop != "" {
			r.stop = newWordSet(strings.Split(r.ruleSource.stop, "\n"))
		}
	})
}

// accepts applies what a rule asks of a value beyond its form.
func (r *rule) accepts(value []byte) bool {
	if r.entropy > 0 && entropy(value) < r.entropy {
		return false
	}
	if r.digits > 0 && countDigits(value) < r.digits {
		return false
	}
	if r.valid != nil && !r.valid(value) {
		return false
	}
	for _, re := range r.allow {
		if re.Match(value) {
			return false
		}
	}
	return r.stop == nil || !r.stop.contains(value)
}

// lengths are the least and the greatest number of runes that re matches, the
// greatest capped.
func lengths(re *syntax.Regexp) (lo, hi int) {
	const most = 20000
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune), len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, 1
	case syntax.OpCapture:
		return lengths(re.Sub[0])
	case syntax.OpConcat:
		for _, s := range re.Sub {
			a, b := lengths(s)
			lo, hi = lo+a, min(hi+b, most)
		}
		return lo, hi
	case syntax.OpAlternate:
		lo = most
		for _, s := range re.Sub {
			a, b := lengths(s)
			lo, hi = min(lo, a), max(hi, b)
		}
		return lo, hi
	case syntax.OpRepeat:
		a, b := lengths(re.Sub[0])
		if re.Max < 0 {
			return a * re.Min, most
		}
		return a * re.Min, min(b*re.Max, most)
	case syntax.OpPlus:
		a, _ := lengths(re.Sub[0])
		return a, most
	case syntax.OpStar:
		return 0, most
	case syntax.OpQuest:
		_, b := lengths(re.Sub[0])
		return 0, b
	}
	return 0, 0
}

// byteSet is a set of bytes.
type byteSet [4]uint64

func (s *byteSet) add(b byte)      { s[b>>6] |= 1 << (b & 63) }
func (s *byteSet) has(b byte) bool { return s[b>>6]&(1<<(b&63)) != 0 }
func (s *byteSet) size() (n int) {
	for b := range 256 {
		if s.has(byte(b)) {
			n++
		}
	}
	return n
}

// head is what every match of a regular expression begins with: one set per
// byte, as far as each byte's place is fixed. Comparing it costs nanoseconds,
// running the expression microseconds, and "sk" or "s." stand in any text.
type head struct {
	sets   []byteSet
	offset int  // where in it the keyword stands
	closed bool // it cannot be extended
}

// headsOf lists the heads of the alternatives of re; nil if there are too many.
func headsOf(re *syntax.Regexp, from []head) []head {
	const limit, longest = 24, 64
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpBeginText, syntax.OpEndLine, syntax.OpEndText,
		syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return from
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			var s byteSet
			if r >= 0x80 {
				return closeHeads(from)
			}
			s.add(byte(r))
			if re.Flags&syntax.FoldCase != 0 {
				s.add(bytes.ToLower([]byte{byte(r)})[0])
				s.add(bytes.ToUpper([]byte{byte(r)})[0])
			}
			from = extend(from, s, longest)
		}
		return from
	case syntax.OpCharClass:
		s, ascii := classSet(re)
		from = extend(from, s, longest)
		if !ascii {
			return closeHeads(from)
		}
		return from
	case syntax.OpCapture:
		return headsOf(re.Sub[0], from)
	case syntax.OpConcat:
		for _, s := range re.Sub {
			if from = headsOf(s, from); from == nil {
				return nil
			}
		}
		return from
	case syntax.OpAlternate:
		var all []head
		for _, s := range re.Sub {
			part := make([]head, len(from))
			for i, h := range from {
				part[i] = head{sets: append([]byteSet(nil), h.sets...), closed: h.closed}
			}
			if part = headsOf(s, part); part == nil {
				return nil
			}
			if all = append(all, part...); len(all) > limit {
				return nil
			}
		}
		return all
	case syntax.OpRepeat:
		for range min(re.Min, longest) {
			if from = headsOf(re.Sub[0], from); from == nil {
				return nil
			}
		}
		if re.Max != re.Min {
			return closeHeads(from)
		}
		return from
	case syntax.OpPlus:
		if from = headsOf(re.Sub[0], from); from == nil {
			return nil
		}
	}
	return closeHeads(from)
}

func extend(hs []head, s byteSet, longest int) []head {
	for i := range hs {
		if len(hs[i].sets) >= longest {
			hs[i].closed = true
		}
		if !hs[i].closed {
			hs[i].sets = append(hs[i].sets, s)
		}
	}
	return hs
}

func closeHeads(hs []head) []head {
	for i := range hs {
		hs[i].closed = true
	}
	return hs
}

func classSet(re *syntax.Regexp) (s byteSet, ascii bool) {
	ascii = true
	for i := 0; i+1 < len(re.Rune); i += 2 {
		if r := re.Rune[i]; r == re.Rune[i+1] && (r == 0x17F || r == 0x212A) {
			continue // the long s and the Kelvin sign, which (?i) adds to s and k
		}
		for r := re.Rune[i]; r <= re.Rune[i+1] && r < 0x80; r++ {
			s.add(byte(r))
		}
		if re.Rune[i+1] >= 0x80 {
			ascii = false
			for b := 0x80; b < 0x100; b++ {
				s.add(byte(b))
			}
		}
	}
	return s, ascii
}

// anchors gives, for each keyword, the heads in which it stands; nil when a
// match may begin with something in which no keyword stands at a fixed place,
// so that the expression has to be run at each keyword.
func anchors(r *rule) [][]head {
	re, err := syntax.Parse(r.regex, syntax.Perl)
	if err != nil {
		panic("redact: rule " + r.id + ": " + err.Error())
	}
	heads := headsOf(re, []head{{}})
	out := make([][]head, len(r.keywords))
	for _, h := range heads {
		found := false
		for k, word := range r.keywords {
			if at := placeOf(h.sets, word); at >= 0 {
				out[k] = append(out[k], head{sets: h.sets, offset: at})
				found = true
			}
		}
		if !found {
			return nil
		}
	}
	if heads == nil {
		return nil
	}
	return out
}

// placeOf is the offset at which word fits most tightly, or -1.
func placeOf(sets []byteSet, word string) int {
	best, at := math.MaxInt, -1
	for o := 0; o+len(word) <= len(sets); o++ {
		size := 0
		for i := range len(word) {
			s := sets[o+i]
			if !s.has(word[i]) && !s.has(upper(word[i])) {
				size = -1
				break
			}
			size += s.size()
		}
		// Within wide classes any word fits: that is not where it stands.
		if size >= 0 && size < best && size <= 3*len(word)+2 {
			best, at = size, o
		}
	}
	return at
}

func (h *head) fits(text []byte, at int) bool {
	at -= h.offset
	if at < 0 || at+len(h.sets) > len(text) {
		return false
	}
	for i := range h.sets {
		if !h.sets[i].has(text[at+i]) {
			return false
		}
	}
	return true
}

func upper(b byte) byte {
	if b >= 'a' && b <= 'z' {
		return b - 'a' + 'A'
	}
	return b
}

func lower(b byte) byte {
	if b >= 'A' && b <= 'Z' {
		return b - 'A' + 'a'
	}
	return b
}

// entropy is the Shannon entropy in bits per byte.
func entropy(s []byte) float64 {
	if len(s) == 0 {
		return 0
	}
	var count [256]int
	for _, b := range s {
		count[b]++
	}
	e, n := 0.0, float64(len(s))
	for _, c := range count {
		if c > 0 {
			p := float64(c) / n
			e -= p * math.Log2(p)
		}
	}
	return e
}

func countDigits(s []byte) (n int) {
	for _, b := range s {
		if b >= '0' && b <= '9' {
			n++
		}
	}
	return n
}
