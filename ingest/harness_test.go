package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// key is what de-duplication goes by.
type key struct {
	emitter string
	seq     uint64
}

// sent makes the event of a key. Its contents depend on the key alone, so the
// stored event can be compared with what was sent, whoever sent it.
func sent(emitter string, seq uint64) *event.Event {
	h := uint64(14695981039346656037)
	for _, c := range []byte(emitter) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	e := event.Random(rand.New(rand.NewPCG(h, seq)))
	e.EmitterID, e.EmitterSeq = emitter, seq
	e.ReceivedAt, e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = 0, "", 0, 0, 0
	return e
}

// these are the events of some numbers of one emitter.
func these(emitter string, seqs ...uint64) []*event.Event {
	var es []*event.Event
	for _, n := range seqs {
		es = append(es, sent(emitter, n))
	}
	return es
}

// span is first to last, both included.
func span(first, last uint64) []uint64 {
	var out []uint64
	for n := first; n <= last; n++ {
		out = append(out, n)
	}
	return out
}

type leaveAlone struct{}

func (leaveAlone) Again(*event.Event) bool { return false }

// counts is an Observer.
type counts struct {
	mu                                                  sync.Mutex
	committed, stored, duplicates, rejected, failed, of int
}

func (c *counts) Committed(events int, _ time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.committed, c.of = c.committed+1, c.of+events
}

func (c *counts) Settled(stored, duplicates, rejected int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stored, c.duplicates, c.rejected = c.stored+stored, c.duplicates+duplicates, c.rejected+rejected
}

func (c *counts) StoreFailed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed++
}

// fault is what an append does wrong. The two ways differ in what is stored,
// and the pipeline can't tell them apart.
type fault int

const (
	works fault = iota
	notApplied
	appliedButFails
)

var faults = map[string]fault{"not applied": notApplied, "applied but reported as failed": appliedButFails}

var errDisk = errors.New("code: 243. cannot reserve 1.00 MiB, not enough space at /var/lib/secret-path")

// faulty is a store that fails as it is told.
type faulty struct {
	Store
	mu        sync.Mutex
	mode      fault // of appends
	seals     fault // of appends to the ledger
	sequences error
	appends   int
	refused   int
	hold      chan struct{} // when set, appends wait until it is closed
	arrived   chan struct{} // gets one token for each append, when set
}

func (f *faulty) set(mode fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode = mode
}

func (f *faulty) setSeals(mode fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seals = mode
}

func (f *faulty) Seal(ctx context.Context, rows []store.Sealed) error {
	f.mu.Lock()
	mode := f.seals
	if mode != works {
		f.refused++
	}
	f.mu.Unlock()
	if mode == notApplied {
		return errDisk
	}
	if err := f.Store.Seal(ctx, rows); err != nil {
		return err
	}
	if mode == appliedButFails {
		return errDisk
	}
	return nil
}

func (f *faulty) setSequences(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sequences = err
}

func (f *faulty) Append(ctx context.Context, b store.Batch) error {
	f.mu.Lock()
	f.appends++
	hold, arrived := f.hold, f.arrived
	f.mu.Unlock()
	if arrived != nil {
		arrived <- struct{}{}
	}
	if hold != nil {
		<-hold
	}
	f.mu.Lock()
	mode := f.mode
	if mode != works {
		f.refused++
	}
	f.mu.Unlock()
	if mode == notApplied {
		return errDisk
	}
	if err := f.Store.Append(ctx, b); err != nil {
		return err
	}
	if mode == appliedButFails {
		return errDisk
	}
	return nil
}

func (f *faulty) Sequences(ctx context.Context, emitters []string) (map[string][]store.Run, error) {
	f.mu.Lock()
	err := f.sequences
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Store.Sequences(ctx, emitters)
}

