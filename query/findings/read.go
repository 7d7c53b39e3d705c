package findings

import (
	"context"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// standing is one version of a finding, by its teller's number, and what people made
// of the finding.
type standing struct {
	teller      string
	seq         uint64
	finding     uuid.UUID
	started     time.Time
	triage      string
	assignee    string
	verdict     string
	suppression uuid.UUID
}

// standings reads rows of stateColumns.
func (s *Server) standings(ctx context.Context, sql string, args ...any) (out []standing, err error) {
	err = s.scan(ctx, func(rows driver.Rows) error {
		var x standing
		if err := rows.Scan(&x.teller, &x.seq, &x.finding, &x.started, &x.triage, &x.assignee, &x.verdict, &x.suppression); err != nil {
			return err
		}
		out = append(out, x)
		return nil
	}, sql, args...)
	return out, err
}

// scan calls f for each row of a statement. Its error is the store's, or f's.
func (s *Server) scan(ctx context.Context, f func(driver.Rows) error, sql string, args ...any) error {
	rows, err := s.store.Query(ctx, s.cfg.Limits, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Bounds of one answer.
const (
	maxAnswer = 16 << 20 // bytes in memory
	maxTold   = 1000     // findings that a watcher gets at once
)

// versions reads the rows of standings, in their order. The rows are read in a
// second statement because sorting them is dear and numbers are not; a row does not
// change in between. It stops when they take more memory than one answer may, and
// says how many of the list it has read: the caller goes on from there.
func (s *Server) versions(ctx context.Context, list []standing) (out []*pb.Finding, read int, err error) {
	if len(list) == 0 {
		return nil, 0, nil
	}
	seqs, ids := make([]uint64, len(list)), make([]string, len(list))
	for i, x := range list {
		seqs[i], ids[i] = x.seq, x.finding.String()
	}
	who, err := s.store.Access(ctx)
	if err != nil {
		return nil, 0, err
	}
	type key struct {
		teller string
		seq    uint64
		id     string
	}
	found := make(map[key]*pb.Finding, len(list))
	sizes := make(map[key]int, len(list))
	err = s.scan(ctx, func(rows driver.Rows) error {
		f, err := store.ScanFinding(rows)
		if err != nil {
			return err
		}
		k := key{f.Teller, f.Seq, f.ID}
		found[k], sizes[k] = scope.StripFinding(who.Content, message(f)), sizeOf(f)
		return nil
	}, "SELECT "+store.FindingColumns+` FROM findings
		WHERE seq IN ({seqs:Array(UInt64)}) AND finding_id IN (SELECT toUUID(arrayJoin({ids:Array(String)})))`,
		store.Named("seqs", seqs), store.Named("ids", ids))
	if err != nil {
		return nil, 0, err
	}
	size := 0
	for i := range list {
		x := &list[i]
		k := key{x.teller, x.seq, x.finding.String()}
		if size += sizes[k]; size > maxAnswer && len(out) > 0 {
			return out, i, nil
		}
		f := found[k]
		if f == nil {
			continue // somebody has emptied the table since
		}
		f.Triage, f.Assignee, f.Verdict = x.triage, x.assignee, x.verdict
		if x.suppression != uuid.Nil {
			f.SuppressionId = x.suppression.String()
		}
		out = append(out, f)
	}
	return out, len(list), nil
}

// sizeOf is about what a finding takes in memory.
func sizeOf(f *store.Finding) int {
	n := 1000 + len(f.Reason) + len(f.Observed) + len(f.Expected) + len(f.Principal) + len(f.AgentID) + len(f.SessionID) +
		len(f.TraceID) + len(f.Server) + len(f.Target) + len(f.EmitterID) + 64*len(f.EventIDs)
	for _, w := range f.Workings {
		n += 64 + len(w.Name) + len(w.Value)
	}
	return n
}

// message is a row of the table findings as the API has it.
func message(f *store.Finding) *pb.Finding {
	m := &pb.Finding{
		FindingId: f.ID, Version: f.Version, Rule: f.Rule, Detector: f.Detector, Severity: f.Severity, Score: f.Score,
		Reason: f.Reason, Observed: f.Observed, Expected: f.Expected,
		Tenant: f.Tenant, Principal: f.Principal, AgentId: f.AgentID, SessionId: f.SessionID, TraceId: f.TraceID,
		Server: f.Server, Target: f.Target, EmitterId: f.EmitterID,
		StartedAt: moment(f.StartedAt), LastSeenAt: moment(f.LastSeenAt), EndedAt: moment(f.EndedAt), OpenedAt: moment(f.OpenedAt),
		EventCount: f.Events, State: f.State,
	}
	for _, w := range f.Workings {
		m.Workings = append(m.Workings, &pb.Working{Name: w.Name, Value: w.Value})
	}
	for _, id := range f.EventIDs {
		m.EventIds = append(m.EventIds, id.String())
	}
	return m
}

// moment is a time in µs since 1970; 0 is none.
func moment(us int64) *timestamppb.Timestamp {
	if us == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMicro(us))
}

// boundTime is a time that is bound in µs since 1970.
func boundTime(name string) string {
	return "fromUnixTimestamp64Micro({" + name + ":Int64}, 'UTC')"
}
