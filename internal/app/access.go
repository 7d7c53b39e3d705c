package app

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/client"
	"github.com/mcpaudit/mcpaudit/ingest/diary"
	"github.com/mcpaudit/mcpaudit/ingest/redact"
	"github.com/mcpaudit/mcpaudit/ingest/rpc"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/internal/transport"
)

// Who made a key that nobody with a key has made.
const (
	bootstrapLocal = "bootstrap:first start"
	bootstrapHand  = "bootstrap:command"
)

// localKeyLife is that of the key of a first start on a laptop.
const localKeyLife = 366 * 24 * time.Hour

// localGrants are all rights: on a laptop emitter, analyst and administrator are one
// person.
func localGrants() (out []auth.Grant) {
	for _, r := range auth.Roles {
		g := auth.Grant{Role: r, Tenant: auth.EveryTenant}
		switch {
		case r == auth.Emitter: // and what 'verify --watch' reports
			g.Emitters = []string{"*", "mcpaudit-verify-*"}
		case r.Allows(auth.Read):
			g.Content = auth.ContentLookup
		}
		out = append(out, g)
	}
	return out
}

// firstKey makes the first key of a store on a laptop, and says what is to be done
// elsewhere. It is shown before it is stored: after a crash between the two the next
// start shows another one, and nobody is locked out.
func firstKey(ctx context.Context, cfg *Config, keys *auth.Keyring, d Deps) error {
	if !keys.Empty() {
		return nil
	}
	if d.FirstKey == nil || cfg.Store.DSN != "" || !slices.Contains(cfg.Roles, "ingest") || !onLoopback(cfg.Listen.GRPC) || !onLoopback(cfg.Listen.HTTP) {
		d.Log.Warn("there is no API key yet: nobody gets in but with a token or certificate of access.file; 'mcpaudit access bootstrap' makes the first one")
		return nil
	}
	return keys.First(ctx, "local", localGrants(), bootstrapLocal, localKeyLife, d.FirstKey)
}

func onLoopback(address string) bool {
	local, err := client.Loopback(address)
	return err == nil && local
}

// keyWatch notes keys that the log does not know: made beside the service, which is
// how the first one is made, or written into the store by somebody else.
type keyWatch struct {
	keys  *auth.Keyring
	store *store.Store
	notes auth.Notes
	now   func() time.Time
	log   *slog.Logger
	known map[string]bool
}

// keyPatience is how long a new key's own event may take.
const keyPatience = time.Minute

