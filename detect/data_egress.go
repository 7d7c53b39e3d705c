package detect

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// DataEgress is the settings of the detector "data_egress": an identity that takes
// out far more than it ever does.
//
// For each identity three amounts are added up by the hour and by the day (UTC):
// bytes of results; different reads, which are arguments or resource URIs (people's
// records one by one); and bytes sent to open-world tools. An hour is out of
// proportion when it is above a floor, above Factor times the highest hour of the
// last five weeks, and above exp(mean + 6 mean distances) of the logarithms of its
// active hours; for days it is the same with floors four times as high. The highest
// hour of five weeks is what makes a nightly or weekly report normal. The model
// behind it: an identity's active hours are alike, so that, were they independent
// draws with a tail as heavy as x^-1.5, an hour above Factor times the highest of n
// earlier ones has a chance of about 1/(n·Factor^1.5).
//
// Until an identity is known (three days with ten active hours; a week for days)
// only MaxBytesHour counts. An hour that was found is learned as no more than what
// was allowed, so that what goes on is found again. Severity is the rule's, and
// high from ten times what is unusual.
//
// The score is the observed amount divided by what would have been unusual: 1 is
// the threshold.
//
// It does not see what leaves slowly, each hour within Factor of the highest so
// far.
type DataEgress struct {
	Factor       float64       `key:"factor" doc:"times the highest hour or day of five weeks that are out of proportion"`
	MinBytes     int           `key:"min_bytes" doc:"bytes of results in an hour below which nothing is said"`
	MinReads     int           `key:"min_reads" doc:"different reads in an hour below which nothing is said"`
	MinSent      int           `key:"min_sent" doc:"bytes of requests to open-world tools in an hour below which nothing is said"`
	MaxBytesHour int           `key:"max_bytes_hour" doc:"bytes, read or sent in an hour, that are too much for an identity that is not known yet; 0 for any amount"`
	Learn        time.Duration `key:"learn" doc:"how long an identity must be known before its own history counts"`
	MaxGroups    int           `key:"max_groups" doc:"most identities in memory; the one that was quiet longest is forgotten"`
}

// DefaultDataEgress says nothing below 50 MB, 1000 reads and 10 MB sent.
func DefaultDataEgress() *DataEgress {
	return &DataEgress{Factor: 4, MinBytes: 50_000_000, MinReads: 1000, MinSent: 10_000_000, MaxBytesHour: 10_000_000_000, Learn: 3 * 24 * time.Hour, MaxGroups: 50_000}
}

// Validate implements Config.
func (c *DataEgress) Validate() error {
	const most = 1 << 50
	return firstError(
		checkRatio("factor", c.Factor, 1.1, 1e6),
		checkCount("min_bytes", c.MinBytes, 1, most),
		checkCount("min_reads", c.MinReads, 1, most),
		checkCount("min_sent", c.MinSent, 1, most),
		checkCount("max_bytes_hour", c.MaxBytesHour, 0, most),
		checkSpan("learn", c.Learn, 0, 90*24*time.Hour),
		checkGroups(c.MaxGroups),
	)
}

// New implements Config.
func (c *DataEgress) New() Detector {
	d := &dataEgress{cfg: *c, state: dataEgressState{Groups: Groups[volumes]{Most: c.MaxGroups}}}
	d.floors = [volumeKinds]float64{float64(c.MinBytes), float64(c.MinReads), float64(c.MinSent)}
	return d
}

// What is measured.
const (
	volumeBytes = iota
	volumeReads
	volumeSent
	volumeKinds
)

var (
	volumeNames = [volumeKinds]string{"results", "different reads", "sent to open-world tools"}
	volumeDeeds = [volumeKinds]string{"was given %s of results", "has read about %s different things", "has sent %s to open-world tools"}
)

const (
	microsPerDay = 24 * microsPerHour
	// volumeHours and volumeDays are active ones that make an identity known.
	volumeHours, volumeDays = 10, 7
	volumeDayFloor          = 4 // times the floor of an hour
	volumeAbsurd            = 10
)

type dataEgress struct {
	cfg    DataEgress
	floors [volumeKinds]float64
	state  dataEgressState
}

type dataEgressState struct{ Groups Groups[volumes] }

// volumes is what an identity takes out.
type volumes struct {
	First     int64
	Hour, Day volumeSpan
	Reads     distinctSketch // of this hour
	DayReads  distinctSketch
}

// volumeSpan is the hour or the day that is under way.
type volumeSpan struct {
	Number int64 // of the hour or day since 1970
	Began  int64 // its first event
	Now    [volumeKinds]float64
	Allow  [volumeKinds]float64 // from which on it is out of proportion
	Own    bool                 // Allow is of the identity's own history
	Norm   [volumeKinds]volumeNorm
}

func (d *dataEgress) State() any          { return &d.state }
func (d *dataEgress) size() (int, uint64) { return d.state.Groups.Len(), d.state.Groups.Evicted }

// Advance implements Detector.
func (d *dataEgress) Advance(int64, *Out) {}

