package rules

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// sorted puts changes into an order that does not depend on who told them.
func (t told) sorted() told {
	slices.SortFunc(t, func(a, b detect.Change) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Version, b.Version))
	})
	return t
}

// shared is what the shares of some rules' work tell, all together, and how many of
// the shares told anything. Each has to hold what it told.
func shared(t *testing.T, rules []detect.Rule, n int, events []*event.Event) (all told, telling int) {
	t.Helper()
	for i := range n {
		var out told
		engine := detect.New(rules, uint64(i), out.tell)
		engine.Take(detect.Share{Number: i, Of: n})
		for _, e := range events {
			engine.Add(e)
		}
		engine.Finish()
		if len(out) > 0 {
			telling++
		}
		for _, c := range out {
			rule := &rules[slices.IndexFunc(rules, func(r detect.Rule) bool { return r.Name == c.Rule })]
			for j := range n {
				if s := (detect.Share{Number: j, Of: n}); s.Holds(rule, c.Rule, &c.Subject) != (i == j) {
					t.Errorf("share %d of %d told %s of %+v; holding it is %v for share %d", i, n, c.Rule, c.Subject, i != j, j)
				}
			}
		}
		all = append(all, out...)
	}
	return all.sorted(), telling
}

// crowd makes a stream into that of several tenants, and of several identities and
// emitters of each, who do the same at about the same time.
func crowd(events []*event.Event, copies int) []*event.Event {
	r := rand.New(rand.NewPCG(8, 9))
	var out []*event.Event
	for i := range copies {
		later := r.Int64N(90e6)
		for _, e := range events {
			x := *e
			x.OccurredAt += later
			if x.ReceivedAt != 0 {
				x.ReceivedAt += later
			}
			x.EventID[15] = byte(i)
			x.Tenant = fmt.Sprint(e.Tenant, i*2/3) // two copies in every other one
			if i%3 == 1 {
				for _, name := range []*string{&x.Principal, &x.AgentID, &x.SessionID, &x.TraceID, &x.ConversationID} {
					if *name != "" {
						*name += "'"
					}
				}
			}
			x.EmitterID = fmt.Sprint(e.EmitterID, i)
			out = append(out, &x)
		}
	}
	slices.SortStableFunc(out, func(a, b *event.Event) int { return cmp.Compare(came(a), came(b)) })
	return out
}

// Whatever is split, together they find what one finds: each kind of detector, on
// each of its examples, in a crowd.
func TestTheSharesOfTheWorkTogetherFindWhatOneDoes(t *testing.T) {
	shares := map[string]int{}
	for _, r := range load(t) {
		for _, x := range r.Examples {
			events, err := Script(x.Events)
			if err != nil {
				t.Fatal(err)
			}
			copies, splits := 6, []int{2, 3, 8}
			if len(events) > 1000 {
				copies, splits = 4, []int{3}
			}
			events = crowd(events, copies)
			one := []detect.Rule{r.Rule}
			want := run(one, events, nil).sorted()
			for _, n := range splits {
				got, telling := shared(t, one, n, events)
				shares[r.Detector] = max(shares[r.Detector], telling)
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s, %s, in %d shares: %s", r.Name, x.Name, n, difference(got, want))
				}
			}
		}
	}
	for kind, n := range shares {
		if n < 2 {
			t.Errorf("%s: one share alone tells anything: the test is of no use", kind)
		}
	}
}

// The same, with all rules at once, over events of which nothing is as it should be.
func TestTheSharesOfTheWorkTogetherFindWhatOneDoesInNoise(t *testing.T) {
	rules := load(t).Rules()
	for _, k := range detect.Kinds { // with settings that fire
		if k.Name == "custom" {
			for _, by := range [][]string{{"principal", "server"}, {"server"}, nil} {
				c := detect.DefaultCustom()
				c.Condition, c.GroupBy, c.Threshold = `outcome == "denied"`, by, 3
				rules = append(rules, detect.Rule{Name: fmt.Sprint("custom", len(by)), Detector: k.Name, Severity: detect.Low, ResolveAfter: time.Hour, With: c})
			}
		}
	}
	r := rand.New(rand.NewPCG(4, 4))
	var events []*event.Event
	at, seqs := scriptDay.UnixMicro(), map[string]uint64{}
	for i := range 8_000 {
		e := event.Random(r)
		at += r.Int64N(40e6)
		if r.IntN(2000) == 0 {
			at += 5 * 3600e6
		}
		e.ReceivedAt, e.OccurredAt, e.Duration = at, at-r.Int64N(400_000), e.Duration%100_000
		e.Tenant, e.Principal, e.AgentID = fmt.Sprint("t", r.IntN(3)), fmt.Sprint("p", r.IntN(6)), ""
		e.EmitterID, e.SessionID = fmt.Sprint("e", r.IntN(5)), fmt.Sprint("s", r.IntN(9))
		e.Server, e.Target, e.CredentialID = fmt.Sprint("m", r.IntN(3)), fmt.Sprint("x", r.IntN(12)), fmt.Sprint("c", r.IntN(7))
		e.ClientIP = fmt.Sprintf("10.0.%d.1", r.IntN(5))
		e.Kind, e.Outcome, e.Decision = "tool_call", []string{"success", "success", "denied", "tool_error"}[r.IntN(4)], "none"
		e.ArgumentsDigest, e.ResultDigest = event.Digest{byte(r.IntN(4))}, event.Digest{1}
		e.Attempt, e.TraceID, e.ConversationID, e.HTTPStatus, e.ScopesRequired = 0, "", "", 200, nil
		if e.Outcome == "denied" && r.IntN(2) == 0 {
			e.HTTPStatus = 401
		}
		e.Signals = [][]string{nil, nil, {"sql_injection"}, {"secret:password", "egress"}}[r.IntN(4)]
		if seqs[e.EmitterID]++; r.IntN(300) == 0 {
			seqs[e.EmitterID] += 3
		}
		e.EmitterSeq = seqs[e.EmitterID]
		e.EventID[14], e.EventID[15] = byte(i>>8), byte(i)
		events = append(events, e)
	}
	want := run(rules, events, nil).sorted()
	kinds := map[string]int{}
	for _, c := range want {
		kinds[c.Detector]++
	}
	if len(kinds) < 8 {
		t.Errorf("only %v tell anything: the test is of little use", kinds)
	}
	for _, n := range []int{3, 8} {
		if got, _ := shared(t, rules, n, events); !reflect.DeepEqual(got, want) {
			t.Errorf("in %d shares: %s", n, difference(got, want))
		}
	}
}

// Which share an event belongs to is the same for all time: a store's shares remember
// those that were theirs.
func TestAShareIsWhatItWas(t *testing.T) {
	set := load(t)
	for rule, want := range map[string]string{"agent-loop": "77425526", "call-spike": "34554607", "emitter-gap": "07410026"} {
		i := slices.IndexFunc(set, func(r Rule) bool { return r.Name == rule })
		if i < 0 {
			t.Fatalf("there is no rule %s", rule)
		}
		got := ""
		for n := range 8 {
			about := detect.Subject{Tenant: fmt.Sprint("tenant", n), Principal: fmt.Sprint("agent:", n), Emitter: fmt.Sprint("emitter", n)}
			for s := range 8 {
				if (detect.Share{Number: s, Of: 8}).Holds(&set[i].Rule, rule, &about) {
					got += fmt.Sprint(s)
				}
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", rule, got, want)
		}
	}
}
