package kafka_test

import (
	"errors"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
)

// away starts an instance with two partitions whose store is away when events come,
// and returns when that was noticed.
func away(t *testing.T, rebalance time.Duration) (c *kafkatest.Cluster, a *instance, another func() *instance) {
	t.Helper()
	c = kafkatest.Shared(t, 3)
	cfg := setUp(c, 2)
	cfg.Shared, cfg.RebalanceTimeout = true, rebalance
	open := openShared(t)
	a = run(t, open(), newKey(t, "a"), cfg)
	a.store.set(func() { a.store.append = fails })
	eventually(t, "it has both partitions", func() bool { return a.watch.see(func(o *observer) bool { return o.assigned == 2 }) })
	c.Produce(cfg.Topic, 0, messages("p0", 1, 200)...)
	c.Produce(cfg.Topic, 1, messages("p1", 1, 200)...)
	eventually(t, "its store is away", func() bool { return a.watch.see(func(o *observer) bool { return o.failed > 0 }) })
	return c, a, func() *instance { return run(t, open(), newKey(t, "b"), cfg) }
}

// While a batch may still get into the store, its partition is nobody else's.
func TestARebalanceWaitsForAStoreThatIsAway(t *testing.T) {
	_, a, another := away(t, 5*time.Minute)
	b := another()
	time.Sleep(8 * time.Second) // longer than a session: it has to give signs of life all the while
	if b.watch.see(func(o *observer) bool { return o.assigned > 0 }) {
		t.Error("another instance was given partitions while a batch of them was on its way")
	}
	a.store.mend()
	eventually(t, "all are stored", allStored(t, a.store.Store, map[string]uint64{"p0": 200, "p1": 200}))
	eventually(t, "they share the partitions", func() bool {
		return a.watch.see(func(o *observer) bool { return o.assigned == 1 }) && b.watch.see(func(o *observer) bool { return o.assigned == 1 })
	})
	a.stop()
	b.stop()
	verified(t, b.store.Store, map[string]uint64{"p0": 200, "p1": 200})
}

// The others don't wait for ever. Then it is not known here what became of the batch,
// and this instance ends rather than store it.
func TestWhoCanNotSettleInTimeStoresNothingAfterwards(t *testing.T) {
	_, a, another := away(t, 6*time.Second)
	b := another()
	eventually(t, "the other one has stored them", allStored(t, b.store.Store, map[string]uint64{"p0": 200, "p1": 200}))
	a.store.mend()
	<-a.done
	if !errors.Is(a.err, ingest.ErrTenureEnded) {
		t.Errorf("it ended with %v", a.err)
	}
	a.stop()
	b.stop()
	verified(t, b.store.Store, map[string]uint64{"p0": 200, "p1": 200})
}

// Whatever does not answer, the service stops soon; what was under way is read again.
func TestASourceStopsSoonWhateverDoesNotAnswer(t *testing.T) {
	for name, fault := range map[string]func(*faulty){
		"appending":              func(f *faulty) { f.append = hangs },
		"reading sequences":      func(f *faulty) { f.sequences = hangs },
		"asking what is sealed":  func(f *faulty) { f.unsealed = hangs },
		"appending, with errors": func(f *faulty) { f.append = fails },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait
			c := kafkatest.Shared(t, 3)
			cfg := setUp(c, 1)
			cfg.Shared = true
			s := openShared(t)()
			i := run(t, s, newKey(t, "a"), cfg)
			i.store.set(func() { fault(i.store) })
			c.Produce(cfg.Topic, 0, messages("e", 1, 10)...)
			time.Sleep(3 * time.Second) // in the midst of it
			i.leave()
			select {
			case <-i.left:
			case <-time.After(40 * time.Second):
				t.Fatal("it has not ended after 40 seconds")
			}
			i.store.mend()
			i.stop()
			again := run(t, s, newKey(t, "b"), cfg)
			eventually(t, "they are stored", allStored(t, s, map[string]uint64{"e": 10}))
			again.stop()
			if rows, _ := stored(t, s, "e"); rows != 10 {
				t.Errorf("%d rows of 10 events", rows)
			}
		})
	}
}

func TestAMessageWithoutItsEmittersKeyIsADeadLetterWhereTheStoreIsShared(t *testing.T) {
	c := kafkatest.Shared(t, 3)
	cfg := setUp(c, 1)
	cfg.Shared = true
	s := openShared(t)()
	stray := message("e", 1)
	stray.Key = nil
	c.Produce(cfg.Topic, 0, stray, message("e", 1))
	i := run(t, s, newKey(t, "a"), cfg)
	eventually(t, "both are settled", func() bool { return c.Committed(cfg.Group, cfg.Topic)[0] == 2 })
	i.stop()
	if !i.watch.see(func(o *observer) bool { return o.dead["wrong_key"] == 1 }) {
		t.Error("the one without a key is no dead letter")
	}
	verified(t, s, map[string]uint64{"e": 1})
}
