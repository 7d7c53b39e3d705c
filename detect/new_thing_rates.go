package detect

import (
	"math"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

const (
	// The tenant's own rates are shrunk towards what is usual anywhere, as if that had
	// been seen for so many days.
	newTenantPrior = 100
	// The mean logarithm of the shares of peers that use what somebody begins to use,
	// before it is known: one in seven, as if five had been seen.
	newShareUsual, newSharePrior = -2.0, 5
	// A thing's share makes a first use at most e² times more or less remarkable.
	newShareMost = 2.0
)

// newThingTenant is what is usual for the identities of a tenant.
type newThingTenant struct {
	Identities float64
	Days       float64 // active days of established identities
	Servers    newThingRate
	Tools      newThingRate
}

// newThingRate is of first uses by established identities.
type newThingRate struct {
	Days   float64 // with at least one
	Firsts float64
	Shares float64 // sum of the logarithms of the shares of peers that used it already
}

// newThingUsers are the identities that use a server or tool.
type newThingUsers struct {
	Count  float32
	Recent float32 // established ones that have begun to, fading by half in a week
	Day    int64   // of Recent
}

func (r *newThingRate) halve() { r.Days, r.Firsts, r.Shares = r.Days/2, r.Firsts/2, r.Shares/2 }

// newThingKind is what is known beforehand of one kind of things.
type newThingKind struct {
	astray float64 // first uses on an active day by somebody who finds his way about
	prior  float64 // the tenant's rate weighs as much as so many days of one's own
	usual  float64 // what the tenant's rate is itself shrunk to, for newTenantPrior days
	part   float64 // how much of the logarithm of a thing's share of the peers counts
	rate   func(*newThingTenant) *newThingRate
}

var (
	newServers = newThingKind{1, 4, 0.01, 0.5, func(t *newThingTenant) *newThingRate { return &t.Servers }}
	newTools   = newThingKind{0.2, 15, 0.05, 0.3, func(t *newThingTenant) *newThingRate { return &t.Tools }}
)

// often is the share of its active days on which the identity uses something new,
// given those of late that it did.
func (k *newThingKind) often(t *newThingTenant, g *newThingGroup, days float32) float64 {
	tenants := (k.rate(t).Days + k.usual*newTenantPrior) / (t.Days + newTenantPrior)
	return (float64(days) + k.prior*tenants) / (float64(g.Active) + k.prior)
}

// rarer is how much more a first use says because few of the peers use the thing,
// whose share among them has this logarithm, or less because many do.
func (k *newThingKind) rarer(r *newThingRate, share float64) float64 {
	mean := (r.Shares + newShareUsual*newSharePrior) / (r.Firsts + newSharePrior)
	return min(max(k.part*(mean-share), -newShareMost), newShareMost)
}

func (u *newThingUsers) recent(day int64) float64 {
	return float64(u.Recent) * math.Exp2(-float64(max(0, day-u.Day))/newMemory)
}

// newHints weighs what a tool can do, if its server says so: the defaults of MCP
// are what a server without annotations has.
func newHints(h event.Hints) float64 {
	x := 0.0
	switch {
	case h == event.DefaultHints:
		return 0
	case h.ReadOnly:
		x = -math.Ln2
	case h.Destructive:
		x = math.Ln2
	}
	if h.OpenWorld {
		x += 0.4
	}
	return x
}
