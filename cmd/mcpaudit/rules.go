package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/detect"
	"github.com/mcpaudit/mcpaudit/detect/rules"
	"github.com/mcpaudit/mcpaudit/ingest/event"
	"github.com/mcpaudit/mcpaudit/internal/app"
)

func rulesCommand(s *surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rules", Short: "See, check, test and replay detection rules",
		Long: `Rules say what is a finding. The shipped ones work as they are; files change them and
add your own. In a file, an entry with the name of a shipped rule changes what it
gives and nothing else:

  rules:
    - name: agent-loop
      with: {repeats: 12}          # 'mcpaudit rules list agent-loop' shows the settings
    - name: off-hours
      disabled: true
    - name: billing-deletes        # a rule of your own
      title: An agent deletes from billing
      detector: custom
      severity: high
      with: {condition: 'server == "billing" && target.startsWith("delete_")'}

'mcpaudit serve --detect.rules FILE' runs them; 'mcpaudit rules reload' makes it read
them again. Conditions are CEL expressions over the fields of an event. One that can't
be worked out for an event, because it asks for a label that the event does not have or
takes too long, is false for it: write "team" in labels && labels["team"] != "search".`,
	}
	cmd.AddCommand(rulesList(s), rulesCheck(s), rulesTest(s), rulesReplay(s), rulesExplain(s), rulesReload(s))
	return cmd
}

func rulesFlag(cmd *cobra.Command, s *surroundings) *[]string {
	var given []string
	if env := s.env("MCPAUDIT_DETECT_RULES"); env != "" {
		given = strings.Split(env, ",")
	}
	return cmd.Flags().StringSlice("rules", given, "rule file over the shipped rules; may be repeated ($MCPAUDIT_DETECT_RULES)")
}

func rulesList(s *surroundings) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list [RULE]", Short: "List rules, or show one with its settings", Args: cobra.MaximumNArgs(1),
		Example: `  mcpaudit rules list
  mcpaudit rules list agent-loop
  mcpaudit rules list --rules our-rules.yaml --json`,
		Long: `List the rules, the shipped ones and those of files; with a name, show that rule: what
it means, its settings with their units, what it refers to and what to do first.`,
	}
	files := rulesFlag(cmd, s)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line: name, title, detector, severity, references, runbook, source, with")
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var once []string // flags are parsed twice to complete a command: each file is there twice
		for _, name := range *files {
			if !slices.Contains(once, name) {
				once = append(once, name)
			}
		}
		set, _ := app.ReadRules(once)
		var names []string
		for _, r := range set {
			names = append(names, r.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		set, err := app.ReadRules(*files)
		if err != nil {
			return err
		}
		if len(args) == 1 {
			r, ok := set.Find(args[0])
			if !ok {
				return noRule(args[0], set)
			}
			set = rules.Set{r}
		}
		if asJSON {
			for _, r := range set {
				text, err := json.Marshal(ruleJSON(r))
				if err != nil {
					return err
				}
				if err := writeLine(s.stdout, string(visible(text))); err != nil {
					return err
				}
			}
			return nil
		}
		if len(args) == 1 {
			return s.showRule(set[0])
		}
		t := newTable(s.screen(s.stdout), column{head: "RULE", most: 32}, column{head: "SEVERITY", most: 8}, column{head: "SOURCE", most: 24}, column{head: "MEANS", most: 100, rest: true})
		for _, r := range set {
			if err := t.add(cell{text: r.Name}, cell{r.Severity.String(), severityLook(r.Severity)}, cell{text: sourceOf(r)}, cell{text: r.Title}); err != nil {
				return err
			}
		}
		return t.flush()
	}
	return cmd
}

func noRule(name string, set rules.Set) error {
	var names []string
	for _, r := range set {
		names = append(names, r.Name)
	}
	return fmt.Errorf("there is no rule %q; the nearest is %q", name, event.Nearest(name, names))
}

func sourceOf(r rules.Rule) string {
	if r.Changed {
		return r.Source + " (changes a shipped rule)"
	}
	return r.Source
}

func severityLook(v detect.Severity) style {
	switch {
	case v >= detect.High:
		return alarm
	case v == detect.Medium:
		return yellow
	}
	return plain
}

