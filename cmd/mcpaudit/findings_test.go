package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// looping are the calls of an agent that makes the same call again and again, from a
// number of its emitter on.
func looping(from, n uint64, agent string, start time.Time) (out []*pb.Event) {
	for i := range n {
		e := sent(agent, from+i)
		e.OccurredAt, e.Duration = timestamppb.New(start.Add(time.Duration(i)*2*time.Second)), durationpb.New(30*time.Millisecond)
		e.Principal, e.SessionId, e.Arguments = "agent:"+agent, "session-"+agent, `{"path":"notes.md"}`
		e.ArgumentsDigest, e.ResultDigest = strings.Repeat("ab", 16), strings.Repeat("cd", 16)
		out = append(out, e)
	}
	return out
}

// aFinding waits until the service lists a finding of an agent, and returns it.
func aFinding(t *testing.T, address, agent string) map[string]any {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out := succeed(t, "findings", "list", fmt.Sprintf(`principal = "agent:%s" AND rule = "agent-loop"`, agent), "--json", "--all", "--service", address)
		if list := jsonLines[map[string]any](t, out); len(list) > 0 {
			return list[0]
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was found")
		}
	}
}

// What an agent does is found, told, shown with its evidence, triaged and suppressed,
// each with a command.
func TestAFindingIsToldShownTriagedAndSuppressed(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	run := func(args ...string) string { return succeed(t, append(args, "--service", address)...) }
	// Two people with a key each: the log names whose it was.
	ada, bob := newAPIKey(t, address, "Ada", "--role", "analyst"), newAPIKey(t, address, "Bob", "--role", "analyst")
	if got := run("findings", "list"); got != "no findings match; --all lists those that are closed or suppressed too\n" {
		t.Errorf("before there is one: %q", got)
	}
	table := inBackground(t, "findings", "watch", `rule = "agent-loop"`, "--severity", "low", "--service", address)
	program := inBackground(t, "findings", "watch", `rule = "agent-loop"`, "--json", "--service", address)
	for _, b := range []*background{table, program} {
		b.err.await(t, `watching the service at `+regexp.QuoteMeta(address)+`; Ctrl-C ends it\n`)
	}
	table.out.await(t, `^FINDING +STARTED \(.*WHY\n`)
	start := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	publish(t, address, looping(1, 15, "loop", start)...)
	table.out.await(t, `agent-loop +agent:loop +\S`)
	f := aFinding(t, address, "loop")
	id, short := f["finding_id"].(string), f["finding_id"].(string)[:8]
	program.out.await(t, `"finding_id":"`+id+`"[^\n]*\n`)
	for _, b := range []*background{table, program} {
		if status := b.end(); status != 0 || strings.Count(b.err.text(), "\n") != 1 {
			t.Errorf("watching ended with status %d: %s", status, b.err.text())
		}
	}

	list := run("findings", "list", "--severity", "info", "--since", "2h", "--until", "1m")
	if !regexp.MustCompile(`(?m)^` + short + `  .* medium +open +new +agent-loop +agent:loop +\S`).MatchString(list) {
		t.Errorf("the list:\n%s", list)
	}
	if got := run("findings", "list", `rule = "agent-loop"`, "--severity", "critical"); strings.Contains(got, short) {
		t.Errorf("critical ones:\n%s", got)
	}

	// Shown: all that one wants to know, each at its place. What was said by others can't
	// move the cursor.
	show := run("findings", "show", short)
	for _, want := range []string{
		`^medium  agent-loop  An agent goes round in circles`, `\nfinding +` + id + `\n`, `\nstate +open, version \d+; new\n`, `\nprincipal +agent:loop\n`,
		`\nobserved +\S`, `\nusual +\S`, `\nscore +\d`, `\nthe arithmetic\n  \S`, `\nthe events\n`, `read_file +files +agent:loop +\{"path":"notes.md"\}\n`,
		`\nthe rule advises\n  Look at the session's timeline`, `\n  see OWASP`, `\nnext\n  mcpaudit findings ack ` + short + ` --service '` + regexp.QuoteMeta(address) + `' +# `,
		`\n  mcpaudit events timeline --session 'session-loop' --service`, `\n  mcpaudit findings close ` + short + ` --as benign --suppress 30d`,
	} {
		if !regexp.MustCompile(want).MatchString(show) {
			t.Errorf("there is no %q in\n%s", want, show)
		}
	}
	// The commands that it names are commands.
	for _, line := range regexp.MustCompile(`(?m)^  (mcpaudit .*?) +# `).FindAllStringSubmatch(show, -1) {
		if args := words(t, line[1])[1:]; args[0] == "events" {
			succeed(t, args...)
		} else if r := command(t, "", append(args, "--help")...); r.status != 0 {
			t.Errorf("%q: %+v", args, r)
		}
	}
	explained := run("rules", "explain", short)
	for _, want := range []string{"\nobserved", "\nthe arithmetic\n", "\nthe events\n"} {
		if !strings.Contains(explained, want) {
			t.Errorf("there is no %q in\n%s", want, explained)
		}
	}
	if strings.Contains(explained, "\nnext\n") {
		t.Errorf("it says what to do:\n%s", explained)
	}
	if got := jsonLines[map[string]any](t, run("findings", "show", id, "--json")); len(got) != 1 || got[0]["finding"] == nil || got[0]["events"] == nil {
		t.Errorf("as JSON: %v", got)
	}

	// Triage.
	for _, c := range []struct{ args, want string }{
		{"ack " + short + " --note on-it" + ada.flag(), short + " is acknowledged\n"},
		{"assign " + strings.ToUpper(id) + " bob" + ada.flag(), short + " is assigned to bob\n"},
		{"note " + short + " it is the \x1b[31mnight job", short + " has a note more\n"},
		{"close " + id[:13] + " --as true-positive" + bob.flag(), short + " is closed as true-positive\n"},
		{"reopen " + short + ada.flag(), short + " is new again\n"},
	} {
		if got := run(append([]string{"findings"}, strings.Fields(c.args)...)...); got != c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
	got := run("findings", "close", short, "--as", "benign", "--suppress", "30d", "--note", "the night job", "--api-key-file", bob.file)
	if !regexp.MustCompile(`^` + short + ` is closed as benign; what is the same is suppressed until [\d-]+ [\d:]+(?: \w+)?, by [0-9a-f]{8}\n$`).MatchString(got) {
		t.Errorf("%q", got)
	}
	show = run("findings", "show", short)
	for _, want := range []string{`; closed benign, bob\n`, ` Ada, ` + ada.id + ` +acknowledge +on-it\n`, ` Ada, ` + ada.id + ` +assign bob\n`, `it is the  \[31mnight job\n`, ` Bob, ` + bob.id + ` +close true-positive\n`, ` Ada, ` + ada.id + ` +reopen\n`,
		` Bob, ` + bob.id + ` +close benign +the night job\n`, `\n  mcpaudit findings reopen ` + short} {
		if !regexp.MustCompile(want).MatchString(show) || strings.Contains(show, "\x1b") {
			t.Errorf("there is no %q in\n%s", want, show)
		}
	}
	if got := run("findings", "list", `rule = "agent-loop"`); got != "no findings match; --all lists those that are closed or suppressed too\n" {
		t.Errorf("%s", got)
	}
	if got := run("findings", "list", `rule = "agent-loop"`, "--all"); !strings.Contains(got, "closed benign, bob") {
		t.Errorf("%s", got)
	}
	if r := command(t, "", "findings", "ack", short, "--service", address); r.status != 1 || !regexp.MustCompile(`^mcpaudit: acknowledge finding: finding `+id+` was closed at [^\n]* by `+bob.id+` \(Bob\)\n$`).MatchString(r.stderr) {
		t.Errorf("%+v", r)
	}

	// The same of the same identity is suppressed until somebody ends that.
	again := looping(101, 15, "loop", time.Now().UTC().Add(-time.Minute))
	for _, e := range again {
		e.SessionId = "another" // a finding of its own
	}
	publish(t, address, again...)
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(run("findings", "list", "--all"), "new, suppressed"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is suppressed:\n%s", run("findings", "list", "--all"))
		}
	}
	if got := run("findings", "list", `rule = "agent-loop"`); !strings.HasPrefix(got, "no findings") {
		t.Errorf("%s", got)
	}
	suppressions := jsonLines[map[string]any](t, run("findings", "suppressions", "list", "--json"))
	if len(suppressions) != 1 || suppressions[0]["finding_id"] != id || suppressions[0]["by"] != bob.id+" (Bob)" {
		t.Fatalf("%v", suppressions)
	}
	of := suppressions[0]["suppression_id"].(string)
	if got := run("findings", "suppressions", "list"); !regexp.MustCompile(of + ` +[\d-]+ [\d:]+(?: \w+)? +agent-loop +medium +agent:loop +\S.* ` + short + ` +Bob, ` + bob.id + ` +the night job\n`).MatchString(got) {
		t.Errorf("%s", got)
	}
	if got := run("findings", "suppressions", "end", of[:18], "--api-key-file", ada.file); got != of+" is ended\n" {
		t.Errorf("%q", got)
	}
	if got := run("findings", "suppressions", "list"); got != "nothing is suppressed\n" {
		t.Errorf("%q", got)
	}
	if got := run("findings", "suppressions", "list", "--all"); !strings.Contains(got, ", ended") {
		t.Errorf("%q", got)
	}

	// All of it is in the log.
	steps := jsonLines[map[string]any](t, run("events", "list", `kind = "admin" AND method = "findings/*"`, "--order-by", "occurred_at", "--json"))
	var methods []string
	did := map[any]int{}
	for _, e := range steps {
		did[e["principal"]]++
		if name, known := map[any]any{ada.id: "Ada", bob.id: "Bob"}[e["principal"]]; known && name != e["principal_name"] {
			t.Errorf("%v is called %v", e["principal"], e["principal_name"])
		}
		methods = append(methods, strings.TrimPrefix(e["method"].(string), "findings/"))
		if e["target"] != id {
			t.Errorf("%v", e)
		}
	}
	if got := strings.Join(methods, " "); got != "acknowledge assign note close reopen close suppress end_suppression" || did[ada.id] != 4 || did[bob.id] != 3 {
		t.Errorf("the log has %s, by %v", got, did)
	}

	// Shells complete ids, of findings for which the command makes sense.
	for _, c := range []struct{ args, want string }{{"reopen ", short + "\tmedium agent-loop, agent:loop"}, {"show " + id[:4], short}, {"show " + id[:12], id[:12]}} {
		verb, typed, _ := strings.Cut(c.args, " ")
		if got := command(t, "", "__complete", "findings", verb, "--service", address, typed).stdout; !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
	// A service that is not there costs a shell nothing.
	if r := command(t, "", "__complete", "findings", "ack", "--service", "127.0.0.1:1", ""); r.status != 0 || strings.Contains(r.stdout, "\t") {
		t.Errorf("%+v", r)
	}

	for _, c := range []struct{ args, want string }{
		{"list|severty = high", `list findings: filter, character 1: there is no field "severty"; the nearest is severity` + "\n  severty = high\n  ^\n"},
		{"watch|rule = x AND y", `watch findings: filter, character `},
		{"list|--severity|bad", `invalid argument "bad" for "--severity" flag: use one of info, low, medium, high, critical`},
		{"list|--limit|0", `list findings: --limit is 0, must be at least 1`},
		{"list|--since|soon", `list findings: --since is "soon"`},
		{"show|3f2a", `show finding: "3f2a" is too short; type at least the first 8 characters of the id`},
		{"show|' OR 1=1", `show finding: "' OR 1=1" is not the id of a finding`},
		{"show|00000000", `show finding: there is no finding whose id begins with 00000000`},
		{"show|00000000-0000-8000-8000-000000000000", `show finding: there is no finding 00000000-0000-8000-8000-000000000000`},
		{"show|" + id + "0", `is not the id of a finding`},
		{"close|" + short, `close finding: name what it was, with --as true-positive, --as benign, --as false-positive`},
		{"close|" + short + "|--as|fine", `invalid argument "fine" for "--as" flag`},
		{"close|" + short + "|--as|true-positive|--suppress|3d", `close finding: --suppress is for what is closed --as benign`},
		{"close|" + short + "|--as|benign|--suppress|3h", `close finding: --suppress is "3h"; name days, such as 30d`},
		{"close|" + short + "|--as|benign|--suppress|400d", `close finding: --suppress is "400d"`},
		{"suppressions|end|12345678", `end suppression: there is no suppression whose id begins with "12345678"`},
		{"suppressions|end|" + of, `end suppression: suppression ` + of + ` was ended at`},
		{"suppressions|ends", `unknown command "ends" for "mcpaudit findings suppressions"; the nearest is "end"`},
	} {
		r := command(t, "", append([]string{"findings", "--service", address}, strings.Split(c.args, "|")...)...)
		if r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: ") || !strings.Contains(r.stderr, c.want) || r.stdout != "" {
			t.Errorf("findings %q: %+v, want %q", c.args, r, c.want)
		}
	}
}

