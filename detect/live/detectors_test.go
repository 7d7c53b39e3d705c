package live

import (
	"fmt"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// crowd is a detector for tests: so many calls of one identity, each within Gap of
// the one before.
type crowd struct {
	cfg crowdConfig
	Has struct{ Groups detect.Groups[crowdState] }
}

type crowdConfig struct {
	Most int
	Gap  time.Duration
}

type crowdState struct {
	First, Last int64
	Calls       int
	IDs         []event.ID
}

func (c crowdConfig) Validate() error     { return nil }
func (c crowdConfig) Scope() detect.Scope { return detect.ByIdentity }
func (c crowdConfig) New() detect.Detector {
	d := &crowd{cfg: c}
	d.Has.Groups.Most = 100
	return d
}

func (d *crowd) State() any { return &d.Has }

func (d *crowd) Advance(clock int64, _ *detect.Out) {
	d.Has.Groups.Expire(clock-10*int64(d.cfg.Gap/time.Microsecond), nil)
}

func (d *crowd) Observe(v *detect.Seen, out *detect.Out) {
	g, _ := d.Has.Groups.Get(v.Who, v.Clock)
	if v.At-g.Last > int64(d.cfg.Gap/time.Microsecond) {
		*g = crowdState{First: v.At}
	}
	g.Last = max(g.Last, v.At)
	if g.Calls++; g.Calls >= d.cfg.Most {
		out.Raise(detect.Signal{Group: v.Who, Subject: detect.Subject{Tenant: v.Tenant, Principal: v.Principal}, Start: g.First, Score: float64(g.Calls),
			Reason: fmt.Sprintf("%d calls in a row, the last is %s", g.Calls, v.EventID), Before: g.IDs, Workings: []detect.Working{{Name: "calls", Value: fmt.Sprint(g.Calls)}}})
	} else {
		g.IDs = append(g.IDs, v.EventID)
	}
}

// hush is a detector for tests: an identity that called and then did not for After.
type hush struct {
	cfg hushConfig
	Has struct{ Groups detect.Groups[hushState] }
}

type hushConfig struct{ After time.Duration }

type hushState struct {
	Tenant, Principal string
	Last              int64
}

func (c hushConfig) Validate() error { return nil }
func (c hushConfig) New() detect.Detector {
	d := &hush{cfg: c}
	d.Has.Groups.Most = 100
	return d
}

func (d *hush) State() any { return &d.Has }

func (d *hush) Observe(v *detect.Seen, _ *detect.Out) {
	g, _ := d.Has.Groups.Get(v.Who, v.Clock)
	*g = hushState{v.Tenant, v.Principal, max(g.Last, v.At)}
}

func (d *hush) Advance(clock int64, out *detect.Out) {
	d.Has.Groups.Expire(clock-int64(d.cfg.After/time.Microsecond), func(k detect.Key, g *hushState) {
		out.Raise(detect.Signal{Group: k, Subject: detect.Subject{Tenant: g.Tenant, Principal: g.Principal}, Start: g.Last, Last: g.Last,
			Score: 1, Reason: fmt.Sprintf("nothing since %d", g.Last), Counts: 1})
	})
}

func testRules() []detect.Rule {
	return []detect.Rule{
		{Name: "crowd", Detector: "crowd", Severity: detect.Medium, ResolveAfter: 20 * time.Second, With: crowdConfig{4, 8 * time.Second}, Digest: "1"},
		{Name: "hush", Detector: "hush", Severity: detect.Low, ResolveAfter: 40 * time.Second, With: hushConfig{25 * time.Second}, Digest: "1"},
	}
}
