package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// tamper changes a data folder that no process has open.
func tamper(t *testing.T, dir string, statements ...string) {
	t.Helper()
	s := storetest.Open(t, dir)
	defer s.Close()
	for _, sql := range statements {
		storetest.Exec(t, s, sql)
	}
}

// verifyArgs verify the store in dir itself.
func verifyArgs(t *testing.T, dir string, more ...string) []string {
	t.Helper()
	return append([]string{"verify", "--direct", "--store.path", dir, "--store.engine", storetest.Library(t)}, more...)
}

// verified fails the test unless a service's store is what was sealed.
func verified(t *testing.T, address string, flags ...string) {
	t.Helper()
	if r := command(t, "", append([]string{"verify", "--service", address}, flags...)...); r.status != 0 || !strings.Contains(r.stdout, "\nverified") {
		t.Errorf("verify: status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
}

// newKey runs a command that makes a key, and returns its verifier key.
func newKey(t *testing.T, args ...string) string {
	t.Helper()
	r := command(t, "", args...)
	if r.status != 0 || strings.Contains(r.stdout+r.stderr, "PRIVATE") {
		t.Fatalf("mcpaudit %q: %+v", args, r)
	}
	return strings.TrimSpace(r.stdout)
}

func numbered(n int) (events []*pb.Event) {
	for seq := range n {
		events = append(events, sent("one", uint64(seq+1)))
	}
	return events
}

// A whole life: stored, proven through the service, as an event, as a bundle without
// a service, and from the folder.
func TestWhatIsStoredCanBeProven(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	publish(t, address, numbered(40)...)
	verified(t, address)

	id := sent("one", 7).GetEventId()
	if r := command(t, "", "verify", "--service", address, "--event", id); r.status != 0 || !strings.Contains(r.stdout, "event "+id+" is event ") || !strings.Contains(r.stdout, "verified") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	if r := command(t, "", "verify", "--service", address, "--event", "019234ab-0000-7000-8000-000000000000"); r.status != 1 || !strings.Contains(r.stderr, "there is no event 019234ab") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	keys := succeed(t, "keys", "show", "--store.path", dir)
	bundle := filepath.Join(t.TempDir(), "bundle")
	if r := command(t, "", "export", "--service", address, "--bundle", bundle); r.status != 0 {
		t.Fatalf("export: %s%s", r.stdout, r.stderr)
	}
	p.kill()
	// The service's start, and what it was asked, are events as any other.
	exported := regexp.MustCompile(`nothing is left out: (\d+) events`)
	r := command(t, "", "verify", bundle, "--key", strings.TrimSpace(keys))
	if at := exported.FindStringSubmatch(r.stdout); r.status != 0 || at == nil || number(t, at[1]) < 42 {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	other := newKey(t, "keys", "new", "--ledger.path", t.TempDir())
	if r := command(t, "", "verify", bundle, "--key", other); r.status != 1 {
		t.Errorf("a bundle is proven with a stranger's key: %s%s", r.stdout, r.stderr)
	}
	r = command(t, "", verifyArgs(t, dir, "--json")...)
	var sum struct {
		Events, Entries string
		Problems        string
		Logs            int
	}
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil || r.status != 0 || number(t, sum.Events) != len(allStored(t, dir)) || sum.Logs != 1 || sum.Problems != "" {
		t.Errorf("status %d, %v: %s%s", r.status, err, r.stdout, r.stderr)
	}
	// Without a service, verify finds the store by itself.
	if r := command(t, "", "verify", "--store.path", dir, "--store.engine", storetest.Library(t), "--key", strings.TrimSpace(keys)); r.status != 0 && !strings.Contains(r.stderr, "no service answers") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
}

// Promise 4: an event that is changed behind the service's back is named, through a
// service that runs on that store as well as without one.
func TestPromise4TamperEvidentAChangedEventIsNamed(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	publish(t, address, numbered(10)...)
	p.kill()
	tamper(t, dir, "ALTER TABLE events UPDATE outcome = 'success', principal = 'user:mallory' WHERE emitter_id = 'one' AND emitter_seq = 4")
	id := sent("one", 4).GetEventId()
	want := "event changed: event "
	if r := command(t, "", verifyArgs(t, dir)...); r.status != 1 || !strings.Contains(r.stdout, want) || !strings.Contains(r.stdout, id) || !strings.Contains(r.stdout, "NOT VERIFIED: 1 problem") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	_, address = launchServe(t, dir)
	if r := command(t, "", "verify", "--service", address); r.status != 1 || !strings.Contains(r.stdout, want) || !strings.Contains(r.stdout, id) {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
}

// Promise 4: a log whose end was cut is one that the service has signed otherwise. It
// is not written on, and verify says so.
func TestPromise4TamperEvidentALogThatWasCutIsNotWrittenOn(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	publish(t, address, numbered(3)...)
	publish(t, address, sent("two", 1))
	last := 0                // batches, one of them at least with what was asked when the start was waited for
	waitFor(t, func() bool { // the service has written down what it signed
		text, _ := os.ReadFile(onlyMemory(t, dir))
		sizes := regexp.MustCompile(`\n(\d+)\n`).FindAllStringSubmatch(string(text), -1)
		if len(sizes) > 0 {
			last = number(t, sizes[len(sizes)-1][1])
		}
		return last > 0 && last == batches(t, address)
	})
	p.kill()
	tamper(t, dir, fmt.Sprintf("ALTER TABLE ledger DELETE WHERE batch = %d", last), fmt.Sprintf("ALTER TABLE events DELETE WHERE batch = %d", last))
	if r := command(t, "", verifyArgs(t, dir)...); r.status != 1 || !strings.Contains(r.stdout, fmt.Sprintf("contradiction: a checkpoint that was kept elsewhere says that the log had %d entries", last)) {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	q := launch(t, serveArgs(t, dir)...)
	q.await(t, fmt.Sprintf(`start ingest: open log .*the store has %d entries, and a checkpoint of %d entries was signed before`, last-1, last))
	<-q.ended
}

func onlyMemory(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir+".ledger", "checkpoint-*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 {
		return ""
	}
	return files[0]
}

// batches is how many batches a service's log has. It is asked as a witness, which is
// no event.
func batches(t *testing.T, address string) int {
	t.Helper()
	resp, err := pb.NewLedgerServiceClient(connect(t, address)).ListLogs(t.Context(), &pb.ListLogsRequest{})
	if err != nil || len(resp.GetLogs()) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	return int(resp.GetLogs()[0].GetSize())
}

func number(t *testing.T, digits string) int {
	t.Helper()
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// allStored are the ids of all events in a data folder that no process has open.
func allStored(t *testing.T, dir string) (ids []string) {
	t.Helper()
	s := storetest.Open(t, dir)
	defer s.Close()
	rows, err := s.Query(t.Context(), store.Limits{}, "SELECT toString(event_id) FROM events")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return ids
}

// What a verification that goes on and on finds is in the log itself.
func TestAWatchingVerificationRecordsWhatItFindsOnce(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	publish(t, address, numbered(5)...)
	p.kill()
	tamper(t, dir, "ALTER TABLE events DELETE WHERE emitter_id = 'one' AND emitter_seq = 2")
	_, address = launchServe(t, dir)
	list := []string{"events", "list", "--service", address, "--json", `kind = "finding"`}

	// Its key is to be one that the service takes this from. With another one it prints
	// what is wrong, and says what to do, until it has one.
	auditor := newAPIKey(t, address, "auditor", "--role", "auditor")
	unbound := newAPIKey(t, address, "auditor who may write", "--role", "auditor", "--role", "emitter")
	good := newAPIKey(t, address, "watching auditor", "--role", "auditor", "--role", "emitter", "--emitter", "mcpaudit-verify-*")
	file := writeFile(t, "key", keyIn(t, auditor.file))
	b := inBackground(t, "verify", "--service", address, "--api-key-file", file, "--watch", "--every", "1s")
	const advice = `; what is wrong is printed here and is not in the log yet; give 'verify --watch' a key that may do both: ` +
		`mcpaudit access create NAME --tenant '\*' --role auditor --role emitter --emitter 'mcpaudit-verify-\*'; trying again in 1s\n`
	b.err.await(t, `mcpaudit: record what is wrong: this credential may not do that: it wants publish`+advice)
	for _, step := range []struct{ key, says string }{{unbound.file, `mcpaudit: record what is wrong: the service does not take it from this key: emitter_id: names that begin with mcpaudit- [^\n]*` + advice}, {good.file, ""}} {
		if got := succeed(t, list...); got != "" {
			t.Errorf("it is recorded: %s", got)
		}
		if err := keepKey(file, keyIn(t, step.key)); err != nil {
			t.Fatal(err)
		}
		if step.says != "" {
			b.err.await(t, step.says)
		}
	}
	waitFor(t, func() bool { return strings.Contains(succeed(t, list...), "CODE_EVENT_MISSING") })
	rounds := func() int { return strings.Count(b.out.text(), "NOT VERIFIED: 1 problem") }
	before := rounds()
	waitFor(t, func() bool { return rounds() > before+1 }) // it is found again, and recorded once
	if status := b.end(); status != 1 || !strings.Contains(b.out.text(), "event missing: ") {
		t.Errorf("it ended with status %d:\n%s", status, b.out.text())
	}
	events := jsonLines[map[string]any](t, succeed(t, list...))
	if len(events) != 1 || events[0]["principal"] != "mcpaudit:verify" || !strings.HasPrefix(fmt.Sprint(events[0]["emitter_id"]), "mcpaudit-verify-") || events[0]["emitter_seq"] != "1" {
		t.Errorf("it is recorded as %v", events)
	}
}

func TestAStoreWithoutTheKeyOfItsLogIsRefusedWithTheWayOut(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	publish(t, address, numbered(3)...)
	old := strings.TrimSpace(succeed(t, "keys", "show", "--store.path", dir))
	p.kill()
	if err := os.Rename(dir+".ledger", dir+".away"); err != nil {
		t.Fatal(err)
	}
	q := launch(t, serveArgs(t, dir)...)
	q.await(t, `the key that signs it is not at .*'mcpaudit keys new --ledger\.path .*' starts a new log beside the old one`)
	<-q.ended
	// The way out: a new log, beside the old one.
	newKey(t, "keys", "new", "--store.path", dir)
	if err := os.Rename(filepath.Join(dir+".away", firstKeyFile), firstKeyOf(dir)); err != nil {
		t.Fatal(err)
	}
	p, address = launchServe(t, dir)
	publish(t, address, sent("two", 1))
	if r := command(t, "", "verify", "--service", address, "--key", old); r.status != 1 || !strings.Contains(r.stdout, "none of the trusted keys is of log") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	if r := command(t, "", "verify", "--service", address, "--key", old, "--key", dir+".ledger/verifier-keys.txt"); r.status != 0 || !strings.Contains(r.stdout, "of 2 logs followed") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	p.kill()
}

func TestARotatedKeyGoesOnWithTheLogAndOldKeysStillVerify(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	publish(t, address, numbered(3)...)
	p.kill()
	old := strings.TrimSpace(succeed(t, "keys", "show", "--store.path", dir))
	now := newKey(t, "keys", "rotate", "--store.path", dir)
	if old == now {
		t.Fatal("the key is the same")
	}
	_, address = launchServe(t, dir)
	publish(t, address, sent("two", 1))
	for _, key := range []string{old, now} {
		if r := command(t, "", "verify", "--service", address, "--key", key); r.status != 0 || !strings.Contains(r.stdout, "verified") {
			t.Errorf("with %s: status %d: %s%s", key, r.status, r.stdout, r.stderr)
		}
	}
	if err := os.Chmod(dir+".ledger/signing-key.json", 0o644); err != nil {
		t.Fatal(err)
	}
	if r := command(t, "", "keys", "show", "--store.path", dir); r.status != 1 || !strings.Contains(r.stderr, "others may read") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
}
