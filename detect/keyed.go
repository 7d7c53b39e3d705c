package detect

import (
	"strings"

	"github.com/zeebo/xxh3"
)

// nameKeys makes keys of names that [Seen] has none for, such as addresses and
// credentials. Its seed is part of the first event's keys, which are hashes under
// the engine's secret seed: nobody outside can choose names that collide. It is
// saved with the detector's state, so that the keys in there stay valid.
type nameKeys struct{ Seed uint64 }

// of is the key of names within a kind. The order of names counts.
func (n *nameKeys) of(v *Seen, kind uint64, names ...string) Key {
	k := Key{kind, n.seed(v)}
	for _, s := range names {
		u := xxh3.HashString128Seed(s, n.Seed)
		k = k.With(Key{u.Hi, u.Lo})
	}
	return k
}

// hash is one name's in 64 bits, for comparing with another one of the same kind.
func (n *nameKeys) hash(v *Seen, name string) uint64 { return xxh3.HashStringSeed(name, n.seed(v)) }

func (n *nameKeys) seed(v *Seen) uint64 {
	if n.Seed == 0 {
		n.Seed = v.Home[0] | 1
	}
	return n.Seed
}

// maxFew is how many different things fewKeys tells apart.
const maxFew = 32

// fewKeys counts different things exactly, up to maxFew. It is for counts that are
// compared with a small number: a sketch would be off by a few, and by others
// under another seed, so that a replay could say something else.
type fewKeys []uint64

// add notes a thing and reports whether it is new.
func (f *fewKeys) add(k Key) bool {
	if f.has(k) || len(*f) >= maxFew {
		return false
	}
	*f = append(*f, k[0])
	return true
}

func (f fewKeys) has(k Key) bool {
	for _, x := range f {
		if x == k[0] {
			return true
		}
	}
	return false
}

// kept is a copy of an event's text for a detector's state: the text itself may be a
// piece of the block that it was read with, and would keep all of it in memory.
func kept(s string) string { return strings.Clone(s) }
