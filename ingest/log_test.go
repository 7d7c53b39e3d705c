package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// runUntil runs a pipeline that is expected to end by itself.
func runUntil(t *testing.T, cfg Config, s Store) error {
	t.Helper()
	p := New(cfg, s, leaveAlone{}, time.Now, slog.New(slog.NewTextHandler(io.Discard, nil)), &counts{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return p.Run(ctx)
}

func TestPromise4EveryAcknowledgementHasTheCheckpointOfALogThatOnlyGrows(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	keys, err := ledger.TrustKeys([]string{testKey.Verifier()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var seen []ledger.Checkpoint
	for life := range 2 { // the second one finds the log's nodes in the store
		p := start(t, quick, s)
		for n := range uint64(20) {
			got := p.submit(t, these("a", 20*uint64(life)+n+1)...)
			c, err := ledger.OpenCheckpoint(got.Checkpoint, keys)
			if err != nil || c.Size != got.Size || c.LogID != got.LogID || got.LogID != testKey.LogID() {
				t.Fatalf("%+v, %v: %s", c, err, describe(got))
			}
			for _, old := range seen {
				proof, err := p.Consistency(t.Context(), old.Size, c.Size)
				if err != nil {
					t.Fatal(err)
				}
				if err := ledger.CheckConsistency(old.Size, c.Size, old.Root, c.Root, proof); err != nil {
					t.Fatalf("%d to %d: %v", old.Size, c.Size, err)
				}
			}
			seen = append(seen, c)
		}
		p.stop()
	}
	checkStore(t, s)
}

// A store that has another past than the one that was signed is not written on: the
// same numbers would be signed twice.
func TestPromise4AStoreThatWasSetBackIsNotWrittenOn(t *testing.T) {
	for name, c := range map[string]struct{ do, says string }{
		"nothing is done":  {"SELECT 1", ""},
		"the end is cut":   {"ALTER TABLE ledger DELETE WHERE batch = 4", "the store has 3 entries, and a checkpoint of 4 entries was signed before"},
		"the ledger is":    {"TRUNCATE TABLE ledger", "the store has 0 entries, and a checkpoint of 4"},
		"the log is gone":  {"TRUNCATE TABLE logs", "the store has 4 entries of it and does not list it"},
		"its end is other": {"ALTER TABLE ledger UPDATE nodes = arrayMap(n -> toFixedString('x', 32), nodes) WHERE batch = 4", "its last checkpoint is of another tree"},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.Open(t, t.TempDir())
			p := start(t, quick, s)
			for n := range uint64(4) {
				p.submit(t, these("a", n+1)...)
			}
			newest, _ := p.Checkpoint()
			p.stop()
			storetest.Exec(t, s, c.do)
			cfg := quick
			cfg.Key, cfg.Remembered = testKey, []string{newest, "damaged"}
			if c.says == "" {
				start(t, cfg, s).stop()
				return
			}
			if err := runUntil(t, cfg, s); !errors.Is(err, ErrContradiction) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

// Who can write to the store while the service is away can leave a batch that looks
// like one that was not sealed in time. Only what the service has stored itself is
// sealed.
func TestPromise4WhatSomebodyElseStoredIsNotSealed(t *testing.T) {
	for name, c := range map[string]struct{ place, mac, says string }{
		"a hole between batches": {"batch + 2, leaf", "batch_mac", "has no predecessor: somebody changed the store by hand"},
		"a hole in a batch":      {"batch + 1, leaf + 1", "batch_mac", "somebody changed the store by hand"},
		"a batch without a MAC":  {"batch + 1, leaf", "''", "was not stored by this service"},
		"another batch's MAC":    {"batch + 1, leaf", "batch_mac", "was not stored by this service"},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.Open(t, t.TempDir())
			p := start(t, quick, s)
			p.submit(t, these("a", 1, 2)...)
			p.stop()
			moved := strings.Replace(store.EventColumns, "`batch`, `leaf`", c.place, 1)
			storetest.Exec(t, s, "INSERT INTO events SELECT "+moved+", "+c.mac+" FROM events")
			cfg := quick
			cfg.Key = testKey
			if err := runUntil(t, cfg, s); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func TestAKeyThatTookOverGoesOnWithTheLogAndAStrangersDoesNot(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	p := start(t, quick, s)
	p.submit(t, these("a", 1)...)
	p.stop()
	next := newKeyFrom(t, 2, testKey.LogID())
	cfg := quick
	cfg.Key = next
	if err := runUntil(t, cfg, s); err == nil || !strings.Contains(err.Error(), "the key is not the log's, nor did it take over") {
		t.Fatalf("Run: %v", err)
	}
	statement, err := testKey.Rotate(next)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Rotations = []string{statement}
	for range 2 { // the second time it is recorded already
		q := start(t, cfg, s)
		q.submit(t, these("a", 2)...)
		q.stop()
	}
	var kinds []string
	for _, r := range readLedger(t, s) {
		kinds = append(kinds, r.Entry.Kind)
	}
	if want := []string{ledger.KindEvents, ledger.KindKey, ledger.KindEvents}; !slices.Equal(kinds, want) {
		t.Errorf("the entries are %v, want %v", kinds, want)
	}
	// The old key is not the log's any more.
	cfg = quick
	cfg.Key = testKey
	if err := runUntil(t, cfg, s); err == nil || !strings.Contains(err.Error(), "mcpaudit keys rotate") {
		t.Errorf("the old key goes on: %v", err)
	}
}

// A batch that was stored with the key before this one, and not sealed, is our own.
func TestAKeyIsReplacedWhileABatchIsNotSealed(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	p := start(t, quick, &faulty{Store: s, seals: notApplied})
	if _, err := p.Submit(context.Background(), these("a", 1), 1); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	p.stop()
	next := newKeyFrom(t, 2, testKey.LogID())
	statement, err := testKey.Rotate(next)
	if err != nil {
		t.Fatal(err)
	}
	cfg := quick
	cfg.Key, cfg.Rotations = next, []string{statement}
	if err := runUntil(t, cfg, s); err == nil || !strings.Contains(err.Error(), "was not stored by this service") {
		t.Errorf("Run: %v", err)
	}
	cfg.MACBefore = testKey.Derive(keyfile.BatchMAC)
	start(t, cfg, s).stop()
	if n := len(readLedger(t, s)); n != 2 {
		t.Errorf("%d entries", n)
	}
}

// Tenants whose events are kept for other times have batches of their own, and one
// request may have events of several.
func TestBatchesAreOfOneMonthOfExpiry(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	cfg := quick
	cfg.Retention = Retention{Default: 12, Tenants: map[string]int{"short": 1, "long": 72}}
	p := start(t, cfg, s)
	events := these("a", 1, 2, 3, 4, 5)
	for i, tenant := range []string{"short", "acme", "long", "short", "globex"} {
		events[i].Tenant = tenant
	}
	got := p.submit(t, events...)
	if got.Stored != 5 || got.Size != 3 {
		t.Errorf("settled %s with %d entries", describe(got), got.Size)
	}
	p.stop()
	months := map[uint64]map[uint16]int{}
	for _, e := range readAll(t, s) {
		if months[e.Batch] == nil {
			months[e.Batch] = map[uint16]int{}
		}
		months[e.Batch][e.ExpiresMonth]++
	}
	if len(months) != 3 {
		t.Errorf("%d batches", len(months))
	}
	for batch, m := range months {
		if len(m) != 1 {
			t.Errorf("batch %d has events of months %v", batch, m)
		}
	}
	for _, r := range readLedger(t, s) {
		if months[r.Entry.Batch][r.Entry.ExpiresMonth] != int(r.Entry.Events) {
			t.Errorf("entry %+v, events %v", r.Entry, months[r.Entry.Batch])
		}
	}
}

// A clock that goes back makes no entry that was sealed before the one before it.
func TestPromise4AClockThatGoesBackBackDatesNothing(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	at := time.Now()
	for _, step := range []time.Duration{0, -time.Hour, -24 * time.Hour} {
		p := startAt(t, quick, s, func() time.Time { return at.Add(step) })
		p.submit(t, these("a", uint64(1-step/time.Hour))...)
		p.stop()
	}
	last := int64(0)
	for _, r := range readLedger(t, s) {
		if r.Entry.SealedAt < last {
			t.Errorf("entry %d was sealed %d µs before the one before it", r.Entry.Batch, last-r.Entry.SealedAt)
		}
		last = r.Entry.SealedAt
	}
}
