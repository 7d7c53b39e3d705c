package redact

import (
	"bytes"
	"strings"
)

// fixedClasses are the classes that no rule names.
var fixedClasses = []string{
	"key:password", "key:secret", "key:token", "key:api_key", "key:authorization", "key:cookie", "key:credential", "key:national_id",
	"key:card", "key:cvv", "key:pin", "key:connection_string",
	"secret:password", "secret:token", "secret:api-key", "secret:cookie", "secret:pin", "secret:generic",
	"pii:email", "pii:phone", "pii:card", "pii:iban", "pii:ip", "pii:ssn", "pii:national_id", "pii:name", "pii:address", "pii:account",
	"pii:crypto", "pii:birth_date", "pii:mac", "pii:passport", "pii:driver_license",
	"drop", "unstable", "long",
}

func (r *Redactor) knownClasses() map[string]bool {
	m := map[string]bool{}
	for _, c := range fixedClasses {
		m[c] = true
	}
	for _, t := range r.lexicon.triggers {
		if t.rule != nil {
			m[t.rule.class] = true
		}
	}
	for _, c := range r.secret {
		m[c] = true
	}
	return m
}

// appendMark writes what stands in the place of a value of this class.
func (r *Redactor) appendMark(out []byte, class string, value []byte) []byte {
	if r.pseudo[class] {
		return r.key0.appendPseudonym(out, class, value)
	}
	out = append(out, "[REDACTED:"...)
	out = append(out, class...)
	return append(out, ']')
}

// markAt returns the length of the mark at t[i], or 0. Only the exact forms that
// this package writes count, with classes it knows: anything else in brackets
// is text, so nobody can hide a secret in something that looks like a mark.
func (r *Redactor) markAt(t []byte, i int) int {
	if t[i] != '[' {
		return 0
	}
	rest := t[i+1 : min(len(t), i+96)]
	end := bytes.IndexByte(rest, ']')
	if end < 0 {
		return 0
	}
	body := rest[:end]
	if c, ok := bytes.CutPrefix(body, []byte("REDACTED:")); ok {
		if r.classes[string(c)] {
			return end + 2
		}
		return 0
	}
	if c, ok := bytes.CutPrefix(body, []byte("CUT:")); ok {
		n := 0
		for n < len(c) && isDigit(c[n]) {
			n++
		}
		if n > 0 && n <= 10 && string(c[n:]) == " bytes" {
			return end + 2
		}
		return 0
	}
	colon := bytes.LastIndexByte(body, ':')
	if colon < 0 || len(body)-colon-1 != 12 {
		return 0
	}
	for _, c := range body[colon+1:] {
		if !isDigit(c) && (c < 'a' || c > 'f') {
			return 0
		}
	}
	var buf [64]byte
	if colon > len(buf) {
		return 0
	}
	kind := bytes.IndexByte(body, ':')
	for j, c := range body[:colon] {
		if j < kind {
			if !isUpper(c) {
				return 0
			}
			c = lower(c)
		}
		buf[j] = c
	}
	if r.classes[string(buf[:colon])] || string(buf[:colon]) == "digest:value" {
		return end + 2
	}
	return 0
}

// isMarkAt reports whether a mark starts at i.
func (r *Redactor) isMarkAt(t []byte, i int) bool { return i < len(t) && r.markAt(t, i) > 0 }

// isMark reports whether t is one mark and nothing else.
func (r *Redactor) isMark(t []byte) bool {
	return len(t) > 2 && t[0] == '[' && r.markAt(t, 0) == len(t)
}

// clearOfMarks cuts from a find what belongs to marks at its edges; ok is false
// when nothing is left to take.
func (r *Redactor) clearOfMarks(t []byte, f find) (find, bool) {
	for i := max(0, int(f.lo)-96); i < int(f.hi); i++ {
		if t[i] != '[' {
			continue
		}
		n := r.markAt(t, i)
		if n == 0 {
			continue
		}
		a, b := int32(i), int32(i+n)
		switch {
		case b <= f.lo:
		case a <= f.lo && b >= f.hi:
			return f, false
		case a <= f.lo:
			f.lo = b
		case b >= f.hi:
			f.hi = a
		}
		i += n - 1
	}
	for _, c := range t[f.lo:f.hi] {
		if isAlnum(c) || c >= 0x80 {
			return f, true
		}
	}
	return f, false
}

// Pseudonym is what stands in the place of value when its class is
// pseudonymised, so that somebody who has the key and a value can search the log
// for it. Class is one such as "pii:email".
func (r *Redactor) Pseudonym(class, value string) string {
	return string(r.key0.appendPseudonym(nil, class, []byte(strings.TrimSpace(value))))
}

// Classes lists the classes under which Pseudonym may have been used with this
// profile.
func (r *Redactor) Classes() []string { return append([]string(nil), r.profile.Pseudonyms...) }
