package share

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/ingest/broker"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
)

// clock is a time that a test sets: by both of the clocks that a process has, or by
// one of them.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func TestWhoWasFrozenWritesNothing(t *testing.T) {
	c := &clock{at: time.Now()}
	lost := 0
	w := newWatch(time.Second, c.now, func() { lost++ })
	s := &fenced{Store: &writes{}, held: w.held}
	write := func() error {
		return errors.Join(s.AppendFindings(t.Context(), nil), s.SaveSnapshot(t.Context(), store.Snapshot{}, nil))
	}
	for range 20 {
		c.pass(900 * time.Millisecond)
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	c.pass(1100 * time.Millisecond)
	for range 3 { // it does not come back by itself
		if err := write(); !errors.Is(err, errNotHeld) {
			t.Errorf("it writes after a freeze: %v", err)
		}
		c.pass(time.Millisecond)
	}
	if lost != 1 || s.Store.(*writes).n != 40 {
		t.Errorf("it was said %d times, and %d were written", lost, s.Store.(*writes).n)
	}
}

// A machine that was suspended: the monotonic clock has stood still.
func TestAFreezeThatOnlyTheWallClockShowsIsOne(t *testing.T) {
	c := &clock{at: time.Now().Round(0)} // without the monotonic clock
	w := newWatch(time.Second, c.now, func() {})
	c.pass(2 * time.Second)
	if w.held() {
		t.Error("it was not noticed")
	}
}

type writes struct {
	live.Store
	n int
}

func (w *writes) AppendFindings(context.Context, []store.Finding) error {
	w.n++
	return nil
}

func (w *writes) SaveSnapshot(context.Context, store.Snapshot, [][]byte) error {
	w.n++
	return nil
}

func TestSharesAreSpreadEvenly(t *testing.T) {
	var all []kafka.Partition
	for i := range 12 {
		all = append(all, kafka.Partition{Topic: "t", ID: i})
	}
	for members := range 10 {
		var group []kafka.GroupMember
		for i := range members {
			group = append(group, kafka.GroupMember{ID: fmt.Sprint("m", i)})
		}
		got := (evenly{8}).AssignGroups(group, all)
		var given []int
		for _, m := range group {
			mine := got[m.ID]["t"]
			given = append(given, mine...)
			if n := len(mine); n < 8/members || n > (8+members-1)/members {
				t.Errorf("%d members: %s has %d shares", members, m.ID, n)
			}
		}
		slices.Sort(given)
		if members > 0 && !slices.Equal(given, []int{0, 1, 2, 3, 4, 5, 6, 7}) {
			t.Errorf("%d members: given are %v", members, given)
		}
	}
}

func TestATeamOfWrongSettingsIsRefused(t *testing.T) {
	lock := Lock{Broker: broker.Config{Brokers: []string{"localhost:9092"}}, Topic: "t", Group: "g"}
	for want, change := range map[string]func(*Config, *Lock){
		"detect: the work has 0 shares, and may have 1 to 64":                func(c *Config, _ *Lock) { c.Shares = 0 },
		"detect: the work has 65 shares, and may have 1 to 64":               func(c *Config, _ *Lock) { c.Shares = 65 },
		"detect: history is negative":                                        func(c *Config, _ *Lock) { c.Runner.History = -1 },
		"detect: the brokers of the group: no broker is named":               func(_ *Config, l *Lock) { l.Broker.Brokers = nil },
		"detect: instances that share the work need a topic and a group":     func(_ *Config, l *Lock) { l.Topic = "" },
		"detect: the session of the group is 500ms, and may be 1s to 30m0s":  func(_ *Config, l *Lock) { l.Session = time.Second / 2 },
		"detect: the session of the group is 1h0m0s, and may be 1s to 30m0s": func(_ *Config, l *Lock) { l.Session = time.Hour },
	} {
		l := lock
		c := Config{Shares: 2, Lock: &l}
		change(&c, &l)
		if _, err := New(c, Deps{}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// What does not fit together is said in words.
func refusals(t *testing.T, brokers *kafkatest.Cluster) {
	topic := brokers.NewTopic(2)
	lock := func(topic string) *Lock {
		return &Lock{Broker: brokers.Config(), Topic: topic, Group: "g", Session: 2 * time.Second}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	never := func(context.Context, int, *watch) { t.Error("it does a share") }
	if err := lock(topic).run(ctx, 3, quiet, never); !errors.Is(err, ErrFewPartitions) || !strings.Contains(err.Error(), "has 2 partitions, and detect.shards is 3") {
		t.Errorf("too few partitions: %v", err)
	}
	if err := lock("nowhere").run(ctx, 1, quiet, never); err == nil || !strings.Contains(err.Error(), `there is no topic "nowhere"; make it, with 1 partitions or more`) {
		t.Errorf("no topic: %v", err)
	}
	// Another number of shares is refused by the group itself, for as long as the others
	// are there.
	held := make(chan struct{})
	first, leave := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := lock(topic).run(first, 1, quiet, func(ctx context.Context, _ int, _ *watch) {
			close(held)
			<-ctx.Done()
		}); err != nil {
			t.Error(err)
		}
	})
	<-held
	second, stop := context.WithCancel(ctx)
	defer stop()
	var has atomic.Int32
	said := &log{}
	running.Go(func() {
		if err := lock(topic).run(second, 2, slog.New(slog.NewTextHandler(said, nil)), func(ctx context.Context, _ int, _ *watch) {
			has.Add(1)
			<-ctx.Done()
			has.Add(-1)
		}); err != nil {
			t.Error(err)
		}
	})
	await(t, "the group refuses it, and it says why", 20*time.Second, func() bool { return strings.Contains(said.text(), "give all the same detect.shards") })
	if n := has.Load(); n != 0 {
		t.Errorf("it does %d shares while others split the work otherwise", n)
	}
	leave()
	await(t, "it has both when they are gone", 20*time.Second, func() bool { return has.Load() == 2 })
	stop()
	running.Wait()
}

// log is what was said.
type log struct {
	mu   sync.Mutex
	said []byte
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, b...)
	return len(b), nil
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.said)
}

