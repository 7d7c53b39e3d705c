package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpaudit/mcpaudit/ingest/redact"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// bare is a line without ids; n tells it from others.
func bare(n int) string {
	return fmt.Sprintf(`{"occurred_at":"2026-11-20T09:%02d:%02d.%03dZ","kind":"tool_call","outcome":"success","server":"files","target":"line-%d"}`+"\n", n/60000, n/1000%60, n%1000, n)
}

func bares(from, to int) string {
	var b strings.Builder
	for n := from; n <= to; n++ {
		b.WriteString(bare(n))
	}
	return b.String()
}

// stored is the events that a service was given, by target, and how often each is
// there.
func stored(t *testing.T, address string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	type target struct{ Target string }
	for _, e := range jsonLines[target](t, succeed(t, "events", "list", notItself, "--json", "--fields", "target", "-n", "100000", "--service", address)) {
		counts[e.Target]++
	}
	return counts
}

// eventCount counts the events that a service was given.
func eventCount(t *testing.T, address string) int {
	t.Helper()
	resp, err := pb.NewQueryServiceClient(connect(t, address)).AggregateEvents(t.Context(), &pb.AggregateEventsRequest{Filter: notItself})
	if err != nil || len(resp.GetGroups()) != 1 {
		t.Fatalf("count events: %v, %v", resp, err)
	}
	return int(resp.GetGroups()[0].GetCount())
}

// onceEach checks that lines from to to are stored once each, and nothing else.
func onceEach(t *testing.T, address string, from, to int) {
	t.Helper()
	counts := stored(t, address)
	wrong := 0
	for n := from; n <= to; n++ {
		if c := counts[fmt.Sprintf("line-%d", n)]; c != 1 {
			if wrong++; wrong <= 3 {
				t.Errorf("line %d is stored %d times", n, c)
			}
		}
	}
	if len(counts) != to-from+1 || wrong > 0 {
		t.Errorf("%d different lines are stored, want %d; %d are not stored once", len(counts), to-from+1, wrong)
	}
}

// A killed import is run again with the same command: every line is stored once.
func TestAnImportThatWasKilledGoesOn(t *testing.T) {
	const lines = 9000
	address, _ := inService(t, t.TempDir())
	text := bares(1, lines)
	half := len(bares(1, lines/2))

	// The first life reads from a pipe that does not end, so that it is surely
	// killed while it is at it.
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	p := launchReading(t, read, "import", "--service", address)
	read.Close()
	if _, err := write.WriteString(text[:half+40]); err != nil { // up to the middle of a line
		t.Fatal(err)
	}
	waitFor(t, func() bool { return eventCount(t, address) >= 4000 })
	p.kill()
	first := eventCount(t, address)
	if first < 4000 || first > lines/2 {
		t.Fatalf("%d lines were stored by the import that was killed", first)
	}

	// The second and third life read the file, under a name of its own each.
	for life, want := range []string{fmt.Sprintf("%d lines: %d stored, %d stored before\n", lines, lines-first, first), fmt.Sprintf("%d lines: 0 stored, %d stored before\n", lines, lines)} {
		file := writeFile(t, fmt.Sprintf("life-%d.jsonl", life), text)
		if r := command(t, "", "import", file, "--service", address); r.status != 0 || r.stdout != want || r.stderr != "" {
			t.Errorf("%+v, want %q", r, want)
		}
	}
	onceEach(t, address, 1, lines)
}

// waitFor is for what another process does.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
	}
}

