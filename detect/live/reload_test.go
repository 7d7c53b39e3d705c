package live

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/store"
)

// reloadNow is Reload with a runner that a test moves by hand.
func (a *actor) reloadNow(rules []detect.Rule) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Reload(ctx, rules) }()
	for {
		select {
		case h := <-a.handover:
			h.done <- a.take(ctx, h)
		case err := <-done:
			if err != nil {
				a.t.Fatal(err)
			}
			return
		}
	}
}

// of are the rows that the store has of some rule.
func (a *actor) of(rule string) (out []store.Finding) {
	a.t.Helper()
	rows, err := a.stage.Query(a.t.Context(), store.Limits{}, "SELECT "+store.FindingColumns+" FROM findings ORDER BY seq")
	if err != nil {
		a.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		f, err := store.ScanFinding(rows)
		if err != nil {
			a.t.Fatal(err)
		}
		if f.Rule == rule {
			out = append(out, *f)
		}
	}
	return out
}

func text(rows []store.Finding, from int64) (out []string) {
	for _, f := range rows {
		if f.OpenedAt > from {
			out = append(out, f.ID+" "+f.State+" "+f.Reason)
		}
	}
	return out
}

func TestReloadKeepsWhatIsTheSameAndWarmsUpWhatIsNew(t *testing.T) {
	const at = 12
	h := newTheatre(t, 7, 24)
	rules := testRules()
	for name, change := range map[string]func() []detect.Rule{
		"nothing changes": func() []detect.Rule { return rules },
		"a rule is new":   func() []detect.Rule { return rules },
		"a rule changed and another is gone": func() []detect.Rule {
			changed := rules[0]
			changed.Digest = "2"
			return []detect.Rule{changed}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := h.empty(t)
			first := rules
			if name == "a rule is new" {
				first = rules[1:]
			}
			a := act(t, s, Config{Rules: first, SaveEvery: time.Hour})
			a.play(h.script, 0, at)
			open := 0
			for _, n := range openOf(a) {
				open += n
			}
			when := a.clock
			a.reloadNow(change())
			a.play(h.script, at, 24)
			switch name {
			case "nothing changes":
				compare(t, name, stored(t, h.store), h.want)
			case "a rule is new":
				// It finds what it would have found if it had been there, and tells only what
				// began since.
				reference := a.of("crowd")
				for _, f := range reference {
					if f.OpenedAt <= when {
						t.Errorf("%s opened before the rule was in force, and is told", f.ID)
					}
				}
				got := text(reference, when)
				s = h.empty(t)
				b := act(t, s, Config{Rules: rules})
				b.play(h.script, 0, 24)
				compare(t, name, got, text(b.of("crowd"), when))
				if len(got) == 0 {
					t.Error("it finds nothing: the test is of no use")
				}
			default:
				if open == 0 {
					t.Error("nothing was open: the test is of no use")
				}
				for rule, n := range openOf(a) {
					if n != 0 {
						t.Errorf("%d findings of rule %s stay open", n, rule)
					}
				}
				ended := 0
				for _, f := range append(a.of("hush"), a.of("crowd")...) {
					if strings.Contains(f.Reason, "(Ended because its rule was changed or removed.)") {
						ended++
						if f.State != detect.Resolved || f.EndedAt != f.LastSeenAt {
							t.Errorf("%+v", f)
						}
					}
				}
				if ended != open {
					t.Errorf("%d findings were open, %d are ended", open, ended)
				}
			}
		})
	}
}

