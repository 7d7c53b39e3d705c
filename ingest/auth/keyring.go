package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// KeyStore keeps what is known of API keys; *store.Store is one.
type KeyStore interface {
	AppendKeys(ctx context.Context, changes ...store.KeyChange) error
	Keys(ctx context.Context, f func(store.KeyChange) error) error
	KeyRows(ctx context.Context) (uint64, error)
}

// Keyring has all API keys of the store in memory, some hundred bytes each, so that
// a call costs no statement, a flood of wrong keys costs the store nothing, and emitters
// are known while the store is away. Other instances' changes are seen within
// [KeyringAge].
type Keyring struct {
	store KeyStore
	now   func() time.Time
	log   *slog.Logger

	turn sync.Mutex // of whoever reads or changes the store's rows
	rows uint64     // that were read; belongs to the turn
	keys atomic.Pointer[map[string]*Key]
}

// KeyringAge is how long a key that was revoked at another instance may still be taken.
const KeyringAge = 2 * time.Second

// NewKeyring makes an empty keyring; Load fills it.
func NewKeyring(s KeyStore, now func() time.Time, log *slog.Logger) *Keyring {
	r := &Keyring{store: s, now: now, log: log}
	r.keys.Store(&map[string]*Key{})
	return r
}

// Load reads the store's keys, if there are new rows.
func (r *Keyring) Load(ctx context.Context) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	return r.load(ctx)
}

func (r *Keyring) load(ctx context.Context) error {
	n, err := r.store.KeyRows(ctx)
	if err != nil || n == r.rows {
		return err
	}
	keys, rows := map[string]*Key{}, uint64(0)
	err = r.store.Keys(ctx, func(c store.KeyChange) error {
		rows++
		k := keys[c.KeyID]
		if k == nil {
			k = &Key{ID: c.KeyID, ExpiresAt: c.ExpiresAt}
			keys[c.KeyID] = k
		}
		k.take(c)
		return nil
	})
	if err != nil {
		return err
	}
	for id, k := range keys {
		if k.MadeAt.IsZero() {
			r.log.Warn("the store has a change of an API key that was never made there; it is left out", "key", id)
			delete(keys, id)
		}
	}
	// Rows are only added, and only take away: where a replica lags behind what was seen
	// before, a key that was revoked does not come back.
	for id, old := range *r.keys.Load() {
		k := keys[id]
		if k == nil {
			keys[id] = old
			continue
		}
		k.Revoked = k.Revoked || old.Revoked
		if old.ExpiresAt.Before(k.ExpiresAt) {
			k.ExpiresAt = old.ExpiresAt
		}
	}
	r.rows = rows
	r.keys.Store(&keys)
	return nil
}

// take adds a row to what is known. The rows of a key may come in any order.
func (k *Key) take(c store.KeyChange) {
	if c.ExpiresAt.Before(k.ExpiresAt) {
		k.ExpiresAt = c.ExpiresAt
	}
	switch c.Change {
	case "made":
		k.Name, k.MadeAt, k.MadeBy, k.hash = c.Name, c.At, c.By, c.Hash
		for _, role := range c.Roles {
			g := Grant{Role: Role(role), Tenant: c.Tenant}
			switch g.Role {
			case Emitter:
				g.Servers, g.Emitters = c.Servers, c.Emitters
			default:
				g.Content = Content(c.Content)
			}
			if g.Validate() == nil { // of a newer version, or written by another hand
				k.Grants = append(k.Grants, g)
			}
		}
	case "revoked":
		k.Revoked = true
	case "rotated":
		k.Successor = c.Successor
	}
}

// Run looks for other instances' changes until ctx ends.
func (r *Keyring) Run(ctx context.Context) {
	tick := time.NewTicker(KeyringAge)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := r.Load(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			r.log.Warn("API keys can't be read anew; those that are known go on being taken, and one that is revoked elsewhere is not noticed", "error", err)
		}
		failing = err != nil
	}
}

