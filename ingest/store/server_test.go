package store

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// onServer is the store as it is when the engine is not in this process.
func onServer(s *Store) *Store { return &Store{conn: s.conn, readers: s.readers} }

func TestAServerIsFollowedLikeTheEngineInProcess(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(8, 10))
	var batches []SealedBatch
	for n := uint64(1); n <= 3; n++ {
		var events []*event.Event
		for i := range 50 {
			e := event.Random(r)
			e.EmitterSeq, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = n*100+uint64(i), "log", n, uint32(i), 20819
			events = append(events, e)
		}
		if err := s.Append(t.Context(), Batch{Events: events, Token: string(rune('a' + n))}); err != nil {
			t.Fatal(err)
		}
		batches = append(batches, SealedBatch{LogID: "log", Batch: n, Events: 50})
	}
	here, lacking, err := s.EventsOf(t.Context(), batches)
	if err != nil || lacking != 0 || len(here) != 150 {
		t.Fatalf("%d events, %d lack, %v", len(here), lacking, err)
	}
	there, lacking, err := onServer(s).EventsOf(t.Context(), batches)
	if err != nil || lacking != 0 || !reflect.DeepEqual(here, there) {
		t.Errorf("%d events, %d lack, %v", len(there), lacking, err)
	}
}

func TestFindingsThatAnotherServiceTellsAreNoticed(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	server := onServer(s)
	mine := []Finding{{Seq: 1, ToldAt: 5, ID: "0a0b0c0d-0000-8000-8000-000000000001", Version: 1, State: "open"}}
	for range 2 { // again, after an error
		if err := server.AppendFindings(t.Context(), mine); err != nil {
			t.Fatal(err)
		}
	}
	others := []Finding{mine[0]}
	others[0].Teller = "detect-0of2"
	if err := server.AppendFindings(t.Context(), others); err != nil {
		t.Errorf("another teller's number 1: %v", err)
	}
	theirs := []Finding{mine[0]}
	theirs[0].ToldAt = 6
	if err := server.AppendFindings(t.Context(), theirs); !errors.Is(err, ErrToldTwice) {
		t.Errorf("two services tell number 1: %v", err)
	}
}
