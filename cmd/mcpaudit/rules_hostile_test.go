package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"
)

// obeyed is what a terminal would obey or hide.
func obeyed(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && unseen(r) })
}

// Rule files may come from others, and so do the names in events.
func TestRulesAndFindingsDontReachTheTerminalRaw(t *testing.T) {
	file := writeFile(t, "theirs.yaml", `rules:
  - name: theirs
    title: "a\e[2Jb\u202ec"
    runbook: "\e]0;x\a"
    references: ["\u009b2J"]
    detector: custom
    where: target != "x"
    with: {condition: 'server != "`+"\u202e"+`"'}
    examples: [{name: "\e[2Jx", fires: 2, events: "09:00 server=a principal=b"}]
`)
	for _, args := range [][]string{{"list", "theirs", "--rules", file}, {"list", "--rules", file}, {"list", "theirs", "--rules", file, "--json"}, {"test", file, "--verbose"}} {
		if r := command(t, "", append([]string{"rules"}, args...)...); r.stdout == "" || obeyed(r.stdout) || obeyed(r.stderr) {
			t.Errorf("%v: %q %q", args, r.stdout, r.stderr)
		}
	}
	event := `{"event_id":"0195d7a0-0000-7000-8000-000000000001","emitter_id":"e","emitter_seq":"1","tenant":"t","principal":"p` + "\u202e\u009b2J" + `","server":"s","kind":"tool_call","method":"tools/call","outcome":"success","target":"t","occurred_at":"2026-03-02T09:00:00Z"}` + "\n"
	if r := command(t, event, "rules", "replay", "--input", "-", "--only", "theirs", "--rules", file); r.status != 0 || !strings.Contains(r.stdout, `\u202e\u009b2J`) || obeyed(r.stdout) {
		t.Errorf("%+v", r)
	}
}

// Whoever stops a replay does not have to wait for the next line of its input, and a
// mistake is told at once.
func TestAReplayOfAnIdleInputCanBeStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	in, idle := io.Pipe()
	defer idle.Close()
	ended := make(chan int, 1)
	var out, errs bytes.Buffer
	go func() { ended <- run(ctx, []string{"rules", "replay", "--input", "-"}, in, &out, &errs) }()
	if _, err := idle.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case status := <-ended:
		if status == 0 {
			t.Error("it says that all went well")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on reading")
	}
}
