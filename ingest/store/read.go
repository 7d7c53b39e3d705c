package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

func named(name string, value any) driver.NamedValue {
	return driver.NamedValue{Name: name, Value: value}
}

// Named binds a value to {name:Type} in a statement's text.
func Named(name string, value any) any { return clickhouse.Named(name, value) }

// ScanEvent reads one row whose columns are EventColumns.
func ScanEvent(rows driver.Rows) (*event.Event, error) {
	e := &event.Event{}
	var (
		id                          uuid.UUID
		occurred, received, expires time.Time
		definition, arguments       string
		result, shape               string
		argHash, resHash            []uint64
		argClass, resClass          []string
		resNear                     []bool
		removedPath, removedClass   []string
		labels                      orderedLabels
	)
	err := rows.Scan(&id, &e.Schema, &e.EmitterID, &e.EmitterSeq, &occurred, &received, &e.Duration,
		&e.Tenant, &e.Principal, &e.PrincipalName, &e.PrincipalKind, &e.OnBehalfOf, &e.AgentID, &e.AgentName, &e.Model,
		&e.ClientName, &e.ClientVersion, &e.AuthMethod, &e.CredentialID,
		&e.Server, &e.ServerVersion, &e.ServerInstance, &e.Environment, &e.Transport, &e.ProtocolVersion, &e.ClientIP, &e.UserAgent,
		&e.Kind, &e.Method, &e.Target, &definition, &e.Hints.ReadOnly, &e.Hints.Destructive, &e.Hints.Idempotent, &e.Hints.OpenWorld,
		&e.RequestID, &e.SessionID, &e.ConversationID, &e.TaskID, &e.TraceID, &e.SpanID, &e.ParentSpanID, &e.Attempt,
		&e.Decision, &e.DecisionReason, &e.PolicyID, &e.PolicyVersion, &e.ScopesRequired, &e.ScopesGranted,
		&e.Outcome, &e.ErrorCode, &e.ErrorMessage, &e.HTTPStatus, &e.RequestBytes, &e.ResponseBytes,
		&e.Arguments, &e.Truncated, &e.OriginalBytes, &arguments, &result, &shape, &e.Signals,
		&argHash, &argClass, &resHash, &resClass, &resNear,
		&e.RedactionProfile, &e.RedactionProfileVersion, &e.RedactionError, &removedPath, &removedClass, &e.RemovedCount,
		&e.LogID, &e.Batch, &e.Leaf, &expires, &labels)
	if err != nil {
		return nil, fmt.Errorf("read event: %w", err)
	}
	e.EventID = event.ID(id)
	e.OccurredAt, e.ReceivedAt = occurred.UnixMicro(), received.UnixMicro()
	e.ExpiresMonth = uint16(expires.Unix() / 86400)
	copy(e.DefinitionDigest[:], definition)
	copy(e.ArgumentsDigest[:], arguments)
	copy(e.ResultDigest[:], result)
	copy(e.ArgumentsShape[:], shape)
	e.OnBehalfOf, e.ScopesRequired = nilIfEmpty(e.OnBehalfOf), nilIfEmpty(e.ScopesRequired)
	e.ScopesGranted, e.Signals = nilIfEmpty(e.ScopesGranted), nilIfEmpty(e.Signals)
	if len(argHash) != len(argClass) || len(resHash) != len(resClass) || len(resHash) != len(resNear) || len(removedPath) != len(removedClass) {
		return nil, errors.New("read event: nested columns differ in length; the store was changed by hand")
	}
	for i := range argHash {
		e.ArgumentMarks = append(e.ArgumentMarks, event.Mark{Hash: argHash[i], Class: argClass[i]})
	}
	for i := range resHash {
		e.ResultMarks = append(e.ResultMarks, event.Mark{Hash: resHash[i], Class: resClass[i], NearInstruction: resNear[i]})
	}
	for i := range removedPath {
		e.Removed = append(e.Removed, event.Removal{Path: removedPath[i], Class: removedClass[i]})
	}
	e.Labels = labels.labels
	return e, nil
}

// nilIfEmpty makes an event that was stored compare equal to one that was not.
func nilIfEmpty(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return s
}

