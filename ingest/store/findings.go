package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Finding is one version of a finding as it was told: a row of the table findings.
// What its fields mean is in detect.Finding. Times are µs since 1970.
type Finding struct {
	Teller  string // who told it; empty for one that tells all there is
	Seq     uint64 // of what the teller told, from 1, without holes
	ToldAt  int64
	ID      string // a UUID
	Version uint32
	Worse   bool

	Rule, Detector, Severity   string
	Score                      float64
	Reason, Observed, Expected string
	Workings                   []Working

	Tenant, Principal, AgentID, SessionID, TraceID, Server, Target, EmitterID string

	StartedAt, LastSeenAt int64
	EndedAt               int64 // 0 while it is open
	OpenedAt              int64
	Events                uint64
	EventIDs              []event.ID
	State                 string
	// History is set for what was found in events that were stored before there was a
	// runner: nobody is told of it.
	History bool
}

// Working is one step of the arithmetic behind a finding.
type Working struct{ Name, Value string }

// FindingColumns are the columns that [ScanFinding] reads, in its order.
const FindingColumns = "teller, seq, told_at, finding_id, version, worse, rule, detector, severity, score, reason, observed, expected, " +
	"`workings.name`, `workings.value`, tenant, principal, agent_id, session_id, trace_id, server, target, emitter_id, " +
	"started_at, last_seen_at, ended_at, opened_at, events, event_ids, state, history"

// MaxFindings is how many rows one AppendFindings takes.
const MaxFindings = 10_000

// ErrToldTwice means that two services tell the same findings in one store.
var ErrToldTwice = errors.New("another service tells findings in this store")

// AppendFindings stores what one teller told, all of it or nothing, durably and once;
// at most MaxFindings rows. After an error, append the same rows again. The error is
// ErrToldTwice when the store has other rows of the same teller and seq; these are
// stored then, too.
func (s *Store) AppendFindings(ctx context.Context, rows []Finding) error {
	if len(rows) == 0 {
		return nil
	}
	if len(rows) > MaxFindings {
		return fmt.Errorf("append %d findings: at most %d go together", len(rows), MaxFindings)
	}
	insert, err := s.conn.PrepareBatch(once(ctx, findingsToken(rows)), "INSERT INTO findings ("+FindingColumns+")")
	if err != nil {
		return fmt.Errorf("append %d findings: %w", len(rows), err)
	}
	for i := range rows {
		if err := appendFinding(insert, &rows[i]); err != nil {
			_ = insert.Abort() // nothing was sent
			return fmt.Errorf("append finding %s: %w", rows[i].ID, err)
		}
	}
	if err := insert.Send(); err != nil {
		return fmt.Errorf("append %d findings: %w", len(rows), err)
	}
	return s.toldAlone(ctx, rows)
}

// once are the settings of an insert that is stored once, whatever the server's
// profile says: the answer comes after the rows, and the same token is the same rows.
func once(ctx context.Context, token string) context.Context {
	return clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplication_token": token, "insert_deduplicate": 1, "async_insert": 0, "wait_for_async_insert": 1,
	}))
}

