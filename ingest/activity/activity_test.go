package activity_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/ingest/activity"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
)

// small makes ranges of a few batches, so that there are many.
var small = activity.Config{MostBatches: 3, MostEvents: 60}

func TestSumsAreThoseOfTheEvents(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			r := w.runner(small, w)
			for range 2 {
				for range 6 {
					log := []string{"a", "b"}[w.r.IntN(2)]
					n := []int{0, 1, 5, 20, 80}[w.r.IntN(5)]
					w.seal(log, w.events(n, []uint16{someMonth, nextMonth}[w.r.IntN(2)]))
				}
				w.store("a", w.events(5, someMonth)) // and not sealed yet
				w.catchUp(r)
				w.check(w.sealed())
				w.enter("a", 5)
				w.now = w.now.Add(time.Minute)
			}
			w.catchUp(r)
			w.check("1")
			if lag := r.Lag(); lag != 0 {
				t.Errorf("%v behind, and nothing is left", lag)
			}
		})
	}
}

// What is merged is what it was.
func TestMergesChangeNothing(t *testing.T) {
	w := newWorld(t, 10)
	r := w.runner(small, w)
	for range 6 {
		w.seal("a", w.events(30, someMonth))
	}
	w.catchUp(r)
	for _, table := range []string{"activity_hourly", "tools_hourly", "emitters_hourly", "tool_definitions"} {
		exec(w, "OPTIMIZE TABLE "+table+" FINAL")
	}
	w.check("1")
	w.catchUp(w.runner(small, w)) // which adds the newest range again
	w.check("1")
	if parts := w.rows(nil, "SELECT toString(uniqExact(_part)) FROM activity_hourly"); parts[0] != "1" {
		t.Errorf("%s parts", parts[0])
	}
}

// An emitter that was cut off brings what happened a year ago: it is added to that hour.
func TestLateEventsAreAddedToTheirOwnHour(t *testing.T) {
	w := newWorld(t, 20)
	r := w.runner(activity.Config{}, w)
	w.seal("a", w.events(20, someMonth))
	w.catchUp(r)
	late := w.events(10, someMonth)
	for _, e := range late {
		e.OccurredAt, e.Server = w.now.AddDate(-1, 0, 0).UnixMicro(), "late"
	}
	w.seal("a", late)
	w.catchUp(r)
	w.check("1")
	if got := w.rows(nil, "SELECT concat(toString(min(hour)), ' ', toString(sum(events))) FROM activity_hourly WHERE server = 'late'"); got[0] != "2025-11-22 12:00:00 10" {
		t.Error(got)
	}
}

func TestATenantSeesItsOwnSums(t *testing.T) {
	w := newWorld(t, 30)
	for range 4 {
		w.seal("a", w.events(40, someMonth))
	}
	w.catchUp(w.runner(small, w))
	for name, sql := range sums {
		for _, tenant := range []string{"acme", "globex", "o'neill", "nobody"} {
			got, want := w.rows([]string{tenant}, sql[0]), w.rows([]string{tenant}, fmt.Sprintf(sql[1], "events"))
			if !slices.Equal(got, want) || (len(want) == 0) != (tenant == "nobody") {
				t.Errorf("%s: %s sees %d rows, and has %d", name, tenant, len(got), len(want))
			}
		}
	}
	if got := w.rows([]string{"acme"}, "SELECT log_id FROM activity_ranges"); len(got) > 0 {
		t.Errorf("a tenant sees %d ranges of all", len(got))
	}
}

