package notify

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/detect/notify/receiver"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// What people made of a finding: see the message Finding of the API.
const (
	TriageNew    = "new"
	TriageSeen   = "acknowledged"
	TriageClosed = "closed"
)

// State is a finding in its newest version, and what people made of it.
type State struct {
	Finding    detect.Finding
	History    bool   // found in what was stored before there was a runner
	Triage     string // TriageNew, TriageSeen or TriageClosed
	By         string // who acknowledged or closed it
	Verdict    string // of one that was closed
	Suppressed bool   // a suppression covers it
}

// over says whether nobody has to look at it any more.
func (s *State) over() bool { return s.Finding.State == detect.Resolved || s.Triage == TriageClosed }

// Touch says that something has happened to a finding.
type Touch struct {
	Finding string
	// Version is the newest that was told; 0 when somebody has done something and nothing
	// was told.
	Version uint32
	// News is set when somebody has to be told: it is new, or it became worse, and that
	// was not found in history.
	News bool
}

// Step is a step of triage.
type Step struct {
	ID      uuid.UUID
	Finding string
	At      time.Time
	Name    string // acknowledge, close, reopen or suppress
}

// Feed is where it is read what is found and what people make of it, of all tenants.
type Feed interface {
	// Last is, by teller, the number of what was told last.
	Last(ctx context.Context) (map[string]uint64, error)
	// After says to which findings something happened after positions, in the order in
	// which it was told, and the positions of all tellers behind it. It reads about so
	// many versions; when there are no more, the positions are as they were.
	After(ctx context.Context, positions map[string]uint64, most int) ([]Touch, map[string]uint64, error)
	// Steps are those that were taken since a time, oldest first, at most so many.
	Steps(ctx context.Context, since time.Time, most int) ([]Step, error)
	// Newest is the state of findings, in no order. Ids that there are not are left out.
	Newest(ctx context.Context, ids []string) ([]State, error)
}

// Store is the outbox; *store.Store is it. What a method does is said there.
type Store interface {
	AppendNotifications(ctx context.Context, rows []store.Notification) error
	NotificationsRead(ctx context.Context) (store.ReadPositions, error)
	NotifiedOf(ctx context.Context, findings []string, since time.Time) ([]store.Notified, error)
	Unsent(ctx context.Context, receiver string, since time.Time, most int) ([]store.Delivery, error)
	ToldOpen(ctx context.Context, receiver string, since time.Time, most int) ([]store.Delivery, error)
	MessagesSince(ctx context.Context, receiver string, since time.Time) ([]time.Time, error)
}

// Sender tells one receiver; receiver.New makes one.
type Sender interface {
	// Send tells it and returns the HTTP status of its answer, 0 for none. An error that
	// is a receiver.Refused or receiver.Later says when to come again.
	Send(ctx context.Context, n *message.Notification) (status int, err error)
	// Refresh is how often what is open has to be sent again; 0 for never.
	Refresh() time.Duration
	// Groups says that it groups by itself and wants each alert at once.
	Groups() bool
}

// Observer hears what is done, for metrics. Receivers are those of the plan. Its methods
// must not block.
type Observer interface {
	// Queued: so many things have to be told to a receiver.
	Queued(receiver string, n int)
	// Sent: a message with so many alerts has arrived.
	Sent(receiver string, alerts int, took time.Duration)
	// Failed: a message has not. It is tried again.
	Failed(receiver string)
	// Skipped: so many things need not be told any more.
	Skipped(receiver string, n int)
	// Waiting: so many findings wait to be told, the oldest for so long.
	Waiting(receiver string, findings int, oldest time.Duration)
	// StoreFailed: the store did not answer; it is asked again.
	StoreFailed()
}

// Deps are what a runner takes from its surroundings.
type Deps struct {
	Feed  Feed
	Store Store
	// Now is the clock. Waits are differences of what it says, so a clock with a
	// monotonic reading, as time.Now, may be set without harm.
	Now   func() time.Time
	Log   *slog.Logger
	Watch Observer
	// Rules is what a rule says of itself: what it looks for and what to do first, each
	// one line, empty for a rule that is not in force any more.
	Rules func(name string) (title, runbook string)
	// Command shows a finding in a terminal.
	Command func(findingID string) string
	// Leads says whether this instance is the one that tells; nil: always. Two that tell
	// at the same time tell things twice.
	Leads func() bool
	// Open makes a sender; nil: receiver.New.
	Open func(receiver.Settings) (Sender, error)
}

func (d *Deps) open(s receiver.Settings) (Sender, error) {
	s.Now = d.Now
	if d.Open != nil {
		return d.Open(s)
	}
	return receiver.New(s)
}

func (d *Deps) check() error {
	if d.Feed == nil || d.Store == nil || d.Now == nil || d.Log == nil || d.Watch == nil {
		return errors.New("start notifications: a feed, a store, a clock, a log and an observer are needed")
	}
	return nil
}
