package verify_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/retention"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
	"github.com/mcpaudit/mcpaudit/query/verify"
)

var errDisk = errors.New("code: 243. cannot reserve 1.00 MiB, not enough space")

// steps stands between retention and the store and its log, and fails one step: each
// that changes something, before or after it was done.
type steps struct {
	*store.Store
	retention.Recorder
	fail    int // number of the step
	applied bool
	n       int
	failed  string
	before  func(step string) // when set, is called before each step
}

func (s *steps) step(name string, do func() error) error {
	if s.before != nil {
		s.before(name)
	}
	s.n++
	if s.n != s.fail {
		return do()
	}
	s.failed = name
	if s.applied {
		if err := do(); err != nil {
			return err
		}
	}
	return errDisk
}

// look is a step that changes nothing: it fails in one way.
func (s *steps) look(name string, do func() error) error {
	if s.applied {
		return do()
	}
	return s.step(name, do)
}

func (s *steps) Record(ctx context.Context, kind, detail string) (n uint64, err error) {
	err = s.step("record", func() (err error) { n, err = s.Recorder.Record(ctx, kind, detail); return err })
	return n, err
}

func (s *steps) CountHeld(ctx context.Context, share store.Share, holds []store.Condition) (events, held uint64, each []uint64, err error) {
	err = s.look("count held", func() (err error) { events, held, each, err = s.Store.CountHeld(ctx, share, holds); return err })
	return events, held, each, err
}

func (s *steps) KeptProofs(ctx context.Context, logID string, run uint64) (p [][]byte, err error) {
	err = s.look("read proofs", func() (err error) { p, err = s.Store.KeptProofs(ctx, logID, run); return err })
	return p, err
}

func (s *steps) Keep(ctx context.Context, logID string, run uint64, batches []uint64, proofs [][]byte) error {
	return s.step("keep", func() error { return s.Store.Keep(ctx, logID, run, batches, proofs) })
}

func (s *steps) DropMonth(ctx context.Context, month uint16) error {
	return s.step("drop month", func() error { return s.Store.DropMonth(ctx, month) })
}

func (s *steps) Stage(ctx context.Context) error {
	return s.step("stage", func() error { return s.Store.Stage(ctx) })
}

func (s *steps) StageHeld(ctx context.Context, share store.Share, first, last uint64, c store.Condition) error {
	return s.step("stage held", func() error { return s.Store.StageHeld(ctx, share, first, last, c) })
}

func (s *steps) StageOthers(ctx context.Context, month uint16, shares []store.Share) error {
	return s.step("stage others", func() error { return s.Store.StageOthers(ctx, month, shares) })
}

func (s *steps) Staged(ctx context.Context) (n uint64, err error) {
	err = s.look("count staged", func() (err error) { n, err = s.Store.Staged(ctx); return err })
	return n, err
}

func (s *steps) ReplaceMonth(ctx context.Context, month uint16) error {
	return s.step("replace month", func() error { return s.Store.ReplaceMonth(ctx, month) })
}

func (s *steps) Unstage(ctx context.Context) error {
	return s.step("unstage", func() error { return s.Store.Unstage(ctx) })
}

// through makes retention anew behind steps.
func (a *archive) through(s *steps) {
	s.Store, s.Recorder = a.Store, a.pipeline
	a.retention = retention.New(retention.Config{LogID: a.key.LogID()}, s, s, a.compile, a.now, a.silent)
}

