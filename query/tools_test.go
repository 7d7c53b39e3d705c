package query

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// digestOf is a definition's digest that begins with a letter.
func digestOf(letter byte) event.Digest { return event.Digest{0: letter, 15: 1} }

// defined is a listing that defines a tool: its text is its digest's letter.
func defined(ms int64, server, tool string, letter byte, change func(*event.Event)) *event.Event {
	return call(ms, func(e *event.Event) {
		e.Kind, e.Method, e.Server, e.Target = "tools_list", "tools/list", server, tool
		e.DefinitionDigest, e.Arguments = digestOf(letter), `{"description":"`+string(letter)+`"}`
		if change != nil {
			change(e)
		}
	})
}

// called is a call of a tool whose definition the emitter knows, or 0.
func called(ms int64, server, tool string, letter byte, change func(*event.Event)) *event.Event {
	return call(ms, func(e *event.Event) {
		e.Server, e.Target, e.Arguments = server, tool, `{"path":"x"}`
		if letter != 0 {
			e.DefinitionDigest = digestOf(letter)
		}
		if change != nil {
			change(e)
		}
	})
}

// since is a time as milliseconds after morning; -1 when there is none.
func since(at *timestamppb.Timestamp) int64 {
	if at == nil {
		return -1
	}
	return at.AsTime().UnixMilli() - morning/1000
}

// letters of digests, as hex.
func letterOf(digest string) string {
	if digest == "" {
		return "-"
	}
	var c byte
	fmt.Sscanf(digest, "%2x", &c)
	if digest != digestOf(c).String() {
		return digest
	}
	return string(c)
}

