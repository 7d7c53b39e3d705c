package notify

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/detect/notify/receiver"
)

var errDown = errors.New("connect to the receiver: nobody answers")

func TestAFindingIsToldOnceAndThatItIsOver(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.start(simple)
		time.Sleep(time.Minute)
		w.find(1, detect.High)
		time.Sleep(time.Minute)
		w.grows(1) // nothing that anybody has to hear
		time.Sleep(10 * time.Minute)
		w.worse(1, detect.Critical)
		time.Sleep(10 * time.Minute)
		w.step(1, "acknowledge", "ada")
		time.Sleep(10 * time.Minute)
		w.resolve(1)
		time.Sleep(time.Hour)
		w.person("oncall").heard("+1m12s firing 1 high", "+12m12s worse 1 critical (told high)", "+22m12s acknowledged 1 critical (told critical) by ada", "+32m12s resolved 1 critical (told critical)")
		if n := w.count("sent"); n != 4 || w.count("queued") != 4 {
			t.Errorf("%d rows sent, %d queued", n, w.count("queued"))
		}
	})
}

func TestNobodyIsToldOfThePast(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.find(1, detect.High)
		r := w.start(simple)
		time.Sleep(time.Minute)
		w.grows(1)
		w.find(2, detect.High, func(s *State) { s.History = true })
		time.Sleep(time.Minute)
		w.person("oncall").heard()
		// While the service is down something is found: that is news when it is back.
		r.end()
		w.find(3, detect.High)
		time.Sleep(time.Hour)
		w.start(simple)
		time.Sleep(time.Minute)
		w.person("oncall").heard("+1h2m11s firing 3 high")
		w.worse(1, detect.Critical)
		time.Sleep(10 * time.Minute)
		w.person("oncall").heard("+1h2m11s firing 3 high", "+1h7m11s firing 1 critical")
	})
}

// The first start of a store without findings is one, too.
func TestWhatIsFoundAfterAnEmptyStartIsTold(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.start(simple).end()
		w.find(1, detect.High)
		w.start(simple)
		time.Sleep(time.Minute)
		w.person("oncall").heard("+11s firing 1 high")
	})
}

// What is found between the beginning and the first look is news: detectors are quick.
func TestWhatIsFoundBeforeTheFirstLookIsTold(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.find(1, detect.High)
		w.startWith(simple, func(r *Runner) {
			if err := r.Begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.find(2, detect.High)
		})
		time.Sleep(time.Minute)
		w.person("oncall").heard("+10s firing 2 high")
	})
}

func TestWhatIsSuppressedOrClosedIsNotTold(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.start(simple)
		time.Sleep(time.Minute)
		w.find(1, detect.High, func(s *State) { s.Suppressed = true })
		w.find(2, detect.High, func(s *State) { s.Triage = TriageClosed })
		w.find(3, detect.High, func(s *State) { s.Suppressed = true })
		time.Sleep(time.Minute)
		w.resolve(1)
		w.resolve(2)
		time.Sleep(time.Minute)
		w.person("oncall").heard()
		if why := w.why("skipped"); len(why) != 2 || why[0] != "oncall 1 firing: a suppression covers the finding" {
			t.Errorf("skipped %q", why)
		}
		// The suppression ends, and it goes on.
		w.tell(3, func(s *State) { s.Suppressed = false })
		time.Sleep(time.Minute)
		w.person("oncall").heard("+3m12s firing 3 high")
	})
}

// A runner that lost its memory repeats itself as history: what was news is news all the
// same.
func TestNewsThatIsRepeatedAsHistoryIsTold(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.start(simple)
		w.find(1, detect.High)
		w.tell(1, func(s *State) { s.History = true })
		w.find(2, detect.High, func(s *State) { s.History = true })
		time.Sleep(time.Minute)
		w.step(2, "close", "ada")
		time.Sleep(time.Minute)
		w.step(2, "reopen", "ada") // nobody was told, and whoever does so knows
		time.Sleep(time.Minute)
		w.person("oncall").heard("+12s firing 1 high")
	})
}

