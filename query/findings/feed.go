package findings

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/detect/notify"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// Feed is what package notify reads: what was found and what people make of it, as the
// API shows it. It sees all tenants, because it is the service itself that asks: the
// notify file says who is told of which.
type Feed struct {
	store  scope.Store
	limits store.Limits
}

// NewFeed makes a feed of a store. Limits are those of each statement.
func NewFeed(s scope.Store, l store.Limits) *Feed { return &Feed{store: s, limits: l} }

var _ notify.Feed = (*Feed)(nil)

func (f *Feed) scan(ctx context.Context, each func(driver.Rows) error, sql string, args ...any) error {
	rows, err := f.store.Query(ctx, f.limits, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Last is, by teller, the number of what was told last.
func (f *Feed) Last(ctx context.Context) (map[string]uint64, error) {
	return f.lastAfter(ctx, nil)
}

// lastAfter is the same of those tellers who told something after their positions.
func (f *Feed) lastAfter(ctx context.Context, positions map[string]uint64) (map[string]uint64, error) {
	where, args := []string{}, []any(nil)
	known := []string{}
	for i, teller := range slices.Sorted(maps.Keys(positions)) {
		n := strconv.Itoa(i)
		where = append(where, "teller = {teller"+n+":String} AND seq > {seen"+n+":UInt64}")
		known = append(known, "{teller"+n+":String}")
		args = append(args, store.Named("teller"+n, teller), store.Named("seen"+n, positions[teller]))
	}
	condition := "1"
	if len(known) > 0 {
		condition = strings.Join(append(where, "teller NOT IN ("+strings.Join(known, ", ")+")"), " OR ")
	}
	last := map[string]uint64{}
	err := f.scan(ctx, func(rows driver.Rows) error {
		var teller string
		var seq uint64
		err := rows.Scan(&teller, &seq)
		last[teller] = seq
		return err
	}, "SELECT toString(teller) AS name, max(seq) FROM findings WHERE "+condition+" GROUP BY name", args...)
	return last, err
}

// After says to which findings something happened after positions. What a teller told is
// numbered without holes, but on a cluster a replica may have rows before those that were
// told before them: what is behind a hole comes later, as long as it was told within this
// minute, by the store's clock.
func (f *Feed) After(ctx context.Context, positions map[string]uint64, most int) (touched []notify.Touch, next map[string]uint64, err error) {
	last, err := f.lastAfter(ctx, positions)
	if err != nil {
		return nil, nil, err
	}
	next = maps.Clone(positions)
	if next == nil {
		next = map[string]uint64{}
	}
	left := uint64(max(most, 1))
	for _, teller := range slices.Sorted(maps.Keys(last)) {
		seen := next[teller]
		if left == 0 || last[teller] <= seen {
			continue
		}
		there, hole, of := seen, false, map[uuid.UUID]int{}
		if err := f.scan(ctx, func(rows driver.Rows) error {
			var id uuid.UUID
			var version uint32
			var seq uint64
			var news, old bool
			if err := rows.Scan(&seq, &id, &version, &news, &old); err != nil {
				return err
			}
			if hole = hole || seq > there+1 && !old; hole {
				return nil // so is all that follows
			}
			there = seq
			i, again := of[id]
			if !again {
				i = len(touched)
				of[id], touched = i, append(touched, notify.Touch{Finding: id.String()})
			}
			touched[i].News = touched[i].News || news
			touched[i].Version = max(touched[i].Version, version)
			return nil
		}, "SELECT seq, finding_id, version, worse AND NOT history, told_at NOT BETWEEN now64(6) - INTERVAL 1 MINUTE AND now64(6) + INTERVAL 1 MINUTE FROM findings WHERE teller = {teller:String} AND seq > {seen:UInt64} ORDER BY seq LIMIT {most:UInt64} WITH TIES",
			store.Named("teller", teller), store.Named("seen", seen), store.Named("most", left)); err != nil {
			return nil, nil, err
		}
		next[teller] = there
		left -= min(left, there-seen)
	}
	return touched, next, nil
}

// Steps are those that were taken since a time, oldest first.
func (f *Feed) Steps(ctx context.Context, since time.Time, most int) (out []notify.Step, err error) {
	err = f.scan(ctx, func(rows driver.Rows) error {
		var t notify.Step
		var id uuid.UUID
		if err := rows.Scan(&t.ID, &id, &t.At, &t.Name); err != nil {
			return err
		}
		t.Finding = id.String()
		out = append(out, t)
		return nil
	}, "SELECT action_id, finding_id, at, toString(step) FROM finding_actions WHERE step IN ('acknowledge', 'close', 'reopen') AND at >= "+boundTime("since")+
		" ORDER BY at, action_id LIMIT 1 BY action_id LIMIT {most:UInt32}", store.Named("since", micros(since)), store.Named("most", most))
	return out, err
}

// Newest is the state of findings by their newest versions.
func (f *Feed) Newest(ctx context.Context, ids []string) ([]notify.State, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	const newest = "(finding_id, version) IN (SELECT finding_id, max(version) FROM findings WHERE finding_id IN (SELECT toUUID(arrayJoin({ids:Array(String)}))) GROUP BY finding_id)"
	bound := store.Named("ids", ids)
	var out []notify.State
	at := map[string]int{}
	err := f.scan(ctx, func(rows driver.Rows) error {
		row, err := store.ScanFinding(rows)
		if err != nil {
			return err
		}
		if _, twice := at[row.ID]; twice {
			return nil // told twice
		}
		finding, err := live.FindingOf(row)
		if err != nil {
			return err
		}
		at[row.ID] = len(out)
		out = append(out, notify.State{Finding: finding, History: row.History, Triage: notify.TriageNew})
		return nil
	}, "SELECT "+store.FindingColumns+" FROM findings WHERE finding_id IN (SELECT toUUID(arrayJoin({ids:Array(String)}))) AND "+newest, bound)
	if err != nil || len(out) == 0 {
		return nil, err
	}
	// What people made of the very versions that were read: what is told in between is
	// another look's.
	found, versions := make([]string, len(out)), make([]uint32, len(out))
	for i := range out {
		found[i], versions[i] = out[i].Finding.ID, out[i].Finding.Version
	}
	judged := false
	err = f.scan(ctx, func(rows driver.Rows) error {
		var id uuid.UUID
		var version uint32
		var triage, verdict string
		var covered bool
		if err := rows.Scan(&id, &version, &triage, &verdict, &covered); err != nil {
			return err
		}
		if i, ok := at[id.String()]; ok && out[i].Finding.Version == version {
			s := &out[i]
			s.Triage, s.Suppressed = triage, covered
			if triage == notify.TriageClosed {
				s.Verdict = verdict
			}
			judged = judged || triage != notify.TriageNew
		}
		return nil
	}, "SELECT finding_id, version, triage, verdict, suppression_id != "+noID+" FROM "+viewOf("finding_id IN (SELECT toUUID(arrayJoin({ids:Array(String)}))) AND "+
		"(finding_id, version) IN (SELECT toUUID(p.1), p.2 FROM (SELECT arrayJoin(arrayZip({ids:Array(String)}, {versions:Array(UInt32)})) AS p))")+viewSettings,
		store.Named("ids", found), store.Named("versions", versions))
	if err != nil || !judged {
		return out, err
	}
	err = f.scan(ctx, func(rows driver.Rows) error {
		var id uuid.UUID
		var by string
		if err := rows.Scan(&id, &by); err != nil {
			return err
		}
		if i, ok := at[id.String()]; ok && out[i].Triage != notify.TriageNew {
			out[i].By = by
		}
		return nil
	}, "SELECT finding_id, argMax(`by`, (at, action_id)) FROM finding_actions WHERE step IN ('acknowledge', 'close', 'reopen') AND finding_id IN (SELECT toUUID(arrayJoin({ids:Array(String)}))) GROUP BY finding_id", bound)
	return out, err
}
