package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/notify/message"
	"github.com/mcpaudit/mcpaudit/detect/notify/receiver"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// world is findings, what people do about them, an outbox, and receivers, in memory. It
// outlives the runners of a test. Its outbox does what the tables' does, which
// query/findings tests with the real one.
type world struct {
	t     *testing.T
	begun time.Time

	mu     sync.Mutex
	rows   []store.Notification
	seen   map[string]bool // inserts that the table knows
	told   []toldNow
	states map[string]*State
	steps  []Step
	fail   func(call string) (before, after error) // nil: nothing fails
	people map[string]*person
	log    strings.Builder
}

type toldNow struct {
	id      string
	version uint32
	news    bool
}

// person is a receiver.
type person struct {
	w       *world
	name    string
	refuses func(n *message.Notification) error // nil: takes all
	refresh time.Duration
	groups  bool
	slow    time.Duration
	got     []string
	full    []*message.Notification
}

func newWorld(t *testing.T) *world {
	return &world{t: t, begun: time.Now(), seen: map[string]bool{}, states: map[string]*State{}, people: map[string]*person{}}
}

func (w *world) lock() func() { w.mu.Lock(); return w.mu.Unlock }

func idNo(n int) string { return fmt.Sprintf("%08x-0000-8000-8000-%012x", n, n) }

func no(id string) (n int) {
	_, _ = fmt.Sscanf(id[24:], "%x", &n)
	return n
}

// find tells the first version of a finding.
func (w *world) find(n int, severity detect.Severity, change ...func(*State)) {
	defer w.lock()()
	at := time.Now().UnixMicro()
	s := &State{Triage: TriageNew, Finding: detect.Finding{ID: idNo(n), Version: 1, Rule: "call-spike", Detector: "call_spike", Severity: severity,
		Reason: "many calls", Observed: "142 calls", Expected: "3 to 11", Workings: []detect.Working{{Name: "calls", Value: "142"}},
		Subject: detect.Subject{Tenant: "acme", Principal: "user:ada", Server: "crm"}, StartedAt: at, LastSeenAt: at, OpenedAt: at, State: detect.Open}}
	for _, c := range change {
		c(s)
	}
	w.states[idNo(n)] = s
	w.told = append(w.told, toldNow{idNo(n), 1, !s.History})
}

// tell tells another version of it.
func (w *world) tell(n int, change func(*State)) {
	defer w.lock()()
	s := *w.states[idNo(n)]
	before := s.Finding.Severity
	s.Finding.Version++
	change(&s)
	if s.Triage == TriageClosed && s.Finding.Severity > before {
		s.Triage = TriageNew
	}
	w.states[idNo(n)] = &s
	w.told = append(w.told, toldNow{idNo(n), s.Finding.Version, s.Finding.Severity > before})
}

func (w *world) worse(n int, to detect.Severity) {
	w.tell(n, func(s *State) { s.Finding.Severity = to })
}
func (w *world) grows(n int) { w.tell(n, func(s *State) { s.Finding.Events++ }) }
func (w *world) resolve(n int) {
	w.tell(n, func(s *State) { s.Finding.State, s.Finding.EndedAt = detect.Resolved, s.Finding.LastSeenAt })
}

// step is something that somebody does about it.
func (w *world) step(n int, name, by string) {
	defer w.lock()()
	s := *w.states[idNo(n)]
	s.Triage, s.By = map[string]string{"acknowledge": TriageSeen, "close": TriageClosed, "reopen": TriageNew}[name], by
	if name == "close" {
		s.Verdict = "benign"
	}
	w.states[idNo(n)] = &s
	w.steps = append(w.steps, Step{ID: uuid.New(), Finding: idNo(n), At: time.Now(), Name: name})
}

// What follows is the feed.

func (w *world) ask(call string, do func() error) error {
	defer w.lock()()
	var before, after error
	if w.fail != nil {
		before, after = w.fail(call)
	}
	if before != nil {
		return before
	}
	if err := do(); err != nil {
		return err
	}
	return after
}

func (w *world) Last(context.Context) (out map[string]uint64, err error) {
	err = w.ask("Last", func() error {
		out = map[string]uint64{}
		if len(w.told) > 0 {
			out[""] = uint64(len(w.told))
		}
		return nil
	})
	return out, err
}

func (w *world) After(_ context.Context, positions map[string]uint64, most int) (out []Touch, next map[string]uint64, err error) {
	err = w.ask("After", func() error {
		next = maps.Clone(positions)
		from := int(positions[""])
		to := min(len(w.told), from+most)
		for _, x := range w.told[from:to] {
			out = append(out, Touch{Finding: x.id, Version: x.version, News: x.news})
		}
		if to > from {
			next[""] = uint64(to)
		}
		return nil
	})
	return out, next, err
}

func (w *world) Steps(_ context.Context, since time.Time, most int) (out []Step, err error) {
	err = w.ask("Steps", func() error {
		for _, s := range w.steps {
			if !s.At.Before(since) && len(out) < most {
				out = append(out, s)
			}
		}
		return nil
	})
	return out, err
}

func (w *world) Newest(_ context.Context, ids []string) (out []State, err error) {
	err = w.ask("Newest", func() error {
		for _, id := range ids {
			if s := w.states[id]; s != nil {
				out = append(out, *s)
			}
		}
		return nil
	})
	return out, err
}

// What follows are the receivers.

func (p *person) Refresh() time.Duration { return p.refresh }
func (p *person) Groups() bool           { return p.groups }

