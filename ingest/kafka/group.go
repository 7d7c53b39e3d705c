package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// generation is what the group has given this member until the next rebalance.
type generation struct {
	s    *Source
	id   int32
	me   string // member id
	mine []*partition

	// foreign are the batches that others had stored and not sealed when this one
	// began: what this member takes for stored may be in them. No offset is committed
	// before they are sealed.
	foreign []store.BatchID
	warned  time.Time
	asked   time.Time

	fenced atomic.Bool // the group has gone on without this member
}

// generation works on what g assigns until g ends, and returns when all that was under
// way is settled and committed, or given up. The error is one that trying again does
// not mend.
func (s *Source) generation(ctx context.Context, g *kafka.Generation) error {
	x := &generation{s: s, id: g.ID, me: g.MemberID}
	for _, a := range g.Assignments[s.cfg.Topic] {
		x.mine = append(x.mine, newPartition(s, a.ID))
	}
	s.d.Watch.Assigned(len(x.mine))
	s.leads.Store(slices.ContainsFunc(x.mine, func(p *partition) bool { return p.id == 0 }))
	defer s.leads.Store(false)
	if len(x.mine) > 0 || s.begun {
		s.d.Log.Info("kafka: partitions are assigned", "topic", s.cfg.Topic, "group", s.cfg.Group, "generation", g.ID, "partitions", len(x.mine))
	}
	s.begun = s.begun || len(x.mine) > 0
	s.lookForTopic(ctx)
	ended := make(chan struct{})
	// kafka-go joins the next generation when this function has returned.
	g.Start(func(over context.Context) {
		defer close(ended)
		x.run(ctx, over)
	})
	<-ended
	s.d.Watch.Assigned(0)
	return nil
}

// lookForTopic says, once, when there is no topic to read.
func (s *Source) lookForTopic(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := s.client.Metadata(ctx, &kafka.MetadataRequest{Addr: s.client.Addr, Topics: []string{s.cfg.Topic}})
	missing := err == nil && len(answer.Topics) == 1 && errors.Is(answer.Topics[0].Error, kafka.UnknownTopicOrPartition)
	if missing && !s.missing {
		s.d.Log.Error("kafka: the topic does not exist; make it, or name another one in kafka.topic. It is looked for again", "topic", s.cfg.Topic)
	}
	s.missing = missing
}

// run reads the partitions until ctx or the generation is over.
func (x *generation) run(ctx, over context.Context) {
	fetching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	working, abandon := context.WithCancel(context.WithoutCancel(ctx)) // outlives fetching
	defer abandon()

	var beating sync.WaitGroup
	defer beating.Wait()
	alive, quit := context.WithCancel(working)
	defer quit()
	beating.Go(func() { x.beat(alive, abandon) })

	if !x.begin(fetching, over, ctx) {
		return
	}
	var reading sync.WaitGroup
	for _, p := range x.mine {
		reading.Go(func() { p.run(fetching, working) })
	}
	drained := make(chan struct{})
	go func() { reading.Wait(); close(drained) }()

	commit := time.NewTicker(x.s.cfg.CommitEvery)
	defer commit.Stop()
	for done := ctx.Done(); ; {
		select {
		case <-commit.C:
			x.commit(working)
			continue
		case <-done:
		case <-over.Done():
		case <-drained: // of its own accord only when there is nothing to read
			if len(x.mine) == 0 {
				select {
				case <-done:
				case <-over.Done():
				}
			}
		}
		break
	}
	stop()
	<-drained
	if !x.fenced.Load() {
		x.commit(working)
	}
	// The offsets are committed: whoever is given the partitions next goes on there.
	x.s.tenure.End()
}

// begin prepares to read: what was known of emitters may be old, and what others have
// stored may not be sealed. It tries until it can, and says whether it could.
func (x *generation) begin(ctx, over, outer context.Context) bool {
	if !x.s.cfg.Shared || len(x.mine) == 0 {
		return true
	}
	for wait := firstWait; ; {
		err := x.s.d.Pipeline.Forget(ctx)
		if err == nil {
			x.foreign, err = x.s.d.Store.UnsealedOfOthers(ctx, x.s.d.LogID, x.s.cfg.LostLogs)
		}
		if err == nil {
			return true
		}
		x.s.d.Log.Warn("kafka: before partitions are read it must be known what others have stored; it is tried again", "error", err)
		select {
		case <-over.Done():
			return false
		default:
		}
		if !pause(outer, &wait) {
			return false
		}
	}
}

