package ingest

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/ingest/keyfile"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// NewLogID names a log: never the same twice, and readable.
func NewLogID(name string) string {
	var noise [6]byte
	rand.Read(noise[:])
	return name + "-" + hex.EncodeToString(noise[:])
}

// LogName is the name that a log was given, without the noise; "" of an id that
// NewLogID has not made.
func LogName(id string) string {
	at := strings.LastIndexByte(id, '-')
	if at < 0 || len(id)-at != 13 {
		return ""
	}
	return id[:at]
}

// ErrContradiction means that the log in the store is not the one that this
// instance has signed before.
var ErrContradiction = errors.New("the log in the store is not the one that was signed")

// ownLog is the log that the pipeline writes: its tree, and what was signed last. The
// tree belongs to one goroutine, first the one that opens the log, then the notary.
type ownLog struct {
	key    *ledger.Key
	macKey []byte
	store  Store
	tree   *ledger.Tree
	newest atomic.Pointer[checkpoint]

	mu    sync.Mutex
	nodes *simplelru.LRU[ledger.NodeID, ledger.Hash] // those that proofs need most
}

// checkpoint is a signed one, and its size.
type checkpoint struct {
	signed string
	size   uint64
}

// cachedNodes is how many nodes of the tree are kept in memory: the newest
// hundred thousand batches, 10 MB.
const cachedNodes = 200_000

// openLog finds the log of the key in the store, or starts it, and checks that it
// is the one that was signed: the key is the log's or took over from it, also by a
// statement that is not in the ledger yet; the last checkpoint opens and is that of
// the tree; what is remembered elsewhere is the log's own past. It says when the
// last entry was sealed.
func openLog(ctx context.Context, s Store, key *ledger.Key, statements, remembered []string, now time.Time) (l *ownLog, sealedAt int64, err error) {
	l = &ownLog{key: key, macKey: key.Derive(keyfile.BatchMAC), store: s, tree: ledger.NewTree()}
	l.nodes, _ = simplelru.NewLRU[ledger.NodeID, ledger.Hash](cachedNodes, nil)
	l.newest.Store(&checkpoint{})
	id := key.LogID()
	logs, err := s.Logs(ctx)
	if err != nil {
		return nil, 0, err
	}
	known := slices.IndexFunc(logs, func(i store.LogInfo) bool { return i.ID == id })
	last, err := s.LastEntry(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	if known < 0 && last != nil {
		return nil, 0, fmt.Errorf("open log %q: %w: the store has %d entries of it and does not list it; see what is wrong with 'mcpaudit verify', and bring the store back from a backup", id, ErrContradiction, last.Entry.Batch)
	}
	if known >= 0 {
		have, err := s.Rotations(ctx, id)
		if err != nil {
			return nil, 0, err
		}
		keys, err := ledger.TrustKeys([]string{key.Verifier()}, append(have, statements...))
		if err != nil {
			return nil, 0, err
		}
		// The store's own word is not enough, but what it says of the key must fit: a
		// key that has handed over signs no more.
		if !keys.Has(logs[known].VerifierKey) || ledger.NewestKey(logs[known].VerifierKey, append(have, statements...)) != key.Verifier() {
			return nil, 0, fmt.Errorf("open log %q: the key is not the log's, nor did it take over from the log's key; use the right key file, or rotate keys with 'mcpaudit keys rotate'", id)
		}
		if last != nil {
			if err := l.resume(ctx, last, keys); err != nil {
				return nil, 0, err
			}
			sealedAt = last.Entry.SealedAt
		}
	}
	for _, signed := range remembered {
		if err := l.agrees(ctx, signed); err != nil {
			return nil, 0, err
		}
	}
	if known < 0 {
		err = s.StartLog(ctx, store.LogInfo{ID: id, VerifierKey: key.Verifier(), StartedAt: now})
	}
	return l, sealedAt, err
}

// resume takes up the tree after its last entry.
func (l *ownLog) resume(ctx context.Context, last *store.Sealed, keys *ledger.Keys) error {
	c, err := ledger.OpenCheckpoint(last.Checkpoint, keys)
	if err != nil {
		return fmt.Errorf("open log %q: %w; see what is wrong with 'mcpaudit verify'", l.key.LogID(), errors.Join(ErrContradiction, err))
	}
	edge, err := l.store.Nodes(ctx, l.key.LogID())(ledger.Edge(last.Entry.Batch))
	if err != nil {
		return err
	}
	if l.tree, err = ledger.Resume(last.Entry.Batch, edge); err != nil {
		return err
	}
	if c != (ledger.Checkpoint{LogID: l.key.LogID(), Size: l.tree.Size(), Root: l.tree.Root()}) {
		return fmt.Errorf("open log %q: %w: its last checkpoint is of another tree; see what is wrong with 'mcpaudit verify'", l.key.LogID(), ErrContradiction)
	}
	l.newest.Store(&checkpoint{last.Checkpoint, c.Size})
	return nil
}

// agrees says whether a checkpoint that was kept elsewhere is of the log's past. A
// log that was cut must not be written on: it would be signed twice.
func (l *ownLog) agrees(ctx context.Context, signed string) error {
	c, err := ledger.PeekCheckpoint(signed)
	if err != nil || c.LogID != l.key.LogID() {
		return nil //nolint:nilerr // of another log, or damaged: it says nothing about this one
	}
	size, root := l.tree.Size(), l.tree.Root()
	if c.Size <= size {
		p, err := l.Consistency(ctx, c.Size, size)
		if err != nil {
			return err
		}
		if c.Size == size && c.Root == root || c.Size < size && ledger.CheckConsistency(c.Size, size, c.Root, root, p) == nil {
			return nil
		}
	}
	return fmt.Errorf("open log %q: %w: the store has %d entries, and a checkpoint of %d entries was signed before that they do not lead to. "+
		"Was the store restored from a backup, or cut? Bring the newer store back; or keep this one as it is and start a new log with 'mcpaudit keys new'", c.LogID, ErrContradiction, size, c.Size)
}

// unsigned is an entry, and the tags of its events.
type unsigned struct {
	*ledger.Entry
	tags []byte
}

// sign appends entries to the tree and makes their rows.
func (l *ownLog) sign(entries []unsigned) ([]store.Sealed, error) {
	rows := make([]store.Sealed, len(entries))
	for i, e := range entries {
		leaf := e.Leaf()
		index := l.tree.Size()
		rows[i] = store.Sealed{Entry: e.Entry, Nodes: l.tree.Append(leaf), Tags: e.tags}
		var err error
		rows[i].Checkpoint, err = ledger.Checkpoint{LogID: l.key.LogID(), Size: l.tree.Size(), Root: l.tree.Root()}.Sign(l.key)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		for level, h := range rows[i].Nodes {
			l.nodes.Add(ledger.NodeID{Level: uint(level), Index: index >> level}, h)
		}
		l.mu.Unlock()
	}
	return rows, nil
}

// Consistency proves that the log has only grown between two of its sizes.
func (l *ownLog) Consistency(ctx context.Context, from, to uint64) ([]ledger.Hash, error) {
	return ledger.ProveConsistency(from, to, func(ids []ledger.NodeID) ([]ledger.Hash, error) {
		out := make([]ledger.Hash, len(ids))
		var missing []ledger.NodeID
		var where []int
		l.mu.Lock()
		for i, id := range ids {
			h, ok := l.nodes.Get(id)
			if !ok {
				missing, where = append(missing, id), append(where, i)
			}
			out[i] = h
		}
		l.mu.Unlock()
		read, err := l.store.Nodes(ctx, l.key.LogID())(missing)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		for i, h := range read {
			out[where[i]] = h
			l.nodes.Add(missing[i], h)
		}
		return out, nil
	})
}

// mac is what only who has the log's key can make of a batch: HMAC-SHA-256 over its
// number, its size, its month of expiry and its root, cut to 128 bits. It is stored
// with the events, so that a batch which is found unsealed is known to be our own.
func (l *ownLog) mac(e *ledger.Entry) (mac [16]byte) { return macWith(l.macKey, e) }

func macWith(key []byte, e *ledger.Entry) (mac [16]byte) {
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "%s %d %d %d ", e.LogID, e.Batch, e.Events, e.ExpiresMonth)
	h.Write(e.Root[:])
	copy(mac[:], h.Sum(nil))
	return mac
}

