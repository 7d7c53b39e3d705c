package detect

import (
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Detector is the state machine of one rule over all groups. It is pure: what it
// says depends on the events and the clock that it was given, and on nothing
// else, so a replay says the same. It belongs to the goroutine of its engine.
type Detector interface {
	// Observe takes the next event. What it finds it says with out.Raise, for
	// every event that belongs to it: the first opens a finding, others update it.
	Observe(v *Seen, out *Out)
	// Advance tells that the engine's clock has come to clock, µs, and that no
	// event with an earlier one will follow. It is called at every Tick of that
	// clock, also when no events come; a detector whose groups can become
	// remarkable by silence, or whose windows end, looks for them here.
	Advance(clock int64, out *Out)
	// State is a pointer to all that the detector remembers, a value that
	// encoding/gob can write and read back: the snapshot of it. After it was read
	// back the detector goes on as if it had never stopped.
	State() any
}

// Config is the settings of one detector, as a rule's "with" has them: a struct
// whose fields have the tags key (the name) and doc (a sentence, with the unit).
// Fields may be bool, int, float64, string, time.Duration, []string and slices of
// such structs. The zero value is not meant to be used: the detector's Default…
// gives the shipped settings, which a rule changes one by one.
type Config interface {
	// Validate names the first setting that is wrong and what it may be.
	Validate() error
	// New makes a detector with empty state.
	New() Detector
}

// Rule is one detector with its settings, and what people need to know of it.
type Rule struct {
	Name     string
	Title    string // one sentence: what it means when this fires
	Detector string // name of the kind, such as agent_loop
	Severity Severity
	// References name the entries of public catalogues that it covers, such as
	// "OWASP MCP04:2025".
	References []string
	Runbook    string // what to do first
	// ResolveAfter is how long a finding must have been quiet to be resolved.
	ResolveAfter time.Duration
	// Where chooses the events that the detector gets; nil for all.
	Where func(*Seen) bool
	With  Config
	// Digest is over all that decides what the rule finds. State that was saved
	// under another digest is not taken over.
	Digest string
}

// Signal is what a detector has to say of one group at one event.
type Signal struct {
	// Group is what the finding is about, and Subject its names. A second signal of
	// the same group updates the finding that is open.
	Group   Key
	Subject Subject
	// Start is when it began, µs, by the events' clock; with rule and subject it
	// makes the finding's id, so it must not depend on when somebody looked. It
	// counts at the signal that opens a finding.
	Start    int64
	Severity Severity // None for the rule's
	Score    float64
	Reason   string
	Observed string
	Expected string
	Workings []Working
	// Before are events that belong to it and came before this one, oldest first.
	// It counts at the signal that opens a finding.
	Before []event.ID
	// Counts is how many events the signal stands for when it has none of its own
	// (in Advance); with an event it is that one.
	Counts uint64
	// Last is when the newest thing it is about happened, for a signal without an
	// event; 0 for the event's own time.
	Last int64
	// Quiet keeps the finding open but is no news: what is observed went on.
	Quiet bool
}