// A file that has grown since is imported again: what is new is stored.
func TestAFileMayGrowAndBeRenamed(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	for _, c := range []struct {
		to   int
		want string
	}{{100, "100 lines: 100 stored\n"}, {150, "150 lines: 50 stored, 100 stored before\n"}} {
		file := writeFile(t, fmt.Sprintf("%d.jsonl", c.to), bares(1, c.to))
		if got := succeed(t, "import", file, "--service", address); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	onceEach(t, address, 1, 150)
	if out := succeed(t, "emitters", "list", "--json", "--service", address); !strings.Contains(out, `"highest_seq":"150"`) || strings.Contains(out, `"missing"`) {
		t.Errorf("the numbers are not those of the lines: %s", out)
	}
	// Another name for the emitter is another import.
	if got, want := succeed(t, "import", "--emitter", "again", writeFile(t, "x", bares(1, 150)), "--json", "--service", address),
		`{"lines":150,"stored":150,"stored_before":0,"not_taken":0}`+"\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	ids := succeed(t, "events", "stats", "--by", "emitter_id", "--json", "--service", address)
	if !regexp.MustCompile(`"keys":\["again:[0-9a-f]{16}"\]`).MatchString(ids) || !regexp.MustCompile(`"keys":\["import:[0-9a-f]{16}"\]`).MatchString(ids) {
		t.Error(ids)
	}
}

// Lines that were moved are not taken for those that are stored.
func TestAFileThatWasChangedInTheMiddleIsNoticed(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	succeed(t, "import", writeFile(t, "a", bares(1, 1000)), "--service", address)
	shifted := writeFile(t, "b", bares(1, 100)+bares(102, 1000)) // a line less
	r := command(t, "", "import", shifted, "--service", address)
	if want := regexp.MustCompile(`^mcpaudit: import: line \d+ of .*/b was not stored: the service has another event of emitter import:[0-9a-f]{16} with number \d+\. If lines were added or moved`); r.status != 1 || !want.MatchString(r.stderr) {
		t.Errorf("%+v", r)
	}
}

// Events that bring their numbers are known by them, whatever file they are in.
func TestEventsKeepTheNumbersThatTheyBring(t *testing.T) {
	here, _ := inService(t, t.TempDir())
	var events []*pb.Event
	for n := range uint64(20) {
		events = append(events, sent("own", n+1))
	}
	publish(t, here, events...)
	exported := succeed(t, "events", "list", notItself, "--json", "--service", here)
	if got, want := succeed(t, "import", writeFile(t, "a", exported), "--service", here), "20 lines: 0 stored, 20 stored before\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	lines := strings.SplitAfter(exported, "\n")
	slices.Reverse(lines)
	mixed := strings.Replace(strings.Join(lines, "\n\r\n \n"), `"emitter_id":"own"`, `"emitter_id":"new"`, 3) + bare(7) // blank lines between, and one bare line
	if got, want := succeed(t, "import", writeFile(t, "b", mixed), "--service", here), "21 lines: 4 stored, 17 stored before\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// A blank line is no missing number.
	if out := succeed(t, "emitters", "list", "--json", "--service", here); strings.Contains(out, `"missing"`) {
		t.Error(out)
	}
}

func TestLinesThatCantBeTakenAreNamedAndTheOthersStored(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	const base = `"occurred_at":"2026-11-20T09:00:00Z","kind":"tool_call","outcome":"success"`
	bad := []struct{ line, want string }{
		{`{"hunter2"`, "not a JSON object"},
		{`["hunter2"]`, "not a JSON object"},
		{`null`, "not a JSON object"},
		{`"hunter2"`, "not a JSON object"},
		{`{} {}`, "not a JSON object"},
		{`{}`, "occurred_at: is required"},
		{`{"kind":"tool_call","outcome":"success"}`, "occurred_at: is required"},
		{`{"occurred_at":"hunter2","kind":"tool_call","outcome":"success"}`, "not an event: a value of the wrong form"},
		{`{"occurred_at":"1969-01-01T00:00:00Z","kind":"tool_call","outcome":"success"}`, "occurred_at: must lie between the years 2000 and 2200"},
		{`{"occurred_at":"2026-11-20T09:00:00Z","kind":"tool_call","outcome":"hunter2"}`, "outcome: must be one of"},
		{`{"occurred_at":"2026-11-20T09:00:00Z","outcome":"success"}`, "kind: must be one of"},
		{`{` + base + `,"sever":"hunter2"}`, `not an event: unknown field "sever"`},
		{`{` + base + `,"http_status":"hunter2"}`, "not an event: a value of the wrong form"},
		{`{` + base + `,"event_id":"hunter2"}`, "event_id: not a UUID"},
		{`{` + base + `,"event_id":"123e4567-e89b-42d3-a456-426614174000"}`, "event_id: must be a UUID version 7"},
		{`{` + base + `,"emitter_id":"e"}`, "emitter_seq: is missing, and there is an emitter_id; give both or neither"},
		{`{` + base + `,"emitter_seq":"5"}`, "emitter_id: is missing, and there is an emitter_seq; give both or neither"},
		{`{` + base + `,"emitter_id":"e","emitter_seq":"0"}`, "emitter_seq: is required and starts at 1"},
		{`{` + base + `,"emitter_id":null,"emitter_seq":null}`, "emitter_id: is required"},
		{`{` + base + `,"server":"` + strings.Repeat("h", 300) + `"}`, "server: has 300 bytes, at most 256 are taken"},
		{`{` + base + `,"raw_arguments":{"password":"hunter2"}}`, "is a raw call; name the key to redact it with, --key-file"},
		{`{` + base + `,"raw\u005farguments":{"password":"hunter2"}}`, ``},
		{"{" + base + ",\"server\":\"\xff\"}", "not an event: a value of the wrong form"},
	}
	text := bares(1, 100) // a raw call at the file's beginning is refused whole, see below
	var want []string
	for i, c := range bad {
		text += c.line + "\n" + bare(101+i)
		want = append(want, fmt.Sprintf("line %d: %s", 101+2*i, c.want))
	}
	file := writeFile(t, "bad\x1b.jsonl", text)
	r := command(t, "", "import", file, "--service", address)
	if summary := fmt.Sprintf("%d lines: %d stored, %d not taken\n", 100+2*len(bad), 100+len(bad), len(bad)); r.status != 1 || r.stdout != summary {
		t.Errorf("status %d: %q, want %q", r.status, r.stdout, summary)
	}
	got := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d lines are reported, want %d:\n%s", len(got), len(want), r.stderr)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], "mcpaudit: import ") || !strings.Contains(got[i], ", "+want[i]) {
			t.Errorf("%s\nwant %s", got[i], want[i])
		}
	}
	if strings.Contains(r.stderr, "hunter2") || strings.Contains(r.stderr, "\x1b") {
		t.Error(r.stderr)
	}
	onceEach(t, address, 1, 100+len(bad))

	// --strict stops there; what is before is stored.
	strict := writeFile(t, "strict", bares(1001, 1010)+"x\n"+bares(1011, 1020))
	r = command(t, "", "import", "--strict", strict, "--service", address)
	if r.status != 1 || r.stdout != "11 lines: 10 stored, 1 not taken\n" ||
		r.stderr != "mcpaudit: import "+strict+", line 11: not a JSON object\nmcpaudit: import "+strict+": stopped at the first line that can't be taken\n" {
		t.Errorf("%+v", r)
	}
	if n := len(stored(t, address)); n != 110+len(bad) {
		t.Errorf("%d lines are stored", n)
	}
}

