package rules

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// scriptDay is the day of times that name none: a Monday.
var scriptDay = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// Bounds of one script: events, and what they take in bytes.
const (
	maxScript     = 200_000
	maxScriptSize = 512 << 20
)

// Script makes events of a text that people can read: one line for one event, or
// for many of a kind.
//
//	with principal=agent:bot session_id=s1 server=files   # what the lines below have
//	09:00:00 target=read_file arguments=a result=x        # on Monday, 2 March 2026
//	+2s x10 /2s target=read_file arguments={n} result=y   # ten more, every two seconds
//	2026-03-09T03:00:00Z target=list_files
//
// The first word is the time, +… since the line before ended. xN makes N events, and
// /… is the time between them. {n} is their number, from 1. Other words are fields
// of an event by their JSON names; besides, arguments and result are any text that
// stands for itself (equal texts have equal digests), definition stands for a tool's
// definition, argument_marks=class:text,… and result_marks=class:text!,… for values
// (! beside an instruction), hints=read_only,open_world names those that are set,
// received_after=50ms is the delay of the service's receipt, and less than nothing
// where the emitter's clock is ahead. Lists take commas; texts with blanks are put in
// "double quotes". What follows a # at the beginning of a word is a comment. Events are
// sorted by when they were received, or happened where no service has received them.
func Script(text string) ([]*event.Event, error) {
	s := script{now: scriptDay, sequences: map[string]uint64{}}
	for i, line := range strings.Split(text, "\n") {
		if err := s.line(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	slices.SortStableFunc(s.events, func(a, b *event.Event) int {
		return cmp.Compare(came(a), came(b))
	})
	for i, e := range s.events {
		var noise [10]byte
		binary.BigEndian.PutUint64(noise[2:], uint64(i))
		e.EventID = event.NewID(time.UnixMicro(e.OccurredAt), noise)
		if e.EmitterSeq == 0 {
			s.sequences[e.EmitterID]++
			e.EmitterSeq = s.sequences[e.EmitterID]
		}
		e.SetDefaults()
		if err := e.Check(); err != nil {
			return nil, fmt.Errorf("event %d: %w", i+1, err)
		}
	}
	return s.events, nil
}

// came is when an event was received, µs, or when it happened if nobody has yet.
func came(e *event.Event) int64 {
	if e.ReceivedAt != 0 {
		return e.ReceivedAt
	}
	return e.OccurredAt
}

type script struct {
	now       time.Time
	defaults  []string
	events    []*event.Event
	sequences map[string]uint64
	size      int
}

func (s *script) line(line string) error {
	words, err := split(line)
	if err != nil || len(words) == 0 {
		return err
	}
	if words[0] == "with" {
		s.defaults = words[1:]
		return apply(&event.Event{}, s.defaults, 1)
	}
	at, err := s.time(words[0])
	if err != nil {
		return err
	}
	words = words[1:]
	count, gap := 1, time.Duration(0)
	for len(words) > 0 && !strings.Contains(words[0], "=") {
		w := words[0]
		switch {
		case strings.HasPrefix(w, "x"):
			count, err = strconv.Atoi(w[1:])
		case strings.HasPrefix(w, "/"):
			gap, err = time.ParseDuration(w[1:])
		default:
			err = errors.New("not known")
		}
		if err != nil || count < 1 || count > maxScript || gap < 0 {
			return fmt.Errorf("%q: behind the time come xN for so many events, /2s for the time between them, and fields such as target=read_file", w)
		}
		words = words[1:]
	}
	if len(s.events)+count > maxScript {
		return fmt.Errorf("more than %d events", maxScript)
	}
	each := (&event.Event{}).Size()
	for _, w := range slices.Concat(s.defaults, words) {
		each += len(w) + len("200000")*strings.Count(w, "{n}")
	}
	if s.size += count * each; s.size > maxScriptSize {
		return fmt.Errorf("events of more than %d MiB", maxScriptSize>>20)
	}
	for i := range count {
		e := &event.Event{Kind: "tool_call", Method: "tools/call", Outcome: "success", EmitterID: "example", OccurredAt: at.UnixMicro(), Hints: event.DefaultHints}
		if err := apply(e, s.defaults, i+1); err != nil {
			return err
		}
		if err := apply(e, words, i+1); err != nil {
			return err
		}
		s.events = append(s.events, e)
		s.now = at
		at = at.Add(gap)
	}
	return nil
}

func (s *script) time(w string) (time.Time, error) {
	if rest, ok := strings.CutPrefix(w, "+"); ok {
		d, err := time.ParseDuration(rest)
		if err == nil && d >= 0 {
			return s.now.Add(d), nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, w); err == nil {
		return t, nil
	}
	for _, form := range []string{"15:04:05.999999", "15:04"} {
		if t, err := time.Parse(form, w); err == nil {
			return scriptDay.Add(t.Sub(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC))), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time; begin a line with one such as 09:00:00, 2026-03-09T03:00:00Z, or +2s since the line before", w)
}

// split cuts a line into words, at blanks that are not in double quotes.
func split(line string) (words []string, err error) {
	var word strings.Builder
	quoted, begun := false, false
	for i := 0; i <= len(line); i++ {
		switch {
		case i == len(line) && quoted:
			return nil, errors.New("a double quote is not closed")
		case i == len(line) || !quoted && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r'):
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		case !quoted && !begun && line[i] == '#':
			return words, nil
		case line[i] == '"':
			quoted, begun = !quoted, true
		default:
			word.WriteByte(line[i])
			begun = true
		}
	}
	return words, nil
}

// apply sets fields; n is the number of the event among its like.
func apply(e *event.Event, words []string, n int) error {
	var received *time.Duration
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return fmt.Errorf("%q is not a field=value", w)
		}
		value = strings.ReplaceAll(value, "{n}", strconv.Itoa(n))
		if name == "received_after" {
			d, err := time.ParseDuration(value)
			if err != nil {
				return fmt.Errorf("%s: %q is not a duration", name, value)
			}
			received = &d
			continue
		}
		if err := setField(e, name, value); err != nil {
			return err
		}
	}
	if received != nil {
		e.ReceivedAt = e.OccurredAt + int64(e.Duration) + received.Microseconds()
	}
	return nil
}

// scriptFields are the fields that are not plain texts or lists of texts.
var scriptFields = map[string]func(e *event.Event, v string) error{
	"kind":           func(e *event.Event, v string) error { e.Kind = v; return nil },
	"decision":       func(e *event.Event, v string) error { e.Decision = v; return nil },
	"outcome":        func(e *event.Event, v string) error { e.Outcome = v; return nil },
	"principal_kind": func(e *event.Event, v string) error { e.PrincipalKind = v; return nil },
	"transport":      func(e *event.Event, v string) error { e.Transport = v; return nil },
	"emitter_seq":    func(e *event.Event, v string) error { return setNumber(&e.EmitterSeq, v) },
	"request_bytes":  func(e *event.Event, v string) error { return setNumber(&e.RequestBytes, v) },
	"response_bytes": func(e *event.Event, v string) error { return setNumber(&e.ResponseBytes, v) },
	"http_status":    func(e *event.Event, v string) error { return setNumber(&e.HTTPStatus, v) },
	"attempt":        func(e *event.Event, v string) error { return setNumber(&e.Attempt, v) },
	"arguments": func(e *event.Event, v string) error {
		e.Arguments, e.ArgumentsDigest = strconv.Quote(v), standFor(v)
		return nil
	},
	"result":            func(e *event.Event, v string) error { e.ResultDigest = standFor(v); return nil },
	"definition":        func(e *event.Event, v string) error { e.DefinitionDigest = standFor(v); return nil },
	"argument_marks":    func(e *event.Event, v string) error { return setMarks(&e.ArgumentMarks, v) },
	"result_marks":      func(e *event.Event, v string) error { return setMarks(&e.ResultMarks, v) },
	"duration":          setDuration,
	"hints":             setHints,
	"arguments_digest":  func(e *event.Event, v string) error { e.ArgumentsDigest = standFor(v); return nil },
	"result_digest":     func(e *event.Event, v string) error { e.ResultDigest = standFor(v); return nil },
	"definition_digest": func(e *event.Event, v string) error { e.DefinitionDigest = standFor(v); return nil },
}

func setField(e *event.Event, name, value string) error {
	if f := scriptFields[name]; f != nil {
		if err := f(e, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	if key, ok := strings.CutPrefix(name, "labels."); ok {
		e.Labels = append(e.Labels, event.Label{Key: key, Value: value})
		return nil
	}
	names := make([]string, 0, 64)
	for i := range event.Texts {
		if event.Texts[i].Name == name {
			*event.Texts[i].Of(e) = value
			return nil
		}
		names = append(names, event.Texts[i].Name)
	}
	for i := range event.Lists {
		if event.Lists[i].Name == name {
			*event.Lists[i].Of(e) = nil
			if value != "" {
				*event.Lists[i].Of(e) = strings.Split(value, ",")
			}
			return nil
		}
		names = append(names, event.Lists[i].Name)
	}
	for n := range scriptFields {
		names = append(names, n)
	}
	return fmt.Errorf("there is no field %q; the nearest is %q", name, event.Nearest(name, names))
}

// standFor is the digest of a text that stands for a value.
func standFor(v string) (d event.Digest) {
	h := sha256.Sum256([]byte(v))
	copy(d[:], h[:])
	return d
}

func setNumber[T uint16 | uint32 | uint64](to *T, v string) error {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || uint64(T(n)) != n {
		return fmt.Errorf("%q is not a number that it can have", v)
	}
	*to = T(n)
	return nil
}

func setDuration(e *event.Event, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a duration such as 20ms", v)
	}
	e.Duration = uint64(d.Microseconds())
	return nil
}

func setHints(e *event.Event, v string) error {
	e.Hints = event.Hints{}
	for h := range strings.SplitSeq(v, ",") {
		switch h {
		case "read_only":
			e.Hints.ReadOnly = true
		case "destructive":
			e.Hints.Destructive = true
		case "idempotent":
			e.Hints.Idempotent = true
		case "open_world":
			e.Hints.OpenWorld = true
		case "none":
		default:
			return fmt.Errorf("there is no hint %q; use read_only, destructive, idempotent, open_world, or none", h)
		}
	}
	return nil
}

func setMarks(to *[]event.Mark, v string) error {
	*to = nil
	for m := range strings.SplitSeq(v, ",") {
		class, value, ok := strings.Cut(m, ":")
		if !ok || !slices.Contains(event.MarkClasses, class) {
			return fmt.Errorf("%q is not class:text with a class of %s", m, strings.Join(event.MarkClasses, ", "))
		}
		value, near := strings.CutSuffix(value, "!")
		d := standFor(class + " " + value)
		*to = append(*to, event.Mark{Hash: binary.LittleEndian.Uint64(d[:8]), Class: class, NearInstruction: near})
	}
	return nil
}
