package emit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

const (
	shipEvents = 2000
	shipBytes  = 2 << 20
	firstWait  = 200 * time.Millisecond
	maxWait    = 30 * time.Second
	sweepEvery = 5 * time.Minute

	sendTimeout  = 30 * time.Second // one batch
	saidRefusals = 10               // of one batch, that the log hears of one by one
	sayAgain     = time.Minute      // a reason that changes is said anew, not more often than this
)

// ship delivers the spool, oldest first, until ctx ends. One batch is under way
// at a time; what arrives meanwhile makes the next one larger. Once the emitter is
// closing, a service that does not answer is not waited for: the spool has it all.
func (e *Emitter) ship(ctx context.Context) {
	defer close(e.shipped)
	e.countBacklog()
	close(e.counted)
	wait, away := firstWait, false
	said, saidAt := "", time.Time{} // why it is away
	for {
		e.mu.Lock()
		from, tail := e.sent, e.spool.tail
		e.mu.Unlock()
		records, to, err := e.spool.read(from, tail, shipEvents, shipBytes)
		if err != nil && len(records) == 0 {
			if !errors.Is(err, errTorn) {
				// The file is there and can't be read now, for want of descriptors or
				// memory: nothing is given up for that.
				e.log.Error("reading the spool; it is tried again", "error", err)
			} else if e.skip(to) {
				continue
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			wait = min(2*wait, maxWait)
			continue
		}
		if len(records) == 0 {
			e.delivered(to, 0)
			if to != tail {
				continue
			}
			select {
			case <-e.wake:
				continue
			case <-e.witness.due():
				e.witness.save(true)
				continue
			case <-ctx.Done():
				return
			}
		}
		last := e.isClosing() && away
		delay, err := e.send(ctx, e.witness, records)
		if err == nil {
			e.delivered(to, len(records))
			if away {
				e.log.Info("the audit service takes events again", "address", e.transport.String())
			}
			wait, away = firstWait, false
			continue
		}
		if ctx.Err() != nil || last {
			return
		}
		if reason := err.Error(); !away || reason != said && time.Since(saidAt) > sayAgain {
			away, said, saidAt = true, reason, time.Now()
			e.log.Warn("the audit service does not take events; they are kept on disk and sent later",
				"address", e.transport.String(), "reason", reason)
		}
		if delay == 0 {
			delay = wait + rand.N(wait/2)
			wait = min(2*wait, maxWait)
		}
		if !e.pause(ctx, delay) {
			return
		}
	}
}

// pause waits until it is time or the emitter closes, and says whether ctx is
// still going on.
func (e *Emitter) pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-e.closing:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// skip goes on behind a damaged segment and counts what it held.
func (e *Emitter) skip(from position) bool {
	e.mu.Lock()
	to, lost, err := e.spool.skip(from)
	if err == nil {
		e.sent = to
	}
	e.mu.Unlock()
	if err != nil {
		e.log.Error("going on behind a damaged part of the spool; it is tried again", "error", err)
		return false
	}
	e.log.Error("a part of the spool is damaged, its audit events are lost; it is kept beside the spool as *.damaged", "events", lost, "spool", e.spool.dir)
	e.lost.Add(max(lost, 1))
	e.pending.Add(-int64(lost))
	return true
}

// countBacklog counts what an earlier process left, and what came since Open.
func (e *Emitter) countBacklog() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending.Store(int64(e.spool.backlog()))
}

// delivered moves the mark and lets the spool delete what lies before it.
func (e *Emitter) delivered(to position, n int) {
	e.mu.Lock()
	e.sent = to
	err := e.spool.ack(to)
	if to.segment < e.spool.segments[0] {
		e.sent = e.spool.first()
	}
	e.mu.Unlock()
	if err != nil {
		e.log.Warn("tidying the spool", "error", err)
	}
	e.acked.Add(uint64(n))
	e.pending.Add(-int64(n))
}

// send delivers one batch and has its receipt checked. The delay is how long the
// far end asked to wait, 0 when it did not ask.
func (e *Emitter) send(ctx context.Context, w *witness, events [][]byte) (delay time.Duration, err error) {
	known := w.known()
	sending, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	answer, err := e.transport.Deliver(sending, events, known)
	if err != nil {
		return min(answer.Wait, maxWait), err
	}
	if err := forbidden(answer.Refused, len(events)); err != nil {
		w.check(ctx, answer.Receipt, known)
		return 0, err
	}
	for i, r := range answer.Refused {
		e.rejected.Add(1)
		if i < saidRefusals {
			e.log.Error("the audit service refused an event", "emitter_seq", r.Seq, "reason", r.Reason)
		}
	}
	if n := len(answer.Refused) - saidRefusals; n > 0 {
		e.log.Error("the audit service refused more events of the same batch", "events", n)
	}
	if answer.Receipt.GetClockOff() {
		e.log.Warn("this machine's clock differs from the audit service's", "difference", answer.Receipt.GetClockSkew().AsDuration().String())
	}
	w.check(ctx, answer.Receipt, known)
	return 0, nil
}

// errForbidden means that a credential does not let this emitter write what it has.
// What decides it (tenant, server, emitter id) is a setting of the emitter, so it is
// the same for all that it sends, and somebody has to put it right. Until then the
// spool keeps everything: were the events given up, an emitter with the wrong key would
// lose a day's audit, and nobody would look before the day is over. When the spool is
// full, events are lost and counted, and a server that fails closed does so.
var errForbidden = errors.New("the emitter's credential is not for its events")

func forbidden(refused []Refusal, events int) error {
	n, reason := 0, ""
	for _, r := range refused {
		if r.Forbidden {
			n++
			reason = cmp.Or(reason, r.Reason)
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%w (%d of %d): %s; they are kept until the credential's grants, or this emitter's settings, are put right", errForbidden, n, events, reason)
}

// sweep delivers what other processes of this name left behind: one that was
// killed has a spool of its own, and the next process may have taken another.
func (e *Emitter) sweep(ctx context.Context) {
	again := firstWait
	for {
		wait := sweepEvery
		for i := range slots {
			dir := e.cfg.slot(i)
			if _, err := os.Stat(dir); err != nil || ctx.Err() != nil {
				break // slots are taken in order: behind a missing one there is none
			}
			if dir != e.spool.dir && !e.adopt(ctx, dir) {
				wait, again = again, min(2*again, maxWait)
				break
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// adopt delivers one spool that no process uses, and says whether the service
// took it all.
func (e *Emitter) adopt(ctx context.Context, dir string) bool {
	s, err := openSpool(dir, e.cfg.SpoolLimit, e.cfg.newID)
	if err != nil {
		return true // in use, or not readable: its own process will say so
	}
	defer func() { _ = s.close() }() // it was only read
	if s.cut {
		e.tornEnd(s.dir)
	}
	var w *witness // with what its own processes have seen
	for at := s.first(); at != s.tail; {
		records, to, err := s.read(at, s.tail, shipEvents, shipBytes)
		if err != nil {
			return true // damaged: the process that takes this spool deals with it
		}
		if len(records) > 0 {
			if w == nil {
				w = e.witnessOf(dir)
				defer w.save(true)
			}
			if _, err := e.send(ctx, w, records); errors.Is(err, errForbidden) {
				e.log.Error("audit events that another process left behind can't be delivered; they are tried again", "spool", dir, "reason", err)
				return true // that does not change soon, and others may be let in
			} else if err != nil {
				return false
			}
			e.acked.Add(uint64(len(records)))
		}
		if at = to; at != s.tail && s.ack(at) != nil {
			return true
		}
	}
	_ = s.renew() // at worst it is sent again, and stored once
	return true
}
