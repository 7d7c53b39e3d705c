package export

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// parseLine reads a line of JSONL, without its line feed, as appendLine wrote it; it
// says false for some that it did not write. Whoever needs to know all of these makes
// the line of the event again and compares: so it is an order of magnitude faster
// than protojson.
func parseLine(line []byte, e *event.Event) bool {
	*e = event.Event{}
	if !utf8.Valid(line) {
		return false
	}
	r := lineReader{s: string(line)}
	r.object(func(name string) {
		if read := members[name]; read != nil {
			read(&r, e)
		} else {
			r.bad = true
		}
	})
	return !r.bad && r.s == ""
}

// members read the value of each member of an event.
var members = func() map[string]func(*lineReader, *event.Event) {
	m := map[string]func(*lineReader, *event.Event){
		"event_id":          func(r *lineReader, e *event.Event) { e.EventID = checked(r, r.text(), event.ParseID) },
		"schema":            func(r *lineReader, e *event.Event) { e.Schema = uint16(r.number(16)) },
		"emitter_seq":       func(r *lineReader, e *event.Event) { e.EmitterSeq = r.long() },
		"occurred_at":       func(r *lineReader, e *event.Event) { e.OccurredAt = r.time() },
		"received_at":       func(r *lineReader, e *event.Event) { e.ReceivedAt = r.time() },
		"duration":          func(r *lineReader, e *event.Event) { e.Duration = r.duration() },
		"principal_kind":    func(r *lineReader, e *event.Event) { e.PrincipalKind = r.text() },
		"transport":         func(r *lineReader, e *event.Event) { e.Transport = r.text() },
		"kind":              func(r *lineReader, e *event.Event) { e.Kind = r.text() },
		"definition_digest": func(r *lineReader, e *event.Event) { e.DefinitionDigest = r.digest() },
		"hints":             func(r *lineReader, e *event.Event) { e.Hints = r.hints() },
		"attempt":           func(r *lineReader, e *event.Event) { e.Attempt = uint32(r.number(32)) },
		"decision":          func(r *lineReader, e *event.Event) { e.Decision = r.text() },
		"outcome":           func(r *lineReader, e *event.Event) { e.Outcome = r.text() },
		"http_status":       func(r *lineReader, e *event.Event) { e.HTTPStatus = uint16(r.number(16)) },
		"request_bytes":     func(r *lineReader, e *event.Event) { e.RequestBytes = r.long() },
		"response_bytes":    func(r *lineReader, e *event.Event) { e.ResponseBytes = r.long() },
		"arguments":         func(r *lineReader, e *event.Event) { e.Arguments = r.text() },
		"truncated":         func(r *lineReader, e *event.Event) { e.Truncated = r.bit() },
		"original_bytes":    func(r *lineReader, e *event.Event) { e.OriginalBytes = r.long() },
		"arguments_digest":  func(r *lineReader, e *event.Event) { e.ArgumentsDigest = r.digest() },
		"result_digest":     func(r *lineReader, e *event.Event) { e.ResultDigest = r.digest() },
		"arguments_shape":   func(r *lineReader, e *event.Event) { e.ArgumentsShape = r.digest() },
		"argument_marks":    func(r *lineReader, e *event.Event) { e.ArgumentMarks = r.marks() },
		"result_marks":      func(r *lineReader, e *event.Event) { e.ResultMarks = r.marks() },
		"removed":           func(r *lineReader, e *event.Event) { e.Removed = r.removed() },
		"removed_count":     func(r *lineReader, e *event.Event) { e.RemovedCount = uint32(r.number(32)) },
		"log_id":            func(r *lineReader, e *event.Event) { e.LogID = r.text() },
		"batch":             func(r *lineReader, e *event.Event) { e.Batch = r.long() },
		"leaf":              func(r *lineReader, e *event.Event) { e.Leaf = uint32(r.number(32)) },
		"expires_month":     func(r *lineReader, e *event.Event) { e.ExpiresMonth = r.month() },
		"labels": func(r *lineReader, e *event.Event) {
			r.object(func(key string) { e.Labels = append(e.Labels, event.Label{Key: key, Value: r.text()}) })
		},
	}
	for _, t := range event.Texts {
		m[t.Name] = func(r *lineReader, e *event.Event) { *t.Of(e) = r.text() }
	}
	for _, l := range event.Lists {
		m[l.Name] = func(r *lineReader, e *event.Event) {
			r.array(func() { *l.Of(e) = append(*l.Of(e), r.text()) })
		}
	}
	return m
}()

// lineReader reads JSON without white space. After a mistake everything is zero.
type lineReader struct {
	s   string
	bad bool
}

func (r *lineReader) fail() { r.s, r.bad = "", true }

// skip passes over a text that must come next.
func (r *lineReader) skip(s string) {
	rest, ok := strings.CutPrefix(r.s, s)
	if !ok {
		r.fail()
		return
	}
	r.s = rest
}

