package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

func testKey(t testing.TB, seed byte, log string) *Key {
	t.Helper()
	k, _, err := NewKey(rand.NewChaCha8([32]byte{seed}), log)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func trust(t testing.TB, verifiers ...string) *Keys {
	t.Helper()
	k, err := TrustKeys(verifiers, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// leavesOf are n leaves that differ.
func leavesOf(n int) []Hash {
	out := make([]Hash, n)
	for i := range out {
		out[i] = Leaf(fmt.Appendf(nil, "leaf %d", i))
	}
	return out
}

// treeOf is a tree, with all nodes that appends gave.
func treeOf(leaves []Hash) (*Tree, map[NodeID]Hash) {
	t, nodes := NewTree(), map[NodeID]Hash{}
	for i, l := range leaves {
		for level, h := range t.Append(l) {
			nodes[NodeID{Level: uint(level), Index: uint64(i) >> level}] = h
		}
	}
	return t, nodes
}

func reader(nodes map[NodeID]Hash) Nodes {
	return func(ids []NodeID) ([]Hash, error) {
		out := make([]Hash, len(ids))
		for i, id := range ids {
			h, ok := nodes[id]
			if !ok {
				return nil, fmt.Errorf("no node %v", id)
			}
			out[i] = h
		}
		return out, nil
	}
}

func someEntry(batch uint64) *Entry {
	return &Entry{Format: Format, Kind: KindEvents, LogID: "main-0a1b2c", Batch: batch, SealedAt: 1_795_251_600_123_456, Schema: 1, Events: 3,
		Root: Root(leavesOf(3)), ExpiresMonth: 21154}
}

// Another implementation of RFC 6962 gives the same roots and takes the proofs.
func TestTreesAndProofsAreThoseOfRFC6962(t *testing.T) {
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i, n := range at {
			out[i] = stored[n]
		}
		return out, nil
	})
	const most = 70
	leaves := leavesOf(most)
	for n := range most {
		hashes, err := tlog.StoredHashes(int64(n), fmt.Appendf(nil, "leaf %d", n), read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		size := n + 1
		want, err := tlog.TreeHash(int64(size), read)
		if err != nil {
			t.Fatal(err)
		}
		tree, nodes := treeOf(leaves[:size])
		if tree.Root() != Hash(want) || Root(leaves[:size]) != Hash(want) || tree.Size() != uint64(size) {
			t.Fatalf("the root of %d leaves is %v, want %v", size, tree.Root(), want)
		}
		edge, err := reader(nodes)(Edge(uint64(size)))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Resume(uint64(size), edge); err != nil || again.Root() != tree.Root() {
			t.Fatalf("a tree of %d leaves that was resumed differs: %v", size, err)
		}
		for i := range size {
			p, err := ProveInclusion(uint64(i), uint64(size), reader(nodes))
			if err != nil {
				t.Fatal(err)
			}
			var theirs tlog.RecordProof
			for _, h := range p {
				theirs = append(theirs, tlog.Hash(h))
			}
			if err := tlog.CheckRecord(theirs, int64(size), want, int64(i), tlog.RecordHash(fmt.Appendf(nil, "leaf %d", i))); err != nil {
				t.Errorf("leaf %d of %d: %v", i, size, err)
			}
			old, err := tlog.TreeHash(int64(i+1), read)
			if err != nil {
				t.Fatal(err)
			}
			if p, err = ProveConsistency(uint64(i+1), uint64(size), reader(nodes)); err != nil {
				t.Fatal(err)
			}
			if err := CheckConsistency(uint64(i+1), uint64(size), Hash(old), tree.Root(), p); err != nil {
				t.Errorf("%d to %d: %v", i+1, size, err)
			}
			if i+1 < size && CheckConsistency(uint64(i+1), uint64(size), Leaf(nil), tree.Root(), p) == nil {
				t.Errorf("%d to %d is consistent with any root", i+1, size)
			}
		}
	}
}

func TestGapsMakeTheRootWithAnySetOfLeaves(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 400 {
		size := 1 + r.IntN(60)
		leaves := leavesOf(size)
		var positions []uint64
		var some []Hash
		for i := range leaves {
			if r.IntN(3) == 0 {
				positions, some = append(positions, uint64(i)), append(some, leaves[i])
			}
		}
		gaps, err := NodesOf(leaves)(Gaps(positions, uint64(size)))
		if err != nil {
			t.Fatal(err)
		}
		root, err := RootWithGaps(uint64(size), positions, some, gaps)
		if err != nil || root != Root(leaves) {
			t.Fatalf("leaves at %v of %d: %v, %v", positions, size, root, err)
		}
		if len(positions) == size && len(gaps) > 0 {
			t.Fatalf("a whole tree of %d leaves has gaps", size)
		}
		if len(some) == 0 {
			continue
		}
		// Another leaf, a missing or an additional gap, a position that is moved.
		other := slices.Clone(some)
		other[r.IntN(len(other))] = Leaf(nil)
		if root, err := RootWithGaps(uint64(size), positions, other, gaps); err == nil && root == Root(leaves) {
			t.Fatal("another leaf makes the same root")
		}
		if root, err := RootWithGaps(uint64(size), positions, some, append(slices.Clone(gaps), Leaf(nil))); err == nil {
			t.Fatalf("one more gap is taken: %v", root)
		}
		if len(gaps) > 0 {
			if root, err := RootWithGaps(uint64(size), positions, some, gaps[1:]); err == nil {
				t.Fatalf("a gap less is taken: %v", root)
			}
		}
	}
}

func TestACheckpointIsReadBackAndSignedByItsLogsKeyAlone(t *testing.T) {
	k := testKey(t, 1, "main")
	c := Checkpoint{"main", 812, Root(leavesOf(5))}
	signed, err := c.Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenCheckpoint(signed, trust(t, k.Verifier())); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := PeekCheckpoint(signed); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := OpenCheckpoint(signed, trust(t, testKey(t, 2, "main").Verifier())); !errors.Is(err, ErrSignature) {
		t.Errorf("another key of the name: %v", err)
	}
	if _, err := OpenCheckpoint(signed, trust(t)); !errors.Is(err, ErrSignature) {
		t.Errorf("no key: %v", err)
	}
	if _, err := c.Sign(testKey(t, 1, "other")); err == nil {
		t.Error("the key of another log signs it")
	}
	if _, err := k.SignText("mcpaudit/main\n812\nabc\n"); err == nil {
		t.Error("a checkpoint can be signed as a text")
	}
}

// mangled are all texts that differ from b in one byte, or lack one, or have one more.
func mangled(b []byte) [][]byte {
	var out [][]byte
	for i := range b {
		for _, x := range []byte{1, 0x20, 0x80} {
			c := slices.Clone(b)
			c[i] ^= x
			out = append(out, c)
		}
		out = append(out, slices.Concat(b[:i], b[i+1:]), slices.Concat(b[:i], []byte{b[i]}, b[i:]), b[:i])
	}
	return out
}

func TestACheckpointWithAnyByteChangedIsRefused(t *testing.T) {
	k := testKey(t, 1, "main")
	signed, err := Checkpoint{"main", 812, Root(leavesOf(5))}.Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range mangled([]byte(signed)) {
		if c, err := OpenCheckpoint(string(text), trust(t, k.Verifier())); err == nil {
			t.Errorf("read as %+v:\n%s", c, text)
		}
	}
}

func TestARotationIsTrustedInBothDirectionsAndNeedsBothKeys(t *testing.T) {
	one, two, three := testKey(t, 1, "main"), testKey(t, 2, "main"), testKey(t, 3, "main")
	var statements []string
	for _, p := range [][2]*Key{{one, two}, {two, three}} {
		s, err := p[0].Rotate(p[1])
		if err != nil {
			t.Fatal(err)
		}
		statements = append(statements, s)
	}
	for _, first := range []*Key{one, two, three} {
		k, err := TrustKeys([]string{first.Verifier()}, statements)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range []*Key{one, two, three} {
			if !k.Has(other.Verifier()) {
				t.Errorf("who trusts %v does not trust %v", first, other)
			}
		}
	}
	if k, _ := TrustKeys([]string{testKey(t, 4, "main").Verifier()}, statements); k.Has(one.Verifier()) {
		t.Error("strangers' statements are believed")
	}
	for _, text := range mangled([]byte(statements[0])) {
		if _, _, err := ParseRotation(string(text)); err == nil {
			t.Errorf("it is taken:\n%s", text)
		}
	}
	// Signed by one of the two alone.
	half := strings.SplitAfter(statements[0], "\n")
	for _, without := range []int{len(half) - 2, len(half) - 3} {
		if _, _, err := ParseRotation(strings.Join(slices.Delete(slices.Clone(half), without, without+1), "")); err == nil {
			t.Error("one signature is enough")
		}
	}
	if _, err := one.Rotate(testKey(t, 1, "other")); err == nil {
		t.Error("a key hands over to that of another log")
	}
}

// The secret is in no text that is made of a key, and in no error.
func TestTheSecretOfAKeyIsNeverShown(t *testing.T) {
	k, secret, err := NewKey(rand.NewChaCha8([32]byte{9}), "main")
	if err != nil {
		t.Fatal(err)
	}
	body := strings.SplitN(secret, "+", 5)[4]
	for _, form := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		if text := fmt.Sprintf(form, k); strings.Contains(text, body) || !strings.Contains(text, "mcpaudit/main+") {
			t.Errorf("%s shows %s", form, text)
		}
	}
	for _, text := range mangled([]byte(secret)) {
		if _, err := ParseKey(string(text)); err != nil && (strings.Contains(err.Error(), body[:8]) || strings.Contains(err.Error(), body[len(body)-8:])) {
			t.Fatalf("the error shows the key: %v", err)
		}
	}
	if again, err := ParseKey(secret); err != nil || again.Verifier() != k.Verifier() || again.LogID() != "main" {
		t.Errorf("%v, %v", again, err)
	}
	if bytes.Equal(k.Derive("a"), k.Derive("b")) || !bytes.Equal(k.Derive("a"), k.Derive("a")) {
		t.Error("derived secrets are not one for each purpose")
	}
}

func TestEntriesAndProofsAreReadBackAndHaveOneEncoding(t *testing.T) {
	leaves := leavesOf(3)
	e := someEntry(7)
	b := e.Append(nil)
	if got, err := ParseEntry(b); err != nil || !reflect.DeepEqual(got, e) {
		t.Fatalf("%+v, %v", got, err)
	}
	p, err := ProveBatch(e, []uint32{0, 2}, leaves)
	if err != nil {
		t.Fatal(err)
	}
	got, rest, err := ParseBatchProof(p.Append(nil))
	if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, p) {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := got.Check([]Hash{leaves[0], leaves[2]}); err != nil {
		t.Error(err)
	}
	var entries []Hash
	for n := uint64(1); n <= 9; n++ {
		entries = append(entries, someEntry(n).Leaf())
	}
	// The log's tree grows of the entries that somebody has and the nodes between them.
	tree, last := NewTree(), uint64(0)
	for _, n := range []uint64{2, 7, 9} {
		nodes, err := NodesOf(entries)(Between(last, n-1))
		if err != nil {
			t.Fatal(err)
		}
		if len(nodes) > 0 && tree.Skip(n-1, nodes[1:]) == nil {
			t.Error("a node less is taken")
		}
		if err := tree.Skip(n-1, nodes); err != nil {
			t.Fatal(err)
		}
		tree.Append(entries[n-1])
		last = n
	}
	if tree.Root() != Root(entries) || tree.Size() != 9 || tree.Skip(8, nil) == nil {
		t.Errorf("the root of %d entries is %v", tree.Size(), tree.Root())
	}
	for _, x := range mangled(p.Append(nil)) {
		if got, rest, err := ParseBatchProof(x); err == nil && len(rest) == 0 && got.Entry.Leaf() == e.Leaf() && got.Check([]Hash{leaves[0], leaves[2]}) == nil {
			t.Errorf("changed bytes prove the same: %x", x)
		}
	}
}

func TestANewerFormatIsSaidToBeOne(t *testing.T) {
	e := someEntry(1)
	e.Format = 2
	if _, err := ParseEntry(e.Append(nil)); err == nil || !strings.Contains(err.Error(), "its format is 2, this program knows 1; use a newer mcpaudit") {
		t.Error(err)
	}
}

func TestDetailsAreReadStrictly(t *testing.T) {
	d := Drop{Month: 21154, Before: 9, Events: 5, By: "schedule"}
	var got Drop
	if err := ParseDetail(Detail(d), &got); err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", "[]", `{"month":1,"surprise":2}`, Detail(d) + "{}"} {
		if err := ParseDetail(text, &Drop{}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// The bytes of today's program are those that were committed.
func TestGoldenVectors(t *testing.T) {
	k := testKey(t, 1, "main-0a1b2c")
	next := testKey(t, 2, "main-0a1b2c")
	var b strings.Builder
	say := func(name string, value any) { fmt.Fprintf(&b, "%s\n%v\n\n", name, value) }
	e := someEntry(7)
	say("entry", hex.EncodeToString(e.Append(nil)))
	say("leaf of the entry", e.Leaf())
	for _, n := range []int{0, 1, 2, 3, 6, 7} {
		say(fmt.Sprintf("root of %d leaves", n), Root(leavesOf(n)))
	}
	p, err := ProveBatch(e, []uint32{0, 2}, leavesOf(3))
	if err != nil {
		t.Fatal(err)
	}
	say("batch proof of leaves 0 and 2", hex.EncodeToString(p.Append(nil)))
	say("verifier key", k.Verifier())
	signed, err := Checkpoint{"main-0a1b2c", 7, Root(leavesOf(7))}.Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	say("checkpoint", signed)
	statement, err := k.Rotate(next)
	if err != nil {
		t.Fatal(err)
	}
	say("rotation", statement)
	const file = "testdata/golden.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the bytes are other ones than those of %s:\n%s", file, b.String())
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add(someEntry(1).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ParseEntry(b); err == nil && !bytes.Equal(e.Append(nil), b) {
			t.Errorf("%x is read as %+v, which is written otherwise", b, e)
		}
	})
}

func FuzzParseBatchProof(f *testing.F) {
	p, err := ProveBatch(someEntry(1), []uint32{0, 2}, leavesOf(3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, rest, err := ParseBatchProof(b)
		if err != nil {
			return
		}
		if !bytes.Equal(append(p.Append(nil), rest...), b) {
			t.Errorf("%x is written otherwise", b)
		}
		_ = p.Check(make([]Hash, len(p.Positions)))
	})
}

func FuzzCheckpoint(f *testing.F) {
	k := testKey(f, 1, "main")
	signed, err := Checkpoint{"main", 7, Root(leavesOf(7))}.Sign(k)
	if err != nil {
		f.Fatal(err)
	}
	keys := trust(f, k.Verifier())
	f.Add(signed)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := OpenCheckpoint(text, keys)
		if err == nil && c != (Checkpoint{"main", 7, Root(leavesOf(7))}) {
			t.Errorf("a checkpoint that was never signed: %+v", c)
		}
		_, _ = PeekCheckpoint(text)
	})
}

func FuzzKeysAndRotations(f *testing.F) {
	k, secret, err := NewKey(rand.NewChaCha8([32]byte{1}), "main")
	if err != nil {
		f.Fatal(err)
	}
	statement, err := k.Rotate(testKey(f, 2, "main"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(secret)
	f.Add(k.Verifier())
	f.Add(statement)
	f.Add("mcpaudit/x+00000000+" + base64.StdEncoding.EncodeToString([]byte{1}))
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = ParseKey(text)
		_, _, _ = ParseRotation(text)
		_, _ = TrustKeys([]string{text}, []string{text})
	})
}
