// Package ingest is the way of an event from a source (gRPC, Kafka) into the
// store: check → de-duplicate → redact → seal → append → acknowledge.
//
// [Pipeline.Submit] returns when its events are durable, so a source answers or
// commits an offset after it and never before. There is no queue behind it that
// could lose anything: a source that is not answered holds its own events.
//
// Four stages overlap. Callers of Submit check and redact on their own
// goroutines. The sealer (one goroutine, owner of every emitter's sequence and
// of the batch number) gathers the requests of all callers into a batch and hashes
// it. The writer (one goroutine) appends batch after batch; while it writes one,
// the sealer gathers the next, so batches grow with the load. The notary (one
// goroutine, owner of the log's tree and its key) seals what was written with an
// entry of the ledger, then answers the callers.
//
// A crash at any point loses only what was not acknowledged. Before the append
// nothing of the batch exists. After it the batch is stored: the next start seals
// it before it does anything else, as this run would have done. An emitter that saw
// no answer sends its events again, which the sequence that is read back from the
// store then knows. After the entry all is done but the answer.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Config of a pipeline. The zero value of a field means its default.
type Config struct {
	MaxRows int           // events in a batch; default 20000
	MaxAge  time.Duration // how long the first event of a batch waits for others; default 25 ms
	// MaxBytes is how much memory the events under way may take, in bytes: their
	// own, not those on the wire. Default 128 MiB, some 40,000 events of 600 bytes with their
	// marks: one batch that is written, and the next one that gathers.
	MaxBytes int64
	// Retention says how long events are kept.
	Retention Retention
	// Key signs the log; the log's id is part of it. Required.
	Key *ledger.Key
	// Rotations are the statements by which the log's earlier keys handed over to
	// this one; those that the ledger lacks become part of it.
	Rotations []string
	// MACBefore is the secret with which the key before this one authenticated
	// batches; nil when there was none.
	MACBefore []byte
	// Remembered are signed checkpoints of the log that were kept outside of the
	// store: a store that has another past is refused.
	Remembered []string
	// First makes the event that is sealed before all others of a run: nothing else is
	// received until it is. nil: there is none.
	First func() *event.Event
	// Emitters is how many emitters' sequences are kept in memory; others are
	// read back from the store when they are heard again. Default 200000.
	Emitters int
	// Shared is set where other instances write logs of their own to the same store.
	// Each event has to come through a source that gives it to one of them at a time,
	// with a [Tenure], and has it forget what it knew before it gives it others.
	Shared bool
}

func (c Config) withDefaults() Config {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&c.MaxRows, 20000)
	set(&c.Retention.Default, 12)
	set(&c.Emitters, 200000)
	if c.MaxAge == 0 {
		c.MaxAge = 25 * time.Millisecond
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 128 << 20
	}
	return c
}

// Retention is how many months events are kept after the month in which they were
// received.
type Retention struct {
	Default int            // default 12
	Tenants map[string]int // those that differ
}

// Months is how long a tenant's events are kept.
func (r Retention) Months(tenant string) int {
	if m, ok := r.Tenants[tenant]; ok {
		return m
	}
	return r.Default
}

// Store is what the pipeline needs of one; *store.Store is it.
type Store interface {
	// Append stores a batch durably and once; after an error the same batch is
	// appended again.
	Append(ctx context.Context, b store.Batch) error
	// Sequences reads which numbers of these emitters are stored. With an error,
	// the map has those that were read all the same.
	Sequences(ctx context.Context, emitters []string) (map[string][]store.Run, error)
	// Logs are the logs of the store.
	Logs(ctx context.Context) ([]store.LogInfo, error)
	// StartLog adds a log; adding it again changes nothing.
	StartLog(ctx context.Context, l store.LogInfo) error
	// Seal stores entries of the ledger durably and once; after an error the same
	// entries are sealed again.
	Seal(ctx context.Context, rows []store.Sealed) error
	// Alone says, with store.ErrSealedTwice, when the store has other entries of
	// the numbers of these, which were sealed: somebody else writes the log.
	Alone(ctx context.Context, rows []store.Sealed) error
	// LastEntry is a log's entry with the highest number, nil when it has none.
	LastEntry(ctx context.Context, logID string) (*store.Sealed, error)
	// Rotations are the statements of rotation in a log.
	Rotations(ctx context.Context, logID string) ([]string, error)
	// Nodes reads nodes of a log's tree.
	Nodes(ctx context.Context, logID string) ledger.Nodes
	// Unsealed are the batches after last that are stored, ascending.
	Unsealed(ctx context.Context, logID string, last uint64) ([]uint64, error)
	// Leaves are the leaf hashes of a stored batch, when it expires, and its MAC.
	Leaves(ctx context.Context, logID string, batch uint64) (leaves []ledger.Hash, month uint16, mac [16]byte, err error)
	// Rival says which log another instance has written to: this log, when it has
	// a batch after last, or another one since then; "" when there is none.
	Rival(ctx context.Context, log string, last uint64, since time.Time) (string, error)
	// Parts counts the parts that the events lie in.
	Parts(ctx context.Context) (uint64, error)
}