// findingsToken names rows by what they are versions of, and by their place: the
// same findings are told again when somebody empties the table.
func findingsToken(rows []Finding) string {
	h := sha256.New()
	var b []byte
	for i := range rows {
		b = binary.BigEndian.AppendUint64(append(b[:0], rows[i].Teller...), rows[i].Seq)
		b = binary.BigEndian.AppendUint32(append(b, rows[i].ID...), rows[i].Version)
		b = binary.BigEndian.AppendUint64(b, uint64(rows[i].ToldAt))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func appendFinding(insert driver.Batch, f *Finding) error {
	id, err := uuid.Parse(f.ID)
	if err != nil {
		return err
	}
	ids := make([]uuid.UUID, len(f.EventIDs))
	for i := range ids {
		ids[i] = uuid.UUID(f.EventIDs[i])
	}
	names, values := make([]string, len(f.Workings)), make([]string, len(f.Workings))
	for i, w := range f.Workings {
		names[i], values[i] = w.Name, w.Value
	}
	return insert.Append(f.Teller, f.Seq, time.UnixMicro(f.ToldAt), id, f.Version, f.Worse, f.Rule, f.Detector, f.Severity, f.Score,
		f.Reason, f.Observed, f.Expected, names, values,
		f.Tenant, f.Principal, f.AgentID, f.SessionID, f.TraceID, f.Server, f.Target, f.EmitterID,
		time.UnixMicro(f.StartedAt), time.UnixMicro(f.LastSeenAt), time.UnixMicro(f.EndedAt), time.UnixMicro(f.OpenedAt),
		f.Events, ids, f.State, f.History)
}

// toldAlone looks whether these rows are the only ones of their numbers. A folder
// belongs to one process, so there is nothing to ask there.
func (s *Store) toldAlone(ctx context.Context, rows []Finding) error {
	if s.engine != nil {
		return nil
	}
	var n uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM findings WHERE teller = {teller:String} AND seq BETWEEN {from:UInt64} AND {to:UInt64}",
		named("teller", rows[0].Teller), named("from", rows[0].Seq), named("to", rows[len(rows)-1].Seq)).Scan(&n); err != nil {
		return fmt.Errorf("look for others who tell findings: %w", err)
	}
	if n > uint64(len(rows)) {
		return ErrToldTwice
	}
	return nil
}

// ScanFinding reads one row whose columns are FindingColumns.
func ScanFinding(rows driver.Rows) (*Finding, error) {
	f := &Finding{}
	var id uuid.UUID
	var ids []uuid.UUID
	var names, values []string
	var told, started, seen, ended, opened time.Time
	if err := rows.Scan(&f.Teller, &f.Seq, &told, &id, &f.Version, &f.Worse, &f.Rule, &f.Detector, &f.Severity, &f.Score,
		&f.Reason, &f.Observed, &f.Expected, &names, &values,
		&f.Tenant, &f.Principal, &f.AgentID, &f.SessionID, &f.TraceID, &f.Server, &f.Target, &f.EmitterID,
		&started, &seen, &ended, &opened, &f.Events, &ids, &f.State, &f.History); err != nil {
		return nil, fmt.Errorf("read finding: %w", err)
	}
	if len(names) != len(values) {
		return nil, errors.New("read finding: nested columns differ in length; the store was changed by hand")
	}
	f.ID, f.ToldAt = id.String(), told.UnixMicro()
	f.StartedAt, f.LastSeenAt, f.EndedAt, f.OpenedAt = started.UnixMicro(), seen.UnixMicro(), ended.UnixMicro(), opened.UnixMicro()
	for i := range names {
		f.Workings = append(f.Workings, Working{names[i], values[i]})
	}
	for _, x := range ids {
		f.EventIDs = append(f.EventIDs, event.ID(x))
	}
	return f, nil
}

// LastTold is the seq of the last version that a teller told; 0 when there is none.
func (s *Store) LastTold(ctx context.Context, teller string) (seq uint64, err error) {
	if err := s.conn.QueryRow(ctx, "SELECT max(seq) FROM findings WHERE teller = {teller:String}", named("teller", teller)).Scan(&seq); err != nil {
		return 0, fmt.Errorf("read what was told last: %w", err)
	}
	return seq, nil
}

// ToldAfter calls f with the newest version of each finding of which the teller told
// one after seq, and whether the finding is open in it, in no order.
func (s *Store) ToldAfter(ctx context.Context, teller string, seq uint64, f func(id string, version uint32, open bool)) error {
	return s.newest(ctx, f, "teller = {teller:String} AND seq > {seq:UInt64}", named("teller", teller), named("seq", seq))
}

// ToldByAll calls f with the newest version of every finding, whoever told it, and
// whether the finding is open in it, in no order.
func (s *Store) ToldByAll(ctx context.Context, f func(id string, version uint32, open bool)) error {
	return s.newest(ctx, f, "1")
}

func (s *Store) newest(ctx context.Context, f func(id string, version uint32, open bool), which string, args ...any) error {
	rows, err := s.conn.Query(ctx, "SELECT finding_id, max(version), argMax(state, version) = 'open' FROM findings WHERE "+which+" GROUP BY finding_id", args...)
	if err != nil {
		return fmt.Errorf("read what was told: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id uuid.UUID
		var version uint32
		var open bool
		if err := rows.Scan(&id, &version, &open); err != nil {
			return fmt.Errorf("read what was told: %w", err)
		}
		f(id.String(), version, open)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read what was told: %w", err)
	}
	return nil
}

// OpenFindings reads the newest version of each finding that is open, teller by
// teller, the one that was told first comes first.
func (s *Store) OpenFindings(ctx context.Context) ([]Finding, error) {
	// What is open is few among what was told: their numbers first, then the rows.
	rows, err := s.conn.Query(ctx, "SELECT "+FindingColumns+` FROM findings WHERE (finding_id, version) IN (
		SELECT finding_id, max(version) FROM findings GROUP BY finding_id HAVING argMax(state, version) = 'open') ORDER BY teller, seq LIMIT 1 BY finding_id`)
	if err != nil {
		return nil, fmt.Errorf("read the open findings: %w", err)
	}
	defer rows.Close()
	var out []Finding
	for rows.Next() {
		f, err := ScanFinding(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, *f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the open findings: %w", err)
	}
	return out, nil
}
