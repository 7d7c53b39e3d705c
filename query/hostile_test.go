package query

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// allocated is how many bytes f allocates in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A filter that is made to be dear is refused for what is wrong with it, or
// read; neither takes much memory.
func TestAHostileFilterCostsLittle(t *testing.T) {
	const most = maxFilter
	fill := func(s string) string { return strings.Repeat(s, most/len(s)) }
	for _, c := range []struct{ what, filter, want string }{
		{"10 MB", strings.Repeat("server = a ", 1<<20), "has 11534336 bytes, at most 16384 are taken"},
		{"a byte too long", fill("x") + "x", "has 16385 bytes, at most 16384 are taken"},
		{"as long as may be", `server = "` + strings.Repeat("x", most-11) + `"`, ""},
		{"only white space", fill(" "), ""},
		{"nested 5000 deep", strings.Repeat("(", 5000) + "a=b" + strings.Repeat(")", 5000), "has more than 32 parentheses"},
		{"nested 10,000 deep and never closed", strings.Repeat("(", 10000), "has more than 32 parentheses"},
		{"nested behind a quote in a word", `x"=` + strings.Repeat("(", 8000) + "a=b" + strings.Repeat(")", 8000), "has more than 32 parentheses"},
		{"nested behind an apostrophe in a word", `it's ` + strings.Repeat("(", 10000), "has more than 32 parentheses"},
		{"nested behind a number with a quote", `5"="` + strings.Repeat("(", 10000), "has more than 32 parentheses"},
		{"nested behind U+FFFD with a quote", "\ufffd\"=" + strings.Repeat("(", 10000), "has more than 32 parentheses"},
		{"functions in functions", fill("f("), "has more than 32 parentheses"},
		{"as deep as may be and wrong at the end", strings.Repeat("(", 32) + strings.Repeat("a=b ", 4000), "filter, character"},
		{"1000 ORs", "server = a" + strings.Repeat(" OR server = a", 1000), "there are more than 200 comparisons"},
		{"1000 ANDs", "server = a" + strings.Repeat(" AND server = a", 1000), "there are more than 200 comparisons"},
		{"1000 in a row", "server = a" + strings.Repeat(" server = a", 1000), "there are more than 200 comparisons"},
		{"NOTs", fill("NOT "), "filter, character"},
		{"minuses", fill("-"), "filter, character"},
		{"dots", "labels" + strings.Repeat(".a", 8000) + " = b", ""},
		{"dots of no label", "server" + strings.Repeat(".a", 8000) + " = b", "server has no parts"},
		{"dots in a value", "server = a" + strings.Repeat(".a", 8000), ""},
		{"words", fill("a "), "compare a field with a value"},
		{"comparators", fill("="), "filter, character 1: "},
		{"quotes", fill(`"`), "filter, character"},
		{"quotes, one open", fill(`"`)[1:], "filter, character"},
		{"escapes", `server = "` + strings.Repeat(`\"`, 8000), "unterminated string"},
		{"a NUL as a name", "ser\x00ver = a", `there is no field "ser\x00ver"; the nearest is server`},
		{"a NUL as a value", "server = a\x00b", ""},
		{"invalid UTF-8 in a string", "server = \"a\xffb\"", "invalid UTF-8"},
		{"invalid UTF-8 in a word", "server = a\xc3", "invalid UTF-8"},
		{"invalid UTF-8 at the start", "\xf0\x9f", "filter, character 1: invalid UTF-8"},
		{"an unknown name of 16 KB", strings.Repeat("é", 8000) + " = a", "there is no field"},
		{"lines", fill("\n"), ""},
		{"a comment", "server = a -- AND 1", "filter, character"},
	} {
		var cond condition
		var err error
		bytes := allocated(func() { cond, err = ofEvents.compile(c.filter) })
		switch {
		case c.want == "" && err == nil:
		case err == nil || c.want == "" || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %.300v, want %s", c.what, err, c.want)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: the message has %d bytes", c.what, len(err.Error()))
		}
		if bytes > 64<<20 || len(cond.sql) > 1<<20 {
			t.Errorf("%s: takes %d MB and becomes %d bytes", c.what, bytes>>20, len(cond.sql))
		}
	}
}

// Every method refuses such a filter, before it does anything.
func TestEveryMethodRefusesAHostileFilter(t *testing.T) {
	s := New(Config{}, broken{errors.New("the store was reached")}, quiet)
	for _, filter := range []string{strings.Repeat("server = a ", 1<<20), "server = \"\xff\"", "x\"=" + strings.Repeat("(", 10000)} {
		_, list := s.ListEvents(everyone, &pb.ListEventsRequest{Filter: filter})
		_, aggregate := s.AggregateEvents(everyone, &pb.AggregateEventsRequest{Filter: filter})
		for _, err := range []error{list, aggregate, s.WatchEvents(&pb.WatchEventsRequest{Filter: filter}, &deaf{ctx: everyone})} {
			if status.Code(err) != codes.InvalidArgument || len(err.Error()) > 500 {
				t.Errorf("%.20q: %.300v", filter, err)
			}
		}
	}
}

// What looks like a pattern is text like any other, at once: no regular
// expression and no LIKE is ever asked for.
func TestPatternsAreText(t *testing.T) {
	s := newShelf(t)
	texts := []string{"%", "_", "a%b", "a_b", "aXb", ".*", "(a+)+$", "^a", "[a-z]", `\d`, `%\_`, "*", "a*b", "plain", "ab", "%%%", strings.Repeat("a", 2000) + "!", "'; --", "{p0:String}", "?"}
	var all []*event.Event
	for i, text := range texts {
		all = append(all, call(int64(i), func(e *event.Event) {
			e.Principal, e.Signals, e.Labels = text, []string{text}, []event.Label{{Key: text, Value: text}}
		}))
	}
	s.put(t, all...)
	check := func(filter string, match func(string) bool) {
		t.Helper()
		var want []string
		for i := len(texts) - 1; i >= 0; i-- { // newest first
			if match(texts[i]) {
				want = append(want, all[i].EventID.String())
			}
		}
		got := ids(s.list(t, &pb.ListEventsRequest{Filter: filter, ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"event_id"}}}).GetEvents())
		if got != strings.Join(want, " ") {
			t.Errorf("%.80s finds %d events, want %d", filter, len(strings.Fields(got)), len(want))
		}
	}
	for _, v := range []string{"%", "_", "a_b", ".*", "(a+)+$", "[a-z]", `\d`, `%\_`, "{p0:String}", "?", "'; --"} {
		check("principal = "+quoted(v), func(s string) bool { return s == v })
		check("principal : "+quoted(v), func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(v)) })
		check("principal = "+quoted(v+"x*"), func(s string) bool { return strings.HasPrefix(s, v+"x") })
		check("signals : "+quoted(v), func(s string) bool { return s == v })
		check("labels : "+quoted(v), func(s string) bool { return s == v })
		check(fmt.Sprintf("labels.%s : %s", quoted(v), quoted(v)), func(s string) bool { return s == v })
	}
	// A * inside is text; at an end it is not.
	check(`principal = "a*b"`, func(s string) bool { return s == "a*b" })
	check(`principal = "%*"`, func(s string) bool { return strings.HasPrefix(s, "%") })
	check(`principal = "*_*"`, func(s string) bool { return strings.Contains(s, "_") })
	// As long as a filter may be: what would take a matcher for ever.
	long := strings.Repeat("(a+)+", 3000)
	check("principal : "+quoted(long+"$"), func(string) bool { return false })
	check("principal = "+quoted("*"+strings.Repeat("a*", 8000)), func(string) bool { return false })
}
