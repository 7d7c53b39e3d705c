package rules

import (
	"strings"
	"testing"
)

func TestEveryShippedRuleDoesWhatItsExamplesSay(t *testing.T) {
	set, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range set {
		t.Run(r.Name, func(t *testing.T) {
			fire, silent := 0, 0
			for _, x := range r.Examples {
				if x.Fires > 0 {
					fire++
				} else {
					silent++
				}
				found, err := r.Try(x)
				if err != nil {
					t.Errorf("%s: %v", x.Name, err)
				}
				for _, f := range found {
					if err != nil || testing.Verbose() {
						t.Logf("%s: %s %s (observed %s, expected %s)", x.Name, f.Severity, f.Reason, f.Observed, f.Expected)
					}
					if f.Reason == "" || f.Observed == "" || f.Expected == "" || f.Events == 0 || f.StartedAt == 0 || f.LastSeenAt < f.StartedAt || f.EndedAt == 0 || f.Tenant == "" {
						t.Errorf("%s: the finding lacks something: %+v", x.Name, f)
					}
				}
			}
			if fire == 0 || silent == 0 {
				t.Errorf("it has %d examples that fire and %d that don't; each rule needs both", fire, silent)
			}
			if len(r.References) == 0 || r.Runbook == "" {
				t.Errorf("it has no references or no runbook")
			}
		})
	}
}

func TestWhatIsWrongWithAFileIsSaidWithItsLine(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"an unknown key", "rules:\n  - name: x\n    titel: y\n", `rules.yaml:3: rules, entry 1 has no key "titel"; the nearest is "title"`},
		{"an unknown setting", "rules:\n  - name: agent-loop\n    with: {repeat: 3}\n", `rules.yaml:3: with has no key "repeat"; the nearest is "repeats"`},
		{"a setting out of range", "rules:\n  - name: agent-loop\n    with: {repeats: 99}\n", `rules.yaml:2: rule agent-loop: with: repeats: is 99, must lie between 2 and 15`},
		{"a setting of another type", "rules:\n  - name: agent-loop\n    with: {pause: soon}\n", `rules.yaml:3: pause: "soon" is not a duration such as 90s, 10m or 2h`},
		{"an unknown detector", "rules:\n  - name: x\n    title: t\n    detector: agent_lop\n", `rules.yaml:2: rule x: there is no detector "agent_lop"; the nearest is agent_loop`},
		{"a detector that changes", "rules:\n  - name: agent-loop\n    detector: custom\n", `rules.yaml:2: rule agent-loop: its detector is agent_loop; give a rule with another detector another name`},
		{"no detector", "rules:\n  - name: agent-lop\n    title: t\n", `or change the shipped rule that is nearest, agent-loop`},
		{"a rule to disable that is not there", "rules:\n  - name: agent-lop\n    disabled: true\n", `rules.yaml:2: there is no rule agent-lop to disable; the nearest is agent-loop`},
		{"a bad severity", "rules:\n  - name: agent-loop\n    severity: urgent\n", `severity: there is no severity "urgent"; use info, low, medium, high or critical`},
		{"a bad expression", "rules:\n  - name: agent-loop\n    where: serverr == \"a\"\n", `the nearest field is server`},
		{"an expression that is no condition", "rules:\n  - name: agent-loop\n    where: server\n", `it must be a condition, true or false`},
		{"a rule twice", "rules:\n  - name: agent-loop\n  - name: agent-loop\n", `rules.yaml:3: rule agent-loop is there twice`},
		{"a bad name", "rules:\n  - name: Agent Loop\n", `rules.yaml:2: a rule needs a name of small letters, digits and dashes`},
		{"two documents", "rules: []\n---\nrules: []\n", `rules.yaml: has more than one document`},
		{"no value", "rules:\n  - name: agent-loop\n    severity:\n", `rules.yaml:3: severity has no value; leave it out for its default`},
		{"a list as a value", "rules:\n  - name: [a]\n", `rules.yaml:2: name takes a single value`},
		{"a bad example", "rules:\n  - name: agent-loop\n    examples:\n      - {name: e, events: \"soon target=x\"}\n", `example "e": line 1: "soon" is not a time`},
		{"an unknown field in an example", "rules:\n  - name: agent-loop\n    examples:\n      - {name: e, events: \"09:00 targt=x\"}\n", `there is no field "targt"; the nearest is "target"`},
		{"not YAML", "rules: [", `rules.yaml: `},
		{"not a mapping", "- a\n", `rules.yaml:1: the file must have keys`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(File{"rules.yaml", []byte(c.text)})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestAFileChangesDisablesAndAddsRules(t *testing.T) {
	shippedSet, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	set, err := Load(File{"a.yaml", []byte(`
rules:
  - name: agent-loop
    severity: high
    with: {repeats: 4}
  - name: toxic-flow
    disabled: true
  - name: billing-deletes
    title: An agent deletes from billing
    detector: custom
    with:
      condition: server == "billing" && target.startsWith("delete_")
    examples:
      - name: a deletion
        fires: 1
        events: 09:00 principal=a server=billing target=delete_invoice
      - name: a look
        events: 09:00 principal=a server=billing target=get_invoice
`)})
	if err != nil {
		t.Fatal(err)
	}
	if len(set) != len(shippedSet) {
		t.Errorf("%d rules, want %d", len(set), len(shippedSet))
	}
	if _, ok := set.Find("toxic-flow"); ok {
		t.Error("toxic-flow is still there")
	}
	changed, _ := set.Find("agent-loop")
	before, _ := shippedSet.Find("agent-loop")
	if changed.Severity.String() != "high" || changed.Digest == before.Digest || changed.Title != before.Title || len(changed.Examples) != 0 {
		t.Errorf("the changed rule is %+v", changed)
	}
	// Another severity is no reason to leave out what the shipped rule is tried with.
	severe, err := Load(File{"b.yaml", []byte("rules:\n  - name: scope-violation\n    severity: critical\n")})
	if err != nil {
		t.Fatal(err)
	}
	r, _ := severe.Find("scope-violation")
	if len(r.Examples) == 0 {
		t.Error("a rule whose severity was changed has no examples")
	}
	for _, x := range r.Examples {
		if _, err := r.Try(x); err != nil {
			t.Errorf("with another severity, %s: %v", x.Name, err)
		}
	}
	again, _ := Load()
	if r, _ := again.Find("agent-loop"); r.Digest != before.Digest {
		t.Error("a file has changed the shipped rule itself")
	}
	own, _ := set.Find("billing-deletes")
	for _, x := range own.Examples {
		if _, err := own.Try(x); err != nil {
			t.Errorf("%s: %v", x.Name, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("rules:\n  - name: agent-loop\n    with: {repeats: 4}\n")
	f.Add("rules:\n  - name: x\n    detector: custom\n    title: t\n    with: {condition: \"labels['a'] == 'b'\"}\n    examples: [{name: e, events: \"09:00 x3 /1s a=b\"}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = Load(File{"rules.yaml", []byte(text)})
	})
}

func FuzzScript(f *testing.F) {
	f.Add("with server=a\n09:00 x3 /1s target={n} result_marks=email:a! hints=none\n+2s duration=1s received_after=1ms labels.a=b # end")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = Script(text)
	})
}
