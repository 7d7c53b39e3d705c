package emit

import (
	"crypto/rand"
	"maps"
	"slices"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// What is read of any file is kept in a file of which the same is read.
func FuzzReceipts(f *testing.F) {
	w := witness{logs: map[string]*seenLog{}}
	for _, id := range []string{"a", "b"} {
		k, _, err := ledger.NewKey(rand.Reader, id)
		if err != nil {
			f.Fatal(err)
		}
		c := ledger.Checkpoint{LogID: id, Size: 3, Root: ledger.Leaf([]byte(id))}
		signed, err := c.Sign(k)
		if err != nil {
			f.Fatal(err)
		}
		w.logs[id] = &seenLog{service: "127.0.0.1:4777", key: k.Verifier(), trusted: []string{k.Verifier()}, signed: signed, Checkpoint: c}
	}
	w.last = "a"
	f.Add(string(w.text()))
	f.Add("# service x\n")
	f.Fuzz(func(t *testing.T, text string) {
		first, second := witness{logs: map[string]*seenLog{}}, witness{logs: map[string]*seenLog{}}
		_ = first.parse(text)
		if err := second.parse(string(first.text())); err != nil || second.last != first.last {
			t.Fatalf("%v, %q answered last, and %q", err, first.last, second.last)
		}
		if !maps.EqualFunc(first.logs, second.logs, func(x, y *seenLog) bool {
			return x.service == y.service && x.key == y.key && x.signed == y.signed && x.Checkpoint == y.Checkpoint && slices.Equal(x.trusted, y.trusted)
		}) {
			t.Errorf("%v were read, and then %v", first.logs, second.logs)
		}
	})
}

// What a receipt costs the shipper, once for each batch of up to 2000 events.
func BenchmarkReceipt(b *testing.B) {
	k, _, err := ledger.NewKey(rand.Reader, "a")
	if err != nil {
		b.Fatal(err)
	}
	const grown = 100_000
	var leaves []ledger.Hash
	for i := range grown {
		leaves = append(leaves, ledger.Leaf([]byte{byte(i), byte(i >> 8), byte(i >> 16)}))
	}
	sign := func(n uint64) (ledger.Checkpoint, string) {
		c := ledger.Checkpoint{LogID: "a", Size: n, Root: ledger.Root(leaves[:n])}
		signed, err := c.Sign(k)
		if err != nil {
			b.Fatal(err)
		}
		return c, signed
	}
	before, kept := sign(grown - 1)
	_, signed := sign(grown)
	r := &pb.Receipt{Stored: 1, Checkpoint: signed}
	proof, err := ledger.ProveConsistency(grown-1, grown, ledger.NodesOf(leaves))
	if err != nil {
		b.Fatal(err)
	}
	for _, h := range proof {
		r.Consistency = append(r.Consistency, h[:])
	}
	for b.Loop() {
		w := witness{last: "a", logs: map[string]*seenLog{"a": {key: k.Verifier(), trusted: []string{k.Verifier()}, signed: kept, Checkpoint: before}}}
		if err := w.judge(b.Context(), r, w.known()); err != nil {
			b.Fatal(err)
		}
	}
}
