package redact

import (
	"slices"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Call is what went over the wire, raw.
type Call struct {
	Server, Method, Target string
	Arguments, Result      []byte // JSON; nil when there was none
	ErrorMessage           string
}

// Report is what may be kept of a Call.
type Report struct {
	Arguments       string // redacted JSON; empty when dropped
	Truncated       bool
	OriginalBytes   uint64
	ArgumentsDigest event.Digest
	ResultDigest    event.Digest
	ArgumentsShape  event.Digest
	Signals         []string // sorted
	ArgumentMarks   []event.Mark
	ResultMarks     []event.Mark
	Removed         []event.Removal
	RemovedCount    uint32
	ErrorMessage    string
	Profile         string
	ProfileVersion  string
	Error           string // "invalid_json", "over_budget", "panic"; empty when content was kept
}

// worker is the scratch space of one call.
type worker struct {
	scanner
	doc     document
	canon   canonicalizer
	out     []byte
	a, b    []byte // texts under replacement
	flat    []byte
	buf     []byte
	path    []byte
	removed []event.Removal
	count   uint32
	rules   []*toolRules
	name    []byte // of the member about to be written, as it is written
	looked  int    // bytes of the current side that were scanned
	cut     bool
	keep    int    // depth of kept members around the current value
	alias   bool   // secrets become pseudonyms too
	short   []byte // a text after a cut
}

func newWorker(r *Redactor) *worker {
	w := &worker{}
	w.r = r
	w.hits = make([]hit, 0, 256)
	return w
}

// maxRetained is the largest buffer that goes back into the pool.
const maxRetained = 1 << 20

func (r *Redactor) release(w *worker) {
	if !w.kept() {
		return // one huge call must not pin its memory
	}
	w.removed = nil
	r.scratch.Put(w)
}

func (w *worker) kept() bool {
	return cap(w.out)+cap(w.canon.json)+cap(w.canon.shape)+cap(w.doc.arena)+44*cap(w.doc.nodes)+
		cap(w.a)+cap(w.b)+cap(w.flat)+cap(w.buf)+cap(w.short)+12*cap(w.hits)+24*cap(w.finds)+8*cap(w.inURLs) <= maxRetained
}

func (w *worker) reset() {
	w.level, w.quiet, w.work, w.over = everything, false, 0, false
	w.sig = signals{list: w.sig.list[:0]}
	w.marks, w.removed, w.count, w.cut, w.keep, w.alias = w.marks[:0], nil, 0, false, 0, false
	w.out, w.path = w.out[:0], append(w.path[:0], '$')
}

// Call redacts one call. It never panics and never passes on what it could not
// read.
func (r *Redactor) Call(c Call) (rep Report) {
	w := r.scratch.Get().(*worker)
	w.reset()
	rep.Profile, rep.ProfileVersion = r.profile.Name, r.profile.Version
	done := false
	defer func() {
		if !done {
			_ = recover() // what it says may quote the content
			rep.drop("panic")
			rep.ErrorMessage, rep.Signals = "", nil
			return // and leave the scratch to the collector
		}
		r.release(w)
	}()
	w.arguments(&c, &rep)
	over := w.over
	if over {
		w.sig.add("over_budget")
	}
	w.work, w.over = 0, false
	if w.result(c.Result, &rep); w.over {
		// Nothing of a result is kept: only its signals are incomplete.
		w.sig.list = append(w.sig.list, "over_budget")
		w.over = false
	}
	w.work = 0
	if !over && c.ErrorMessage != "" {
		w.errorMessage(c.ErrorMessage, &rep)
	}
	rep.Signals = w.signalList()
	rep.Removed, rep.RemovedCount = w.removed, w.count
	if over || w.over {
		rep.drop("over_budget")
		rep.ErrorMessage = ""
	}
	done = true
	return rep
}

// drop empties what holds content; digests, signals and marks stay.
func (rep *Report) drop(reason string) {
	rep.Arguments, rep.Truncated, rep.OriginalBytes = "", false, 0
	rep.Removed, rep.RemovedCount = nil, 0
	rep.Error = reason
}

// Apply redacts a call into the content and redaction fields of e.
func (r *Redactor) Apply(c Call, e *event.Event) {
	rep := r.Call(c)
	e.Arguments, e.Truncated, e.OriginalBytes = rep.Arguments, rep.Truncated, rep.OriginalBytes
	e.ArgumentsDigest, e.ResultDigest, e.ArgumentsShape = rep.ArgumentsDigest, rep.ResultDigest, rep.ArgumentsShape
	e.Signals, e.ArgumentMarks, e.ResultMarks = rep.Signals, rep.ArgumentMarks, rep.ResultMarks
	e.ErrorMessage = rep.ErrorMessage
	e.RedactionProfile, e.RedactionProfileVersion, e.RedactionError = rep.Profile, rep.ProfileVersion, rep.Error
	e.Removed, e.RemovedCount = rep.Removed, rep.RemovedCount
}

func (w *worker) arguments(c *Call, rep *Report) {
	if len(c.Arguments) == 0 {
		return
	}
	r := w.r
	w.looked = 0
	if len(c.Arguments) > r.profile.Oversized {
		w.sig.add("oversized")
	}
	if !w.digest(c.Arguments, &rep.ArgumentsDigest, &rep.ArgumentsShape) {
		if w.over {
			return
		}
		rep.Error = "invalid_json"
		w.rawSignals(c.Arguments, 256<<10)
		rep.ArgumentMarks = topMarks(w.marks, r.profile.MaxArgumentMarks)
		w.marks = w.marks[:0]
		return
	}
	w.rules = r.rulesFor(c.Server, c.Target, w.rules[:0])
	dropAll, digestAll := false, false
	for _, t := range w.rules {
		dropAll, digestAll = dropAll || t.dropAll, digestAll || t.digestAll
	}
	w.walk(0)
	if dropAll || digestAll {
		w.removed, w.count = nil, 0
		w.out = w.out[:0]
		if digestAll && !dropAll {
			w.digestOf(0)
		} else {
			w.replace("drop", nil)
		}
		w.cut = false
	}
	if sendsAway(c.Target) {
		for i := range w.marks {
			if k := w.marks[i].mark.Class; k == "email" || k == "url" || k == "domain" || k == "account" {
				w.sig.add("egress")
				break
			}
		}
	}
	rep.ArgumentMarks = topMarks(w.marks, r.profile.MaxArgumentMarks)
	w.marks = w.marks[:0]
	rep.Arguments = string(w.out)
	if w.cut {
		rep.Truncated, rep.OriginalBytes = true, uint64(len(c.Arguments))
	}
}

// valueCost is what one value of a JSON text counts against the budget: some 100
// bytes of memory, however few it has itself.
const valueCost = 32

// digest parses raw into w.doc and hashes it. What is not JSON, or is over the
// budget, is hashed as it is, and false returned.
func (w *worker) digest(raw []byte, content, shape *event.Digest) bool {
	k := &w.r.key0
	w.doc.most = w.r.profile.Budget / valueCost
	if !w.spend(2*len(raw)) || !w.doc.parse(raw) {
		if w.doc.tooMany {
			w.over = true
		}
		w.buf = append(k.begin(w.buf), raw...)
		*content = k.digest(w.buf)
		return false
	}
	w.canon.json, w.canon.shape = k.begin(w.canon.json), k.begin(w.canon.shape)
	w.canon.walk(&w.doc, 0)
	*content = k.digest(w.canon.json)
	if shape != nil {
		*shape = k.digest(w.canon.shape)
	}
	if w.doc.damaged {
		w.sig.add("invalid_utf8")
	}
	if w.doc.duplicate {
		w.sig.add("duplicate_key")
	}
	return true
}

// result reads a result for signals and marks; none of it is kept.
func (w *worker) result(raw []byte, rep *Report) {
	if len(raw) == 0 {
		return
	}
	w.sig.from, w.sig.prefix, w.sig.urls = len(w.sig.list), "result:", 0
	limit := w.r.profile.MaxResult
	if !w.digest(raw, &rep.ResultDigest, nil) {
		if !w.over {
			w.rawSignals(raw, limit)
		}
	} else {
		for i := range w.doc.nodes {
			n := &w.doc.nodes[i]
			if limit <= 0 || w.over {
				break
			}
			if n.keyed && n.key.hi-n.key.lo > 24 {
				w.observe(w.doc.bytes(n.key)) // a long key may be data
			}
			if n.kind != '"' {
				continue
			}
			t := w.doc.bytes(n.val)
			t = t[:min(len(t), limit)]
			limit -= len(t)
			w.observe(t)
		}
	}
	rep.ResultMarks = topMarks(w.marks, w.r.profile.MaxResultMarks)
	w.marks = w.marks[:0]
}

// rawSignals looks at content that is not JSON.
func (w *worker) rawSignals(raw []byte, limit int) {
	w.observe(validText(raw[:min(len(raw), limit)]))
}

// observe scans a text for signals and marks alone.
func (w *worker) observe(t []byte) {
	if len(t) < 2 {
		return
	}
	from := len(w.marks)
	w.scan(t)
	w.noteFinds()
	w.buf = w.hashMarks(t, from, w.buf)
}

// noteFinds turns the classes of what was found into signals.
func (w *worker) noteFinds() {
	for i := range w.finds {
		w.noteClass(w.finds[i].class)
	}
}

func (w *worker) noteClass(class string) {
	if w.quiet {
		return
	}
	if rest, ok := strings.CutPrefix(class, "key:"); ok {
		switch rest {
		case "national_id", "card":
			class = "pii:" + rest
		default:
			class = "secret:" + rest
		}
	}
	w.sig.add(class)
}

// maxMessage is how much of an error message is looked at. It is far more than
// what is kept: where the message is cut before it is looked at, a secret may be
// cut in two and not be known as one any more. The word at that cut goes.
const maxMessage = 256 << 10

func (w *worker) errorMessage(msg string, rep *Report) {
	w.quiet = true
	w.path = append(w.path[:0], "error_message"...)
	if len(msg) > maxMessage {
		msg = msg[:maxMessage]
		for len(msg) > 0 && !isSpace(msg[len(msg)-1]) {
			msg = msg[:len(msg)-1]
		}
	}
	t := validText(view(msg))
	out, _ := w.clean(t)
	rep.ErrorMessage = string(w.fit(out, event.MaxText))
}

// signalList gives the signals of both sides, sorted.
func (w *worker) signalList() []string {
	g := &w.sig
	if len(g.list) == 0 {
		return nil
	}
	out := make([]string, 0, len(g.list))
	for i, s := range g.list {
		if g.prefix != "" && i >= g.from {
			s = g.prefix + s
		}
		out = append(out, s)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), event.MaxSignals)]
}

