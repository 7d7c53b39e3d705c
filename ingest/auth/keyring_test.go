package auth

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// rowsOfKeys is a store's table of keys in memory, which can be away. The table itself
// is tested with the store.
type rowsOfKeys struct {
	mu   sync.Mutex
	rows []store.KeyChange
	away error
	read int
}

func (r *rowsOfKeys) AppendKeys(_ context.Context, changes ...store.KeyChange) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away != nil {
		return r.away
	}
	r.rows = append(r.rows, changes...)
	return nil
}

func (r *rowsOfKeys) KeyRows(context.Context) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(len(r.rows)), r.away
}

func (r *rowsOfKeys) Keys(_ context.Context, f func(store.KeyChange) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read++
	for i := range r.rows { // the newest first: the order must not matter
		if err := f(r.rows[len(r.rows)-1-i]); err != nil {
			return err
		}
	}
	return r.away
}

// clock is a test's time.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newTestKeyring(t *testing.T) (*Keyring, *clock) {
	t.Helper()
	c := &clock{now: noon}
	return NewKeyring(&rowsOfKeys{}, c.Now, slog.New(slog.DiscardHandler)), c
}

func TestAKeyIsTakenUntilItExpires(t *testing.T) {
	r, c := newTestKeyring(t)
	k, text, err := r.Make(t.Context(), "Ada", analystOf("acme"), "key:boss", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	who, err := r.Identify(t.Context(), text.Reveal())
	if err != nil || who.ID != "key:"+k.ID || who.Name != "Ada" || who.Method != "api_key" || len(who.Grants) != 1 || who.Grants[0].Tenant != "acme" {
		t.Fatalf("%+v, %v", who, err)
	}
	c.add(time.Hour - time.Nanosecond)
	if _, err := r.Identify(t.Context(), text.Reveal()); err != nil {
		t.Error(err)
	}
	c.add(time.Nanosecond)
	if _, err := r.Identify(t.Context(), text.Reveal()); refusedFor(t, err) != Expired {
		t.Error(err)
	}
}

// Who has a key's public id learns nothing by trying: the answer is that for a key that
// never was.
func TestAnotherSecretIsLikeAKeyThatNeverWas(t *testing.T) {
	r, c := newTestKeyring(t)
	_, text, err := r.Make(t.Context(), "x", analystOf("acme"), "me", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := NewKey("x", analystOf("acme"), "me", noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	mixed := text.Reveal()[:22] + other.Reveal()[22:]
	_, wrong := r.Identify(t.Context(), mixed)
	_, never := r.Identify(t.Context(), other.Reveal())
	c.add(2 * time.Hour)
	_, late := r.Identify(t.Context(), mixed)
	if refusedFor(t, wrong) != Unknown || wrong.Error() != never.Error() || late.Error() != never.Error() {
		t.Errorf("%v; %v; %v", wrong, never, late)
	}
}

func TestARevokedKeyIsRefusedAtOnceAndByOtherInstancesWhenTheyLook(t *testing.T) {
	rows, c := &rowsOfKeys{}, &clock{now: noon}
	here, there := NewKeyring(rows, c.Now, slog.New(slog.DiscardHandler)), NewKeyring(rows, c.Now, slog.New(slog.DiscardHandler))
	k, text, err := here.Make(t.Context(), "x", analystOf("acme"), "me", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := there.Identify(t.Context(), text.Reveal()); refusedFor(t, err) != Unknown {
		t.Error(err)
	}
	load := func() {
		t.Helper()
		if err := there.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	load()
	if _, err := there.Identify(t.Context(), text.Reveal()); err != nil {
		t.Error(err)
	}
	for range 2 { // the second time changes nothing
		if _, err := here.Revoke(t.Context(), k.ID, Scope{Every: true}, "key:boss", "lost"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := here.Identify(t.Context(), text.Reveal()); refusedFor(t, err) != Revoked {
		t.Error(err)
	}
	load()
	if _, err := there.Identify(t.Context(), text.Reveal()); refusedFor(t, err) != Revoked {
		t.Error(err)
	}
	before := rows.read
	load()
	if rows.read != before {
		t.Error("keys are read again though nothing has changed")
	}
}

func TestRotatingLetsTheOldKeyLiveForTheOverlapAndNeverLonger(t *testing.T) {
	r, c := newTestKeyring(t)
	grants := []Grant{{Role: Emitter, Tenant: "acme", Servers: []string{"crm*"}, Emitters: []string{"e-*"}}}
	old, oldText, err := r.Make(t.Context(), "crm", grants, "me", 10*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	fresh, text, err := r.Rotate(t.Context(), old.ID, Scope{Names: []string{"acme"}}, "key:boss", 24*time.Hour, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c.add(time.Hour - time.Second)
	for _, shown := range []string{oldText.Reveal(), text.Reveal()} {
		who, err := r.Identify(t.Context(), shown)
		if err != nil || len(who.Grants) != 1 || who.Grants[0].Servers[0] != "crm*" || who.Grants[0].Emitters[0] != "e-*" {
			t.Errorf("%+v, %v", who, err)
		}
	}
	c.add(time.Second)
	if _, err := r.Identify(t.Context(), oldText.Reveal()); refusedFor(t, err) != Expired {
		t.Error(err)
	}
	if _, _, err := r.Rotate(t.Context(), old.ID, Scope{Every: true}, "me", time.Hour, 0); err == nil || !strings.Contains(err.Error(), fresh.ID) {
		t.Errorf("rotated twice: %v", err)
	}
	// The overlap does not lengthen a life.
	last, _, err := r.Rotate(t.Context(), fresh.ID, Scope{Every: true}, "me", time.Hour, MaxOverlap)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range r.List(Scope{Every: true}) {
		if k.ID == fresh.ID && !k.ExpiresAt.Equal(fresh.ExpiresAt) || k.ID == fresh.ID && k.Successor != last.ID {
			t.Errorf("%+v", k)
		}
	}
}

func TestOneTenantsAdministratorDoesNotSeeOrChangeAnothersKeys(t *testing.T) {
	r, _ := newTestKeyring(t)
	k, _, err := r.Make(t.Context(), "x", analystOf("acme"), "me", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	every, _, err := r.Make(t.Context(), "y", analystOf(EveryTenant), "me", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other := Scope{Names: []string{"other"}}
	if list := r.List(other); len(list) != 0 {
		t.Errorf("lists %+v", list)
	}
	if list := r.List(Scope{Names: []string{"acme"}}); len(list) != 1 || list[0].ID != k.ID {
		t.Errorf("lists %+v", list)
	}
	for _, id := range []string{k.ID, every.ID, "never"} {
		_, err := r.Revoke(t.Context(), id, other, "me", "")
		_, _, rotated := r.Rotate(t.Context(), id, other, "me", time.Hour, 0)
		if !errors.Is(err, ErrNoKey) || !errors.Is(rotated, ErrNoKey) {
			t.Errorf("%s: %v, %v", id, err, rotated)
		}
	}
}

func TestKeysThatMakeNoSenseAreNotMade(t *testing.T) {
	r, _ := newTestKeyring(t)
	for name, c := range map[string]struct {
		name   string
		grants []Grant
		life   time.Duration
		want   string
	}{
		"no name":        {" ", analystOf("a"), time.Hour, "name: is empty; say whose key it is or what it is for"},
		"control":        {"a\x1b[31m", analystOf("a"), time.Hour, "name: use at most 100 bytes, without control characters"},
		"no role":        {"x", nil, time.Hour, "roles: is empty; use emitter, analyst, auditor, exporter, admin, monitor"},
		"other role":     {"x", []Grant{{Role: "root", Tenant: "a"}}, time.Hour, `there is no role "root"; use emitter, analyst, auditor, exporter, admin, monitor`},
		"twice":          {"x", append(analystOf("a"), analystOf("a")...), time.Hour, "roles: analyst is there twice"},
		"no tenant":      {"x", analystOf(""), time.Hour, `tenant "": use 1 to 64 letters, digits, dashes, underscores and dots, the first no dot, or * for every tenant`},
		"path":           {"x", analystOf("../b"), time.Hour, `tenant "../b": use 1 to 64 letters, digits, dashes, underscores and dots, the first no dot, or * for every tenant`},
		"SQL":            {"x", analystOf("a' OR '1"), time.Hour, `tenant "a' OR '1": use 1 to 64 letters, digits, dashes, underscores and dots, the first no dot, or * for every tenant`},
		"past":           {"x", analystOf("a"), -time.Hour, "lifetime: the key would have expired already"},
		"for ever":       {"x", analystOf("a"), 20000 * time.Hour, "lifetime: a key lives for at most 732 days; rotate it before it ends"},
		"content":        {"x", []Grant{{Role: Analyst, Tenant: "a", Content: "all"}}, time.Hour, `there is no content level "all"; use none, redacted, lookup`},
		"bound analyst":  {"x", []Grant{{Role: Analyst, Tenant: "a", Servers: []string{"s"}}}, time.Hour, "servers and emitters bind the role emitter alone, not analyst"},
		"star inside":    {"x", []Grant{{Role: Emitter, Tenant: "a", Servers: []string{"a*b"}}}, time.Hour, `"a*b" is not a name of at most 200 characters, or the beginning of names with a * behind it`},
		"nothing at all": {"x", []Grant{{Role: Emitter, Tenant: "a", Emitters: []string{""}}}, time.Hour, `"" is not a name of at most 200 characters, or the beginning of names with a * behind it`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := r.Make(t.Context(), c.name, c.grants, "me", c.life); err == nil || err.Error() != c.want {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
	if !r.Empty() {
		t.Error("a key was made")
	}
}

// While the store is away, those who are known go on being known.
func TestKeysAreTakenWhileTheStoreIsAway(t *testing.T) {
	rows, c := &rowsOfKeys{}, &clock{now: noon}
	r := NewKeyring(rows, c.Now, slog.New(slog.DiscardHandler))
	_, text, err := r.Make(t.Context(), "x", analystOf("acme"), "me", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	rows.away = errors.New("connection refused")
	if err := r.Load(t.Context()); err == nil {
		t.Error("loaded")
	}
	if _, err := r.Identify(t.Context(), text.Reveal()); err != nil {
		t.Error(err)
	}
	var stored *StoreError
	if _, _, err := r.Make(t.Context(), "y", analystOf("acme"), "me", time.Hour); !errors.As(err, &stored) {
		t.Error(err)
	}
}

// The first key is shown before it is stored: whoever was shown one that was not stored
// is shown another at the next start.
func TestTheFirstKeyIsShownBeforeItIsStored(t *testing.T) {
	rows, c := &rowsOfKeys{away: errors.New("full disk")}, &clock{now: noon}
	r := NewKeyring(rows, c.Now, slog.New(slog.DiscardHandler))
	shown := ""
	show := func(text string, _ Key) error { shown = text; return nil }
	if err := r.First(t.Context(), "local", analystOf(EveryTenant), "bootstrap:test", time.Hour, show); err == nil || shown == "" || !r.Empty() {
		t.Errorf("%v, %q", err, shown)
	}
	rows.away = nil
	before := shown
	if err := r.First(t.Context(), "local", analystOf(EveryTenant), "bootstrap:test", time.Hour, show); err != nil || shown == before {
		t.Fatal(err)
	}
	if _, err := r.Identify(t.Context(), shown); err != nil {
		t.Error(err)
	}
}

// A row that another hand wrote gives no right that can't be had.
func TestRowsOfAnotherHandGiveNoStrangeRights(t *testing.T) {
	rows, c := &rowsOfKeys{}, &clock{now: noon}
	rows.rows = []store.KeyChange{
		{KeyID: "a", Change: "made", At: noon, ExpiresAt: noon.Add(time.Hour), Name: "x", Roles: []string{"root", "analyst", "admin"}, Tenant: "a') OR 1"},
		{KeyID: "b", Change: "revoked", At: noon, ExpiresAt: noon},
	}
	r := NewKeyring(rows, c.Now, slog.New(slog.DiscardHandler))
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys := r.List(Scope{Every: true})
	if len(keys) != 1 || keys[0].ID != "a" || len(keys[0].Grants) != 0 {
		t.Errorf("%+v", keys)
	}
}
