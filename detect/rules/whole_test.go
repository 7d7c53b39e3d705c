package rules

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// told gathers what an engine says.
type told []detect.Change

func (t *told) tell(c detect.Change) { *t = append(*t, c) }

func load(t *testing.T) Set {
	t.Helper()
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// run is what a rule says of events, in the end too.
func run(rules []detect.Rule, events []*event.Event, between func(*detect.Engine, *told) *detect.Engine) told {
	var out told
	engine := detect.New(rules, 7, out.tell)
	for _, e := range events {
		engine.Add(e)
		if between != nil {
			engine = between(engine, &out)
		}
	}
	engine.Finish()
	return out
}

// difference is the first of two streams of changes.
func difference(got, want told) string {
	for i := range min(len(got), len(want)) {
		if !reflect.DeepEqual(got[i], want[i]) {
			return fmt.Sprintf("the change at %d is\n%+v, not\n%+v", i, got[i], want[i])
		}
	}
	return fmt.Sprintf("%d changes, not %d", len(got), len(want))
}

// A restart in the middle of anything changes nothing: the state that is written
// down and read back is the whole state.
func TestARestartAtAnyEventChangesNothing(t *testing.T) {
	for _, r := range load(t) {
		for _, x := range r.Examples {
			events, err := Script(x.Events)
			if err != nil {
				t.Fatal(err)
			}
			every := 1 + len(events)/60 // at each of a short stream, at sixty of a long one
			want := run([]detect.Rule{r.Rule}, events, nil)
			n := 0
			got := run([]detect.Rule{r.Rule}, events, func(e *detect.Engine, out *told) *detect.Engine {
				if n++; n%every != 0 {
					return e
				}
				var b bytes.Buffer
				if err := e.Save(&b); err != nil {
					t.Fatal(err)
				}
				next := detect.New([]detect.Rule{r.Rule}, 99, out.tell)
				if lacking, err := next.Load(&b); err != nil || len(lacking) > 0 {
					t.Fatalf("%s: load: %v, lacking %v", r.Name, err, lacking)
				}
				return next
			})
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s: restarts change what is told: %s", r.Name, x.Name, difference(got, want))
			}
		}
	}
}

// What is found does not depend on the secret seed, on how the clock is told, nor on
// the order in which events arrive within the lateness.
func TestTheOrderOfArrivalChangesNothing(t *testing.T) {
	for _, r := range load(t) {
		for _, x := range r.Examples {
			events, err := Script(x.Events)
			if err != nil {
				t.Fatal(err)
			}
			want := run([]detect.Rule{r.Rule}, events, nil)
			random := rand.New(rand.NewPCG(1, 2))
			type arrival struct {
				e  *event.Event
				at int64
			}
			late := make([]arrival, len(events))
			for i, e := range events {
				late[i] = arrival{e, e.OccurredAt + random.Int64N(int64(detect.Lateness/time.Microsecond))}
			}
			var out told
			engine := detect.New([]detect.Rule{r.Rule}, 1234, out.tell)
			for len(late) > 0 {
				first := 0
				for i := range late[:min(len(late), 200)] {
					if late[i].at < late[first].at {
						first = i
					}
				}
				e := late[first].e
				copy(late[1:first+1], late[:first])
				late = late[1:]
				engine.Add(e)
				if clock := e.OccurredAt; random.IntN(3) == 0 {
					if e.ReceivedAt != 0 {
						clock = min(clock, e.ReceivedAt)
					}
					engine.Advance(clock - int64(detect.Lateness/time.Microsecond))
				}
			}
			engine.Finish()
			if !reflect.DeepEqual(out, want) {
				t.Errorf("%s, %s: the order of arrival changes what is told: %s", r.Name, x.Name, difference(out, want))
			}
		}
	}
}

