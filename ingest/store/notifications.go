package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

// Notification is one step of telling a receiver something: a row of the table
// notifications, where the steps are explained.
type Notification struct {
	At   time.Time
	Step string // read, queued, sent, failed or skipped
	// ID is of a receiver, a finding and what is said of it; zeros for read.
	ID             uuid.UUID
	Receiver, What string
	FindingID      uuid.UUID
	Version        uint32

	Tenant, Rule, Detector, Severity, Server string

	Teller  string // of read
	Seq     uint64 // of read
	Attempt uint32 // of sent and failed, from 1
	Status  uint16 // HTTP status of the receiver's answer; 0 for none
	Error   string // our own words
}

const notificationColumns = "at, step, notification_id, receiver, what, finding_id, version, tenant, rule, detector, severity, server, teller, seq, attempt, status, error"

// MaxNotifications is how many rows one AppendNotifications takes.
const MaxNotifications = 100_000

// AppendNotifications stores steps that belong together, all or none, durably and once:
// the same rows are the same steps. At most MaxNotifications. After an error, which may
// come after they are stored, append them again.
func (s *Store) AppendNotifications(ctx context.Context, rows []Notification) error {
	if len(rows) == 0 {
		return nil
	}
	if len(rows) > MaxNotifications {
		return fmt.Errorf("append %d notifications: at most %d go together", len(rows), MaxNotifications)
	}
	insert, err := s.conn.PrepareBatch(once(ctx, notificationsToken(rows)), "INSERT INTO notifications ("+notificationColumns+")")
	if err != nil {
		return fmt.Errorf("append %d notifications: %w", len(rows), err)
	}
	for i := range rows {
		n := &rows[i]
		if err := insert.Append(n.At, n.Step, n.ID, n.Receiver, n.What, n.FindingID, n.Version, n.Tenant, n.Rule, n.Detector, n.Severity, n.Server,
			n.Teller, n.Seq, n.Attempt, n.Status, n.Error); err != nil {
			_ = insert.Abort() // nothing was sent
			return fmt.Errorf("append notification %s: %w", n.ID, err)
		}
	}
	if err := insert.Send(); err != nil {
		return fmt.Errorf("append %d notifications: %w", len(rows), err)
	}
	return nil
}

// notificationsToken names rows by all that tells one step from another.
func notificationsToken(rows []Notification) string {
	h := sha256.New()
	for i := range rows {
		n := &rows[i]
		fmt.Fprintf(h, "%d %s %s %q %s %d %q %d %d %d\n", n.At.UnixMicro(), n.Step, n.ID, n.Receiver, n.FindingID, n.Version, n.Teller, n.Seq, n.Attempt, n.Status)
	}
	return "notify/" + hex.EncodeToString(h.Sum(nil))
}

// ReadPositions is how far what was told has been read for notifications: by teller the
// seq of the newest version that is dealt with. At is when that was noted last; the zero
// time says that nobody has ever read.
type ReadPositions struct {
	Seq map[string]uint64
	At  time.Time
}

// NotificationsRead reads them, and on a cluster waits first for what others have
// appended.
func (s *Store) NotificationsRead(ctx context.Context) (ReadPositions, error) {
	p := ReadPositions{Seq: map[string]uint64{}}
	if err := s.settle(ctx, "findings", "finding_actions", "notifications"); err != nil {
		return p, err
	}
	err := s.eachNotified(ctx, func(rows driver.Rows) error {
		var teller string
		var seq uint64
		var at time.Time
		if err := rows.Scan(&teller, &seq, &at); err != nil {
			return err
		}
		p.Seq[teller] = seq
		if at.After(p.At) {
			p.At = at
		}
		return nil
	}, "SELECT toString(teller) AS name, max(seq), max(at) FROM notifications WHERE receiver = '' AND step = 'read' GROUP BY name")
	if err != nil {
		return p, fmt.Errorf("read how far notifications have come: %w", err)
	}
	return p, nil
}

// Notified is what a receiver has been told, or will be, of a finding.
type Notified struct {
	Receiver  string
	FindingID uuid.UUID
	Queued    uint64    // how many things
	What      string    // the newest of them; empty when there is none
	Severity  string    // of the finding then
	Last      time.Time // of the newest step of any kind
	// Skipped is set when the receiver has not been told anything and waits for nothing,
	// because what there was to say was skipped: a suppression covered the finding, or
	// somebody closed it, or it was over before quiet hours were.
	Skipped bool
}

