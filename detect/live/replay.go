package live

import (
	"context"
	"log/slog"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// ReplayConfig says what to replay.
type ReplayConfig struct {
	Rules []detect.Rule
	// From and To bound the times of receipt; From is part of it, To is not, and is at
	// most now. What is received before From, as far back as Warm, is read too, so that
	// the detectors know what is usual; what opened in it is not told.
	From, To time.Time
	Warm     time.Duration
	Seed     uint64
	Now      func() time.Time
	Log      *slog.Logger
}

// Replay runs rules over stored events and calls tell with every version of what they
// find, in order. Rules that had seen the same events live told the same, with the
// same ids; those that had seen more, longer ago, may know better what is usual.
// Nothing is written.
func Replay(ctx context.Context, s History, c ReplayConfig, tell func(detect.Change)) (detect.Counts, error) {
	from, to := c.From.UnixMicro(), c.To.UnixMicro()
	engine := detect.New(c.Rules, c.Seed, func(x detect.Change) {
		if x.OpenedAt >= from {
			tell(x)
		}
	})
	first := c.From.Add(-c.Warm).UnixMicro()
	f := newFollower(s, c.Log, c.Now, nil, time.UnixMicro(first))
	f.patient = 0 // what lacks in the past does not come
	logs, err := s.Logs(ctx)
	if err != nil {
		return detect.Counts{}, err
	}
	ends := map[string]uint64{}
	for _, l := range logs {
		last, err := s.SealedBefore(ctx, l.ID, c.To)
		if err != nil {
			return detect.Counts{}, err
		}
		// What was received before To may be sealed after it.
		next, err := s.SealedAfter(ctx, map[string]uint64{l.ID: last}, sealedLater)
		if err != nil {
			return detect.Counts{}, err
		}
		for _, b := range next {
			last = b.Batch
		}
		ends[l.ID] = last
	}
	f.stopAt(ends)
	if err := drain(ctx, f, func(events []*event.Event) {
		for _, e := range events {
			if e.ReceivedAt >= first && e.ReceivedAt < to {
				engine.Add(e)
			}
		}
	}); err != nil {
		return engine.Counts(), err
	}
	engine.Advance(to)
	engine.TellOpen()
	return engine.Counts(), nil
}

// sealedLater is how many batches may be under way between receipt and sealing: some
// of each month in which events expire.
const sealedLater = 100
