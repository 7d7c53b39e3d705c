package verify_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
	"github.com/mcpaudit/mcpaudit/query/verify"
)

type leaveAlone struct{}

func (leaveAlone) Again(*event.Event) bool { return false }

type unwatched struct{}

func (unwatched) Committed(int, time.Duration) {}
func (unwatched) Settled(int, int, int)        {}
func (unwatched) StoreFailed()                 {}

// log is a store that a real pipeline has written.
type log struct {
	*store.Store
	key     *ledger.Key
	newest  string // checkpoint
	batches uint64

	rotations []string // statements that lead to key
}

func newKey(t *testing.T, seed byte, id string) *ledger.Key {
	t.Helper()
	k, _, err := ledger.NewKey(rand.NewChaCha8([32]byte{seed}), id)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// written makes a store with so many batches of some events each.
func written(t *testing.T, batches, events int) *log {
	t.Helper()
	l := &log{Store: storetest.Open(t, t.TempDir()), key: newKey(t, 1, "main")}
	l.write(t, batches, events)
	return l
}

func (l *log) write(t *testing.T, batches, events int) {
	t.Helper()
	cfg := ingest.Config{Key: l.key, Rotations: l.rotations, MaxAge: time.Microsecond, Retention: ingest.Retention{Default: 12, Tenants: map[string]int{"short": 1}}}
	p := ingest.New(cfg, l.Store, leaveAlone{}, time.Now, slog.New(slog.NewTextHandler(io.Discard, nil)), unwatched{})
	ctx, stop := context.WithCancel(scopetest.Every(context.Background()))
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for p.Ready() != nil {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	r := rand.New(rand.NewPCG(uint64(batches), l.batches))
	for b := range batches {
		var es []*event.Event
		for i := range events {
			e := event.Random(r)
			e.EmitterID, e.EmitterSeq, e.Tenant = fmt.Sprint("emitter-", l.batches), uint64(b*events+i+1), "acme"
			e.ReceivedAt, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = 0, "", 0, 0, 0
			es = append(es, e)
		}
		if _, err := p.Submit(scopetest.Every(context.Background()), es, 1000); err != nil {
			t.Fatal(err)
		}
	}
	l.newest, l.batches = p.Checkpoint()
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func (l *log) exec(t *testing.T, sql string) {
	t.Helper()
	storetest.Exec(t, l.Store, sql)
}

// report gathers what is found.
type report struct {
	problems []*pb.VerifyProblem
	events   uint64
}

func (r *report) Problem(p *pb.VerifyProblem) error { r.problems = append(r.problems, p); return nil }
func (r *report) Progress(events, _ uint64) error   { r.events = events; return nil }

func (l *log) verify(t *testing.T, opt verify.Options) (*pb.VerifySummary, *report) {
	t.Helper()
	if opt.Keys == nil {
		opt.Keys = []string{l.key.Verifier()}
	}
	opt.Patience = time.Millisecond
	r := &report{}
	s, err := verify.Run(t.Context(), l.Store, opt, r)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

func TestAStoreThatNobodyTouchedIsVerified(t *testing.T) {
	l := written(t, 7, 5)
	first := l.newest
	l.write(t, 3, 300)
	s, r := l.verify(t, verify.Options{Checkpoints: []string{first, l.newest}})
	if len(r.problems) > 0 || s.GetProblems() != 0 {
		t.Fatalf("problems: %v", r.problems)
	}
	if s.GetEvents() != 7*5+3*300 || s.GetEntries() != 10 || s.GetLogs() != 1 || s.GetCheckpoints() != 2 || len(s.GetNewest()) != 1 || s.GetNewest()[0] != l.newest {
		t.Errorf("summary %v", s)
	}
}

func TestAnEmptyStoreIsVerified(t *testing.T) {
	l := &log{Store: storetest.Open(t, t.TempDir()), key: newKey(t, 1, "main")}
	r := &report{}
	if s, err := verify.Run(t.Context(), l.Store, verify.Options{}, r); err != nil || s.GetProblems() != 0 {
		t.Errorf("%v, %v", s, err)
	}
}

// Promise 4: whatever is done to the stored data behind the service's back is found,
// and named.
func TestPromise4TamperEvidentWhateverIsDoneToTheStoreIsFound(t *testing.T) {
	template := t.TempDir()
	key, newest := func() (*ledger.Key, string) {
		l := &log{Store: storetest.Open(t, template), key: newKey(t, 1, "main")}
		l.write(t, 7, 5)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return l.key, l.newest
	}()
	const one = "log_id = 'main' AND batch = 3 AND leaf = 2"
	events := store.EventColumns
	// insert inserts the events of a condition again, one column changed.
	insert := func(where, column, value string) string {
		return "INSERT INTO events (" + events + ") SELECT " + strings.Replace(events, "`"+column+"`", value+" AS `"+column+"`", 1) + " FROM (SELECT * FROM events WHERE " + where + ")"
	}
	const third = "log_id = 'main' AND batch = 3"
	const entries = "format, kind, log_id, batch, sealed_at, schema, events, root, expires_month, detail, nodes, checkpoint, tags"
	for name, c := range map[string]struct {
		do    []string
		code  pb.VerifyProblem_Code
		batch uint64
		leaf  int // -1: none is named
		says  string
	}{
		"an event is deleted":               {[]string{"ALTER TABLE events DELETE WHERE " + one}, pb.VerifyProblem_CODE_EVENT_MISSING, 3, 2, "1 of the 5 events of batch 3 are missing: 2"},
		"an event is deleted lightly":       {[]string{"DELETE FROM events WHERE " + one}, pb.VerifyProblem_CODE_EVENT_MISSING, 3, 2, ""},
		"an outcome is changed":             {[]string{"ALTER TABLE events UPDATE outcome = 'success', decision = 'allow', error_code = 'x' WHERE " + one}, pb.VerifyProblem_CODE_EVENT_CHANGED, 3, 2, "event 2 of batch 3 is not what was sealed"},
		"a label is added":                  {[]string{"ALTER TABLE events UPDATE labels = mapConcat(labels, map('zz', 'y')) WHERE " + one}, pb.VerifyProblem_CODE_EVENT_CHANGED, 3, 2, ""},
		"a received time is back-dated":     {[]string{"ALTER TABLE events UPDATE received_at = received_at - 1 WHERE " + one}, pb.VerifyProblem_CODE_EVENT_CHANGED, 3, 2, ""},
		"an event is inserted in a batch":   {[]string{insert(one, "leaf", "toUInt32(5)")}, pb.VerifyProblem_CODE_EVENT_ADDED, 3, 5, "batch 3 has 5 events, and there is an event 5"},
		"an event is inserted twice":        {[]string{"INSERT INTO events (" + events + ") SELECT " + events + " FROM events WHERE " + one}, pb.VerifyProblem_CODE_EVENT_ADDED, 3, 2, "more than once"},
		"events are inserted behind":        {[]string{insert(third, "batch", "toUInt64(8)")}, pb.VerifyProblem_CODE_EVENT_ADDED, 8, -1, "5 events are not sealed"},
		"events are inserted before":        {[]string{insert(third, "batch", "toUInt64(0)")}, pb.VerifyProblem_CODE_EVENT_ADDED, 0, -1, "5 events are not sealed"},
		"events of another log":             {[]string{insert(third, "log_id", "'other'")}, pb.VerifyProblem_CODE_EVENT_ADDED, 0, -1, `5 events are of log "other"`},
		"events change places":              {[]string{"ALTER TABLE events UPDATE leaf = if(leaf = 1, 2, 1) WHERE log_id = 'main' AND batch = 3 AND leaf IN (1, 2)"}, pb.VerifyProblem_CODE_EVENT_CHANGED, 3, 1, ""},
		"events change batches":             {[]string{"ALTER TABLE events UPDATE batch = if(batch = 2, 3, 2) WHERE log_id = 'main' AND batch IN (2, 3)"}, pb.VerifyProblem_CODE_EVENT_CHANGED, 2, 0, ""},
		"a partition is dropped":            {[]string{"ALTER TABLE events DROP PARTITION ALL"}, pb.VerifyProblem_CODE_EVENT_MISSING, 1, 0, "all 5 events of batch 1 are missing"},
		"a part is replaced":                {[]string{"CREATE TABLE other AS events", strings.Replace(insert("1", "principal", "'user:mallory'"), "INTO events", "INTO other", 1), "ALTER TABLE events DROP PARTITION ALL", "INSERT INTO events (" + events + ") SELECT " + events + " FROM other"}, pb.VerifyProblem_CODE_EVENT_CHANGED, 1, 0, ""},
		"an entry is deleted":               {[]string{"ALTER TABLE ledger DELETE WHERE batch = 3"}, pb.VerifyProblem_CODE_ENTRY_MISSING, 3, -1, "entry 3 is missing, the next one is 4"},
		"an entry is deleted with its rows": {[]string{"ALTER TABLE ledger DELETE WHERE batch = 3", "ALTER TABLE events DELETE WHERE batch = 3"}, pb.VerifyProblem_CODE_ENTRY_MISSING, 3, -1, ""},
		"an entry is doubled":               {[]string{"INSERT INTO ledger SELECT " + entries + " FROM ledger WHERE batch = 3"}, pb.VerifyProblem_CODE_ENTRY_ADDED, 3, -1, "there is another entry of number 3"},
		"an entry's count is changed":       {[]string{"ALTER TABLE ledger UPDATE events = 4 WHERE batch = 3"}, pb.VerifyProblem_CODE_ENTRY_CHANGED, 3, -1, ""},
		"an entry's time is changed":        {[]string{"ALTER TABLE ledger UPDATE sealed_at = sealed_at - 1 WHERE batch = 3"}, pb.VerifyProblem_CODE_ENTRY_CHANGED, 3, -1, ""},
		"an entry's root is changed":        {[]string{"ALTER TABLE ledger UPDATE root = toFixedString(reverse(root), 32) WHERE batch = 3"}, pb.VerifyProblem_CODE_ENTRY_CHANGED, 3, -1, ""},
		"entries' nodes are changed":        {[]string{"ALTER TABLE ledger UPDATE nodes = arrayMap(n -> toFixedString(reverse(n), 32), nodes) WHERE batch = 3"}, pb.VerifyProblem_CODE_ENTRY_CHANGED, 3, -1, "nodes"},
		"a checkpoint is changed":           {[]string{"ALTER TABLE ledger UPDATE checkpoint = replaceOne(checkpoint, '\\n3\\n', '\\n4\\n') WHERE batch = 3"}, pb.VerifyProblem_CODE_SIGNATURE, 3, -1, ""},
		"a checkpoint is removed":           {[]string{"ALTER TABLE ledger UPDATE checkpoint = '' WHERE batch = 3"}, pb.VerifyProblem_CODE_SIGNATURE, 3, -1, ""},
		"the ledger's tail is cut":          {[]string{"ALTER TABLE ledger DELETE WHERE batch > 5"}, pb.VerifyProblem_CODE_CONTRADICTION, 7, -1, "says that the log had 7 entries"},
		"the whole tail is cut":             {[]string{"ALTER TABLE ledger DELETE WHERE batch > 5", "ALTER TABLE events DELETE WHERE batch > 5"}, pb.VerifyProblem_CODE_CONTRADICTION, 7, -1, "the log has 5: it was cut or rewritten"},
		"everything is cut":                 {[]string{"TRUNCATE TABLE ledger", "TRUNCATE TABLE events"}, pb.VerifyProblem_CODE_CONTRADICTION, 7, -1, "the log has 0"},
		"the log is removed":                {[]string{"TRUNCATE TABLE ledger", "TRUNCATE TABLE events", "TRUNCATE TABLE logs"}, pb.VerifyProblem_CODE_LOG_MISSING, 0, -1, ""},
		"the ledger is emptied":             {[]string{"TRUNCATE TABLE ledger"}, pb.VerifyProblem_CODE_CONTRADICTION, 7, -1, ""},
		"tags are changed too":              {[]string{"ALTER TABLE ledger UPDATE tags = '' WHERE batch = 3", "ALTER TABLE events UPDATE outcome = 'denied', error_code = 'q' WHERE " + one}, pb.VerifyProblem_CODE_EVENT_CHANGED, 3, -1, "which of its 5 events was changed can't be said"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
				t.Fatal(err)
			}
			l := &log{Store: storetest.Open(t, dir), key: key, newest: newest}
			for _, sql := range c.do {
				l.exec(t, sql)
			}
			s, r := l.verify(t, verify.Options{Checkpoints: []string{l.newest}})
			if len(r.problems) == 0 || int(s.GetProblems()) != len(r.problems) {
				t.Fatalf("nothing was found: %v", s)
			}
			for _, p := range r.problems {
				if p.GetCode() == c.code && p.GetBatch() == c.batch && p.GetHasLeaf() == (c.leaf >= 0) && (c.leaf < 0 || p.GetLeaf() == uint32(c.leaf)) && strings.Contains(p.GetMessage(), c.says) {
					return
				}
			}
			t.Errorf("found %v", r.problems)
		})
	}
}

// Who can write the store and has a key of his own can make a log that agrees with
// itself. It is not the log of the trusted key.
func TestPromise4ALogThatWasMadeAnewWithAnotherKeyIsFound(t *testing.T) {
	l := written(t, 3, 5)
	forged := &log{Store: l.Store, key: newKey(t, 2, "main")}
	for _, table := range []string{"events", "ledger", "logs"} {
		l.exec(t, "TRUNCATE TABLE "+table)
	}
	forged.write(t, 3, 5)
	if s, _ := forged.verify(t, verify.Options{}); s.GetProblems() != 0 {
		t.Fatalf("the forged log does not agree with itself: %v", s)
	}
	s, r := l.verify(t, verify.Options{Checkpoints: []string{l.newest}})
	codes := map[pb.VerifyProblem_Code]bool{}
	for _, p := range r.problems {
		codes[p.GetCode()] = true
	}
	if !codes[pb.VerifyProblem_CODE_SIGNATURE] || !codes[pb.VerifyProblem_CODE_CONTRADICTION] {
		t.Errorf("found %v, %v", s, r.problems)
	}
}

// rotate replaces the key.
func (l *log) rotate(t *testing.T, seed byte) (old *ledger.Key) {
	t.Helper()
	old, l.key = l.key, newKey(t, seed, "main")
	statement, err := old.Rotate(l.key)
	if err != nil {
		t.Fatal(err)
	}
	l.rotations = append(l.rotations, statement)
	return old
}

// A key may be replaced several times before a start, which then signs the entries of
// all hand-overs with the last.
func TestKeysThatTookOverAreFollowed(t *testing.T) {
	l := written(t, 2, 5)
	one := l.rotate(t, 2)
	two := l.rotate(t, 3)
	l.write(t, 2, 5)
	three := l.rotate(t, 4)
	l.write(t, 1, 5)
	for _, keys := range [][]*ledger.Key{{one}, {two}, {three}, {l.key}, {one, l.key}, {l.key, three, two, one}} {
		var opt verify.Options
		for _, k := range keys {
			opt.Keys = append(opt.Keys, k.Verifier())
		}
		if s, r := l.verify(t, opt); s.GetProblems() != 0 || s.GetEntries() != 2+2+2+1+1 {
			t.Errorf("with %v: %v, %v", keys, s, r.problems)
		}
	}
	// A key that was published and has signed nothing yet.
	ahead := newKey(t, 9, "main")
	if s, _ := l.verify(t, verify.Options{Keys: []string{l.key.Verifier(), ahead.Verifier()}}); s.GetProblems() != 1 {
		t.Errorf("a trusted key that the log never came to: %v", s)
	}
}

// Who has a key that handed over can't go on behind the hand-over, nor write the log
// anew with it.
func TestPromise4AKeyThatHandedOverSignsNoMore(t *testing.T) {
	l := written(t, 2, 5)
	old := l.rotate(t, 2)
	l.write(t, 2, 5)
	newest := l.key.Verifier()
	for _, table := range []string{"events", "ledger", "logs"} {
		l.exec(t, "TRUNCATE TABLE "+table)
	}
	forged := &log{Store: l.Store, key: old}
	forged.write(t, 3, 5)
	if s, _ := forged.verify(t, verify.Options{}); s.GetProblems() != 0 {
		t.Fatalf("the forged log does not agree with itself: %v", s)
	}
	for _, keys := range [][]string{{newest}, {newest, old.Verifier()}} {
		if s, _ := l.verify(t, verify.Options{Keys: keys}); s.GetProblems() == 0 {
			t.Errorf("with %q: %v", keys, s)
		}
	}
}

func TestOnlyBatchesOfARangeAreHashedWhenOneIsGiven(t *testing.T) {
	l := written(t, 4, 5)
	var times []int64
	if err := l.Entries(t.Context(), "main", 0, math.MaxUint64, func(r store.Sealed) error { times = append(times, r.Entry.SealedAt); return nil }); err != nil {
		t.Fatal(err)
	}
	s, _ := l.verify(t, verify.Options{From: time.UnixMicro(times[1]), To: time.UnixMicro(times[3])})
	if want := uint64(10); s.GetEvents() != want || s.GetEntries() != 4 {
		t.Errorf("%d events of %d entries, want %d of 4", s.GetEvents(), s.GetEntries(), want)
	}
}
