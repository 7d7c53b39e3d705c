package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// What a profile names does not leave, whatever the built-in rules think of it; one
// that can't be read redacts nothing by accident.
func TestAProfileRulesWhatIsRedacted(t *testing.T) {
	profile := writeFile(t, "shop.yaml", "tools: {\"shop/*\": {drop: [note]}}\n")
	call := `{"method":"tools/call","server":"shop","target":"order","raw_arguments":{"note":"blue","n":1}}`
	r := command(t, call, "redact", "--profile", profile)
	if r.status != 0 || strings.Contains(r.stdout, "blue") || !strings.Contains(r.stdout, `"redaction_profile":"shop"`) {
		t.Errorf("%+v", r)
	}
	bad := writeFile(t, "bad.yaml", "tool: {}\n")
	for _, args := range [][]string{{"redact", "--profile", bad}, {"wrap", "--profile", bad, "--fail", "closed", "--spool", t.TempDir(),
		"--key-file", filepath.Join(t.TempDir(), "key"), "--", "true"}} {
		if r := command(t, call, args...); r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, "bad.yaml: line 1: field tool not found") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

func TestVersionIsPrinted(t *testing.T) {
	if r := command(t, "", "version"); r.status != 0 || strings.TrimSpace(r.stdout) == "" || r.stderr != "" {
		t.Errorf("%+v", r)
	}
}

func TestMistakesAreNamedOnStandardErrorWithStatusOne(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"serv", `unknown command "serv" for "mcpaudit"`},
		{"events lst", `unknown command "lst" for "mcpaudit events"; the nearest is "list"`},
		{"engine instal", `unknown command "instal" for "mcpaudit engine"`},
		{"serve --stor.path x", `unknown flag: --stor.path`},
		{"serve now", `unknown command "now" for "mcpaudit serve"`},
		{"serve --check --ingest.batch_rows many", `flag --ingest.batch_rows: "many" is not a whole number`},
		{"serve --check --ingest.batch_age 5", `flag --ingest.batch_age: "5" is not a duration such as 25ms`},
		{"serve --check --roles watch", `roles: there is no role "watch"`},
		{"serve --check --listen.grpc 0.0.0.0:4777", `listen.grpc: "0.0.0.0:4777" is not a loopback address`},
		{"serve --check --config /no/such/file.yaml", `read configuration: open /no/such/file.yaml: no such file or directory`},
		{"serve --store.engine /no/such/engine", `find engine "/no/such/engine": there is no such file`},
		{"events list a b", `accepts at most 1 arg(s), received 2`},
		{"events list --limit 0", `list events: --limit is 0, must be at least 1`},
		{"events get", `accepts 1 arg(s), received 0`},
		{"events list --service 127.0.0.1:1", `list events: no service answers at 127.0.0.1:1; start one with 'mcpaudit serve', or name it with --service`},
		{"events get --service 127.0.0.1:1 01890a5d-ac96-774b-bcce-b302099a8057", `get event: no service answers at 127.0.0.1:1`},
		{"redact --lookup alice", `look up a pseudonym: name the key that made it, with --key-file`},
		{"redact --key-file /no/such/key", `read redaction key: stat /no/such/key: no such file or directory`},
		{"wrap --fail maybe -- true", `wrap: --fail is "maybe"; use open or closed`},
		{"wrap", `requires at least 1 arg(s)`},
		{"bench", `requires at least 1 arg(s)`},
	} {
		r := command(t, "", strings.Fields(c.args)...)
		if r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: ") || !strings.Contains(r.stderr, c.want) || r.stdout != "" {
			t.Errorf("mcpaudit %s: %+v, want %q", c.args, r, c.want)
		}
	}
}

