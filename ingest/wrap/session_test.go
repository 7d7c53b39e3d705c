package wrap

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

var update = flag.Bool("update", false, "write what the sessions in testdata give into them")

func testRedactor(t testing.TB) *redact.Redactor {
	t.Helper()
	r, err := redact.New(redact.DefaultProfile(), []byte("a key for tests alone, 32 bytes."))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A session in testdata is what passed and, behind "-- events --", what is
// recorded. Lines of the first part:
//
//	# a comment
//	␍ in a line is a carriage return
//	> a line from the client
//	< a line from the server
//	+250ms   time passes
//	end      the session is over
//
// An event is its method, target and outcome, and the fields that are not the
// same in every event.
func TestSessions(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			const events = "-- events --\n"
			script, want, ok := strings.Cut(string(text), events)
			if !ok {
				t.Fatalf("%s has no %q", file, events)
			}
			got := play(t, script)
			if *update {
				if err := os.WriteFile(file, []byte(script+events+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("recorded\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func play(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	now := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	start := now
	s := newSession(event.Event{Server: "files"}, testRedactor(t), func(r emit.Record) { out.WriteString(describe(r, start)) })
	for n, line := range strings.Split(script, "\n") {
		switch {
		case line == "" || line[0] == '#':
		case line == "end":
			s.end()
		case strings.HasPrefix(line, "> "):
			s.line(toServer, []byte(strings.ReplaceAll(line[2:], "␍", "\r")), now)
		case strings.HasPrefix(line, "< "):
			s.line(toClient, []byte(line[2:]), now)
		case line[0] == '+':
			d, err := time.ParseDuration(line[1:])
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(d)
		default:
			t.Fatalf("line %d: %q", n+1, line)
		}
	}
	return out.String()
}

func describe(r emit.Record, start time.Time) string {
	e := r.Event
	out := fmt.Sprintf("%s %s %s", e.Method, e.Target, e.Outcome)
	add := func(name string, value any, usual any) {
		if value != usual {
			out += fmt.Sprintf(" %s=%v", name, value)
		}
	}
	add("kind", e.Kind, "other")
	add("at", time.UnixMicro(e.OccurredAt).Sub(start), time.Duration(0))
	add("took", time.Duration(e.Duration)*time.Microsecond, time.Duration(0))
	add("id", e.RequestID, "")
	add("client", strings.TrimSpace(e.ClientName+" "+e.ClientVersion), "")
	add("server_version", e.ServerVersion, "")
	add("protocol", e.ProtocolVersion, "")
	add("task", e.TaskID, "")
	add("trace", e.TraceID, "")
	add("span", e.SpanID, "")
	add("attempt", e.Attempt, uint32(0))
	add("decision", e.Decision, "")
	add("code", e.ErrorCode, "")
	add("hints", fmt.Sprintf("%+v", e.Hints), fmt.Sprintf("%+v", event.DefaultHints))
	add("defined", e.DefinitionDigest != event.Digest{}, false)
	add("signals", strings.Join(e.Signals, ","), "")
	for _, l := range e.Labels {
		add(l.Key, l.Value, "")
	}
	out += "\n"
	if e.ErrorMessage != "" {
		out += "  message   " + e.ErrorMessage + "\n"
	}
	if r.Arguments != nil {
		out += "  arguments " + string(r.Arguments) + "\n"
	}
	if r.Result != nil {
		out += "  result    " + string(r.Result) + "\n"
	}
	return out
}
