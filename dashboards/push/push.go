// Package push puts mcpaudit's dashboards, data sources and alerts into a Grafana, and
// takes them out again: what 'mcpaudit dashboards diff|apply|remove' do.
//
// A run reads what is there, plans, and then writes. Nothing is written when anything is
// in the way: an object that has one of our names without our mark, or that somebody
// else provisions. The plan is what differs and no more, so a second run writes nothing.
// Each write makes one object what it should be, after those that it refers to: a run
// that was interrupted, also behind a write whose answer was lost, is finished by the
// next one. There is no other state than Grafana's.
//
// What is ours:
//
//   - the folder with the uid mcpaudit, deleted only when it is empty;
//   - data sources with the uids mcpaudit-clickhouse and mcpaudit-prometheus, whose
//     jsonData says managedBy mcpaudit;
//   - dashboards whose uid begins with mcpaudit- and that have the tag mcpaudit;
//   - alert rules whose uid begins with mcpaudit- and that have the label mcpaudit="true";
//   - the contact point mcpaudit, of integrations with the uids mcpaudit, mcpaudit-2, …;
//   - in the tree of notification policies, the one route below the root whose only
//     matcher is mcpaudit="true". The tree is one object in Grafana's API: it is written
//     back with every other route as it was read.
//
// Objects are written with X-Disable-Provenance, so that they can be looked at and
// paused in Grafana as any others; the next run mends what was changed by hand.
package push

import (
	"context"
	"errors"
	"fmt"
)

// Actions of a change.
const (
	Create = "create"
	Update = "update"
	Remove = "remove"
)

// Change is one write: what it does, to what and, for an update, where the object
// differs.
type Change struct {
	Action string   `json:"action"`
	Kind   string   `json:"kind"` // folder, data source, dashboard, alert rule, alert group, contact point, route
	UID    string   `json:"uid"`
	Name   string   `json:"name"`
	Paths  []string `json:"paths,omitempty"` // of its JSON, the first maxPaths; values are not shown
}

// Plan is what a run would do, or has done.
type Plan struct {
	Changes []Change `json:"changes"`
	// Notes are what a person should know and no write is: what was not looked at.
	Notes []string `json:"notes,omitempty"`
}

// step is a change and how it is made.
type step struct {
	Change
	do func(context.Context) error
}

// desk is one run: what it knows and what it plans.
type desk struct {
	cfg   Config
	n     *connection
	steps []step
	notes []string

	clickhouse, prometheus string // uids of the data sources; "" for none
	folderThere            bool
	panels                 map[string]map[string]int // of dashboards: title of a panel to its number
}

func (d *desk) plan(c Change, do func(context.Context) error) {
	d.steps = append(d.steps, step{c, do})
}

