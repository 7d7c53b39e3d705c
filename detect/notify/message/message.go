// Package message is what is said to people about findings: to whom it goes and how it
// is sent there is the business of others (package notify routes it, package receiver
// sends it).
package message

import (
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
)

// What has happened to a finding.
type What string

// The things that receivers are told of.
const (
	Firing       What = "firing"       // it is new
	Worse        What = "worse"        // its severity rose
	Acknowledged What = "acknowledged" // somebody looks at it
	Resolved     What = "resolved"     // it was quiet for long enough, or somebody closed it
	Test         What = "test"         // nothing: somebody tries the way to the receiver
)

// Alert is one finding as a receiver is told of it.
type Alert struct {
	What    What
	Finding detect.Finding // never with the content of a call
	// Title is one line: severity, rule and whom it is about.
	Title string
	// About is what the rule looks for, one line; empty when the rule is unknown.
	About string
	// Runbook is what to do first, from the rule; empty when the rule has none.
	Runbook string
	// Link is where more is to be seen: a URL, or empty.
	Link string
	// Command shows more in a terminal.
	Command string
	// By is who acknowledged or closed it; empty for a finding that was resolved by itself.
	By string
	// Verdict is of a finding that was closed.
	Verdict string
	// Told is the severity at which the receiver was told before that the finding is
	// open; None when this is the first that it hears, also when What is Resolved or
	// Acknowledged: the message then has to say both.
	Told detect.Severity
}

// Key is by which a receiver knows again what it was told of: it is the finding's id,
// the same in every message about it and in every replay.
func (a *Alert) Key() string { return "mcpaudit/" + a.Finding.ID }

// Notification is one message to one receiver: the alerts of a group.
type Notification struct {
	ID       string // the same when it is sent again
	Receiver string
	// Group names the group among those of the receiver, and Labels say what its alerts
	// have in common, such as rule and tenant.
	Group  string
	Labels map[string]string
	Alerts []Alert // never empty
	// Left is how many more alerts of the group were left out, because nobody reads
	// hundreds. They are recorded as sent with it.
	Left int
	At   time.Time
}