// A line put right in its place is stored by the next import of the file.
func TestALineThatWasPutRightIsNew(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	if r := command(t, "", "import", writeFile(t, "a", bares(1, 99)+"oops\n"+bares(101, 200)), "--service", address); r.status != 1 || r.stdout != "200 lines: 199 stored, 1 not taken\n" {
		t.Errorf("%+v", r)
	}
	if got, want := succeed(t, "import", writeFile(t, "b", bares(1, 200)), "--service", address), "200 lines: 1 stored, 199 stored before\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	onceEach(t, address, 1, 200)
}

// The service keeps track of 1024 gaps in an emitter's sequence. A file with more
// lines that can't be taken is stored all the same, and a second time not again.
func TestManyBadLinesStopNoGoodOnes(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	var text strings.Builder
	for n := 1; n <= 2500; n++ {
		text.WriteString(bare(n) + "x\n")
	}
	file := writeFile(t, "holes", text.String())
	for _, want := range []string{"5000 lines: 2500 stored, 2500 not taken\n", "5000 lines: 0 stored, 2500 stored before, 2500 not taken\n"} {
		if r := command(t, "", "import", file, "--service", address); r.status != 1 || r.stdout != want {
			t.Errorf("status %d: %q, want %q; %.500s", r.status, r.stdout, want, r.stderr)
		}
	}
	onceEach(t, address, 1, 2500)
}

