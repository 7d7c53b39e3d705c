package ingest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

// quick commits at once, so that tests of one caller don't wait for others.
var quick = Config{MaxAge: time.Microsecond}

func TestAnEventIsStoredOnceWhereverItComesFromAgain(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	p := start(t, quick, s)
	// Inside one request, the second time and the third.
	checkSettled(t, p.submit(t, slices.Concat(these("a", 1, 2, 2), these("b", 1), these("a", 1, 3))...), 4, 2,
		Progress{"a", 3, 3}, Progress{"b", 1, 1})
	// Between requests.
	checkSettled(t, p.submit(t, these("a", 3, 4)...), 1, 1, Progress{"a", 4, 4})
	// Nothing new at all.
	checkSettled(t, p.submit(t, these("a", 1, 2, 3, 4)...), 0, 4, Progress{"a", 4, 4})
	// After a restart, when the sequence is read back.
	p.stop()
	p = start(t, quick, s)
	checkSettled(t, p.submit(t, slices.Concat(these("b", 1, 2), these("a", 4, 5))...), 2, 2,
		Progress{"b", 2, 2}, Progress{"a", 5, 5})
	p.stop()

	want := map[key]bool{{"b", 1}: true, {"b", 2}: true}
	for n := range uint64(5) {
		want[key{"a", n + 1}] = true
	}
	checkKeys(t, checkStore(t, s), want)
	if p.watch.stored != 2 || p.watch.duplicates != 2 || p.watch.of != 2 {
		t.Errorf("the observer heard %+v", p.watch)
	}
}

