package emit

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/anchor/notes"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// contradiction is what a service says against what it said before, or against
// the key that it was configured with.
type contradiction struct {
	// Class is what sort: cut, forked (one size, two roots), rewritten (no proof
	// that it only grew), gone, other_log, other_key, unreadable.
	Class string
	LogID string
	Kept  ledger.Checkpoint // the last good one, zero when there is none
	Seen  ledger.Checkpoint // what contradicts it, zero when there is none
	words string

	kept, seen string // signed
	keptKey    string // that kept opens with
	listed     string // key that the service gives for the log
	proof      [][]byte
	at         int64  // when it was found, µs since 1970-01-01 UTC
	file       string // where it is kept; its name in the spool's folder
}

func (c *contradiction) Error() string { return c.words }

// id is the same for all that contradicts the same checkpoint: a log that was cut
// grows again, and is then forked and rewritten.
func (c *contradiction) id() string {
	class := c.Class
	if class == "forked" || class == "rewritten" {
		class = "cut"
	}
	h := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %s", class, c.LogID, c.Kept.Size, c.Kept.Root))
	return hex.EncodeToString(h[:4])
}

func wrongKey(l *pb.Log, seen *seenLog, signed string, claim ledger.Checkpoint) *contradiction {
	c := &contradiction{Class: "other_key", LogID: claim.LogID, seen: signed, Seen: claim, listed: l.GetVerifierKey(),
		words: fmt.Sprintf("the audit log %q is signed with a key that is not the one trusted for it, and that one did not hand over to it", claim.LogID)}
	if seen != nil {
		c.kept, c.Kept, c.keptKey = seen.signed, seen.Checkpoint, seen.key
	}
	return c
}

const (
	maxContradictions  = 20 // files of a spool, and alarms of a process
	contradictionFiles = "contradiction-"
)

// raise makes a contradiction known: in the log, in a file of the spool's folder
// and as an event. This process says the same one once; for a spool there is one
// file and one event of it, also when processes come and go.
func (e *Emitter) raise(dir string, c *contradiction) {
	e.alarmMu.Lock()
	defer e.alarmMu.Unlock()
	if e.raised[c.id()] || len(e.raised) > maxContradictions {
		return
	}
	e.raised[c.id()] = true
	e.contradictions.Add(1)
	if len(e.raised) > maxContradictions {
		e.log.Error("THE AUDIT LOG CAN'T BE TRUSTED: it contradicts itself in ever new ways; more of them are not said", "address", e.transport.String())
		return
	}
	kept, earlier := 0, ""
	files, _ := os.ReadDir(dir) // what can't be read is found anew
	for _, f := range files {
		if strings.HasPrefix(f.Name(), contradictionFiles) {
			kept++
			if strings.HasSuffix(f.Name(), "-"+c.id()+".txt") {
				earlier = f.Name()
			}
		}
	}
	if earlier != "" {
		e.log.Error("THE AUDIT LOG CAN'T BE TRUSTED: "+c.words+"; this was found before", "address", e.transport.String(), "evidence", filepath.Join(dir, earlier))
		return
	}
	now := e.cfg.Now().UTC()
	c.at = now.UnixMicro()
	c.file = contradictionFiles + now.Format("20060102T150405Z") + "-" + c.id() + ".txt"
	err := fmt.Errorf("%d others are kept; look at them and move them away", kept)
	if kept < maxContradictions {
		err = replaceFile(filepath.Join(dir, c.file), c.text(now, e.transport.String(), e.spool.emitter))
	}
	evidence := filepath.Join(dir, c.file)
	if err != nil {
		c.file, evidence = "", "can't be kept: "+err.Error()
	}
	e.log.Error("THE AUDIT LOG CAN'T BE TRUSTED: "+c.words+"; events are delivered to it all the same. Keep the evidence, and have the log verified by somebody who does not run it",
		"address", e.transport.String(), "evidence", evidence)
	e.alarms = append(e.alarms, c)
	select {
	case e.alarmed <- struct{}{}:
	default:
	}
}

// text is the evidence: a list of notes, of which each is signed by the service,
// with all else that was said in lines for people.
func (c *contradiction) text(now time.Time, address, emitter string) []byte {
	b := notes.AppendComment(nil, "An audit log contradicts itself. Found at "+now.Format(time.RFC3339)+" by the emitter "+emitter+", at the service "+address+":")
	b = notes.AppendComment(b, c.words)
	b = notes.AppendComment(b, "What the log says to these checkpoints now: mcpaudit verify --receipt THIS-FILE")
	if c.kept != "" {
		b = notes.AppendComment(b, "seen before:")
		b = notes.AppendKey(b, c.keptKey)
		b = notes.Append(b, c.kept)
	}
	for _, h := range c.proof[:min(len(c.proof), 200)] {
		b = notes.AppendComment(b, "from the service's proof of consistency: "+base64.StdEncoding.EncodeToString(h[:min(len(h), 100)]))
	}
	if c.listed != "" {
		b = notes.AppendComment(b, fmt.Sprintf("key of the log as the service gives it: %.1000q", c.listed))
	}
	switch _, err := ledger.PeekCheckpoint(c.seen); {
	case c.seen == "":
	case err != nil:
		b = notes.AppendComment(b, fmt.Sprintf("then came: %.*q", ledger.MaxCheckpoint, c.seen))
	default:
		b = notes.AppendComment(b, "then came:")
		b = notes.Append(b, c.seen)
	}
	return b
}

// record is the event.
func (c *contradiction) record(base event.Event, name string) Record {
	ev := base
	ev.OccurredAt, ev.Kind, ev.Method, ev.Hints = c.at, "finding", "mcpaudit/receipt", event.DefaultHints
	ev.Server = cmp.Or(ev.Server, name)
	ev.Outcome, ev.ErrorMessage = "protocol_error", c.words
	ev.Labels = []event.Label{{Key: "contradiction", Value: c.Class}, {Key: "log", Value: c.LogID}, {Key: "evidence", Value: c.file}}
	for _, x := range []struct {
		when string
		c    ledger.Checkpoint
	}{{"kept", c.Kept}, {"seen", c.Seen}} {
		if x.c != (ledger.Checkpoint{}) {
			ev.ErrorMessage += fmt.Sprintf("; %s: %d entries, root %s", x.when, x.c.Size, x.c.Root)
			ev.Labels = append(ev.Labels, event.Label{Key: x.when + "_size", Value: strconv.FormatUint(x.c.Size, 10)},
				event.Label{Key: x.when + "_root", Value: x.c.Root.String()})
		}
	}
	return Record{Event: &ev}
}

// takeAlarms are the contradictions of which there is no event yet.
func (e *Emitter) takeAlarms() []*contradiction {
	e.alarmMu.Lock()
	defer e.alarmMu.Unlock()
	alarms := e.alarms
	e.alarms = nil
	return alarms
}

// returnAlarms puts those back whose events could not be kept.
func (e *Emitter) returnAlarms(alarms []*contradiction) {
	e.alarmMu.Lock()
	defer e.alarmMu.Unlock()
	e.alarms = append(alarms, e.alarms...)
}

func (e *Emitter) alarming() bool {
	e.alarmMu.Lock()
	defer e.alarmMu.Unlock()
	return len(e.alarms) > 0
}