func TestClosingEndsItAndReopeningTellsItAgain(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.start(strings.Replace(simple, "0}", "0, group_interval: 0}", 1))
		w.find(1, detect.High)
		time.Sleep(time.Minute)
		w.step(1, "close", "ada")
		time.Sleep(time.Minute)
		w.step(1, "reopen", "bob")
		time.Sleep(time.Minute)
		w.step(1, "close", "bob")
		time.Sleep(time.Minute)
		w.worse(1, detect.Critical) // that was not meant
		time.Sleep(time.Minute)
		w.person("oncall").heard("+12s firing 1 high", "+1m12s resolved 1 high (told high) by ada", "+2m12s firing 1 high", "+3m12s resolved 1 high (told high) by bob", "+4m12s firing 1 critical")
		ids := map[string]bool{}
		for _, n := range w.person("oncall").messages() {
			ids[n.ID] = true
		}
		if len(ids) != 5 {
			t.Errorf("%d messages have %d names", len(w.person("oncall").messages()), len(ids))
		}
	})
}

const two = `
receivers:
  - {name: chat, slack: {url_file: k}}
  - {name: oncall, pagerduty: {routing_key_file: k}}
routes:
  - {receiver: oncall, severity: critical, repeat_interval: 0, group_interval: 0}
  - {receiver: chat, severity: low, repeat_interval: 0, group_interval: 0}
`

// Who was told hears the rest of it, also when it goes to somebody else by now.
func TestWhatBecomesWorseGoesToTheNextReceiver(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.start(two)
		w.find(1, detect.Medium)
		w.find(2, detect.Info)
		time.Sleep(time.Minute)
		w.worse(1, detect.Critical)
		time.Sleep(time.Minute)
		w.resolve(1)
		time.Sleep(time.Minute)
		w.person("chat").heard("+12s firing 1 medium", "+1m12s worse 1 critical (told medium)", "+2m12s resolved 1 critical (told critical)")
		w.person("oncall").heard("+1m12s firing 1 critical", "+2m12s resolved 1 critical (told critical)")
	})
}

func TestADeadReceiverDelaysOnlyItselfAndLosesNothing(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		r := w.start(strings.Replace(two, "low, ", "low, continue: true, ", 1) + "  - {receiver: oncall, repeat_interval: 0}\n")
		oncall := w.person("oncall")
		oncall.down(errDown)
		for n := range 40 {
			w.find(n+1, detect.Medium)
		}
		time.Sleep(time.Hour)
		if n := len(w.person("chat").lines()); n != 1 {
			t.Errorf("chat heard %d messages of 40 findings of one group", n)
		}
		for n := range 20 {
			w.worse(n+1, detect.High)
		}
		for n := range 10 {
			w.resolve(n + 1)
		}
		time.Sleep(time.Hour)
		if n, since := r.Waiting("oncall"); n != 40 || time.Since(since) < 119*time.Minute {
			t.Errorf("%d wait since %s", n, since)
		}
		failed := w.count("failed")
		if failed < 10 || failed > 30 {
			t.Errorf("%d failures are recorded of two hours", failed)
		}
		oncall.heard()
		oncall.down(nil)
		time.Sleep(12 * time.Minute)
		if len(oncall.messages()) != 1 || len(oncall.messages()[0].Alerts) != 40 {
			t.Fatalf("%d messages", len(oncall.messages()))
		}
		seen := map[string]int{}
		for _, a := range oncall.messages()[0].Alerts {
			seen[fmt.Sprint(a.What, " ", a.Finding.Severity, " ", a.Told)]++
		}
		if want := "map[firing high :10 firing medium :20 resolved high :10]"; fmt.Sprint(seen) != want {
			t.Errorf("%v, want %v", seen, want)
		}
		time.Sleep(time.Hour)
		if len(oncall.messages()) != 1 {
			t.Errorf("it was told again: %q", oncall.lines())
		}
	})
}

