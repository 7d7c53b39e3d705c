package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// began is when the tests' logs begin, µs.
var began = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC).UnixMicro()

const second = int64(time.Second / time.Microsecond)

// traffic makes batches of events of five identities: steady ones, bursts, pauses,
// and some that come late.
func traffic(r *rand.Rand, batches int) (out [][]*event.Event) {
	at := began
	for range batches {
		at += []int64{second / 5, second, 3 * second, 3 * second, 12 * second, 45 * second}[r.IntN(6)]
		var events []*event.Event
		for range 1 + r.IntN(7) {
			e := event.Random(r)
			e.Tenant, e.Principal, e.Kind, e.EmitterID = "default", fmt.Sprint("p", r.IntN(5)), "tool_call", "emitter"
			e.Duration = uint64(r.Int64N(second / 3))
			e.OccurredAt = at - int64(e.Duration) - []int64{0, 0, 0, 1000, second / 4, 2 * second, 30 * second}[r.IntN(7)]
			e.ReceivedAt = at
			events = append(events, e)
		}
		out = append(out, events)
	}
	return out
}

// seal stores batches as a log, sealed when they were received; a batch without
// events is an entry of another kind.
func seal(t *testing.T, s *store.Store, log string, batches [][]*event.Event) {
	t.Helper()
	if err := s.StartLog(t.Context(), store.LogInfo{ID: log, VerifierKey: log, StartedAt: time.UnixMicro(began)}); err != nil {
		t.Fatal(err)
	}
	sealed := began
	for n, events := range batches {
		for i, e := range events {
			e.LogID, e.Batch, e.Leaf, e.ExpiresMonth, e.EmitterSeq = log, uint64(n+1), uint32(i), 20819, uint64(n*1000+i+1)
			sealed = e.ReceivedAt
		}
		kind := ledger.KindHold
		if len(events) == 0 {
			sealed += second / 10
		} else {
			kind = ledger.KindEvents
			if err := s.Append(t.Context(), store.Batch{Events: events, Token: fmt.Sprint(log, n)}); err != nil {
				t.Fatal(err)
			}
		}
		e := &ledger.Entry{Format: ledger.Format, Kind: kind, LogID: log, Batch: uint64(n + 1), SealedAt: sealed, Schema: event.Schema, Events: uint32(len(events)), ExpiresMonth: 20819}
		if err := s.Seal(t.Context(), []store.Sealed{{Entry: e}}); err != nil {
			t.Fatal(err)
		}
	}
}

// stage is a store of which a runner sees what has been sealed by the stage's clock,
// and which fails as it is told.
type stage struct {
	*store.Store
	mu    sync.Mutex
	now   int64
	fails func(method string) mode
	calls map[string]int
	// read keeps what was read of the events: reading them again, for each run, is what
	// takes time, and is tested elsewhere. nil: they are read.
	read map[string][]*event.Event
	// ledger is the same for what was read of the logs; it is set where read is.
	ledger *ledgerRead
}

// ledgerRead is what was read of logs that get no more entries. Who fills it is alone;
// after that it may be read concurrently.
type ledgerRead struct {
	logs    []store.LogInfo
	entries map[string][]store.SealedBatch
}

type mode int

const (
	works mode = iota
	notApplied
	appliedButFails
)

var errAway = errors.New("the store is away")

func (s *stage) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.UnixMicro(s.now)
}

func (s *stage) set(at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = at
}

func (s *stage) do(method string, f func() error) error {
	s.mu.Lock()
	if s.calls == nil {
		s.calls = map[string]int{}
	}
	s.calls[method]++
	m := works
	if s.fails != nil {
		m = s.fails(method)
	}
	s.mu.Unlock()
	if m == notApplied {
		return errAway
	}
	if err := f(); err != nil {
		return err
	}
	if m == appliedButFails {
		return errAway
	}
	return nil
}

func (s *stage) SealedAfter(ctx context.Context, after map[string]uint64, most int) (out []store.SealedBatch, err error) {
	err = s.do("SealedAfter", func() error {
		all, err := s.sealedAfter(ctx, after, most)
		for _, b := range all {
			if b.SealedAt <= s.clock().UnixMicro() {
				out = append(out, b)
			}
		}
		return err
	})
	return out, err
}

func (s *stage) sealedAfter(ctx context.Context, after map[string]uint64, most int) (out []store.SealedBatch, err error) {
	if s.read == nil {
		return s.Store.SealedAfter(ctx, after, most)
	}
	for _, log := range slices.Sorted(maps.Keys(after)) {
		all, ok := s.ledger.entries[log]
		if !ok {
			if all, err = s.Store.SealedAfter(ctx, map[string]uint64{log: 0}, math.MaxInt32); err != nil {
				return nil, err
			}
			s.ledger.entries[log] = all
		}
		first, _ := slices.BinarySearchFunc(all, after[log]+1, func(b store.SealedBatch, n uint64) int { return cmp.Compare(b.Batch, n) })
		out = append(out, all[first:min(len(all), first+most)]...)
	}
	return out, nil
}

func (s *stage) Logs(ctx context.Context) (out []store.LogInfo, err error) {
	if s.read == nil {
		return s.Store.Logs(ctx)
	}
	if s.ledger.logs == nil {
		if s.ledger.logs, err = s.Store.Logs(ctx); err != nil {
			return nil, err
		}
	}
	return slices.Clone(s.ledger.logs), nil
}