func TestWatchingFindingsSurvivesARestartAndSaysHowToListWhatWasMissed(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	b := inBackground(t, "findings", "watch", `rule = "agent-loop"`, "--severity", "low", "--json", "--service", address)
	b.err.await(t, `watching the service`)
	publish(t, address, looping(1, 15, "one", time.Now().UTC().Add(-time.Minute))...)
	b.out.await(t, `"principal":"agent:one"`)
	p.kill()
	b.err.await(t, `the service at `+regexp.QuoteMeta(address)+` ended the stream`)
	p = launch(t, append(serveArgs(t, dir), "--listen.grpc", address)...)
	p.await(t, `ingest is ready`)
	list := b.err.await(t, `watching again after [^\n]*findings told in between are not shown here\.[^\n]*\n  mcpaudit ([^\n]*)\n`)
	r := command(t, "", append(words(t, list), "--json")...)
	if r.status != 0 || !strings.Contains(r.stdout, `"principal":"agent:one"`) {
		t.Errorf("mcpaudit %s: %+v", list, r)
	}
	publish(t, address, looping(1, 15, "two", time.Now().UTC().Add(-time.Minute))...)
	b.out.await(t, `"principal":"agent:two"`)
	if status := b.end(); status != 0 {
		t.Errorf("it ended with status %d:\n%s", status, b.err.text())
	}
	if r := command(t, "", "findings", "watch", "--service", "127.0.0.1:1"); r.status != 1 || !strings.Contains(r.stderr, "watch findings: no service answers at 127.0.0.1:1") {
		t.Errorf("%+v", r)
	}
}

