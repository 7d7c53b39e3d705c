package findings

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/live"
	"github.com/mcpaudit/mcpaudit/detect/notify"
	saying "github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/detect/notify/receiver"
	"github.com/mcpaudit/mcpaudit/ingest/auth"
	"github.com/mcpaudit/mcpaudit/ingest/store"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope"
)

// touches are what a feed says, in short: 3! for news of the third finding.
func touches(list []notify.Touch) string {
	var out []string
	for _, t := range list {
		var n int
		_, _ = fmt.Sscanf(t.Finding[24:], "%x", &n)
		out = append(out, fmt.Sprint(n)+map[bool]string{true: "!"}[t.News])
	}
	return strings.Join(out, " ")
}

func TestTheFeedGoesOnWhereItWasWithEachTeller(t *testing.T) {
	d := newDesk(t)
	feed := NewFeed(d.store, store.Limits{})
	const a = "detect-0of2"
	d.tellAs(t, "", 1, found(1))
	last, err := feed.Last(t.Context())
	if err != nil || !maps.Equal(last, map[string]uint64{"": 1}) {
		t.Fatalf("last %v, %v", last, err)
	}
	d.tellAs(t, a, 1, found(2))
	d.tellAs(t, "", 2, found(1, func(f *store.Finding) { f.Version, f.Worse = 2, false }))
	d.tellAs(t, "", 3, found(3, func(f *store.Finding) { f.History = true }))
	d.tellAs(t, "", 4, found(1, func(f *store.Finding) { f.Version, f.Worse, f.Severity = 3, true, "high" }))
	got, next, err := feed.After(t.Context(), last, 100)
	if err != nil || touches(got) != "1! 3 2!" || !maps.Equal(next, map[string]uint64{"": 4, a: 1}) {
		t.Errorf("%s, %v, %v", touches(got), next, err)
	}
	// A little at a time it is the same.
	var all []string
	for at, rounds := last, 0; ; rounds++ {
		got, next, err := feed.After(t.Context(), at, 2)
		if err != nil || rounds > 9 {
			t.Fatalf("round %d: %v", rounds, err)
		}
		if maps.Equal(next, at) {
			break
		}
		at, all = next, append(all, touches(got))
	}
	if want := []string{"1 3", "1! 2!"}; !slices.Equal(all, want) {
		t.Errorf("%q, want %q", all, want)
	}
}