func TestARefusedMessageDoesNotHoldUpOthersForGood(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		oncall := w.person("oncall")
		oncall.does(func(n *message.Notification) error {
			if no(n.Alerts[0].Finding.ID) == 1 {
				return receiver.Refused{Status: 400}
			}
			return nil
		})
		w.start(simple)
		w.find(1, detect.High)
		time.Sleep(20 * time.Second)
		w.find(2, detect.High, func(s *State) { s.Finding.Rule = "other" })
		time.Sleep(3 * time.Minute)
		if len(oncall.lines()) != 1 || !strings.HasSuffix(oncall.lines()[0], "firing 2 high") {
			t.Errorf("heard %q", oncall.lines())
		}
		time.Sleep(time.Hour)
		if n := w.errors(); n == 0 || n > 12 {
			t.Errorf("%d errors on the log", n)
		}
		oncall.down(nil)
		time.Sleep(15 * time.Minute)
		if len(oncall.lines()) != 2 || !strings.HasSuffix(oncall.lines()[1], "firing 1 high") {
			t.Errorf("heard %q", oncall.lines())
		}
	})
}

func TestAReceiverThatWantsToBeLeftAloneIs(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		tries := 0
		w.person("oncall").does(func(*message.Notification) error {
			if tries++; tries == 1 {
				return receiver.Later{After: 17 * time.Minute, Status: 429}
			}
			return nil
		})
		w.start(simple)
		w.find(1, detect.High)
		time.Sleep(time.Hour)
		w.person("oncall").heard("+17m12s firing 1 high")
	})
}

func TestAGroupIsOneMessage(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.start(`
receivers:
  - {name: chat, slack: {url_file: k}}
routes:
  - {receiver: chat, repeat_interval: 0, group_by: [tenant], group_wait: 30s, group_interval: 10m}
`)
		for n := range 70 {
			w.find(n+1, detect.Medium)
		}
		w.find(71, detect.Critical)
		w.find(72, detect.Low, func(s *State) { s.Finding.Tenant = "other" })
		time.Sleep(time.Minute)
		w.find(73, detect.Low)
		time.Sleep(time.Minute)
		w.find(74, detect.Low)
		time.Sleep(20 * time.Minute)
		p := w.person("chat")
		if len(p.messages()) != 3 {
			t.Fatalf("%d messages: %q", len(p.messages()), p.lines())
		}
		var big *message.Notification
		for _, n := range p.messages()[:2] {
			if n.Labels["tenant"] == "acme" {
				big = n
			}
		}
		if big == nil || len(big.Alerts) != 50 || big.Left != 21 || big.Alerts[0].Finding.Severity != detect.Critical || big.Group != "tenant=acme" {
			t.Errorf("%+v", big)
		}
		if p.lines()[2] != "+10m32s firing 73 low; firing 74 low" {
			t.Errorf("then %q", p.lines()[2])
		}
		if n := w.count("sent"); n != 74 {
			t.Errorf("%d are recorded as sent", n)
		}
	})
}

// To a machine each alert matters: nothing is left out.
func TestAMachineIsToldOfAll(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.start(simple)
		for n := range 120 {
			w.find(n+1, detect.Medium)
		}
		time.Sleep(time.Minute)
		var sizes []int
		for _, n := range w.person("oncall").messages() {
			sizes = append(sizes, len(n.Alerts)+1000*n.Left)
		}
		if !slices.Equal(sizes, []int{50, 50, 20}) {
			t.Errorf("messages have %v alerts", sizes)
		}
	})
}

const limited = `
receivers:
  - {name: chat, slack: {url_file: k}}
routes:
  - {receiver: chat, repeat_interval: 0, group_by: [principal], group_wait: 0, limit: 2}
`