// Run looks at new keys until ctx ends.
func (w *keyWatch) Run(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("look for the events of API keys; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *keyWatch) look(ctx context.Context) error {
	var fresh []auth.Key
	now := w.now()
	for _, k := range w.keys.List(auth.Scope{Every: true}) {
		beside := strings.HasPrefix(k.MadeBy, "bootstrap:")
		if !w.known[k.ID] && (beside || now.Sub(k.MadeAt).Abs() > keyPatience) {
			fresh = append(fresh, k)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	noted, err := w.noted(ctx)
	if err != nil {
		return err
	}
	for _, k := range fresh {
		if !noted[k.IdentityOf()] {
			err := w.notes.Note(ctx, diary.Entry{Method: methodKeyFound, Target: k.IdentityOf(), Labels: map[string]string{
				"name": k.Name, "made_by": k.MadeBy, "made_at": k.MadeAt.UTC().Format(time.RFC3339), "roles": roles(k.Grants)}})
			if err != nil {
				return fmt.Errorf("note key %s: %w", k.ID, err)
			}
		}
		w.known[k.ID] = true
	}
	return nil
}

const methodKeyFound = "mcpaudit/key_found"

// noted are the keys that the log has an event of.
func (w *keyWatch) noted(ctx context.Context) (map[string]bool, error) {
	rows, err := w.store.Query(ctx, store.Limits{Time: 5 * time.Minute}, `SELECT DISTINCT target FROM events
		WHERE kind = 'admin' AND server = 'mcpaudit' AND method IN ('mcpaudit/create_key', 'mcpaudit/rotate_key', 'mcpaudit/key_found') AND startsWith(target, 'key:')`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		found[id] = true
	}
	return found, rows.Err()
}

func roles(grants []auth.Grant) string {
	var names []string
	for _, g := range grants {
		names = append(names, string(g.Role)+"@"+g.Tenant)
	}
	return strings.Join(names, ",")
}

// noLog is the notes of an instance that has no log to write: it refuses, and with it
// everything that would have to be noted.
type noLog struct{}

func (noLog) Note(context.Context, diary.Entry) error {
	return fmt.Errorf("this instance has no role ingest, and no access.notes_to that says who writes its events")
}

// access is what stands in front of the service.
type access struct {
	guard   *auth.Guard
	notes   auth.Notes // where the guard writes what is asked
	service *auth.Server
	keys    *auth.Keyring
	watch   *keyWatch
	quota   *auth.Quota

	introductions *introductions // of emitters

	certificates *transport.Certificates // nil without TLS
	close        func()
}

// newAccess reads who may come in. On a laptop it makes the first key.
func newAccess(ctx context.Context, cfg *Config, s *store.Store, record diary.Recorder, redactor *redact.Redactor, d Deps, m *metrics) (*access, error) {
	a := &access{keys: auth.NewKeyring(s, d.Now, d.Log), close: func() {}}
	if err := a.keys.Load(ctx); err != nil {
		return nil, err
	}
	if err := firstKey(ctx, cfg, a.keys, d); err != nil {
		return nil, err
	}
	q := cfg.Quota
	a.quota = auth.NewQuota(auth.PublishLimits{EmitterEvents: float64(q.EmitterEvents), EmitterBytes: float64(q.EmitterBytes),
		TenantEvents: float64(q.TenantEvents), TenantBytes: float64(q.TenantBytes)}, d.Now)
	witnesses := auth.NewQueryQuota(auth.QueryLimits{Seconds: float64(q.QuerySeconds), AtOnce: 2}, d.Now)
	queries := auth.NewQueryQuota(auth.QueryLimits{Seconds: float64(q.QuerySeconds), Lasting: lasting}, d.Now)
	deps := auth.Deps{Keys: a.keys, Queries: queries, Witnesses: witnesses, Caller: a.calling, Notes: noLog{}, Now: d.Now, Log: d.Log, Refused: m.refused}
	if record == nil && cfg.Access.NotesTo != "" {
		remote, err := newElsewhere(cfg.Access.notes())
		if err != nil {
			return nil, err
		}
		a.close, record = func() { remote.conn.Close() }, remote
	}
	if record != nil {
		deps.Notes = diary.New("access", record, d.Now)
		a.watch = &keyWatch{keys: a.keys, store: s, notes: deps.Notes, now: d.Now, log: d.Log, known: map[string]bool{}}
	}
	if cfg.Access.File != "" {
		file, err := auth.ReadAccessFile(cfg.Access.File)
		if err != nil {
			return nil, fmt.Errorf("access.file: %w", err)
		}
		if len(file.Issuers) > 0 {
			deps.Tokens = auth.NewTokens(file.Issuers, file.Tokens, auth.TokenDeps{Now: d.Now, Log: d.Log})
		}
		if len(file.Certificates) > 0 {
			deps.Certificates = auth.NewCertificates(file.Certificates, d.Now)
		}
	}
	var p auth.Pseudonyms
	if cfg.Redact.KeyFile != "" {
		p = redactor
	}
	a.notes, a.introductions = deps.Notes, newIntroductions(deps.Notes, d.Log)
	a.guard, a.service = auth.NewGuard(rights, deps), auth.NewServer(a.keys, p, d.Now, d.Log)
	return a, nil
}

// run keeps it in step with the store until ctx ends.
func (a *access) run(ctx context.Context, p *ingest.Pipeline) {
	var all sync.WaitGroup
	all.Go(func() { a.keys.Run(ctx) })
	all.Go(func() { a.guard.Run(ctx) })
	all.Go(func() { a.introductions.Run(ctx) })
	if a.watch != nil && p != nil {
		all.Go(func() {
			awaitReady(ctx, p)
			a.watch.Run(ctx)
		})
	}
	all.Wait()
}

// lasting says whether a call stays open and mostly waits.
func lasting(ctx context.Context) bool {
	a, ok := auth.From(ctx)
	return ok && a.Lasting
}

// writer is who publishes events in a call.
func (a *access) writer(ctx context.Context) (rpc.Admission, error) {
	w, err := a.quota.Writer(ctx)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	who, _ := auth.From(ctx) // there is one: Writer asks for it
	return &introduced{Admission: w, to: a.introductions, who: who}, nil
}

// calling is who calls a method. A certificate whose authority was taken away while its
// connection lasted counts no more.
func (a *access) calling(ctx context.Context) auth.Caller {
	address, agent, state, inner := transport.Caller(ctx)
	if state != nil && (a.certificates == nil || !a.certificates.Trusts(state)) {
		state = nil
	}
	return auth.Caller{Address: address, UserAgent: agent, TLS: state, HTTP: inner}
}

// Bootstrap makes a key in the store, beside the service.
func Bootstrap(ctx context.Context, cfg Config, engineDirs []string, g auth.Grant, life time.Duration, now func() time.Time, log *slog.Logger) (auth.Key, string, error) {
	s, err := OpenStore(ctx, cfg, engineDirs)
	if err != nil {
		return auth.Key{}, "", err
	}
	defer s.Close()
	if _, err := s.Migrate(ctx, now()); err != nil {
		return auth.Key{}, "", err
	}
	keys := auth.NewKeyring(s, now, log)
	if err := keys.Load(ctx); err != nil {
		return auth.Key{}, "", err
	}
	k, text, err := keys.Make(ctx, "bootstrap", []auth.Grant{g}, bootstrapHand, life)
	return k, text.Reveal(), err
}