func TestTheFeedSaysWhatPeopleMadeOfAFinding(t *testing.T) {
	d := newDesk(t)
	feed := NewFeed(d.store, store.Limits{})
	d.tell(t, found(1), found(2), found(3), found(4, func(f *store.Finding) { f.Tenant, f.History = "other", true }))
	d.pass(time.Hour)
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(1), Step: "acknowledge", By: "ada"})
	d.pass(time.Second)
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(2), Step: "close", Verdict: "benign", SuppressDays: 1, By: "bob"})
	d.pass(time.Second)
	steps, err := feed.Steps(t.Context(), noon, 10)
	if err != nil || len(steps) != 2 || steps[0].Name != "acknowledge" || steps[0].Finding != findingID(1) || steps[1].Name != "close" || steps[1].Finding != findingID(2) {
		t.Errorf("steps %+v, %v", steps, err)
	}
	if steps, err := feed.Steps(t.Context(), noon.Add(time.Hour+time.Second), 10); err != nil || len(steps) != 1 || steps[0].Name != "close" {
		t.Errorf("later steps %+v, %v", steps, err)
	}
	// One like the second, which began after that was closed: it is usual by now.
	d.tell(t, found(5, func(f *store.Finding) {
		f.OpenedAt, f.StartedAt, f.LastSeenAt = noon.Add(2*time.Hour).UnixMicro(), noon.Add(2*time.Hour).UnixMicro(), noon.Add(2*time.Hour).UnixMicro()
	}))
	states, err := feed.Newest(t.Context(), []string{findingID(1), findingID(2), findingID(3), findingID(4), findingID(5), findingID(99)})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range states {
		got[s.Finding.ID] = fmt.Sprintf("%s %s %s suppressed %v history %v %s", s.Triage, s.By, s.Verdict, s.Suppressed, s.History, s.Finding.Tenant)
	}
	want := map[string]string{
		findingID(1): "acknowledged ada  suppressed false history false acme",
		findingID(2): "closed bob benign suppressed false history false acme",
		findingID(3): "new   suppressed false history false acme",
		findingID(4): "new   suppressed false history true other",
		findingID(5): "new   suppressed true history false acme",
	}
	for id, w := range want {
		if got[id] != w {
			t.Errorf("%s: %q, want %q", id, got[id], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d states, want %d", len(got), len(want))
	}
	// It became worse after it was closed.
	d.tell(t, found(2, func(f *store.Finding) { f.Version, f.Severity = 2, "critical" }))
	if states, err = feed.Newest(t.Context(), []string{findingID(2)}); err != nil || len(states) != 1 || states[0].Triage != "new" || states[0].Finding.Severity != detect.Critical {
		t.Errorf("after it became worse: %+v, %v", states, err)
	}
}

// Who is told with content none hears no more than who reads with content none.
func TestNoContentIsTheSameForReadersAndReceivers(t *testing.T) {
	row := found(1, func(f *store.Finding) {
		f.EndedAt, f.TraceID, f.SessionID, f.EmitterID, f.AgentID = 1, "t", "s", "e", "a"
	})
	finding, err := live.FindingOf(&row)
	if err != nil {
		t.Fatal(err)
	}
	stripped := finding
	notify.Strip(&stripped)
	var differ []string
	before, after := reflect.ValueOf(finding), reflect.ValueOf(stripped)
	for i := range before.NumField() {
		if !reflect.DeepEqual(before.Field(i).Interface(), after.Field(i).Interface()) {
			differ = append(differ, strings.ToLower(before.Type().Field(i).Name))
		}
	}
	slices.Sort(differ)
	if want := scope.HiddenFindingFields(auth.ContentNone); !slices.Equal(differ, want) {
		t.Errorf("receivers are not told %v, readers not %v", differ, want)
	}
}

type notice = saying.Notification

// listener is a receiver that keeps what it hears.
type listener struct {
	mu   sync.Mutex
	down bool
	got  []string
}

func (l *listener) Refresh() time.Duration { return 0 }
func (l *listener) Groups() bool           { return false }

func (l *listener) Send(_ context.Context, n *notice) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return 503, errors.New("the receiver is away")
	}
	for i := range n.Alerts {
		a := &n.Alerts[i]
		l.got = append(l.got, fmt.Sprintf("%s %s %s %s", a.What, numbers([]*pb.Finding{{FindingId: a.Finding.ID}}), a.Finding.Severity, a.By))
	}
	return 200, nil
}

func (l *listener) heard() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.got)
}

func (l *listener) is(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
}

// observed is an observer that counts nothing.
type observed struct{}

func (observed) Queued(string, int)                 {}
func (observed) Sent(string, int, time.Duration)    {}
func (observed) Failed(string)                      {}
func (observed) Skipped(string, int)                {}
func (observed) Waiting(string, int, time.Duration) {}
func (observed) StoreFailed()                       {}