// Redactor scrubs an event that should already be clean: the second of the two
// times that redaction runs. It reports whether it changed the event.
type Redactor interface {
	Again(e *event.Event) (changed bool)
}

// Observer hears what the pipeline does, for metrics. Its methods are called on
// hot paths and must not block.
type Observer interface {
	Committed(events int, took time.Duration) // a batch became durable
	Settled(stored, duplicates, rejected int) // a request was answered
	StoreFailed()                             // an append failed and will be tried again
}

// ErrUnavailable means that nothing can be stored now. The events of the
// request may or may not become durable; sending them again is safe.
var ErrUnavailable = errors.New("the store can't take events now")

// ErrRival means that another instance writes to the same store, or, where it is
// shared, to the same log. Neither knows what the other one has stored, so this one
// stops.
var ErrRival = errors.New("another ingest instance writes to this store")

// rivalPause is how long a store must have been silent under another log before
// this instance starts, and how often its own log is looked at.
const rivalPause = 10 * time.Second

// Rejection is one event that was refused and is not stored.
type Rejection struct {
	Index  int  // in the request
	Gaps   bool // refused because its emitter's sequence has too many gaps
	Reason error
}

// Progress is how far one emitter's sequence is stored.
type Progress struct {
	Emitter             string
	Contiguous, Highest uint64
}

// Settled says what became of a request: all its events but the rejected are
// durable.
type Settled struct {
	Stored, Duplicates int
	Rejected           []Rejection
	Progress           []Progress
	// The newest checkpoint of the log when they were: a signed note, and its size.
	LogID      string
	Checkpoint string
	Size       uint64
}

// request is one Submit under way. The sealer fills settled; whoever closes
// done has made it true.
type request struct {
	events  []*event.Event
	entry   *ledger.Entry // something else for the log, see Record
	index   []int         // position of each event in the caller's request
	settled Settled
	err     error
	memory  hold // of Pipeline.memory, until it is written
	// While it is parked: the emitters that are not known, and the sequences that
	// must not be forgotten meanwhile.
	lacks map[string]bool
	holds []*sequence
	came  *arrival // nil for what has no events
	// until is set for events that another instance may be given later.
	until *Tenure
	done  chan struct{}
}

// answer ends a request: what is to be said of it is set.
func (p *Pipeline) answer(r *request) {
	p.arrivals.end(r.came)
	close(r.done)
}

// Pipeline takes events and makes them durable. Make it with New, then Run it.
type Pipeline struct {
	cfg    Config
	store  Store
	redact Redactor
	now    func() time.Time
	log    *slog.Logger
	watch  Observer

	in       chan *request
	forget   chan chan<- struct{}
	room     chan struct{} // one token while the writer has room for a batch
	memory   *room
	health   health
	arrivals arrivals
	ready    atomic.Bool
	closed   chan struct{} // closed when Run takes no more requests

	age          atomic.Int64  // how long a batch gathers now, in nanoseconds; the writer sets it
	settledBatch atomic.Uint64 // the last entry that is durable; the notary sets it

	own atomic.Pointer[ownLog] // set when it runs
}

// New makes a pipeline; it does nothing until Run.
func New(cfg Config, s Store, r Redactor, now func() time.Time, log *slog.Logger, watch Observer) *Pipeline {
	cfg = cfg.withDefaults()
	p := &Pipeline{
		cfg: cfg, store: s, redact: r, now: now, log: log, watch: watch,
		in: make(chan *request), forget: make(chan chan<- struct{}), room: make(chan struct{}, 1), memory: newRoom(cfg.MaxBytes), closed: make(chan struct{}),
		health: health{down: make(chan struct{})},
	}
	p.age.Store(int64(cfg.MaxAge))
	p.room <- struct{}{}
	return p
}

