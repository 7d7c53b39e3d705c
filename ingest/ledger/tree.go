package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Hash is a SHA-256 hash: a leaf, a node or a root of a Merkle tree (RFC 6962,
// section 2.1).
type Hash [sha256.Size]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// EmptyRoot is the root of a tree without leaves.
var EmptyRoot = Hash(rfc6962.DefaultHasher.EmptyRoot())

// Leaf is the leaf hash of data: SHA-256(0x00 ‖ data).
func Leaf(data []byte) Hash {
	h := sha256.New()
	h.Write([]byte{rfc6962.RFC6962LeafHashPrefix})
	h.Write(data)
	return Hash(h.Sum(nil))
}

// node is SHA-256(0x01 ‖ left ‖ right), as rfc6962's but without its garbage.
func node(left, right []byte) []byte {
	var b [1 + 2*sha256.Size]byte
	b[0] = rfc6962.RFC6962NodeHashPrefix
	copy(b[1:], left)
	copy(b[1+sha256.Size:], right)
	h := sha256.Sum256(b[:])
	return h[:]
}

var ranges = &compact.RangeFactory{Hash: node}

// NodeID says where a node is in a tree: leaves have level 0, and the node
// (level, index) covers leaves index<<level to (index+1)<<level, that one
// excluded.
type NodeID = compact.NodeID

// Tree is a growing Merkle tree of which only the right edge is kept.
type Tree struct{ r *compact.Range }

// NewTree is a tree without leaves.
func NewTree() *Tree { return &Tree{ranges.NewEmptyRange(0)} }

// Edge are the nodes of which a tree of this size can be made again, see [Resume].
func Edge(size uint64) []NodeID { return compact.RangeNodes(0, size, nil) }

// Resume makes a tree of this size of the nodes that Edge names.
func Resume(size uint64, edge []Hash) (*Tree, error) {
	r, err := ranges.NewRange(0, size, bytesOf(edge))
	if err != nil {
		return nil, fmt.Errorf("resume a tree of %d leaves: %w", size, err)
	}
	return &Tree{r}, nil
}

// Append adds a leaf and returns the nodes that are complete with it: itself,
// its parent when it is a right child, and so on upwards. The node (level, index)
// is the one at level in what the append of leaf (index+1)<<level - 1 returned.
func (t *Tree) Append(leaf Hash) []Hash {
	nodes := make([]Hash, 0, 2)
	// The error is for ranges that don't fit together.
	_ = t.r.Append(leaf[:], func(_ compact.NodeID, h []byte) { nodes = append(nodes, Hash(h)) })
	return nodes
}

// Size counts the leaves.
func (t *Tree) Size() uint64 { return t.r.End() }

// Root is the root hash.
func (t *Tree) Root() Hash {
	root, err := t.r.GetRootHash(nil)
	if err != nil || root == nil {
		return EmptyRoot
	}
	return Hash(root)
}

// Root is the root of a tree of these leaves.
func Root(leaves []Hash) Hash {
	t := NewTree()
	for i := range leaves {
		_ = t.r.Append(leaves[i][:], nil)
	}
	return t.Root()
}

// Nodes reads nodes of a tree, in the order of ids.
type Nodes func(ids []NodeID) ([]Hash, error)

// NodesOf reads nodes of a tree that is in memory.
func NodesOf(leaves []Hash) Nodes {
	return func(ids []NodeID) ([]Hash, error) {
		out := make([]Hash, len(ids))
		for i, id := range ids {
			from, to := id.Coverage()
			if to > uint64(len(leaves)) {
				return nil, fmt.Errorf("a tree of %d leaves has no node at level %d, index %d", len(leaves), id.Level, id.Index)
			}
			r := ranges.NewEmptyRange(from)
			for j := from; j < to; j++ {
				_ = r.Append(leaves[j][:], nil)
			}
			out[i] = Hash(r.Hashes()[0])
		}
		return out, nil
	}
}

// ProveInclusion proves that the leaf at index is in the tree of this size (RFC
// 6962, section 2.1.1).
func ProveInclusion(index, size uint64, read Nodes) ([]Hash, error) {
	n, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, fmt.Errorf("prove inclusion: %w", err)
	}
	return prove(n, read)
}

