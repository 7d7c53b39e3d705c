package notify

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/detect/notify/receiver"
)

// ahead moves all that was recorded into the future: the clock was ahead then.
func (w *world) ahead(by time.Duration) {
	defer w.lock()()
	for i := range w.rows {
		w.rows[i].At = w.rows[i].At.Add(by)
	}
}

// To count what is in the future against a limit or an interval would mute everything until
// then.
func TestAClockThatWasAheadSilencesNobody(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		const plan = `
receivers:
  - {name: oncall, pagerduty: {routing_key_file: k}}
routes:
  - {receiver: oncall, repeat_interval: 0, limit: 2, group_interval: 10m}
`
		r := w.start(plan)
		w.find(1, detect.High)
		time.Sleep(15 * time.Minute)
		w.find(2, detect.High)
		time.Sleep(15 * time.Minute)
		r.end()
		w.ahead(24 * time.Hour)
		time.Sleep(2 * time.Hour)
		w.person("oncall").got = nil
		w.start(plan)
		w.find(3, detect.High)
		time.Sleep(15 * time.Minute)
		if n := len(w.person("oncall").lines()); n != 1 {
			t.Errorf("limit: %d messages: %q", n, w.person("oncall").lines())
		}
		w.find(4, detect.High)
		time.Sleep(30 * time.Minute)
		if n := len(w.person("oncall").lines()); n != 2 {
			t.Errorf("group: %d messages: %q", n, w.person("oncall").lines())
		}
	})
}

func TestStepsAreReadAfterAClockWasAhead(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		r := w.start(simple)
		w.find(1, detect.High)
		time.Sleep(time.Minute)
		r.end()
		w.ahead(24 * time.Hour)
		w.start(simple)
		time.Sleep(time.Minute)
		w.step(1, "close", "ada")
		time.Sleep(time.Hour)
		if got := w.person("oncall").lines(); len(got) != 2 {
			t.Errorf("%q", got)
		}
	})
}

// With many that are open, or a slow receiver, all of them take longer to send than the
// time after which they are sent again.
func TestRefreshingDoesNotHoldUpNews(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		p := w.person("alerts")
		p.refresh, p.groups = time.Minute, true
		w.start(`
receivers:
  - {name: alerts, alertmanager: {url: 'http://127.0.0.1:9093'}}
routes:
  - {receiver: alerts}
`)
		for n := range 1000 {
			w.find(n+1, detect.Low)
		}
		time.Sleep(time.Minute)
		w.mu.Lock()
		p.slow = 4 * time.Second // 20 pages
		w.mu.Unlock()
		time.Sleep(10 * time.Minute)
		w.find(5000, detect.Critical)
		time.Sleep(30 * time.Minute)
		for _, l := range p.lines() {
			if strings.Contains(l, "firing 5000 critical") {
				t.Log(l[:20])
				return
			}
		}
		t.Error("nobody heard of 5000")
	})
}

// A filter in front of the receiver does not like one finding's texts.
func TestOneFindingThatIsRefusedDoesNotHoldUpTheOthers(t *testing.T) {
	for _, kind := range []string{"pagerduty: {routing_key_file: k}", "alertmanager: {url: 'http://127.0.0.1:9093'}", "slack: {url_file: k}"} {
		inTime(t, func(t *testing.T, w *world) {
			p := w.person("oncall")
			p.groups = strings.Contains(kind, "alertmanager")
			if p.groups {
				p.refresh = time.Minute
			}
			p.does(func(n *message.Notification) error {
				for i := range n.Alerts {
					if no(n.Alerts[i].Finding.ID) == 1 {
						return receiver.Refused{Status: 403}
					}
				}
				return nil
			})
			w.start("receivers:\n  - {name: oncall, " + kind + "}\nroutes:\n  - {receiver: oncall, repeat_interval: 0}\n")
			w.find(1, detect.Critical)
			for n := range 70 {
				w.find(n+2, detect.High)
			}
			time.Sleep(2 * time.Hour)
			heard := map[int]bool{}
			for _, n := range p.messages() {
				for i := range n.Alerts {
					heard[no(n.Alerts[i].Finding.ID)] = true
				}
			}
			if len(heard) != 70 && !strings.Contains(kind, "slack") || len(heard) < 40 {
				t.Errorf("%s: %d of 70 others were told", kind, len(heard))
			}
		})
	}
}

