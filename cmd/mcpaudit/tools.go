package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

func toolsCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{Use: "tools", Short: "See which tools there are, and how their definitions changed"}
	service := s.serviceFlag(cmd)
	cmd.AddCommand(toolsList(s, service), toolsDiff(s, service))
	return cmd
}

func toolsList(s *surroundings, reach *client.Config) *cobra.Command {
	var server string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the tools that servers defined or that were called", Args: cobra.NoArgs,
		Long: `List tools by server and name. DEFINED counts the different definitions that a tool
has had: more than one means that its description or its schemas changed, which
'mcpaudit tools diff' shows. HINTS are what the server says of the tool.`,
		Example: `  mcpaudit tools list
  mcpaudit tools list --server files
  mcpaudit tools list --json | jq 'select(.definitions > 1)'`,
	}
	cmd.Flags().StringVar(&server, "server", "", "only tools of this server")
	cmd.Flags().IntVarP(&limit, "limit", "n", 1000, "tools to list, up to 10000")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	mustRegister(cmd.RegisterFlagCompletionFunc("server", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return toolWords(cmd.Context(), reach, nil), cobra.ShellCompDirectiveNoFileComp
	}))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 || limit > 10000 {
			return fmt.Errorf("list tools: --limit is %d, must be from 1 to 10000", limit)
		}
		c, err := dial("list tools", *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := c.query.ListTools(cmd.Context(), &pb.ListToolsRequest{Server: server, Limit: int32(limit)})
		if err != nil {
			return c.explain(err)
		}
		if err := s.printTools(resp.GetTools(), asJSON); err != nil {
			return err
		}
		if resp.GetTruncated() {
			fmt.Fprintf(s.stderr, "mcpaudit: list tools: there are more than these %d; raise --limit or narrow with --server\n", len(resp.GetTools()))
		}
		return nil
	}
	return cmd
}

func (s *surroundings) printTools(tools []*pb.Tool, asJSON bool) error {
	if !asJSON && len(tools) == 0 {
		return writeLine(s.stdout, "no tools were seen")
	}
	clock := s.clock()
	t := newTable(s.screen(s.stdout), column{head: "SERVER", most: 24}, column{head: "TOOL", most: 48}, column{head: "CALLS", most: 20, right: true},
		column{head: "ERRORS", most: 20, right: true}, column{head: "DENIED", most: 20, right: true}, column{head: "LAST CALLED", most: 20, right: true},
		column{head: "DEFINED", most: 10, right: true}, column{head: "DEFINITION", most: 12}, column{head: "HINTS", most: 50, rest: true})
	for _, tool := range tools {
		if asJSON {
			if err := writeJSON(t.out, tool); err != nil {
				return err
			}
			continue
		}
		changed := plain
		if tool.GetDefinitions() > 1 {
			changed = yellow
		}
		err := t.add(cell{text: tool.GetServer()}, cell{text: tool.GetName()}, cell{text: fmt.Sprint(tool.GetCalls())},
			alarming(tool.GetErrors(), red), alarming(tool.GetDenials(), alarm), cell{text: clock.ago(tool.GetLastCalled())},
			cell{fmt.Sprint(tool.GetDefinitions()), changed}, cell{shortDigest(tool.GetDefinitionDigest()), dim}, cell{text: hintWords(tool.GetHints())})
		if err != nil {
			return err
		}
	}
	return t.flush()
}

// alarming is a number that should be 0.
func alarming(n uint64, look style) cell {
	if n == 0 {
		return cell{"0", dim}
	}
	return cell{fmt.Sprint(n), look}
}

// shortDigest is enough of a digest to name it.
func shortDigest(digest string) string { return digest[:min(len(digest), 12)] }

func toolsDiff(s *surroundings, reach *client.Config) *cobra.Command {
	var from, to string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "diff SERVER TOOL", Short: "Show how a tool's definition changed", Args: cobra.ExactArgs(2),
		Long: `Show how a tool's definition changed: by default from the newest but one to the
newest that was seen first. --from and --to name others by their digest or its
beginning. Definitions are printed as JSON with sorted keys; long texts are broken
at their sentences, and characters that don't show are escaped.`,
		Example: `  mcpaudit tools diff files read_file
  mcpaudit tools diff files read_file --from 3fa9c1 --to 77b012
  mcpaudit tools diff files read_file --json`,
	}
	cmd.Flags().StringVar(&from, "from", "", "digest of the older definition, or its beginning")
	cmd.Flags().StringVar(&to, "to", "", "digest of the newer definition, or its beginning")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object: both definitions and the difference")
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return toolWords(cmd.Context(), reach, args), cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		doing := fmt.Sprintf("compare definitions of %q of server %q", args[1], args[0])
		c, err := dial(doing, *reach, "")
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := c.query.ListToolDefinitions(cmd.Context(), &pb.ListToolDefinitionsRequest{Server: args[0], Name: args[1]})
		if err != nil {
			return c.explain(err)
		}
		all := resp.GetDefinitions()
		if len(all) == 0 {
			return fmt.Errorf("%s: none was seen; 'mcpaudit tools list' has the tools that were", doing)
		}
		if len(all) == 1 && from == "" && to == "" {
			if asJSON {
				return fmt.Errorf("%s: there has been one only, %s", doing, all[0].GetDigest())
			}
			return writeLine(s.stdout, "there has been one definition only, ", all[0].GetDigest(), ", first seen ", s.clock().text(all[0].GetFirstSeen()), " ", s.clock().zone)
		}
		d, err := pickDefinitions(all, from, to)
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		return s.printDiff(d, args[0]+"/"+args[1], asJSON)
	}
	return cmd
}

