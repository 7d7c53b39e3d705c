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
	checkKeys(t, checkLog(t, readAll(t, s)), want)
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
		checkKeys(t, checkLog(t, readAll(t, s)), acked)
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
	checkLog(t, readAll(t, s))
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
	checkLog(t, readAll(t, s))
}

func TestARequestOfNothingIsSettled(t *testing.T) {
	p := start(t, quick, &inMemory{})
	checkSettled(t, p.submit(t), 0, 0)
	checkSettled(t, p.submit(t, nil, nil), 0, 0)
}

func TestASequenceWithTooManyGapsIsToldWhatToSendFirst(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	p := start(t, Config{MaxAge: time.Microsecond, MaxBytes: 1 << 20}, s)
	var seqs []uint64
	for n := range uint64(store.MaxRuns) {
		seqs = append(seqs, 2+2*n)
	}
	p.submit(t, these("holed", seqs...)...)
	for range 2 { // from memory, then from the store
		beyond := 2 + 2*uint64(store.MaxRuns)
		got := p.submit(t, append([]*event.Event{nil}, these("holed", beyond, 2, beyond+4)...)...)
		if got.Stored != 0 || got.Duplicates != 1 || len(got.Rejected) != 2 || !got.Rejected[0].Gaps ||
			got.Rejected[0].Index != 1 || got.Rejected[1].Index != 3 || !strings.Contains(got.Rejected[0].Reason.Error(), "send what is missing first") {
			t.Fatalf("settled %s", describe(got))
		}
		if want := []Progress{{"holed", 0, 2 * store.MaxRuns}}; !slices.Equal(got.Progress, want) {
			t.Fatalf("progress %v, want %v", got.Progress, want)
		}
		p.stop()
		p = start(t, quick, s)
	}
	// One gap closed, one event more is taken.
	got := p.submit(t, these("holed", 3, 2+2*uint64(store.MaxRuns))...)
	checkSettled(t, got, 2, 0, Progress{"holed", 0, 2 + 2*store.MaxRuns})
	p.stop()
	checkLog(t, readAll(t, s))
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
	if n := len(checkLog(t, readAll(t, s))); n != len(names) {
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

func (*noLog) Log(context.Context, string, time.Time) (string, uint64, error) {
	return "", 0, errDisk
}

func TestALogThatCannotBeFoundStopsTheStart(t *testing.T) {
	p := New(quick, &noLog{}, leaveAlone{}, time.Now, nil, &counts{})
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
