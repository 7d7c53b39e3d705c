package live

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// saving is the state of the snapshots.
type saving struct {
	number uint64    // of the newest one that was begun
	slot   uint8     // the next one goes there
	due    time.Time // the next one is made then
	under  chan saved
	cancel context.CancelFunc // of the one under way
}

// saved is what came of a snapshot.
type saved struct {
	err     error
	bytes   int
	stalled time.Duration
	took    time.Duration
}

// mostStalled is how much of the time may go into making snapshots: 1 in so many.
// Nothing is observed meanwhile, and 99 of 100 events are to be told of in time.
const mostStalled = 100

// saveWithin bounds the writing of one snapshot.
const saveWithin = 2 * time.Minute

// stateHead comes before the engine's own bytes: the seed of its hashes, which a rule
// that is warmed up must share, and its clock, µs.
const stateHead = 16

// saveWhenDue makes a snapshot when it is time for one, and has it written while the
// runner goes on.
func (r *Runner) saveWhenDue(ctx context.Context) {
	if r.save.under != nil {
		select {
		case s := <-r.save.under:
			r.noteSaved(s)
		default:
			return
		}
	}
	if r.d.Now().Before(r.save.due) {
		return
	}
	write, ok := r.snapshot()
	if !ok {
		return
	}
	under := make(chan saved, 1)
	ctx, r.save.cancel = context.WithCancel(context.WithoutCancel(ctx)) // it outlives the round
	r.save.under = under
	go func() { under <- write(ctx) }()
}

// endSave waits until nothing is written any more, and cuts off what takes too long.
func (r *Runner) endSave() {
	if r.save.under == nil {
		return
	}
	r.save.cancel()
	r.noteSaved(<-r.save.under)
}

// saveNow makes a snapshot and waits until it is written.
func (r *Runner) saveNow(ctx context.Context) error {
	if r.save.under != nil {
		select {
		case s := <-r.save.under:
			r.noteSaved(s)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	write, ok := r.snapshot()
	if !ok {
		return errors.New("the detectors are in the midst of catching up")
	}
	s := write(ctx)
	r.noteSaved(s)
	return s.err
}

// snapshot takes what the runner remembers. write can be called by any goroutine. ok
// is false when this is no point to go on from: what was read is not observed, what
// was found is not durable, or the runner is catching up.
func (r *Runner) snapshot() (write func(context.Context) saved, ok bool) {
	if len(r.phases) > 0 || !r.follow.whole() || len(r.told.pending) > 0 || len(r.gone) > 0 {
		return nil, false
	}
	start := r.d.Now()
	var state chunks
	head := binary.LittleEndian.AppendUint64(nil, r.seed)
	_, _ = state.Write(binary.LittleEndian.AppendUint64(head, uint64(r.clock)))
	err := r.engine.Save(&state)
	stalled := r.d.Now().Sub(start)
	r.save.due = start.Add(max(r.cfg.SaveEvery, mostStalled*stalled))
	r.save.number++ // also of one that fails: a number never has two contents
	n := store.Snapshot{Name: r.cfg.reader(), Slot: r.save.slot, Number: r.save.number, WrittenAt: start, Positions: r.follow.positions(), Told: r.told.last}
	return func(ctx context.Context) saved {
		if err != nil {
			return saved{err: err}
		}
		ctx, cancel := context.WithTimeout(ctx, saveWithin)
		defer cancel()
		err := r.d.Store.SaveSnapshot(ctx, n, state.full)
		return saved{err, state.size, stalled, r.d.Now().Sub(start)}
	}, true
}

func (r *Runner) noteSaved(s saved) {
	if r.save.under = nil; r.save.cancel != nil {
		r.save.cancel()
	}
	if s.err != nil {
		r.d.Watch.Failed()
		r.d.Log.Error("the state of the detectors is not saved; after a crash more of the log is read again", "error", s.err)
		return
	}
	r.save.slot = 1 - r.save.slot
	r.d.Watch.Saved(s.bytes, s.stalled, s.took)
}

// restore makes an engine of a snapshot's state, with those of the rules that it has
// state for.
func (r *Runner) restore(state []byte) error {
	if len(state) < stateHead {
		return errors.New("the snapshot is too short")
	}
	seed, clock := binary.LittleEndian.Uint64(state), int64(binary.LittleEndian.Uint64(state[8:]))
	load := func(rules []detect.Rule) (*detect.Engine, []string, error) {
		engine := r.newEngine(rules, seed, r.tell)
		lacking, err := engine.Load(bytes.NewReader(state[stateHead:]))
		return engine, lacking, err
	}
	rules := r.cfg.Rules
	engine, lacking, err := load(rules)
	if err == nil && len(lacking) > 0 {
		rules = slices.DeleteFunc(slices.Clone(rules), func(x detect.Rule) bool { return slices.Contains(lacking, x.Name) })
		if engine, lacking, err = load(rules); err == nil && len(lacking) > 0 {
			err = fmt.Errorf("there is no state of rule %s", lacking[0])
		}
	}
	if err != nil {
		return err
	}
	r.engine, r.rules, r.seed, r.clock = engine, rules, seed, clock
	return nil
}

// chunks is a writer into pieces of store.MaxChunk: a large state is never copied.
type chunks struct {
	full [][]byte // the last one may be shorter
	size int
}

func (c *chunks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		last := len(c.full) - 1
		if last < 0 || len(c.full[last]) == store.MaxChunk {
			c.full = append(c.full, make([]byte, 0, store.MaxChunk))
			last++
		}
		now := min(len(p), store.MaxChunk-len(c.full[last]))
		c.full[last] = append(c.full[last], p[:now]...)
		p = p[now:]
	}
	c.size += n
	return n, nil
}