// inMemory keeps batches as the real store does, for tests that need its timing
// to be theirs. What it promises is tested on the real one in ingest/store.
type inMemory struct {
	mu     sync.Mutex
	tokens map[string]bool
	macs   map[uint64][16]byte
	events []*event.Event
	logs   []store.LogInfo
	ledger []store.Sealed
}

func (m *inMemory) Append(_ context.Context, b store.Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens[b.Token] {
		return nil
	}
	if m.tokens == nil {
		m.tokens = map[string]bool{}
	}
	m.tokens[b.Token] = true
	if m.macs == nil {
		m.macs = map[uint64][16]byte{}
	}
	m.macs[b.Events[0].Batch] = b.MAC
	for _, e := range b.Events {
		c := *e
		m.events = append(m.events, &c)
	}
	return nil
}

func (m *inMemory) Sequences(_ context.Context, emitters []string) (map[string][]store.Run, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	numbers := map[string]model{}
	for _, e := range m.events {
		if slices.Contains(emitters, e.EmitterID) {
			if numbers[e.EmitterID] == nil {
				numbers[e.EmitterID] = model{}
			}
			numbers[e.EmitterID][e.EmitterSeq] = true
		}
	}
	out := map[string][]store.Run{}
	for emitter, n := range numbers {
		out[emitter] = n.runs()
	}
	return out, nil
}

func (m *inMemory) Logs(context.Context) ([]store.LogInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.logs), nil
}

func (m *inMemory) StartLog(_ context.Context, l store.LogInfo) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logs = append(m.logs, l)
	return nil
}

func (m *inMemory) Seal(_ context.Context, rows []store.Sealed) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range rows {
		if !slices.ContainsFunc(m.ledger, func(have store.Sealed) bool { return have.Checkpoint == r.Checkpoint }) {
			m.ledger = append(m.ledger, r)
		}
	}
	return nil
}

func (m *inMemory) Alone(_ context.Context, rows []store.Sealed) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mine := range rows {
		for _, r := range m.ledger {
			if r.Entry.LogID == mine.Entry.LogID && r.Entry.Batch == mine.Entry.Batch && r.Checkpoint != mine.Checkpoint {
				return store.ErrSealedTwice
			}
		}
	}
	return nil
}

func (m *inMemory) LastEntry(_ context.Context, log string) (*store.Sealed, error) {
	rows := m.entriesOf(log)
	if len(rows) == 0 {
		return nil, nil
	}
	return &rows[len(rows)-1], nil
}

func (m *inMemory) entriesOf(log string) []store.Sealed {
	return slices.DeleteFunc(m.entries(), func(r store.Sealed) bool { return r.Entry.LogID != log })
}

func (m *inMemory) Rotations(context.Context, string) ([]string, error) { return nil, nil }

func (m *inMemory) Nodes(_ context.Context, log string) ledger.Nodes {
	return func(ids []ledger.NodeID) ([]ledger.Hash, error) {
		rows := m.entriesOf(log)
		var out []ledger.Hash
		for _, id := range ids {
			batch, level := ledger.Place(id)
			out = append(out, rows[batch-1].Nodes[level])
		}
		return out, nil
	}
}

func (m *inMemory) Unsealed(_ context.Context, log string, last uint64) ([]uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []uint64
	for _, e := range m.events {
		if e.LogID == log && e.Batch > last && !slices.Contains(out, e.Batch) {
			out = append(out, e.Batch)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (m *inMemory) Leaves(_ context.Context, _ string, batch uint64) (leaves []ledger.Hash, month uint16, mac [16]byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.Batch == batch {
			leaves, month = append(leaves, ledger.Leaf(event.AppendRow(nil, e))), e.ExpiresMonth
		}
	}
	return leaves, month, m.macs[batch], nil
}

func (m *inMemory) Rival(_ context.Context, log string, last uint64, since time.Time) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.LogID == log && e.Batch > last || e.LogID != log && !since.IsZero() && e.ReceivedAt > since.UnixMicro() {
			return e.LogID, nil
		}
	}
	return "", nil
}

