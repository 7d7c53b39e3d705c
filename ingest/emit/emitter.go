// Package emit carries events from an MCP server to the mcpaudit service without
// ever standing in the server's way.
//
// [Emitter.Emit] puts a record into a queue in memory: microseconds, no I/O. A
// worker redacts it, gives it its sequence number and appends it to a spool on
// disk; a shipper sends what the spool holds and forgets what was acknowledged.
// The service may be away for as long as the spool's limit lasts. How events are
// sent is a [Transport]: gRPC to the service, or a Kafka topic that it reads.
//
// Over gRPC each answer of the service carries a signed checkpoint of its log. The shipper
// checks that the log only grows and keeps the newest checkpoint beside the spool;
// a log that was cut, rewritten or replaced is said in the log, in a file and as an
// event, and delivery goes on.
//
// What a crash costs: kill -9 of the MCP server loses what was in the queue and
// not yet in the spool (a fraction of a second). What is in the spool is sent by
// the next process that opens it; what was sent twice is stored once.
package emit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// Config of an emitter. The zero value of a field means its default.
type Config struct {
	// Address of the service's gRPC port, host:port; unless there is a Transport.
	Address string
	// Transport is another way than gRPC, such as one of package ingest/emit/kafka.
	// The emitter closes it when it closes.
	Transport Transport
	// Name of what emits, such as the MCP server's name: it begins the emitter's
	// id and names its spool folder.
	Name string
	// Spool is the folder under which spools are kept; required.
	Spool string
	// SpoolLimit bounds the spool on disk, in bytes; default 256 MiB, at least 16
	// KiB. When it is reached the newest events are lost, counted, and the loss is
	// an event: for that a little more is used.
	SpoolLimit int64
	// Queue is how many records wait in memory for redaction; default 1024.
	Queue int
	// Linger is how long the worker gathers records before it writes them;
	// default 10 ms.
	Linger time.Duration
	// ServiceKey is the public key of the service's log (mcpaudit/LOG+HASH+KEY), or
	// several, with spaces or commas between them, when its instances have a log
	// each. Receipts must be signed with it or with a key that it handed over to.
	// Default: what the service gives as its key at first is trusted from then on.
	ServiceKey string
	// Client is how the service at Address is reached: the emitter's key, TLS. Its own
	// Address is not looked at. The zero value has no key, and plaintext goes to this
	// machine alone.
	Client client.Config
	// Dial options of the connection, for tests; default those of Client.
	Dial []grpc.DialOption
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Base is what the emitter's own events have: tenant, environment, server.
	Base event.Event
}

// Record is an event and the raw content that redaction makes its content of.
type Record struct {
	Event     *event.Event
	Arguments []byte // raw JSON, nil for none
	Result    []byte // raw JSON, nil for none
	// Dropped, when it is set, is why the content is not in this record; the event
	// says so.
	Dropped string
	// Make, when it is set, makes the records that are kept in place of this one:
	// work that would hold up the caller. One goroutine calls it, in the order in
	// which records were emitted. Size is about how many bytes it holds
	// meanwhile.
	Make func() []Record
	Size int
}

// queueBytes bounds the content that waits in memory for redaction.
const queueBytes = 64 << 20

// weight is what a record takes of queueBytes.
func (r *Record) weight() int64 {
	const overhead = 2000 // an event and its texts
	return min(int64(len(r.Arguments)+len(r.Result)+r.Size+overhead), queueBytes)
}

// ErrLost says that an event was not taken: the queue is full, because redaction
// or the disk can't keep up, or the emitter is closed. The loss is counted and
// will be reported to the service as an event of its own.
var ErrLost = errors.New("the audit queue is full")

// Stats of an emitter since it was opened.
type Stats struct {
	Emitted, Acknowledged, Rejected, Lost uint64
	Pending                               uint64 // in the spool, not acknowledged
	// Contradictions counts what the service said against its own receipts: its log
	// was cut, rewritten or replaced, or somebody else answers.
	Contradictions uint64
}

// Emitter takes records and delivers them as events.
type Emitter struct {
	cfg       Config
	redact    *redact.Redactor
	log       *slog.Logger
	transport Transport
	keys      []string // of the service's logs, when they are configured

	queue   chan Record
	room    *semaphore.Weighted // bytes of the queue
	closing chan struct{}
	hurry   chan struct{} // closed when there is no more time to redact
	once    sync.Once
	closed  error // what Close says
	worker  sync.WaitGroup
	cancel  context.CancelFunc // ends the shipper
	shipper sync.WaitGroup

	spool    *spool // owned by the worker and, for reading, the shipper under mu
	mu       sync.Mutex
	sent     position      // delivered up to here
	wake     chan struct{} // one token when the spool grew
	counted  chan struct{} // closed when pending counts the backlog too
	shipped  chan struct{} // closed when the shipper has ended
	fault    atomic.Bool   // the last append to the spool failed
	emitted  atomic.Uint64
	kept     atomic.Uint64 // of emitted: in the spool, or lost for good
	acked    atomic.Uint64
	rejected atomic.Uint64
	lost     atomic.Uint64
	reported uint64 // losses that are already an event; worker only
	pending  atomic.Int64

	witness        *witness // of the spool; the shipper's, and Close's after it has ended
	contradictions atomic.Uint64
	alarmed        chan struct{} // one token when there is an alarm
	alarmMu        sync.Mutex
	alarms         []*contradiction // that are to be events
	raised         map[string]bool  // contradictions that were said
}