// twoDefinitions are an older and a newer one of a tool.
type twoDefinitions struct{ from, to *pb.ToolDefinition }

// pickDefinitions finds the two to compare among all, of which the newest is
// first.
func pickDefinitions(all []*pb.ToolDefinition, from, to string) (d twoDefinitions, err error) {
	newer := 0
	if to != "" {
		if newer, err = findDefinition(all, "--to", to); err != nil {
			return d, err
		}
	}
	older := newer + 1
	if from != "" {
		if older, err = findDefinition(all, "--from", from); err != nil {
			return d, err
		}
	}
	if older >= len(all) {
		return d, fmt.Errorf("%s is the oldest that was seen; name another with --from", all[newer].GetDigest())
	}
	return twoDefinitions{all[older], all[newer]}, nil
}

func findDefinition(all []*pb.ToolDefinition, flag, digest string) (int, error) {
	found := -1
	for i, d := range all {
		if !strings.HasPrefix(d.GetDigest(), strings.ToLower(digest)) {
			continue
		}
		if found >= 0 {
			return 0, fmt.Errorf("%s %q begins more than one digest, such as %s and %s", flag, digest, all[found].GetDigest(), d.GetDigest())
		}
		found = i
	}
	if found < 0 {
		var known []string
		for _, d := range all {
			known = append(known, shortDigest(d.GetDigest()))
		}
		return 0, fmt.Errorf("%s %q is none of its definitions, which are %s", flag, digest, strings.Join(known, ", "))
	}
	return found, nil
}

func (s *surroundings) printDiff(d twoDefinitions, tool string, asJSON bool) error {
	clock, out := s.clock(), s.screen(s.stdout)
	title := func(t *pb.ToolDefinition) string {
		text := fmt.Sprintf("%s %s, first seen %s %s", printable(tool, 200), t.GetDigest(), clock.text(t.GetFirstSeen()), clock.zone)
		if len(t.GetSignals()) > 0 {
			text += ", signals: " + printable(strings.Join(t.GetSignals(), " "), 300)
		}
		return text
	}
	older, newer := readable(d.from.GetDefinition()), readable(d.to.GetDefinition())
	text, err := udiff.ToUnified(title(d.from), title(d.to), older, udiff.Lines(older, newer), udiff.DefaultContextLines)
	if err != nil {
		return fmt.Errorf("compare definitions: %w", err)
	}
	if asJSON {
		return printDiffJSON(out, d, text)
	}
	if text == "" {
		text = "--- " + title(d.from) + "\n+++ " + title(d.to) + "\n  what is kept of the two reads the same\n"
	}
	for line := range strings.Lines(text) {
		look := plain
		switch line[0] {
		case '-':
			look = red
		case '+':
			look = green
		case '@':
			look = cyan
		}
		if err := writeLine(out, out.paint(look, strings.TrimSuffix(line, "\n"))); err != nil {
			return err
		}
	}
	return nil
}

func printDiffJSON(out screen, d twoDefinitions, diff string) error {
	from, err := compactJSON(d.from)
	if err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	to, err := compactJSON(d.to)
	if err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	line, err := json.Marshal(struct {
		From json.RawMessage `json:"from"`
		To   json.RawMessage `json:"to"`
		Diff string          `json:"diff"`
	}{from, to, diff})
	if err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	return writeLine(out, string(line))
}

// readable is a definition as lines that can be compared: JSON with sorted keys,
// long strings broken at their line feeds and sentences. One that is no JSON,
// because it was cut, is broken all the same.
func readable(definition string) string {
	if definition == "" {
		return "(calls were seen, the definition itself was not)\n"
	}
	dec := json.NewDecoder(strings.NewReader(definition))
	dec.UseNumber()
	var value any
	text := []byte(definition)
	if err := dec.Decode(&value); err == nil {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(value); err == nil {
			text = b.Bytes()
		}
	}
	var out strings.Builder
	for line := range strings.Lines(string(visible(text))) {
		out.WriteString(broken(strings.TrimSuffix(line, "\n")))
	}
	return out.String()
}

// broken breaks a line behind each line feed that it has as \n, and behind each
// sentence when it is long.
func broken(line string) string {
	const long = 100
	margin := "\n" + strings.Repeat(" ", len(line)-len(strings.TrimLeft(line, " "))+4)
	parts := strings.ReplaceAll(line, `\n`, `\n`+margin)
	if len(line) > long {
		parts = strings.ReplaceAll(parts, ". ", ". "+margin)
	}
	// What is broken twice, or at its end, is broken once.
	var lines []string
	for _, l := range strings.Split(parts, "\n") {
		if strings.TrimSpace(l) != "" {
			lines = append(lines, strings.TrimRight(clean(l), " "))
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// clean makes control characters spaces; a text that is JSON has none.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unseen(r) {
			return ' '
		}
		return r
	}, s)
}

// toolWords are, for a shell, the servers or the tools of the one that was
// named. It asks the service, and gives up soon.
func toolWords(ctx context.Context, reach *client.Config, args []string) []string {
	c, err := dial("complete", *reach, "")
	if err != nil {
		return nil
	}
	defer c.conn.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req := &pb.ListToolsRequest{}
	if len(args) > 0 {
		req.Server = args[0]
	}
	resp, err := c.query.ListTools(ctx, req)
	if err != nil {
		return nil
	}
	var words []string
	seen := map[string]bool{}
	for _, t := range resp.GetTools() {
		word := t.GetServer()
		if len(args) > 0 {
			word = t.GetName()
		}
		if word != "" && !seen[word] && word == printable(word, 200) {
			words, seen[word] = append(words, word), true
		}
	}
	return words
}