func TestRawCallsAreRedactedBeforeTheyLeave(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	key := writeFile(t, "redact.key", strings.Repeat("0123456789abcdef", 4)+"\n")
	const token = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
	raw := func(n int) string {
		return strings.Replace(bare(n), `}`, `,"raw_arguments":{"to":"alice@example.com","password":"hunter2-and-more","note":"use `+token+`"},"raw_result":{"content":[{"type":"text","text":"mail alice@example.com"}]}}`, 1)
	}
	file := writeFile(t, "calls.jsonl", raw(1)+bare(2)+raw(3))
	r := command(t, "", "import", file, "--service", address)
	if want := "mcpaudit: import " + file + ": it has raw calls; name the key to redact them with, --key-file\n"; r.status != 1 || r.stderr != want || r.stdout != "" {
		t.Errorf("%+v, want %q", r, want)
	}
	for _, want := range []string{"3 lines: 3 stored\n", "3 lines: 0 stored, 3 stored before\n"} {
		if got := succeed(t, "import", "--key-file", key, file, "--service", address); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	onceEach(t, address, 1, 3)
	out := succeed(t, "events", "list", "--json", "--service", address)
	for _, secret := range []string{token, "alice", "hunter2", "raw_"} {
		if strings.Contains(out, secret) {
			t.Errorf("%q got out: %s", secret, out)
		}
	}
	if strings.Count(out, "secret:github-pat") < 2 || strings.Count(out, `"arguments_digest"`) != 2 {
		t.Error(out)
	}
	// What is made of the contents is made with the key: with another key, other ids.
	other := writeFile(t, "other.key", strings.Repeat("f", 64)+"\n")
	if got := succeed(t, "import", "--key-file", other, file, "--service", address); got != "3 lines: 3 stored\n" {
		t.Error(got)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := command(t, "", "import", "--key-file", key, file); r.status != 1 || !strings.Contains(r.stderr, "mcpaudit: import: read redaction key: others may read") {
		t.Errorf("%+v", r)
	}
}

func TestMistakesOfAnImportAreFoundBeforeItBegins(t *testing.T) {
	dir := t.TempDir()
	good := writeFile(t, "good", bare(1))
	for args, want := range map[string]string{
		"/no/such/file":                   "import: open /no/such/file: no such file or directory\n",
		good + " /no/such/file":           "import: open /no/such/file: no such file or directory\n",
		dir:                               "import: " + dir + " is a folder; name the files in it\n",
		"--key-file /no/such/key " + good: "import: read redaction key: stat /no/such/key: no such file or directory\n",
		"--emitter= " + good:              `import: --emitter is ""; name it with 1 to 128 bytes that show` + "\n",
		good + " --service 127.0.0.1:1":   "import: no service answers at 127.0.0.1:1; start one with 'mcpaudit serve', or name it with --service\n",
		"--service 127.0.0.1:1 - " + good: "import: no service answers at 127.0.0.1:1; ",
	} {
		r := command(t, "", append([]string{"import"}, strings.Fields(args)...)...)
		if r.status != 1 || !strings.HasPrefix(r.stderr, "mcpaudit: "+want) || r.stdout != "" {
			t.Errorf("%s: %+v, want %q", args, r, want)
		}
	}
}

// What comes slowly through a pipe is stored before the pipe ends, and Ctrl-C
// ends an import that waits for its input.
func TestAPipeIsStoredAsItComes(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	read, write := io.Pipe()
	defer write.Close()
	var out, errs bytes.Buffer
	ended := make(chan int)
	go func() { ended <- run(ctx, []string{"import", "--service", address}, read, &out, &errs) }()
	if _, err := io.WriteString(write, bares(1, 100)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return eventCount(t, address) == 100 })
	stop()
	if status := <-ended; status != 1 || errs.String() != "mcpaudit: import: interrupted; run the same command again to go on\n" || out.String() != "100 lines: 100 stored\n" {
		t.Errorf("status %d: %s%s", status, out.String(), errs.String())
	}
}

// moody passes batches on to a service, after it has refused some.
type moody struct {
	pb.UnimplementedIngestServiceServer
	pb.UnimplementedQueryServiceServer
	next pb.IngestServiceClient

	mu      sync.Mutex
	moods   []func() error // for the next batches; an error after passing them on when applied
	largest [2]int         // events and bytes
	batches int
}

func (m *moody) PublishBatch(ctx context.Context, req *pb.PublishBatchRequest) (*pb.PublishBatchResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batches++
	m.largest[0], m.largest[1] = max(m.largest[0], len(req.GetEvents())), max(m.largest[1], req.SizeVT())
	if len(m.moods) == 0 {
		return m.next.PublishBatch(ctx, req)
	}
	mood := m.moods[0]
	m.moods = m.moods[1:]
	err := mood()
	if errors.Is(err, errAfter) { // stored, but its answer is lost
		if _, err := m.next.PublishBatch(ctx, req); err != nil {
			return nil, err
		}
		return nil, status.Error(codes.Unavailable, "the connection is gone")
	}
	return nil, err
}

var errAfter = errors.New("after")

// refuse is an error with RetryInfo.
func refuse(code codes.Code, delay time.Duration) func() error {
	return func() error {
		st, err := status.New(code, "not now").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
		if err != nil {
			return err
		}
		return st.Err()
	}
}

func inMoody(t *testing.T, m *moody) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterIngestServiceServer(server, m)
	pb.RegisterQueryServiceServer(server, m)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

func TestAnImportTriesAgainAndKeepsBatchesSmall(t *testing.T) {
	address, _ := inService(t, t.TempDir())
	m := &moody{next: pb.NewIngestServiceClient(connect(t, address)), moods: []func() error{
		refuse(codes.Unavailable, time.Millisecond), refuse(codes.ResourceExhausted, time.Millisecond),
		func() error { return errAfter }, // the answer is lost: the batch is sent again
		func() error { return status.Error(codes.DeadlineExceeded, "slow") },
	}}
	long := strings.Repeat("y", 200_000)
	text := bares(1, 4500)
	for n := 4501; n <= 4560; n++ { // more than may wait for the sender
		text += strings.Replace(bare(n), `}`, `,"arguments":"\"`+long+`\""}`, 1)
	}
	r := command(t, "", "import", writeFile(t, "a", text), "--service", inMoody(t, m))
	if r.status != 0 || !strings.HasPrefix(r.stdout, "4560 lines: 2560 stored, 2000 stored before\n") ||
		strings.Count(r.stderr, "the service does not take events now (") != 4 || !strings.Contains(r.stderr, "(not now); trying again in 1ms\n") {
		t.Errorf("%+v", r)
	}
	onceEach(t, address, 1, 4560)
	if m.largest[0] != 2000 || m.largest[1] > 2<<20 || m.largest[1] < 1<<20 {
		t.Errorf("the largest batch has %d events and %d bytes", m.largest[0], m.largest[1])
	}

	// It does not try for ever, nor what is of no use.
	m.moods = slices.Repeat([]func() error{refuse(codes.Unavailable, time.Millisecond)}, 1000)
	r = command(t, "", "import", "--patience", "5ms", writeFile(t, "b", bares(5001, 5002)), "--service", inMoody(t, m))
	if r.status != 1 || !regexp.MustCompile(`mcpaudit: import: the service has taken nothing for 5ms, the last time because: not now; line 1 of .* to line 2 of .* are not stored\. Run the same command again to go on\n$`).MatchString(r.stderr) || r.stdout != "2 lines: 0 stored\n" {
		t.Errorf("%+v", r)
	}
	m.moods, m.batches = []func() error{func() error { return status.Error(codes.PermissionDenied, "no\x1b role") }}, 0
	r = command(t, "", "import", writeFile(t, "b", bares(5001, 5002)), "--service", inMoody(t, m))
	if r.status != 1 || r.stderr != "mcpaudit: import: no  role\n" || m.batches != 1 {
		t.Errorf("%+v after %d batches", r, m.batches)
	}
}

func TestLinesAreReadInBounds(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"", 10, ""},
		{"a", 10, "1:a"},
		{"a\n", 10, "1:a"},
		{"a\n\nb", 10, "1:a 2: 3:b"},
		{"0123456789\n01234567890\nb\n", 10, "1:0123456789 2! 3:b"},
		{long + "\nb", 10, "1! 2:b"},
		{"a\n" + long, 10, "1:a 2!"},
		{long + "\nb", 200_000, "1:" + long + " 2:b"},
		{long + "x\nb", 200_000, "1! 2:b"},
	} {
		r := newLineReader(strings.NewReader(c.text), c.most)
		var got []string
		for {
			line, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if errors.Is(err, errLong) {
				got = append(got, fmt.Sprintf("%d!", r.n))
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%d:%s", r.n, line))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%.40q: %.80q, want %.80q", c.text, got, c.want)
		}
	}
	broken := newLineReader(io.MultiReader(strings.NewReader("a\nb"), failing{}), 10)
	if line, err := broken.next(); string(line) != "a" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	if line, err := broken.next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", line, err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func FuzzAnImportedLineIsAnEventOrAnError(f *testing.F) {
	for _, line := range []string{bare(1), `{}`, `{"emitter_id":"a","emitter_seq":1}`, `{"raw_arguments":1}`, `{"occurred_at":"9999-12-31T23:59:59Z"}`, "null", "{"} {
		f.Add([]byte(strings.TrimSpace(line)))
	}
	redactor, err := redact.New(redact.DefaultProfile(), make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if len(bytes.TrimSpace(line)) == 0 {
			return
		}
		im := &importer{redact: redactor}
		a, b := numbering{base: "x"}, numbering{base: "x"}
		m, err := im.readEvent(slices.Clone(line), &a)
		if err == nil && (m.GetEmitterId() == "" || m.GetEmitterSeq() == 0 || m.GetEventId() == "") {
			t.Errorf("an event without ids: %v", m)
		}
		again, errAgain := im.readEvent(slices.Clone(line), &b)
		if (err == nil) != (errAgain == nil) || err == nil && (m.GetEventId() != again.GetEventId() || m.GetEmitterSeq() != again.GetEmitterSeq()) || a != b {
			t.Errorf("the same line reads otherwise the second time: %v, %v; %v, %v", m, again, err, errAgain)
		}
	})
}