// A service that is killed in the middle of an attack, before anything was found and
// after, finds what it would have found: one thing, once.
func TestPromise6AServiceThatIsKilledInTheMiddleOfAnAttackFindsItOnce(t *testing.T) {
	dir := t.TempDir()
	attack := looping(1, 30, "mad", time.Now().UTC().Add(-time.Minute).Truncate(time.Second))
	var ids []any
	for life, part := range [][]*pb.Event{attack[:6], attack[6:13], attack[13:]} {
		p, address := launchServe(t, dir)
		publish(t, address, part...)
		if life > 0 { // the eleventh repetition is in the second part
			f := aFinding(t, address, "mad")
			ids = append(ids, f["finding_id"])
			if life == 2 {
				out := succeed(t, "findings", "list", `principal = "agent:mad" AND rule = "agent-loop"`, "--json", "--all", "--service", address)
				if list := jsonLines[map[string]any](t, out); len(list) != 1 {
					t.Errorf("%d findings of one attack: %v", len(list), list)
				}
			}
		}
		p.kill()
	}
	if ids[0] != ids[1] {
		t.Errorf("the finding was %v, and is %v after the service was killed", ids[0], ids[1])
	}
	r := command(t, "", "rules", "replay", "--store.path", dir, "--store.engine", storetest.Library(t), "--only", "agent-loop")
	if list := jsonLines[map[string]any](t, r.stdout); r.status != 0 || len(list) != 1 || list[0]["finding_id"] != ids[0] || list[0]["event_count"] != "30" {
		t.Errorf("a replay says %+v, live it was %v", list, ids[0])
	}
}

