package detect

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Severity says how soon somebody has to look.
type Severity uint8

// The severities. None in a signal means the rule's own.
const (
	None     Severity = iota
	Info              // worth knowing in an investigation
	Low               // look when there is time
	Medium            // look today
	High              // look now
	Critical          // data is leaving, or an attacker is in
)

// Severities are their names, by value.
var Severities = [...]string{"", "info", "low", "medium", "high", "critical"}

func (s Severity) String() string { return Severities[s] }

// ParseSeverity reads a name.
func ParseSeverity(name string) (Severity, error) {
	for i, n := range Severities {
		if i > 0 && n == name {
			return Severity(i), nil
		}
	}
	return None, fmt.Errorf("there is no severity %q; use info, low, medium, high or critical", name)
}

// Subject is whom or what a finding is about. What is empty is not part of it: a
// finding about a tool has no principal, unless one principal caused it.
type Subject struct {
	Tenant    string
	Principal string
	AgentID   string
	SessionID string
	TraceID   string
	Server    string
	Target    string
	Emitter   string
}

// text is the subject as one string that no other subject has.
func (s *Subject) text() []byte {
	var b []byte
	for _, f := range [...]string{s.Tenant, s.Principal, s.AgentID, s.SessionID, s.TraceID, s.Server, s.Target, s.Emitter} {
		b = binary.AppendUvarint(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}

// Working is one step of the arithmetic behind a finding, for people: a name such
// as "calls in the last 5 minutes" and its value.
type Working struct{ Name, Value string }

// States of a finding.
const (
	Open     = "open"
	Resolved = "resolved"
)

// Finding is one thing that a rule has seen, from its first event until it was
// quiet.
type Finding struct {
	ID       string // of rule, subject and start: the same in every replay
	Version  uint32 // from 1, +1 whenever it was told
	Rule     string
	Detector string
	Severity Severity
	// Score says how unusual it is, on the detector's own scale, see each
	// detector. It grows with what is observed.
	Score    float64
	Reason   string // one sentence, in words and numbers
	Observed string // short, such as "142 calls in 5 min"
	Expected string // short, such as "3 to 11"
	Workings []Working
	Subject
	// Microseconds since 1970 by the events' clock. EndedAt is 0 while it is open.
	StartedAt, LastSeenAt, EndedAt int64
	// OpenedAt is when the rule could first know, by the clock of the service.
	OpenedAt int64
	Events   uint64     // how many events belong to it
	EventIDs []event.ID // the first and the newest of them, at most MaxEvidence
	State    string     // Open or Resolved
}

// MaxEvidence is how many events a finding names: the first half of them are the
// first ones, the others the newest.
const MaxEvidence = 20

// findingID is made of what a finding is, so that a replay gives it again: a UUID
// of version 8 (RFC 9562, section 5.8).
func findingID(rule string, s *Subject, start int64) string {
	b := append([]byte("mcpaudit finding\x00"), rule...)
	b = append(b, 0)
	b = append(b, s.text()...)
	b = strconv.AppendInt(b, start, 10)
	h := sha256.Sum256(b)
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	x := hex.EncodeToString(h[:16])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// addEvidence notes one more event.
func (f *Finding) addEvidence(id event.ID) {
	f.Events++
	if len(f.EventIDs) < MaxEvidence {
		f.EventIDs = append(f.EventIDs, id)
		return
	}
	const half = MaxEvidence / 2
	copy(f.EventIDs[half:], f.EventIDs[half+1:])
	f.EventIDs[MaxEvidence-1] = id
}