func TestWhatIsBeyondTheLimitComesTogether(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		r := w.start(limited)
		find := func(n int) {
			w.find(n, detect.High, func(s *State) { s.Finding.Principal = fmt.Sprint("user:", n) })
			time.Sleep(time.Minute)
		}
		for n := range 6 {
			find(n + 1)
		}
		w.person("chat").heard("+2s firing 1 high", "+1m2s firing 2 high")
		r.end()
		w.start(limited) // it still knows
		for n := range 3 {
			find(n + 7)
		}
		time.Sleep(time.Hour)
		got := w.person("chat").lines()
		if len(got) != 3 || strings.Count(got[2], "firing") != 7 || !strings.HasPrefix(got[2], "+1h0m2s ") {
			t.Errorf("heard %q", got)
		}
	})
}

func TestQuietHoursHoldBackWhatIsOverBeforeTheyAre(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) { // it is midnight
		w.start(`
time_intervals:
  - name: nights
    time_intervals: [{times: [{start_time: '00:30', end_time: '06:00'}]}]
receivers:
  - {name: oncall, pagerduty: {routing_key_file: k}}
routes:
  - {receiver: oncall, repeat_interval: 0, mute_time_intervals: [nights]}
`)
		w.find(1, detect.High)
		time.Sleep(40 * time.Minute)
		w.find(2, detect.High)
		w.find(3, detect.High)
		time.Sleep(time.Hour)
		w.resolve(1)
		w.resolve(2)
		w.worse(3, detect.Critical)
		time.Sleep(4 * time.Hour)
		w.person("oncall").heard("+12s firing 1 high")
		time.Sleep(time.Hour)
		w.person("oncall").heard("+12s firing 1 high", "+6h0m0s firing 3 critical; resolved 1 high (told high)")
		if why := w.why("skipped"); !slices.Contains(why, "oncall 2 resolved: over before the quiet hours were") {
			t.Errorf("skipped %q", why)
		}
	})
}

func TestWhatNobodyTakesUpIsToldAgain(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		plan := strings.Replace(simple, "repeat_interval: 0", "repeat_interval: 1h", 1)
		r := w.start(plan)
		w.find(1, detect.High)
		w.find(2, detect.High)
		w.find(3, detect.High)
		time.Sleep(50 * time.Minute)
		w.step(2, "acknowledge", "ada")
		w.resolve(3)
		time.Sleep(40 * time.Minute)
		r.end()
		w.start(plan)
		time.Sleep(time.Hour)
		w.step(1, "close", "ada")
		time.Sleep(6 * time.Hour)
		p := w.person("oncall")
		var got []string
		for _, line := range p.lines() {
			if strings.Contains(line, "firing") {
				got = append(got, line)
			}
		}
		if len(got) != 3 || !strings.HasPrefix(got[1], "+1h0m2") || !strings.HasSuffix(got[1], "s firing 1 high (told high)") || !strings.HasSuffix(got[2], " firing 1 high (told high)") {
			t.Errorf("heard %q", p.lines())
		}
	})
}

// Alertmanager forgets what it does not hear of.
func TestWhatIsOpenIsSentAgainWhereThatIsWanted(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		p := w.person("alerts")
		p.refresh, p.groups = time.Minute, true
		const plan = `
receivers:
  - {name: alerts, alertmanager: {url: 'http://127.0.0.1:9093'}}
routes:
  - {receiver: alerts}
`
		r := w.start(plan)
		w.find(1, detect.High)
		time.Sleep(150 * time.Second)
		p.heard("+2s firing 1 high", "+1m0s firing 1 high (told high)", "+2m0s firing 1 high (told high)")
		w.worse(1, detect.Critical)
		time.Sleep(10 * time.Second)
		rows := w.count("sent")
		r.end()
		p.got = nil
		w.start(plan)
		time.Sleep(90 * time.Second)
		p.heard("+2m41s firing 1 critical (told critical)", "+3m41s firing 1 critical (told critical)")
		w.resolve(1)
		time.Sleep(10 * time.Minute)
		p.heard("+2m41s firing 1 critical (told critical)", "+3m41s firing 1 critical (told critical)", "+4m13s resolved 1 critical (told critical)")
		if n := w.count("sent"); rows != 2 || n != 3 {
			t.Errorf("%d and then %d are recorded as sent: what is sent again is not", rows, n)
		}
	})
}