func (d *dataEgress) Observe(v *Seen, out *Out) {
	if !v.Call {
		return
	}
	g, fresh := d.state.Groups.Get(v.Who, v.Clock)
	if fresh {
		g.First = v.At
	}
	g.First = min(g.First, v.At)
	if d.begin(&g.Hour, v.At, microsPerHour, 1, volumeHours, v.At-g.First) {
		g.Reads = distinctSketch{}
	}
	if d.begin(&g.Day, v.At, microsPerDay, volumeDayFloor, volumeDays, v.At-g.First) {
		g.DayReads = distinctSketch{}
	}
	g.add(volumeBytes, float64(v.ResponseBytes))
	if v.Hints.OpenWorld {
		g.add(volumeSent, float64(v.RequestBytes))
	}
	if h := volumeRead(v.Event); h != 0 {
		if g.Reads.add(h) {
			g.Hour.Now[volumeReads] = g.Reads.estimate()
		}
		if g.DayReads.add(h) {
			g.Day.Now[volumeReads] = g.DayReads.estimate()
		}
	}
	if g.Hour.over() || g.Day.over() {
		d.raise(v, out, g)
	}
}

func (g *volumes) add(kind int, n float64) {
	g.Hour.Now[kind] += n
	g.Day.Now[kind] += n
}

// volumeRead hashes what was read, 0 when nothing was or nobody knows.
func volumeRead(e *event.Event) uint64 {
	if e.Outcome != "success" {
		return 0
	}
	h := mix(hashText(e.Server)+1, hashText(e.Target))
	if e.ArgumentsDigest != (event.Digest{}) {
		return mix(h, binary.LittleEndian.Uint64(e.ArgumentsDigest[:])) | 1<<63
	}
	if e.Kind == "resource_read" {
		return mix(h, 1) | 1<<63
	}
	return 0
}

// begin looks whether a new hour or day has begun; the one before is learned.
func (d *dataEgress) begin(s *volumeSpan, at, length int64, floor float64, enough uint16, known int64) bool {
	n := at / length
	if n == s.Number || n == s.Number-1 { // late by a little counts as now
		return false
	}
	week := int32(n * (length / microsPerHour) / (7 * 24))
	if s.Number != 0 {
		for k := range s.Now {
			s.Norm[k].learn(min(s.Now[k], max(s.Allow[k], d.floors[k])), int32(s.Number*(length/microsPerHour)/(7*24)))
		}
	}
	s.Number, s.Began, s.Now = n, at, [volumeKinds]float64{}
	s.Own = s.Norm[0].Known >= enough && known >= micros(d.cfg.Learn)
	for k := range s.Now {
		norm := &s.Norm[k]
		norm.pass(week)
		switch {
		case s.Own:
			s.Allow[k] = max(floor*d.floors[k], norm.unusual(d.cfg.Factor))
		case d.cfg.MaxBytesHour > 0 && k != volumeReads:
			s.Allow[k] = floor * float64(d.cfg.MaxBytesHour)
		default:
			s.Allow[k] = volumeNever
		}
	}
	return true
}

const volumeNever = 1e300

func (s *volumeSpan) over() bool {
	return s.Now[volumeBytes] >= s.Allow[volumeBytes] || s.Now[volumeReads] >= s.Allow[volumeReads] || s.Now[volumeSent] >= s.Allow[volumeSent]
}

// raise tells of the amount that is furthest out of proportion.
func (d *dataEgress) raise(v *Seen, out *Out, g *volumes) {
	span, kind, worst, unit := &g.Hour, 0, 0.0, "hour"
	for k := range volumeKinds {
		if x := g.Hour.Now[k] / g.Hour.Allow[k]; x > worst {
			span, kind, worst, unit = &g.Hour, k, x, "hour"
		}
	}
	for k := range volumeKinds {
		if x := g.Day.Now[k] / g.Day.Allow[k]; x > worst {
			span, kind, worst, unit = &g.Day, k, x, "day"
		}
	}
	who, n := Identity(v.Event), &span.Norm[kind]
	s := Signal{
		Group: v.Who, Subject: Subject{Tenant: v.Tenant, Principal: who}, Start: span.Began, Score: worst,
		Observed: volumeSay(kind, span.Now[kind]) + " " + volumeNames[kind],
		Expected: fmt.Sprintf("less than %s in an hour or a day for an identity that is not known yet", volumeSay(kind, span.Allow[kind])),
	}
	if v.At > span.Began {
		s.Observed += " in " + saySpan(v.At-span.Began)
	}
	if worst >= volumeAbsurd {
		s.Severity = High
	}
	s.Reason = fmt.Sprintf("%s "+volumeDeeds[kind]+" since %s", sayName(who), volumeSay(kind, span.Now[kind]), sayTime(span.Began))
	if span.Own {
		s.Reason += fmt.Sprintf("; its highest %s in five weeks had %s, and %s is usual", unit, volumeSay(kind, n.highest()), volumeSay(kind, n.usual()))
		s.Expected = fmt.Sprintf("at most %s in this %s", volumeSay(kind, span.Allow[kind]), unit)
	}
	s.Reason += fmt.Sprintf("; the newest call is %s at %s", sayName(v.Target), sayName(v.Server))
	for k := range volumeKinds {
		s.Workings = append(s.Workings, Working{volumeNames[k] + " this hour", volumeSay(k, g.Hour.Now[k])}, Working{volumeNames[k] + " today", volumeSay(k, g.Day.Now[k])})
	}
	out.Raise(s)
}

func volumeSay(kind int, x float64) string {
	if kind == volumeReads {
		return fmt.Sprintf("%.0f", x)
	}
	return sayBytes(x)
}
