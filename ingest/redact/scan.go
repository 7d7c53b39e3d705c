package redact

import (
	"bytes"
	"cmp"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// find is a part of a text that must not be kept.
type find struct {
	span
	class string
}

// depth of a look at a text.
type level uint8

const (
	secretsOnly level = iota // names of software, where digits and dots mean versions
	structured               // and personal data that has a form of its own
	everything               // and names, street addresses
)

// scanner looks at one text after the other and keeps what it saw. One scanner
// serves one call at a time; its slices are reused.
type scanner struct {
	r      *Redactor
	level  level
	inJSON bool // the text is JSON, not yet parsed
	quiet  bool // look for what must go, not for signals and marks
	work   int  // bytes looked at, weighted by what looking costs
	over   bool // the budget is spent

	hits   []hit
	finds  []find
	near   []guide // where instruction-like phrases stand in this text
	sig    signals
	marks  []sighting
	inURLs []span // URLs of this text: digits in them are no phone numbers

	windows []window // by rule: where it is still to be run; see try
	open    []*rule  // those that have one
	rest    runes
}

// scan looks at one text. It leaves s.finds sorted, apart from each other and
// clear of what an earlier pass put there.
func (s *scanner) scan(t []byte) {
	s.finds, s.near, s.inURLs = s.finds[:0], s.near[:0], s.inURLs[:0]
	if !s.spend(len(t)) {
		return
	}
	lx := s.r.lexicon
	s.hits = lx.words.find(t, s.hits[:0])
	places := false
	if len(s.windows) < lx.rules {
		s.windows = make([]window, lx.rules)
	}
	for _, h := range s.hits {
		tr := &lx.triggers[h.word]
		lo, end := int(h.start), int(h.end)
		switch tr.kind {
		case triesRule:
			s.try(tr, t, end)
		case triesAssign:
			s.tryAssign(tr.rule, t, end)
		case secretName:
			if s.inJSON {
				s.member(t, lo, end)
			}
			s.named(t, lo, end)
		case memberName:
			if s.inJSON {
				s.member(t, lo, end)
			}
		case phrase:
			if !s.quiet {
				s.phrase(&phrases[tr.index], t, lo, end)
			}
		case attack:
			if !s.quiet {
				s.attack(&attacks[tr.index], t, lo, end)
			}
		case address:
			s.address(t, lo, end)
		case place:
			places = true
		case person:
			if s.level == everything {
				s.introduced(t, end)
			}
		}
	}
	for _, r := range s.open {
		s.search(r, t)
	}
	s.open = s.open[:0]
	if !s.quiet {
		s.hidden(t)
	}
	if s.level >= structured {
		if bytes.IndexByte(t, '@') >= 0 {
			s.emails(t)
		}
		s.tokens(t)
	}
	if s.level == everything {
		if places && s.sig.prefix == "" { // of a result none is kept
			s.places(t)
		}
		s.names(t)
	}
	if len(s.finds) > 0 {
		s.settle(t)
	}
}

// spend takes work from the budget and reports whether there is any left.
func (s *scanner) spend(n int) bool {
	s.work += n
	if s.work > s.r.profile.Budget {
		s.over = true
	}
	return !s.over
}

// regexpCost says how many bytes of plain scanning one byte of a regular
// expression's window is worth.
const regexpCost = 48

func (s *scanner) add(lo, hi int, class string) {
	if lo < hi {
		s.finds = append(s.finds, find{span{int32(lo), int32(hi)}, class})
	}
}

// window is a part of a text in which a rule is to be run, and where the last
// keyword in it ends.
type window struct{ lo, hi, end int }

// try runs a rule where its keyword ends, or notes that it is to be run around it:
// the windows of keywords that stand close to each other become one, so that the
// work is that of the text's length and not of the number of keywords.
func (s *scanner) try(tr *trigger, t []byte, end int) {
	r := tr.rule
	if s.over || r.class[0] == 'p' && s.level < structured {
		return
	}
	if r.needs != 0 && !s.follows(t, end, r.needs) {
		return
	}
	if tr.heads != nil {
		at := -1
		for i := range tr.heads {
			if tr.heads[i].fits(t, end-int(tr.size)) {
				at = end - int(tr.size) - tr.heads[i].offset
				break
			}
		}
		if at < 0 || r.bounded && at > 0 && isWord(t[at-1]) && isWord(t[at]) {
			return
		}
		s.begin(r, t, at)
		return
	}
	lo, hi := max(0, end-int(tr.size)-256), min(len(t), end+min(r.max+256, 2048))
	w := &s.windows[r.index]
	if w.hi > 0 && lo <= w.hi {
		w.hi, w.end = max(w.hi, hi), max(w.end, end)
		return
	}
	if w.hi > 0 {
		s.run(r, t, *w)
	} else {
		s.open = append(s.open, r)
	}
	*w = window{lo, hi, end}
}

// search runs a rule in the window that was noted last.
func (s *scanner) search(r *rule, t []byte) {
	w := s.windows[r.index]
	s.windows[r.index] = window{}
	s.run(r, t, w)
}

func (s *scanner) run(r *rule, t []byte, w window) {
	r.compile()
	for from := w.lo; from < w.end; {
		if !s.spend((w.hi - from) * regexpCost) {
			return
		}
		m := r.re.FindSubmatchIndex(t[from:w.hi])
		if m == nil {
			return
		}
		s.work -= (w.hi - from - m[1]) * regexpCost // what lies behind the match is still to be looked at
		next := s.took(r, t, from, w.hi, m)
		if next <= from {
			return
		}
		from = next
	}
}

// begin runs a rule whose match begins at at. What it costs is what it reads: most
// expressions end after a few bytes, wherever their window ends.
func (s *scanner) begin(r *rule, t []byte, at int) {
	r.compile()
	hi := min(len(t), at+r.max+4)
	const plainly = 64
	if hi-at <= plainly {
		if s.spend((hi - at) * regexpCost) {
			s.took(r, t, at, hi, r.re.FindSubmatchIndex(t[at:hi]))
		}
		return
	}
	// What is left of the budget bounds what may be read.
	s.rest = runes{t: t[at:min(hi, at+(s.r.profile.Budget-s.work)/regexpCost+1)]}
	m := r.re.FindReaderSubmatchIndex(&s.rest)
	if s.spend(s.rest.at * regexpCost) {
		s.took(r, t, at, hi, m)
	}
	s.rest.t = nil
}

// runes are read by a regular expression one after the other, no further than it
// needs.
type runes struct {
	t  []byte
	at int
}

func (r *runes) ReadRune() (c rune, size int, err error) {
	if r.at >= len(r.t) {
		return 0, 0, io.EOF
	}
	c, size = utf8.DecodeRune(r.t[r.at:])
	r.at += size
	return c, size, nil
}

// took notes the value of a match in t[lo:hi] and returns where it ends.
func (s *scanner) took(r *rule, t []byte, lo, hi int, m []int) int {
	if m == nil {
		return lo
	}
	a, b := m[0], m[1]
	if r.group > 0 && m[2*r.group] >= 0 {
		a, b = m[2*r.group], m[2*r.group+1]
	} else {
		for g := 2; g+1 < len(m); g += 2 {
			if m[g] >= 0 && m[g+1] > m[g] {
				a, b = m[g], m[g+1]
				break
			}
		}
	}
	if a >= b {
		return lo
	}
	a, b = lo+a, lo+b
	if r.until != "" {
		b = s.blockEnd(t, b, r.until)
	} else if b == hi {
		// Cut by the window: the value goes on to where its word does.
		for b < len(t) && !isSpace(t[b]) && t[b] != '"' && t[b] != '\'' && t[b] != '`' {
			b++
		}
		s.spend(b - hi)
	}
	if r.accepts(t[a:b]) && !placeholder(t[a:b]) {
		s.add(a, b, r.class)
	}
	return b
}

// follows reports whether b stands in the rest of the word at i.
func (s *scanner) follows(t []byte, i int, b byte) bool {
	from, found := i, false
	for end := min(len(t), i+1000); i < end && !isSpace(t[i]) && t[i] != '"' && !found; i++ {
		found = t[i] == b
	}
	s.spend(i - from)
	return found
}

// blockEnd is the end of a block that closes with the line marker, or of the
// text when none does.
func (s *scanner) blockEnd(t []byte, from int, marker string) int {
	i := bytes.Index(t[from:], []byte(marker))
	if i < 0 {
		s.spend(len(t) - from)
		return len(t)
	}
	s.spend(i)
	i += from + len(marker)
	if j := bytes.Index(t[i:min(len(t), i+100)], []byte("-----")); j >= 0 {
		return i + j + len("-----")
	}
	return i
}

func isWord(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '_'
}

func isAlnum(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

func isUpper(b byte) bool { return b >= 'A' && b <= 'Z' }

// settle sorts the finds, drops those within marks of an earlier pass, and
// joins those that overlap: a secret among them names the class, else the
// outermost and, of equals, the first one does.
func (s *scanner) settle(t []byte) {
	for i := range s.finds { // limits inside the readers know no runes
		f := &s.finds[i]
		f.lo = int32(event.RuneCut(t, int(f.lo)))
		for int(f.hi) < len(t) && !utf8.RuneStart(t[f.hi]) {
			f.hi++
		}
	}
	if bytes.IndexByte(t, '[') >= 0 {
		kept := s.finds[:0]
		for _, f := range s.finds {
			if f, ok := s.r.clearOfMarks(t, f); ok {
				kept = append(kept, f)
			}
		}
		s.finds = kept
	}
	if len(s.finds) < 2 {
		return
	}
	slices.SortStableFunc(s.finds, func(a, b find) int {
		if a.lo != b.lo {
			return cmp.Compare(a.lo, b.lo)
		}
		return cmp.Compare(b.hi, a.hi)
	})
	kept := s.finds[:1]
	for _, f := range s.finds[1:] {
		last := &kept[len(kept)-1]
		if f.lo < last.hi {
			if f.class[0] == 's' && last.class[0] != 's' {
				last.class = f.class // a pseudonym of a secret would be one too many
			}
			last.hi = max(last.hi, f.hi)
			continue
		}
		kept = append(kept, f)
	}
	s.finds = kept
}