// Whatever step of a drop fails, and whether or not it was done: verify calls the
// store right, also in the middle, what is held is there, and the next life finishes
// what was begun, with one entry in the log.
func TestPromise4ADropThatFailsAnywhereIsFinishedByTheNextLife(t *testing.T) {
	for name, c := range map[string]struct {
		prepare       func(t *testing.T, a *archive)
		dropped, held uint64 // in the end
		entries       int
		steps         []string // that must have failed once
	}{
		"nothing is held": {func(*testing.T, *archive) {}, 30, 0, 1, []string{"count held", "record", "drop month", "unstage"}},
		"some are held": {func(t *testing.T, a *archive) { a.hold(t, `target = "wanted"`) }, 24, 6, 1,
			[]string{"record", "read proofs", "keep", "stage", "stage held", "count staged", "replace month", "unstage"}},
		"fewer are held": {func(t *testing.T, a *archive) {
			h := a.hold(t, `principal = "user:held"`).GetHold()
			a.hold(t, `target = "wanted"`)
			a.apply(t)
			a.release(t, h.GetHoldId())
		}, 24, 6, 2, []string{"record", "keep", "replace month"}},
	} {
		t.Run(name, func(t *testing.T) {
			template := t.TempDir()
			func() {
				a := filled(t, template)
				c.prepare(t, a)
				a.stop()
				if err := a.Close(); err != nil {
					t.Fatal(err)
				}
			}()
			failed := map[string]bool{}
			for _, applied := range []bool{false, true} {
				for n := 1; ; n++ {
					step := failAt(t, template, n, applied, c.dropped, c.held, c.entries)
					if step == "" {
						break
					}
					failed[step] = true
				}
			}
			for _, step := range c.steps {
				if !failed[step] {
					t.Errorf("the step %q never failed: %v", step, failed)
				}
			}
		})
	}
}

// failAt fails one step of a drop on a copy of a store, and names it; "" when there
// are fewer.
func failAt(t *testing.T, template string, n int, applied bool, dropped, held uint64, entries int) (step string) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
		t.Fatal(err)
	}
	a := openArchive(t, dir, march.Add(72*time.Hour))
	defer func() {
		a.stop()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Fatalf("after the failure of step %d (%s), applied: %t", n, step, applied)
		}
	}()
	s := &steps{fail: n, applied: applied}
	a.through(s)
	_, err := a.retention.ApplyRetention(scopetest.Every(t.Context()), &pb.ApplyRetentionRequest{RequestedBy: "somebody"})
	if s.failed == "" {
		if err != nil {
			t.Error(err)
		}
		return ""
	}
	done := applied && (s.failed == "drop month" || s.failed == "replace month")
	if (err == nil) != done {
		t.Errorf("the step %q failed, and the answer is %v", s.failed, err)
	}
	a.untroubled(t)
	if n := a.found(t, `tenant = "short" AND target = "wanted"`); held > 0 && n != int(held) {
		t.Errorf("%d of %d held events are there", n, held)
	}
	a.stop()
	a.start(t)
	a.apply(t)
	a.clean(t, dropped)
	if n := a.found(t, `tenant = "short"`); n != int(held) {
		t.Errorf("%d events are left, want %d", n, held)
	}
	drops, err := a.Acts(t.Context(), ledger.KindDrop)
	if err != nil || len(drops) != entries {
		t.Errorf("%d drops are recorded, want %d: %v", len(drops), entries, err)
	}
	return s.failed
}

// A hold that begins after a drop was recorded, and before it is carried out, keeps
// its events: another drop takes the first one's place.
func TestAHoldAfterADropWasInterruptedStillKeeps(t *testing.T) {
	a := filled(t, t.TempDir())
	a.hold(t, `target = "wanted"`)
	s := &steps{}
	a.through(s)
	for s.fail = 1; s.failed != "replace month"; s.fail++ {
		if _, err := a.retention.ApplyRetention(scopetest.Every(t.Context()), &pb.ApplyRetentionRequest{}); err == nil {
			t.Fatal("the drop was carried out")
		}
		s.n = 0
		a.untroubled(t)
	}
	s.fail = 0
	a.hold(t, `principal = "user:held"`)
	checkMonth(t, a.apply(t), "2026-03", 18, 12)
	a.clean(t, 18)
	if n := a.found(t, `tenant = "short"`); n != 12 {
		t.Errorf("%d held events are left", n)
	}
}