func (s *stage) EventsOf(ctx context.Context, batches []store.SealedBatch) (events []*event.Event, lacking int, err error) {
	err = s.do("EventsOf", func() (err error) {
		if s.read == nil {
			events, lacking, err = s.Store.EventsOf(ctx, batches)
			return err
		}
		for _, b := range batches {
			name := fmt.Sprint(b.LogID, b.Batch)
			if _, ok := s.read[name]; !ok {
				if s.read[name], _, err = s.Store.EventsOf(ctx, []store.SealedBatch{b}); err != nil {
					return err
				}
			}
			events = append(events, s.read[name]...)
		}
		return nil
	})
	return events, lacking, err
}

func (s *stage) AppendFindings(ctx context.Context, rows []store.Finding) error {
	return s.do("AppendFindings", func() error { return s.Store.AppendFindings(ctx, rows) })
}

func (s *stage) SaveSnapshot(ctx context.Context, n store.Snapshot, chunks [][]byte) error {
	return s.do("SaveSnapshot", func() error { return s.Store.SaveSnapshot(ctx, n, chunks) })
}

func (s *stage) Snapshots(ctx context.Context, name string) (out []store.Snapshot, err error) {
	err = s.do("Snapshots", func() (err error) { out, err = s.Store.Snapshots(ctx, name); return err })
	return out, err
}

func (s *stage) State(ctx context.Context, n store.Snapshot) (out []byte, err error) {
	err = s.do("State", func() (err error) { out, err = s.Store.State(ctx, n); return err })
	return out, err
}

func (s *stage) LastTold(ctx context.Context, teller string) (seq uint64, err error) {
	err = s.do("LastTold", func() (err error) { seq, err = s.Store.LastTold(ctx, teller); return err })
	return seq, err
}

// counts is an Observer.
type counts struct {
	mu                                          sync.Mutex
	observed, late, told, opened, saves, failed int
}

func (c *counts) add(n *int, by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n += by
}

func (c *counts) Observed(events int, _ time.Duration) { c.add(&c.observed, events) }
func (c *counts) Late(events int)                      { c.add(&c.late, events) }
func (c *counts) Told(_ detect.Severity, opened bool) {
	c.add(&c.told, 1)
	if opened {
		c.add(&c.opened, 1)
	}
}
func (c *counts) Holds(detect.Counts)                     {}
func (c *counts) Saved(int, time.Duration, time.Duration) { c.add(&c.saves, 1) }
func (c *counts) Failed()                                 { c.add(&c.failed, 1) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// actor is a runner that a test moves by hand.
type actor struct {
	*Runner
	t     *testing.T
	stage *stage
	watch *counts
	heard []Told
}

// act begins a runner on a stage.
func act(t *testing.T, s *stage, cfg Config) *actor {
	t.Helper()
	if cfg.Rules == nil {
		cfg.Rules = testRules()
	}
	a := &actor{t: t, stage: s, watch: &counts{}}
	a.Runner = New(cfg, Deps{Store: s, Now: s.clock, Log: quiet, Watch: a.watch, Tell: func(x Told) { a.heard = append(a.heard, x) }})
	for try := 0; ; try++ {
		err := a.begin(t.Context())
		if err == nil {
			return a
		}
		if !errors.Is(err, errAway) || try > 100 {
			t.Fatal(err)
		}
	}
}

// step is one round, and what it has begun to save is saved.
func (a *actor) step() {
	a.t.Helper()
	for try := 0; ; try++ {
		err := a.round(a.t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, errAway) || try > 100 {
			a.t.Fatal(err)
		}
		a.fault(err)
	}
	if a.save.under != nil {
		a.noteSaved(<-a.save.under)
	}
}

// until lets the clock pass to at, in rounds some seconds apart.
func (a *actor) until(at int64) {
	a.t.Helper()
	for now := a.stage.clock().UnixMicro(); now < at; now = a.stage.clock().UnixMicro() {
		a.stage.set(min(at, now+20*second))
		a.step()
	}
}

// script is a log and what happens along it.
type script struct {
	sealed []int64 // when each batch was sealed
	end    int64   // when all is quiet
}

func scriptOf(batches [][]*event.Event) script {
	var s script
	at := began
	for _, b := range batches {
		if len(b) > 0 {
			at = b[0].ReceivedAt
		} else {
			at += second / 10
		}
		s.sealed = append(s.sealed, at)
	}
	s.end = at + 120*second
	return s
}

// play runs a through the batches from one to another, each seen a little after it
// was sealed.
func (a *actor) play(s script, from, to int) {
	a.t.Helper()
	for _, at := range s.sealed[from:to] {
		a.until(at - second/10)
		a.stage.set(at + second/20)
		a.step()
	}
	if to == len(s.sealed) {
		a.until(s.end)
	}
}

// stored is what the store has, but for when it was told.
func stored(t *testing.T, s *store.Store) (out []string) {
	t.Helper()
	rows, err := s.Query(t.Context(), store.Limits{}, "SELECT "+store.FindingColumns+" FROM findings ORDER BY seq")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		f, err := store.ScanFinding(rows)
		if err != nil {
			t.Fatal(err)
		}
		f.ToldAt, f.History = 0, false // when somebody looked is no part of what is found
		out = append(out, fmt.Sprintf("%+v", *f))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// forget empties tables.
func forget(t *testing.T, s *store.Store, tables ...string) {
	t.Helper()
	for _, table := range tables {
		storetest.Exec(t, s, "TRUNCATE TABLE "+table)
	}
}

func compare(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s: %d versions are stored, want %d; number %d is\n%s\nwant\n%s", what, len(got), len(want), i+1, g, w)
		}
	}
}