// beat extends the tenure while the group counts on this member: from each sign of
// life on, nobody else is given its partitions for SessionTimeout. While a rebalance
// waits for this member it lasts on, but no longer than the others wait.
func (x *generation) beat(ctx context.Context, abandon func()) {
	cfg := x.s.cfg
	every := time.NewTicker(cfg.SessionTimeout / 20)
	defer every.Stop()
	asked := kafka.HeartbeatRequest{Addr: x.s.client.Addr, GroupID: cfg.Group, GenerationID: x.id, MemberID: x.me}
	var waiting time.Time // since when a rebalance may have been under way
	last := x.s.d.Now()
	for {
		from := x.s.d.Now()
		request, cancel := context.WithTimeout(ctx, cfg.SessionTimeout/3)
		answer, err := x.s.client.Heartbeat(request, &asked)
		cancel()
		if err == nil {
			err = answer.Error
		}
		switch {
		case err == nil:
			last, waiting = from, time.Time{}
			x.s.tenure.Extend(from.Add(cfg.SessionTimeout))
		case errors.Is(err, kafka.RebalanceInProgress):
			if waiting.IsZero() {
				waiting = last
			}
			until := from.Add(cfg.SessionTimeout)
			if end := waiting.Add(cfg.RebalanceTimeout); until.After(end) {
				until = end
			}
			x.s.tenure.Extend(until)
		case errors.Is(err, kafka.IllegalGeneration), errors.Is(err, kafka.UnknownMemberId), errors.Is(err, kafka.MemberIDRequired):
			// The group has gone on without us. What is under way may be somebody else's.
			x.fenced.Store(true)
			x.s.leads.Store(false)
			x.s.tenure.End()
			if ctx.Err() == nil {
				x.s.d.Log.Warn("kafka: the group has gone on without this member; what it had under way is read again", "group", cfg.Group, "generation", x.id)
			}
			abandon()
			return
		case ctx.Err() == nil:
			x.s.d.Watch.Failed()
		}
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// commit commits how far each partition is settled, with what was last read before.
func (x *generation) commit(ctx context.Context) {
	if !x.sealed(ctx) {
		return
	}
	var offsets []kafka.OffsetCommit
	done := map[int]position{}
	for _, p := range x.mine {
		if at, changed := p.uncommitted(); changed {
			offsets = append(offsets, kafka.OffsetCommit{Partition: p.id, Offset: at.next, Metadata: at.metadata()})
			done[p.id] = at
		}
	}
	if len(offsets) == 0 {
		return
	}
	slices.SortFunc(offsets, func(a, b kafka.OffsetCommit) int { return a.Partition - b.Partition })
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	answer, err := x.s.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{Addr: x.s.client.Addr, GroupID: x.s.cfg.Group,
		GenerationID: int(x.id), MemberID: x.me, Topics: map[string][]kafka.OffsetCommit{x.s.cfg.Topic: offsets}})
	if err == nil {
		for _, p := range answer.Topics[x.s.cfg.Topic] {
			if p.Error != nil {
				err = fmt.Errorf("partition %d: %w", p.Partition, p.Error)
				delete(done, p.Partition)
			}
		}
	} else {
		clear(done)
	}
	for _, p := range x.mine {
		if at, ok := done[p.id]; ok {
			p.committed(at)
		}
	}
	x.s.d.Watch.Committed(err == nil)
	if err != nil && ctx.Err() == nil {
		x.s.d.Log.Warn("kafka: committing offsets; they are committed with the next ones", "partitions", len(offsets), "error", err)
	}
}

const commitTimeout = 10 * time.Second

// sealed says whether what others had stored when this generation began is sealed by
// now. Until then nothing is committed: should they never come back, it is not sealed
// by anybody, and must stay in the topic.
func (x *generation) sealed(ctx context.Context) bool {
	if len(x.foreign) == 0 {
		return true
	}
	now := x.s.d.Now()
	if now.Sub(x.asked) < min(time.Second, x.s.cfg.CommitEvery) {
		return false
	}
	x.asked = now
	still, err := x.s.d.Store.UnsealedOfOthers(ctx, x.s.d.LogID, x.s.cfg.LostLogs)
	if err != nil {
		return false
	}
	x.foreign = slices.DeleteFunc(x.foreign, func(b store.BatchID) bool { return !slices.Contains(still, b) })
	if len(x.foreign) == 0 {
		x.s.d.Watch.Held(0)
		return true
	}
	x.s.d.Watch.Held(len(x.mine))
	if now.Sub(x.warned) > time.Minute {
		x.warned = now
		logs := map[string]bool{}
		for _, b := range x.foreign {
			logs[b.LogID] = true
		}
		x.s.d.Log.Warn("kafka: offsets are not committed yet: an instance has stored events and ended before it sealed them. They are safe, and sealed when it is started again; "+
			"if it is lost for good, with its key, name its log in kafka.lost_logs", "logs", slices.Sorted(maps.Keys(logs)), "batches", len(x.foreign))
	}
	return false
}
