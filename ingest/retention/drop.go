package retention

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// month is the events that expire in one month, which has come.
type month struct {
	days          uint16   // days since 1970-01-01 to its first
	logs          []string // those that have events in it
	dropped, held uint64
	bytes         uint64 // on disk, before
	first, last   time.Time
}

func (m month) name() string { return monthName(m.days) }

func monthName(days uint16) string {
	return time.Unix(int64(days)*86400, 0).UTC().Format("2006-01")
}

// expired are the months that have come and have events, oldest first.
func (s *Server) expired(ctx context.Context, holds []hold) ([]month, error) {
	today := uint16(min(max(s.now().Unix()/86400, 0), math.MaxUint16))
	found, err := s.store.Expiring(ctx, today)
	if err != nil {
		return nil, err
	}
	var months []month
	for _, f := range found {
		if len(months) == 0 || months[len(months)-1].days != f.Month {
			m := month{days: f.Month, first: f.First, last: f.Last}
			if m.bytes, _, err = s.store.MonthSize(ctx, f.Month); err != nil {
				return nil, err
			}
			months = append(months, m)
		}
		m := &months[len(months)-1]
		events, held, _, err := s.store.CountHeld(ctx, store.Share{LogID: f.LogID, Month: f.Month, Before: math.MaxUint64}, conditions(holds))
		if err != nil {
			return nil, err
		}
		m.logs = append(m.logs, f.LogID)
		m.dropped, m.held = m.dropped+events-held, m.held+held
		if f.First.Before(m.first) {
			m.first = f.First
		}
		if f.Last.After(m.last) {
			m.last = f.Last
		}
	}
	return months, nil
}

// errElsewhere is about one of several instances that share a store.
var errElsewhere = refuse(codes.FailedPrecondition, "drop what has expired: of the instances that share this store, the one that reads partition 0 of the topic does that, and it is not this one; ask the others")

// apply drops what has expired.
func (s *Server) apply(ctx context.Context, by who) ([]month, error) {
	if s.cfg.Mine != nil && !s.cfg.Mine() {
		return nil, errElsewhere
	}
	end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := s.store.Unstage(ctx); err != nil { // of a run that was killed
		return nil, err
	}
	holds, err := s.active(ctx)
	if err != nil {
		return nil, err
	}
	months, err := s.expired(ctx, holds)
	if err != nil || !slices.ContainsFunc(months, func(m month) bool { return m.dropped > 0 }) {
		return months, err
	}
	if err := s.sane(ctx, by); err != nil {
		return nil, err
	}
	for i := range months {
		if months[i].dropped == 0 {
			continue
		}
		if err := s.drop(ctx, &months[i], holds, by); err != nil {
			return nil, err
		}
	}
	return months, nil
}

// dropping is the drop of a log's share of a month. It goes through these states, and
// verify calls the store right in each:
//
//	nothing is done        what was written of it, the next run writes again
//	its entry is recorded  all events are there: the next run makes the same proofs of
//	                       them, sees that they are the entry's, and goes on
//	the proofs are kept    all events are there: likewise
//	the month is reduced   by one statement of the engine, to what the proofs are of
//
// When other holds are active by then, the next run's entry takes the place of the
// one that was not carried out.
type dropping struct {
	store.Share
	ledger.Drop
	entry uint64 // its number; 0 when it is not recorded
	held  store.Condition
	kept  *proofs
}

