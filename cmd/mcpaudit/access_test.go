package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// door is a service whose keys a test makes and uses.
type door struct{ address string }

// as runs a command with the key in a file.
func (d *door) as(t *testing.T, file string, args ...string) result {
	t.Helper()
	return command(t, "", append(args, "--service", d.address, "--api-key-file", file)...)
}

// keyLine is what a list says of a key as JSON.
type keyLine struct {
	ID     string `json:"key_id"`
	Name   string `json:"name"`
	State  string `json:"state"`
	MadeBy string `json:"made_by"`
}

// keys are those that a list names, by what they are called.
func (d *door) keys(t *testing.T, admin string, args ...string) map[string]keyLine {
	t.Helper()
	r := d.as(t, admin, append([]string{"access", "list", "--json"}, args...)...)
	if r.status != 0 {
		t.Fatalf("%+v", r)
	}
	found := map[string]keyLine{}
	for _, k := range jsonLines[keyLine](t, r.stdout) {
		if _, twice := found[k.Name]; twice {
			k.Name += "'"
		}
		found[k.Name] = k
	}
	return found
}

// The life of a store's keys: the first one, those that it makes, and their ends. All of
// it is done with the commands, as people do it.
func TestTheKeysOfAStore(t *testing.T) {
	dir := t.TempDir()
	redactKey := writeFile(t, "redact.key", strings.Repeat("0123456789abcdef", 4)+"\n")
	args := append(serveArgs(t, dir), "--redact.key_file", redactKey)
	p := launch(t, args...)
	p.await(t, `ingest is ready`)
	d := &door{address: p.await(t, `msg=serving .*grpc=(\S+)`)}
	admin := firstKeyOf(dir)
	t.Setenv(client.AddressVariable, d.address)
	for _, part := range []struct {
		name string
		run  func(t *testing.T, d *door, admin string)
	}{
		{"a key is shown once", aKeyIsShownOnce},
		{"a key that can't be made is not", aKeyThatCantBeMadeIsNot},
		{"an emitter reads no row and an analyst writes none", anEmitterReadsNoRow},
		{"a key is replaced while it is in use", aKeyIsReplaced},
		{"a key is ended", aKeyIsEnded},
		{"a person keeps a key", aPersonKeepsAKey},
		{"a pseudonym is looked up", aPseudonymIsLookedUp},
		{"what was done with keys is in the log", whatWasDoneWithKeysIsInTheLog},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, d, admin) })
	}

	// The store is the service's while it runs; a key is made beside it when it does not.
	beside := []string{"access", "bootstrap", "--store.path", dir, "--store.engine", storetest.Library(t)}
	lost := filepath.Join(t.TempDir(), "admin.key")
	if r := command(t, "", append(beside, "--out", lost)...); r.status != 1 || !strings.Contains(r.stderr, "make first key: ") || !strings.Contains(r.stderr, "another process is using this data folder") {
		t.Errorf("beside a service that runs: %+v", r)
	}
	if _, err := os.Stat(lost); err == nil {
		t.Error("there is a file, and no key was made")
	}
	p.kill()
	r := command(t, "", append(beside, "--lifetime", "2d")...)
	if !keyText.MatchString(r.stdout) || len(r.stdout) != len(keyText.FindString(r.stdout))+1 || r.status != 0 || !strings.Contains(r.stderr, `of "bootstrap", until `) {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
	made := writeFile(t, "made", r.stdout)

	// The first key is made once: not again when its file was removed, as is advised.
	first := writeFile(t, "first", keyIn(t, admin))
	if err := os.Remove(admin); err != nil {
		t.Fatal(err)
	}
	p = launch(t, args...)
	p.await(t, `ingest is ready`)
	d.address = p.await(t, `msg=serving .*grpc=(\S+)`)
	if _, err := os.Stat(admin); err == nil || strings.Contains(p.text(), "its first API key") {
		t.Errorf("the second start made a key: %s", p.text())
	}
	if r := d.as(t, first, "access", "whoami"); r.status != 0 {
		t.Errorf("the first key does not count any more: %+v", r)
	}
	// What was made beside the service administers, and is in the log.
	if r := d.as(t, made, "access", "whoami"); r.status != 0 || !regexp.MustCompile(`^key:[a-z2-7]{16} \(bootstrap\): admin of every tenant\n$`).MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}
	if r := d.as(t, made, "events", "list"); r.status != 1 || !strings.Contains(r.stderr, "list events: this credential may not do that: it wants read") {
		t.Errorf("%+v", r)
	}
	id := "key:" + d.keys(t, made)["bootstrap"].ID
	waitFor(t, func() bool {
		return strings.Contains(d.as(t, first, "events", "list", `method = "mcpaudit/key_found" AND target = "`+id+`"`, "--json").stdout, `"made_by":"bootstrap:command"`)
	})
}

