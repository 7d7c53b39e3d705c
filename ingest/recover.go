package ingest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

const (
	// recoverAtOnce is how many emitters one statement asks for. Their names travel
	// in a request's URL, of which a server takes 1 MiB.
	recoverAtOnce = 1000
	// readers is how many such statements run at a time: an emitter with a long
	// history must not hold up the new ones.
	readers = 2
	// patience is how long one may take. Its emitters are told to send again then,
	// and it is asked anew.
	patience = 10 * time.Minute
)

// recovery reads back from the store the sequences of emitters that are not
// known: all of them after a start, later the new ones and those that were
// forgotten. Its fields belong to the sealer; only read is shared.
type recovery struct {
	wanted  []string        // to be asked for
	asked   map[string]bool // wanted, or being read
	reading int
	epoch   int            // how often was forgotten what was known
	read    chan recovered // has room for each reader, so that none ever waits
	wg      sync.WaitGroup
}

// recovered is what a reader found: the emitters in runs are known now, the other
// ones could not be read.
type recovered struct {
	emitters []string
	runs     map[string][]store.Run
	err      error
	epoch    int // when it was asked for
}

func newRecovery() recovery {
	return recovery{asked: map[string]bool{}, read: make(chan recovered, readers)}
}

// admit gives back a request whose emitters are all known. Another one is parked,
// and what it lacks is asked for.
func (s *sealer) admit(ctx context.Context, r *request) []*request {
	if r.lacks = s.missing(r); len(r.lacks) == 0 {
		return []*request{r}
	}
	s.parked = append(s.parked, r)
	last := ""
	for _, e := range r.events {
		if e.EmitterID == last {
			continue
		}
		last = e.EmitterID
		if q, ok := s.known.Get(last); ok {
			q.waited++
			r.holds = append(r.holds, q)
		}
	}
	for emitter := range r.lacks {
		if !s.asked[emitter] {
			s.asked[emitter] = true
			s.wanted = append(s.wanted, emitter)
		}
	}
	s.ask(ctx)
	return nil
}

// missing are the emitters of a request that are not known.
func (s *sealer) missing(r *request) (lacks map[string]bool) {
	last := ""
	for _, e := range r.events {
		if e.EmitterID == last {
			continue
		}
		if last = e.EmitterID; s.known.Contains(last) || lacks[last] {
			continue
		}
		if lacks == nil {
			lacks = map[string]bool{}
		}
		// The name of an event is part of the bytes of its whole request, and the
		// emitter will be known for longer than that.
		lacks[strings.Clone(last)] = true
	}
	return lacks
}

// ask starts readers for what is wanted.
func (s *sealer) ask(ctx context.Context) {
	for s.reading < readers && len(s.wanted) > 0 {
		n := min(len(s.wanted), recoverAtOnce)
		emitters := slices.Clone(s.wanted[:n])
		s.wanted = slices.Delete(s.wanted, 0, n)
		s.reading++
		epoch := s.epoch
		s.wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			runs, err := s.p.store.Sequences(ctx, emitters)
			s.read <- recovered{emitters, runs, err, epoch}
		})
	}
}

// learn takes what a reader found and gives back the requests that lack nothing
// any more. Those that wait for an emitter that could not be read are told to
// come again: without its sequence their events might be stored twice.
func (s *sealer) learn(ctx context.Context, got recovered) (ready []*request) {
	s.reading--
	if got.epoch != s.epoch {
		return s.askAgain(ctx, got.emitters)
	}
	if got.err != nil && ctx.Err() == nil {
		s.p.log.Error("reading emitters' sequences; they are told to wait and to send again", "emitters", len(got.emitters), "read", len(got.runs), "error", got.err)
	}
	failed := map[string]bool{}
	for _, emitter := range got.emitters {
		delete(s.asked, emitter)
		if runs, ok := got.runs[emitter]; ok || got.err == nil {
			s.known.Add(emitter, newSequence(runs))
		} else {
			failed[emitter] = true
		}
	}
	waiting := s.parked[:0]
	for _, r := range s.parked {
		lost := false
		for emitter := range r.lacks {
			if failed[emitter] {
				lost = true
			} else if q, ok := s.known.Get(emitter); ok {
				delete(r.lacks, emitter)
				q.waited++
				r.holds = append(r.holds, q)
			}
		}
		switch {
		case lost:
			r.letGo()
			s.p.refuse(r)
		case len(r.lacks) == 0:
			r.letGo()
			ready = append(ready, r)
		default:
			waiting = append(waiting, r)
		}
	}
	clear(s.parked[len(waiting):])
	s.parked = waiting
	s.ask(ctx)
	return ready
}

// askAgain asks for emitters whose sequences were read before they were to be
// forgotten: others may have stored events of theirs since.
func (s *sealer) askAgain(ctx context.Context, emitters []string) []*request {
	for _, emitter := range emitters {
		delete(s.asked, emitter)
	}
	for _, r := range s.parked {
		for emitter := range r.lacks {
			if !s.asked[emitter] {
				s.asked[emitter] = true
				s.wanted = append(s.wanted, emitter)
			}
		}
	}
	s.ask(ctx)
	return nil
}

// letGo gives the sequences free that r has kept from being forgotten.
func (r *request) letGo() {
	for _, q := range r.holds {
		q.waited--
	}
	r.holds, r.lacks = nil, nil
}

// refuse answers a request of which nothing was sealed.
func (p *Pipeline) refuse(r *request) {
	r.err = ErrUnavailable
	r.memory.shrink(0)
	p.answer(r)
}

// close answers who waits still. The readers' context has ended by then.
func (s *sealer) close() {
	s.wg.Wait()
	for _, r := range s.parked {
		s.p.refuse(r)
	}
}
