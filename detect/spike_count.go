package detect

import "math"

const (
	usMinute  = int64(60_000_000)
	never     = math.MaxUint32
	minuteDay = 1440
)

// spikeCount is what call_spike knows of one key. The counts are of whole minutes by
// the events' clock; a window is the current minute and those before it.
type spikeCount struct {
	Minute int64 // of the newest event, since 1970
	Ring   [60]uint32
	Sum    [nWindows]uint32
	Floor  uint32           // no count below it is above any level
	Hour   int64            // that the levels are of, since 1970; they are worked out when a count comes to Floor
	Open   [nWindows]uint32 // from here on a spike begins
	Hold   [nWindows]uint32 // and to here it goes on
	Usual  [nWindows]float32
	Day    spikeDay
	Base   *spikeBaseline // nil until the first day is over
	Broad  bool           // a tool or a server: it may be busy from the first minute on
	Most   tally          // who makes most: of a principal the tools, of the others the principals
	Tools  tally          // of a server the tools
	Recent recentIDs

	// The finding. Known is set while it goes on.
	Known       bool
	Start, Last int64 // µs
	Told        [nWindows]uint32
	Caused      string // of a tool or a server: the principal that the finding names
	// The episode: findings, and what came after them and was not worse. It is told
	// once, and again when it is worse.
	Began, Until int64
	Peak         [nWindows]uint32
}

func (s *spikeCount) begin(c *CallSpike, at int64, broad bool) {
	s.Broad = broad
	s.Minute = at / usMinute
	s.Day.Day = s.Minute / minuteDay
	s.Floor, s.Hour = uint32(c.AtOnce)/2, -1
}

// count takes a call, and says whether it is at a time at which the key is above one
// of its levels.
func (s *spikeCount) count(c *CallSpike, v *Seen, by Key) bool {
	m := v.At / usMinute
	if m > s.Minute {
		s.roll(c, m)
	}
	late := s.Minute - m
	if late >= int64(len(s.Ring)) {
		return false // what was kept back for an hour is no burst of now
	}
	s.Ring[uint64(m)%60]++
	s.Sum[2]++
	if late < 5 {
		s.Sum[1]++
	}
	if late == 0 {
		s.Sum[0]++
	}
	if m/minuteDay == s.Day.Day {
		s.Day.Hours[m/60%hoursADay]++
	}
	s.Most.add(by)
	s.Recent.add(v.EventID)
	if s.Sum[2] < s.Floor {
		return false // an hour has all that the shorter windows have
	}
	if h := s.Minute / 60; s.Hour != h {
		s.Hour = h
		s.levels(c)
	}
	return s.Sum[0] >= s.Hold[0] || s.Sum[1] >= s.Hold[1] || s.Sum[2] >= s.Hold[2]
}

// roll closes the minutes up to m.
func (s *spikeCount) roll(c *CallSpike, m int64) {
	// A window's count only grows within a minute, so the end of a minute that had
	// calls is when it is largest.
	for w := range nWindows {
		s.Day.Peak[w] = max(s.Day.Peak[w], s.Sum[w])
		s.Day.Ratio[w] = max(s.Day.Ratio[w], (float32(s.Sum[w])+clump)/(s.Usual[w]+clump))
	}
	hour := s.Minute / 60
	s.Most.fade(m - s.Minute)
	s.Tools.fade(m - s.Minute)
	if m-s.Minute >= int64(len(s.Ring)) {
		s.Ring, s.Sum = [60]uint32{}, [nWindows]uint32{}
		s.Minute = m
	}
	for s.Minute < m {
		s.Minute++
		i := uint64(s.Minute)
		s.Sum[2] -= s.Ring[i%60]
		s.Sum[1] -= s.Ring[(i-5)%60]
		s.Ring[i%60] = 0
	}
	s.Sum[0] = 0
	if day := m / minuteDay; day != s.Day.Day {
		s.endDay(c, day)
		hour = -1
	}
	if m/60 != hour && s.Base != nil {
		s.Base.usual(m/60, &s.Usual)
	}
}

func (s *spikeCount) endDay(c *CallSpike, day int64) {
	if s.Base == nil {
		s.Base = &spikeBaseline{}
		s.Day.Ratio = [nWindows]float32{}
	}
	s.Base.learn(c, &s.Day)
	s.Day = spikeDay{Day: day}
	s.Hour = -1
	if s.Base.Seen >= uint32(c.LearnDays) {
		s.Floor = uint32(s.Base.Floor / 2)
	}
}

