// Package scope cuts what is read of the store to what the call may see: the tenants
// for which its identity has the permission, and as much of a call's content as all of
// its grants show. Every service that reads for people does so through a [Reader], so
// no statement of theirs can forget it.
//
// A tenant's reader sees of others: nothing of their events, findings, steps of triage
// and suppressions, nor how many there are; an id of theirs is answered like one that
// never existed. What a proof can't do without is not a secret between tenants: which
// logs there are and how many entries they have, how many events the batch of one's own
// event has and its place among them, and the hashes of the others, which tell nothing
// of what they are of: an event has 74 random bits in its id. Every acknowledgement
// tells an emitter as much.
package scope

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// Store is what a Reader reads; *store.Store is it.
type Store interface {
	// Query runs one reading statement with bound parameters under limits.
	Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error)
}

// Reader is a store as the call sees it for which it is read. Its methods may be called
// by many goroutines. A call without an access is refused with INTERNAL: it came past
// the guard, and nobody knows what it may see.
type Reader struct {
	store Store
	log   *slog.Logger
}

// Of makes a store a Reader.
func Of(s Store, log *slog.Logger) *Reader { return &Reader{store: s, log: log} }

// Query is the store's, for the tenants of the call.
func (r *Reader) Query(ctx context.Context, l store.Limits, sql string, args ...any) (driver.Rows, error) {
	l, err := r.Limits(ctx, l)
	if err != nil {
		return nil, err
	}
	return r.store.Query(ctx, l, sql, args...)
}

// Limits are l for the tenants of the call: for a method of the store that is not
// [Reader.Query] and takes them. Tenants that l names already stay only as far as the
// call may see them. The error is a status.
func (r *Reader) Limits(ctx context.Context, l store.Limits) (store.Limits, error) {
	a, err := r.Access(ctx)
	if err != nil {
		return l, err
	}
	switch {
	case a.Scope.Every:
	case l.Tenants == nil:
		l.Tenants = Tenants(a)
	default:
		l.Tenants = slices.DeleteFunc(slices.Clone(l.Tenants), func(name string) bool { return !a.Scope.Has(name) })
	}
	return l, nil
}

// Access is the access of the call. The error is a status.
func (r *Reader) Access(ctx context.Context) (*auth.Access, error) { return Access(ctx, r.log) }

// Access is the access of a call. The error of a call without one is a status, and the
// log has it too: it is a mistake in the service.
func Access(ctx context.Context, log *slog.Logger) (*auth.Access, error) {
	a, ok := auth.From(ctx)
	if !ok || a == nil {
		log.Error("a call came past the guard, without an access; it is refused")
		return nil, status.Error(codes.Internal, "the service does not know what this call may see; its log has more")
	}
	return a, nil
}

// Whole is the access of a call that reads or changes what belongs to all tenants. One
// that is not for every tenant is refused; the guard has done so before. The error is
// a status.
func Whole(ctx context.Context, log *slog.Logger) (*auth.Access, error) {
	a, err := Access(ctx, log)
	if err != nil {
		return nil, err
	}
	if !a.Scope.Every {
		log.Error("a call for some tenants came past the guard to a method that is about all of them; it is refused", "identity", a.ID)
		return nil, status.Error(codes.PermissionDenied, "this is about every tenant; it wants a grant for every tenant")
	}
	return a, nil
}

// Tenants are those of an access as store.Limits has them: nil for every tenant, and
// not nil, though empty, for none.
func Tenants(a *auth.Access) []string {
	if a.Scope.Every {
		return nil
	}
	return append([]string{}, a.Scope.Names...)
}

// Mark is a text that tells what one access may see from what another may. It goes
// into what page tokens are checked by, so that a search goes on only for who began it
// or sees the same. It is empty for every tenant.
func Mark(a *auth.Access) string {
	if a.Scope.Every {
		return ""
	}
	return "\x00" + strings.Join(a.Scope.Names, "\x00") + "\x00"
}

// By is how an identity is noted where people read who did something: its id, which
// nobody chooses for himself, and beside it the name.
func By(a *auth.Access) string {
	if a.Name == "" || a.Name == a.ID {
		return a.ID
	}
	return a.ID + " (" + a.Name + ")"
}

// Leaves calls f with the leaf hashes of whole batches of a log, by batch and leaf:
// also those of other tenants' events, without which nobody can prove his own. The
// batches are to be such that the call has seen an event of each.
func (r *Reader) Leaves(ctx context.Context, l store.Limits, logID string, batches []uint64, f func(batch uint64, leaf uint32, hash ledger.Hash) error) error {
	if _, err := r.Access(ctx); err != nil {
		return err
	}
	rows, err := r.store.Query(ctx, l, "SELECT batch, leaf, "+store.LeafSQL+" FROM events WHERE log_id = {log:String} AND batch IN ({batches:Array(UInt64)}) ORDER BY batch, leaf",
		store.Named("log", logID), store.Named("batches", batches))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var batch uint64
		var leaf uint32
		var text string
		if err := rows.Scan(&batch, &leaf, &text); err != nil {
			return err
		}
		var hash ledger.Hash
		if copy(hash[:], text) != len(text) || len(text) != len(hash) {
			return status.Error(codes.Internal, "the engine's hash is none")
		}
		if err := f(batch, leaf, hash); err != nil {
			return err
		}
	}
	return rows.Err()
}
