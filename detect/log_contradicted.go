package detect

import (
	"fmt"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// LogContradicted is the settings of the detector "log_contradicted": somebody holds
// proof that the log is not what it was.
//
// Emitters keep the signed checkpoints of their receipts and compare each with the
// one before (method mcpaudit/receipt); 'mcpaudit verify --watch' computes the log
// anew (mcpaudit/verify). Both say what contradicts it in an event of kind finding,
// and each such event counts: there is no threshold. There is one finding for a log.
// The score is how many said so.
//
// Until emitters are authenticated, anyone who may send events can say it; the
// evidence that the event names is what proves it.
type LogContradicted struct {
	MaxGroups int `key:"max_groups" doc:"most logs in memory; the one that was quiet longest is forgotten"`
}

// DefaultLogContradicted has room for every log that there may be.
func DefaultLogContradicted() *LogContradicted { return &LogContradicted{MaxGroups: 10_000} }

// Validate implements Config.
func (c *LogContradicted) Validate() error { return checkGroups(c.MaxGroups) }

// New implements Config.
func (c *LogContradicted) New() Detector {
	return &logContradicted{state: contradictedState{Logs: Groups[contradictedLog]{Most: c.MaxGroups}}}
}

type logContradicted struct{ state contradictedState }

type contradictedState struct {
	Logs  Groups[contradictedLog]
	Names nameKeys
}

// contradictedLog is what was said of one log.
type contradictedLog struct {
	First int64
	Said  uint64
}

func (d *logContradicted) State() any          { return &d.state }
func (d *logContradicted) size() (int, uint64) { return d.state.Logs.Len(), d.state.Logs.Evicted }
func (d *logContradicted) Advance(int64, *Out) {}
func (d *logContradicted) Observe(v *Seen, o *Out) {
	if v.Kind != "finding" || v.Method != "mcpaudit/receipt" && v.Method != "mcpaudit/verify" {
		return
	}
	log, what := v.Target, v.ErrorCode
	for _, l := range v.Labels {
		switch l.Key {
		case "log":
			log = l.Value
		case "contradiction":
			what = l.Value
		}
	}
	key := d.state.Names.of(v, 1, v.Tenant, log)
	s, fresh := d.state.Logs.Get(key, v.Clock)
	if fresh {
		s.First = v.At
	}
	s.Said++
	who := "emitter " + sayName(v.EmitterID) + ", which keeps its receipts,"
	if v.Method == "mcpaudit/verify" {
		who = "a verification of the store"
	}
	o.Raise(Signal{
		Group: key, Subject: Subject{Tenant: v.Tenant, Target: log}, Start: s.First, Score: float64(s.Said), Severity: Critical,
		Reason:   fmt.Sprintf("%s says that log %s is not what it was (%s): %s", who, sayName(log), sayName(what), event.ClipText(v.ErrorMessage, 300)),
		Observed: sayCount(s.Said, "contradiction"), Expected: "none",
	})
}
