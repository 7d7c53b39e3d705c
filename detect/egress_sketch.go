package detect

import (
	"math"
	"math/bits"
)

// distinctSketch counts different 64-bit hashes in 137 bytes: HyperLogLog with 128
// registers (Flajolet, Fusy, Gandouet and Meunier, 2007), and linear counting below
// 2.5 times as many. Its standard error is 9 %. Hashes must not depend on a seed of
// the process, or a replay would count otherwise.
type distinctSketch struct {
	Registers [128]uint8
	Used      uint8   // registers that are not 0
	Gone      float64 // what 2^-register lacks of 1, summed up
}

// add notes a hash and reports whether the estimate may have changed.
func (s *distinctSketch) add(h uint64) bool {
	at := h & 127
	rank := uint8(bits.TrailingZeros64(h>>7|1<<57) + 1)
	old := s.Registers[at]
	if old >= rank {
		return false
	}
	if old == 0 {
		s.Used++
	}
	s.Registers[at] = rank
	s.Gone += math.Ldexp(1, -int(old)) - math.Ldexp(1, -int(rank))
	return true
}

func (s *distinctSketch) estimate() float64 {
	const m, alpha = 128.0, 0.7213 / (1 + 1.079/128)
	e := alpha * m * m / (m - s.Gone)
	if e <= 2.5*m && s.Used < 128 {
		return m * math.Log(m/(m-float64(s.Used)))
	}
	return e
}

// volumeNorm is how much an identity does in an hour or a day in which it does
// anything: the highest of each of five weeks, and the usual, on a logarithmic
// scale.
type volumeNorm struct {
	Highest    [5]float32
	Week       int32   // that Highest[Week%5] is of
	Known      uint16  // hours or days that it is made of, at most 65535
	Mean, Away float32 // of ln(1+x): moving mean, and moving mean distance from it
}

// learn takes a finished hour or day.
func (n *volumeNorm) learn(x float64, week int32) {
	n.pass(week)
	n.Highest[slot5(week)] = max(n.Highest[slot5(week)], float32(x))
	n.Known += min(1, math.MaxUint16-n.Known)
	// Plain means at first, then with a memory of about 100.
	w := 1 / min(float32(n.Known), 100)
	l := float32(math.Log1p(x))
	off := l - n.Mean
	n.Mean += w * off
	n.Away += w * (max(off, -off) - n.Away)
}

// pass forgets weeks that are over. A time that goes back is let alone.
func (n *volumeNorm) pass(week int32) {
	if week-n.Week >= 5 || n.Known == 0 {
		n.Highest, n.Week = [5]float32{}, week
	}
	for n.Week < week {
		n.Week++
		n.Highest[slot5(n.Week)] = 0
	}
}

func slot5(week int32) int { return int(uint32(week) % 5) }

// highest is the most of the last five weeks.
func (n *volumeNorm) highest() float64 {
	h := float32(0)
	for _, x := range n.Highest {
		h = max(h, x)
	}
	return float64(h)
}

// unusual is the amount from which on an hour or day is out of proportion: factor
// times the highest of five weeks, and six mean distances (about five standard
// deviations of a normal distribution) above the mean of the logarithms.
func (n *volumeNorm) unusual(factor float64) float64 {
	return max(factor*n.highest(), math.Expm1(min(float64(n.Mean+6*n.Away), 60)))
}

// usual is the middle of what is usual.
func (n *volumeNorm) usual() float64 { return math.Expm1(float64(n.Mean)) }
