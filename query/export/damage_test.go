package export

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// An export of a store that was changed by hand ends with an error that names the
// batch, and is never whole.
func TestABundleOfAChangedStoreIsNotMade(t *testing.T) {
	for what, c := range map[string]struct{ sql, filter, want string }{
		"an event deleted":           {"ALTER TABLE events DELETE WHERE batch = 2 AND leaf = 1", "", "batch 2 has 4 events where there must be 5"},
		"an event changed":           {"ALTER TABLE events UPDATE principal = 'x' WHERE batch = 2 AND leaf = 1", "", "the events of batch 2 are not those that were sealed"},
		"an event doubled":           {"INSERT INTO events SELECT * FROM events WHERE batch = 2 AND leaf = 1 SETTINGS insert_deduplicate = 0", "", "two events at position 1"},
		"an entry deleted":           {"ALTER TABLE ledger DELETE WHERE batch = 2", "", "entry 2 of the ledger is missing"},
		"an entry doubled":           {"INSERT INTO ledger SELECT * FROM ledger WHERE batch = 2 SETTINGS insert_deduplicate = 0", "", "entry 3 of the ledger is missing, or there more than once"},
		"filtered, an event deleted": {"ALTER TABLE events DELETE WHERE batch = 2 AND leaf = 1", "even", "batch 2 has 4 of 5 events, and nothing says that the others were dropped"},
		"filtered, an event changed": {"ALTER TABLE events UPDATE principal = 'x' WHERE batch = 2 AND leaf = 1", "even", "the events of batch 2 are not those that were sealed"},
		"filtered, an entry deleted": {"ALTER TABLE ledger DELETE WHERE batch = 2", "even", "a batch has events and no entry in the ledger"},
	} {
		t.Run(what, func(t *testing.T) {
			s := newShelf(t, nil)
			for i := range uint64(3) {
				s.seal(t, randomEvents(30+i, 5)...)
			}
			storetest.Exec(t, s.store, c.sql)
			_, err := collect(s.client, &pb.ExportEventsRequest{Bundle: true, Filter: c.filter}, fstest.MapFS{}, func(*pb.ExportEventsResponse) bool { return true })
			if status.Code(err) != codes.DataLoss || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "run 'mcpaudit verify'") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// What retention dropped is not in a bundle, and what a hold kept is, proven.
func TestABundleAfterRetentionProvesWhatIsLeft(t *testing.T) {
	s := newShelf(t, nil)
	const old = 20788 // 2026-12-01
	var entries []*ledger.Entry
	var leaves [][]ledger.Hash
	for i := range uint64(3) {
		events := randomEvents(40+i, 6)
		batch := s.tree.Size() + 1
		for j, e := range events {
			s.seq++
			e.LogID, e.Batch, e.Leaf, e.ExpiresMonth, e.EmitterSeq = "main", batch, uint32(j), old, s.seq
		}
		if err := s.store.Append(t.Context(), store.Batch{Events: events, Token: time.UnixMicro(int64(i)).String()}); err != nil {
			t.Fatal(err)
		}
		var hashes []ledger.Hash
		for _, e := range events {
			hashes = append(hashes, ledger.Leaf(event.AppendRow(nil, e)))
		}
		leaves = append(leaves, hashes)
		entries = append(entries, s.entry(t, &ledger.Entry{Kind: ledger.KindEvents, Schema: event.Schema, Events: 6, Root: ledger.Root(hashes), ExpiresMonth: old}))
		if i == 1 {
			s.all = append(s.all, events[1], events[4], events[5])
		}
	}
	s.seal(t, randomEvents(50, 4)...)
	s.entry(t, &ledger.Entry{Kind: ledger.KindDrop, Detail: ledger.Detail(ledger.Drop{Month: old, Before: 4, Events: 15, Kept: 3, By: "schedule"})})
	// Of the second batch three events are kept.
	proof, err := ledger.ProveBatch(entries[1], []uint32{1, 4, 5}, leaves[1])
	if err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, s.store, fmt.Sprintf("INSERT INTO kept SELECT 'main', 2, 5, unhex('%x')", proof.Append(nil)))
	storetest.Exec(t, s.store, "ALTER TABLE events DELETE WHERE batch IN (1, 3) OR batch = 2 AND leaf NOT IN (1, 4, 5)")
	for _, filter := range []string{"", "even"} {
		files := s.export(t, &pb.ExportEventsRequest{Bundle: true, Filter: filter})
		report, err := Verify(files, []string{s.key.Verifier()}, nil)
		if err != nil {
			t.Fatalf("%q: %v", filter, err)
		}
		if filter == "" && (report.Dropped != 15 || report.Manifest.Events != 7 || !strings.Contains(report.Proven[0], "and 15 that retention had dropped before, as the log records")) {
			t.Errorf("%+v", report)
		}
		if filter == "even" && (report.Manifest.Events == 0 || report.Manifest.Events > 8) {
			t.Errorf("%+v", report)
		}
	}
}

// What a hold should have kept is missed in a bundle of everything.
func TestABundleThatLacksWhatAHoldKeptIsRefused(t *testing.T) {
	drops := []ledger.Drop{{Month: 7, Before: 9, Events: 15, Kept: 3}}
	for name, c := range map[string]struct {
		batches [][3]uint64 // number, events that are there, events that were sealed
		drops   []ledger.Drop
		lawful  bool
	}{
		"as the drop says":              {[][3]uint64{{1, 0, 6}, {2, 3, 6}, {3, 0, 6}}, drops, true},
		"a batch kept whole":            {[][3]uint64{{1, 0, 12}, {2, 0, 3}, {3, 3, 3}}, drops, true},
		"batches that came later":       {[][3]uint64{{1, 0, 6}, {2, 3, 6}, {3, 0, 6}, {9, 5, 5}}, drops, true},
		"one that is held is missing":   {[][3]uint64{{1, 0, 6}, {2, 2, 6}, {3, 0, 6}}, drops, false},
		"all that is held is":           {[][3]uint64{{1, 0, 6}, {2, 0, 6}, {3, 0, 6}}, drops, false},
		"one more than the drop left":   {[][3]uint64{{1, 1, 6}, {2, 3, 6}, {3, 0, 6}}, drops, false},
		"no drop":                       {[][3]uint64{{1, 5, 6}}, nil, false},
		"a drop of before":              {[][3]uint64{{9, 5, 6}}, drops, false},
		"a second one not carried out":  {[][3]uint64{{1, 0, 6}, {2, 3, 6}, {3, 0, 6}}, append(drops[:1:1], ledger.Drop{Month: 7, Before: 9, Events: 2, Kept: 1}), true},
		"a second one that was":         {[][3]uint64{{1, 0, 6}, {2, 1, 6}, {3, 0, 6}}, append(drops[:1:1], ledger.Drop{Month: 7, Before: 9, Events: 2, Kept: 1}), true},
		"less than the second one kept": {[][3]uint64{{1, 0, 6}, {2, 0, 6}, {3, 0, 6}}, append(drops[:1:1], ledger.Drop{Month: 7, Before: 9, Events: 2, Kept: 1}), false},
	} {
		m := &monthLeft{}
		for _, b := range c.batches {
			m.add(b[0], b[1], b[2])
		}
		if got := m.lawful(7, c.drops); got != c.lawful {
			t.Errorf("%s: lawful %t", name, got)
		}
	}
}

// Rows that are too many bytes for one reading are read in smaller ones.
func TestALargeBatchIsReadInPieces(t *testing.T) {
	s := newShelf(t, func(c *Config) { c.SpanBytes = 20_000 })
	for i := range uint64(3) {
		events := randomEvents(60+i, 40)
		for j, e := range events {
			e.Arguments = strings.Repeat("a", 1000+j*100)
		}
		s.seal(t, events...)
	}
	for _, filter := range []string{"", "even"} {
		files := s.export(t, &pb.ExportEventsRequest{Bundle: true, Filter: filter})
		if string(concat(files, ".jsonl")) != string(s.lines(filter)) {
			t.Errorf("%q: the lines are not those of the events", filter)
		}
		if _, err := Verify(files, nil, nil); err != nil {
			t.Errorf("%q: %v", filter, err)
		}
	}
}

func TestExportsAtATimeAreLimited(t *testing.T) {
	s := newShelf(t, func(c *Config) { c.Concurrent = 1 })
	s.seals(t, newRand(8), 3)
	ctx, cancel := context.WithCancel(scopetest.Every(t.Context()))
	defer cancel()
	held := make(chan struct{})
	service := New(s.cfg, slowStore{s.store, held}, quiet)
	client := serve(t, service)
	first, err := client.ExportEvents(ctx, &pb.ExportEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	<-held // the first is at work
	_, err = collect(client, &pb.ExportEventsRequest{}, fstest.MapFS{}, nil)
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "as many exports run as may") {
		t.Error(err)
	}
	cancel()
	if _, err := first.Recv(); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
}

// slowStore lists no logs until its caller goes away.
type slowStore struct {
	*store.Store
	held chan struct{}
}

func (s slowStore) Logs(ctx context.Context) ([]store.LogInfo, error) {
	close(s.held)
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestWhatIsWrongWithARequestIsSaid(t *testing.T) {
	s := newShelf(t, nil)
	for _, c := range []struct {
		req  *pb.ExportEventsRequest
		want string
	}{
		{&pb.ExportEventsRequest{Formats: []string{"xml"}}, "formats"},
		{&pb.ExportEventsRequest{Formats: []string{"csv", "cef"}}, "formats: name one, or ask for a bundle"},
		{&pb.ExportEventsRequest{Filter: "nonsense"}, "filter, character 1: "},
	} {
		if _, err := collect(s.client, c.req, fstest.MapFS{}, nil); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.req, err, c.want)
		}
	}
	client := serve(t, New(s.cfg, awayStore{s.store}, quiet))
	if _, err := collect(client, &pb.ExportEventsRequest{}, fstest.MapFS{}, nil); status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// awayStore answers no query.
type awayStore struct{ *store.Store }

func (awayStore) Query(context.Context, store.Limits, string, ...any) (driver.Rows, error) {
	return nil, errors.New("dial tcp secret:9000")
}
