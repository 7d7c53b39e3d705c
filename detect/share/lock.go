package share

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/mcpaudit/mcpaudit/ingest/broker"
)

// Lock says by which consumer group instances agree on who does which share.
type Lock struct {
	Broker broker.Config
	Topic  string // it needs a partition for each share; nothing is read from it
	Group  string // of the instances of this store's detectors alone
	// Session is for how long an instance is waited for that does not answer, before
	// its shares are given to others; default 15 s. Brokers have bounds for it
	// (group.min.session.timeout.ms, 6 s unless it was changed).
	Session time.Duration
}

const leastSession, longestSession = time.Second, 30 * time.Minute

func (l *Lock) session() time.Duration { return cmp.Or(l.Session, 15*time.Second) }

// The parts of a session, which together are less than it: so an instance that does
// not reach the brokers has stopped when its shares are given away. A heartbeat that
// was answered, and the next one that is not; then what it takes to stop.
func (l *Lock) heartbeat() time.Duration  { return l.session() / 15 }
func (l *Lock) request() time.Duration    { return l.session() / 5 }
func (l *Lock) stopWithin() time.Duration { return l.session() / 2 }

// longestFreeze is after what pause a share is given up unasked.
func (l *Lock) longestFreeze() time.Duration { return l.session() / 2 }

func (l *Lock) validate() error {
	if err := l.Broker.Validate(); err != nil {
		return fmt.Errorf("detect: the brokers of the group: %w", err)
	}
	if l.Topic == "" || l.Group == "" {
		return errors.New("detect: instances that share the work need a topic and a group")
	}
	if s := l.session(); s < leastSession || s > longestSession {
		return fmt.Errorf("detect: the session of the group is %v, and may be %v to %v", s, leastSession, longestSession)
	}
	return nil
}

// ErrFewPartitions means that the topic has not got a partition for each share.
var ErrFewPartitions = errors.New("there are too few partitions")

// run calls do for each share that this process is given, until ctx ends or until the
// share is given up: then the context of do ends, and do has to return. The group does
// not go on before it has.
func (l *Lock) run(ctx context.Context, shares int, log *slog.Logger, do func(ctx context.Context, share int, w *watch)) error {
	if err := l.enoughPartitions(ctx, shares, log); err != nil {
		return ended(ctx, err)
	}
	dialer, err := l.Broker.Dialer()
	if err != nil {
		return err
	}
	group, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID: l.Group, Brokers: l.Broker.Brokers, Dialer: dialer, Topics: []string{l.Topic}, GroupBalancers: []kafka.GroupBalancer{evenly{shares}},
		HeartbeatInterval: l.heartbeat(), SessionTimeout: l.session(), RebalanceTimeout: l.session(), JoinGroupBackoff: l.heartbeat(), Timeout: l.request(),
	})
	if err != nil {
		return fmt.Errorf("share detection in group %q: %w", l.Group, err)
	}
	defer func() { _ = group.Close() }() // leaves: others need not wait for the session to end
	away := false
	for {
		g, err := group.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, kafka.InconsistentGroupProtocol):
			log.Error("detection waits: another instance of the group has another number of shares; give all the same detect.shards", "group", l.Group, "shares", shares)
			continue
		case errors.Is(err, kafka.RebalanceInProgress):
			continue
		case err != nil:
			if !away {
				log.Warn("detection waits for its group", "group", l.Group, "error", err)
			}
			away = true
			continue
		}
		away = false
		var mine []int
		for _, a := range g.Assignments[l.Topic] {
			if a.ID < shares {
				mine = append(mine, a.ID)
			}
		}
		slices.Sort(mine)
		log.Info("detection is shared", "mine", mine, "of", shares, "generation", g.ID)
		if len(mine) == 0 {
			continue // it stands by; the generation lives by its heartbeats
		}
		// It ends with the process's context too: the group waits for it when it closes.
		g.Start(func(generation context.Context) { l.hold(ctx, generation, mine, log, do) })
	}
}

// hold does the shares of one generation.
func (l *Lock) hold(ctx, generation context.Context, mine []int, log *slog.Logger, do func(context.Context, int, *watch)) {
	if generation.Err() != nil {
		return // the group does not wait for what is started then
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The generation's own context can't be waited for in the usual way: it has no
	// values and no deadline, but it has Done.
	defer context.AfterFunc(generation, cancel)()
	w := newWatch(l.longestFreeze(), time.Now, func() {
		log.Warn("this instance was frozen; it gives up its shares of detection, and joins again", "for_more_than", l.longestFreeze())
		cancel()
	})
	var all sync.WaitGroup
	for _, n := range mine {
		all.Go(func() { do(ctx, n, w) })
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	var watcher sync.WaitGroup
	watcher.Go(func() { w.run(watching) })
	all.Wait()
	stop()
	watcher.Wait()
}

// enoughPartitions looks whether each share can be given to somebody. Brokers that
// are away are asked again.
func (l *Lock) enoughPartitions(ctx context.Context, shares int, log *slog.Logger) error {
	transport, err := l.Broker.Transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: l.Broker.Addr(), Timeout: l.request(), Transport: transport}
	for try := 0; ; try++ {
		have, err := partitions(ctx, client, l.Topic)
		switch {
		case err == nil && have < shares:
			return fmt.Errorf("share detection: topic %q has %d partitions, and detect.shards is %d: %w; give the topic more, or detect.shards a smaller number, the same on all instances",
				l.Topic, have, shares, ErrFewPartitions)
		case err == nil:
			return nil
		case errors.Is(err, kafka.UnknownTopicOrPartition):
			if try >= 3 { // it may have been made just now
				return fmt.Errorf("share detection: there is no topic %q; make it, with %d partitions or more", l.Topic, shares)
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case try == 0:
			log.Warn("detection waits for the brokers", "brokers", l.Broker.String(), "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(l.heartbeat()):
		}
	}
}

func partitions(ctx context.Context, client *kafka.Client, topic string) (int, error) {
	resp, err := client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return 0, err
	}
	for _, t := range resp.Topics {
		if t.Name == topic {
			return len(t.Partitions), t.Error
		}
	}
	return 0, kafka.UnknownTopicOrPartition
}

// ended is no error when the process is to end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to end
	}
	return err
}

// evenly gives each member of a group as many shares as the others, or one more. Its
// name has the number of shares: members that have another one are refused by the
// coordinator.
type evenly struct{ shares int }

func (e evenly) ProtocolName() string      { return "mcpaudit-detect-" + strconv.Itoa(e.shares) }
func (e evenly) UserData() ([]byte, error) { return nil, nil }

// AssignGroups implements kafka.GroupBalancer. Partitions that are no shares go to
// nobody.
func (e evenly) AssignGroups(members []kafka.GroupMember, partitions []kafka.Partition) kafka.GroupMemberAssignments {
	out := kafka.GroupMemberAssignments{}
	ids := make([]string, 0, len(members))
	for _, m := range members {
		ids = append(ids, m.ID)
		out[m.ID] = map[string][]int{}
	}
	if len(ids) == 0 {
		return out
	}
	slices.Sort(ids)
	for _, p := range partitions {
		if p.ID < e.shares {
			m := out[ids[p.ID%len(ids)]]
			m[p.Topic] = append(m[p.Topic], p.ID)
		}
	}
	return out
}