// drop drops a month's events, all that are sealed, but for those under a hold.
func (s *Server) drop(ctx context.Context, m *month, holds []hold, by who) error {
	var all []*dropping
	var err error
	m.dropped = 0
	for _, logID := range m.logs {
		if err = s.whole(ctx, logID, m.days); err != nil {
			break
		}
	}
	for _, logID := range m.logs {
		if err != nil {
			break
		}
		var d *dropping
		if d, err = s.recorded(ctx, logID, m.days, holds, by); err != nil {
			break
		}
		if d.Events > 0 {
			all = append(all, d)
			m.dropped += d.Events
		}
	}
	for i := 0; i < len(all) && err == nil; i++ {
		err = s.keep(ctx, all[i])
	}
	if err == nil && len(all) > 0 {
		err = s.reduce(ctx, m.days, all)
	}
	for _, d := range all {
		s.note(ctx, deed{method: "mcpaudit/retention", target: m.name(), by: by, err: err, labels: map[string]string{
			"log": d.LogID, "dropped": fmt.Sprint(d.Events), "held": fmt.Sprint(d.Kept), "entry": fmt.Sprint(d.entry)}})
		if err == nil {
			s.log.Info("retention: dropped what has expired", "month", m.name(), "log", d.LogID, "dropped", d.Events, "held", d.Kept, "entry", d.entry, "by", by.words)
		}
	}
	if err != nil && len(all) == 0 {
		s.note(ctx, deed{method: "mcpaudit/retention", target: m.name(), by: by, err: err})
	}
	return err
}

// named is how an entry of this instance's log names a log.
func (s *Server) named(logID string) string {
	if logID == s.cfg.LogID {
		return ""
	}
	return logID
}

// recorded is the drop of a log's share of a month, with its entry in the ledger
// unless it has no events.
func (s *Server) recorded(ctx context.Context, logID string, days uint16, holds []hold, by who) (*dropping, error) {
	d, err := s.begun(ctx, logID, days, holds)
	if d != nil || err != nil {
		return d, err
	}
	last, err := s.store.LastEntry(ctx, logID)
	if err != nil {
		return nil, err
	}
	if last == nil {
		return nil, refuse(codes.FailedPrecondition, "drop what expires in %s: it has events of log %q, which has no entries. Nothing of the month is dropped; see what is wrong with 'mcpaudit verify'", monthName(days), event.ClipText(logID, event.MaxID))
	}
	if d, err = s.prepare(ctx, logID, days, last.Entry.Batch+1, holds); err != nil || d.Events == 0 {
		return d, err
	}
	d.Log, d.By = s.named(logID), by.words
	for {
		if d.entry, err = s.record.Record(ctx, ledger.KindDrop, ledger.Detail(d.Drop)); err != nil {
			return nil, fmt.Errorf("record the drop of what expires in %s: %w", monthName(days), err)
		}
		if d.Log == "" || d.Kept == 0 {
			return d, nil
		}
		// What is kept goes by the log that it is of and the entry's number. That log
		// may have used the number itself, when it was written.
		if have, err := s.store.KeptProofs(ctx, logID, d.entry); err != nil || len(have) == 0 {
			return d, err
		}
	}
}

// begun is the newest drop of a log's share of a month that is recorded and not
// carried out; nil when there is none, or when other events are held by now.
func (s *Server) begun(ctx context.Context, logID string, days uint16, holds []hold) (*dropping, error) {
	entries, err := s.store.Acts(ctx, ledger.KindDrop)
	if err != nil {
		return nil, err
	}
	for _, e := range slices.Backward(entries) {
		var r ledger.Drop
		if err := ledger.ParseDetail(e.Detail, &r); err != nil {
			return nil, fmt.Errorf("entry %d of log %q: %w; see what is wrong with 'mcpaudit verify'", e.Batch, e.LogID, err)
		}
		if cmp.Or(r.Log, e.LogID) != logID || r.Month != days {
			continue
		}
		d, err := s.prepare(ctx, logID, days, r.Before, holds)
		if err != nil {
			return nil, err
		}
		// What was carried out has no events to drop any more.
		if d.Events == 0 || d.Events != r.Events || d.Kept != r.Kept || d.KeptDigest != r.KeptDigest {
			return nil, nil
		}
		d.Drop, d.entry = r, e.Batch
		return d, nil
	}
	return nil, nil
}

