package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/embedded"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// randomEvents are events as the pipeline seals them: one expiry month, dense
// leaves, each emitter's sequence numbers distinct.
func randomEvents(r *rand.Rand, n int, batch uint64) []*event.Event {
	var es []*event.Event
	for i := range n {
		e := event.Random(r)
		e.EmitterSeq, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = batch*1e6+uint64(i), "log", batch, uint32(i), 20819
		es = append(es, e)
	}
	return es
}

func readAll(t *testing.T, s *store.Store) []*event.Event {
	t.Helper()
	rows, err := s.Query(context.Background(), store.Limits{}, "SELECT "+store.EventColumns+" FROM events ORDER BY batch, leaf")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var es []*event.Event
	for rows.Next() {
		e, err := store.ScanEvent(rows)
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, e)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return es
}

func checkEvents(t *testing.T, s *store.Store, want []*event.Event) {
	t.Helper()
	got := readAll(t, s)
	if len(got) != len(want) {
		t.Fatalf("%d events are stored, want %d", len(got), len(want))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("event %d:\n got %+v\nwant %+v", i, *got[i], *want[i])
		}
	}
}

func TestStoredEventsReadBackUnchanged(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	events := randomEvents(rand.New(rand.NewPCG(1, 1)), 500, 1)
	if err := s.Append(context.Background(), store.Batch{Events: events, Token: "a"}); err != nil {
		t.Fatal(err)
	}
	checkEvents(t, s, events)
}

// The ledger stands on this: Go's bytes of an event, and their leaf, are the
// engine's, as they were inserted and after merges have made other parts of them.
func TestTheEngineMakesTheSameRowBytesAndLeaves(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	events := randomEvents(rand.New(rand.NewPCG(2, 2)), 3000, 1)
	// The ends of every range, and lengths that take one, two and three bytes.
	for i, length := range []int{127, 128, 16383, 16384, event.MaxArguments} {
		events[i].Arguments = strings.Repeat("x", length)
	}
	for i, at := range []int64{946684800_000000, 7258118400_000000, 946684800_000001} {
		events[i].OccurredAt, events[i].ReceivedAt = at, at
	}
	for i, n := range []uint64{0, 1, math.MaxUint64} {
		e := events[i]
		e.EmitterSeq, e.Duration, e.RequestBytes, e.ResponseBytes, e.OriginalBytes = n, n, n, n, n
		e.Attempt, e.RemovedCount, e.HTTPStatus, e.ExpiresMonth = uint32(n), uint32(n), uint16(n), uint16(n)
	}
	for i := range events {
		events[i].ExpiresMonth = events[0].ExpiresMonth // a batch is one part
	}
	events[3].ArgumentMarks = slices.Repeat([]event.Mark{{Hash: math.MaxUint64, Class: "url"}}, event.MaxMarks)
	events[4].Labels = []event.Label{{Key: "", Value: ""}, {Key: "a", Value: "\x00"}, {Key: "z", Value: "ключ"}}
	for from := 0; from < len(events); from += 1000 {
		if err := s.Append(context.Background(), store.Batch{Events: events[from : from+1000], Token: fmt.Sprint(from)}); err != nil {
			t.Fatal(err)
		}
	}
	checkRows(t, s, events)
	if err := s.Merge(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkRows(t, s, events)
}

func checkRows(t *testing.T, s *store.Store, events []*event.Event) {
	t.Helper()
	hashed := make([]bool, len(events))
	if err := s.Hash(t.Context(), store.Limits{}, "log", 1, 1, func(batch uint64, leaf uint32, hash *ledger.Hash) error {
		if batch != 1 || hashed[leaf] || *hash != ledger.Leaf(event.AppendRow(nil, events[leaf])) {
			t.Errorf("event %d of batch %d is hashed as %v", leaf, batch, hash)
		}
		hashed[leaf] = true
		return nil
	}); err != nil || slices.Contains(hashed, false) {
		t.Errorf("not all are hashed: %v", err)
	}
	if err := s.Hash(t.Context(), store.Limits{}, "log", 2, 9, func(uint64, uint32, *ledger.Hash) error { return errors.New("an event of no batch") }); err != nil {
		t.Error(err)
	}
	rows, err := s.Query(context.Background(), store.Limits{}, "SELECT "+store.LeafSQL+", "+store.RowSQL+" FROM events ORDER BY leaf")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	i := 0
	for ; rows.Next(); i++ {
		var leaf, row string
		if err := rows.Scan(&leaf, &row); err != nil {
			t.Fatal(err)
		}
		ours := event.AppendRow(nil, events[i])
		if want := ledger.Leaf(ours); leaf != string(want[:]) {
			t.Fatalf("event %d: the engine's bytes differ\n%.2000x\n%.2000x", i, row, ours)
		}
		back, rest, err := event.ParseRow([]byte(row))
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(back, events[i]) {
			t.Fatalf("event %d does not read back from the engine's bytes: %v", i, err)
		}
	}
	if i != len(events) || rows.Err() != nil {
		t.Fatalf("%d rows of %d: %v", i, len(events), rows.Err())
	}
}

// The engine makes the same bytes of a ledger entry.
func TestTheEngineMakesTheSameEntryBytes(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	var rows []store.Sealed
	for i, detail := range []string{"", "nul\x00inside", strings.Repeat("ü", 10000)} {
		e := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindDrop, LogID: "log", Batch: uint64(i + 1), SealedAt: int64(i) * 1e15, Schema: uint16(i), Events: math.MaxUint32,
			Root: ledger.Leaf([]byte{byte(i)}), ExpiresMonth: 20819, Detail: detail}
		rows = append(rows, store.Sealed{Entry: e, Nodes: []ledger.Hash{e.Leaf(), {}}, Checkpoint: "c", Tags: []byte{0, 1, 2, 3}})
	}
	if err := s.Seal(context.Background(), rows); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range ledger.Columns {
		names = append(names, c.Name)
	}
	found, err := s.Query(context.Background(), store.Limits{}, "SELECT SHA256(concat(char(0), formatRow('RowBinary', "+strings.Join(names, ", ")+"))) FROM ledger ORDER BY batch")
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	i := 0
	for ; found.Next(); i++ {
		var leaf string
		if err := found.Scan(&leaf); err != nil {
			t.Fatal(err)
		}
		if want := rows[i].Entry.Leaf(); leaf != string(want[:]) {
			t.Errorf("entry %d: the engine's leaf is %x, ours %x", i+1, leaf, want)
		}
	}
	var back []store.Sealed
	if err := s.Entries(context.Background(), "log", 0, 9, func(r store.Sealed) error { back = append(back, r); return nil }); err != nil || !reflect.DeepEqual(back, rows) || i != len(rows) {
		t.Errorf("%v: read back\n%+v, stored\n%+v", err, back, rows)
	}
}