func TestEveryCommandExplainsItselfWithAnExample(t *testing.T) {
	var visit func(c *cobra.Command, path []string)
	visit = func(c *cobra.Command, path []string) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		r := command(t, "", append(path, "--help")...)
		if r.status != 0 || r.stderr != "" || !strings.Contains(r.stdout, "Usage:") {
			t.Errorf("%v --help: %+v", path, r)
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%v: its short text is %q", path, c.Short)
		}
		// A group of commands, a single answer: these need no example.
		if c.Runnable() && !c.HasAvailableSubCommands() && c.Name() != "version" && c.Name() != "path" && !strings.Contains(r.stdout, "Examples:\n  ") {
			t.Errorf("%v has no example", path)
		}
		for _, sub := range c.Commands() {
			visit(sub, append(path[:len(path):len(path)], sub.Name()))
		}
	}
	visit(rootCommand(&surroundings{env: func(string) string { return "" }}), nil)
}

func TestAFlagWinsOverTheEnvironmentAndThatOverTheFile(t *testing.T) {
	file := writeFile(t, "mcpaudit.yaml", "ingest:\n  batch_rows: 11\nledger:\n  log: filed\nretention:\n  default: 33\n")
	t.Setenv("MCPAUDIT_CONFIG", file)
	t.Setenv("MCPAUDIT_INGEST_BATCH_ROWS", "22")
	t.Setenv("MCPAUDIT_LEDGER_LOG", "environment")
	r := command(t, "", "serve", "--dump-config", "--ledger.log", "flagged")
	for _, want := range []string{"batch_rows: 22", "log: flagged", "default: \"33\""} {
		if !strings.Contains(r.stdout, want+"\n") || r.status != 0 {
			t.Errorf("there is no %q in %+v", want, r)
		}
	}
	t.Setenv("MCPAUDIT_INGEST_BATCH_ROWS", "many")
	r = command(t, "", "serve", "--check")
	if want := "mcpaudit: environment variable MCPAUDIT_INGEST_BATCH_ROWS: ingest.batch_rows: \"many\" is not a whole number\n"; r.status != 1 || r.stderr != want {
		t.Errorf("%+v, want %q", r, want)
	}
}

