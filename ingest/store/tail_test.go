package store_test

import (
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// sealBatch stores a batch and its entry; with no events, the entry alone.
func sealBatch(t *testing.T, s *store.Store, log string, number uint64, sealedAt int64, events []*event.Event) {
	t.Helper()
	for i, e := range events {
		e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = log, number, uint32(i), 20819
	}
	if len(events) > 0 {
		if err := s.Append(t.Context(), store.Batch{Events: events, Token: log + string(rune('a'+number))}); err != nil {
			t.Fatal(err)
		}
	}
	e := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, LogID: log, Batch: number, SealedAt: sealedAt, Schema: event.Schema, Events: uint32(len(events)), ExpiresMonth: 20819}
	if len(events) == 0 {
		e.Kind = ledger.KindHold
	}
	if err := s.Seal(t.Context(), []store.Sealed{{Entry: e}}); err != nil {
		t.Fatal(err)
	}
}

func TestALogIsFollowedInItsOrder(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(7, 7))
	var all []*event.Event
	for n := uint64(1); n <= 6; n++ {
		events := randomEvents(r, []int{0, 3, 500, 0, 1, 40, 7}[n], n)
		all = append(all, events...)
		sealBatch(t, s, "a", n, int64(n)*1e6, events)
	}
	sealBatch(t, s, "b", 1, 5e6, randomEvents(r, 2, 1))
	stranger := randomEvents(r, 2, 7) // stored, and not sealed yet
	stranger[0].LogID, stranger[1].LogID = "a", "a"
	if err := s.Append(t.Context(), store.Batch{Events: stranger, Token: "unsealed"}); err != nil {
		t.Fatal(err)
	}

	got, err := s.SealedAfter(t.Context(), map[string]uint64{"a": 1, "b": 0, "c": 0}, 4)
	want := []store.SealedBatch{{"a", 2, 2e6, 500, 20819}, {"a", 3, 3e6, 0, 20819}, {"a", 4, 4e6, 1, 20819}, {"a", 5, 5e6, 40, 20819}, {"b", 1, 5e6, 2, 20819}}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for at, want := range map[int64]uint64{0: 0, 1e6: 0, 1e6 + 1: 1, 6e6: 5, 99e6: 6} {
		if n, err := s.SealedBefore(t.Context(), "a", time.UnixMicro(at)); err != nil || n != want {
			t.Errorf("sealed before %d: %d, %v", at, n, err)
		}
	}
	batches, err := s.SealedAfter(t.Context(), map[string]uint64{"a": 0}, 100)
	if err != nil || len(batches) != 6 {
		t.Fatalf("%+v, %v", batches, err)
	}
	events, lacking, err := s.EventsOf(t.Context(), batches)
	if err != nil || lacking != 0 || !reflect.DeepEqual(events, all) {
		t.Errorf("%d of %d events, %d lack, %v", len(events), len(all), lacking, err)
	}
	if events, lacking, err = s.EventsOf(t.Context(), batches[2:3]); err != nil || lacking != 0 || len(events) != 0 {
		t.Errorf("%d events of none, %d lack, %v", len(events), lacking, err)
	}
	if _, _, err := s.EventsOf(t.Context(), []store.SealedBatch{batches[0], batches[2]}); err == nil {
		t.Error("batches that don't follow each other are read")
	}
	// What is not there lacks, and what the ledger does not count is not read.
	batches[5].Events, batches[4].Events = 9, 30
	if events, lacking, err = s.EventsOf(t.Context(), batches); err != nil || lacking != 2 || len(events) != len(all)-10 {
		t.Errorf("%d events, %d lack, %v", len(events), lacking, err)
	}
}

func TestManyLogsAreFollowed(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	after := map[string]uint64{}
	var rows []store.Sealed
	for i := range 250 {
		log := "log " + string(rune('a'+i/26)) + string(rune('a'+i%26))
		after[log] = 0
		rows = append(rows, store.Sealed{Entry: &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, LogID: log, Batch: 1}})
	}
	if err := s.Seal(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	if got, err := s.SealedAfter(t.Context(), after, 10); err != nil || len(got) != 250 || !slices.IsSortedFunc(got, func(a, b store.SealedBatch) int {
		if a.LogID < b.LogID {
			return -1
		}
		return 1
	}) {
		t.Errorf("%d batches, %v", len(got), err)
	}
}

// Whoever can write to the store can have an entry say anything.
func TestAnEntryThatClaimsTooMuchTakesNoMemory(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	all := randomEvents(rand.New(rand.NewPCG(7, 8)), 3, 1)
	sealBatch(t, s, "a", 1, 1e6, all)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	events, lacking, err := s.EventsOf(t.Context(), []store.SealedBatch{{LogID: "a", Batch: 1, Events: 200_000_000, Expires: 20819}})
	runtime.ReadMemStats(&after)
	if err != nil || lacking != 200_000_000-3 || !reflect.DeepEqual(events, all) {
		t.Errorf("%d events, %d lack, %v", len(events), lacking, err)
	}
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 256<<20 {
		t.Errorf("reading it takes %d MiB", taken>>20)
	}
}
