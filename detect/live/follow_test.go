package live

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// paper is stored logs of which anything may lack.
type paper struct {
	now    int64
	logs   []string
	sealed map[string][]store.SealedBatch
	events map[string]map[uint64][]*event.Event
	read   []int // bytes that were read at a time
}

func (p *paper) clock() time.Time { return time.UnixMicro(p.now) }

// write adds a batch, received and sealed at these times; no received is an entry of
// another kind.
func (p *paper) write(log string, batch uint64, sealed int64, received ...int64) {
	if p.sealed == nil {
		p.sealed, p.events = map[string][]store.SealedBatch{}, map[string]map[uint64][]*event.Event{}
	}
	if !slices.Contains(p.logs, log) {
		p.logs, p.events[log] = append(p.logs, log), map[uint64][]*event.Event{}
	}
	p.sealed[log] = append(p.sealed[log], store.SealedBatch{LogID: log, Batch: batch, SealedAt: sealed, Events: uint32(len(received)), Expires: 20819})
	for i, at := range received {
		p.events[log][batch] = append(p.events[log][batch], &event.Event{LogID: log, Batch: batch, Leaf: uint32(i), ReceivedAt: at, OccurredAt: at})
	}
}

func (p *paper) Logs(context.Context) (out []store.LogInfo, err error) {
	for _, l := range p.logs {
		out = append(out, store.LogInfo{ID: l})
	}
	return out, nil
}

func (p *paper) SealedAfter(_ context.Context, after map[string]uint64, most int) (out []store.SealedBatch, err error) {
	for _, l := range p.logs {
		at, ok := after[l]
		n := 0
		for _, b := range p.sealed[l] {
			if ok && b.Batch > at && b.SealedAt <= p.now && n < most {
				out = append(out, b)
				n++
			}
		}
	}
	return out, nil
}

func (p *paper) SealedBefore(_ context.Context, log string, t time.Time) (last uint64, err error) {
	for _, b := range p.sealed[log] {
		if b.SealedAt < t.UnixMicro() {
			last = b.Batch
		}
	}
	return last, nil
}

func (p *paper) EventsOf(_ context.Context, batches []store.SealedBatch) (out []*event.Event, lacking int, err error) {
	want := 0
	for _, b := range batches {
		want += int(b.Events)
		out = append(out, p.events[b.LogID][b.Batch]...)
	}
	size := 0
	for _, e := range out {
		size += len(e.Arguments)
	}
	if size > store.MaxRead && len(batches) > 1 {
		return nil, 0, store.ErrTooMuch
	}
	p.read = append(p.read, size)
	return out, want - len(out), nil
}

// follows drains what can be read now, as text.
func follows(t *testing.T, f *follower, p *paper) string {
	t.Helper()
	var out []string
	for {
		if err := f.poll(t.Context(), p.clock()); err != nil {
			t.Fatal(err)
		}
		for {
			events, err := f.next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if events == nil {
				break
			}
			for _, e := range events {
				out = append(out, fmt.Sprintf("%s%d.%d", e.LogID, e.Batch, e.Leaf))
			}
		}
		if !f.behind() {
			return strings.Join(out, " ")
		}
	}
}

func newTestFollower(p *paper, positions map[string]uint64) *follower {
	return newFollower(p, quiet, p.clock, positions, noTime)
}