// Without a group one process has all shares, rules are put in force in each, and one
// that starts later has them too.
func TestATeamAloneDoesAllShares(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	c := Config{Shares: 3, Runner: live.Config{Rules: rules(), Poll: 10 * time.Millisecond}}
	team, err := New(c, deps(s, quiet))
	if err != nil {
		t.Fatal(err)
	}
	if team.Lag() != 0 || len(team.Shares()) != 0 {
		t.Error("it does something before it runs")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- team.Run(ctx) }()
	await(t, "all shares are done", 10*time.Second, func() bool { return slices.Equal(team.Shares(), []int{0, 1, 2}) })
	if err := team.Reload(ctx, rules()[:1]); err != nil {
		t.Error(err)
	}
	if len(team.rules) != 1 {
		t.Error("who starts later has the rules of before")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	names, err := s.SnapshotNames(t.Context(), "detect")
	if err != nil || !slices.Equal(names, []string{"detect-0of3", "detect-1of3", "detect-2of3"}) {
		t.Errorf("snapshots of %v, %v", names, err)
	}
	// One share is what it always was.
	c.Shares = 1
	if team, err = New(c, deps(s, quiet)); err != nil {
		t.Fatal(err)
	}
	if _, ok := team.d.Runner.Store.(*store.Store); !ok {
		t.Error("the only runner reads through something")
	}
}

// book is a store of events that counts what is read of it.
type book struct {
	live.Store
	batches map[batchName][]*event.Event
	lacks   map[batchName]bool
	read    []string
}

func (b *book) EventsOf(_ context.Context, batches []store.SealedBatch) (events []*event.Event, lacking int, err error) {
	b.read = append(b.read, fmt.Sprintf("%d-%d", batches[0].Batch, batches[len(batches)-1].Batch))
	for _, x := range batches {
		events = append(events, b.batches[nameOf(x)]...)
		if b.lacks[nameOf(x)] {
			lacking++
		}
	}
	return events, lacking, nil
}

func TestEventsAreReadOnceForAllRunners(t *testing.T) {
	b := &book{batches: map[batchName][]*event.Event{}, lacks: map[batchName]bool{}}
	sealed := func(from, to uint64) (out []store.SealedBatch) {
		for n := from; n <= to; n++ {
			out = append(out, store.SealedBatch{LogID: "log", Batch: n})
		}
		return out
	}
	for n := uint64(1); n <= 9; n++ {
		for i := range n % 3 { // some have no events
			b.batches[batchName{"log", n}] = append(b.batches[batchName{"log", n}], &event.Event{Batch: n, Leaf: uint32(i)})
		}
	}
	o := &onceRead{Store: b, turn: make(chan struct{}, 1)}
	ask := func(from, to uint64, reads string) {
		t.Helper()
		b.read = nil
		events, lacking, err := o.EventsOf(t.Context(), sealed(from, to))
		want, missing, _ := (&book{batches: b.batches, lacks: b.lacks}).EventsOf(t.Context(), sealed(from, to))
		if err != nil || lacking != missing || !slices.Equal(events, want) {
			t.Errorf("%d to %d: %d events, %d lack, %v; want %d and %d", from, to, len(events), lacking, err, len(want), missing)
		}
		if got := strings.Join(b.read, " "); got != reads {
			t.Errorf("%d to %d: read %q, want %q", from, to, got, reads)
		}
	}
	ask(2, 4, "2-4")
	ask(2, 4, "")
	ask(1, 6, "1-1 5-6")
	ask(1, 6, "")
	b.lacks[batchName{"log", 8}] = true
	ask(7, 9, "7-9")
	ask(7, 9, "7-9") // what lacks may be there the next time
	b.lacks = map[batchName]bool{}
	ask(7, 9, "7-9")
	ask(1, 9, "")
	// What is kept is bounded.
	for n := uint64(10); n < 100; n++ {
		b.batches[batchName{"log", n}] = []*event.Event{{Batch: n, Arguments: strings.Repeat("x", 1<<20)}}
		if _, _, err := o.EventsOf(t.Context(), sealed(n, n)); err != nil {
			t.Fatal(err)
		}
	}
	if o.size > keptBytes || len(o.kept) != len(o.order) || len(o.kept) < 50 || len(o.kept) > 64 {
		t.Errorf("%d batches are kept, with %d bytes", len(o.kept), o.size)
	}
	ask(99, 99, "")
	ask(2, 2, "2-2")
	full := &onceRead{Store: b, turn: make(chan struct{}, 1)}
	full.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := full.EventsOf(ctx, sealed(1, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("while another one reads: %v", err)
	}
}
