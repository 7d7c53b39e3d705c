package detect

// knownThings is a set of about a hundred hashes, at most 256, that forgets what was
// used longest ago. It is a cache of sets of eight, as processors have them: a look-up
// reads 32 bytes, and a set that is full forgets the one of its eight that was used
// longest ago. The zero value is empty; it grows as it fills and takes 1 KB at most.
// Hashes are 32 bits of a Key: among 256 known things, one new thing in 16 million
// passes for known.
type knownThings struct {
	Table []uint32 // sets of knownWays, each the newest use first; 0 is free
	Count int32
}

const (
	knownWays = 8
	knownMost = 256
)

// use says whether the thing is known, and marks it as the newest of its set.
func (t *knownThings) use(k Key) bool {
	h := knownHash(k)
	set := t.set(h)
	for i, x := range set {
		if x == h {
			copy(set[1:i+1], set[:i])
			set[0] = h
			return true
		}
	}
	return false
}

// add makes a thing that is not known known.
func (t *knownThings) add(k Key) {
	h := knownHash(k)
	set := t.set(h)
	for (set == nil || set[knownWays-1] != 0) && len(t.Table) < knownMost {
		t.grow()
		set = t.set(h)
	}
	if set[knownWays-1] == 0 {
		t.Count++
	}
	copy(set[1:], set)
	set[0] = h
}

func (t *knownThings) grow() {
	old := t.Table
	t.Table = make([]uint32, max(knownWays, 2*len(old)))
	// The oldest of each set first, so that the order within the sets stays.
	for i := len(old) - 1; i >= 0; i-- {
		if h := old[i]; h != 0 {
			set := t.set(h)
			copy(set[1:], set)
			set[0] = h
		}
	}
}

func (t *knownThings) set(h uint32) []uint32 {
	if len(t.Table) == 0 {
		return nil
	}
	sets := uint32(len(t.Table) / knownWays)
	i := h & (sets - 1) * knownWays
	return t.Table[i : i+knownWays : i+knownWays]
}

func knownHash(k Key) uint32 { return max(1, uint32(k[0]>>32)) }
