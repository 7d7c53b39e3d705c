package kafka_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
)

// producing writes numbered events of some emitters until it is told to stop, and then
// says how many of each there are.
type producing struct {
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	want map[string]uint64
}

func produce(t *testing.T, c *kafkatest.Cluster, topic string, names []string) *producing {
	p := &producing{stop: make(chan struct{}), want: map[string]uint64{}}
	p.wg.Go(func() {
		for n := uint64(1); ; n += 20 {
			for _, e := range names {
				select {
				case <-p.stop:
					return
				default:
				}
				c.Produce(topic, -1, messages(e, n, n+19)...)
				p.mu.Lock()
				p.want[e] = n + 19
				p.mu.Unlock()
			}
		}
	})
	return p
}

func (p *producing) end() map[string]uint64 {
	close(p.stop)
	p.wg.Wait()
	return p.want
}

func (p *producing) most() (n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.want {
		n = max(n, x)
	}
	return n
}

func allStored(t *testing.T, s *store.Store, want map[string]uint64) func() bool {
	return func() bool {
		for e, n := range want {
			if !has(t, s, e, n) {
				return false
			}
		}
		return true
	}
}

func TestNothingIsLostOrDoubledWhenABrokerIsKilledAndComesBack(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	c.NeedReal("kill a broker")
	cfg := setUp(c, 6)
	s := openStore(t)
	i := run(t, s, newKey(t, "a"), cfg)
	p := produce(t, c, cfg.Topic, emitters(6))
	eventually(t, "events flow", func() bool { return has(t, s, "emitter-0", 40) })
	victim := c.Leader(cfg.Topic, 0)
	c.Kill(victim)
	before := p.most()
	eventually(t, "events flow without it", func() bool { return p.most() > before+100 })
	c.Restart(victim)
	before = p.most()
	eventually(t, "events flow with it", func() bool { return p.most() > before+100 })
	want := p.end()
	eventually(t, "all are stored", allStored(t, s, want))
	i.stop()
	verified(t, s, want)
}

func TestNothingIsLostOrDoubledWhenALeaderMoves(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	c.NeedReal("move a leader")
	cfg := setUp(c, 3)
	s := openStore(t)
	i := run(t, s, newKey(t, "a"), cfg)
	p := produce(t, c, cfg.Topic, emitters(6))
	for round := range uint64(3) {
		eventually(t, "events flow", func() bool { return has(t, s, "emitter-0", 40*(round+1)) })
		for n := range 3 {
			c.MoveLeader(cfg.Topic, n)
		}
	}
	want := p.end()
	eventually(t, "all are stored", allStored(t, s, want))
	i.stop()
	verified(t, s, want)
}

// Producers that try again, and collectors that read their source again.
func TestMessagesThatWereSentTwiceAreStoredOnce(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 3)
	s := openStore(t)
	for range 3 {
		for _, e := range emitters(5) {
			c.Produce(cfg.Topic, -1, messages(e, 1, 200)...)
			c.Produce(cfg.Topic, -1, messages(e, 150, 250)...)
		}
	}
	i := run(t, s, newKey(t, "a"), cfg)
	want := map[string]uint64{}
	for _, e := range emitters(5) {
		want[e] = 250
	}
	eventually(t, "all is settled", func() bool {
		sum := int64(0)
		for _, at := range c.Committed(cfg.Group, cfg.Topic) {
			sum += max(at, 0)
		}
		return sum == 3*5*301
	})
	i.stop()
	verified(t, s, want)
}

func TestOffsetsThatAreResetToTheBeginningStoreNothingTwice(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 2)
	s := openStore(t)
	key := newKey(t, "a")
	for _, e := range emitters(4) {
		c.Produce(cfg.Topic, -1, messages(e, 1, 1000)...)
	}
	want := map[string]uint64{}
	for _, e := range emitters(4) {
		want[e] = 1000
	}
	i := run(t, s, key, cfg)
	eventually(t, "all are stored", allStored(t, s, want))
	i.stop()
	at := c.Committed(cfg.Group, cfg.Topic)
	for p := range 2 {
		c.SetCommitted(cfg.Group, cfg.Topic, p, 0)
	}
	i = run(t, s, key, cfg)
	eventually(t, "all was read again", func() bool {
		now := c.Committed(cfg.Group, cfg.Topic)
		return now[0] == at[0] && now[1] == at[1]
	})
	if !i.watch.see(func(o *observer) bool { return o.settled == 4000 }) {
		t.Error("not all was read again")
	}
	i.stop()
	verified(t, s, want)
}

