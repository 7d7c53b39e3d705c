package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// Parts of TestTheKeysOfAStore: what is refused.

func aKeyThatCantBeMadeIsNot(t *testing.T, d *door, admin string) {
	dir := t.TempDir()
	before := len(d.keys(t, admin, "--all"))
	var all sync.WaitGroup
	for i, c := range []struct{ args, want string }{
		{"create x", "create key: name at least one --role: emitter, analyst, auditor, exporter, admin, monitor"},
		{"create x --role boss", "create key: "},
		{"create x --role analyst --server crm", "create key: servers and emitters bind the role emitter, which this key does not have"},
		{"create x --role analyst --lifetime soon", `create key: --lifetime: "soon" is not a duration such as 90d or 12h`},
		{"create x --role analyst --lifetime 1000d", "create key: lifetime: a key lives for at most 732 days"},
		{"create x --role analyst --lifetime 0s", "create key: "},
		{"create x --role analyst --tenant ../x", "create key: "},
		{"create x --role analyst --content all", "create key: "},
		{"create x --role emitter --server a*b", `create key: "a*b" is not a name of at most 200 characters, or the beginning of names with a * behind it`},
		{"create", "accepts 1 arg(s), received 0"},
		{"rotate nothing", "rotate key: "},
		{"rotate aaaaaaaaaaaaaaaa", "rotate key: there is no such key; 'mcpaudit access list' names them"},
		{"revoke aaaaaaaaaaaaaaaa", "revoke key: there is no such key; 'mcpaudit access list' names them"},
		{"lst", `unknown command "lst" for "mcpaudit access"; the nearest is "list"`},
	} {
		all.Go(func() {
			out := filepath.Join(dir, fmt.Sprint("key-", i))
			args := append([]string{"access"}, strings.Fields(c.args)...)
			if strings.HasPrefix(c.args, "create x") {
				args = append(args, "--out", out)
			}
			r := d.as(t, admin, args...)
			if r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: "+c.want) || r.stdout != "" {
				t.Errorf("access %s: %+v, want %q", c.args, r, c.want)
			}
			if _, err := os.Stat(out); err == nil {
				t.Errorf("access %s: there is a file, and no key was made", c.args)
			}
		})
	}
	all.Wait()
	if after := len(d.keys(t, admin, "--all")); after != before {
		t.Errorf("there are %d keys, there were %d", after, before)
	}
	// Who administers one tenant makes keys of that one, and sees those alone.
	mine := newAPIKey(t, d.address, "acme's administrator", "--role", "admin", "--tenant", "acme", "--api-key-file", admin)
	if r := d.as(t, mine.file, "access", "create", "x", "--role", "analyst", "--tenant", "*"); r.status != 1 || !strings.Contains(r.stderr, "create key: tenant: you administer acme alone") {
		t.Errorf("%+v", r)
	}
	if r := d.as(t, mine.file, "access", "revoke", d.keys(t, admin)["local"].ID); r.status != 1 || !strings.Contains(r.stderr, "revoke key: there is no such key") {
		t.Errorf("%+v", r)
	}
	newAPIKey(t, d.address, "acme's analyst", "--role", "analyst", "--tenant", "acme", "--api-key-file", mine.file)
	if got := d.keys(t, mine.file); len(got) != 2 {
		t.Errorf("it sees %v", got)
	}
}

