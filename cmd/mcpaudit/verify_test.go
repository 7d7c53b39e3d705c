package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
func verified(t *testing.T, address string) {
	t.Helper()
	if r := command(t, "", "verify", "--service", address); r.status != 0 || !strings.Contains(r.stdout, "\nverified") {
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
	// The service's start is an event as any other: 40 and one.
	if r := command(t, "", "verify", bundle, "--key", strings.TrimSpace(keys)); r.status != 0 || !strings.Contains(r.stdout, "nothing is left out: 41 events") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	other := newKey(t, "keys", "new", "--ledger.path", t.TempDir())
	if r := command(t, "", "verify", bundle, "--key", other); r.status != 1 {
		t.Errorf("a bundle is proven with a stranger's key: %s%s", r.stdout, r.stderr)
	}
	r := command(t, "", verifyArgs(t, dir, "--json")...)
	var sum struct {
		Events, Entries string
		Problems        string
		Logs            int
	}
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil || r.status != 0 || sum.Events != "41" || sum.Logs != 1 || sum.Problems != "" {
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
	tamper(t, dir, "ALTER TABLE events UPDATE outcome = 'success', principal = 'user:mallory' WHERE emitter_seq = 4")
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
	publish(t, address, numbered(3)...) // the second batch: the first is the service's start
	publish(t, address, sent("two", 1))
	waitFor(t, func() bool { // the service has written down what it signed
		text, _ := os.ReadFile(onlyMemory(t, dir))
		return strings.Contains(string(text), "\n3\n")
	})
	p.kill()
	tamper(t, dir, "ALTER TABLE ledger DELETE WHERE batch = 3", "ALTER TABLE events DELETE WHERE batch = 3")
	if r := command(t, "", verifyArgs(t, dir)...); r.status != 1 || !strings.Contains(r.stdout, "contradiction: a checkpoint that was kept elsewhere says that the log had 3 entries") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	q := launch(t, serveArgs(t, dir)...)
	q.await(t, `start ingest: open log .*the store has 2 entries, and a checkpoint of 3 entries was signed before`)
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

// What a verification that goes on and on finds is in the log itself.
func TestAWatchingVerificationRecordsWhatItFindsOnce(t *testing.T) {
	dir := t.TempDir()
	p, address := launchServe(t, dir)
	publish(t, address, numbered(5)...)
	p.kill()
	tamper(t, dir, "ALTER TABLE events DELETE WHERE emitter_seq = 2")
	_, address = launchServe(t, dir)
	b := inBackground(t, "verify", "--service", address, "--watch", "--every", "1s")
	list := []string{"events", "list", "--service", address, "--json", `kind = "finding"`}
	waitFor(t, func() bool { return strings.Contains(succeed(t, list...), "CODE_EVENT_MISSING") })
	time.Sleep(1500 * time.Millisecond) // another round
	b.end()
	if n := strings.Count(succeed(t, list...), "CODE_EVENT_MISSING"); n != 1 {
		t.Errorf("it is recorded %d times", n)
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
	p, address = launchServe(t, dir)
	publish(t, address, sent("two", 1))
	if r := command(t, "", "verify", "--service", address, "--key", old); r.status != 1 || !strings.Contains(r.stdout, "none of the trusted keys is of log") {
		t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	// Four events, and a start of the service in each log.
	if r := command(t, "", "verify", "--service", address, "--key", old, "--key", dir+".ledger/verifier-keys.txt"); r.status != 0 || !strings.Contains(r.stdout, "6 events hashed and") {
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
