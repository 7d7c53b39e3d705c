package redact

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// nearBy is how far, in bytes, a value may stand behind what opens an instruction,
// or before what closes one, to be said to stand near it.
const nearBy = 200

// maxNear is how many instruction-like phrases of a text are told apart. Who writes
// more wants to hide one: all that stands behind the last of them counts as guided.
const maxNear = 64

// maxSightings is how many values of a call are looked at, and as many again when an
// instruction speaks about them: those beside it must not be lost behind a crowd.
const maxSightings = 4 * event.MaxMarks

// sighting is a salient value that became a mark.
type sighting struct {
	mark  event.Mark
	order int32
	// near is settled when the text is done: phrases may follow the value.
	span
}

// see notes a salient value of the text that is being scanned.
func (s *scanner) see(class string, lo, hi int) {
	at := span{int32(lo), int32(hi)}
	if hi <= lo || len(s.marks) >= maxSightings && (len(s.marks) >= 2*maxSightings || !s.guided(at)) {
		return
	}
	s.marks = append(s.marks, sighting{event.Mark{Class: class}, int32(len(s.marks)), at})
}

// hashMarks turns what was seen in t, from index from on, into marks.
func (s *scanner) hashMarks(t []byte, from int, buf []byte) []byte {
	var room [512]byte
	for i := from; i < len(s.marks); i++ {
		m := &s.marks[i]
		v := normalValue(room[:0], m.mark.Class, t[m.lo:m.hi])
		m.mark.Hash, buf = s.r.key0.mark(buf, m.mark.Class, v)
		m.mark.NearInstruction = s.guided(m.span)
	}
	return buf
}

// guided reports whether a value stands where an instruction speaks about it:
// within reach of what opens one or closes it, and not outside of both. What stands
// before the opening or behind the end is another record of a list.
func (s *scanner) guided(v span) bool {
	if len(s.near) == maxNear && v.lo > s.near[maxNear-1].at {
		return true
	}
	opened, ended := int32(-1), int32(-1) // the last of each before the value
	for _, p := range s.near {
		switch {
		case p.at >= v.lo:
		case p.closes:
			ended = max(ended, p.at)
		default:
			opened = max(opened, p.at)
		}
	}
	if opened > ended {
		if v.lo < opened+nearBy {
			return true
		}
	} else if ended >= 0 && opened >= 0 {
		opened = -1 // that instruction is over
	}
	for i, p := range s.near {
		if p.closes && p.at >= v.lo && v.hi > p.at-nearBy {
			return opened >= 0 || !s.opensBetween(v.hi, s.near[i].at)
		}
	}
	return false
}

// opensBetween reports whether an instruction begins in t[lo:hi].
func (s *scanner) opensBetween(lo, hi int32) bool {
	for _, p := range s.near {
		if !p.closes && p.at >= lo && p.at < hi {
			return true
		}
	}
	return false
}

// normalValue brings the spellings of one value together.
func normalValue(out []byte, class string, v []byte) []byte {
	if len(v) > 400 {
		v = v[:400]
	}
	switch class {
	case "account":
		return appendNormal(out, "account", v)
	case "url":
		return appendURL(out, v)
	}
	for _, c := range v {
		out = append(out, lower(c))
	}
	return bytes.TrimSuffix(out, []byte("."))
}

// topMarks gives the marks of a text without repetitions, at most limit, those
// near an instruction first, then in order of appearance.
func topMarks(seen []sighting, limit int) []event.Mark {
	if len(seen) == 0 {
		return nil
	}
	slices.SortFunc(seen, func(a, b sighting) int {
		if c := cmp.Compare(a.mark.Hash, b.mark.Hash); c != 0 {
			return c
		}
		if a.mark.NearInstruction != b.mark.NearInstruction {
			if a.mark.NearInstruction {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.order, b.order)
	})
	seen = slices.CompactFunc(seen, func(a, b sighting) bool { return a.mark.Hash == b.mark.Hash && a.mark.Class == b.mark.Class })
	slices.SortFunc(seen, func(a, b sighting) int {
		if a.mark.NearInstruction != b.mark.NearInstruction {
			if a.mark.NearInstruction {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.order, b.order)
	})
	n := min(len(seen), limit)
	out := make([]event.Mark, n)
	for i := range out {
		out[i] = seen[i].mark
	}
	return out
}

// identifier notes words that identify a thing: account numbers, UUIDs, long
// hexadecimal or mixed ids.
func (s *scanner) identifier(t []byte, lo, hi int) {
	for hi > lo && (t[hi-1] == '.' || t[hi-1] == '-') {
		hi--
	}
	w := t[lo:hi]
	if len(w) < 8 || len(w) > 80 {
		return
	}
	digits, hex, letters, joints, dots, switches := 0, 0, 0, 0, 0, 0
	for i, c := range w {
		switch {
		case isDigit(c):
			digits++
			hex++
			if i > 0 && !isDigit(w[i-1]) && isAlnum(w[i-1]) {
				switches++
			}
		case c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F':
			hex++
			letters++
		case isAlnum(c):
			letters++
		case c == '.':
			dots++
		default:
			joints++
		}
	}
	switch {
	case dots > 0:
	case letters == 0 && joints == 0 && digits >= 8 && digits <= 20:
		s.see("account", lo, hi)
	case len(w) >= 14 && len(w) <= 36 && joints == 0 && !isDigit(w[0]) && !isDigit(w[1]) && isDigit(w[2]) && isDigit(w[3]) && digits >= 8:
		// The form of an IBAN, whether or not its check digits are good.
		s.see("account", lo, hi)
	case len(w) == 36 && joints == 4 && hex == 32:
		s.see("identifier", lo, hi)
	case hex == len(w) && len(w) >= 16 && letters > 0:
		s.see("identifier", lo, hi)
	case len(w) >= 16 && digits >= 4 && letters >= 4 && switches >= 2:
		s.see("identifier", lo, hi)
	}
}

// fileName notes words that end in the extension of a document.
func (s *scanner) fileName(t []byte, lo, hi int) {
	for hi > lo && (t[hi-1] == '.' || t[hi-1] == '-') {
		hi--
	}
	w := t[lo:hi]
	dot := bytes.LastIndexByte(w, '.')
	if dot < 1 || len(w)-dot < 3 || len(w)-dot > 6 {
		return
	}
	var buf [6]byte
	ext := buf[:0]
	for _, c := range w[dot+1:] {
		ext = append(ext, lower(c))
	}
	switch string(ext) {
	case "txt", "md", "pdf", "doc", "docx", "xls", "xlsx", "csv", "tsv", "ppt", "pptx", "json", "yaml", "yml", "toml",
		"xml", "html", "htm", "log", "sql", "db", "zip", "tar", "gz", "tgz", "png", "jpg", "jpeg", "gif", "svg", "py",
		"js", "ts", "go", "rs", "sh", "env", "pem", "key", "conf", "ini", "cfg", "bak", "eml", "msg", "odt", "ods",
		"rtf", "ipynb", "parquet", "sqlite", "p12", "pfx", "kdbx", "java", "rb", "php", "cpp", "exe", "dll", "bat", "ps1":
		s.see("file", lo, hi)
	}
}
