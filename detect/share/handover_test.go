package share

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
	"github.com/mcpaudit/mcpaudit/internal/kafkatest"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// scene is a store on a server, and what is written to it.
type scene struct {
	t     *testing.T
	dsn   string
	store *store.Store
	began time.Time

	mu      sync.Mutex
	refused map[string]bool // principals who are under attack, or do one
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, dsn: enginetest.Start(t).DSN(), refused: map[string]bool{}}
	var err error
	if s.store, err = store.Open(t.Context(), store.Config{DSN: s.dsn}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.store.Close() })
	if _, err := s.store.Migrate(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	s.began = time.Now()
	return s
}

const principals = 12

// attack begins or ends attacks of some principals.
func (s *scene) attack(goesOn bool, from, to int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := from; i < to; i++ {
		s.refused[fmt.Sprint("p", i)] = goesOn
	}
}

// write is an ingest instance with a log of its own: each of the principals calls
// every 200 ms. It ends with ctx, without saying so.
func (s *scene) write(ctx context.Context, log string, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	if err := s.store.StartLog(ctx, store.LogInfo{ID: log, VerifierKey: log, StartedAt: time.Now()}); err != nil {
		return err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for n := uint64(1); ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var events []*event.Event
		s.mu.Lock()
		for i := range principals {
			e := event.Random(r)
			at := time.Now().UnixMicro()
			e.Tenant, e.Principal, e.Kind, e.Server, e.Outcome = "default", fmt.Sprint("p", i), "tool_call", "files", "success"
			e.EmitterID, e.EmitterSeq, e.ReceivedAt, e.OccurredAt, e.Duration = log, n*100+uint64(i), at, at-1000-int64(i), 10
			e.LogID, e.Batch, e.Leaf, e.ExpiresMonth = log, n, uint32(i), 40000
			if s.refused[e.Principal] {
				e.Outcome = "denied"
			}
			events = append(events, e)
		}
		s.mu.Unlock()
		whole := context.WithoutCancel(ctx) // a batch that was begun is sealed
		if err := s.store.Append(whole, store.Batch{Events: events, Token: fmt.Sprint(log, n)}); err != nil {
			return err
		}
		if err := s.store.Seal(whole, []store.Sealed{{Entry: &ledger.Entry{Format: ledger.Format, Kind: ledger.KindEvents, LogID: log, Batch: n,
			SealedAt: time.Now().UnixMicro(), Schema: event.Schema, Events: principals, ExpiresMonth: 40000}}}); err != nil {
			return err
		}
	}
}

// refusals is how many calls of a principal were refused.
func (s *scene) refusals(principal string) (n uint64) {
	s.t.Helper()
	rows, err := s.store.Query(s.t.Context(), store.Limits{}, "SELECT count() FROM events WHERE outcome = 'denied' AND principal = {p:String}", store.Named("p", principal))
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&n); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// told is what readers see: each version once. Twice is how many rows of versions
// there are beyond that.
func (s *scene) told() (versions []string, resolved, twice int) {
	s.t.Helper()
	rows, err := s.store.Query(s.t.Context(), store.Limits{}, "SELECT "+store.FindingColumns+" FROM findings ORDER BY finding_id, version, told_at")
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		f, err := store.ScanFinding(rows)
		if err != nil {
			s.t.Fatal(err)
		}
		v := versionOf(f.ID, f.Version, f.State, f.Rule, f.Principal, f.Events, f.Reason)
		if len(versions) > 0 && versions[len(versions)-1] == v {
			twice++
			continue
		}
		if f.State == detect.Resolved {
			resolved++
		}
		versions = append(versions, v)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return versions, resolved, twice
}

func versionOf(id string, version uint32, state, rule, principal string, events uint64, reason string) string {
	return fmt.Sprintf("%s/%d %s %s %s: %d events, %s", id, version, state, rule, principal, events, reason)
}

// alone is what one engine finds in the same logs.
func (s *scene) alone() (versions []string) {
	s.t.Helper()
	if _, err := live.Replay(s.t.Context(), s.store, live.ReplayConfig{Rules: rules(), From: s.began, To: time.Now(), Now: time.Now, Log: quiet}, func(c detect.Change) {
		versions = append(versions, versionOf(c.ID, c.Version, c.State, c.Rule, c.Principal, c.Events, c.Reason))
	}); err != nil {
		s.t.Fatal(err)
	}
	slices.Sort(versions)
	return versions
}