// sendsAway reports whether a tool's name says that it carries data out.
func sendsAway(tool string) bool {
	var words [16]string
	n := 0
	start := 0
	for i := 0; i <= len(tool) && n < len(words); i++ {
		edge := i == len(tool) || !isAlnum(tool[i]) || i > start && isUpper(tool[i]) && !isUpper(tool[i-1])
		if !edge {
			continue
		}
		if i > start {
			words[n] = tool[start:i]
			n++
		}
		start = i
		if i < len(tool) && !isAlnum(tool[i]) {
			start = i + 1
		}
	}
	if n > 0 {
		for _, v := range [...]string{"search", "get", "list", "read", "find", "lookup", "count", "check", "view", "show"} {
			if len(words[0]) == len(v) && strings.EqualFold(words[0], v) {
				return false // it looks for an address, or at what was sent to it
			}
		}
	}
	for _, w := range words[:n] {
		for _, v := range [...]string{"send", "email", "mail", "post", "publish", "share", "upload", "forward", "transfer", "pay", "payment",
			"invite", "message", "notify", "webhook", "tweet", "reply", "submit", "export", "push", "http", "fetch", "request", "sms",
			"call", "comment", "dm", "broadcast", "participants", "wire"} {
			if len(w) == len(v) && strings.EqualFold(w, v) {
				return true
			}
		}
	}
	return false
}
