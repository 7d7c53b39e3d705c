package redact

import (
	"bytes"
	"slices"
	"strings"
	"unsafe"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Again is the service's look at an event that an emitter has already redacted.
// It takes out secrets and personal data with a form of their own wherever they
// got through: in the arguments and in every other text that somebody outside
// the emitter can choose; see [lookAt] for each field. Digests and marks stay;
// what is removed here is added to the emitter's report.
//
// It reports whether it changed the event. Texts stay within the limits of
// [event.Event.Check]: an event that passed it before passes it after. Call
// [event.Event.Clip] first where that is not known: it bounds the work.
//
// The event that is left holds nothing that was not looked at to the end. What
// costs more than the budget, or makes the code panic, is emptied, and
// RedactionError says so. The arguments have a budget of their own, so that
// they can't use up what the other texts need.
//
// A clean event costs one pass over its text and no allocation.
func (r *Redactor) Again(e *event.Event) (changed bool) {
	w := r.scratch.Get().(*worker)
	w.reset()
	w.quiet = true
	arguments, done := false, 0 // how far it is
	finished := false
	defer func() {
		if !finished {
			_ = recover() // what it says may quote the content
			if !arguments {
				e.Arguments = ""
			}
			emptyFrom(e, done)
			e.RedactionError, changed = "panic", true
			return // and leave the scratch to the collector
		}
		r.release(w)
	}()
	if e.Arguments != "" {
		before := len(e.Arguments)
		if w.argumentsAgain(e); w.over {
			e.Arguments, e.RedactionError, changed = "", "over_budget", true
			w.removed, w.count, w.work, w.over = nil, 0, 0, false
		}
		changed = changed || w.count > 0 || len(e.Arguments) != before
	}
	arguments = true
	eachText(e, func(n int, f *field, s string) (string, bool) {
		if w.over {
			return "", false // emptied below
		}
		out, ok := w.fieldAgain(f, s)
		if w.over {
			return "", false
		}
		done = n + 1
		changed = changed || ok
		return out, ok
	})
	if w.over {
		emptyFrom(e, done)
		e.RedactionError, changed = "over_budget", true
	}
	if w.count > 0 {
		// The emitter's list may be shared with others: don't append in place.
		n := len(e.Removed)
		e.Removed = append(e.Removed[:n:n], w.removed[:min(len(w.removed), event.MaxRemoved-min(n, event.MaxRemoved))]...)
		e.RemovedCount += w.count
		changed = true
	}
	finished = true
	return changed
}

// field is how the second pass looks at one text of the record.
type field struct {
	name  string
	limit int // bytes
	look  look
}

// look is what a text may hold, and so what is taken out of it.
type look uint8

const (
	// words that somebody chose, in which nothing structured belongs.
	free look = iota
	// secrets alone: an identity or an address, which personal data is part of.
	identity
	// secrets, and with an '@' in it all that is structured: names and versions of
	// software, where digits and dots mean versions and not addresses.
	software
	// secrets, which become pseudonyms: events that had the same key still do.
	key
	// software, but for the words of this package.
	class
	// free, and without a form of its own everything, cut to maxErrorCode.
	code
)

// maxErrorCode is how long a code may be that is none of JSON-RPC's numbers and
// still a code and not a message.
const maxErrorCode = 64

// lookAt says which texts are looked at, and how. Those that are missing keep
// what they hold, whatever it is: the principal and whom it acts for are the
// identity that the log is about, the tenant and the emitter's id are keys of the
// service, and the profile's name and version are the emitter's own words.
var lookAt = map[string]look{
	"principal_name": identity, "client_ip": identity, "user_agent": identity,
	"agent_name": software, "model": software, "client_name": software, "client_version": software,
	"server": software, "server_version": software, "server_instance": software, "environment": software,
	"protocol_version": software, "auth_method": software, "policy_id": software, "policy_version": software,
	"agent_id": key, "credential_id": key, "request_id": key, "session_id": key, "conversation_id": key, "task_id": key,
	"trace_id": key, "span_id": key, "parent_span_id": key,
	"method": free, "target": free, "decision_reason": free, "error_message": free, "redaction_error": free,
	"error_code":      code,
	"scopes_required": software, "scopes_granted": software, "signals": class,
}

// The fields of lookAt in the record's order, and those that are lists of pairs.
var (
	textFields, textOf = func() (fields []field, of []func(*event.Event) *string) {
		for i := range event.Texts {
			t := &event.Texts[i]
			if l, ok := lookAt[t.Name]; ok {
				fields, of = append(fields, field{t.Name, t.Limit, l}), append(of, t.Of)
			}
		}
		return fields, of
	}()
	listFields, listOf = func() (fields []field, of []func(*event.Event) *[]string) {
		for i := range event.Lists {
			l := &event.Lists[i]
			if k, ok := lookAt[l.Name]; ok {
				fields, of = append(fields, field{l.Name, l.Limit, k}), append(of, l.Of)
			}
		}
		return fields, of
	}()
	labelKey     = field{"labels", event.MaxLabelKey, software}
	labelValue   = field{"labels", event.MaxText, free}
	removedPath  = field{"removed", event.MaxText, software}
	removedClass = field{"removed", event.MaxID, class}
)

// tooShort is the length below which no text holds anything to take out.
const tooShort = 6

// eachText hands every text that the second pass is responsible for to change,
// always in the same order and with its place in it, and puts what it gives in
// the text's place. Lists may be shared with others: the first change makes a
// copy.
func eachText(e *event.Event, change func(n int, f *field, s string) (string, bool)) {
	for i := range textFields {
		s := textOf[i](e)
		if len(*s) < tooShort {
			continue
		}
		if out, ok := change(i, &textFields[i], *s); ok {
			*s = out
		}
	}
	n := len(textFields)
	one := func(f *field, s string) (out string, changed bool) {
		if n++; len(s) < tooShort {
			return s, false
		}
		return change(n-1, f, s)
	}
	for i := range listFields {
		list, own := listOf[i](e), false
		for k, s := range *list {
			if out, ok := one(&listFields[i], s); ok {
				if !own {
					*list, own = slices.Clone(*list), true
				}
				(*list)[k] = out
			}
		}
	}
	own := false
	for k, x := range e.Removed {
		path, a := one(&removedPath, x.Path)
		class, b := one(&removedClass, x.Class)
		if !a && !b {
			continue
		}
		if !own {
			e.Removed, own = slices.Clone(e.Removed), true
		}
		if a {
			e.Removed[k].Path = path
		}
		if b {
			e.Removed[k].Class = class
		}
	}
	own = false
	keys := false
	for k, x := range e.Labels {
		name, a := one(&labelKey, x.Key)
		value, b := one(&labelValue, x.Value)
		if !a && !b {
			continue
		}
		if !own {
			e.Labels, own = slices.Clone(e.Labels), true
		}
		if a {
			e.Labels[k].Key, keys = name, true
		}
		if b {
			e.Labels[k].Value = value
		}
	}
	if keys {
		e.SortLabels()
	}
}

// emptyFrom empties the texts from the one on to which the pass did not come.
func emptyFrom(e *event.Event, done int) {
	eachText(e, func(n int, _ *field, _ string) (string, bool) { return "", n >= done })
	isEmpty := func(s string) bool { return s == "" }
	if slices.Contains(e.Labels, event.Label{}) {
		e.Labels = slices.DeleteFunc(slices.Clone(e.Labels), func(l event.Label) bool { return l == event.Label{} })
	}
	for i := range listFields {
		list := listOf[i](e)
		if slices.ContainsFunc(*list, isEmpty) {
			*list = slices.DeleteFunc(slices.Clone(*list), isEmpty)
		}
	}
}

func view(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

func (w *worker) argumentsAgain(e *event.Event) {
	w.level = structured
	t := view(e.Arguments)
	flat := t
	if bytes.IndexByte(t, '\\') >= 0 {
		w.flat = unescape(w.flat[:0], t)
		flat = w.flat
	}
	w.inJSON = true
	w.scan(flat)
	w.inJSON = false
	if len(w.finds) == 0 || w.over {
		return
	}
	if !w.doc.parse(t) {
		e.Arguments, e.RedactionError = "", "invalid_json"
		w.remove("invalid_json")
		return
	}
	w.rules = w.r.rulesFor(e.Server, e.Target, w.rules[:0])
	w.walk(0)
	if w.count == 0 && !w.cut || w.over {
		return // what the first look took for a find was none in its place
	}
	if w.cut && !e.Truncated {
		e.Truncated, e.OriginalBytes = true, uint64(len(e.Arguments))
	}
	e.Arguments = string(w.out)
}

// fieldAgain scrubs one text; changed is false when it may stay as it is.
func (w *worker) fieldAgain(f *field, s string) (out string, changed bool) {
	switch {
	case f.look == free:
		if len(s) <= wordLength && isPlainWord(s) {
			return s, false
		}
	case f.look == code:
		if len(s) <= 10 && harmless(s) {
			return s, false
		}
	case harmless(s), f.look == class && w.r.classes[strings.TrimPrefix(s, "result:")]:
		return s, false
	}
	t := view(s)
	switch f.look {
	case identity, key:
		w.level = secretsOnly
	case software, class:
		if w.level = secretsOnly; strings.IndexByte(s, '@') >= 0 {
			w.level = structured
		}
	case free, code:
		w.level = structured
		if f.look == code && !isCode(s) {
			w.level = everything
		}
	}
	limit := f.limit
	if f.look == code {
		limit = min(limit, maxErrorCode)
	}
	w.scan(t)
	if w.over {
		return "", true
	}
	if len(w.finds) == 0 && len(s) <= limit {
		return s, false
	}
	w.path = append(w.path[:0], f.name...)
	w.alias = f.look == key
	cleaned, _ := w.clean(t)
	cleaned = w.fit(cleaned, limit)
	w.alias = false
	return string(cleaned), true
}

const (
	// wordLength is how long a word of small letters and digits may be that is no
	// secret for sure: the shortest form has 18, but for one of Slack's with "xox".
	wordLength = 16
)

// kinds of bytes, as bits: what all bytes of a text have in common says whether
// it can hold a secret at all.
const (
	inWords = 1 << iota // small letters but x, and what joins them
	inCodes             // digits too
	inHex               // hexadecimal digits
)

var byteKind = func() (t [256]uint8) {
	for c := range 256 {
		b := byte(c)
		if b >= 'a' && b <= 'z' && b != 'x' || b == '/' || b == '_' || b == '-' || b == '.' || b == '$' {
			t[c] |= inWords | inCodes
		}
		if isDigit(b) {
			t[c] |= inCodes
		}
		if isDigit(b) || b >= 'a' && b <= 'f' {
			t[c] |= inHex
		}
	}
	return t
}()

func isPlainWord(s string) bool {
	for i := range len(s) {
		if byteKind[s[i]]&inWords == 0 {
			return false
		}
	}
	return true
}

// harmless reports whether s is a short word or number, a UUID or a W3C trace id:
// at the level of secrets alone nothing can be found in it. Numbers of people,
// which can, are not looked for at that level.
func harmless(s string) bool {
	want := uint8(inCodes)
	switch {
	case len(s) == 36:
		return uuid(view(s))
	case len(s) == 32:
		want = inHex
	case len(s) > wordLength:
		return false
	}
	for i := range len(s) {
		if byteKind[s[i]]&want == 0 {
			return false
		}
	}
	return true
}

// isCode reports whether s looks like a code: a number or a name.
func isCode(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isWord(c) && c != '-' && c != '.' && c != ':' && c != '/' {
			return false
		}
	}
	return len(s) <= maxErrorCode
}

// fit cuts t, which is redacted, to limit bytes, clear of marks, and cleans what
// is left: a cut can make a number out of a longer one. The result is scratch.
func (w *worker) fit(t []byte, limit int) []byte {
	const ellipsis = "…"
	if len(t) <= limit {
		return t
	}
	t = slices.Clone(t) // it may be the scratch that clean overwrites
	for end := limit - len(ellipsis); ; end -= 16 {
		if end <= 0 {
			return append(w.b[:0], ellipsis...)
		}
		w.short = append(w.short[:0], t[:w.cutAt(t, end)]...)
		w.short = append(w.short, ellipsis...)
		if out, _ := w.clean(w.short); len(out) <= limit {
			return out
		}
	}
}

// cutAt is where t may be cut to at most end bytes: at a rune's border, and not
// within a mark.
func (w *worker) cutAt(t []byte, end int) int {
	end = min(end, len(t))
	for i := max(0, end-96); i < end; i++ {
		if t[i] == '[' {
			if m := w.r.markAt(t, i); m > 0 && i+m > end {
				end = i
			} else if m > 0 {
				i += m - 1
			}
		}
	}
	return event.RuneCut(t, end)
}

// unescape decodes the escapes of a whole JSON text, as if it were one string.
// It is lenient: what it gives is looked at and thrown away.
func unescape(out, t []byte) []byte {
	for i := 0; i < len(t); i++ {
		c := t[i]
		if c != '\\' || i+1 >= len(t) {
			out = append(out, c)
			continue
		}
		i++
		switch t[i] {
		case 'n', 'r':
			out = append(out, '\n')
		case 't', 'b', 'f':
			out = append(out, ' ')
		case 'u':
			r, ok := hex4(t, i+1)
			if !ok {
				out = append(out, ' ')
				continue
			}
			i += 4
			if r < 0x80 {
				out = append(out, byte(r))
			} else {
				out = append(out, string(r)...)
			}
		default:
			out = append(out, t[i])
		}
	}
	return out
}

// Text redacts one free string, such as an error message, in full. The paths of
// the removals are empty.
func (r *Redactor) Text(s string) (text string, removed []event.Removal) {
	w := r.scratch.Get().(*worker)
	w.reset()
	finished := false
	defer func() {
		if !finished {
			_ = recover() // what it says may quote the content
			text, removed = "", []event.Removal{{Class: "panic"}}
			return
		}
		r.release(w)
	}()
	w.quiet, w.path = true, w.path[:0]
	out, changed := w.clean(validText(view(s)))
	text, removed = s, w.removed
	switch {
	case w.over:
		text, removed = "", []event.Removal{{Class: "over_budget"}}
	case changed || len(out) != len(s) || string(out) != s:
		text = string(out)
	}
	finished = true
	return text, removed
}