// unsealed are the entries of batches that were stored but not sealed when an
// earlier run of this log ended. They come next, and nothing of them was
// acknowledged: sealing them is what that run would have done.
func (l *ownLog) unsealed(ctx context.Context, sealedAt int64, before []byte) ([]unsigned, error) {
	id := l.key.LogID()
	batches, err := l.store.Unsealed(ctx, id, l.tree.Size())
	if err != nil {
		return nil, err
	}
	var out []unsigned
	for i, number := range batches {
		if number != l.tree.Size()+uint64(i)+1 {
			return nil, fmt.Errorf("seal what was stored last: batch %d of log %q has no predecessor: somebody changed the store by hand; see what is wrong with 'mcpaudit verify'", number, id)
		}
		leaves, month, mac, err := l.store.Leaves(ctx, id, number)
		if err != nil {
			return nil, fmt.Errorf("seal what was stored last: %w; see what is wrong with 'mcpaudit verify'", err)
		}
		e := &ledger.Entry{Format: ledger.Format, Kind: ledger.KindRecovered, LogID: id, Batch: number, SealedAt: sealedAt,
			Schema: event.Schema, Events: uint32(len(leaves)), Root: ledger.Root(leaves), ExpiresMonth: month}
		want, earlier := l.mac(e), macWith(before, e)
		if !hmac.Equal(mac[:], want[:]) && (before == nil || !hmac.Equal(mac[:], earlier[:])) {
			return nil, fmt.Errorf("seal what was stored last: batch %d of log %q was not stored by this service: somebody inserted or changed its %d events while it was away. "+
				"They were acknowledged to nobody; look at them, then delete them by hand: ALTER TABLE events DELETE WHERE log_id = '%s' AND batch > %d", number, id, len(leaves), id, l.tree.Size())
		}
		out = append(out, unsigned{e, store.Tags(leaves)})
	}
	return out, nil
}

// rotations are the entries for statements of rotation that the log lacks.
func (l *ownLog) rotations(ctx context.Context, statements []string, next uint64, sealedAt int64) ([]unsigned, error) {
	have, err := l.store.Rotations(ctx, l.key.LogID())
	if err != nil {
		return nil, err
	}
	var out []unsigned
	for _, s := range statements {
		if !slices.Contains(have, s) {
			out = append(out, unsigned{&ledger.Entry{Format: ledger.Format, Kind: ledger.KindKey, LogID: l.key.LogID(), Batch: next, SealedAt: sealedAt, Root: ledger.EmptyRoot, Detail: s}, nil})
			next++
		}
	}
	return out, nil
}