// A reload says which rules have changed; a mistake in a file is named, and changes
// nothing.
func TestRulesAreReloaded(t *testing.T) {
	file, dir := filepath.Join(t.TempDir(), "ours.yaml"), t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("rules: []\n")
	p := launch(t, append(serveArgs(t, dir), "--detect.rules", file)...)
	p.await(t, `ingest is ready`)
	address := p.await(t, `msg=serving .*grpc=(\S+)`)
	useKeyOf(t, dir)
	me := identity(t, address)
	reload := func() result { return command(t, "", "rules", "reload", "--service", address) }
	if r := reload(); r.status != 0 || r.stdout != "the rules are as they were\n" {
		t.Errorf("%+v", r)
	}
	write("rules:\n  - {name: agent-loop, severity: high}\n  - {name: off-hours, disabled: true}\n  - {name: our-own, title: Ours, detector: custom, with: {condition: 'server == \"x\"'}}\n")
	if r := reload(); r.status != 0 || r.stdout != "added: our-own\nchanged: agent-loop\nremoved: off-hours\n" {
		t.Errorf("%+v", r)
	}
	write("rules:\n  - {name: agent-lop, disabled: true}\n")
	if r := reload(); r.status != 1 || !strings.Contains(r.stderr, "reload rules: the rules stay as they are: ") || !strings.Contains(r.stderr, ":2: there is no rule agent-lop to disable; the nearest is agent-loop") {
		t.Errorf("%+v", r)
	}
	var outcomes []string
	for _, e := range jsonLines[map[string]any](t, succeed(t, "events", "list", `method = "rules/reload"`, "--order-by", "occurred_at", "--json", "--service", address)) {
		if e["principal"] != me {
			t.Errorf("%v, and it was %s", e, me)
		}
		outcomes = append(outcomes, fmt.Sprint(e["outcome"], e["labels"]))
	}
	if got := strings.Join(outcomes, "; "); got != "success<nil>; successmap[added:our-own changed:agent-loop removed:off-hours]; tool_error<nil>" {
		t.Errorf("%s", got)
	}
}