// Ready says whether the pipeline takes events, and if not, why.
func (p *Pipeline) Ready() error {
	// When an event expires is part of the log for ever. A clock that was never set
	// would have it dropped with the next retention run.
	if now := p.now(); wrong(now) {
		return fmt.Errorf("the clock of this machine says %s; set it", now.UTC().Format(time.DateOnly))
	}
	if !p.ready.Load() {
		return errors.New("ingest has not started")
	}
	if p.health.isDown() {
		return ErrUnavailable
	}
	return nil
}

// No clock that is right is outside of these.
var earliest, latest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2140, 1, 1, 0, 0, 0, 0, time.UTC)

func wrong(now time.Time) bool { return now.Before(earliest) || !now.Before(latest) }

// Settled is the time of receipt, µs since 1970, up to which every event is sealed:
// none with this time or an earlier one will be sealed after it was said. It is 0
// until the pipeline is ready.
func (p *Pipeline) Settled() int64 {
	if !p.ready.Load() {
		return 0
	}
	now := p.now()
	if wrong(now) { // nothing is taken now, and no later stamp must follow this one
		return p.arrivals.settled(0)
	}
	return p.arrivals.settled(now.UnixMicro())
}

// Submit makes events durable and returns when they are; it is Start and Wait.
func (p *Pipeline) Submit(ctx context.Context, events []*event.Event, size int) (Settled, error) {
	r, err := p.Start(ctx, events, size)
	if err != nil {
		return Settled{}, err
	}
	return r.Wait(ctx)
}

// Pending is a request under way.
type Pending struct {
	p    *Pipeline
	r    *request
	down <-chan struct{}
}

// Start is Reserve and Reservation.Start, for events that are in memory already.
// size is about what they take there, in bytes.
func (p *Pipeline) Start(ctx context.Context, events []*event.Event, size int) (*Pending, error) {
	room, err := p.Reserve(ctx, int64(size))
	if err != nil {
		return nil, err
	}
	defer room.Release()
	return room.Start(ctx, events)
}

// Reservation is room in memory for a request that is about to be read. It
// belongs to one goroutine.
type Reservation struct {
	p      *Pipeline
	memory hold
	down   <-chan struct{}
}

// Reserve waits until there is room for a request that will take so many bytes of
// memory: that is the flow control. It is called before the request is decoded,
// so that what is decoded is bounded. The error is ErrUnavailable or the
// context's. A request larger than the bound passes alone.
func (p *Pipeline) Reserve(ctx context.Context, memory int64) (*Reservation, error) {
	return p.ReserveFor(ctx, "", memory)
}

// ReserveFor is Reserve for a request that somebody pays for: a payer has no more than
// three quarters of the memory, and however many of his requests wait, those of
// others wait for one of them alone. The name is the caller's choice; "" is nobody, who
// is not bound.
func (p *Pipeline) ReserveFor(ctx context.Context, payer string, memory int64) (*Reservation, error) {
	if p.Ready() != nil {
		return nil, ErrUnavailable
	}
	v := &Reservation{p: p, down: p.health.downSignal()}
	var err error
	if v.memory, err = p.acquire(ctx, payer, min(memory, p.cfg.MaxBytes), v.down); err != nil {
		return nil, err
	}
	return v, nil
}

// Shrink gives back what is beyond memory.
func (v *Reservation) Shrink(memory int64) { v.memory.shrink(memory) }

// Release gives the room back, unless Start has taken it over.
func (v *Reservation) Release() { v.Shrink(0) }

// Start checks and redacts events and hands them to the sealer, in the order of
// its calls. A nil event is one that the caller has refused already. The error is
// ErrUnavailable or the context's.
//
// The events and the room belong to the pipeline from here on; when there is an
// error, the room is still the caller's to release.
func (v *Reservation) Start(ctx context.Context, events []*event.Event) (*Pending, error) {
	return v.StartUntil(ctx, events, nil)
}