// Rival looks for another instance that writes to the store. It returns the log
// that was written beside this instance: its own, when that has a batch after
// last, or another one with events received after since; "" when there is none. A
// zero since asks for the own log alone, which is cheap; other logs are looked for
// in all events, and not in a folder, which belongs to one process anyhow.
func (s *Store) Rival(ctx context.Context, log string, last uint64, since time.Time) (string, error) {
	var batches uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM events WHERE log_id = {id:String} AND batch > {last:UInt64}", named("id", log), named("last", last)).Scan(&batches); err != nil {
		return "", fmt.Errorf("look for other writers of log %q: %w", log, err)
	}
	if batches > 0 {
		return log, nil
	}
	if since.IsZero() || s.engine != nil {
		return "", nil
	}
	var other string
	if err := s.conn.QueryRow(ctx, "SELECT max(log_id) FROM events WHERE log_id != {id:String} AND received_at > fromUnixTimestamp64Micro({since:Int64}, 'UTC')",
		named("id", log), named("since", since.UnixMicro())).Scan(&other); err != nil {
		return "", fmt.Errorf("look for other writers of the store: %w", err)
	}
	return other, nil
}

// Parts counts the parts in which the events lie. Many small ones mean that
// inserts come faster than merges.
func (s *Store) Parts(ctx context.Context) (uint64, error) {
	var n uint64
	// Of the shard that has most: an insert may go there.
	if err := s.conn.QueryRow(ctx, "SELECT max(n) FROM (SELECT count() AS n FROM "+s.layout.parts()+" WHERE active AND database = currentDatabase() AND table = {table:String} GROUP BY hostName())",
		named("table", s.layout.local("events"))).Scan(&n); err != nil {
		return 0, fmt.Errorf("count parts: %w", err)
	}
	return n, nil
}

// ColumnSize is what one column of the events takes on disk.
type ColumnSize struct {
	Name  string
	Bytes uint64
}

// Sizes says what the events take on disk, in all and by column, largest first.
func (s *Store) Sizes(ctx context.Context) (total uint64, columns []ColumnSize, err error) {
	err = s.conn.QueryRow(ctx, "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase() AND table = 'events'").Scan(&total)
	if err != nil {
		return 0, nil, fmt.Errorf("measure events: %w", err)
	}
	rows, err := s.conn.Query(ctx, `
		SELECT column, sum(column_data_compressed_bytes) AS bytes FROM system.parts_columns
		WHERE active AND database = currentDatabase() AND table = 'events' GROUP BY column ORDER BY bytes DESC`)
	if err != nil {
		return 0, nil, fmt.Errorf("measure columns: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var c ColumnSize
		if err := rows.Scan(&c.Name, &c.Bytes); err != nil {
			return 0, nil, fmt.Errorf("measure columns: %w", err)
		}
		columns = append(columns, c)
	}
	return total, columns, rows.Err()
}

// Merge merges all parts now. It is for measuring: the engine merges by itself.
func (s *Store) Merge(ctx context.Context) error {
	if err := s.define(ctx, "OPTIMIZE TABLE events FINAL"); err != nil {
		return fmt.Errorf("merge parts: %w", err)
	}
	return nil
}

// BatchID names a batch.
type BatchID struct {
	LogID string
	Batch uint64
}

// UnsealedOfOthers are the batches of logs other than own that are stored and that no
// entry of the ledger seals: each was stored a moment ago, or its instance ended before
// it came to that. Lost logs are left out.
func (s *Store) UnsealedOfOthers(ctx context.Context, own string, lost []string) ([]BatchID, error) {
	if err := s.settle(ctx, "logs", "ledger", "events"); err != nil {
		return nil, err
	}
	logs, err := s.Logs(ctx)
	if err != nil {
		return nil, err
	}
	var out []BatchID
	for _, l := range logs {
		if l.ID == own || slices.Contains(lost, l.ID) {
			continue
		}
		var last uint64
		if err := s.conn.QueryRow(ctx, "SELECT max(batch) FROM ledger WHERE log_id = {id:String}", named("id", l.ID)).Scan(&last); err != nil {
			return nil, fmt.Errorf("look for the last entry of log %q: %w", l.ID, err)
		}
		batches, err := s.Unsealed(ctx, l.ID, last)
		if err != nil {
			return nil, err
		}
		for _, b := range batches {
			out = append(out, BatchID{l.ID, b})
		}
	}
	return out, nil
}