// ProveConsistency proves that the tree of the first size is the beginning of that
// of the second (RFC 6962, section 2.1.2).
func ProveConsistency(first, second uint64, read Nodes) ([]Hash, error) {
	n, err := proof.Consistency(first, second)
	if err != nil {
		return nil, fmt.Errorf("prove consistency: %w", err)
	}
	return prove(n, read)
}

func prove(n proof.Nodes, read Nodes) ([]Hash, error) {
	hashes, err := read(n.IDs)
	if err != nil {
		return nil, err
	}
	full, err := n.Rehash(bytesOf(hashes), node)
	if err != nil {
		return nil, err
	}
	return hashesOf(full), nil
}

// CheckInclusion checks a proof that the leaf at index is in the tree of this size
// and root.
func CheckInclusion(leaf Hash, index, size uint64, root Hash, p []Hash) error {
	return proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf[:], bytesOf(p), root[:])
}

// CheckConsistency checks a proof that the first tree is the beginning of the
// second.
func CheckConsistency(first, second uint64, firstRoot, secondRoot Hash, p []Hash) error {
	if first == 0 { // the beginning of everything
		if firstRoot != EmptyRoot || len(p) > 0 {
			return errors.New("check consistency: a tree of no leaves has one root and needs no proof")
		}
		return nil
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, first, second, bytesOf(p), firstRoot[:], secondRoot[:])
}

// Gaps are the nodes that make the root of a tree of this size together with the
// leaves at positions, which ascend: those that cover what lies between them. When
// the positions are all there are, there is no gap: the leaves are the whole tree,
// and nothing was left out.
func Gaps(positions []uint64, size uint64) []NodeID {
	var ids []NodeID
	next := uint64(0)
	for _, p := range positions {
		ids = compact.RangeNodes(next, p, ids)
		next = p + 1
	}
	return compact.RangeNodes(next, size, ids)
}

// Skip appends leaves that are not known, up to size: nodes are those that cover
// them (see [Gaps]).
func (t *Tree) Skip(size uint64, nodes []Hash) error {
	if size < t.Size() {
		return fmt.Errorf("leaves up to %d are out of order in a tree of %d", size, t.Size())
	}
	gap, err := ranges.NewRange(t.Size(), size, bytesOf(nodes))
	if err != nil {
		return fmt.Errorf("%d nodes are not those between leaves %d and %d", len(nodes), t.Size(), size)
	}
	return t.r.AppendRange(gap, nil)
}

// Between are the nodes that cover leaves from to to, that one excluded: those that
// [Tree.Skip] takes.
func Between(from, to uint64) []NodeID { return compact.RangeNodes(from, to, nil) }

// RootWithGaps is the root of the tree of this size that has leaves at positions
// and the nodes that [Gaps] names everywhere else.
func RootWithGaps(size uint64, positions []uint64, leaves, gaps []Hash) (Hash, error) {
	if len(positions) != len(leaves) {
		return Hash{}, fmt.Errorf("%d leaves are given for %d positions", len(leaves), len(positions))
	}
	t := NewTree()
	skip := func(to uint64) error {
		n := compact.RangeSize(t.Size(), to)
		if n > len(gaps) {
			return errors.New("too few nodes for the gaps between the leaves")
		}
		some := gaps[:n]
		gaps = gaps[n:]
		return t.Skip(to, some)
	}
	for i, p := range positions {
		if p < t.Size() || p >= size {
			return Hash{}, fmt.Errorf("position %d is out of place in a tree of %d leaves", p, size)
		}
		if err := skip(p); err != nil {
			return Hash{}, err
		}
		_ = t.r.Append(leaves[i][:], nil)
	}
	if err := skip(size); err != nil {
		return Hash{}, err
	}
	if len(gaps) > 0 {
		return Hash{}, errors.New("more nodes than there are gaps between the leaves")
	}
	return t.Root(), nil
}

func bytesOf(hashes []Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

func hashesOf(b [][]byte) []Hash {
	out := make([]Hash, len(b))
	for i := range b {
		out[i] = Hash(b[i])
	}
	return out
}