// Promise 2: emitters retry, sources redeliver, and it is one row.
func TestPromise2ExactlyOnceWithManyCallersThatSendTheSame(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	acked := map[key]bool{}
	var mu sync.Mutex
	// Three lives of the service; each hears numbers of the last one again. Few
	// emitters are kept in memory, so most are read back from the store as well.
	for life := range uint64(3) {
		p := start(t, Config{MaxAge: time.Millisecond, MaxRows: 300, Emitters: 2}, s)
		var wg sync.WaitGroup
		for caller := range uint64(6) {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(life, caller))
				for range 8 {
					var events []*event.Event
					for range 1 + r.IntN(60) {
						emitter := fmt.Sprint("emitter-", r.IntN(6))
						events = append(events, sent(emitter, 1+100*life/2+r.Uint64N(100)))
					}
					settled, err := p.Submit(context.Background(), events, 100)
					if err != nil || settled.Stored+settled.Duplicates != len(events) {
						t.Errorf("submit %d events: %s, %v", len(events), describe(settled), err)
						return
					}
					mu.Lock()
					for _, e := range events {
						acked[key{e.EmitterID, e.EmitterSeq}] = true
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		p.stop()
		checkKeys(t, checkStore(t, s), acked)
	}
}

func TestProgressTellsGapsFromAnUnbrokenSequence(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	p := start(t, quick, s)
	for i, c := range []struct {
		seqs                []uint64
		contiguous, highest uint64
	}{
		{[]uint64{3}, 0, 3},
		{[]uint64{5, 4}, 0, 5},
		{[]uint64{1}, 1, 5},
		{[]uint64{2}, 5, 5},
		{[]uint64{9, 7}, 5, 9},
		{[]uint64{8}, 5, 9},
		{[]uint64{math.MaxUint64}, 5, math.MaxUint64},
		{[]uint64{6, math.MaxUint64 - 1}, 9, math.MaxUint64},
	} {
		if i%3 == 2 { // the store knows the gaps as well as the memory does
			p.stop()
			p = start(t, quick, s)
		}
		checkSettled(t, p.submit(t, these("e", c.seqs...)...), len(c.seqs), 0, Progress{"e", c.contiguous, c.highest})
	}
	p.stop()
	checkStore(t, s)
}

// Promise 5, as far as ingest goes: what is missing stays visible. Whatever is
// lost or comes late, the contiguous number never passes it.
func TestPromise5NoSilentLossAGapIsNeverPassedOver(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	r := rand.New(rand.NewPCG(5, 5))
	order := r.Perm(200)
	lost := uint64(order[120]) + 1
	there := model{}
	p := start(t, quick, s)
	for i := 0; i < len(order); i += 20 {
		if i == 100 {
			p.stop()
			p = start(t, quick, s)
		}
		var events []*event.Event
		for _, n := range order[i : i+20] {
			if seq := uint64(n) + 1; seq != lost {
				events = append(events, sent("e", seq))
				there[seq] = true
			}
		}
		got := p.submit(t, events...).Progress[0]
		var contiguous, highest uint64
		for n := range there {
			highest = max(highest, n)
		}
		for there[contiguous+1] {
			contiguous++
		}
		if want := (Progress{"e", contiguous, highest}); got != want {
			t.Fatalf("after %d events: progress %v, want %v", i+20, got, want)
		}
	}
	got := p.submit(t, these("e", 1)...).Progress[0]
	if got.Contiguous != lost-1 || got.Highest < lost {
		t.Errorf("event %d is lost, and the progress %v does not show it", lost, got)
	}
}

func TestOneBadEventIsRefusedByItsIndexAndItsNeighboursAreStored(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	p := start(t, quick, s)
	for _, c := range []struct {
		field string
		spoil func(*event.Event)
	}{
		{"emitter_seq", func(e *event.Event) { e.EmitterSeq = 0 }},
		{"emitter_id", func(e *event.Event) { e.EmitterID = "" }},
		{"outcome", func(e *event.Event) { e.Outcome = "fine" }},
		{"target", func(e *event.Event) { e.Target = "\xff" }},
		{"principal", func(e *event.Event) { e.Principal = strings.Repeat("x", event.MaxText+1) }},
		{"occurred_at", func(e *event.Event) { e.OccurredAt = -1 }},
		{"schema", func(e *event.Event) { e.Schema = 2 }},
	} {
		events := these(c.field, 1, 2, 3, 4)
		c.spoil(events[1])
		events[3] = nil // refused by the caller already: it keeps its index
		events = append(events, these(c.field, 5)...)
		got := p.submit(t, events...)
		if got.Stored != 3 || len(got.Rejected) != 1 || got.Rejected[0].Index != 1 || got.Rejected[0].Gaps ||
			!strings.HasPrefix(got.Rejected[0].Reason.Error(), c.field+": ") {
			t.Errorf("%s spoiled: %s", c.field, describe(got))
		}
		if want := []Progress{{c.field, 1, 5}}; !slices.Equal(got.Progress, want) {
			t.Errorf("%s spoiled: progress %v, want %v", c.field, got.Progress, want)
		}
		// The refused number was not taken: the mended event is new.
		checkSettled(t, p.submit(t, these(c.field, 2)...), 1, 0, Progress{c.field, 3, 5})
	}
	p.stop()
	checkStore(t, s)
}

// clumsy is a redactor whose own words break the record.
type clumsy struct{}

func (clumsy) Again(e *event.Event) bool {
	if e.EmitterSeq%2 == 0 {
		e.Removed = append(e.Removed, event.Removal{Path: "$.\xe6"})
	}
	return true
}

// What redaction makes of an event is checked as well: half a rune in the store
// would make every page with it unreadable.
func TestAnEventThatRedactionSpoiledIsRefusedByItsIndexAndNeverStored(t *testing.T) {
	s := &inMemory{}
	p := start(t, quick, s)
	p.redact = clumsy{} // of Submit alone
	got := p.submit(t, these("a", 1, 2, 3)...)
	if got.Stored != 2 || len(got.Rejected) != 1 || got.Rejected[0].Index != 1 || got.Rejected[0].Reason.Error() != "removed: is not valid UTF-8" {
		t.Errorf("settled %s", describe(got))
	}
	if n := len(s.all()); n != 2 {
		t.Errorf("%d events are stored", n)
	}
}

func TestARequestOfNothingIsSettled(t *testing.T) {
	p := start(t, quick, &inMemory{})
	checkSettled(t, p.submit(t), 0, 0)
	checkSettled(t, p.submit(t, nil, nil), 0, 0)
}

// An emitter has lost many events, or had many refused. Its next ones are stored
// all the same, and no gap is passed over or acknowledged.
func TestPromise5AnEmitterWithTooManyGapsIsStillHeard(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	p := start(t, Config{MaxAge: time.Microsecond, MaxBytes: 1 << 20}, s)
	const last = 2 + 2*store.MaxRuns
	var seqs []uint64
	for n := uint64(2); n <= last; n += 2 { // one gap more than is kept track of
		seqs = append(seqs, n)
	}
	if got := p.submit(t, these("holed", seqs...)...); got.Stored != len(seqs) || len(got.Rejected) != 0 {
		t.Fatalf("settled %s", describe(got))
	}
	for life := range uint64(2) { // from memory, then from the store
		got := p.submit(t, append([]*event.Event{nil}, these("holed", 3, last, last+5+life)...)...)
		if got.Stored != 1 || got.Duplicates != 1 || len(got.Rejected) != 1 || !got.Rejected[0].Gaps || got.Rejected[0].Index != 1 ||
			!strings.HasPrefix(got.Rejected[0].Reason.Error(), "emitter_seq: lies among the oldest of more than 1024 gaps") {
			t.Fatalf("life %d: settled %s", life, describe(got))
		}
		if want := []Progress{{"holed", 0, last + 5 + life}}; !slices.Equal(got.Progress, want) {
			t.Fatalf("life %d: progress %v, want %v", life, got.Progress, want)
		}
		p.stop()
		p = start(t, quick, s)
	}
	// A gap that is kept track of is closed.
	checkSettled(t, p.submit(t, these("holed", last-1)...), 1, 0, Progress{"holed", 0, last + 6})
	p.stop()
	checkStore(t, s)
}

// What an emitter is called is up to it. The store must find it by that name, or
// its events would be taken again after a restart.
func TestEmittersWithStrangeNamesAreKnownAgainAfterARestart(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	names := []string{`back\slash`, `\`, `a\'b`, "quote'", `"double"`, "tab\there", "line\nfeed", "cr\r", "nul\x00", `\0`, `\N`, "NULL",
		"{a:String}", "?", "$1", "', 'b", "['x']", "ünïcödé 🜁", " ", strings.Repeat("ä", 128), "\x01\x7f", "%41", "a,b"}
	for life, want := range []struct{ stored, duplicates int }{{len(names), 0}, {0, len(names)}} {
		p := start(t, quick, s)
		var events []*event.Event
		for _, name := range names {
			events = append(events, sent(name, 1))
		}
		if got := p.submit(t, events...); got.Stored != want.stored || got.Duplicates != want.duplicates {
			t.Errorf("life %d: %s", life+1, describe(got))
		}
		p.stop()
	}
	if n := len(checkStore(t, s)); n != len(names) {
		t.Errorf("%d emitters are stored, want %d", n, len(names))
	}
}

// A request may name as many emitters as it has events, each with a long name.
func TestManyNewEmittersInOneRequestAreTaken(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	for life, want := range []struct{ stored, duplicates int }{{5000, 0}, {0, 5000}} {
		p := start(t, Config{MaxAge: time.Microsecond, Emitters: 100}, s)
		var events []*event.Event
		for n := range 5000 {
			e := sent("", 1)
			e.EmitterID = fmt.Sprintf("%0*d", event.MaxID, n)
			events = append(events, e)
		}
		got, err := p.Submit(context.Background(), events, 1)
		if err != nil || got.Stored != want.stored || got.Duplicates != want.duplicates || len(got.Progress) != 5000 {
			t.Errorf("life %d: stored %d, duplicates %d, %v", life+1, got.Stored, got.Duplicates, err)
		}
		p.stop()
	}
}

func TestAPipelineThatDoesNotRunTakesNothing(t *testing.T) {
	p := New(quick, &inMemory{}, leaveAlone{}, time.Now, nil, &counts{})
	if err := p.Ready(); err == nil || err.Error() != "ingest has not started" {
		t.Errorf("ready before Run: %v", err)
	}
	if _, err := p.Submit(context.Background(), these("a", 1), 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("submit before Run: %v", err)
	}
	r := start(t, quick, &inMemory{})
	if err := r.Ready(); err != nil {
		t.Errorf("ready while running: %v", err)
	}
	r.stop()
	if _, err := r.Submit(context.Background(), these("a", 1), 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("submit after the end: %v", err)
	}
}

type noLog struct{ inMemory }

func (*noLog) Logs(context.Context) ([]store.LogInfo, error) { return nil, errDisk }

func TestALogThatCannotBeFoundStopsTheStart(t *testing.T) {
	cfg := quick
	cfg.Key = testKey
	p := New(cfg, &noLog{}, leaveAlone{}, time.Now, nil, &counts{})
	if err := p.Run(context.Background()); !errors.Is(err, errDisk) || !strings.HasPrefix(err.Error(), "start ingest: ") {
		t.Errorf("Run: %v", err)
	}
	if p.Ready() == nil {
		t.Error("it says that it is ready")
	}
}

func TestEventsExpireAfterTheirWholeLastMonth(t *testing.T) {
	for _, c := range []struct {
		now    string
		months int
		want   string
	}{
		{"2026-11-20T09:00:00Z", 12, "2027-12-01"},
		{"2026-11-30T23:59:59Z", 12, "2027-12-01"},
		{"2026-12-01T00:00:00Z", 12, "2028-01-01"},
		{"2026-01-31T12:00:00Z", 1, "2026-03-01"}, // not the 31st of February
		{"2026-12-31T23:30:00-02:00", 1, "2027-03-01"},
		{"2026-11-20T09:00:00Z", 1200, "2126-12-01"},
		{"2139-11-20T09:00:00Z", 1200, "2149-06-01"}, // no date is later
	} {
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		days := expiryMonth(now, c.months)
		if got := time.Unix(int64(days)*86400, 0).UTC().Format(time.DateOnly); got != c.want {
			t.Errorf("%s, %d months: expires %s, want %s", c.now, c.months, got, c.want)
		}
	}
}

// When an event expires and when it came are sealed: a clock that was never set,
// or that is set back, must not get into the log.
func TestAClockThatIsWrongSealsNothing(t *testing.T) {
	s := &inMemory{}
	var clock atomic.Int64
	p := startAt(t, quick, s, func() time.Time { return time.Unix(clock.Load(), 0) })
	for _, at := range []string{"1970-01-01", "2199-12-31"} {
		day, _ := time.Parse(time.DateOnly, at)
		clock.Store(day.Unix())
		if err := p.Ready(); err == nil || err.Error() != "the clock of this machine says "+at+"; set it" {
			t.Errorf("Ready: %v", err)
		}
		if _, err := p.Submit(context.Background(), these("a", 1), 1); !errors.Is(err, ErrUnavailable) {
			t.Errorf("submit: %v", err)
		}
		if at := p.Settled(); at > day.UnixMicro() || at > 1_800_000_000e6 {
			t.Errorf("on %s, %d is said to be settled", day, at)
		}
	}
	for i, at := range []int64{1_800_000_000, 1_800_000_100, 1_800_000_050} {
		clock.Store(at)
		p.submit(t, these("a", uint64(i)+1)...)
	}
	p.stop()
	for i, e := range s.all() {
		if want := min(1_800_000_000+100*int64(i), 1_800_000_100); e.ReceivedAt/1e6 != want {
			t.Errorf("event %d was received at %d, want %d", i, e.ReceivedAt/1e6, want)
		}
	}
}
