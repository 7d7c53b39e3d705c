package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/ingest/store"
	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
)

var noonOfNotices = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// notice is a step about the nth thing, a minute after the one before.
func notice(step, receiver, what string, nth, finding byte, minute int, change ...func(*store.Notification)) store.Notification {
	n := store.Notification{At: noonOfNotices.Add(time.Duration(minute) * time.Minute), Step: step, ID: uuid.UUID{15: nth}, Receiver: receiver, What: what,
		FindingID: uuid.UUID{0: 1, 15: finding}, Version: uint32(nth), Tenant: "acme", Rule: "loops", Detector: "agent_loop", Severity: "high", Server: "crm"}
	for _, c := range change {
		c(&n)
	}
	return n
}

func told(n byte) uuid.UUID { return uuid.UUID{0: 1, 15: n} }

func TestNotificationsAreStoredOnce(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	if p, err := s.NotificationsRead(t.Context()); err != nil || !p.At.IsZero() || len(p.Seq) != 0 {
		t.Errorf("nobody has read, and it says %+v, %v", p, err)
	}
	rows := []store.Notification{
		{At: noonOfNotices, Step: "read", Seq: 7}, {At: noonOfNotices, Step: "read", Teller: "detect-0of2", Seq: 3},
		notice("queued", "oncall", "firing", 1, 1, 0),
	}
	later := []store.Notification{{At: noonOfNotices.Add(time.Minute), Step: "read", Seq: 9}}
	for _, r := range [][]store.Notification{rows, rows, later, later, rows, nil} {
		if err := s.AppendNotifications(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	p, err := s.NotificationsRead(t.Context())
	if err != nil || p.Seq[""] != 9 || p.Seq["detect-0of2"] != 3 || len(p.Seq) != 2 || !p.At.Equal(noonOfNotices.Add(time.Minute)) {
		t.Errorf("read %+v, %v", p, err)
	}
	count, err := s.Query(t.Context(), store.Limits{}, "SELECT count() FROM notifications")
	if err != nil {
		t.Fatal(err)
	}
	defer count.Close()
	var n uint64
	for count.Next() {
		if err := count.Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	if n != 4 || count.Err() != nil {
		t.Errorf("%d rows, want 4, %v", n, count.Err())
	}
	if err := s.AppendNotifications(t.Context(), make([]store.Notification, store.MaxNotifications+1)); err == nil {
		t.Error("too many rows were taken")
	}
}

func TestWhatReceiversWereToldIsReadBack(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	severe := func(to string) func(*store.Notification) { return func(n *store.Notification) { n.Severity = to } }
	for _, rows := range [][]store.Notification{
		{notice("queued", "oncall", "firing", 1, 1, 0), notice("queued", "chat", "firing", 2, 1, 0), notice("skipped", "oncall", "firing", 3, 2, 0)},
		{notice("sent", "oncall", "firing", 1, 1, 1)},
		{notice("queued", "oncall", "worse", 4, 1, 2, severe("critical"))},
		{notice("queued", "oncall", "firing", 5, 3, 3), notice("queued", "oncall", "firing", 5, 3, 3, func(n *store.Notification) { n.At = n.At.Add(time.Second) })}, // by two who lead
		{notice("failed", "oncall", "firing", 5, 3, 4), notice("sent", "oncall", "test", 6, 9, 4)},
		{notice("queued", "oncall", "firing", 7, 4, 5), notice("sent", "oncall", "firing", 7, 4, 6), notice("queued", "oncall", "resolved", 8, 4, 7), notice("sent", "oncall", "resolved", 8, 4, 8)},
		{notice("queued", "oncall", "firing", 9, 5, 9), notice("queued", "oncall", "resolved", 10, 5, 10), notice("skipped", "oncall", "firing", 9, 5, 11), notice("skipped", "oncall", "resolved", 10, 5, 11)},
	} {
		if err := s.AppendNotifications(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
	}
	since := noonOfNotices.Add(-time.Hour)
	notified, err := s.NotifiedOf(t.Context(), []string{told(1).String(), told(2).String(), told(3).String(), told(77).String()}, since)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range notified {
		got = append(got, fmt.Sprintf("%s %d: %d %s %s %v %s", n.Receiver, n.FindingID[15], n.Queued, n.What, n.Severity, n.Skipped, n.Last.Sub(noonOfNotices)))
	}
	slices.Sort(got)
	if want := []string{"chat 1: 1 firing high false 0s", "oncall 1: 2 worse critical false 2m0s", "oncall 2: 0   true 0s", "oncall 3: 1 firing high false 3m1s"}; !slices.Equal(got, want) {
		t.Errorf("notified\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	unsent, err := s.Unsent(t.Context(), "oncall", since, 10)
	if err != nil || deliveries(unsent) != "1: worse/4 critical +2m0s; told firing high +1m0s\n3: firing/5 high +3m0s" {
		t.Errorf("unsent\n%s, %v", deliveries(unsent), err)
	}
	if unsent, err = s.Unsent(t.Context(), "oncall", since, 1); err != nil || len(unsent) != 1 || unsent[0].FindingID != told(1) {
		t.Errorf("the one that waits longest: %s, %v", deliveries(unsent), err)
	}
	if unsent, err = s.Unsent(t.Context(), "oncall", noonOfNotices.Add(150*time.Second), 10); err != nil || len(unsent) != 1 || unsent[0].FindingID != told(3) {
		t.Errorf("of late: %s, %v", deliveries(unsent), err)
	}
	open, err := s.ToldOpen(t.Context(), "oncall", since, 10)
	if err != nil || len(open) != 1 || open[0].FindingID != told(1) || open[0].Severity != "high" || !open[0].ToldAt.Equal(noonOfNotices.Add(time.Minute)) {
		t.Errorf("open %s, %v", deliveries(open), err)
	}
	sent, err := s.MessagesSince(t.Context(), "oncall", noonOfNotices.Add(2*time.Minute))
	if err != nil || len(sent) != 2 || !sent[1].Equal(noonOfNotices.Add(8*time.Minute)) {
		t.Errorf("sent at %v, %v", sent, err)
	}
}

// Who was told nothing, because what there was to say was skipped, is one to be told
// when it goes on.
func TestWhatWasQueuedAndSkippedWasNotTold(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	for _, rows := range [][]store.Notification{
		{notice("queued", "oncall", "firing", 1, 1, 0), notice("queued", "oncall", "resolved", 2, 1, 1), notice("skipped", "oncall", "firing", 1, 1, 2), notice("skipped", "oncall", "resolved", 2, 1, 2)},
		{notice("queued", "oncall", "firing", 3, 2, 0), notice("sent", "oncall", "firing", 3, 2, 1), notice("queued", "oncall", "worse", 4, 2, 2), notice("skipped", "oncall", "worse", 4, 2, 3)},
		{notice("queued", "oncall", "firing", 5, 3, 0), notice("skipped", "oncall", "firing", 5, 3, 1), notice("queued", "oncall", "firing", 6, 3, 2)},
	} {
		if err := s.AppendNotifications(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
	}
	notified, err := s.NotifiedOf(t.Context(), []string{told(1).String(), told(2).String(), told(3).String()}, noonOfNotices)
	got := map[byte]bool{}
	for _, n := range notified {
		got[n.FindingID[15]] = n.Skipped
	}
	if err != nil || len(got) != 3 || !got[1] || got[2] || got[3] {
		t.Errorf("skipped: %v, %v", got, err)
	}
}

// One tenant's many do not keep another's few from being read.
func TestWhatWaitsIsReadInTurnOfTheTenants(t *testing.T) {
	s := storetest.Open(t, t.TempDir())
	var rows []store.Notification
	for n := range byte(20) {
		rows = append(rows, notice("queued", "oncall", "firing", n+1, n+1, int(n), func(x *store.Notification) { x.Tenant, x.Severity = "acme", "critical" }))
	}
	other := func(x *store.Notification) { x.Tenant, x.Severity = "other", "low" }
	rows = append(rows, notice("queued", "oncall", "firing", 50, 50, 50, other), notice("queued", "oncall", "firing", 51, 51, 49, other),
		notice("queued", "oncall", "worse", 52, 50, 51, other, func(x *store.Notification) { x.Severity = "high" }))
	if err := s.AppendNotifications(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	unsent, err := s.Unsent(t.Context(), "oncall", noonOfNotices, 5)
	var got []byte
	for _, d := range unsent {
		got = append(got, d.FindingID[15])
	}
	if err != nil || !slices.Equal(got, []byte{1, 50, 2, 51, 3}) {
		t.Errorf("%v, %v", got, err)
	}
}

// deliveries are what a receiver has to be told, in short.
func deliveries(list []store.Delivery) string {
	var lines []string
	for _, d := range list {
		var parts []string
		for _, q := range d.Waiting {
			parts = append(parts, fmt.Sprintf("%s/%d %s +%s", q.What, q.Version, q.Severity, q.At.Sub(noonOfNotices)))
		}
		if d.Told != "" {
			parts = append(parts, fmt.Sprintf("told %s %s +%s", d.Told, d.Severity, d.ToldAt.Sub(noonOfNotices)))
		}
		lines = append(lines, fmt.Sprintf("%d: %s", d.FindingID[15], strings.Join(parts, "; ")))
	}
	return strings.Join(lines, "\n")
}
