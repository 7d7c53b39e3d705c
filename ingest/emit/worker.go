package emit

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/wire"
)

// work is the only goroutine that writes the spool.
func (e *Emitter) work() {
	const soonest, latest = 5 * time.Second, 5 * time.Minute
	wait := soonest
	report := time.NewTimer(wait)
	defer report.Stop()
	for {
		select {
		case r := <-e.queue:
			e.keep(e.gather(r))
		case <-report.C:
			// A loss becomes an event also when nothing else is emitted; while it
			// lasts, less and less often.
			if e.keep(nil) && e.fault.Load() {
				wait = min(2*wait, latest)
			} else {
				wait = soonest
			}
			report.Reset(wait)
		case <-e.alarmed:
			e.keep(nil)
		case <-e.closing:
			for {
				select {
				case r := <-e.queue:
					e.keep(e.gather(r))
				default:
					e.keep(nil)
					return
				}
			}
		}
	}
}

// gather takes what comes within the linger time, so that a burst is written
// and synced together.
func (e *Emitter) gather(first Record) []Record {
	records := []Record{first}
	linger := time.NewTimer(e.cfg.Linger)
	defer linger.Stop()
	for len(records) < 500 {
		select {
		case r := <-e.queue:
			records = append(records, r)
		case <-linger.C:
			return records
		case <-e.closing:
			select {
			case r := <-e.queue:
				records = append(records, r)
			default:
				return records
			}
		}
	}
	return records
}

// make makes what a record stands for. The types that it reads are the server's:
// should one panic, the audited server goes on.
func (e *Emitter) make(r Record) (records []Record) {
	if r.Make == nil {
		return []Record{r}
	}
	defer func() {
		if p := recover(); p != nil {
			e.log.Error("an audit event could not be made; it is lost", "panic", fmt.Sprintf("%T", p))
			e.lost.Add(1)
			records = nil
		}
	}()
	return r.Make()
}

// keep redacts records and appends them to the spool, with a report of what was
// lost before them and of contradictions. A sequence number is used up only by an event that is in the
// spool. It says whether there was anything to write.
func (e *Emitter) keep(records []Record) bool {
	var data [][]byte
	add := func(r Record) {
		d, err := e.encode(r, e.spool.nextSeq+uint64(len(data)))
		if err != nil {
			e.log.Error("encoding an audit event; it is lost", "error", err)
			e.lost.Add(1)
			return
		}
		data = append(data, d)
	}
	lost := e.lost.Load() - e.reported
	if lost > 0 {
		add(e.lossRecord(lost))
	}
	reports := uint64(len(data))
	alarms := e.takeAlarms()
	for _, c := range alarms {
		add(c.record(e.cfg.Base, e.cfg.Name))
	}
	own := uint64(len(data))
	for i, r := range records {
		if e.hurried() {
			e.lost.Add(uint64(len(records) - i))
			break
		}
		for _, m := range e.make(r) {
			add(m)
		}
	}
	if len(data) > 0 {
		if e.append(data, records == nil) {
			e.reported += lost * reports
		} else {
			e.lost.Add(uint64(len(data)) - own)
			e.returnAlarms(alarms)
		}
	}
	for _, r := range records {
		e.room.Release(r.weight())
	}
	e.kept.Add(uint64(len(records)))
	return len(data) > 0
}

func (e *Emitter) hurried() bool {
	select {
	case <-e.hurry:
		return true
	default:
		return false
	}
}

// encode makes a record the event that leaves this process: nothing raw is left
// in it.
func (e *Emitter) encode(r Record, seq uint64) ([]byte, error) {
	ev := r.Event
	seen := ev.Signals
	e.redact.Apply(redact.Call{Server: ev.Server, Method: ev.Method, Target: ev.Target,
		Arguments: r.Arguments, Result: r.Result, ErrorMessage: ev.ErrorMessage}, ev)
	if r.Dropped != "" {
		ev.RedactionError = r.Dropped
	}
	ev.Signals = append(ev.Signals, seen...)
	slices.Sort(ev.Signals)
	ev.Signals = slices.Compact(ev.Signals)
	ev.Clip()          // bounds the work of the next line
	e.redact.Again(ev) // the target, the labels and what else is text
	ev.EmitterID, ev.EmitterSeq = e.spool.emitter, seq
	if ev.EventID == (event.ID{}) {
		var noise [10]byte
		rand.Read(noise[:])
		ev.EventID = event.NewID(e.cfg.Now(), noise)
	}
	if at := time.UnixMicro(ev.OccurredAt).UTC(); at.Year() < 2000 || at.Year() >= 2200 {
		// A machine whose clock was never set: what happened is worth more than when.
		ev.OccurredAt = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		ev.Labels = append(ev.Labels, event.Label{Key: "clock", Value: "not set: " + at.Format(time.RFC3339)})
	}
	ev.SetDefaults()
	ev.Clip()
	if err := ev.Check(); err != nil {
		return nil, err // the service would refuse it, and nobody would hear of it
	}
	return proto.Marshal(wire.ToProto(ev))
}

// append writes events to the spool. A report of losses alone may use a little
// more than the limit: it is what the limit's loss has to be told by.
func (e *Emitter) append(data [][]byte, lossAlone bool) bool {
	extra := int64(0)
	if lossAlone {
		extra = lossRoom
	}
	e.mu.Lock()
	err := e.spool.append(data, extra)
	if err == nil {
		e.pending.Add(int64(len(data)))
	}
	e.mu.Unlock()
	if failed := err != nil; (failed || !lossAlone) && e.fault.Swap(failed) != failed {
		if failed {
			e.log.Error("audit events are lost until the spool takes them again", "spool", e.spool.dir, "error", err)
		} else {
			e.log.Info("the spool takes audit events again")
		}
	}
	if err != nil {
		return false
	}
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return true
}

// lossRecord tells the service that events were lost here: a loss is never
// silent.
func (e *Emitter) lossRecord(n uint64) Record {
	ev := e.cfg.Base
	ev.OccurredAt, ev.Kind, ev.Method, ev.Hints = e.cfg.Now().UnixMicro(), "other", "mcpaudit/lost", event.DefaultHints
	ev.Server = cmp.Or(ev.Server, e.cfg.Name)
	ev.Outcome, ev.ErrorMessage = "protocol_error", fmt.Sprintf("%d audit events of this emitter were lost before this one; its own log says why", n)
	ev.Labels = []event.Label{{Key: "lost", Value: strconv.FormatUint(n, 10)}}
	return Record{Event: &ev}
}
