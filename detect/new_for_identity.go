package detect

import (
	"fmt"
	"math"
	"strconv"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// NewForIdentity is the settings of the detector "new_for_identity": an established
// identity uses a server or a tool for the first time, and it is not one that goes
// on to something new every other day.
//
// A first use by itself is no news: people and agents try things. What is weighed is
// how often this identity has used something new so far, in days with a first use
// among its active days (shrunk towards the tenant's identities, as a Gamma-Poisson
// model does), against the rate of somebody who finds his way about: a new server a
// day, a new tool every five days. What few peers use counts more, up to e² times,
// what everybody uses less, and so does what others have just begun to use as well:
// from the third one on that is a roll-out, and no finding by itself. A destructive
// or open-world tool counts more, a read-only one less, if its server says which it
// is. Further new tools of one day count 0.35 of the one before, those of a server
// that is itself new nothing: that they are new follows from it. The logarithms add
// up and fade by half in a week.
//
// The score is the decimal logarithm of how many times likelier what was seen is for
// somebody who finds his way about than for this identity. Of 6,770 active days of
// people in public commit histories, 1 in 400 was flagged at the shipped settings.
type NewForIdentity struct {
	MinDays   int     `key:"min_days" doc:"active days of an identity before its first uses are judged"`
	Likelier  float64 `key:"likelier" doc:"how many times likelier the first uses must be for a stranger than for the identity"`
	HalfLife  float64 `key:"half_life" doc:"active days after which a first use counts half in what is usual for the identity"`
	MaxGroups int     `key:"max_groups" doc:"most identities in memory, and twice as many servers and tools; those that were quiet longest are forgotten"`
}

// DefaultNewForIdentity needs ten active days of an identity.
func DefaultNewForIdentity() *NewForIdentity {
	return &NewForIdentity{MinDays: 10, Likelier: 30, HalfLife: 120, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *NewForIdentity) Validate() error {
	return firstError(
		checkCount("min_days", c.MinDays, 1, 1000),
		checkRatio("likelier", c.Likelier, 2, 1e9),
		checkRatio("half_life", c.HalfLife, 5, 10_000),
		checkGroups(c.MaxGroups),
	)
}

// New implements Config.
func (c *NewForIdentity) New() Detector {
	return &newForIdentity{
		cfg:    *c,
		enough: math.Log(c.Likelier),
		fade:   float32(math.Exp2(-1 / c.HalfLife)),
		state: newThingState{
			Groups:  Groups[newThingGroup]{Most: c.MaxGroups},
			Tenants: Groups[newThingTenant]{Most: 10_000},
			Things:  Groups[newThingUsers]{Most: 2 * c.MaxGroups},
		},
	}
}

const (
	newFurther = 0.35 // what each further new tool of a day counts of the one before
	newMemory  = 7.0  // days in which the sum fades by half
	newCap     = 1.5  // how far the sum goes beyond what is enough, so that it comes down again
	// A server is new for so many days, and after so many without a first use a
	// finding is not taken up again. The shipped rule resolves after the same time.
	newLull      = 5
	newForgotten = 0.3 // a sum below this is as good as none
	// When so many others have begun to use a thing within days, it is a roll-out: a
	// first use of it is at most this part of what is enough.
	newRollOut, newRollOutPart = 1.8, 0.5

	newMaxServers = 32
	newEvidence   = 4
	newTenantMost = 50_000 // days of its identities, after which what is old counts half
)

type newForIdentity struct {
	cfg    NewForIdentity
	enough float64
	fade   float32
	state  newThingState
}

type newThingState struct {
	Groups  Groups[newThingGroup]
	Tenants Groups[newThingTenant]
	Things  Groups[newThingUsers] // servers by Home and tools by Tool
}

// newThingGroup is an identity. It takes 0.3 KB, and 4 bytes for each tool and 8 for
// each server that it uses: 1.6 KB at most.
type newThingGroup struct {
	Servers []newThingServer // the newest use first
	Tools   knownThings
	Newest  uint64 // hash of the tool that was used last
	Day     int64  // since 1970, of the newest activity
	Days    int32  // active days before it
	Today   int32  // tools that were new on it

	// Active days, and those with a first use; what is old counts less.
	Active, ServerDays, ToolDays float32

	Sum    float32 // of the logarithms
	Open   bool    // there is a finding
	Last   int64   // µs of the newest first use that was evidence
	Firsts int32   // those of the finding, or those that have led up to one

	Evidence [newEvidence]event.ID // first uses before the finding was opened, oldest first
	Proofs   int8
}

type newThingServer struct {
	Hash  uint32
	Since int32 // day of the first use
}

func (d *newForIdentity) State() any { return &d.state }

func (d *newForIdentity) Advance(int64, *Out) {}

func (d *newForIdentity) size() (int, uint64) {
	g, t := &d.state.Groups, &d.state.Things
	return g.Len() + t.Len(), g.Evicted + t.Evicted
}

func (d *newForIdentity) Observe(v *Seen, out *Out) {
	if !v.Call || v.Retry || v.At < 0 || v.Principal == "" && v.AgentID == "" && v.CredentialID == "" {
		return
	}
	day := v.At / (dayHours * microsPerHour)
	g, fresh := d.state.Groups.Get(v.Who, v.Clock)
	if day == g.Day && g.Newest == v.Tool[0] {
		return
	}
	if fresh {
		g.Day = day
		d.tenant(v).Identities++
	}
	if day > g.Day || day < g.Day-1 { // a day back is a late event, more a clock that was ahead
		d.endDay(v, g, day)
	}
	g.Newest = v.Tool[0]
	server := g.server(v.Home)
	// URIs of resources are new all the time; what counts is their server.
	tool := v.Kind == "resource_read" || g.Tools.use(v.Tool)
	if server != nil && tool {
		return
	}
	established := int(g.Days) >= d.cfg.MinDays
	switch {
	case server == nil:
		if established {
			d.judge(v, g, true, out)
		} else if g.Days > 0 {
			g.ServerDays++ // nobody finds everything on the first day
		}
		g.addServer(v.Home, day)
		d.used(v.Home, v, day, established)
		if !tool {
			g.Tools.add(v.Tool)
			d.used(v.Tool, v, day, false)
		}
	default:
		settled := day-int64(server.Since) > newLull
		if established && settled {
			d.judge(v, g, false, out)
		} else if settled && g.Today == 0 {
			g.Today++
			g.ToolDays++
		} else if g.Open && established {
			out.Raise(Signal{Group: v.Who, Subject: Subject{Tenant: v.Tenant, Principal: Identity(v.Event)}, Quiet: true})
		}
		g.Tools.add(v.Tool)
		d.used(v.Tool, v, day, established)
	}
}

func (d *newForIdentity) tenant(v *Seen) *newThingTenant {
	t, _ := d.state.Tenants.Get(tenantKey(v), v.Clock)
	return t
}

// endDay takes off the sum what the identity's own habit adds to it on a day, and
// lets it fade, so that it stays low for whoever tries something new often.
func (d *newForIdentity) endDay(v *Seen, g *newThingGroup, day int64) {
	if int(g.Days) >= d.cfg.MinDays {
		t := d.tenant(v)
		if t.Days++; t.Days > newTenantMost {
			t.Days /= 2
			t.Servers.halve()
			t.Tools.halve()
		}
		sum := float64(g.Sum)
		for _, k := range [...]struct {
			kind *newThingKind
			days float32
		}{{&newServers, g.ServerDays}, {&newTools, g.ToolDays}} {
			often := k.kind.often(t, g, k.days)
			sum -= often * max(0, math.Log(k.kind.astray/often))
		}
		g.Sum = float32(max(0, sum) * math.Exp2(-float64(max(0, day-g.Day))/newMemory))
	}
	g.Active = g.Active*d.fade + 1
	g.ServerDays *= d.fade
	g.ToolDays *= d.fade
	g.Days++
	g.Day, g.Today = day, 0
}

// server finds a server among those of the identity, and makes it the newest.
func (g *newThingGroup) server(k Key) *newThingServer {
	h := knownHash(k)
	for i, s := range g.Servers {
		if s.Hash == h {
			copy(g.Servers[1:i+1], g.Servers[:i])
			g.Servers[0] = s
			return &g.Servers[0]
		}
	}
	return nil
}

func (g *newThingGroup) addServer(k Key, day int64) {
	if len(g.Servers) < newMaxServers {
		g.Servers = append(g.Servers, newThingServer{})
	}
	copy(g.Servers[1:], g.Servers)
	g.Servers[0] = newThingServer{knownHash(k), int32(day)}
}

// used counts an identity that has begun to use a thing.
func (d *newForIdentity) used(k Key, v *Seen, day int64, established bool) {
	u, _ := d.state.Things.Get(k, v.Clock)
	u.Count++
	if established {
		u.Recent, u.Day = float32(u.recent(day))+1, max(u.Day, day)
	}
}

// judge weighs a first use.
func (d *newForIdentity) judge(v *Seen, g *newThingGroup, server bool, out *Out) {
	t := d.tenant(v)
	kind, own, thing, among := &newTools, &g.ToolDays, v.Tool, 0.0
	if server {
		kind, own, thing, among = &newServers, &g.ServerDays, v.Home, t.Identities-1
	} else if u := d.state.Things.Peek(v.Home); u != nil {
		among = float64(u.Count) - 1 // its peers are those who use the server
	}
	var users, recent float64
	if u := d.state.Things.Peek(thing); u != nil {
		users, recent = float64(u.Count), u.recent(g.Day)
	}
	among = max(among, users, 0)
	rate := kind.rate(t)

	often := kind.often(t, g, *own)
	share := math.Log((users + 0.5) / (among + 1))
	x := math.Log(kind.astray/often) + kind.rarer(rate, share) - math.Log1p(2*recent) + newHints(v.Hints)
	if !server {
		x *= math.Pow(newFurther, float64(min(g.Today, 100)))
		g.Today++
	}
	if server || g.Today == 1 {
		rate.Days++
		*own++
	}
	rate.Firsts++
	rate.Shares += share
	if recent >= newRollOut {
		x = min(x, newRollOutPart*d.enough)
	}
	if x <= 0 {
		return
	}

	over := g.Open && v.At-g.Last >= newLull*dayHours*microsPerHour
	if over || !g.Open && g.Sum < newForgotten {
		g.Open, g.Firsts, g.Proofs = false, 0, 0
	}
	sum := float64(g.Sum) + x
	g.Sum = float32(min(sum, newCap*d.enough))
	g.Firsts++
	g.Last = v.At
	if !g.Open && sum < d.enough {
		if g.Proofs < newEvidence {
			g.Evidence[g.Proofs] = v.EventID
			g.Proofs++
		}
		return
	}
	g.Open = true
	d.tell(v, g, sum, often, users, among, server, out)
	g.Proofs = 0
}

func (d *newForIdentity) tell(v *Seen, g *newThingGroup, sum, often, users, among float64, server bool, out *Out) {
	what, peers, so := "tool "+sayName(v.Target)+" of server "+sayName(v.Server), "of the server's other users", sayCount(uint64(g.Tools.Count), "tool")
	if server {
		what, peers, so = "server "+sayName(v.Server), "of the tenant's other identities", sayCount(uint64(len(g.Servers)), "server")
	}
	with := ofMany(users, among) + " " + peers + " use it"
	if among < 1 {
		with = "there are no peers to compare it with"
	}
	more := ""
	if g.Firsts > 1 {
		more = fmt.Sprintf("; first use number %d within days", g.Firsts)
	}
	every := fmt.Sprintf("something new on 1 of %.0f active days", 1/often)
	if often < 0.5/float64(g.Days) {
		every = fmt.Sprintf("nothing new in %d active days", g.Days)
	}
	s := Signal{
		Group: v.Who, Subject: Subject{Tenant: v.Tenant, Principal: Identity(v.Event)}, Start: v.At,
		Score:    sum / math.Ln10,
		Reason:   fmt.Sprintf("first use of %s; in %d active days this identity has used %s; %s%s", what, g.Days, so, with, more),
		Observed: sayCount(uint64(g.Firsts), "first use"),
		Expected: every,
		Workings: []Working{
			{"active days known", strconv.Itoa(int(g.Days))},
			{"share of active days with something new, as expected", fmt.Sprintf("%.2f %%", 100*often)},
			{"peers that use it", ofMany(users, among)},
			{"first uses likelier for a stranger", fmt.Sprintf("%.3g times", math.Exp(sum))},
			{"enough to be told", fmt.Sprintf("%.3g times", d.cfg.Likelier)},
		},
	}
	s.Before = append(s.Before, g.Evidence[:g.Proofs]...)
	out.Raise(s)
}

func ofMany(n, of float64) string {
	if n == 0 {
		return fmt.Sprintf("none of %.0f", of)
	}
	return fmt.Sprintf("%.0f of %.0f", n, of)
}