// A topic that was deleted and made anew is another topic: its offsets begin anew, and
// the group's point into the middle of it.
func TestATopicThatIsMadeAnewIsReadFromItsBeginning(t *testing.T) {
	for name, running := range map[string]bool{"while it is read": true, "while nobody reads": false} {
		t.Run(name, func(t *testing.T) {
			c := kafkatest.Shared(t, 3)
			c.NeedReal("delete a topic that is read")
			cfg := setUp(c, 1)
			s := openStore(t)
			key := newKey(t, "a")
			c.Produce(cfg.Topic, 0, messages("before", 1, 500)...)
			i := run(t, s, key, cfg)
			eventually(t, "the first ones are committed", func() bool { return c.Committed(cfg.Group, cfg.Topic)[0] == 500 })
			if !running {
				i.stop()
			}
			backup := committed(t, c, cfg)
			c.DeleteTopic(cfg.Topic)
			c.CreateTopic(cfg.Topic, 1, 3, nil)
			// More than before, so that the old offset is one of the new topic too.
			c.Produce(cfg.Topic, 0, messages("after", 1, 700)...)
			if !running {
				restore(t, c, cfg, backup) // brokers forget a deleted topic's offsets, those who move clusters don't
				i = run(t, s, key, cfg)
			}
			eventually(t, "the new ones are stored", func() bool { return has(t, s, "after", 200) })
			eventually(t, "all of them", func() bool { return has(t, s, "after", 700) })
			i.stop()
			verified(t, s, map[string]uint64{"before": 500, "after": 700})
		})
	}
}

// What the topic's retention deletes before it was read is lost, and the log says so.
func TestWhatExpiredInTheTopicIsSaid(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 1)
	s := openStore(t)
	key := newKey(t, "a")
	c.Produce(cfg.Topic, 0, messages("e", 1, 100)...)
	i := run(t, s, key, cfg)
	eventually(t, "they are committed", func() bool { return c.Committed(cfg.Group, cfg.Topic)[0] == 100 })
	i.stop()
	c.Produce(cfg.Topic, 0, messages("e", 101, 200)...)
	deleteRecords(t, c, cfg.Topic, 0, 150)
	i = run(t, s, key, cfg)
	eventually(t, "the others are committed", func() bool { return c.Committed(cfg.Group, cfg.Topic)[0] == 200 })
	i.stop()
	if rows, different := stored(t, s, "e"); rows != 150 || different != 150 {
		t.Errorf("%d rows of %d events", rows, different)
	}
	said := ownEvents(t, s, "mcpaudit/kafka_position")
	if len(said) != 1 {
		t.Fatalf("the log says it %d times", len(said))
	}
	for _, l := range said[0].Labels {
		if l.Key == "lost" && l.Value != "50" {
			t.Errorf("%s messages are said to be lost", l.Value)
		}
	}
}

// Two instances share a store and a topic; a third one joins under load, one leaves.
func TestInstancesThatJoinAndLeaveUnderLoadLoseAndDoubleNothing(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 6)
	cfg.Shared = true
	open := openShared(t)
	s := open()
	instances := []*instance{run(t, s, newKey(t, "one"), cfg)}
	p := produce(t, c, cfg.Topic, emitters(12))
	for n := range 2 {
		eventually(t, "events flow", func() bool { return has(t, s, "emitter-0", 40) })
		instances = append(instances, run(t, open(), newKey(t, fmt.Sprintf("more-%d", n)), cfg))
		eventually(t, "it has its share", func() bool {
			return instances[n+1].watch.see(func(o *observer) bool { return o.assigned > 0 && o.settled > 0 })
		})
	}
	instances[0].stop()
	before := p.most()
	eventually(t, "events flow", func() bool { return p.most() > before+60 })
	want := p.end()
	eventually(t, "all are stored", allStored(t, s, want))
	for _, i := range instances[1:] {
		i.stop()
	}
	verified(t, s, want)
	logs := 0
	r, err := s.Query(t.Context(), store.Limits{}, "SELECT uniqExact(log_id) FROM events")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var n uint64
	for r.Next() {
		if err := r.Scan(&n); err != nil {
			t.Fatal(err)
		}
		logs = int(n)
	}
	if logs != 3 {
		t.Errorf("the events are in %d logs, want one for each instance", logs)
	}
}
