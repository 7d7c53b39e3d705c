package detect

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// volumeWork is an identity's ordinary work: days days of hours hours, each with some
// calls of a few kilobytes to a megabyte.
func volumeWork(days, hours int) (events []*event.Event) {
	r := rand.New(rand.NewPCG(3, 4))
	for day := range days {
		for hour := range hours {
			for i := range 5 + r.IntN(20) {
				e := call(time.Duration(day)*24*time.Hour+time.Duration(hour)*time.Hour+time.Duration(i)*time.Minute, "alice", "crm", "get_customer")
				e.ResponseBytes = uint64(2000 * math.Exp(2*r.NormFloat64()))
				e.RequestBytes = 300
				binary.LittleEndian.PutUint64(e.ArgumentsDigest[:], r.Uint64N(500)+1)
				events = append(events, e)
			}
		}
	}
	return events
}

// volumeExport is n calls within an hour that begins at at.
func volumeExport(at time.Duration, n int, change func(i int, e *event.Event)) (events []*event.Event) {
	for i := range n {
		e := call(at+time.Duration(i)*50*time.Minute/time.Duration(n), "alice", "crm", "get_customer")
		binary.LittleEndian.PutUint64(e.ArgumentsDigest[:], 7)
		change(i, e)
		events = append(events, e)
	}
	return events
}

func TestFarMoreThanEver(t *testing.T) {
	const later = 10 * 24 * time.Hour
	base := volumeWork(10, 8)
	feedWant(t, feedFor(t, DefaultDataEgress(), base))
	bytes := volumeExport(later, 200, func(_ int, e *event.Event) { e.ResponseBytes = 1 << 20 })
	found := feedFor(t, DefaultDataEgress(), append(base, bytes...))
	feedWant(t, found, "medium alice: its highest hour in five weeks had")
	if found[0].StartedAt != bytes[0].OccurredAt {
		t.Error("it does not start with the hour")
	}
	reads := volumeExport(later, 3000, func(i int, e *event.Event) { binary.LittleEndian.PutUint64(e.ArgumentsDigest[:], uint64(i)+1e6) })
	feedWant(t, feedFor(t, DefaultDataEgress(), append(base, reads...)), "medium alice: different things since")
	sent := volumeExport(later, 100, func(_ int, e *event.Event) { e.RequestBytes = 2 << 20 })
	feedWant(t, feedFor(t, DefaultDataEgress(), append(base, sent...)), "high alice: to open-world tools since")
	inside := volumeExport(later, 100, func(_ int, e *event.Event) { e.RequestBytes, e.Hints.OpenWorld = 2<<20, false })
	feedWant(t, feedFor(t, DefaultDataEgress(), append(base, inside...)))
}

func TestTheSameReadAgainIsOneRead(t *testing.T) {
	again := volumeExport(10*24*time.Hour, 5000, func(_ int, e *event.Event) {})
	feedWant(t, feedFor(t, DefaultDataEgress(), append(volumeWork(10, 8), again...)))
}

func TestFirstDaysAreSilentUnlessAbsurd(t *testing.T) {
	big := volumeExport(0, 200, func(_ int, e *event.Event) { e.ResponseBytes = 20 << 20 })
	feedWant(t, feedFor(t, DefaultDataEgress(), big))
	absurd := volumeExport(0, 200, func(_ int, e *event.Event) { e.ResponseBytes = 200 << 20 })
	feedWant(t, feedFor(t, DefaultDataEgress(), absurd), "medium alice: of results since")
}

func TestReportsByNightAndByWeekAreNormal(t *testing.T) {
	events := volumeWork(60, 8)
	var all []*event.Event
	for day := range 60 {
		for len(events) > 0 && events[0].OccurredAt < feedStart.Add(time.Duration(day)*24*time.Hour+12*time.Hour).UnixMicro() {
			all, events = append(all, events[0]), events[1:]
		}
		size := uint64(3 << 20) // each night, and a much larger one on Mondays
		if day%7 == 0 {
			size = 30 << 20
		}
		all = append(all, volumeExport(time.Duration(day)*24*time.Hour+12*time.Hour, 100, func(_ int, e *event.Event) { e.ResponseBytes = size })...)
	}
	for _, f := range feedFor(t, DefaultDataEgress(), all) {
		if f.StartedAt > feedStart.Add(8*24*time.Hour).UnixMicro() {
			t.Errorf("%s", f.Reason)
		}
	}
}

func TestAClockThatJumpsAddsUpNothing(t *testing.T) {
	events := volumeWork(10, 8)
	far := call(0, "alice", "crm", "get_customer")
	far.OccurredAt += 150 * 365 * microsPerDay
	d := DefaultDataEgress().New().(*dataEgress)
	h := hasher{seed: 1}
	for i, e := range append([]*event.Event{far}, events...) {
		var v Seen
		h.see(e, e.OccurredAt, int64(i), &v)
		d.Observe(&v, &Out{v: &v, cases: newCases(&Rule{}), tell: func(Change) { t.Fatal("found") }})
	}
	d.state.Groups.Each(func(_ Key, _ int64, g *volumes) bool {
		if g.Hour.Now[volumeBytes] > 1e6 {
			t.Error("all hours are one")
		}
		return true
	})
}

func TestDistinctSketch(t *testing.T) {
	for _, n := range []int{0, 1, 10, 100, 1000, 10_000, 1_000_000} {
		var s distinctSketch
		for i := range n {
			s.add(mix(uint64(i), 77))
			s.add(mix(uint64(i), 77))
		}
		if e := s.estimate(); math.Abs(e-float64(n)) > 0.3*float64(n)+0.5 {
			t.Errorf("%d are counted as %.0f", n, e)
		}
	}
}

func TestDataEgressSaved(t *testing.T) {
	feedSaved(t, DefaultDataEgress(), append(volumeWork(10, 8), volumeExport(10*24*time.Hour, 300, func(_ int, e *event.Event) { e.ResponseBytes = 1 << 20 })...))
}

func TestDataEgressHostile(t *testing.T) {
	c := DefaultDataEgress()
	c.MaxGroups = 500
	opened := feedHostile(t, c, 500, func(i int, r *rand.Rand, e *event.Event) { e.Principal = fmt.Sprint(i % 700) })
	t.Log(opened)
}
