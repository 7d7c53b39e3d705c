package detect

import (
	"math"
	"slices"
)

// What a key usually does, and how far above it a count must be to be remarkable.
//
// The null model is one of block maxima (Fisher and Tippett 1928; Gumbel, Statistics
// of Extremes, 1958): a day is a block, and the largest count that a day has in any
// one minute, five minutes or hour is one draw. Its logarithm is taken to be Gumbel
// distributed, so counts have a tail like a power's: calls of agents come in clumps,
// and a Poisson tail would call every one of them a spike. A count is remarkable
// when an active day has one as large with a probability of at most Chance, by that
// fit. So the number of looks at a day, and that they depend on each other, is in the
// model; that there are three windows, each looked at in two ways, is not. The other
// conditions (see openLog) keep what is found far below Chance, so it is a setting of
// how sensitive a rule is, and no rate of false findings.
//
// The same is done twice for each window: for the count itself, and for its ratio to
// what is usual at that hour of the week, which sees a busy hour's count at night.

// spikeWindows are the widths of the windows, in minutes.
var spikeWindows = [...]int{1, 5, 60}

const (
	nWindows   = len(spikeWindows)
	maxDays    = 21  // days that a baseline can remember
	hoursADay  = 24  // slots of a day
	hoursAWeek = 168 // slots of a week; 0 is Thursday 00:00 UTC, as the epoch is
	// clump is added to both sides of every ratio, so that two calls where one is
	// usual are no doubling: the calls of one small piece of work.
	clump = 3.0
	// firstScale is the Gumbel scale of the log of daily maxima that is assumed
	// before anything is known, with the weight of firstWeight days: one day in ten is
	// then a little over twice as busy as the median.
	firstScale, firstWeight = 0.4, 4.0
	leastScale              = 0.1 // no key is so regular that a tenth more is unusual
	// clumpScale is the scale of a window that holds one clump. When clumps come as a
	// Poisson process and their sizes are exponentially distributed, a window of k of
	// them has a relative deviation of sqrt(2/k), and a Gumbel distribution of that
	// deviation a scale of sqrt(6)/pi times it. A key's largest minute is taken for
	// one clump.
	clumpScale = 1.1
	// slotWeight is how many days of the wider average (hour of day for an hour of
	// the week, all hours for an hour of the day) a slot starts with.
	slotWeight = 2.0
	gumbelMid  = 0.36651292058166435 // median of the standard Gumbel distribution
	gumbelMAD  = 0.7670492           // its median absolute deviation
)

// spikeBaseline is the memory of a key's active days. Days without a call are no
// part of it: holidays and weeks of absence change nothing.
type spikeBaseline struct {
	Seen uint32 // active days so far
	// The busiest window of each remembered day, as the log of count+clump, and of
	// count+clump over the expected number+clump: a ring, Seen % days is next.
	Peak  [nWindows][maxDays]mark
	Ratio [nWindows][maxDays]mark
	Calls [maxDays]float32 // calls of the day

	// Calls per hour: means over active days, the older ones fading, for all hours,
	// by hour of day and by hour of week.
	All  float32
	Hour [hoursADay]float32
	Week [hoursAWeek]float32
	Had  [7]uint8 // active days of each weekday, up to weekMemory

	// Of the remembered days: what levels are made of.
	Raw, Rel [nWindows]spikeLevel
	Floor    float32 // no count below it is remarkable
}

// mark is a logarithm in steps of a two-thousandth, from 0 to 32: two bytes instead
// of four, for there are many.
type mark uint16

const markStep = 1.0 / 2000

func markOf(x float64) mark { return mark(min(max(x, 0)/markStep+0.5, math.MaxUint16)) }

func (m mark) log() float32 { return float32(m) * markStep }

// spikeLevel is what the remembered maxima say of one window, as logarithms.
type spikeLevel struct {
	Mid    float32 // the median day
	Scale  float32 // of the Gumbel distribution
	Second float32 // the second largest day
}

const (
	hourMemory = 14 // days after which an older one has faded in the mean of an hour of the day
	weekMemory = 6  // weeks, for an hour of the week
)

// expected is the number of calls in the hour of the week h: a Gamma-Poisson mean,
// where the prior of an hour of the week is its hour of day, and that one's prior is
// the mean of all hours.
func (b *spikeBaseline) expected(h int64) float64 {
	h = (h + hoursAWeek) % hoursAWeek // h may be -2
	n := min(float64(b.Seen), hourMemory)
	day := (float64(b.Hour[h%hoursADay])*n + slotWeight*float64(b.All)) / (n + slotWeight)
	k := float64(b.Had[h/hoursADay])
	return (float64(b.Week[h])*k + slotWeight*day) / (k + slotWeight)
}

