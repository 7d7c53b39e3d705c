package emit

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// retryOpen is how soon an emitter that could not be opened is tried again.
const retryOpen = 10 * time.Second

// Patient is an emitter that may not open yet: a disk that is full or read-only,
// or a key that can't be read, must not keep an MCP server from starting. It goes
// on trying, counts what is lost until then, and has the emitter report it.
type Patient struct {
	open    func() (*Emitter, error)
	log     *slog.Logger
	emitter atomic.Pointer[Emitter]
	lost    atomic.Uint64
	closing chan struct{}
	trying  sync.WaitGroup
	once    sync.Once
}

// OpenPatiently opens an emitter, now or as soon as it works. The error says why
// not now; the Patient can be used all the same.
func OpenPatiently(open func() (*Emitter, error), log *slog.Logger) (*Patient, error) {
	p := &Patient{open: open, log: log, closing: make(chan struct{})}
	e, err := open()
	if err != nil {
		p.trying.Go(p.try)
		return p, err
	}
	p.emitter.Store(e)
	return p, nil
}

func (p *Patient) try() {
	again := time.NewTicker(retryOpen)
	defer again.Stop()
	for {
		select {
		case <-p.closing:
			return
		case <-again.C:
		}
		if e, err := p.open(); err == nil {
			e.lost.Add(p.lost.Swap(0))
			p.emitter.Store(e)
			p.log.Info("calls are audited from now on")
			return
		}
	}
}

// Emit is [Emitter.Emit]; it loses the record while there is no emitter.
func (p *Patient) Emit(r Record) error {
	if e := p.emitter.Load(); e != nil {
		return e.Emit(r)
	}
	p.lost.Add(1)
	return ErrLost
}

// Send is [Emitter.Send]; it loses the record while there is no emitter.
func (p *Patient) Send(ctx context.Context, r Record) error {
	if e := p.emitter.Load(); e != nil {
		return e.Send(ctx, r)
	}
	p.lost.Add(1)
	return ErrLost
}

// CountLost counts events that could not even be made.
func (p *Patient) CountLost(n uint64) {
	if e := p.emitter.Load(); e != nil {
		e.lost.Add(n)
		return
	}
	p.lost.Add(n)
}

// Failing is [Emitter.Failing], true while there is no emitter.
func (p *Patient) Failing() bool {
	e := p.emitter.Load()
	return e == nil || e.Failing()
}

// Flush is [Emitter.Flush].
func (p *Patient) Flush(ctx context.Context) error {
	if e := p.emitter.Load(); e != nil {
		return e.Flush(ctx)
	}
	return nil
}

// Emitter is the emitter, nil while there is none.
func (p *Patient) Emitter() *Emitter { return p.emitter.Load() }

// Stats is [Emitter.Stats].
func (p *Patient) Stats() Stats {
	var s Stats
	if e := p.emitter.Load(); e != nil {
		s = e.Stats()
	}
	s.Lost += p.lost.Load()
	return s
}

// Close is [Emitter.Close]. Without an emitter nothing is left to report to: what
// was lost is in the log.
func (p *Patient) Close(ctx context.Context) error {
	p.once.Do(func() { close(p.closing) })
	p.trying.Wait()
	e := p.emitter.Load()
	if e == nil {
		if n := p.lost.Load(); n > 0 {
			p.log.Error("audit events are lost: their emitter could never be opened", "events", n)
		}
		return nil
	}
	e.lost.Add(p.lost.Swap(0)) // what came while it opened
	return e.Close(ctx)
}