func (p *person) Send(ctx context.Context, n *message.Notification) (int, error) {
	if p.slow > 0 {
		pause(ctx, p.slow, nil)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	defer p.w.lock()()
	if len(n.Alerts) == 0 {
		p.w.t.Error("a message is empty")
	}
	if p.refuses != nil {
		if err := p.refuses(n); err != nil {
			return 503, err
		}
	}
	var parts []string
	for i := range n.Alerts {
		a := &n.Alerts[i]
		s := fmt.Sprintf("%s %d %s", a.What, no(a.Finding.ID), a.Finding.Severity)
		if a.Told != detect.None {
			s += " (told " + a.Told.String() + ")"
		}
		if a.By != "" {
			s += " by " + a.By
		}
		parts = append(parts, s)
	}
	line := fmt.Sprintf("+%s %s", time.Since(p.w.begun).Round(time.Second), strings.Join(parts, "; "))
	if n.Left > 0 {
		line += fmt.Sprintf("; and %d more", n.Left)
	}
	p.got, p.full = append(p.got, line), append(p.full, n)
	return 200, nil
}

// person is the receiver of a name.
func (w *world) person(name string) *person {
	defer w.lock()()
	p := w.people[name]
	if p == nil {
		p = &person{w: w, name: name}
		w.people[name] = p
	}
	return p
}

// down makes a receiver fail, or work again for nil.
func (p *person) down(err error) {
	defer p.w.lock()()
	p.refuses = nil
	if err != nil {
		p.refuses = func(*message.Notification) error { return err }
	}
}

// lines are what it has heard so far, and messages the messages.
func (p *person) lines() []string {
	synctest.Wait()
	defer p.w.lock()()
	return slices.Clone(p.got)
}

func (p *person) messages() []*message.Notification {
	synctest.Wait()
	defer p.w.lock()()
	return slices.Clone(p.full)
}

// does makes a receiver answer in a way of its own.
func (p *person) does(f func(*message.Notification) error) {
	defer p.w.lock()()
	p.refuses = f
}

// errors counts the errors on the log.
func (w *world) errors() int {
	defer w.lock()()
	return strings.Count(w.log.String(), "level=ERROR")
}

// logged says whether the log has a text.
func (w *world) logged(text string) bool {
	defer w.lock()()
	return strings.Contains(w.log.String(), text)
}

// heard checks all that a receiver has got so far.
func (p *person) heard(want ...string) {
	p.w.t.Helper()
	synctest.Wait()
	defer p.w.lock()()
	if !slices.Equal(p.got, want) {
		p.w.t.Errorf("%s heard\n\t%s\nwant\n\t%s", p.name, strings.Join(p.got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// count is how many rows there are of a step.
func (w *world) count(step string) (n int) {
	defer w.lock()()
	for _, r := range w.rows {
		if r.Step == step {
			n++
		}
	}
	return n
}

// why are the reasons of rows of a step.
func (w *world) why(step string) (out []string) {
	defer w.lock()()
	for _, r := range w.rows {
		if r.Step == step {
			out = append(out, fmt.Sprintf("%s %d %s: %s", r.Receiver, no(r.FindingID.String()), r.What, r.Error))
		}
	}
	return out
}

// silent is an observer.
type silent struct{}

func (silent) Queued(string, int)                 {}
func (silent) Sent(string, int, time.Duration)    {}
func (silent) Failed(string)                      {}
func (silent) Skipped(string, int)                {}
func (silent) Waiting(string, int, time.Duration) {}
func (silent) StoreFailed()                       {}

func (w *world) deps() Deps {
	return Deps{Feed: w, Store: w, Now: time.Now, Log: slog.New(slog.NewTextHandler(lockedWriter{w}, nil)), Watch: silent{},
		Open: func(s receiver.Settings) (Sender, error) { return w.person(s.URL), nil }}
}

type lockedWriter struct{ w *world }

func (l lockedWriter) Write(b []byte) (int, error) {
	defer l.w.lock()()
	return l.w.log.Write(b)
}

var _ io.Writer = lockedWriter{}

// planned reads a plan whose receivers are persons of the same name.
func planned(t testing.TB, text string) *Plan {
	t.Helper()
	p, err := parse([]byte(text), func(string, string) (string, error) { return "secret", nil })
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.Receivers {
		p.Receivers[i].Settings.URL = p.Receivers[i].Name
	}
	return p
}

// running is a runner at work.
type running struct {
	*Runner
	end func()
}

// start starts a runner over a plan; it ends at the latest with the test.
func (w *world) start(text string) *running {
	w.t.Helper()
	return w.startWith(text, func(*Runner) {})
}

func (w *world) startWith(text string, change func(*Runner)) *running {
	w.t.Helper()
	r, err := New(planned(w.t, text), w.deps())
	if err != nil {
		w.t.Fatal(err)
	}
	change(r)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		if err := r.Run(ctx); !errors.Is(err, context.Canceled) {
			w.t.Errorf("run: %v", err)
		}
	}()
	x := &running{r, sync.OnceFunc(func() { cancel(); <-over })}
	w.t.Cleanup(x.end)
	// From here on it looks every two seconds: what a test does, it does in between.
	synctest.Wait()
	time.Sleep(time.Second)
	return x
}

// inTime runs a test whose clock stands while something is done.
func inTime(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

const simple = `
receivers:
  - {name: oncall, pagerduty: {routing_key_file: k}}
routes:
  - {receiver: oncall, repeat_interval: 0}
`
