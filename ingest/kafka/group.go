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

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// generation is what the group has given this member until the next rebalance.
type generation struct {
	s      *Source
	id     int32
	me     string // member id
	mine   []*partition
	tenure *ingest.Tenure

	// foreign are the batches that others had stored and not sealed when this one
	// began: what this member takes for stored may be in them. No offset is committed
	// before they are sealed.
	foreign []store.BatchID
	warned  time.Time
	asked   time.Time

	fenced atomic.Bool // the group has gone on without this member
}

// generation works on what g assigns until g ends, and returns when all that was under
// way is settled and committed, or given up. It says how many partitions there were.
func (s *Source) generation(ctx context.Context, g *kafka.Generation) int {
	x := &generation{s: s, id: g.ID, me: g.MemberID, tenure: ingest.NewTenure(s.cfg.SessionTimeout / 6)}
	for _, a := range g.Assignments[s.cfg.Topic] {
		x.mine = append(x.mine, newPartition(x, a.ID))
	}
	s.d.Watch.Assigned(len(x.mine))
	s.leads.Store(slices.ContainsFunc(x.mine, func(p *partition) bool { return p.id == 0 }))
	defer s.leads.Store(false)
	if len(x.mine) > 0 || s.begun {
		s.d.Log.Info("kafka: partitions are assigned", "topic", s.cfg.Topic, "group", s.cfg.Group, "generation", g.ID, "partitions", len(x.mine))
	}
	s.begun = s.begun || len(x.mine) > 0
	if len(x.mine) == 0 {
		s.lookForTopic(ctx)
	}
	ended := make(chan struct{})
	// kafka-go joins the next generation when this function has returned.
	g.Start(func(over context.Context) {
		defer close(ended)
		x.run(ctx, over)
	})
	<-ended
	s.d.Watch.Assigned(0)
	return len(x.mine)
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
	// Three lives: fetching ends with ctx or the generation; working goes on until what
	// is under way is settled; alive until nothing of it is in the pipeline any more.
	outer := context.WithoutCancel(ctx)
	fetching, stop := context.WithCancel(outer)
	defer stop()
	for _, end := range []context.Context{ctx, over} {
		defer onEnd(end, stop)()
	}
	working, abandon := context.WithCancel(outer)
	defer abandon()
	alive, quit := context.WithCancel(outer)
	var beating sync.WaitGroup
	defer beating.Wait()
	defer quit()
	beating.Go(func() { x.beat(alive, abandon) })
	// In a rebalance the others wait for what is under way; at shutdown nobody does for
	// longer than a moment.
	late, enough := context.WithCancel(outer)
	defer enough()
	go func() {
		<-fetching.Done()
		select {
		case <-time.After(x.s.cfg.RebalanceTimeout - x.s.cfg.SessionTimeout/2):
		case <-late.Done():
		case <-ctx.Done():
			select {
			case <-time.After(shutdownTimeout):
			case <-late.Done():
			}
		}
		abandon()
		enough()
	}()
	// On every way out. Whoever is given the partitions next finds all of it in the store.
	defer x.tenure.Close(late)

	if !x.begin(fetching) {
		return
	}
	var reading sync.WaitGroup
	for _, p := range x.mine {
		reading.Go(func() { p.run(fetching, working) })
	}
	commit := time.NewTicker(x.s.cfg.CommitEvery)
	defer commit.Stop()
	for fetching.Err() == nil {
		select {
		case <-commit.C:
			x.commit(fetching)
		case <-fetching.Done():
		}
	}
	reading.Wait()
	if !x.fenced.Load() {
		x.commit(outer)
	}
}

// onEnd calls do when ctx ends; the returned function forgets that. It is for contexts
// of kafka-go, which context.AfterFunc would start a goroutine for that stays.
func onEnd(ctx context.Context, do func()) (forget func()) {
	quit := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			do()
		case <-quit:
		}
	}()
	return func() { close(quit) }
}

// begin prepares to read: what was known of emitters may be old, and what others have
// stored may not be sealed. It tries until it can, or ctx ends, and says whether it
// could.
func (x *generation) begin(ctx context.Context) bool {
	if !x.s.cfg.Shared || len(x.mine) == 0 {
		return true
	}
	for wait := firstWait; ; {
		try, cancel := context.WithTimeout(ctx, askTimeout)
		err := x.s.d.Pipeline.Forget(try)
		if err == nil {
			x.foreign, err = x.s.d.Store.UnsealedOfOthers(try, x.s.d.LogID, x.s.cfg.LostLogs)
		}
		cancel()
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			x.s.d.Log.Warn("kafka: before partitions are read it must be known what others have stored; it is tried again", "error", err)
		}
		if !pause(ctx, &wait) {
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
	var waiting time.Time // since when a rebalance may have been under way
	last := x.s.d.Now()
	for {
		from := x.s.d.Now()
		request, cancel := context.WithTimeout(ctx, cfg.SessionTimeout/3)
		err := x.heartbeat(request)
		cancel()
		switch {
		case err == nil:
			last, waiting = from, time.Time{}
			x.tenure.Extend(from.Add(cfg.SessionTimeout))
		case errors.Is(err, kafka.RebalanceInProgress):
			if waiting.IsZero() {
				waiting = last
			}
			until := from.Add(cfg.SessionTimeout)
			if end := waiting.Add(cfg.RebalanceTimeout); until.After(end) {
				until = end
			}
			x.tenure.Extend(until)
		case errors.Is(err, kafka.IllegalGeneration), errors.Is(err, kafka.UnknownMemberId), errors.Is(err, kafka.FencedInstanceID):
			// The group has gone on without us. What is under way may be somebody else's.
			x.fenced.Store(true)
			x.s.leads.Store(false)
			x.tenure.End()
			if ctx.Err() == nil {
				x.s.d.Log.Warn("kafka: the group has gone on without this member; what it had under way is read again", "group", cfg.Group, "generation", x.id)
			}
			abandon()
			return
		case ctx.Err() == nil:
			x.s.d.Watch.Failed() // no sign of life: the tenure runs out
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

const commitTimeout = 5 * time.Second

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
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	still, err := x.s.d.Store.UnsealedOfOthers(ctx, x.s.d.LogID, x.s.cfg.LostLogs)
	if err != nil {
		x.s.d.Watch.Held(len(x.mine))
		if now.Sub(x.warned) > time.Minute {
			x.warned = now
			x.s.d.Log.Warn("kafka: offsets are not committed while it can't be seen what others have sealed", "error", err)
		}
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
