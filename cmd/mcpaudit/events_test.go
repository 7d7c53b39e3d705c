package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// publish has events stored and returns when they are.
func publish(t *testing.T, address string, events ...*pb.Event) {
	t.Helper()
	resp, err := pb.NewIngestServiceClient(connect(t, address)).PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: events})
	if err != nil || len(resp.GetReceipt().GetRejected()) > 0 {
		t.Fatalf("publish: %v, %v", resp, err)
	}
}

// succeed runs a command that must succeed and returns what it printed.
func succeed(t *testing.T, args ...string) string {
	t.Helper()
	r := command(t, "", args...)
	if r.status != 0 || r.stderr != "" {
		t.Fatalf("mcpaudit %q: %+v", args, r)
	}
	return r.stdout
}

// jsonLines reads JSONL.
func jsonLines[T any](t *testing.T, text string) []T {
	t.Helper()
	var out []T
	for line := range strings.Lines(text) {
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		out = append(out, v)
	}
	return out
}

func TestAListIsOrderedBoundedInTimeAndShowsTheFieldsAskedFor(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	var events []*pb.Event
	for n := range uint64(5) {
		e := sent("e", n+1)
		e.Duration = durationpb.New(time.Duration(n*3%5+1) * time.Second) // 1 4 2 5 3
		e.OccurredAt = timestamppb.New(time.Date(2026, 11, 20, 9, 0, int(n), 0, time.UTC))
		events = append(events, e)
	}
	events[1].Outcome, events[1].Signals = "denied", []string{"egress", "pii:email"}
	publish(t, address, events...)
	list := func(args ...string) string {
		return succeed(t, append([]string{"events", "list", "--service", address}, args...)...)
	}

	if got, want := list("--order-by", "duration desc", "--fields", "emitter_seq, duration", "--json", "-n", "3"),
		`{"emitter_seq":"4","duration":"5s"}`+"\n"+`{"emitter_seq":"2","duration":"4s"}`+"\n"+`{"emitter_seq":"5","duration":"3s"}`+"\n"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	zone := time.Now().Format("MST")
	at := time.Date(2026, 11, 20, 9, 0, 1, 0, time.UTC).Local().Format("01-02 15:04:05.000")
	if time.Now().Year() != 2026 {
		at = "2026-" + at
	}
	got := list("emitter_seq = 2 AND "+notItself, "--fields", "emitter_seq,occurred_at,outcome,signals,labels,hints")
	want := regexp.MustCompile(`^EMITTER_SEQ  OCCURRED_AT \(` + regexp.QuoteMeta(zone) + `\) +OUTCOME  SIGNALS +LABELS  HINTS\n +2  ` + at +
		`(?: [A-Z]+)? +denied   egress, pii:email  n=2     destructive open-world\n$`)
	if !want.MatchString(got) {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := list(); !strings.HasPrefix(got, "TIME ("+zone+") ") {
		t.Errorf("the heading does not name the zone:\n%s", got)
	}

	seqs := func(args ...string) (out string) {
		for _, e := range jsonLines[pbSeq](t, list(append(args, "--json", "--order-by", "occurred_at")...)) {
			out += e.Seq
		}
		return out
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{notItself, "--since", "2026-11-20T09:00:02Z"}, "345"},
		{[]string{"--until", "2026-11-20T10:00:02+01:00"}, "12"},
		{[]string{"--since", "2026-11-20T09:00:01Z", "--until", "2026-11-20T09:00:04Z"}, "234"},
		{[]string{notItself + " AND emitter_seq = 2 OR emitter_seq = 4", "--since", "2026-11-20T09:00:02Z"}, "4"},
		{[]string{"--since", "100000d", "--until", "2026-11-21"}, ""},
	} {
		if c.want == "" {
			if r := command(t, "", append([]string{"events", "list"}, c.args...)...); r.status != 1 {
				t.Errorf("%v: %+v", c.args, r)
			}
			continue
		}
		if got := seqs(c.args...); got != c.want {
			t.Errorf("%v: %s, want %s", c.args, got, c.want)
		}
	}

	// Colour is for terminals and for those who ask for it.
	for _, c := range []struct {
		colour, noColour string
		want             bool
	}{{"auto", "", false}, {"never", "", false}, {"always", "", true}, {"always", "1", true}, {"auto", "1", false}} {
		t.Setenv("NO_COLOR", c.noColour)
		got := list("outcome = denied", "--color", c.colour)
		if strings.Contains(got, "\x1b[1;31mdenied\x1b[0m") != c.want || strings.Contains(got, "\x1b") != c.want {
			t.Errorf("--color %s, NO_COLOR=%s: %q", c.colour, c.noColour, got)
		}
	}

	// Mistakes are named as they were typed, with a caret under the place.
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"list", "kind = x AND outcom = denied", "--since", "1h"},
			"list events: filter, character 14: there is no field \"outcom\"; the nearest is outcome\n  kind = x AND outcom = denied\n               ^\n"},
		{[]string{"list", `kind = "x`, "--since", "1h"}, "list events: filter, character 10: "},
		{[]string{"list", `kind = "x`, "--since", "1h"}, "\n  kind = \"x\n           ^\n"},
		{[]string{"list", "--fields", "servr"}, "list events: --fields: there is no field \"servr\"; the nearest is server\n"},
		{[]string{"list", "--order-by", "server"}, "list events: --order-by: is one of occurred_at, "},
		{[]string{"list", "--since", "soon"}, "list events: --since is \"soon\"; name a duration back from now such as 90m"},
		{[]string{"list", "--since", "1h", "--until", "2h"}, "list events: --since 1h is not before --until 2h\n"},
		{[]string{"list", "--color", "red"}, "invalid argument \"red\" for \"--color\" flag: use one of auto, always, never\n"},
		{[]string{"tail", "duration > many"}, "watch events: filter, character 12: duration is compared with a duration such as 1.5s or 200ms\n  duration > many\n             ^\n"},
		{[]string{"stats", "outcom = x"}, "count events: filter, character 1: there is no field \"outcom\"; the nearest is outcome\n  outcom = x\n  ^\n"},
		{[]string{"stats", "--by", "servr"}, "count events: --by: there is no field \"servr\"; the nearest is server\n"},
		{[]string{"stats", "--by", "labels"}, "count events: --by: name one label, such as labels.team\n"},
	} {
		r := command(t, "", append([]string{"events", "--service", address}, c.args...)...)
		if r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: ") || !strings.Contains(r.stderr, c.want) || r.stdout != "" {
			t.Errorf("events %q: %+v, want %q", c.args, r, c.want)
		}
	}

	// Every field that completion offers is one that the service knows.
	list("--fields", strings.Join(eventFields(), ","))
	list("--fields", strings.Join(eventFields(), ","), "--json")
	var several errgroup.Group // each is noted, which takes a moment
	several.SetLimit(8)
	known := func(args ...string) {
		several.Go(func() error {
			if r := command(t, "", append([]string{"events", "--service", address}, args...)...); r.status != 0 || r.stderr != "" {
				t.Errorf("events %q: %+v", args, r)
			}
			return nil
		})
	}
	for _, f := range orderFields {
		known("list", "--order-by", f+" desc", "--limit", "1000")
	}
	for _, f := range groupFields() {
		if strings.HasSuffix(f, ".") {
			f += "team"
		}
		known("stats", notItself, "--by", f)
	}
	for _, m := range measures {
		known("stats", "--by", "server", "--order-by", m)
	}
	_ = several.Wait()
}