// The whole way on the real engine: what is found, what people do, a receiver that is
// away, and a service that is started again.
func TestReceiversAreToldThroughTheStore(t *testing.T) {
	d := newDesk(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"key": "0123456789abcdef0123456789abcdef", "notify.yaml": `
receivers:
  - {name: oncall, pagerduty: {routing_key_file: key}}
  - {name: night, pagerduty: {routing_key_file: key, url: 'https://night.example.com'}}
routes:
  - {receiver: oncall, group_wait: 0, group_interval: 0, limit: 0, continue: true}
  - {receiver: night, group_wait: 0, group_interval: 0, limit: 0}
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := notify.Read(filepath.Join(dir, "notify.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	oncall, night := &listener{}, &listener{down: true}
	start := func() (r *notify.Runner, end func()) {
		r, err := notify.New(plan, notify.Deps{Feed: NewFeed(d.store, store.Limits{}), Store: d.store, Now: time.Now, Log: quiet, Watch: observed{},
			Open: func(s receiver.Settings) (notify.Sender, error) {
				if strings.Contains(s.URL, "night") {
					return night, nil
				}
				return oncall, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { defer close(over); _ = r.Run(ctx) }()
		return r, func() { cancel(); <-over }
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("waited in vain for %s; heard %q and %q", what, oncall.heard(), night.heard())
			}
		}
	}
	d.tell(t, found(1)) // of the past
	_, end := start()
	until("the first note", func() bool {
		p, err := d.store.NotificationsRead(t.Context())
		return err == nil && !p.At.IsZero()
	})
	d.tell(t, found(2), found(3, func(f *store.Finding) { f.History = true }), found(4))
	until("two findings", func() bool { return len(oncall.heard()) == 2 })
	end()
	d.tell(t, found(2, func(f *store.Finding) { f.Version, f.Severity = 2, "critical" }))
	d.mu.Lock()
	d.time = time.Now()
	d.mu.Unlock()
	d.triage(t, &pb.TriageFindingRequest{FindingId: findingID(4), Step: "close", Verdict: "benign", By: "ada"})
	night.is(false)
	_, end = start()
	defer end()
	// What waited at night may be sent before it is read what has become of it since.
	until("what happened meanwhile", func() bool {
		n := night.heard()
		return len(oncall.heard()) == 4 && (slices.Contains(n, "firing 2 critical ") || slices.Contains(n, "worse 2 critical "))
	})
	d.tell(t, found(2, func(f *store.Finding) { f.Version, f.Severity, f.State = 3, "critical", "resolved" }))
	until("the end", func() bool { return len(oncall.heard()) == 5 && slices.Contains(night.heard(), "resolved 2 critical ") })
	got := oncall.heard()
	slices.Sort(got)
	if want := []string{"firing 2 medium ", "firing 4 medium ", "resolved 2 critical ", "resolved 4 medium ada", "worse 2 critical "}; !slices.Equal(got, want) {
		t.Errorf("on call heard %q", got)
	}
	if slices.ContainsFunc(night.heard(), func(s string) bool { return strings.Contains(s, " 4 ") }) {
		t.Errorf("at night it is told what was closed before it could be: %q", night.heard())
	}
}

// On a cluster, a replica may have what was told later and lack what was told before.
func TestTheFeedWaitsForWhatAReplicaLacks(t *testing.T) {
	d := newDesk(t)
	feed := NewFeed(d.store, store.Limits{})
	now := func(f *store.Finding) { f.ToldAt = time.Now().UnixMicro() }
	d.tellAs(t, "", 1, found(1, now))
	d.tellAs(t, "", 3, found(3, now))
	got, next, err := feed.After(t.Context(), map[string]uint64{"": 0}, 100)
	if err != nil || touches(got) != "1!" || next[""] != 1 {
		t.Errorf("before a hole: %s, %v, %v", touches(got), next, err)
	}
	if got, next, err = feed.After(t.Context(), next, 100); err != nil || len(got) != 0 || next[""] != 1 {
		t.Errorf("at a hole: %s, %v, %v", touches(got), next, err)
	}
	d.tellAs(t, "", 2, found(2, now))
	if got, next, err = feed.After(t.Context(), next, 100); err != nil || touches(got) != "2! 3!" || next[""] != 3 {
		t.Errorf("when it is there: %s, %v, %v", touches(got), next, err)
	}
	// What has lacked for long does not come any more.
	d.tellAs(t, "", 5, found(5, func(f *store.Finding) { f.ToldAt = time.Now().Add(-2 * time.Minute).UnixMicro() }))
	if got, next, err = feed.After(t.Context(), next, 100); err != nil || touches(got) != "5!" || next[""] != 5 {
		t.Errorf("after a while: %s, %v, %v", touches(got), next, err)
	}
}
