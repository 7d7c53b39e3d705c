package event

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// Limits of one event. They bound what a hostile emitter can make the service
// hold, and they leave room for anything a real MCP server says.
const (
	MaxID        = 256     // bytes in an id, a name or a version
	MaxText      = 2048    // bytes in a principal, target, user agent, reason or message
	MaxArguments = 1 << 20 // bytes of redacted arguments; redaction cuts at 16 KiB unless configured
	MaxList      = 64      // scopes, delegation links, labels
	MaxSignals   = 128
	MaxMarks     = 256 // marks of the arguments, and of the result
	MaxRemoved   = 256 // removals listed; RemovedCount counts all
	MaxLabelKey  = 128

	minOccurred = 946684800_000000  // 2000-01-01: before it, a clock was never set
	maxOccurred = 7258118400_000000 // 2200-01-01: inside DateTime64's range with room to spare
)

// A Violation says which field of an event breaks which limit. Its text is safe
// to send back: it never holds the field's value.
type Violation struct {
	Field  string
	Reason string
}

func (v *Violation) Error() string { return v.Field + ": " + v.Reason }

// Check says what is wrong with an event as an emitter sends it, or nil. The
// error is a *Violation. Events that SetDefaults completed are what it expects.
func (e *Event) Check() error {
	switch {
	case e.EventID.Version() != 7 || e.EventID[8]&0xc0 != 0x80:
		return &Violation{"event_id", "must be a UUID version 7"}
	case e.Schema != Schema:
		return &Violation{"schema", fmt.Sprintf("is %d, this service knows %d; upgrade the service or the emitter", e.Schema, Schema)}
	case e.EmitterID == "":
		return &Violation{"emitter_id", "is required"}
	case e.EmitterSeq == 0:
		return &Violation{"emitter_seq", "is required and starts at 1"}
	case e.OccurredAt < minOccurred || e.OccurredAt > maxOccurred:
		return &Violation{"occurred_at", "must lie between the years 2000 and 2200; set the emitter's clock"}
	case e.Duration > 1<<53:
		return &Violation{"duration", "is longer than 285 years"}
	}
	for _, c := range [...]struct {
		field, value string
		set          []string
	}{
		{"kind", e.Kind, Kinds}, {"principal_kind", e.PrincipalKind, PrincipalKinds},
		{"decision", e.Decision, Decisions}, {"outcome", e.Outcome, Outcomes},
	} {
		if !slices.Contains(c.set, c.value) {
			return &Violation{c.field, fmt.Sprintf("must be one of %v", c.set)}
		}
	}
	if e.Transport != "" && !slices.Contains(Transports, e.Transport) {
		return &Violation{"transport", fmt.Sprintf("must be one of %v", Transports)}
	}
	if v := e.checkText(); v != nil {
		return v
	}
	if v := e.checkLists(); v != nil {
		return v
	}
	return nil
}

func (e *Event) checkText() *Violation {
	for i := range Texts {
		t := &Texts[i]
		if v := checkString(t.Name, *t.Of(e), t.Limit); v != nil {
			return v
		}
	}
	return checkString("arguments", e.Arguments, MaxArguments)
}

func (e *Event) checkLists() *Violation {
	for i := range Lists {
		l := &Lists[i]
		values := *l.Of(e)
		if len(values) > l.Most {
			return tooMany(l.Name, len(values), l.Most)
		}
		for _, s := range values {
			if v := checkString(l.Name, s, l.Limit); v != nil {
				return v
			}
		}
	}
	for _, m := range [...]struct {
		field string
		marks []Mark
	}{{"argument_marks", e.ArgumentMarks}, {"result_marks", e.ResultMarks}} {
		if len(m.marks) > MaxMarks {
			return tooMany(m.field, len(m.marks), MaxMarks)
		}
		for i := range m.marks {
			if !slices.Contains(MarkClasses, m.marks[i].Class) {
				return &Violation{m.field, fmt.Sprintf("class must be one of %v", MarkClasses)}
			}
		}
	}
	if len(e.Removed) > MaxRemoved {
		return tooMany("removed", len(e.Removed), MaxRemoved)
	}
	for _, r := range e.Removed {
		if v := checkString("removed", r.Path, MaxText); v != nil {
			return v
		}
		if v := checkString("removed", r.Class, MaxID); v != nil {
			return v
		}
	}
	if len(e.Labels) > MaxList {
		return tooMany("labels", len(e.Labels), MaxList)
	}
	for _, l := range e.Labels {
		if v := checkString("labels", l.Key, MaxLabelKey); v != nil {
			return v
		}
		if v := checkString("labels", l.Value, MaxText); v != nil {
			return v
		}
	}
	return nil
}

