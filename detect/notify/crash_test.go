package notify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

const eager = `
receivers:
  - {name: chat, slack: {url_file: k}}
  - {name: oncall, pagerduty: {routing_key_file: k}}
routes:
  - {receiver: oncall, continue: true, repeat_interval: 0, group_interval: 0, group_by: [rule]}
  - {receiver: chat, repeat_interval: 0, group_interval: 0}
`

// story is what happens in the tests below; what has to be heard of it is the same
// whatever fails.
func story(w *world) {
	w.find(1, detect.High)
	w.find(2, detect.Low)
	time.Sleep(time.Minute)
	w.worse(2, detect.High)
	w.step(1, "acknowledge", "ada")
	time.Sleep(time.Minute)
	w.resolve(1)
	w.find(3, detect.High, func(s *State) { s.Suppressed = true })
	time.Sleep(time.Minute)
	w.step(2, "close", "ada")
	time.Sleep(time.Minute)
}

// told is what a receiver knows at the end, by finding, and how often it heard each
// thing. At least once is promised, twice only where twice says so.
func (p *person) knows(twice int) {
	p.w.t.Helper()
	synctest.Wait()
	defer p.w.lock()()
	last, count := map[int]string{}, map[string]int{}
	for _, n := range p.full {
		for i := range n.Alerts {
			a := &n.Alerts[i]
			last[no(a.Finding.ID)] = fmt.Sprint(a.What, " ", a.Finding.Severity)
			count[fmt.Sprint(a.What, " ", no(a.Finding.ID))]++
		}
	}
	if want := "map[1:resolved high 2:resolved high]"; fmt.Sprint(last) != want {
		p.w.t.Errorf("%s knows %v, want %v: %q", p.name, last, want, p.got)
	}
	more := 0
	for _, n := range count {
		more += n - 1
	}
	if more > twice {
		p.w.t.Errorf("%s heard %d things twice: %q", p.name, more, p.got)
	}
}

// nothingWaits says that the outbox is empty.
func (w *world) nothingWaits() {
	w.t.Helper()
	defer w.lock()()
	for _, name := range []string{"oncall", "chat"} {
		for _, d := range w.deliveries(name, time.Time{}) {
			if len(d.Waiting) > 0 {
				w.t.Errorf("%s still has to be told %v", name, d.Waiting)
			}
		}
	}
}

var errAway = errors.New("the store is away")

// Each call of the store and of the feed fails once, in both forms: not applied, and
// applied but reported as failed.
func TestAFailureOfTheStoreAtEachStepLosesAndDoublesNothing(t *testing.T) {
	calls := 0
	inTime(t, func(t *testing.T, w *world) {
		w.start(eager).end()
		w.fail = func(string) (error, error) { calls++; return nil, nil }
		w.start(eager)
		story(w)
		w.person("oncall").knows(0)
		w.person("chat").knows(0)
	})
	if calls < 100 {
		t.Fatalf("the story has %d calls", calls)
	}
	for at := 1; at <= calls; at += 1 + at/40 { // most of them are looks at nothing
		for _, applied := range []bool{false, true} {
			inTime(t, func(t *testing.T, w *world) {
				w.start(eager).end() // somebody has read before
				n, failed := 0, ""
				w.fail = func(call string) (before, after error) {
					if n++; n != at {
						return nil, nil
					}
					if failed = call; applied {
						return nil, errAway
					}
					return errAway, nil
				}
				w.start(eager)
				story(w)
				time.Sleep(10 * time.Minute)
				w.person("oncall").knows(0)
				w.person("chat").knows(0)
				w.nothingWaits()
				if p, err := w.NotificationsRead(t.Context()); err != nil || p.Seq[""] != uint64(len(w.told)) {
					t.Errorf("%d of what was told are dealt with, %v; want %d", p.Seq[""], err, len(w.told))
				}
				if t.Failed() {
					t.Fatalf("call %d, %s, applied: %v", at, failed, applied)
				}
			})
		}
	}
}

// A process that is killed does nothing any more, whatever it has done before. What was
// sent and not recorded then is sent again: one message, with the same name.
func TestAProcessThatIsKilledAtAnyStepIsReplaced(t *testing.T) {
	for at := 1; at <= 130; at += 1 + at/30 {
		for _, applied := range []bool{false, true} {
			inTime(t, func(t *testing.T, w *world) {
				w.start(simple).end() // somebody has read before
				n := 0
				dead := make(chan struct{})
				w.fail = func(string) (before, after error) {
					if n++; n < at {
						return nil, nil
					}
					if n == at {
						close(dead)
						if applied {
							return nil, errAway
						}
					}
					return errAway, nil
				}
				first, err := New(planned(t, eager), w.deps())
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				over := make(chan struct{})
				go func() { defer close(over); _ = first.Run(ctx) }()
				finished := make(chan struct{})
				go func() { time.Sleep(time.Second); story(w); close(finished) }()
				select {
				case <-dead:
				case <-finished:
				}
				// Nothing of it reaches anybody from now on.
				w.person("oncall").down(errAway)
				w.person("chat").down(errAway)
				cancel()
				<-over
				w.mu.Lock()
				w.fail = nil
				w.mu.Unlock()
				w.person("oncall").down(nil)
				w.person("chat").down(nil)
				w.start(eager)
				<-finished
				time.Sleep(10 * time.Minute)
				w.person("oncall").knows(2)
				w.person("chat").knows(2)
				w.nothingWaits()
				if t.Failed() {
					t.Fatalf("call %d, applied: %v", at, applied)
				}
			})
		}
	}
}

