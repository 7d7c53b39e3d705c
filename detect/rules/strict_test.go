package rules

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Rules that find different things have different digests, or a reload would go on
// with the old one.
func TestTheDigestTellsListsApart(t *testing.T) {
	digestOf := func(list string) string {
		set, err := Load(File{"a.yaml", []byte("rules:\n  - name: toxic-flow\n    with: {private: " + list + "}\n")})
		if err != nil {
			t.Fatal(err)
		}
		r, _ := set.Find("toxic-flow")
		return r.Digest
	}
	if digestOf(`["files/a b", "c/d"]`) == digestOf(`["files/a", "b c/d"]`) {
		t.Error("two lists of tools have one digest")
	}
	if digestOf(`["files/a"]`) != digestOf(`[files/a]`) {
		t.Error("one list has two digests")
	}
}

func TestWhatIsSetToNothingIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"resolve_after: 0s": "a.yaml:2: rule agent-loop: resolve_after: is 0s, must lie between 10s and 720h",
		"severity: ''":      "a.yaml:3: severity is empty; leave it out",
		"where: ''":         "a.yaml:3: where is empty; leave it out",
	} {
		_, err := Load(File{"a.yaml", []byte("rules:\n  - name: agent-loop\n    " + text + "\n")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

// A rule of one file that another one changes is no shipped rule.
func TestARuleIsOnlySaidToChangeAShippedOneThatItChanges(t *testing.T) {
	set, err := Load(File{"a.yaml", []byte("rules:\n  - {name: mine, title: t, detector: custom, with: {condition: 'true'}}\n")},
		File{"b.yaml", []byte("rules:\n  - {name: mine, severity: high}\n  - {name: agent-loop, severity: high}\n")},
		File{"c.yaml", []byte("rules:\n  - {name: agent-loop, severity: low}\n")})
	if err != nil {
		t.Fatal(err)
	}
	mine, _ := set.Find("mine")
	loop, _ := set.Find("agent-loop")
	if mine.Changed || !loop.Changed || loop.Source != "c.yaml" {
		t.Errorf("mine %v, agent-loop %v of %s", mine.Changed, loop.Changed, loop.Source)
	}
}

// What one bad file costs is bounded.
func TestExamplesAreBounded(t *testing.T) {
	var many strings.Builder
	many.WriteString("rules:\n  - name: agent-loop\n    examples:\n")
	for i := range 200 {
		fmt.Fprintf(&many, "      - {name: e%d, events: '09:00 x200000 target=a'}\n", i)
	}
	for name, text := range map[string]string{
		"many events": many.String(),
		"long texts":  "rules:\n  - name: agent-loop\n    examples: [{name: e, events: \"09:00 x200000 arguments=" + strings.Repeat("{n}", 5000) + "\"}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if _, err := Load(File{"a.yaml", []byte(text)}); err == nil || !strings.Contains(err.Error(), "example") {
				t.Errorf("got %v", err)
			}
			t.Log(time.Since(start))
		})
	}
}
