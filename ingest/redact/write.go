package redact

import (
	"strconv"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// room is what the writer leaves free for closing brackets.
const room = maxDepth + 2

// walk writes the redacted form of the value at node at. It reports false when
// the output is full: the caller then takes back what it began and closes.
func (w *worker) walk(at int32) bool {
	n := &w.doc.nodes[at]
	depth := len(w.path)
	key := w.name
	if len(w.rules) > 0 {
		if done, ok := w.byRule(at, key); done {
			w.path = w.path[:depth]
			return ok
		}
	}
	if n.keyed && w.keep == 0 {
		if class := w.keyClass(at, key); class != "" {
			w.observeAll(at)
			w.noteClass(class)
			w.replace(class, w.whole(at))
			return w.fits()
		}
	}
	switch n.kind {
	case '{':
		return w.object(at)
	case '[':
		return w.list(at)
	case '"':
		w.str(w.doc.bytes(n.val), n.val, n)
	case '0':
		w.number(w.doc.bytes(n.val))
	default:
		w.out = append(w.out, w.doc.bytes(n.val)...)
	}
	return w.fits()
}

func (w *worker) fits() bool { return len(w.out)+room <= w.r.profile.MaxArguments }

// keyClass says what the name of a member tells about its value, or "" when
// nothing or when the value tells nothing itself.
func (w *worker) keyClass(at int32, key []byte) string {
	n := &w.doc.nodes[at]
	switch n.kind {
	case 't', 'f', 'n':
		return ""
	case '"':
		if n.val.lo == n.val.hi || w.r.isMark(w.doc.bytes(n.val)) {
			return ""
		}
	case '{', '[':
		if n.next == at+1 {
			return ""
		}
	}
	if class := w.r.key(key); class != "" {
		if n.kind == '0' && class == "key:token" && n.val.hi-n.val.lo < 6 {
			return "" // a count, or an id of a vocabulary
		}
		return class
	}
	if w.level < everything {
		return ""
	}
	class := personalKey(key)
	if class == "" || n.kind == '{' || n.kind == '[' {
		return ""
	}
	v := w.doc.bytes(n.val)
	if w.hasMark(v) {
		return "" // its personal part is gone
	}
	switch class {
	case "pii:address":
		if countDigits(v) == 0 || len(v) < 8 || !hasSpace(v) {
			return "" // an e-mail address, a host or a memory address is none
		}
	case "pii:phone":
		if countDigits(v) < 6 {
			return ""
		}
	case "pii:account", "pii:iban":
		if countDigits(v) < 4 {
			return ""
		}
	case "pii:name":
		if countDigits(v) > 0 || len(v) > 60 {
			return ""
		}
	case "pii:email":
		return "" // found by its form
	case "pii:birth_date":
		if countDigits(v) < 4 {
			return ""
		}
	}
	return class
}

// hasMark reports whether a mark stands in v, a real one: a bracket hides nothing.
func (w *worker) hasMark(v []byte) bool {
	for i := range v {
		if w.r.isMarkAt(v, i) {
			return true
		}
	}
	return false
}

func hasSpace(v []byte) bool {
	for _, c := range v {
		if isSpace(c) {
			return true
		}
	}
	return false
}

// whole is the text that a pseudonym of a whole value stands for.
func (w *worker) whole(at int32) []byte {
	n := &w.doc.nodes[at]
	if n.kind == '"' || n.kind == '0' {
		return w.doc.bytes(n.val)
	}
	return nil
}

// replace writes a mark as a JSON string and notes the removal.
func (w *worker) replace(class string, value []byte) {
	w.out = append(w.out, '"')
	w.out = w.r.appendMark(w.out, class, value)
	w.out = append(w.out, '"')
	w.remove(class)
}

func (w *worker) remove(class string) {
	w.count++
	if len(w.removed) < event.MaxRemoved {
		w.removed = append(w.removed, event.Removal{Path: string(w.path[:event.RuneCut(w.path, 256)]), Class: class})
	}
}

// observeAll looks at a value that will be replaced whole, for its signals: an
// injection in a password field is still one. Its marks are not kept.
func (w *worker) observeAll(at int32) {
	marks := len(w.marks)
	for i := at; i < w.doc.nodes[at].next && !w.over; i++ {
		if n := &w.doc.nodes[i]; n.kind == '"' && w.mayLook(int(n.val.hi-n.val.lo)) {
			w.scan(w.doc.bytes(n.val))
			w.noteFinds()
		}
	}
	w.marks = w.marks[:marks]
}

// mayLook counts n bytes against what is scanned of one side of a call.
func (w *worker) mayLook(n int) bool {
	w.looked += n
	return w.looked <= max(4*w.r.profile.MaxArguments, 256<<10)
}

func (w *worker) object(at int32) bool {
	w.out = append(w.out, '{')
	base := len(w.path)
	first := true
	full := false
	for i := at + 1; i < w.doc.nodes[at].next; i = w.doc.nodes[i].next {
		mark, removed, count := len(w.out), len(w.removed), w.count
		if full { // nothing more is written, but signals are still looked for
			w.observeMembers(i)
			continue
		}
		if !first {
			w.out = append(w.out, ',')
		}
		n := &w.doc.nodes[i]
		key := w.doc.bytes(n.key)
		w.path = append(w.path, '.')
		name := w.cleanKey(key, n.key)
		w.path = append(w.path, name[:event.RuneCut(name, 64)]...)
		w.out = append(w.out, ':')
		w.name = name
		ok := w.walk(i)
		w.path = w.path[:base]
		if !ok {
			if k := w.doc.nodes[i].kind; (k == '{' || k == '[') && w.cut && len(w.out) > mark {
				// the member closed itself: what was written of it stays
			} else {
				w.out, w.removed, w.count = w.out[:mark], w.removed[:removed], count
			}
			w.cut, full = true, true
		}
		first = false
	}
	w.out = append(w.out, '}')
	return !full
}

func (w *worker) list(at int32) bool {
	w.out = append(w.out, '[')
	base := len(w.path)
	first, full := true, false
	k := 0
	for i := at + 1; i < w.doc.nodes[at].next; i = w.doc.nodes[i].next {
		mark, removed, count := len(w.out), len(w.removed), w.count
		if full {
			w.observeMembers(i)
			continue
		}
		if !first {
			w.out = append(w.out, ',')
		}
		w.path = append(w.path, '[')
		w.path = strconv.AppendInt(w.path, int64(k), 10)
		w.path = append(w.path, ']')
		k++
		ok := w.walk(i)
		w.path = w.path[:base]
		if !ok {
			if k := w.doc.nodes[i].kind; (k == '{' || k == '[') && w.cut && len(w.out) > mark {
			} else {
				w.out, w.removed, w.count = w.out[:mark], w.removed[:removed], count
			}
			w.cut, full = true, true
		}
		first = false
	}
	w.out = append(w.out, ']')
	return !full
}

// observeMembers looks at what no longer fits into the output.
func (w *worker) observeMembers(at int32) {
	for i := at; i < w.doc.nodes[at].next && !w.over; i++ {
		n := &w.doc.nodes[i]
		if n.keyed && w.mayLook(int(n.key.hi-n.key.lo)) {
			w.observe(w.doc.bytes(n.key))
		}
		if n.kind == '"' && w.mayLook(int(n.val.hi-n.val.lo)) {
			w.observe(w.doc.bytes(n.val))
		}
	}
}

// cleanKey writes a member's name, which may be data as well, and returns its
// redacted text for paths.
func (w *worker) cleanKey(key []byte, at text) []byte {
	if len(key) > w.r.profile.MaxString || !w.mayLook(len(key)) {
		mark := w.cutText(nil, len(key))
		w.cut = true
		w.out = appendString(w.out, mark)
		return mark
	}
	if len(key) < 4 && isName(key) {
		w.out = appendString(w.out, key)
		return key
	}
	level := w.level
	if isName(key) {
		w.level = min(w.level, structured) // names of members are no people's
	}
	out, changed := w.clean(key)
	w.level = level
	if !changed && !at.arena {
		w.out = append(w.out, w.doc.src[at.lo-1:at.hi+1]...)
	} else {
		w.out = appendString(w.out, out)
	}
	return out
}

func isName(key []byte) bool {
	for _, c := range key {
		if !isWord(c) && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// str writes a string value.
func (w *worker) str(t []byte, at text, n *node) {
	if len(t) == 0 || w.r.isMark(t) {
		w.out = appendString(w.out, t)
		return
	}
	limit := w.r.profile.MaxString
	if !w.mayLook(len(t)) {
		w.cut = true
		w.remove("long")
		w.out = appendString(w.out, w.cutText(nil, len(t)))
		return
	}
	out, changed := w.clean(t)
	if len(out) > limit {
		w.cut = true
		w.remove("long")
		out, changed = w.shorten(out, len(t)), true
	}
	if !changed && !at.arena {
		w.out = append(w.out, w.doc.src[at.lo-1:at.hi+1]...)
		return
	}
	w.out = appendString(w.out, out)
}

// cutText appends the mark of a cut.
func (w *worker) cutText(out []byte, n int) []byte {
	out = append(out, "[CUT:"...)
	out = strconv.AppendInt(out, int64(n), 10)
	return append(out, " bytes]"...)
}

// shorten cuts t, the redacted form of a text of n bytes, to MaxString. The cut
// stands clear of marks, and what is left is redacted once more, since a cut can
// make a number out of a longer one.
func (w *worker) shorten(t []byte, n int) []byte {
	end := w.r.profile.MaxString - len("…[CUT:1234567890 bytes]")
	end = w.cutAt(t, end)
	quiet := w.quiet
	w.quiet = true
	for range 4 {
		piece := append([]byte(nil), t[:end]...)
		piece = append(piece, "…"...)
		piece = w.cutText(piece, n)
		out, changed := w.clean(piece)
		if !changed || len(out) <= w.r.profile.MaxString {
			w.quiet = quiet
			return append([]byte(nil), out...)
		}
		end = event.RuneCut(t, max(0, end-(len(out)-w.r.profile.MaxString)-8))
	}
	w.quiet = quiet
	return w.cutText(nil, n)
}

// number writes a number, unless it is somebody's.
func (w *worker) number(raw []byte) {
	if len(raw) >= 7 {
		w.finds, w.near, w.inURLs = w.finds[:0], w.near[:0], w.inURLs[:0]
		from := len(w.marks)
		w.tokens(raw)
		if !w.quiet {
			w.buf = w.hashMarks(raw, from, w.buf)
		}
		if len(w.finds) > 0 && w.keep == 0 {
			w.noteFinds()
			w.replace(w.finds[0].class, raw)
			return
		}
	}
	w.out = append(w.out, raw...)
}

// clean scans t and replaces what it finds. The result is t itself when nothing
// was found, else scratch that the next clean overwrites. It is scanned again
// until nothing is found in it, so that redacting it once more changes nothing.
func (w *worker) clean(t []byte) ([]byte, bool) {
	from := len(w.marks)
	w.scan(t)
	if !w.quiet {
		w.noteFinds()
		if len(w.marks) > from {
			w.buf = w.hashMarks(t, from, w.buf)
		}
	}
	w.keptOnly()
	if len(w.finds) == 0 {
		return t, false
	}
	quiet := w.quiet
	w.quiet = true
	defer func() { w.quiet = quiet }()
	w.a = w.put(w.a[:0], t)
	for range 4 {
		w.scan(w.a)
		w.keptOnly()
		if len(w.finds) == 0 {
			return w.a, true
		}
		w.b = w.put(w.b[:0], w.a)
		w.a, w.b = w.b, w.a
	}
	w.a = append(w.a[:0], "[REDACTED:unstable]"...)
	return w.a, true
}

// keptOnly leaves secrets alone among the finds while a tool's rules keep the
// value.
func (w *worker) keptOnly() {
	if w.keep == 0 {
		return
	}
	kept := w.finds[:0]
	for _, f := range w.finds {
		if f.class[0] == 's' {
			kept = append(kept, f)
		}
	}
	w.finds = kept
}

// put appends t with marks in place of the finds.
func (w *worker) put(out, t []byte) []byte {
	at := int32(0)
	for _, f := range w.finds {
		out = append(out, t[at:f.lo]...)
		if w.alias {
			out = w.r.key0.appendPseudonym(out, f.class, t[f.lo:f.hi])
		} else {
			out = w.r.appendMark(out, f.class, t[f.lo:f.hi])
		}
		at = f.hi
		w.remove(f.class)
	}
	return append(out, t[at:]...)
}

// byRule applies the profile's rules for this tool; done is false when none
// says what to do with the value.
func (w *worker) byRule(at int32, key []byte) (done, ok bool) {
	n := &w.doc.nodes[at]
	for _, t := range w.rules {
		switch {
		case t.drop.match(key, n.keyed, w.path):
			w.observeAll(at)
			w.replace("drop", nil)
			return true, w.fits()
		case t.digest.match(key, n.keyed, w.path):
			if n.kind == '"' && w.r.isMark(w.doc.bytes(n.val)) {
				continue
			}
			w.observeAll(at)
			w.digestOf(at)
			return true, w.fits()
		}
	}
	if w.keep > 0 {
		return false, false
	}
	for _, t := range w.rules {
		if t.keep.match(key, n.keyed, w.path) {
			w.keep++
			ok = w.walk(at)
			w.keep--
			return true, ok
		}
	}
	return false, false
}

// digestOf writes a keyed digest in the place of the value at node at.
func (w *worker) digestOf(at int32) {
	w.canon.json = w.canon.json[:0]
	w.canon.shape = w.canon.shape[:0]
	w.canon.walk(&w.doc, at)
	w.out = append(w.out, '"')
	w.out = w.r.key0.appendPseudonym(w.out, "digest:value", w.canon.json)
	w.out = append(w.out, '"')
	w.remove("digest")
}
