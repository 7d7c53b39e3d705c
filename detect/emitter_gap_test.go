package detect

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// gapEvents are a second apart, with these numbers.
func gapEvents(numbers ...uint64) (events []*event.Event) {
	for i, n := range numbers {
		e := call(time.Duration(i)*time.Second, "alice", "files", "read")
		e.EmitterSeq = n
		events = append(events, e)
	}
	return events
}

func gapRange(from, to uint64) (numbers []uint64) {
	for n := from; n <= to; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

func TestMissingNumbersAreTold(t *testing.T) {
	found := feedFor(t, DefaultEmitterGap(), gapEvents(append(gapRange(1, 10), append(gapRange(21, 30), gapRange(32, 40)...)...)...))
	feedWant(t, found, "medium emitter: numbered 11 events that did not come within 5 min: 11 to 20, 31")
	// Its evidence is the event behind the first gap.
	if found[0].StartedAt != feedStart.Add(10*time.Second).UnixMicro() || found[0].Score != 11 || found[0].Events != 1 || len(found[0].EventIDs) != 1 {
		t.Errorf("%+v", found[0])
	}
}

func TestNumbersInAnyOrderAreNoGap(t *testing.T) {
	feedWant(t, feedFor(t, DefaultEmitterGap(), gapEvents(append([]uint64{500, 503, 502, 501, 504, 499, 12}, gapRange(505, 600)...)...)))
	r := rand.New(rand.NewPCG(1, 1))
	numbers := gapRange(7, 300)
	for i := 0; i < len(numbers); i += 60 { // late by a minute at most
		part := numbers[i:min(i+60, len(numbers))]
		r.Shuffle(len(part), func(a, b int) { part[a], part[b] = part[b], part[a] })
	}
	found := feedFor(t, DefaultEmitterGap(), gapEvents(numbers...))
	for _, f := range found { // the first ones may be below the first contact
		t.Error(f.Reason)
	}
}

func TestALateFillIsSaid(t *testing.T) {
	numbers := append(gapRange(1, 10), gapRange(14, 600)...)
	found := feedFor(t, DefaultEmitterGap(), gapEvents(append(numbers, 12, 11, 13)...))
	feedWant(t, found, "medium emitter: 3 events that did not come within 5 min; all of them came later")
}

func TestLossesThatAnEmitterReports(t *testing.T) {
	events := gapEvents(1, 2, 3)
	e := events[1]
	e.Kind, e.Method, e.Outcome, e.Labels = "other", "mcpaudit/lost", "protocol_error", []event.Label{{Key: "lost", Value: "17"}}
	feedWant(t, feedFor(t, DefaultEmitterGap(), events), "medium emitter: says itself that it lost 17 events")
}

func TestAnAbsurdNumberIsNoSmallLoss(t *testing.T) {
	events := gapEvents(1, 1<<64-2, 1<<64-1)
	lost := events[2]
	lost.Kind, lost.Method, lost.Labels = "other", "mcpaudit/lost", []event.Label{{Key: "lost", Value: "17"}}
	lost.OccurredAt += micros(10 * time.Minute)
	found := feedFor(t, DefaultEmitterGap(), events)
	feedWant(t, found, "medium emitter: says itself that it lost 17 events")
	if found[0].Score < 1e19 || !strings.HasPrefix(found[0].Observed, "1844674407370955") {
		t.Errorf("observed %s, score %g", found[0].Observed, found[0].Score)
	}
}

func TestManyGapsStayCounted(t *testing.T) {
	var numbers []uint64
	for i := range uint64(500) {
		numbers = append(numbers, 3*i+1)
	}
	found := feedFor(t, DefaultEmitterGap(), gapEvents(numbers...))
	if len(found) != 1 || found[0].Score != 2*499 {
		t.Errorf("%d findings, the first %+v", len(found), found[0])
	}
}

func TestEmitterGapSaved(t *testing.T) {
	feedSaved(t, DefaultEmitterGap(), gapEvents(append(append(gapRange(1, 100), gapRange(110, 700)...), append([]uint64{101, 105}, gapRange(800, 1000)...)...)...))
}

func TestEmitterGapHostile(t *testing.T) {
	c := DefaultEmitterGap()
	c.MaxGroups = 500
	n := feedHostile(t, c, 1000, func(i int, r *rand.Rand, e *event.Event) {
		e.EmitterID, e.EmitterSeq = fmt.Sprint("e", i%301), r.Uint64()
		if i%3 == 0 {
			e.EmitterSeq = ^uint64(0) - uint64(r.IntN(2))
		}
	})
	t.Log(n)
}
