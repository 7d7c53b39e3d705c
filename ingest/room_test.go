package ingest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func mustTake(t *testing.T, m *room, payer string, bytes int64) hold {
	t.Helper()
	h, err := m.take(t.Context(), payer, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestOnePayerLeavesRoomForOthers(t *testing.T) {
	m := newRoom(400)
	var of []hold
	for range 3 {
		of = append(of, mustTake(t, m, "a", 100))
	}
	if _, ok := m.try("a", 1); ok {
		t.Error("one payer has more than its share")
	}
	if h, ok := m.try("b", 100); !ok {
		t.Error("another one finds no room")
	} else {
		h.shrink(0)
	}
	if h, ok := m.try("", 100); !ok {
		t.Error("the service itself finds no room")
	} else {
		h.shrink(0)
	}
	of[0].shrink(50)
	if h, ok := m.try("a", 50); !ok {
		t.Error("what was given back is not there")
	} else {
		h.shrink(0)
	}
	for i := range of {
		of[i].shrink(0)
		of[i].shrink(0)
	}
	if len(m.payers) != 0 || !m.all.TryAcquire(400) {
		t.Errorf("something is still held: %v", m.payers)
	}
}

// A request that is larger than a payer's share passes when the payer has nothing else.
func TestARequestLargerThanTheSharePasses(t *testing.T) {
	m := newRoom(400)
	h := mustTake(t, m, "a", 400)
	if _, ok := m.try("a", 1); ok {
		t.Error("and another one with it")
	}
	h.shrink(0)
	if len(m.payers) != 0 || !m.all.TryAcquire(400) {
		t.Error("something is still held")
	}
}

// However many requests some send, another one waits for one of each of them.
func TestWhoComesNewWaitsForOneRequestOfEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newRoom(400)
		first := []hold{mustTake(t, m, "a", 300), mustTake(t, m, "b", 100)}
		var order []string
		var mu sync.Mutex
		var all sync.WaitGroup
		queue := func(payer string, n int) {
			for range n {
				all.Go(func() {
					h := mustTake(t, m, payer, 100)
					mu.Lock()
					order = append(order, payer)
					mu.Unlock()
					time.Sleep(time.Second)
					h.shrink(0)
				})
			}
			synctest.Wait()
		}
		queue("a", 200)
		queue("b", 200)
		queue("c", 1)
		first[1].shrink(0) // room for one
		all.Go(func() { time.Sleep(time.Hour); first[0].shrink(0) })
		all.Wait()
		for i, payer := range order {
			if payer == "c" && i > 2 {
				t.Errorf("the newcomer came after %d requests of the others", i)
			}
		}
		if len(order) != 401 || len(m.payers) != 0 || !m.all.TryAcquire(400) {
			t.Errorf("%d were served, something is held: %v", len(order), m.payers)
		}
	})
}

func TestRoomIsGivenBackWhateverHappens(t *testing.T) {
	m := newRoom(1000)
	var held atomic.Int64
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), 7))
			for range 2000 {
				payer, bytes := []string{"", "a", "b", "c"}[r.IntN(4)], int64(r.IntN(1001))
				ctx, cancel := context.WithCancel(t.Context())
				if r.IntN(3) == 0 {
					cancel()
				} else if r.IntN(3) == 0 {
					time.AfterFunc(time.Duration(r.IntN(50))*time.Microsecond, cancel)
				}
				h, err := m.take(ctx, payer, bytes)
				cancel()
				if err != nil {
					continue
				}
				if now := held.Add(bytes); now > 1000 {
					t.Errorf("%d are held at once", now)
				}
				half := bytes / 2
				held.Add(half - bytes)
				h.shrink(half)
				held.Add(-half)
				h.shrink(0)
			}
		})
	}
	all.Wait()
	if len(m.payers) != 0 || !m.all.TryAcquire(1000) {
		t.Error(fmt.Sprint("something is still held: ", m.payers))
	}
}