// ruleJSON is a rule for programs.
func ruleJSON(r rules.Rule) any {
	with := map[string]string{}
	for _, x := range rules.Settings(r.With) {
		with[x.Name] = x.Value
	}
	return struct {
		Name       string            `json:"name"`
		Title      string            `json:"title"`
		Detector   string            `json:"detector"`
		Severity   string            `json:"severity"`
		References []string          `json:"references,omitempty"`
		Runbook    string            `json:"runbook,omitempty"`
		Where      string            `json:"where,omitempty"`
		Source     string            `json:"source"`
		With       map[string]string `json:"with"`
	}{r.Name, r.Title, r.Detector, r.Severity.String(), r.References, r.Runbook, r.WhereCEL, r.Source, with}
}

func (s *surroundings) showRule(r rules.Rule) error {
	out := s.screen(s.stdout)
	kind, _ := detect.KindOf(r.Detector)
	lines := []string{
		r.Title,
		"",
		"severity    " + r.Severity.String(),
		"detector    " + r.Detector + ": " + kind.Does,
		"resolves    after " + r.ResolveAfter.String() + " of quiet",
		"source      " + sourceOf(r),
	}
	if r.WhereCEL != "" {
		lines = append(lines, "where       "+r.WhereCEL)
	}
	if len(r.References) > 0 {
		lines = append(lines, "references  "+strings.Join(r.References, ", "))
	}
	if r.Runbook != "" {
		lines = append(lines, "", "do first    "+r.Runbook)
	}
	lines = append(lines, "", "with:")
	for i, l := range lines {
		if l = printable(l, longText); i == 0 { // the name has letters, digits and dashes
			l = out.paint(bold, r.Name) + "  " + l
		}
		if err := writeLine(out, l); err != nil {
			return err
		}
	}
	t := newTable(out, column{head: "SETTING", most: 24}, column{head: "VALUE", most: 40}, column{head: "MEANS", most: 120, rest: true})
	for _, x := range rules.Settings(r.With) {
		if err := t.add(cell{text: x.Name}, cell{text: x.Value}, cell{text: x.Doc}); err != nil {
			return err
		}
	}
	return t.flush()
}

func rulesCheck(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "check FILE...", Short: "Check rule files", Args: cobra.MinimumNArgs(1),
		Long: `Read rule files as the service would, and say what is wrong with file, line and the
nearest valid name. Nothing is run; 'mcpaudit rules test' runs the examples.`,
		Example: `  mcpaudit rules check our-rules.yaml`,
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := app.ReadRules(args)
			if err != nil {
				return err
			}
			own := 0
			for _, r := range set {
				if r.Source != rules.Shipped {
					own++
				}
			}
			return writeLine(s.stdout, fmt.Sprintf("%s, %d of them from your files", count(uint64(len(set)), "rule"), own))
		},
	}
}

func rulesTest(s *surroundings) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use: "test [FILE...]", Short: "Run the examples of rules", Args: cobra.ArbitraryArgs,
		Long: `Run every example of every rule, those of the files and the shipped ones: events that
must make it fire, and events that must not. The exit status is 1 when one does not do
what it says.`,
		Example: `  mcpaudit rules test
  mcpaudit rules test our-rules.yaml --verbose`,
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also what each example found")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		set, err := app.ReadRules(args)
		if err != nil {
			return err
		}
		out := s.screen(s.stdout)
		ran, wrong := 0, 0
		for _, r := range set {
			if len(r.Examples) == 0 {
				if err := writeLine(out, out.paint(yellow, "no examples"), "  ", r.Name); err != nil {
					return err
				}
			}
			for _, x := range r.Examples {
				ran++
				found, err := r.Try(x)
				mark := out.paint(green, "ok  ")
				if err != nil {
					wrong++
					mark = out.paint(alarm, "FAIL")
				}
				line := r.Name + ": " + x.Name
				if err != nil {
					line += ": " + err.Error()
				}
				if err := writeLine(out, mark, "  ", printable(line, longText)); err != nil {
					return err
				}
				if err == nil && !verbose {
					continue
				}
				for _, f := range found {
					if err := writeLine(out, "        ", printable(f.Severity.String()+": "+f.Reason, longText)); err != nil {
						return err
					}
				}
			}
		}
		if err := writeLine(out, fmt.Sprintf("%s of %s, %d wrong", count(uint64(ran), "example"), count(uint64(len(set)), "rule"), wrong)); err != nil {
			return err
		}
		if wrong > 0 {
			return exitStatus(1)
		}
		return nil
	}
	return cmd
}