type pbSeq struct {
	Seq string `json:"emitter_seq"`
}

// background is a command that runs while a test does.
type background struct {
	out, err *process // for their ears alone
	stop     context.CancelFunc
	status   int
}

func inBackground(t *testing.T, args ...string) *background {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	b := &background{out: &process{ended: make(chan struct{})}, err: &process{ended: make(chan struct{})}, stop: stop}
	go func() {
		b.status = run(ctx, args, strings.NewReader(""), b.out, b.err)
		close(b.out.ended)
		close(b.err.ended)
	}()
	t.Cleanup(func() { b.end() })
	return b
}

// end is Ctrl-C; it returns the exit status.
func (b *background) end() int {
	b.stop()
	<-b.err.ended
	return b.status
}

func TestTailShowsAnEventAfterItsAckAndEndsQuietly(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	publish(t, address, sent("before", 1))
	table := inBackground(t, "events", "tail", `outcome = "denied"`, "--service", address)
	program := inBackground(t, "events", "tail", notItself, "--json", "--service", address)
	few := inBackground(t, "events", "tail", notItself, "--json", "--fields", "emitter_seq,target", "--service", address)
	for _, b := range []*background{table, program, few} {
		b.err.await(t, `watching the service at `+regexp.QuoteMeta(address)+`; Ctrl-C ends it\n`)
	}
	table.out.await(t, `^TIME \(.*ARGUMENTS\n`) // before there is an event
	bad := sent("e", 2)
	bad.Outcome, bad.ErrorMessage, bad.Server = "denied", "no \x1b[31mscope", strings.Repeat("long", 20)
	publish(t, address, sent("e", 1), bad) // returns with the ack
	table.out.await(t, `no  \[31mscope\n`)
	program.out.await(t, `"emitter_seq":"2"[^\n]*\n`)
	few.out.await(t, `"2"[^\n]*\n`)
	for _, b := range []*background{table, program, few} {
		if status := b.end(); status != 0 || strings.Count(b.err.text(), "\n") != 1 {
			t.Errorf("it ended with status %d: %s", status, b.err.text())
		}
	}
	lines := strings.Split(table.out.text(), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "TIME (") || strings.Contains(table.out.text(), "\x1b") {
		t.Errorf("%q", lines)
	}
	for _, head := range []string{"WHAT", "OUTCOME", "ARGUMENTS"} { // columns stay where they are
		at := strings.Index(lines[0], head)
		cells := []rune(lines[1])
		if cells[at-1] != ' ' || cells[at] == ' ' {
			t.Errorf("%s is not over its column:\n%s", head, table.out.text())
		}
	}
	events := jsonLines[map[string]any](t, program.out.text())
	if len(events) != 2 || events[0]["emitter_seq"] != "1" || events[1]["error_message"] != bad.GetErrorMessage() || events[1]["log_id"] == nil {
		t.Errorf("%s", program.out.text())
	}
	if got, want := few.out.text(), `{"emitter_seq":"1","target":"read_file"}`+"\n"+`{"emitter_seq":"2","target":"read_file"}`+"\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTailSurvivesARestartAndSaysWhatItMissed(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	b := inBackground(t, "events", "tail", `server = "files"`, "--json", "--service", address)
	b.err.await(t, `watching the service`)
	for n := range uint64(2) {
		publish(t, address, sent("e", n+1))
		b.out.await(t, fmt.Sprintf(`"emitter_seq":"%d"`, n+1))
	}
	p.kill()
	b.err.await(t, `the service at `+regexp.QuoteMeta(address)+` ended the stream`)
	p = launch(t, append(serveArgs(t, dir), "--listen.grpc", address)...)
	p.await(t, `ingest is ready`)
	list := b.err.await(t, `watching again after [^\n]*events stored in between are not shown here\.[^\n]*\n  mcpaudit ([^\n]*)\n`)
	publish(t, address, sent("e", 3))
	b.out.await(t, `"emitter_seq":"3"`)
	if n := strings.Count(b.out.text(), `"emitter_seq"`); n != 3 {
		t.Errorf("%d events were shown:\n%s", n, b.out.text())
	}
	// The command that it names lists from the last event shown.
	r := command(t, "", append(words(t, list), "--json")...)
	var seqs []string
	for _, e := range jsonLines[pbSeq](t, r.stdout) {
		seqs = append(seqs, e.Seq)
	}
	if r.status != 0 || !slices.Equal(seqs, []string{"2", "3"}) {
		t.Errorf("mcpaudit %s: %+v", list, r)
	}
	if status := b.end(); status != 0 {
		t.Errorf("it ended with status %d:\n%s", status, b.err.text())
	}
}