func (m *inMemory) Parts(context.Context) (uint64, error) { return 1, nil }

func (m *inMemory) all() []*event.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events)
}

func (m *inMemory) entries() []store.Sealed {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.ledger)
}

// readAll reads what a real store has.
func readAll(t *testing.T, s *store.Store) []*event.Event {
	t.Helper()
	rows, err := s.Query(context.Background(), store.Limits{}, "SELECT "+store.EventColumns+" FROM events ORDER BY batch, leaf")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var es []*event.Event
	for rows.Next() {
		e, err := store.ScanEvent(rows)
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, e)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return es
}

// checkLog checks that what is stored is a log: each key once, with the contents
// that were sent; batches from 1 without holes, leaves from 0 without holes. It
// returns the keys.
func checkLog(t *testing.T, stored []*event.Event) map[key]bool {
	t.Helper()
	slices.SortFunc(stored, func(a, b *event.Event) int {
		return cmp.Or(cmp.Compare(a.Batch, b.Batch), cmp.Compare(a.Leaf, b.Leaf))
	})
	keys := map[key]bool{}
	batch, leaf := uint64(1), uint32(0)
	for _, e := range stored {
		k := key{e.EmitterID, e.EmitterSeq}
		if keys[k] {
			t.Errorf("%v is stored twice", k)
		}
		keys[k] = true
		if e.Batch == batch+1 && leaf > 0 {
			batch, leaf = batch+1, 0
		}
		if e.Batch != batch || e.Leaf != leaf {
			t.Fatalf("%v is leaf %d of batch %d, want leaf %d of batch %d", k, e.Leaf, e.Batch, leaf, batch)
		}
		leaf++
		if e.LogID == "" || e.ReceivedAt == 0 || e.ExpiresMonth == 0 {
			t.Errorf("%v lacks what the service adds: %+v", k, *e)
		}
		got := *e
		got.ReceivedAt, got.LogID, got.Batch, got.Leaf, got.ExpiresMonth = 0, "", 0, 0, 0
		if want := sent(e.EmitterID, e.EmitterSeq); !reflect.DeepEqual(&got, want) {
			t.Errorf("%v was changed:\n got %+v\nsent %+v", k, got, *want)
		}
	}
	return keys
}

// checkStore checks a real store, events and ledger, and returns the keys.
func checkStore(t *testing.T, s *store.Store) map[key]bool {
	t.Helper()
	events := readAll(t, s)
	keys := checkLog(t, events)
	checkLedger(t, events, readLedger(t, s))
	return keys
}

// checkMemory is checkStore for one in memory.
func checkMemory(t *testing.T, m interface {
	all() []*event.Event
	entries() []store.Sealed
}) map[key]bool {
	t.Helper()
	events := m.all()
	keys := checkLog(t, events)
	checkLedger(t, events, m.entries())
	return keys
}

func checkKeys(t *testing.T, got, want map[key]bool) {
	t.Helper()
	for k := range want {
		if !got[k] {
			t.Errorf("%v was acknowledged and is not stored", k)
		}
	}
	for k := range got {
		if !want[k] {
			t.Errorf("%v is stored and was never acknowledged", k)
		}
	}
}

// testKey is the key of the log that tests write.
var testKey, otherKey = newKey("test"), newKey("other")

func newKey(log string) *ledger.Key {
	k, _, err := ledger.NewKey(rand.NewChaCha8([32]byte{1}), log)
	if err != nil {
		panic(err)
	}
	return k
}