func TestToolsAreListedWithWhatIsKnownOfThem(t *testing.T) {
	s := newShelf(t)
	readOnly := func(e *event.Event) { e.Hints = event.Hints{ReadOnly: true, Idempotent: true} }
	outcome := func(o, d string) func(*event.Event) { return func(e *event.Event) { e.Outcome, e.Decision = o, d } }
	s.put(t,
		defined(0, "files", "read", 'a', nil), called(5, "files", "read", 'a', nil),
		defined(10, "files", "read", 'b', readOnly), called(15, "files", "read", 'b', readOnly),
		defined(20, "files", "read", 'a', readOnly), // back
		called(30, "files", "read", 0, nil),         // by an emitter that did not see the listing, nor its hints
		defined(1, "files", "unused", 'c', nil),
		called(2, "files", "undefined", 0, outcome("tool_error", "none")), called(1, "files", "undefined", 0, outcome("timeout", "allow")),
		called(3, "files", "undefined", 0, outcome("protocol_error", "deny")), called(4, "files", "undefined", 0, outcome("denied", "none")),
		called(5, "files", "undefined", 0, outcome("cancelled", "none")),
		called(7, "git", "read", 0, nil),
		// Neither of a tool.
		call(0, func(e *event.Event) { e.Kind, e.Target = "resource_read", "file:///x" }),
		call(0, func(e *event.Event) { e.Kind, e.Target = "tools_list", "" }),
		call(0, func(e *event.Event) { e.Kind, e.Target = "tool_call", "" }),
	)
	all := []string{
		"files/read a of 2 [true false true false] 0..30 3 calls, 0 errors, 0 denied",
		"files/undefined - of 0 [false true false true] 1..5 5 calls, 3 errors, 2 denied",
		"files/unused c of 1 [false true false true] 1..-1 0 calls, 0 errors, 0 denied",
		"git/read - of 0 [false true false true] 7..7 1 calls, 0 errors, 0 denied",
	}
	for _, c := range []struct {
		server    string
		limit     int32
		want      []string
		truncated bool
	}{
		{"", 0, all, false}, {"", 4, all, false}, {"", 3, all[:3], true}, {"", 1, all[:1], true}, {"files", 0, all[:3], false},
		{"files", 2, all[:2], true}, {"git", 10000, all[3:], false}, {"File", 0, nil, false}, {"%", 0, nil, false}, {"nul\x00", 0, nil, false},
	} {
		resp, err := s.ListTools(everyone, &pb.ListToolsRequest{Server: c.server, Limit: c.limit})
		var got []string
		for _, tool := range resp.GetTools() {
			h := tool.GetHints()
			got = append(got, fmt.Sprintf("%s/%s %s of %d %v %d..%d %d calls, %d errors, %d denied", tool.GetServer(), tool.GetName(), letterOf(tool.GetDefinitionDigest()), tool.GetDefinitions(),
				[]bool{h.GetReadOnly(), h.GetDestructive(), h.GetIdempotent(), h.GetOpenWorld()}, since(tool.GetFirstSeen()), since(tool.GetLastCalled()), tool.GetCalls(), tool.GetErrors(), tool.GetDenials()))
		}
		if err != nil || !slices.Equal(got, c.want) || resp.GetTruncated() != c.truncated {
			t.Errorf("server %q, at most %d: %v, truncated %t\n got %s\nwant %s", c.server, c.limit, err, resp.GetTruncated(), strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
}

func TestAToolsDefinitionsHaveAHistory(t *testing.T) {
	s := newShelf(t)
	first := defined(10, "files", "read", 'a', nil)
	changed := defined(20, "files", "read", 'b', func(e *event.Event) { e.Signals = []string{"injection_phrase", "hidden_unicode"} })
	back := defined(45, "files", "read", 'a', func(e *event.Event) { e.Arguments = "not the first text" })
	early := called(5, "files", "read", 'a', func(e *event.Event) { e.Signals = []string{"of the call"} }) // before the listing was seen
	alone := called(50, "files", "read", 'd', nil)
	s.put(t, back, changed, first, early, alone, called(40, "files", "read", 'b', nil), called(60, "files", "read", 0, nil),
		defined(70, "git", "read", 'e', nil), defined(80, "files", "write", 'f', nil))
	id := func(e *event.Event) string { return e.EventID.String() }
	want := []string{ // those first seen last come first
		"d 50..50  [] " + id(alone),
		`b 20..40 {"description":"b"} [injection_phrase hidden_unicode] ` + id(changed),
		`a 5..45 {"description":"a"} [] ` + id(first),
	}
	history := func(server, name string) (out []string) {
		resp, err := s.ListToolDefinitions(everyone, &pb.ListToolDefinitionsRequest{Server: server, Name: name})
		if err != nil {
			t.Errorf("%s/%s: %v", server, name, err)
		}
		for _, d := range resp.GetDefinitions() {
			out = append(out, fmt.Sprintf("%s %d..%d %s %v %s", letterOf(d.GetDigest()), since(d.GetFirstSeen()), since(d.GetLastSeen()), d.GetDefinition(), d.GetSignals(), d.GetEventId()))
		}
		return out
	}
	if got := history("files", "read"); !slices.Equal(got, want) {
		t.Errorf("\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	for _, unknown := range [][2]string{{"files", "rea"}, {"svn", "read"}, {"files", "%"}} {
		if got := history(unknown[0], unknown[1]); got != nil {
			t.Errorf("%v: %v", unknown, got)
		}
	}
	var many []*event.Event
	for i := range 120 {
		many = append(many, defined(int64(1000+i), "files", "restless", 0, func(e *event.Event) { e.DefinitionDigest = event.Digest{0: byte(i), 15: 1} }))
	}
	s.put(t, many...)
	got := history("files", "restless")
	if len(got) != 100 || !strings.Contains(got[0], " 1119..1119 ") || !strings.Contains(got[99], " 1020..1020 ") {
		t.Errorf("%d definitions, from %s to %s", len(got), got[0], got[len(got)-1])
	}
}

func TestABadQuestionAboutToolsIsAnInvalidArgument(t *testing.T) {
	s := New(Config{}, broken{errors.New("the store was reached")}, quiet)
	long := strings.Repeat("x", 10<<20)
	for want, ask := range map[string]func() error{
		"limit": func() error {
			_, err := s.ListTools(everyone, &pb.ListToolsRequest{Limit: 10001})
			return err
		},
		"limit:": func() error {
			_, err := s.ListTools(everyone, &pb.ListToolsRequest{Limit: -1})
			return err
		},
		"server": func() error {
			_, err := s.ListTools(everyone, &pb.ListToolsRequest{Server: long})
			return err
		},
		"server:": func() error {
			_, err := s.ListToolDefinitions(everyone, &pb.ListToolDefinitionsRequest{Name: "read"})
			return err
		},
		"name": func() error {
			_, err := s.ListToolDefinitions(everyone, &pb.ListToolDefinitionsRequest{Server: "files"})
			return err
		},
		"name:": func() error {
			_, err := s.ListToolDefinitions(everyone, &pb.ListToolDefinitionsRequest{Server: "files", Name: long})
			return err
		},
	} {
		if err := ask(); status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), want) || len(err.Error()) > 500 {
			t.Errorf("%s: %.500v", want, err)
		}
	}
}
