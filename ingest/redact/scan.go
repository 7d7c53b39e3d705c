package redact

import (
	"bytes"
	"cmp"
	"slices"
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
	for _, h := range s.hits {
		tr := &lx.triggers[h.word]
		lo, end := int(h.start), int(h.end)
		switch tr.kind {
		case triesRule:
			s.try(tr, t, end)
		case triesAssign:
			s.tryAssign(tr.rule, t, end)
		case secretName:
			s.named(t, lo, end)
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

// try runs a rule where its keyword ends.
func (s *scanner) try(tr *trigger, t []byte, end int) {
	r := tr.rule
	if r.class[0] == 'p' && s.level < structured {
		return
	}
	if r.needs != 0 && !follows(t, end, r.needs) {
		return
	}
	lo, hi := max(0, end-int(tr.size)-256), min(len(t), end+min(r.max+256, 2048))
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
		lo, hi = at, min(len(t), at+r.max+4)
	}
	r.compile()
	if !s.spend((hi - lo) * regexpCost) {
		return
	}
	for lo < hi {
		m := r.re.FindSubmatchIndex(t[lo:hi])
		if m == nil {
			return
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
			return
		}
		if r.until != "" {
			b = blockEnd(t, lo+b, r.until) - lo
		}
		if r.accepts(t[lo+a:lo+b]) && !placeholder(t[lo+a:lo+b]) {
			s.add(lo+a, lo+b, r.class)
		}
		if r.anchored {
			return
		}
		lo += b
		if lo >= end { // later keywords bring their own try
			return
		}
	}
}

// follows reports whether b stands in the rest of the word at i.
func follows(t []byte, i int, b byte) bool {
	for end := min(len(t), i+1000); i < end && !isSpace(t[i]) && t[i] != '"'; i++ {
		if t[i] == b {
			return true
		}
	}
	return false
}

// blockEnd is the end of a block that closes with the line marker.
func blockEnd(t []byte, from int, marker string) int {
	limit := min(len(t), from+20000)
	i := bytes.Index(t[from:limit], []byte(marker))
	if i < 0 {
		return limit
	}
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