// Whatever a client sends, memory is bounded, nothing panics, and nobody is flooded.
func TestHostileStreams(t *testing.T) {
	set := load(t)
	base := scriptDay.UnixMicro()
	for name, make := range map[string]func(i int, e *event.Event, r *rand.Rand){
		"a principal for each event": func(i int, e *event.Event, _ *rand.Rand) { e.Principal = fmt.Sprint("p", i) },
		"a million sessions of one":  func(i int, e *event.Event, _ *rand.Rand) { e.SessionID = fmt.Sprint("s", i) },
		"a tool for each event": func(i int, e *event.Event, _ *rand.Rand) {
			e.Server, e.Target = fmt.Sprint("s", i%99), fmt.Sprint("t", i)
		},
		"an emitter for each event": func(i int, e *event.Event, _ *rand.Rand) {
			e.EmitterID, e.EmitterSeq = fmt.Sprint("e", i), uint64(i)*17+1
		},
		"a gap after each event": func(i int, e *event.Event, _ *rand.Rand) { e.EmitterSeq = uint64(i)*1e12 + 1 },
		"an attack in each event": func(i int, e *event.Event, _ *rand.Rand) {
			e.Principal, e.Signals = fmt.Sprint("p", i), []string{"ssrf:metadata", "sql_injection"}
		},
		"a denial for each principal": func(i int, e *event.Event, _ *rand.Rand) {
			e.Principal, e.Outcome, e.Decision = fmt.Sprint("p", i), "denied", "deny"
		},
		"empty fields": func(_ int, e *event.Event, _ *rand.Rand) {
			*e = event.Event{EventID: e.EventID, OccurredAt: e.OccurredAt, EmitterSeq: 1}
		},
		"clocks that jump to all times": func(_ int, e *event.Event, r *rand.Rand) { e.OccurredAt = 946684800_000000 + r.Int64N(6e15) },
		"the same, received in order": func(i int, e *event.Event, r *rand.Rand) {
			e.OccurredAt, e.ReceivedAt = 946684800_000000+r.Int64N(6e15), base+int64(i)*1000
		},
		"durations of centuries":    func(_ int, e *event.Event, r *rand.Rand) { e.Duration = r.Uint64N(1 << 53) },
		"random events, all fields": func(_ int, e *event.Event, r *rand.Rand) { *e = *event.Random(r) },
		"sizes that overflow":       func(_ int, e *event.Event, _ *rand.Rand) { e.RequestBytes, e.ResponseBytes = 1<<63, 1<<64-1 },
		"texts of the greatest length": func(i int, e *event.Event, _ *rand.Rand) {
			e.Target = fmt.Sprintf("%02048d", i)
			e.Principal = e.Target
		},
		"control characters and quotes": func(i int, e *event.Event, _ *rand.Rand) {
			e.Target = "\x00\x1b[2J\"'`%s%n\u202e" + fmt.Sprint(i%7)
			e.Principal = e.Target
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out told
			engine := detect.New(set.Rules(), 7, out.tell)
			r := rand.New(rand.NewPCG(3, 4))
			const n = 30_000
			for i := range n {
				e := &event.Event{Kind: "tool_call", Outcome: "success", Tenant: "t", EmitterID: "x", EmitterSeq: uint64(i + 1), Principal: "p", SessionID: "s",
					Server: "files", Target: "read", OccurredAt: base + int64(i)*1000}
				var noise [10]byte
				noise[9], noise[8], noise[7] = byte(i), byte(i>>8), byte(i>>16)
				e.EventID = event.NewID(time.UnixMicro(e.OccurredAt), noise)
				e.ArgumentsDigest[0], e.ArgumentsDigest[1], e.ResultDigest[0] = byte(i), byte(i>>8), byte(i>>3)
				make(i, e, r)
				engine.Add(e)
			}
			engine.Flush()
			counts := engine.Counts()
			if counts.Events != n {
				t.Errorf("%d events were observed, want %d", counts.Events, n)
			}
			opened := map[string]int{}
			for _, c := range out {
				if c.Version == 1 {
					opened[c.Rule]++
				}
			}
			for rule, found := range opened {
				if found > 1001+3 {
					t.Errorf("rule %s opened %d findings", rule, found)
				}
			}
			t.Logf("%d groups, %d open, opened %v", counts.Groups, counts.Open, opened)
		})
	}
}
