package export

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// sealer seals batches of one log as the service does.
type sealer struct {
	store *store.Store
	key   *ledger.Key
	tree  *ledger.Tree
	at    int64
	seq   uint64
	all   []*event.Event
}

func newSealer(t testing.TB, s *store.Store, logID string) *sealer {
	t.Helper()
	key, _, err := ledger.NewKey(rand.Reader, logID)
	if err != nil {
		t.Fatal(err)
	}
	l := &sealer{store: s, key: key, tree: ledger.NewTree(), at: 1795000000_000000}
	if err := s.StartLog(scopetest.Every(context.Background()), store.LogInfo{ID: logID, VerifierKey: key.Verifier(), StartedAt: time.UnixMicro(l.at)}); err != nil {
		t.Fatal(err)
	}
	return l
}

// put stores events as one batch without sealing it.
func (l *sealer) put(t testing.TB, batch uint64, events []*event.Event) {
	t.Helper()
	for i, e := range events {
		l.seq++
		e.LogID, e.Batch, e.Leaf, e.ExpiresMonth, e.EmitterSeq = l.key.LogID(), batch, uint32(i), 20819, l.seq
		if e.ReceivedAt == 0 {
			e.ReceivedAt = e.OccurredAt
		}
	}
	if err := l.store.Append(scopetest.Every(context.Background()), store.Batch{Events: events, Token: fmt.Sprint(l.key.LogID(), batch)}); err != nil {
		t.Fatal(err)
	}
}

// seal stores and seals one batch.
func (l *sealer) seal(t testing.TB, events ...*event.Event) *ledger.Entry {
	t.Helper()
	batch := l.tree.Size() + 1
	l.put(t, batch, events)
	leaves := make([]ledger.Hash, len(events))
	for i, e := range events {
		leaves[i] = ledger.Leaf(event.AppendRow(nil, e))
	}
	l.all = append(l.all, events...)
	return l.entry(t, &ledger.Entry{Kind: ledger.KindEvents, Schema: event.Schema, Events: uint32(len(events)), Root: ledger.Root(leaves), ExpiresMonth: 20819})
}

// entry appends an entry to the log.
func (l *sealer) entry(t testing.TB, e *ledger.Entry) *ledger.Entry {
	t.Helper()
	l.at += 25_000
	e.Format, e.LogID, e.Batch, e.SealedAt = ledger.Format, l.key.LogID(), l.tree.Size()+1, l.at
	if !e.HasEvents() {
		e.Root = ledger.EmptyRoot
	}
	nodes := l.tree.Append(e.Leaf())
	signed, err := ledger.Checkpoint{LogID: e.LogID, Size: l.tree.Size(), Root: l.tree.Root()}.Sign(l.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.store.Seal(scopetest.Every(context.Background()), []store.Sealed{{Entry: e, Nodes: nodes, Checkpoint: signed}}); err != nil {
		t.Fatal(err)
	}
	return e
}

func newReader(data []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(data)) }

func newRand(seed uint64) *mathrand.Rand { return mathrand.New(mathrand.NewPCG(seed, seed)) }
