package detect

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

func customOf(condition string, threshold int) *Custom {
	c := DefaultCustom()
	c.Condition, c.Threshold = condition, threshold
	return c
}

// What is no longer counted is not said to be all.
func TestCustomSaysWhenItStopsCounting(t *testing.T) {
	for _, distinct := range []string{"", "arguments"} {
		var events []*event.Event
		for i := range 5000 {
			e := call(time.Duration(i)*10*time.Millisecond, "p", "s", "t")
			e.ArgumentsDigest = event.Digest{byte(i), byte(i >> 8)}
			events = append(events, e)
		}
		c := customOf(`server == "s"`, 3)
		c.Distinct = distinct
		found := feedFor(t, c, events)
		if len(found) != 1 || !strings.HasPrefix(found[0].Observed, "at least 100 ") || found[0].Events != 5000 {
			t.Errorf("%d findings, of %d events: observed %s", len(found), found[0].Events, found[0].Observed)
		}
	}
	// Below that it counts.
	found := feedFor(t, customOf(`server == "s"`, 3), []*event.Event{call(0, "p", "s", "t"), call(time.Second, "p", "s", "t"), call(2*time.Second, "p", "s", "t"), call(3*time.Second, "p", "s", "t")})
	feedWant(t, found, "medium p: 4 events in 5m0s")
}

// Who repeats himself does not hide what else he does.
func TestCustomCountsValuesHoweverOftenTheyRepeat(t *testing.T) {
	var events []*event.Event
	for i := range 5000 {
		tool := "list"
		if i%1200 == 0 {
			tool = fmt.Sprint("delete", i)
		}
		events = append(events, call(time.Duration(i)*10*time.Millisecond, "p", "s", tool))
	}
	c := customOf(`server == "s"`, 5)
	c.Distinct = "target"
	feedWant(t, feedFor(t, c, events), "medium p: 6 different values of target in 5m0s")
}

// A group costs what its threshold needs, however many events it has.
func TestCustomMemory(t *testing.T) {
	c := customOf(`true`, 1)
	d := c.New().(*custom)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const groups = 100
	var h hasher
	out := Out{cases: newCases(&Rule{}), tell: func(Change) {}}
	for g := range groups {
		for i := range 2000 {
			e := call(time.Duration(i)*time.Millisecond, fmt.Sprint("p", g), "s", "t")
			var v Seen
			h.see(e, e.OccurredAt, e.OccurredAt, &v)
			out.v = &v
			d.Observe(&v, &out)
		}
	}
	out = Out{}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := (after.HeapAlloc - before.HeapAlloc) / groups; n > 8<<10 {
		t.Errorf("a group takes %d bytes", n)
	}
	runtime.KeepAlive(d)
}

func TestCustomSaved(t *testing.T) {
	var events []*event.Event
	for i := range 200 {
		events = append(events, call(time.Duration(i)*2*time.Second, fmt.Sprint("p", i%3), "s", fmt.Sprint("t", i%5)))
	}
	c := customOf(`server == "s"`, 8)
	c.GroupBy = []string{"principal", "target"}
	feedSaved(t, c, events)
	c.Distinct, c.GroupBy, c.Threshold = "target", []string{"principal"}, 4
	feedSaved(t, c, events)
}

func TestCustomHostile(t *testing.T) {
	c := customOf(`arguments.contains("a") || true`, 1)
	c.MaxGroups = 1000
	opened := feedHostile(t, c, 1000, func(int, *rand.Rand, *event.Event) {})
	if opened > 1100 {
		t.Errorf("%d findings", opened)
	}
}
