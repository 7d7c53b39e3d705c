package retention

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// some are random positions of those given, at least one.
func some(r *rand.Rand, of []uint32) []uint32 {
	out := slices.DeleteFunc(slices.Clone(of), func(uint32) bool { return r.IntN(3) > 0 })
	if len(out) == 0 {
		out = append(out, of[r.IntN(len(of))])
	}
	return out
}

func at(leaves []ledger.Hash, positions []uint32) (out []ledger.Hash) {
	for _, p := range positions {
		out = append(out, leaves[p])
	}
	return out
}

// However often a batch is reduced, its proof is the one that would be made of the
// whole batch.
func TestAProofOfAReducedBatchIsTheOneOfTheWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		n := 1 + r.IntN(70)
		leaves, positions := make([]ledger.Hash, n), make([]uint32, n)
		for i := range leaves {
			leaves[i], positions[i] = ledger.Leaf([]byte{byte(i), byte(r.IntN(256))}), uint32(i)
		}
		e := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, LogID: "log", Batch: 9, Schema: event.Schema, Events: uint32(n), Root: ledger.Root(leaves)}
		stored := store.BatchLeaves{Batch: 9, Positions: positions, Leaves: leaves}
		var earlier [][]byte
		for range 4 {
			held := some(r, stored.Positions)
			got, err := proveBatch(e, held, stored, earlier)
			if err != nil {
				t.Fatalf("%d of %v of %d: %v", held, stored.Positions, n, err)
			}
			whole, err := ledger.ProveBatch(e, held, leaves)
			if err != nil || !slices.Equal(got.Gaps, whole.Gaps) || !slices.Equal(got.Positions, held) {
				t.Fatalf("%d of %v of %d: another proof than of the whole, %v", held, stored.Positions, n, err)
			}
			stored = store.BatchLeaves{Batch: 9, Positions: held, Leaves: at(leaves, held)}
			earlier = append(earlier, got.Append(nil))
		}
	}
}

func TestNothingIsProvenOfABatchThatWasChanged(t *testing.T) {
	leaves := []ledger.Hash{{1}, {2}, {3}, {4}, {5}}
	e := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, LogID: "log", Batch: 1, Schema: event.Schema, Events: 5, Root: ledger.Root(leaves)}
	all := []uint32{0, 1, 2, 3, 4}
	first, err := ledger.ProveBatch(e, []uint32{1, 3}, leaves)
	if err != nil {
		t.Fatal(err)
	}
	kept := [][]byte{first.Append(nil)}
	for name, c := range map[string]struct {
		stored  store.BatchLeaves
		earlier [][]byte
	}{
		"one is changed":              {store.BatchLeaves{Positions: all, Leaves: []ledger.Hash{{1}, {2}, {9}, {4}, {5}}}, nil},
		"one is changed that is kept": {store.BatchLeaves{Positions: []uint32{1, 3}, Leaves: []ledger.Hash{{2}, {9}}}, kept},
		"one is doubled":              {store.BatchLeaves{Positions: []uint32{0, 1, 1, 3, 4}, Leaves: leaves}, nil},
		"one is gone":                 {store.BatchLeaves{Positions: all[:4], Leaves: leaves[:4]}, nil},
		"one is gone that was kept":   {store.BatchLeaves{Positions: []uint32{1}, Leaves: leaves[1:2]}, kept},
		"one is back that was not":    {store.BatchLeaves{Positions: []uint32{1, 2, 3}, Leaves: leaves[1:4]}, kept},
		"its proof is damaged":        {store.BatchLeaves{Positions: []uint32{1, 3}, Leaves: at(leaves, []uint32{1, 3})}, [][]byte{kept[0][:len(kept[0])-1]}},
		"its proof is another's":      {store.BatchLeaves{Positions: []uint32{1, 3}, Leaves: at(leaves, []uint32{1, 3})}, [][]byte{slices.Concat(kept[0][:40], []byte{7}, kept[0][41:])}},
	} {
		if p, err := proveBatch(e, []uint32{1}, c.stored, c.earlier); err == nil {
			t.Errorf("%s: proven, %+v", name, p)
		}
	}
	if _, err := proveBatch(e, []uint32{1}, store.BatchLeaves{Positions: []uint32{1, 3}, Leaves: at(leaves, []uint32{1, 3})}, kept); err != nil {
		t.Errorf("what is right: %v", err)
	}
}