// What is asked with the wrong role is refused, with the role's lack named; what is
// written with one does not come into the log.
func anEmitterReadsNoRow(t *testing.T, d *door, admin string) {
	emitter := newAPIKey(t, d.address, "writes", "--role", "emitter", "--emitter", "crm-*", "--api-key-file", admin)
	analyst := newAPIKey(t, d.address, "reads", "--role", "analyst", "--role", "auditor", "--role", "exporter", "--api-key-file", admin)
	useKey(t, emitter.file)
	publish(t, d.address, sent("crm-1", 1))
	id := sent("crm-1", 1).GetEventId()
	var all sync.WaitGroup
	for _, c := range []struct{ args, wants string }{
		{"events list", "read"}, {"events get " + id, "read"}, {"events stats", "read"}, {"events tail", "read"}, {"events timeline --session s", "read"},
		{"tools list", "read"}, {"tools diff files read_file", "read"}, {"emitters list", "read"},
		{"findings list", "read"}, {"findings watch", "read"}, {"findings show 00000000-0000-8000-8000-000000000000", "read"}, {"findings suppressions list", "read"},
		{"findings ack 00000000-0000-8000-8000-000000000000", "triage"}, {"findings suppressions end 01a1fbaf-0f44-7705-b3f7-9d977b691dd5", "triage"},
		{"export", "export"}, {"verify", "integrity"}, {"verify --event " + id, "integrity"},
		{"retention plan", "administer"}, {"retention apply --yes", "administer"}, {"holds list", "administer"}, {"holds create kind=x --reason r --owner o", "administer"}, {"holds release hold-1", "administer"},
		{"rules reload", "administer"}, {"access list", "administer"}, {"access create x --role admin", "administer"}, {"access rotate aaaaaaaaaaaaaaaa", "administer"}, {"access revoke aaaaaaaaaaaaaaaa", "administer"},
	} {
		all.Go(func() {
			r := d.as(t, emitter.file, strings.Fields(c.args)...)
			if r.status != 1 || r.stdout != "" || !regexp.MustCompile(`^mcpaudit: [^:]+: this credential may not do that: it wants `+c.wants+`[^\n]*\n$`).MatchString(r.stderr) {
				t.Errorf("%s: %+v", c.args, r)
			}
		})
	}
	all.Wait()
	// It writes as what it is bound to, and as nothing else.
	line := func(emitter string) string {
		return strings.Replace(bare(1), "{", `{"emitter_id":"`+emitter+`","emitter_seq":"9",`, 1)
	}
	r := command(t, line("hr-1"), "import", "-", "--service", d.address)
	if r.status != 1 || r.stdout != "1 lines: 0 stored, 1 not taken\n" && r.stdout != "1 line: 0 stored, 1 not taken\n" || !strings.Contains(r.stderr, "emitter_id: is not one that the credential may write as") {
		t.Errorf("%+v", r)
	}

	// Who reads writes nothing: with no command.
	useKey(t, analyst.file)
	for _, c := range []struct{ stdin, args string }{{line("crm-2"), "import - --patience 1s"}, {bare(1), "import -"}} {
		if r := command(t, c.stdin, append(strings.Fields(c.args), "--service", d.address)...); r.status != 1 || !strings.Contains(r.stderr, "import: this credential may not do that: it wants publish") || strings.Contains(r.stdout, "1 stored") {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
	spool := t.TempDir()
	wrapped := []string{"wrap", "--service", d.address, "--server", "crm", "--spool", spool, "--key-file", filepath.Join(t.TempDir(), "key"), "--flush", "2s", "--", "sh", "-c", `while read -r line; do echo '{"jsonrpc":"2.0","id":1,"result":{}}'; done`}
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"spooled","arguments":{}}}` + "\n"
	if r := command(t, call, wrapped...); r.status != 0 || !strings.Contains(r.stderr, "this credential may not do that: it wants publish") {
		t.Errorf("%+v", r)
	}
	read := func(filter string) string {
		t.Helper()
		r := d.as(t, analyst.file, "events", "list", filter, "--json")
		if r.status != 0 {
			t.Fatalf("%+v", r)
		}
		return r.stdout
	}
	if got := jsonLines[pbSeq](t, read(notItself)); len(got) != 1 || got[0].Seq != "1" {
		t.Errorf("the log has %v", got)
	}
	// The call waits in the spool for a key that writes.
	writer := newAPIKey(t, d.address, "writes what was spooled", "--role", "emitter", "--server", "crm", "--api-key-file", admin)
	useKey(t, writer.file)
	if r := command(t, call, wrapped...); r.status != 0 {
		t.Errorf("%+v", r)
	}
	if got := read(`target = "spooled"`); strings.Count(got, "\n") != 2 {
		t.Errorf("of the spooled calls there are\n%s", got)
	}

	// What was refused is in the log: each of the first ones, and how many there were.
	type refusal struct {
		Method   string
		Required []string `json:"scopes_required"`
		Reason   string   `json:"decision_reason"`
	}
	refused := jsonLines[refusal](t, read(`kind = "auth" AND outcome = "denied" AND principal = "`+emitter.id+`"`))
	if len(refused) < 15 {
		t.Errorf("of what was refused the log has %v", refused)
	}
	for _, e := range refused {
		if !strings.HasPrefix(e.Method, "mcpaudit/") || len(e.Required) != 1 || e.Reason != "forbidden" {
			t.Errorf("%+v", e)
		}
	}
}
