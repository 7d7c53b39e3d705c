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

// flowRead is a call whose result has marks, flowSend one that sends some away.
func flowRead(at time.Duration, server, tool string, marks ...event.Mark) *event.Event {
	e := call(at, "agent:a", server, tool)
	e.SessionID, e.ResultMarks = "s1", marks
	return e
}

func flowSend(at time.Duration, server, tool string, marks ...event.Mark) *event.Event {
	e := call(at, "agent:a", server, tool)
	e.SessionID, e.ArgumentMarks, e.Signals = "s1", marks, []string{"egress"}
	return e
}

// evil stands beside an instruction in what was read.
var evil = event.Mark{Hash: 666, Class: "email", NearInstruction: true}

// A client that begins a trace for each call, as many do, makes no finding of each.
func TestAFlowOverManyTracesIsOneFinding(t *testing.T) {
	bill := flowRead(0, "crm", "get_note", evil)
	bill.Signals, bill.TraceID = []string{"result:injection_phrase"}, strings.Repeat("a", 32)
	events := []*event.Event{bill}
	for i := range 200 {
		e := flowSend(time.Duration(i+1)*time.Second, "mail", "send", evil)
		e.TraceID = fmt.Sprintf("%032x", i+1)
		events = append(events, e)
	}
	found := feedFor(t, DefaultToxicFlow(), events)
	if len(found) != 1 || found[0].Events != 201 {
		t.Errorf("%d findings, the first of %d events; one of 201 wanted", len(found), found[0].Events)
	}
}

// An emitter that marks what stands beside an instruction may have no signal for it.
func TestAGuidedValueIsEnough(t *testing.T) {
	feedWant(t, feedFor(t, DefaultToxicFlow(), []*event.Event{flowRead(0, "crm", "get_note", evil), flowSend(time.Second, "mail", "send", evil)}),
		"high agent:a mail send: beside an instruction")
}

// What a tool is does not depend on who made up names before.
func TestAToolsClassIsItsOwn(t *testing.T) {
	var c = classes{patterns: [4][]string{nil, {"files/*"}}}
	if k := c.of("files/file:", "//secret"); k != 0 {
		t.Errorf("another server's tool has class %d", k)
	}
	if k := c.of("files", "file:///secret"); k != private {
		t.Errorf("the private tool has class %d", k)
	}
}

// Names of tools are kept once for a result, however many values it brings.
func TestToxicFlowMemory(t *testing.T) {
	c := DefaultToxicFlow()
	d := c.New().(*toxicFlow)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const groups = 2000
	var h hasher
	for i := range groups {
		e := flowRead(0, "filesystem", "read_"+strings.Repeat("x", 100))
		e.SessionID, e.Signals = fmt.Sprint("s", i), []string{"result:injection_phrase"}
		for j := range uint64(256) {
			e.ResultMarks = append(e.ResultMarks, event.Mark{Hash: uint64(i)<<32 | j, Class: "email", NearInstruction: j%2 == 0})
		}
		var v Seen
		h.see(e, e.OccurredAt, e.OccurredAt, &v)
		d.Observe(&v, &Out{cases: newCases(&Rule{})})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := (after.HeapAlloc - before.HeapAlloc) / groups; n > 10<<10 {
		t.Errorf("a session takes %d bytes", n)
	}
	runtime.KeepAlive(d)
}

func TestToxicFlowSaved(t *testing.T) {
	var events []*event.Event
	for i := range 40 {
		at := time.Duration(i) * time.Minute
		read := flowRead(at, "crm", "get_note", event.Mark{Hash: uint64(i), Class: "email", NearInstruction: true})
		read.SessionID = fmt.Sprint("s", i%3)
		send := flowSend(at+time.Second, "mail", "send", event.Mark{Hash: uint64(i - i%4), Class: "email"})
		send.SessionID = read.SessionID
		events = append(events, read, send)
	}
	feedSaved(t, DefaultToxicFlow(), events)
}

func TestToxicFlowHostile(t *testing.T) {
	c := DefaultToxicFlow()
	c.MaxGroups = 1000
	feedHostile(t, c, 1000, func(i int, r *rand.Rand, e *event.Event) {
		e.Kind, e.SessionID = "tool_call", fmt.Sprint(i%5000)
		e.Signals = [][]string{{"egress"}, {"result:injection_phrase"}}[i%2]
		e.ResultMarks = []event.Mark{{Hash: uint64(r.IntN(9)), Class: "email", NearInstruction: true}}
		e.ArgumentMarks = []event.Mark{{Hash: uint64(r.IntN(9)), Class: "email"}}
	})
}