func TestABatchSentAgainIsStoredOnce(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(3, 3))
	one, two := randomEvents(r, 50, 1), randomEvents(r, 50, 2)
	for _, b := range []store.Batch{{Events: one, Token: "log/1"}, {Events: one, Token: "log/1"}, {Events: two, Token: "log/2"}, {Events: one, Token: "log/1"}} {
		if err := s.Append(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	checkEvents(t, s, slices.Concat(one, two))
}

func TestABatchIsStoredWholeOrNotAtAll(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	events := randomEvents(rand.New(rand.NewPCG(4, 4)), 2000, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Append(ctx, store.Batch{Events: events, Token: "a"}); err == nil {
		t.Fatal("a cancelled append reported success")
	}
	checkEvents(t, s, nil)
	if err := s.Append(context.Background(), store.Batch{Events: events, Token: "a"}); err != nil {
		t.Fatal(err)
	}
	checkEvents(t, s, events)
}

func TestEventsAndDeduplicationSurviveAReopen(t *testing.T) {
	dir := t.TempDir()
	events := randomEvents(rand.New(rand.NewPCG(5, 5)), 10, 1)
	s := storetest.Open(t, dir)
	if err := s.Append(context.Background(), store.Batch{Events: events, Token: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = storetest.Open(t, dir)
	if err := s.Append(context.Background(), store.Batch{Events: events, Token: "a"}); err != nil {
		t.Fatal(err)
	}
	checkEvents(t, s, events)
}

// sequenceEvents are the events of some numbers of an emitter, ready to append.
func sequenceEvents(emitter string, seqs ...uint64) []*event.Event {
	r := rand.New(rand.NewPCG(6, uint64(len(emitter))))
	var es []*event.Event
	for _, n := range seqs {
		e := randomEvents(r, 1, 1)[0]
		e.EmitterID, e.EmitterSeq, e.Leaf = emitter, n, uint32(n)
		es = append(es, e)
	}
	return es
}

func TestSequencesAreReadBackAsRuns(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	var long []uint64 // over the borders of buckets, with one gap at each
	for n := uint64(1); n <= 200_000; n++ {
		if n != 65536 && n != 131071 {
			long = append(long, n)
		}
	}
	top := ^uint64(0)
	for i, events := range [][]*event.Event{
		sequenceEvents("dense", 1, 2, 3, 4), sequenceEvents("gaps", 9, 2, 1, 5, 6, 20), sequenceEvents("late", 7, 8),
		sequenceEvents("ends", top, top-1, top-65536, 0, 1, 65535, 65536, 65537),
		sequenceEvents("twice", 1, 1, 3), sequenceEvents("twice", 3, 5, 6), sequenceEvents("twice and dense", 1, 2, 2, 3), sequenceEvents("o'quote\x00", 2),
	} {
		if err := s.Append(context.Background(), store.Batch{Events: events, Token: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	small := sequenceEvents("long", 1)[0]
	var batch []*event.Event
	for _, n := range long {
		e := event.Event{EventID: small.EventID, Schema: 1, EmitterID: "long", EmitterSeq: n, ExpiresMonth: 20819, OccurredAt: 1e15, ReceivedAt: 1e15}
		batch = append(batch, &e)
	}
	if err := s.Append(context.Background(), store.Batch{Events: batch, Token: "long"}); err != nil {
		t.Fatal(err)
	}
	want := map[string][]store.Run{
		"dense": {{1, 4}}, "gaps": {{1, 2}, {5, 6}, {9, 9}, {20, 20}}, "late": {{7, 8}}, "unknown": nil, "o'quote\x00": {{2, 2}},
		"ends":  {{0, 1}, {65535, 65537}, {top - 65536, top - 65536}, {top - 1, top}},
		"twice": {{1, 1}, {3, 3}, {5, 6}}, "twice and dense": {{1, 3}},
		"long": {{1, 65535}, {65537, 131070}, {131072, 200_000}},
	}
	for range 2 { // before the parts are merged and their indexes made, and after
		got, err := s.Sequences(context.Background(), slices.Collect(maps.Keys(want)))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, %v", got, err)
		}
		if err := s.Merge(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	// Who was never heard of costs nothing: the index says so.
	rows, err := s.Query(context.Background(), store.Limits{Rows: 1}, "SELECT count() FROM events WHERE emitter_id IN ({e:Array(String)})", store.Named("e", []string{"new", "also new"}))
	if err != nil {
		t.Fatalf("the index by_emitter is not used: %v", err)
	}
	rows.Close()
}

func TestMigratingTwiceChangesNothing(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	names, err := s.Migrate(context.Background(), time.Now())
	if err != nil || len(names) != 0 {
		t.Errorf("a second migration applied %v, %v", names, err)
	}
}

func TestTheTableHasTheRecordsColumns(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	rows, err := s.Query(context.Background(), store.Limits{}, "SELECT name, type FROM system.columns WHERE table = 'events' AND database = currentDatabase() ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got []event.Column
	for rows.Next() {
		var c event.Column
		if err := rows.Scan(&c.Name, &c.Type); err != nil {
			t.Fatal(err)
		}
		got = append(got, c)
	}
	if want := append(slices.Clone(event.Columns), event.Column{Name: "batch_mac", Type: "FixedString(16)"}); !slices.Equal(got, want) {
		t.Errorf("table:  %v\nrecord: %v", got, want)
	}
}

// A server is reached over HTTP by the same driver and statements. The engine
// in process plays the server here, behind a real listener.
func TestAServerIsReachedByItsDSN(t *testing.T) {
	engine, err := embedded.Open(embedded.Config{Library: storetest.Library(t), Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	var mu sync.Mutex
	var inserts []url.Values
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			if q := r.In.URL.Query(); strings.HasPrefix(q.Get("query"), "INSERT INTO events") {
				mu.Lock()
				inserts = append(inserts, q)
				mu.Unlock()
			}
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "embedded"
		},
		Transport: engine,
	})
	defer server.Close()
	s, err := store.Open(context.Background(), store.Config{DSN: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Migrate(context.Background(), time.Now()); err != nil {
		t.Fatal(err)
	}
	events := randomEvents(rand.New(rand.NewPCG(7, 7)), 100, 1)
	for range 2 {
		if err := s.Append(context.Background(), store.Batch{Events: events, Token: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	checkEvents(t, s, events)
	// What the acknowledgement stands on travels with each append, whatever the
	// server's profile says.
	if len(inserts) != 2 {
		t.Errorf("%d appends were seen", len(inserts))
	}
	for _, q := range inserts {
		if q.Get("async_insert") != "0" || q.Get("wait_for_async_insert") != "1" || q.Get("insert_deduplicate") != "1" || q.Get("insert_deduplication_token") != "a" {
			t.Errorf("an append with %v", q)
		}
	}
	for _, c := range []struct {
		log   string
		last  uint64
		since time.Time
		want  string
	}{
		{"log", 1, time.Time{}, ""}, {"log", 0, time.Time{}, "log"}, {"log", 1, time.Unix(0, 0), ""},
		{"mine", 0, time.Unix(0, 0), "log"}, {"mine", 0, time.Time{}, ""}, {"mine", 0, time.Unix(1<<33, 0), ""},
	} {
		if got, err := s.Rival(context.Background(), c.log, c.last, c.since); err != nil || got != c.want {
			t.Errorf("rival of %+v: %q, %v", c, got, err)
		}
	}
}

func TestABadConfigurationIsNamedWithoutItsPassword(t *testing.T) {
	for _, c := range []struct{ dsn, path, want string }{
		{"", "", "path is empty"},
		{"mysql://u:hunter2@h/db", "", `begins with "mysql"`},
		{"clickhouse://", "", "has no host"},
		{"clickhouse://u:hunter2@%zz", "", "not a URL"},
	} {
		err := store.Config{DSN: c.dsn, Path: c.path}.Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", c.dsn, err)
		}
	}
}

// Readers that are slow, or gone without a word, must not stop what is written.
func TestAppendsFindAConnectionWhileManyQueriesRun(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			rows, err := s.Query(ctx, store.Limits{}, "SELECT number FROM numbers(1000000000)")
			if err != nil {
				return
			}
			rows.Next()
			<-ctx.Done()
			rows.Close()
		})
	}
	time.Sleep(200 * time.Millisecond) // they take what they can get
	soon, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	if err := s.Append(soon, store.Batch{Events: randomEvents(rand.New(rand.NewPCG(9, 9)), 10, 1), Token: "a"}); err != nil {
		t.Errorf("append: %v", err)
	}
	if _, err := s.Sequences(soon, []string{"a"}); err != nil {
		t.Errorf("sequences: %v", err)
	}
	if err := s.Ping(soon); err != nil {
		t.Errorf("ping: %v", err)
	}
	cancel()
	wg.Wait()
	for range 12 { // every place was given back
		rows, err := s.Query(context.Background(), store.Limits{}, "SELECT 1")
		if err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
}

func TestALimitEndsAQuery(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	_, err := s.Query(context.Background(), store.Limits{Rows: 10}, "SELECT count() FROM numbers(1000000) WHERE number % 2 = 0")
	if store.Code(err) != 158 {
		t.Errorf("code %d, %v", store.Code(err), err)
	}
}

func BenchmarkAppend20k(b *testing.B) {
	s := storetest.Open(b, b.TempDir())
	events := randomEvents(rand.New(rand.NewPCG(8, 8)), 20000, 1)
	var size bytes.Buffer
	for _, e := range events {
		size.Write(event.AppendRow(nil, e))
	}
	b.SetBytes(int64(size.Len()))
	for i := 0; b.Loop(); i++ {
		if err := s.Append(context.Background(), store.Batch{Events: events, Token: fmt.Sprint(i)}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*20000/b.Elapsed().Seconds(), "rows/s")
}
