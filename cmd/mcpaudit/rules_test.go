package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mcpaudit/mcpaudit/detect/rules"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// ourRules change a shipped rule, leave one out and add one, with examples.
const ourRules = `rules:
  - {name: agent-loop, severity: high, with: {repeats: 9}}
  - {name: off-hours, disabled: true}
  - name: billing-deletes
    title: An agent deletes from billing
    detector: custom
    severity: high
    with: {condition: 'server == "billing" && target.startsWith("delete_")'}
    examples:
      - {name: a deletion, fires: 1, severity: high, events: "09:00 principal=a server=billing target=delete_invoice"}
      - {name: a look, events: "09:00 principal=a server=billing target=get_invoice"}
`

// asLines are events as an export writes them.
func asLines(t *testing.T, events ...*pb.Event) string {
	t.Helper()
	var b strings.Builder
	for _, e := range events {
		line, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(line, '\n'))
	}
	return b.String()
}

// findingLine is what tests look at in a finding as JSON.
type findingLine struct {
	ID        string    `json:"finding_id"`
	Rule      string    `json:"rule"`
	Principal string    `json:"principal"`
	Severity  string    `json:"severity"`
	Reason    string    `json:"reason"`
	StartedAt time.Time `json:"started_at"`
}

// idsOf are the ids of the findings about one agent, of one rule or of all, in order.
func idsOf(list []findingLine, rule, agent string) (ids []string) {
	for _, f := range list {
		if (rule == "" || f.Rule == rule) && f.Principal == "agent:"+agent {
			ids = append(ids, f.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestRulesAreListedAndShownWithTheirSettings(t *testing.T) {
	shipped, err := rules.Load()
	if err != nil {
		t.Fatal(err)
	}
	ours := writeFile(t, "ours.yaml", ourRules)

	lines := strings.Split(strings.TrimSuffix(succeed(t, "rules", "list"), "\n"), "\n")
	if len(lines) != 1+len(shipped) || !regexp.MustCompile(`^RULE +SEVERITY +SOURCE +MEANS$`).MatchString(lines[0]) {
		t.Fatalf("%d lines for %d rules: %q", len(lines), len(shipped), lines)
	}
	for i, r := range shipped {
		if got := strings.Fields(lines[1+i]); got[0] != r.Name || got[1] != r.Severity.String() || got[2] != "shipped" || !strings.HasSuffix(lines[1+i], r.Title) {
			t.Errorf("%s: %q", r.Name, lines[1+i])
		}
	}
	list := succeed(t, "rules", "list", "--rules", ours)
	if strings.Contains(list, "off-hours ") || !regexp.MustCompile(`(?m)^billing-deletes +high +\S+ +An agent deletes from billing$`).MatchString(list) || !regexp.MustCompile(`(?m)^agent-loop +high +`).MatchString(list) {
		t.Errorf("with our rules:\n%s", list)
	}
	t.Setenv("MCPAUDIT_DETECT_RULES", ours)
	if got := succeed(t, "rules", "list"); got != list {
		t.Errorf("with our rules from the environment:\n%s\nwant\n%s", got, list)
	}
	t.Setenv("MCPAUDIT_DETECT_RULES", "")

	one := succeed(t, "rules", "list", "agent-loop")
	for _, want := range []string{`^agent-loop  An agent goes round in circles`, `\nseverity +medium\n`, `\ndetector +agent_loop: \S`, `\nresolves +after 10m0s of quiet\n`, `\nsource +shipped\n`,
		`\nreferences +OWASP `, `\ndo first +Look at the session's timeline`, `\nSETTING +VALUE +MEANS\n`, `\nrepeats +10 +\S`, `\npause +5m0s +\S`} {
		if !regexp.MustCompile(want).MatchString(one) {
			t.Errorf("there is no %q in\n%s", want, one)
		}
	}
	if got := succeed(t, "rules", "list", "agent-loop", "--rules", ours); !strings.Contains(got, "\nseverity    high\n") || !strings.Contains(got, "(changes a shipped rule)\n") {
		t.Errorf("%s", got)
	}

	type rule struct {
		Name, Title, Detector, Severity, Runbook, Source string
		References                                       []string
		With                                             map[string]string
	}
	all := jsonLines[rule](t, succeed(t, "rules", "list", "--json"))
	if len(all) != len(shipped) {
		t.Errorf("%d rules as JSON, want %d", len(all), len(shipped))
	}
	for i, r := range all {
		if r.Name != shipped[i].Name || r.Title != shipped[i].Title || r.Detector == "" || r.Severity == "" || r.Runbook == "" || r.Source != "shipped" || len(r.References) == 0 || len(r.With) == 0 {
			t.Errorf("%+v", r)
		}
	}
	if got := jsonLines[rule](t, succeed(t, "rules", "list", "billing-deletes", "--json", "--rules", ours)); len(got) != 1 || got[0].Source != ours ||
		got[0].With["condition"] != `server == "billing" && target.startsWith("delete_")` {
		t.Errorf("%+v", got)
	}
	if r := command(t, "", "rules", "list", "agent-lop"); r.status != 1 || r.stdout != "" || r.stderr != "mcpaudit: there is no rule \"agent-lop\"; the nearest is \"agent-loop\"\n" {
		t.Errorf("%+v", r)
	}
	if got := complete(t, "rules", "list", "--rules", ours, ""); !slices.Contains(strings.Fields(got), "billing-deletes") || slices.Contains(strings.Fields(got), "off-hours") {
		t.Errorf("a shell is told %q", got)
	}
	if got := complete(t, "rules", "list", "agent-loop", ""); got != "" {
		t.Errorf("a shell is told of a second rule: %q", got)
	}
}

func TestRuleFilesAreCheckedAsTheServiceWould(t *testing.T) {
	shipped, err := rules.Load()
	if err != nil {
		t.Fatal(err)
	}
	// One less and one more than the shipped rules; two of them have to do with the file.
	if got, want := succeed(t, "rules", "check", writeFile(t, "ours.yaml", ourRules)), fmt.Sprintf("%d rules, 2 of them from your files\n", len(shipped)); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	bad := writeFile(t, "bad.yaml", "rules:\n  - name: agent-loop\n    with: {repeat: 3}\n")
	want := "mcpaudit: " + bad + ":3: with has no key \"repeat\"; the nearest is \"repeats\"\n"
	for _, args := range [][]string{{"rules", "check", bad}, {"rules", "test", bad}, {"rules", "list", "--rules", bad}, {"rules", "replay", "--input", "-", "--rules", bad}} {
		if r := command(t, "", args...); r.status != 1 || r.stdout != "" || r.stderr != want {
			t.Errorf("%q: %+v, want %q", args, r, want)
		}
	}
	for file, want := range map[string]string{
		"/no/such/file.yaml": "mcpaudit: read rules: open /no/such/file.yaml: no such file or directory\n",
		"":                   "mcpaudit: requires at least 1 arg(s), only received 0",
	} {
		if r := command(t, "", append([]string{"rules", "check"}, strings.Fields(file)...)...); r.status != 1 || r.stdout != "" || !strings.HasPrefix(r.stderr, want) {
			t.Errorf("check %s: %+v, want %q", file, r, want)
		}
	}
}

func TestExamplesOfRulesAreRun(t *testing.T) {
	ours := writeFile(t, "ours.yaml", ourRules)
	out := succeed(t, "rules", "test", ours)
	for _, want := range []string{`(?m)^ok    billing-deletes: a deletion$`, `(?m)^ok    billing-deletes: a look$`, `(?m)^ok    toxic-flow: `, `\n\d+ examples of \d+ rules, 0 wrong\n$`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
	// The shipped examples are not of an agent-loop with other settings.
	if !strings.Contains(out, "no examples  agent-loop\n") || strings.Contains(out, "FAIL") {
		t.Errorf("%s", out)
	}
	if got := succeed(t, "rules", "test", ours, "--verbose"); !regexp.MustCompile(`ok    billing-deletes: a deletion\n        high: \S`).MatchString(got) || strings.Contains(got, "a look\n        ") {
		t.Errorf("%s", got)
	}

	wrong := writeFile(t, "wrong.yaml", strings.NewReplacer("a look, events", "a look, fires: 2, events", "severity: high, events", "severity: low, events").Replace(ourRules))
	r := command(t, "", "rules", "test", wrong)
	for _, want := range []string{`\nFAIL  billing-deletes: a deletion: is of severity high, not low\n        high: \S`, `\nFAIL  billing-deletes: a look: opened 0 findings, not 2\n`, `\n\d+ examples of \d+ rules, 2 wrong\n$`} {
		if !regexp.MustCompile(want).MatchString(r.stdout) {
			t.Errorf("there is no %q in\n%s", want, r.stdout)
		}
	}
	if r.status != 1 || r.stderr != "" {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
}

// A replay of a file needs neither a service nor a store, and says the same each time.
func TestAFileIsReplayedWithTheSameFindingsEachTime(t *testing.T) {
	start := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	deletion := sent("billing", 1)
	deletion.Principal, deletion.Server, deletion.Target = "agent:biller", "billing", "delete_invoice"
	text := asLines(t, looping(1, 15, "one", start)...) + "\n \n" + asLines(t, append(looping(1, 15, "two", start.Add(time.Hour)), deletion)...)
	file := writeFile(t, "events.jsonl", text)

	first := succeed(t, "rules", "replay", "--input", file)
	list := jsonLines[findingLine](t, first)
	for agent, at := range map[string]time.Time{"one": start, "two": start.Add(time.Hour)} {
		if ids := idsOf(list, "agent-loop", agent); len(ids) != 1 {
			t.Errorf("agent %s has the loops %v", agent, ids)
		}
		for _, f := range list {
			if f.Rule == "agent-loop" && f.Principal == "agent:"+agent && (f.Severity != "medium" || f.Reason == "" || !f.StartedAt.Equal(at)) {
				t.Errorf("%+v", f)
			}
		}
	}
	seen := map[string]bool{}
	for _, f := range list {
		if seen[f.ID] {
			t.Errorf("finding %s is there twice", f.ID)
		}
		seen[f.ID] = true
	}
	if again := succeed(t, "rules", "replay", "--input", file, "--json"); again != first {
		t.Errorf("the second time:\n%s\nthe first time:\n%s", again, first)
	}
	if r := command(t, text, "rules", "replay", "--input", "-"); r.status != 0 || r.stderr != "" || r.stdout != first {
		t.Errorf("from standard input: %+v, want\n%s", r, first)
	}

	// Other rules, and some of them alone.
	ours := writeFile(t, "ours.yaml", ourRules)
	only := jsonLines[findingLine](t, succeed(t, "rules", "replay", "--input", file, "--rules", ours, "--only", "billing-deletes", "--only", "agent-loop"))
	if len(only) != 3 || len(idsOf(only, "billing-deletes", "biller")) != 1 || !slices.Equal(idsOf(only, "agent-loop", "one"), idsOf(list, "agent-loop", "one")) {
		t.Errorf("two rules: %+v", only)
	}
	for _, f := range only {
		if f.Severity != "high" {
			t.Errorf("by our rules: %+v", f)
		}
	}
	// What opened in a period; the loop of agent one is before it.
	for period, want := range map[string][2]int{"--since 2026-11-20T09:30:00Z": {0, 1}, "--until 2026-11-20T09:30:00Z": {1, 0}, "--since 2026-11-20T09:30:00Z --until 2026-11-20T09:40:00Z": {0, 0}} {
		got := jsonLines[findingLine](t, succeed(t, append([]string{"rules", "replay", "--input", file, "--only", "agent-loop"}, strings.Fields(period)...)...))
		if n := [2]int{len(idsOf(got, "", "one")), len(idsOf(got, "", "two"))}; n != want {
			t.Errorf("%s: %v findings of the agents, want %v", period, n, want)
		}
	}
	if got := succeed(t, "rules", "replay", "--input", writeFile(t, "none", "")); got != "" {
		t.Errorf("of no events: %s", got)
	}
}

func TestMistakesOfAReplayAreNamedWithTheirLine(t *testing.T) {
	good := asLines(t, sent("e", 1))
	// Lines are counted as an editor does, the blank ones too, in files of many chunks too.
	many := strings.Repeat("\n", 3) + asLines(t, numbered(1000)...) + "\n\n"
	for _, c := range []struct{ text, want string }{
		{good + `{"raw_arguments":{"password":"hunter2"}}`, "replay line 2: it is a raw call; pass it through 'mcpaudit redact' first"},
		{strings.Replace(good, "}\n", `,"raw_result":{"text":"hunter2"}}`, 1), "replay line 1: it is a raw call; "},
		{good + "\n\r\n" + `["hunter2"]`, "replay line 4: not an event: a value of the wrong form"},
		{good + "\n" + good + "\n" + `{"hunter2"`, "replay line 5: not an event: "},
		{good + strings.Replace(good, `"kind"`, `"knd"`, 1), `replay line 2: not an event: unknown field "knd"`},
		{good + "\n" + strings.Replace(good, `"success"`, `"hunter2"`, 1), "replay line 3: outcome: must be one of"},
		{many + "hunter2", "replay line 1006: not an event: "},
	} {
		r := command(t, c.text, "rules", "replay", "--input", "-")
		if r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: "+c.want) || strings.Contains(r.stderr+r.stdout, "hunter2") {
			t.Errorf("%+v, want %q", r, c.want)
		}
	}
	// A tool that has such a name is no raw call.
	named := sent("e", 1)
	named.Target = "raw_arguments"
	if r := command(t, asLines(t, named), "rules", "replay", "--input", "-", "--only", "agent-loop"); r.status != 0 || r.stdout+r.stderr != "" {
		t.Errorf("%+v", r)
	}
	for args, want := range map[string]string{
		"--input /no/such/file":           "replay: open /no/such/file: no such file or directory\n",
		"--input - --only agent-lop":      "there is no rule \"agent-lop\"; the nearest is \"agent-loop\"\n",
		"--input - --since soon":          `--since is "soon"; name a duration`,
		"--input - --since 1h --until 2h": "--since 1h is not before --until 2h\n",
		"--store.path /no/such/store":     "replay: there is no store at /no/such/store; name one with --store.path, or a file of events with --input\n",
		"--input - a":                     `unknown command "a" for "mcpaudit rules replay"`,
	} {
		if r := command(t, "", append([]string{"rules", "replay"}, strings.Fields(args)...)...); r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: "+want) || r.stdout != "" {
			t.Errorf("replay %s: %+v, want %q", args, r, want)
		}
	}
}

// A replay, of what a service exports and of the store that it leaves, says what the
// service said live, with the same ids.
func TestAReplaySaysWhatTheServiceSaidLive(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	now := time.Now().UTC().Truncate(time.Second)
	publish(t, address, looping(1, 15, "one", now.Add(-time.Hour))...)
	publish(t, address, looping(1, 15, "two", now.Add(-time.Minute))...)
	aFinding(t, address, "two") // and with it all of what agent one did
	live := jsonLines[findingLine](t, succeed(t, "findings", "list", "--all", "--json", "--service", address))
	one, two := idsOf(live, "", "one"), idsOf(live, "agent-loop", "two")
	if len(idsOf(live, "agent-loop", "one")) != 1 || len(two) != 1 {
		t.Fatalf("live: %+v", live)
	}
	same := func(where string, list []findingLine) {
		t.Helper()
		if got := idsOf(list, "", "one"); !slices.Equal(got, one) {
			t.Errorf("%s: of agent one %v, live %v", where, got, one)
		}
		if got := idsOf(list, "agent-loop", "two"); !slices.Equal(got, two) {
			t.Errorf("%s: of agent two %v, live %v", where, got, two)
		}
	}
	exported := command(t, "", "export", "--service", address)
	if exported.status != 0 || strings.Count(exported.stdout, "\n") < 32 { // and the service's start, and what it was asked
		t.Fatalf("export: %+v", exported)
	}
	r := command(t, exported.stdout, "rules", "replay", "--input", "-")
	if r.status != 0 || r.stderr != "" {
		t.Errorf("replay of what is exported: %+v", r)
	}
	same("what is exported", jsonLines[findingLine](t, r.stdout))

	// The store of a running service is its own.
	fromStore := []string{"rules", "replay", "--store.path", dir, "--store.engine", storetest.Library(t)}
	if r := command(t, "", fromStore...); r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, "another process is using this data folder") {
		t.Errorf("beside the service: %+v", r)
	}
	p.kill()
	for range 2 {
		r := command(t, "", fromStore...)
		if r.status != 0 {
			t.Fatalf("replay of the store: %+v", r)
		}
		same("the store", jsonLines[findingLine](t, r.stdout))
	}
	// What opened before --since is not told.
	if r := command(t, "", append(fromStore, "--since", time.Now().Add(time.Minute).UTC().Format(time.RFC3339))...); r.status != 0 || r.stdout != "" {
		t.Errorf("of the future: %+v", r)
	}
}