func TestTailWithoutAServiceSaysSo(t *testing.T) {
	r := command(t, "", "events", "tail", "--service", "127.0.0.1:1")
	if want := "mcpaudit: watch events: no service answers at 127.0.0.1:1; start one with 'mcpaudit serve', or name it with --service\n"; r.status != 1 || r.stderr != want || r.stdout != "" {
		t.Errorf("%+v, want %q", r, want)
	}
}

// words splits a command as a shell does: at spaces that are not in single
// quotes; \' is a quote.
func words(t *testing.T, line string) []string {
	t.Helper()
	var out []string
	word, quoted, begun := "", false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\'':
			quoted, begun = !quoted, true
		case c == '\\' && !quoted && i+1 < len(line):
			i++
			word, begun = word+line[i:i+1], true
		case c == ' ' && !quoted:
			if begun {
				out = append(out, word)
			}
			word, begun = "", false
		default:
			word, begun = word+string(c), true
		}
	}
	if quoted {
		t.Fatalf("a quote has no end: %s", line)
	}
	if begun {
		out = append(out, word)
	}
	return out
}

func TestAQuotedTextIsOneWordOfAShell(t *testing.T) {
	for _, text := range []string{"", "a", `it's "x" $HOME \ ` + "`id`", "'", `server = "a'b"`} {
		if got := words(t, "x "+shellQuote(text)+" y"); !slices.Equal(got, []string{"x", text, "y"}) {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// spanned is an event in a trace.
func spanned(seq uint64, at time.Time, took time.Duration, span, parent, server, target string) *pb.Event {
	e := sent("e", seq)
	e.OccurredAt, e.Duration = timestamppb.New(at), durationpb.New(took)
	e.TraceId, e.SpanId, e.ParentSpanId, e.Server, e.Target, e.Arguments = "4bf92f3577b34da6a3ce929d0e0e4736", span, parent, server, target, "{}"
	return e
}

func TestATimelineHasParentsSilencesAndWhatIsMissing(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	start := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	denied := spanned(6, at(1800), 200*time.Millisecond, "d", "a", "mail", "send")
	denied.Outcome, denied.ErrorMessage = "denied", "not\x1b[2J allowed"
	publish(t, address,
		spanned(1, at(0), 3*time.Second, "a", "", "agent", "plan_trip"),
		spanned(2, at(100), 900*time.Millisecond, "b", "a", "search", "web_search"),
		spanned(3, at(150), 200*time.Millisecond, "c", "b", "cache", "lookup"),
		denied,
		spanned(7, at(6000), 100*time.Millisecond, "e", "gone", "files", "read_file"))

	out := succeed(t, "events", "timeline", "--trace", denied.GetTraceId(), "--service", address)
	_, table, _ := strings.Cut(out, "\n")
	if !strings.HasPrefix(out, "trace "+denied.GetTraceId()+": 5 events in 6.1s, from ") {
		t.Error(out)
	}
	if want := ` AFTER  WHEN                       TOOK  OUTCOME  WHAT          SERVER  WHO         ARGUMENTS
   +0s  ███████████▊                 3s  success  plan_trip     agent   user:alice  {}
+100ms  ███▌                      900ms  success  └ web_search  search  user:alice  {}
+150ms  ▊                         200ms  success    └ lookup    cache   user:alice  {}
  ! 2 events missing here, numbered by emitter e and not in the store
 +1.8s         ▊                  200ms  denied   └ send        mail    user:alice  {}  ← not [2J allowed
    3s without a call
   +6s                         ▍  100ms  success  ⋯ read_file   files   user:alice  {}
`; table != want {
		t.Errorf("\n%s\nwant\n%s", table, want)
	}

	type entry struct {
		Event struct {
			Target  string `json:"target"`
			TraceID string `json:"trace_id"`
		}
		Depth         int    `json:"depth"`
		ParentMissing bool   `json:"parent_missing"`
		Gap           string `json:"gap"`
		MissingBefore string `json:"missing_before"`
	}
	entries := jsonLines[entry](t, succeed(t, "events", "timeline", "--trace", denied.GetTraceId(), "--json", "--service", address))
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprint(e.Event.Target, " ", e.Depth, " ", e.ParentMissing, " ", e.Gap, " ", e.MissingBefore))
	}
	if want := []string{"plan_trip 0 false  ", "web_search 1 false  ", "lookup 2 false  ", "send 1 false  2", "read_file 0 true 3s "}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	r := command(t, "", "events", "timeline", "--trace", denied.GetTraceId(), "-n", "2", "--json", "--service", address)
	if r.status != 0 || strings.Count(r.stdout, "\n") != 2 || !strings.Contains(r.stderr, "there are more than these 2 events; the oldest are shown") {
		t.Errorf("%+v", r)
	}
	if got := succeed(t, "events", "timeline", "--session", "no\x1bne", "--service", address); got != "no events of session no ne\n" {
		t.Errorf("%q", got)
	}
}

func TestAPrincipalsTimelineIsOfOneDayUnlessItIsSaid(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	for i, age := range []time.Duration{time.Hour, 30 * time.Hour} {
		publish(t, address, spanned(uint64(i+1), time.Now().Add(-age), 0, "", "", "files", "read_file"))
	}
	for _, c := range []struct {
		args string
		want int
	}{{"", 1}, {"--since 48h", 2}, {"--until 24h", 1}, {"--since 48h --until 24h", 1}, {"--since 10m", 0}, {"--until 1d", 1}} {
		out := succeed(t, append([]string{"events", "timeline", "--principal", "user:alice", "--json", "--service", address}, strings.Fields(c.args)...)...)
		if got := strings.Count(out, "\n"); got != c.want {
			t.Errorf("%s: %d events, want %d", c.args, got, c.want)
		}
	}
	for _, kind := range []string{"session", "task"} {
		e := sent(kind, 1)
		e.SessionId, e.TaskId = "same", "same"
		publish(t, address, e)
		if out := succeed(t, "events", "timeline", "--"+kind, "same", "--service", address); !strings.HasPrefix(out, kind+" same: ") {
			t.Errorf("%s: %s", kind, out)
		}
	}
	const doing = "mcpaudit: show timeline: "
	for args, want := range map[string]string{
		"":                                doing + "name what to follow, with --trace, --session, --task or --principal\n",
		"--trace a --task b":              doing + "name one thing to follow, not both --trace and --task\n",
		"--session=":                      doing + "--session is empty\n",
		"--trace a --limit 0":             doing + "--limit is 0, must be from 1 to 10000\n",
		"--trace a --limit 10001":         doing + "--limit is 10001, must be from 1 to 10000\n",
		"--trace a --since tomorrow":      doing + `--since is "tomorrow"; name a duration`,
		"--trace a --since 1h --until 2h": doing + "--since 1h is not before --until 2h\n",
		"--trace a b":                     `mcpaudit: unknown command "b" for "mcpaudit events timeline"`,
		"--trace a --service 127.0.0.1:1": doing + "no service answers at 127.0.0.1:1; ",
	} {
		if r := command(t, "", append([]string{"events", "timeline"}, strings.Fields(args)...)...); r.status != 1 || !strings.HasPrefix(r.stderr, want) || r.stdout != "" {
			t.Errorf("%s: %+v, want %q", args, r, want)
		}
	}
}

func TestStatsCountGroupsAndDrawThem(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	start := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	seq := uint64(0)
	add := func(n int, server, outcome string, at time.Time) {
		var events []*pb.Event
		for range n {
			seq++
			e := sent("e", seq)
			e.Server, e.Outcome, e.OccurredAt, e.Duration = server, outcome, timestamppb.New(at), durationpb.New(20*time.Millisecond)
			e.RequestBytes, e.ResponseBytes, e.Labels = 100, 924, nil
			events = append(events, e)
		}
		publish(t, address, events...)
	}
	add(8, "files", "success", start)
	add(4, "files", "denied", start.Add(3*time.Hour))
	add(2, "git\x1b[31m", "tool_error", start.Add(3*time.Hour))
	stats := func(args ...string) string {
		if len(args) == 0 || strings.HasPrefix(args[0], "--") { // no filter of its own
			args = append([]string{notItself}, args...)
		}
		return succeed(t, append([]string{"events", "stats", "--service", address}, args...)...)
	}
	zone := time.Now().Format("MST")
	for _, c := range []struct {
		args, want string
	}{
		{"--by server", `SERVER     COUNT                    ERRORS  DENIED     BYTES   P50   P95   P99
files         12  ████████████████       0       4  12.0 KiB  20ms  20ms  20ms
git [31m       2  ██▋                    2       0   2.0 KiB  20ms  20ms  20ms
`},
		{"outcome=tool_error --by server --order-by errors -n 1", `SERVER    COUNT                    ERRORS  DENIED    BYTES   P50   P95   P99
git [31m      2  ████████████████       2       0  2.0 KiB  20ms  20ms  20ms
`},
		{"--by labels.team,outcome", `LABELS.TEAM  OUTCOME     COUNT                    ERRORS  DENIED    BYTES   P50   P95   P99
(none)       success         8  ████████████████       0       0  8.0 KiB  20ms  20ms  20ms
(none)       denied          4  ████████               0       4  4.0 KiB  20ms  20ms  20ms
(none)       tool_error      2  ████                   2       0  2.0 KiB  20ms  20ms  20ms
`},
		{"", `COUNT                    ERRORS  DENIED     BYTES   P50   P95   P99
   14  ████████████████       2       4  14.0 KiB  20ms  20ms  20ms
`},
		{"--by server --interval 1h", `SERVER    COUNT  OVER TIME  MOST  LAST  ERRORS  DENIED
files        12  █··▅          8     4       0       4
git [31m      2  ···▃          2     2       2       0
over time: 4 columns of 1h each, from AT00:00 to AT04:00 ` + zone + `
`},
		{"--by server --interval 1h --order-by denials -n 1 --since 2026-11-20T08:00:00Z --until 2026-11-20T14:00:00Z", `SERVER  COUNT  OVER TIME  MOST  LAST  ERRORS  DENIED
files      12  ·█··▅·        8     0       0       4
over time: 6 columns of 1h each, from AT-1:00 to AT05:00 ` + zone + `
`},
		{"outcome=nothing", "no events match\n"},
		{"outcome=nothing --by server", "no events match\n"},
		{"outcome=nothing --interval 1h", "no events match\n"},
	} {
		want := regexp.MustCompile(`AT(-?\d+):00`).ReplaceAllStringFunc(c.want, func(m string) string {
			var hours int
			fmt.Sscanf(m, "AT%d:00", &hours)
			return (&surroundings{now: time.Now}).clock().second(start.Add(time.Duration(hours) * time.Hour))
		})
		got := stats(strings.Fields(c.args)...)
		squeeze := regexp.MustCompile(` +`)
		if squeeze.ReplaceAllString(got, " ") != squeeze.ReplaceAllString(want, " ") {
			t.Errorf("%s:\n%s\nwant\n%s", c.args, got, want)
		}
	}
	if got := stats("--interval", "1h"); !strings.HasPrefix(got, "FROM ("+zone+") ") || strings.Count(got, "\n") != 4 || !strings.Contains(got, "\n    2 intervals without events\n") {
		t.Error(got)
	}

	// As JSON: what the service said, of the groups that are shown.
	type group struct {
		Keys      []string  `json:"keys"`
		StartTime time.Time `json:"start_time"`
		Count     string    `json:"count"`
	}
	if got := jsonLines[group](t, stats("--by", "server,outcome", "--json")); len(got) != 3 || !slices.Equal(got[0].Keys, []string{"files", "success"}) || got[0].Count != "8" {
		t.Errorf("%+v", got)
	}
	got := jsonLines[group](t, stats("--by", "server", "--interval", "1h", "-n", "1", "--json"))
	if len(got) != 2 || got[0].Keys[0] != "files" || !got[0].StartTime.Equal(start) || got[1].Count != "4" {
		t.Errorf("%+v", got)
	}
	r := command(t, "", "events", "stats", "--by", "server", "-n", "1", "--service", address)
	if r.status != 0 || r.stderr != "mcpaudit: count events: there are more than these 1 group; raise --limit\n" {
		t.Errorf("%+v", r)
	}

	const doing = "mcpaudit: count events: "
	for args, want := range map[string]string{
		"--interval x":          doing + `--interval is "x"; name a length from 1s to 366d, such as 5m, 1h or 1d` + "\n",
		"--interval 1ms":        doing + `--interval is "1ms"; `,
		"--interval 367d":       doing + `--interval is "367d"; `,
		"--interval -1h":        doing + `--interval is "-1h"; `,
		"--by kind,server,a,b":  doing + "--by has 4 fields, at most three are taken\n",
		"--limit 0":             doing + "--limit is 0, must be from 1 to 10000\n",
		"--order-by size":       `mcpaudit: invalid argument "size" for "--order-by" flag: use one of count, errors, `,
		"--service 127.0.0.1:1": doing + "no service answers at 127.0.0.1:1; ",
	} {
		if r := command(t, "", append([]string{"events", "stats"}, strings.Fields(args)...)...); r.status != 1 || !strings.HasPrefix(r.stderr, want) || r.stdout != "" {
			t.Errorf("%s: %+v, want %q", args, r, want)
		}
	}
}
