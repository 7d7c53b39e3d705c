package rules

import (
	"fmt"
	"slices"

	"github.com/mcpaudit/mcpaudit/detect"
)

// Example is a stream of events that must make a rule fire, or must not.
type Example struct {
	Name     string `key:"name"`
	Fires    int    `key:"fires"`    // findings that it must open; 0 for none
	Severity string `key:"severity"` // of the worst of them; empty for any
	Within   int    `key:"within"`   // the first one opens at this event at the latest; 0 for any
	Events   string `key:"events"`   // see Script
}

// check says what is wrong with it, and how many events it makes.
func (x *Example) check() (events int, err error) {
	if x.Name == "" {
		return 0, fmt.Errorf("has no name; say what happens in it")
	}
	if x.Severity != "" {
		if _, err := detect.ParseSeverity(x.Severity); err != nil {
			return 0, err
		}
	}
	if x.Fires < 0 || x.Fires == 0 && (x.Severity != "" || x.Within != 0) {
		return 0, fmt.Errorf("fires: say how many findings it opens; severity and within are of those")
	}
	list, err := Script(x.Events)
	return len(list), err
}

// Try runs a rule on an example. The error says what came out instead of what the
// example says.
func (r *Rule) Try(x Example) (findings []detect.Finding, err error) {
	events, err := Script(x.Events)
	if err != nil {
		return nil, err
	}
	observed, first := 0, 0
	engine := detect.New([]detect.Rule{r.Rule}, 1, func(c detect.Change) {
		i := slices.IndexFunc(findings, func(f detect.Finding) bool { return f.ID == c.ID })
		if i < 0 {
			if first == 0 {
				first = observed + 1
			}
			findings = append(findings, c.Finding)
			return
		}
		findings[i] = c.Finding
	})
	for _, e := range events {
		engine.Add(e)
		engine.Flush() // so that it is known which event made it fire
		observed++
	}
	engine.Finish()
	worst := detect.None
	for _, f := range findings {
		worst = max(worst, f.Severity)
	}
	switch {
	case len(findings) != x.Fires:
		return findings, fmt.Errorf("opened %d findings, not %d", len(findings), x.Fires)
	case x.Severity != "" && worst.String() != x.Severity:
		return findings, fmt.Errorf("is of severity %s, not %s", worst, x.Severity)
	case x.Within != 0 && first > x.Within:
		return findings, fmt.Errorf("fired at event %d, not by event %d", first, x.Within)
	}
	return findings, nil
}