func checkString(field, s string, limit int) *Violation {
	if len(s) > limit {
		return &Violation{field, fmt.Sprintf("has %d bytes, at most %d are taken", len(s), limit)}
	}
	if !utf8.ValidString(s) {
		return &Violation{field, "is not valid UTF-8"}
	}
	return nil
}

func tooMany(field string, n, limit int) *Violation {
	return &Violation{field, fmt.Sprintf("has %d entries, at most %d are taken", n, limit)}
}

// Clip makes every text and list of content acceptable to [Event.Check]: it cuts
// what is over its limit, at a rune's border, and replaces invalid UTF-8, so that
// an emitter never has an event rejected for what a client or a tool said.
// Arguments over their limit are no JSON any more when they are cut: they are
// left out whole, and Truncated and OriginalBytes say so. It reports whether it
// changed anything. Lists may be shared with other events and are not written to.
func (e *Event) Clip() bool {
	cut := false
	for i := range Texts {
		t := &Texts[i]
		s := t.Of(e)
		if c := ClipText(*s, t.Limit); c != *s {
			*s, cut = c, true
		}
	}
	if len(e.Arguments) > MaxArguments || !utf8.ValidString(e.Arguments) {
		e.Truncated, e.OriginalBytes, e.Arguments, cut = true, max(e.OriginalBytes, uint64(len(e.Arguments))), "", true
	}
	for i := range Lists {
		l := &Lists[i]
		cut = clipList(l.Of(e), l.Most, func(s *string) bool { return clipOne(s, l.Limit) }) || cut
	}
	cut = clipList(&e.ArgumentMarks, MaxMarks, func(*Mark) bool { return false }) || cut
	cut = clipList(&e.ResultMarks, MaxMarks, func(*Mark) bool { return false }) || cut
	cut = clipList(&e.Removed, MaxRemoved, func(r *Removal) bool {
		path := clipOne(&r.Path, MaxText)
		return clipOne(&r.Class, MaxID) || path
	}) || cut
	keys := false
	cut = clipList(&e.Labels, MaxList, func(l *Label) bool {
		key := clipOne(&l.Key, MaxLabelKey)
		keys = keys || key
		return clipOne(&l.Value, MaxText) || key
	}) || cut
	if keys { // two long keys may have become one
		e.SortLabels()
	}
	return cut
}

// clipList cuts a list to its length and applies clip to each element; it writes
// to a list of its own.
func clipList[T any](list *[]T, most int, clip func(*T) bool) bool {
	cut, own := false, false
	if len(*list) > most {
		*list, cut = (*list)[:most:most], true
	}
	for i, v := range *list {
		if !clip(&v) {
			continue
		}
		if !own {
			*list, own = slices.Clone(*list), true
		}
		(*list)[i], cut = v, true
	}
	return cut
}

func clipOne(s *string, limit int) bool {
	c := ClipText(*s, limit)
	changed := c != *s
	*s = c
	return changed
}

// ClipText returns s as valid UTF-8 of at most limit bytes, ending in "…" when
// it was cut.
func ClipText(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) {
		return s
	}
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	if len(s) <= limit {
		return s
	}
	const ellipsis = "…"
	return s[:RuneCut(s, max(limit-len(ellipsis), 0))] + ellipsis
}

// RuneCut is where a text of valid UTF-8 may be cut so that at most n bytes stay:
// n itself, or the border of the rune that it stands in. Whatever cuts a text
// that is kept cuts it here: half a rune makes an event that nobody can read.
func RuneCut[T string | []byte](s T, n int) int {
	if n >= len(s) {
		return len(s)
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return n
}
