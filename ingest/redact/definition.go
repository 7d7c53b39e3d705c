package redact

import (
	"crypto/sha256"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// maxDescription is the length from which on a tool's description is a signal:
// twice what the longest of some 500 tools of public servers has.
const maxDescription = 8192

// Definition hashes a tool's definition, so that a change of it is seen, and
// reads it for what tool poisoning looks like: hidden_unicode, injection_phrase,
// overlong, secret:…, url:….
//
// The digest is SHA-256 over the description, white space normalised, and the
// canonical JSON of the schemas, cut to 128 bits. It is not keyed: definitions
// are no secret, and the same tool must have the same digest at every emitter,
// whatever its key. Schemas is any JSON that holds the rest of the definition;
// what is not JSON is hashed as it is.
//
// Description and schemas are what a server says, which may be hostile: what
// makes the code panic gets the signal "panic", and what costs too much
// "over_budget".
func (r *Redactor) Definition(description string, schemas []byte) (d event.Digest, signals []string) {
	w := r.scratch.Get().(*worker)
	w.reset()
	finished := false
	defer func() {
		if !finished {
			_ = recover() // what it says may quote the content
			signals = []string{"panic"}
			return
		}
		r.release(w)
	}()
	text := validText(view(description))
	w.buf = append(w.buf[:0], "mcpaudit tool definition\x00"...)
	w.buf = appendFolded(w.buf, text)
	w.buf = append(w.buf, 0)
	ok := len(schemas) > 0 && w.doc.parse(schemas)
	if ok {
		w.canon.json, w.canon.shape = w.canon.json[:0], w.canon.shape[:0]
		w.canon.walk(&w.doc, 0)
		w.buf = append(w.buf, w.canon.json...)
	} else {
		w.buf = append(w.buf, schemas...)
	}
	sum := sha256.Sum256(w.buf)
	copy(d[:], sum[:])

	if len(text) > maxDescription {
		w.sig.add("overlong")
	}
	w.level = structured
	w.lookOnly(text)
	if ok {
		for i := range w.doc.nodes {
			if n := &w.doc.nodes[i]; n.kind == '"' && !w.over {
				w.lookOnly(w.doc.bytes(n.val))
			}
		}
	} else {
		w.lookOnly(validText(schemas))
	}
	if w.over {
		w.sig.add("over_budget")
	}
	signals, finished = w.signalList(), true
	return d, signals
}

func (w *worker) lookOnly(t []byte) {
	if len(t) < 3 {
		return
	}
	w.scan(t)
	w.noteFinds()
	w.marks = w.marks[:0]
}

// appendFolded writes t with each run of white space as one space and none at
// the ends.
func appendFolded(out, t []byte) []byte {
	from := len(out)
	space := false
	for _, c := range t {
		if isSpace(c) || c == '\v' || c == '\f' {
			space = true
			continue
		}
		if space && len(out) > from {
			out = append(out, ' ')
		}
		space = false
		out = append(out, c)
	}
	return out
}