// NotifiedOf reads what receivers were told of findings since a time.
func (s *Store) NotifiedOf(ctx context.Context, findings []string, since time.Time) (out []Notified, err error) {
	err = s.eachNotified(ctx, func(rows driver.Rows) error {
		var n Notified
		var skipped, sent uint64
		var newest bool
		if err := rows.Scan(&n.Receiver, &n.FindingID, &n.Queued, &n.What, &n.Severity, &n.Last, &skipped, &sent, &newest); err != nil {
			return err
		}
		n.Skipped = skipped > 0 && (n.Queued == 0 || newest && sent == 0)
		out = append(out, n)
		return nil
	}, `SELECT toString(receiver) AS name, finding_id, uniqExactIf(notification_id, step = 'queued'),
			toString(argMaxIf(what, (at, notification_id), step = 'queued')), toString(argMaxIf(severity, (at, notification_id), step = 'queued')), max(at),
			countIf(step = 'skipped'), countIf(step = 'sent'), has(groupUniqArrayIf(notification_id, step = 'skipped'), argMaxIf(notification_id, (at, notification_id), step = 'queued'))
		FROM notifications
		WHERE step IN ('queued', 'skipped', 'sent') AND what != 'test' AND at >= {since:DateTime64(6, 'UTC')} AND finding_id IN (SELECT toUUID(arrayJoin({ids:Array(String)})))
		GROUP BY name, finding_id`, named("since", clickTime(since)), named("ids", filled(findings)))
	if err != nil {
		return nil, fmt.Errorf("read what receivers were told: %w", err)
	}
	return out, nil
}

// Delivery is what a receiver was told of a finding, and what it still has to be told.
type Delivery struct {
	FindingID uuid.UUID
	Waiting   []Queued  // neither sent nor skipped, oldest first
	Told      string    // what was sent last: firing, worse, …; empty for nothing
	Severity  string    // of the finding then
	ToldAt    time.Time // when
}

// Queued is one thing that a receiver has to be told.
type Queued struct {
	ID             uuid.UUID
	What, Severity string
	Version        uint32
	At             time.Time
}

// Unsent reads the findings of which a receiver still has to be told something that was
// queued since a time, at most so many: of each tenant the worst before the second worst
// of any, so that none keeps the others' from being read, and of those alike the ones
// that wait longest first.
func (s *Store) Unsent(ctx context.Context, receiver string, since time.Time, most int) (out []Delivery, err error) {
	tenants := map[uuid.UUID]string{}
	err = s.eachNotified(ctx, func(rows driver.Rows) error {
		var d Delivery
		var ids []uuid.UUID
		var whats, severities []string
		var versions []uint32
		var times []time.Time
		var tenant string
		if err := rows.Scan(&d.FindingID, &tenant, &d.Told, &d.Severity, &d.ToldAt, &times, &ids, &whats, &severities, &versions); err != nil {
			return err
		}
		tenants[d.FindingID] = tenant
		for i := range ids {
			d.Waiting = append(d.Waiting, Queued{ID: ids[i], What: whats[i], Severity: severities[i], Version: versions[i], At: times[i]})
		}
		if len(ids) > 0 { // otherwise it was sent just now
			out = append(out, d)
		}
		return nil
		// Which findings comes first, with as little as that takes: a month's flood is millions.
	}, `WITH chosen AS (
			SELECT finding FROM (
				SELECT finding, worst, oldest, row_number() OVER (PARTITION BY of_tenant ORDER BY worst DESC, oldest, finding) AS turn FROM (
					SELECT finding_id AS finding, any(tenant) AS of_tenant, max(indexOf(['info', 'low', 'medium', 'high', 'critical'], severity)) AS worst, min(at) AS oldest
					FROM notifications WHERE `+ofReceiver+` AND step = 'queued' AND notification_id NOT IN (
						SELECT notification_id FROM notifications WHERE `+ofReceiver+` AND step IN ('sent', 'skipped'))
					GROUP BY finding_id))
			ORDER BY turn, worst DESC, oldest, finding LIMIT {most:UInt32})
		SELECT finding, toString(of_tenant), told, told_severity, told_at, arrayMap(x -> x.1, w), arrayMap(x -> x.2, w), arrayMap(x -> x.3, w), arrayMap(x -> x.4, w), arrayMap(x -> x.5, w)
		FROM (
			SELECT finding, arraySort(groupArrayIf((queued_at, id, what_, severity_, version_), done = 0 AND queued > 0)) AS w, any(tenant_) AS of_tenant,
				argMaxIf(what_, (sent_at, queued_at, id), sent > 0) AS told, argMaxIf(severity_, (sent_at, queued_at, id), sent > 0) AS told_severity, max(sent_at) AS told_at
			FROM (
				SELECT notification_id AS id, any(finding_id) AS finding, toString(any(what)) AS what_, toString(any(severity)) AS severity_, any(version) AS version_, any(tenant) AS tenant_,
					countIf(step = 'queued') AS queued, countIf(step = 'sent') AS sent, countIf(step IN ('sent', 'skipped')) AS done,
					minIf(at, step = 'queued') AS queued_at, maxIf(at, step = 'sent') AS sent_at
				FROM notifications
				WHERE `+ofReceiver+` AND step IN ('queued', 'sent', 'skipped') AND finding_id IN (SELECT finding FROM chosen)
				GROUP BY notification_id
			) GROUP BY finding
		)`,
		named("receiver", receiver), named("since", clickTime(since)), named("most", most))
	if err != nil {
		return nil, fmt.Errorf("read what receiver %q has to be told: %w", receiver, err)
	}
	inTurn(out, tenants)
	return out, nil
}

