package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"net/http/httputil"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
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

// The ledger stands on this: Go's bytes of an event are the engine's.
func TestTheEngineMakesTheSameRowBytes(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	events := randomEvents(rand.New(rand.NewPCG(2, 2)), 1000, 1)
	if err := s.Append(context.Background(), store.Batch{Events: events, Token: "a"}); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Query(context.Background(), store.Limits{},
		"SELECT SHA256(formatRow('RowBinary', "+store.EventColumns+")), formatRow('RowBinary', "+store.EventColumns+") FROM events ORDER BY leaf")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	i := 0
	for ; rows.Next(); i++ {
		var sum, row string
		if err := rows.Scan(&sum, &row); err != nil {
			t.Fatal(err)
		}
		ours := event.AppendRow(nil, events[i])
		if want := sha256.Sum256(ours); sum != string(want[:]) {
			t.Fatalf("event %d: the engine's bytes differ\n%x\n%x", i, row, ours)
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

func TestABatchSentAgainIsStoredOnce(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(3, 3))
	one, two := randomEvents(r, 50, 1), randomEvents(r, 50, 2)
	for _, b := range []store.Batch{{one, "log/1"}, {one, "log/1"}, {two, "log/2"}, {one, "log/1"}} {
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
	id, _, err := s.Log(context.Background(), "log", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = storetest.Open(t, dir)
	if again, _, err := s.Log(context.Background(), "log", time.Now()); err != nil || again != id {
		t.Errorf("log %q became %q, %v", id, again, err)
	}
	if err := s.Append(context.Background(), store.Batch{Events: events, Token: "a"}); err != nil {
		t.Fatal(err)
	}
	checkEvents(t, s, events)
}

func TestSequencesAreReadBackAsRuns(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(6, 6))
	var events []*event.Event
	add := func(emitter string, seqs ...uint64) {
		for _, n := range seqs {
			e := randomEvents(r, 1, 1)[0]
			e.EmitterID, e.EmitterSeq, e.Leaf = emitter, n, uint32(len(events))
			events = append(events, e)
		}
	}
	add("dense", 1, 2, 3, 4)
	add("gaps", 9, 2, 1, 5, 6, 20)
	add("late", 7, 8)
	if err := s.Append(context.Background(), store.Batch{Events: events, Token: "a"}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Sequences(context.Background(), []string{"dense", "gaps", "late", "unknown", "o'quote\x00"})
	want := map[string][]store.Run{
		"dense": {{1, 4}}, "gaps": {{1, 2}, {5, 6}, {9, 9}, {20, 20}}, "late": {{7, 8}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
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
	if !slices.Equal(got, event.Columns) {
		t.Errorf("table:  %v\nrecord: %v", got, event.Columns)
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
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "embedded" },
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
