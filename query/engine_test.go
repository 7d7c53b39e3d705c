package query

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// quoted is a value as a filter has it.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func micros6(t int64) string { return quoted(time.UnixMicro(t).UTC().Format(time.RFC3339Nano)) }

// Filters mean on the engine what they mean in words: each is run on random
// events, with their odd texts and extreme numbers, beside the same in Go.
func TestFiltersFindWhatTheySay(t *testing.T) {
	s := newShelf(t)
	s.put(t, randomEvents(rand.New(rand.NewPCG(10, 1)), 300)...)
	newestFirst(s.all)
	one := s.all[7]
	type check struct {
		filter string
		match  func(*event.Event) bool
	}
	var checks []check
	add := func(filter string, match func(*event.Event) bool) { checks = append(checks, check{filter, match}) }

	texts := map[string]func(*event.Event) string{
		"principal": func(e *event.Event) string { return e.Principal },
		"server":    func(e *event.Event) string { return e.Server },
		"arguments": func(e *event.Event) string { return e.Arguments },
		"kind":      func(e *event.Event) string { return e.Kind },
		"log_id":    func(e *event.Event) string { return e.LogID },
	}
	for name, get := range texts {
		for _, v := range []string{"", "a", "files", "mcp.example", "ünïcödé 🜁", "nul\x00inside", "line\nbreak\t\"quoted\"", `back\slash`, `'; --`, "%", "auth", "log"} {
			add(name+" = "+quoted(v), func(e *event.Event) bool { return get(e) == v })
		}
		add(name+` != "files"`, func(e *event.Event) bool { return get(e) != "files" })
		add(name+` < "files"`, func(e *event.Event) bool { return get(e) < "files" })
		add(name+` >= "files"`, func(e *event.Event) bool { return get(e) >= "files" })
		for _, v := range []string{"E", "\x00", `"`, "Ü"} {
			add(name+" : "+quoted(v), func(e *event.Event) bool { return strings.Contains(strings.ToLower(get(e)), strings.ToLower(v)) })
			add(name+" = "+quoted(v+"*"), func(e *event.Event) bool { return strings.HasPrefix(get(e), v) })
			add(name+" = "+quoted("*"+v), func(e *event.Event) bool { return strings.HasSuffix(get(e), v) })
			add(name+" != "+quoted("*"+v+"*"), func(e *event.Event) bool { return !strings.Contains(get(e), v) })
		}
		add(name+":*", func(e *event.Event) bool { return get(e) != "" })
	}
	lists := map[string]func(*event.Event) []string{
		"signals":      func(e *event.Event) []string { return e.Signals },
		"on_behalf_of": func(e *event.Event) []string { return e.OnBehalfOf },
		"removed": func(e *event.Event) (out []string) {
			return each(e.Removed, func(r event.Removal) string { return r.Class })
		},
		"result_marks": func(e *event.Event) []string {
			return each(e.ResultMarks, func(m event.Mark) string { return m.Class })
		},
		"argument_marks": func(e *event.Event) []string {
			return each(e.ArgumentMarks, func(m event.Mark) string { return m.Class })
		},
	}
	for name, get := range lists {
		for _, v := range []string{"", "files", "nul\x00inside", "line\nbreak\t\"quoted\"", "email", "file"} {
			add(name+":"+quoted(v), func(e *event.Event) bool { return slices.Contains(get(e), v) })
		}
		add(name+`:"e*"`, func(e *event.Event) bool {
			return slices.ContainsFunc(get(e), func(v string) bool { return strings.HasPrefix(v, "e") })
		})
		add(name+":*", func(e *event.Event) bool { return len(get(e)) > 0 })
	}
	numbers := map[string]func(*event.Event) uint64{
		"http_status":    func(e *event.Event) uint64 { return uint64(e.HTTPStatus) },
		"request_bytes":  func(e *event.Event) uint64 { return e.RequestBytes },
		"attempt":        func(e *event.Event) uint64 { return uint64(e.Attempt) },
		"leaf":           func(e *event.Event) uint64 { return uint64(e.Leaf) },
		"emitter_seq":    func(e *event.Event) uint64 { return e.EmitterSeq },
		"original_bytes": func(e *event.Event) uint64 { return e.OriginalBytes },
	}
	for name, get := range numbers {
		for _, v := range []uint64{0, 300, 1<<64 - 1, one.EmitterSeq} {
			add(fmt.Sprint(name, " = ", v), func(e *event.Event) bool { return get(e) == v })
			add(fmt.Sprint(name, " != ", v), func(e *event.Event) bool { return get(e) != v })
			add(fmt.Sprint(name, " > ", v), func(e *event.Event) bool { return get(e) > v })
			add(fmt.Sprint(name, " <= ", v), func(e *event.Event) bool { return get(e) <= v })
		}
	}
	for op, match := range map[string]func(a, b int64) bool{
		"=": func(a, b int64) bool { return a == b }, "!=": func(a, b int64) bool { return a != b },
		"<": func(a, b int64) bool { return a < b }, "<=": func(a, b int64) bool { return a <= b },
		">": func(a, b int64) bool { return a > b }, ">=": func(a, b int64) bool { return a >= b },
	} {
		add("occurred_at "+op+" "+micros6(one.OccurredAt), func(e *event.Event) bool { return match(e.OccurredAt, one.OccurredAt) })
		add("received_at "+op+" "+micros6(one.ReceivedAt), func(e *event.Event) bool { return match(e.ReceivedAt, one.ReceivedAt) })
		add(fmt.Sprint("duration ", op, " ", one.Duration, "us"), func(e *event.Event) bool { return match(int64(e.Duration), int64(one.Duration)) })
	}
	for name, get := range map[string]func(*event.Event) bool{
		"truncated": func(e *event.Event) bool { return e.Truncated }, "hint_read_only": func(e *event.Event) bool { return e.Hints.ReadOnly },
		"hint_open_world": func(e *event.Event) bool { return e.Hints.OpenWorld },
	} {
		add(name+" = true", get)
		add(name+" != true", func(e *event.Event) bool { return !get(e) })
	}
	for _, d := range []event.Digest{{}, one.ResultDigest, one.ArgumentsDigest} {
		add("result_digest = "+quoted(d.String()), func(e *event.Event) bool { return e.ResultDigest == d })
		add("arguments_digest != "+quoted(strings.ToUpper(d.String())), func(e *event.Event) bool { return e.ArgumentsDigest != d })
	}
	add("event_id = "+quoted(one.EventID.String()), func(e *event.Event) bool { return e.EventID == one.EventID })
	add("event_id != "+quoted(one.EventID.String()), func(e *event.Event) bool { return e.EventID != one.EventID })
	add(`expires_month = "2027-01"`, func(*event.Event) bool { return true })
	add(`expires_month > "2027-01"`, func(*event.Event) bool { return false })
	label := func(e *event.Event, key string) (string, bool) {
		for _, l := range e.Labels {
			if l.Key == key {
				return l.Value, true
			}
		}
		return "", false
	}
	for _, key := range []string{"a", "ключ", "absent", `o'dd"\`} {
		add("labels:"+quoted(key), func(e *event.Event) bool { _, ok := label(e, key); return ok })
		for _, v := range []string{"", "files", "nul\x00inside"} {
			add("labels."+quoted(key)+" = "+quoted(v), func(e *event.Event) bool { got, _ := label(e, key); return got == v })
		}
	}
	add("labels:*", func(e *event.Event) bool { return len(e.Labels) > 0 })
	// Comparisons joined.
	a, b, c := checks[3], checks[len(checks)/2], checks[len(checks)-9]
	add(a.filter+" AND NOT "+b.filter, func(e *event.Event) bool { return a.match(e) && !b.match(e) })
	add(a.filter+" OR "+b.filter+" AND "+c.filter, func(e *event.Event) bool { return (a.match(e) || b.match(e)) && c.match(e) })
	add("NOT ("+a.filter+" "+c.filter+") OR -"+b.filter, func(e *event.Event) bool { return !(a.match(e) && c.match(e)) || !b.match(e) })

	matched := 0
	for _, c := range checks {
		var want []string
		for _, e := range s.all {
			if c.match(e) {
				want = append(want, e.EventID.String())
			}
		}
		matched += len(want)
		resp, err := s.ListEvents(everyone, &pb.ListEventsRequest{Filter: c.filter, PageSize: 1000,
			ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"event_id"}}}) // the engine is quicker with one column
		if err != nil {
			t.Errorf("%s: %v", c.filter, err)
			continue
		}
		if got := ids(resp.GetEvents()); got != strings.Join(want, " ") {
			t.Errorf("%s finds %d events, want %d", c.filter, len(resp.GetEvents()), len(want))
		}
	}
	if matched < len(checks)*15 {
		t.Errorf("%d checks matched only %d events: they test too little", len(checks), matched)
	}
}

func each[S any](list []S, get func(S) string) []string {
	var out []string
	for _, s := range list {
		out = append(out, get(s))
	}
	return out
}

// Every field can be searched with every operator that it is said to have.
func TestEveryFieldCanBeSearched(t *testing.T) {
	s := newShelf(t)
	s.put(t, randomEvents(rand.New(rand.NewPCG(11, 1)), 5)...)
	values := map[Kind]string{TextKind: `"a"`, ListKind: `"a"`, BoolKind: "true", NumberKind: "5", DurationKind: "1s",
		TimeKind: `"2026-11-20T09:00:00Z"`, DigestKind: `"00112233445566778899aabbccddeeff"`, IDKind: `"01890a5d-ac96-774b-bcce-b302099a8057"`, MapKind: "a"}
	var names bytes.Buffer
	for name, f := range fields {
		fmt.Fprintln(&names, name)
		var comparisons []string
		for op := range strings.FieldsSeq(f.kind.operators()) {
			filter := name + " " + op + " " + values[f.kind]
			if f.kind == MapKind && op != ":" {
				filter = name + ".key " + op + " " + values[f.kind]
			}
			comparisons = append(comparisons, filter)
		}
		// The operators of a field in one search, which is much quicker.
		filter := strings.Join(comparisons, " OR ")
		if _, err := s.ListEvents(everyone, &pb.ListEventsRequest{Filter: filter, ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"event_id"}}}); err != nil {
			t.Errorf("%s: %v", filter, err)
		}
	}
	// What the Event message has can be searched, but for the parts of hints.
	message := (&pb.Event{}).ProtoReflect().Descriptor().Fields()
	for i := range message.Len() {
		name := string(message.Get(i).Name())
		if _, ok := fields[name]; !ok && name != "hints" {
			t.Errorf("%s can't be searched; there are %v", name, slices.Sorted(maps.Keys(fields)))
		}
	}
}
