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
	args := []any{named("id", "log"), named("from", uint64(2)), named("to", uint64(5))}
	params, plain := parameters(args)
	if !plain {
		t.Fatal("the parameters can't be written")
	}
	gather := func(read func(func(uint64, uint32, string) error) error) map[string]int {
		found := map[string]int{}
		if err := read(func(batch uint64, leaf uint32, text string) error {
			found[fmt.Sprintf("%d %d %x", batch, leaf, text)]++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return found
	}
	l := Limits{}.withDefaults()
	hashes := func(f func(uint64, uint32, string) error) func(uint64, uint32, *ledger.Hash) error {
		return func(batch uint64, leaf uint32, h *ledger.Hash) error { return f(batch, leaf, string(h[:])) }
	}
	compare := func(here, there map[string]int) {
		t.Helper()
		if len(here) != 4*400 || len(there) != len(here) {
			t.Fatalf("%d and %d events are read", len(here), len(there))
		}
		for k, n := range here {
			if n != 1 || there[k] != 1 {
				t.Errorf("%s: %d and %d times", k, n, there[k])
			}
		}
	}
	compare(gather(func(f func(uint64, uint32, string) error) error {
		return s.Hash(t.Context(), l, "log", 2, 5, hashes(f))
	}),
		gather(func(f func(uint64, uint32, string) error) error { return s.hashInSQL(t.Context(), l, args, hashes(f)) }))
	compare(gather(func(f func(uint64, uint32, string) error) error {
		return s.rowsOfColumns(t.Context(), l, ofBatches, params, func(batch uint64, leaf uint32, row []byte) error { return f(batch, leaf, string(row[1:])) })
	}), gather(func(f func(uint64, uint32, string) error) error {
		return s.rowsInSQL(t.Context(), l, ofBatches, args, func(batch uint64, leaf uint32, row []byte) error { return f(batch, leaf, string(row)) })
	}))
}

// A bound value arrives as it is, whatever it holds.
func TestParametersArriveAsTheyAre(t *testing.T) {
	s := openEmpty(t)
	if _, err := s.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	values := []string{"", "plain", "it's", `back\slash`, `\n`, "tab\tline\nreturn\rbell\bform\fnul\x00", "ключ", `\\'"`, "a&b=c%41+d", "{p:String}"}
	for i, v := range values {
		e := event.Random(rand.New(rand.NewPCG(8, uint64(i))))
		e.LogID, e.Batch, e.Leaf, e.ExpiresMonth, e.Target = "log", 1, uint32(i), 20819, v
		if err := s.Append(t.Context(), Batch{Events: []*event.Event{e}, Token: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, v := range values {
		var found []uint32
		if err := s.Rows(t.Context(), Limits{}, "target = {p:String} LIMIT {n:UInt64}", []any{named("p", v), named("n", 5)}, func(_ uint64, leaf uint32, _ []byte) error {
			found = append(found, leaf)
			return nil
		}); err != nil || len(found) != 1 || found[0] != uint32(i) {
			t.Errorf("%q finds %v, %v", v, found, err)
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

// FuzzReadBlocks has no other aim than that blocks which are cut or changed are an
// error and never a panic.
func FuzzReadBlocks(f *testing.F) {
	block := []byte{byte(len(event.Columns)), 0}
	for _, c := range event.Columns {
		block = append(append(block, byte(len(c.Name))), c.Name...)
		block = append(append(block, byte(len(c.Type))), c.Type...)
	}
	f.Add(block)
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = readBlocks(bytes.NewReader(b), 1024, func(uint64, uint32, []byte) error { return nil })
	})
}