// Thousands of one tenant, more than there is room for, and then one of another.
func TestAFloodOfOneTenantDoesNotHoldUpAnother(t *testing.T) {
	for _, severity := range []detect.Severity{detect.Low, detect.Critical} {
		inTime(t, func(t *testing.T, w *world) {
			w.person("siem").down(errDown)
			w.startWith(`
receivers:
  - {name: siem, webhook: {url: 'https://x', secret_file: k}}
routes:
  - {receiver: siem, repeat_interval: 0}
`, func(r *Runner) { r.room = 1000 })
			for n := range 6000 {
				w.find(n+1, severity)
			}
			time.Sleep(time.Minute)
			w.find(9000, detect.Critical, func(s *State) { s.Finding.Tenant = "other" })
			time.Sleep(time.Minute)
			w.person("siem").down(nil)
			began := time.Now()
			for time.Since(began) < 12*time.Hour {
				time.Sleep(10 * time.Minute)
				for _, l := range w.person("siem").lines() {
					if strings.Contains(l, "firing 9000 ") {
						if since := time.Since(began); since > 25*time.Minute {
							t.Errorf("%s: other tenant told after %s", severity, since)
						}
						return
					}
				}
			}
			t.Errorf("%s: other tenant not told in 12h", severity)
		})
	}
}

func TestWhatIsSuppressedOrClosedMeanwhileIsNotTold(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		p := w.person("oncall")
		p.down(errDown)
		w.start(simple)
		w.find(1, detect.High)
		w.find(2, detect.High)
		time.Sleep(time.Minute)
		w.mu.Lock()
		s := *w.states[idNo(1)]
		s.Suppressed = true
		w.states[idNo(1)] = &s
		w.mu.Unlock()
		w.step(2, "close", "ada")
		time.Sleep(time.Minute)
		p.down(nil)
		time.Sleep(time.Hour)
		p.heard()
	})
}

func TestWhatIsSuppressedIsNotToldAgain(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.start(strings.Replace(simple, "repeat_interval: 0", "repeat_interval: 1h", 1))
		w.find(1, detect.High)
		time.Sleep(time.Minute)
		w.mu.Lock()
		s := *w.states[idNo(1)]
		s.Suppressed = true
		w.states[idNo(1)] = &s
		w.mu.Unlock()
		time.Sleep(5 * time.Hour)
		w.person("oncall").heard("+12s firing 1 high")
	})
}

// lagging is a feed of a replica that lacks for a time what others have.
type lagging struct {
	*world
	until time.Time
}

func (l *lagging) Newest(ctx context.Context, ids []string) ([]State, error) {
	if time.Now().Before(l.until) {
		return nil, nil
	}
	return l.world.Newest(ctx, ids)
}

// The first lags when it is decided what to say, the second when it is said.
func TestAReplicaThatLagsLosesNothing(t *testing.T) {
	for i, lag := range []time.Duration{5 * time.Second, 14 * time.Second} {
		inTime(t, func(t *testing.T, w *world) {
			d := w.deps()
			f := &lagging{world: w}
			d.Feed = f
			r, err := New(planned(t, simple), d)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan struct{})
			go func() { defer close(over); _ = r.Run(ctx) }()
			defer func() { cancel(); <-over }()
			time.Sleep(time.Second)
			w.find(1, detect.High)
			if i == 0 {
				f.until = time.Now().Add(lag)
			} else {
				time.Sleep(5 * time.Second)
				f.until = time.Now().Add(lag)
			}
			time.Sleep(time.Hour)
			if len(w.person("oncall").lines()) != 1 {
				t.Errorf("%d: %q, skipped %q", i, w.person("oncall").lines(), w.why("skipped"))
			}
		})
	}
}

// The rows of a finding are its tenant's to read; where the operator's receiver is, is not.
func TestWhatFailedDoesNotSayWhereTheReceiverIs(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.person("oncall").down(errors.New("tell webhook at siem.internal:8443: nothing listens there; check whether it runs, and the port"))
		w.start(simple)
		w.find(1, detect.High)
		time.Sleep(time.Minute)
		if why := w.why("failed"); len(why) != 1 || why[0] != "oncall 1 firing: nothing listens there; check whether it runs, and the port" {
			t.Errorf("recorded %q", why)
		}
		if !w.logged("siem.internal:8443") {
			t.Error("the log does not say where")
		}
	})
}

func TestAReceiverThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		for _, name := range []string{"oncall", "chat"} {
			w.person(name).slow = time.Hour
		}
		r := w.start(eager)
		w.find(1, detect.High)
		time.Sleep(20 * time.Second)
		began := time.Now()
		r.end()
		if took := time.Since(began); took > lastWords {
			t.Errorf("it took %s", took)
		}
	})
}
