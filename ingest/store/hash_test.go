package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// What is hashed here and what the engine hashes is the same, whatever the parts
// that the rows lie in.
func TestBothWaysOfHashingAgree(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(8, 8))
	for batch := range 6 {
		var events []*event.Event
		for i := range 400 {
			e := event.Random(r)
			e.EmitterSeq, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = uint64(batch*400+i+1), "log", uint64(batch+1), uint32(i), 20819
			events = append(events, e)
		}
		if err := s.Append(t.Context(), Batch{Events: events, Token: fmt.Sprint(batch)}); err != nil {
			t.Fatal(err)
		}
	}
	type hash func(context.Context, Limits, string, uint64, uint64, func(uint64, uint32, *ledger.Hash) error) error
	gather := func(h hash) map[string]int {
		found := map[string]int{}
		if err := h(t.Context(), Limits{}.withDefaults(), "log", 2, 5, func(batch uint64, leaf uint32, hash *ledger.Hash) error {
			found[fmt.Sprint(batch, leaf, hash)]++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return found
	}
	here, there := gather(s.hashColumns), gather(s.hashInSQL)
	if len(here) != 4*400 || len(there) != len(here) {
		t.Fatalf("%d and %d events are hashed", len(here), len(there))
	}
	for k, n := range here {
		if n != 1 || there[k] != 1 {
			t.Errorf("%s: %d and %d times", k, n, there[k])
		}
	}
}

func TestAHashingThatIsGivenUpFreesItsPlace(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	e := event.Random(rand.New(rand.NewPCG(8, 9)))
	e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = "log", 1, 0, 20819
	if err := s.Append(t.Context(), Batch{Events: []*event.Event{e}, Token: "a"}); err != nil {
		t.Fatal(err)
	}
	stop := fmt.Errorf("enough")
	for range 2 * maxReaders {
		if err := s.Hash(t.Context(), Limits{}, "log", 1, 1, func(uint64, uint32, *ledger.Hash) error { return stop }); err == nil {
			t.Fatal("the error is lost")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Hash(ctx, Limits{}, "log", 1, 1, func(uint64, uint32, *ledger.Hash) error { return nil }); err == nil {
		t.Error("a cancelled hashing succeeds")
	}
}

// FuzzHashBlocks has no other aim than that blocks which are cut or changed are an
// error and never a panic.
func FuzzHashBlocks(f *testing.F) {
	block := []byte{byte(len(event.Columns)), 0}
	for _, c := range event.Columns {
		block = append(append(block, byte(len(c.Name))), c.Name...)
		block = append(append(block, byte(len(c.Type))), c.Type...)
	}
	f.Add(block)
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = hashBlocks(bytes.NewReader(b), func(uint64, uint32, *ledger.Hash) error { return nil })
	})
}