// levels works out the levels of the hour.
func (s *spikeCount) levels(c *CallSpike) {
	if s.Base == nil || s.Base.Seen < uint32(c.LearnDays) {
		s.Open, s.Hold = [nWindows]uint32{never, never, never}, [nWindows]uint32{never, never, never}
		if !s.Broad {
			s.Open[0], s.Hold[0] = uint32(c.AtOnce), uint32(c.AtOnce)/2
		}
		return
	}
	for w := range nWindows {
		l := s.Base.levels(c, w, float64(s.Usual[w]))
		s.Open[w] = uint32(min(math.Ceil(l.Open), never))
		s.Hold[w] = uint32(min(math.Ceil(l.Hold), never))
	}
}

// follow takes the finding of a key further at an event that is above a level, and
// says whether it is to be told of. What another finding explains is followed in
// silence.
func (s *spikeCount) follow(c *CallSpike, at int64, explained bool) bool {
	if s.Known && (at-s.Last > c.Calm.Microseconds() || at-s.Start > c.Longest.Microseconds()) {
		s.Known = false
	}
	hot, worse := false, false
	for w := range nWindows {
		if s.Sum[w] >= s.Open[w] {
			hot = true
			worse = worse || uint64(s.Sum[w])*4 >= uint64(s.Peak[w])*5
		}
	}
	if !s.Known {
		if !hot {
			if at < s.Until && s.holds() {
				s.Until = at + c.Cooldown.Microseconds() // it hovers below the level
			}
			return false
		}
		if at >= s.Until {
			s.Began, s.Peak, worse = at, [nWindows]uint32{}, true
		}
		if worse && !explained {
			s.Known, s.Start, s.Told = true, s.from(), [nWindows]uint32{}
		}
	} else if !hot && !s.holds() {
		return false
	}
	s.Until = at + c.Cooldown.Microseconds()
	s.Day.Foreign = at-s.Began < c.Accept.Microseconds()
	if s.Known || explained {
		s.Last = at
		for w := range nWindows {
			s.Peak[w] = max(s.Peak[w], s.Sum[w])
		}
	}
	return s.Known
}

// holds says that what has begun goes on. An hour's sum stays high for an hour after
// a burst: it only holds while the last minutes keep its pace.
func (s *spikeCount) holds() bool {
	return s.Sum[0] >= s.Hold[0] || s.Sum[1] >= s.Hold[1] || s.Sum[2] >= s.Hold[2] && uint64(s.Sum[1])*12 >= uint64(s.Hold[2])
}

// from is when the window began that is above its level, µs; the shortest when there
// are several.
func (s *spikeCount) from() int64 {
	for w, n := range s.Sum {
		if n >= s.Open[w] {
			return (s.Minute - int64(spikeWindows[w]) + 1) * usMinute
		}
	}
	return s.Minute * usMinute
}

// tally finds who makes most of something: the algorithm of Misra and Gries (1982)
// with the counts fading by a quarter a minute, so over the last five minutes or so. A
// share is at most a quarter too low.
type tally struct {
	Keys  [3]Key
	N     [3]uint64 // calls, in 256ths
	Total uint64
}

func (t *tally) add(k Key) {
	t.Total += 256
	free := -1
	for i := range t.Keys {
		if t.N[i] == 0 {
			free = i
		} else if t.Keys[i] == k {
			t.N[i] += 256
			return
		}
	}
	if free >= 0 {
		t.Keys[free], t.N[free] = k, 256
		return
	}
	for i := range t.N {
		t.N[i] -= min(t.N[i], 256)
	}
}

// fade lets minutes pass.
func (t *tally) fade(minutes int64) {
	f := faded[min(minutes, int64(len(faded)-1))]
	t.Total = t.Total * f >> 16
	for i := range t.N {
		t.N[i] = t.N[i] * f >> 16
	}
}

// faded is what is left of 65536 after so many minutes.
var faded = func() (f [32]uint64) {
	f[0] = 1 << 16
	for i := 1; i < len(f); i++ {
		f[i] = f[i-1] * 3 / 4
	}
	f[len(f)-1] = 0
	return f
}()

// top is who makes most, and the share of all.
func (t *tally) top() (Key, float64) {
	best := 0
	for i := range t.N {
		if t.N[i] > t.N[best] {
			best = i
		}
	}
	if t.Total == 0 {
		return Key{}, 0
	}
	return t.Keys[best], min(1, float64(t.N[best])/float64(t.Total))
}