// inTurn sorts findings as Unsent says.
func inTurn(list []Delivery, tenants map[uuid.UUID]string) {
	worst := make(map[uuid.UUID]int, len(list))
	for i := range list {
		for _, q := range list[i].Waiting {
			worst[list[i].FindingID] = max(worst[list[i].FindingID], slices.Index(severities, q.Severity))
		}
	}
	order := func(a, b Delivery) int {
		return cmp.Or(worst[b.FindingID]-worst[a.FindingID], a.Waiting[0].At.Compare(b.Waiting[0].At), slices.Compare(a.FindingID[:], b.FindingID[:]))
	}
	slices.SortFunc(list, order)
	of, turn := map[string]int{}, make(map[uuid.UUID]int, len(list))
	for i := range list {
		tenant := tenants[list[i].FindingID]
		turn[list[i].FindingID] = of[tenant]
		of[tenant]++
	}
	slices.SortFunc(list, func(a, b Delivery) int { return cmp.Or(turn[a.FindingID]-turn[b.FindingID], order(a, b)) })
}

// severities, the least one first.
var severities = []string{"info", "low", "medium", "high", "critical"}

// ofReceiver is true of what a receiver was told, or is to be, since a time.
const ofReceiver = "receiver = {receiver:String} AND at >= {since:DateTime64(6, 'UTC')} AND what != 'test'"

// ToldOpen reads the findings of which a receiver was told since a time that they are
// open, and not yet that they are over, the newest first, at most so many. What waits is
// left out.
func (s *Store) ToldOpen(ctx context.Context, receiver string, since time.Time, most int) (out []Delivery, err error) {
	err = s.eachNotified(ctx, func(rows driver.Rows) error {
		var d Delivery
		err := rows.Scan(&d.FindingID, &d.Told, &d.Severity, &d.ToldAt)
		out = append(out, d)
		return err
	}, `SELECT finding_id, toString(argMax(what, (at, notification_id))) AS told, toString(argMax(severity, (at, notification_id))), max(at) AS told_at
		FROM notifications WHERE `+ofReceiver+` AND step = 'sent'
		GROUP BY finding_id HAVING told IN ('firing', 'worse', 'acknowledged') ORDER BY told_at DESC, finding_id LIMIT {most:UInt32}`,
		named("receiver", receiver), named("since", clickTime(since)), named("most", most))
	if err != nil {
		return nil, fmt.Errorf("read what receiver %q was told: %w", receiver, err)
	}
	return out, nil
}

// MessagesSince are the times at which messages were sent to a receiver since a time,
// oldest first, at most 10,000.
func (s *Store) MessagesSince(ctx context.Context, receiver string, since time.Time) (out []time.Time, err error) {
	err = s.eachNotified(ctx, func(rows driver.Rows) error {
		var at time.Time
		err := rows.Scan(&at)
		out = append(out, at)
		return err
	}, "SELECT DISTINCT at FROM notifications WHERE receiver = {receiver:String} AND at >= {since:DateTime64(6, 'UTC')} AND step = 'sent' AND what != 'test' ORDER BY at LIMIT 10000",
		named("receiver", receiver), named("since", clickTime(since)))
	if err != nil {
		return nil, fmt.Errorf("count what receiver %q was sent: %w", receiver, err)
	}
	return out, nil
}

// clickTime is a time as it is bound to a DateTime64.
func clickTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000") }

// notifyLimits are those of reading for notifications.
var notifyLimits = Limits{Time: 30 * time.Second}

func (s *Store) eachNotified(ctx context.Context, f func(driver.Rows) error, sql string, args ...any) error {
	rows, err := s.Query(ctx, notifyLimits, sql, args...)
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