// same says that what was told is what one engine finds.
func (s *scene) same(findings int) (twice int) {
	s.t.Helper()
	got, resolved, twice := s.told()
	slices.Sort(got)
	want := s.alone()
	if !slices.Equal(got, want) {
		s.t.Errorf("%d versions are told, one engine tells %d", len(got), len(want))
		for _, v := range got {
			if !slices.Contains(want, v) {
				s.t.Logf("only told:        %s", v)
			}
		}
		for _, v := range want {
			if !slices.Contains(got, v) {
				s.t.Logf("only by the one:  %s", v)
			}
		}
	}
	if resolved != findings {
		s.t.Errorf("%d findings have ended, want %d", resolved, findings)
	}
	return twice
}

// The tests of groups share a broker: it takes longer to start than most of them.
func TestGroups(t *testing.T) {
	t.Parallel()
	brokers := kafkatest.Start(t, 1, kafkatest.Property("group.min.session.timeout.ms", "1000"))
	t.Run("what can't be shared says why", func(t *testing.T) { refusals(t, brokers) })
	t.Run("instances take over from one that dies or freezes", func(t *testing.T) { instancesTakeOver(t, brokers) })
}

// Two instances share the work. One is killed in the midst of an attack, another one
// comes; one is frozen in the midst of the next attack and wakes up when its shares
// are long another's. What is found is what one instance finds, and each version is
// told once.
func instancesTakeOver(t *testing.T, brokers *kafkatest.Cluster) {
	s := newScene(t)
	o := order{DSN: s.dsn, Topic: brokers.NewTopic(6), Group: "detectors", Brokers: brokers.Brokers(), Shares: 4, Session: 3 * time.Second}
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	dying, die := context.WithCancel(t.Context())
	defer die()
	var writers sync.WaitGroup
	for i, ctx := range []context.Context{writing, dying} {
		writers.Go(func() {
			if err := s.write(ctx, fmt.Sprint("log", i), uint64(i)); err != nil {
				t.Error(err)
			}
		})
	}
	defer writers.Wait()
	defer stop()

	a, b := start(t, "a", o), start(t, "b", o)
	await(t, "both have two shares", 20*time.Second, func() bool { return a.has() == 2 && b.has() == 2 })
	s.attack(true, 0, 6)
	await(t, "two of the five refusals are stored that it takes", 10*time.Second, func() bool { return s.refusals("p5") >= 2 })
	a.signal(syscall.SIGKILL)
	die() // an ingest instance with its log, too
	await(t, "the other one has all shares", 20*time.Second, func() bool { return b.has() == 4 })
	c := start(t, "c", o)
	await(t, "the new one has two", 20*time.Second, func() bool { return b.has() == 2 && c.has() == 2 })
	s.attack(false, 0, 6)
	s.attack(true, 6, principals)
	await(t, "most of the refusals are stored that it takes", 10*time.Second, func() bool { return s.refusals("p11") >= 3 })
	b.signal(syscall.SIGSTOP)
	await(t, "the one that is awake has all shares", 20*time.Second, func() bool { return c.has() == 4 })
	s.attack(false, 6, principals)
	b.signal(syscall.SIGCONT)
	await(t, "both have two again", 20*time.Second, func() bool { return b.has() == 2 && c.has() == 2 })
	const findings = principals + 1 // and one of the server
	await(t, "all that was found has ended", 40*time.Second, func() bool { _, n, _ := s.told(); return n >= findings })
	stop()
	writers.Wait()
	for _, p := range []*instance{b, c} {
		p.signal(syscall.SIGTERM)
		<-p.gone
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s ended with %d", p.name, code)
		}
	}
	if twice := s.same(findings); twice > 0 {
		t.Errorf("%d versions are told twice", twice)
	}
}

// No group can rule out that two do the same share for a moment. Then what readers see
// is still what one finds.
func TestTwoThatDoTheSameShareFindTheSame(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() {
		if err := s.write(writing, "log", 3); err != nil {
			t.Error(err)
		}
	})
	two, cancel := context.WithCancel(t.Context())
	defer cancel()
	one, end := context.WithCancel(t.Context())
	defer end()
	for _, ctx := range []context.Context{one, two} {
		o := order{Shares: 1, Brokers: []string{"127.0.0.1:1"}, Topic: "t", Group: "g"}
		team, err := New(o.config(), deps(s.store, quiet))
		if err != nil {
			t.Fatal(err)
		}
		w := newWatch(time.Hour, time.Now, func() {})
		running.Go(func() { team.runUnderLock(ctx, 0, w) })
	}
	s.attack(true, 0, principals)
	await(t, "all have a finding", 20*time.Second, func() bool { versions, _, _ := s.told(); return len(versions) >= principals })
	s.attack(false, 0, principals)
	cancel() // the one that should never have been
	const findings = principals + 1
	await(t, "all that was found has ended", 40*time.Second, func() bool { _, n, _ := s.told(); return n >= findings })
	stop()
	end()
	running.Wait()
	t.Logf("%d versions are stored twice", s.same(findings))
}