// Empty says whether there is no key at all, good or not.
func (r *Keyring) Empty() bool { return len(*r.keys.Load()) == 0 }

// Identify is who holds a key.
func (r *Keyring) Identify(_ context.Context, text string) (*Identity, error) {
	id, hash, ok := splitKey(text)
	if !ok {
		return nil, &Refusal{Reason: Malformed, Text: "this is not a whole API key; it begins with " + KeyPrefix + fmt.Sprintf(" and has %d characters", keyLength)}
	}
	k := (*r.keys.Load())[id]
	if k == nil {
		return nil, unknownKey(id, hash)
	}
	if refused := k.check(hash, r.now()); refused != nil {
		return nil, refused
	}
	return k.identity(), nil
}

// ErrNoKey is the error of a key that does not exist, or of another tenant.
var ErrNoKey = errors.New("there is no such key; 'mcpaudit access list' names them")

// List are the keys of a scope, the newest first.
func (r *Keyring) List(s Scope) []Key {
	var out []Key
	for _, k := range *r.keys.Load() {
		if k.within(s) {
			out = append(out, *k)
		}
	}
	slices.SortFunc(out, func(a, b Key) int {
		if c := b.MadeAt.Compare(a.MadeAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

func (r *Keyring) find(id string, s Scope) (*Key, error) {
	k := (*r.keys.Load())[strings.TrimPrefix(id, "key:")]
	if k == nil || !k.within(s) {
		return nil, ErrNoKey
	}
	return k, nil
}

// within says whether who administers a scope administers the key.
func (k *Key) within(s Scope) bool {
	return s.Every || len(k.Grants) > 0 && !slices.ContainsFunc(k.Grants, func(g Grant) bool { return !s.Has(g.Tenant) })
}

// Make stores a new key. The secret is not kept anywhere: if the caller does not get
// it, the key is of no use to anybody and can be revoked.
func (r *Keyring) Make(ctx context.Context, name string, grants []Grant, by string, life time.Duration) (Key, secret, error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	now := r.now().UTC().Truncate(time.Microsecond)
	k, text, err := NewKey(name, grants, by, now, now.Add(life))
	if err != nil {
		return Key{}, "", err
	}
	if err := r.room(k.tenant(), now); err != nil {
		return Key{}, "", err
	}
	return k, text, r.append(ctx, k.made())
}

// room says whether there may be one key more. One tenant's keys take no room from
// another's, and their number is for nobody else.
func (r *Keyring) room(tenant string, now time.Time) error {
	own, all := 0, 0
	for _, k := range *r.keys.Load() {
		if now.Before(k.ExpiresAt) {
			all++
			if k.tenant() == tenant {
				own++
			}
		}
	}
	switch {
	case own >= MaxTenantKeys:
		return fmt.Errorf("the tenant has %d API keys already; revoke those that nobody needs, or use tokens or certificates, of which there is no limit", own)
	case all >= MaxKeys:
		return errors.New("the service has as many API keys as it can; ask whoever runs it, or use tokens or certificates, of which there is no limit")
	}
	return nil
}

// tenant is that of a key's grants, which all have one.
func (k *Key) tenant() string {
	if len(k.Grants) == 0 {
		return ""
	}
	return k.Grants[0].Tenant
}

// Rotate makes a key with the grants of another, which expires after the overlap, so that
// its holders can change over. Both are one insert: after a crash there is both or neither.
func (r *Keyring) Rotate(ctx context.Context, id string, s Scope, by string, life, overlap time.Duration) (Key, secret, error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	old, err := r.find(id, s)
	if err != nil {
		return Key{}, "", err
	}
	now := r.now().UTC().Truncate(time.Microsecond)
	switch {
	case overlap < 0 || overlap > MaxOverlap:
		return Key{}, "", fmt.Errorf("overlap: is %v, must lie between 0 and %v", overlap, MaxOverlap)
	case old.Revoked:
		return Key{}, "", errors.New("the key was revoked; make a new one with 'mcpaudit access create'")
	case old.Successor != "":
		return Key{}, "", fmt.Errorf("the key was rotated before; rotate its successor %s", old.Successor)
	}
	k, text, err := NewKey(old.Name, old.Grants, by, now, now.Add(life))
	if err != nil {
		return Key{}, "", err
	}
	if err := r.room(k.tenant(), now); err != nil {
		return Key{}, "", err
	}
	ends := old.ExpiresAt
	if now.Add(overlap).Before(ends) {
		ends = now.Add(overlap)
	}
	change := store.KeyChange{KeyID: old.ID, Change: "rotated", At: now, By: by, ExpiresAt: ends, Successor: k.ID}
	return k, text, r.append(ctx, k.made(), change)
}

// Revoke ends a key now. Revoking it again changes nothing.
func (r *Keyring) Revoke(ctx context.Context, id string, s Scope, by, why string) (Key, error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	k, err := r.find(id, s)
	if err != nil {
		return Key{}, err
	}
	if !k.Revoked {
		now := r.now().UTC().Truncate(time.Microsecond)
		if err := r.append(ctx, store.KeyChange{KeyID: k.ID, Change: "revoked", At: now, By: by, ExpiresAt: now, Note: why}); err != nil {
			return Key{}, err
		}
	}
	return *(*r.keys.Load())[k.ID], nil
}

// append stores changes and takes them over. The turn is held. After an error they
// may count all the same: then the next Load finds them.
func (r *Keyring) append(ctx context.Context, changes ...store.KeyChange) error {
	if err := r.store.AppendKeys(ctx, changes...); err != nil {
		return &StoreError{err}
	}
	keys := maps.Clone(*r.keys.Load()) // readers have the old one
	for _, c := range changes {
		k := &Key{ID: c.KeyID, ExpiresAt: c.ExpiresAt}
		if old := keys[c.KeyID]; old != nil {
			copied := *old
			k = &copied
		}
		k.take(c)
		keys[c.KeyID] = k
	}
	r.rows += uint64(len(changes))
	r.keys.Store(&keys)
	return nil
}

// made is the row of a new key.
func (k *Key) made() store.KeyChange {
	c := store.KeyChange{KeyID: k.ID, Change: "made", At: k.MadeAt, By: k.MadeBy, ExpiresAt: k.ExpiresAt, Hash: k.hash, Name: k.Name}
	for _, g := range k.Grants {
		c.Roles, c.Tenant = append(c.Roles, string(g.Role)), g.Tenant
		if g.Role == Emitter {
			c.Servers, c.Emitters = g.Servers, g.Emitters
		} else if g.Content != "" {
			c.Content = string(g.Content)
		}
	}
	return c
}

// StoreError is the error of a change of keys that the store did not confirm: it may
// count all the same. 'mcpaudit access list' tells.
type StoreError struct{ err error }

func (e *StoreError) Error() string { return "the store did not confirm the change: " + e.err.Error() }
func (e *StoreError) Unwrap() error { return e.err }

// First makes a key that is shown before it is stored: a crash between the two leaves
// no key that nobody knows.
func (r *Keyring) First(ctx context.Context, name string, grants []Grant, by string, life time.Duration, show func(text string, k Key) error) error {
	r.turn.Lock()
	defer r.turn.Unlock()
	now := r.now().UTC().Truncate(time.Microsecond)
	k, text, err := NewKey(name, grants, by, now, now.Add(life))
	if err != nil {
		return err
	}
	if err := show(text.Reveal(), k); err != nil {
		return fmt.Errorf("show the first API key: %w", err)
	}
	if err := r.store.AppendKeys(ctx, k.made()); err != nil {
		return fmt.Errorf("store the first API key, so that the one that was shown is of no use: %w", err)
	}
	return r.load(ctx)
}