func TestProgressIsOneLineOnATerminalAndRareElsewhere(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	s := &surroundings{stderr: &out, env: func(string) string { return "" }, now: func() time.Time { return now }}
	after := func(p *progress, d time.Duration, n uint32) string {
		out.Reset()
		now = now.Add(d)
		p.read(500)
		p.stored(&pb.Receipt{Stored: n})
		return out.String()
	}
	p := newProgress(s, 10_000)
	for range 300 {
		p.line()
	}
	if got := after(p, 9*time.Second, 100); got != "" {
		t.Errorf("%q", got)
	}
	if got, want := after(p, time.Second, 100), "mcpaudit: import:  10 %, 300 lines: 200 stored, 20 a second, about 90s left\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := after(p, 9*time.Second, 100); got != "" {
		t.Errorf("%q", got)
	}

	p = newProgress(s, 0)
	p.err.terminal, p.err.width = true, 40
	if got := after(p, 100*time.Millisecond, 100); got != "" {
		t.Errorf("%q", got)
	}
	if got, want := after(p, 100*time.Millisecond, 100), "mcpaudit: import: 0 lines: 200 stored,…"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := after(p, time.Second, 100); !strings.HasPrefix(got, "\r\x1b[Kmcpaudit: import: 0 lines: 300 ") || strings.Contains(got, "\n") {
		t.Errorf("%q", got)
	}
	out.Reset()
	p.notTaken("a\x1b", 7, errors.New("why"))
	if got, want := out.String(), "\r\x1b[Kmcpaudit: import a , line 7: why\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	after(p, time.Second, 1)
	out.Reset()
	if n := p.finish(); out.String() != "\r\x1b[K" || n.Stored != 301 || n.NotTaken != 1 {
		t.Errorf("%q, %+v", out.String(), n)
	}
}
