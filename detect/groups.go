package detect

import (
	"bytes"
	"encoding/gob"
)

// Groups is a detector's state by group, bounded: when there are too many, the one
// that was touched longest ago is forgotten, and counted. The zero value needs
// Most to be set before its first use.
type Groups[S any] struct {
	Most    int    // groups that are kept
	Evicted uint64 // groups that were forgotten because there were more

	index      map[Key]*group[S]
	head, tail *group[S] // newest and oldest touch
}

type group[S any] struct {
	key          Key
	touched      int64
	newer, older *group[S]
	state        S
}

// Len is how many groups there are.
func (g *Groups[S]) Len() int { return len(g.index) }

// Get returns the state of a group, a new one when it is not known, and marks it
// as touched at clock.
func (g *Groups[S]) Get(k Key, clock int64) (s *S, fresh bool) {
	x := g.index[k]
	if x == nil {
		if g.index == nil {
			g.index = map[Key]*group[S]{}
		}
		if len(g.index) >= g.Most && g.tail != nil {
			g.drop(g.tail)
			g.Evicted++
		}
		x, fresh = &group[S]{key: k}, true
		g.index[k] = x
	}
	x.touched = clock
	if x != g.head {
		if !fresh {
			g.unlink(x)
		}
		g.link(x)
	}
	return &x.state, fresh
}

// Peek returns the state of a group, or nil, and touches nothing.
func (g *Groups[S]) Peek(k Key) *S {
	if x := g.index[k]; x != nil {
		return &x.state
	}
	return nil
}

// Delete forgets a group.
func (g *Groups[S]) Delete(k Key) {
	if x := g.index[k]; x != nil {
		g.drop(x)
	}
}

// Expire calls f for every group that was last touched before clock, the one
// touched longest ago first, and forgets it.
func (g *Groups[S]) Expire(clock int64, f func(Key, *S)) {
	for x := g.tail; x != nil && x.touched < clock; x = g.tail {
		if f != nil {
			f(x.key, &x.state)
		}
		g.drop(x)
	}
}

// Each calls f for every group, the one touched longest ago first, until it
// returns false.
func (g *Groups[S]) Each(f func(k Key, touched int64, s *S) bool) {
	for x := g.tail; x != nil; x = x.newer {
		if !f(x.key, x.touched, &x.state) {
			return
		}
	}
}

func (g *Groups[S]) link(x *group[S]) {
	x.newer, x.older = nil, g.head
	if g.head != nil {
		g.head.newer = x
	}
	g.head = x
	if g.tail == nil {
		g.tail = x
	}
}

func (g *Groups[S]) unlink(x *group[S]) {
	if x.newer != nil {
		x.newer.older = x.older
	} else {
		g.head = x.older
	}
	if x.older != nil {
		x.older.newer = x.newer
	} else {
		g.tail = x.newer
	}
}

func (g *Groups[S]) drop(x *group[S]) {
	g.unlink(x)
	delete(g.index, x.key)
}

// savedGroups is Groups as gob writes it, the one touched longest ago first.
type savedGroups[S any] struct {
	Most    int
	Evicted uint64
	Keys    []Key
	Touched []int64
	States  []S
}

// GobEncode implements gob.GobEncoder.
func (g *Groups[S]) GobEncode() ([]byte, error) {
	s := savedGroups[S]{Most: g.Most, Evicted: g.Evicted}
	g.Each(func(k Key, touched int64, state *S) bool {
		s.Keys, s.Touched, s.States = append(s.Keys, k), append(s.Touched, touched), append(s.States, *state)
		return true
	})
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(s)
	return b.Bytes(), err
}

// GobDecode implements gob.GobDecoder. It keeps Most as it is.
func (g *Groups[S]) GobDecode(b []byte) error {
	var s savedGroups[S]
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&s); err != nil {
		return err
	}
	most := g.Most
	if most == 0 {
		most = s.Most
	}
	*g = Groups[S]{Most: most}
	for i, k := range s.Keys {
		p, _ := g.Get(k, s.Touched[i])
		*p = s.States[i]
	}
	g.Evicted = s.Evicted
	return nil
}
