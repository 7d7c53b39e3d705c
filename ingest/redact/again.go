package redact

import (
	"bytes"
	"unsafe"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Again is the service's look at an event that an emitter has already redacted.
// It takes out secrets and personal data with a form of their own wherever they
// got through: arguments, error message, decision reason, target, user agent,
// principal's name, labels. Digests, marks, signals and the emitter's own report
// stay; what is removed here is added to the report.
//
// A clean event costs one pass over its text and no allocation. The principal is
// an identity, not content: it keeps an e-mail address and loses secrets alone.
func (r *Redactor) Again(e *event.Event) {
	w := r.scratch.Get().(*worker)
	w.reset()
	w.quiet = true
	done := false
	defer func() {
		if !done {
			_ = recover() // what it says may quote the content
			e.Arguments, e.ErrorMessage, e.DecisionReason, e.RedactionError = "", "", "", "panic"
			return
		}
		r.release(w)
	}()
	if e.Arguments != "" {
		w.argumentsAgain(e)
	}
	w.fieldAgain(&e.ErrorMessage, "error_message", structured)
	w.fieldAgain(&e.DecisionReason, "decision_reason", structured)
	w.fieldAgain(&e.Target, "target", structured)
	w.fieldAgain(&e.UserAgent, "user_agent", secretsOnly)
	w.fieldAgain(&e.PrincipalName, "principal_name", secretsOnly)
	for i := range e.Labels {
		w.fieldAgain(&e.Labels[i].Value, "labels", structured)
	}
	if w.over {
		e.Arguments, e.ErrorMessage, e.DecisionReason, e.RedactionError = "", "", "", "over_budget"
	}
	if w.count > 0 {
		// The emitter's list may be shared with others: don't append in place.
		n := len(e.Removed)
		e.Removed = append(e.Removed[:n:n], w.removed[:min(len(w.removed), event.MaxRemoved-min(n, event.MaxRemoved))]...)
		e.RemovedCount += w.count
	}
	done = true
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
	if w.count == 0 && !w.cut {
		return // what the first look took for a find was none in its place
	}
	if w.cut && !e.Truncated {
		e.Truncated, e.OriginalBytes = true, uint64(len(e.Arguments))
	}
	e.Arguments = string(w.out)
}

// fieldAgain scrubs one field in place.
func (w *worker) fieldAgain(s *string, name string, l level) {
	if len(*s) < 6 {
		return
	}
	w.level = l
	w.scan(view(*s))
	if len(w.finds) == 0 {
		return
	}
	w.path = append(w.path[:0], name...)
	out, changed := w.clean(view(*s))
	if changed {
		*s = string(out)
	}
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
func (r *Redactor) Text(s string) (string, []event.Removal) {
	w := r.scratch.Get().(*worker)
	w.reset()
	w.quiet, w.path = true, w.path[:0]
	out, changed := w.clean(validText(view(s)))
	removed := w.removed
	switch {
	case w.over:
		s, removed = "", []event.Removal{{Class: "over_budget"}}
	case changed || len(out) != len(s) || string(out) != s:
		s = string(out)
	}
	r.release(w)
	return s, removed
}
