package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

func noise(r *rand.Rand, sizes ...int) (chunks [][]byte) {
	for _, n := range sizes {
		c := make([]byte, n)
		for i := range c {
			c[i] = byte(r.Uint32())
		}
		chunks = append(chunks, c)
	}
	return chunks
}

func TestASnapshotIsReadBackWhole(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(6, 6))
	at := time.UnixMicro(1_790_000_000_000_007).UTC()
	many := slices.Repeat([]int{store.MaxChunk}, 20)
	for i, sizes := range [][]int{append(many, 17), {}, {5, 0, 7}, {1}} {
		chunks := noise(r, sizes...)
		n := store.Snapshot{Name: "r", Slot: uint8(i % 2), Number: uint64(i + 1), WrittenAt: at, Positions: map[string]uint64{"a": uint64(i), "b": 9}, Told: 44}
		if err := s.SaveSnapshot(t.Context(), n, chunks); err != nil {
			t.Fatal(err)
		}
		got, err := s.Snapshots(t.Context(), "r")
		if err != nil || len(got) != min(i+1, 2) {
			t.Fatalf("%+v, %v", got, err)
		}
		if g := got[0]; g.Number != n.Number || g.Slot != n.Slot || !g.WrittenAt.Equal(at) || g.Told != 44 || fmt.Sprint(g.Positions) != fmt.Sprint(n.Positions) {
			t.Errorf("got %+v, want %+v", g, n)
		}
		state, err := s.State(t.Context(), got[0])
		if err != nil || !bytes.Equal(state, bytes.Join(chunks, nil)) {
			t.Errorf("snapshot %d: %d bytes, %v", n.Number, len(state), err)
		}
		if i > 0 && got[1].Number != n.Number-1 {
			t.Errorf("the one before is %d", got[1].Number)
		}
	}
	if got, err := s.Snapshots(t.Context(), "another"); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.SaveSnapshot(t.Context(), store.Snapshot{Name: "r", Number: 9}, noise(r, store.MaxChunk+1)); err == nil {
		t.Error("a chunk that is too large is taken")
	}
}

func TestADamagedSnapshotIsAnError(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	save := func(number uint64) {
		t.Helper()
		if err := s.SaveSnapshot(t.Context(), store.Snapshot{Name: "r", Slot: uint8(number % 2), Number: number}, noise(rand.New(rand.NewPCG(6, number)), 10, 10, 10)); err != nil {
			t.Fatal(err)
		}
	}
	// Each leaves what a crash or a hand may leave of the newest one.
	for i, damage := range []string{
		"ALTER TABLE detector_state DELETE WHERE slot = 1 AND chunk = 2",
		"ALTER TABLE detector_state DELETE WHERE slot = 1 AND chunk = 0",
		"ALTER TABLE detector_state UPDATE data = concat('x', substring(data, 2)) WHERE slot = 1 AND chunk = 1",
		"ALTER TABLE detector_state UPDATE data = concat(data, 'x') WHERE slot = 1 AND chunk = 2",
		"INSERT INTO detector_state SELECT 'r', 1, 0, 99, 'newer'", // cut off while it wrote over this slot
	} {
		save(uint64(2*i + 2))
		save(uint64(2*i + 3))
		storetest.Exec(t, s, damage)
		storetest.Exec(t, s, "OPTIMIZE TABLE detector_state FINAL")
		got, err := s.Snapshots(t.Context(), "r")
		if err != nil || len(got) != 2 || got[0].Slot != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		if _, err := s.State(t.Context(), got[0]); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: %v", damage, err)
		}
		if _, err := s.State(t.Context(), got[1]); err != nil {
			t.Errorf("%s: the other slot: %v", damage, err)
		}
	}
}

// A reader that died while it wrote has left parts without a head. The next one must
// not give the same number to what it writes there.
func TestTheNumberOfASnapshotThatWasCutOffIsNotUsedAgain(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	save := func(number uint64, size int) {
		t.Helper()
		if err := s.SaveSnapshot(t.Context(), store.Snapshot{Name: "r", Slot: uint8(number % 2), Number: number}, noise(rand.New(rand.NewPCG(6, number)), size, size, size)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.LastSnapshot(t.Context(), "r"); err != nil || n != 0 {
		t.Errorf("before the first one: %d, %v", n, err)
	}
	save(1, 10)
	storetest.Exec(t, s, "SYSTEM STOP MERGES detector_state")
	storetest.Exec(t, s, "INSERT INTO detector_state SELECT 'r', 0, number, 2, 'cut off' FROM numbers(5)")
	n, err := s.LastSnapshot(t.Context(), "r")
	if err != nil || n != 2 {
		t.Fatalf("the last one is %d, %v", n, err)
	}
	save(n+2, 10)
	got, err := s.Snapshots(t.Context(), "r")
	if err != nil || len(got) != 2 || got[0].Number != n+2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := s.State(t.Context(), got[0]); err != nil {
		t.Error(err)
	}
	// What it would be otherwise:
	save(2, 10)
	if _, err := s.State(t.Context(), store.Snapshot{Name: "r", Slot: 0, Number: 2}); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("a number that is used twice: %v", err)
	}
}
