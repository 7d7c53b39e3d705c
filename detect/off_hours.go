package detect

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// OffHours is the settings of the detector "off_hours": an identity that is active
// when it never is.
//
// Each identity has a profile of the hours of the week in which it is active. Every
// first activity in an hour of a day is weighed: how much likelier is that hour for
// the identity's peers (the tenant's others, with a fifth spread evenly over the
// week) than for itself? The logarithms of these ratios add up and never fall below
// zero, which is Page's CUSUM; usual hours make the sum fall, rare ones make it
// rise. So one call in the dead of night suffices for somebody whose hours are well
// known, and somebody else's rhythm is seen after some days even if no hour of it is
// impossible. For somebody who is active around the clock no hour is rare, and there
// is nothing to find. Less activity than usual is never a finding.
//
// The profile itself is a forecast, shrunk towards the peers by as many hours as
// Prior says (a Dirichlet prior), and knows nothing of the day under judgement. Hours
// that follow within six hours of activity count a quarter, since they are one
// sitting and not so many choices.
//
// A calendar makes it simpler: a call outside of business hours, or on a holiday, in an
// hour of the week that is rare for the identity is a finding at once, after five
// active days. Where the identity works at such times anyway it is none. Without a
// calendar a holiday is a day like others.
//
// The score is the decimal logarithm of how many times likelier the identity's
// recent hours are for its peers than for itself. Were hours chosen independently,
// Lorden's bound (Annals of Mathematical Statistics 42, 1971) gives less than one
// false finding in Likelier sittings. That bound is loose: of 6,770 active days of
// people in public commit histories, 1 in 280 was flagged at the shipped settings.
//
// Addresses and anonymous callers have no profile. Hours are UTC; a day is a UTC day.
// An identity is one of its own peers: where a tenant has only one or two, a new hour
// is soon the peers' hour as well, and a job that moves from the night to noon is not
// told.
type OffHours struct {
	MinDays   int     `key:"min_days" doc:"active days of an identity before its hours are judged"`
	Likelier  float64 `key:"likelier" doc:"how many times likelier recent hours must be for the identity's peers than for itself"`
	HalfLife  float64 `key:"half_life" doc:"active days after which a day in the profile counts half"`
	Prior     float64 `key:"prior" doc:"active hours of its own that outweigh what is known of its peers"`
	MaxGroups int     `key:"max_groups" doc:"most identities in memory; the one that was quiet longest is forgotten"`

	BusinessHours []CalendarInterval `key:"business_hours" doc:"when people are expected to work, as Alertmanager's time_intervals; none means at any time"`
	Holidays      []CalendarInterval `key:"holidays" doc:"when they are not, in the same form"`
}

