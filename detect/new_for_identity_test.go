package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// newWork is the calls of some identities on some weekdays, ten a day, each with
// tools of one server that it has used in its first week.
func newWork(people, days int) []*event.Event {
	var events []*event.Event
	for day := range days {
		if day%7 > 4 {
			continue
		}
		for p := range people {
			for n := range 10 {
				events = append(events, newCall(day, n, fmt.Sprintf("p%d", p), "files", fmt.Sprintf("tool%d", (p+n*(day%7+1))%5)))
			}
		}
	}
	return events
}

// newCall is a call in one of 24 half-hours of a day.
func newCall(day, n int, who, server, tool string) *event.Event {
	return call(time.Duration(day)*24*time.Hour+time.Duration(n)*30*time.Minute, who, server, tool)
}

func newFound(t *testing.T, events []*event.Event) []Finding {
	t.Helper()
	return feedQuiet(t, DefaultNewForIdentity(), 5*24*time.Hour, hoursSorted(events))
}

func TestNewForIdentityTellsOfAnotherServer(t *testing.T) {
	events := append(newWork(6, 60), newCall(57, 12, "p3", "payroll", "list"), newCall(57, 13, "p3", "payroll", "export"))
	found := newFound(t, events)
	feedWant(t, found, `medium p3: first use of server "payroll"; in 41 active days this identity has used 1 server; none of 5 of the tenant's other identities use it`)
	if found[0].Events != 2 {
		t.Errorf("%d events, want the first uses of the server's two tools", found[0].Events)
	}
}

func TestNewForIdentityTellsOfManyNewTools(t *testing.T) {
	events := newWork(6, 60)
	for n := range 6 {
		events = append(events, newCall(57, 12+n, "p3", "files", fmt.Sprintf("rare%d", n)))
	}
	feedWant(t, newFound(t, events), `medium p3: none of 5 of the server's other users use it`)
}

func TestNewForIdentityWeighsWhatAToolCanDo(t *testing.T) {
	for name, x := range map[string]struct {
		hints event.Hints
		least float64
		most  float64
	}{
		"not told":              {event.DefaultHints, -0.01, 0.01},
		"read-only":             {event.Hints{ReadOnly: true}, -1, -0.5},
		"destructive":           {event.Hints{Destructive: true}, 0.5, 1},
		"read-only, open world": {event.Hints{ReadOnly: true, OpenWorld: true}, -0.5, -0.1},
	} {
		if w := newHints(x.hints); w < x.least || w > x.most {
			t.Errorf("%s: %v", name, w)
		}
	}
}

func TestNewForIdentityIsSilent(t *testing.T) {
	streams := map[string]func() []*event.Event{
		"for the first weeks of an identity": func() []*event.Event {
			events := newWork(6, 60)
			for day := 50; day < 60; day++ {
				events = append(events, newCall(day, 1, "newcomer", fmt.Sprintf("server%d", day), "x"))
			}
			return events
		},
		"for who tries something new every other day": func() []*event.Event {
			events := newWork(6, 120)
			for day := 0; day < 120; day += 2 {
				events = append(events, newCall(day, 12, "p2", fmt.Sprintf("server%d", day), "x"), newCall(day, 13, "p2", "files", fmt.Sprintf("t%d", day)))
			}
			return events
		},
		"for one tool that everybody else uses": func() []*event.Event {
			events := newWork(6, 60)
			for p := range 6 {
				if p != 3 {
					events = append(events, newCall(3, 12, fmt.Sprintf("p%d", p), "files", "shared"))
				}
			}
			return append(events, newCall(57, 12, "p3", "files", "shared"))
		},
		"for resources of a known server": func() []*event.Event {
			events := newWork(6, 60)
			for n := range 20 {
				e := newCall(57, n, "p3", "files", fmt.Sprintf("file:///%d", n))
				e.Kind, e.Method = "resource_read", "resources/read"
				events = append(events, e)
			}
			return events
		},
		"for what was used long ago": func() []*event.Event {
			return append(newWork(6, 300), newCall(2, 20, "p3", "payroll", "list"), newCall(290, 20, "p3", "payroll", "list"))
		},
	}
	for name, stream := range streams {
		t.Run(name, func(t *testing.T) { feedWant(t, newFound(t, stream())) })
	}
}

// A server that is rolled out to all is told for the first who use it, not for each.
func TestNewForIdentityRollOut(t *testing.T) {
	events := newWork(60, 60)
	for p := range 60 {
		events = append(events, newCall(57, 10+p/10, fmt.Sprintf("p%d", p), "tickets", "list"))
	}
	if found := newFound(t, events); len(found) > 20 {
		t.Errorf("%d findings for 60 identities", len(found))
	}
}

func TestNewForIdentityTellsOfARollOutNoMoreThanTwice(t *testing.T) {
	var events []*event.Event
	for day := range 63 {
		for i := range 10 {
			at := time.Duration(day)*24*time.Hour + time.Duration(i)*time.Minute
			events = append(events, call(at, fmt.Sprint("user", i), "files", "read"))
			if day >= 60 {
				events = append(events, call(at+time.Hour, fmt.Sprint("user", i), "wiki", "search"))
			}
		}
	}
	feedWant(t, feedQuiet(t, DefaultNewForIdentity(), 5*24*time.Hour, inOrder(events)), "medium user0: none of 9", "medium user1: 1 of 9")
}

func TestNewForIdentitySavedInTheMiddle(t *testing.T) {
	events := newWork(6, 60)
	for day := 20; day < 60; day += 7 {
		events = append(events, newCall(day, 12, fmt.Sprintf("p%d", day%6), fmt.Sprintf("server%d", day), "list"))
	}
	feedSaved(t, DefaultNewForIdentity(), hoursSorted(events))
}

func TestNewForIdentityHostile(t *testing.T) {
	cfg := DefaultNewForIdentity()
	cfg.MaxGroups = 100
	if n := feedHostile(t, cfg, 300, nil); n != 0 {
		t.Errorf("%d findings for identities that were seen once", n)
	}
	feedHostile(t, cfg, 300, func(i int, _ *rand.Rand, e *event.Event) { e.Principal, e.Tenant = "one", "acme" })
}

func TestKnownThingsForgetsTheOldest(t *testing.T) {
	var known knownThings
	key := func(n int) Key { return Key{mix(uint64(n), 1), 0} }
	for n := range 100 {
		if known.use(key(n)) {
			t.Fatalf("%d is known before it was added", n)
		}
		known.add(key(n))
	}
	kept := 0
	for n := range 100 {
		if known.use(key(n)) {
			kept++
		}
	}
	if kept < 97 {
		t.Errorf("%d of 100 were forgotten", 100-kept)
	}
	for n := range 100_000 {
		known.use(key(7))
		if !known.use(key(1000 + n)) {
			known.add(key(1000 + n))
		}
	}
	if len(known.Table) != knownMost || known.Count > knownMost || !known.use(key(7)) {
		t.Errorf("%d slots, %d known, the one in use: %v", len(known.Table), known.Count, known.use(key(7)))
	}
}