func (d *desk) note(format string, args ...any) {
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

func (d *desk) planned() Plan {
	p := Plan{Changes: []Change{}, Notes: d.notes}
	for _, s := range d.steps {
		p.Changes = append(p.Changes, s.Change)
	}
	return p
}

// Diff says what Apply would change. It writes nothing.
func Diff(ctx context.Context, c Config) (Plan, error) {
	d, err := open(ctx, c)
	if err != nil {
		return Plan{}, err
	}
	if err := d.wanted(ctx); err != nil {
		return Plan{}, err
	}
	return d.planned(), nil
}

// Apply makes Grafana's objects what they should be. The plan has what was done, also
// beside an error.
func Apply(ctx context.Context, c Config) (Plan, error) {
	d, err := open(ctx, c)
	if err != nil {
		return Plan{}, err
	}
	if err := d.wanted(ctx); err != nil {
		return Plan{}, err
	}
	done, err := d.carryOut(ctx)
	if err == nil {
		d.tryOut(ctx)
		done.Notes = d.notes
	}
	return done, err
}

// Removal says what RemoveAll would remove. It writes nothing.
func Removal(ctx context.Context, c Config) (Plan, error) {
	d, err := open(ctx, c)
	if err != nil {
		return Plan{}, err
	}
	if err := d.unwanted(ctx); err != nil {
		return Plan{}, err
	}
	return d.planned(), nil
}

// RemoveAll removes what is ours, in the reverse order, and nothing else.
func RemoveAll(ctx context.Context, c Config) (Plan, error) {
	d, err := open(ctx, c)
	if err != nil {
		return Plan{}, err
	}
	if err := d.unwanted(ctx); err != nil {
		return Plan{}, err
	}
	return d.carryOut(ctx)
}

// open checks the configuration and that Grafana is there, to which the token is not
// shown before.
func open(ctx context.Context, c Config) (*desk, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n, err := connect(c)
	if err != nil {
		return nil, err
	}
	d := &desk{cfg: c, n: n}
	var is struct {
		Database string `json:"database"`
		Version  string `json:"version"` // "" where it is hidden from strangers
	}
	if err := n.get(ctx, "/health", false, &is); err != nil {
		if missing(err) {
			err = errors.New("there is no Grafana API there; give the URL of Grafana itself, with its path when it has one (root_url)")
		}
		return nil, fmt.Errorf("reach Grafana at %s: %w", shownURL(c.URL), n.explain(err))
	}
	if is.Database == "" {
		return nil, fmt.Errorf("reach Grafana at %s: something answers there that is not Grafana; give the URL of Grafana itself", shownURL(c.URL))
	}
	var major int
	if _, err := fmt.Sscanf(is.Version, "%d.", &major); err == nil && major < oldest {
		return nil, fmt.Errorf("use Grafana at %s: it is version %s; %d or newer is needed", shownURL(c.URL), n.clean(is.Version), oldest)
	}
	return d, nil
}

// oldest is the first major version whose API has all that is asked of it here.
const oldest = 10

// wanted plans what is missing or differs, things that others refer to first, and what
// is ours and not wanted any more.
func (d *desk) wanted(ctx context.Context) error {
	for _, look := range []func(context.Context) error{
		d.lookForPlugin, d.wantSources, d.wantFolder, d.wantDashboards, d.wantContact, d.wantRoute, d.wantRules,
	} {
		if err := look(ctx); err != nil {
			return err
		}
	}
	return nil
}

// unwanted plans to remove what is ours, what refers to others first.
func (d *desk) unwanted(ctx context.Context) error {
	for _, look := range []func(context.Context) error{
		d.dropRules, d.dropRoute, d.dropContact, d.dropDashboards, d.dropFolder, d.dropSources,
	} {
		if err := look(ctx); err != nil {
			return err
		}
	}
	return nil
}

// carryOut makes the planned changes, one after the other, and stops at the first that
// fails.
func (d *desk) carryOut(ctx context.Context) (Plan, error) {
	done := Plan{Changes: []Change{}, Notes: d.notes}
	for i, s := range d.steps {
		if d.cfg.Progress != nil {
			d.cfg.Progress(fmt.Sprintf("%d of %d: %s %s %s", i+1, len(d.steps), s.Action, s.Kind, s.Name))
		}
		if err := s.do(ctx); err != nil && (s.Action != Remove || !missing(err)) {
			if errors.Is(err, errStays) {
				d.note("%s %s stays: %s", s.Kind, s.Name, err)
				continue
			}
			return done, fmt.Errorf("%s %s %q: %w", s.Action, s.Kind, s.Name, d.n.explain(err))
		}
		done.Changes = append(done.Changes, s.Change)
	}
	done.Notes = d.notes
	return done, nil
}

// errStays is of a removal that finds a reason against it.
var errStays = errors.New("others have put something in it")

// reading makes an error of a request one of reading a thing.
func (d *desk) reading(what string, err error) error {
	return fmt.Errorf("read %s: %w", what, d.n.explain(err))
}

// inTheWay is an object with our name that is not ours, or not only.
func inTheWay(kind, uid, why, instead string) error {
	return fmt.Errorf("%s %q is there and %s; nothing was written. %s", kind, uid, why, instead)
}

// provisioned says who keeps an object, when that is neither people nor us. kept is
// Grafana's provenance.
func provisioned(kept string) string {
	switch kept {
	case "":
		return ""
	case "file":
		return "is provisioned from a file of Grafana's"
	}
	return fmt.Sprintf("is provisioned by something else (provenance %q)", kept)
}

// byPeople is the header X-Disable-Provenance for an object with a provenance: one that
// something has made through the API can only be written as that; ours are people's, so
// that they can be looked at and paused in Grafana.
func byPeople(kept string) *string {
	if kept == "api" {
		return nil
	}
	off := "true" // that the header is there is what counts
	return &off
}