func TestTheFirstKeyLiesWhereItsOwnerAloneReadsIt(t *testing.T) {
	dir := t.TempDir()
	p, address := launchReady(t, dir)
	file := firstKeyOf(dir)
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	key := keyIn(t, file)
	if keyText.FindString(key) != key {
		t.Errorf("the file holds %d characters that are no key", len(key))
	}
	if !strings.Contains(p.text(), "its first API key, for everything, until ") || !strings.Contains(p.text(), "is in "+file) || keyText.MatchString(p.text()) {
		t.Errorf("it says\n%s", p.text())
	}
	// All rights, and what it is called in the log.
	if got := succeed(t, "access", "whoami", "--service", address); !regexp.MustCompile(`^key:` + key[5:21] + ` \(local\): emitter of every tenant, analyst of every tenant, auditor of every tenant, exporter of every tenant, admin of every tenant, monitor of every tenant\n$`).MatchString(got) {
		t.Errorf("%s", got)
	}
	// Nobody sees it in a list of processes, nor in what a wrapped server is given.
	for _, name := range []string{"cmdline", "environ"} {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, name)); err == nil && strings.Contains(string(text), key) {
			t.Errorf("it is in /proc/…/%s", name)
		}
	}
	t.Setenv(client.KeyFileVariable, "")
	t.Setenv(client.KeyVariable, key)
	r := command(t, "", "wrap", "--service", address, "--server", "files", "--spool", t.TempDir(), "--key-file", filepath.Join(t.TempDir(), "key"), "--", "sh", "-c", "env; tr '\\0' '\\n' </proc/self/environ; echo done")
	if r.status != 0 || !strings.HasSuffix(r.stdout, "done\n") || keyText.MatchString(r.stdout+r.stderr) {
		t.Errorf("status %d, and a key is in what it prints: %t", r.status, keyText.MatchString(r.stdout+r.stderr))
	}
}

// Everybody on a machine sees what a command was called with.
func TestNoFlagTakesAKey(t *testing.T) {
	files := regexp.MustCompile(`(?i)file|PEM|public|verifier|folder`)
	looked := 0
	everyCommand(func(c *cobra.Command) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			// A setting of the service has a dot in its name, and is for its file.
			// One that is on or off holds nothing.
			if strings.Contains(f.Name, ".") || f.Value.Type() == "bool" || !regexp.MustCompile(`(?i)key|token|password|secret|credential`).MatchString(f.Name) {
				return
			}
			if looked++; !files.MatchString(f.Name + " " + f.Usage) {
				t.Errorf("%s --%s takes what is secret: %s", c.CommandPath(), f.Name, f.Usage)
			}
		})
	})
	if looked < 10 {
		t.Errorf("only %d flags were looked at", looked)
	}
}