// spikeDay is what is known of a day when it is over.
type spikeDay struct {
	Day   int64 // since 1970
	Hours [hoursADay]uint32
	Peak  [nWindows]uint32  // the largest count of each window
	Ratio [nWindows]float32 // its largest count+clump over what is usual+clump
	// Foreign is set when the day had a spike that is not yet taken for the new
	// usual: its maxima count as Times the level of a finding at the most. So an
	// attack teaches little, and a key that is often a bit above is believed.
	Foreign bool
}

// learn takes a day that is over.
func (b *spikeBaseline) learn(c *CallSpike, d *spikeDay) {
	day, hours := d.Day, &d.Hours
	var peak, ratio [nWindows]mark
	var mu [nWindows]float32
	b.usual(busyHour(d), &mu)
	for w := range nWindows {
		p, r := math.Log(float64(d.Peak[w])+clump), math.Log(max(1, float64(d.Ratio[w])))
		if d.Foreign && b.Seen >= uint32(c.LearnDays) {
			p = min(p, b.openLog(c, b.raw(w), b.Raw[w])+math.Log(c.Times))
			r = min(r, b.openLog(c, b.rel(w, float64(mu[w])), b.Rel[w])+math.Log(c.Times))
		}
		peak[w], ratio[w] = markOf(p), markOf(r)
	}
	first := day % 7 * hoursADay
	var total float64
	for h, n := range hours {
		total += float64(n)
		x := float64(n)
		// An hour far beyond the usual counts as a bounded one: it must neither
		// teach that it is normal, nor be ignored for ever.
		if b.Seen >= 2 {
			x = min(x, 4*b.expected(first+int64(h))+clump)
		}
		fade(&b.All, x, float64(b.Seen)*hoursADay+float64(h), hourMemory*hoursADay)
		fade(&b.Hour[h], x, float64(b.Seen), hourMemory)
		fade(&b.Week[first+int64(h)], x, float64(b.Had[day%7]), weekMemory)
	}
	b.Had[day%7] = min(b.Had[day%7]+1, weekMemory)

	at := int(b.Seen) % c.Days
	b.Calls[at] = float32(total)
	for w := range nWindows {
		b.Peak[w][at], b.Ratio[w][at] = peak[w], ratio[w]
	}
	b.Seen++
	n := min(int(b.Seen), c.Days)
	for w := range nWindows {
		b.Raw[w] = levelOf(b.Peak[w][:n])
		known := b.Ratio[w][:n]
		if n > 1 && int(b.Seen) <= c.Days {
			known = known[1:] // on its first day nothing was usual
		}
		b.Rel[w] = levelOf(known)
	}
	// A quiet key needs a larger count: one piece of an agent's work can be a
	// hundred calls, and says nothing.
	var sorted [maxDays]float32
	usual := float64(median(sorted[:copy(sorted[:], b.Calls[:n])]))
	least, most := float64(c.LeastCalls), float64(c.QuietCalls)
	b.Floor = float32(max(least, min(most, least*busyDay/max(usual, 1))))
}

// busyDay is how many calls a day a key makes for which LeastCalls is enough.
const busyDay = 1000

func fade(mean *float32, x, n, memory float64) {
	*mean += (float32(x) - *mean) / float32(min(n+1, memory))
}

// levelOf fits a Gumbel distribution by median and median absolute deviation, which
// a few days of attack don't move, and shrinks its scale to firstScale.
func levelOf(maxima []mark) spikeLevel {
	var buf [maxDays]float32
	x := buf[:len(maxima)]
	for i, m := range maxima {
		x[i] = m.log()
	}
	var l spikeLevel
	l.Mid = median(x) // sorts
	l.Second = x[max(0, len(x)-2)]
	for i := range x {
		x[i] = float32(math.Abs(float64(x[i] - l.Mid)))
	}
	n := float64(len(x))
	scale := (float64(median(x))/gumbelMAD*n + firstScale*firstWeight) / (n + firstWeight)
	l.Scale = float32(max(leastScale, scale))
	return l
}

// median sorts x and returns its middle.
func median(x []float32) float32 {
	slices.Sort(x)
	n := len(x)
	return (x[(n-1)/2] + x[n/2]) / 2
}

// level is a window's levels at one hour, as counts.
type level struct {
	Open float64 // a count from here on is remarkable
	Hold float64 // one from here on still belongs to what has begun
}