// openOf counts the open findings of each rule.
func openOf(a *actor) map[string]int {
	open, err := a.stage.OpenFindings(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	n := map[string]int{}
	for _, f := range open {
		n[f.Rule]++
	}
	return n
}

// Rules that were changed while the service was down.
func TestRulesThatAreNewAtAStartAreWarmedUpWhileTheOthersGoOn(t *testing.T) {
	const at = 12
	h := newTheatre(t, 7, 24)
	s := h.empty(t)
	a := act(t, s, Config{Rules: testRules()[1:], SaveEvery: time.Millisecond})
	a.play(h.script, 0, at)
	when := a.clock
	a = act(t, s, Config{SaveEvery: time.Millisecond})
	if len(a.rules) != 1 || a.rules[0].Name != "hush" {
		t.Fatalf("%d rules are in force from the start", len(a.rules))
	}
	a.step()
	a.reloadNow(a.cfg.Rules) // as Run does
	a.play(h.script, at, 24)
	got := text(a.of("crowd"), when)
	hush := text(a.of("hush"), 0)
	s = h.empty(t)
	b := act(t, s, Config{})
	b.play(h.script, 0, 24)
	compare(t, "the new rule", got, text(b.of("crowd"), when))
	compare(t, "the old rule", hush, text(b.of("hush"), 0))
}

func TestAReloadThatIsGivenUpChangesNothing(t *testing.T) {
	h := newTheatre(t, 5, 8)
	s := h.empty(t)
	a := act(t, s, Config{})
	a.play(h.script, 0, 4)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Reload(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
	changed := testRules()
	changed[0].Digest = "2"
	s.fails = func(method string) mode {
		if method == "EventsOf" {
			return notApplied
		}
		return works
	}
	if err := a.Reload(t.Context(), changed); !errors.Is(err, errAway) {
		t.Errorf("it ends with %v", err)
	}
	s.fails = nil
	a.play(h.script, 4, 8)
	compare(t, "after two reloads that failed", stored(t, h.store), h.want)
}

// Where no snapshot can be read, what is open and is not found again is ended.
func TestWhatIsLostIsEnded(t *testing.T) {
	h := newTheatre(t, 7, 24)
	s := h.empty(t)
	a := act(t, s, Config{SaveEvery: time.Millisecond})
	a.play(h.script, 0, 24)
	lost := a.of("crowd")[0]
	lost.ID, lost.Seq, lost.State, lost.EndedAt = "0a0b0c0d-0000-8000-8000-000000000001", a.told.last+1, detect.Open, 0
	if err := s.AppendFindings(t.Context(), []store.Finding{lost}); err != nil {
		t.Fatal(err)
	}
	forget(t, h.store, "detector_state")
	a = act(t, s, Config{SaveEvery: time.Millisecond})
	a.step()
	all := a.of("crowd")
	end := all[len(all)-1]
	if end.ID != lost.ID || end.Version != lost.Version+1 || end.State != detect.Resolved || !strings.Contains(end.Reason, "have not found it again") {
		t.Errorf("%+v", end)
	}
	if len(a.heard) != 1 {
		t.Errorf("%d versions are told, want the end of one finding", len(a.heard))
	}
}

// The same with everything running at once.
func TestReloadWhileTheRunnerRuns(t *testing.T) {
	h := newTheatre(t, 7, 24)
	s := h.empty(t)
	s.set(h.script.sealed[12] + second/20)
	r := New(Config{Rules: testRules()[1:], Poll: time.Millisecond, SaveEvery: time.Millisecond}, Deps{Store: s, Now: s.clock, Log: quiet, Watch: &counts{}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	for _, rules := range [][]detect.Rule{testRules(), testRules()[:1], testRules()} {
		if err := r.Reload(ctx, rules); err != nil {
			t.Fatal(err)
		}
		_ = r.Lag()
	}
	s.set(h.script.end)
	for r.caughtUp.Load() < h.script.end {
		time.Sleep(time.Millisecond)
		if ctx.Err() != nil {
			t.Fatal("it does not catch up")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	a := &actor{Runner: r, t: t, stage: s}
	for _, rule := range []string{"crowd", "hush"} {
		if len(a.of(rule)) == 0 {
			t.Errorf("rule %s finds nothing", rule)
		}
	}
}