func aKeyIsShownOnce(t *testing.T, d *door, admin string) {
	dir := t.TempDir()
	out := filepath.Join(dir, "crm.key")
	r := d.as(t, admin, "access", "create", "crm servers", "--role", "emitter", "--server", "crm*", "--emitter", "crm-*", "--out", out)
	at := regexp.MustCompile(`^` + regexp.QuoteMeta(out) + ` \(key ([a-z2-7]{16}), until \d{4}-\d\d-\d\d\)\n$`).FindStringSubmatch(r.stdout)
	info, err := os.Stat(out)
	if r.status != 0 || r.stderr != "" || at == nil || err != nil || info.Mode() != 0o600 || keyText.FindString(keyIn(t, out)) != keyIn(t, out) {
		t.Fatalf("%+v, %v", r, err)
	}
	// A file that is there stays as it is, and no key is made that nobody has.
	before, had := len(d.keys(t, admin)), keyIn(t, out)
	if r := d.as(t, admin, "access", "create", "another", "--role", "emitter", "--out", out); r.status != 1 || !strings.Contains(r.stderr, "create key: open "+out+": file exists") || keyIn(t, out) != had {
		t.Errorf("%+v", r)
	}
	if got := len(d.keys(t, admin)); got != before {
		t.Errorf("there are %d keys, there were %d", got, before)
	}
	r = d.as(t, admin, "access", "create", "Ada, on call", "--role", "analyst", "--role", "exporter", "--lifetime", "30d")
	if key := strings.TrimSpace(r.stdout); r.status != 0 || keyText.FindString(key) != key || !regexp.MustCompile(`^Key `+key[5:21]+` of "Ada, on call", until [\d-]+\. It is shown this once:\n$`).MatchString(r.stderr) {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
	r = d.as(t, admin, "access", "create", "as JSON", "--role", "monitor", "--tenant", "*", "--json")
	type made struct {
		Key  keyLine
		Text string
	}
	if got := jsonLines[made](t, r.stdout); r.status != 0 || r.stderr != "" || len(got) != 1 || !strings.HasPrefix(got[0].Text, "mcpa_"+got[0].Key.ID+"_") || got[0].Key.State != "active" {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
	r = d.as(t, admin, "access", "create", "as JSON in a file", "--role", "monitor", "--json", "--out", filepath.Join(dir, "json.key"))
	if got := jsonLines[made](t, r.stdout); r.status != 0 || len(got) != 1 || got[0].Text != "" || keyText.MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}

	// The list has what each may do, and no key.
	table := regexp.MustCompile(` +`).ReplaceAllString(d.as(t, admin, "access", "list").stdout, " ")
	for _, want := range []string{`(?m)^KEY NAME ROLES TENANT EXPIRES \(\S+\) STATE BOUND TO$`, `(?m)^` + at[1] + ` crm servers emitter default \S+ \S+( \S+)? active server crm\*, emitter crm-\*$`,
		`(?m)^[a-z2-7]{16} Ada, on call analyst,exporter default .* active ?$`, `(?m) as JSON monitor \* `, `(?m) local emitter,analyst,auditor,exporter,admin,monitor \* `} {
		if !regexp.MustCompile(want).MatchString(table) {
			t.Errorf("there is no %s in\n%s", want, table)
		}
	}
	if keyText.MatchString(table) {
		t.Error("a list has a key")
	}
	if k := d.keys(t, admin)["crm servers"]; !strings.HasPrefix(k.MadeBy, "key:") {
		t.Errorf("it was made by %+v", k)
	}
}

func aKeyIsReplaced(t *testing.T, d *door, admin string) {
	old := newAPIKey(t, d.address, "to be replaced", "--role", "analyst", "--api-key-file", admin)
	id := strings.TrimPrefix(old.id, "key:")
	out := filepath.Join(t.TempDir(), "new.key")
	if r := d.as(t, admin, "access", "rotate", id, "--overlap", "2h", "--out", out); r.status != 0 || r.stderr != "" || !strings.Contains(r.stdout, out+" (key ") {
		t.Fatalf("%+v", r)
	}
	for _, file := range []string{old.file, out} {
		if r := d.as(t, file, "events", "list"); r.status != 0 {
			t.Errorf("%+v", r)
		}
	}
	if r := d.as(t, admin, "access", "list"); !regexp.MustCompile(`(?m)^` + id + ` .*active, rotated`).MatchString(r.stdout) {
		t.Errorf("%s", r.stdout)
	}
	if r := d.as(t, admin, "access", "rotate", id); r.status != 1 || !strings.Contains(r.stderr, "rotate key: the key was rotated before; rotate its successor "+keyIn(t, out)[5:21]) {
		t.Errorf("%+v", r)
	}
	if r := d.as(t, admin, "access", "rotate", keyIn(t, out)[5:21], "--overlap", "60d"); r.status != 1 || !strings.Contains(r.stderr, "rotate key: overlap: ") {
		t.Errorf("%+v", r)
	}
	// Without an overlap the old one ends now.
	r := d.as(t, admin, "access", "rotate", keyIn(t, out)[5:21], "--overlap", "0s", "--json")
	if r.status != 0 || !keyText.MatchString(r.stdout) {
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	newest := writeFile(t, "newest", keyText.FindString(r.stdout))
	if r := d.as(t, newest, "events", "list"); r.status != 0 {
		t.Errorf("%+v", r)
	}
	if r := d.as(t, out, "events", "list"); r.status != 1 || !strings.Contains(r.stderr, "list events: ") || !strings.Contains(r.stderr, "expired") {
		t.Errorf("%+v", r)
	}
}

func aKeyIsEnded(t *testing.T, d *door, admin string) {
	k := newAPIKey(t, d.address, "to be ended", "--role", "analyst", "--api-key-file", admin)
	id := strings.TrimPrefix(k.id, "key:")
	if r := d.as(t, k.file, "events", "list"); r.status != 0 {
		t.Errorf("%+v", r)
	}
	if r := d.as(t, admin, "access", "revoke", id, "--reason", "was in a public repository"); r.status != 0 || r.stdout != "revoked key "+id+` of "to be ended"`+"\n" {
		t.Errorf("%+v", r)
	}
	if r := d.as(t, k.file, "events", "list"); r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, "list events: ") || !strings.Contains(r.stderr, "revoked") {
		t.Errorf("%+v", r)
	}
	if _, listed := d.keys(t, admin)["to be ended"]; listed || d.keys(t, admin, "--all")["to be ended"].State != "revoked" {
		t.Errorf("the lists have %v and %v", d.keys(t, admin), d.keys(t, admin, "--all"))
	}
	if r := d.as(t, admin, "access", "rotate", id); r.status != 1 || !strings.Contains(r.stderr, "rotate key: the key was revoked; make a new one with 'mcpaudit access create'") {
		t.Errorf("%+v", r)
	}
}

func aPersonKeepsAKey(t *testing.T, d *door, admin string) {
	mine := newAPIKey(t, d.address, "Ada", "--role", "analyst", "--tenant", "acme", "--api-key-file", admin)
	t.Setenv(client.KeyFileVariable, "")
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	file := filepath.Join(home, "mcpaudit", "key")
	altered := []byte(keyIn(t, mine.file))
	altered[30] = map[bool]byte{true: 'b', false: 'a'}[altered[30] == 'a']
	login := func(text string) result { return command(t, text, "access", "login") }
	if r := command(t, "", "access", "whoami"); r.status != 1 || r.stderr != "mcpaudit: ask who you are: the service wants a credential, and there is none; give a key: MCPAUDIT_API_KEY_FILE=FILE, made with 'mcpaudit access create'\n" {
		t.Errorf("%+v", r)
	}
	for text, want := range map[string]string{
		"":              "keep key: there is nothing on standard input; try: mcpaudit access login < FILE",
		"two words":     "keep key: ",
		"mcpa_short":    "keep key: this is not a whole API key; it begins with mcpa_ and has ",
		"eyJhbGciOi.e.": "keep key: this service takes API keys, and no tokens",
		"mcpa_aaaaaaaaaaaaaaaa_" + strings.Repeat("a", 52): "keep key: there is no such API key; check that it was copied whole",
		string(altered): "keep key: there is no such API key; check that it was copied whole",
	} {
		if r := login(text); r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: "+want) || r.stdout != "" {
			t.Errorf("%d characters: %+v, want %q", len(text), r, want)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Fatal("what is no key was kept")
	}
	who := mine.id + " (Ada): analyst of tenant acme\n"
	if r := login(" " + keyIn(t, mine.file) + "\r\n\n"); r.status != 0 || r.stdout != who+"kept in "+file+"\n" || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 || keyIn(t, file) != keyIn(t, mine.file) {
		t.Errorf("%v, %v", info, err)
	}
	if got := succeed(t, "access", "whoami"); got != who {
		t.Errorf("%s", got)
	}
	// What is said at the moment wins over what was kept.
	if got := d.as(t, admin, "access", "whoami").stdout; !strings.Contains(got, "(local)") {
		t.Errorf("%s", got)
	}
	// Another key takes its place.
	if r := login(keyIn(t, admin)); r.status != 0 || keyIn(t, file) != keyIn(t, admin) {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
}

func aPseudonymIsLookedUp(t *testing.T, d *door, admin string) {
	reader := newAPIKey(t, d.address, "reads", "--role", "analyst", "--api-key-file", admin)
	looker := newAPIKey(t, d.address, "looks up", "--role", "analyst", "--content", "lookup", "--api-key-file", admin)
	e := sent("addresses", 1)
	e.Arguments = `{"to":"alice@example.com"}`
	useKey(t, admin)
	publish(t, d.address, e)
	lookup := func(file, text string, args ...string) result {
		return command(t, text, append([]string{"access", "lookup", "--api-key-file", file}, args...)...)
	}
	r := lookup(looker.file, "alice@example.com\n", "--class", "email")
	pseudonym := strings.TrimSpace(r.stdout)
	if r.status != 0 || r.stderr != "" || !regexp.MustCompile(`^\[PII:email:[0-9a-f]+\]$`).MatchString(pseudonym) {
		t.Fatalf("%+v", r)
	}
	if got := d.as(t, reader.file, "events", "list", `arguments:"`+pseudonym+`"`, "--json", "--fields", "emitter_id").stdout; got != `{"emitter_id":"addresses"}`+"\n" {
		t.Errorf("%s", got)
	}
	if all := lookup(looker.file, "alice@example.com"); all.status != 0 || strings.Count(all.stdout, "\n") < 2 || !strings.Contains(all.stdout, pseudonym+"\n") {
		t.Errorf("%+v", all)
	}
	for _, c := range []struct{ file, text, class, want string }{
		{reader.file, "alice@example.com", "", "look up pseudonym: this credential's content level is below lookup"},
		{looker.file, "x", "colour", `look up pseudonym: class: values of class "colour" have no pseudonyms; use `},
		{looker.file, "", "", "look up pseudonym: "},
	} {
		if r := lookup(c.file, c.text, "--class", c.class); r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: "+c.want) || r.stdout != "" {
			t.Errorf("%q: %+v", c.want, r)
		}
	}
	// That it was asked is in the log, and the value is not.
	noted := d.as(t, admin, "events", "list", `method = "mcpaudit/look_up_pseudonym"`, "--json").stdout
	if !strings.Contains(noted, looker.id) || strings.Contains(noted, "alice") {
		t.Errorf("%s", noted)
	}
}

func whatWasDoneWithKeysIsInTheLog(t *testing.T, d *door, admin string) {
	useKey(t, admin)
	me := identity(t, d.address)
	type noted struct {
		Method, Target, Principal, Outcome string
		Address                            string `json:"client_ip"`
		Labels                             map[string]string
	}
	k := newAPIKey(t, d.address, "noted", "--role", "analyst")
	succeed(t, "access", "revoke", strings.TrimPrefix(k.id, "key:"), "--reason", "case 7")
	for _, method := range []string{"create_key", "revoke_key"} {
		var phases []string
		for _, e := range jsonLines[noted](t, succeed(t, "events", "list", `method = "mcpaudit/`+method+`"`, "--order-by", "occurred_at", "--json")) {
			if e.Principal == me && e.Address == "127.0.0.1" && (strings.HasSuffix(e.Target, strings.TrimPrefix(k.id, "key:"))) {
				phases = append(phases, e.Labels["phase"]+" "+e.Outcome)
			}
		}
		if !slices.Contains(phases, "end success") || method == "revoke_key" && !slices.Contains(phases, "begin success") {
			t.Errorf("%s: the log has %v", method, phases)
		}
	}
	if got := jsonLines[noted](t, succeed(t, "events", "list", `method = "mcpaudit/key_found" AND target = "`+me+`"`, "--json")); len(got) != 1 || got[0].Labels["made_by"] != "bootstrap:first start" {
		t.Errorf("of the first key the log has %v", got)
	}
	// Who could not get in has no name, and is noted all the same.
	failed := succeed(t, "events", "list", `kind = "auth" AND http_status = 401`, "--json", "-n", "1000")
	for _, want := range []string{`"decision_reason":"unknown"`, `"decision_reason":"malformed"`, `"decision_reason":"no_credential"`, `"decision_reason":"revoked"`} {
		if !strings.Contains(failed, want) {
			t.Errorf("there is no %s among\n%.2000s", want, failed)
		}
	}
	if all := succeed(t, "events", "list", "--json", "-n", "100000"); keyText.MatchString(all) {
		t.Error("the log has a key")
	}
}