// levels gives the counts from which a window is remarkable where mu is usual, by
// itself or by its ratio.
func (b *spikeBaseline) levels(c *CallSpike, w int, mu float64) level {
	raw, rel := b.raw(w), b.rel(w, mu)
	open := b.openLog(c, raw, b.Raw[w])
	byRaw := level{math.Exp(open) - clump, math.Exp((raw.Mid+open)/2) - clump}

	open = b.openLog(c, rel, b.Rel[w])
	byRel := level{math.Exp(open)*(mu+clump) - clump, math.Exp((rel.Mid+open)/2)*(mu+clump) - clump}
	byRel.Open, byRel.Hold = max(byRel.Open, 2*mu), max(byRel.Hold, 2*mu)

	floor := float64(b.Floor)
	return level{max(floor, min(byRaw.Open, byRel.Open)), max(floor/2, min(byRaw.Hold, byRel.Hold))}
}

// openLog is the log of a count or of a ratio from which it is remarkable: beyond the
// quantile of Chance, beyond all remembered days but one, and by a factor that
// matters.
func (b *spikeBaseline) openLog(c *CallSpike, f fitted, l spikeLevel) float64 {
	quantile := -math.Log(-math.Log1p(-c.Chance)) - gumbelMid // in scales above the median
	return max(f.Mid+f.few+quantile*f.Scale, f.Mid+math.Log(c.Times), float64(l.Second)+markStep)
}

// usual gives the number of calls that each window has which ends in the hour of the
// week h: by the busiest hour that it touches, or the next ones on both sides, so
// that a change to or from daylight saving time is nothing unusual.
func (b *spikeBaseline) usual(h int64, mu *[nWindows]float32) {
	n := max(b.expected(h-1), b.expected(h), b.expected(h+1))
	for w, minutes := range spikeWindows {
		if minutes == 60 {
			n = max(n, b.expected(h-2))
		}
		mu[w] = float32(n * float64(minutes) / 60)
	}
}

// busyHour is the hour of the week in which a day had most calls.
func busyHour(d *spikeDay) int64 {
	most := 0
	for h, n := range d.Hours {
		if n > d.Hours[most] {
			most = h
		}
	}
	return d.Day%7*hoursADay + int64(most)
}

// fitted is a level with its scale widened by what it can't know.
type fitted struct{ Mid, Scale, few float64 }

func (b *spikeBaseline) raw(w int) fitted {
	mid := float64(b.Raw[w].Mid)
	return b.widen(w, mid, float64(b.Raw[w].Scale), math.Exp(mid))
}

func (b *spikeBaseline) rel(w int, mu float64) fitted {
	mid := float64(b.Rel[w].Mid)
	return b.widen(w, mid, float64(b.Rel[w].Scale), (mu+clump)*math.Exp(mid))
}

// widen keeps the scale from being less than that of a Poisson count of that size,
// and of the clumps that it is made of; and the median from being trusted after few
// days.
func (b *spikeBaseline) widen(w int, mid, scale, count float64) fitted {
	minute := max(1, math.Exp(float64(b.Raw[0].Mid))-clump)
	window := max(1, math.Exp(float64(b.Raw[w].Mid))-clump)
	scale = max(scale, 1/math.Sqrt(count), clumpScale*math.Sqrt(min(1, minute/window)))
	return fitted{mid, scale, math.Log1p(2 / float64(b.Seen))}
}

// score is -log10 of the probability that an active day has a window as large: 2 is
// once in a hundred days, 3 once in a thousand.
func (b *spikeBaseline) score(w int, mu, count float64) float64 {
	f := b.raw(w)
	z := (math.Log(count+clump) - f.Mid - f.few) / f.Scale
	f = b.rel(w, mu)
	z = max(z, (math.Log((count+clump)/(mu+clump))-f.Mid-f.few)/f.Scale)
	return max(0, -math.Log10(-math.Expm1(-math.Exp(-(z + gumbelMid)))))
}

// busiest is the range of a window's daily maxima, as counts: a tenth of the
// remembered days is below it, a tenth above, and the median.
func (b *spikeBaseline) busiest(w, days int) (low, mid, high int) {
	var buf [maxDays]float32
	x := buf[:min(int(b.Seen), days)]
	if len(x) == 0 {
		return 0, 0, 0
	}
	for i := range x {
		x[i] = b.Peak[w][i].log()
	}
	m := median(x)
	count := func(v float32) int { return int(math.Round(math.Exp(float64(v)) - clump)) }
	tenth := len(x) / 10
	return count(x[tenth]), count(m), count(x[len(x)-1-tenth])
}