// StartUntil is Start for events that another instance may be given after the tenure:
// when it ends before they are on their way into the store they are not stored, and
// Wait says ErrUnavailable. nil: there is no other one.
func (v *Reservation) StartUntil(ctx context.Context, events []*event.Event, until *Tenure) (*Pending, error) {
	p, down := v.p, v.down
	came := p.arrivals.begin(p.now().UnixMicro())
	r := &request{came: came, until: until, events: make([]*event.Event, 0, len(events)), index: make([]int, 0, len(events)), memory: v.memory, done: make(chan struct{})}
	for i, e := range events {
		if e == nil {
			continue
		}
		e.ReceivedAt = came.at
		if err := e.Check(); err != nil {
			r.settled.Rejected = append(r.settled.Rejected, Rejection{Index: i, Reason: err})
			continue
		}
		// Nothing is stored that could not be read back: what redaction changed is
		// checked again.
		if p.redact.Again(e) {
			if err := e.Check(); err != nil {
				r.settled.Rejected = append(r.settled.Rejected, Rejection{Index: i, Reason: err})
				continue
			}
		}
		r.events, r.index = append(r.events, e), append(r.index, i)
	}
	var err error
	select {
	case p.in <- r: // the writer releases the memory, also when nobody waits any longer
		v.memory = hold{}
		return &Pending{p, r, down}, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-down:
		err = ErrUnavailable
	case <-p.closed:
		err = ErrUnavailable
	}
	p.arrivals.end(came)
	return nil, err
}

// Forget has the sequences of emitters read from the store when they are heard again:
// others may have stored events of theirs. Of what is under way nothing is forgotten,
// so a source waits for its own requests first. The error is ErrUnavailable or the
// context's.
func (p *Pipeline) Forget(ctx context.Context) error {
	forgotten := make(chan struct{})
	select {
	case p.forget <- forgotten:
		<-forgotten
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.closed:
		return ErrUnavailable
	}
}

// acquire waits for room in memory, but not for a store that is away.
func (p *Pipeline) acquire(ctx context.Context, payer string, bytes int64, down <-chan struct{}) (hold, error) {
	if h, ok := p.memory.try(payer, bytes); ok {
		return h, nil
	}
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-down:
			cancel()
		case <-p.closed:
			cancel()
		case <-wait.Done():
		}
	}()
	h, err := p.memory.take(wait, payer, bytes)
	if err != nil {
		if ctx.Err() != nil {
			return hold{}, ctx.Err()
		}
		return hold{}, ErrUnavailable
	}
	return h, nil
}

// Wait returns when the events are durable.
func (w *Pending) Wait(ctx context.Context) (Settled, error) {
	var err error
	select {
	case <-w.r.done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-w.down:
		err = ErrUnavailable
	}
	// What is settled is said to be, also when the store failed since then.
	select {
	case <-w.r.done:
		err = w.r.err
	default:
	}
	if err != nil {
		return Settled{}, err
	}
	w.p.watch.Settled(w.r.settled.Stored, w.r.settled.Duplicates, len(w.r.settled.Rejected))
	return w.r.settled, nil
}