// What was sent and could not be recorded has the same name when it is sent again.
func TestWhatIsSentAgainHasTheSameName(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		r := w.start(simple)
		w.mu.Lock()
		sent := false
		w.fail = func(call string) (error, error) {
			if sent = sent || len(w.people["oncall"].full) > 0; sent && call == "Append" {
				return errAway, nil
			}
			return nil, nil
		}
		w.mu.Unlock()
		w.person("oncall")
		w.find(1, detect.High)
		w.find(2, detect.High)
		time.Sleep(time.Minute)
		r.end()
		w.mu.Lock()
		w.fail = nil
		w.mu.Unlock()
		w.start(simple)
		time.Sleep(time.Minute)
		full := w.person("oncall").messages()
		if len(full) != 2 || full[0].ID != full[1].ID || len(full[1].Alerts) != 2 {
			t.Errorf("heard %q", w.person("oncall").lines())
		}
		if !w.logged("sent again at the next start") {
			t.Error("the log does not say so")
		}
	})
}

// A week's outage of a receiver, with more findings than are held in memory.
func TestWhatHasNoRoomInMemoryIsInTheStore(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		p := w.person("oncall")
		p.groups = true // no waits between messages
		p.down(errDown)
		const room, many = 600, 2000
		r := w.startWith(simple, func(r *Runner) { r.room = room })
		for n := range many {
			w.find(n+1, detect.Medium)
		}
		time.Sleep(time.Hour)
		if n, _ := r.Waiting("oncall"); n != room {
			t.Errorf("%d are held", n)
		}
		p.down(nil)
		time.Sleep(2 * time.Hour)
		seen := map[string]int{}
		for _, n := range p.messages() {
			for i := range n.Alerts {
				seen[n.Alerts[i].Finding.ID]++
			}
		}
		most := 0
		for _, n := range seen {
			most = max(most, n)
		}
		if len(seen) != many || most != 1 {
			t.Errorf("%d findings of %d were told, one of them %d times", len(seen), many, most)
		}
	})
}

func TestAnotherPlanIsPutInForce(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		r := w.start(simple)
		w.person("oncall").down(errDown)
		w.find(1, detect.High)
		time.Sleep(time.Minute)
		if err := r.Reload(planned(t, strings.ReplaceAll(simple, "oncall", "night"))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute + time.Second) // between two looks
		w.find(2, detect.High)
		time.Sleep(time.Minute)
		w.person("night").heard("+2m13s firing 2 high")
		w.person("oncall").down(nil)
		time.Sleep(time.Minute)
		w.person("oncall").heard() // nobody knows it any more
		if err := r.Reload(planned(t, eager)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := w.person("oncall").lines(); len(got) != 1 || !strings.HasSuffix(got[0], " firing 1 high") {
			t.Errorf("what waited for it: %q", got)
		}
	})
}

func TestOnlyTheLeaderTells(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		leader := "a"
		for _, name := range []string{"a", "b"} {
			d := w.deps()
			d.Leads = func() bool { defer w.lock()(); return leader == name }
			r, err := New(planned(t, strings.Replace(simple, "0}", "0, group_interval: 0}", 1)), d)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			over := make(chan struct{})
			go func() { defer close(over); _ = r.Run(ctx) }()
			t.Cleanup(func() { cancel(); <-over })
		}
		time.Sleep(time.Second)
		w.find(1, detect.High)
		time.Sleep(5 * time.Second)
		w.mu.Lock()
		leader = "b" // before the first has sent what it has queued
		w.mu.Unlock()
		time.Sleep(time.Minute)
		w.find(2, detect.High)
		time.Sleep(time.Minute)
		if got := w.person("oncall").lines(); len(got) != 2 || !strings.Contains(got[0], "firing 1") || !strings.Contains(got[1], "firing 2") {
			t.Errorf("heard %q", got)
		}
	})
}

func TestASampleGoesToWhoIsNamed(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		r, err := New(planned(t, eager), w.deps())
		if err != nil {
			t.Fatal(err)
		}
		w.person("chat").down(errors.New("connect to chat.example.com:\nrefused"))
		got, err := r.Test(t.Context(), nil)
		if err != nil || len(got) != 2 || got[0].OK || got[0].Error != "connect to chat.example.com: refused" || !got[1].OK || got[1].Status != 200 || got[1].Kind != "pagerduty" {
			t.Errorf("%+v, %v", got, err)
		}
		if n := w.person("oncall").messages(); len(n) != 1 || n[0].Alerts[0].What != message.Test || !strings.Contains(n[0].Alerts[0].Title, "test") {
			t.Errorf("%+v", n)
		}
		if got, err := r.Test(t.Context(), []string{"oncall"}); err != nil || len(got) != 1 || got[0].Receiver != "oncall" {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := r.Test(t.Context(), []string{"onkall"}); err == nil || err.Error() != `there is no receiver "onkall"; the nearest is "oncall"` {
			t.Error(err)
		}
		w.person("oncall").slow = time.Hour
		before := time.Now()
		if got, err := r.Test(t.Context(), []string{"oncall"}); err != nil || got[0].OK || time.Since(before) != testPatience {
			t.Errorf("%+v, %v after %s", got, err, time.Since(before))
		}
		var steps []string
		for _, row := range w.rows {
			steps = append(steps, row.Step+" "+row.What+" "+row.Receiver)
		}
		if want := []string{"failed test chat", "sent test oncall", "sent test oncall", "failed test oncall"}; !slices.Equal(steps, want) {
			t.Errorf("recorded %q", steps)
		}
		// Nobody takes it for something that has to be told.
		w.start(simple)
		time.Sleep(time.Minute)
		if len(w.person("oncall").messages()) != 2 {
			t.Error("a sample was sent by itself")
		}
	})
}