func TestSecretsAreNeitherDumpedNorQuoted(t *testing.T) {
	const dsn = "clickhouse://writer:hunter2@db:9000/audit"
	for _, args := range [][]string{{"serve", "--dump-config"}, {"config"}} {
		r := command(t, "", append(args, "--store.dsn", dsn)...)
		if r.status != 0 || strings.Contains(r.stdout+r.stderr, "hunter2") || !strings.Contains(r.stdout, "# dsn is set and not shown") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	t.Setenv("MCPAUDIT_STORE_DSN", "clickhouse//writer:hunter2@db")
	for _, args := range [][]string{{"serve", "--check"}, {"config"}, {"migrate"}, {"serve", "--help"}} {
		if r := command(t, "", args...); strings.Contains(r.stdout+r.stderr, "hunter2") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

func TestCheckOpensNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if r := command(t, "", "serve", "--check", "--store.path", dir); r.status != 0 || r.stdout != "the settings are right\n" || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the data folder was made: %v", err)
	}
}

func TestMigrateSaysWhatItAppliedAndTheSecondTimeNothing(t *testing.T) {
	dir := t.TempDir()
	args := []string{"migrate", "--store.path", dir, "--store.engine", storetest.Library(t)}
	if r := command(t, "", args...); r.status != 0 || !strings.HasPrefix(r.stdout, "applied 0001_events.sql\n") {
		t.Errorf("the first time: %+v", r)
	}
	if r := command(t, "", args...); r.status != 0 || r.stdout != "the schema is up to date\n" {
		t.Errorf("the second time: %+v", r)
	}
}

func TestASecondServiceOnTheSameDataIsToldInOneSentence(t *testing.T) {
	dir := t.TempDir()
	p, _ := launchServe(t, dir)
	defer p.kill()
	for _, args := range [][]string{serveArgs(t, dir), {"migrate", "--store.path", dir, "--store.engine", storetest.Library(t)}} {
		r := command(t, "", args...)
		if want := fmt.Sprintf("mcpaudit: open engine on %q: another process is using this data folder\n", dir); r.status != 1 || r.stderr != want {
			t.Errorf("%s: %+v, want %q", args[0], r, want)
		}
	}
}

func TestEventsAreListedAndShown(t *testing.T) {
	address, web := inService(t, t.TempDir())
	if r := command(t, "", "events", "list", notItself, "--service", address); r.status != 0 || r.stdout != "no events match\n" {
		t.Errorf("a log with the service's start alone: %+v", r)
	}
	if got := jsonLines[map[string]any](t, succeed(t, "events", "list", `principal = "mcpaudit:service"`, "--json", "--service", address)); len(got) != 1 || got[0]["method"] != "mcpaudit/start" {
		t.Errorf("of itself the service has noted %v", got)
	}
	req := &pb.PublishBatchRequest{}
	for n := range uint64(30) {
		req.Events = append(req.Events, sent("e", n+1))
	}
	req.Events[4].Outcome, req.Events[4].ErrorMessage = "denied", "no such\x1b[31m\nscope"
	if _, err := pb.NewIngestServiceClient(connect(t, address)).PublishBatch(t.Context(), req); err != nil {
		t.Fatal(err)
	}

	// As a table: a heading, one line an event, newest first, nothing for a
	// terminal to obey.
	r := command(t, "", "events", "list", notItself, "--service", address, "--limit", "25")
	lines := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
	if r.status != 0 || len(lines) != 26 || !strings.HasPrefix(lines[0], "TIME ") || !strings.Contains(lines[1], `{"page":30}`) {
		t.Errorf("%+v", r)
	}
	r = command(t, "", "events", "list", `outcome = "denied"`, "--service", address)
	if lines := strings.Split(r.stdout, "\n"); len(lines) != 3 || strings.ContainsRune(r.stdout, '\x1b') || !strings.Contains(lines[1], "no such [31m scope") {
		t.Errorf("%+v", r)
	}

	// As JSON: each line an event, as many as asked for.
	r = command(t, "", "events", "list", `emitter_id = "e" AND emitter_seq > 10`, "--json", "-n", "7", "--service", address)
	lines = strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
	if r.status != 0 || len(lines) != 7 {
		t.Errorf("%+v", r)
	}
	for i, line := range lines {
		var e struct {
			EmitterSeq string `json:"emitter_seq"`
			LogID      string `json:"log_id"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.EmitterSeq != fmt.Sprint(30-i) || e.LogID == "" {
			t.Errorf("line %d is %s: %v", i, line, err)
		}
	}
	if r := command(t, "", "events", "list", "target = nothing", "--json", "--service", address); r.status != 0 || r.stdout != "" {
		t.Errorf("no events as JSON: %+v", r)
	}

	r = command(t, "", "events", "get", req.Events[6].GetEventId(), "--service", address)
	var one map[string]any
	if err := json.Unmarshal([]byte(r.stdout), &one); err != nil || one["emitter_seq"] != "7" || one["arguments"] != `{"page":7}` {
		t.Errorf("%+v: %v", r, err)
	}

	// Mistakes that the service finds. With --since the position is still that in
	// what was typed.
	for _, c := range []struct{ args, want string }{
		{"list|outcom = denied", `mcpaudit: list events: filter, character 1: there is no field "outcom"; the nearest is outcome`},
		{"list|kind = x AND outcom = denied|--since|1h", `mcpaudit: list events: filter, character 14: there is no field "outcom"; the nearest is outcome`},
		{"get|01890a5d-ac96-774b-bcce-b302099a8057", `mcpaudit: get event: there is no event 01890a5d-ac96-774b-bcce-b302099a8057`},
		{"get|x", `mcpaudit: get event: `},
	} {
		r := command(t, "", append([]string{"events", "--service", address}, strings.Split(c.args, "|")...)...)
		if r.status != 1 || !strings.HasPrefix(r.stderr, c.want) || r.stdout != "" {
			t.Errorf("events %s: %+v, want %q", c.args, r, c.want)
		}
	}
	// --since narrows any filter, whatever joins it.
	old := sent("e", 31)
	old.OccurredAt.Seconds, old.Server = 1e9, "x"
	if _, err := pb.NewIngestServiceClient(connect(t, address)).PublishBatch(t.Context(), &pb.PublishBatchRequest{Events: []*pb.Event{old}}); err != nil {
		t.Fatal(err)
	}
	for since, want := range map[string]int{"0": 31, "175200h": 30} {
		r = command(t, "", "events", "list", `server = "files" OR server = "x"`, "--json", "--since", since, "--service", address)
		if r.status != 0 || strings.Count(r.stdout, "\n") != want {
			t.Errorf("since %s: %d events, want %d; %s", since, strings.Count(r.stdout, "\n"), want, r.stderr)
		}
	}

	// The pages for machines are real.
	for _, page := range []string{"/healthz", "/readyz", "/metrics"} {
		if code := get(t, "http://"+web+page, os.Getenv(client.KeyFileVariable)); code != 200 {
			t.Errorf("%s: %d", page, code)
		}
	}
	if code := get(t, "http://"+web+"/metrics", ""); code != 401 {
		t.Errorf("/metrics without a key: %d", code)
	}
}

// get asks for a page with the key in a file, or with none, and returns the status.
func get(t *testing.T, url, keyFile string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if keyFile != "" {
		req.Header.Set("Authorization", "Bearer "+keyIn(t, keyFile))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestRedactKeepsSecretsInAndLookupFindsThem(t *testing.T) {
	key := writeFile(t, "redact.key", strings.Repeat("0123456789abcdef", 4)+"\n")
	const token = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
	const base = `"event_id":"01890a5d-ac96-774b-bcce-b302099a8057","emitter_id":"e","emitter_seq":"1","occurred_at":"2026-11-20T09:00:00Z","kind":"tool_call","outcome":"success","server":"files"`
	line := `{` + base + `,"raw_arguments":{"to":"alice@example.com","password":"hunter2-and-more","note":"use ` + token + `"},"raw_result":{"content":[{"type":"text","text":"mail alice@example.com"}]}}`
	r := command(t, line+"\n\n"+line+"\n", "redact", "--key-file", key)
	if r.status != 0 || strings.Count(r.stdout, "\n") != 2 {
		t.Fatalf("%+v", r)
	}
	for _, secret := range []string{token, "alice", "hunter2", "raw_arguments", "raw_result"} {
		if strings.Contains(r.stdout+r.stderr, secret) {
			t.Errorf("%q got out: %+v", secret, r)
		}
	}
	found := command(t, "", "redact", "--key-file", key, "--lookup", "alice@example.com")
	pseudonym := ""
	for p := range strings.Lines(found.stdout) {
		if strings.Contains(r.stdout, strings.TrimSpace(p)) {
			pseudonym = p
		}
	}
	if found.status != 0 || pseudonym == "" {
		t.Errorf("none of these is in the event:\n%s\n%s", found.stdout, r.stdout)
	}

	// A key of this run alone is said to be one.
	if r := command(t, line, "redact"); r.status != 0 || !strings.Contains(r.stderr, "no --key-file") || strings.Contains(r.stdout, "alice") {
		t.Errorf("%+v", r)
	}
	// What can't be read is named by its line and never quoted.
	for _, c := range []struct{ line, want string }{
		{`{"raw_arguments":"hunter2"`, "redact line 2: not a JSON object"},
		{`["hunter2"]`, "redact line 2: not a JSON object"},
		{`{` + base + `,"raw_argument":{"password":"hunter2"}}`, `redact line 2: not an event: unknown field "raw_argument"`},
		{`{` + base + `,"http_status":"hunter2"}`, `redact line 2: not an event: a value of the wrong form`},
		{`{"emitter_id":"hunter2"}`, `redact line 2: emitter_seq: is missing`},
		{strings.Replace(`{`+base+`}`, `"success"`, `"hunter2"`, 1), `redact line 2: outcome: must be one of`},
	} {
		r := command(t, line+"\n"+c.line+"\n", "redact", "--key-file", key)
		if r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: "+c.want) || strings.Contains(r.stderr+r.stdout, "hunter2") || strings.Count(r.stdout, "\n") != 1 {
			t.Errorf("%s: %+v, want %q", c.line, r, c.want)
		}
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := command(t, line, "redact", "--key-file", key); r.status != 1 || !strings.Contains(r.stderr, "others may read") || r.stdout != "" {
		t.Errorf("%+v", r)
	}
}