// Record appends an entry of another kind than events to the log, and returns its
// number when it is durable. The error is ErrUnavailable or the context's.
func (p *Pipeline) Record(ctx context.Context, kind, detail string) (batch uint64, err error) {
	if p.Ready() != nil {
		return 0, ErrUnavailable
	}
	r := &request{entry: &ledger.Entry{Format: ledger.Format, Kind: kind, Root: ledger.EmptyRoot, Detail: detail}, done: make(chan struct{})}
	select {
	case p.in <- r:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-p.closed:
		return 0, ErrUnavailable
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if r.err != nil {
		return 0, r.err
	}
	return r.entry.Batch, nil
}

// Checkpoint is the newest one, a signed note, and its size; "" and 0 when the log
// has no entry yet or is not open.
func (p *Pipeline) Checkpoint() (signed string, size uint64) {
	l := p.own.Load()
	if l == nil {
		return "", 0
	}
	c := l.newest.Load()
	return c.signed, c.size
}

// Consistency proves that the pipeline's log has only grown between two of its
// sizes (RFC 6962, section 2.1.2).
func (p *Pipeline) Consistency(ctx context.Context, from, to uint64) ([]ledger.Hash, error) {
	l := p.own.Load()
	if l == nil {
		return nil, ErrUnavailable
	}
	return l.Consistency(ctx, from, to)
}

// Run opens the log, seals what an earlier run left, then commits batches until
// ctx ends; what was gathered by then is written before it returns.
func (p *Pipeline) Run(ctx context.Context) error {
	id := p.cfg.Key.LogID()
	if p.cfg.Shared {
		p.log.Info("the store is shared: other instances may write logs of their own to it", "log", id)
	} else if other, err := p.store.Rival(ctx, id, math.MaxUint64, p.now().Add(-rivalPause)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("start ingest: %w", err)
	} else if other != "" {
		return fmt.Errorf("start ingest: %w: log %q was written to within the last %v; stop the other one, or wait until it has stopped", ErrRival, other, rivalPause)
	}
	l, clock, err := p.open(ctx)
	if err != nil && ctx.Err() != nil {
		return nil //nolint:nilerr // stopped before it began: nothing was taken
	}
	if err != nil {
		return fmt.Errorf("start ingest: %w", err)
	}
	last := l.tree.Size()
	p.own.Store(l)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	s := newSealer(p, l, last, clock)
	var begun sync.WaitGroup
	begun.Go(func() {
		if p.first(ctx) {
			p.ready.Store(true)
			p.log.Info("ingest is ready", "log", id, "last_batch", last)
		}
	})

	batches, stored := make(chan sealed, 1), make(chan sealed, 1)
	var wg sync.WaitGroup
	wg.Go(func() { p.write(ctx, id, last, batches, stored, fail) })
	var notary error
	wg.Go(func() { notary = p.notarise(ctx, l, stored, fail) })
	s.run(ctx, batches)
	close(p.closed)
	begun.Wait()
	p.ready.Store(false)
	close(batches)
	wg.Wait()
	if err := context.Cause(ctx); errors.Is(err, ErrRival) {
		return fmt.Errorf("ingest stops: %w: log %q has batches that are not of this instance; give each instance a store of its own, or share it: see ingest.shared", err, id)
	} else if errors.Is(err, ErrTenureEnded) {
		return fmt.Errorf("ingest stops: %w; start it again: it then looks what was stored", err)
	}
	if notary != nil && !errors.Is(notary, ErrUnavailable) {
		return fmt.Errorf("ingest stops: %w", notary)
	}
	return nil
}

// first seals the event that comes before all others of this run, and reports whether
// it is; until then nothing else is taken.
func (p *Pipeline) first(ctx context.Context) bool {
	if p.cfg.First == nil {
		return true
	}
	var e *event.Event
	wait := 100 * time.Millisecond
	for {
		if e == nil && !wrong(p.now()) {
			e = p.cfg.First()
		}
		if e != nil && p.sealFirst(ctx, *e) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-p.closed:
			return false
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// sealFirst tries to seal an event before the pipeline is ready.
func (p *Pipeline) sealFirst(ctx context.Context, e event.Event) bool {
	v := &Reservation{p: p, down: p.health.downSignal()}
	w, err := v.Start(ctx, []*event.Event{&e})
	if err != nil {
		return false
	}
	select {
	case <-w.r.done:
	case <-p.closed:
		return false
	}
	if w.r.err != nil {
		return false
	}
	p.watch.Settled(w.r.settled.Stored, w.r.settled.Duplicates, len(w.r.settled.Rejected))
	for _, x := range w.r.settled.Rejected {
		p.log.Error("the first event of this run is refused; the log does not have it", "error", x.Reason)
	}
	return true
}

// open opens the log and brings it to where an earlier run would have: batches that
// were stored are sealed, keys that took over are recorded.
func (p *Pipeline) open(ctx context.Context) (*ownLog, int64, error) {
	l, sealedAt, err := openLog(ctx, p.store, p.cfg.Key, p.cfg.Rotations, p.cfg.Remembered, p.now())
	if err != nil {
		return nil, 0, err
	}
	sealedAt = max(sealedAt, p.now().UnixMicro())
	entries, err := l.unsealed(ctx, sealedAt, p.cfg.MACBefore)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		p.log.Warn("sealing a batch that was stored and not sealed when the service last ended; none of its events was acknowledged", "batch", e.Batch, "events", e.Events)
	}
	keys, err := l.rotations(ctx, p.cfg.Rotations, l.tree.Size()+uint64(len(entries))+1, sealedAt)
	if err != nil {
		return nil, 0, err
	}
	if entries = append(entries, keys...); len(entries) > 0 {
		if err := p.commit(ctx, l, entries); err != nil {
			return nil, 0, fmt.Errorf("seal what was stored last: %w", err)
		}
	}
	return l, sealedAt, nil
}

// health is whether what was last asked of the store worked. Waiting callers are
// told at once when it turns bad.
type health struct {
	mu   sync.Mutex
	bad  int           // what fails: appending, sealing
	down chan struct{} // closed while anything does
}

func (h *health) isDown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bad != 0
}

func (h *health) downSignal() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

// set reports whether the state of the whole changed.
func (h *health) set(what int, fails bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.bad
	if h.bad &^= what; fails {
		h.bad |= what
	}
	if (was != 0) == (h.bad != 0) {
		return false
	}
	if h.bad != 0 {
		close(h.down)
	} else {
		h.down = make(chan struct{})
	}
	return true
}
