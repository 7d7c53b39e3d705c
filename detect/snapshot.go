package detect

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"io"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// snapshotFormat changes when what detectors remember changes its form: a snapshot
// of another one is not read, and history is replayed instead.
const snapshotFormat = 1

// snapshot is an engine as it is written down.
type snapshot struct {
	Format       int
	Seed         uint64
	Clock, Ticks int64
	Count        Counts
	Held         [][]byte // rows of events, see event.AppendRow
	Rules        []savedRule
}

type savedRule struct {
	Name, Digest string
	State, Cases []byte
}

type savedCases struct {
	Open  *Groups[openCase]
	Flood map[string]*flood
	Past  *Groups[int64] // nil in what an earlier version wrote
}

// Save writes all that the engine remembers.
func (x *Engine) Save(w io.Writer) error {
	s := snapshot{Format: snapshotFormat, Seed: x.hash.seed, Clock: x.clock, Ticks: x.ticks, Count: x.count}
	for _, h := range x.held {
		s.Held = append(s.Held, event.AppendRow(nil, h.event))
	}
	for _, r := range x.rules {
		state, err := encode(r.detector.State())
		if err != nil {
			return fmt.Errorf("save the state of rule %s: %w", r.rule.Name, err)
		}
		open, err := encode(savedCases{&r.cases.Open, r.cases.Flood, &r.cases.Past})
		if err != nil {
			return fmt.Errorf("save the findings of rule %s: %w", r.rule.Name, err)
		}
		s.Rules = append(s.Rules, savedRule{r.rule.Name, r.rule.Digest, state, open})
	}
	if err := gob.NewEncoder(w).Encode(s); err != nil {
		return fmt.Errorf("save the state of the detectors: %w", err)
	}
	return nil
}

// Load reads back what Save wrote, into an engine that is new. It returns the rules
// that the snapshot has no state for, because they are new or were changed.
func (x *Engine) Load(r io.Reader) (lacking []string, err error) {
	var s snapshot
	if err := gob.NewDecoder(r).Decode(&s); err != nil {
		return nil, fmt.Errorf("read the state of the detectors: %w", err)
	}
	if s.Format != snapshotFormat {
		return nil, fmt.Errorf("read the state of the detectors: it has format %d, this version writes %d", s.Format, snapshotFormat)
	}
	saved := map[string]savedRule{}
	for _, r := range s.Rules {
		saved[r.Name+"\x00"+r.Digest] = r
	}
	for _, r := range x.rules {
		old, ok := saved[r.rule.Name+"\x00"+r.rule.Digest]
		if !ok {
			lacking = append(lacking, r.rule.Name)
			continue
		}
		if err := gob.NewDecoder(bytes.NewReader(old.State)).Decode(r.detector.State()); err != nil {
			return nil, fmt.Errorf("read the state of rule %s: %w", r.rule.Name, err)
		}
		c := savedCases{Open: &r.cases.Open, Past: &r.cases.Past}
		if err := gob.NewDecoder(bytes.NewReader(old.Cases)).Decode(&c); err != nil {
			return nil, fmt.Errorf("read the findings of rule %s: %w", r.rule.Name, err)
		}
		if r.cases.Open = *c.Open; c.Flood != nil {
			r.cases.Flood = c.Flood
		}
	}
	for _, row := range s.Held {
		e, rest, err := event.ParseRow(row)
		if err != nil || len(rest) != 0 {
			return nil, fmt.Errorf("read the state of the detectors: an event that was held back: %w", err)
		}
		x.held.push(hold(e))
	}
	x.hash.seed, x.clock, x.ticks, x.count = s.Seed, s.Clock, s.Ticks, s.Count
	return lacking, nil
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}
