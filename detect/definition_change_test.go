package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// definitionListed is a tool's definition as tools/list has it.
func definitionListed(at time.Duration, tool, version string, digest byte, h event.Hints, signals ...string) *event.Event {
	e := call(at, "alice", "files", tool)
	e.Kind, e.Method, e.ServerVersion, e.DefinitionDigest, e.Hints, e.Signals = "tools_list", "tools/list", version, event.Digest{digest}, h, signals
	return e
}

var definitionReadOnly = event.Hints{ReadOnly: true, Destructive: true}

func TestACatalogueIsNoFinding(t *testing.T) {
	var events []*event.Event
	for i := range 50 {
		at := time.Duration(i) * time.Minute
		events = append(events, definitionListed(at, fmt.Sprint("tool", i), "1", byte(i+1), event.DefaultHints, "url:example.com", "pii:phone"))
		again := definitionListed(at+time.Second, fmt.Sprint("tool", i), "1", byte(i+1), event.DefaultHints)
		used := call(at+2*time.Second, "bob", "files", fmt.Sprint("tool", i))
		used.DefinitionDigest, used.Signals = event.Digest{byte(i + 1)}, []string{"hidden_unicode", "injection_phrase"} // of its arguments
		used.Hints = event.Hints{OpenWorld: true}
		events = append(events, again, used)
	}
	feedWant(t, feedFor(t, DefaultDefinitionChange(), events))
}

func TestPoisonOnTheFirstDay(t *testing.T) {
	used := call(4, "alice", "files", "d")
	used.DefinitionDigest = event.Digest{9}
	feedWant(t, feedFor(t, DefaultDefinitionChange(), []*event.Event{
		definitionListed(0, "a", "1", 1, definitionReadOnly, "hidden_unicode"),
		definitionListed(1, "b", "1", 2, definitionReadOnly, "injection_phrase"),
		definitionListed(2, "c", "1", 3, definitionReadOnly, "overlong"),
		used, definitionListed(2*time.Hour, "d", "1", 9, event.DefaultHints, "injection_phrase"),
	}), "high files a: is new and its definition has hidden characters", "medium files b: instructions to a model", "medium files c: overlong",
		"medium files d: was called before it was listed")
}

func TestRugPulls(t *testing.T) {
	feedWant(t, feedFor(t, DefaultDefinitionChange(), []*event.Event{
		definitionListed(0, "a", "1", 1, definitionReadOnly), definitionListed(time.Hour, "a", "2", 2, definitionReadOnly, "injection_phrase"),
	}), "high files a: what no definition of it had before: instructions to a model")
	feedWant(t, feedFor(t, DefaultDefinitionChange(), []*event.Event{
		definitionListed(0, "a", "1", 1, definitionReadOnly), definitionListed(time.Hour, "a", "2", 2, event.DefaultHints),
	}), "high files a: it is not read-only, it is destructive, it reaches the open world")
	feedWant(t, feedFor(t, DefaultDefinitionChange(), []*event.Event{
		definitionListed(0, "a", "1", 1, definitionReadOnly), definitionListed(time.Hour, "a", "1", 1, event.Hints{ReadOnly: true, OpenWorld: true}),
	}), "high files a: it reaches the open world")
	// A call shows that the definition has changed, the next list how.
	used := call(time.Hour, "alice", "files", "a")
	used.DefinitionDigest, used.ServerVersion = event.Digest{2}, "1"
	feedWant(t, feedFor(t, DefaultDefinitionChange(), []*event.Event{
		definitionListed(0, "a", "1", 1, definitionReadOnly), used, definitionListed(61*time.Minute, "a", "1", 2, definitionReadOnly, "hidden_unicode"),
	}), `medium files: 1 definition of tools of "files" changed without another server version ("1"): "a"`, "high files a: hidden characters")
}

func TestAReleaseThatMakesAllToolsDangerousIsToldFourTimes(t *testing.T) {
	var events []*event.Event
	for i := range 40 {
		events = append(events, definitionListed(time.Duration(i)*time.Second, fmt.Sprint("tool", i), "1", byte(i+1), definitionReadOnly))
	}
	for i := range 40 {
		events = append(events, definitionListed(time.Hour+time.Duration(i)*time.Second, fmt.Sprint("tool", i), "2", byte(i+101), event.DefaultHints))
	}
	found := feedFor(t, DefaultDefinitionChange(), events)
	feedWant(t, found, "high files tool0: it is destructive", "high files tool1: it is destructive", "high files tool2: it is destructive",
		`high files: besides 3 tools of "files" with a finding of their own, 37 definitions like theirs; the newest: tool "tool39"`)
	feedSaved(t, DefaultDefinitionChange(), events)
}

func TestReleasesAreOneInfo(t *testing.T) {
	var events []*event.Event
	for i := range 40 {
		events = append(events, definitionListed(time.Duration(i)*time.Second, fmt.Sprint("tool", i), "1", byte(i+1), definitionReadOnly))
	}
	for i := range 40 {
		events = append(events, definitionListed(time.Hour+time.Duration(i)*time.Second, fmt.Sprint("tool", i), "2", byte(i+101), definitionReadOnly))
	}
	found := feedFor(t, DefaultDefinitionChange(), events)
	feedWant(t, found, "info files: 40 definitions of tools of \"files\" changed with server version \"2\": \"tool0\", \"tool1\", \"tool2\", \"tool3\" and others")
}

func TestInstancesOfTwoVersions(t *testing.T) {
	var events []*event.Event
	for i := range 30 {
		version, hints := byte(i%2+1), definitionReadOnly
		if i%2 == 0 { // the older one has no annotations
			hints = event.DefaultHints
		}
		events = append(events, definitionListed(time.Duration(i)*time.Hour, "a", fmt.Sprint(version), version, hints))
	}
	feedWant(t, feedQuiet(t, DefaultDefinitionChange(), 2*time.Hour, events), "info files: changed with server version", "info files: back and forth between known definitions")
}

func TestADescriptionWithTheDayInIt(t *testing.T) {
	var events []*event.Event
	for i := range 60 {
		events = append(events, definitionListed(time.Duration(i)*24*time.Hour, "a", "1", byte(i+1), definitionReadOnly))
	}
	events = append(events, definitionListed(70*24*time.Hour, "a", "1", 200, definitionReadOnly, "hidden_unicode"))
	found := feedFor(t, DefaultDefinitionChange(), events)
	if len(found) != 5 || found[4].Severity != High {
		t.Errorf("%d findings", len(found))
	}
}

func TestDefinitionChangeSaved(t *testing.T) {
	var events []*event.Event
	for i := range 80 {
		signals := []string(nil)
		if i%17 == 16 {
			signals = []string{"hidden_unicode"}
		}
		events = append(events, definitionListed(time.Duration(i)*time.Minute, fmt.Sprint("tool", i%7), fmt.Sprint(i/40), byte(i/9+1), definitionReadOnly, signals...))
	}
	feedSaved(t, DefaultDefinitionChange(), events)
}

func TestDefinitionChangeHostile(t *testing.T) {
	c := DefaultDefinitionChange()
	c.MaxGroups = 500
	n := feedHostile(t, c, 10_500, func(i int, r *rand.Rand, e *event.Event) {
		e.Kind, e.Target, e.Server, e.DefinitionDigest = "tools_list", fmt.Sprint("t", i%2000), fmt.Sprint("s", i%11), event.Digest{byte(r.Uint32()), 1}
		e.Signals = append(e.Signals, "hidden_unicode")
	})
	if n > 2100 {
		t.Errorf("%d findings", n)
	}
}