// DefaultOffHours needs about a month of an identity's work.
func DefaultOffHours() *OffHours {
	return &OffHours{MinDays: 20, Likelier: 20, HalfLife: 90, Prior: 12, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *OffHours) Validate() error {
	_, err := newCalendar(c.BusinessHours, c.Holidays)
	return firstError(
		err,
		checkCount("min_days", c.MinDays, 1, 1000),
		checkRatio("likelier", c.Likelier, 2, 1e9),
		checkRatio("half_life", c.HalfLife, 5, 10_000),
		checkRatio("prior", c.Prior, 1, 10_000),
		checkGroups(c.MaxGroups),
	)
}

// New implements Config.
func (c *OffHours) New() Detector {
	cal, err := newCalendar(c.BusinessHours, c.Holidays)
	if err != nil {
		panic(err) // Validate has read it
	}
	return &offHours{
		cfg:    *c,
		cal:    cal,
		enough: math.Log(c.Likelier),
		fade:   float32(math.Exp2(-1 / c.HalfLife)),
		state: offHoursState{
			Groups: Groups[offHoursGroup]{Most: c.MaxGroups},
			Peers:  Groups[hourProfile]{Most: 10_000},
		},
	}
}

const (
	// One hour says at most e^3.5, 33 times, for somebody else, and at most e times
	// for the identity itself.
	offHoursMost, offHoursLeast = 3.5, -1.0
	// An hour whose ratio is above e^0.5 is called rare, and is evidence.
	offHoursRare = 0.5
	// By the calendar an identity is judged after so many active days, and an hour is
	// rare that has less than this share of what it has when all hours are alike.
	offHoursByCalendar = 5
	offHoursSeldom     = 0.25
	// A pause of more than these hours ends a sitting; within one, each further
	// hour counts a quarter.
	offHoursPause    = 6
	offHoursSameSeat = 0.25
	// The sum does not go far beyond what is enough, so that it comes down again.
	offHoursCap = 1.3
	// A finding is over when the sum has come down to this share of what is enough,
	// or after so many days: then the new hours are the identity's hours.
	offHoursOver     = 0.3
	offHoursOverDays = 30
	// Evidence counts half after so many days: a night shift a year is not a rhythm.
	offHoursMemory = 60.0
	// After so long without a rare hour an open finding is not taken up again. The
	// shipped rule resolves after the same time: weeks are what hours repeat in.
	offHoursLull = 7 * dayHours * microsPerHour
	// What share of the peers' mix is even over the week.
	offHoursEven = 0.2
	// Peers are known after so many active days of theirs; an identity is one of them
	// after so many of its own, so that names made up for an hour say nothing.
	offHoursPeersFrom, offHoursPeerFrom = 50, 3
	offHoursPeersMost                   = 20_000
	offHoursEvidence                    = 6
)

type offHours struct {
	cfg    OffHours
	cal    *calendar
	enough float64
	fade   float32
	state  offHoursState
}

type offHoursState struct {
	Groups Groups[offHoursGroup]
	Peers  Groups[hourProfile] // by tenant
}

// offHoursGroup is an identity. It takes about 1 KB.
type offHoursGroup struct {
	Profile hourProfile
	Days    int32
	Hour    int64  // of the newest activity, since 1970
	Day     int64  // of the hours below
	Hours   uint32 // in which it was active that day, a bit for each
	Rare    uint32 // those of them that were evidence

	Sum   float32 // of the logarithms, see OffHours
	Proof float32 // the same for the finding alone: it only grows
	Open  bool    // there is a finding, and for these hours no other is opened
	Since int64   // day on which it was opened
	Last  int64   // µs of its newest rare hour
	Told  int64   // µs of the newest call that it was told with
	Start int64   // µs of its first rare hour, or of this day's first while there is none
	Slots int32   // rare hours since Start
	Calls int64   // calls in them

	Evidence [offHoursEvidence]event.ID // in rare hours before the finding was opened, oldest first
	Proofs   int8
}

func (d *offHours) State() any { return &d.state }

func (d *offHours) Advance(int64, *Out) {}

func (d *offHours) size() (int, uint64) { return d.state.Groups.Len(), d.state.Groups.Evicted }

func (d *offHours) Observe(v *Seen, out *Out) {
	// Who is only known by an address, or not at all, is not one identity.
	if !v.Call || v.Retry || v.At < 0 || v.Principal == "" && v.AgentID == "" && v.CredentialID == "" {
		return
	}
	g, fresh := d.state.Groups.Get(v.Who, v.Clock)
	hour := v.At / microsPerHour
	day := hour / dayHours
	if fresh {
		g.Day = day
	}
	bit := uint32(1) << (hour % dayHours)
	switch {
	case hour == g.Hour || day == g.Day && g.Hours&bit != 0:
		if g.Hour = max(g.Hour, hour); g.Rare&bit != 0 {
			d.again(v, g, out)
		}
		return
	case day > g.Day:
		d.endDay(v, g, day)
	case day == g.Day-1:
		return // late, and its day is done
	case day < g.Day:
		// Not late but a clock that was ahead and is right now: start over from here.
		g.Day, g.Hour, g.Hours, g.Rare = day, 0, 0, 0
	}
	sitting := g.Hour != 0 && hour-g.Hour <= offHoursPause
	g.Hours |= bit
	g.Hour = max(g.Hour, hour)
	outside := g.Days >= offHoursByCalendar && d.cal.outside(v.At) != ""
	if outside || int(g.Days) >= d.cfg.MinDays {
		d.judge(v, g, weekSlot(hour), sitting, outside, out)
	}
}

// endDay puts the day that is over into the profiles.
func (d *offHours) endDay(v *Seen, g *offHoursGroup, day int64) {
	g.Profile.fade(d.fade)
	g.Profile.add(g.Day, g.Hours, 1)
	if g.Hours != 0 {
		if g.Days >= offHoursPeerFrom {
			peers, _ := d.state.Peers.Get(tenantKey(v), v.Clock)
			peers.add(g.Day, g.Hours, 1/float32(bits.OnesCount32(g.Hours)))
			if peers.Total > offHoursPeersMost {
				peers.fade(0.5)
			}
		}
		g.Days++
	}
	if !g.Open {
		g.Sum *= float32(math.Exp2(-float64(day-g.Day) / offHoursMemory))
		if day != g.Day+1 || g.Rare == 0 || v.At/microsPerHour-g.Hour > offHoursPause {
			g.Calls, g.Slots, g.Start = 0, 0, 0 // else it is a night, which midnight does not end
		}
	}
	g.Day, g.Hours, g.Rare = day, 0, 0
}

// weigh is the probability that an active hour is this slot, by the identity's own
// habit and by its peers'.
func (d *offHours) weigh(v *Seen, g *offHoursGroup, slot int) (own, peers float64) {
	const even = 1.0 / weekHours
	peers = even
	if p := d.state.Peers.Peek(tenantKey(v)); p != nil && p.Total >= offHoursPeersFrom {
		peers = offHoursEven*even + (1-offHoursEven)*p.share(slot, 0.5)
	}
	total := float64(g.Profile.Total)
	own = (g.Profile.share(slot, profileOwnWeekday)*total + peers*d.cfg.Prior) / (total + d.cfg.Prior)
	return own, peers
}

// judge weighs the first activity in an hour.
func (d *offHours) judge(v *Seen, g *offHoursGroup, slot int, sitting, outside bool, out *Out) {
	own, peers := d.weigh(v, g, slot)
	x := min(max(math.Log(peers/own), offHoursLeast), offHoursMost)
	weight := 1.0
	if sitting {
		weight = offHoursSameSeat
	}
	sum := max(float64(g.Sum)+weight*x, 0)
	if outside && x > offHoursRare && own < offHoursSeldom/weekHours {
		sum = max(sum, d.enough)
	}
	g.Sum = float32(min(sum, offHoursCap*d.enough))
	switch rare := x > offHoursRare; {
	case !g.Open && rare:
		g.note(v)
		if sum >= d.enough {
			g.Open, g.Since, g.Last, g.Proof = true, g.Day, v.At, float32(sum)
			d.tell(v, g, g.Start, out)
			g.Proofs = 0
		}
	case !g.Open && sum == 0:
		g.Proofs = 0
	case rare && v.At-g.Last < offHoursLull:
		g.Rare |= 1 << (slot % dayHours)
		g.Last = v.At
		g.Proof += float32(weight * x)
		g.Calls++
		g.Slots++
		d.tell(v, g, v.At, out)
	}
	if g.Open && g.Day-g.Since >= offHoursOverDays {
		g.Sum = 0
	}
	if g.Open && float64(g.Sum) < offHoursOver*d.enough {
		g.Open, g.Calls, g.Slots, g.Start, g.Rare = false, 0, 0, 0, 0
	}
}

// note keeps an event as evidence, the newest in place of the oldest but the first.
func (g *offHoursGroup) note(v *Seen) {
	if g.Start == 0 {
		g.Start = v.At
	}
	g.Rare |= 1 << (v.At / microsPerHour % dayHours)
	g.Calls++
	g.Slots++
	if g.Proofs == offHoursEvidence {
		copy(g.Evidence[1:], g.Evidence[2:])
		g.Proofs--
	}
	g.Evidence[g.Proofs] = v.EventID
	g.Proofs++
}

// again is one more call in an hour that is evidence.
func (d *offHours) again(v *Seen, g *offHoursGroup, out *Out) {
	g.Calls++
	switch {
	case !g.Open || v.At-g.Last >= offHoursLull:
	case v.At-g.Told >= micros(time.Minute):
		d.tell(v, g, v.At, out)
	default:
		out.Raise(Signal{Group: v.Who, Subject: offHoursSubject(v), Quiet: true})
	}
}

func offHoursSubject(v *Seen) Subject { return Subject{Tenant: v.Tenant, Principal: Identity(v.Event)} }

// tell raises the finding, opens it or goes on with it. Start is for one that is
// opened, which one that was resolved meanwhile must not share.
func (d *offHours) tell(v *Seen, g *offHoursGroup, start int64, out *Out) {
	slot := weekSlot(v.At / microsPerHour)
	own, peers := d.weigh(v, g, slot)
	g.Told = v.At
	at := time.UnixMicro(v.At).UTC()
	where := ""
	if why := d.cal.outside(v.At); why != "" {
		where = fmt.Sprintf(" (%s, %s)", at.In(d.cal.location).Format("15:04 MST"), why)
	}
	observed := sayCount(uint64(g.Calls), "call") + " in " + sayCount(uint64(g.Slots), "rare hour")
	since := observed + " since " + time.UnixMicro(g.Start).UTC().Format("2006-01-02 15:04")
	if earlier := int64(g.Proofs) - int64(g.Slots); earlier > 0 {
		since += ", after " + sayCount(uint64(earlier), "rare hour") + " in the weeks before"
	}
	s := Signal{
		Group: v.Who, Subject: offHoursSubject(v), Start: start,
		Score:    float64(g.Proof) / math.Ln10,
		Reason:   "active on " + at.Format("Monday 15:04") + " UTC" + where + "; " + g.Profile.unusual(slot, int(g.Days)) + "; " + since,
		Observed: observed,
		Expected: g.Profile.usual(),
		Workings: []Working{
			{"active days known", strconv.Itoa(int(g.Days))},
			{"this hour's share of the identity's active hours", fmt.Sprintf("%.2f %%", 100*own)},
			{"the same for its peers", fmt.Sprintf("%.2f %%", 100*peers)},
			{"recent hours likelier for its peers", fmt.Sprintf("%.3g times", math.Exp(float64(g.Proof)))},
			{"enough to be told", fmt.Sprintf("%.3g times", d.cfg.Likelier)},
		},
	}
	for _, id := range g.Evidence[:g.Proofs] {
		if id != v.EventID {
			s.Before = append(s.Before, id)
		}
	}
	out.Raise(s)
}

// tenantKey names the peers of an identity.
func tenantKey(v *Seen) Key { return Key{2, hashText(v.Tenant)} }