// What was dropped is not there, and what expired and was not dropped yet is not added:
// retention would not find it again.
func TestAMonthThatExpiresIsLeftOut(t *testing.T) {
	w := newWorld(t, 40)
	w.seal("a", w.events(20, lastMonth))
	w.seal("a", w.events(20, someMonth))
	w.seal("a", w.events(20, nextMonth))
	w.catchUp(w.runner(activity.Config{}, w))
	w.check(fmt.Sprintf("expires_month > toDate(%d)", lastMonth))
	for range 2 { // the run before was killed when it had done it
		if err := w.DropMonth(t.Context(), someMonth); err != nil {
			t.Fatal(err)
		}
		w.check(fmt.Sprintf("expires_month > toDate(%d)", someMonth), "definitions")
	}
	w.catchUp(w.runner(activity.Config{}, w))
	w.check(fmt.Sprintf("expires_month > toDate(%d)", someMonth), "definitions")
	// Of a month of which some events are held, the sums go too: they are of all.
	if err := w.Stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.StageOthers(t.Context(), nextMonth, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.ReplaceMonth(t.Context(), nextMonth); err != nil {
		t.Fatal(err)
	}
	w.count("0")
	if n := w.rows(nil, fmt.Sprintf("SELECT toString(count()) FROM events WHERE expires_month = toDate(%d)", nextMonth)); n[0] != "20" {
		t.Errorf("%s events stay", n[0])
	}
}

// What is true of a store in process is true of one on a server.
func TestAllIsTheSameOnAServer(t *testing.T) {
	enginetest.Again(t, "Sums|Expires", "")
}

// Others' logs are the leader's business, and only when nobody writes to them.
func TestALogOfAnInstanceThatIsGoneIsAddedByTheLeader(t *testing.T) {
	w := newWorld(t, 50)
	w.seal("mine", w.events(10, someMonth))
	w.seal("gone", w.events(10, someMonth))
	leads := false
	r := w.runner(activity.Config{LogID: "mine", MostBatches: 1}, w, func(d *activity.Deps) { d.Mine = func() bool { return leads } })
	pass := func(after time.Duration, where string) {
		t.Helper()
		w.now = w.now.Add(after)
		w.catchUp(r)
		w.count(where)
	}
	pass(0, "log_id = 'mine'")
	pass(time.Hour, "log_id = 'mine'")
	leads = true
	w.seal("gone", w.events(10, someMonth))
	pass(10*time.Minute, "log_id = 'mine'") // it is not gone
	pass(10*time.Minute, "1")
	// It comes back, goes on where the leader has stopped, and is gone again.
	w.seal("gone", w.events(10, someMonth))
	back := w.runner(activity.Config{LogID: "gone"}, w)
	w.catchUp(back)
	w.count("1")
	w.seal("gone", w.events(10, someMonth))
	w.seal("gone", w.events(10, someMonth))
	pass(time.Hour, "1")
	w.catchUp(back) // which still believes that these are for it to add
	w.count("1")
}

// An entry that lacks is waited for, and then passed over.
func TestAHoleInTheLedgerDelaysWhatIsBehindIt(t *testing.T) {
	w := newWorld(t, 60)
	w.seal("a", w.events(10, someMonth))
	w.store("a", w.events(10, someMonth))
	w.next["a"]++ // its entry is not visible
	w.seal("a", w.events(10, someMonth))
	r := w.runner(activity.Config{}, w)
	w.catchUp(r)
	w.count("batch = 1")
	if w.now = w.now.Add(20 * time.Second); r.Lag() != 20*time.Second {
		t.Errorf("%v behind", r.Lag())
	}
	w.catchUp(r)
	w.count("batch = 1")
	w.now = w.now.Add(20 * time.Second)
	w.catchUp(r)
	w.count("1")
}

func TestASettingThatIsWrongIsNamed(t *testing.T) {
	for want, c := range map[string]activity.Config{
		"activity: every is 1ms; use 100ms to 10m":                       {Every: time.Millisecond},
		"activity: a range of at most -1 batches; use 1 to 10000":        {MostBatches: -1},
		"activity: a range of at most 10000000 events; use 1 to 5000000": {MostEvents: 10_000_000},
		"activity: idle is 1s; use 1m or more":                           {Idle: time.Second},
	} {
		if _, err := activity.New(c, activity.Deps{}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
