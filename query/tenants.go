package query

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// tenants knows which tenants the store has events of.
//
// Events lie by tenant and then by time. A search that says its tenant reads the
// newest ones from the end; without, the engine has to look at all: 2 s or 40 ms
// for the newest of 100 million. Most stores have one tenant, so a search that says
// none is told which. That is exact: a tenant whose first event comes while the
// search runs is one that came after it.
type tenants struct {
	mu    sync.Mutex
	names map[string]bool
	seen  watcher // how far the logs were looked at
}

// only is the one tenant of which the call sees events; ok is false when there are
// several, or none. What is remembered is of calls that see every tenant, and for them
// alone: others neither add to it, as they see a part, nor learn of it.
func (s *Server) only(ctx context.Context) (tenant string, ok bool, err error) {
	a, err := s.store.Access(ctx)
	if err != nil {
		return "", false, err
	}
	if !a.Scope.Every {
		tenant, ok = a.Scope.Only()
		return tenant, ok, nil
	}
	t := &s.tenants
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.names) > 1 {
		return "", false, nil // it will not have fewer
	}
	if t.names == nil {
		t.names, t.seen = map[string]bool{}, watcher{s: s, seen: map[string]cursor{}}
	}
	ends, err := t.seen.ends(ctx)
	if err != nil {
		return "", false, err
	}
	if len(ends) > 0 {
		if err := s.newTenants(ctx, ends); err != nil {
			return "", false, err
		}
	}
	for name := range t.names {
		tenant = name
	}
	return tenant, len(t.names) == 1, nil
}

// newTenants takes the tenants of the batches up to ends that were not seen yet.
func (s *Server) newTenants(ctx context.Context, ends map[string]uint64) error {
	t := &s.tenants
	var logs []string
	var args []any
	for log, last := range ends {
		n := strconv.Itoa(len(logs))
		logs = append(logs, "log_id = {log"+n+":String} AND batch BETWEEN {from"+n+":UInt64} AND {last"+n+":UInt64}")
		args = append(args, store.Named("log"+n, log), store.Named("from"+n, t.seen.seen[log].batch), store.Named("last"+n, last))
	}
	rows, err := s.store.Query(ctx, s.cfg.Limits, "SELECT DISTINCT tenant FROM events WHERE "+strings.Join(logs, " OR "), args...)
	if err != nil {
		return s.status(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return s.status(ctx, err)
		}
		t.names[name] = true
	}
	if err := rows.Err(); err != nil {
		return s.status(ctx, err)
	}
	for log, last := range ends {
		t.seen.seen[log] = cursor{batch: last + 1}
	}
	return nil
}

// inOrder adds what lets the engine read events in the order of their time, when
// the filter leaves open how far to go. A search of a bounded time is quicker
// without.
func (s *Server) inOrder(ctx context.Context, cond condition, by order) (condition, error) {
	if cond.tenant || cond.since && by.descending || cond.until && !by.descending {
		return cond, nil
	}
	tenant, ok, err := s.only(ctx)
	if err != nil || !ok {
		return cond, err
	}
	return cond.and(condition{sql: "tenant = {only:String}", args: []any{store.Named("only", tenant)}}), nil
}