// Events that come in by a clock that was set back, while their month would be
// dropped, expire by the log's own time: they stay.
func TestEventsThatComeWhileAMonthIsDroppedStay(t *testing.T) {
	for name, filter := range map[string]string{"nothing is held": `target = "none"`, "some are held": `target = "wanted"`} {
		t.Run(name, func(t *testing.T) {
			a := filled(t, t.TempDir())
			held := 2 * uint64(3)
			if filter == `target = "none"` {
				held = 0
			}
			a.hold(t, filter)
			came := false
			a.through(&steps{before: func(step string) {
				if step != "record" || came {
					return
				}
				came = true
				now := a.now()
				a.at(january)
				a.send(t, "short", 5)
				a.at(now)
			}})
			for range 2 {
				a.apply(t)
				a.clean(t, 30-held)
				if n := a.found(t, `tenant = "short"`); n != int(held)+5 {
					t.Errorf("%d events are left", n)
				}
			}
		})
	}
}

// meanwhile is a store in which something is done before its entries are read, when
// verification has seen already what was dropped.
type meanwhile struct {
	*store.Store
	do func()
}

func (m *meanwhile) Entries(ctx context.Context, logID string, from, to uint64, f func(store.Sealed) error) error {
	m.do()
	return m.Store.Entries(ctx, logID, from, to, f)
}

// While a verification runs, a month is dropped: it is not mistaken for a theft.
func TestADropDuringAVerificationIsNotTakenForATheft(t *testing.T) {
	a := filled(t, t.TempDir())
	one := a.hold(t, `target = "wanted"`).GetHold()
	a.hold(t, `principal = "user:held"`)
	for _, left := range []int{12, 9} { // of whole batches, and of reduced ones
		r := &report{}
		s, err := verify.Run(t.Context(), &meanwhile{a.Store, func() { a.apply(t) }}, verify.Options{Keys: []string{a.key.Verifier()}}, r)
		if err != nil || len(r.problems) > 0 || s.GetDropped() != uint64(30-left) {
			t.Errorf("with %d left: %v, %v, %v", left, s, r.problems, err)
		}
		if n := a.found(t, `tenant = "short"`); n != left {
			t.Errorf("%d events are left, want %d", n, left)
		}
		if left == 12 {
			a.release(t, one.GetHoldId())
		}
	}
}

func (a *archive) untroubled(t *testing.T) {
	t.Helper()
	newest, _ := a.pipeline.Checkpoint()
	if _, r := a.verify(t, verify.Options{Checkpoints: []string{newest}}); len(r.problems) > 0 {
		t.Fatalf("problems: %v", r.problems)
	}
}

// The service drops by itself, and a run that fails is not the last one.
func TestTheScheduleDropsWhatHasExpired(t *testing.T) {
	a := filled(t, t.TempDir())
	s := &steps{Store: a.Store, Recorder: a.pipeline, fail: 3, applied: true}
	done := make(chan struct{})
	s.before = func(step string) {
		if step == "unstage" && s.failed != "" && s.n > s.fail+8 { // a later run, after the one that finished
			select {
			case <-done:
			default:
				close(done)
			}
		}
	}
	auto := retention.New(retention.Config{LogID: "main", Auto: true, First: time.Microsecond, Every: time.Millisecond}, s, s, a.compile, a.now, a.silent)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); auto.Run(ctx) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("it did not run again")
	}
	stop()
	<-ended
	a.clean(t, 30)
	if n := a.found(t, `target = "2026-03" AND labels.by = "schedule" AND outcome = "success"`); n != 1 {
		t.Errorf("%d events say what was dropped", n)
	}
	// Without being told to, it does nothing.
	retention.New(retention.Config{LogID: "main", First: time.Microsecond}, s, s, a.compile, a.now, a.silent).Run(t.Context())
}