// Open opens the emitter's spool and starts delivering. Nothing is printed; log
// hears what an operator should know.
func Open(cfg Config, r *redact.Redactor, log *slog.Logger) (*Emitter, error) {
	switch {
	case cfg.Spool == "" || cfg.Name == "" || cfg.Address == "" && cfg.Transport == nil:
		return nil, errors.New("open emitter: it needs the service's address, a name and a spool folder, and not all are given")
	case cfg.Address != "" && cfg.Transport != nil:
		return nil, errors.New("open emitter: there are an address and a transport; give one of them")
	case cfg.ServiceKey != "" && cfg.Transport != nil && cfg.Transport.Ledger() == nil:
		return nil, errors.New("open emitter: there is a key that receipts are checked with, and the transport gives no receipts; leave it out")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.SpoolLimit == 0 {
		cfg.SpoolLimit = 256 << 20
	}
	if cfg.SpoolLimit < minSpool {
		return nil, fmt.Errorf("open emitter: a spool of %d bytes is too small to be of use; give it at least %d", cfg.SpoolLimit, minSpool)
	}
	keys, err := serviceKeys(cfg.ServiceKey)
	if err != nil {
		return nil, fmt.Errorf("open emitter: the service's key: %w", err)
	}
	if cfg.Queue == 0 {
		cfg.Queue = 1024
	}
	if cfg.Linger == 0 {
		cfg.Linger = 10 * time.Millisecond
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Transport == nil {
		if cfg.Transport, err = dialService(cfg); err != nil {
			return nil, fmt.Errorf("open emitter: %w", err)
		}
	}
	s, err := openSlot(cfg)
	if err != nil {
		cfg.Transport.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Emitter{
		cfg: cfg, redact: r, log: log, transport: cfg.Transport, keys: keys,
		queue: make(chan Record, cfg.Queue), room: semaphore.NewWeighted(queueBytes), closing: make(chan struct{}), hurry: make(chan struct{}), cancel: cancel,
		spool: s, sent: s.first(), wake: make(chan struct{}, 1), counted: make(chan struct{}), shipped: make(chan struct{}),
		alarmed: make(chan struct{}, 1), raised: map[string]bool{},
	}
	e.witness = e.witnessOf(s.dir)
	if s.cut {
		e.tornEnd(s.dir)
	}
	e.wake <- struct{}{} // the spool may hold what an earlier process left
	e.worker.Go(e.work)
	e.shipper.Go(func() { e.ship(ctx) })
	e.shipper.Go(func() { e.sweep(ctx) })
	return e, nil
}

// serviceKeys reads the keys of a configuration.
func serviceKeys(text string) ([]string, error) {
	keys := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	_, err := ledger.TrustKeys(keys, nil)
	return keys, err
}

// CheckServiceKey says what is wrong with a text for [Config].ServiceKey.
func CheckServiceKey(text string) error {
	_, err := serviceKeys(text)
	return err
}

// witnessOf is the witness of a spool that this process has locked.
func (e *Emitter) witnessOf(dir string) *witness {
	var others []string
	for i := range slots {
		d := e.cfg.slot(i)
		if _, err := os.Stat(d); err != nil {
			break // slots are taken in order: behind a missing one there is none
		}
		if d != dir {
			others = append(others, d)
		}
	}
	return openWitness(witness{address: e.transport.String(), given: e.keys, service: e.transport.Ledger(), log: e.log,
		alarm: func(c *contradiction) { e.raise(dir, c) }}, dir, others)
}

// tornEnd says that a spool ended in the middle of an event.
func (e *Emitter) tornEnd(dir string) {
	e.lost.Add(1) // at least: how many were in the torn end is not known
	e.log.Warn("the end of the spool was torn and is cut off; audit events of the last moments before a crash are lost", "spool", dir)
}

// openSlot finds a spool folder of this name that no other process uses: each
// process of a server that runs more than once has a spool, and so an emitter
// id, of its own. One that was killed leaves its spool to the next.
func openSlot(cfg Config) (*spool, error) {
	var broken []error
	for i := range slots {
		s, err := openSpool(cfg.slot(i), cfg.SpoolLimit, cfg.newID)
		if errors.Is(err, errInUse) {
			continue
		}
		if err == nil {
			return s, nil
		}
		if broken = append(broken, err); len(broken) == maxBroken {
			return nil, errors.Join(broken...)
		}
	}
	return nil, errors.Join(append(broken, fmt.Errorf("open spool under %q: %d processes already emit as %q", cfg.Spool, slots, cfg.Name))...)
}

// maxBroken is how many slots that can't be used are passed over: one may be of
// another version or account.
const maxBroken = 3

// slots is how many processes of one name may emit at a time.
const slots = 1000

func (cfg Config) slot(i int) string {
	return filepath.Join(cfg.Spool, folderName(cfg.Name), strconv.Itoa(i))
}

// newID names an emitter: never the same twice, and readable.
func (cfg Config) newID() string {
	var noise [6]byte
	rand.Read(noise[:])
	return event.ClipText(cfg.Name, 200) + "-" + hex.EncodeToString(noise[:])
}

func folderName(name string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, name)
	return clean[:min(len(clean), 100)]
}

// ID is the emitter's id.
func (e *Emitter) ID() string { return e.spool.emitter }

// Emit takes a record. It never blocks and does no I/O. The record belongs to
// the emitter from here on.
func (e *Emitter) Emit(r Record) error {
	if e.isClosing() {
		e.lost.Add(1)
		return ErrLost
	}
	weight := r.weight()
	if e.room.TryAcquire(weight) {
		select {
		case e.queue <- r:
			e.emitted.Add(1)
			return nil
		default:
			e.room.Release(weight)
		}
	}
	e.lost.Add(1)
	return ErrLost
}

// Send takes a record and waits while the queue is full. It is for callers that
// are on nobody's way. The record belongs to the emitter from here on.
func (e *Emitter) Send(ctx context.Context, r Record) error {
	weight := r.weight()
	if !e.isClosing() && ctx.Err() == nil && e.room.Acquire(ctx, weight) == nil {
		if !e.isClosing() { // a closed emitter takes nothing, also when there is room
			select {
			case e.queue <- r:
				e.emitted.Add(1)
				return nil
			case <-e.closing:
			case <-ctx.Done():
			}
		}
		e.room.Release(weight)
	}
	e.lost.Add(1)
	return ErrLost
}

func (e *Emitter) isClosing() bool {
	select {
	case <-e.closing:
		return true
	default:
		return false
	}
}

// Failing says that the spool takes no events, so that what is emitted now is
// lost. A server that is to fail closed refuses calls meanwhile.
func (e *Emitter) Failing() bool { return e.fault.Load() }

// Stats counts since Open.
func (e *Emitter) Stats() Stats {
	return Stats{e.emitted.Load(), e.acked.Load(), e.rejected.Load(), e.lost.Load(), uint64(max(e.pending.Load(), 0)), e.contradictions.Load()}
}

// Flush returns when what was emitted before is in the spool, or lost and
// counted, or ctx has ended.
func (e *Emitter) Flush(ctx context.Context) error {
	for emitted := e.emitted.Load(); e.kept.Load() < emitted; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// Redactor is what the emitter redacts with.
func (e *Emitter) Redactor() *redact.Redactor { return e.redact }

// Close writes what was emitted to the spool, then delivers until everything is
// acknowledged or ctx ends. What is not redacted by then is lost, and counted.
// What is in the spool stays there for the next Open; the error says how much.
// Closing again says the same again.
func (e *Emitter) Close(ctx context.Context) error {
	e.once.Do(func() { e.closed = e.shutDown(ctx) })
	return e.closed
}

func (e *Emitter) shutDown(ctx context.Context) error {
	close(e.closing)
	hurried := context.AfterFunc(ctx, func() { close(e.hurry) })
	e.worker.Wait()
	hurried()
	select {
	case <-e.counted:
	case <-ctx.Done():
	}
	e.drain(ctx)
	// Delivery may have found damage, or a contradiction. The worker has ended, so
	// this may write.
	if (e.lost.Load() > e.reported || e.alarming()) && e.keep(nil) {
		e.drain(ctx)
	}
	e.cancel()
	e.shipper.Wait()
	e.witness.save(true)
	e.transport.Close()
	var err error
	if e.sent == e.spool.tail {
		err = e.spool.renew()
	}
	err = errors.Join(err, e.spool.close())
	if n := e.pending.Load(); n > 0 {
		return errors.Join(fmt.Errorf("%d audit events are not delivered yet; they are kept in %s and sent at the next start", n, e.spool.dir), err)
	}
	return err
}

// drain waits until everything is acknowledged, the service is away or ctx ends.
func (e *Emitter) drain(ctx context.Context) {
	for e.pending.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-e.shipped:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}