func TestLogsAreMergedByTheTimeOfReceipt(t *testing.T) {
	p := &paper{now: 100}
	p.write("a", 1, 20, 10, 11)
	p.write("a", 2, 21)
	p.write("a", 3, 40, 30, 32, 34)
	p.write("b", 1, 40, 11, 31)
	p.write("b", 2, 50, 33, 45)
	p.write("c", 1, 60, 55)
	f := newTestFollower(p, nil)
	f.target = 1 // each batch is read for itself
	if got, want := follows(t, f, p), "a1.0 a1.1 b1.0 a3.0 b1.1 a3.1 b2.0 a3.2 b2.1 c1.0"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := fmt.Sprint(f.positions()); got != "map[a:3 b:2 c:1]" || !f.whole() || !f.finished() {
		t.Errorf("it is at %s", got)
	}
	p.now += 10 * second
	p.write("d", 1, p.now, p.now)
	p.write("b", 3, p.now, p.now-1)
	if got, want := follows(t, f, p), "b3.0 d1.0"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAFollowerStopsWhereItIsTold(t *testing.T) {
	p := &paper{now: 100}
	for n := uint64(1); n <= 5; n++ {
		p.write("a", n, int64(n), int64(n))
		p.write("b", n, int64(n), int64(n))
	}
	f := newTestFollower(p, map[string]uint64{"a": 1})
	f.stopAt(map[string]uint64{"a": 3})
	if got, want := follows(t, f, p), "a2.0 a3.0"; got != want || !f.reached() {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	f.stopAt(nil)
	if got, want := follows(t, f, p), "b1.0 b2.0 b3.0 a4.0 b4.0 a5.0 b5.0"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// On a cluster a part may come after one that was written after it; what does not
// come at all must not stop detection.
func TestWhatLacksIsWaitedForAndThenLeftOut(t *testing.T) {
	p := &paper{now: began}
	p.write("a", 1, 1, 1)
	p.write("a", 2, 2, 2)
	p.write("a", 4, 4, 4) // 3 is not there
	p.write("a", 5, 5, 5, 5, 5)
	gone := p.events["a"][5][1]
	p.events["a"][5] = slices.Delete(p.events["a"][5], 1, 2)
	f := newTestFollower(p, nil)
	for _, step := range []struct {
		pass int64
		want string
		done bool
	}{
		{0, "a1.0 a2.0", false},
		{29 * second, "", false},
		{second, "a4.0", false},  // entry 3 is given up
		{29 * second, "", false}, // an event of batch 5 is not
		{second, "a5.0 a5.2", true},
	} {
		p.now += step.pass
		if got := follows(t, f, p); got != step.want || f.finished() != step.done {
			t.Errorf("after %v: %q, finished %v; want %q, %v", time.Duration(step.pass)*time.Microsecond, got, f.finished(), step.want, step.done)
		}
	}

	// It comes in time.
	f = newTestFollower(p, map[string]uint64{"a": 2})
	if got := follows(t, f, p); got != "" {
		t.Errorf("got %s", got)
	}
	p.sealed["a"] = slices.Insert(p.sealed["a"], 2, store.SealedBatch{LogID: "a", Batch: 3, SealedAt: 3, Events: 1, Expires: 20819})
	p.events["a"][3] = []*event.Event{{LogID: "a", Batch: 3, ReceivedAt: 3}}
	if got := follows(t, f, p); got != "a3.0 a4.0" || f.finished() {
		t.Errorf("got %s", got)
	}
	p.events["a"][5] = slices.Insert(p.events["a"][5], 1, gone)
	if got, want := follows(t, f, p), "a5.0 a5.1 a5.2"; got != want || !f.finished() {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEventsThatExpiredAreNotWaitedFor(t *testing.T) {
	p := &paper{now: 20819 * 86400 * second}
	p.write("a", 1, 1, 1, 1)
	p.events["a"][1] = p.events["a"][1][1:] // a hold keeps one of them
	if got := follows(t, newTestFollower(p, nil), p); got != "a1.1" {
		t.Errorf("got %s", got)
	}
}

func TestAnEntryThatIsThereTwiceIsReadOnce(t *testing.T) {
	p := &paper{now: began}
	p.write("a", 1, 1, 1)
	p.write("a", 2, 2, 2)
	p.sealed["a"] = append(p.sealed["a"][:1], p.sealed["a"][0], p.sealed["a"][1])
	if got := follows(t, newTestFollower(p, nil), p); got != "a1.0 a2.0" {
		t.Errorf("got %s", got)
	}
}

func TestWhatIsReadAtOnceIsBounded(t *testing.T) {
	p := &paper{now: began}
	large, small := strings.Repeat("x", event.MaxArguments), strings.Repeat("x", 500)
	const batches = 3 * entriesAtOnce
	for n := uint64(1); n <= batches; n++ {
		p.write("a", n, int64(n), slices.Repeat([]int64{int64(n)}, 10)...)
		for _, e := range p.events["a"][n] {
			if e.Arguments = small; n > batches/2 {
				e.Arguments = large // all of a sudden
			}
		}
	}
	follows(t, newTestFollower(p, nil), p)
	if most := slices.Max(p.read); most > store.MaxRead {
		t.Errorf("%d bytes are read at once", most)
	}
	if len(p.read) > batches/2+100 {
		t.Errorf("small events are read in %d bites", len(p.read)-batches/2)
	}
}

// Two logs that are written side by side: whoever comes first at each look, the same
// is found as in a replay.
func TestLogsSideBySideGiveWhatAReplayGives(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	p := &paper{now: began}
	at := began
	for n := uint64(1); n <= 150; n++ {
		at += r.Int64N(3 * second)
		for _, log := range []string{"a", "b"} {
			received := at + r.Int64N(second/2)
			p.write(log, n, received+r.Int64N(second/4), slices.Repeat([]int64{received}, 1+r.IntN(4))...)
			for _, e := range p.events[log][n] {
				e.EventID = event.Random(r).EventID
				e.Tenant, e.Principal, e.Kind = "default", fmt.Sprint("p", r.IntN(6)), "tool_call"
				e.OccurredAt -= r.Int64N(second)
			}
		}
	}
	end := at + 200*second
	note := func(out *[]string) func(detect.Change) {
		return func(c detect.Change) { *out = append(*out, fmt.Sprintf("%+v", c.Finding)) }
	}
	var want []string
	p.now = end
	if _, err := Replay(t.Context(), p, ReplayConfig{Rules: testRules(), From: time.UnixMicro(began), To: p.clock(), Now: p.clock, Log: quiet}, note(&want)); err != nil {
		t.Fatal(err)
	}
	if len(want) < 30 {
		t.Fatalf("only %d versions are found: the test is of no use", len(want))
	}
	for range 5 {
		var got []string
		p.now = began
		engine := detect.New(testRules(), 7, note(&got))
		f := newTestFollower(p, nil)
		for p.now < end {
			p.now = min(end, p.now+r.Int64N(second/2))
			if err := f.poll(t.Context(), p.clock()); err != nil {
				t.Fatal(err)
			}
			for {
				events, err := f.next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if events == nil {
					break
				}
				for _, e := range events {
					engine.Add(e)
				}
			}
			engine.Advance(p.now - second)
		}
		engine.Advance(end)
		compare(t, "live", got, want)
	}
}