// newKeyFrom makes another key of a log.
func newKeyFrom(t *testing.T, seed byte, log string) *ledger.Key {
	t.Helper()
	k, _, err := ledger.NewKey(rand.NewChaCha8([32]byte{seed}), log)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// checkLedger checks that the ledger is the one of the stored events: entries from
// 1 without holes, each with the root of its batch, which is all there; each
// checkpoint signed, and of the tree up to it. It returns the kinds of the entries.
func checkLedger(t *testing.T, stored []*event.Event, rows []store.Sealed) (kinds []string) {
	t.Helper()
	leaves := map[uint64][]ledger.Hash{}
	for _, e := range stored { // in order, see checkLog
		leaves[e.Batch] = append(leaves[e.Batch], ledger.Leaf(event.AppendRow(nil, e)))
	}
	keys, err := ledger.TrustKeys([]string{testKey.Verifier()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tree, clock := ledger.NewTree(), int64(0)
	for i, r := range rows {
		e := r.Entry
		kinds = append(kinds, e.Kind)
		if e.Batch != uint64(i+1) || e.LogID != testKey.LogID() {
			t.Fatalf("entry %d is number %d of log %q", i+1, e.Batch, e.LogID)
		}
		if e.SealedAt < clock {
			t.Errorf("entry %d was sealed before the one before it", e.Batch)
		}
		clock = e.SealedAt
		if int(e.Events) != len(leaves[e.Batch]) || e.Root != ledger.Root(leaves[e.Batch]) {
			t.Errorf("entry %d is of %d events and not of the %d that are stored", e.Batch, e.Events, len(leaves[e.Batch]))
		}
		delete(leaves, e.Batch)
		if nodes := tree.Append(e.Leaf()); !slices.Equal(nodes, r.Nodes) {
			t.Errorf("entry %d has other nodes than its tree", e.Batch)
		}
		c, err := ledger.OpenCheckpoint(r.Checkpoint, keys)
		if want := (ledger.Checkpoint{LogID: testKey.LogID(), Size: tree.Size(), Root: tree.Root()}); err != nil || c != want {
			t.Errorf("entry %d has checkpoint %+v, %v, want %+v", e.Batch, c, err, want)
		}
	}
	for batch, l := range leaves {
		t.Errorf("batch %d with %d events is not sealed", batch, len(l))
	}
	return kinds
}

// readLedger reads what a real store has.
func readLedger(t *testing.T, s *store.Store) (rows []store.Sealed) {
	t.Helper()
	if err := s.Entries(t.Context(), testKey.LogID(), 0, math.MaxUint64, func(r store.Sealed) error { rows = append(rows, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return rows
}

// running is a pipeline at work.
type running struct {
	*Pipeline
	watch *counts
	stop  func() // ends it and waits
}

// start runs a pipeline until the test ends or stop is called.
func start(t *testing.T, cfg Config, s Store) *running {
	t.Helper()
	return startAt(t, cfg, s, time.Now)
}

func startAt(t *testing.T, cfg Config, s Store, now func() time.Time) *running {
	t.Helper()
	watch := &counts{}
	if cfg.Key == nil {
		cfg.Key = testKey
	}
	p := New(cfg, s, leaveAlone{}, now, slog.New(slog.NewTextHandler(io.Discard, nil)), watch)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	eventually(t, "the pipeline is ready", func() bool { return p.ready.Load() })
	return &running{p, watch, stop}
}

// eventually waits for a condition; how long it takes is no part of any test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (p *running) submit(t *testing.T, events ...*event.Event) Settled {
	t.Helper()
	s, err := p.Submit(context.Background(), events, 1000*len(events))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func checkSettled(t *testing.T, got Settled, stored, duplicates int, progress ...Progress) {
	t.Helper()
	if got.Stored != stored || got.Duplicates != duplicates || len(got.Rejected) != 0 || !slices.Equal(got.Progress, progress) {
		t.Errorf("settled %s, want %d stored, %d duplicates, progress %v", describe(got), stored, duplicates, progress)
	}
}

func describe(s Settled) string {
	return fmt.Sprintf("{stored %d, duplicates %d, rejected %v, progress %v}", s.Stored, s.Duplicates, s.Rejected, s.Progress)
}