// prepare says what a drop of a share drops and keeps.
func (s *Server) prepare(ctx context.Context, logID string, days uint16, before uint64, holds []hold) (*dropping, error) {
	d := &dropping{Share: store.Share{LogID: logID, Month: days, Before: before}, kept: &proofs{}}
	d.held, _ = store.AnyOf(conditions(holds))
	events, held, each, err := s.store.CountHeld(ctx, d.Share, conditions(holds))
	if err != nil {
		return nil, err
	}
	d.Drop = ledger.Drop{Month: days, Before: before, Events: events - held, Kept: held}
	if held == 0 || d.Events == 0 {
		return d, nil
	}
	positions, err := s.store.Held(ctx, d.Share, d.held)
	if err != nil {
		return nil, err
	}
	if d.kept, err = s.prove(ctx, d.Share, positions); err != nil {
		return nil, err
	}
	if d.kept.events != held {
		return nil, fmt.Errorf("drop what expires in %s: %d events are held, and then %d; try again", monthName(days), held, d.kept.events)
	}
	d.KeptDigest = d.kept.digest()
	for i, h := range holds {
		if each[i] > 0 {
			d.Holds = append(d.Holds, h.ID)
		}
	}
	return d, nil
}

// keep stores the proofs, unless an earlier run has.
func (s *Server) keep(ctx context.Context, d *dropping) error {
	if d.Kept == 0 {
		return nil
	}
	have, err := s.store.KeptProofs(ctx, d.LogID, d.entry)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		return s.store.Keep(ctx, d.LogID, d.entry, d.kept.batches, d.kept.bytes)
	}
	if stored := (&proofs{bytes: have}); stored.digest() != d.KeptDigest {
		return refuse(codes.FailedPrecondition, "drop what expires in %s: the proofs that are stored for entry %d of log %q are not its own. Nothing is dropped; see what is wrong with 'mcpaudit verify'",
			monthName(d.Drop.Month), d.entry, d.LogID)
	}
	return nil
}

// reduce removes the events. Those that no drop concerns stay: of batches that came
// since then, which there are when the clock was set back, and of logs of which
// nothing is dropped.
func (s *Server) reduce(ctx context.Context, days uint16, all []*dropping) error {
	_, total, err := s.store.MonthSize(ctx, days)
	if err != nil {
		return err
	}
	stay, kept := total, uint64(0)
	var shares []store.Share
	for _, d := range all {
		stay, kept, shares = stay-d.Events, kept+d.Kept, append(shares, d.Share)
	}
	if stay == 0 {
		return s.unlessDone(ctx, days, stay, s.store.DropMonth(ctx, days))
	}
	if err := s.store.Stage(ctx); err != nil {
		return err
	}
	for _, d := range all {
		for from := 0; from < len(d.kept.batches); from += proveBatches {
			some := d.kept.batches[from:min(from+proveBatches, len(d.kept.batches))]
			if err := s.store.StageHeld(ctx, d.Share, some[0], some[len(some)-1], d.held); err != nil {
				return err
			}
		}
	}
	if stay > kept {
		if err := s.store.StageOthers(ctx, days, shares); err != nil {
			return err
		}
	}
	staged, err := s.store.Staged(ctx)
	if err != nil {
		return err
	}
	_, after, err := s.store.MonthSize(ctx, days)
	if err != nil {
		return err
	}
	if staged != stay || after != total {
		return fmt.Errorf("drop what expires in %s: %d events stay of %d, but %d were copied of %d; is the clock right? The next run finishes it", monthName(days), stay, total, staged, after)
	}
	for _, d := range all {
		if err := s.checkStaged(ctx, d.Share, d.kept); err != nil {
			return err
		}
	}
	if err := s.unlessDone(ctx, days, stay, s.store.ReplaceMonth(ctx, days)); err != nil {
		return err
	}
	return s.store.Unstage(ctx)
}

// unlessDone is the error of the statement that reduces a month, unless that was
// carried out nevertheless: then a later run would find nothing to do, and nobody
// would be told.
func (s *Server) unlessDone(ctx context.Context, days uint16, stay uint64, err error) error {
	if err == nil {
		return nil
	}
	if _, left, look := s.store.MonthSize(ctx, days); look != nil || left != stay {
		return err
	}
	s.log.Warn("retention: the store reported an error, and has done it", "month", monthName(days), "error", err)
	return nil
}