// next passes over a character when it comes next.
func (r *lineReader) next(c byte) bool {
	if r.s == "" || r.s[0] != c {
		return false
	}
	r.s = r.s[1:]
	return true
}

func (r *lineReader) object(member func(name string)) {
	r.skip("{")
	for first := true; !r.bad && !r.next('}'); first = false {
		if !first {
			r.skip(",")
		}
		name := r.text()
		r.skip(":")
		if !r.bad {
			member(name)
		}
	}
}

func (r *lineReader) array(element func()) {
	r.skip("[")
	for first := true; !r.bad && !r.next(']'); first = false {
		if !first {
			r.skip(",")
		}
		if !r.bad {
			element()
		}
	}
}

func (r *lineReader) text() string {
	r.skip(`"`)
	for at := 0; at < len(r.s); at++ {
		switch r.s[at] {
		case '"':
			s := r.s[:at]
			r.s = r.s[at+1:]
			return s
		case '\\':
			return r.escaped(at)
		}
	}
	r.fail()
	return ""
}

// escaped is a text with escapes, the first of them at that place.
func (r *lineReader) escaped(at int) string {
	for ; at < len(r.s); at++ {
		switch r.s[at] {
		case '\\':
			at++
		case '"':
			var s string
			if json.Unmarshal([]byte(`"`+r.s[:at+1]), &s) != nil {
				r.fail()
				return ""
			}
			r.s = r.s[at+1:]
			return s
		}
	}
	r.fail()
	return ""
}

func (r *lineReader) number(bits int) uint64 {
	at := 0
	for at < len(r.s) && r.s[at] >= '0' && r.s[at] <= '9' {
		at++
	}
	n := checked(r, r.s[:at], func(s string) (uint64, error) { return strconv.ParseUint(s, 10, bits) })
	if !r.bad {
		r.s = r.s[at:]
	}
	return n
}

func (r *lineReader) long() uint64 {
	return checked(r, r.text(), func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
}

func (r *lineReader) bit() bool {
	if rest, ok := strings.CutPrefix(r.s, "true"); ok {
		r.s = rest
		return true
	}
	r.skip("false")
	return false
}

// checked is what parse makes of a text.
func checked[T any](r *lineReader, s string, parse func(string) (T, error)) T {
	v, err := parse(s)
	if err != nil {
		r.fail()
	}
	return v
}

func (r *lineReader) time() int64 {
	t := checked(r, r.text(), func(s string) (time.Time, error) { return time.Parse(time.RFC3339Nano, s) })
	return t.UnixMicro()
}

func (r *lineReader) month() uint16 {
	t := checked(r, r.text(), func(s string) (time.Time, error) { return time.Parse("2006-01", s) })
	return uint16(t.Unix() / 86400)
}

func (r *lineReader) duration() uint64 {
	whole, ok := strings.CutSuffix(r.text(), "s")
	if !ok {
		r.fail()
	}
	whole, fraction, _ := strings.Cut(whole, ".")
	seconds := checked(r, whole, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
	micros := checked(r, (fraction + "000000")[:6], func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
	return seconds*1e6 + micros
}

func (r *lineReader) digest() event.Digest {
	return checked(r, r.text(), func(s string) (d event.Digest, err error) {
		if len(s) != 2*len(d) {
			return d, hex.ErrLength
		}
		_, err = hex.Decode(d[:], []byte(s))
		return d, err
	})
}

func (r *lineReader) hints() (h event.Hints) {
	fields := map[string]*bool{"read_only": &h.ReadOnly, "destructive": &h.Destructive, "idempotent": &h.Idempotent, "open_world": &h.OpenWorld}
	r.object(func(name string) {
		if fields[name] == nil {
			r.fail()
			return
		}
		*fields[name] = r.bit()
	})
	return h
}

func (r *lineReader) marks() (ms []event.Mark) {
	r.array(func() {
		var m event.Mark
		r.object(func(name string) {
			switch name {
			case "hash":
				m.Hash = r.long()
			case "class":
				m.Class = r.text()
			case "near_instruction":
				m.NearInstruction = r.bit()
			default:
				r.fail()
			}
		})
		ms = append(ms, m)
	})
	return ms
}

func (r *lineReader) removed() (rs []event.Removal) {
	r.array(func() {
		var one event.Removal
		r.object(func(name string) {
			switch name {
			case "path":
				one.Path = r.text()
			case "class":
				one.Class = r.text()
			default:
				r.fail()
			}
		})
		rs = append(rs, one)
	})
	return rs
}

// sameLine says that a line is the event's, and gives the memory of scratch again.
func sameLine(scratch, line []byte, e *event.Event) ([]byte, bool) {
	scratch = appendEvent(scratch[:0], e)
	return scratch, bytes.Equal(scratch, line)
}
