package main

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/findings"
)

// everyCommand calls visit for each command.
func everyCommand(visit func(c *cobra.Command)) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		visit(c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand(&surroundings{env: func(string) string { return "" }}))
}

// examples are the command lines of a help text that run mcpaudit, each with the
// words of every mcpaudit in its pipe.
func examples(t *testing.T, text string) (lines [][][]string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		at := strings.Index(line, "mcpaudit ")
		if at < 0 {
			continue
		}
		var pipe [][]string
		for rest := words(t, line[at:]); len(rest) > 0; {
			one := rest
			if end := slices.Index(rest, "|"); end >= 0 {
				one, rest = rest[:end], rest[end+1:]
			} else {
				rest = nil
			}
			if end := slices.IndexFunc(one, func(w string) bool { return strings.ContainsAny(w[:min(len(w), 1)], "<>") }); end >= 0 {
				one = one[:end]
			}
			if len(one) > 0 && one[0] == "mcpaudit" {
				pipe = append(pipe, one[1:])
			}
		}
		lines = append(lines, pipe)
	}
	return lines
}

// Every filter that a help text shows is one that the service takes, and every
// example is a command with its flags.
func TestEveryFilterAndExampleInHelpIsRight(t *testing.T) {
	filters := map[string]string{} // and whose help has it
	everyCommand(func(c *cobra.Command) {
		takesFilter := strings.Contains(c.Use, "[FILTER]")
		if takesFilter {
			// Lines that stand in, without their explanation behind two spaces.
			for line := range strings.Lines(c.Long) {
				if rest, ok := strings.CutPrefix(line, "  "); ok {
					filter, _, _ := strings.Cut(strings.TrimSpace(rest), "  ")
					filters[filter] = c.CommandPath()
				}
			}
		}
		if strings.Contains(c.Long, "A filter compares fields") != takesFilter {
			t.Errorf("%s: takes a filter: %t; explains filters: %t", c.CommandPath(), takesFilter, !takesFilter)
		}
		for _, pipe := range examples(t, c.Example) {
			shown := false
			for _, args := range pipe {
				// On a tree of its own: flags are set.
				found, rest, err := rootCommand(&surroundings{env: func(string) string { return "" }}).Find(args)
				if err == nil {
					err = found.ParseFlags(rest)
				}
				if err == nil {
					err = found.ValidateArgs(found.Flags().Args())
				}
				if err != nil {
					t.Errorf("%s: the example mcpaudit %q: %v", c.CommandPath(), args, err)
					continue
				}
				shown = shown || found.CommandPath() == c.CommandPath()
				for _, a := range found.Flags().Args() {
					if strings.Contains(found.Use, "[FILTER]") {
						filters[a] = found.CommandPath() + "'s example"
					}
				}
			}
			if !shown {
				t.Errorf("%s: the example mcpaudit %q is of other commands", c.CommandPath(), pipe)
			}
		}
	})
	if len(filters) < 12 {
		t.Fatalf("only %d filters were found in the help texts: %v", len(filters), filters)
	}
	for _, known := range []string{`labels.team = "search"`, `outcome = "denied"`, `(server = "files" OR server = "git") AND NOT principal = "agent:ci"`, `decision = "deny"`} {
		if filters[known] == "" {
			t.Errorf("%s was not found in the help texts", known)
		}
	}
	address, _ := inService(t, t.TempDir())
	client := pb.NewQueryServiceClient(connect(t, address))
	for filter, whose := range filters {
		if strings.HasPrefix(whose, "mcpaudit findings ") {
			if _, _, err := findings.Compile(filter); err != nil {
				t.Errorf("%s: %s: %v", whose, filter, err)
			}
			continue
		}
		if _, err := client.ListEvents(context.Background(), &pb.ListEventsRequest{Filter: filter}); err != nil {
			t.Errorf("%s: %s: %v", whose, filter, err)
		}
	}
	// This test would notice.
	if _, err := client.ListEvents(context.Background(), &pb.ListEventsRequest{Filter: "outcom = x"}); err == nil {
		t.Error("a wrong filter was taken")
	}
}

func TestShellsComplete(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		script := succeed(t, "completion", shell)
		if !strings.Contains(script, "__complete") {
			t.Errorf("%s: %.200s", shell, script)
		}
		path, err := exec.LookPath(shell)
		if err != nil || shell != "bash" {
			continue
		}
		check := exec.Command(path, "-n")
		check.Stdin = strings.NewReader(script)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
	for _, c := range []struct {
		args []string
		want []string // among what is offered
		not  []string
	}{
		{[]string{"--color", ""}, []string{"auto", "always", "never"}, nil},
		{[]string{"events", "l"}, []string{"list"}, []string{"tail"}},
		{[]string{"events", "list", "--order-by", ""}, []string{"duration", "duration desc"}, []string{"server"}},
		{[]string{"events", "list", "--fields", ""}, []string{"occurred_at", "server", "hints"}, []string{"hint_read_only"}},
		{[]string{"events", "list", "--fields", "server,"}, []string{"server,target"}, []string{"server,server"}},
		{[]string{"events", "tail", "--fields", "tar"}, []string{"target"}, []string{"server"}},
		{[]string{"events", "stats", "--by", "server,"}, []string{"server,target", "server,hint_read_only", "server,labels."}, []string{"server,hints"}},
		{[]string{"events", "stats", "--order-by", ""}, measures, nil},
		{[]string{"events", "stats", "--interval", ""}, []string{"1h"}, nil},
		{[]string{"events", "timeline", "--since", ""}, []string{"24h"}, nil},
	} {
		offered := strings.Split(command(t, "", append([]string{"__complete"}, c.args...)...).stdout, "\n")
		for i := range offered {
			offered[i], _, _ = strings.Cut(offered[i], "\t") // what it means
		}
		for _, w := range c.want {
			if !slices.Contains(offered, w) {
				t.Errorf("%q: %q is not among %q", c.args, w, offered)
			}
		}
		for _, w := range c.not {
			if slices.Contains(offered, w) {
				t.Errorf("%q: %q is offered", c.args, w)
			}
		}
	}
}
